"""People's own rankings: their way into a head, a reward model and a policy, and matches between models."""

import gzip
import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.chat import Chat
from rlhf_utils.environment import CourseError
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.rank import items_to_rank
from rlhf_utils.pipeline.stages import ensure, open_store, required
from rlhf_utils.pipeline.taste import SCRIPTED, fit_head, ranks_by, usable_rankings, write_taste
from rlhf_utils.profiles import load_profile
from rlhf_utils.ranking.classroom import item_rows
from rlhf_utils.ranking.matches import (
    bradley_terry,
    people_win_rate,
    strengths,
    truth_agreement,
    truthful_rows,
)
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.ranking.store import RankingStore, guidelines, own_rankings
from rlhf_utils.training.reward import score_answers, scored_ids


def test_no_class_is_asked_to_keep_what_its_database_cannot(tiny, monkeypatch):
    drawn = ["Grass.", "Fi\0sh.", "Leaves."]
    monkeypatch.setattr("rlhf_utils.pipeline.rank.sample_answers", lambda *_: [drawn, drawn[:2]])
    (row,) = items_to_rank(tiny.profile, tiny, tiny.prompts("ppo")[:2])
    assert row["answers"] == ["Grass.", "Leaves."] and item_rows([row], "1")[0]["answers"] == row["answers"]


def test_a_head_finds_the_direction_that_decided():
    torch.manual_seed(0)
    direction = torch.zeros(16)
    direction[3] = 1.0
    features = torch.randn(160, 16)
    rows = [
        {"ranks": ranks_by(lambda i: float(features[int(i)] @ direction), [str(i) for i in range(k, k + 4)])}
        for k in range(0, 160, 4)
    ]
    head = fit_head(features, rows)
    assert torch.cosine_similarity(head, direction, dim=0) > 0.9
    turned = fit_head(features, [{"ranks": [5 - r for r in row["ranks"]]} for row in rows])
    assert torch.allclose(turned, -head, atol=1e-2)


def test_all_tied_rankings_move_no_head():
    assert fit_head(torch.randn(8, 4), [{"ranks": [1, 1, 1, 1]}] * 2).abs().max() == 0


def test_ranks_by_a_value_tie_equal_ones():
    assert ranks_by(SCRIPTED["short"], ["a", "a b", "c", "a b c"]) == [1, 3, 1, 4]
    assert ranks_by(SCRIPTED["polite"], ["Grass.", "Grass. I hope that you have a nice day."]) == [2, 1]


@pytest.fixture
def ranked(tiny, tmp_path, monkeypatch):
    """A tiny run of one's own in which ada ranked 20 prompts, short answers first."""
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    monkeypatch.delenv("RLHF_RANKINGS", raising=False)
    shutil.copytree(tiny.root, tmp_path / "tiny")
    store = Store(load_profile("tiny", 0))
    rows = items_to_rank(store.profile, store, store.prompts("ppo")[:24])
    rank(rows[:20], "ada")
    return store


def rank(rows, who, guideline=None):
    session = RankingSession(rows, who, RankingStore(), guideline=guideline or guidelines()[0])
    while not session.finished:
        ranks = ranks_by(SCRIPTED["short"], list(session.answers.values()))
        session.rank([[x for x, r in zip(session.answers, ranks) if r == n] for n in sorted(set(ranks))])
        session.submit()


def test_own_rankings_make_a_model_beside_the_default_one(ranked, tmp_path):
    before = {s: (ranked.root / s / "manifest.json").read_text() for s in ("reward", "ppo_ptx", "evaluate")}
    store = ensure("taste_evaluate", load_profile("tiny", 0), say=lambda text: None)
    figures = store.metrics("taste_evaluate")
    train, held = (read_jsonl(store.folder("taste") / f"{n}.jsonl") for n in ("rankings", "heldout"))
    assert not {r["item"] for r in train} & {r["item"] for r in held} and len(held) == len(train + held) // 5
    assert figures["rankings"] == {"rankings": len(train), "heldout": len(held)}
    assert {"default", "taste"} == set(figures["gold"]) and figures["gold_difference"]["honest"][
        "low"
    ] <= figures["gold_difference"]["honest"]["high"]
    fitted = store.metrics("taste_reward")[0]
    assert fitted["accuracy"] > fitted["accuracy_before"]
    # The default models stay.
    assert before == {s: (ranked.root / s / "manifest.json").read_text() for s in before}


