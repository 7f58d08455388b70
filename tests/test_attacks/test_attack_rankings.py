"""A database that fails while one ranks, files of rankings, and messages that no widget sends."""

import json
import os
import sqlite3
import threading
import time

import pytest
from conftest import to_rank

from rlhf_utils.environment import CourseError
from rlhf_utils.pipeline.taste import usable_rankings
from rlhf_utils.ranking.session import PAPER_FLAGS, RankingSession
from rlhf_utils.ranking.store import RankingStore
from rlhf_utils.ranking.widget import PlainRanking, RankingWidget

pytestmark = pytest.mark.attack
ROWS = to_rank(8)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rankings.sqlite"


@pytest.fixture
def session(file):
    """Three of eight are ranked."""
    made = RankingSession(ROWS, "ada", RankingStore(f"sqlite:///{file}", patience=1), flags=PAPER_FLAGS)
    for _ in range(3):
        made.rank("abc")
        made.submit()
    return made


def delete(file):
    for name in (file, file.with_name(file.name + "-wal"), file.with_name(file.name + "-shm")):
        name.unlink(missing_ok=True)


def moved_away(file):
    delete(file)
    file.parent.rename(file.parent.with_name("elsewhere"))


def corrupt(file):
    content = bytearray(file.read_bytes())
    content[100:4000] = os.urandom(3900)
    delete(file)
    file.write_bytes(content)


def noise(file):
    delete(file)
    file.write_bytes(os.urandom(9000))


def other_version(file):
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE rankings_schema SET version = 9")


def emptied(file):
    delete(file)
    file.touch()


def other_tables(file):
    delete(file)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE rankings (x)")


def a_folder(file):
    delete(file)
    file.mkdir()


@pytest.mark.parametrize(
    "harm", [delete, emptied, moved_away], ids=["deleted", "emptied", "its folder moved"]
)
def test_a_database_that_is_gone_is_made_anew(session, file, harm):
    """With all that this session knows, and a word of it; the submission is in it."""
    harm(file)
    session.rank("cba")
    session.submit()
    assert "made again, with the 3 rankings" in session.store.notice
    assert len(RankingStore(f"sqlite:///{file}").latest("ada")) == 4 and session.progress()["done"] == 4


@pytest.mark.parametrize(
    "harm",
    [corrupt, noise, other_version, other_tables, a_folder],
    ids=[
        "corrupted",
        "noise in its place",
        "of another version",
        "another program's",
        "a folder in its place",
    ],
)
def test_a_database_that_is_broken_is_said_to_be(session, file, harm):
    """The order stays on the screen; with the file out of the way one goes on, and nothing is lost."""
    harm(file)
    session.rank("cba")
    with pytest.raises(CourseError):
        session.submit()
    assert session.progress()["done"] == 3 and session.groups == [["c"], ["b"], ["a"]]
    (file.rmdir if file.is_dir() else lambda: delete(file))()
    session.submit()
    assert len(RankingStore(f"sqlite:///{file}").latest("ada")) == 4


def test_a_database_that_is_locked_for_a_while_is_waited_for(session, file):
    """And one that stays locked is named, in time."""
    holder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    session.rank("abc")
    with pytest.raises(CourseError, match="locked"):
        session.submit()
    threading.Timer(0.4, lambda: holder.execute("ROLLBACK")).start()
    session.submit()
    assert len(session.store.latest("ada")) == 4


