"""Is this machine ready for the course? One line a thing, with what to do where it is not."""

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "peft",
    "accelerate",
    "jupyterlab",
    "ipywidgets",
    "plotly",
    "pandas",
)


Row = tuple[bool | None, str]  # fine, not fine, or fine with a drawback; and what to say


def diagnose(root: Path, runs: Path) -> tuple[list[str], bool]:
    """Lines to show, and whether the course can run here."""
    rows = [*packages(), *machine(root, runs), *torch_lines()]
    marks = {True: "✓", False: "✗", None: "!"}
    return [f"{marks[state]} {text}" for state, text in rows], all(state is not False for state, _ in rows)


def row(good: bool, text: str, otherwise: str, needed: bool = True) -> Row:
    """A line that says what there is and, where that is not `good`, what to do."""
    return (True, text) if good else (False if needed else None, f"{text}: {otherwise}")


def packages() -> list[Row]:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    rows = [row(good, f"Python {platform.python_version()}", "install 3.11, 3.12 or 3.13")]
    for package in PACKAGES:
        try:
            rows.append((True, f"{package} {version(package)}"))
        except PackageNotFoundError:
            rows.append((False, f"{package} is missing: pip install -r requirements.txt -e ."))
    return rows


def machine(root: Path, runs: Path) -> list[Row]:
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    memory = psutil.virtual_memory().available / 2**30
    place = next(p for p in (runs, *runs.parents) if p.exists())
    disk = shutil.disk_usage(place).free / 2**30
    writable = os.access(place, os.W_OK)
    no = f"{runs} cannot be written: set RLHF_RUNS to another folder"
    world = root / "data" / "world"
    return [
        row(cores >= 2, f"{cores} processor cores", "it works, at half the speed", needed=False),
        row(memory >= 3, f"{memory:.1f} GB of free memory", "close other programs until 3 GB are free"),
        row(disk >= 1, f"{disk:.1f} GB of free disk for {runs}", "free 1 GB, or set RLHF_RUNS"),
        (writable, f"{runs} can be written" if writable else no),
        (world.is_dir(), f"the small world in {world}"),
    ]


def torch_lines() -> list[Row]:
    try:
        import torch

        from rlhf_utils.language.device import has_bf16
    except ImportError:
        return []
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none, and none is needed"
    bf16 = "yes" if has_bf16() else "no, so training uses float32 and takes about twice as long"
    return [(True, f"GPU: {gpu}"), (True, f"bfloat16: {bf16}")]
