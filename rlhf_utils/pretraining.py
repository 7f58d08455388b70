"""Pretraining: GPT-2 learns to predict the next token of the small world's documents.

Left out of GPT-2's recipe: dropout (one or two passes over the data do not overfit) and learned
warm-restarts; the schedule is a linear warm-up and a cosine.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from datasets.utils.logging import disable_progress_bar
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rlhf_utils import processes
from rlhf_utils.artifacts import Store, write_jsonl
from rlhf_utils.models import autocast, device, new_gpt2, pad_batch, save_model, token_cross_entropy, use_bf16
from rlhf_utils.plan import microbatch
from rlhf_utils.profiles import Profile
from rlhf_utils.progress import Progress
from rlhf_utils.world.facts import World

EPOCHS = 4  # over own data at most: up to here a repeated text is worth nearly as much as a new one (Muennighoff et al., 2023)

disable_progress_bar()  # of the maps and filters that trainers run over their rows


def to_windows(tokenizer, texts: list[str], context: int) -> np.ndarray:
    """Documents, each closed by the end-of-text token, packed into windows of (windows, context)."""
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    flat = np.concatenate([np.array([*i, tokenizer.eos_token_id], dtype=np.int32) for i in ids])
    count = max(len(flat) // context, 1)
    return np.resize(flat[: count * context], (count, context))


def training_arguments(profile: Profile, folder: Path, rows: int = 0, **more) -> dict:
    """What every Trainer of the course has in common.

    On a GPU, `rows` sequences of the whole context a step are split into microbatches that fit its free memory.
    """
    if processes.COUNT > 1 and device().type == "cpu":
        more["ddp_backend"] = "gloo"
    if rows:
        rows = processes.per_process(rows, "The batch")
        at_once = microbatch(profile, rows, profile.context) if device().type == "cuda" else rows
        more |= {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": rows // at_once}
    return dict(
        output_dir=str(folder), seed=profile.seed, data_seed=profile.seed, bf16=use_bf16(profile), use_cpu=device().type == "cpu",
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False, activation_checkpointing=False,
        logging_steps=10, logging_first_step=True, save_strategy="no", lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.01, max_grad_norm=1.0,
        adam_beta2=0.98,
    ) | more  # fmt: skip


class WholeBatches:
    """For a Trainer whose batches hold sequences of like length: grouped by the batch of all processes together."""

    def _get_train_sampler(self, *arguments):
        sampler = super()._get_train_sampler(*arguments)
        sampler.batch_size *= processes.COUNT
        return sampler


class Watch(TrainerCallback):
    """Shows progress, keeps `metrics.jsonl` rows, and marks checkpoints that are complete."""

    def __init__(self, progress: Progress):
        self.progress, self.rows = progress, []

    def on_step_end(self, args, state, control, **_):
        self.progress.step(state.global_step - self.progress.done)

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in (logs or {}):
            row = {"step": state.global_step} | {k: v for k, v in logs.items() if isinstance(v, (int, float))}
            self.rows.append(row)
            self.progress.note = f"loss {logs['loss']:.3f}"

    def on_save(self, args, state, control, **_):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()


def run_trainer(trainer: Trainer, name: str, store: Store, resume: Path | None = None) -> list[dict]:
    """Train with progress; from the last complete checkpoint in `resume` if there is one."""
    trainer.remove_callback(PrinterCallback)
    checkpoint = None
    if resume and resume.is_dir():
        for folder in sorted(resume.glob("checkpoint-*"), key=lambda f: -int(f.name.split("-")[1])):
            if (folder / "complete").exists():
                checkpoint = folder
                break
    # The number of steps is known only inside the trainer, so the progress learns it at the start.
    args = trainer.args
    batches = len(trainer.get_train_dataloader())
    total = args.max_steps if args.max_steps > 0 else int(batches * args.num_train_epochs)
    with Progress(name, total, store.root) as progress:
        watch = Watch(progress)
        trainer.add_callback(watch)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if checkpoint:
        history = [r for r in trainer.state.log_history if "loss" in r]
        return [{k: v for k, v in r.items() if isinstance(v, (int, float))} for r in history]
    return watch.rows


class Windows(torch.utils.data.Dataset):
    def __init__(self, windows: np.ndarray):
        self.windows = windows

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        ids = torch.from_numpy(self.windows[i].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def pretrain(profile: Profile, tokenizer, windows: np.ndarray, store: Store, folder: Path) -> None:
    """Train a base model and write it, with `metrics.jsonl`, into `folder`. Resumes after a kill."""
    steps = profile.pretrain_steps
    if profile.data:
        steps = min(steps, max(EPOCHS * len(windows) // profile.pretrain_batch, 1))
    torch.manual_seed(profile.seed)
    model = new_gpt2(profile, tokenizer)
    if profile.compiled:
        model.compile()
    resume = store.resume_folder("pretrain")
    arguments = TrainingArguments(**training_arguments(
        profile, resume, rows=profile.pretrain_batch, max_steps=steps,
        learning_rate=profile.pretrain_rate, warmup_steps=max(steps // 20, 1),
        save_strategy="steps", save_steps=max(steps // 8, 1), save_total_limit=2,
        dataloader_drop_last=profile.compiled,  # an epoch's last batch has another shape, and would be compiled, too
    ))  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Windows(windows))
    rows = run_trainer(trainer, "pretrain", store, resume)
    save_model(model, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)


# -- what a language model knows -----------------------------------------------------------------------
@torch.no_grad()
def token_losses(model, windows: np.ndarray, profile: Profile, batch: int = 32) -> np.ndarray:
    """Cross-entropy in nats of every token but each window's first, (windows, context - 1)."""
    model.eval()
    rows = []
    for start in range(0, len(windows), batch):
        ids = torch.from_numpy(windows[start : start + batch].astype(np.int64)).to(device())
        with autocast(profile):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        rows.append(token_cross_entropy(logits, ids[:, 1:]).cpu())
    return torch.cat(rows).numpy()


