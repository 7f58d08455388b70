"""A student with a database's client of their own, against the class's PostgreSQL."""

import json
import stat
import threading
import time

import pytest
from conftest import to_rank

from rlhf_utils.environment import CourseError
from rlhf_utils.ranking.classroom import (
    class_rows,
    class_session,
    class_status,
    init_class,
    reset_password,
    write_passwords,
)
from rlhf_utils.ranking.store import RankingStore

pytestmark = pytest.mark.attack
ROWS = to_rank(12)


def role_url(postgres, admin: str, student: str, password: str) -> str:
    database = admin.rsplit("/", 1)[1]
    return postgres.url(f"{student}%40{database}", password, database)


@pytest.fixture(scope="module")
def room(postgres):
    """(administrator's URL, URL by student) of a class in which ada and Bob-2 have ranked one item each."""
    admin = postgres.database()
    passwords = init_class(admin, ["ada", "Bob-2", "cy"], ROWS, rankers=1, shared=0)
    urls = {student: role_url(postgres, admin, student, word) for student, word in passwords.items()}
    for student in ("ada", "Bob-2"):
        session = class_session(urls[student])
        session.rank(sorted(session.answers))
        session.submit()
    return admin, urls


def forged(extra: str = "", value: str = "", **changed: str) -> str:
    """SQL that adds a ranking of ada's, true but for what is `changed`. Hers are p0, p3, p6 and p9."""
    row = {
        "ranker": "'ada'",
        "key": "'forged'",
        "item": "'p3'",
        "action": "'rank'",
        "ranks": "'[1, 2, 3]'",
        "messages": """'[{"role": "user", "content": "Question 3?"}]'""",
        "answers": """'["one 3", "two 3", "three 3"]'""",
        "models": "'[]'",
        "shown": "'[0, 1, 2]'",
        "seconds": "1",
        "guideline": "'1'",
        "practice": "false",
        "created": "''",
    } | changed
    if extra:
        row[extra] = value
    return f"INSERT INTO rankings ({', '.join(row)}) VALUES ({', '.join(row.values())})"


