"""Exercises of chapters 06 and 07: policy gradients and PPO."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from rlhf_utils.course.checks.checking import check


def _softmax(logits) -> np.ndarray:
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return weights / weights.sum()


# -- 06 -----------------------------------------------------------------------------------------------------
def k3(function: Callable) -> bool:
    """e^(−ℓ) − 1 + ℓ, with ℓ the log-ratio of policy to reference."""
    mistakes = {
        "That is k1, the log-ratio itself, which can be negative.": lambda p, q: p - q,
        "That is k2, half the square of the log-ratio.": lambda p, q: (p - q) ** 2 / 2,
        "You took ℓ the wrong way round: the policy draws, so ℓ = policy − reference.": lambda p, q: (
            math.expm1(p - q) + q - p
        ),
        "You forgot the − 1: for two equal log-probabilities the estimate is 0.": lambda p, q: (
            math.exp(q - p) + p - q
        ),
    }
    pairs = ((-1.0, -1.0), (-1.0, -2.0), (-3.0, -0.5))
    return check(function, [((a, b), math.expm1(b - a) + a - b) for a, b in pairs], mistakes)


def answer_gradient(function: Callable) -> bool:
    """(reward − baseline) · ∇ log softmax(θ)[drawn]."""

    def gradient(policy, drawn, reward, baseline):
        return ((reward - baseline) * (np.eye(len(policy))[drawn] - np.array(policy))).tolist()

    mistakes = {
        "You pushed with the whole reward: subtract the baseline.": lambda p, x, r, b: gradient(p, x, r, 0),
        "In yours only the drawn answer moves; every other one should go down by its π.": lambda p, x, r, b: (
            (r - b) * np.eye(len(p))[x] * (1 - p[x])
        ).tolist(),
        "In yours the drawn answer alone moves: subtract π from each number.": lambda p, x, r, b: (
            (r - b) * np.eye(len(p))[x]
        ).tolist(),
        "1 / π is the slope of log π by π; wanted is the slope by θ.": lambda p, x, r, b: (
            (r - b) * np.eye(len(p))[x] / p[x]
        ).tolist(),
        "That is the gradient of the probability, not of its logarithm: divide by the probability.": (
            lambda p, x, r, b: (p[x] * np.array(gradient(p, x, r, b))).tolist()
        ),
        "The sign is wrong: a reward above the baseline makes the drawn answer likelier.": (
            lambda p, x, r, b: (-np.array(gradient(p, x, r, b))).tolist()
        ),
    }
    cases = [([0.5, 0.5], 0, 1.0, 0.0), ([0.7, 0.2, 0.1], 1, 3.0, 1.0), ([0.7, 0.2, 0.1], 2, 0.0, 1.0)]
    return check(function, [(case, gradient(*case)) for case in cases], mistakes)


def best_policy(function: Callable) -> bool:
    """The policy that maximises expected reward − β · KL."""

    def weighted(reference, exponents):
        weights = [p * math.exp(e) for p, e in zip(reference, exponents)]
        return [w / sum(weights) for w in weights]

    mistakes = {
        "You left out the reference: weight its probabilities.": lambda ref, r, beta: weighted(
            [1.0] * len(r), [x / beta for x in r]
        ),
        "You multiplied by β: a large one holds the policy back, so divide.": lambda ref, r, beta: weighted(
            ref, [x * beta for x in r]
        ),
        "Your probabilities do not add up to 1: divide by their sum.": lambda ref, r, beta: [
            p * math.exp(x / beta) for p, x in zip(ref, r)
        ],
        "Putting everything on the best answer is best only without a penalty.": lambda ref, r, beta: [
            float(i == r.index(max(r))) for i in range(len(r))
        ],
        "β is missing: divide the rewards by it.": lambda ref, r, beta: weighted(ref, r),
        "You flipped the sign: a higher reward makes an answer likelier.": lambda ref, r, beta: weighted(
            ref, [-x / beta for x in r]
        ),
    }
    cases = [
        (([0.5, 0.5], [0.0, 0.0], 1.0), [0.5, 0.5]),
        (([0.5, 0.5], [math.log(3), 0.0], 1.0), [0.75, 0.25]),
        (([0.8, 0.2], [0.0, math.log(2)], 0.5), [0.5, 0.5]),
    ]
    return check(function, cases, mistakes)


def _advantages(rewards, values, gamma, lam, after=0.0):
    advantages, following, later = [], after, 0.0
    for reward, value in zip(reversed(rewards), reversed(values)):
        later = reward + gamma * following - value + gamma * lam * later
        following = value
        advantages.insert(0, later)
    return advantages


def advantages(function: Callable) -> bool:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16)."""

    def returns(rewards, values, gamma, lam):
        return [a + v for a, v in zip(_advantages(rewards, values, gamma, lam), values)]

    mistakes = {
        "After the last token nothing is expected any more: the value that follows it is 0.": (
            lambda r, v, g, lam: _advantages(r, v, g, lam, after=v[-1])
        ),
        "That is the surprise of each step alone: add the later ones, each discounted by γλ.": (
            lambda r, v, g, lam: _advantages(r, v, g, 0.0)
        ),
        "You discounted later surprises by λ alone: it is γλ.": lambda r, v, g, lam: _advantages(
            r, v, g, lam / g
        ),
        "Those are the returns: advantage plus value.": returns,
        "You left out λ.": lambda r, v, g, lam: _advantages(r, v, g, 1.0),
        "You left out γ.": lambda r, v, g, lam: _advantages(r, v, 1.0, lam),
        "You left γ out of the surprise: what is expected later is discounted, too.": lambda r, v, g, lam: (
            _advantages(r, v, 1.0, g * lam)
        ),
    }
    cases = [
        ([0.0, 0.0, 1.0], [0.5, 0.5, 0.5], 1.0, 1.0),
        ([0.0, 0.0, 1.0], [0.4, 0.7, 0.5], 1.0, 0.95),
        ([0.1, -0.2], [0.3, 0.6], 0.5, 0.5),
    ]
    return check(function, [(case, _advantages(*case)) for case in cases], mistakes)


