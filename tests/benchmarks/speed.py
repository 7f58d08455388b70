"""How fast the course trains and samples, each time beside what a reader would otherwise use, in one run.

    make bench                                                    # the table, and runs/speed.json
    .venv/bin/python tests/benchmarks/speed.py --threads 1 2 --trl ../trl112 --nanogpt ../nanoGPT

Peers beside the course's own TRL: `--trl` is a folder with TRL 1.12, whose PPOTrainer was removed later
(`pip install --target ../trl112 --no-deps trl==1.12.0`), `--nanogpt` a clone of nanoGPT. Without them their
lines are left out and said so. Every figure is the fastest of several rounds in which the two take turns,
so that a noisy machine hits both. Models are the course's own (4 layers, 128 wide), the data its own
prompts and rankings. On a GPU, with GPT-2 small: `rlhf run --base DIR`, then the same command with
`RLHF_BASE=DIR` before it.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import runs_folder
from rlhf_utils.language.device import LARGEST_KEPT, MOST_KEPT, autocast, device, has_bf16
from rlhf_utils.language.models import load_scorer, new_gpt2, save_model
from rlhf_utils.language.sampling import generate
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import Profile, load_profile
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.pretraining import Windows
from rlhf_utils.training.reward import RankingTrainer, encode_rankings
from rlhf_utils.training.trainer import training_arguments

TOKENS, EPISODES = 32, 64
# For processes that do not import `language.device`, by glibc's own variables
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT), "MALLOC_TRIM_THRESHOLD_": str(MOST_KEPT)}


def fastest(work: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Best rate of each of several jobs, taking turns. A job returns how many units it did a second."""
    best = dict.fromkeys(work, 0.0)
    for _ in range(rounds):
        for name, job in work.items():
            best[name] = max(best[name], job())
    return best


