"""Fixtures: a world, a judge, and one tiny run that many tests read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["RLHF_REFERENCE"] = "0"


@pytest.fixture(scope="session")
def world():
    from rlhf_utils.world.facts import load_world

    return load_world()


@pytest.fixture(scope="session")
def judge(world):
    from rlhf_utils.world.judge import Judge

    return Judge(world)


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """The folder of a whole tiny run, built once; never write into it."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def tiny(tiny_runs):
    """The Store of a whole tiny run."""
    from rlhf_utils.profiles import load_profile
    from rlhf_utils.stages import ensure

    before = os.environ.get("RLHF_RUNS")
    os.environ["RLHF_RUNS"] = str(tiny_runs)
    try:
        return ensure("evaluate", load_profile("tiny", 0), say=lambda text: None)
    finally:
        os.environ.pop("RLHF_RUNS") if before is None else os.environ.update(RLHF_RUNS=before)


@pytest.fixture
def rlhf(tmp_path):
    """Run the command line in another process: `rlhf("run", "--until", "sft", runs=folder)`."""

    def call(*words, runs=tmp_path, check=None, **environment):
        result = subprocess.run(
            [sys.executable, "-m", "rlhf_utils.cli", *map(str, words)], capture_output=True, text=True, timeout=300, cwd=tmp_path,
            env={**os.environ, "RLHF_RUNS": str(runs), "RLHF_PROFILE": "tiny", **environment},
        )  # fmt: skip
        if check is not None:
            assert result.returncode == check, result.stderr[-2000:]
        return result

    return call
