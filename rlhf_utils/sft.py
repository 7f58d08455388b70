"""Supervised fine-tuning on demonstrations, with TRL's SFTTrainer.

The loss counts the tokens of the answer and the end-of-text token after it, not those of the prompt.
"""

from pathlib import Path

import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from trl import SFTConfig, SFTTrainer

from rlhf_utils.artifacts import Store, write_jsonl
from rlhf_utils.models import load_gpt2, save_model
from rlhf_utils.pretraining import run_trainer, training_arguments
from rlhf_utils.profiles import Profile
from rlhf_utils.tokenizer import prompt_ids

disable_progress_bar()


def demonstrations_dataset(profile: Profile, tokenizer, rows: list[dict]) -> Dataset:
    """Columns `prompt` and `completion` as text, each row short enough for the context."""
    prompts, completions = [], []
    for row in rows:
        answer = tokenizer(row["completion"])["input_ids"][: profile.answer_tokens]
        ids = prompt_ids(tokenizer, row["messages"], profile.context - len(answer) - 2)
        prompts.append(tokenizer.decode(ids).strip())
        completions.append(" " + tokenizer.decode(answer).strip())
    return Dataset.from_dict({"prompt": prompts, "completion": completions})


def fine_tune(profile: Profile, tokenizer, base: Path, rows: list[dict], store: Store, folder: Path) -> None:
    """Train on demonstrations (`messages`, `completion`) and write the SFT model into `folder`."""
    torch.manual_seed(profile.seed)
    model = load_gpt2(base).train()
    arguments = SFTConfig(**training_arguments(
        profile, store.resume_folder("sft"), num_train_epochs=profile.sft_epochs,
        per_device_train_batch_size=profile.sft_batch, learning_rate=profile.sft_rate, max_length=profile.context,
    ))  # fmt: skip
    data = demonstrations_dataset(profile, tokenizer, rows)
    trainer = SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
    rows = run_trainer(trainer, "sft", store)
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)
