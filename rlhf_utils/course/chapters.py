"""Execute the chapters in order, with progress, and leave executed notebooks and a report."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbclient.util import run_sync

from rlhf_utils.artifacts.progress import duration
from rlhf_utils.course.notebook import draw_image
from rlhf_utils.course.report import summary_table, write_report
from rlhf_utils.environment import ROOT, CourseError, rankings_url, runs_folder, shared_runs
from rlhf_utils.pipeline.from_gguf import smollm2_folder
from rlhf_utils.pipeline.stages import open_store
from rlhf_utils.profiles import Profile

# What a chapter does and how many seconds it took when it was last timed (two cores, bfloat16), for the
# estimate of what is left: stages, and all the other cells.
WORK = {
    "00": {"cells": 8},
    "01": {"corpus": 4, "tokenizer": 1, "tokens": 4, "cells": 10},
    "02": {"pretrain": 190, "cells": 27},
    "03": {"sft": 38, "cells": 46},
    "04": {"rank": 22, "cells": 16},
    "05": {"reward": 43, "cells": 28},
    "06": {"cells": 13},
    "07": {"ppo": 54, "ppo_ptx": 74, "cells": 21},
    "08": {"evaluate": 76, "cells": 10},
    "09": {"cells": 12},
    "10": {"cells": 37},
    "11": {"cells": 13},
    "12": {"cells": 5},
}


def chapters(only: list[str] | None = None) -> list[Path]:
    found = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
    if only:
        unknown = [n for n in only if n not in {p.name[:2] for p in found}]
        if unknown:
            raise CourseError(
                f"There is no chapter {', '.join(unknown)[:60]}. The chapters are: "
                f"{', '.join(p.name[:2] for p in found)}."
            )
        found = [p for p in found if p.name[:2] in only]
    return found


class Line:
    """The state of the course on one line, rewritten every second; plain lines where there is no terminal."""

    def __init__(self, store, paths: list[Path]):
        self.store, self.started, self.text, self.last = store, time.monotonic(), "", 0.0
        self.todo, self.work = list(paths), dict(WORK)
        if smollm2_folder().is_dir():
            self.work["11"] = {"cells": 720}  # with a real language model
        self.total = self.left()
        self.stop = threading.Event()
        self.chapter, self.cell = "", ""

    def left(self) -> float:
        """The shares of stages that are not built yet, and of the cells of chapters that are not done."""
        return sum(
            w
            for p in self.todo
            for s, w in self.work.get(p.name[:2], {}).items()
            if not (self.store.root / s).is_dir()
        )

    def watch(self) -> None:
        while not self.stop.wait(1.0):
            self.show()

    def show(self) -> None:
        try:
            state = json.loads((self.store.root / "progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            state = {"line": "", "share": 0, "stage": ""}
        done = self.total - self.left()
        done += (
            next((w for work in self.work.values() for s, w in work.items() if s == state["stage"]), 0)
            * state["share"]
        )
        spent = time.monotonic() - self.started
        left = (
            f"course: about {duration(spent * (self.total - done) / done)} left"
            if done > 10 and spent > 15
            else ""
        )
        text = "  ".join(t for t in (self.chapter, self.cell, state["line"], left) if t)
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.last > 20:
            self.last = time.monotonic()
            print(text, flush=True)

    def say(self, text: str) -> None:
        if sys.stderr.isatty():
            print(
                "\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r",
                end="",
                file=sys.stderr,
                flush=True,
            )
        print(text, flush=True)


def draws_images() -> bool:
    """Whether a browser is here that draws static images of figures, and kaleido, which asks it to."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        return False
    try:
        draw_image()
    except Exception:  # each of the two fails in ways of its own, and no chapter needs them
        return False
    return True


