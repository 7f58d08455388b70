"""Claim 32: against the paper's reward model, gold rises, turns and falls."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.penalty import FALL, GOLD, LONG, NATS, PROXY, blocks_of, change, peak_of
from rlhf_utils.pipeline.claims.trained import policy, reward_model
from rlhf_utils.training.ppo_log import Diverged
from rlhf_utils.world.prompts import thing_of

PLAIN, OWN = "a head and rankings alone", "the course's reward model"
RISE, MORE = "gold at its peak − SFT's", "reward at the end − reward when gold was at its peak"
LOGGED = {GOLD: "gold", PROXY: "reward", NATS: "kl_k1"}


def logged(rows: list[dict], name: str) -> list[float]:
    return [row[name] for row in rows]


def course_of(log: list[dict], sft: np.ndarray, name: str) -> list[dict]:
    """A training as blocks of updates, and how gold and the reward changed from SFT to gold's peak to the
    end. `sft` is the gold of SFT's answers.
    """
    blocks, rows = blocks_of(log), []
    for block in blocks:
        when = f"{name}, update {block[-1]['update'] + 1}"
        for metric, field in LOGGED.items():
            values = np.array(logged(block, field))
            rows.append(figure(when, metric, mean_of(values, [str(i) for i in range(len(values))])))
    peak, last = blocks[peak_of(blocks)][1::2], blocks[-1][1::2]
    rows.append(figure(name, RISE, change(list(sft), logged(peak, "gold"))))
    rows.append(figure(name, FALL, change(logged(last, "gold"), logged(peak, "gold"))))
    rows.append(figure(name, MORE, change(logged(peak, "reward"), logged(last, "reward"))))
    return rows


def further(rows: list[dict]) -> list[dict]:
    """How much further gold fell than against the course's reward model. The highest of several means is not
    below the last, whatever they wander about; that holds for both.
    """
    plain, own = ([r for r in rows if (r["condition"], r["metric"]) == (name, FALL)] for name in (PLAIN, OWN))
    if not plain or not own:
        return []
    value, ends = plain[0]["value"] - own[0]["value"], [(r["high"] - r["low"]) / 2 for r in (*plain, *own)]
    half = float(np.hypot(*ends))
    return [figure(f"{PLAIN} − {OWN}", FALL, (value, value - half, value + half))]


def measure(bench: Bench) -> list[dict]:
    prompts = bench.store.prompts("ppo")  # those that the trainings draw from
    said = bench.ask("sft", prompts, 1.0, seed=74)
    sft = judge_answers(bench.judge, prompts, said)["total"][:, 0]
    rows = [figure("SFT", GOLD, mean_of(sft, [thing_of(p) for p in prompts]))]
    plain = reward_model(bench, bench.store.rankings(), reward_likelihood=0.0, reward_lm=0.0)
    rewards: dict[str, Path | None] = {PLAIN: plain, OWN: None}
    for name, reward in rewards.items():
        with suppress(Diverged):  # then this run has no figure, and the rules stay undecided
            longer = LONG * bench.profile.ppo_updates
            trained = policy(bench, f"PPO, {name}", reward=reward, ppo_updates=longer)
            rows += course_of(read_jsonl(trained / "metrics.jsonl"), sft, name)
    return rows + further(rows)


CLAIM = Claim(
    32,
    "The more a policy is optimised against a reward model, the better it gets at first, and then worse, "
    "while its reward goes on rising.",
    "Stiennon et al. (2020), figure 5; Gao et al. (2023), figure 1",
    (
        Rule(PLAIN, RISE, 0.0),
        Rule(PLAIN, FALL, 0.0),
        Rule(f"{PLAIN} − {OWN}", FALL, 0.0),
        Rule(PLAIN, MORE, 0.0),
    ),
    ("reward", "sft"),
    measure,
    "The reward model is the paper's, a head and rankings and nothing else, as in claim 26, and PPO is the "
    "course's, KL penalty included, with twice as many updates. On older models, claim 26 had shown that "
    "its policy ends below SFT's gold in two of three runs (today in all three, on other prompts); how it "
    "got there was not known. Gold is that of the answers to the prompts that PPO trained on, update by "
    "update, in blocks of sixteen; every second update finds the peak, and the others measure it. Even so, "
    "a curve that only wanders has a peak, so the fall is also compared with that against the course's own "
    "reward model.",
)
