"""One line of progress for whatever takes longer than a moment.

In a terminal it is a tqdm bar; in a notebook it is one display that is updated in place, so that a
saved notebook keeps a single readable line. The same line is kept in `progress.json` of the run, where
`rlhf course` reads it while a notebook's kernel is busy.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from rlhf_utils.environment import process


def duration(seconds: float) -> str:
    seconds = int(round(seconds))
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min {seconds % 60:02} s"


class Progress:
    """`with Progress("pretrain", 2100) as progress: progress.step(note="loss 1.9")`."""

    def __init__(self, name: str, total: int, folder: Path | None = None, done: int = 0):
        self.name, self.total, self.done, self.note = name, max(total, 1), done, ""
        self.first = done
        self.quiet = process()[0] > 0  # one bar is enough, however many processes train
        self.file = folder / "progress.json" if folder and folder.is_dir() and not self.quiet else None
        self.started = self.shown = time.monotonic()
        self.display = self.bar = None

    def __enter__(self):
        if in_notebook():
            from IPython.display import display

            self.display = display({"text/plain": self.line()}, raw=True, display_id=True)
        else:
            self.bar = tqdm(
                total=self.total,
                initial=self.done,
                desc=self.name,
                leave=False,
                disable=self.quiet or not sys.stderr.isatty(),
            )
        return self

    def step(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(count)
        if time.monotonic() - self.shown > 1:
            self.shown = time.monotonic()
            self._show()

    def through(self, rows: Iterable, count: int = 1) -> Iterator:
        """The rows, with `count` steps after each."""
        for row in rows:
            yield row
            self.step(count)

    def line(self) -> str:
        spent = time.monotonic() - self.started
        share = self.done / self.total
        gained = (self.done - self.first) / self.total
        left = f", {duration(spent / gained * (1 - share))} left" if gained > 0 and share < 1 else ""
        return f"{self.name}: {share:4.0%} of {self.total:,}, {duration(spent)}{left}  {self.note}".rstrip()

    def _show(self) -> None:
        if self.display is not None:
            self.display.update({"text/plain": self.line()}, raw=True)
        if self.file:
            temporary = self.file.with_suffix(f".{os.getpid()}.new")
            told = {"stage": self.name, "share": self.done / self.total, "line": self.line()}
            with suppress(OSError):  # Windows replaces no file that somebody reads; the next second will do
                temporary.write_text(json.dumps(told))
                os.replace(temporary, self.file)

    def __exit__(self, kind, *_):
        if kind is None:
            self.done = self.total
        self._show()
        if self.bar is not None:
            self.bar.close()
            if kind is None and not self.quiet:
                print(self.line(), flush=True)
        if self.file:
            for file in (self.file, *self.file.parent.glob(f"{self.file.stem}.*.new")):
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def in_notebook() -> bool:
    """Whether a kernel runs this, so that there are displays that can be updated."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")
