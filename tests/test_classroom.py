"""A class on a real PostgreSQL: what the database refuses, and that nothing acknowledged is lost."""

import json
import multiprocessing
import os
import threading
import time

import pytest
from conftest import to_rank

from rlhf_utils.environment import CourseError
from rlhf_utils.ranking.classroom import (
    assign,
    check_students,
    class_rows,
    class_session,
    class_status,
    init_class,
    write_passwords,
)
from rlhf_utils.ranking.store import RankingStore

ROWS = to_rank(12)


def test_everyone_gets_the_shared_items_and_each_other_item_its_rankers():
    plan = assign([f"p{i}" for i in range(25)], ["a", "b", "c", "d"], rankers=3, shared=5)
    assert all(
        ids[:5] == ["p0", "p1", "p2", "p3", "p4"] and len(ids) == len(set(ids)) for ids in plan.values()
    )
    assert all(sum(f"p{i}" in ids for ids in plan.values()) == 3 for i in range(5, 25))
    sizes = [len(ids) for ids in plan.values()]
    assert max(sizes) - min(sizes) <= 1


def test_who_comes_later_works_as_much_as_the_others_and_those_no_more():
    ids, names = [f"p{i}" for i in range(60)], [f"s{i}" for i in range(10)]
    first = assign(ids, names, rankers=2, shared=4)
    later = assign(ids, [*names, "late"], rankers=2, shared=4, there=first)
    assert all(later[name] == first[name] for name in names)
    assert later["late"][:4] == ids[:4] and len(later["late"]) == len(set(later["late"]))
    assert len(later["late"]) == min(map(len, first.values()))
    assert assign(ids, ["late"], rankers=1, shared=4, there=first)["late"] == later["late"]
    more = assign([*ids, "new"], [*names, "late"], rankers=2, shared=4, there=later)
    assert sum("new" in own for own in more.values()) == 2
    assert sum(map(len, more.values())) == sum(map(len, later.values())) + 2


@pytest.mark.parametrize("rankers, shared", [(0, 1), (5, 1), (1, 26), (1, -1)])
def test_assignments_that_cannot_be(rankers, shared):
    with pytest.raises(CourseError):
        assign([f"p{i}" for i in range(25)], ["a", "b", "c", "d"], rankers, shared)


NAMES = {
    "nobody": [],
    "a name of spaces": ["  "],
    "the same name twice": ["ada", "ada"],
    "the same name in capitals": ["ada", "Ada"],
    "a system's name": ["pg_x"],
    "the class's own name": ["rlhf_owner"],
    "the superuser's": ["postgres"],
    "everybody's": ["public"],
    "a name with SQL": ['a"; DROP ROLE x'],
    "a name with a quote": ["o'hara"],
    "a name with a backslash": ["a\\b"],
    "a name with a colon": ["a:b"],
    "a name with a NUL": ["a\0b"],
    "a name with a space": ["ada b"],
    "a name with an escape": ["\x1b[2J"],
    "a name that looks like another": ["\u0430da"],
    "a name in Chinese": ["\u540d\u524d"],
    "a name of 63 letters": ["x" * 63],
    "a path": ["../ada"],
}


@pytest.mark.attack
@pytest.mark.parametrize("attack", NAMES)
def test_names_that_cannot_be_students(attack):
    """Refused, before anything is made."""
    with pytest.raises(CourseError):
        check_students(NAMES[attack])


def test_a_class_needs_postgresql(tmp_path):
    with pytest.raises(CourseError, match="needs PostgreSQL"):
        init_class(f"sqlite:///{tmp_path}/r.sqlite", ["ada"], ROWS)


@pytest.fixture(scope="module")
def room(postgres):
    """(administrator's URL, URL by student) of a class in which ada and Bob-2 have ranked one item each."""
    admin = postgres.database()
    passwords = init_class(admin, ["ada", "Bob-2", "cy"], ROWS, rankers=2, shared=3)
    name = admin.rsplit("/", 1)[1]
    urls = {s: postgres.url(f"{s}%40{name}", password, name) for s, password in passwords.items()}
    for student in ("ada", "Bob-2"):
        session = class_session(urls[student])
        session.rank(sorted(session.answers))
        session.submit()
    return admin, urls


def test_a_student_ranks_what_was_assigned_and_goes_on_where_it_was_left(room):
    session = class_session(room[1]["ada"])
    assert session.progress()["done"] == 1 and session.item.id == "p1" and len(session.items) == 3 + 6
    assert session.item.models == ()  # nobody is told which model wrote what


def test_the_instructor_sees_all_with_models(room):
    admin, _ = room
    rows = class_rows(RankingStore(admin))
    assert {r["ranker"] for r in rows} == {"ada", "Bob-2"} and all(
        r["models"] == ["sft", "ppo", "sft"] for r in rows
    )
    progress, agreement = class_status(admin)
    assert (
        progress.loc["ada", "ranked"] == 1
        and progress.loc["cy", "ranked"] == 0
        and progress.loc["cy", "assigned"] == 9
    )
    assert list(agreement["items"]) == [1]


def test_again_adds_students_and_items_and_keeps_the_rest(postgres):
    admin = postgres.database()
    assert set(init_class(admin, ["dee", "eve"], ROWS[:4], rankers=1, shared=0)) == {"dee", "eve"}
    assert set(init_class(admin, ["dee", "eve", "fay"], ROWS, rankers=3, shared=0)) == {"fay"}
    progress, _ = class_status(admin)
    assert list(progress.assigned) == [12, 12, 12]


