"""Pretraining: GPT-2 learns to predict the next token of the small world's documents.

Left out of GPT-2's recipe: dropout (one or two passes over the data do not overfit) and learned
warm-restarts; the schedule is a linear warm-up and a cosine.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.language.models import new_gpt2, save_model
from rlhf_utils.profiles import Profile
from rlhf_utils.training.samples import Samples
from rlhf_utils.training.trainer import run_trainer, training_arguments

# Over own data at most: up to here a repeated text is worth nearly as much as a new one (Muennighoff et al.,
# 2023)
EPOCHS = 4


class Windows(torch.utils.data.Dataset):
    def __init__(self, windows: np.ndarray):
        self.windows = windows

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        ids = torch.from_numpy(self.windows[i].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def pretrain(
    profile: Profile,
    tokenizer,
    windows: np.ndarray,
    folder: Path,
    resume: Path,
    live: Path | None = None,
    beginnings: Sequence[str] = (),
) -> None:
    """Train a base model and write it, with `metrics.jsonl`, into `folder`.

    Goes on from the newest checkpoint in `resume` after a kill; shows its progress in `live`, and in a
    notebook how the model goes on after `beginnings` of texts.
    """
    steps = profile.pretrain_steps
    if profile.data:
        steps = min(steps, max(EPOCHS * len(windows) // profile.pretrain_batch, 1))
    torch.manual_seed(profile.seed)
    model = new_gpt2(profile, tokenizer)
    if profile.compiled:
        model.compile()
    arguments = TrainingArguments(
        **training_arguments(
            profile,
            resume,
            rows=profile.pretrain_batch,
            max_steps=steps,
            learning_rate=profile.pretrain_rate,
            warmup_steps=max(steps // 20, 1),
            save_strategy="steps",
            save_steps=max(steps // 80, 1) * 10,  # with a line of the log, so that none is lost between
            save_total_limit=2,
            # An epoch's last batch has another shape, and would be compiled, too; of a short text it is all
            # that there is.
            dataloader_drop_last=profile.compiled and len(windows) >= profile.pretrain_batch,
        )
    )
    trainer = Trainer(model, arguments, train_dataset=Windows(windows))
    prompts = {text: [tokenizer.eos_token_id, *tokenizer(text).input_ids] for text in beginnings}
    heads = ("a text begins", "at the start it went on", "now it goes on")
    samples = Samples(profile, tokenizer, prompts, model, heads=heads, tokens=16) if prompts else None
    rows = run_trainer(trainer, "pretrain", live, resume, samples)
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)
