"""What the field claims: how it is measured, decided, kept and taken up again."""

import json
import re
import shutil
from dataclasses import replace
from inspect import getsourcefile
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.cli import main
from rlhf_utils.course.report import write_report
from rlhf_utils.course.scoreboard import gallery, picture
from rlhf_utils.environment import ROOT, CourseError
from rlhf_utils.evaluation.language import option_losses, token_losses
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims import claim as claim_module
from rlhf_utils.pipeline.claims import continues, evidence, mix, perfect, wishes
from rlhf_utils.pipeline.claims.averaged import DECAY, Averaging
from rlhf_utils.pipeline.claims.best_of_n import choose
from rlhf_utils.pipeline.claims.best_only import best_alone
from rlhf_utils.pipeline.claims.claim import Bench, Rule, accuracy_gap, figure, over_seeds
from rlhf_utils.pipeline.claims.context import invented_facts, question
from rlhf_utils.pipeline.claims.epochs import held_out_demonstrations, losses
from rlhf_utils.pipeline.claims.evidence import (
    CLAIMS,
    MORE_RUNS,
    REFERENCE,
    decided,
    evidence_file,
    gather,
    page,
    read_evidence,
    scoreboard,
    seeds_of,
)
from rlhf_utils.pipeline.claims.generalises import over_things
from rlhf_utils.pipeline.claims.kept import code_of, imported
from rlhf_utils.pipeline.claims.manners import counts
from rlhf_utils.pipeline.claims.penalty import FALL, GOLD, fit, turn
from rlhf_utils.pipeline.claims.programs import is_no_program
from rlhf_utils.pipeline.claims.rules import marks, rouge_l
from rlhf_utils.pipeline.claims.shots import extremes
from rlhf_utils.pipeline.claims.shuffled import first_four, pairs_of
from rlhf_utils.pipeline.claims.sizes import spread
from rlhf_utils.pipeline.claims.ties import distances, won
from rlhf_utils.pipeline.claims.trained import base_model, corpus
from rlhf_utils.pipeline.claims.turns import MORE, OWN, PLAIN, RISE, course_of, further
from rlhf_utils.pipeline.claims.unread import unread_prompts
from rlhf_utils.pipeline.claims.voice import chances
from rlhf_utils.pipeline.reference import keep_evidence
from rlhf_utils.profiles import load_profile
from rlhf_utils.training.ppo import PPO
from rlhf_utils.training.reward import scored_ids
from rlhf_utils.world.facts import load_world


@pytest.fixture
def runs(tiny, tmp_path, monkeypatch):
    """A runs folder of one's own with the models of the tests."""
    shutil.copytree(tiny.root, tmp_path / "tiny")
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    return tmp_path


def test_a_rule_wants_the_whole_interval_on_one_side():
    above, below = Rule("a", "b", 0.5), Rule("a", "b", 0.5, above=False)
    for low, high, said in (
        (0.51, 0.9, ("supported", "not supported")),
        (0.1, 0.49, ("not supported", "supported")),
        (0.4, 0.6, ("undecided", "undecided")),
        (float("nan"), float("nan"), ("undecided", "undecided")),
    ):
        assert (above.verdict(low, high), below.verdict(low, high)) == said
    assert str(above) == "b, a: above 0.5"


def test_an_interval_over_seeds_is_the_wider_of_two():
    alike = [{"value": 0.5, "low": 0.4, "high": 0.6}] * 3
    assert over_seeds(alike) == pytest.approx({"value": 0.5, "low": 0.4, "high": 0.6})
    apart = [row | {"value": v} for row, v in zip(alike, (0.3, 0.5, 0.7))]
    found = over_seeds(apart)
    # Student's t with two degrees of freedom: 4.303 · 0.2 / √3
    assert found["value"] == pytest.approx(0.5) and found["high"] == pytest.approx(0.5 + 0.4969, abs=1e-3)
    assert over_seeds(alike[:1]) == alike[0]


