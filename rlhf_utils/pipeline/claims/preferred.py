"""Claim 10: PPO is preferred to SFT, SFT to the best-prompted base model."""

from rlhf_utils.evaluation.comparisons import scores_of, words_of
from rlhf_utils.evaluation.statistics import equal_length, win_rate
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.profiles import MODELS

GOLD, WINS, EQUAL, REGRESSED = (
    "gold",
    "wins of those decided",
    "wins of those decided, lengths within a word",
    "wins at equal length, by regression",
)
# (winner, rival, kind of answers)
PAIRS = (
    ("sft", "base_prompted", "best"),
    ("ppo", "sft", "t1"),
    ("ppo_ptx", "sft", "t1"),
    ("ppo_ptx", "sft", "best"),
    ("ppo_ptx", "base_prompted", "best"),
)
HOW = {"t1": "temperature 1", "best": "each at its best"}


def measure(bench: Bench) -> list[dict]:
    things = [r["thing"] for r in bench.rows]
    rows = [
        figure(f"{name}, {HOW[kind]}", GOLD, mean_of(scores_of(bench.rows, name, kind).mean(1), things))
        for name in MODELS
        for kind in HOW
        if kind in bench.rows[0]["gold"][name]
    ]
    for winner, rival, kind in PAIRS:
        scores = [scores_of(bench.rows, name, kind) for name in (winner, rival)]
        words = [words_of(bench.rows, name, kind) for name in (winner, rival)]
        condition = f"{winner} over {rival}, {HOW[kind]}"
        level = equal_length(*scores, *words, things)
        rows.append(figure(condition, WINS, win_rate(*scores, things)))
        rows.append(figure(condition, EQUAL, level["matched"]))
        rows.append(figure(condition, REGRESSED, level["regression"]))
    return rows


CLAIM = Claim(
    10,
    "PPO is preferred to SFT, and SFT to the base model, however well that is prompted.",
    "InstructGPT, section 4.1, figure 1",
    (
        Rule("sft over base_prompted, each at its best", WINS, 0.5),
        Rule("ppo over sft, temperature 1", WINS, 0.5),
        Rule("ppo_ptx over sft, temperature 1", WINS, 0.5),
        Rule("ppo_ptx over sft, temperature 1", EQUAL, 0.5),
        Rule("ppo_ptx over sft, each at its best", WINS, 0.5),
        Rule("ppo_ptx over sft, each at its best", EQUAL, 0.5),
    ),
    ("evaluate",),
    measure,
    "“Preferred” means preferred by the gold judge, not by people. “At its best” is the one of four "
    "temperatures, 0 to 1, with the most gold on validation prompts. SFT gains more from a low one than PPO "
    "does.",
)
