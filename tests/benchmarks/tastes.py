"""How far 12 and 40 rankings steer the model: scripted tastes, several seeds pooled, against the default.

    python tests/benchmarks/tastes.py --seeds 0 1 2                # each taste at the default weight
    python tests/benchmarks/tastes.py --rankings 40 --seeds 0 --weights 0.5 1 3  # the knob, printed only

A scripted reader takes the queue of chapter 04 (K = 4) in a RankingSession, headless, skips where the taste
prefers nothing and stops after so many rankings; the stages do the rest, those before it as well. Every
result is kept in `runs/tastes.json`, so that the command goes on where it was stopped; then each goal is
printed with what was measured, and `data/reference/tastes.json` holds what chapter 07 shows.
"""

import argparse
import json
import os
from itertools import product

import numpy as np

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.environment import DATA, runs_folder
from rlhf_utils.evaluation.answers import ASPECTS
from rlhf_utils.evaluation.reward_accuracy import pair_accuracy
from rlhf_utils.evaluation.statistics import mean_difference, ratio
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.rank import items_to_rank, items_worth_ranking
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.pipeline.taste import SCRIPTED, ranks_by
from rlhf_utils.profiles import load_profile
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.ranking.store import RankingStore
from rlhf_utils.world.prompts import thing_of

FOR_ACCURACY = 200


def rank_all(rows: list[dict], taste: str, rankings: int, store: RankingStore) -> None:
    session = RankingSession(rows, f"scripted-{taste}", store, guideline=named(taste, rankings))
    while not session.finished and session.progress()["done"] - session.progress()["skipped"] < rankings:
        letters = list(session.answers)
        ranks = ranks_by(SCRIPTED[taste], list(session.answers.values()))
        if len(set(ranks)) == 1:
            session.skip()
            continue
        session.rank([[x for x, r in zip(letters, ranks) if r == rank] for rank in sorted(set(ranks))])
        session.submit()


def named(taste: str, rankings: int) -> str:
    """The guideline by which they are kept apart."""
    return taste if rankings == 40 else f"{taste}-{rankings}"


