"""The small interpreter: it prints what Python prints, and refuses all else."""

import contextlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_utils.world.programs import LINES, Refused, run

GOOD = [
    'print("kite")',
    'for i in range(3): print("Cows eat grass.")',
    "for i in range(1, 4):\n    print(i, i * i)",
    'food = {"cows": "grass", "lions": "meat"}\nprint(food["cows"])',
    'food = {"cows": "grass"}\ndef food_of(name):\n    return food[name]\nprint(food_of("cows"))',
    'for name in ["a", "b"]:\n    print(name + "!")',
    'print("a\\nb"); print("c" * 3)',
    "x = 2\nx = x + 3 - 1\nprint(x)",
]
BAD = [
    "",
    "cows eat grass",
    "print(",
    "import os",
    "__import__('os')",
    "open('x')",
    "print.__class__",
    "().__class__",
    "while True: pass",
    "for i in range(10**9): print(i)",
    "for i in range(1000): x = i",
    'print("a" * 10**9)',
    "x = 10 ** 10",
    "eval('1')",
    "exec('1')",
    "def f(n):\n    return f(n)\nprint(f(1))",
    "lambda: 1",
    "[i for i in range(3)]",
    "print(f'{1}')",
    "x",
    "a.b = 1",
    "del x",
    "with x: pass",
    "try:\n    x\nexcept: pass",
    "class A: pass",
    "global x",
    "assert 1",
    "raise x",
    "print(sep='')",
    "f(*[1])",
    "return 1",
    "x: int = 1",
    "range(1, 2, 0)",
    "print({1: 2})",
    "{}['a']",
    "'abc'['x']",
    "yield 1",
    "async def f(): pass",
    "f'{open}'",
    "x = y = 1",
    "[1][9]",
    'print("" * 99999999999999999999)',
    "(" * 3000,
    "x = " + "-" * 3000 + "1",
    "\0",
    "print(b'a')",
    "print(1.5)",
    "if 1: print(2)",
]


@pytest.mark.parametrize("source", GOOD)
def test_prints_what_python_prints(source):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(source, {})  # of the list above, and nothing else
    assert run(source) == out.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("source", BAD)
def test_refuses_what_it_does_not_know(source):
    if source == "":
        assert run(source) == []
        return
    with pytest.raises(Refused):
        run(source)


def test_is_bounded():
    with pytest.raises(Refused, match="lines|steps"):
        run(f"for i in range({LINES + 1}): print(i)")
    with pytest.raises(Refused, match="steps"):
        run("for i in range(300):\n    x = i\n    y = i")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="for i in range(3): print(\"'a\n =+*[]{}def", max_size=60))
def test_any_text_is_run_or_refused(source):
    try:
        assert isinstance(run(source), list)
    except Refused:
        pass
