"""Claim 6: all comparisons of a prompt belong in one batch element."""

from itertools import combinations

from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, accuracy_gap, figure
from rlhf_utils.pipeline.claims.trained import reward_model

AGREE, GAP, PASSES = (
    "pairs ordered as a labeler does",
    "pairs ordered alike, rankings learned from − held out",
    "answers read in an epoch",
)
WHOLE, PAIRS = "whole rankings", "shuffled pairs"
EPOCHS, RANKINGS = (1, 2, 4), 500


def pairs_of(row: dict) -> list[dict]:
    """A ranking's comparisons, each as a ranking of two; ties are none."""
    better = [
        (i, j) if row["ranks"][i] < row["ranks"][j] else (j, i)
        for i, j in combinations(range(len(row["ranks"])), 2)
        if row["ranks"][i] != row["ranks"][j]
    ]
    return [row | {"answers": [row["answers"][i] for i in pair], "ranks": [1, 2]} for pair in better]


def first_four(row: dict) -> dict:
    """The same ranking of as many answers as held-out prompts have."""
    return row | {"answers": row["answers"][:4], "ranks": row["ranks"][:4]}


def measure(bench: Bench) -> list[dict]:
    nine = {p["id"] for p in bench.store.prompts("ranked")[: bench.profile.nine_answers]}
    rankings = [r for r in bench.store.rankings() if r["id"] in nine][: bench.count(RANKINGS)]
    held, learned = bench.store.rankings("heldout_prompts"), [first_four(r) for r in rankings]
    pairs = [pair for row in rankings for pair in pairs_of(row)]
    batch = bench.profile.reward_batch
    taught = {
        WHOLE: (rankings, batch),
        PAIRS: (pairs, round(batch * len(pairs) / len(rankings))),  # as many comparisons a step
    }
    read = {how: sum(len(row["answers"]) for row in given) for how, (given, _) in taught.items()}
    rows = [figure(how, PASSES, (count,) * 3) for how, count in read.items()]
    rows.append(figure(f"{PAIRS} ÷ {WHOLE}", PASSES, (read[PAIRS] / read[WHOLE],) * 3))
    for epochs in EPOCHS[: 1 if bench.profile.name == "tiny" else None]:
        found = {}
        for how, (given, size) in taught.items():
            changes = {"reward_epochs": epochs, "reward_batch": size}
            # InstructGPT's plain head: no likelihood, and no language-model loss beside the rankings.
            plain = {"reward_lm": 0.0, "reward_likelihood": 0.0}
            model = load_scorer(reward_model(bench, given, **changes, **plain))
            own, found[how] = (
                pair_marks(model, bench.tokenizer, bench.profile, asked) for asked in (learned, held)
            )
            condition = f"{how}, epochs: {epochs}"
            rows.append(figure(f"{condition}, learned from", AGREE, accuracy_of(*own)))
            rows.append(figure(f"{condition}, held out", AGREE, accuracy_of(*found[how])))
            rows.append(figure(condition, GAP, accuracy_gap(own, found[how])))
        gain = accuracy_gap(found[WHOLE], found[PAIRS], paired=True)
        rows.append(figure(f"{WHOLE} − {PAIRS}, epochs: {epochs}, held out", AGREE, gain))
    return rows


CLAIM = Claim(
    6,
    "All comparisons of a prompt belong in one batch element: shuffled, they overfit in one pass, and cost "
    "far more forward passes.",
    "InstructGPT, section 3.5",
    (
        Rule(f"{WHOLE} − {PAIRS}, epochs: 1, held out", AGREE, 0.0),
        Rule(f"{PAIRS}, epochs: 1", GAP, 0.05),
        Rule(f"{WHOLE}, epochs: 1", GAP, 0.05, above=False),
        Rule(f"{PAIRS} ÷ {WHOLE}", PASSES, 4.0),
    ),
    ("evaluate",),
    measure,
    "Both ways use the same five hundred rankings of nine, the same learning rate and the same number of "
    "comparisons per step, so that hardly more than the order of the comparisons differs. The reward "
    "model has the paper's plain scalar head. The prompts that it learns from mix the use cases in "
    "different proportions from the held-out ones; since this is the same both ways, compare the two gaps "
    "with each other rather than each with its limit.",
)
