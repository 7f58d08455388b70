"""What is ranked: a prompt with its answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from rlhf_utils.environment import CourseError

MOST_ANSWERS = 9


@dataclass(frozen=True)
class Item:
    """A prompt with the answers to rank; `models`, `known` and `crowd` are not shown while it is ranked.

    `known` are ranks (1 is best, equal ones are ties) that a practice item is checked against, `reasons`
    what there is to say of each answer then; `crowd` are the answers' scores by the crowd's reward model, and
    `repeats` is the id of the item that comes here once more. Practice and repeats train nothing.
    """

    id: str
    messages: tuple[dict, ...]
    answers: tuple[str, ...]
    models: tuple[str, ...] = ()
    known: tuple[int, ...] = ()
    guideline: str = ""  # by which it is ranked; the session's if empty
    reasons: tuple[str, ...] = ()
    crowd: tuple[float, ...] = ()
    repeats: str = ""

    @property
    def practice(self) -> bool:
        return bool(self.known or self.repeats)


def make_item(row: dict, practice: bool = False) -> Item | None:
    """An Item from a row with `id`, `messages`, `answers` and, as may be, `models` and `ranks`.

    Identical answers are merged (their models are joined by " + "). None if all answers are the same.
    """
    where = f"The prompt {str(row.get('id', '?'))[:60]!r}"
    answers, messages, models = (row.get(k, ()) for k in ("answers", "messages", "models"))
    if not row.get("id") or not messages:
        raise CourseError(f"{where} needs `id` and `messages`.")
    if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
        raise CourseError(f"{where}: `answers` must be a list of texts.")
    if not isinstance(messages, list | tuple) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    ):
        raise CourseError(f"{where}: `messages` must be a list of messages with `role` and `content`.")
    if not isinstance(models, list | tuple) or not all(isinstance(m, str) for m in models):
        raise CourseError(f"{where}: `models` must be a list of names.")
    answers, models = list(answers), list(models)
    if models and len(models) != len(answers):
        raise CourseError(
            f"{where} has {len(answers)} answers and {len(models)} models: give one model per answer."
        )
    if not 2 <= len(answers) <= MOST_ANSWERS:
        raise CourseError(f"{where} has {len(answers)} answers to rank. Give 2 to {MOST_ANSWERS}.")
    merged: dict[str, list[int]] = {}
    for i, answer in enumerate(answers):
        merged.setdefault(answer, []).append(i)
    if len(merged) < 2:
        return None
    first = [index[0] for index in merged.values()]
    return Item(
        str(row["id"]),
        tuple(messages),
        tuple(merged),
        tuple(" + ".join(dict.fromkeys(models[i] for i in index)) for index in merged.values())
        if models
        else (),
        tuple(row["ranks"][i] for i in first) if practice else (),
        str(row.get("guideline") or ""),
        tuple(row["reasons"][i] for i in first) if practice and "reasons" in row else (),
        tuple(float(row["crowd"][i]) for i in first) if row.get("crowd") else (),
        str(row.get("repeats") or ""),
    )


def pair_counts(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    """(pairs of answers ordered alike, pairs that both rank strictly)."""
    strict = [(i, j) for i, j in combinations(range(len(a)), 2) if a[i] != a[j] and b[i] != b[j]]
    return sum((a[i] < a[j]) == (b[i] < b[j]) for i, j in strict), len(strict)
