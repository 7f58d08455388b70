"""What a taste changed: your model beside the default one, on held-out prompts."""

from pathlib import Path

import numpy as np
import pandas as pd

from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import Store
from rlhf_utils.evaluation.answers import ASPECTS, answer_prompts, answer_rewards, judge_answers
from rlhf_utils.evaluation.reward_accuracy import pair_accuracy
from rlhf_utils.evaluation.statistics import mean_difference, win_rate
from rlhf_utils.look import Answer
from rlhf_utils.profiles import Profile
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import thing_of


def both_answer(profile: Profile, store: Store, tokenizer, prompts: list[dict]) -> dict[str, dict]:
    """Both models' answers, at temperature 1 and greedy, drawn with the same seeds."""
    models, answers = {"default": store.model("ppo_ptx"), "taste": store.model("taste_ppo")}, {}
    with Progress("taste_evaluate", len(prompts) * 2 * (profile.samples + 1), store.root) as progress:
        for name, model in models.items():
            answers[name] = {
                "t1": answer_prompts(
                    profile, tokenizer, model, prompts, 1.0, profile.samples, 13, progress=progress
                ),
                "greedy": answer_prompts(profile, tokenizer, model, prompts, 0.0, 1, 0, progress=progress),
            }
    return answers


def evaluate_taste(profile: Profile, store: Store, folder: Path) -> dict:
    """Your model beside the default one on held-out prompts; also writes both models' answers to
    `answers.jsonl`.

    Answers are drawn with the same seeds. `words` are words an answer; `changed` are the greedy answers
    that differ, those first that your reward model finds most improved.
    """
    tokenizer = store.tokenizer()
    prompts = store.prompts("test")
    things = None if profile.data else [thing_of(p) for p in prompts]
    scorers = {"default": store.model("reward"), "taste": store.model("taste_reward")}
    answers = both_answer(profile, store, tokenizer, prompts)
    words = {
        n: np.array([np.mean([len(a.text.split()) for a in row]) for row in kinds["t1"]])
        for n, kinds in answers.items()
    }
    own = {part: read_jsonl(store.folder("taste") / f"{part}.jsonl") for part in ("rankings", "heldout")}
    crowd = store.rankings("heldout_prompts")
    changed = changed_answers(profile, tokenizer, scorers["taste"], prompts, answers)
    result = {
        "own_weight": profile.own_weight,
        "guideline": profile.guideline,
        "rankings": {part: len(rows) for part, rows in own.items()},
        "rankers": sorted({r["ranker"] for rows in own.values() for r in rows}),
        "reward_accuracy": {
            n: {
                "own": pair_accuracy(scorer, tokenizer, profile, own["heldout"]),
                "crowd": pair_accuracy(scorer, tokenizer, profile, crowd),
            }
            for n, scorer in scorers.items()
        },
        "win_rate": preferred(profile, tokenizer, scorers, prompts, answers, things),
        "words": {n: float(w.mean()) for n, w in words.items()},
        "changed_share": len(changed) / len(prompts),
        # Test prompts come more than once.
        "changed": list({(c["prompt"], c["taste"]): c for c in changed}.values())[:12],
    }
    texts = {
        n: {k: [[a.text for a in row] for row in rows] for k, rows in kinds.items()}
        for n, kinds in answers.items()
    }
    rows = [
        {
            "messages": p["messages"],
            "answers": {n: {k: x[i] for k, x in kinds.items()} for n, kinds in texts.items()},
        }
        for i, p in enumerate(prompts)
    ]
    if not profile.data:  # own data has no gold judge
        by_gold = compare_by_gold(prompts, answers, rows, things, changed)
        result["win_rate"]["gold"] = by_gold.pop("win_rate")
        result |= by_gold
    write_jsonl(folder / "answers.jsonl", rows)
    return result


def preferred(
    profile: Profile, tokenizer, scorers: dict, prompts: list[dict], answers: dict, things: list[str] | None
) -> dict[str, dict]:
    """How often an answer of yours beats the default model's, by either reward model, at temperature 1."""
    drawn = {n: [row[0] for row in kinds["t1"]] for n, kinds in answers.items()}
    found = {}
    for who, by in (("own", "taste"), ("crowd", "default")):
        scores = [
            answer_rewards(profile, tokenizer, scorers[by], prompts, drawn[n]) for n in ("taste", "default")
        ]
        found[who] = win_rate(scores[0][:, None], scores[1][:, None], things)
    return found


