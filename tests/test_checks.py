"""Each reader-facing check accepts a right answer and rejects wrong ones."""

import math
import re

import pytest
import torch

from rlhf_utils.course import checks
from rlhf_utils.course.checks import beyond, checking, english, later, models, policies, rewards, text


def fit(turns, limit):
    while len(turns) > 2 and sum(len(t.split()) for t in turns) > limit:
        turns = turns[2:]
    return turns


def pieces(word, merges):
    tokens = list(word)
    for left, right in merges:
        tokens = re.sub(f"(?<!\\S){left} {right}(?!\\S)", left + right, " ".join(tokens)).split()
    return tokens


def ordered(a, b):
    return [(i, j) for i in range(len(a)) for j in range(i) if a[i] != a[j] and b[i] != b[j]]


def alike(a, b):
    return sum((a[i] < a[j]) == (b[i] < b[j]) for i, j in ordered(a, b))


def both(a, b):
    return len(ordered(a, b))


def courtesies(answer):
    return sum(word.strip(".,!?").lower() in beyond.COURTESIES for word in answer.split())


RIGHT = {
    checks.comparisons: lambda k: k * (k - 1) // 2,
    checks.pieces: pieces,
    checks.causal_mask: lambda n: torch.tril(torch.ones(n, n)).bool(),
    checks.completion_labels: lambda prompt, answer, end: [-100] * len(prompt) + answer + [end],
    checks.comparisons_in: lambda ranks: sum(a != b for i, a in enumerate(ranks) for b in ranks[:i]),
    checks.agreement: lambda a, b: alike(a, b) / both(a, b),
    checks.pairwise_loss: lambda c, r: -torch.nn.functional.logsigmoid(torch.tensor(c - r)),
    checks.k3: lambda p, q: math.exp(q - p) - 1 + p - q,
    checks.largest_microbatch: lambda rows, fitting: max(
        n for n in range(1, rows + 1) if rows % n == 0 and n <= fitting
    ),
    checks.best_policy: lambda ref, r, beta: (torch.tensor(ref).log() + torch.tensor(r) / beta).softmax(0),
    checks.clipped_objective: lambda ratio, a, clip: min(ratio * a, max(1 - clip, min(1 + clip, ratio)) * a),
    checks.win_rate: lambda a, b: sum(x > y for x, y in zip(a, b)) / sum(x != y for x, y in zip(a, b)),
    checks.fit_conversation: fit,
    checks.courteous_reward: lambda answer, crowd: crowd + min(courtesies(answer), 1),
}
WRONG = {
    checks.comparisons: [lambda k: k * k, lambda k: k * (k - 1), lambda k: float(k), lambda k: 36],
    checks.pieces: [lambda w, m: list(w), lambda w, m: [w], lambda w, m: pieces(w, m[::-1])],
    checks.causal_mask: [
        lambda n: [[True] * n] * n,
        lambda n: torch.triu(torch.ones(n, n)).bool(),
        lambda n: torch.eye(n).bool(),
    ],
    checks.completion_labels: [
        lambda p, a, e: p + a + [e],
        lambda p, a, e: [-100] * len(p) + a,
        lambda p, a, e: [-100] * len(p + a) + [e],
    ],
    checks.comparisons_in: [lambda r: len(r) * (len(r) - 1) // 2, lambda r: len(set(r)), lambda r: 6],
    checks.agreement: [
        lambda a, b: alike(a, b) / (len(a) * (len(a) - 1) / 2),
        lambda a, b: float(a == b),
        lambda a, b: 1.0,
    ],
    checks.pairwise_loss: [
        lambda c, r: c - r,
        lambda c, r: math.log1p(math.exp(c - r)),
        lambda c, r: 0.6931472,
    ],
    checks.k3: [lambda p, q: p - q, lambda p, q: (p - q) ** 2 / 2, lambda p, q: math.exp(p - q) - 1 + q - p],
    checks.best_policy: [
        lambda ref, r, b: ref,
        lambda ref, r, b: [p * math.exp(x / b) for p, x in zip(ref, r)],
        lambda ref, r, b: torch.tensor(r).div(b).softmax(0),
    ],
    checks.clipped_objective: [
        lambda r, a, c: r * a,
        lambda r, a, c: max(1 - c, min(1 + c, r)) * a,
        lambda r, a, c: -min(r * a, a),
    ],
    checks.win_rate: [
        lambda a, b: sum(x > y for x, y in zip(a, b)) / len(a),
        lambda a, b: 0.5,
        lambda a, b: True,
    ],
    checks.fit_conversation: [lambda t, n: t, lambda t, n: t[-1:], lambda t, n: t[1:] if len(t) > 1 else t],
    checks.courteous_reward: [
        lambda a, crowd: courtesies(a),
        lambda a, crowd: crowd + courtesies(a),
        lambda a, crowd: crowd,
        lambda a, crowd: crowd * (1 + courtesies(a)),
    ],
}


# All but these know the usual mistakes; chapters/solutions/ holds right answers, which CI executes.
OTHERS = (checks.bug_hunt,)
MODULES = (text, models, rewards, policies, later, beyond, english)
KNOWING = [
    getattr(checks, name)
    for module in MODULES
    for name in vars(module)
    if name in checks.__all__ and getattr(checks, name) not in OTHERS
]


def mistakes_of(check, monkeypatch) -> dict:
    """The mistakes that a check knows."""
    known = {}

    def keep(function, cases, mistakes=None):
        known.update(mistakes or {})
        return False

    with monkeypatch.context() as patch:
        for module in (checking, *MODULES):
            patch.setattr(module, "check", keep)
        check(lambda *arguments: None)
    return known


@pytest.mark.parametrize("check", KNOWING, ids=lambda c: c.__name__)
def test_usual_mistakes_are_named(check, monkeypatch, capsys):
    known = mistakes_of(check, monkeypatch)
    assert len(known) >= 3
    for said, wrong in known.items():
        wrong = getattr(wrong, "__wrapped__", wrong)  # of a reward, what is compared is how it orders answers
        if check in (checks.training_step, checks.sft_step):
            continue  # what they know is what four steps give: below
        assert check(wrong) is False
        told = capsys.readouterr().out
        assert "✗" in told and told.rstrip().endswith(said), said


@pytest.mark.parametrize("check", [checks.training_step, checks.sft_step], ids=lambda c: c.__name__)
def test_usual_mistakes_of_a_training_are_named(check, monkeypatch, capsys):
    steps = {}

    def keep(step, right, mistakes, data):
        steps.update({"": right} | mistakes)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(models, "check_training", keep)
        check(lambda *arguments: None)
    assert len(steps) >= 4
    for said, wrong in steps.items():
        assert check(wrong) is (said == "")
        told = capsys.readouterr().out
        assert told.rstrip().endswith(said) and ("✓" in told) == (said == "")
    assert check(lambda *arguments: None) is check(lambda *arguments: 1 / 0) is False
    assert check(lambda *arguments: ...) is False


@pytest.mark.parametrize("check", RIGHT, ids=lambda c: c.__name__)
def test_right_answers_are_accepted(check, capsys):
    assert check(RIGHT[check]) is True and "✓" in capsys.readouterr().out


@pytest.mark.parametrize("check, wrong", [(c, w) for c, rows in WRONG.items() for w in rows])
def test_wrong_answers_are_rejected(check, wrong, capsys):
    assert check(wrong) is False and "✓" not in capsys.readouterr().out


@pytest.mark.parametrize("check", RIGHT, ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "answer",
    [lambda *a: None, lambda *a: ..., lambda *a: True, lambda *a: 1 / 0, lambda *a: "x", lambda *a: []],
)
def test_unfinished_and_broken_answers_are_rejected(check, answer):
    assert check(answer) is False


def test_bug_hunt_says_what_was_taken_for_what(capsys):
    right = dict(policies.BUGS)
    assert checks.bug_hunt(right) is True and "6 of 6" in capsys.readouterr().out
    assert checks.bug_hunt({}) is checks.bug_hunt(None) is checks.bug_hunt({"Z": "toll"}) is False
    swapped = right | {"A": right["B"], "B": "the optimizer", "C": ""}
    assert checks.bug_hunt(swapped) is False
    told = capsys.readouterr().out
    assert f"✗ A is not {right['B']}: {policies.SIGNS[right['B']]}" in told
    assert "○ B: 'the optimizer' is none of the six" in told and "○ C: not named yet" in told
    assert "3 of 6" in told


def test_a_blank_an_answer_without_return_and_an_error_are_told_apart(capsys):
    def blank(k):
        """Draft."""
        ...

    def without_return(k):
        k * (k - 1) / 2

    def broken(k):
        return [][k]

    for function, said in (
        (blank, "○ Not done yet: blank(2) should be 1"),
        (without_return, "✗ without_return(2) returned nothing (is `return` missing?), but should return 1"),
        (broken, f"raised IndexError in line {broken.__code__.co_firstlineno + 1}: list index"),
    ):
        assert not checks.comparisons(function)
        assert said in capsys.readouterr().out


def test_a_training_step_without_return_is_not_taken_for_a_blank(capsys):
    def step(model, optimizer, ids):
        model(ids)

    assert not checks.training_step(step)
    assert "is `return` missing?" in capsys.readouterr().out
    assert not checks.training_step(lambda model, optimizer, ids: ...)
    assert "Not done yet" in capsys.readouterr().out
