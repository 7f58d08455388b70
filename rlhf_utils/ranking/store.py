"""Where rankings are kept: one SQLite file by default, PostgreSQL by a URL, the same table in both.

Rows are only ever added. A changed mind is a later row of the same ranker, item and guideline about the same
answers, and the latest one counts. A row carries a key made by the client, unique per ranker: so a submission
that is sent again, because nobody knows whether the first one arrived, is stored once.
"""

import json
import re
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError

from rlhf_utils.environment import DATA, CourseError, rankings_url, runs_folder, sqlite_url
from rlhf_utils.ranking.engine import make_engine, make_folder
from rlhf_utils.ranking.rows import check_row

VERSION = 1
metadata = MetaData()
rankings = Table(
    "rankings",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("ranker", String(120), nullable=False, index=True),
    Column("key", String(64), nullable=False),
    Column("item", String(200), nullable=False, index=True),
    Column("action", String(10), nullable=False),  # rank or skip
    Column("ranks", JSON),  # of `answers`: 1 is best, equal numbers are ties
    Column("scores", JSON),
    Column("flags", JSON),  # of `answers`, or null
    Column("messages", JSON, nullable=False),
    Column("answers", JSON, nullable=False),
    Column("models", JSON, nullable=False),  # which model wrote which answer
    Column("shown", JSON, nullable=False),  # position on the screen → index of the answer
    Column("seconds", Float, nullable=False),
    Column("guideline", String(40), nullable=False),
    Column("practice", Boolean, nullable=False),
    Column("created", String(40), nullable=False),
    UniqueConstraint("ranker", "key"),
)
schema = Table("rankings_schema", metadata, Column("version", Integer, primary_key=True))
# A database that says so will not come back by waiting.
HOPELESS = (
    "readonly",
    "read-only",
    "unable to open",
    "password",
    "does not exist",
    "not a database",
    "disk I/O",
    "is full",
    "too many connections for role",
)
COLUMNS = tuple(c.name for c in rankings.columns if c.name != "id")


