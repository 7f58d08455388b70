"""One PostgreSQL database for a class, in which the database itself keeps students apart.

`rlhf class init` makes the tables, a role for each student, and the assignment: `shared` items go to
everyone, to measure agreement, and each other item to a few. Students connect as themselves. Row-level
security lets them see and add only rows of their own name, and nobody can change or delete a row; which
model wrote an answer is kept in a column that students cannot read. The instructor reads all. What exactly
the database allows is in `protection`.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, UniqueConstraint, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL, make_url

from rlhf_utils.environment import CourseError, ranker_name
from rlhf_utils.ranking.agreement import agreement_table, progress_table
from rlhf_utils.ranking.feedback import practice_items, with_repeats
from rlhf_utils.ranking.items import make_item
from rlhf_utils.ranking.protection import (
    MOST_BYTES,
    add_students,
    change_password,
    clear_the_way,
    end_connections,
    protect,
    role_of,
)
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.ranking.store import RankingStore, guidelines

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,61}")

metadata = MetaData()
items = Table(
    "class_items",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("messages", JSON, nullable=False),
    Column("answers", JSON, nullable=False),
    Column("models", JSON, nullable=False),  # hidden from students
    Column("guideline", String(40), nullable=False),
)
assignments = Table(
    "class_assignments",
    metadata,
    Column("ranker", String(120), primary_key=True),
    Column("item", String(200), primary_key=True),
    Column("place", Integer, nullable=False),
    UniqueConstraint("ranker", "place"),
)


def assign(
    ids: Sequence[str],
    students: Sequence[str],
    rankers: int,
    shared: int,
    there: dict[str, list[str]] | None = None,
) -> dict[str, list[str]]:
    """Which items each student ranks, in order: `shared` ones first, then so that each other item has
    `rankers`.

    The loads of two students differ by one item at most. What is `there`, by student, stays; who comes later
    gets as much as the others, of what fewest rank.
    """
    if not 1 <= rankers <= len(students):
        raise CourseError(
            f"Each item needs 1 to {len(students)} rankers, not {rankers}, since there are {len(students)} "
            "students."
        )
    if not 0 <= shared <= len(ids):
        raise CourseError(f"There are {len(ids)} items, so {shared} cannot be shared. Give 0 to {len(ids)}.")
    there = there or {}
    plan = {s: list(there.get(s, ())) for s in students}
    for own in plan.values():
        own += [item for item in ids[:shared] if item not in own]
    holders = {item: {s for s, own in (there | plan).items() if item in own} for item in ids[shared:]}

    def give(item: str, student: str) -> None:
        plan[student].append(item)
        holders[item].add(student)

    for item in ids[shared:]:
        for _ in range(rankers - len(holders[item])):
            free = [s for s in students if s not in holders[item]]
            if free:
                give(item, min(free, key=lambda s: len(plan[s])))  # of equals the first
    usual = min(map(len, there.values()), default=0)
    for student in (s for s in students if s not in there):  # who came later works as much as the others
        while len(plan[student]) < usual and (others := [i for i in holders if student not in holders[i]]):
            give(min(others, key=lambda i: len(holders[i])), student)
    return plan


def check_students(names: Sequence[str]) -> list[str]:
    names = [n.strip() for n in names if n.strip()]
    for i, name in enumerate(names, 1):
        if (
            not NAME.fullmatch(name)
            or name.lower().startswith(("pg_", "rlhf_"))
            or name in ("postgres", "public", "none")
        ):
            raise CourseError(
                f"Student {i}: {name!r} cannot be a name in the database. Use letters, digits and . _ @ + "
                "-, 62 at most."
            )
        if [n.lower() for n in names].count(name.lower()) > 1:  # a JupyterHub makes names lower case
            raise CourseError(f"The student {name!r} is listed twice (upper and lower case count as one).")
    if not names:
        raise CourseError("There are no students. Give a file with one name a line.")
    return names


def init_class(
    url: str,
    students: Sequence[str],
    rows: Sequence[dict],
    rankers: int = 2,
    shared: int = 10,
    guideline: str = "1",
    keep: Callable[[dict[str, str]], None] = lambda passwords: None,
) -> dict[str, str]:
    """Make or extend a class's database; returns the passwords of new students.

    `url` is an administrator's. Run again to add students or items: roles, rankings and assignments that
    are there stay. `keep` stores the passwords; if it fails, nothing is changed in the database: there they
    cannot be read again.
    """
    if make_url(url).get_backend_name() != "postgresql":
        raise CourseError(
            "A class needs PostgreSQL, which keeps students apart: "
            "postgresql+psycopg://ADMIN@HOST/NAME. If you rank alone, you need no `class`."
        )
    names = check_students(students)
    queue = item_rows(rows, guideline)
    assign([row["id"] for row in queue], names, rankers, min(shared, len(queue)))  # or says what is wrong
    store = RankingStore(url)

    def work() -> dict[str, str]:
        with store.engine.begin() as connection:
            clear_the_way(connection)
            metadata.create_all(connection)
            protect(connection)
            passwords = add_students(connection, names)
            connection.execute(insert(items).on_conflict_do_nothing(), queue)
            there: dict[str, list[str]] = {}
            for row in connection.execute(select(assignments).order_by(assignments.c.place)):
                there.setdefault(row.ranker, []).append(row.item)
            plan = assign([row["id"] for row in queue], names, rankers, min(shared, len(queue)), there)
            for name, ids in plan.items():
                had = there.get(name, [])
                fresh = [
                    {"ranker": name, "item": item, "place": len(had) + k}
                    for k, item in enumerate(ids[len(had) :])
                ]
                if fresh:
                    connection.execute(assignments.insert(), fresh)
            if passwords:
                keep(passwords)  # before the roles are there for good
            return passwords

    return store._attempt(work)


def item_rows(rows: Sequence[dict], guideline: str) -> list[dict]:
    """What stands in the database of the prompts whose answers differ; a CourseError if there are none."""
    made = [item for row in rows if (item := make_item(row))]
    if not made:
        raise CourseError("There is nothing to rank: give prompts with 2 to 9 different answers each.")
    for item in made:
        if not storable([*item.messages, *item.answers]):
            raise CourseError(
                f"The prompt {item.id!r} holds a NUL character, half of a surrogate pair, or more than "
                f"{MOST_BYTES // 1_000_000} MB, which the database cannot keep. Remove it."
            )
    return [
        {
            "id": item.id,
            "messages": list(item.messages),
            "answers": list(item.answers),
            "models": list(item.models),
            "guideline": guideline,
        }
        for item in made
    ]


def storable(texts: Sequence[object]) -> bool:
    """Whether PostgreSQL's JSON can hold these texts, and a row with them."""
    try:
        written = json.dumps(texts, ensure_ascii=False)
        size = len(json.dumps(texts).encode("utf-8")) if written.encode("utf-8") else 0
    except UnicodeEncodeError:
        return False
    # A NUL is written so, and a backslash before it as two.
    return not re.search(r"(?<!\\)(\\\\)*\\u0000", written) and size < MOST_BYTES