@contextmanager
def kernel_environment(profile: Profile):
    """What kernels inherit: this profile, and no reference models, since the course trains for real."""
    names = {
        "RLHF_PROFILE": profile.name,
        "RLHF_SEED": str(profile.seed),
        "RLHF_REFERENCE": "0",
        "RLHF_DATA": profile.data,
        "RLHF_BASE": profile.base,
        "RLHF_LORA": str(profile.lora),
        "RLHF_FROM": "sft" if profile.base and not profile.sft_epochs else "",
        # A relative path would mean another folder in a kernel.
        "RLHF_RUNS": str(runs_folder()),
        "RLHF_SHARED": str(shared_runs() or ""),
        "RLHF_RANKINGS": rankings_url(),
    }
    before = dict(os.environ)
    os.environ.pop("PLOTLY_RENDERER", None)
    if draws_images():
        names["PLOTLY_RENDERER"] = "plotly_mimetype+svg"  # with a picture for viewers that run no scripts
    os.environ.update(names)
    try:
        # For what a kernel leaves there that is ended, such as its browser's profile.
        with TemporaryDirectory(prefix="rlhf-course-", ignore_cleanup_errors=True) as temporary:
            os.environ["TMPDIR"] = temporary
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def kernel_of(path: Path) -> NotebookClient:
    """A notebook with a fresh kernel of its own, which is loading what every chapter needs."""
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=None,
        shutdown_kernel="immediate",
        store_widget_state=False,  # without its kernel a widget can do nothing
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        # No name of it is bound: a chapter that forgets an import still fails.
        extra_arguments=["--IPKernelApp.exec_lines=__import__('rlhf_utils.course.notebook')"],
    )
    client.create_kernel_manager()
    # A kernel's own messages would break the line of progress; errors in cells come with the notebook.
    client.start_new_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return client


@contextmanager
def kernels(paths: list[Path]):
    """Iterates over the notebooks, each with a kernel. The next one's is started first: to load torch and the
    rest takes it some seconds, in which the chapter before it runs.
    """
    ahead: list[NotebookClient] = []

    def one_ahead():
        for path in paths:
            ahead.append(kernel_of(path))
            if len(ahead) > 1:
                yield ahead.pop(0)
        yield ahead.pop()

    try:
        yield one_ahead()
    finally:
        for client in ahead:
            run_sync(client.km.shutdown_kernel)(now=True)


def run_chapter(client: NotebookClient, path: Path, target: Path, line: Line) -> None:
    """Execute one notebook in its own folder, and save it with its outputs."""
    notebook = client.nb
    code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code"]

    def executed(cell, cell_index, **_):
        line.cell = f"cell {sum(i <= cell_index for i in code)}/{len(code)}"

    client.on_cell_executed = executed
    try:
        client.execute()
    except Exception as error:
        # nbclient answers Ctrl-C by ending the kernel, after which one thing or another fails.
        if getattr(client, "_async_cleanup_kernel_future", None) is not None:
            raise KeyboardInterrupt from None
        nbformat.write(notebook, target)
        last = (
            str(error).strip().splitlines()[-1]
            if isinstance(error, CellExecutionError)
            else "its kernel died"
        )
        if not isinstance(error, (CellExecutionError, RuntimeError)):  # it may have died while it waited
            raise
        raise CourseError(
            f"{path.name} stopped with an error: {last}\nThe notebook up to there is {target}."
        ) from None
    nbformat.write(notebook, target)


def run_course(profile: Profile, only: list[str] | None = None) -> None:
    """All chapters in order, then `report.html` and a table; finished stages are not trained again."""
    paths, store = chapters(only), open_store(profile)
    store.reference = None
    out = store.root / "chapters"
    out.mkdir(parents=True, exist_ok=True)
    line = Line(store, paths)
    watcher = threading.Thread(target=line.watch, daemon=True)
    watcher.start()
    try:
        with kernel_environment(profile), kernels(paths) as clients:
            for number, (path, client) in enumerate(zip(paths, clients), 1):
                started = time.monotonic()
                line.chapter, line.cell = f"[{number}/{len(paths)}] {path.stem}", ""
                run_chapter(client, path, out / path.name, line)
                line.todo.remove(path)
                line.say(f"[{number}/{len(paths)}] {path.stem}  {duration(time.monotonic() - started)}")
    finally:
        line.stop.set()
        watcher.join(timeout=2)
    if only:
        return
    metrics = store.metrics("evaluate")
    print(summary_table(metrics))
    print(f"{len(paths)} chapters in {duration(time.monotonic() - line.started)}. Executed notebooks: {out}")
    print(f"Report: {write_report(store)}")
    chat = f"rlhf chat{store.options}".removesuffix(" --profile laptop")
    print(f"Talk to your model: .venv/bin/{chat}        (or, in an activated environment: {chat})")