ATTACKS = {
    "read another's rows": "SELECT * FROM rankings WHERE ranker <> 'ada'",
    "copy another's rows": "COPY (SELECT * FROM rankings WHERE ranker <> 'ada') TO STDOUT",
    "copy the table": "COPY rankings TO STDOUT",
    "read what wrote an answer": "SELECT models FROM class_items",
    "read all of the items": "SELECT * FROM class_items",
    "read items of others": "SELECT id FROM class_items WHERE id NOT IN (SELECT item FROM class_assignments)",
    "read another's assignment": "SELECT * FROM class_assignments WHERE ranker <> 'ada'",
    "change a row": "UPDATE rankings SET ranks = '[1, 1, 1]'",
    "change another's row": "UPDATE rankings SET ranks = '[1, 1, 1]' WHERE ranker = 'Bob-2'",
    "delete": "DELETE FROM rankings",
    "truncate": "TRUNCATE rankings",
    "forge": "INSERT INTO rankings (ranker, key, item, action, messages, answers, models, shown, seconds, "
    "guideline, practice, created) "
    "VALUES ('Bob-2', 'f', 'p0', 'skip', '[]', '[]', '[]', '[]', 1, '1', false, '')",
    "replace another's row": "INSERT INTO rankings (ranker, key, item, action, messages, answers, models, "
    "shown, seconds, guideline, practice, created) "
    "VALUES ('Bob-2', 'f', 'p0', 'skip', '[]', '[]', '[]', '[]', 1, '1', false, '') "
    "ON CONFLICT (ranker, key) DO UPDATE SET action = 'skip'",
    "choose a row's number": "INSERT INTO rankings (id, ranker, key, item, action, messages, answers, "
    "models, shown, seconds, guideline, practice, created) "
    "VALUES (1, 'ada', 'f', 'p0', 'skip', '[]', '[]', '[]', '[]', 1, '1', false, '')",
    "assign to oneself": "INSERT INTO class_assignments VALUES ('ada', 'p11', 99)",
    "switch row security off": "ALTER TABLE rankings DISABLE ROW LEVEL SECURITY",
    "go around row security": "SET row_security = off;; SELECT * FROM rankings",
    "add a policy": "CREATE POLICY mine ON rankings USING (true)",
    "become the owner": 'SET ROLE "rlhf_owner@{db}"',
    "become another": 'SET ROLE "Bob-2@{db}"',
    "become another session": "SET SESSION AUTHORIZATION postgres",
    "grant oneself": 'GRANT "rlhf_owner@{db}" TO "ada@{db}"',
    "become superuser": 'ALTER ROLE "ada@{db}" SUPERUSER',
    "bypass by attribute": 'ALTER ROLE "ada@{db}" BYPASSRLS',
    "make a role": "CREATE ROLE evil",
    "change another's password": """ALTER ROLE "Bob-2@{db}" PASSWORD 'x'""",
    "make a table": "CREATE TABLE evil (x int)",
    "make a temporary table": "CREATE TEMP TABLE evil (x int)",
    "make a function": "CREATE FUNCTION evil() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "make a schema": "CREATE SCHEMA evil",
    "drop the table": "DROP TABLE rankings",
    "lock others out": "BEGIN;; LOCK TABLE rankings IN ACCESS EXCLUSIVE MODE",
    "read passwords": "SELECT * FROM pg_authid",
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "change the version": "UPDATE rankings_schema SET version = 2",
    "end another's connection": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = "
    "'postgres' AND pid <> pg_backend_pid()",
    "another's row under one's own name": forged(ranker="'Bob-2'"),
    "a row as the group of students": 'SET ROLE "rlhf_students@{db}";; ' + forged(ranker="'rlhf_students'"),
    "a row as nobody": forged(ranker="''"),
    "a row as the administrator": forged(ranker="'postgres'"),
    "an item that was not assigned": forged(item="'p0'"),
    "an item that does not exist": forged(item="'made up'"),
    "other answers than the item's": forged(answers="""'["mine", "yours", "theirs"]'"""),
    "another question than the item's": forged(messages="""'[{"role": "user", "content": "Mine?"}]'"""),
    "a model's name of one's own": forged(models="""'["ppo", "ppo", "ppo"]'"""),
    "another guideline": forged(guideline="'mine'"),
    "practice that would not count": forged(practice="true"),
    "ranks that are null": forged(ranks="'null'"),
    "ranks of another length": forged(ranks="'[1]'"),
    "ranks that are texts": forged(ranks="""'["1", "2", "3"]'"""),
    "ranks of 10^30": forged(ranks="'[1e30, 1, 2]'"),
    "half a rank": forged(ranks="'[1.5, 1, 2]'"),
    "a rank of nought": forged(ranks="'[0, 1, 2]'"),
    "nested ranks": forged(ranks="'[[1], 2, 3]'"),
    "ranks with a skip": forged(action="'skip'"),
    "an action of one's own": forged(action="'win'"),
    "seconds that are no number": forged(seconds="'NaN'"),
    "endless seconds": forged(seconds="'Infinity'"),
    "negative seconds": forged(seconds="-1"),
    "answers that are a number": forged(answers="'5'"),
    "answers that are an object": forged(answers="'{}'"),
    "shown that is a text": forged(shown="""'"x"'"""),
    "flags that are a number": forged(extra="flags", value="'7'"),
    "a megabyte of scores": forged(extra="scores", value="""('[' || repeat('1,', 500000) || '1]')::json"""),
    "a text of 3 MB": forged(messages="""('["' || repeat('x', 3000000) || '"]')::json"""),
    "make a large object": "SELECT lo_create(0)",
    "make a large object of bytes": "SELECT lo_from_bytea(0, 'x')",
    "import a file as a large object": "SELECT lo_import('/etc/passwd')",
    "list the server's folders": "SELECT pg_ls_dir('.')",
    "read the server's log": "SELECT pg_current_logfile(), pg_read_binary_file('log')",
    "reload the server": "SELECT pg_reload_conf()",
    "change the server": "ALTER SYSTEM SET log_statement = 'all'",
    "change the database": "ALTER DATABASE {db} SET work_mem = '1GB'",
    "leave the sequence behind": "SELECT setval('rankings_id_seq', 1000000)",
    "read the sequence": "SELECT last_value FROM rankings_id_seq",
    "a trigger": "CREATE TRIGGER t BEFORE INSERT ON rankings EXECUTE FUNCTION pg_catalog.suppress_redundant_"
    "updates_trigger()",
    "a rule": "CREATE RULE r AS ON INSERT TO rankings DO INSTEAD NOTHING",
    "an index": "CREATE INDEX spy ON rankings (ranks)",
    "a view": "CREATE VIEW spy AS SELECT * FROM rankings",
    "an extension": "CREATE EXTENSION dblink",
    "a language": "CREATE LANGUAGE plpython3u",
    "a comment": "COMMENT ON TABLE rankings IS 'mine'",
    "give the table away": 'ALTER TABLE rankings OWNER TO "ada@{db}"',
    "take one's limit away": 'ALTER ROLE "ada@{db}" CONNECTION LIMIT -1',
    "rename oneself": 'ALTER ROLE "ada@{db}" RENAME TO "Bob-3@{db}"',
    "statistics of what others wrote": "SELECT most_common_vals FROM pg_stats WHERE tablename = 'rankings'",
    "what others are asking": "SELECT query FROM pg_stat_activity WHERE usename <> "
    "session_user AND query NOT IN ('<insufficient privilege>', '')",
    "a function that runs as its owner": "CREATE FUNCTION evil() RETURNS int LANGUAGE sql SECURITY "
    "DEFINER AS 'SELECT 1'",
    "an anonymous block that deletes": "DO $$ BEGIN DELETE FROM rankings; END $$",
    "a cursor on others' rows": "BEGIN;; DECLARE c CURSOR FOR SELECT * FROM rankings WHERE ranker <> 'ada';; "
    "FETCH ALL FROM c",
    "a prepared statement on others' rows": "PREPARE p AS SELECT * FROM rankings WHERE ranker <> 'ada';; "
    "EXECUTE p",
    "a function that looks before the rule": "SELECT * FROM rankings WHERE ranker <> 'ada' AND "
    "1 / (length(ranker) - 5) < 9",
    "merge into another's row": "MERGE INTO rankings r USING (VALUES (1)) v(x) ON r.ranker = 'Bob-2' WHEN "
    "MATCHED THEN DELETE",
    "lock another's row": "SELECT * FROM rankings WHERE ranker = 'Bob-2' FOR UPDATE",
    "copy rows in as another": "COPY rankings (ranker) FROM STDIN",
    "copy a file in": "COPY rankings FROM '/etc/passwd'",
    "export a snapshot for replication": "CREATE PUBLICATION spy FOR TABLE rankings",
    "a replication slot": "SELECT pg_create_physical_replication_slot('spy')",
    "stop the server's backup": "SELECT pg_switch_wal()",
}

