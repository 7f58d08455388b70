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


def diagnose(root: Path, runs: Path) -> tuple[list[str], bool]:
    """Lines to show, and whether the course can run here."""
    rows: list[tuple[bool | None, str]] = []
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    rows.append(
        (good, f"Python {platform.python_version()}" + ("" if good else ": install 3.11, 3.12 or 3.13"))
    )
    for package in PACKAGES:
        try:
            rows.append((True, f"{package} {version(package)}"))
        except PackageNotFoundError:
            rows.append((False, f"{package} is missing: pip install -r requirements.txt -e ."))
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    rows.append(
        (
            True if cores >= 2 else None,
            f"{cores} processor cores" + ("" if cores >= 2 else ": it works, at half the speed"),
        )
    )
    memory = psutil.virtual_memory().available / 2**30
    rows.append(
        (
            memory >= 3,
            f"{memory:.1f} GB of free memory"
            + ("" if memory >= 3 else ": close other programs until 3 GB are free"),
        )
    )
    place = next(p for p in (runs, *runs.parents) if p.exists())
    disk = shutil.disk_usage(place).free / 2**30
    rows.append(
        (
            disk >= 1,
            f"{disk:.1f} GB of free disk for {runs}" + ("" if disk >= 1 else ": free 1 GB, or set RLHF_RUNS"),
        )
    )
    writable = os.access(place, os.W_OK)
    rows.append(
        (
            writable,
            f"{runs} can be written"
            if writable
            else f"{runs} cannot be written: set RLHF_RUNS to another folder",
        )
    )
    rows.append(((root / "data" / "world").is_dir(), f"the small world in {root / 'data' / 'world'}"))
    try:
        import torch

        from rlhf_utils.language.device import has_bf16

        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none, and none is needed"
        rows.append((True, f"GPU: {gpu}"))
        rows.append(
            (
                True,
                "bfloat16: "
                + ("yes" if has_bf16() else "no, so training uses float32 and takes about twice as long"),
            )
        )
    except ImportError:
        pass
    marks = {True: "✓", False: "✗", None: "!"}
    return [f"{marks[state]} {text}" for state, text in rows], all(state is not False for state, _ in rows)
