"""Claim 21: tied answers end up with close scores; the ranking loss beside the modular way."""

import numpy as np
import torch

from rlhf_utils.evaluation.statistics import accuracy_of, mean_difference
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.rules import marks
from rlhf_utils.pipeline.taste import answer_features, fit_head
from rlhf_utils.training.reward import encode_rankings, encoded_pairs, score_answers

APART, AGREE = "distance of two answers' rewards, standard deviations", "pairs ordered as a labeler does"
EVEN = "of equal gold"  # pairs that the labeler could hardly tell apart
LEARNED = 1000  # rankings from which the two heads learn
DECAY = 0.01


def distances(
    rankings: list[dict], scores: np.ndarray, gold: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Mean distance of scores of tied and of ranked pairs in each ranking, NaN where there are none.

    With `gold`, only pairs of equal gold count.
    """
    found: dict[str, list[float]] = {"tied": [], "ranked": []}
    start = 0
    for row in rankings:
        part, ranks = slice(start, start + len(row["answers"])), np.array(row["ranks"])
        start += len(ranks)
        own, above = scores[part], np.triu(np.ones((len(ranks),) * 2, dtype=bool), 1)
        gap, same = np.abs(own[:, None] - own[None, :]), ranks[:, None] == ranks[None, :]
        if gold is not None:
            above &= np.abs(gold[part][:, None] - gold[part][None, :]) < 1e-9
        for name, where in (("tied", same & above), ("ranked", ~same & above)):
            found[name].append(float(gap[where].mean()) if where.any() else np.nan)
    return {name: np.array(values) for name, values in found.items()}


def won(ranks: list[int]) -> list[float]:
    """Wins minus losses of each answer, as a share of its comparisons: what Elo ratings settle at within one
    ranking, but for their scale.
    """
    return [sum(np.sign(other - own) for other in ranks) / (len(ranks) - 1) for own in ranks]


def heads(bench: Bench, learned: list[dict], held: list[dict]) -> dict[str, np.ndarray]:
    """Scores of held-out answers by two linear heads on what the base model sees in an answer.

    One is fitted with the ranking loss, one by regression on `won`.
    """
    model, pad = load_scorer(bench.store.folder("pretrain")), bench.tokenizer.pad_token_id
    features = []
    for rankings in (learned, held):
        pairs = encoded_pairs(encode_rankings(bench.profile, bench.tokenizer, rankings))
        features.append(answer_features(model, pairs, pad, bench.profile).cpu())
    mean, deviation = features[0].mean(0), features[0].std(0).clamp(min=1e-3)
    seen, asked = ((f - mean) / deviation for f in features)
    rated = torch.tensor([value for row in learned for value in won(row["ranks"])], dtype=seen.dtype)
    grams = seen.T @ seen / len(seen) + DECAY * torch.eye(seen.shape[1])
    regressed = torch.linalg.solve(grams, seen.T @ rated / len(seen))
    return {
        "ranking loss": (asked @ fit_head(seen, learned, DECAY)).numpy(),
        "ratings, then regression": (asked @ regressed).numpy(),
    }


def measure(bench: Bench) -> list[dict]:
    held = bench.store.rankings("heldout_prompts")
    learned = [r for r in bench.store.rankings() if len(r["answers"]) > 1][: bench.count(LEARNED)]
    pairs = encoded_pairs(encode_rankings(bench.profile, bench.tokenizer, held))
    scores = score_answers(bench.model("reward"), pairs, bench.tokenizer.pad_token_id, bench.profile)
    prompts, rows = {p["id"]: p for p in bench.store.prompts("validation")}, []
    gold = np.array([bench.judge.total(prompts[r["id"]], a) for r in held for a in r["answers"]])
    for which, of_equal in (("", None), (f" {EVEN}", gold)):
        apart = distances(held, scores / scores.std(), of_equal)
        both = np.isfinite(apart["tied"]) & np.isfinite(apart["ranked"])
        for name, found in apart.items():
            rows.append(figure(f"{name} pairs{which}", APART, mean_of(found[np.isfinite(found)], None)))
        gap = mean_difference(apart["ranked"][both], apart["tied"][both])
        rows.append(figure(f"ranked − tied{which}", APART, gap))
    for name, found in heads(bench, learned, held).items():
        rows.append(figure(name, AGREE, accuracy_of(*marks(held, found))))
    return rows


CLAIM = Claim(
    21,
    "Tied answers end up with close scores.",
    "Common notes on RLHF; InstructGPT leaves ties out of its loss",
    (Rule("ranked − tied", APART, 0.0), Rule(f"ranked − tied {EVEN}", APART, 0.0)),
    ("evaluate",),
    measure,
    "Answers of equal gold are compared apart, since a reward model that sees quality alone would bring "
    "tied answers together, too: labelers tie what is equally good. Measured as well, but under no rule: "
    "two linear heads on the same features, one fitted by the ranking loss, the other by regression on "
    "ratings made from each ranking (the modular way).",
)