def trained_policy(function: Callable) -> bool:
    """REINFORCE with the expected reward as baseline."""

    def trained(
        theta,
        drawn,
        rewards,
        rate,
        sign=1,
        baseline=True,
        summed=False,
        fixed=False,
        of_drawn=False,
        logits=False,
    ):
        theta = np.array(theta, dtype=float)
        start = _softmax(theta)
        for answers in drawn:
            policy = start if fixed else _softmax(theta)
            got = np.array([rewards[x] for x in answers])
            expected = got.mean() if of_drawn else policy @ rewards
            push = (got - baseline * expected)[:, None] * (np.eye(len(theta))[answers] - policy)
            theta += sign * rate * (push.sum(0) if summed else push.mean(0))
        return (theta if logits else _softmax(theta)).tolist()

    mistakes = {
        "You went downhill: add the gradient, so that the reward rises.": lambda *a: trained(*a, sign=-1),
        "You left out the baseline.": lambda *a: trained(*a, baseline=False),
        "You took the sum over a step's answers, not their mean.": lambda *a: trained(*a, summed=True),
        "The baseline is the reward that the policy expects, not the mean of the rewards drawn.": (
            lambda *a: trained(*a, of_drawn=True)
        ),
        "Those are the logits: return probabilities.": lambda *a: trained(*a, logits=True),
        "You took a step after each answer: take one for each list, along the mean of its answers.": (
            lambda theta, drawn, *a: trained(theta, [[x] for answers in drawn for x in answers], *a)
        ),
        "You worked out the probabilities only once: they change with each step.": lambda *a: trained(
            *a, fixed=True
        ),
    }
    cases = [
        ([0.0, 0.0], [[0, 1]], [0.0, 1.0], 1.0),
        ([1.0, 0.0, 0.0], [[0, 1, 1], [0, 2, 0]], [0.0, 1.0, 3.0], 0.5),
        ([0.0, 1.0, 0.0], [[0, 1, 2], [1, 1, 2], [0, 0, 2]], [1.0, 0.0, 2.0], 1.0),
    ]
    return check(function, [(case, trained(*case)) for case in cases], mistakes)


