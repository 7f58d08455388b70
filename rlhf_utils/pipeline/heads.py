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


def held_out_accuracy(features: torch.Tensor, rankings: list[dict], folds: int = 5) -> dict:
    """The share of pairs that a head fitted to the other four fifths of the prompts orders as they were
    ranked, with its interval.
    """
    starts = np.cumsum([0, *(len(row["ranks"]) for row in rankings)])
    right, total = [], []
    for fold in range(folds):
        kept = [i for i in range(len(rankings)) if i % folds != fold]
        rows = torch.cat([features[starts[i] : starts[i + 1]] for i in kept])
        head = fit_head(rows, [rankings[i] for i in kept], DECAY)
        for i in range(fold, len(rankings), folds):
            scores = (features[starts[i] : starts[i + 1]] @ head).numpy()
            ranks = np.array(rankings[i]["ranks"])
            above = ranks[:, None] < ranks[None]
            right.append(float((above & (scores[:, None] > scores[None])).sum()))
            total.append(float(above.sum()))
    return dict(zip(("accuracy", "low", "high"), share(np.array(right), np.array(total))))
