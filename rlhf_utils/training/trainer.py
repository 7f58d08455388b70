"""What all trainers of the course share."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from datasets.utils.logging import disable_progress_bar
from transformers import PrinterCallback, Trainer, TrainerCallback

from rlhf_utils import plots
from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.live import LivePicture
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.language.device import device, use_bf16
from rlhf_utils.look import NAMES, Table
from rlhf_utils.profiles import Profile
from rlhf_utils.training.plan import Room, room_here

disable_progress_bar()  # of the maps and filters that trainers run over their rows


def training_arguments(
    profile: Profile, folder: Path, rows: int = 0, room: Room | None = None, **more
) -> dict:
    """What every Trainer of the course has in common.

    `rows` sequences a step, of the whole context each, are split into microbatches that fit the free memory:
    as `room` says if it is known.
    """
    if processes.COUNT > 1 and device().type == "cpu":
        more["ddp_backend"] = "gloo"
    if rows:
        rows = processes.per_process(rows, "The batch")
        room = room or room_here(profile, rows, profile.context)
        more |= {
            "per_device_train_batch_size": room.at_once,
            "gradient_accumulation_steps": rows // room.at_once,
            "activation_checkpointing": room.recompute,
            "activation_checkpointing_kwargs": {"use_reentrant": False},
        }
    return (
        dict(
            output_dir=str(folder),
            seed=profile.seed,
            data_seed=profile.seed,
            bf16=use_bf16(profile),
            use_cpu=device().type == "cpu",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            activation_checkpointing=False,
            logging_steps=10,
            logging_first_step=True,
            save_strategy="no",
            lr_scheduler_type="cosine",
            warmup_steps=20,
            weight_decay=0.01,
            max_grad_norm=1.0,
            adam_beta2=0.98,
        )
        | more
    )


class WholeBatches:
    """For a Trainer whose batches hold sequences of like length: grouped by the batch of all processes
    together.
    """

    def _get_train_sampler(self, *arguments):
        sampler = super()._get_train_sampler(*arguments)
        sampler.batch_size *= processes.COUNT
        return sampler

    def _defer_fsdp_gradient_reduction(self):
        """Where weights are shared out, gradients are summed after each microbatch: to wait for the last one
        would take as much memory as sharing saves.
        """
        return nullcontext()


def logged(step: int, logs: dict) -> dict[str, float]:
    """A row of `metrics.jsonl`."""
    return {"step": step} | {k: v for k, v in logs.items() if isinstance(v, (int, float)) and k != "step"}


class Watch(TrainerCallback):
    """Shows progress, keeps `metrics.jsonl` rows, and marks checkpoints that are complete."""

    def __init__(self, progress: Progress, picture: LivePicture):
        self.progress, self.picture, self.rows = progress, picture, []

    def on_step_end(self, args, state, control, **_):
        self.progress.step(state.global_step - self.progress.done)
        self.picture.update(self.rows)

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in (logs or {}):
            self.rows.append(logged(state.global_step, logs))
            self.progress.note = f"loss {logs['loss']:.3f}"
            self.picture.update(self.rows)

    def on_save(self, args, state, control, **_):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "complete").touch()


def run_trainer(
    trainer: Trainer,
    name: str,
    live: Path | None,
    resume: Path | None = None,
    answers: Callable[[], Table] | None = None,
) -> list[dict]:
    """Train with progress, shown in `live`; from the last complete checkpoint in `resume` if there is one.

    A notebook shows the loss as it falls, and what the model says meanwhile, by `answers`.
    """
    trainer.remove_callback(PrinterCallback)
    checkpoint = None
    if resume and resume.is_dir():
        for folder in sorted(resume.glob("checkpoint-*"), key=lambda f: -int(f.name.split("-")[1])):
            if (folder / "complete").exists():
                checkpoint = folder
                break
    # The number of steps is known only inside the trainer, so the progress learns it at the start.
    args = trainer.args
    steps = math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps)
    total = args.max_steps if args.max_steps > 0 else int(steps * args.num_train_epochs)
    title = f"{NAMES.get(name, name)} while it trains"
    picture = LivePicture(lambda rows: plots.loss_curve(rows, title), answers)
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    with Progress(name, total, live, done) as progress, picture:
        watch = Watch(progress, picture)
        trainer.add_callback(watch)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if checkpoint:
        # A checkpoint has forgotten in which order the trainer wrote a row.
        order = ("loss", "grad_norm", "learning_rate", "epoch")
        history = [row for row in trainer.state.log_history if "loss" in row]
        return [logged(row["step"], {k: row[k] for k in order if k in row} | row) for row in history]
    return watch.rows
