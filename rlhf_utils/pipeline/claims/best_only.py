"""Claim 7: labelling only the best of K overfits; a full ranking does not."""

import numpy as np

from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of, mean_difference
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure
from rlhf_utils.pipeline.claims.trained import reward_model

AGREE, GAP = "pairs ordered as a labeler does", "pairs ordered alike, rankings learned from − held out"
FULL, BEST = "full rankings", "the best against the rest"


def best_alone(row: dict) -> dict:
    """The same answers of which only the best is known: it is above all others, and these are tied."""
    best = min(row["ranks"])
    return row | {"ranks": [1 if rank == best else 2 for rank in row["ranks"]]}


def measure(bench: Bench) -> list[dict]:
    rankings, held = bench.store.rankings(), bench.store.rankings("heldout_prompts")
    models = {FULL: bench.model("reward"), BEST: reward_model(bench, [best_alone(r) for r in rankings])}
    learned, rows, found = rankings[: len(held)], [], {}
    for name, model in models.items():
        sides = {}
        for side, given in (("learned from", learned), ("held out", held)):
            judged = [best_alone(r) for r in given] if name == BEST and side == "learned from" else given
            sides[side] = pair_marks(model, bench.tokenizer, bench.profile, judged)
            rows.append(figure(f"{name}, {side}", AGREE, accuracy_of(*sides[side])))
        # Of what it was taught, in both: a model that knows only who is best is asked only that.
        asked = [best_alone(r) for r in held] if name == BEST else held
        own = accuracy_of(*sides["learned from"])
        other = accuracy_of(*pair_marks(model, bench.tokenizer, bench.profile, asked))
        value, low, high = (own[k] - other["accuracy"] for k in ("accuracy", "low", "high"))
        rows.append(figure(name, GAP, (value, low, high)))
        right, total = sides["held out"]
        found[name] = right / np.maximum(total, 1), total > 0
    where = found[FULL][1]
    gain = mean_difference(found[FULL][0][where], found[BEST][0][where])
    return [*rows, figure("full rankings − the best alone, held out", AGREE, gain)]


CLAIM = Claim(
    7,
    "Labelling only the best of K overfits; a full ranking, ties included, does not.",
    "Common notes on InstructGPT; the paper ranks all K (section 3.5)",
    (
        Rule("full rankings − the best alone, held out", AGREE, 0.0),
        Rule(BEST, GAP, 0.05),
        Rule(FULL, GAP, 0.05, above=False),
    ),
    ("evaluate",),
    measure,
    "The best of K against each of the others, by the same loss over two epochs; as many rankings both ways.",
)
