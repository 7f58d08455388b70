"""Two processes train what one trains, on the same batches, for every trainer; and a whole run under
`accelerate launch`.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError
from rlhf_utils.profiles import load_profile

LAUNCH = [
    "-m",
    "accelerate.commands.launch",
    "--cpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]
TRAINERS = ("pretrain", "sft", "reward", "ppo_ptx")


def start(*words, count: int, runs: Path, **environment) -> subprocess.CompletedProcess:
    """Python with these words, in one process or in two that `accelerate launch` starts."""
    command = [sys.executable, *(LAUNCH if count == 2 else []), *map(str, words)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=500,
        env={
            **os.environ,
            "RLHF_RUNS": str(runs),
            "RLHF_PROFILE": "tiny",
            "RLHF_REFERENCE": "0",
            "OMP_NUM_THREADS": "1",
            **environment,
        },
    )


def train_all(folder: Path) -> None:
    """Some 50 optimizer steps of every trainer;
    the leading process keeps every step's figures in `folder`.
    """
    from rlhf_utils.language.tokenizer import prompt_ids
    from rlhf_utils.training import pretraining, reward, sft
    from rlhf_utils.training.ppo_run import train_ppo

    arguments = pretraining.training_arguments
    for module in (pretraining, sft, reward):
        module.training_arguments = lambda *a, **k: arguments(*a, **k) | {"logging_steps": 1}
    store = Store(load_profile("tiny", 0))
    profile = replace(
        store.profile, precision="fp32", pretrain_steps=50, sft_epochs=5, reward_epochs=10, ppo_updates=13
    )
    tokenizer, windows, demonstrations = (
        store.tokenizer(),
        store.windows(),
        store.prompts("demonstrations")[:80],
    )
    rankings = store.rankings()[:40]

    def target(name):
        made = folder / (name if processes.LEADS else f"other-{name}")
        made.mkdir(parents=True)
        return made

    pretraining.pretrain(profile, tokenizer, windows, target("pretrain"), folder / ".pretrain")
    sft.fine_tune(
        profile, tokenizer, store.folder("pretrain"), demonstrations, windows, target("sft"), folder / ".sft"
    )
    reward.train_reward(
        profile,
        tokenizer,
        store.folder("pretrain"),
        rankings,
        demonstrations,
        rankings,
        windows,
        target("reward"),
        folder / ".reward",
    )
    prompts = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
    train_ppo(
        profile,
        tokenizer,
        store.folder("sft"),
        store.folder("reward"),
        prompts,
        windows,
        target("ppo_ptx"),
        folder / ".ppo_ptx",
    )


@pytest.fixture(scope="module")
def curves(tiny, tiny_runs, tmp_path_factory):
    """Figures of each trainer in one process and in two."""
    found = {}
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes{count}")
        result = start(__file__, folder, count=count, runs=tiny_runs)
        assert result.returncode == 0, result.stderr[-3000:]
        found[count] = {name: read_jsonl(folder / name / "metrics.jsonl") for name in TRAINERS}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_processes_have_the_loss_curve_of_one(curves, trainer):
    one, two = (curves[count][trainer] for count in (1, 2))
    keys = (
        ("loss",)
        if trainer != "ppo_ptx"
        else (
            "policy_loss",
            "value_loss",
            "ptx_loss",
            "reward",
            "kl_k1",
            "entropy",
            "clip_fraction",
            "length",
        )
    )
    assert len(one) == len(two) >= (50 if trainer != "ppo_ptx" else 13)
    for key in keys:
        assert [r[key] for r in two] == pytest.approx([r[key] for r in one], abs=1e-4), key


@pytest.mark.slow
def test_a_run_under_accelerate_launch(tiny, tmp_path):
    for stage in ("corpus", "tokenizer", "tokens"):
        shutil.copytree(tiny.folder(stage), tmp_path / "tiny" / stage)
    result = start("-m", "rlhf_utils.course.cli", "run", "--until", "ppo_ptx", count=2, runs=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("ppo_ptx is ready") == 1  # one process speaks for all
    store = Store(load_profile("tiny", 0), reference=False)
    store.root = tmp_path / "tiny"
    for stage in TRAINERS:
        assert json.loads((store.folder(stage) / "manifest.json").read_text())["files"]
    assert not list(store.root.glob(".*partial")) and not list(store.root.glob(".*resume"))


def test_batches_that_processes_cannot_share_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "COUNT", 3)
    assert processes.per_process(6, "reward_batch") == 2
    with pytest.raises(CourseError, match="reward_batch is 8, which 3 processes cannot share evenly"):
        processes.per_process(8, "reward_batch")


if __name__ == "__main__":  # what `curves` starts
    train_all(Path(sys.argv[1]))
