"""Exercises from chapter 08 on: measuring, chatting, scaling up."""

from collections.abc import Callable

import numpy as np

from rlhf_utils.course.checks.checking import check


# -- 08 -----------------------------------------------------------------------------------------------------
def win_rate(function: Callable) -> bool:
    """The share of decided comparisons that the first model wins."""

    def counted(a, b):
        return sum(x > y for x, y in zip(a, b)), sum(x < y for x, y in zip(a, b)), len(a)

    mistakes = {
        "You divided by all comparisons: leave ties out of the denominator, too.": lambda a, b: (
            counted(a, b)[0] / counted(a, b)[2]
        ),
        "You counted ties as half a win: here they are left out.": lambda a, b: (
            (counted(a, b)[0] + (counted(a, b)[2] - sum(counted(a, b)[:2])) / 2) / counted(a, b)[2]
        ),
        "You counted ties as wins.": lambda a, b: sum(x >= y for x, y in zip(a, b)) / len(a),
        "That is the other model's share.": lambda a, b: counted(a, b)[1] / sum(counted(a, b)[:2]),
    }
    cases = [
        (([1.0, 0.5, 0.2], [0.0, 0.5, 0.3]), 0.5),
        (([1.0, 1.0], [0.0, 0.0]), 1.0),
        (([0.1, 0.9, 0.9, 0.3], [0.2, 0.2, 0.2, 0.3]), 2 / 3),
    ]
    return check(function, cases, mistakes)


def given_back(function: Callable) -> bool:
    """The share of PPO's tax that PPO-ptx gives back."""
    mistakes = {
        "That is the share still to be paid: subtract it from 1.": lambda base, ppo, ptx: (
            (ptx - base) / (ppo - base)
        ),
        "Measure from base: what PPO lost is ppo − base.": lambda base, ppo, ptx: (ppo - ptx) / ppo,
        "That is how much was given back, not the share of what was lost.": lambda base, ppo, ptx: ppo - ptx,
        "The sign is wrong: a lower perplexity is better.": lambda base, ppo, ptx: (ptx - ppo) / (ppo - base),
    }
    cases = [((2.0, 3.0, 2.25), 0.75), ((1.9, 2.3, 2.3), 0.0), ((2.0, 2.5, 1.75), 1.5)]
    return check(function, cases, mistakes)


def equal_length(function: Callable) -> bool:
    """The win rate among pairs of answers of (nearly) the same number of words."""

    def share(a, b, lengths_a, lengths_b, most, near=lambda x, y, most: abs(x - y) <= most, ties=False):
        rows = [(x, y) for x, y, m, n in zip(a, b, lengths_a, lengths_b) if near(m, n, most)]
        return sum(x > y for x, y in rows) / sum(ties or x != y for x, y in rows)

    mistakes = {
        "You used all pairs: leave out those whose lengths differ by more than `most`.": lambda *x: share(
            *x, near=lambda m, n, most: True
        ),
        "Your denominator counts ties.": lambda *x: share(*x, ties=True),
        "A pair that differs by exactly `most` words counts.": lambda *x: share(
            *x, near=lambda m, n, most: abs(m - n) < most
        ),
        "You limited the difference in one direction only; it may go either way.": lambda *x: share(
            *x, near=lambda m, n, most: m - n <= most
        ),
    }
    cases = [
        (([1, 0, 1, 0], [0, 1, 0, 1], [5, 5, 9, 4], [5, 6, 5, 9], 1), 0.5),
        (
            ([1, 1, 0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 0, 0], [4, 6, 4, 5, 2, 7, 9], [4, 4, 5, 5, 8, 6, 1], 2),
            0.75,
        ),
    ]
    return check(function, cases, mistakes)


