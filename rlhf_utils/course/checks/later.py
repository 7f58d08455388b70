"""Exercises from chapter 06 on."""

import math
from collections.abc import Callable

from rlhf_utils.course.checks.checking import check


def k3(function: Callable) -> bool:
    """Chapter 06: e^(−ℓ) − 1 + ℓ, with ℓ the log-ratio of policy to reference."""
    return check(
        function, [((a, b), math.expm1(b - a) + a - b) for a, b in ((-1.0, -1.0), (-1.0, -2.0), (-3.0, -0.5))]
    )


def best_policy(function: Callable) -> bool:
    """Chapter 06: the policy that maximises expected reward − β · KL."""
    return check(
        function,
        [
            (([0.5, 0.5], [0.0, 0.0], 1.0), [0.5, 0.5]),
            (([0.5, 0.5], [math.log(3), 0.0], 1.0), [0.75, 0.25]),
            (([0.8, 0.2], [0.0, math.log(2)], 0.5), [0.5, 0.5]),
        ],
    )


def clipped_objective(function: Callable) -> bool:
    """Chapter 07: PPO's clipped objective of one token, to be maximised."""
    return check(
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
    return check(
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
    return check(
        function, [((long, 99), long), ((long, 6), long[2:]), ((long, 4), long[2:]), ((long, 3), long[4:])]
    )


def largest_microbatch(function: Callable) -> bool:
    """Chapter 11: the largest part of a batch that fits and divides it."""
    return check(function, [((8, 8), 8), ((8, 7), 4), ((8, 3), 2), ((12, 5), 4), ((7, 6), 1)])