# No privilege, no such thing for you, no row of yours, or no sound row.
REFUSED = ("42501", "42704", "0LP01", "23514", "0A000", "58P01")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_database_refuses(room, attack):
    """Refused, or answered with nothing of others; no row has changed."""
    import psycopg

    admin, urls = room
    before = json.dumps(RankingStore(admin).rows())
    found = []
    with psycopg.connect(urls["ada"].replace("+psycopg", ""), autocommit=True) as connection:
        try:
            *first, statement = ATTACKS[attack].replace("{db}", admin.rsplit("/", 1)[1]).split(";; ")
            for before_it in first:
                connection.execute(before_it)
            if statement.startswith("COPY") and "STDOUT" in statement:
                with connection.cursor().copy(statement) as copy:
                    found = [row for row in copy.rows() if "ada" not in row]
            else:
                cursor = connection.execute(statement)
                found = cursor.fetchall() if cursor.description else ["it went through"]
        except psycopg.Error as error:
            assert error.sqlstate in REFUSED, error
    assert found == []
    assert json.dumps(RankingStore(admin).rows()) == before


# Each takes longer where a guess about somebody else's row is right, if conditions are tried before the rule.
CLOCKS = {
    "a wait after a guess": "FROM rankings WHERE ranker = '{who}' AND pg_sleep(0.4) IS NOT NULL",
    "a guess at who ranked": "FROM rankings WHERE CASE WHEN ranker = '{who}' THEN {wait} END",
    "a guess at the item": "FROM rankings WHERE CASE WHEN item = '{item}' THEN {wait} END",
    "a guess at the time spent": "FROM rankings WHERE CASE WHEN seconds < {far} THEN {wait} END",
    "a guess at the ranks": "FROM rankings WHERE CASE WHEN ranks::text LIKE '[{rank}%' THEN {wait} END",
    "a guess at who has what": "FROM class_assignments WHERE CASE WHEN ranker = '{who}' THEN {wait} END",
    "a guess at an item": "FROM class_items WHERE CASE WHEN id = '{item}' THEN {wait} END",
    "a guess in an order": "FROM rankings ORDER BY CASE WHEN ranker = '{who}' THEN {wait} END",
}
WAIT = {"wait": "pg_sleep(0.4) IS NOT NULL"}
RIGHT = {"who": "Bob-2", "item": "p1", "far": "1e9", "rank": ""}
WRONG = {"who": "Nobody", "item": "p99", "far": "-1", "rank": "x"}


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_clock_tells_a_student_nothing_of_others(room, clock):
    """The student cy sees no ranking. A guess that is right for somebody else's row takes as long as one that
    is wrong: in a class's database no function is marked as leakproof, so the rule comes before any condition
    of the student's own.
    """
    import psycopg

    admin, urls = room
    assert RankingStore(admin).ranked("Bob-2")[0]["item"] == "p1"  # there is something to be told
    took = []
    with psycopg.connect(urls["cy"].replace("+psycopg", ""), autocommit=True) as connection:
        for guess in (RIGHT, WRONG):
            started = time.monotonic()
            try:
                connection.execute(f"SELECT 1 {CLOCKS[clock].format(**guess, **WAIT)}")
            except psycopg.Error as error:
                assert error.sqlstate in REFUSED, error
            took.append(time.monotonic() - started)
    assert abs(took[0] - took[1]) < 0.2


