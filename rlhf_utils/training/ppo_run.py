"""A run of PPO: its updates, checkpoints to resume from, and the picture of it while it trains."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rlhf_utils import plots
from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.artifacts.live import LivePicture
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.language.device import device
from rlhf_utils.language.models import save_model
from rlhf_utils.language.tokenizer import question_in
from rlhf_utils.profiles import MODELS, Profile
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.ppo_log import Diverged
from rlhf_utils.training.samples import Samples, greedy_texts

MAX_KL = 50.0  # nats an answer: far beyond anything useful, so the run stops
SAVE_EVERY = 20  # updates between checkpoints, or a quarter of a short run


def train_ppo(
    profile: Profile,
    tokenizer,
    sft: Path,
    reward: Path,
    prompts: list[list[int]],
    windows: np.ndarray | None,
    folder: Path,
    resume: Path,
    live: Path | None = None,
    name: str = "ppo",
    gold: Callable[[list[int], list[str]], float] | None = None,
    method: Callable[..., PPO] = PPO,
) -> None:
    """Train a policy with PPO (with PPO-ptx if there are `windows`) and write it into `folder`.

    Goes on from the newest checkpoint in `resume`; shows its progress, under its `name`, in `live`. `gold`,
    where the truth is known, says how good answers to some of the prompts (their numbers) are: it is logged
    and drawn, and never a reward. `method` is PPO or one of `training.beyond`.
    """
    size = max(profile.episodes // profile.minibatches, 1)
    processes.per_process(size, "The number of episodes a minibatch")
    processes.per_process(profile.ptx_windows, "ptx_windows")
    torch.manual_seed(profile.seed)
    ppo = method(profile, tokenizer, sft, reward, windows)
    first, rows = restore(ppo, resume)
    title = f"{MODELS[name].written if name in MODELS else name} while it trains"
    every = min(SAVE_EVERY, max(profile.ppo_updates // 4, 1))
    answers_now = samples_of(ppo, tokenizer, prompts[:: max(len(prompts) // 3, 1)][:3])
    picture = LivePicture(lambda rows: plots.ppo_curves({name: rows}, title, plots.LEARNS), answers_now)
    with Progress(name, profile.ppo_updates, live, done=first) as progress, picture:
        for update in range(first, profile.ppo_updates):
            draw = np.random.default_rng([profile.seed, update])
            count = profile.episodes // ppo.group
            drawn = draw.choice(len(prompts), count, replace=len(prompts) < count)
            chosen = np.repeat(drawn, ppo.group).tolist()
            rate = profile.ppo_rate * (1 - 0.9 * update / profile.ppo_updates)
            try:
                logged, answers = ppo.update([prompts[i] for i in chosen], rate)
                if not logged["kl_k1"] <= MAX_KL:  # k3 can be thrown far by a single unlikely token
                    raise Diverged(
                        f"the KL is {logged['kl_k1']:.0f} nats an answer, at a learning rate of {rate:.1e}"
                    )
            except Diverged as error:
                # What it would have gone on from is what ran away.
                shutil.rmtree(resume / f"update-{update}", ignore_errors=True)
                raise explained(error, name, profile, update, rows, resume) from None
            if gold is not None:
                texts = tokenizer.batch_decode(answers.tokens, skip_special_tokens=True)
                logged["gold"] = gold(chosen, texts)
            rows.append({"update": update, **logged})
            progress.step(note=f"reward {logged['reward']:+.2f}, KL {logged['kl_k1']:.1f}")
            picture.update(rows)
            if (update + 1) % every == 0 and update + 1 < profile.ppo_updates and processes.LEADS:
                save(ppo, resume, update + 1, rows)
    save_model(ppo.policy, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)


def explained(error: Diverged, name: str, profile: Profile, update: int, rows: list[dict], resume: Path):
    """The error with where it happened and what to try."""
    before = f"KL was {rows[-1]['kl_k1']:.1f} nats an answer before. " if rows else ""
    kept = max(map(_number, resume.glob("update-*")), default=0)
    then = f"goes on from update {kept}, the last one kept" if kept else "starts anew"
    return Diverged(
        f"{name} stopped at update {update + 1} of {profile.ppo_updates}: {error}. {before}Try half the "
        f"ppo_rate or twice the kl_coefficient; training then {then}."
    )


# -- checkpoints -----------------------------------------------------------------------------------------
def save(ppo: PPO, folder: Path, update: int, rows: list[dict]) -> None:
    """A private checkpoint; `complete` is written last, so a half-written one is never used."""
    partial = folder / f"update-{update}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = {
        "policy": ppo.policy.state_dict(),
        "head": ppo.head.state_dict(),
        "value": ppo.value.state_dict() if ppo.value else {},
        "optimizer": ppo.optimizer.state_dict(),
        "value_optimizer": ppo.value_optimizer.state_dict(),
        "generator": ppo.generator.get_state(),
        "shuffle": ppo.shuffle.bit_generator.state,
        "remembered": {name: getattr(ppo, name) for name in ppo.remembers},
        "update": update,
        "rows": rows,
    }
    torch.save(state, partial / "state.pt")
    (partial / "complete").touch()
    # Two are kept, since only what a policy samples shows that it was good.
    for old in sorted(folder.glob("update-*"), key=_number)[:-2]:
        shutil.rmtree(old, ignore_errors=True)


def restore(ppo: PPO, folder: Path) -> tuple[int, list[dict]]:
    """Go on from the newest complete checkpoint; returns the update and the rows logged so far."""
    done = [f for f in folder.glob("update-*") if (f / "complete").exists()]
    if not done:
        return 0, []
    state = torch.load(max(done, key=_number) / "state.pt", weights_only=True, map_location=device())
    ppo.policy.load_state_dict(state["policy"])
    ppo.head.load_state_dict(state["head"])
    if ppo.value:
        ppo.value.load_state_dict(state["value"])
    ppo.optimizer.load_state_dict(state["optimizer"])
    ppo.value_optimizer.load_state_dict(state["value_optimizer"])
    ppo.generator.set_state(state["generator"].cpu())
    ppo.shuffle.bit_generator.state = state["shuffle"]
    for name, value in state.get("remembered", {}).items():
        setattr(ppo, name, value)
    return state["update"], state["rows"]


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


# -- the picture -----------------------------------------------------------------------------------------
def samples_of(ppo: PPO, tokenizer, prompts: list[list[int]]) -> Samples:
    """Greedy answers of the SFT model and of the policy as it is now to a few prompts."""
    asked = {question_in(tokenizer, p): p for p in prompts}

    def before() -> list[str]:
        with ppo.reference() as model:
            return greedy_texts(ppo.profile, tokenizer, model, list(asked.values()))

    return Samples(
        ppo.profile, tokenizer, asked, ppo.policy, before, ("prompt", "SFT, greedy", "the policy now")
    )