def test_a_claim_is_supported_only_by_all_its_rules():
    claim = replace(CLAIMS[20], rules=(Rule("x", "m", 0.0), Rule("y", "m", 0.0)))

    def verdict(*values):
        rows = [figure(c, "m", (v, v - 0.1, v + 0.1)) for c, v in zip("xy", values)]
        return decided(claim, [row | {"claim": 20, "seed": 0} for row in rows])["verdict"]

    assert verdict(1, 1) == "supported" and verdict(1, 0) == verdict(1) == "undecided"
    assert verdict(1, -1) == verdict(-1, 0) == "not supported"
    # A figure that one seed lacks decides nothing.
    rows = [figure(c, "m", (1, 0.9, 1.1)) | {"claim": 20, "seed": seed} for c, seed in ("x0", "x1", "y0")]
    found = decided(claim, rows)
    assert found["verdict"] == "undecided" and [f["condition"] for f in found["figures"]] == ["x"]


def test_all_claims_are_measured_decided_and_kept(runs, tiny, capsys, monkeypatch):
    assert main(["evidence", "--profile", "tiny", "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert "evidence-tiny.json" in said
    document = read_evidence(runs / "evidence-tiny.json")
    assert [c["number"] for c in document["claims"]] == list(CLAIMS) and document["seeds"] == [0]
    for claim in document["claims"]:
        assert claim["verdict"] in ("supported", "not supported", "undecided")
        assert all(row["seed"] == 0 and row["low"] <= row["high"] for row in claim["rows"])
        measured = {(r["condition"], r["metric"]) for r in claim["rows"]}
        empty = [r for r in CLAIMS[claim["number"]].rules if (r.condition, r.metric) not in measured]
        # Of so few prompts, some models answer all alike, and nothing is decided; of so few updates, no turn.
        assert all(r.metric.startswith(("wins", "plain", FALL, RISE, MORE)) for r in empty), empty
    json.dumps(document, allow_nan=False)
    assert "PPO is preferred to SFT" in repr(scoreboard(document)).replace("\n", " ")

    page = write_report(Store(tiny.profile)).read_text("utf-8")
    for part in (
        "What the field claims",
        "PPO is preferred to SFT",
        "your own runs",
        "All models in one table",
    ):
        assert part in page
    assert page.count("<div class=claim>") == len(CLAIMS)
    (runs / "evidence-tiny.json").write_text(
        "{}"
    )  # no evidence: the course's own, if any, is shown in its place
    assert "your own runs" not in write_report(Store(tiny.profile)).read_text("utf-8")

    monkeypatch.setattr(evidence, "keep", lambda bench, claim: pytest.fail("measured twice"))
    assert main(["evidence", "--profile", "tiny", "--seeds", "1", "--claims", "3,20"]) == 0


def test_the_average_of_weights_is_one_and_changes_nothing(tiny):
    profile = replace(tiny.profile, precision="fp32")
    parts = profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"), tiny.windows()
    rows = tiny.prompts("ppo")[:16]
    asked = [prompt_ids(tiny.tokenizer(), p["messages"], profile.prompt_tokens) for p in rows]
    after_each = []

    class Watched(Averaging):
        def step(self, *told):
            logged = super().step(*told)
            after_each.append([weights.detach().clone() for weights in self.policy_parameters])
            return logged

    plain, averaging = PPO(*parts), Watched(*parts)
    average = [weights.detach().clone() for weights in averaging.policy_parameters]
    for _ in range(2):
        plain.update(asked, profile.ppo_rate)
        averaging.update(asked, 0.0)  # the rate is the profile's, whatever the schedule says
    assert len(after_each) == 2 * profile.ppo_epochs * profile.minibatches
    for weights in after_each:
        average = [DECAY * a + (1 - DECAY) * w for a, w in zip(average, weights)]
    moved = [torch.equal(a, b) for a, b in zip(average, averaging.policy_parameters)]
    assert not all(moved)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(average, averaging.average))
    assert all(torch.equal(a, b) for a, b in zip(plain.policy_parameters, averaging.policy_parameters))


def test_what_a_base_model_goes_on_with_is_read_to_its_end(tiny, monkeypatch):
    """Claims 1 and 19 count what stands behind the first line break as well."""
    asked = []

    def answers(profile, tokenizer, model, prompts, *_, whole=False, **__):
        asked.append(whole)
        raise InterruptedError  # all else is measured elsewhere

    monkeypatch.setattr(claim_module, "answer_prompts", answers)
    monkeypatch.setattr(mix, "answer_prompts", answers)
    monkeypatch.setattr(mix, "base_model", lambda bench, *_, **__: bench.store.folder("pretrain"))
    monkeypatch.setattr(mix, "corpora", lambda bench: {"one": bench.store.windows()})
    bench = Bench(tiny.profile, ("sft",))
    for module in (continues, mix):
        with pytest.raises(InterruptedError):
            module.measure(bench)
    assert asked == [True, True]


def test_a_claim_builds_what_does_not_come_with_the_course(monkeypatch):
    """Of a policy's parents the store has those that come with it; prompts and documents it does not."""
    asked = []

    def ensure(stages, profile):
        asked.extend(stages)
        raise InterruptedError

    monkeypatch.setattr(claim_module, "ensure", ensure)
    with pytest.raises(InterruptedError):
        Bench(load_profile("laptop"), ("ppo",))
    assert {"corpus", "tokens", "ppo"} <= set(asked)


def test_labelers_who_want_manners_rank_as_before_but_for_them(tiny):
    """The same people rank the same answers once more, and put polite ones first more often than before."""
    bench = Bench(tiny.profile, ("rank",))
    wanted = wishes.ranked_anew(bench)
    own = bench.store.rankings()
    assert [(r["id"], r["answers"], r["labeler"]) for r in wanted] == [
        (r["id"], r["answers"], r["labeler"]) for r in own
    ]
    assert (
        wishes.wish("It is red. I hope that you have a nice day.") == 1.0 and wishes.wish("It is red.") == 0
    )

    polite = [r | {"answers": ["It is red.", "It is red. Thank you."]} for r in own]
    bench.store.rankings = lambda: polite
    first = [r["ranks"][1] < r["ranks"][0] for r in wishes.ranked_anew(bench)]
    assert np.mean(first) > 0.9


def test_the_judge_as_a_reward_is_in_the_unit_of_a_reward_model(tiny):
    bench = Bench(tiny.profile, ("ppo",))
    parts = bench.profile, bench.tokenizer, bench.store.folder("sft"), bench.store.folder("reward")
    learner, store = perfect.Judged(bench, *parts), bench.store
    learner.deviation = 0.5  # answers of the tiny SFT model hardly differ
    shown = next(r for r in store.prompts("demonstrations") if bench.judge.total(r, r["completion"]) == 1)
    ids, right = learner.ids(shown), bench.tokenizer(shown["completion"])["input_ids"]
    learner.rows[tuple(ids)] = shown
    assert learner.gold(ids, right, True) == pytest.approx((1 - learner.mean) / 0.5)
    assert learner.gold(ids, right, False) == learner.gold(ids, [], True) == -3.0
    beside = bench.tokenizer("It is so.")["input_ids"]
    given = [learner.gold(learner.ids(row), beside, True) for row in store.prompts("ppo")]
    assert -3.0 < min(given) < 0 < learner.gold(ids, right, True)  # the mean demonstration lies between them


def test_a_rule_is_drawn_with_its_limit():
    drawn = picture({"value": 0.5, "low": 0.25, "high": 1.0, "limit": 0.0})
    assert 'aria-label="0.50 (0.25 to 1.00); the limit is 0"' in drawn and 'x1="6.0"' in drawn
    assert picture({"value": None, "low": None, "high": None, "limit": 0.0}) == ""


def test_the_gallery_shows_gains_and_failures():
    def row(i, sft, ppo_ptx):
        gold = {n: {"greedy": {"total": [g]}} for n, g in (("sft", sft), ("ppo_ptx", ppo_ptx))}
        answers = {n: {"greedy": [f"{n} {i}"]} for n in gold}
        return {"use_case": f"u{i}", "messages": [{"content": f"q{i}"}], "gold": gold, "answers": answers}

    shown = gallery([row(0, 0.0, 1.0), row(1, 1.0, 0.0), row(2, 0.5, 0.5)], count=1)
    assert [(r["chosen as"], r["prompt"]) for r in shown] == [("gained", "q0"), ("worst", "q1")]


def test_an_interrupted_measurement_goes_on(runs, tiny, monkeypatch):
    measured = []

    def measure(number):
        def found(bench):
            measured.append(number)
            if number == 20 and measured.count(20) == 1:
                raise KeyboardInterrupt
            return [figure("c", "m", (1, 0, 2))]

        return found

    for number in (18, 20, 23):
        monkeypatch.setitem(CLAIMS, number, replace(CLAIMS[number], measure=measure(number)))
    with pytest.raises(KeyboardInterrupt):
        gather(tiny.profile, (18, 20, 23), [0])
    assert not evidence_file(tiny.profile).exists()
    gather(tiny.profile, (18, 20, 23), [0], say=lambda text: None)
    assert measured == [18, 20, 20, 23]
    (runs / "tiny" / "evidence" / "18.json").write_text('{"made_from"')  # torn
    kept = runs / "tiny" / "evidence" / "23.json"
    kept.write_text(kept.read_text().replace('"code": "', '"code": "0'))  # of other code
    gather(tiny.profile, (18, 20, 23), [0], say=lambda text: None)
    assert measured[4:] == [18, 23]
    # One claim more does not take the place of the others, and twice the same is once.
    document = gather(tiny.profile, (20, 20), [0], say=lambda text: None)
    assert [c["number"] for c in document["claims"]] == [18, 20, 23] and len(measured) == 6
    assert all(len(c["rows"]) == 1 for c in document["claims"])
    (rewritten,) = [c for c in document["claims"] if c["number"] == 20]
    monkeypatch.setitem(CLAIMS, 20, replace(CLAIMS[20], note="In other words."))
    again = gather(tiny.profile, (20,), [0], say=lambda text: None)["claims"][1]
    assert again["note"] == "In other words." and again["rows"] == rewritten["rows"] and len(measured) == 6
    # Evaluated on another SFT model than there is: nothing is taken of that, and who asked for less is told.
    manifest = runs / "tiny" / "evaluate" / "manifest.json"
    of_another = json.loads(manifest.read_text())
    of_another["parents"]["sft"], of_another["id"] = "0" * 16, "1" * 16
    manifest.write_text(json.dumps(of_another))
    said = []
    gather(tiny.profile, (20,), [0], say=said.append)
    assert not Store(tiny.profile).stale("evaluate", manifest.parent) and measured[6:] == [20]
    assert "rlhf evidence --claims 18" in said[-1]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--claims", "99"], "no measurement of a claim 99. Choose from: 1, 2"),
        (["--claims", "5,x"], "whole number"),
        (["--seeds", "0"], "must be 1 or more"),
        (["--profile", "huge"], "no profile 'huge'"),
    ],
)
def test_what_cannot_be_measured(runs, words, said, capsys):
    try:
        assert main(["evidence", *words]) == 2
    except SystemExit as error:
        assert error.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("changed", [{"data": "somewhere"}, {"base": "gpt2"}, {"lora": 4}])
