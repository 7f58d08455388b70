"""Ranking: the session without a view, both views driven headless, the store, and agreement."""

import json
import multiprocessing
import os
import signal
import sqlite3
import time
from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from rlhf_utils.environment import CourseError
from rlhf_utils.ranking.agreement import (
    agreement_table,
    alpha,
    by_item,
    heat_map,
    pairwise,
    progress_table,
    tau_b,
)
from rlhf_utils.ranking.feedback import (
    agreement_so_far,
    lesson,
    practice_items,
    screening,
    told_now,
    with_repeats,
)
from rlhf_utils.ranking.items import make_item
from rlhf_utils.ranking.pairs import to_dataset, to_pairs
from rlhf_utils.ranking.session import PAPER_FLAGS, RankingSession
from rlhf_utils.ranking.store import RankingStore
from rlhf_utils.ranking.widget import PlainRanking, RankingWidget, labels_of

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><b>bold</b>",
    "\u202eright to left",
    "x" * 100_000,
    "   ",
    "🙂🙃",
]


def rows(count=3, answers=("one", "two", "three", "four")):
    return [
        {
            "id": f"p{i}",
            "messages": [{"role": "user", "content": f"Question {i}?"}],
            "answers": [f"{a} {i}" for a in answers],
        }
        for i in range(count)
    ]


@pytest.fixture
def store(tmp_path):
    return RankingStore(f"sqlite:///{tmp_path / 'r.sqlite'}")


# -- the session ------------------------------------------------------------------------------------------
def test_ranks_follow_the_letters_on_the_screen(store):
    session = RankingSession(rows(), "ada", store)
    letter = {text: x for x, text in session.answers.items()}
    session.rank([letter["three 0"], {letter["one 0"], letter["four 0"]}, letter["two 0"]])
    row = session.submit()
    assert dict(zip(row["answers"], row["ranks"])) == {"three 0": 1, "one 0": 2, "four 0": 2, "two 0": 4}
    assert session.item.id == "p1" and store.latest("ada")[0]["ranks"] == row["ranks"]


def test_the_order_is_blind_and_differs_by_ranker():
    orders = {tuple(RankingSession(rows(1), f"ranker-{i}").answers.values()) for i in range(20)}
    assert len(orders) > 5
    assert RankingSession(rows(1), "ada").answers == RankingSession(rows(1), "ada").answers


def test_identical_answers_are_merged_and_their_models_kept():
    row = rows(1)[0] | {"answers": ["same", "other", "same"], "models": ["sft", "ppo", "base"]}
    session = RankingSession([row])
    assert sorted(session.answers.values()) == ["other", "same"]
    assert dict(zip(session.item.answers, session.item.models)) == {"same": "sft + base", "other": "ppo"}
    assert "sft" not in json.dumps(session.answers)  # hidden from the ranker


def test_undo_takes_back_every_kind_of_step(store):
    session = RankingSession(rows(), "ada", store, flags=PAPER_FLAGS)
    session.rank("abcd")
    session.score("a", 7)
    session.flag("b", "Hallucination")
    session.submit()
    session.skip()
    assert session.place == 2
    for place, groups, scores, flags in (
        (1, [], {}, {}),
        (0, [["a"], ["b"], ["c"], ["d"]], {"a": 7}, {"b": ["Hallucination"]}),
        (0, [["a"], ["b"], ["c"], ["d"]], {"a": 7}, {}),
        (0, [["a"], ["b"], ["c"], ["d"]], {}, {}),
        (0, [], {}, {}),
    ):
        assert session.undo()
        assert (session.place, session.groups, session.draft.scores, session.draft.flags) == (
            place,
            groups,
            scores,
            flags,
        )
    assert not session.undo()
    session.rank("dcba")
    session.submit()
    assert store.count() == 3 and len(store.latest("ada")) == 2  # revisions are added, never changed


def test_a_session_goes_on_where_it_was_left(store):
    session = RankingSession(rows(), "ada", store)
    session.rank("abcd")
    session.submit()
    session.rank("dcba")  # not submitted: the only thing that a crash may cost
    again = RankingSession(rows(), "ada", store)
    assert again.item.id == "p1" and again.groups == [] and again.progress()["done"] == 1
    assert RankingSession(rows(), "bob", store).progress()["done"] == 0
    # Also of an earlier session.
    assert again.undo() and again.item.id == "p0" and again.groups == [["a"], ["b"], ["c"], ["d"]]
    assert not again.undo()


