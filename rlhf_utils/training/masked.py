"""Statistics over valid tokens: padding takes no part."""

import torch
from torch import Tensor

from rlhf_utils.artifacts import processes


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(advantages: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    """Mean 0 and deviation 1 over the valid tokens of all tables together; padding stays 0."""
    valid = torch.cat([a[m.bool()] for a, m in zip(advantages, masks)])
    total, count = processes.totals(valid.sum(), valid.new_tensor(len(valid)))
    mean = total / count
    (squares,) = processes.totals(((valid - mean) ** 2).sum())
    deviation = (squares / count).sqrt() + 1e-8
    return [(a - mean) / deviation * m for a, m in zip(advantages, masks)]
