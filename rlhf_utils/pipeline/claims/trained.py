"""Models that only a claim needs: the course's own stages with something changed, trained and thrown away."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.language.models import load_gpt2, load_scorer
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims.claim import Bench
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.training.reward import train_reward
from rlhf_utils.training.sft import fine_tune


def _trained(train: Callable[[Path, Path], None], load: Callable) -> tuple:
    """The model that `train` writes into its first folder, and what it logged."""
    with TemporaryDirectory() as folder:
        made = Path(folder, "model")
        made.mkdir()
        train(made, Path(folder, "resume"))
        return load(made), read_jsonl(made / "metrics.jsonl")


def sft_model(bench: Bench, rows: list[dict], **changes):
    """The base model fine-tuned on demonstrations, with other settings of the profile if any are given."""
    profile, store = replace(bench.profile, **changes), bench.store

    def train(folder: Path, resume: Path) -> None:
        fine_tune(profile, bench.tokenizer, store.folder("pretrain"), rows, store.windows(), folder, resume)

    return _trained(train, load_gpt2)[0]


def reward_model(bench: Bench, rankings: list[dict], **changes):
    """A reward model trained on these rankings."""
    profile, store = replace(bench.profile, **changes), bench.store

    def train(folder: Path, resume: Path) -> None:
        train_reward(
            profile,
            bench.tokenizer,
            store.folder("pretrain"),
            rankings,
            store.prompts("demonstrations"),
            store.rankings("heldout_prompts"),
            store.windows(),
            folder,
            resume,
        )

    return _trained(train, load_scorer)[0]


def policy(bench: Bench, name: str, **changes) -> tuple:
    """A policy trained by PPO from SFT with the run's reward model, and the rows that it logged, gold among
    them.
    """
    profile, store = replace(bench.profile, **changes), bench.store
    rows = store.prompts("ppo")
    prompts = [prompt_ids(bench.tokenizer, p["messages"], profile.prompt_tokens) for p in rows]

    def gold(chosen: list[int], answers: list[str]) -> float:
        return sum(bench.judge.total(rows[i], a.strip()) for i, a in zip(chosen, answers)) / len(chosen)

    def train(folder: Path, resume: Path) -> None:
        sft, reward = store.folder("sft"), store.folder("reward")
        train_ppo(
            profile, bench.tokenizer, sft, reward, prompts, None, folder, resume, store.root, name, gold
        )

    return _trained(train, load_gpt2)