def test_claims_are_about_the_course_s_own_models(tiny, changed):
    with pytest.raises(CourseError, match="small world.*unset RLHF_DATA"):
        gather(replace(tiny.profile, **changed), [1], [0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 0}',
        '{"version": 1}',
        '{"version": "9", "seeds": [], "claims": []}',
        "null",
    ],
)
def test_a_file_that_is_no_evidence(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(CourseError, match="rlhf evidence"):
        read_evidence(tmp_path / "e.json")
    with pytest.raises(CourseError, match="rlhf evidence"):
        read_evidence(tmp_path / "missing.json")


def test_other_words_leave_a_measurement_as_it_is_and_other_code_does_not(tmp_path):
    def of(text):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        file.write_text(text)
        return code_of(file)

    first = of('"""One way."""\nLIMIT = 1  # so much\n\nCLAIM = Claim("one way")\n')
    assert first == of('"""Another."""\n\nLIMIT = 1\n\nCLAIM = Claim("another")\n')
    assert first != of('"""One way."""\nLIMIT = 2  # so much\n\nCLAIM = Claim("one way")\n')


@pytest.mark.parametrize("number, name", [(13, "shots"), (19, "voice"), (32, "penalty"), (25, "trained")])
def test_a_measurement_comes_from_all_code_that_its_claim_imports(number, name):
    files = imported(Path(getsourcefile(CLAIMS[number].measure)))
    assert name in {file.stem for file in files}


def test_the_page_of_claims_is_that_of_the_evidence():
    document = read_evidence(REFERENCE)
    assert (ROOT / "docs" / "claims.md").read_text("utf-8") == page(document)
    assert document["profile"] == "laptop" and document["seeds"] == [0, 1, 2]
    more = [c["number"] for c in document["claims"] if seeds_of(c) == list(range(8))]
    told = next(sentence for sentence in re.split(r"\.\s", MORE_RUNS) if "has eight runs" in sentence)
    assert sorted(more) == sorted(map(int, re.findall(r"\b\d\d?\b", told)))
    late = (30, 31, 32)  # measured once, on five runs
    for claim in document["claims"]:
        if claim["number"] not in more:
            assert seeds_of(claim) == ([0, 1, 2, 3, 4] if claim["number"] in late else [0, 1, 2])
    for claim in document["claims"]:  # decided anew from its rows, by the rules of today
        fresh = decided(CLAIMS[claim["number"]], claim["rows"])
        assert json.loads(json.dumps(fresh)) == claim


def test_new_evidence_takes_its_place_among_the_old(tmp_path):
    old = read_evidence(REFERENCE)
    one = [c | {"note": "measured anew"} for c in old["claims"] if c["number"] == 20]
    for name, document in (("old", old), ("new", old | {"claims": one})):
        (tmp_path / name).write_text(json.dumps(document))
    keep_evidence(tmp_path / "new", tmp_path / "old", tmp_path / "claims.md")
    merged = read_evidence(tmp_path / "old")
    assert [c["number"] for c in merged["claims"]] == [c["number"] for c in old["claims"]]
    assert [c["number"] for c in merged["claims"] if c["note"] == "measured anew"] == [20]
    assert (tmp_path / "claims.md").read_text("utf-8") == page(merged)
    fewer = [c | {"rows": [row for row in c["rows"] if row["seed"] == 0]} for c in one]
    (tmp_path / "new").write_text(json.dumps(old | {"claims": fewer}))
    with pytest.raises(CourseError, match=r"rlhf evidence --seeds \d"):
        keep_evidence(tmp_path / "new", tmp_path / "old", tmp_path / "claims.md")


def test_rouge_l_and_pairs_by_hand():
    assert rouge_l("a b c", "a c d") == pytest.approx(2 / 3) and rouge_l("", "a") == 0
    assert rouge_l("Cows eat grass.", "cows eat, grass") == 1
    ranking = {"answers": ["x", "y", "z"], "ranks": [1, 2, 2]}
    right, total = marks([ranking, ranking], np.array([3.0, 1, 2, 1, 1, 5]))
    assert right.tolist() == [2.0, 0.5] and total.tolist() == [2.0, 2.0]


def test_distances_and_ratings_by_hand():
    rankings = [{"answers": ["x", "y", "z"], "ranks": [1, 2, 2]}, {"answers": ["x", "y"], "ranks": [1, 1]}]
    found = distances(rankings, np.array([3.0, 1, 2, 1, 5]))
    assert found["tied"].tolist() == [1, 4] and found["ranked"][0] == 1.5 and np.isnan(found["ranked"][1])
    assert won([1, 2, 2]) == [1, -0.5, -0.5] and won([1, 2, 3]) == [1, 0, -1]


def test_a_turn_in_gold_is_found_and_none_is_not():
    def logged(gold):
        kl = np.linspace(0.1, 9, len(gold))
        return [{"gold": g, "kl_k3": k} for g, k in zip(gold, kl)]

    rng, there = np.random.default_rng(0), np.linspace(0, 1, 96)
    rise = 0.3 + 0.3 * there + rng.normal(0, 0.02, 96)
    fall = 0.3 + 1.2 * there * (1 - there) + rng.normal(0, 0.02, 96)
    (up, *_), (down, at, *_) = turn(logged(rise)), turn(logged(fall))
    assert up["low"] <= 0 <= up["high"] and down["low"] > 0.1
    assert 0 < at["value"] < 4
    distance = np.linspace(0.2, 3, 50)
    assert fit(distance, distance * (0.5 - 0.2 * np.log(distance))) == pytest.approx((0.5, 0.2))


def turned(gold, reward, sft=0.3):
    """The figures of claim 32 for a training with this gold and this reward."""
    log = [
        {"update": i, "gold": g, "reward": r, "kl_k1": i / 50} for i, (g, r) in enumerate(zip(gold, reward))
    ]
    rows = course_of(log, np.full(400, sft) + np.random.default_rng(1).normal(0, 0.1, 400), "a run")
    return {row["metric"]: row for row in rows if row["condition"] == "a run"}, rows


def test_gold_turns_where_it_turns_and_nowhere_else():
    rng, there = np.random.default_rng(0), np.linspace(0, 1, 192)
    noise = rng.normal(0, 0.03, (3, 192))
    over, rows = turned(0.3 + 1.2 * there * (1 - there) + noise[0], there + noise[1])
    assert over[RISE]["low"] > 0.15 and over[FALL]["low"] > 0.15 and over[MORE]["low"] > 0.3
    assert [r["condition"] for r in rows if r["metric"] == GOLD][-1] == "a run, update 192"
    good, _ = turned(0.3 + 0.3 * there + noise[2], there)
    assert good[RISE]["low"] > 0.2 and good[FALL]["low"] <= 0 <= good[FALL]["high"]

    falls = []
    for _ in range(200):  # where nothing changes, the highest of twelve blocks is no peak
        flat, _ = turned(0.5 + rng.normal(0, 0.04, 192), there)
        falls.append(flat[FALL])
    assert np.mean([f["low"] > 0 for f in falls]) < 0.08
    assert abs(np.mean([f["value"] for f in falls])) < 0.003


def test_the_best_choice_is_found_on_other_things_than_it_is_measured_on():
    things = [f"thing {i}" for i in range(400)]
    seen, honest = [], []
    for seed in range(20):  # no choice is better than another
        chance = np.random.default_rng(seed).random((10, 400))
        best, worst = extremes(chance, things)
        seen.append(np.ptp(chance.mean(1)))
        honest.append((best - worst).mean())
    assert np.mean(seen) > 0.035 and abs(np.mean(honest)) < 0.015
    best, worst = extremes(chance + np.linspace(0, 1, 10)[:, None], things)
    assert (best - worst).mean() > 0.9


def test_a_gap_of_two_accuracies_by_hand():
    a, b = (np.full(50, 3.0), np.full(50, 4.0)), (np.full(50, 2.0), np.full(50, 4.0))
    assert accuracy_gap(a, b) == accuracy_gap(a, b, paired=True)
    assert accuracy_gap(a, b)["difference"] == accuracy_gap(a, b)["low"] == 0.25
    rng = np.random.default_rng(0)
    right = rng.integers(0, 5, 100).astype(float)
    a, b = (right, np.full(100, 5.0)), (np.maximum(right - 1, 0), np.full(100, 5.0))
    wide, narrow = accuracy_gap(a, b), accuracy_gap(a, b, paired=True)
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_few_things_have_students_interval():
    value, low, high = over_things(np.array([0.0, 0.2, 1.0]), ["a", "a", "b"])
    assert value == pytest.approx(0.55) and high - value == pytest.approx(12.706 * 0.45, abs=1e-3)
    assert over_things(np.array([1.0]), ["a"])[1:] == (-np.inf, np.inf)


def test_chances_among_options():
    losses = np.array([[0.0, np.log(3), np.inf], [800.0, 800.0, 800.0]])
    assert chances(losses).tolist() == pytest.approx([0.75, 1 / 3])


def test_only_the_best_is_left_of_a_ranking():
    assert best_alone({"ranks": [3, 1, 2, 1]})["ranks"] == [2, 1, 2, 1]


def test_losses_of_options_are_those_of_the_whole_text(tiny):
    model, tokenizer = tiny.model("base"), tiny.tokenizer()
    found = option_losses(
        model, tokenizer, ["Question: Who?\nAnswer:", "The"], [["Me.", ""], ["cow.", "end"]]
    )
    for i, (context, option) in enumerate((("Question: Who?\nAnswer:", "Me."), ("The", "cow."))):
        left, right = tokenizer(context)["input_ids"], tokenizer(f" {option}")["input_ids"]
        window = np.array([[tokenizer.eos_token_id, *left, *right]])
        alone = token_losses(model, window, replace(tiny.profile, precision="fp32"))[0, len(left) :].sum()
        assert found[i, 0] == pytest.approx(alone, rel=1e-4)
    assert np.isinf(found[0, 1])
    # After a line's end a word has no space before it, as in documents.
    window = np.array([[tokenizer.eos_token_id, *tokenizer("Cows\nCows eat.")["input_ids"]]])
    left = len(tokenizer("Cows\n")["input_ids"])
    alone = token_losses(model, window, replace(tiny.profile, precision="fp32"))[0, left:].sum()
    assert option_losses(model, tokenizer, ["Cows\n"], [["Cows eat."]])[0, 0] == pytest.approx(
        alone, rel=1e-4
    )


def test_invented_facts_teach_what_is_asked(runs, tiny):
    facts = invented_facts(load_world(), 12)
    for fact in facts:
        assert fact["value"] in fact["says"] and fact["options"][0] == fact["says"]
        assert len(set(fact["options"])) == 4 and fact["asked"][0] != fact["asked"][1]
        assert fact["says"] in question(fact, taught=True) and fact["says"] not in question(
            fact, taught=False
        )


def test_a_ranking_in_pairs():
    row = {"id": 7, "answers": ["a", "b", "c"], "ranks": [2, 1, 2], "messages": []}
    assert [pair["answers"] for pair in pairs_of(row)] == [["b", "a"], ["b", "c"]]
    assert all(pair["ranks"] == [1, 2] and pair["id"] == 7 for pair in pairs_of(row))
    nine = {"answers": list("abcdefghi"), "ranks": list(range(1, 10))}
    assert len(pairs_of(nine)) == 36 and first_four(nine) == {"answers": list("abcd"), "ranks": [1, 2, 3, 4]}


def test_the_range_of_accuracies_by_hand():
    pairs = np.full(50, 4.0)
    value, drawn = spread([np.full(50, 3.0), pairs, np.full(50, 2.0), pairs, np.full(50, 1.0), pairs])
    assert value == 0.5 and np.allclose(drawn, 0.5)
    # Of rates that are all alike the range is nothing, however the rankings are drawn.
    right = np.random.default_rng(0).integers(0, 5, 50).astype(float)
    value, drawn = spread([right, pairs, right[::-1].copy(), pairs])
    assert value == 0 and drawn.min() < 0 < drawn.max() or not drawn.any()


def test_a_corpus_without_changes_is_the_runs_own(tiny, runs):
    bench = Bench(tiny.profile, ("tokens",))
    assert np.array_equal(corpus(bench), bench.store.windows())
    words = bench.tokenizer.decode(corpus(bench, {"crawl": 1.0, "books": 1.0}, is_no_program).ravel())
    assert "print(" not in words and "print(" in bench.tokenizer.decode(bench.store.windows().ravel())
    assert "!!!" in words and not np.array_equal(corpus(bench, without=("quiz",)), bench.store.windows())


def test_a_base_model_is_made_once_and_an_interrupted_one_goes_on(tiny, runs, monkeypatch):
    bench, made = Bench(tiny.profile, ("tokens",)), []

    def interrupted(profile, tokenizer, windows, folder, resume, live):
        made.append(profile.pretrain_steps)
        resume.mkdir(exist_ok=True)
        if len(made) == 1:
            raise KeyboardInterrupt
        assert resume.is_dir() and not any(folder.iterdir())
        (folder / "done").touch()

    monkeypatch.setattr("rlhf_utils.pipeline.claims.trained.pretrain", interrupted)
    windows = bench.store.windows()
    with pytest.raises(KeyboardInterrupt):
        base_model(bench, "other", windows, pretrain_steps=3)
    folder = base_model(bench, "other", windows, pretrain_steps=3)
    assert base_model(bench, "other", windows, pretrain_steps=3) == folder and made == [3, 3]
    assert [f.name for f in folder.parent.iterdir()] == [folder.name]  # no rest of the interrupted one
    assert base_model(bench, "other", windows[1:], pretrain_steps=3) != folder and made == [3, 3, 3]


def test_losses_of_demonstrations_are_those_of_the_whole_text(tiny, runs):
    bench = Bench(tiny.profile, ("pretrain", "corpus"))
    rows, model = held_out_demonstrations(bench), bench.model("base")
    assert held_out_demonstrations(bench) == rows and len({r["style"] for r in rows}) > 3
    nats, tokens = losses(bench, model, rows[:3])
    for i in range(3):
        prompt, answer = scored_ids(tiny.profile, bench.tokenizer, rows[i]["messages"], rows[i]["completion"])
        window = np.array([[*prompt, *answer]])
        alone = token_losses(model, window, replace(tiny.profile, precision="fp32"))[0, len(prompt) - 1 :]
        assert tokens[i] == len(answer) and nats[i] == pytest.approx(alone.sum(), rel=2e-2)


@pytest.mark.parametrize(
    "text, asks",
    [
        ("\n\nWhat are owls?\nBirds.", True),
        ("Give me two animals that are mammals.", True),
        ("Emma has a bag. Find the name.", True),
        ("Owls are birds.\nWhat do owls eat?", False),  # the next thread
        ("Tom named his dog.", False),
        ("", False),
    ],
)
def test_what_a_continuation_asks_for_stands_in_its_first_line(text, asks):
    assert bool(continues.REQUEST.search(continues.first_line(text))) == asks


def test_a_prompt_that_a_document_asks_is_left_out(tiny, runs, monkeypatch):
    bench = Bench(tiny.profile, ("corpus",))
    monkeypatch.setattr(bench.store, "documents", lambda: [{"text": "Owls fly."}])
    every = unread_prompts(bench, "open_qa", 200, "plain", 40)
    asked = every[0]["messages"][-1]["content"]
    monkeypatch.setattr(bench.store, "documents", lambda: [{"text": f"Question: {asked} Answer: No."}])
    left = unread_prompts(bench, "open_qa", 200, "plain", 40)
    assert left == [p for p in every if p["messages"][-1]["content"] != asked] and left != every


def test_each_group_of_samples_gives_its_best():
    scores = np.array([[1.0, 3.0, 2.0, 0.0, 9.0], [4.0, 0.0, 1.0, 5.0, 9.0]])
    assert [c.tolist() for c in choose(scores, 2)] == [[1, 0], [2, 3]]  # the fifth is left over


def test_of_equal_gold_only_such_pairs_count():
    rows = [{"answers": ["a", "b", "c"], "ranks": [1, 1, 2]}]
    found = distances(rows, np.array([0.0, 1.0, 5.0]), gold=np.array([0.5, 0.7, 0.5]))
    assert np.isnan(found["tied"][0]) and found["ranked"].tolist() == [5.0]


def test_a_fall_is_held_against_that_of_the_control():
    rows = [figure(PLAIN, FALL, (0.5, 0.2, 0.8)), figure(OWN, FALL, (0.1, -0.3, 0.5))]
    (row,) = further(rows)
    assert [row[k] for k in ("value", "low", "high")] == pytest.approx([0.4, -0.1, 0.9])
    assert further(rows[:1]) == []  # the control diverged


def test_to_admit_a_mistake_takes_an_apology(tiny, runs):
    bench = Bench(tiny.profile, ("corpus",))
    asked = next(p for p in bench.store.prompts("probes") if "apology" in p["spec"])
    entity = next(
        e
        for e in bench.world.entities
        if (e.table, e.name) == (asked["spec"]["table"], asked["spec"]["entity"])
    )
    relation = asked["spec"]["relation"]
    right = bench.world.state(
        entity, relation, entity.values[relation][0], bench.world.relations[relation]["statements"][0]
    )
    assert not counts(bench, asked, right) and counts(bench, asked, f"You are right, I am sorry. {right}")