def changed_answers(profile: Profile, tokenizer, scorer, prompts: list[dict], answers: dict) -> list[dict]:
    """Greedy answers that differ between the two models, those first that `scorer` finds most improved."""
    greedy = {n: [row[0] for row in kinds["greedy"]] for n, kinds in answers.items()}
    liked = {n: answer_rewards(profile, tokenizer, scorer, prompts, said) for n, said in greedy.items()}
    return [
        {
            "prompt": "\n".join(m["content"] for m in prompts[i]["messages"]),
            **{n: greedy[n][i].text for n in answers},
            "reward": round(float(liked["taste"][i] - liked["default"][i]), 2),
            "row": int(i),
        }
        for i in np.argsort(liked["default"] - liked["taste"])
        if greedy["taste"][i].text != greedy["default"][i].text
    ]


def compare_by_gold(
    prompts: list[dict], answers: dict, rows: list[dict], things: list[str], changed: list[dict]
) -> dict:
    """Gold scores of both models and what they differ by; adds each prompt's to its row, and to what changed
    the gold scores of both answers.
    """
    judge = Judge(load_world())
    gold = {
        n: {k: judge_answers(judge, prompts, a) for k, a in kinds.items()} for n, kinds in answers.items()
    }
    for row in changed:
        for n in gold:
            row[f"gold_{n}"] = round(float(gold[n]["greedy"]["total"][row["row"], 0]), 3)
    for i, row in enumerate(rows):
        row["gold"] = {n: {x: np.round(gold[n]["t1"][x][i], 3).tolist() for x in ASPECTS} for n in gold}
    return {
        "gold": {
            n: {k: {x: float(g[x].mean()) for x in ASPECTS} for k, g in kinds.items()}
            for n, kinds in gold.items()
        },
        "gold_difference": {
            x: mean_difference(gold["taste"]["t1"][x].mean(1), gold["default"]["t1"][x].mean(1), things)
            for x in ASPECTS
        },
        "win_rate": win_rate(gold["taste"]["t1"]["total"], gold["default"]["t1"]["total"], things),
    }


JUDGES = {"own": "your reward model", "crowd": "the crowd’s", "gold": "gold"}


def interval(row: dict, key: str = "decided") -> str:
    """A share with its interval, in percent."""
    if row[key] != row[key]:  # no answer was better than the other
        return "nothing was decided"
    return f"{row[key]:.0%} ({row['low']:.0%} to {row['high']:.0%})"


def changed_table(metrics: dict, count: int = 12) -> list[dict]:
    """Rows for a `look.Table`: prompts, both models' greedy answers, and in yours the words that are new."""
    gold = "gold" in metrics
    return [
        {
            "prompt": row["prompt"],
            "default model": Answer(row["default"], row.get("gold_default") if gold else None),
            "your model": Answer(row["taste"], row.get("gold_taste") if gold else None, row["default"]),
        }
        for row in metrics["changed"][:count]
    ]


def taste_table(metrics: dict) -> pd.DataFrame:
    """What your rankings changed: one line a figure, the default model beside yours."""

    def accuracy(name, who):
        return interval(metrics["reward_accuracy"][name][who], "accuracy")

    lines = [
        (
            "reward model agrees with your held-out rankings",
            accuracy("default", "own"),
            accuracy("taste", "own"),
        ),
        ("reward model agrees with the crowd", accuracy("default", "crowd"), accuracy("taste", "crowd")),
        *(
            (f"an answer of yours beats the default’s, by {words}", "", interval(metrics["win_rate"][who]))
            for who, words in JUDGES.items()
            if who in metrics.get("win_rate", {})
        ),
        ("words an answer", f"{metrics['words']['default']:.1f}", f"{metrics['words']['taste']:.1f}"),
    ]
    if "gold" in metrics:
        lines += [
            (f"gold score, {x}", *(f"{metrics['gold'][n]['t1'][x]:.2f}" for n in ("default", "taste")))
            for x in ASPECTS
        ]
    return pd.DataFrame(lines, columns=["", "default model", "your model"]).set_index("")