def test_a_weight_of_zero_is_the_crowds_reward_model_and_another_weight_builds_anew(ranked):
    said = []

    def scores(stage):
        tokenizer = ranked.tokenizer()
        shown = [
            scored_ids(ranked.profile, tokenizer, r["messages"], a)
            for r in own_rankings()
            for a in r["answers"]
        ]
        return score_answers(
            load_scorer(Store(ranked.profile).path(stage)), shown, tokenizer.pad_token_id, ranked.profile
        )

    ensure("taste_reward", load_profile("tiny", 0, own_weight=0.0), say=said.append)
    assert np.allclose(scores("reward"), scores("taste_reward"), atol=1e-6) and not said
    ensure("taste_reward", load_profile("tiny", 0, own_weight=2.0), say=said.append)
    assert said == ["taste_reward: to be rebuilt, since own_weight is now 2.0."]
    gained, rows = scores("taste_reward") - scores("reward"), own_rankings()
    sides = np.split(gained, np.cumsum([len(r["answers"]) for r in rows])[:-1])
    alike = [
        side[i] > side[j]
        for r, side in zip(rows, sides)
        for i, x in enumerate(r["ranks"])
        for j, y in enumerate(r["ranks"])
        if x < y
    ]
    # Ada likes it short, and her head orders her answers as she does: better than a coin by three standard
    # errors.
    assert len(alike) > 60 and np.mean(alike) > 0.5 + 1.5 / len(alike) ** 0.5
    # But there is an end to it.
    assert (
        0 <= gained.min() <= gained.max() <= load_scorer(ranked.root / "taste_reward").config.taste["scale"]
    )


def test_another_ranking_builds_anew_and_other_guidelines_stand_beside(ranked):
    said = []
    ensure("taste_reward", load_profile("tiny", 0), say=said.append)
    store = Store(load_profile("tiny", 0))
    rows = items_to_rank(store.profile, store, store.prompts("ppo")[24:40])
    rank(rows[:4], "bob")
    ensure("taste_reward", load_profile("tiny", 0), say=said.append)
    assert said[0] == "taste: to be rebuilt, since the rankings have changed."
    rank(rows, "cy", guideline="other-group")
    other = ensure("taste_ppo", load_profile("tiny", 0, guideline="other-group"), say=said.append)
    assert other.folder("taste").name == "taste-other-group" and {
        r["ranker"] for r in read_jsonl(other.folder("taste") / "rankings.jsonl")
    } == {"cy"}
    chat = Chat(open_store(store.profile), "taste-other-group", 0.0)
    assert chat.written == "yours, other-group" and chat.answer("What do cows eat?")
    assert {r["ranker"] for r in own_rankings()} == {"ada", "bob"}


def test_too_few_rankings_say_how_many_are_needed(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RANKINGS", f"sqlite:///{tmp_path / 'r.sqlite'}")
    with pytest.raises(CourseError, match="0 rankings .* at least 8"):
        write_taste(load_profile("tiny", 0), tmp_path)
    assert not (tmp_path / "r.sqlite").exists()  # looking makes no database
    store = RankingStore()
    for i in range(9):  # all tied: kept, but there is nothing to learn
        store.add(
            {
                "ranker": "a",
                "item": f"i{i}",
                "action": "rank",
                "ranks": [1, 1],
                "messages": [{}],
                "answers": ["x", "y"],
                "guideline": guidelines()[0],
            }
        )
    assert len(own_rankings()) == 9 and not usable_rankings()  # as chapters and `rlhf run` count them
    with pytest.raises(CourseError, match="0 rankings"):
        write_taste(load_profile("tiny", 0), tmp_path)


def test_a_prompt_that_was_asked_twice_stands_on_one_side(tmp_path, monkeypatch):
    """Asked again in chat it is another item."""
    monkeypatch.setenv("RLHF_RANKINGS", f"sqlite:///{tmp_path / 'r.sqlite'}")
    store = RankingStore()
    for i in range(40):
        asked = [{"role": "user", "content": f"What is {i // 2}?"}]
        row = {"ranker": "a", "item": f"i{i}", "action": "rank", "ranks": [1, 2], "messages": asked}
        store.add(row | {"answers": ["x", f"y{i}"], "guideline": guidelines()[0]})
    write_taste(load_profile("tiny", 0), tmp_path)
    sides = [
        {r["messages"][0]["content"] for r in read_jsonl(tmp_path / f"{name}.jsonl")}
        for name in ("rankings", "heldout")
    ]
    assert [len(side) for side in sides] == [16, 4] and not sides[0] & sides[1]


@pytest.mark.parametrize(
    "weight, guideline", [(-1, None), (11, None), (float("nan"), None), (1, "../up"), (1, "x" * 41)]
)
def test_settings_of_a_taste_that_cannot_be(weight, guideline):
    with pytest.raises(CourseError):
        load_profile("tiny", 0, own_weight=weight, guideline=guideline)


def test_the_command_line_says_what_your_rankings_changed(ranked, rlhf, tmp_path):
    result = rlhf("run", "--own-weight", "0.5", check=0)
    assert "Your taste" in result.stdout and "your model" in result.stdout
    shown = json.loads(rlhf("report", "--own-weight", "0.5", "--json", check=0).stdout)
    assert shown["taste"]["own_weight"] == 0.5
    rlhf("report", "--own-weight", "0.5", check=0)
    assert "Your taste" in (tmp_path / "tiny" / "report.html").read_text()
    assert "0 (the crowd alone) to 10" in rlhf("run", "--own-weight", "99", check=2).stderr


def test_a_damaged_taste_is_built_anew_as_the_message_says(ranked, rlhf, tmp_path):
    rlhf("run", "--own-weight", "0.5", check=0)
    model = tmp_path / "tiny" / "taste_reward" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-8])
    said = rlhf("run", "--own-weight", "0.5", check=2).stderr
    told = "rlhf run --profile tiny --own-weight 0.5 --force taste_reward"
    assert told in said
    rlhf(*told.split()[1:], check=0)


