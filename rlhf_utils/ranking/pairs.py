"""Rankings as pairs, for libraries that know nothing else."""

from collections.abc import Iterable
from itertools import combinations


def to_pairs(rows: Iterable[dict]) -> list[dict]:
    """TRL's preference format: `prompt`, `chosen`, `rejected` as messages; ties are dropped.

    `group` names the ranking that a pair comes from: its pairs are not independent of each other, and belong
    on one side of a split.
    """

    def said(text):
        return [{"role": "assistant", "content": text}]

    pairs = []
    for row in rows:
        for i, j in combinations(range(len(row["answers"])), 2):
            a, b = row["ranks"][i], row["ranks"][j]
            if a != b:
                best, worst = (i, j) if a < b else (j, i)
                pairs.append(
                    {
                        "prompt": row["messages"],
                        "chosen": said(row["answers"][best]),
                        "rejected": said(row["answers"][worst]),
                        "group": f"{row['ranker']}/{row['item']}",
                    }
                )
    return pairs


def to_dataset(rows: Iterable[dict]):
    """The pairs of `to_pairs` as a `datasets.Dataset`."""
    from datasets import Dataset

    return Dataset.from_list(to_pairs(rows))