def test_what_the_attacks_change_is_what_fails(room, postgres):
    """The same row without a change is accepted: the attacks above fail for what they change."""
    import psycopg

    admin = postgres.database()
    word = init_class(admin, ["ada", "Bob-2", "cy"], ROWS, rankers=1, shared=0)["ada"]
    with psycopg.connect(role_url(postgres, admin, "ada", word).replace("+psycopg", "")) as connection:
        connection.execute(forged())
    assert [r["key"] for r in RankingStore(admin).ranked("ada")] == ["forged"]


def test_whatever_an_honest_student_ranks_is_accepted(postgres):
    """Equal answers, unicode, 100 kB, ties, skips, a changed mind, and items by two guidelines."""
    admin = postgres.database()
    odd = [
        ["same", "same", "other"],
        ["na\u00efve \u65e5\u672c\u8a9e \U0001f642", "\u202eback", "\x1b[2J"],
        ["\u65e5" * 100_000, "b" * 100_000],
        [" ", "  ", '{"a": 1.0}', "'; --", "null", "\\", "1e5", "\t\n", "\u2028"],
    ]
    rows = [ROWS[i] | {"answers": answers, "models": []} for i, answers in enumerate(odd)]
    word = init_class(admin, ["ada"], rows[:2], rankers=1, shared=0, guideline="1")["ada"]
    init_class(admin, ["ada"], rows, rankers=1, shared=0, guideline="2")
    session = class_session(role_url(postgres, admin, "ada", word))
    for _ in rows:
        session.rank([set(session.answers)] if session.place % 2 else sorted(session.answers))
        session.submit()
    session.undo()
    session.skip()
    store = RankingStore(admin)
    assert session.finished and len(store.rows()) == 5 and store.skipped == []
    assert [r["guideline"] for r in sorted(store.latest(), key=lambda r: r["item"])] == ["1", "1", "2", "2"]


def test_a_key_that_somebody_else_has_says_nothing(room, postgres):
    """Keys are unique for each student: a clash would tell that a row is there."""
    import psycopg

    admin, urls = room
    key = next(r["key"] for r in RankingStore(admin).rows() if r["ranker"] == "Bob-2")
    with psycopg.connect(urls["ada"].replace("+psycopg", "")) as connection:
        connection.execute(forged(key=f"'{key}'"))
        connection.rollback()