def drawn_differences(function: Callable) -> bool:
    """For each drawing of things with replacement, the mean difference over all of their prompts."""

    def means(differences, things, drawings, paired=True, prompts=True, once=False):
        found = []
        for drawing in drawings:
            drawing = sorted(set(drawing)) if once else drawing
            groups = [[d for d, t in zip(differences, things) if t == name] for name in drawing]
            if prompts:
                found.append(sum(map(sum, groups)) / sum(map(len, groups)))
            else:
                found.append(sum(sum(g) / len(g) for g in groups) / len(groups))
        return found

    mistakes = {
        "You took the mean of the things' means: every prompt should weigh the same.": lambda *x: means(
            *x, prompts=False
        ),
        "A thing that was drawn twice counts twice.": lambda *x: means(*x, once=True),
        "You ignored the drawings: that is the plain mean, each time.": lambda d, _, drawings: (
            [sum(d) / len(d)] * len(drawings)
        ),
        "You drew single prompts, not things.": lambda differences, things, drawings: [
            sum(differences[i % len(differences)] for i in range(len(d))) / len(d) for d in drawings
        ],
    }
    cases = [
        ([1.0, 0.0, 0.5], ["cows", "cows", "Japan"], [["cows", "cows"], ["cows", "Japan"]]),
        ([1.0, 0.0, 0.2, -0.4], ["a", "a", "b", "a"], [["a", "b"], ["b", "b"], ["a", "a"], ["b", "a"]]),
        ([1.0, 1.0, 0.0], ["a", "a", "b"], [["a", "b"], ["b", "b"], ["a", "a"], ["a", "a", "b"]]),
    ]
    return check(function, [(case, means(*case)) for case in cases], mistakes)


def interval_of(function: Callable) -> bool:
    """The middle 95 % of drawn means, by the nearest rank."""

    def middle(values, low=0.025, high=0.975):
        ordered = sorted(values)
        return [ordered[round(q * (len(ordered) - 1))] for q in (low, high)]

    def deviations(values):
        mean, deviation = np.mean(values), np.std(values)
        return [float(mean - 1.96 * deviation), float(mean + 1.96 * deviation)]

    mistakes = {
        "That leaves out a twentieth on each side: the middle 95 % leaves out half as much.": lambda v: (
            middle(v, 0.05, 0.95)
        ),
        "Those are the extremes, which move apart as you draw more.": lambda v: [min(v), max(v)],
        "That assumes a bell curve. The drawings themselves show where the middle lies.": deviations,
        "You interpolated: take the value at the nearest place.": lambda v: np.quantile(
            v, [0.025, 0.975]
        ).tolist(),
        "The last of n places is n − 1, counted from 0.": lambda v: [
            sorted(v)[min(round(q * len(v)), len(v) - 1)] for q in (0.025, 0.975)
        ],
        "Sort the means first.": lambda v: [v[round(q * (len(v) - 1))] for q in (0.025, 0.975)],
    }
    draw = np.random.default_rng(0)
    rows = [draw.permutation(201) / 200, draw.permutation(401) ** 2 / 160_000, draw.permutation(30) / 29]
    return check(function, [((row.tolist(),), middle(row.tolist())) for row in rows], mistakes)


# -- 09 -----------------------------------------------------------------------------------------------------
def fit_conversation(function: Callable) -> bool:
    """Drop leading turns, two at a time, until the words fit; the last turn always stays."""

    def words(turns):
        return sum(len(turn.split()) for turn in turns)

    def dropped(turns, limit, step=2, keep=2, too_long=lambda n, limit: n > limit, count=words):
        while len(turns) > keep and too_long(count(turns), limit):
            turns = turns[step:]
        return turns

    mistakes = {
        "You dropped one turn at a time: then what is left may begin with an answer.": lambda t, n: dropped(
            t, n, step=1, keep=1
        ),
        "The limit is in words, not in turns.": lambda t, n: dropped(t, n, count=len),
        "A total of exactly `limit` words fits.": lambda t, n: dropped(t, n, too_long=int.__ge__),
        "You dropped the *last* turns: the newest are what the answer is about.": lambda t, n: next(
            (t[:k] for k in range(len(t), 0, -2) if words(t[:k]) <= n), t[:1]
        ),
        "You dropped everything: the last turn always stays, even if it is too long.": lambda t, n: dropped(
            t, n, keep=0
        ),
    }
    long = ["one two three", "four", "five six", "seven", "eight"]
    cases = [((long, 99), long), ((long, 6), long[2:]), ((long, 4), long[2:]), ((long, 3), long[4:])]
    cases += [((["far too many words"], 2), ["far too many words"])]
    return check(function, cases, mistakes)


