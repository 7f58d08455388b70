"""Random input, with hypothesis: what reads strangers' texts raises nothing but the errors that it promises.

A few examples each with the suite; `RLHF_FUZZ=600` seconds each with `make attack`.
"""

import contextlib
import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from rlhf_utils.artifacts.manifest import check_files, read_manifest
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError, printable
from rlhf_utils.pipeline.data_rows import FIELDS, check_data, row_problem
from rlhf_utils.pipeline.formats import normal_rows
from rlhf_utils.pipeline.importing import import_data
from rlhf_utils.ranking.rows import check_row
from rlhf_utils.ranking.session import PAPER_FLAGS, RankingSession
from rlhf_utils.ranking.widget import RankingWidget
from rlhf_utils.world import programs
from rlhf_utils.world.prompts import PROBES, USE_CASES, write_prompts

pytestmark = pytest.mark.attack
SECONDS = float(os.environ.get("RLHF_FUZZ", "0"))
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)

TEXTS = st.text(max_size=60) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\x1b[2J",
        "\ud800",
        "\u2028",
        "<|endoftext|>",
        "../x",
        "a" * 5000,
        "Answer: x",
        "\n\nHuman: a",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just(10**30)


def json_with(keys: list[str]):
    """JSON of any shape, in which these keys are likelier than others."""
    names = st.sampled_from(keys) | TEXTS
    return st.recursive(
        LEAVES, lambda x: st.lists(x, max_size=4) | st.dictionaries(names, x, max_size=6), max_leaves=20
    )


def attack(strategy, examine, share: float = 1.0) -> None:
    """Call `examine` with examples; for this share of `RLHF_FUZZ` seconds, if that is set."""
    end, seed = time.monotonic() + share * SECONDS, 0
    while True:
        run = settings(
            max_examples=400 if SECONDS else 60, deadline=None, database=None, suppress_health_check=SLOW
        )
        seeded(seed)(run(given(strategy)(examine)))()
        seed += 1
        if time.monotonic() >= end:
            return


ROW = json_with(
    [
        "prompt",
        "completion",
        "chosen",
        "rejected",
        "messages",
        "role",
        "content",
        "instruction",
        "instances",
        "output",
    ]
)


def test_importing_random_files(tmp_path):
    """A CourseError, or a folder that is in order."""
    good = b"".join(json.dumps({"prompt": f"Say {i}."}).encode() + b"\n" for i in range(40))
    lines = ROW.map(lambda row: json.dumps(row).encode()) | st.binary(max_size=200) | st.just(good)

    def examine(parts):
        (tmp_path / "in.jsonl").write_bytes(b"\n".join(parts))
        with contextlib.suppress(CourseError):
            import_data(
                tmp_path / "out", lambda text: None, replace=True, prompts=[str(tmp_path / "in.jsonl")]
            )
            assert not any("prompts.jsonl" in problem for problem in check_data(tmp_path / "out"))

    attack(st.lists(lines, max_size=5), examine)


def test_rows_of_random_kinds():
    """Good, or bad with a reason."""

    def examine(row):
        for fields in FIELDS.values():
            assert isinstance(row_problem(row, fields), str)
        with contextlib.suppress(
            ValueError, AttributeError, KeyError, TypeError, RecursionError
        ):  # what the import counts
            normal_rows(row)

    attack(ROW, examine)


def test_random_manifests(tmp_path, tiny):
    """ValueError with the reason, or files that are there."""
    store = Store(tiny.profile)
    real = json.loads((tiny.root / "sft" / "manifest.json").read_text())
    (tmp_path / "sft").mkdir()
    keys = [*real, "config.json", "model.safetensors"]
    parts = st.dictionaries(st.sampled_from(list(real)), json_with(keys), max_size=4)

    def examine(change):
        (tmp_path / "sft" / "manifest.json").write_text(json.dumps(real | change))
        with contextlib.suppress(ValueError):
            manifest = read_manifest(tmp_path / "sft")
            check_files(tmp_path / "sft", manifest["files"])
        with contextlib.suppress(CourseError):
            store._check("sft", tmp_path / "sft")

    attack(parts, examine, 0.5)
    attack(st.binary(max_size=300), lambda content: _read(tmp_path, content), 0.5)


def _read(folder, content):
    (folder / "sft" / "manifest.json").write_bytes(content)
    with contextlib.suppress(ValueError):
        read_manifest(folder / "sft")


def test_random_messages_to_the_widget():
    """Nothing is raised; what is stored is a sound ranking of the item on the screen."""
    rows = [
        {"id": f"p{i}", "messages": [{"role": "user", "content": "?"}], "answers": ["x", "y", "z"]}
        for i in range(3)
    ]
    letters = st.sampled_from(["a", "b", "c", "d"])
    groups = st.lists(st.lists(letters, max_size=3) | letters, max_size=4)
    likely = st.fixed_dictionaries(
        {"do": st.sampled_from(["submit", "skip", "undo"]), "item": st.sampled_from(["p0", "p1"])},
        optional={
            "groups": groups | LEAVES,
            "scores": st.dictionaries(letters, LEAVES | st.integers(1, 7), max_size=3) | LEAVES,
            "flags": st.dictionaries(letters, st.lists(st.sampled_from(PAPER_FLAGS), max_size=2)) | LEAVES,
        },
    )

    def examine(messages):
        session = RankingSession(rows, flags=PAPER_FLAGS)
        widget = RankingWidget(session, scores=True)
        for message in messages:
            widget.receive(message)
        for row in session.done.values():
            check_row(row, "row")
        json.dumps(widget.state)
        widget.close()

    attack(st.lists(likely | json_with(["do", "item", "groups", "scores", "flags"]), max_size=6), examine)


def test_random_rows_of_rankings():
    """A CourseError, or a row that agreement and training can read."""
    keys = ["ranker", "item", "action", "messages", "answers", "ranks", "seconds", "shown", "scores", "flags"]

    def examine(row):
        with contextlib.suppress(CourseError):
            check_row(row, "row")
            assert len(row["answers"]) >= 2 and (row["action"] == "skip" or len(row["ranks"]) >= 2)

    attack(
        st.dictionaries(st.sampled_from(keys), LEAVES | st.lists(LEAVES, max_size=3)) | json_with(keys),
        examine,
    )


def test_the_judge_reads_anything(world, judge):
    """Scores from 0 to 1 for whatever a model says to any kind of prompt."""
    prompts = write_prompts(world, "validation", dict.fromkeys([*USE_CASES, *PROBES], 6), 3)
    words = sorted(
        {w for p in prompts for m in p["messages"] for w in m["content"].split()} | {"print(", "not", "."}
    )

    def examine(drawn):
        prompt, answer = drawn
        scores = judge.score(prompt, answer)
        assert all(0 <= x <= 1 for x in (scores.helpful, scores.honest, scores.harmless, scores.total))

    answers = TEXTS | st.lists(st.sampled_from(words), max_size=30).map(" ".join)
    attack(st.tuples(st.sampled_from(prompts), answers), examine)


PIECES = (
    """
x = 1¦x = [x, x]¦x = {'a': x}¦print(x)¦print('a' * 200)¦for i in range(9):¦for i in x:¦def f(a):
    f(a)¦f(1)¦    print(i)¦    return f¦x = x * 9¦x = x + x¦x = range(10 ** 9)¦x = 'a' * -1
import os¦x.y¦x[0]¦x = x[i]¦del x¦print(print)¦lambda: 0¦x: int = 1¦print(f'{x}')¦range(1, 2, 0)
print(-1)¦x = 99999999999999999999¦return 1¦    def g(b):¦    pass¦print = 5¦range = print
x = {1: 2}[True]¦print(0xffffffffffffffff)¦x = 'a'[0][0]¦eval('1')
""".strip()
    .replace("\n", "¦")
    .split("¦")
)


def test_programs_do_nothing_but_print():
    """Lines, or Refused, soon; nothing of the machine is touched."""

    def examine(lines):
        source = "\n".join(lines)
        started = time.process_time()
        with contextlib.suppress(programs.Refused):
            printed = programs.run(source)
            assert len(printed) <= programs.LINES and sum(map(len, printed)) < 200_000
        assert time.process_time() - started < 2

    attack(st.lists(st.sampled_from(PIECES) | st.text(max_size=30), max_size=25), examine, 0.5)
    attack(st.text(max_size=400), lambda text: examine([text]), 0.5)


PROGRAMS = r"""
import os¦from os import system¦__import__('os')¦open('/etc/passwd')¦eval('1')¦exec('1')¦input()
breakpoint()¦print.__class__¦''.__class__¦x = (1).real¦while True: pass¦if True: print(1)
[i for i in range(9)]¦(i for i in range(9))¦{1, 2}¦(1, 2)¦x = 1 if True else 2¦x = not True¦1 < 2
x += 1¦x: int = 1¦del x¦assert False¦raise ValueError¦try: pass\nexcept: pass¦with x: pass
class A: pass¦global x¦async def f(): pass¦def f(*a): pass¦def f(a=1): pass¦def f(**a): pass
@f\ndef g(): pass¦lambda: print(1)¦f'{1}'¦b'x'¦1.5¦1j¦...¦None + 1¦x = y = 1¦x, y = 1, 2¦x[0] = 1
x.y = 1¦[1, 2][0:1]¦print(*[1])¦print(1, end='')¦(x := 1)¦yield 1¦2 ** 999999999¦1 / 0¦1 // 0¦1 % 0
1 << 99999¦-1¦~1¦'a' * 10000000¦'a' * 100 * 100¦999999999 * 999999999¦[1] * 99¦[1] + [2]¦range('a')
range(1, 2, 0)¦range()¦print([1])¦for i in 'abc': pass¦for i, j in []: pass
for i in range(99999999): pass¦f()¦x¦{}[0]¦[][0]¦{[]: 1}¦{**{}}¦return 1¦def f(): f()\nf()
def f(a): return f(a) + f(a)\nf(1)¦for i in range(51): print(i)¦match 1:\n  case 1: pass
"""


@pytest.mark.parametrize("program", PROGRAMS.strip().replace("\n", "¦").replace("\\n", "\n").split("¦"))
def test_programs_that_are_refused(program):
    """What the small world's programs do not need is refused, and nothing is printed."""
    with pytest.raises(programs.Refused):
        programs.run(program)


def test_what_is_printable_moves_no_cursor():
    """Whatever is written to a terminal."""

    def examine(text):
        shown = printable(text)
        assert not any(ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160 for c in shown)
        assert printable(shown) == shown

    attack(
        st.text(
            alphabet=st.characters(codec=None) | st.sampled_from("\x1b\x07\x9b\x7f\r\u202e"), max_size=80
        ),
        examine,
    )
