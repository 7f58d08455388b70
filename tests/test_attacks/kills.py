"""SIGKILL at random moments over all stages of a tiny run, each followed by a run whose weights must be those
of a run that nobody disturbed.

    python tests/test_attacks/kills.py 100        # about ten minutes on one core

Processes are forked from one that has imported everything, so that a trial takes seconds. Prints a line a
trial and, at the end, in how many the weights or other files differ; exit status 1 if any do.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "RLHF_REFERENCE": "0"}

import torch  # noqa: E402

from rlhf_utils.artifacts.files import file_hash  # noqa: E402
from rlhf_utils.artifacts.lineage import STAGES  # noqa: E402
from rlhf_utils.evaluation import measures  # noqa: E402, F401  (imported here, so that no trial has to)
from rlhf_utils.pipeline import rank  # noqa: E402, F401
from rlhf_utils.pipeline.stages import ensure  # noqa: E402
from rlhf_utils.profiles import load_profile  # noqa: E402
from rlhf_utils.training import ppo_run, pretraining, reward, sft  # noqa: E402, F401

torch.set_num_threads(1)


def start(runs: Path, stage: str) -> int:
    """A process that builds a stage; its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.environ["RLHF_RUNS"] = str(runs)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        ensure(stage, load_profile("tiny", 0), say=lambda text: None)
        status = 0
    finally:
        os._exit(status)


def whole(runs: Path, stage: str) -> None:
    _, status = os.waitpid(start(runs, stage), 0)
    if status:
        raise SystemExit(f"{stage} could not be built in {runs}")


def hashes(folder: Path) -> dict[str, str]:
    """Of all files that hold weights, texts or rankings; what took how long is no part of it."""
    timed = ("manifest.json", "metrics.json", "metrics.jsonl")
    return {f.name: file_hash(f) for f in sorted(folder.iterdir()) if f.is_file() and f.name not in timed}


def trial(quiet: Path, stage: str, moment: float, runs: Path) -> tuple[str, bool]:
    """(what the kill met, whether the stage came out the same)."""
    shutil.copytree(quiet, runs)
    shutil.rmtree(runs / "tiny" / stage)
    process = start(runs, stage)
    time.sleep(moment)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    done = (runs / "tiny" / stage).is_dir()
    left = (runs / "tiny" / f".{stage}.partial").is_dir()
    met = "a finished stage" if done else "a stage under way" if left else "nothing begun"
    whole(runs, stage)
    same = hashes(runs / "tiny" / stage) == hashes(quiet / "tiny" / stage)
    shutil.rmtree(runs)
    return met, same


def main(count: int, seed: int = 0) -> int:
    place, rng = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(seed)
    quiet, seconds, wrong = place / "quiet", {}, []
    for stage in STAGES:
        started = time.monotonic()
        whole(quiet, stage)
        seconds[stage] = time.monotonic() - started
    for number in range(1, count + 1):
        stage = STAGES[number % len(STAGES)]
        moment = rng.uniform(0, 1.05 * seconds[stage])
        met, same = trial(quiet, stage, moment, place / "killed")
        print(
            f"{number}: {stage} after {moment:.2f} of {seconds[stage]:.2f} s, {met}: "
            f"{'the same' if same else 'OTHER FILES'}",
            flush=True,
        )
        wrong += [] if same else [stage]
    shutil.rmtree(place)
    print(f"{count} kills, {len(wrong)} with other files{': ' if wrong else ''}{', '.join(wrong)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
