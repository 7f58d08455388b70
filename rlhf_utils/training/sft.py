"""Supervised fine-tuning on demonstrations, with TRL's SFTTrainer.

The loss counts the tokens of the answer and the end-of-text token after it; a prompt's are only read. Some
windows of pretraining text are mixed in, as InstructGPT does for the model that PPO starts from (appendix
C.3: 2 epochs, 10 % pretraining data): without them a small model forgets facts, and how to copy.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer
from trl import SFTConfig, SFTTrainer

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.language.models import LORA_RATE, load_model, save_model, with_lora
from rlhf_utils.language.tokenizer import answer_ids, prompt_ids
from rlhf_utils.profiles import Profile
from rlhf_utils.training.plan import FROZEN, TRAINED, room_here
from rlhf_utils.training.samples import Samples
from rlhf_utils.training.sharding import put_together, share_out
from rlhf_utils.training.trainer import WholeBatches, run_trainer, training_arguments

FEW_LOGITS = 2**25  # of a batch, a number for each token and each word; 128 MB in fp32


def demonstrations_dataset(
    profile: Profile, tokenizer, rows: list[dict], windows: np.ndarray | None = None
) -> Dataset:
    """Columns `input_ids` and `completion_mask` (1 for answers and ends) of demonstrations and `windows`."""
    ids, masks = [], []
    for row in rows:
        answer = answer_ids(tokenizer, row["completion"], profile.answer_tokens)
        prompt = prompt_ids(tokenizer, row["messages"], profile.context - len(answer))
        ids.append(prompt + answer)
        masks.append([0] * len(prompt) + [1] * len(answer))
    for window in () if windows is None else windows:
        ids.append(window.tolist())
        masks.append([1] * len(window))
    return Dataset.from_dict({"input_ids": ids, "completion_mask": masks})


class GroupedSFTTrainer(WholeBatches, SFTTrainer):
    """TRL's SFTTrainer, whose batches are the same with any number of processes.

    TRL takes the loss piece by piece, so that the logits of a batch never stand in memory together, and
    measures entropy and accuracy of each step. Where logits are few, that takes time and saves nothing: then
    the loss is transformers' own, which is the same but for rounding.
    """

    def compute_loss(self, model, inputs, *more, **options):
        longest = self.args.per_device_train_batch_size * self.args.max_length
        if longest * self.model.config.vocab_size <= FEW_LOGITS:
            return Trainer.compute_loss(self, model, inputs, *more, **options)
        return super().compute_loss(model, inputs, *more, **options)


def fine_tune(
    profile: Profile,
    tokenizer,
    base: Path,
    rows: list[dict],
    windows: np.ndarray,
    folder: Path,
    resume: Path,
    live: Path | None = None,
    asked: Sequence[dict] = (),
) -> None:
    """Train on demonstrations (`messages`, `completion`) and write the SFT model into `folder`.

    Its trainer's own files go into `resume`; its progress is shown in `live`, and in a notebook what the
    model answers to the prompts `asked`.
    """
    torch.manual_seed(profile.seed)
    # Adapters are small: with them, each process keeps the whole model.
    weights = FROZEN if profile.lora else TRAINED
    own = processes.per_process(profile.sft_batch, "The batch")
    room = room_here(profile, own, profile.context, weights=weights, alone=bool(profile.lora))
    model = load_model(base, room.place)
    if profile.lora:
        model = with_lora(model, profile.lora)
    arguments = SFTConfig(
        **training_arguments(
            profile,
            resume,
            rows=profile.sft_batch,
            room=room,
            num_train_epochs=profile.sft_epochs,
            learning_rate=profile.sft_rate * (LORA_RATE if profile.lora else 1),
            max_length=profile.context,
            completion_only_loss=True,  # by default TRL heeds the mask only beside a column `prompt`
            train_sampling_strategy="group_by_length",  # half of a random batch would be padding
        )
    )
    count = min(round(profile.sft_mix * len(rows)), len(windows))
    mixed = windows[np.random.default_rng(profile.seed).choice(len(windows), count, replace=False)]
    data = demonstrations_dataset(profile, tokenizer, rows, mixed)
    prompts = {
        row["messages"][-1]["content"]: prompt_ids(tokenizer, row["messages"], profile.prompt_tokens)
        for row in asked
    }
    heads = ("prompt", "the base model said", "it says now")
    shown = prompts and not room.shared_out
    answers = Samples(profile, tokenizer, prompts, model, heads=heads) if shown else None
    if room.shared_out:
        share_out(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        trainer = GroupedSFTTrainer(model.train(), arguments, train_dataset=data, processing_class=tokenizer)
        rows = run_trainer(trainer, "sft", live, answers=answers)
    model = put_together(model, load_model(base, room.place)) if room.shared_out else model
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)