def test_a_name_too_long_for_the_server_is_refused(postgres):
    """Names of roles end after 63 bytes, and two that begin alike would be one."""
    with pytest.raises(CourseError, match="too long"):
        init_class(postgres.database(), ["x" * 50], ROWS, rankers=1, shared=0)


def test_a_class_set_up_again_is_as_protected_as_before(room, postgres):
    """Constraints and rules are taken away and made anew."""
    admin, urls = room
    init_class(admin, ["ada", "Bob-2", "cy"], ROWS, rankers=1, shared=0)
    with pytest.raises(CourseError, match="row-level security|permission denied"):
        RankingStore(urls["cy"]).add(
            dict(ROWS[0], ranker="ada", item="p0", action="skip", models=[]) | {"id": 1}
        )


def test_what_the_printed_address_says_works_for_a_student(postgres, rlhf, tmp_path, monkeypatch):
    """With the line for `~/.pgpass` and the address as printed, and nothing else."""
    admin = postgres.database()
    (tmp_path / "names").write_text("ada\n")
    (tmp_path / "items").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    words = ("--students", "names", "--items", "items", "--rankers", "1", "--passwords", "pgpass")
    said = rlhf("class", "init", "--db", admin, *words, check=0).stdout
    address = said.split("RLHF_RANKINGS=")[1].split()[0]
    assert "***" not in address and "course@" not in address
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    monkeypatch.setenv("RLHF_RANKINGS", address)
    session = class_session()
    session.skip()
    assert [r["ranker"] for r in RankingStore(admin).latest()] == ["ada"]


def test_a_lost_password_is_given_anew_and_the_old_one_is_void(postgres, rlhf, tmp_path):
    """What was connected with the old one is ended; a file that cannot be written changes nothing."""
    admin = postgres.database()
    old = init_class(admin, ["ada", "bob"], ROWS, rankers=1, shared=0)
    held = RankingStore(role_url(postgres, admin, "ada", old["ada"])).engine.connect()
    rlhf("class", "reset-password", "--db", admin, "--student", "ada", "--passwords", "new", check=0)
    file = tmp_path / "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    new = file.read_text().strip().rsplit(":", 1)[1]
    RankingStore(role_url(postgres, admin, "ada", new))
    with pytest.raises(CourseError, match="password"):
        RankingStore(role_url(postgres, admin, "ada", old["ada"]), patience=0.5)
    with pytest.raises(Exception, match="terminat|closed"):
        held.exec_driver_sql("SELECT 1")
    RankingStore(role_url(postgres, admin, "bob", old["bob"]))
    assert (
        "no student 'eve'"
        in rlhf("class", "reset-password", "--db", admin, "--student", "eve", check=2).stderr
    )
    with pytest.raises(CourseError, match="cannot be written"):
        reset_password(admin, "ada", lambda found: write_passwords(admin, found, tmp_path))
    RankingStore(role_url(postgres, admin, "ada", new))  # a file that cannot be written changes nothing


