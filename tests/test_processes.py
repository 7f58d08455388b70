"""Two processes train what one trains, on the same batches, for every trainer, also where each keeps only its
part of the weights; and a whole run under `torchrun`.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError, share_out_always
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.plan import SHARED_OUT, Room

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]  # torchrun
TRAINERS = ("pretrain", "sft", "reward", "ppo_ptx")


def start(*words, count: int, runs: Path, **environment) -> subprocess.CompletedProcess:
    """Python with these words, in one process or in two that `torchrun` starts."""
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


def counted(put_together, folder: Path):
    """Writes down which share of a model's weights this process held, before they are put together."""

    def put(shared, fresh):
        held = sum(weight.to_local().numel() for weight in shared.parameters())
        if processes.LEADS:
            share = held / sum(weight.numel() for weight in shared.parameters())
            (folder / "held.json").write_text(json.dumps(share))
        return put_together(shared, fresh)

    return put


def train_all(folder: Path) -> None:
    """Some 50 optimizer steps of every trainer; the leading process keeps every step's figures in `folder`.
    Where weights are shared out, of those trainers that do so.
    """
    from rlhf_utils.language.tokenizer import prompt_ids
    from rlhf_utils.training import pretraining, reward, sft
    from rlhf_utils.training.ppo_run import train_ppo

    arguments = pretraining.training_arguments
    for module in (pretraining, sft, reward):
        module.training_arguments = lambda *a, **k: arguments(*a, **k) | {"logging_steps": 1}
    if share_out_always():  # also where all ways to save memory come together
        sft.room_here = lambda *a, **k: Room(2, True, True)
        sft.FEW_LOGITS = 0  # TRL's own loss, as of large vocabularies
        reward.room_here = lambda _, rows, *a, **k: Room(rows, True, True)
    for module in (sft, reward):
        module.put_together = counted(module.put_together, folder / module.__name__.split(".")[-1])
    store = Store(load_profile("tiny", 0))
    # Whole batches: an epoch's last one, where it is none, is filled up from the beginning by two processes.
    steps = {"pretrain_steps": 50, "sft_epochs": 5, "sft_mix": 0.1, "reward_epochs": 10, "ppo_updates": 13}
    profile = replace(store.profile, precision="fp32", **steps)
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

    if not share_out_always():
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
    if share_out_always():
        return
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
    """The folder of each trainer's figures and weights: in one process, in two, and in two that share weights
    out.
    """
    found = {}
    for count, share in ((1, "0"), (2, "0"), (2, "1")):
        folder = tmp_path_factory.mktemp(f"processes{count}")
        result = start(__file__, folder, count=count, runs=tiny_runs, RLHF_SHARE_OUT=share)
        assert result.returncode == 0, result.stderr[-3000:]
        # Whether there really were as many: else all would be compared with itself.
        assert (folder / "other-sft").is_dir() == (count == 2)
        found["shared" if share == "1" else count] = folder
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_processes_have_the_loss_curve_of_one(curves, trainer):
    one, two = (read_jsonl(curves[count] / trainer / "metrics.jsonl") for count in (1, 2))
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
@pytest.mark.parametrize("trainer", SHARED_OUT)
def test_two_processes_that_share_weights_out_have_the_loss_curve_of_one(curves, trainer):
    """FSDP; and what they write is a model like any other."""
    one, shared = (curves[how] / trainer for how in (1, "shared"))
    losses = [[row["loss"] for row in read_jsonl(f / "metrics.jsonl")] for f in (one, shared)]
    assert len(losses[0]) == len(losses[1]) >= 20
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    weights, found = (load_file(folder / "model.safetensors") for folder in (one, shared))
    assert weights.keys() == found.keys()
    assert max(float((weights[name] - found[name]).abs().max()) for name in weights) < 1e-2
    settings, others = (json.loads((folder / "config.json").read_text()) for folder in (one, shared))
    for name in ("reward_mean", "reward_std"):  # of a reward model
        assert settings.pop(name, 0) == pytest.approx(others.pop(name, 0), abs=1e-3)
    assert settings == others
    held = json.loads((shared / "held.json").read_text())
    assert 0.49 < held < 0.52  # of the weights, in each of two processes


@pytest.mark.slow
def test_a_run_under_torchrun(tiny, tmp_path):
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