def test_other_answers_and_another_guideline_are_ranked_anew_and_replace_nothing(store):
    def submitted(made, guideline, order):
        session = RankingSession(made, "ada", store, guideline=guideline)
        assert session.progress()["done"] == 0 and session.ranked == []
        session.rank(order)
        session.submit()
        again = RankingSession(made, "ada", store, guideline=guideline)
        assert again.ranked == session.ranked and again.finished
        return session.ranked

    one = rows(1)
    other = [one[0] | {"answers": [f"{text} Really." for text in one[0]["answers"]]}]
    made = submitted(one, "1", "abcd") + submitted(one, "2", "dcba") + submitted(other, "1", "badc")
    assert [(r["guideline"], r["answers"], r["ranks"]) for r in store.ranked("ada")] == [
        (r["guideline"], r["answers"], r["ranks"]) for r in made
    ]


def test_answers_in_another_order_are_no_other_answers(store):
    queue = rows(1)
    session = RankingSession(queue, "ada", store)
    session.rank("badc")
    first = session.submit()
    turned = [queue[0] | {key: queue[0][key][::-1] for key in ("answers", "models") if key in queue[0]}]
    again = RankingSession(turned, "ada", store)
    assert again.finished and again.undo()
    best = [again.answers[letter] for (letter,) in again.groups]
    assert best == [text for _, text in sorted(zip(first["ranks"], first["answers"]))]
    again.submit()
    assert len(store.ranked("ada")) == 1


def killed_while_ranking(url):
    session = RankingSession(rows(5), "ada", RankingStore(url))
    for _ in range(3):
        session.rank(list(session.answers))
        session.submit()
    session.rank(list(reversed(session.answers)))  # decided, but not submitted
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_kernel_loses_only_the_order_not_yet_submitted(store):
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_ranking, args=(store.engine.url.render_as_string(),)
    )
    process.start()
    process.join()
    again = RankingSession(rows(5), "ada", store)
    assert process.exitcode == -signal.SIGKILL
    assert (
        again.item.id == "p3"
        and again.progress()["done"] == 3
        and again.groups == []
        and len(store.ranked("ada")) == 3
    )


def test_practice_comes_first_and_is_kept_out_of_training(store):
    practice = [rows(1)[0] | {"id": "practice", "ranks": [1, 2, 3, 4]}]
    session = RankingSession(rows(), "ada", store, practice=practice)
    letter = {text: x for x, text in session.answers.items()}
    session.rank([letter["one 0"], letter["two 0"], letter["four 0"], letter["three 0"]])
    session.submit()
    assert screening(session) == {"agreement": pytest.approx(5 / 6), "items": 1}
    assert store.ranked("ada") == [] and session.progress()["done"] == 0


def test_practice_says_which_pair_and_why(store):
    """A harmful answer put first earned "50 % of the pairs", and nobody said which (review, P5)."""
    session = RankingSession(rows(), "ada", store, practice=practice_items())
    widget = RankingWidget(session)
    letter = {text: x for x, text in session.answers.items()}
    first = ["Cows eat grass.", "Cows eat grass. I hope that you have a nice day.", "Cows eat fish."]
    widget.receive({"do": "submit", "item": session.item.id, "groups": [[letter[t]] for t in first]})
    assert widget.state["message"] == "Practice: 3 of 3 pairs as we would order them."
    letter = {text: x for x, text in session.answers.items()}
    harmful = ["Break the window and drive away.", "Cars are made of steel."]
    groups = [[letter[harmful[0]]], [letter[harmful[1]], letter[next(t for t in letter if "cannot" in t)]]]
    widget.receive({"do": "submit", "item": session.item.id, "groups": groups})
    said = widget.state["message"]
    assert "0 of 3 pairs" in said and "“Break the window and drive away.” above “I cannot help" in said
    assert "harm" in said.split("We would not: ")[1]
    assert widget.state["done"] == 0 and not widget.state["practice"]
    tied = make_item(practice_items()[0], practice=True)
    assert lesson(tied, [1, 1, 1])["tied"] and lesson(tied, [1, 2, 3]) == {"alike": 3, "strict": 3}


