"""Checks of chapter 10: other ways to use the same rankings."""

import math
from collections.abc import Callable

import numpy as np

from rlhf_utils.course.checks.checking import check


def dpo_loss(function: Callable) -> bool:
    """DPO's loss of one pair, from log-probabilities of whole answers."""

    def softplus(x):
        return math.log1p(math.exp(-x))

    mistakes = {
        "The reference is missing: what counts is how much likelier an answer got.": lambda c, r, _, __, b: (
            softplus(b * (c - r))
        ),
        "The sign is missing: a loss is −log σ.": lambda c, r, rc, rr, b: (
            -softplus(b * ((c - rc) - (r - rr)))
        ),
        "β is missing.": lambda c, r, rc, rr, _: softplus((c - rc) - (r - rr)),
        "Chosen and rejected are swapped, or policy and reference.": lambda c, r, rc, rr, b: softplus(
            -b * ((c - rc) - (r - rr))
        ),
        "The two references are swapped.": lambda c, r, rc, rr, b: softplus(b * ((c - rr) - (r - rc))),
        "β belongs inside of σ: it says how much a nat is worth.": lambda c, r, rc, rr, b: (
            b * softplus((c - rc) - (r - rr))
        ),
        "You divided by β.": lambda c, r, rc, rr, b: softplus(((c - rc) - (r - rr)) / b),
        "That is the probability itself: the loss is its negative logarithm.": (
            lambda c, r, rc, rr, b: math.exp(-softplus(b * ((c - rc) - (r - rr))))
        ),
    }
    cases = [
        ((-3.0, -5.0, -3.0, -5.0, 0.1), math.log(2)),
        ((-2.0, -7.0, -3.0, -5.0, 0.5), softplus(1.5)),
        ((-9.0, -4.0, -6.0, -6.5, 0.2), softplus(-1.1)),
    ]
    return check(function, cases, mistakes)


def leave_one_out(function: Callable) -> bool:
    """RLOO's advantages of the answers to one prompt."""

    def less(rewards, baseline):
        return [r - baseline(i) for i, r in enumerate(rewards)]

    def deviations(r):
        return [(x - sum(r) / len(r)) / float(np.std(r, ddof=1)) for x in r]

    mistakes = {
        "An answer must not be in its own baseline: leave it out.": lambda r: less(
            r, lambda i: sum(r) / len(r)
        ),
        "The baseline is the mean of the others, not their sum.": lambda r: less(r, lambda i: sum(r) - r[i]),
        "Each of k answers has k − 1 others: divide by that.": lambda r: less(
            r, lambda i: (sum(r) - r[i]) / len(r)
        ),
        "That is GRPO's advantage: here nothing is divided by the deviation.": deviations,
        "You subtracted the reward from the baseline: praise is for more than expected.": lambda r: [
            (sum(r) - x) / (len(r) - 1) - x for x in r
        ],
        "That is the baseline: subtract it from the reward.": lambda r: [
            (sum(r) - x) / (len(r) - 1) for x in r
        ],
    }
    cases = [
        (([1.0, 0.0, 0.0, 0.0],), [1.0, -1 / 3, -1 / 3, -1 / 3]),
        (([2.0, 4.0],), [-2.0, 2.0]),
        (([0.5, 1.5, -1.0],), [0.25, 1.75, -2.0]),
    ]
    return check(function, cases, mistakes)


def divergence_of_best(function: Callable) -> bool:
    """How far best of n is from the model that it chooses among, in nats."""
    mistakes = {
        "A term is missing: subtract (n − 1)/n.": math.log,
        "You added (n − 1)/n: subtract it.": lambda n: math.log(n) + (n - 1) / n,
        "Nats, not bits: the natural logarithm.": lambda n: math.log2(n) - (n - 1) / n,
        "Subtract (n − 1)/n, not 1/n.": lambda n: math.log(n) - 1 / n,
    }
    cases = [((n,), math.log(n) - (n - 1) / n) for n in (1, 2, 16, 64)]
    return check(function, cases, mistakes)


COURTESIES = {"please", "thank", "thanks", "glad", "hope", "sorry"}


