"""Claim 7: labelling only the best of K overfits; a full ranking does not."""

from collections import Counter

from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, accuracy_gap, figure
from rlhf_utils.pipeline.claims.trained import reward_model

AGREE, GAP = "pairs ordered as a labeler does", "pairs ordered alike, rankings learned from − held out"
FULL, BEST = "full rankings", "the best against the rest"


def best_alone(row: dict) -> dict:
    """The same answers of which only the best is known: it is above all others, and these are tied."""
    best = min(row["ranks"])
    return row | {"ranks": [1 if rank == best else 2 for rank in row["ranks"]]}


def like(held: list[dict], rankings: list[dict]) -> list[dict]:
    """As many rankings of each use case as are held out, or as many as there are."""
    left = Counter(r["use_case"] for r in held)
    chosen = []
    for row in rankings:
        if left[row["use_case"]]:
            left[row["use_case"]] -= 1
            chosen.append(row)
    return chosen


def measure(bench: Bench) -> list[dict]:
    rankings, held = bench.store.rankings(), bench.store.rankings("heldout_prompts")
    alone = load_scorer(reward_model(bench, [best_alone(r) for r in rankings]))
    models = {FULL: bench.model("reward"), BEST: alone}
    # Prompts that are held out were given four answers, so what is learned is asked of such, too.
    nine = {p["id"] for p in bench.store.prompts("ranked")[: bench.profile.nine_answers]}
    learned = like(held, [r for r in rankings if r["id"] not in nine])
    rows, found = [], {}
    for name, model in models.items():
        # Of what it was taught: a model that knows only who is best is asked only that.
        taught = best_alone if name == BEST else dict
        own, other, whole = (
            pair_marks(model, bench.tokenizer, bench.profile, given)
            for given in (list(map(taught, learned)), list(map(taught, held)), held)
        )
        rows.append(figure(f"{name}, learned from", AGREE, accuracy_of(*own)))
        rows.append(figure(f"{name}, held out", AGREE, accuracy_of(*other)))
        rows.append(figure(f"{name}, all pairs held out", AGREE, accuracy_of(*whole)))
        rows.append(figure(name, GAP, accuracy_gap(own, other)))
        found[name] = whole
    gain = accuracy_gap(found[FULL], found[BEST], paired=True)
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
    "Where only the best of K is known, it is compared with each of the other answers. Both ways use the "
    "same loss, over two epochs, and the same number of rankings.",
)