def test_a_full_disk_loses_only_what_was_not_acknowledged(tmp_path, file):
    """SQLite is told how large it may grow; the rankings before are there, and the next ones again later."""
    store, kept = RankingStore(f"sqlite:///{file}", patience=0.5), []
    full = RankingStore(f"sqlite:///{file}", patience=0.5)
    from sqlalchemy import event

    event.listen(full.engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count = 30"))
    row = {"ranker": "ada", "action": "skip", "messages": [{}], "answers": ["x" * 4000, "y"]}
    with pytest.raises(CourseError, match="full"):
        for i in range(100):
            kept.append(full.add(row | {"item": f"i{i}"})["key"])
    assert [r["key"] for r in store.rows()] == kept and kept
    store.add(row | {"item": "later"})


EXTREME = {
    "ties all over": ["a", "b", "c"],
    "unicode": ["naïve 日本語 🙂", "\u202eright to left\u202c", "e\u0301 and \u00e9"],
    "line separators": ["a\u2028b", "a\u2029b", "a\x85b"],
    "control characters": ["\x1b[2J", "\x07\x08", "\x7f\x9b31m"],
    "line ends": ["a\nb", "a\r\nb", "a\rb"],
    "100 kB": ["a" * 100_000, "b" * 100_000, "c" * 100_000],
    "code": ["<script>alert(1)</script>", "${7*7}", "{{7*7}}"],
    "SQL": ["'; DROP TABLE rankings; --", '" OR 1=1', "\\x00"],
    "nothing but spaces": [" ", "  ", "   "],
    "JSON": ['{"a": 1}', "[1, 2]", "null"],
    "a NUL": ["a\0b", "a", "b"],
}


@pytest.mark.parametrize("attack", EXTREME)
def test_a_round_trip_keeps_every_letter(tmp_path, file, attack):
    """Ranked, exported, loaded elsewhere: the same rows; loaded again, nothing twice."""
    rows = [ROWS[0] | {"answers": EXTREME[attack], "id": f"id of {attack}"}]
    store = RankingStore(f"sqlite:///{file}")
    session = RankingSession(rows, "adá '\"", store)
    session.rank([set("abc")] if "ties" in attack else ["b", {"a", "c"}])
    session.submit()
    store.export(tmp_path / "out.jsonl")
    other = RankingStore(f"sqlite:///{tmp_path}/other.sqlite")
    assert other.load(tmp_path / "out.jsonl") == 1 and other.load(tmp_path / "out.jsonl") == 0
    plain = [{k: v for k, v in r.items() if k != "id"} for r in other.rows()]
    assert plain == [{k: v for k, v in r.items() if k != "id"} for r in store.rows()]
    assert plain[0]["answers"] == EXTREME[attack]


GOOD = {
    "ranker": "a",
    "item": "i",
    "action": "rank",
    "messages": [{"role": "user", "content": "?"}],
    "answers": ["x", "y"],
    "ranks": [1, 2],
}
FILES = {
    "ranks of 10^30": GOOD | {"ranks": [10**30, 1]},
    "ranks that are true": GOOD | {"ranks": [True, 1]},
    "broken ranks": GOOD | {"ranks": [1.5, 1]},
    "ranks that are texts": GOOD | {"ranks": ["1", "2"]},
    "negative ranks": GOOD | {"ranks": [-1, 2]},
    "an action that is none": GOOD | {"action": "drop"},
    "one answer": GOOD | {"answers": ["x"]},
    "ten answers": GOOD | {"answers": list("abcdefghij"), "ranks": list(range(10))},
    "answers that are numbers": GOOD | {"answers": [1, 2]},
    "messages that are a text": GOOD | {"messages": "?"},
    "a ranker that is a list": GOOD | {"ranker": ["a"]},
    "an item that is a number": GOOD | {"item": 5},
    "a key that is an object": GOOD | {"key": {}},
    "seconds that are no number": GOOD | {"seconds": float("nan")},
    "endless seconds": GOOD | {"seconds": float("inf")},
    "seconds that are a text": GOOD | {"seconds": "1"},
    "practice that is a text": GOOD | {"practice": "no"},
    "scores that are a number": GOOD | {"scores": 5},
    "places that nobody had": GOOD | {"shown": [0, 0]},
    "half of a pair": GOOD | {"answers": ["\ud800", "y"]},
    "a column of one's own": GOOD | {"id; DROP TABLE": 1},
    "a list": [1, 2],
    "nothing": None,
}


@pytest.mark.parametrize("attack", FILES)
def test_a_file_with_a_bad_row_imports_nothing(tmp_path, file, attack):
    """The line is named, and the good rows before it are not there either."""
    store = RankingStore(f"sqlite:///{file}")
    (tmp_path / "in.jsonl").write_text(json.dumps(GOOD) + "\n" + json.dumps(FILES[attack]) + "\n")
    with pytest.raises(CourseError, match="line 2: .* Nothing was imported"):
        store.load(tmp_path / "in.jsonl")
    assert store.count() == 0


MESSAGES = {
    "nothing": None,
    "a text": "submit",
    "a number": 7,
    "a list": ["do", "undo"],
    "no word of what to do": {},
    "something that nobody does": {"do": "drop", "item": "p3"},
    "an attribute": {"do": "__class__", "item": "p3"},
    "what to do as a list": {"do": ["submit"], "item": "p3"},
    "a submission of nothing": {"do": "submit"},
    "another item's id": {"do": "submit", "item": "p0", "groups": [["a"], ["b"], ["c"]]},
    "an id that does not exist": {"do": "skip", "item": "p99"},
    "an id that is an object": {"do": "skip", "item": {"id": "p3"}},
    "no groups": {"do": "submit", "item": "p3"},
    "groups that are nothing": {"do": "submit", "item": "p3", "groups": None},
    "groups that are a number": {"do": "submit", "item": "p3", "groups": 5},
    "groups of numbers": {"do": "submit", "item": "p3", "groups": [1, 2, 3]},
    "groups of nothing": {"do": "submit", "item": "p3", "groups": [None]},
    "groups in groups": {"do": "submit", "item": "p3", "groups": [[["a"]], ["b"], ["c"]]},
    "groups of mixed kinds": {"do": "submit", "item": "p3", "groups": [["a", 1], ["b"], ["c"]]},
    "a letter twice": {"do": "submit", "item": "p3", "groups": [["a"], ["a"], ["b"], ["c"]]},
    "a letter missing": {"do": "submit", "item": "p3", "groups": [["a"], ["b"]]},
    "a letter too many": {"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"], ["d"]]},
    "10 MB of letters": {"do": "submit", "item": "p3", "groups": [["a"] * 3_000_000]},
    "10 MB of groups": {"do": "submit", "item": "p3", "groups": [["x" * 10_000_000]]},
    "scores of a list": {"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]], "scores": [1]},
    "a score of 8": {"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]], "scores": {"a": 8}},
    "a score that is true": {
        "do": "submit",
        "item": "p3",
        "groups": [["a"], ["b"], ["c"]],
        "scores": {"a": True},
    },
    "half a score": {"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]], "scores": {"a": 1.5}},
    "a score that is an object": {
        "do": "submit",
        "item": "p3",
        "groups": [["a"], ["b"], ["c"]],
        "scores": {"a": {}},
    },
    "a score of a stranger": {
        "do": "submit",
        "item": "p3",
        "groups": [["a"], ["b"], ["c"]],
        "scores": {"z": 1},
    },
    "a flag that is none": {
        "do": "submit",
        "item": "p3",
        "groups": [["a"], ["b"], ["c"]],
        "flags": {"a": ["x"]},
    },
    "flags that are a number": {
        "do": "submit",
        "item": "p3",
        "groups": [["a"], ["b"], ["c"]],
        "flags": {"a": 1},
    },
    "flags that are a list": {"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]], "flags": ["a"]},
}


@pytest.mark.parametrize("attack", MESSAGES)
def test_messages_that_no_widget_sends(session, attack):
    """Nothing is raised in the kernel, nothing is stored, and one can go on."""
    widget = RankingWidget(session, scores=True)
    stored = session.store.count()
    widget.receive(MESSAGES[attack])
    assert session.store.count() == stored and session.item.id == "p3"
    assert "Traceback" not in widget.state["message"] and len(widget.state["message"]) < 2000
    widget.receive({"do": "submit", "item": "p3", "groups": [["a"], ["b", "c"]]})
    assert session.store.count() == stored + 1 and widget.state["message"] == ""


def test_a_message_sent_twice_counts_once(session):
    """A replay names an item that is done."""
    widget = RankingWidget(session)
    for _ in range(3):
        widget.receive({"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]]})
    assert len(session.store.rows("ada")) == 4


def test_the_browser_cannot_write_the_state(session):
    """A state that comes from there changes what is shown there, and nothing else."""
    widget = RankingWidget(session)
    widget.set_state({"state": {"item": "p0", "answers": {"a": "forged"}, "finished": True}})
    widget.receive({"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]]})
    row = session.store.latest("ada")[-1]
    assert row["item"] == "p3" and "forged" not in row["answers"] and widget.state["item"] == "p4"


def test_the_database_comes_back_while_the_widget_waits(session, file):
    """Deleted in mid-session: said once, in both widgets."""
    delete(file)
    widget = RankingWidget(session)
    widget.receive({"do": "submit", "item": "p3", "groups": [["a"], ["b"], ["c"]]})
    assert "made again" in widget.state["message"]
    widget.receive({"do": "submit", "item": "p4", "groups": [["a"], ["b"], ["c"]]})
    assert widget.state["message"] == ""
    delete(file)
    plain = PlainRanking(session)
    for box, rank in zip(plain.ranks.values(), (1, 2, 3)):
        box.value = rank
    plain.press("submit")
    assert "made again" in plain.note.value and len(session.store.latest("ada")) == 6


def test_ten_thousand_items_open(file, tmp_path):
    """As many as a large class has; how fast is measured in tests/benchmarks."""
    store = RankingStore(f"sqlite:///{file}")
    rows = [GOOD | {"item": f"i{i}", "ranker": "ada"} for i in range(10_000)]
    store.add_all(rows)
    items = [{"id": r["item"], "messages": r["messages"], "answers": r["answers"]} for r in rows]
    session = RankingSession(items + ROWS, "ada", store, guideline="")
    assert session.item.id == "p0" and session.progress()["done"] == 10_000


def test_other_questions_are_other_rankings(file, monkeypatch):
    """A taste is made from the questions, too."""
    from rlhf_utils.pipeline.stages import rankings_digest
    from rlhf_utils.profiles import PROFILES
    from rlhf_utils.ranking.store import guidelines

    monkeypatch.setenv("RLHF_RANKINGS", f"sqlite:///{file}")
    digests = set()
    for words in ("?", "!"):
        row = GOOD | {"messages": [{"role": "user", "content": words}], "guideline": guidelines()[0]}
        RankingStore().add(row)
        assert len(usable_rankings("")) == 1
        digests.add(rankings_digest(PROFILES["tiny"])["rankings"])
        delete(file)
    assert len(digests) == 2


def test_a_row_that_somebody_broke_by_hand_is_left_out(session, file):
    """And named; the others train as before."""
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE rankings SET ranks = '[1]' WHERE item = 'p1'")
        connection.execute("UPDATE rankings SET answers = '5' WHERE item = 'p2'")
    store = RankingStore(f"sqlite:///{file}")
    assert [r["item"] for r in store.ranked()] == ["p0"] and len(store.skipped) == 2
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE rankings SET answers = 'no JSON' WHERE item = 'p2'")
    with pytest.raises(CourseError, match="cannot be read"):
        store.rows()


def test_undo_waits_for_no_database(session, file):
    """Taking back needs none: it works while the database is away."""
    a_folder(file)
    started = time.monotonic()
    assert session.undo() and session.progress()["done"] == 2 and time.monotonic() - started < 1
