"""Comparisons between models, from rows of judged answers: of one run, or of several seeds together."""

import numpy as np

from rlhf_utils.artifacts.store import Store
from rlhf_utils.evaluation.answers import ASPECTS, judge_answers, mark_of
from rlhf_utils.evaluation.statistics import equal_length, mean_difference, ratio, share, win_rate
from rlhf_utils.language.sampling import Answer
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import USE_CASES, thing_of


def judged_rows(
    judge: Judge, prompts: list[dict], answers: dict[str, dict[str, list[list[Answer]]]]
) -> list[dict]:
    """A row a prompt, with every model's answers, their gold scores and, where the prompt measures one thing,
    their marks.
    """
    gold = {
        n: {k: judge_answers(judge, prompts, a) for k, a in kinds.items()} for n, kinds in answers.items()
    }
    rows = []
    for i, p in enumerate(prompts):
        texts = {
            n: {k: [a.text for a in said[i]] for k, said in kinds.items()} for n, kinds in answers.items()
        }
        row = {
            "id": p["id"],
            "use_case": p["use_case"],
            "kind": p["kind"],
            "thing": thing_of(p),
            "messages": p["messages"],
            "answers": texts,
            "gold": {
                n: {k: {x: np.round(g[x][i], 3).tolist() for x in ASPECTS} for k, g in kinds.items()}
                for n, kinds in gold.items()
            },
        }
        if mark := mark_of(judge, p, ""):
            row["rate"] = mark[0]
            row["marks"] = {
                n: [int(mark_of(judge, p, text)[1]) for text in kinds["t1"]] for n, kinds in texts.items()
            }
        rows.append(row)
    return rows


def scores_of(rows: list[dict], name: str, kind: str, aspect: str = "total") -> np.ndarray:
    """Gold scores of a model's answers, (prompts, answers)."""
    return np.array([r["gold"][name][kind][aspect] for r in rows])


def words_of(rows: list[dict], name: str, kind: str) -> np.ndarray:
    """Words in each of a model's answers, (prompts, answers)."""
    return np.array([[len(text.split()) for text in r["answers"][name][kind]] for r in rows])


# What is compared with what: (winner, rival, kinds of answers).
COMPARED = (
    ("sft", "base_prompted", ("t1", "best", "greedy")),
    ("ppo_ptx", "base_prompted", ("t1", "best", "greedy")),
    ("ppo", "sft", ("t1",)),
    ("ppo_ptx", "sft", ("t1", "best", "greedy")),
)


def compare(rows: list[dict], probes: list[dict]) -> dict:
    """Gold scores, win rates, differences, gains by use case and rates.

    rows, probes: the judged rows (see `judged_rows`) of one run, or of several seeds together.
    """
    things = [r["thing"] for r in rows]

    def mean(name, kind, aspect="total"):
        return scores_of(rows, name, kind, aspect).mean(1)

    return {
        "gold": {
            n: {k: {x: float(scores_of(rows, n, k, x).mean()) for x in ASPECTS} for k in kinds}
            for n, kinds in rows[0]["gold"].items()
        },
        "gold_interval": {
            n: {k: interval_of(mean(n, k), things) for k in kinds} for n, kinds in rows[0]["gold"].items()
        },
        "best_of_9_sft": float(np.mean([r["best_of_9_by_gold"] for r in rows])),
        **{
            key: mean_difference(np.array([r[key] for r in rows]), mean("sft", "t1"), things)
            for key in ("best_of_9_by_reward", "best_of_9_by_gold")
        },
        "win_rate": win_rates(rows),
        "difference": {
            f"{name}_{kind}_{x}": mean_difference(mean(name, kind, x), mean("sft", kind, x), things)
            for name in ("ppo", "ppo_ptx")
            for kind in ("t1", "greedy")
            for x in ASPECTS
        },
        "gain_by_use_case": gains_by_use_case(rows),
        "rates": rates([r for r in (*rows, *probes) if "rate" in r]),
    }


