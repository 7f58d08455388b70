"""Who may do what in a class's PostgreSQL database: roles, row-level security, and what a row must be.

Roles belong to a whole server, so those of a class carry the name of its database: `ada@course` is the
student ada of the database `course`, and cannot enter another class's. Rules ask for `session_user`, which
no `SET ROLE` changes. A student's ranking must be of an item assigned to them, with that item's own texts.
"""

import secrets
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from rlhf_utils.environment import CourseError
from rlhf_utils.ranking.store import COLUMNS

TABLES = ("rankings", "rankings_schema", "class_items", "class_assignments")
CONNECTIONS = 5  # at once for a student: each operation opens one and closes it
MOST_BYTES = 10_000_000  # of a row's answers, and of its conversation, as JSON
NAME_BYTES = 63  # PostgreSQL cuts longer names
MINE = "session_user = {ranker} || '@' || current_database()"
ASSIGNED = (
    "EXISTS (SELECT 1 FROM class_items i JOIN class_assignments a ON a.item = i.id WHERE a.ranker = "
    "rankings.ranker AND i.id = rankings.item AND i.answers::jsonb = rankings.answers::jsonb AND "
    "i.messages::jsonb = rankings.messages::jsonb AND i.guideline = rankings.guideline)"
)
# Texts are checked one after the other: a length can be asked of an array alone.
SOUND_ROW = f"""
    CASE WHEN json_typeof(answers) <> 'array' THEN false
        WHEN json_array_length(answers) NOT BETWEEN 2 AND 9 THEN false
        WHEN jsonb_path_exists(answers::jsonb, 'strict $[*] ? (@.type() != "string")') THEN false
        WHEN action = 'skip' THEN coalesce(json_typeof(ranks), 'null') = 'null'
        WHEN action <> 'rank' OR coalesce(json_typeof(ranks), 'null') <> 'array' THEN false
        WHEN json_array_length(ranks) <> json_array_length(answers) THEN false
        ELSE NOT jsonb_path_exists(ranks::jsonb,
            'strict $[*] ? (@.type() != "number" || @ < 1 || @ > 9 || @.floor() != @)')
    END
    AND seconds >= 0 AND seconds < 1e9
    AND json_typeof(messages) = 'array' AND json_typeof(shown) = 'array' AND json_typeof(models) = 'array'
    AND coalesce(json_typeof(scores), 'null') IN ('null', 'array')
    AND coalesce(json_typeof(flags), 'null') IN ('null', 'array')
    AND octet_length(answers::text) < {MOST_BYTES} AND octet_length(messages::text) < {MOST_BYTES}
    AND octet_length(concat(ranks, scores, flags, shown, models)) < 100000
"""
# These read and write the server's memory of large objects, which is nobody's table.
LARGE_OBJECTS = (
    "lo_creat(integer)",
    "lo_create(oid)",
    "lo_from_bytea(oid, bytea)",
    "lo_open(oid, integer)",
    "lo_put(oid, bigint, bytea)",
)


def quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote_identifier(name)


def role_of(student: str, database: str) -> str:
    """The name by which a student of this class's database logs in."""
    return f"{student}@{database}"


def groups(database: str) -> tuple[str, str]:
    """(who owns the tables, who is a student) in this database. Neither can log in."""
    return f"rlhf_owner@{database}", f"rlhf_students@{database}"


def is_superuser(connection: Connection) -> bool:
    return connection.exec_driver_sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").scalar()


def _roles(connection: Connection) -> set[str]:
    return set(connection.exec_driver_sql("SELECT rolname FROM pg_roles").scalars())


def clear_the_way(connection: Connection) -> None:
    """Wait for nobody's open transaction: whose is older than ten seconds is no ranking on its way.

    Behind a lock that has to wait, all others would wait, too.
    """
    connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
    if is_superuser(connection):
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND "
            "right(usename, length(datname) + 1) = '@' || datname AND xact_start < now() - interval '10 s'"
        )


