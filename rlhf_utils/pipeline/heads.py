"""A scalar head on a model that stays as it is: what it reads, and how it orders what it has not seen."""

import numpy as np
import torch

from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.evaluation.statistics import share
from rlhf_utils.language.device import autocast
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import hidden_states
from rlhf_utils.pipeline.taste import fit_head
from rlhf_utils.profiles import Profile

DECAY = 0.1  # of the head's weights: it has more numbers than there are comparisons


@torch.no_grad()
def ranking_features(model, encoded: list[dict], pad: int, profile: Profile) -> torch.Tensor:
    """What a head reads of ranked answers: hidden states at their ends, (answers, width), in order."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: encoded[i]["length"])
    with Progress("reward: read the answers", len(encoded)) as progress, autocast(profile):
        for part in (order[i : i + 8] for i in range(0, len(order), 8)):
            packed = pack([(encoded[i]["prompt"], encoded[i]["answers"]) for i in part], pad)
            ends = hidden_states(model, packed)[packed.ends].float()
            for i, states in zip(part, ends.split([len(encoded[i]["answers"]) for i in part])):
                found[i] = states
            progress.step(len(part))
    return torch.cat(found)


def scaled_head(features: torch.Tensor, rankings: list[dict]) -> torch.Tensor:
    """A head for features as they are, (width,); the penalty counts each of them in its own deviation."""
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-3)
    return fit_head((features - mean) / deviation, rankings, DECAY) / deviation


def pairs_right(scores: torch.Tensor, ranks: list[int]) -> tuple[float, float]:
    """How many pairs scores order as they were ranked, and how many there are."""
    values, places = scores.numpy(), np.array(ranks)
    above = places[:, None] < places[None]
    return float((above & (values[:, None] > values[None])).sum()), float(above.sum())


def held_out_accuracy(features: torch.Tensor, rankings: list[dict], folds: int = 5) -> dict:
    """The share of pairs that a head fitted to the other four fifths of the prompts orders as they were
    ranked, with its interval.
    """
    parts = features.split([len(row["ranks"]) for row in rankings])
    right, total = np.zeros(len(rankings)), np.zeros(len(rankings))
    for fold in range(folds):
        kept = [i for i in range(len(rankings)) if i % folds != fold]
        head = scaled_head(torch.cat([parts[i] for i in kept]), [rankings[i] for i in kept])
        for i in range(fold, len(rankings), folds):
            right[i], total[i] = pairs_right(parts[i] @ head, rankings[i]["ranks"])
    return dict(zip(("accuracy", "low", "high"), share(right, total)))
