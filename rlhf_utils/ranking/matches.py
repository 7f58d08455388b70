"""Who wrote the better answers? Models set against each other by people who did not know who wrote what."""

import csv
import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from rlhf_utils.artifacts.files import lines_of
from rlhf_utils.environment import CourseError
from rlhf_utils.evaluation.statistics import bootstrap, share, win_rate


def truthful_rows(
    path: Path | str,
    count: int = 20,
    answers: int = 9,
    prompt_type: str = "instruction prompt",
    seed: int = 0,
) -> list[dict]:
    """Rows for a `RankingSession` from the samples that were published with InstructGPT (TruthfulQA
    questions).

    The file has `model_type`, `prompt_type`, `question`, `answer`, and a judge's `true` and `info`
    (probabilities). To each of `count` questions drawn at random come the answers of `answers` models of
    twelve; `truth` is the published probability that an answer is both true and informative.
    """
    path = Path(path)
    try:
        text = b"\n".join(lines_of(path)).decode("utf-8")
        found = [row for row in csv.DictReader(io.StringIO(text)) if row["prompt_type"] == prompt_type]
        values = {
            (row["question"], row["model_type"]): (
                row["answer"].strip(),
                float(row["true"]) * float(row["info"]),
            )
            for row in found
        }
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise CourseError(
            f"{path} is not the file of InstructGPT's TruthfulQA samples ({type(error).__name__}: {error})."
        ) from None
    if not values:
        raise CourseError(f"{path} has no answers to the prompt type {prompt_type!r}.")
    rng = Random(seed)
    questions = sorted({question for question, _ in values})
    rows = []
    for question in rng.sample(questions, min(count, len(questions))):
        models = sorted(model for asked, model in values if asked == question)
        chosen = rng.sample(models, min(answers, len(models)))
        rows.append(
            {
                "id": f"truthful:{question}"[:200],
                "messages": [{"role": "user", "content": question}],
                "answers": [values[question, m][0] for m in chosen],
                "models": chosen,
                "truth": [values[question, m][1] for m in chosen],
            }
        )
    return rows


def results(rows: Sequence[dict]) -> list[tuple[str, str, float]]:
    """(model, model, 1 | ½ | 0) for each pair of models in each ranking; an answer that several models wrote
    is a tie between them.
    """
    made = []
    for row in rows:
        ranks = [
            (model, rank)
            for written, rank in zip(row["models"], row["ranks"])
            for model in written.split(" + ")
        ]
        made += [
            (a, b, 0.5 if x == y else float(x < y)) for (a, x), (b, y) in combinations(ranks, 2) if a != b
        ]
    return made


def strengths(
    played: Sequence[tuple[str, str, float]], models: Sequence[str], prior: float = 0.1
) -> np.ndarray:
    """Bradley–Terry strengths in log-odds, with mean 0: P(a beats b) = σ(s_a − s_b); a tie is half
    a win each.

    A weak normal prior keeps a model finite that won everything (Bradley and Terry, 1952; Hunter, 2004).
    """
    index = {m: i for i, m in enumerate(models)}
    a, b = np.array([index[x] for x, _, _ in played]), np.array([index[y] for _, y, _ in played])
    won = np.array([w for _, _, w in played])

    def loss(s):
        gap = s[a] - s[b]
        wrong = 1 / (1 + np.exp(-gap)) - won
        slope = np.bincount(a, wrong, len(s)) - np.bincount(b, wrong, len(s)) + prior * s
        return (np.logaddexp(0, -gap) * won + np.logaddexp(0, gap) * (1 - won)).sum() + prior * (
            s @ s
        ) / 2, slope

    found = minimize(loss, np.zeros(len(models)), jac=True, method="L-BFGS-B").x
    return found - found.mean()


def bradley_terry(rows: Sequence[dict], draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """A table of models, best first: `strength` with its 95 % interval (bootstrap over rankings), and how
    many pairs it was in.
    """
    rows = [row for row in rows if row.get("ranks") and len(row["models"]) == len(row["ranks"])]
    played = results(rows)
    if not played:
        raise CourseError("There is no ranking of answers by different models yet. Rank some first.")
    models = sorted({m for a, b, _ in played for m in (a, b)})

    def of(drawn: Sequence[dict]) -> np.ndarray | None:
        again = results(drawn)
        return strengths(again, models) if again else None

    low, high = bootstrap(of, rows, draws, seed)
    counts = pd.Series([m for a, b, _ in played for m in (a, b)]).value_counts()
    table = pd.DataFrame(
        {
            "model": models,
            "strength": strengths(played, models),
            "low": low,
            "high": high,
            "pairs": counts.reindex(models).values,
        }
    )
    return table.sort_values("strength", ascending=False, ignore_index=True)


def truth_agreement(rows: Sequence[dict], published: Sequence[dict]) -> dict[str, float]:
    """How often a ranked pair is in the order of the published `truth` (`agreement`, `low`, `high`, `pairs`);
    equal ones are left out.
    """
    truth = {row["id"]: dict(zip(row["answers"], row["truth"])) for row in published}
    right, total = [], []
    for row in rows:
        if row.get("ranks") and row["item"] in truth:
            value = [truth[row["item"]][a] for a in row["answers"]]
            pairs = [
                (x < y) == (value[i] > value[j])
                for (i, x), (j, y) in combinations(enumerate(row["ranks"]), 2)
                if x != y and abs(value[i] - value[j]) > 0.1
            ]
            right.append(sum(pairs))
            total.append(len(pairs))
    if not sum(total):
        raise CourseError("None of these rankings is of a published question. Rank some first.")
    right, total = np.array(right), np.array(total)
    agreement, low, high = share(right, total)
    return {"agreement": agreement, "low": low, "high": high, "pairs": int(total.sum())}


def people_win_rate(rows: Sequence[dict], first: str, second: str) -> dict[str, float]:
    """How often people prefer `first` to `second` in blind rankings: as `statistics.win_rate`,
    an item a line.
    """
    marks = []
    for row in rows:
        ranks = dict(zip(row["models"], row["ranks"])) if row.get("ranks") else {}
        if first in ranks and second in ranks:
            marks.append([-ranks[first], -ranks[second]])
    if not marks:
        raise CourseError(f"Nobody has compared {first} with {second} yet. Rank some first.")
    marks = np.array(marks, dtype=float)
    return win_rate(marks[:, :1], marks[:, 1:])
