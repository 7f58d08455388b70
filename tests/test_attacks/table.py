"""Writes `docs/attacks.md`, the table of what was tried, from the tests that are marked `attack`.

    .venv/bin/python tests/test_attacks/table.py

An attack is a test, or one case of a test; what should happen is the test's docstring, and since the tests
pass, it is what happens. `test_hygiene.py` fails if the table is not of today.
"""

import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "attacks.md"
HEAD = """# What was tried

Each line is a test: somebody attacks, or something goes wrong, and what is promised still holds. There are
{count}, and all pass. `make test` runs those whose programs are installed (a browser, PostgreSQL, a hub's
proxy); `bash .ci/run` installs the programs and runs all. Longer rounds run with `make attack`. What is
promised, and what is not, is in [SECURITY.md](../SECURITY.md).

This file is written by `.venv/bin/python tests/test_attacks/table.py`.

## Longer rounds

{rounds}
"""
# Measured once, on two shared cores of an Intel Xeon with AVX-512; `make attack` measures them anew.
ROUNDS = [
    ("round", "what should happen", "measured"),
    ("---", "---", "---"),
    (
        "SIGKILL at 100 random moments over all ten stages of a tiny run",
        "the next run ends with the same files",
        "100 of 100; 79 met a stage under way",
    ),
    (
        "6,000 rankings by thirty people into PostgreSQL, whose server is killed three times; 800 into "
        "SQLite, two of whose eight writers are killed",
        "what was acknowledged is there, once",
        "0 lost",
    ),
    (
        "ten minutes of random input each for the import, manifests, messages to the widget, the judge "
        "and the programs' interpreter",
        "no errors but those that are promised",
        "no finding",
    ),
]


def sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def cell(text: str) -> str:
    """A text within a table of Markdown."""
    for sign in "\\`*_|<[":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def text_of(items) -> str:
    """The table, of the collected tests."""
    attacks = [item for item in items if item.get_closest_marker("attack")]
    parts = []
    for module, tests in groupby(attacks, lambda item: item.module):
        rows = [
            f"| {cell(item.callspec.id if hasattr(item, 'callspec') else sentence(item.function.__name__))} "
            f"| {cell(item.function.__doc__ or sentence(item.function.__name__).capitalize() + '.')} |\n"
            for item in tests
        ]
        title = module.__doc__.split("\n\n")[0].replace("\n", " ").rstrip(".")
        parts.append(f"\n## {title}\n\n| attack | what should happen, and does |\n|---|---|\n{''.join(rows)}")
    return HEAD.format(
        count=len(attacks), rounds="\n".join(f"| {' | '.join(row)} |" for row in ROUNDS)
    ) + "".join(parts)


class Collected:
    """Of pytest: keeps what was collected."""

    def pytest_collection_finish(self, session) -> None:
        self.items = session.items


if __name__ == "__main__":
    collected = Collected()
    pytest.main(["--collect-only", "-qq", "-p", "no:xdist", "-m", "attack", str(ROOT / "tests")], [collected])
    TABLE.write_text(text_of(collected.items), "utf-8")
    print(f"{TABLE}: {TABLE.read_text('utf-8').count(chr(10) + '| ') - 1} lines")
    sys.exit(0)