def bytes_per_token(tokenizer, windows: np.ndarray) -> float:
    text = "".join(tokenizer.batch_decode(windows.tolist(), skip_special_tokens=True))
    return len(text.encode()) / windows.size


@torch.no_grad()
def cloze_accuracy(model, tokenizer, world: World, seed: int = 0, count: int = 400) -> dict[str, float]:
    """How often the true value of a fact is the most likely of four, by table and in all ("all")."""
    rng = Random(f"cloze:{seed}")
    facts = rng.sample(world.facts, min(count, len(world.facts)))
    results: dict[str, list[bool]] = {}
    for start in range(0, len(facts), 32):
        part, texts = facts[start : start + 32], []
        for entity, relation in part:
            wording = world.relations[relation]["statements"][0]
            others = [v for v in world.values_of(relation) if v not in entity.values[relation]]
            values = [entity.values[relation][0], *rng.sample(others, min(3, len(others)))]
            texts += [world.state(entity, relation, v, wording) for v in values] + [""] * (4 - len(values))
        encoded = [[tokenizer.eos_token_id, *tokenizer(t)["input_ids"]] for t in texts]
        ids, mask = pad_batch(encoded, tokenizer.pad_token_id)
        losses = token_cross_entropy(model(input_ids=ids, attention_mask=mask).logits[:, :-1], ids[:, 1:]) * mask[:, 1:]
        totals = losses.sum(1).view(len(part), 4)
        empty = torch.tensor([not t for t in texts], device=totals.device).view(len(part), 4)
        for (entity, _), row in zip(part, totals.masked_fill(empty, torch.inf)):
            results.setdefault(entity.table, []).append(int(row.argmin()) == 0)
    everything = [x for rows in results.values() for x in rows]
    return {k: float(np.mean(v)) for k, v in results.items()} | {"all": float(np.mean(everything))}


def ngram_bits(train: np.ndarray, test: np.ndarray, vocabulary: int, order: int = 5) -> float:
    """Bits per token of an interpolated n-gram model with Witten-Bell smoothing (Chen & Goodman 1998).

    train, test: (windows, context) token ids. Each order leans on the next lower one by the number of
    different tokens that followed the history; the lowest is uniform.
    """
    texts = [train.reshape(-1).astype(np.int64), test.reshape(-1).astype(np.int64)]
    ends = [np.arange(order - 1, len(text)) for text in texts]
    histories_of = [np.zeros(len(end), dtype=np.int64) for end in ends]  # the empty history, before each token
    probability = np.full(len(ends[1]), 1 / vocabulary)
    for n in range(1, order + 1):
        if n > 1:  # one token longer, and numbered anew: five tokens of a large vocabulary are too many for one number
            size = 1 + max(int(h.max(initial=0)) for h in histories_of)
            longer = np.concatenate([text[end - n + 1] * size + h for text, end, h in zip(texts, ends, histories_of)])
            histories_of = np.split(np.unique(longer, return_inverse=True)[1], [len(ends[0])])
        seen_code, code = (h * vocabulary + text[end] for text, end, h in zip(texts, ends, histories_of))
        grams_seen, counts = np.unique(seen_code, return_counts=True)
        histories, first = np.unique(grams_seen // vocabulary, return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff(np.append(first, len(grams_seen)))
        where = np.searchsorted(grams_seen, code).clip(max=len(grams_seen) - 1)
        count = np.where(grams_seen[where] == code, counts[where], 0)
        at = np.searchsorted(histories, code // vocabulary).clip(max=len(histories) - 1)
        seen = histories[at] == code // vocabulary
        mixed = (count + kinds[at] * probability) / (totals[at] + kinds[at])
        probability = np.where(seen, mixed, probability)
    return float(-np.log2(probability).mean())
