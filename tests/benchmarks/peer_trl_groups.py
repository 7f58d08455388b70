"""RLOO and GRPO of `training/beyond.py` beside TRL's RLOOTrainer and GRPOTrainer: drawn answers a second.

    python tests/benchmarks/peer_trl_groups.py [--updates 4]      # on the models of a run; about five minutes

One process after the other takes the same SFT model, reward model and prompts, in groups of four, as many
answers an update, in as many minibatches and passes, in float32 and, where the processor has it, bfloat16.
The first update of each warms up and does not count. Prints a line each, with the ratio of both.
"""

import argparse
import time
from dataclasses import replace
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf_utils.language.device import device, has_bf16
from rlhf_utils.language.models import load_gpt2, load_scorer
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.beyond import GRPO, RLOO
from rlhf_utils.training.reward import rewards, scored_ids


class Clock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self):
        self.times = [time.monotonic()]

    def on_step_end(self, args, state, control, **_):
        self.times.append(time.monotonic())


def ours(learner, profile, store, updates: int) -> float:
    """Answers a second."""
    tokenizer, group = store.tokenizer(), profile.group
    own = learner(profile, tokenizer, store.folder("sft"), store.folder("reward"))
    rows = store.prompts("ppo")
    ids = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in rows]
    count, started = profile.episodes // group, 0.0
    for update in range(updates + 1):
        if update == 1:
            started = time.monotonic()
        chosen = ids[update * count : (update + 1) * count]
        own.update([p for p in chosen for _ in range(group)], profile.ppo_rate)
    return updates * profile.episodes / (time.monotonic() - started)


def theirs(kind, config, profile, store, updates: int, bf16: bool) -> float:
    """Answers a second of a trainer of TRL."""
    tokenizer, reward = store.tokenizer(), load_scorer(store.folder("reward"))
    minibatches, passes = learner_of(kind).minibatches, learner_of(kind).passes
    clock, steps = Clock(), minibatches * passes

    def score(prompts, completions, **_) -> list[float]:
        said = [(p, c[0]["content"]) for p, c in zip(prompts, completions)]
        pairs = [scored_ids(profile, tokenizer, p, text) for p, text in said]
        return rewards(reward, pairs, tokenizer.pad_token_id, profile).tolist()

    with TemporaryDirectory() as folder:
        arguments = config(
            output_dir=folder,
            use_cpu=device().type == "cpu",
            bf16=bf16,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            learning_rate=profile.ppo_rate,
            num_generations=profile.group,
            per_device_train_batch_size=profile.episodes // minibatches,
            steps_per_generation=minibatches,
            num_iterations=passes,
            max_completion_length=profile.answer_tokens,
            beta=profile.kl_coefficient,
            max_steps=steps * (updates + 1),
        )
        trainer = kind(
            load_gpt2(store.folder("sft")),
            reward_funcs=score,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": p["messages"]} for p in store.prompts("ppo")]),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return updates * profile.episodes / (clock.times[-1] - clock.times[steps])


def learner_of(kind):
    return RLOO if kind is RLOOTrainer else GRPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--updates", type=int, default=4)
    arguments = parser.parse_args()
    profile = load_profile(arguments.profile)
    store = ensure(("corpus", "tokenizer", "sft", "reward"), profile)
    print(f"{torch.get_num_threads()} threads, {device()}")
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
        own = replace(profile, precision=precision)
        for kind, config in ((RLOOTrainer, RLOOConfig), (GRPOTrainer, GRPOConfig)):
            here = ours(learner_of(kind), own, store, arguments.updates)
            there = theirs(kind, config, own, store, arguments.updates, precision == "bf16")
            name = learner_of(kind).__name__
            print(
                f"{name} {precision}: {here:.1f} answers a second, TRL {there:.1f}: {here / there:.1f}×",
                flush=True,
            )


if __name__ == "__main__":
    main()