def nucleus(function: Callable) -> bool:
    """Top-p (Holtzman et al., 2020): the fewest likeliest tokens that together have p, and no other."""

    def kept(probabilities, p, over=False, renormalise=True, by="mass"):
        order, total, chosen = sorted(range(len(probabilities)), key=lambda i: -probabilities[i]), 0.0, []
        for i in order:
            if by == "mass" and (total >= p - 1e-9 if not over else total + probabilities[i] > p + 1e-9):
                break
            if by == "each" and probabilities[i] < 1 - p:
                break
            chosen.append(i)
            total += probabilities[i]
        scale = total if renormalise and total else 1.0
        return [probabilities[i] / scale if i in chosen else 0.0 for i in range(len(probabilities))]

    mistakes = {
        "What you keep must add up to 1 again.": lambda q, p: kept(q, p, renormalise=False),
        "Keep the token that takes the sum past p as well; otherwise you keep too little.": lambda q, p: kept(
            q, p, over=True
        ),
        "p is a share of all probability, not a floor for each token.": lambda q, p: kept(q, p, by="each"),
        "Return them in the order in which they were given.": lambda q, p: kept(sorted(q, reverse=True), p),
        "Keep the likeliest tokens, wherever they stand: sort them first.": lambda q, p: [
            x / sum(q[: k + 1]) if i <= k else 0.0
            for k in [next((j for j in range(len(q)) if sum(q[: j + 1]) >= p - 1e-9), len(q) - 1)]
            for i, x in enumerate(q)
        ],
    }
    cases = [
        ([0.1, 0.6, 0.3], 0.7),
        ([0.05, 0.15, 0.3, 0.5], 0.9),
        ([0.25, 0.25, 0.5], 0.5),
        ([0.2, 0.8], 1.0),
    ]
    return check(function, [(case, kept(*case)) for case in cases], mistakes)


def remembered(function: Callable) -> bool:
    """How many turns back a fact may stand and still be read, in a window of so many words."""

    def back(words, window, strict=False, partly=False):
        total, turns = 0, 0
        for n in reversed(words):
            if total >= window if partly else (total + n >= window if strict else total + n > window):
                break
            total, turns = total + n, turns + 1
        return turns

    def skipping(words, window):
        turns = 0
        for n in reversed(words):
            if n <= window:
                window, turns = window - n, turns + 1
        return turns

    mistakes = {
        "Only whole turns are kept: one that fits in part is dropped.": lambda w, n: back(w, n, partly=True),
        "A turn that just fits is read.": lambda w, n: back(w, n, strict=True),
        "Stop at the first turn that does not fit: all earlier turns are gone, too.": skipping,
        "Count from the end: the newest turns are kept.": lambda w, n: back(w[::-1], n),
        "That is the window divided by the mean length; turns differ in length.": lambda w, n: int(
            n / (sum(w) / len(w))
        ),
    }
    cases = [([5, 3, 4], 7), ([1, 9, 2, 2], 5), ([4, 4], 100), ([2, 6, 1, 8, 3], 12), ([5], 3)]
    return check(function, [(case, back(*case)) for case in cases], mistakes)


# -- 12 -----------------------------------------------------------------------------------------------------
def largest_microbatch(function: Callable) -> bool:
    """The largest part of a batch that fits and divides it."""
    mistakes = {
        "That fits, but it does not divide the batch: the last part would be smaller, and its mean would "
        "count as much as the others'.": lambda rows, fitting: min(rows, fitting),
        "You took a power of two; the largest that divides the batch may not be one.": (
            lambda rows, fitting: max(2**k for k in range(20) if 2**k <= fitting and rows % 2**k == 0)
        ),
        "That divides the batch, but does not fit.": lambda rows, fitting: rows,
        "That is the number of parts, not the number of rows in each.": lambda rows, fitting: (
            rows // max(n for n in range(1, fitting + 1) if rows % n == 0)
        ),
    }
    cases = [((8, 8), 8), ((8, 7), 4), ((8, 3), 2), ((12, 6), 6), ((12, 5), 4), ((7, 6), 1), ((9, 5), 3)]
    return check(function, cases, mistakes)
