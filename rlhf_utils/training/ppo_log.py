"""What PPO logs of an update, by name."""

import numpy as np
import torch
from torch import Tensor

from rlhf_utils.artifacts import processes
from rlhf_utils.environment import CourseError


class Diverged(CourseError):
    """Training ran away; `train_ppo` adds at which update and what to try."""


class StepLog:
    """What was logged of each step of an update, and the means over them."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []

    def add(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    @property
    def last(self) -> dict[str, float]:
        return self.rows[-1]

    def means(self) -> dict[str, float]:
        return {name: float(np.mean([row[name] for row in self.rows])) for name in self.rows[0]}


def kl_estimates(log_ratio: Tensor, mask: Tensor) -> dict[str, float]:
    """Estimates of KL(π ‖ π_SFT) in nats an answer: k1 unbiased and noisy, k2 biased, k3 unbiased and ≥ 0.

    See Schulman, "Approximating KL divergence" (2020).
    """
    rows = {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": torch.expm1(-log_ratio) + log_ratio}
    return {k: float((v * mask).sum(1).mean()) for k, v in rows.items()}


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Length of the gradient."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters])


def sums_of(rollout) -> dict[str, float]:
    """Sums over the answers or tokens of a Rollout, in double precision."""
    mask, count = rollout.mask, len(rollout.scores)
    returns = (rollout.returns * mask).double()
    kl = kl_estimates(rollout.logprobs - rollout.reference, mask)
    return {
        "answers": count,
        "tokens": float(mask.sum()),
        "reward": float(rollout.scores.double().sum()),
        "ended": float(rollout.ended.double().sum()),
        "surprise": float((-rollout.logprobs * mask).double().sum()),
        "squared_error": float((((rollout.returns - rollout.values) * mask) ** 2).double().sum()),
        "returns": float(returns.sum()),
        "squared_returns": float(((rollout.returns * mask) ** 2).double().sum()),
        **{name: value * count for name, value in kl.items()},
    }


def summary(rollouts: list, log: StepLog, rate: float) -> dict[str, float]:
    """One row of the run's log, over the rollouts of all processes; chapter 07 explains each figure."""
    table = [sums_of(rollout) for rollout in rollouts]
    where = rollouts[0].mask.device  # where processes can add up
    sums = torch.tensor([list(row.values()) for row in table], dtype=torch.float64, device=where).sum(0)
    (sums,) = processes.totals(sums)
    total = dict(zip(table[0], sums.tolist()))
    answers, tokens = total["answers"], total["tokens"]
    variance = (total["squared_returns"] - total["returns"] ** 2 / tokens) / max(tokens - 1, 1)
    return {
        "reward": total["reward"] / answers,
        **{f"kl_{name}": total[name] / answers for name in ("k1", "k2", "k3")},
        "length": tokens / answers,
        "ended": total["ended"] / answers,
        "entropy": total["surprise"] / tokens,
        "explained_variance": 1 - total["squared_error"] / tokens / max(variance, 1e-8),
        **log.means(),
        "steps": len(log.rows),
        "rate": rate,
    }
