"""What a row of rankings must be, whoever wrote it: a widget, a file, or a database's client."""

import json

from rlhf_utils.environment import CourseError

NEEDED = ("ranker", "item", "action", "messages", "answers")
TEXTS = ("ranker", "key", "item", "action", "guideline", "created")
LISTS = ("ranks", "scores", "flags", "models", "shown")
KINDS = dict.fromkeys(TEXTS, str) | dict.fromkeys(LISTS, list) | {"practice": bool, "seconds": int | float}


def check_row(row: dict, where: str, end: str = "") -> None:
    """Raise CourseError, naming `where`, if a row could not be a ranking of this course."""

    def fail(why):
        raise CourseError(f"{where}: {why}. {end}".strip())

    if not isinstance(row, dict):
        fail("not a JSON object")
    for name in NEEDED:
        if not row.get(name):
            fail(f"`{name}` is missing")
    unknown = set(row) - {*NEEDED, *KINDS, "id"}
    if unknown:
        fail(f"unknown column {sorted(unknown)[0]!r}")
    answers, messages, ranks = row["answers"], row["messages"], row.get("ranks")
    if (
        not isinstance(answers, list)
        or not all(isinstance(a, str) for a in answers)
        or not 2 <= len(answers) <= 9
    ):
        fail("`answers` must be 2 to 9 texts")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        fail("`messages` must be a list of messages")
    if row["action"] not in ("rank", "skip"):
        fail(f"`action` must be rank or skip, not {row['action']!r}")
    if row["action"] == "rank" and not (
        isinstance(ranks, list)
        and len(ranks) == len(answers)
        and all(type(r) is int and 1 <= r <= 9 for r in ranks)
    ):
        fail(f"`ranks` must be {len(answers)} whole numbers from 1 to 9")
    for name, kind in KINDS.items():
        value = row.get(name)
        if value is not None and not isinstance(value, kind):
            fail(f"`{name}` has a value of the wrong type: {value!r:.40}")
    if not 0 <= (row.get("seconds") or 0) < 1e9:  # also refuses what is not a number
        fail(f"`seconds` must be 0 or more, not {row['seconds']}")
    if isinstance(row.get("shown"), list) and sorted(map(str, row["shown"])) != sorted(
        map(str, range(len(answers)))
    ):
        fail("`shown` must name each answer's place once")
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError:
        fail("a text holds half of a surrogate pair")