def test_a_bad_row_from_an_older_database_is_named_and_left_out(postgres, rlhf):
    """What the constraint refuses today may stand there from yesterday."""
    import psycopg

    admin = postgres.database()
    init_class(admin, ["ada", "bob"], ROWS, rankers=1, shared=0)
    with psycopg.connect(admin.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("ALTER TABLE rankings DROP CONSTRAINT sound_row")
        for k, change in enumerate(
            ({"ranks": "'null'"}, {"answers": "'5'"}, {"seconds": "'NaN'"}, {"ranks": "'[1]'"}, {})
        ):
            connection.execute(forged(**{"key": f"'k{k}'"}, **change))
    said = rlhf("class", "status", "--db", admin, "--export", "all.jsonl", check=0).stdout
    assert said.count("of 'ada'") == 4 and "1 rankings written" in said
    init_class(admin, ["ada", "bob"], ROWS, rankers=1, shared=0)  # they are in nobody's way


def test_an_open_transaction_stops_nobody(postgres):
    """A student's lock, held for ever, delays neither the instructor nor the others for long."""
    import psycopg

    admin = postgres.database()
    words = init_class(admin, ["ada", "bob"], ROWS, rankers=1, shared=0)
    url = role_url(postgres, admin, "ada", words["ada"])
    held = psycopg.connect(url.replace("+psycopg", ""))
    held.execute("SELECT count(*) FROM rankings")
    held.execute("SET idle_in_transaction_session_timeout = 0")  # a student can take this one away
    started, done = time.monotonic(), []

    def rank() -> None:
        time.sleep(1)  # when the instructor already waits
        session = class_session(role_url(postgres, admin, "bob", words["bob"]))
        session.skip()
        done.append(time.monotonic() - started)

    other = threading.Thread(target=rank)
    other.start()
    init_class(admin, ["ada", "bob", "cy"], ROWS, rankers=1, shared=0)
    took = time.monotonic() - started
    other.join()
    assert took < 25 and done[0] < 25
    held.close()


def test_classes_on_one_server_do_not_meet(postgres):
    """The same names, two databases; each password opens its own class alone."""
    first, second = postgres.database(), postgres.database()
    words = [init_class(admin, ["ada"], ROWS, rankers=1, shared=0) for admin in (first, second)]
    assert all(set(w) == {"ada"} for w in words) and words[0] != words[1]
    database = second.rsplit("/", 1)[1]
    with pytest.raises(CourseError, match="permission denied for database"):
        RankingStore(
            postgres.url(f"ada%40{first.rsplit('/', 1)[1]}", words[0]["ada"], database), patience=0.5
        )


@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_the_servers_other_databases_are_closed(postgres, room, database):
    """A student connects to the class and to nothing else."""
    import psycopg

    url = room[1]["ada"].rsplit("/", 1)[0].replace("+psycopg", "") + f"/{database}"
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(url)


def test_one_student_cannot_take_all_connections(postgres, room):
    """Five at once, and the others go on."""
    import psycopg

    url, held = room[1]["cy"].replace("+psycopg", ""), []
    with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        for _ in range(20):
            held.append(psycopg.connect(url))
    assert len(held) == 5 and class_session(room[1]["ada"]).items
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    "row",
    [
        {"answers": [1, 2]},
        {"answers": "ab"},
        {"answers": {"a": 1, "b": 2}},
        {"messages": "What?"},
        {"messages": [1]},
        {"messages": [{"role": "user"}]},
        {"models": "sft"},
        {"models": [1, 2, 3]},
        {"answers": ["x\0", "y", "z"]},
        {"answers": ["\ud800", "y", "z"]},
    ],
    ids=lambda row: f"{row}",
)
def test_items_that_would_trap_their_student_are_refused(postgres, row):
    """By name, before anything is made."""
    with pytest.raises(CourseError, match="prompt 'p0'"):
        init_class(postgres.database(), ["ada"], [ROWS[0] | row], rankers=1, shared=0)


def test_an_administrator_who_is_no_superuser_has_a_class_too(postgres):
    """Of one database, with the right to make roles; also if the roles are there."""
    import psycopg

    with psycopg.connect(
        postgres.url("postgres", "course", "postgres", driver=""), autocommit=True
    ) as server:
        server.execute("CREATE ROLE teacher LOGIN CREATEROLE PASSWORD 'chalk'")
        server.execute("CREATE DATABASE lesson OWNER teacher")
    admin = postgres.url("teacher", "chalk", "lesson")
    word = init_class(admin, ["ada"], ROWS, rankers=1, shared=0)["ada"]
    class_session(role_url(postgres, admin, "ada", word)).skip()
    assert set(init_class(admin, ["ada", "bob"], ROWS, rankers=1, shared=0)) == {"bob"}
    assert class_status(admin)[0].loc["ada", "skipped"] == 1 and len(class_rows(RankingStore(admin))) == 1


