"""Claim 29: what PPO gains comes from people's rankings."""

from pathlib import Path

import numpy as np
import torch

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2, load_scorer, save_model
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy
from rlhf_utils.training.reward import set_scale
from rlhf_utils.world.prompts import USE_CASES, thing_of

DRAWN, GREEDY, WORDS = "gold, temperature 1", "gold, greedy", "words of an answer, temperature 1"
RANKED, UNRANKED, HEADLESS = (
    "PPO, the course's reward",
    "PPO, SFT's likelihood alone",
    "PPO, the reward model's likelihood alone",
)


def likelihood_of(bench: Bench, stage: str) -> Path:
    """A reward model that only says how likely a stage's language model finds an answer, in that unit."""
    model, store = load_scorer(bench.store.folder(stage)), bench.store
    torch.nn.init.zeros_(model.score.weight)
    model.config.likelihood = bench.profile.reward_likelihood
    held = store.rankings("heldout_prompts")
    set_scale(bench.profile, bench.tokenizer, model, store.prompts("demonstrations"), held)
    folder = bench.scratch / f"likelihood of {stage}"
    save_model(model, folder, bench.tokenizer)
    return folder


def asked(bench: Bench) -> list[dict]:
    """Forty prompts of each use case; claim 30 asks the same."""
    return [p for case in USE_CASES for p in bench.prompts(case, 40, seed=69)]


def judged(bench: Bench, prompts: list[dict], model) -> dict[str, np.ndarray]:
    """Gold of a policy's drawn and greedy answers and how long the drawn ones are, (prompts,) each."""
    drawn = bench.ask("ppo", prompts, 1.0, bench.count(2), seed=70, model=model)
    greedy = bench.ask("ppo", prompts, 0.0, 1, seed=70, model=model)
    return {
        DRAWN: judge_answers(bench.judge, prompts, drawn)["total"].mean(1),
        GREEDY: judge_answers(bench.judge, prompts, greedy)["total"].mean(1),
        WORDS: np.array([np.mean([len(a.text.split()) for a in row]) for row in drawn]),
    }


def measure(bench: Bench) -> list[dict]:
    prompts = asked(bench)
    things, rows, found = np.array([thing_of(p) for p in prompts]), [], {}
    models = {"SFT": bench.model("sft"), RANKED: bench.model("ppo")}
    for name, stage in ((UNRANKED, "sft"), (HEADLESS, "reward")):
        models[name] = load_gpt2(policy(bench, name, reward=likelihood_of(bench, stage)))
    for name, model in models.items():
        found[name] = judged(bench, prompts, model)
        rows += [figure(name, metric, mean_of(values, things)) for metric, values in found[name].items()]
    for one, other in ((RANKED, UNRANKED), (RANKED, HEADLESS), (UNRANKED, "SFT")):
        for metric, values in found[one].items():
            change = mean_difference(values, found[other][metric], things)
            rows.append(figure(f"{one} − {other}", metric, change))
    return rows


CLAIM = Claim(
    29,
    "What PPO gains comes from people's rankings: rewarded by SFT's own likelihood, which no ranking has "
    "taught, a policy gains less.",
    "InstructGPT, section 3.5, whose reward is learned from rankings; the doubt is the course's own",
    (Rule(f"{RANKED} − {UNRANKED}", DRAWN, 0.0), Rule(f"{RANKED} − {UNRANKED}", GREEDY, 0.0)),
    ("ppo",),
    measure,
    "All rewards are in standard deviations over SFT's answers, and all policies start from SFT and get the "
    "same number of updates. The rule was written after a first look at seed 0, on other prompts: the "
    "course's reward brought 0.67 drawn and 0.73 greedy, SFT's likelihood 0.64 and 0.69, the reward model's "
    "likelihood 0.68 and 0.76, and the base model's likelihood 0.48 and 0.65.",
)