# -- 07 -----------------------------------------------------------------------------------------------------
def token_rewards(function: Callable) -> bool:
    """The toll on every token, and the score on the last."""

    def rewards(score, log_ratios, beta, sign=-1, everywhere=False, first=False):
        found = [sign * beta * ratio for ratio in log_ratios]
        for t in range(len(found)) if everywhere else [0 if first else -1]:
            found[t] += score
        return found

    mistakes = {
        "Your toll has the wrong sign: it is −β times the log-ratio.": lambda *a: rewards(*a, sign=1),
        "You gave the score to every token: then a long answer is paid many times.": lambda *a: rewards(
            *a, everywhere=True
        ),
        "The score belongs to the last token, when the answer is whole.": lambda *a: rewards(*a, first=True),
        "The last token pays its toll, too.": lambda s, ratios, beta: (
            [-beta * ratio for ratio in ratios[:-1]] + [s]
        ),
    }
    cases = [(1.5, [0.2, -0.1, 0.4], 0.1), (-3.0, [0.5], 0.06), (0.0, [1.0, -2.0], 0.5)]
    return check(function, [(case, rewards(*case)) for case in cases], mistakes)


def whitened(function: Callable) -> bool:
    """Mean 0 and (population) deviation 1 over the tokens that count; 0 elsewhere."""

    def white(values, mask, over=None, keep=False, ddof=0, shift=True, power=1):
        values, mask = np.array(values), np.array(mask, dtype=bool)
        chosen = values if over == "all" else values[mask]
        found = (values - shift * chosen.mean()) / chosen.std(ddof=ddof) ** power
        return np.where(keep | mask, found, 0.0).tolist()

    def by_row(values, mask):
        found = np.zeros(np.shape(values))
        for row, own, marked in zip(found, np.array(values), np.array(mask, dtype=bool)):
            row[marked] = (own[marked] - own[marked].mean()) / (own[marked].std() + 1e-8)
        return found.tolist()

    def as_rows(values, mask):
        values, mask = np.array(values), np.array(mask)
        taken = values[mask]
        return (mask * (values - taken.mean()) / taken.std()).tolist()

    mistakes = {
        "You took mean and deviation over the padding as well.": lambda *a: white(*a, over="all"),
        "Padding must stay 0.": lambda *a: white(*a, keep=True),
        "You left the mask out: mean and deviation are those of the marked entries, and the others stay 0.": (
            lambda *a: white(*a, over="all", keep=True)
        ),
        "You whitened each answer by itself: the mean is that of all marked entries together.": by_row,
        "A mask of whole numbers is taken for row numbers: make it one of truth values first.": as_rows,
        "That is divided by the variance: take its root.": lambda *a: white(*a, power=2),
        "You used the sample deviation, torch's default: here it is the root of the mean square.": (
            lambda *a: white(*a, ddof=1)
        ),
        "You only divided: subtract the mean as well.": lambda *a: white(*a, shift=False),
    }
    cases = [
        ([[1.0, 3.0], [5.0, 0.0]], [[1, 1], [1, 0]]),
        ([[2.0, -1.0, 9.0], [0.5, 3.0, 9.0]], [[1, 1, 0], [1, 1, 0]]),
    ]
    return check(function, [(case, white(*case)) for case in cases], mistakes)


def clipped_objective(function: Callable) -> bool:
    """PPO's clipped objective of one token, to be maximised (Schulman et al., 2017, eq. 7)."""

    def clipped(ratio, clip):
        return max(1 - clip, min(1 + clip, ratio))

    mistakes = {
        "That is not clipped at all.": lambda r, a, c: r * a,
        "You always clip: where the unclipped product is smaller, it counts instead.": lambda r, a, c: (
            clipped(r, c) * a
        ),
        "Take the smaller of the two products, not ratios.": lambda r, a, c: min(r, clipped(r, c)) * a,
        "You took the larger of the two: the smaller one lets mistakes be corrected.": lambda r, a, c: max(
            r * a, clipped(r, c) * a
        ),
        "That is the loss, which is minimised; the objective has no minus sign.": lambda r, a, c: (
            -min(r * a, clipped(r, c) * a)
        ),
    }
    cases = [
        ((1.0, 2.0, 0.2), 2.0),
        ((1.5, 2.0, 0.2), 2.4),
        ((0.5, 2.0, 0.2), 1.0),
        ((1.5, -2.0, 0.2), -3.0),
        ((0.5, -2.0, 0.2), -1.6),
    ]
    return check(function, cases, mistakes)


