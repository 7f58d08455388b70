"""Intervals: of differences, win rates and shares on held-out prompts.

They are 95 % bootstrap intervals (Efron, 1979) over what is independent. Answers to one prompt are not, nor
are prompts about one thing, nor several seeds' answers to one prompt: `groups` says which rows belong
together, and they are drawn together. (Pairs of a ranking are drawn with their ranking; two rankings about
one thing count as independent, which makes the interval of an accuracy a tenth too narrow.) Seeds themselves
are not drawn: an interval over three seeds is one for these three.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import binomtest

DRAWS = 2000


def draw_sums(
    columns: Sequence[np.ndarray], groups: Sequence | None = None, draws: int = DRAWS, seed: int = 0
) -> list[np.ndarray]:
    """Sums of each column over groups drawn with replacement, (draws,) each; without `groups` each row is one
    of its own.
    """
    rows = len(columns[0])
    index = np.arange(rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(index.max()) + 1
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return [times @ np.bincount(index, np.asarray(column, dtype=float), count) for column in columns]


def ratio(above: np.ndarray, below: np.ndarray, groups: Sequence | None = None) -> tuple[float, float, float]:
    """sum(above) / sum(below) with its interval; nan where there is nothing below. above, below: one value a
    row.
    """
    if not len(below) or not np.sum(below):
        return float("nan"), float("nan"), float("nan")
    over, under = draw_sums([above, below], groups)
    low, high = np.quantile(over[under > 0] / under[under > 0], [0.025, 0.975])
    return float(np.sum(above) / np.sum(below)), float(low), float(high)


def share(above: np.ndarray, below: np.ndarray, groups: Sequence | None = None) -> tuple[float, float, float]:
    """`ratio` for what is counted out of what: where nothing or everything was, drawing anew gives that again
    and no interval, and Wilson's (1927) over the groups stands in. Seven of seven: 1.0 (0.65 to 1.0).
    """
    value, low, high = ratio(above, below, groups)
    if value in (0.0, 1.0):
        labels = np.arange(len(below)) if groups is None else np.asarray(groups)
        count = len(set(labels[np.asarray(below) > 0].tolist()))
        low, high = binomtest(int(value) * count, count).proportion_ci(method="wilson")
    return value, float(low), float(high)


def mean_difference(a: np.ndarray, b: np.ndarray, groups: Sequence | None = None) -> dict[str, float]:
    """mean(a − b) with its interval; a, b: one value a prompt."""
    value, low, high = ratio(a - b, np.ones(len(a)), groups)
    return {"difference": value, "low": low, "high": high}


def accuracy_of(right: np.ndarray, total: np.ndarray, groups: Sequence | None = None) -> dict:
    """`accuracy`, its interval and `pairs`, of (pairs ordered alike, pairs) by prompt."""
    accuracy, low, high = share(right, total, groups)
    return {"accuracy": accuracy, "low": low, "high": high, "pairs": int(total.sum())}


def wins_and_losses(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where `a` beats `b` and where `b` beats `a`, answer by answer; equal scores are a tie and neither."""
    return a > b + 1e-9, b > a + 1e-9


def win_rate(a: np.ndarray, b: np.ndarray, groups: Sequence | None = None) -> dict[str, float]:
    """How often `a` beats `b`; both (prompts, answers), compared answer by answer.

    `decided` leaves ties out, `ties_half` counts them as half a win each.
    """
    wins, losses = (x.sum(1).astype(float) for x in wins_and_losses(a, b))
    decided, low, high = share(wins, wins + losses, groups)
    ties = a.size - wins.sum() - losses.sum()
    return {
        "decided": decided,
        "low": low,
        "high": high,
        "ties_half": float((wins.sum() + ties / 2) / a.size),
        "ties": float(ties / a.size),
        "n": int(a.size),
    }


def logistic_intercept(gap: np.ndarray, won: np.ndarray, weights: np.ndarray) -> float:
    """P(win) at gap 0 by logistic regression of `won` on `gap`, by Newton's method; a weak prior keeps it
    finite.
    """
    design, theta = np.stack([np.ones(len(gap)), gap], 1), np.zeros(2)
    for _ in range(25):
        chance = 1 / (1 + np.exp(-design @ theta))
        slope = design.T @ (weights * (won - chance)) - 1e-3 * theta
        curvature = (design * (weights * chance * (1 - chance))[:, None]).T @ design + 1e-3 * np.eye(2)
        theta = theta + np.linalg.solve(curvature, slope).clip(-4, 4)
    return float(1 / (1 + np.exp(-theta[0])))


def equal_length(
    a: np.ndarray,
    b: np.ndarray,
    words_a: np.ndarray,
    words_b: np.ndarray,
    groups: Sequence | None = None,
    within: int = 1,
    draws: int = 300,
) -> dict[str, dict]:
    """How often `a` beats `b` where both are about equally long; all arrays (prompts, answers), words counted
    by answer.

    `matched` keeps the comparisons whose lengths differ by `within` words at most; `regression` is the
    chance to win a decided comparison at equal length, by logistic regression on the difference in words.
    """
    wins, losses = wins_and_losses(a, b)
    near = np.abs(words_a - words_b) <= within
    decided, low, high = share((wins & near).sum(1), ((wins | losses) & near).sum(1), groups)
    row, column = np.nonzero(wins | losses)
    found = {"matched": {"decided": decided, "low": low, "high": high, "n": int(near.sum())}}
    if not len(row):
        return found | {
            "regression": {"decided": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
        }
    gap, won = (words_a - words_b)[row, column].astype(float), wins[row, column].astype(float)
    labels = np.arange(len(a)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    index, count = labels[row], int(labels.max()) + 1
    times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=draws)
    samples = [logistic_intercept(gap, won, drawn[index]) for drawn in times]
    low, high = np.quantile(samples, [0.025, 0.975])
    value = logistic_intercept(gap, won, np.ones(len(gap)))
    return found | {"regression": {"decided": value, "low": float(low), "high": float(high), "n": len(row)}}


def bootstrap(figure: Callable, items: Sequence, draws: int = 500, seed: int = 0) -> tuple:
    """(low, high) of the 95 % interval of a figure, a number or an array, over items drawn with replacement.

    Draws for which there is no figure (None, or not a number) are left out; without any, both are NaN.
    """
    if not len(items):
        return np.nan, np.nan
    rng, count = np.random.default_rng(seed), len(items)
    drawn = (figure([items[i] for i in rng.integers(count, size=count)]) for _ in range(draws))
    samples = [found for found in drawn if found is not None and not np.isnan(found).any()]
    return tuple(np.quantile(samples, [0.025, 0.975], axis=0)) if samples else (np.nan, np.nan)
