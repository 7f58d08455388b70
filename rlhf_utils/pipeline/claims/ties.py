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
LEARNED = 1000  # rankings from which the two heads learn
DECAY = 0.01


def distances(rankings: list[dict], scores: np.ndarray) -> dict[str, np.ndarray]:
    """Mean distance of scores of tied and of ranked pairs in each ranking, NaN where there are none."""
    found: dict[str, list[float]] = {"tied": [], "ranked": []}
    start = 0
    for row in rankings:
        own, ranks = scores[start : start + len(row["answers"])], np.array(row["ranks"])
        start += len(ranks)
        gap, above = np.abs(own[:, None] - own[None, :]), np.triu(np.ones((len(ranks),) * 2, dtype=bool), 1)
        same = ranks[:, None] == ranks[None, :]
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
    apart = distances(held, scores / scores.std())
    both = np.isfinite(apart["tied"]) & np.isfinite(apart["ranked"])
    rows = [figure(f"{name} pairs", APART, mean_of(v[np.isfinite(v)], None)) for name, v in apart.items()]
    rows.append(figure("ranked − tied", APART, mean_difference(apart["ranked"][both], apart["tied"][both])))
    for name, found in heads(bench, learned, held).items():
        rows.append(figure(name, AGREE, accuracy_of(*marks(held, found))))
    return rows


CLAIM = Claim(
    21,
    "Tied answers end up with close scores.",
    "Common notes on RLHF; InstructGPT leaves ties out of its loss",
    (Rule("ranked − tied", APART, 0.0),),
    ("evaluate",),
    measure,
    "Measured as well, but under no rule: two linear heads on the same features, one fitted by the "
    "ranking loss, the other by regression on ratings made from each ranking (the modular way).",
)
