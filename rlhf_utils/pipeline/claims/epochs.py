"""Claim 4: SFT overfits its validation loss after one epoch, yet more epochs help what people prefer."""

from random import Random

import numpy as np
import torch

from rlhf_utils.evaluation.answers import answer_rewards, judge_answers
from rlhf_utils.evaluation.statistics import mean_difference, ratio
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy, sft_model
from rlhf_utils.training.reward import scored_ids
from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.prompts import USE_CASES, thing_of

LOSS, REWARD, GOLD, GREEDY = (
    "loss of a token of held-out demonstrations, nats",
    "reward, temperature 1",
    "gold, temperature 1",
    "gold, greedy",
)
FEWEST, MOST = 1, 16
EPOCHS = (FEWEST, 2, 4, 8, MOST)


def held_out_demonstrations(bench: Bench) -> list[dict]:
    """Demonstrations of validation prompts, by writers as uneven as those that SFT learns from."""
    writer = AnswerWriter(bench.world, Random(f"held-out demonstrations:{bench.profile.seed}"))
    rows = []
    for prompt in bench.store.prompts("validation"):
        style, completion = writer.demonstrate(prompt)
        rows.append(prompt | {"style": style, "completion": completion})
    return rows


@torch.no_grad()
def losses(bench: Bench, model, rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """(nats, tokens) of each demonstration's answer, its end included."""
    pairs = [scored_ids(bench.profile, bench.tokenizer, r["messages"], r["completion"]) for r in rows]
    nats: list[float] = []
    for start in range(0, len(pairs), 128):
        packed = pack([(p, [a]) for p, a in pairs[start : start + 128]], pad := bench.tokenizer.pad_token_id)
        with autocast(bench.profile):
            nats += (-answer_logprobs(model, packed, pad).float().sum(1)).tolist()
    return np.array(nats), np.array([float(len(a)) for _, a in pairs])


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=51)]
    things, held = [thing_of(p) for p in prompts], held_out_demonstrations(bench)
    about, reward, rows = [thing_of(r) for r in held], bench.model("reward"), []

    def asked(condition: str, model) -> dict[str, np.ndarray]:
        drawn = bench.ask("sft", prompts, 1.0, count=2, seed=52, model=model)
        greedy = bench.ask("sft", prompts, model=model)
        flat = [a for row in drawn for a in row]
        twice = [p for p in prompts for _ in range(2)]
        of_reward = answer_rewards(bench.profile, bench.tokenizer, reward, twice, flat)
        found = {
            GOLD: judge_answers(bench.judge, prompts, drawn)["total"].mean(1),
            GREEDY: judge_answers(bench.judge, prompts, greedy)["total"].mean(1),
            REWARD: of_reward.reshape(-1, 2).mean(1),
        }
        rows.extend(figure(condition, metric, mean_of(v, things)) for metric, v in found.items())
        return found

    found, last = {}, None
    for epochs in EPOCHS if bench.count(MOST) == MOST else (FEWEST, MOST):
        shown = bench.store.prompts("demonstrations")
        last = sft_model(bench, shown[: bench.count(len(shown))], sft_epochs=epochs)
        model = load_gpt2(last)
        nats, tokens = losses(bench, model, held)
        rows.append(figure(f"{epochs} epochs", LOSS, ratio(nats, tokens, about)))
        found[epochs] = asked(f"{epochs} epochs", model) | {LOSS: nats / tokens.mean()}
    change = f"{MOST} epochs − {FEWEST}"
    for metric in (LOSS, REWARD, GOLD, GREEDY):
        of = about if metric == LOSS else things
        gain = mean_difference(found[MOST][metric], found[FEWEST][metric], of)
        rows.append(figure(change, metric, gain))
    longer = asked(f"PPO from {MOST} epochs", load_gpt2(policy(bench, "PPO from 16 epochs", sft=last)))
    usual = asked("PPO from the course's SFT", bench.model("ppo"))
    for metric in (REWARD, GOLD, GREEDY):
        gain = mean_difference(longer[metric], usual[metric], things)
        rows.append(figure(f"PPO from {MOST} epochs − from the course's SFT", metric, gain))
    return rows


CLAIM = Claim(
    4,
    "SFT overfits its validation loss after about one epoch; yet more epochs help what people prefer.",
    "InstructGPT, section 3.5 and appendix C.1",
    (
        Rule(f"{MOST} epochs − {FEWEST}", LOSS, 0.0),
        Rule(f"{MOST} epochs − {FEWEST}", REWARD, 0.0),
        Rule(f"{MOST} epochs − {FEWEST}", GOLD, 0.0),
    ),
    ("evaluate",),
    measure,
    "Each number of epochs has its own learning-rate schedule. “What people prefer” means what the "
    "crowd's reward model and the gold judge prefer. The reward model learned from answers of the "
    "course's SFT model, which was trained for six epochs.",
)