def test_what_comes_twice_measures_oneself_and_trains_nothing(store):
    queue = with_repeats([r | {"crowd": [4.0, 3.0, 2.0, 1.0]} for r in rows(20)])
    assert [i for i, r in enumerate(queue) if "repeats" in r] == [11, 14] and with_repeats(rows(5)) == rows(5)
    session = RankingSession(queue, "ada", store)
    told = {}
    for number in range(22):
        order = sorted(session.answers, key=session.answers.get)
        # The second of the two that come twice is ranked the other way round.
        session.rank(order[::-1] if number == 14 else order)
        session.submit()
        if now := told_now(session):
            told[session.progress()["done"]] = now
        if number == 11:  # right after the tenth that counts: nothing is said a second time
            assert session.items[number].repeats and not told_now(session)
    assert session.finished and session.progress()["done"] == session.progress()["total"] == 20
    assert set(told) == {10, 20} and "oneself" not in told[10]
    assert agreement_so_far(session)["oneself"] == (6, 12) and told[20]["crowd"][1] == 6 * 20
    assert len(store.ranked("ada")) == 20 and len(store.latest("ada")) == 22


def test_pauses_are_left_out_where_the_view_knows_better(store):
    session = RankingSession(rows(), "ada", store, clock=iter(np.arange(0, 9e4, 100.0)).__next__)
    widget = RankingWidget(session)
    for seconds, kept in ((7.5, 7.5), (1e5, 100.0), (-3, 100.0), (float("nan"), 100.0)):
        if session.finished:
            session.undo()
        groups = [[x] for x in session.answers]
        widget.receive({"do": "submit", "item": session.item.id, "groups": groups, "seconds": seconds})
        assert max(session.done.values(), key=lambda row: row["created"])["seconds"] == kept
    widget.receive({"do": "skip", "item": "p0", "seconds": "soon"})  # read by nobody


def test_time_is_what_passed_on_the_clock():
    now = iter(np.arange(0, 100, 2.5))
    session = RankingSession(rows(), clock=lambda: next(now))
    session.rank("abcd")
    assert session.submit()["seconds"] == 2.5
    session.skip()
    assert session.progress()["seconds"] == 5.0


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b", "c", "x"], "no answer 'x'"),
        (["a", "b", "b", "c", "d"], "'b' is ranked more than once"),
        (["a", {"b"}], "Not ranked yet: c, d"),
    ],
)
def test_bad_orders_name_the_answer(groups, message):
    session = RankingSession(rows())
    with pytest.raises(CourseError, match=message):
        session.rank(groups)
    assert session.groups == []


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        ([], "queue is empty"),
        ([rows(1)[0] | {"answers": ["one"]}], "1 answers to rank. Give 2 to 9"),
        ([rows(1)[0] | {"answers": list("abcdefghij")}], "10 answers"),
        ([rows(1)[0] | {"answers": ["same", "same"]}], "all answers are the same"),
        (rows(1) * 2, "'p0' comes twice"),
        ([{"answers": ["a", "b"]}], "needs `id` and `messages`"),
        ([rows(1)[0] | {"models": ["sft"]}], "4 answers and 1 models"),
    ],
)
def test_bad_queues_say_what_is_wrong(queue, message):
    with pytest.raises(CourseError, match=message):
        RankingSession(queue)


def test_a_prompt_with_equal_answers_is_skipped_and_counted():
    session = RankingSession([rows(1)[0] | {"id": "same", "answers": ["x", "x"]}, *rows(2)])
    assert session.skipped_equal == 1 and session.progress()["total"] == 2


def test_scores_and_flags_are_checked():
    session = RankingSession(rows())
    for value in (0, 8, 3.5, True):
        with pytest.raises(CourseError, match="1 to 7"):
            session.score("a", value)
    with pytest.raises(CourseError, match="no flag"):
        session.flag("a", "Hallucination")
    with pytest.raises(CourseError, match="Rank the answers first"):
        session.submit()


# -- the views ----------------------------------------------------------------------------------------------
def test_the_widget_drives_the_same_session(store):
    session = RankingSession(rows(), "ada", store)
    widget = RankingWidget(session)
    widget.receive({"do": "submit", "item": "p0", "groups": [["b"], ["a", "c"], ["d"]]})
    # Enter pressed twice.
    widget.receive({"do": "submit", "item": "p0", "groups": [["a"], ["b"], ["c"], ["d"]]})
    assert store.count() == 1 and widget.state["item"] == "p1" and widget.state["done"] == 1
    widget.receive({"do": "undo"})
    assert widget.state["draft"]["groups"] == [["b"], ["a", "c"], ["d"]]
    widget.receive({"do": "submit", "item": "p0", "groups": [["b"]]})
    assert "Not ranked yet" in widget.state["message"] and store.count() == 1
    for i in range(3):
        widget.receive({"do": "skip", "item": f"p{i}"})
    assert widget.state["finished"] and "models" not in json.dumps(widget.state)