def protect(connection: Connection) -> None:
    """Everything is taken away first, so that running it again mends what was loosened."""
    name = connection.engine.url.database
    if len(f"rlhf_students@{name}".encode()) > NAME_BYTES:
        raise CourseError(f"The database's name {name!r} is too long for a class: 40 letters at most.")
    owner, students = (quoted(connection, role) for role in groups(name))
    database, there, run = quoted(connection, name), _roles(connection), connection.exec_driver_sql
    for role in groups(name):
        if role not in there:
            run(f"CREATE ROLE {quoted(connection, role)} NOLOGIN")
    if not is_superuser(connection):  # an administrator of this database alone acts as its owner
        run(f"GRANT {owner} TO CURRENT_USER")
        run(f"GRANT CREATE ON SCHEMA public TO {owner}")
    run(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")  # temporary tables, too
    run(f"GRANT CONNECT ON DATABASE {database} TO {owner}, {students}")
    run("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    run(f"GRANT USAGE ON SCHEMA public TO {owner}, {students}")
    if is_superuser(connection):
        _close_the_rest(connection)
    for table in TABLES:
        run(f"ALTER TABLE {table} OWNER TO {owner}")
        run(f"REVOKE ALL ON {table} FROM PUBLIC, {students}")
        run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        run(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")  # its owner, too
        for policy in ("instructors", "students_read", "students_add", "owner_all"):
            run(f"DROP POLICY IF EXISTS {policy} ON {table}")
        run(f"CREATE POLICY owner_all ON {table} TO {owner} USING (true) WITH CHECK (true)")
    run("ALTER TABLE rankings DROP CONSTRAINT IF EXISTS sound_row")
    run(f"ALTER TABLE rankings ADD CONSTRAINT sound_row CHECK ({SOUND_ROW}) NOT VALID")
    run(f"GRANT SELECT ON rankings, rankings_schema, class_assignments TO {students}")
    run(f"GRANT INSERT ({', '.join(COLUMNS)}) ON rankings TO {students}")
    run(f"GRANT SELECT (id, messages, answers, guideline) ON class_items TO {students}")
    mine = MINE.format(ranker="ranker")
    own = {
        "rankings": mine,
        "rankings_schema": "true",
        "class_assignments": mine,
        "class_items": "id IN (SELECT item FROM class_assignments WHERE " + mine + ")",
    }
    for table, condition in own.items():
        run(f"CREATE POLICY students_read ON {table} FOR SELECT TO {students} USING ({condition})")
    run(
        f"CREATE POLICY students_add ON rankings FOR INSERT TO {students} WITH CHECK ({mine} AND {ASSIGNED} "
        "AND models::text = '[]' AND NOT practice)"
    )


def _close_the_rest(connection: Connection) -> None:
    """Large objects, what the clock would tell, and the databases that every server has and that everyone may
    enter by default.
    """
    for function in LARGE_OBJECTS:
        connection.exec_driver_sql(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    # What PostgreSQL calls leakproof is tried before the rules, on everybody's rows: so `ranker = 'Bob' AND
    # pg_sleep(1) IS NOT NULL` told by the clock what Bob had ranked. In this database nothing is called so.
    connection.exec_driver_sql(
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proleakproof LOOP "
        "EXECUTE 'ALTER FUNCTION ' || f || ' NOT LEAKPROOF'; END LOOP; END $$"
    )
    there = connection.exec_driver_sql("SELECT datname FROM pg_database").scalars()
    for database in {"postgres", "template1"} & set(there):
        connection.exec_driver_sql(f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")


def new_password(connection: Connection, role: str) -> tuple[str, str]:
    """(a password, what the server gets of it): a SCRAM verifier, so that the password stands in no log."""
    password = secrets.token_urlsafe(12)
    server = connection.connection.dbapi_connection.pgconn
    return password, server.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def add_students(connection: Connection, students: Sequence[str]) -> dict[str, str]:
    """Roles for students who have none yet; returns their passwords."""
    database = connection.engine.url.database
    there, passwords = _roles(connection), {}
    group = quoted(connection, groups(database)[1])
    # Roles outlive a database: who is nobody's student yet gets another password than last year's.
    known = set(connection.exec_driver_sql("SELECT ranker FROM class_assignments").scalars())
    for student in students:
        role = role_of(student, database)
        if len(role.encode()) > NAME_BYTES:
            raise CourseError(
                f"The student's name {student!r} is too long: {NAME_BYTES} bytes at most, with @{database}."
            )
        name = quoted(connection, role)
        if role not in there or student not in known:
            passwords[student], verifier = new_password(connection, role)
            connection.exec_driver_sql(
                f"{'ALTER' if role in there else 'CREATE'} ROLE {name} LOGIN PASSWORD '{verifier}'"
            )
        connection.exec_driver_sql(f"GRANT {group} TO {name}")
        limits = {"statement_timeout": "60s", "idle_in_transaction_session_timeout": "60s"}
        connection.exec_driver_sql(f"ALTER ROLE {name} CONNECTION LIMIT {CONNECTIONS}")
        for setting, value in limits.items():
            connection.exec_driver_sql(f"ALTER ROLE {name} SET {setting} = '{value}'")
    return passwords


def change_password(connection: Connection, student: str) -> str:
    """Give a student of this class another password."""
    database = connection.engine.url.database
    role = role_of(student, database)
    if role not in _roles(connection):
        raise CourseError(f"There is no student {student!r} in {database}. Add them with: rlhf class init.")
    password, verifier = new_password(connection, role)
    connection.exec_driver_sql(f"ALTER ROLE {quoted(connection, role)} PASSWORD '{verifier}'")
    return password


def end_connections(connection: Connection, student: str) -> None:
    """Of a student, once another password holds: it is asked for at the beginning only."""
    if is_superuser(connection):
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            (role_of(student, connection.engine.url.database),),
        )