def run(profile_name: str, seed: int, taste: str, weight: float, rankings: int) -> dict:
    """Rank, train and evaluate; returns the metrics of `taste_evaluate` and per-prompt values for pooling."""
    os.environ["RLHF_RANKINGS"] = f"sqlite:///{runs_folder() / f'tastes-{profile_name}-seed{seed}.sqlite'}"
    profile = load_profile(profile_name, seed, own_weight=weight, guideline=named(taste, rankings))
    store = ensure(("corpus", "tokenizer", "sft", "reward"), profile)
    prompts = store.prompts("ppo")
    queue = items_worth_ranking(profile, store, prompts, count=len(prompts) // 6)
    rank_all(queue, taste, rankings, RankingStore())
    store = ensure("taste_evaluate", profile)
    metrics = store.metrics("taste_evaluate")
    more = [
        r | {"ranks": ranks_by(SCRIPTED[taste], r["answers"])}
        for r in items_to_rank(profile, store, prompts[len(prompts) // 2 :][: FOR_ACCURACY + 60])
    ][:FOR_ACCURACY]
    tokenizer = store.tokenizer()
    accuracy = {
        n: pair_accuracy(load_scorer(store.folder(s)), tokenizer, profile, more)
        for n, s in (("default", "reward"), ("taste", "taste_reward"))
    }
    answers = read_jsonl(store.folder("taste_evaluate") / "answers.jsonl")

    def by_prompt(name, value):
        return [float(np.mean([value(a) for a in row["answers"][name]["t1"]])) for row in answers]

    return {
        "seed": seed,
        "taste": taste,
        "weight": weight,
        "rankings": rankings,
        "accuracy": accuracy,
        "counts": metrics["rankings"],
        "reward_accuracy": metrics["reward_accuracy"],
        "things": [thing_of(p) for p in store.prompts("test")],
        "words": {n: by_prompt(n, lambda a: len(a.split())) for n in ("default", "taste")},
        "polite": {n: by_prompt(n, lambda a: float(SCRIPTED["polite"](a))) for n in ("default", "taste")},
        "gold": {
            n: {x: [float(np.mean(r["gold"][n][x])) for r in answers] for x in ASPECTS}
            for n in ("default", "taste")
        },
    }


def condition(run: dict) -> tuple:
    return run["taste"], run["rankings"], run["weight"]


def pooled(runs: list[dict]) -> dict:
    things = sum((r["things"] for r in runs), [])  # prompts about one thing are drawn together, of all seeds

    def values(key, name, aspect=None):
        return np.concatenate([np.array(r[key][name][aspect] if aspect else r[key][name]) for r in runs])

    def times(key):
        """mean(taste) / mean(default) with its interval."""
        return dict(
            zip(
                ("ratio", "low", "high"),
                ratio(values(key, "taste"), np.maximum(values(key, "default"), 1e-9), things),
            )
        )

    return {
        "taste": runs[0]["taste"],
        "weight": runs[0]["weight"],
        "rankings": runs[0]["rankings"],
        "seeds": [r["seed"] for r in runs],
        "accuracy": {
            n: float(np.mean([r["accuracy"][n]["accuracy"] for r in runs])) for n in ("default", "taste")
        },
        "accuracy_low": float(np.mean([r["accuracy"]["taste"]["low"] for r in runs])),
        "words": {n: float(values("words", n).mean()) for n in ("default", "taste")},
        "words_ratio": times("words"),
        "polite": {n: float(values("polite", n).mean()) for n in ("default", "taste")},
        "polite_ratio": times("polite"),
        "gold_difference": {
            x: mean_difference(values("gold", "taste", x), values("gold", "default", x), things)
            for x in ASPECTS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tastes", nargs="+", default=list(SCRIPTED))
    parser.add_argument("--weights", type=float, nargs="+", default=[load_profile("laptop").own_weight])
    parser.add_argument("--rankings", type=int, nargs="+", default=[12])
    wanted = parser.parse_args()
    path = runs_folder() / "tastes.json"
    done = json.loads(path.read_text("utf-8")) if path.exists() else []
    for seed, rankings, weight, taste in product(
        wanted.seeds, wanted.rankings, wanted.weights, wanted.tastes
    ):
        if not any((r["seed"], *condition(r)) == (seed, taste, rankings, weight) for r in done):
            done.append(run(wanted.profile, seed, taste, weight, rankings))
            path.write_text(json.dumps(done), "utf-8")
    table = [pooled([r for r in done if condition(r) == key]) for key in sorted(set(map(condition, done)))]
    usual = [row for row in table if row["weight"] == load_profile("laptop").own_weight]
    if wanted.profile == "laptop":
        (DATA / "reference" / "tastes.json").write_text(json.dumps(usual, indent=1) + "\n", "utf-8")
    for row in table:
        gold = "  ".join(
            f"{x} {g['difference']:+.3f} ({g['low']:+.3f} to {g['high']:+.3f})"
            for x, g in row["gold_difference"].items()
        )
        print(
            f"{row['taste']:7} {row['rankings']} rankings, weight {row['weight']:.2f}, seeds {row['seeds']}"
        )
        print(
            f"  held-out rankings: default {row['accuracy']['default']:.0%}, own "
            f"{row['accuracy']['taste']:.0%} (low {row['accuracy_low']:.0%}); goal 70 %"
        )
        for key in ("words", "polite"):
            r = row[f"{key}_ratio"]
            print(
                f"  {key:5} {row[key]['default']:.3f} → {row[key]['taste']:.3f}: × {r['ratio']:.2f} "
                f"({r['low']:.2f} to {r['high']:.2f})"
            )
        print(f"  gold: {gold}")


if __name__ == "__main__":
    main()