class RankingStore:
    """Rankings in a database; every method opens and closes a connection of its own.

    `url` is any SQLAlchemy URL of SQLite or PostgreSQL; the default is `RLHF_RANKINGS` or
    `runs/rankings.sqlite`. `patience` is for how many seconds a locked or restarting database is waited
    for.
    """

    def __init__(self, url: str | URL | None = None, patience: float = 30.0):
        self.patience = patience
        self.engine = make_engine(url or rankings_url(), patience)
        if self.engine.dialect.name == "sqlite":
            make_folder(self.engine.url)
        self.name = self.engine.url.render_as_string(hide_password=True)
        self.skipped: list[str] = []  # what `rows` left out
        self.known: dict[tuple[str, str], dict] = {}  # all that was read or written here, by ranker and key
        self.notice = ""  # what a person should hear of; whoever shows it empties it
        self._attempt(self._prepare)

    def _prepare(self) -> None:
        with self.engine.connect() as connection:  # most often it is there, and nobody need be waited for
            found = self._version(connection)
        if found is None:
            with self.engine.execution_options(writes=True).begin() as connection:
                if self.engine.dialect.name == "postgresql":  # two first users: one waits for the other
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7474)")
                found = self._version(connection)
                if found is None:
                    metadata.create_all(connection)
                    connection.execute(schema.insert().values(version=VERSION))
                    found = VERSION
        self._check_version(found)

    def _check_version(self, found: int | None) -> None:
        if found != VERSION:
            raise CourseError(
                f"{self.name} has rankings of schema version {found}, this course writes version {VERSION}. "
                "Export them with the older version."
            )

    def _version(self, connection) -> int | None:
        """Which version of the tables is there; None if there are none yet."""
        if inspect(connection).has_table("rankings_schema"):
            return connection.execute(select(schema.c.version)).scalar()
        if inspect(connection).has_table("rankings"):
            raise CourseError(
                f"{self.name} has a table `rankings` that this course did not make. Choose another database."
            )
        return None

    def _attempt(self, work, *arguments):
        """Do `work`; while the database is away or locked, try again for `patience` seconds."""
        end, pause, gone, told = time.monotonic() + self.patience, 0.05, False, False
        while True:
            try:
                if gone:
                    self._make_anew()
                    gone = False
                return work(*arguments)
            except (OperationalError, InterfaceError) as error:
                reason = str(error.orig).strip().splitlines()[0]
                if not gone and time.monotonic() < end and self._is_gone(reason):
                    gone = True
                    continue
                if any(h in str(error.orig) for h in HOPELESS) or time.monotonic() > end:
                    raise CourseError(
                        f"The rankings could not be reached in {self.name}: {reason}. Nothing that "
                        "was acknowledged is lost; try again when this is fixed."
                    ) from None
                if pause == 1.0 and not told:  # after about two seconds
                    print(f"Waiting up to {self.patience:.0f} s for {self.name}: {reason}", flush=True)
                    told = True
                time.sleep(pause)
                pause = min(2 * pause, 1.0)
            except DatabaseError as error:
                reason = str(error.orig).strip().splitlines()[0]
                broken = "malformed" in reason or "not a database" in reason
                raise CourseError(
                    f"{self.name} refused: {reason}."
                    + " Move the file away and submit again; the session writes all it knows to a new one."
                    * broken
                ) from None
            except ValueError as error:  # JSON that somebody wrote by hand
                raise CourseError(f"{self.name} holds a row that cannot be read ({error}).") from None

    def _is_gone(self, reason: str) -> bool:
        """Whether SQLite's file, or its folder, was deleted since it was opened."""
        if self.engine.dialect.name != "sqlite" or not self.engine.url.database:
            return False
        no_folder = not Path(self.engine.url.database).parent.is_dir()
        return "no such table" in reason or ("unable to open" in reason and no_folder)

    def _make_anew(self) -> None:
        """SQLite's file was deleted: another one, with all that is known here."""
        make_folder(self.engine.url)
        self._prepare()
        # The latest of an item counts, so they go back in the order in which they were made.
        known = sorted(self.known.values(), key=lambda row: row["created"])
        rows = [{k: row[k] for k in COLUMNS} for row in known]
        if rows:
            with self.engine.execution_options(writes=True).begin() as connection:
                connection.execute(sqlite.insert(rankings).on_conflict_do_nothing(), rows)
        self.notice = f"{self.name} was gone; it was made again, with the {len(rows)} rankings known here."

    # -- writing ------------------------------------------------------------------------------------------
    def add(self, row: dict) -> dict:
        """Store a row (see `RankingSession.submit`) and return it with its `key` and `created`, once it is on
        the disk.
        """
        return self.add_all([row])[0]

    def add_all(self, rows: list[dict]) -> list[dict]:
        """Store rows in one transaction: all of them, or none."""
        for i, row in enumerate(rows, 1):
            check_row(row, f"row {i}")
        empty = {
            "models": [],
            "scores": None,
            "flags": None,
            "ranks": None,
            "seconds": 0.0,
            "guideline": "",
            "practice": False,
        }
        made = [
            empty
            | {
                "shown": list(range(len(r["answers"]))),
                "key": uuid.uuid4().hex,
                "created": datetime.now(UTC).isoformat(),
            }
            | r
            for r in rows
        ]
        made = [{k: r[k] for k in COLUMNS} for r in made]
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(rankings).on_conflict_do_nothing(index_elements=["ranker", "key"])

        def work():
            with self.engine.execution_options(writes=True).begin() as connection:
                self._check_version(connection.execute(select(schema.c.version)).scalar())
                connection.execute(statement, made)

        if made:
            self._attempt(work)
        self.known |= {(row["ranker"], row["key"]): row for row in made}
        return made

    # -- reading ------------------------------------------------------------------------------------------
    def rows(self, ranker: str | None = None) -> list[dict]:
        """All revisions, oldest first. What is no ranking is left out, and named in `skipped`."""
        query = select(rankings).order_by(rankings.c.id)
        if ranker is not None:
            query = query.where(rankings.c.ranker == ranker)

        def work():
            with self.engine.connect() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]

        found, good, self.skipped = self._attempt(work), [], []
        for row in found:
            try:
                check_row(row, f"row {row['id']} of {row['ranker']!r}")
                good.append(row)
            except CourseError as error:
                self.skipped.append(str(error))
        self.known |= {(row["ranker"], row["key"]): row for row in good}
        return good

    def latest(self, ranker: str | None = None) -> list[dict]:
        """The last revision of each ranker and item. A ranking of other answers, or by another guideline, is
        no revision: it stands beside the first. (In another order, answers are the same.)
        """
        found = {
            (row["ranker"], row["item"], row["guideline"], tuple(sorted(row["answers"]))): row
            for row in self.rows(ranker)
        }
        return sorted(found.values(), key=lambda row: row["id"])

    def ranked(self, ranker: str | None = None) -> list[dict]:
        """The latest rankings that train a reward model: neither skipped nor practice."""
        return [r for r in self.latest(ranker) if r["action"] == "rank" and not r["practice"]]

    def count(self) -> int:
        def work():
            with self.engine.connect() as connection:
                return connection.execute(select(func.count()).select_from(rankings)).scalar()

        return self._attempt(work)

    # -- files --------------------------------------------------------------------------------------------
    def export(self, path: Path | str, ranker: str | None = None) -> int:
        """Write all revisions as JSON Lines, with full ties; returns how many."""
        rows = self.rows(ranker)
        with open(path, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({k: v for k, v in row.items() if k != "id"}, ensure_ascii=False) + "\n")
        return len(rows)

    def load(self, path: Path | str) -> int:
        """Read what `export` wrote, all of it or nothing; rows that are there already are left alone."""
        path = Path(path)
        rows, before = [], self.count()
        try:
            # An answer may hold one of the other signs at which splitlines splits.
            lines = path.read_text("utf-8").split("\n")
        except OSError as error:
            raise CourseError(f"{path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise CourseError(f"{path} is not UTF-8 text (byte {error.start}).") from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise CourseError(
                        f"{path}, line {number} is not JSON ({error.msg}). Nothing was imported."
                    ) from None
                check_row(row, f"{path}, line {number}", "Nothing was imported.")
                rows.append(row)
        self.add_all(rows)
        return self.count() - before