def reset_password(url: str | URL, student: str, keep: Callable[[dict[str, str]], None]) -> None:
    """Give a student another password; `keep` stores it, and if it fails, the old one stays."""
    store = RankingStore(url)

    def work() -> None:
        with store.engine.begin() as connection:
            keep({student: change_password(connection, student)})
        with store.engine.begin() as connection:
            end_connections(connection, student)

    store._attempt(work)


def write_passwords(url: str | URL, passwords: dict[str, str], path: Path) -> None:
    """Lines for each student's `~/.pgpass` (HOST:PORT:DATABASE:USER:PASSWORD), in a file for your eyes alone.

    A student's older line gives way to the new one. Raises CourseError if the file cannot be written.
    """
    url = make_url(url)
    where = f"{(url.host or 'localhost').replace(':', chr(92) + ':')}:{url.port or 5432}:{url.database}:"
    lines = {f"{where}{role_of(name, url.database)}:": password for name, password in passwords.items()}
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is not a regular file")
        old = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = [line for line in old if not line.startswith(tuple(lines))]
        fresh = [start + password for start, password in lines.items()]
        partial = path.with_name(path.name + ".new")
        partial.unlink(missing_ok=True)
        made = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)  # never through another's link
        with open(made, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in [*kept, *fresh])
            file.flush()
            os.fsync(made)
        os.replace(partial, path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text, or its name is not valid"
        raise CourseError(
            f"The passwords cannot be written to {path} ({why}), so nothing was changed in the database. "
            "Name another file with --passwords."
        ) from None


def class_session(url: str | URL | None = None, seed: int = 0) -> RankingSession:
    """A student's session over the items assigned to them; the name is that of the database's user."""
    store = RankingStore(url)
    if store.engine.dialect.name != "postgresql":
        raise CourseError(
            "This is not a class database. Set RLHF_RANKINGS to the URL that your instructor gave you."
        )
    name = (store.engine.url.username or ranker_name()).removesuffix(f"@{store.engine.url.database}")

    def work():
        with store.engine.connect() as connection:
            query = select(items.c.id, items.c.messages, items.c.answers, items.c.guideline).join(
                assignments, assignments.c.item == items.c.id
            )
            return [
                dict(row)
                for row in connection.execute(
                    query.where(assignments.c.ranker == name).order_by(assignments.c.place)
                ).mappings()
            ]

    rows = store._attempt(work)
    if not rows:
        raise CourseError(
            f"Nothing is assigned to {name!r} yet. Ask your instructor to run: rlhf class init."
        )
    return RankingSession(rows, name, store, seed, guideline=rows[0]["guideline"])


def open_session(rows: Sequence[dict]) -> RankingSession:
    """What chapter 04 shows: in a class the items assigned to you, else practice and `rows`, two of them
    twice; it goes on where you left.
    """
    store = RankingStore()
    if store.engine.dialect.name == "postgresql":
        return class_session()
    rows, practice = with_repeats(rows), practice_items()
    return RankingSession(rows, ranker_name(), store, guideline=guidelines()[0], practice=practice)


def class_rows(store: RankingStore) -> list[dict]:
    """All latest rankings as the instructor sees them, with the models that wrote the answers.

    What is no ranking is left out, and named in `store.skipped`.
    """

    def work():
        with store.engine.connect() as connection:
            return {
                row["id"]: (row["answers"], row["models"])
                for row in connection.execute(select(items)).mappings()
            }

    written = store._attempt(work)
    rows = store.latest()
    for row in rows:
        answers, models = written.get(row["item"], ([], []))
        if answers == row["answers"]:
            row["models"] = models
    return rows


def class_status(url: str | URL) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(progress by student with the number assigned, agreement on shared items), for the instructor."""
    store = RankingStore(url)

    def work():
        with store.engine.connect() as connection:
            return list(connection.execute(select(assignments.c.ranker)).scalars())

    assigned = pd.Series(store._attempt(work)).value_counts()
    progress = (
        progress_table(store.latest())
        .set_index("ranker")
        .drop(columns=["ties"])
        .reindex(sorted(assigned.index))
    )
    progress.insert(0, "assigned", assigned.reindex(progress.index))
    for column in ("ranked", "skipped"):
        progress[column] = progress[column].fillna(0).astype(int)
    return progress, agreement_table(store.ranked())
