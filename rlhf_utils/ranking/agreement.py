"""How far rankers agree: the paper's pairwise percentage, Kendall's tau-b and Krippendorff's alpha.

All three work on the rows of `RankingStore.ranked()`. Intervals are 95 % bootstrap intervals over
items, since the pairs of one ranking are not independent of each other.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations

import krippendorff
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import kendalltau

from rlhf_utils.evaluation.statistics import bootstrap
from rlhf_utils.ranking.items import pair_counts

# What was ranked (an item, a guideline and its answers) → ranker → ranks of these answers
Ranks = dict[tuple, dict[str, list[int]]]


def by_item(rows: Sequence[dict]) -> Ranks:
    """Ranks by what was ranked and by ranker, in the order of `sorted(answers)`. Rankings of other answers,
    or by another guideline, are not compared.
    """
    result: Ranks = {}
    for row in rows:
        answers = sorted(row["answers"])
        same = result.setdefault((row["item"], row.get("guideline"), *answers), {})
        same[row["ranker"]] = [row["ranks"][row["answers"].index(answer)] for answer in answers]
    return result


def pairwise(items: list[dict[str, list[int]]]) -> float:
    """Share of pairs ordered alike, over all pairs of rankers and of answers that both rank strictly
    (InstructGPT, section 3.4).
    """
    counts = [pair_counts(item[x], item[y]) for item in items for x, y in combinations(sorted(item), 2)]
    total = sum(n for _, n in counts)
    return sum(k for k, _ in counts) / total if total else float("nan")


@lru_cache(maxsize=100_000)
def _tau(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """A bootstrap asks for the same rankings hundreds of times."""
    return float(kendalltau(a, b).statistic)


def tau_b(items: list[dict[str, list[int]]]) -> float:
    """Mean of Kendall's tau-b over items and pairs of rankers; where one ties everything there is none."""
    values = [
        _tau(tuple(item[x]), tuple(item[y])) for item in items for x, y in combinations(sorted(item), 2)
    ]
    values = [v for v in values if not np.isnan(v)]
    return float(np.mean(values)) if values else float("nan")


def alpha(items: list[dict[str, list[int]]]) -> float:
    """Krippendorff's alpha with the ordinal metric; units are answers, values their ranks within the item."""
    rankers = sorted({r for item in items for r in item})
    table = [
        [value for item in items for value in item.get(r, [np.nan] * len(next(iter(item.values()))))]
        for r in rankers
    ]
    values = np.array(table, dtype=float)
    values = values[:, (~np.isnan(values)).sum(0) >= 2] if values.size else values
    if values.size == 0 or len(np.unique(values[~np.isnan(values)])) < 2:
        return float("nan")
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement="ordinal"))


def with_interval(figure: Callable, items: list, draws: int = 500, seed: int = 0) -> dict[str, float]:
    """`value`, `low` and `high` of a figure over items (bootstrap), and `items`."""
    low, high = bootstrap(figure, items, draws, seed)
    return {
        "value": figure(items) if items else float("nan"),
        "low": float(low),
        "high": float(high),
        "items": len(items),
    }


def agreement_table(rows: Sequence[dict]) -> pd.DataFrame:
    """One line for the group and one for each pair of rankers who share items: the three figures with
    intervals.
    """
    items = by_item(rows)
    rankers = sorted({r for item in items.values() for r in item})
    groups = [("everyone", rankers)] if len(rankers) != 2 else []
    groups += [(f"{x} and {y}", [x, y]) for x, y in combinations(rankers, 2)]
    lines = []
    for name, who in groups:
        shared = [{r: item[r] for r in who if r in item} for item in items.values()]
        shared = [item for item in shared if len(item) >= 2]
        if shared:
            line = {"who": name, "items": len(shared)}
            for label, figure in (("pairwise", pairwise), ("tau_b", tau_b), ("alpha", alpha)):
                result = with_interval(figure, shared)
                line |= {
                    label: result["value"],
                    f"{label}_low": result["low"],
                    f"{label}_high": result["high"],
                }
            lines.append(line)
    return pd.DataFrame(
        lines,
        columns=[
            "who",
            "items",
            *(f"{x}{y}" for x in ("pairwise", "tau_b", "alpha") for y in ("", "_low", "_high")),
        ],
    )


def heat_map(rows: Sequence[dict]) -> go.Figure:
    """Who agrees with whom: pairwise agreement in percent, blank where two share no strictly ranked pair."""
    items = by_item(rows)
    rankers = sorted({r for item in items.values() for r in item})
    table = [
        [
            np.nan
            if x == y
            else 100 * pairwise([{r: i[r] for r in (x, y)} for i in items.values() if x in i and y in i])
            for y in rankers
        ]
        for x in rankers
    ]
    figure = go.Figure(
        go.Heatmap(
            z=table,
            x=rankers,
            y=rankers,
            zmin=0,
            zmax=100,
            colorscale="Blues",
            texttemplate="%{z:.0f}",
            colorbar={"title": "%"},
            hoverongaps=False,
        )
    )
    return figure.update_layout(title="How often two rankers order a pair alike", width=520, height=460)


def progress_table(rows: Sequence[dict]) -> pd.DataFrame:
    """Per ranker: rankings, skips, minutes, median seconds a ranking, comparisons an hour and the share of
    ties.
    """
    lines = []
    for ranker in sorted({r["ranker"] for r in rows}):
        mine = [r for r in rows if r["ranker"] == ranker]
        ranked = [r for r in mine if r["action"] == "rank"]
        pairs = sum(len(r["answers"]) * (len(r["answers"]) - 1) // 2 for r in ranked)
        strict = sum(a != b for r in ranked for a, b in combinations(r["ranks"], 2))
        seconds = sum(r["seconds"] for r in mine)
        lines.append(
            {
                "ranker": ranker,
                "ranked": len(ranked),
                "skipped": len(mine) - len(ranked),
                "minutes": round(seconds / 60, 1),
                "seconds a ranking": round(float(np.median([r["seconds"] for r in ranked])), 1)
                if ranked
                else None,
                "comparisons an hour": round(3600 * strict / seconds) if seconds else None,
                "ties": round(1 - strict / pairs, 3) if pairs else None,
            }
        )
    return pd.DataFrame(
        lines,
        columns=[
            "ranker",
            "ranked",
            "skipped",
            "minutes",
            "seconds a ranking",
            "comparisons an hour",
            "ties",
        ],
    )