def interval_of(values: np.ndarray, things: list[str]) -> dict[str, float]:
    """The interval of a mean, one value a prompt, over the things that prompts are about."""
    _, low, high = ratio(values, np.ones(len(values)), things)
    return {"low": low, "high": high}


def win_rates(rows: list[dict]) -> dict[str, dict]:
    """How often one model beats another, by "winner_vs_rival_kind"; no kind is temperature 1."""
    things = [r["thing"] for r in rows]
    bare = scores_of(rows, "base", "t1")
    wins = {"sft_vs_base": win_rate(scores_of(rows, "sft", "t1")[:, :1], bare, things)}
    for name, rival, kinds in COMPARED:
        for kind in kinds:
            key = f"{name}_vs_{rival}" + ("" if kind == "t1" else f"_{kind}")
            wins[key] = win_rate(scores_of(rows, name, kind), scores_of(rows, rival, kind), things)
    pair = ("ppo_ptx", "base_prompted")
    wins["ppo_ptx_vs_base_prompted_equal_length"] = equal_length(
        *(scores_of(rows, name, "best") for name in pair),
        *(words_of(rows, name, "best") for name in pair),
        things,
    )
    return wins


def gains_by_use_case(rows: list[dict]) -> dict[str, dict]:
    """What PPO-ptx gains over SFT, at temperature 1, and the prompted base, each at its best, by use case."""
    gains: dict[str, dict] = {"sft": {}, "base_prompted": {}}
    for case in USE_CASES:
        inside = [r for r in rows if r["use_case"] == case]
        if not inside:
            continue
        things = [r["thing"] for r in inside]
        for rival, kind in (("sft", "t1"), ("base_prompted", "best")):
            gains[rival][case] = {
                x: mean_difference(
                    scores_of(inside, "ppo_ptx", kind, x).mean(1),
                    scores_of(inside, rival, kind, x).mean(1),
                    things,
                )
                for x in ASPECTS
            }
    return gains


def rates(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """How often each model does what a rate counts, at temperature 1, with intervals: by model, by rate."""
    found: dict[str, dict[str, dict]] = {}
    for rate in dict.fromkeys(r["rate"] for r in rows):
        chosen = [r for r in rows if r["rate"] == rate]
        things = [r["thing"] for r in chosen]
        for name in chosen[0]["marks"]:
            hits, asked = (np.array([f(r["marks"][name]) for r in chosen], dtype=float) for f in (sum, len))
            value, low, high = share(hits, asked, things)
            found.setdefault(name, {})[rate] = {
                "rate": value,
                "low": low,
                "high": high,
                "n": int(asked.sum()),
            }
    return found


def subset(rows: list[dict], where: np.ndarray) -> dict:
    """Mean gold scores on some of the prompts, and how often PPO-ptx beats SFT there."""
    chosen = [r for r, w in zip(rows, where) if w]
    if not chosen:
        return {"prompts": 0}
    wins = win_rate(
        scores_of(chosen, "ppo_ptx", "t1"), scores_of(chosen, "sft", "t1"), [r["thing"] for r in chosen]
    )
    gold = {
        n: {k: float(scores_of(chosen, n, k).mean()) for k in kinds} for n, kinds in chosen[0]["gold"].items()
    }
    return {"prompts": len(chosen)} | gold | {"ppo_ptx_vs_sft": wins}


def untouched(prompts: list[dict], store: Store) -> np.ndarray:
    """Which test prompts ask for an (entity, value) pair that nothing after pretraining contained."""
    texts = [r["completion"] for r in store.prompts("demonstrations")]
    for name in ("demonstrations", "ranked", "ppo"):
        texts += [m["content"] for r in store.prompts(name) for m in r["messages"]]
    for row in store.rankings():
        texts += row["answers"]
    world = load_world()
    lower = [t.lower() for t in texts]
    result = []
    for prompt in prompts:
        spec = prompt["spec"]
        if spec["type"] != "fact":
            result.append(False)
            continue
        entity = world.by_name[spec["table"], spec["entity"]]
        value = entity.values[spec["relation"]][0].lower()
        result.append(not any(entity.subject.lower() in t and value in t for t in lower))
    return np.array(result)
