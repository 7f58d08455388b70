"""What helps the reward model: each variant trained on the same rankings, judged on the same held-out answers.

    python tests/benchmarks/reward_model.py          # about 2 minutes a variant on two cores

Prints accuracy against gold on validation prompts (never on the test split) with a bootstrap interval.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from rlhf_utils.artifacts import read_jsonl
from rlhf_utils.models import load_gpt2, load_scorer
from rlhf_utils.profiles import load_profile
from rlhf_utils.ranking.simulate import sample_answers
from rlhf_utils.reward import pair_accuracy, train_reward
from rlhf_utils.stages import ensure, prompts_of, tokenizer_of, windows_of
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES, write_prompts

profile = load_profile()
store = ensure("rank", profile)
tokenizer, world = tokenizer_of(store), load_world()
judge = Judge(world)
prompts = write_prompts(world, "validation", dict.fromkeys(USE_CASES, 60), 7)
answers = sample_answers(profile, tokenizer, load_gpt2(store.folder("sft")), prompts, [4] * len(prompts), store)
rows = [{"messages": p["messages"], "answers": a, "gold": [judge.total(p, x) for x in a], "ranks": []} for p, a in zip(prompts, answers)]

variants = {
    "as it is": (profile, "pretrain", 0.0),
    "with ties counted (Rao-Kupper, threshold 0.5)": (profile, "pretrain", 0.5),
    "starting from SFT": (profile, "sft", 0.0),
    "without the answer's likelihood": (replace(profile, reward_likelihood=0.0), "pretrain", 0.0),
    "without likelihood and language-model loss": (replace(profile, reward_likelihood=0.0, reward_lm=0.0), "pretrain", 0.0),
}
for name, (settings, start, ties) in variants.items():
    with tempfile.TemporaryDirectory() as folder:
        train_reward(
            settings, tokenizer, store.folder(start), read_jsonl(store.folder("rank") / "rankings.jsonl"), prompts_of(store, "demonstrations"),
            read_jsonl(store.folder("rank") / "heldout_prompts.jsonl"), windows_of(store), store, Path(folder), ties,
        )  # fmt: skip
        found = pair_accuracy(load_scorer(Path(folder)), tokenizer, settings, rows, "gold")
    print(f"{name:45} {found['accuracy']:.1%}  ({found['low']:.1%} to {found['high']:.1%}, {found['pairs']:,} pairs)", flush=True)