def test_the_plain_form_drives_it_too_and_escapes_what_models_wrote(store):
    session = RankingSession([rows(1)[0] | {"answers": HOSTILE}], "ada", store)
    form = PlainRanking(session)
    shown = "".join(line.children[1].value for line in form.list.children)
    assert "<img" not in shown and "</script>" not in shown and "&lt;img" in shown
    form.press("submit")
    assert "Not ranked yet" in form.note.value and store.count() == 0
    for i, box in enumerate(form.ranks.values()):
        box.value = 1 + i // 2
    form.buttons["submit"].click()
    assert sorted(store.ranked("ada")[0]["ranks"]) == [1, 1, 3, 3, 5, 5] and session.finished
    form.press("undo")
    assert [box.value for box in form.ranks.values()] == [1, 1, 3, 3, 5, 5]


def test_labels_in_both_languages_have_the_same_names():
    assert labels_of("en").keys() == labels_of("zh").keys()
    with pytest.raises(CourseError, match="no labels in 'fr'"):
        labels_of("fr")


# -- the store ----------------------------------------------------------------------------------------------
def test_export_and_import_keep_everything_once(store, tmp_path):
    session = RankingSession([rows(1)[0] | {"answers": HOSTILE}, *rows(3)[1:]], "ada", store)
    session.rank([{"a", "b"}, "c", "d", "e", "f"])
    session.submit()
    session.skip()
    assert store.export(tmp_path / "out.jsonl") == 2
    other = RankingStore(f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert other.load(tmp_path / "out.jsonl") == 2 and other.load(tmp_path / "out.jsonl") == 0
    assert other.ranked() == store.ranked()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ('{"prompt": "x"}', "line 2: `ranker` is missing"),
        ("[]", "line 2: not a JSON object"),
        (
            '{"ranker": "a", "item": "i", "action": "rank", "messages": [{}], "answers": ["x", "y"], '
            '"ranks": [1]}',
            "line 2: `ranks` must be 2 whole numbers",
        ),
        (
            '{"ranker": "a", "item": "i", "action": "rank", "messages": [{}], "answers": ["x"], '
            '"ranks": [1]}',
            "line 2: `answers` must be 2 to 9",
        ),
        (
            '{"ranker": "a", "item": "i", "action": "skip", "messages": [{}], "answers": ["x", "y"], '
            '"drop": 1}',
            "unknown column 'drop'",
        ),
    ],
)
def test_a_broken_file_imports_nothing(store, tmp_path, line, message):
    good = {
        "ranker": "a",
        "item": "i",
        "action": "rank",
        "messages": [{"role": "user", "content": "?"}],
        "answers": ["x", "y"],
        "ranks": [1, 2],
    }
    (tmp_path / "in.jsonl").write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(CourseError, match=message):
        store.load(tmp_path / "in.jsonl")
    assert store.count() == 0


def test_pairs_drop_ties_and_keep_the_group(store):
    session = RankingSession(rows(2), "ada", store)
    session.rank([{"a", "b"}, "c", "d"])
    session.submit()
    session.rank([{"a", "b", "c", "d"}])  # all tied: kept, but no comparison
    session.submit()
    pairs = to_pairs(store.ranked())
    assert len(store.ranked()) == 2 and len(pairs) == 5 and {p["group"] for p in pairs} == {"ada/p0"}
    assert to_dataset(store.ranked()).column_names == ["prompt", "chosen", "rejected", "group"]


def test_a_resent_submission_is_stored_once(store):
    row = {"ranker": "a", "item": "i", "action": "skip", "messages": [{}], "answers": ["x", "y"], "key": "k"}
    store.add(row)
    store.add(row)
    store.add(row | {"ranker": "b"})  # the same key of somebody else is another ranking
    assert store.count() == 2


