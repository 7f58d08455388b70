"""What helps the reward model, and what becomes of it when a policy is trained against it.

    RLHF_SEED=1 python tests/benchmarks/reward_model.py          # about 20 minutes on two cores; `variants`
    or `own_samples` alone

Each variant is trained on the same rankings and judged on the same held-out answers: accuracy against gold
on validation prompts (never on the test split) with a bootstrap interval. Then a policy is trained with
little KL penalty, and the reward model judges the policy's own answers as the KL grows. Prints tables and
keeps the figures in `data/reference/reward_model.json`, which chapter 05 shows.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.environment import DATA
from rlhf_utils.evaluation.reward_accuracy import pair_accuracy
from rlhf_utils.language.models import load_scorer
from rlhf_utils.language.sampling import sample
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.rank import sample_answers
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.pretraining import pretrain
from rlhf_utils.training.reward import encode_rankings, encoded_pairs, rewards, train_reward
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES, write_prompts

profile = load_profile()
store = ensure(("corpus", "tokens", "tokenizer", "sft", "reward"), profile)
tokenizer, world, windows = store.tokenizer(), load_world(), store.windows()
judge = Judge(world)
prompts = write_prompts(world, "validation", dict.fromkeys(USE_CASES, 60), 7)
rankings = store.rankings()


def judged(answers: list[list[str]]) -> list[dict]:
    return [
        {"messages": p["messages"], "answers": a, "gold": [judge.total(p, x) for x in a], "ranks": []}
        for p, a in zip(prompts, answers)
    ]


def four_answers(row: dict) -> dict:
    return row | {"answers": row["answers"][:4], "ranks": row["ranks"][:4]}


def variants(rows: list[dict], smaller: Path) -> list[dict]:
    pretrained, sft = store.folder("pretrain"), store.folder("sft")
    tried = {
        "as in the course": (profile, pretrained, rankings, 0.0),
        "ties counted (Rao–Kupper, η = 0.5)": (profile, pretrained, rankings, 0.5),
        "starting from SFT": (profile, sft, rankings, 0.0),
        "without the answer's likelihood": (
            replace(profile, reward_likelihood=0.0),
            pretrained,
            rankings,
            0.0,
        ),
        "without the language-model loss": (replace(profile, reward_lm=0.0), pretrained, rankings, 0.0),
        "without either: a head and rankings": (
            replace(profile, reward_likelihood=0.0, reward_lm=0.0),
            pretrained,
            rankings,
            0.0,
        ),
        "K = 4 everywhere": (profile, pretrained, [four_answers(r) for r in rankings], 0.0),
        "1 epoch": (replace(profile, reward_epochs=1), pretrained, rankings, 0.0),
        "4 epochs": (replace(profile, reward_epochs=4), pretrained, rankings, 0.0),
        "a base of 2 layers, 64 wide": (
            replace(profile, layers=2, width=64, heads=2),
            smaller,
            rankings,
            0.0,
        ),
    }
    found = []
    for name, (settings, start, ranked, ties) in tried.items():
        with tempfile.TemporaryDirectory() as folder:
            train_reward(
                settings,
                tokenizer,
                start,
                ranked,
                store.prompts("demonstrations"),
                store.rankings("heldout_prompts"),
                windows,
                Path(folder),
                Path(folder) / "resume",
                store.root,
                ties,
            )
            scorer = load_scorer(Path(folder))
            row = {
                "variant": name,
                **pair_accuracy(scorer, tokenizer, settings, rows, "gold"),
                "tied_gap": tied_gap(scorer),
            }
        found.append(row)
        print(
            f"{name:40} {row['accuracy']:.1%}  ({row['low']:.1%} to {row['high']:.1%})  gap of ties "
            f"{row['tied_gap']:.2f}",
            flush=True,
        )
    return found


def tied_gap(scorer) -> float:
    """Mean distance of two answers that a labeler held-out tied, as a share of that of two that were not."""
    gaps = {True: [], False: []}
    for row in store.rankings("heldout_prompts"):
        values = rewards(
            scorer, encoded_pairs(encode_rankings(profile, tokenizer, [row])), tokenizer.pad_token_id, profile
        )
        for i in range(len(values)):
            for j in range(i):
                if row["answers"][i] != row["answers"][j]:  # the same text has the same score
                    gaps[row["ranks"][i] == row["ranks"][j]].append(abs(values[i] - values[j]))
    return float(np.mean(gaps[True]) / np.mean(gaps[False]))


def own_samples(updates: int = 96, every: int = 12) -> list[dict]:
    """A policy trained by PPO with a tenth of the KL penalty: the reward model on its answers,
    beside gold.
    """
    settings = replace(profile, kl_coefficient=profile.kl_coefficient / 10)
    ppo = PPO(settings, tokenizer, store.folder("sft"), store.folder("reward"))
    asked = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in store.prompts("ppo")]
    ids = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in prompts for _ in range(4)]
    found, logged = [], {"kl_k1": 0.0}
    with Progress("policy", updates, store.root) as progress:
        for update in range(updates + 1):
            draw = np.random.default_rng([profile.seed, update])
            if update % every == 0:
                texts = [a.text for a in sample(ppo.policy, tokenizer, ids, profile.answer_tokens, 1.0, 5)]
                rows = judged([texts[4 * i : 4 * i + 4] for i in range(len(prompts))])
                values = rewards(
                    ppo.reward,
                    encoded_pairs(
                        encode_rankings(profile, tokenizer, [r | {"ranks": [1] * 4} for r in rows])
                    ),
                    ppo.pad,
                    profile,
                )
                found.append(
                    {
                        "update": update,
                        "kl": logged["kl_k1"],
                        "reward": float(values.mean()),
                        "gold": float(np.mean([r["gold"] for r in rows])),
                        **pair_accuracy(ppo.reward, tokenizer, profile, rows, "gold"),
                    }
                )
                print({k: round(v, 3) for k, v in found[-1].items()}, flush=True)
            logged, _ = ppo.update(
                [asked[i] for i in draw.choice(len(asked), profile.episodes, replace=False)], profile.ppo_rate
            )
            progress.step()
    return found


if __name__ == "__main__":
    path = DATA / "reference" / "reward_model.json"
    figures = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for part in sys.argv[1:] or ("variants", "own_samples"):
        if part == "variants":
            sampled = judged(
                sample_answers(
                    profile, tokenizer, store.model("sft"), prompts, [4] * len(prompts), store.root
                )
            )
            with tempfile.TemporaryDirectory() as temporary:
                pretrain(
                    replace(profile, layers=2, width=64, heads=2),
                    tokenizer,
                    windows,
                    Path(temporary),
                    Path(temporary) / "resume",
                    store.root,
                )
                figures[part] = variants(sampled, Path(temporary))
        else:
            figures[part] = own_samples()
        path.write_text(
            json.dumps({"profile": profile.name, "seed": profile.seed} | figures, indent=1), "utf-8"
        )
