"""Exercises of chapter 11: a real language model."""

from collections.abc import Callable
from itertools import accumulate

from rlhf_utils.course.checks.checking import check


def positions(function: Callable) -> bool:
    """The positions of tokens in rows that are padded on the left, from the mask of real tokens."""
    mistakes = {
        "You counted the padding: the first real token of each row is at position 0.": lambda mask: [
            list(range(len(row))) for row in mask
        ],
        "You began at 1: the first real token is at position 0.": lambda mask: [
            list(accumulate(row)) for row in mask
        ],
        "Padding got a negative position, for which there is no embedding: give it 0.": lambda mask: [
            [n - 1 for n in accumulate(row)] for row in mask
        ],
        "You counted from the right: the last token has the highest position.": lambda mask: [
            [max(n - 1, 0) for n in accumulate(row[::-1])][::-1] for row in mask
        ],
    }
    cases = [
        (([[1, 1, 1], [0, 0, 1]],), [[0, 1, 2], [0, 0, 0]]),
        (([[0, 1, 1, 1, 1]],), [[0, 0, 1, 2, 3]]),
        (([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]],), [[0, 0, 0, 0, 1], [0, 0, 1, 2, 3]]),
    ]
    return check(function, cases, mistakes)


def best_within(function: Callable) -> bool:
    """Which update to keep: of those before the KL first leaves its budget, the one with most reward."""

    def before(kl: list, budget: float) -> list[int]:
        return [i for i in range(len(kl)) if max(kl[: i + 1]) <= budget]

    mistakes = {
        "You took the highest reward of all: that is where over-optimisation lies.": (
            lambda kl, reward, budget: max(range(len(kl)), key=lambda i: reward[i])
        ),
        "You took an update from after the KL had left its budget: that policy had strayed too far, and "
        "only the KL of its samples came back.": lambda kl, reward, budget: max(
            (i for i in range(len(kl)) if kl[i] <= budget), key=lambda i: reward[i]
        ),
        "You took the last update within the budget, whatever its reward.": lambda kl, reward, budget: before(
            kl, budget
        )[-1],
        "You took the first update with the least KL.": lambda kl, reward, budget: kl.index(min(kl)),
    }
    cases = [
        (([0.0, 1.0, 2.0, 6.0], [0.1, 0.5, 0.4, 0.9], 5.0), 1),
        (([0.0, 2.0, 5.5, 4.0], [0.0, 0.3, 0.6, 0.8], 5.0), 1),
        (([0.0, 0.5, 1.5, 2.5, 3.0], [0.1, 0.2, 0.9, 0.7, 0.8], 2.0), 2),
    ]
    return check(function, cases, mistakes)