def test_a_connection_lost_at_the_end_of_init_loses_no_password(postgres, monkeypatch):
    """Roles are there or not, nobody knows; the file has what opens them, and init can be run again."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    admin, kept, cut = postgres.database(), {}, []

    def cut_once(connection) -> None:
        if cut:
            return
        cut.append("once")
        connection.exec_driver_sql("COMMIT")  # it arrives, and the answer does not
        connection.connection.dbapi_connection.close()

    RankingStore(admin)  # its tables, before connections are cut
    event.listen(Engine, "commit", cut_once)
    try:
        init_class(admin, ["ada"], ROWS, 1, 0, keep=kept.update)
    finally:
        event.remove(Engine, "commit", cut_once)
    assert cut and set(kept) == {"ada"}
    class_session(role_url(postgres, admin, "ada", kept["ada"])).skip()


def test_passwords_stand_nowhere_but_in_their_file(postgres, rlhf, tmp_path):
    """Not in what is printed, not in the server's log, not in an error."""
    admin = postgres.database()
    (tmp_path / "names").write_text("zoe\n")
    (tmp_path / "items").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    said = rlhf(
        "class", "init", "--db", admin, "--students", "names", "--items", "items", "--rankers", "1", check=0
    )
    word = (tmp_path / "class_passwords.txt").read_text().strip().rsplit(":", 1)[1]
    log = (postgres.folder / "log").read_text("utf-8", "replace")
    assert word not in said.stdout + said.stderr + log
    with pytest.raises(CourseError) as caught:
        RankingStore(role_url(postgres, admin, "zoe", word).replace("class", "elsewhere", 1), patience=0.2)
    assert word not in str(caught.value)


def test_a_password_on_the_command_line_is_warned_of_and_never_repeated(postgres, rlhf, monkeypatch, capsys):
    """Other users of the machine can see it there; not even Ctrl-C prints it once more."""
    from rlhf_utils.course import cli

    admin = postgres.database()
    init_class(admin, ["ada"], ROWS, 1, 0)
    said = rlhf("class", "status", "--db", admin, check=0)
    assert "~/.pgpass" in said.stderr and ":course@" not in said.stderr + said.stdout

    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "classroom", interrupted)
    monkeypatch.setattr(cli.os, "_exit", lambda status: None)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    cli.main(["class", "status", "--db", admin])
    again = capsys.readouterr().err
    assert f"--db {admin.replace(':course@', '@')}" in again and ":course@" not in again


@pytest.mark.parametrize("name", ["password", "user", "passfile"])
def test_a_password_behind_a_question_mark_is_refused(name):
    """libpq takes it there, and it would be shown wherever the address is."""
    with pytest.raises(CourseError, match="question mark") as caught:
        RankingStore(f"postgresql+psycopg://127.0.0.1:1/x?{name}=hidden", patience=0.1)
    assert "hidden" not in str(caught.value)


def test_last_years_password_does_not_open_this_years_class(postgres):
    """Users of a server outlive its databases: who is new in the class gets a new password."""
    import psycopg

    admin = postgres.database()
    name, server = admin.rsplit("/", 1)[1], postgres.url("postgres", "course", "postgres", driver="")
    old = init_class(admin, ["ada"], ROWS, 1, 0)["ada"]
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    new = init_class(admin, ["ada"], ROWS, 1, 0)["ada"]
    assert new != old and init_class(admin, ["ada"], ROWS, 1, 0) == {}
    with pytest.raises(CourseError, match="password"):
        RankingStore(role_url(postgres, admin, "ada", old), patience=0.5)
    class_session(role_url(postgres, admin, "ada", new)).skip()


def test_what_is_no_class_business_goes_into_a_file_of_ones_own(postgres, room, monkeypatch, tmp_path):
    """Chapters 04 and 08 rank other things, too: the class's database would refuse them."""
    from rlhf_utils.ranking.session import RankingSession
    from rlhf_utils.ranking.store import own_store

    monkeypatch.setenv("RLHF_RANKINGS", room[1]["cy"])
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    session = RankingSession(ROWS[:1], "cy", own_store(), guideline="match")
    session.rank("abc")
    session.submit()
    assert len(own_store().ranked("cy")) == 1 and (tmp_path / "rankings.sqlite").is_file()
    assert RankingStore(room[0]).latest("cy") == []
    monkeypatch.setenv("RLHF_RANKINGS", f"sqlite:///{tmp_path}/mine.sqlite")
    assert own_store().name.endswith("mine.sqlite")
