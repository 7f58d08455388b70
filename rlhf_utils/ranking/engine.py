"""A connection to the database of rankings: SQLite, or PostgreSQL by a URL."""

from pathlib import Path

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from rlhf_utils.environment import CourseError, ranker_name


def make_engine(url: str | URL, patience: float = 30.0) -> Engine:
    """An engine that opens a connection per operation: widget callbacks may run on another thread."""
    try:
        url = make_url(url)
        if {"user", "password", "passfile"} & set(url.query):  # they would be shown wherever the address is
            raise CourseError(
                "The database URL has its user or password after a question mark. Write "
                "postgresql+psycopg://USER@HOST/NAME, and put the password into ~/.pgpass."
            )
        if url.get_backend_name() == "postgresql" and not url.username:
            # Students connect as themselves; the password is in ~/.pgpass.
            url = url.set(username=f"{ranker_name()}@{url.database}")
        options = {"timeout": patience} if url.get_backend_name() == "sqlite" else {"connect_timeout": 10}
        engine = create_engine(url, poolclass=NullPool, connect_args=options, hide_parameters=True)
    except (ArgumentError, ValueError):
        raise CourseError(
            "The database URL cannot be read. It looks like sqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME."
        ) from None
    except ModuleNotFoundError as error:
        raise CourseError(
            f"The driver for {url.get_backend_name()} is missing ({error.name}). Install it with: pip "
            "install 'psycopg[binary]'."
        ) from None
    if url.get_backend_name() == "sqlite":

        @event.listens_for(engine, "connect")
        def _(connection, record):
            connection.isolation_level = None  # we begin transactions ourselves
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")  # acknowledged means: on the disk

        @event.listens_for(engine, "begin")
        def _(connection):
            # Who will write waits for their turn at once; who only reads waits for nobody.
            writes = connection.get_execution_options().get("writes")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def make_folder(url: URL) -> None:
    """For SQLite's file, where there is none yet."""
    if url.database and not url.database.startswith((":memory:", "file:")):
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CourseError(
                f"The folder for {url.database} cannot be made: {error.strerror}. Choose another place."
            ) from None
