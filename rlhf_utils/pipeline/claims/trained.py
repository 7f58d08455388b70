"""Models that only a claim needs: the course's own stages with something changed, in a folder that goes with
the bench; base models, which take longest, are kept beside the run's evidence.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.lineage import SETTINGS
from rlhf_utils.language.tokenizer import prompt_ids, to_windows
from rlhf_utils.pipeline.claims.claim import Bench
from rlhf_utils.pipeline.rank import rank_answers
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.training.pretraining import pretrain
from rlhf_utils.training.reward import train_reward
from rlhf_utils.training.sft import fine_tune
from rlhf_utils.world.documents import MIX, held_out_texts, write_documents


def _made(bench: Bench, make: Callable[[Path, Path], None]) -> Path:
    """A folder with what `make` wrote into its first argument; its second is for checkpoints."""
    folder = Path(mkdtemp(dir=bench.scratch))
    made = folder / "made"
    made.mkdir()
    make(made, folder / "resume")
    shutil.rmtree(folder / "resume", ignore_errors=True)
    return made


def corpus(
    bench: Bench,
    mix: dict[str, float] = MIX,
    keep: Callable[[str], bool] | None = None,
    without: Collection[str] = (),
) -> np.ndarray:
    """Windows of documents, as many characters as the run's corpus has, (windows, context): of another mix of
    sources, only of documents that are to be kept, or without some kinds of pages. Without changes they are
    the run's own.
    """
    held_out = held_out_texts(
        [p for name in ("validation", "test", "probes", "withheld") for p in bench.store.prompts(name)]
    )
    profile, texts, written = bench.profile, [], 0
    endless = write_documents(
        bench.world, 50 * profile.corpus_characters, 2 * profile.seed, held_out, mix, without
    )
    for row in endless:
        if keep is None or keep(row["text"]):
            texts.append(row["text"])
            written += len(row["text"])
        if written >= profile.corpus_characters:
            break
    return to_windows(bench.tokenizer, texts, profile.context)


def base_model(bench: Bench, name: str, windows: np.ndarray, **changes) -> Path:
    """A base model of other text or of another size, pretrained with the run's tokenizer.

    It is kept under its `name`; an interrupted training goes on.
    """
    profile = replace(bench.profile, **changes)
    settings = {k: v for k, v in profile.settings().items() if k in SETTINGS["pretrain"]}
    told = [settings, profile.seed, bench.store.manifest("tokenizer")["id"]]
    identity = sha256(json.dumps(told).encode() + windows.tobytes()).hexdigest()[:16]
    folder = bench.store.root / "evidence" / f"{name}-{identity}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.partial")
        resume = folder.with_name(f".{folder.name}.resume")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pretrain(profile, bench.tokenizer, windows, partial, resume, bench.store.root)
        os.replace(partial, folder)
        shutil.rmtree(resume, ignore_errors=True)
    return folder


def sft_model(
    bench: Bench, rows: list[dict], base: Path | None = None, windows: np.ndarray | None = None, **changes
) -> Path:
    """The run's base model, or another, fine-tuned on demonstrations, and on some of the run's `windows` of
    documents or of others.
    """
    profile, store = replace(bench.profile, **changes), bench.store
    windows = store.windows() if windows is None else windows
    base = base or store.folder("pretrain")

    def make(folder: Path, resume: Path) -> None:
        fine_tune(profile, bench.tokenizer, base, rows, windows, folder, resume)

    return _made(bench, make)


def rankings(
    bench: Bench, sft: Path, prompts: list[dict], noise: float | None = None, **changes
) -> dict[str, list[dict]]:
    """What the simulated labelers say of an SFT model's answers, of `prompts` and of validation prompts; of a
    `noise` of their own, or of one that makes them agree as often as ever.
    """
    profile, store = replace(bench.profile, **changes), bench.store

    def make(folder: Path, resume: Path) -> None:
        validation = store.prompts("validation")
        rank_answers(profile, bench.world, bench.tokenizer, sft, prompts, validation, folder, noise=noise)

    folder = _made(bench, make)
    return {name: read_jsonl(folder / f"{name}.jsonl") for name in ("rankings", "heldout_prompts")}


def reward_model(
    bench: Bench,
    ranked: list[dict],
    base: Path | None = None,
    held: list[dict] | None = None,
    demonstrations: list[dict] | None = None,
    windows: np.ndarray | None = None,
    **changes,
) -> Path:
    """A reward model trained on these rankings, on the run's base model or another. Its unit comes from
    `demonstrations` and the rankings `held` out; these and the `windows` that it goes on reading are the
    run's own if none are given.
    """
    profile, store = replace(bench.profile, **changes), bench.store
    base = base or store.folder("pretrain")
    held = held or store.rankings("heldout_prompts")
    demonstrations = demonstrations or store.prompts("demonstrations")
    windows = store.windows() if windows is None else windows

    def make(folder: Path, resume: Path) -> None:
        train_reward(profile, bench.tokenizer, base, ranked, demonstrations, held, windows, folder, resume)

    return _made(bench, make)


def policy(
    bench: Bench,
    name: str,
    sft: Path | None = None,
    reward: Path | None = None,
    windows: np.ndarray | None = None,
    method: Callable[..., PPO] = PPO,
    **changes,
) -> Path:
    """A policy trained by PPO, from the run's SFT and reward model or from others, or by PPO-ptx if there are
    `windows` of documents; gold is among the rows that it logged. `method` is `train_ppo`'s.
    """
    profile, store = replace(bench.profile, **changes), bench.store
    sft, reward = sft or store.folder("sft"), reward or store.folder("reward")
    rows = store.prompts("ppo")
    prompts = [prompt_ids(bench.tokenizer, p["messages"], profile.prompt_tokens) for p in rows]

    def gold(chosen: list[int], answers: list[str]) -> float:
        return sum(bench.judge.total(rows[i], a.strip()) for i, a in zip(chosen, answers)) / len(chosen)

    def make(folder: Path, resume: Path) -> None:
        parts = sft, reward, prompts, windows, folder, resume
        train_ppo(profile, bench.tokenizer, *parts, store.root, name, gold, method)

    return _made(bench, make)
