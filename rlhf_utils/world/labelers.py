"""Simulated labelers: people who rank answers with a taste of their own, some noise, and ties."""

from dataclasses import dataclass
from itertools import combinations
from random import Random

import numpy as np

from rlhf_utils.world.judge import Scores

PAPER_AGREEMENT = 0.726  # InstructGPT, section 3.4: training labelers agree on 72.6 ± 1.5 % of pairs


@dataclass(frozen=True)
class Labeler:
    """One person: `weights` are the exponents given to helpful, honest and harmless."""

    name: str
    weights: tuple[float, float, float]
    care: float  # divides the noise
    tie: float  # utilities closer than this are a tie
    held_out: bool = False

    def utility(self, scores: Scores) -> float:
        values = (scores.helpful, scores.honest, scores.harmless)
        return float(np.prod([(0.05 + 0.95 * v) ** w for v, w in zip(values, self.weights)]))

    def rank(self, scores: list[Scores], noise: float, rng: np.random.Generator) -> list[int]:
        """Ranks (1 is best, equal numbers are ties) by Plackett-Luce choice."""
        return self.order(np.array([self.utility(s) for s in scores]), noise, rng)

    def order(self, utilities: np.ndarray, noise: float, rng: np.random.Generator) -> list[int]:
        """The same for utilities that are known, (answers,).

        Adding Gumbel noise to utility / noise and sorting draws exactly from that distribution.
        """
        felt = utilities + noise / self.care * rng.gumbel(size=len(utilities))
        order = np.argsort(-felt)
        ranks = np.empty(len(utilities), dtype=int)
        rank = 1
        for place, item in enumerate(order):
            if place and felt[order[place - 1]] - felt[item] > self.tie:
                rank = place + 1
            ranks[item] = rank
        return ranks.tolist()


def make_labelers(seed: int, count: int = 20, held_out: int = 5) -> list[Labeler]:
    """A crowd of labelers; the last `held_out` of them never train the reward model."""
    rng = Random(f"labelers:{seed}")
    return [
        Labeler(
            f"labeler-{i:02}",
            tuple(rng.uniform(0.6, 1.5) for _ in range(3)),
            rng.uniform(0.8, 1.3),
            rng.uniform(0.01, 0.06),
            i >= count - held_out,
        )
        for i in range(count)
    ]


def agreement(labelers: list[Labeler], items: list[list[Scores]], noise: float, seed: int) -> float:
    """Share of pairs ordered alike by two labelers, among the pairs that both ranked strictly."""
    rng = np.random.default_rng(seed)
    alike = total = 0
    for scores in items:
        first, second = rng.choice(len(labelers), 2, replace=False)
        a, b = labelers[first].rank(scores, noise, rng), labelers[second].rank(scores, noise, rng)
        for i, j in combinations(range(len(scores)), 2):
            if a[i] != a[j] and b[i] != b[j]:
                alike += (a[i] < a[j]) == (b[i] < b[j])
                total += 1
    return alike / max(total, 1)


def ceiling(
    labelers: list[Labeler], items: list[list[Scores]], noise: float, seed: int, rounds: int = 5
) -> float:
    """How often the crowd's own mean utility orders a pair as one labeler does who ranks it strictly: no
    reward model can do better.

    Two noisy labelers agree less often than either agrees with the truth. Equal utilities count as half.
    """
    rng = np.random.default_rng(seed)
    right = total = 0.0
    for scores in items * rounds:
        ranks = labelers[int(rng.integers(len(labelers)))].rank(scores, noise, rng)
        utility = [float(np.mean([w.utility(s) for w in labelers])) for s in scores]
        for i, j in combinations(range(len(scores)), 2):
            if ranks[i] != ranks[j]:
                gap = utility[i] - utility[j]
                right += 0.5 if abs(gap) < 1e-9 else (gap > 0) == (ranks[i] < ranks[j])
                total += 1
    return right / max(total, 1)


def calibrate_noise(labelers: list[Labeler], items: list[list[Scores]], seed: int) -> float:
    """The noise at which two labelers agree as often as InstructGPT's did (bisection)."""
    low, high = 0.001, 5.0
    for _ in range(18):
        middle = (low * high) ** 0.5
        low, high = (
            (middle, high) if agreement(labelers, items, middle, seed) > PAPER_AGREEMENT else (low, middle)
        )
    return (low * high) ** 0.5
