"""Checks of the exercises: each calls the reader's own function on cases with known results.

A check prints what it tried and returns True or False; it never raises, so that a notebook with an
unfinished exercise still runs from top to bottom.
"""

import math
from collections.abc import Callable
from copy import deepcopy


def _same(found, expected) -> bool:
    if isinstance(expected, float):
        number = isinstance(found, (int, float)) or getattr(found, "numel", lambda: 0)() == 1
        return (
            number
            and not isinstance(found, bool)
            and math.isclose(float(found), expected, rel_tol=1e-4, abs_tol=1e-6)
        )
    if hasattr(found, "tolist"):
        found = found.tolist()
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(expected)
            and all(map(_same, found, expected))
        )
    return type(found) is type(expected) and found == expected


def _check(function: Callable, cases: list[tuple[tuple, object]]) -> bool:
    for arguments, expected in cases:
        shown = f"{getattr(function, '__name__', 'your function')}({', '.join(map(repr, arguments))})"
        try:
            found = function(*deepcopy(arguments))
        except Exception as error:
            print(f"✗ {shown} raised {type(error).__name__}: {error}")
            return False
        if found is None or found is Ellipsis:
            print(f"○ Not done yet: {shown} should be {expected!r}.")
            return False
        if not _same(found, expected):
            print(f"✗ {shown} is {found!r}, but should be {expected!r}.")
            return False
    print(f"✓ Right in all {len(cases)} cases.")
    return True


def comparisons(function: Callable) -> bool:
    """Chapter 00: how many pairs does a ranking of K answers hold?"""
    return _check(function, [((2,), 1), ((4,), 6), ((9,), 36), ((1,), 0)])


def most_frequent_pair(function: Callable) -> bool:
    """Chapter 01: the pair of neighbours that BPE merges next; on a draw, the one that comes first."""
    return _check(
        function,
        [
            ((["a", "b", "a", "b", "c"],), ("a", "b")),
            ((["x", "y", "y", "y", "x", "y"],), ("x", "y")),
            ((["l", "o", "l", "o", "l", "a", "l", "a", "l", "a"],), ("l", "a")),
        ],
    )


def causal_mask(function: Callable) -> bool:
    """Chapter 02: which positions a token may look at, as rows of True and False."""
    return _check(
        function, [((1,), [[True]]), ((3,), [[True, False, False], [True, True, False], [True, True, True]])]
    )


def completion_labels(function: Callable) -> bool:
    """Chapter 03: labels with -100 on the prompt, and the end-of-text token after the answer."""
    return _check(
        function,
        [(([5, 6], [7], 0), [-100, -100, 7, 0]), (([5], [8, 9], 1), [-100, 8, 9, 1]), (([], [3], 0), [3, 0])],
    )


def comparisons_in(function: Callable) -> bool:
    """Chapter 04: how many pairs of answers a ranking orders."""
    return _check(
        function, [(([1, 2, 3, 4],), 6), (([2, 1, 2],), 2), (([1, 1, 1],), 0), (([3, 1, 1, 3, 5],), 8)]
    )


def agreement(function: Callable) -> bool:
    """Chapter 04: the share of pairs that two people order alike, among those that both order."""
    return _check(
        function,
        [(([1, 2, 3], [1, 2, 3]), 1.0), (([1, 2, 3, 4], [2, 1, 3, 3]), 0.8), (([1, 1, 3], [3, 1, 2]), 0.5)],
    )


def pairwise_loss(function: Callable) -> bool:
    """Chapter 05: −log σ(chosen − rejected)."""
    expected = [(c, r, math.log1p(math.exp(r - c))) for c, r in ((0.0, 0.0), (2.0, 0.0), (-1.0, 1.5))]
    return _check(function, [((c, r), e) for c, r, e in expected])


def k3(function: Callable) -> bool:
    """Chapter 06: e^(−ℓ) − 1 + ℓ, with ℓ the log-ratio of policy to reference."""
    return _check(
        function, [((a, b), math.expm1(b - a) + a - b) for a, b in ((-1.0, -1.0), (-1.0, -2.0), (-3.0, -0.5))]
    )


def best_policy(function: Callable) -> bool:
    """Chapter 06: the policy that maximises expected reward − β · KL."""
    return _check(
        function,
        [
            (([0.5, 0.5], [0.0, 0.0], 1.0), [0.5, 0.5]),
            (([0.5, 0.5], [math.log(3), 0.0], 1.0), [0.75, 0.25]),
            (([0.8, 0.2], [0.0, math.log(2)], 0.5), [0.5, 0.5]),
        ],
    )


def clipped_objective(function: Callable) -> bool:
    """Chapter 07: PPO's clipped objective of one token, to be maximised."""
    return _check(
        function,
        [
            ((1.0, 2.0, 0.2), 2.0),
            ((1.5, 2.0, 0.2), 2.4),
            ((0.5, 2.0, 0.2), 1.0),
            ((1.5, -2.0, 0.2), -3.0),
            ((0.5, -2.0, 0.2), -1.6),
        ],
    )


def win_rate(function: Callable) -> bool:
    """Chapter 08: the share of decided comparisons that the first model wins."""
    return _check(
        function,
        [
            (([1.0, 0.5, 0.2], [0.0, 0.5, 0.3]), 0.5),
            (([1.0, 1.0], [0.0, 0.0]), 1.0),
            (([0.1, 0.9, 0.9], [0.2, 0.2, 0.2]), 2 / 3),
        ],
    )


def fit_conversation(function: Callable) -> bool:
    """Chapter 09: drop leading turns, two at a time, until the words fit."""
    long = ["one two three", "four", "five six", "seven", "eight"]
    return _check(
        function, [((long, 99), long), ((long, 6), long[2:]), ((long, 4), long[2:]), ((long, 3), long[4:])]
    )


def largest_microbatch(function: Callable) -> bool:
    """Chapter 11: the largest part of a batch that fits and divides it."""
    return _check(function, [((8, 8), 8), ((8, 7), 4), ((8, 3), 2), ((12, 5), 4), ((7, 6), 1)])