def rate(units: float, job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # launched is not done
    return units / (time.perf_counter() - start)


class Clock(TrainerCallback):
    """From a Trainer's first step to its last: what comes before and after is spent once a training."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.end = time.perf_counter()


def trainer_rate(units: float, trainer: Trainer) -> float:
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return units / (clock.end - clock.start)


# -- reward model ---------------------------------------------------------------------------------------
def reward_jobs(profile: Profile, store: Store, precision: str) -> dict[str, Callable[[], float]]:
    """Comparisons a second on the same rankings of nine: each prompt once, or each comparison a pair."""
    from trl import RewardConfig, RewardTrainer

    profile = replace(profile, precision=precision, reward_lm=0.0)
    tokenizer = store.tokenizer()
    rows = [r for r in store.rankings() if len(r["answers"]) == 9][:96]
    encoded = encode_rankings(profile, tokenizer, rows)
    pairs = [
        {"chosen_ids": row["prompt"] + row["answers"][i], "rejected_ids": row["prompt"] + row["answers"][j]}
        for row in encoded
        for i in range(9)
        for j in range(9)
        if row["ranks"][i] < row["ranks"][j]
    ]
    folder = runs_folder() / "speed"

    def ours() -> float:
        arguments = TrainingArguments(
            **training_arguments(
                profile,
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=8,
                remove_unused_columns=False,
                train_sampling_strategy="group_by_length",
                length_column_name="length",
            )
        )
        trainer = RankingTrainer(
            load_scorer(store.folder("pretrain")).train(),
            arguments,
            train_dataset=Dataset.from_list(encoded),
            data_collator=lambda r: {"rows": r},
            pad=tokenizer.pad_token_id,
            windows=np.zeros((1, 2)),
            profile=profile,
        )
        return trainer_rate(len(pairs), trainer)

    def trl() -> float:
        config = RewardConfig(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=64,
            bf16=precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            dataloader_pin_memory=False,
            max_length=profile.context,
        )
        model = load_scorer(store.folder("pretrain")).train()
        trainer = RewardTrainer(
            model, config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer
        )
        return trainer_rate(len(pairs), trainer)

    return {"ours": quiet(ours), "TRL RewardTrainer": quiet(trl)}


def quiet(job: Callable[[], float]) -> Callable[[], float]:
    """Without what trainers print."""

    def run() -> float:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return job()

    return run


# -- sampling -------------------------------------------------------------------------------------------
def sampling_jobs(
    profile: Profile, store: Store, batch: int, precision: str
) -> dict[str, Callable[[], float]]:
    """Tokens a second with their log-probabilities, exactly 32 a prompt."""
    profile = replace(profile, precision=precision)
    tokenizer, model = store.tokenizer(), store.model("sft")
    prompts = ppo_prompts(profile, store)[:batch]
    pad, repeats = tokenizer.pad_token_id, max(128 // batch, 1)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)

    def ours():
        for _ in range(repeats):
            with torch.no_grad(), autocast(profile):
                generate(model, prompts, TOKENS, 1.0, pad, -1)  # no token ends an answer

    def theirs():
        for _ in range(repeats):
            with torch.no_grad(), autocast(profile):
                found = model.generate(
                    ids,
                    attention_mask=(ids != pad).long(),
                    do_sample=True,
                    top_k=0,
                    min_new_tokens=TOKENS,
                    max_new_tokens=TOKENS,
                    pad_token_id=pad,
                    eos_token_id=None,
                    return_dict_in_generate=True,
                    output_scores=True,
                )
                model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)

    return {
        "ours": lambda: rate(batch * TOKENS * repeats, ours),
        "model.generate": lambda: rate(batch * TOKENS * repeats, theirs),
    }


def ppo_prompts(profile: Profile, store: Store) -> list[list[int]]:
    tokenizer = store.tokenizer()
    prompts = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
    return prompts * -(-4 * EPISODES // len(prompts))  # the tiny profile has few


# -- PPO --------------------------------------------------------------------------------------------------
def start_of(store: Store, ends: bool) -> Path:
    """The model that PPO starts from: the aligned one where answers end by themselves, since its answers are
    about 10 tokens long.
    """
    return store.folder("ppo_ptx" if ends else "sft")


def ppo_job(
    profile: Profile, store: Store, precision: str, ends: bool, updates: int = 3
) -> Callable[[], float]:
    """Episodes a second: 64 an update, 2 epochs of 2 minibatches."""
    profile = replace(
        profile,
        precision=precision,
        episodes=EPISODES,
        minibatches=2,
        ppo_epochs=2,
        answer_tokens=TOKENS,
        ppo_rate=1e-6,
    )
    ppo = PPO(profile, store.tokenizer(), start_of(store, ends), store.folder("reward"))
    ppo.reward.config.likelihood = 0.0  # the peer's reward is the head alone
    if not ends:
        ppo.end = -1
    prompts = ppo_prompts(profile, store)
    ppo.update(prompts[:EPISODES], 1e-6)

    def run():
        for i in range(updates):
            ppo.update(prompts[i * EPISODES : (i + 1) * EPISODES], 1e-6)

    return lambda: rate(updates * EPISODES, run)


def trl_ppo_job(
    profile: Profile, store: Store, folder: Path, ends: bool, freeze: bool, threads: int
) -> Callable[[], float]:
    """The same by TRL 1.12's PPOTrainer, in a process of its own (`peer_trl_ppo.py`), which keeps freed
    memory as this one does.
    """
    data = runs_folder() / "speed" / "prompts.json"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(ppo_prompts(profile, store)[: 4 * EPISODES]))
    command = [
        sys.executable,
        Path(__file__).with_name("peer_trl_ppo.py"),
        start_of(store, ends),
        store.folder("reward"),
        store.folder("tokenizer"),
        data,
        "--threads",
        threads,
        *(["--ends"] if ends else []),
        *(["--freeze"] if freeze else []),
    ]

    def run() -> float:
        result = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            env={**os.environ, **KEPT, "PYTHONPATH": str(folder.resolve())},
        )
        if result.returncode:
            raise SystemExit(f"TRL's PPO in {folder} failed:\n{result.stderr[-2000:]}")
        return json.loads(result.stdout.strip().splitlines()[-1])["episodes_a_second"]

    return run


# -- pretraining ------------------------------------------------------------------------------------------
def pretraining_jobs(
    profile: Profile, store: Store, nanogpt: Path, precision: str, steps: int = 60
) -> dict[str, Callable[[], float]]:
    """Tokens a second of our Trainer, and of nanoGPT's model and optimizer in its loop,
    on the same windows.
    """
    sys.path.insert(0, str(nanogpt))
    from model import GPT, GPTConfig

    profile, tokenizer = replace(profile, precision=precision), store.tokenizer()
    windows = store.windows()[:2000]
    units = steps * profile.pretrain_batch * profile.context

    def ours() -> float:
        arguments = TrainingArguments(
            **training_arguments(
                profile,
                runs_folder() / "speed",
                max_steps=steps,
                per_device_train_batch_size=profile.pretrain_batch,
            )
        )
        return trainer_rate(
            units, Trainer(new_gpt2(profile, tokenizer), arguments, train_dataset=Windows(windows))
        )

    def theirs() -> float:
        model = GPT(
            GPTConfig(
                block_size=profile.context,
                vocab_size=len(tokenizer),
                n_layer=profile.layers,
                n_head=profile.heads,
                n_embd=profile.width,
                dropout=0.0,
                bias=True,
            )
        ).to(device())
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), device().type)
        flat = torch.from_numpy(windows.reshape(-1).astype(np.int64)).to(device())

        def loop():
            for _ in range(steps):
                at = torch.randint(len(flat) - profile.context - 1, (profile.pretrain_batch,))
                x = torch.stack([flat[i : i + profile.context] for i in at])
                y = torch.stack([flat[i + 1 : i + 1 + profile.context] for i in at])
                with autocast(profile):
                    _, loss = model(x, y)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        return rate(units, loop)

    return {"ours": quiet(ours), "nanoGPT": quiet(theirs)}


def matrix_rate(precision: str, size: int = 1024) -> float:
    """What this machine reaches on a plain matrix product, in 10⁹ operations a second."""
    a = torch.randn(
        size, size, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, device=device()
    )
    a @ a
    return max(rate(2 * size**3 / 1e9, lambda: a @ a) for _ in range(10))


# -- where the time goes ----------------------------------------------------------------------------------
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product"),
    "activation, norms, softmax, loss": (
        "gelu",
        "layer_norm",
        "softmax",
        "nll_loss",
        "cross_entropy",
        "exp",
        "log",
    ),
    "copies and casts": ("copy_", "cat", "index", "gather", "scatter", "embedding", "clone", "fill_"),
    "sums and products of tensors": ("add", "mul", "sum", "div", "sub", "mean", "clamp", "maximum", "where"),
    "optimizer and gradient norms": ("adam", "norm", "lerp", "sqrt"),
}


def where_time_goes(job: Callable[[], object], gflops: float) -> dict:
    """Shares of the time by kind of work, and the matrix products done a second as a share of the machine's
    own rate.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler
    from torch.utils.flop_counter import FlopCounterMode

    job()
    with FlopCounterMode(display=False) as counter:
        job()
    seconds = min(1 / rate(1, job) for _ in range(3))
    with profiler(activities=[ProfilerActivity.CPU]) as seen:
        job()
    spent = dict.fromkeys([*KINDS, "the rest (Python, sampling, launching)"], 0.0)
    for event in seen.key_averages():
        name = event.key.lower().removeprefix("aten::").lstrip("_")
        kind = next((k for k, words in KINDS.items() if any(w in name for w in words)), list(spent)[-1])
        if "layer_norm" in name:
            kind = "activation, norms, softmax, loss"
        spent[kind] += event.self_cpu_time_total
    total = sum(spent.values())
    return {
        "of_matrix_rate": counter.get_total_flops() / 1e9 / seconds / gflops,
        "shares": {k: v / total for k, v in spent.items()},
    }


def one_update(profile: Profile, store: Store, precision: str) -> Callable[[], object]:
    profile = replace(profile, precision=precision, ppo_rate=1e-6)  # otherwise as the course trains
    ppo, prompts = (
        PPO(profile, store.tokenizer(), store.folder("sft"), store.folder("reward"), store.windows()),
        ppo_prompts(profile, store),
    )
    return lambda: ppo.update(prompts[: profile.episodes], 1e-6)


def pretraining_steps(
    profile: Profile, store: Store, precision: str, steps: int = 10
) -> Callable[[], object]:
    profile = replace(profile, precision=precision)
    model, windows = new_gpt2(profile, store.tokenizer()), Windows(store.windows()[:500])
    arguments = TrainingArguments(
        **training_arguments(
            profile,
            runs_folder() / "speed",
            max_steps=steps,
            per_device_train_batch_size=profile.pretrain_batch,
        )
    )
    return quiet(lambda: rate(1, Trainer(model, arguments, train_dataset=windows).train))


# -- what longer answers and larger models cost -------------------------------------------------------------
def ppo_costs(profile: Profile, store: Store) -> list[dict]:
    """Seconds an episode of PPO with exactly 16, 32 and 64 tokens, and untrained models of 1 to 10 million
    parameters.
    """
    tokenizer, found = store.tokenizer(), []
    for layers, width in ((4, 128), (4, 256), (6, 352)):
        sized = replace(
            profile,
            layers=layers,
            width=width,
            heads=width // 32,
            context=192,
            episodes=32,
            minibatches=2,
            ppo_rate=1e-6,
        )
        with tempfile.TemporaryDirectory() as folder:
            sft, reward = Path(folder) / "sft", Path(folder) / "reward"
            model = new_gpt2(sized, tokenizer)
            save_model(model, sft)
            scorer = load_scorer(sft)
            scorer.config.reward_mean, scorer.config.reward_std = 0.0, 1.0
            save_model(scorer, reward)
            for tokens in (16, 32, 64):
                ppo = PPO(replace(sized, answer_tokens=tokens), tokenizer, sft, reward)
                ppo.end = -1
                prompts = ppo_prompts(profile, store)
                ppo.update(prompts[:32], 1e-6)
                best = max(rate(32, partial(ppo.update, prompts[:32], 1e-6)) for _ in range(3))
                found.append(
                    {
                        "work": "PPO's cost",
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "tokens": tokens,
                        "seconds": 1 / best,
                    }
                )
                print(
                    f"PPO, {found[-1]['parameters'] / 1e6:4.1f} M parameters, {tokens} tokens: "
                    f"{1000 / best:6.1f} ms an episode",
                    flush=True,
                )
    return found


# -- the table --------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl", type=Path, help="a folder with TRL 1.12")
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT")
    parser.add_argument(
        "--keep",
        type=Path,
        help="where the JSON goes (chapter 07 shows data/reference/speed.json; default: runs/speed.json)",
    )
    wanted = parser.parse_args()
    profile = load_profile()
    store = ensure(("corpus", "tokens", "tokenizer", "pretrain", "rank", "reward", "ppo_ptx"), profile)
    rows, precisions = [], ["fp32", "bf16"] if has_bf16() else ["fp32"]

    def add(
        work: str, goal: str, threads: int, precision: str, rates: dict[str, float], ours: str = "ours"
    ) -> None:
        peers = {k: v for k, v in rates.items() if k != ours}
        for peer, value in peers.items():
            rows.append(
                {
                    "work": work,
                    "threads": threads,
                    "precision": precision,
                    "ours": rates[ours],
                    "peer": peer,
                    "theirs": value,
                    "ratio": rates[ours] / value,
                    "goal": goal,
                }
            )
            print(
                f"{work:52} {threads} thread(s) {precision}  {rates[ours]:9.1f} against {value:9.1f} "
                f"{peer:22} × {rates[ours] / value:5.2f}  goal {goal}",
                flush=True,
            )

    for threads in wanted.threads:
        torch.set_num_threads(threads)
        for precision in precisions:
            add(
                "reward model, K = 9, comparisons/s",
                "8, moonshot 12",
                threads,
                precision,
                fastest(reward_jobs(profile, store, precision), wanted.rounds),
            )
            for batch, goal in ((8, "1.8"), (64, "1.3")):
                jobs = sampling_jobs(profile, store, batch, precision)
                add(
                    f"sampling with log-probabilities, batch {batch}, tokens/s",
                    goal,
                    threads,
                    precision,
                    fastest(jobs, wanted.rounds),
                )
            if wanted.nanogpt:
                add(
                    "pretraining, tokens/s",
                    "1",
                    threads,
                    precision,
                    fastest(pretraining_jobs(profile, store, wanted.nanogpt, precision), wanted.rounds),
                )
        if wanted.trl:
            for ends, name, goals in (
                (False, "PPO, exactly 32 tokens, episodes/s", {"fp32": "1.3 (1.1 without gc)", "bf16": "2"}),
                (True, "PPO, answers that end, episodes/s", {"fp32": "2.5", "bf16": "4, moonshot 8"}),
            ):
                shapes = {"": profile, ", one trunk": replace(profile, one_trunk=True)}
                jobs = {
                    p + shape: ppo_job(sized, store, p, ends)
                    for p in precisions
                    for shape, sized in shapes.items()
                }
                jobs["TRL 1.12 fp32"] = trl_ppo_job(profile, store, wanted.trl, ends, False, threads)
                if not ends:
                    jobs["TRL 1.12 fp32, no gc"] = trl_ppo_job(
                        profile, store, wanted.trl, ends, True, threads
                    )
                found = fastest(jobs, wanted.rounds)
                peers = {k: v for k, v in found.items() if k.startswith("TRL")}
                for precision in precisions:
                    for shape in shapes:
                        goal = (
                            "3, moonshot 4"
                            if shape and precision == "bf16" and not ends
                            else goals[precision]
                            if not shape
                            else ""
                        )
                        add(
                            name + shape,
                            goal,
                            threads,
                            precision,
                            {"ours": found[precision + shape], **peers},
                        )
        for precision in precisions:
            limit = matrix_rate(precision)
            for work, job in (
                ("pretraining", pretraining_steps(profile, store, precision)),
                ("PPO-ptx", one_update(profile, store, precision)),
            ):
                found = where_time_goes(job, limit)
                rows.append(
                    {
                        "work": f"where {work}'s time goes",
                        "threads": threads,
                        "precision": precision,
                        "gflops": limit,
                        **found,
                    }
                )
                print(
                    f"{work}, {threads} thread(s), {precision}: {found['of_matrix_rate']:.0%} of "
                    f"{limit:.0f} GFLOP/s; " + ", ".join(f"{k} {v:.0%}" for k, v in found["shares"].items()),
                    flush=True,
                )
    rows += ppo_costs(profile, store)
    for name, given in (
        ("--trl: no line for PPO", wanted.trl),
        ("--nanogpt: no line for pretraining", wanted.nanogpt),
    ):
        if not given:
            print(f"Left out, since not given: {name}")
    path = wanted.keep or runs_folder() / "speed.json"
    path.write_text(json.dumps(rows, indent=1), "utf-8")
    print(f"Kept in {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