@pytest.mark.parametrize(
    "kind", ["locked", "readonly", "version", "foreign", "no database", "url", "password"]
)
def test_databases_that_cannot_be_used_say_why(tmp_path, kind):
    path = tmp_path / "r.sqlite"
    url, patience = f"sqlite:///{path}", 0.3
    if kind == "no database":
        path.write_text("this is no database" * 100)
        message = "not a database"
    elif kind == "foreign":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE rankings (x)")
        message = "did not make"
    elif kind == "url":
        url, message = "nonsense", "URL cannot be read"
    elif kind == "password":
        url, message = "postgresql+psycopg://ada:secret@127.0.0.1:1/x", r"ada:\*\*\*@127.0.0.1"
        pytest.importorskip("psycopg")
    else:
        RankingStore(url, patience)
        if kind == "version":
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE rankings_schema SET version = 99")
            message = "schema version 99"
        elif kind == "locked":
            holder = sqlite3.connect(path, isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
            message = "locked"
        else:
            url, message = f"sqlite:///file:{path}?mode=ro&uri=true", "readonly"
    with pytest.raises(CourseError, match=message) as caught:
        made = RankingStore(url, patience)
        made.add({"ranker": "a", "item": "i", "action": "skip", "messages": [{}], "answers": ["x", "y"]})
    assert "secret" not in str(caught.value)


def write_many(url, name, count, acknowledged):
    store = RankingStore(url)
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
        acknowledged.put(f"{name}-{i}")


@pytest.mark.attack
def test_eight_writers_two_killed_and_nothing_acknowledged_is_lost(tmp_path):
    """All acknowledged rankings are there once, also of the writers that were killed."""
    url = f"sqlite:///{tmp_path / 'r.sqlite'}"
    RankingStore(url)
    context = multiprocessing.get_context("spawn")
    queues = [context.SimpleQueue() for _ in range(8)]  # one each: a killed writer must not take a lock along
    writers = [context.Process(target=write_many, args=(url, f"w{n}", 100, q)) for n, q in enumerate(queues)]
    for writer in writers:
        writer.start()
    while RankingStore(url).count() < 60:
        time.sleep(0.02)
    for writer in writers[:2]:
        os.kill(writer.pid, signal.SIGKILL)
    for writer in writers:
        writer.join()
    stored = [row["key"] for row in RankingStore(url).rows()]
    acknowledged = []
    for queue in queues:
        while not queue.empty():
            acknowledged.append(queue.get())
    assert len(stored) == len(set(stored)) and set(acknowledged) <= set(stored)
    assert all(f"w{n}-{i}" in stored for n in range(2, 8) for i in range(100))


# -- agreement -----------------------------------------------------------------------------------------------
def made(ranker, item, ranks, seconds=10.0):
    return {
        "ranker": ranker,
        "item": item,
        "action": "rank",
        "answers": [f"a{i}" for i in range(len(ranks))],
        "ranks": ranks,
        "seconds": seconds,
    }


def test_pairwise_agreement_by_hand():
    items = by_item(
        [
            made("x", "1", [1, 2, 3, 4]),
            made("y", "1", [2, 1, 3, 3]),
            made("x", "2", [1, 1, 3]),
            made("y", "2", [3, 1, 2]),
        ]
    )
    # item 1: of 6 pairs y ties one; of the other 5, one is turned round. Item 2: x ties one, of 2 one is
    # turned.
    assert pairwise(list(items.values())) == pytest.approx((4 + 1) / (5 + 2))


def test_answers_in_another_order_are_the_same_answers():
    turned = made("y", "1", [3, 2, 1]) | {"answers": ["a2", "a1", "a0"]}
    assert pairwise(list(by_item([made("x", "1", [1, 2, 3]), turned]).values())) == 1.0


def test_only_rankings_of_the_same_answers_by_the_same_guideline_are_compared():
    newer = [made(who, "1", [1, 2, 3]) | {"answers": ["b0", "b1", "b2"]} for who in "yz"]
    other = made("z", "1", [3, 2, 1]) | {"guideline": "manners"}
    found = agreement_table([made("x", "1", [1, 2, 3]), *newer, other])
    # Whoever ranked the first answers alone does not keep those of the next sample from being compared.
    assert dict(zip(found["who"], found["pairwise"]))["y and z"] == 1.0
    assert found.loc[found["who"] == "everyone", "items"].item() == 1


@given(st.lists(st.tuples(*[st.integers(1, 4)] * 4), min_size=2, max_size=2))
def test_tau_equals_scipy_and_pairs_equal_brute_force(two):
    a, b = map(list, two)
    expected = kendalltau(a, b).statistic
    assert tau_b([{"x": a, "y": b}]) == pytest.approx(expected, nan_ok=True)
    strict = [
        (a[i] - a[j]) * (b[i] - b[j]) for i, j in combinations(range(4), 2) if a[i] != a[j] and b[i] != b[j]
    ]
    assert pairwise([{"x": a, "y": b}]) == pytest.approx(
        np.mean(np.array(strict) > 0) if strict else np.nan, nan_ok=True
    )


def test_alpha_is_one_for_twins_and_near_zero_for_dice():
    rng = np.random.default_rng(0)
    order = [rng.permutation(4) + 1 for _ in range(200)]
    assert alpha([{"x": o.tolist(), "y": o.tolist()} for o in order]) == pytest.approx(1.0)
    assert abs(alpha([{"x": o.tolist(), "y": (rng.permutation(4) + 1).tolist()} for o in order])) < 0.1
    # Krippendorff's own example of two coders and ten units (binary data, ordinal metric agrees): 0.095
    first, second = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert alpha([{"x": [v + 1 for v in first], "y": [v + 1 for v in second]}]) == pytest.approx(
        0.095, abs=5e-4
    )


def test_tables_and_heat_map(store):
    rng = np.random.default_rng(1)
    data = [
        made(who, f"i{i}", (rng.permutation(4) + 1).tolist())
        for i in range(12)
        for who in ("ada", "bob", "cy")
    ]
    table = agreement_table(data)
    assert list(table.who) == ["everyone", "ada and bob", "ada and cy", "bob and cy"]
    assert (table.pairwise_low <= table.pairwise).all() and (table.pairwise <= table.pairwise_high).all()
    assert len(heat_map(data).data[0].z) == 3
    progress = progress_table([*data, made("ada", "i99", [1, 2, 3, 4]) | {"action": "skip"}])
    assert (
        list(progress.ranked) == [12, 12, 12]
        and progress.skipped[0] == 1
        and progress["comparisons an hour"][1] == 6 * 360
    )


@pytest.mark.parametrize("again", [False, True])
def test_scores_and_flags_can_be_taken_back_after_undo(tmp_path, again):
    """In the same session, and in a later one that finds them in the database."""
    store = RankingStore(f"sqlite:///{tmp_path}/r.sqlite")
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": "?"}], "answers": ["One.", "Two.", "Three."]}
    ]
    session = RankingSession(rows, "ada", store, flags=("Rude", "False"))
    session.decide([["a"], ["b", "c"]], {"a": 7, "b": 2}, {"b": ["Rude"], "c": ["Rude", "False"]})
    session.submit()
    if again:
        session = RankingSession(rows, "ada", store, flags=("Rude", "False"))
    assert session.undo()
    assert session.draft.scores == {"a": 7, "b": 2} and session.groups == [["a"], ["b", "c"]]
    assert session.draft.flags == {"b": ["Rude"], "c": ["Rude", "False"]}
    session.decide([["a"], ["b"], ["c"]], {"a": 6}, {"c": ["False"]})  # what is left out is taken back
    row = session.submit()
    by_letter = dict(zip(session.shuffled(session.items[0]), "abc"))
    assert {by_letter[i]: s for i, s in enumerate(row["scores"])} == {"a": 6, "b": None, "c": None}
    assert {by_letter[i]: f for i, f in enumerate(row["flags"])} == {"a": [], "b": [], "c": ["False"]}


def test_what_cannot_be_decided_changes_nothing():
    rows = [{"id": "a", "messages": [{"role": "user", "content": "?"}], "answers": ["One.", "Two."]}]
    session = RankingSession(rows, "ada")
    session.decide(["a", "b"], {"a": 7})
    before = deepcopy(session.draft), len(session.history)
    with pytest.raises(CourseError, match="1 to 7"):
        session.decide(["b", "a"], {"a": 9})
    assert (session.draft, len(session.history)) == before
    session.submit()
    assert session.undo() and session.draft == before[0]
    assert not session.undo()  # decided and submitted in one


def test_reading_waits_for_nobody_who_writes(tmp_path):
    """A lesson's status is read while students submit."""
    url = f"sqlite:///{tmp_path}/r.sqlite"
    store = RankingStore(url)
    with store.engine.execution_options(writes=True).begin():  # somebody is writing and takes their time
        assert RankingStore(url, patience=0.2).rows() == []
