"""Exercises of chapters 04 and 05: people's rankings, and the reward model."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np

from rlhf_utils.course.checks.checking import check


# -- 04 -----------------------------------------------------------------------------------------------------
def _pairs(a: list, b: list | None = None) -> list[tuple]:
    """(difference in a, difference in b) of all pairs."""
    b = a if b is None else b
    return [(a[i] - a[j], b[i] - b[j]) for i, j in combinations(range(len(a)), 2)]


def comparisons_in(function: Callable) -> bool:
    """How many pairs of answers a ranking orders."""
    mistakes = {
        "You counted ties: two answers with the same rank are not compared.": lambda r: (
            len(r) * (len(r) - 1) // 2
        ),
        "You counted ties as half a comparison.": lambda r: sum(0.5 if x == 0 else 1 for x, _ in _pairs(r)),
        "You counted each pair twice.": lambda r: 2 * sum(x != 0 for x, _ in _pairs(r)),
        "That is the number of different ranks, not of ordered pairs.": lambda r: len(set(r)),
    }
    cases = [(([1, 2, 3, 4],), 6), (([2, 1, 2],), 2), (([1, 1, 1],), 0), (([3, 1, 1, 3, 5],), 8)]
    return check(function, cases, mistakes)


def agreement(function: Callable) -> bool:
    """The share of pairs that two people order alike, among those that both order."""

    def counted(a, b):
        pairs = _pairs(a, b)
        alike, apart = sum(x * y > 0 for x, y in pairs), sum(x * y < 0 for x, y in pairs)
        return alike, apart, len(pairs)

    def of_all(a, b):
        alike, _, pairs = counted(a, b)
        return alike / pairs

    def half(a, b):
        alike, apart, pairs = counted(a, b)
        return (alike + (pairs - alike - apart) / 2) / pairs

    mistakes = {
        "You counted ties as disagreement: leave out a pair that either of the two calls equal.": of_all,
        "You counted ties as half: leave out a pair that either of the two calls equal.": half,
        "That is the share of answers with the same rank; compare pairs.": lambda a, b: (
            sum(map(int.__eq__, a, b)) / len(a)
        ),
        "That is the share of pairs ordered differently.": lambda a, b: (
            counted(a, b)[1] / sum(counted(a, b)[:2])
        ),
    }
    cases = [
        (([1, 2, 3], [1, 2, 3]), 1.0),
        (([1, 2, 3, 4], [2, 1, 3, 3]), 0.8),
        (([1, 1, 3], [3, 1, 2]), 0.5),
    ]
    return check(function, cases, mistakes)


def tau_b(function: Callable) -> bool:
    """Kendall's τ-b: agreement beyond chance, from −1 to 1, ties allowed for."""

    def parts(a, b):
        pairs = _pairs(a, b)
        gap = sum((x * y > 0) - (x * y < 0) for x, y in pairs)
        return gap, len(pairs), sum(x != 0 for x, _ in pairs), sum(y != 0 for _, y in pairs)

    def gamma(a, b):
        pairs = _pairs(a, b)
        return parts(a, b)[0] / sum(x * y != 0 for x, y in pairs)

    def share(a, b):
        return (gamma(a, b) + 1) / 2

    mistakes = {
        "That is τ-a, which divides by all pairs: with ties it can't reach 1.": lambda a, b: (
            parts(a, b)[0] / parts(a, b)[1]
        ),
        "That is Goodman and Kruskal's γ, which leaves out ties altogether.": gamma,
        "That is the share of pairs ordered alike: subtract the share of those ordered differently.": share,
        "Divide by the square root of the product of the two numbers of ordered pairs.": lambda a, b: (
            parts(a, b)[0] / (parts(a, b)[2] * parts(a, b)[3])
        ),
    }
    cases = [
        (([1, 2, 3], [3, 2, 1]), -1.0),
        (([1, 2, 2, 4], [1, 2, 2, 4]), 1.0),
        (([1, 2, 3, 4], [2, 1, 3, 3]), 0.547723),
        (([1, 1, 3], [3, 1, 2]), 0.0),
    ]
    return check(function, cases, mistakes)


def best_possible(function: Callable) -> bool:
    """The accuracy of a perfect judge, from how often two noisy labelers agree."""
    mistakes = {
        "Both labelers err; a judge who never errs agrees with either of them more often than they do "
        "with each other.": lambda a: a,
        "Two labelers also agree where both are wrong: solve p² + (1 − p)² = a.": lambda a: a**0.5,
        "That is the other root, of labelers who are mostly wrong.": lambda a: (1 - (2 * a - 1) ** 0.5) / 2,
        "That is half-way to 1, which is not what p² + (1 − p)² = a gives.": lambda a: (1 + a) / 2,
    }
    cases = [((1.0,), 1.0), ((0.5,), 0.5), ((0.68,), 0.8), ((0.726,), 0.836155)]
    return check(function, cases, mistakes)


# -- 05 -----------------------------------------------------------------------------------------------------
def _surprise(gap: float) -> float:
    return math.log1p(math.exp(-gap))


def pairwise_loss(function: Callable) -> bool:
    """−log σ(chosen − rejected)."""
    mistakes = {
        "You subtracted the wrong way round: the chosen one's score comes first.": lambda c, r: _surprise(
            r - c
        ),
        "The logarithm is missing: that is a probability.": lambda c, r: math.exp(-_surprise(c - r)),
        "That is to base 2: losses are in nats, with ln.": lambda c, r: _surprise(c - r) / math.log(2),
        "The sign is missing: a loss is −log σ.": lambda c, r: -_surprise(c - r),
        "That is a margin loss, which reaches 0; −log σ never does.": lambda c, r: max(0.0, 1 - (c - r)),
    }
    cases = [((c, r), _surprise(c - r)) for c, r in ((0.0, 0.0), (2.0, 0.0), (-1.0, 1.5))]
    return check(function, cases, mistakes)