def better_at_equal_kl(function: Callable) -> bool:
    """Which of two logs of (KL, reward), in which KL only rises, has more reward at the largest KL that both
    have reached.
    """

    def better(a, b):
        kl = min(a[-1][0], b[-1][0])
        there = [float(np.interp(kl, *zip(*log))) for log in (a, b)]
        return "a" if there[0] > there[1] else "b"

    def by(value):
        return lambda a, b: "a" if value(a) > value(b) else "b"

    def nearest(a, b):
        kl = min(a[-1][0], b[-1][0])
        return by(lambda log: min(log, key=lambda pair: abs(pair[0] - kl))[1])(a, b)

    def up_to(what):
        def of(a, b):
            kl = min(a[-1][0], b[-1][0])
            return by(lambda log: what([reward for at, reward in log if at <= kl]))(a, b)

        return of

    def same_update(a, b):
        last = min(len(a), len(b)) - 1
        return by(lambda log: log[last][1])(a, b)

    mistakes = {
        "You compared the last rewards: a run has more just for going further from SFT.": by(
            lambda log: log[-1][1]
        ),
        "You compared the highest rewards, each at a KL of its own.": by(
            lambda log: max(reward for _, reward in log)
        ),
        "You took the one that stayed nearer to SFT: staying close is no merit in itself.": by(
            lambda log: -log[-1][0]
        ),
        "You compared at the same update: one run's updates go further than the other's.": same_update,
        "You took each log's last update before that KL: between two updates, draw a straight line.": up_to(
            lambda rewards: rewards[-1]
        ),
        "You took each log's nearest update: between two updates, draw a straight line.": nearest,
        "You took the mean of the rewards up to that KL: compare them at it.": up_to(np.mean),
        "You took the highest reward up to that KL: compare the rewards at it.": up_to(max),
        "You named the one with less reward there.": lambda a, b: "ab"["ba".index(better(a, b))],
        "Reward per nat favours the run that stopped early: the first nats are the cheapest.": by(
            lambda log: log[-1][1] / log[-1][0]
        ),
    }
    logs = [
        ([(0.0, 0.0), (1.0, 0.4), (2.0, 0.6), (4.0, 0.8)], [(0.0, 0.0), (1.0, 0.5), (2.0, 0.7)]),
        ([(0.0, -0.2), (1.0, 0.3), (3.0, 0.9)], [(0.0, -0.2), (2.0, 0.3), (6.0, 0.8)]),
        ([(0.0, 0.0), (0.5, 0.1), (1.0, 0.2)], [(0.0, 0.0), (2.0, 0.8), (5.0, 0.9), (6.0, 0.7)]),
        ([(0.0, 0.0), (1.0, 0.5), (2.0, 0.9), (3.0, 0.3)], [(0.0, 0.0), (1.0, 0.3), (3.5, 0.5)]),
        ([(0.0, 0.0), (0.5, 0.3), (1.0, 0.5), (1.5, 0.6)], [(0.0, 0.0), (2.0, 0.7)]),
        ([(0.0, 0.0), (2.5, 0.5), (3.0, 0.6), (4.0, 0.7)], [(0.0, 0.0), (2.0, 0.8), (5.0, 0.3)]),
        ([(0.0, 0.0), (0.5, 0.7), (5.0, 0.9)], [(0.0, 0.0), (1.0, 0.6), (2.0, 0.1), (4.0, 0.6)]),
    ]
    return check(function, [(pair, better(*pair)) for pair in logs], mistakes)


def _words(answer: str) -> list[str]:
    return [word.strip(".,!?").lower() for word in answer.split()]


def _courtesy_mistakes() -> dict[str, Callable]:
    """Rewards that people write first, by what is wrong with them."""

    def count(answer):
        return sum(word in COURTESIES for word in _words(answer))

    def polite(answer):
        return float(count(answer) > 0)

    return {
        "The crowd's reward is missing: then any courteous sentence will do.": lambda a, crowd: polite(a),
        "The crowd's reward is missing, and you pay for each courteous word.": lambda a, crowd: count(a),
        "You pay for each courteous word: a policy will say nothing else. Pay once.": lambda a, crowd: (
            crowd + count(a)
        ),
        "You pay for each different courteous word: a policy will say them all. Pay once.": lambda a, crowd: (
            crowd + len(COURTESIES & {*_words(a)})
        ),
        "You pay for the share of courteous words: then the shortest thanks is the best answer.": (
            lambda a, crowd: crowd + count(a) / max(len(_words(a)), 1)
        ),
        "Courtesy is worth so much that no wrong answer can lose it: pay less.": lambda a, crowd: (
            crowd + 10 * polite(a)
        ),
        "That is the crowd's reward alone: nothing in it asks for a courtesy.": lambda a, crowd: crowd,
        "You compare words as they stand: “Thank” and “please,” are courtesies as well.": lambda a, crowd: (
            crowd + float(any(word in COURTESIES for word in a.split()))
        ),
        "You take something away for a courtesy: add it.": lambda a, crowd: crowd - polite(a),
        "The crowd's reward has the wrong sign.": lambda a, crowd: polite(a) - crowd,
        "Multiplied, a courtesy makes a bad answer worse, and one of 0 no better: add it.": (
            lambda a, crowd: crowd * (1 + polite(a))
        ),
        "A courtesy has to count in a bad answer, too: else the policy learns it only where it is good.": (
            lambda a, crowd: crowd + polite(a) * (crowd > 0)
        ),
        "Below 0 yours no longer tells a bad answer from a worse one.": lambda a, crowd: (
            max(crowd, 0) + polite(a)
        ),
    }


def courteous_reward(function: Callable) -> bool:
    """A reward that counts a courtesy once, beside the crowd's reward, and not at any price."""
    name = getattr(function, "__name__", "your function")

    def compared(reward: Callable) -> Callable:
        def above(first, second):
            found = [reward(*first), reward(*second)]
            missing = [r for r in found if r is None or r is Ellipsis]
            return missing[0] if missing else bool(found[0] > found[1])

        above.__wrapped__ = reward
        above.__name__ = f"{name}(*first) > {name}(*second), where first, second = "
        return above

    plain, thanked = "Whales eat fish.", "Whales eat fish. Thank you for asking."
    cases = [
        (((thanked, 0.5), (plain, 0.5)), True),
        (((plain, 1.0), (plain, -1.0)), True),
        (((plain, -1.0), (plain, -3.0)), True),
        (((thanked, -2.0), (plain, -2.0)), True),
        (((plain, 0.5), (thanked, 0.5)), False),
        (((plain, -1.0), (plain, 1.0)), False),
        (((plain, -2.0), (thanked, -2.0)), False),
        ((("I hope that it is so.", 0.0), ("It is so.", 0.0)), True),
        ((("Fish, please, and krill.", 0.2), ("Fish and krill.", 0.2)), True),
        ((("Thank you. Thank you. Thank you.", 0.5), ("Thank you.", 0.5)), False),
        ((("Sorry. Thank you. Please.", 0.5), ("Thank you.", 0.5)), False),
        ((("Thank you!", 0.5), ("Thank you for asking me about this.", 0.5)), False),
        ((("Thank you for asking.", -2.0), (plain, 1.0)), False),
        (((plain, 0.0), ("", -3.0)), True),
    ]
    wrong = {said: compared(mistake) for said, mistake in _courtesy_mistakes().items()}
    return check(compared(function), cases, wrong)