def guidelines() -> tuple[str, str]:
    """(version, text) of the committed guidelines, `data/ranking/guidelines.md`."""
    text = (DATA / "ranking" / "guidelines.md").read_text("utf-8")
    named = re.search(r".*\bversion\s+(.+?)\s*$", text.partition("\n")[0], re.IGNORECASE)
    if named is None:
        raise CourseError(
            "The first line of data/ranking/guidelines.md has to end in “version” and a number or a name, "
            "since rankings are kept with it."
        )
    return named[1], text


def own_store() -> RankingStore:
    """Where rankings go that are no class's business: in a class a file of one's own, else where all go.

    A class's database takes rankings of what was assigned, and nothing else.
    """
    if make_engine(rankings_url()).url.get_backend_name() == "sqlite":
        return RankingStore()
    return RankingStore(sqlite_url(runs_folder() / "rankings.sqlite"))


def own_rankings(guideline: str = "") -> list[dict]:
    """People's latest rankings by a guideline (by the committed one if empty); none if there is no database
    yet.

    Rankings for other ends, such as a match between two models, carry other names there.
    """
    url = make_engine(rankings_url()).url
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        return []
    wanted = guideline or guidelines()[0]
    return [row for row in RankingStore(url).ranked() if row["guideline"] == wanted]