def test_a_wrong_password_is_not_printed(postgres, room):
    url = room[1]["ada"]
    wrong = url.replace(url.split(":")[2].split("@")[0], "guessed-it")
    with pytest.raises(CourseError) as caught:
        RankingStore(wrong, patience=0.5)
    assert "guessed-it" not in str(caught.value) and "password" in str(caught.value)


def test_the_user_of_a_hub_is_filled_in(postgres, room, monkeypatch):
    admin, urls = room
    password = urls["Bob-2"].split(":")[2].split("@")[0]
    monkeypatch.setenv("JUPYTERHUB_USER", "Bob-2")
    monkeypatch.setenv("PGPASSWORD", password)
    monkeypatch.setenv(
        "RLHF_RANKINGS", f"postgresql+psycopg://127.0.0.1:{postgres.port}/{admin.rsplit('/', 1)[1]}"
    )
    session = class_session()
    assert session.ranker == "Bob-2" and session.progress()["done"] == 1


def test_the_command_line_sets_up_a_class_and_says_how_far_it_is(postgres, rlhf, tmp_path):
    admin = postgres.database()
    (tmp_path / "names.txt").write_text("gus\nhal\n")
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    result = rlhf(
        "class", "init", "--db", admin, "--students", "names.txt", "--items", "items.jsonl", check=0
    )
    lines = (tmp_path / "class_passwords.txt").read_text().splitlines()
    names = [line.split(":")[3].split("@")[0] for line in lines]
    assert names == ["gus", "hal"] and (tmp_path / "class_passwords.txt").stat().st_mode & 0o077 == 0
    assert "course" not in result.stdout and "RLHF_RANKINGS=postgresql+psycopg://" in result.stdout
    assert "@" not in result.stdout  # nobody's name or password: each student connects as themselves
    result = rlhf("class", "status", "--db", admin, "--export", "all.jsonl", check=0)
    assert "gus" in result.stdout and (tmp_path / "all.jsonl").read_text() == ""
    assert rlhf("class", "init", "--db", admin, check=2).stderr.count("--students") == 1
    assert (
        "needs PostgreSQL"
        in rlhf(
            "class",
            "init",
            "--db",
            "sqlite:///x",
            "--students",
            "names.txt",
            "--items",
            "items.jsonl",
            check=2,
        ).stderr
    )
    assert "nowhere.txt" in rlhf("class", "init", "--db", admin, "--students", "nowhere.txt", check=2).stderr


def ten_people(url: str, first: int, count: int, queue) -> None:
    """Ten people in threads; each acknowledged key goes into the queue."""

    def person(name: str) -> None:
        store = RankingStore(url, patience=60)
        for i in range(count):
            store.add(
                {
                    "ranker": name,
                    "item": f"i{i}",
                    "action": "skip",
                    "messages": [{}],
                    "answers": ["x", "y"],
                    "key": f"{name}-{i}",
                }
            )
            queue.put(f"{name}-{i}")

    threads = [threading.Thread(target=person, args=(f"w{first + n}",)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.slow
@pytest.mark.attack
def test_thirty_people_and_a_killed_server_lose_nothing(postgres):
    """3,000 rankings and a SIGKILL here, 6,000 and three with `make attack`: all acknowledged ones stay."""
    url = postgres.database()
    store = RankingStore(url, patience=60)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    count, kills = (200, 3) if os.environ.get("RLHF_ATTACK") else (100, 1)
    groups = [context.Process(target=ten_people, args=(url, 10 * n, count, queue)) for n in range(3)]
    for group in groups:
        group.start()
    for kill in range(kills):
        while store.count() < 600 + 1500 * kill:
            time.sleep(0.05)
        postgres.kill()
        time.sleep(0.5)
        postgres.start()
    acknowledged = [queue.get(timeout=120) for _ in range(30 * count)]
    for group in groups:
        group.join()
    stored = [row["key"] for row in store.rows()]
    assert len(stored) == len(set(stored)) == 30 * count and set(acknowledged) == set(stored)


def test_passwords_that_cannot_be_kept_leave_no_student_behind(postgres, tmp_path):
    """The database could not tell them again."""
    admin = postgres.database()
    file = tmp_path / "no folder" / "passwords"
    with pytest.raises(CourseError, match="cannot be written .* --passwords"):
        init_class(
            admin, ["lost"], ROWS, 1, 0, keep=lambda passwords: write_passwords(admin, passwords, file)
        )
    assert set(init_class(admin, ["lost"], ROWS, 1, 0)) == {"lost"}  # as if nothing had been tried


def test_the_file_of_passwords_is_yours_alone_and_has_one_line_a_student(tmp_path):
    url, file = "postgresql+psycopg://a:b@host/course", tmp_path / "passwords"
    file.write_text("other:5432:course:ada@course:older\n")
    file.chmod(0o644)
    write_passwords(url, {"ada": "one", "bob": "two"}, file)
    write_passwords(url, {"ada": "three"}, file)
    assert file.read_text().splitlines() == [
        "other:5432:course:ada@course:older",
        "host:5432:course:bob@course:two",
        "host:5432:course:ada@course:three",
    ]
    assert file.stat().st_mode & 0o777 == 0o600