def ranking_loss(function: Callable) -> bool:
    """The mean surprise of all comparisons in a ranking of K answers."""

    def losses(scores, ranks, ties=False, other=False):
        found = []
        for i, j in combinations(range(len(ranks)), 2):
            if ranks[i] != ranks[j]:
                better, worse = (i, j) if (ranks[i] < ranks[j]) != other else (j, i)
                found.append(_surprise(scores[better] - scores[worse]))
            elif ties:
                found.append(_surprise(scores[i] - scores[j]))
        return found

    def mean(found):
        return sum(found) / len(found)

    def neighbours(scores, ranks):
        order = sorted(range(len(ranks)), key=ranks.__getitem__)
        return mean(
            [_surprise(scores[i] - scores[j]) for i, j in zip(order, order[1:]) if ranks[i] < ranks[j]]
        )

    mistakes = {
        "Divide by the number of comparisons, or nine answers weigh more than four.": lambda s, r: sum(
            losses(s, r)
        ),
        "Ties are not comparisons: leave them out.": lambda s, r: mean(losses(s, r, ties=True)),
        "Divide by the comparisons that are left, not by all C(K, 2) pairs: a tie is none.": lambda s, r: (
            sum(losses(s, r)) / math.comb(len(r), 2)
        ),
        "Rank 1 is the best: the lower rank should have the higher score.": lambda s, r: mean(
            losses(s, r, other=True)
        ),
        "You compared only neighbours: compare each answer with every other.": neighbours,
    }
    cases = [
        (([0.0, 0.0, 0.0], [1, 2, 3]), math.log(2)),
        (([0.3, -1.2, 0.8, 0.8], [2, 4, 1, 2]), mean(losses([0.3, -1.2, 0.8, 0.8], [2, 4, 1, 2]))),
        (([2.0, 1.0], [2, 1]), _surprise(-1.0)),
    ]
    return check(function, cases, mistakes)


def in_units(function: Callable) -> bool:
    """A raw score as a reward: 0 is the mean demonstration, 1 a standard deviation of answers."""
    mistakes = {
        "You only shifted: divide by the standard deviation of the answers' scores.": lambda x, d, a: (
            x - float(np.mean(d))
        ),
        "0 is the mean of demonstrations, not that of answers.": lambda x, d, a: float(
            (x - np.mean(a)) / np.std(a)
        ),
        "The unit is the spread of answers, not that of demonstrations.": lambda x, d, a: float(
            (x - np.mean(d)) / np.std(d)
        ),
        "That is the variance: take its root.": lambda x, d, a: float((x - np.mean(d)) / np.var(a)),
        "That is the sample deviation: divide by the population's, `statistics.pstdev`.": lambda x, d, a: (
            float((x - np.mean(d)) / np.std(a, ddof=1))
        ),
    }
    cases = [((3.0, [1.0, 3.0], [0.0, 8.0]), 0.25), ((0.0, [2.0, 6.0], [1.0, 5.0, 9.0]), -1.224745)]
    return check(function, cases, mistakes)


def trained_head(function: Callable) -> bool:
    """A linear reward trained on pairs by gradient descent; it trains a model."""

    def train(better, worse, steps, rate, way=-1.0, mean=True, sigma=True, flip=1, adding=False):
        gaps = np.array(better, dtype=float) - np.array(worse, dtype=float)
        weights, total = np.zeros(gaps.shape[1]), 0.0
        for _ in range(steps):
            share = 1 / (1 + np.exp(flip * gaps @ weights)) if sigma else np.ones(len(gaps))
            gradient = -(share[:, None] * gaps).sum(0)
            total = gradient = gradient + total if adding else gradient
            weights = weights + way * rate * (gradient / len(gaps) if mean else gradient)
        return weights.tolist()

    def one_by_one(better, worse, steps, rate):
        weights = np.zeros(len(better[0]))
        for row in (np.array(better) - np.array(worse)).tolist() * steps:
            weights += rate / (1 + np.exp(np.array(row) @ weights)) * np.array(row)
        return weights.tolist()

    mistakes = {
        "You climbed the loss: subtract the gradient.": lambda b, w, s, r: train(b, w, s, r, way=1.0),
        "Take the mean over pairs, not the sum.": lambda b, w, s, r: train(b, w, s, r, mean=False),
        "A pair in the right order pulls only a little: by σ(−gap), not by 1.": lambda b, w, s, r: train(
            b, w, s, r, sigma=False
        ),
        "You pulled by σ(gap): a pair that is ordered rightly pulls less, by σ(−gap).": lambda *a: train(
            *a, flip=-1
        ),
        "Gradients of earlier steps are added up: clear them before each step.": lambda *a: train(
            *a, adding=True
        ),
        "You took a step after each pair: one step follows the mean over all pairs.": lambda b, w, s, r: (
            one_by_one(b, w, s, r)
        ),
        "The better answer's features come first: you taught it the opposite.": lambda b, w, s, r: train(
            w, b, s, r
        ),
    }
    pairs = ([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    cases = [((*pairs, steps, rate), train(*pairs, steps, rate)) for steps, rate in ((1, 1.0), (50, 0.5))]
    return check(function, cases, mistakes)
