"""Killed at any point and started again,
pretraining and PPO end with the very same weights as undisturbed.
"""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import Store
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.profiles import load_profile
from rlhf_utils.training import ppo_run
from rlhf_utils.training.pretraining import pretrain

# Of optimizers: 16 of one, or 4 updates of 2 epochs of 2 minibatches, of policy and value model.
STEPS = {"pretrain": 16, "ppo_ptx": 32}
POINTS = [
    (what, step)
    for what, steps in STEPS.items()
    for step in sorted(random.Random(1).sample(range(1, steps + 1), 9))
]


def train(what: str, tiny: Store, root: Path, die_at: int = 0, die=None) -> None:
    """Train into `root`/`what`, and call `die` before the optimizer's step number `die_at`."""
    profile = replace(tiny.profile, precision="fp32", pretrain_steps=STEPS["pretrain"], ppo_updates=4)
    folder, count = root / what, 0
    folder.mkdir(parents=True, exist_ok=True)

    def before(*_):
        nonlocal count
        count += 1
        if count == die_at:
            die()

    hook = register_optimizer_step_pre_hook(before)
    try:
        if what == "pretrain":
            pretrain(profile, tiny.tokenizer(), tiny.windows(), folder, root / ".resume")
        else:
            ppo_run.SAVE_EVERY = 1
            prompts = [
                prompt_ids(tiny.tokenizer(), p["messages"], profile.prompt_tokens)
                for p in tiny.prompts("ppo")
            ]
            ppo_run.train_ppo(
                profile,
                tiny.tokenizer(),
                tiny.folder("sft"),
                tiny.folder("reward"),
                prompts,
                tiny.windows(),
                folder,
                root / ".resume",
                name=what,
            )
    finally:
        hook.remove()


def same(one: Path, other: Path) -> bool:
    weights, others = load_gpt2(one).state_dict(), load_gpt2(other).state_dict()
    return all(torch.equal(weights[k], others[k]) for k in weights)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Both trained undisturbed."""
    root = tmp_path_factory.mktemp("whole")
    for what in ("pretrain", "ppo_ptx"):
        train(what, tiny, root / what)
    return root


def test_same_seed_same_run_bit_for_bit(tiny, whole, tmp_path):
    for what in ("pretrain", "ppo_ptx"):
        train(what, tiny, tmp_path / what)
        assert same(tmp_path / what / what, whole / what / what)


@pytest.mark.parametrize("what, step", POINTS)
def test_interrupted_and_resumed(tiny, whole, tmp_path, what, step, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    begun = []  # where the bar began, which says how much time is left
    monkeypatch.setattr(Progress, "__enter__", lambda bar: begun.append(bar.first) or bar)
    with pytest.raises(KeyboardInterrupt):
        train(what, tiny, tmp_path, step, stop)
    assert not (tmp_path / what / "model.safetensors").exists()
    kept = [int(f.parent.name.split("-")[1]) for f in (tmp_path / ".resume").rglob("complete")]
    train(what, tiny, tmp_path)
    assert begun == [0, max(kept, default=0)]
    assert same(tmp_path / what, whole / what / what)
    if what == "pretrain":  # the log, too, to the last figure
        logs = [(root / what / "metrics.jsonl").read_text() for root in (tmp_path, whole / what)]
        assert logs[0] == logs[1]


@pytest.mark.parametrize("what, step", [("pretrain", 11), ("ppo_ptx", 27)])
def test_killed_and_resumed(tiny, tiny_runs, whole, tmp_path, what, step):
    command = [sys.executable, __file__, what, str(tmp_path), str(step)]
    result = subprocess.run(
        command,
        capture_output=True,
        timeout=300,
        env={**os.environ, "RLHF_RUNS": str(tiny_runs), "RLHF_PROFILE": "tiny"},
    )
    assert result.returncode == -signal.SIGKILL, result.stderr[-2000:]
    assert list((tmp_path / ".resume").rglob("complete"))
    train(what, tiny, tmp_path)
    assert same(tmp_path / what, whole / what / what)


if __name__ == "__main__":  # what `test_killed_and_resumed` starts
    train(
        sys.argv[1],
        Store(load_profile("tiny", 0)),
        Path(sys.argv[2]),
        int(sys.argv[3]),
        lambda: os.kill(os.getpid(), signal.SIGKILL),
    )
