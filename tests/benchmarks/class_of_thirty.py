"""Thirty students, two at a time, over one shared base model: chapters 03 to 05 at `tiny`, each in
a folder of their own.

    python tests/benchmarks/class_of_thirty.py                 # a quarter of an hour on two cores

What `rlhf run --until pretrain` built is shared (`RLHF_SHARED`); each student executes chapters 03 and 04,
ranks ten prompts as a reader who likes short answers would, and executes chapter 05. At the end nothing
that is shared has changed, and nobody's folder since they left it. Who may read what, among users of one
machine, is tested by `tests/test_hub.py`.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RANK = """
from rlhf_utils.artifacts.store import Store
from rlhf_utils.profiles import load_profile
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.pipeline.rank import items_to_rank
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.ranking.store import RankingStore
from rlhf_utils.pipeline.taste import SCRIPTED, ranks_by


profile = load_profile()
store = ensure(("corpus", "tokenizer", "sft"), profile)
items = items_to_rank(profile, store, store.prompts("ppo")[:10])
session = RankingSession(items, "{student}", RankingStore())
while not session.finished:
    ranks = ranks_by(SCRIPTED["short"], list(session.answers.values()))
    session.rank([[x for x, r in zip(session.answers, ranks) if r == n] for n in sorted(set(ranks))])
    session.submit()
assert set(r["ranker"] for r in RankingStore().latest()) == {{"{student}"}}
"""


def digest(folder: Path) -> str:
    """Of every file's name and content."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(str(path.relative_to(folder)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", type=int, default=30)
    parser.add_argument("--together", type=int, default=2)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain = {k: v for k, v in os.environ.items() if not k.startswith("RLHF_")}
        plain |= {
            "RLHF_PROFILE": "tiny",
            "RLHF_REFERENCE": "0",
            "OMP_NUM_THREADS": str(max(os.cpu_count() // wanted.together, 1)),
        }

        def command(*words: str, **environment: str) -> None:
            result = subprocess.run(
                [sys.executable, *words], env=plain | environment, capture_output=True, text=True
            )
            if result.returncode:
                raise SystemExit(
                    f"{environment}: {' '.join(words)[:80]}\n{result.stdout[-2000:]}{result.stderr[-2000:]}"
                )

        def attend(number: int) -> tuple[float, str]:
            own, start = folder / f"student-{number}", time.perf_counter()
            environment = {"RLHF_RUNS": str(own), "RLHF_SHARED": str(folder / "class")}
            command("-m", "rlhf_utils.course.cli", "course", "--chapters", "03", "04", **environment)
            command("-c", RANK.format(student=own.name), **environment)
            command("-m", "rlhf_utils.course.cli", "course", "--chapters", "05", **environment)
            built = {p.name for p in (own / "tiny").iterdir() if p.is_dir()}
            if not {"sft", "rank", "reward"} <= built or "pretrain" in built:
                raise SystemExit(f"{own.name} built {sorted(built)}")
            print(f"{own.name}: chapters 03 to 05 in {time.perf_counter() - start:.0f} s", flush=True)
            return time.perf_counter() - start, digest(own)

        command("-m", "rlhf_utils.course.cli", "run", "--until", "pretrain", RLHF_RUNS=str(folder / "class"))
        shared, start = digest(folder / "class"), time.perf_counter()
        with ThreadPoolExecutor(wanted.together) as pool:
            left = list(pool.map(attend, range(1, wanted.students + 1)))
        seconds = [s for s, _ in left]
        print(
            f"{len(left)} students finished in {(time.perf_counter() - start) / 60:.1f} minutes: "
            f"{statistics.median(seconds):.0f} s each, {max(seconds):.0f} at most"
        )
        changed = [
            f"student-{n}"
            for n, (_, before) in enumerate(left, 1)
            if digest(folder / f"student-{n}") != before
        ]
        if digest(folder / "class") != shared or changed:
            raise SystemExit(
                f"Changed after they left: {changed}; the shared folder: {digest(folder / 'class') != shared}"
            )
        print("The shared folder and everyone's own are as they were left.")


if __name__ == "__main__":
    main()