def ptx_gradient(function: Callable) -> bool:
    """Gradient of −(PPO's objective) + γ · loss on documents, weight by weight, cut to a length."""

    def gradient(ppo, ptx, weight, longest, apart=False, cut=True, first=False):
        ppo, ptx = np.array(ppo), weight * np.array(ptx)

        def shorter(g):
            return g * min(1.0, longest / np.linalg.norm(g))

        if apart or first:
            return (shorter(ppo) + (shorter(ptx) if apart else ptx)).tolist()
        return (shorter(ppo + ptx) if cut else ppo + ptx).tolist()

    mistakes = {
        "You cut the two separately: add them up first, then cut the sum.": lambda *a: gradient(
            *a, apart=True
        ),
        "You cut only PPO's part: cut the sum.": lambda *a: gradient(*a, first=True),
        "You cut each number: scale the gradient as a whole, so that its direction stays the same.": (
            lambda ppo, ptx, w, longest: np.clip(gradient(ppo, ptx, w, longest, cut=False), -longest, longest)
        ),
        "You did not cut: a gradient longer than `longest` is scaled down to that length.": lambda *a: (
            gradient(*a, cut=False)
        ),
        "You scaled short gradients up: only what is too long is scaled.": lambda ppo, ptx, w, longest: (
            lambda g: (g * longest / np.linalg.norm(g)).tolist()
        )(np.array(ppo) + w * np.array(ptx)),
        "You forgot the weight of the documents.": lambda ppo, ptx, w, longest: gradient(
            ppo, ptx, 1.0, longest
        ),
    }
    cases = [
        ([3.0, 0.0], [0.0, 8.0], 0.5, 1.0),
        ([0.3, 0.0], [0.0, 0.4], 0.5, 1.0),
        ([0.6, 2.0], [4.0, -1.0], 0.25, 2.0),
    ]
    return check(function, [(case, gradient(*case)) for case in cases], mistakes)


BUGS = {
    "A": "toll",
    "B": "sign",
    "C": "value",
    "D": "dropout",
    "E": "reference",
    "F": "rate",
}  # log → what was broken in it, as `tests/benchmarks/bugs.py` wrote `data/reference/bugs.json`
SIGNS = {
    "toll": "with its sign flipped, the toll rewards moving away from SFT: KL keeps rising",
    "value": "a value model that does not learn predicts nothing: explained variance stays at 0",
    "reference": "a reference that moves along is never far: KL is exactly 0 while the answers change",
    "sign": "minimising what should be maximised: reward falls and falls, though each step looks healthy",
    "rate": "steps far too large ruin the policy at once: KL passes fifty within ten updates, reward is gone",
    "dropout": "each pass uses another network: k1 is below 0, much is clipped, and updates are cut short",
}


def bug_hunt(found: Mapping[str, str]) -> bool:
    """Which bug each of six logs shows; for each that is wrong, what the named bug would look like."""
    if not isinstance(found, Mapping) or not any(found.get(log) for log in BUGS):
        print(f"○ Not done yet: name a bug for each log, of {', '.join(sorted(SIGNS))}.")
        return False
    found = {log: str(found.get(log) or "").strip().lower() for log in BUGS}
    right = [log for log, bug in BUGS.items() if found.get(log) == bug]
    for log in BUGS:
        said = found.get(log)
        if log in right:
            print(f"✓ {log}: {said}")
        elif said in SIGNS:
            print(f"✗ {log} is not {said}: {SIGNS[said]}. Does {log} look like that?")
        else:
            print(f"○ {log}: {'not named yet' if not said else f'{said!r} is none of the six'}")
    print(f"{len(right)} of {len(BUGS)} found.")
    return len(right) == len(BUGS)
