"""Rankings in the formats of libraries, most of which know pairs alone."""

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


def to_ultrafeedback(rows: Iterable[dict]) -> list[dict]:
    """UltraFeedback's format: `instruction` and `completions` with an `overall_score`; ties stay ties."""
    return [
        {
            "instruction": "\n\n".join(m["content"] for m in row["messages"]),
            "completions": [
                {"response": answer, "overall_score": float(max(row["ranks"]) + 1 - rank)}
                for answer, rank in zip(row["answers"], row["ranks"])
            ],
        }
        for row in rows
    ]


def to_openrlhf(rows: Iterable[dict]) -> list[dict]:
    """OpenRLHF's format: `chosen` and `rejected` as whole conversations; ties are dropped."""
    return [{key: [*pair["prompt"], *pair[key]] for key in ("chosen", "rejected")} for pair in to_pairs(rows)]


FORMATS = {"trl": to_pairs, "ultrafeedback": to_ultrafeedback, "openrlhf": to_openrlhf}
