"""Should PPO's minibatches hold answers of like length, or random ones?

    python tests/benchmarks/minibatches.py        # about ten minutes on two cores

Sequences of like length pack best. But then each minibatch has a mean advantage of its own, and a token of a
short answer weighs as much in its step as one of a long answer in another: so both are trained, with the same
seeds, from the same models. Gold scores of PPO-ptx at temperature 1 on validation prompts that nothing else
uses (60 a use case, 2 answers each), their difference with a 95 % interval that resamples things,
and seconds of training. Prints the figures and keeps them in `runs/minibatches.json`.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlhf_utils.environment import runs_folder
from rlhf_utils.evaluation.answers import answer_prompts, judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.packing import by_length
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile
from rlhf_utils.training import ppo as ppo_module
from rlhf_utils.training.ppo_run import train_ppo
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES, thing_of, write_prompts


def at_random(lengths: list[int], count: int) -> list[np.ndarray]:
    order = np.random.default_rng(sum(lengths)).permutation(len(lengths))
    return np.array_split(order, min(count, len(order)))


WAYS = {"of like length": by_length, "random": at_random}


def main(seeds: tuple[int, ...]) -> None:
    profile = load_profile()
    store = ensure(("corpus", "tokens", "tokenizer", "sft", "reward"), profile)
    tokenizer, judge, windows = store.tokenizer(), Judge(load_world()), store.windows()
    asked = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
    prompts = write_prompts(load_world(), "validation", dict.fromkeys(USE_CASES, 60), 11)
    things = [thing_of(p) for p in prompts]
    gold: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in seeds:
        for way, groups in WAYS.items():
            ppo_module.by_length = groups
            with tempfile.TemporaryDirectory() as temporary:
                folder, started = Path(temporary), time.time()
                train_ppo(
                    replace(profile, seed=seed),
                    tokenizer,
                    store.folder("sft"),
                    store.folder("reward"),
                    asked,
                    windows,
                    folder,
                    folder / "resume",
                    store.root,
                    "ppo_ptx",
                )
                seconds[way].append(time.time() - started)
                policy = load_gpt2(folder)
            answers = answer_prompts(profile, tokenizer, policy, prompts, 1.0, 2, 5)
            gold[way].append(judge_answers(judge, prompts, answers)["total"].mean(1))
            print(
                f"seed {seed}, {way}: gold {gold[way][-1].mean():.3f}, {seconds[way][-1]:.0f} s", flush=True
            )
    one, other = (np.concatenate(gold[way]) for way in WAYS)
    found = {
        "seeds": list(seeds),
        "gold": {way: [round(float(g.mean()), 4) for g in rows] for way, rows in gold.items()},
        "difference": mean_difference(one, other, things * len(seeds)),
        "seconds": {way: round(float(np.mean(rows)), 1) for way, rows in seconds.items()},
    }
    (runs_folder() / "minibatches.json").write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or (0, 1))