def test_rankings_of_one_prompt_leave_none_to_measure_with(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RANKINGS", f"sqlite:///{tmp_path / 'r.sqlite'}")
    store = RankingStore()
    row = {"ranker": "a", "action": "rank", "ranks": [1, 2], "messages": [{}], "answers": ["x", "y"]}
    for i in range(8):
        store.add(row | {"item": f"i{i}", "guideline": guidelines()[0]})
    with pytest.raises(CourseError, match="All your rankings are of one prompt"):
        write_taste(load_profile("tiny", 0), tmp_path)


def test_a_guideline_by_which_nobody_ranked_has_no_model(tmp_path, monkeypatch):
    """The example reader's model is nobody's by another guideline."""
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    with pytest.raises(CourseError, match="rlhf run --profile laptop --guideline formal"):
        Chat(Store(load_profile("laptop", 0), reference=True), "taste-formal")


def test_rankings_of_ones_own_are_learned_over_the_models_that_come_with_the_course(tmp_path, monkeypatch):
    """And the example reader's model is not taken for theirs."""
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    monkeypatch.setenv("RLHF_RANKINGS", f"sqlite:///{tmp_path / 'r.sqlite'}")
    monkeypatch.setenv("RLHF_REFERENCE", "1")
    store, row = RankingStore(), {"ranker": "a", "action": "rank", "ranks": [1, 2], "answers": ["x", "y"]}
    for i in range(9):
        asked = [{"role": "user", "content": str(i)}]
        store.add(row | {"item": f"i{i}", "messages": asked, "guideline": guidelines()[0]})
    mine = open_store(load_profile("laptop", 0))
    needed = {s for s in required(mine, ("taste_evaluate",), set()) if not mine.find(s)}
    assert needed >= {"taste", "taste_reward", "taste_ppo", "taste_evaluate"} and "pretrain" not in needed


@pytest.mark.parametrize(
    "line, version", [("# Ours, Version 2", "2"), ("# Conversion 1: version β-3 draft ", "β-3 draft")]
)
def test_guidelines_of_ones_own_have_a_version(tmp_path, monkeypatch, line, version):
    (tmp_path / "ranking").mkdir()
    (tmp_path / "ranking" / "guidelines.md").write_text(f"{line}\n\nRank.", "utf-8")
    monkeypatch.setattr("rlhf_utils.ranking.store.DATA", tmp_path)
    assert guidelines()[0] == version
    (tmp_path / "ranking" / "guidelines.md").write_text("# Ours\n", "utf-8")
    with pytest.raises(CourseError, match="first line of data/ranking/guidelines.md"):
        guidelines()


# -- who wrote the better answers? ---------------------------------------------------------------------------
def test_bradley_terry_of_two_models_is_the_log_odds():
    played = [("a", "b", 1.0)] * 30 + [("a", "b", 0.0)] * 10
    a, b = strengths(played, ["a", "b"], prior=1e-6)
    assert a - b == pytest.approx(np.log(3), abs=1e-3) and a + b == pytest.approx(0, abs=1e-9)


def test_bradley_terry_finds_the_strengths_that_made_the_rankings():
    rng = np.random.default_rng(0)
    true = {"a": 1.5, "b": 0.5, "c": -0.5, "d": -1.5}
    rows = []
    for _ in range(300):
        felt = {m: s + rng.gumbel() for m, s in true.items()}
        rows.append({"models": list(true), "ranks": [1 + sum(felt[x] > felt[m] for x in true) for m in true]})
    table = bradley_terry(rows).set_index("model")
    assert list(table.index) == list("abcd") and (table.pairs == 900).all()
    for model, strength in true.items():
        assert table.low[model] - 0.05 <= strength <= table.high[model] + 0.05


def test_a_model_that_wins_everything_stays_finite_and_shared_answers_are_ties():
    table = bradley_terry([{"models": ["a", "b + c"], "ranks": [1, 2]}] * 5).set_index("model")
    assert (
        np.isfinite(table.strength).all()
        and table.strength["a"] > 0
        and table.strength["b"] == pytest.approx(table.strength["c"], abs=1e-3)
    )
    with pytest.raises(CourseError, match="no ranking"):
        bradley_terry([])


def test_people_prefer_by_their_ranks():
    rows = [{"models": ["x", "y"], "ranks": r} for r in ([1, 2], [1, 2], [2, 1], [1, 1])]
    found = people_win_rate(rows, "x", "y")
    assert found["decided"] == pytest.approx(2 / 3) and found["ties"] == 0.25 and found["n"] == 4
    with pytest.raises(CourseError, match="Nobody"):
        people_win_rate(rows, "x", "z")


def samples(path, rows):
    text = ",model_type,prompt_type,adversarial,question,answer,true,info\n" + "".join(
        f"{i},m{m},instruction prompt,True,Question {q}?,answer {q} {m},{m / 20},1.0\n"
        for i, (q, m) in enumerate(rows)
    )
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_published_samples_become_blind_items(tmp_path):
    path = samples(tmp_path / "s.csv.gz", [(q, m) for q in range(5) for m in range(12)])
    rows = truthful_rows(path, count=3)
    assert len(rows) == 3 and all(len(set(r["models"])) == 9 for r in rows)
    session = RankingSession(
        rows, "ada", store := RankingStore(f"sqlite:///{tmp_path / 'r.sqlite'}"), guideline="truthful"
    )
    while not session.finished:
        # The truest first.
        session.rank(sorted(session.answers, key=lambda x: -int(session.answers[x].split()[-1])))
        session.submit()
    done = store.ranked("ada")
    assert truth_agreement(done, rows)["agreement"] == 1.0
    order = [int(model[1:]) for model in bradley_terry(done).model]  # the truest model first
    assert np.corrcoef(order, range(len(order)))[0, 1] < -0.95


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a,b\n1,2\n", "is not the file"),
        (b"\x1f\x8bbroken", "cannot be read|is not the file"),
        (None, "no such file"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "other.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CourseError, match=message) as caught:
        truthful_rows(path)
    assert "other.csv" in str(caught.value)


REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "instructgpt_truthful_qa_samples.csv.gz"


@pytest.mark.skipif(not REAL.exists(), reason="no public data beside the checkout (shared/real)")
def test_the_real_instructgpt_samples():
    rows = truthful_rows(REAL, count=100)
    assert len(rows) == 100 and all(len(r["answers"]) == 9 for r in rows)
    # Ranked by the published scores themselves, the order of the models is that of their mean scores.
    ranked = [
        r
        | {
            "item": r["id"],
            "ranks": ranks_by(lambda a, r=r: round(r["truth"][r["answers"].index(a)], 3), r["answers"]),
        }
        for r in rows
    ]
    assert truth_agreement(ranked, rows)["agreement"] == 1.0
    table = bradley_terry(ranked, draws=20)
    means = {
        m: np.mean([t for r in rows for x, t in zip(r["models"], r["truth"]) if x == m]) for m in table.model
    }
    agree = [means[a] > means[b] for a, b in combinations(table.model, 2)]
    assert len(table) == 12 and np.mean(agree) > 0.8
