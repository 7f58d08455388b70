"""Without policy gradients: models that never draw from the policy that they train.

`rejection` fine-tunes on the best of n samples by the reward model (Touvron et al., 2023); `dpo` trains with
TRL's DPOTrainer on the rankings themselves, without a reward model (Rafailov et al., 2023).
"""

import warnings
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from trl import DPOConfig, DPOTrainer

from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import LORA_RATE, load_model, load_scorer, save_model, with_lora
from rlhf_utils.language.sampling import sample
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.profiles import Profile
from rlhf_utils.training.plan import FROZEN, TRAINED, room_here
from rlhf_utils.training.reward import NO_ANSWER, rewards, scored_ids
from rlhf_utils.training.sft import fine_tune
from rlhf_utils.training.trainer import run_trainer, training_arguments


def train_rejection(
    profile: Profile,
    tokenizer,
    sft: Path,
    reward: Path,
    prompts: list[dict],
    windows: np.ndarray,
    folder: Path,
    resume: Path,
    live: Path | None = None,
) -> None:
    """Fine-tune the SFT model on the best of `best_of` samples to each prompt, by the reward model, and
    write it into `folder` (rejection sampling, Touvron et al., 2023, section 3.2.3).
    """
    if profile.best_of < 1:
        raise CourseError(
            f"best_of, the number of answers to choose from, must be 1 or more, not {profile.best_of}."
        )
    ids = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in prompts]
    asked = [prompt for prompt in ids for _ in range(profile.best_of)]
    with Progress("rejection: sample answers", len(asked), live) as progress, autocast(profile):
        limit, seed = profile.answer_tokens, profile.seed + 5
        drawn = sample(load_model(sft), tokenizer, asked, limit, 1.0, seed, progress=progress)
    said = [(prompt, list(answer.tokens)) for prompt, answer in zip(asked, drawn)]
    scores = rewards(load_scorer(reward), said, tokenizer.pad_token_id, profile)
    finished = np.array([answer.ended and len(answer.tokens) > 1 for answer in drawn])
    scores = np.where(finished, scores, NO_ANSWER).reshape(len(prompts), -1)
    best = scores.argmax(1) + np.arange(len(prompts)) * profile.best_of
    rows = [p | {"completion": drawn[i].text} for p, i in zip(prompts, best)]
    own = replace(profile, sft_epochs=profile.rejection_epochs)
    fine_tune(own, tokenizer, sft, rows, windows, folder, resume, live)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """−log σ(β · (how much likelier the chosen answer has become − how much the rejected one)), the mean.

    All (pairs,): log-probabilities of whole answers under the policy and the reference. It starts at log 2.
    """
    became = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -F.logsigmoid(beta * became).mean()


def preference_pairs(rankings: list[dict], each: int, seed: int = 0) -> list[dict]:
    """Rows `prompt`, `chosen`, `rejected` as messages, TRL's conversational form: of each ranking at most
    `each` of its pairs that are no ties, drawn by chance.
    """
    chance, rows = Random(f"pairs:{seed}"), []
    for row in rankings:
        ranked = sorted(zip(row["ranks"], row["answers"]))
        strict = [(a, b) for (i, a), (j, b) in combinations(ranked, 2) if i < j]
        for better, worse in chance.sample(strict, min(each, len(strict))):
            said = [[{"role": "assistant", "content": text}] for text in (better, worse)]
            rows.append({"prompt": row["messages"], "chosen": said[0], "rejected": said[1]})
    if not rows:
        raise CourseError(
            f"None of {len(rankings)} rankings has one answer better than another: there is nothing for "
            "DPO to learn."
        )
    return rows


class Pairs(DPOTrainer):
    """TRL's DPOTrainer on rows that are token ids already. It would take marks of its tokenizer in a person's
    text for marks, and cut long rows otherwise than the other stages do.
    """

    def _prepare_dataset(self, dataset, *_):
        return dataset


def pair_ids(profile: Profile, tokenizer, pair: dict) -> dict[str, list[int]]:
    """A pair as the reward model reads it: `prompt_ids`, `chosen_ids` and `rejected_ids`."""
    chosen, rejected = (
        scored_ids(profile, tokenizer, pair["prompt"], pair[name][0]["content"])
        for name in ("chosen", "rejected")
    )
    return {"prompt_ids": chosen[0], "chosen_ids": chosen[1], "rejected_ids": rejected[1]}


def train_dpo(
    profile: Profile,
    tokenizer,
    sft: Path,
    pairs: list[dict],
    folder: Path,
    resume: Path,
    live: Path | None = None,
    start: Path | None = None,
) -> None:
    """Train a policy on `preference_pairs` with TRL's DPOTrainer and write it into `folder`.

    It goes out from SFT, or from the policy in `start`. The reference is always SFT, and passed in: without
    one, the trainer would take the policy as it begins, or load it anew from where the model came from.
    """
    torch.manual_seed(profile.seed)
    weights = FROZEN + (FROZEN if profile.lora else TRAINED)
    room = room_here(profile, profile.dpo_batch, 2 * profile.context, weights=weights)
    model, reference = load_model(start or sft), load_model(sft).requires_grad_(False)
    if profile.lora:
        model = with_lora(model, profile.lora)
    arguments = DPOConfig(
        **training_arguments(
            profile,
            resume,
            rows=profile.dpo_batch,
            room=room,
            num_train_epochs=1,
            learning_rate=profile.dpo_rate * (LORA_RATE if profile.lora else 1),
            max_length=profile.context,
            beta=profile.dpo_beta,
        )
    )
    data = Dataset.from_list([pair_ids(profile, tokenizer, pair) for pair in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        dpo = Pairs(model.train(), reference, arguments, train_dataset=data, processing_class=tokenizer)
        rows = run_trainer(dpo, "dpo", live)
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)
