"""How an exercise is checked: the reader's own function is called on cases with known results, and compared
with the mistakes that people usually make, so that a wrong answer is told what is wrong with it.

A check prints what it tried and returns True or False; it never raises, so that a notebook with an
unfinished exercise still runs from top to bottom.
"""

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch

Case = tuple[tuple, object]  # (arguments, what is expected)
Mistakes = Mapping[str, Callable]  # what is wrong → a function that is wrong in that way


def same(found, expected) -> bool:
    """Whether a result is the expected one, numbers up to rounding; tensors and arrays may stand for lists,
    and those of one number for it.
    """
    if hasattr(found, "tolist"):
        found = found.tolist()
        while isinstance(expected, (int, float)) and isinstance(found, list) and len(found) == 1:
            (found,) = found
    if isinstance(expected, float):
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        return number and math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-6)
    if isinstance(found, float) and isinstance(expected, int) and not isinstance(expected, bool):
        return found == expected  # k * (k - 1) / 2 is right
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(expected)
            and all(map(same, found, expected))
        )
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[k], v) for k, v in expected.items())
        )
    return type(found) is type(expected) and found == expected


def shortened(value) -> str:
    """An argument or a result as it is shown: numbers to six digits, of a long list the first few."""
    if isinstance(value, float) and not isinstance(value, bool):
        return repr(round(value, 6) + 0.0)
    if type(value) in (list, tuple):
        shown = [shortened(part) for part in (value if len(value) <= 12 else value[:5])]
        more = [f"… {len(value)} in all"] if len(value) > 12 else []
        single = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return ("[{}]" if isinstance(value, list) else "({})").format(", ".join(shown + more) + single)
    return repr(value)


def written(function: Callable) -> bool:
    """Whether a function's body is more than three dots."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code is not None and len(code.co_code) > len((lambda: None).__code__.co_code)


def where(error: Exception, function: Callable) -> str:
    """In which line of the reader's cell an error came up."""
    file = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" in line {lines[-1]}" if lines else ""


def outcome(function: Callable, arguments: tuple):
    """What a function gives, or its error."""
    try:
        return function(*deepcopy(arguments))
    except Exception as error:
        return error


def check(function: Callable, cases: Sequence[Case], mistakes: Mistakes | None = None) -> bool:
    """Whether the reader's function is right in all cases. If it is wrong, the first case where it is, and,
    if a mistake gives the same results in all of them, that one's name.
    """
    name = getattr(function, "__name__", "your function")
    results = [outcome(function, arguments) for arguments, _ in cases]
    for (arguments, expected), found in zip(cases, results):
        shown, wanted = f"{name}({', '.join(map(shortened, arguments))})", shortened(expected)
        if isinstance(found, Exception):
            print(f"✗ {shown} raised {type(found).__name__}{where(found, function)}: {found}")
            return False
        if found is None or found is Ellipsis:
            begun = written(function) or any(r is not None and r is not Ellipsis for r in results)
            print(
                f"✗ {shown} returned nothing (is `return` missing?),"
                if begun
                else f"○ Not done yet: {shown}",
                end=" ",
            )
            print(f"but should return {wanted}." if begun else f"should be {wanted}.")
            return False
        if not same(found, expected):
            print(f"✗ {shown} is {shortened(found)}, but should be {wanted}.")
            for said, wrong in (mistakes or {}).items():
                if all(alike(found, outcome(wrong, a)) for (a, _), found in zip(cases, results)):
                    print(f"  {said}")
                    break
            return False
    print(f"✓ Right in all {len(cases)} cases.")
    return True


def alike(found, wrong) -> bool:
    """Whether two results are the same, whatever kind of numbers they are."""
    if isinstance(wrong, Exception) or isinstance(found, Exception):
        return False
    if hasattr(wrong, "tolist"):
        wrong = wrong.tolist()
    if isinstance(wrong, int) and not isinstance(wrong, bool) and isinstance(found, float):
        wrong = float(wrong)
    return same(found, wrong)


def check_training(step: Callable, right: Callable, mistakes: Mistakes, data: tuple) -> bool:
    """The same for a function (model, optimizer, *data) → loss that trains a model: four steps of it, from
    the same weights, have to give the losses that `right` gives.
    """

    def losses(function: Callable) -> list[float]:
        model, found = small_model(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(4):
            loss = function(model, optimizer, *deepcopy(data))
            if loss is None or loss is Ellipsis:
                return loss
            found.append(round(float(loss.detach() if hasattr(loss, "detach") else loss), 6))
        return found

    def four_steps() -> list[float]:
        return losses(step)

    four_steps.__wrapped__ = step
    four_steps.__name__ = "the losses of four steps of " + getattr(step, "__name__", "your function")
    wrong = {said: (lambda function=function: losses(function)) for said, function in mistakes.items()}
    return check(four_steps, [((), losses(right))], wrong)


def small_model() -> torch.nn.Module:
    """A language model of eight tokens that sees the last one only: (batch, time) ids → (batch, time, 8)
    logits. Always the same weights.
    """
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(8, 6), torch.nn.Linear(6, 8))
    torch.random.set_rng_state(state)
    return model
