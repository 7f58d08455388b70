"""Claim 8: labelers agree about 73 % of the time, and the reward model agrees with them nearly as often."""

import numpy as np

from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Marks, Rule, accuracy_gap, figure
from rlhf_utils.pipeline.claims.trained import reward_model

AGREE = "pairs ordered alike"
FOLDS = 5
APART = "labelers left out of a fold"


def by_folds(bench: Bench) -> tuple[Marks, Marks]:
    """Marks of five reward models, each trained on four fifths of the labelers: with rankings of held-out
    prompts by these labelers, and by those whom it never saw (InstructGPT, section 4.1).
    """
    rankings, held = bench.store.rankings(), bench.store.rankings("heldout_prompts")
    labelers = sorted({r["labeler"] for r in rankings})
    kept, unseen = np.zeros((2, len(held))), np.zeros((2, len(held)))
    for fold in range(FOLDS):
        out = set(labelers[fold::FOLDS])
        trained = load_scorer(reward_model(bench, [r for r in rankings if r["labeler"] not in out]))
        marks = np.stack(pair_marks(trained, bench.tokenizer, bench.profile, held))
        left_out = np.array([r["labeler"] in out for r in held])
        kept, unseen = kept + marks * ~left_out, unseen + marks * left_out
    return tuple(kept), tuple(unseen)


def measure(bench: Bench) -> list[dict]:
    reward, rows, marks = bench.model("reward"), [], {}
    rankings = {name: bench.store.rankings(name) for name in ("heldout_prompts", "heldout_labelers")}
    both = set.intersection(*({r["id"] for r in given} for given in rankings.values()))
    for condition, name in (("its labelers", "heldout_prompts"), ("others", "heldout_labelers")):
        given = sorted((r for r in rankings[name] if r["id"] in both), key=lambda r: r["id"])
        marks[condition] = pair_marks(reward, bench.tokenizer, bench.profile, given)
        rows.append(figure(f"reward model with {condition}", AGREE, accuracy_of(*marks[condition])))
    crowd = bench.store.metrics("rank")[0]
    for condition, key in (
        ("two labelers who train it", "agreement"),
        ("two others", "agreement_heldout"),
        ("a perfect judge with its labelers", "ceiling"),
    ):
        rows.append(figure(condition, AGREE, (crowd[key],) * 3))
    folds = by_folds(bench)
    for condition, found in zip(("labelers of a fold", APART), folds):
        rows.append(figure(condition, AGREE, accuracy_of(*found)))
    rows.append(figure(f"labelers of a fold − {APART}", AGREE, accuracy_gap(*folds, paired=True)))
    gap = accuracy_gap(marks["its labelers"], marks["others"], paired=True)
    return [*rows, figure("reward model, its labelers − others", AGREE, gap)]


CLAIM = Claim(
    8,
    "The reward model agrees with its labelers about as often as they do with each other (72 to 73 "
    "%), and with "
    "others nearly as often (70 %).",
    "InstructGPT, section 3.4 and 4.1",
    (
        Rule("reward model with its labelers", AGREE, 0.69),
        Rule("reward model with others", AGREE, 0.65),
        Rule("reward model, its labelers − others", AGREE, 0.05, above=False),
    ),
    ("evaluate",),
    measure,
    "That two labelers agree 73 % of the time is not a finding: their noise is set so that they do. The "
    "rules are about one split of the labelers: 15 who train the reward model and 5 who do not.",
)
