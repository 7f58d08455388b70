"""What it brings to keep the memory that a step has freed (`language.device.keep_memory`).

    .venv/bin/python tests/benchmarks/memory.py

Processes take turns: in one kind the course runs as it is, the other finds no glibc whose thresholds could be
set, and leaves them as they are. Printed are the fastest rates of each, in the precision of the machine.
"""

import json
import subprocess
import sys
import time
from unittest.mock import patch

ROUNDS = 3
KINDS = {"kept": "kept", "given": "given back"}


def rates() -> dict[str, float]:
    """Of one process: what each job does a second, the better of two tries."""
    import speed
    from transformers import Trainer, TrainingArguments

    profile = speed.load_profile()
    store = speed.ensure(("tokens", "tokenizer", "sft", "reward"), profile)
    tokenizer, windows, update = (
        store.tokenizer(),
        speed.Windows(store.windows()[:2000]),
        speed.one_update(profile, store, profile.precision),
    )

    def pretraining() -> float:
        arguments = speed.training_arguments(
            profile, speed.runs_folder() / "speed", rows=profile.pretrain_batch, max_steps=150
        )
        trainer = Trainer(
            speed.new_gpt2(profile, tokenizer), TrainingArguments(**arguments), train_dataset=windows
        )
        return speed.trainer_rate(150, trainer)

    def ppo_ptx() -> float:
        start = time.perf_counter()
        update()
        return profile.episodes / (time.perf_counter() - start)

    jobs = {"steps of pretraining": speed.quiet(pretraining), "episodes of PPO-ptx": ppo_ptx}
    return speed.fastest(jobs, 2)


def main() -> None:
    found = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, rows in found.items():
            out = subprocess.run([sys.executable, __file__, kind], capture_output=True, text=True)
            if out.returncode:
                raise SystemExit(out.stderr[-2000:])
            rows.append(json.loads(out.stdout.splitlines()[-1]))
            print(f"{KINDS[kind]:10} " + ", ".join(f"{v:.1f} {k}" for k, v in rows[-1].items()), flush=True)
    for job in found["kept"][0]:
        kept, given = (max(row[job] for row in rows) for rows in found.values())
        print(f"{job} a second: {kept:.1f} kept, {given:.1f} given back, {kept / given:.2f} times as many")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "kept":
        print(json.dumps(rates()))
    else:
        import torch  # noqa: F401  loads its own libraries first

        with patch("ctypes.CDLL", side_effect=OSError):
            import rlhf_utils.language.device  # noqa: F401
        print(json.dumps(rates()))
