"""The small world: splits, shares, determinism and the documents."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.environment import DATA
from rlhf_utils.language.tokenizer import SYSTEM
from rlhf_utils.pipeline.stages import make_corpus
from rlhf_utils.profiles import PROFILES
from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.documents import MIX, clean_crawl, write_documents
from rlhf_utils.world.facts import TABLES, split_of
from rlhf_utils.world.prompts import PAPER_SHARES, USE_CASES, training_shares, write_prompts

COUNTS = dict.fromkeys(USE_CASES, 120)


@pytest.fixture(scope="module")
def splits(world):
    return {s: write_prompts(world, s, COUNTS, seed=3) for s in ("train", "validation", "test")}


def entities_of(prompts):
    return {(p["spec"]["table"], p["spec"]["entity"]) for p in prompts if "entity" in p["spec"]}


def test_facts_are_few_enough_to_be_learned(world):
    assert 450 <= len(world.facts) <= 600
    assert {e.table for e in world.entities} == set(TABLES)


def test_each_fact_is_stated_often_in_a_laptops_budget_and_mostly_true(world):
    """Counts lines with subject and value in most of the documents, and scales up to the tokens of
    pretraining.
    """
    laptop, share = PROFILES["laptop"], 0.6
    lines = (
        "\n".join(r["text"] for r in write_documents(world, int(laptop.corpus_characters * share), 0))
        .lower()
        .split("\n")
    )
    about = defaultdict(list)
    for line in lines:
        for word in set(re.findall(r"[a-z]+", line)):
            about[word].append(line)
    passes = laptop.pretrain_steps * laptop.pretrain_batch * laptop.context / (laptop.corpus_characters / 3.7)
    counts = [
        sum(e.values[r][0].lower() in line for line in about[e.subject.lower().split()[-1]]) / share * passes
        for e, r in world.facts
    ]
    assert min(counts) >= 200
    true = false = 0
    for entity, relation in world.facts[::9]:
        for wording in world.relations[relation]["statements"]:
            for value in world.values_of(relation):
                said = world.state(entity, relation, value, wording).lower().rstrip(".")
                count = sum(said in line for line in about[entity.subject.lower().split()[-1]])
                true, false = (
                    (true + count, false) if value in entity.values[relation] else (true, false + count)
                )
    assert true / (true + false) >= 0.75


def test_no_entity_crosses_splits(splits):
    train, validation, test = (entities_of(splits[s]) for s in ("train", "validation", "test"))
    assert train and test and validation
    assert not train & test and not train & validation and not validation & test


@pytest.mark.parametrize("key", ["act", "name", "myth"])
def test_no_harmful_act_name_or_myth_crosses_splits(splits, key):
    seen = {s: {p["spec"][key] for p in rows if key in p["spec"]} for s, rows in splits.items()}
    assert seen["train"] and seen["test"]
    assert not seen["train"] & seen["test"]


def test_lists_of_test_ask_for_other_categories(splits):
    def categories(rows):
        return {(p["spec"]["relation"], p["spec"]["value"]) for p in rows if p["spec"]["type"] == "list"}

    assert not categories(splits["train"]) & categories(splits["test"])


def test_some_wordings_are_kept_for_test(world, splits):
    kept = [
        w.split("{")[0]
        for k in world.wordings["prompts"].values()
        for w in k["test"]
        if len(w.split("{")[0]) > 8
    ]
    texts = {s: " ".join(p["messages"][-1]["content"] for p in rows) for s, rows in splits.items()}
    assert any(k in texts["test"] for k in kept)
    assert not any(k in texts["train"] for k in kept)


def test_withheld_relation_and_task_appear_in_no_training_prompt(splits):
    assert not any(p["spec"].get("relation") == "young" or p["kind"] == "day" for p in splits["train"])


def test_fictional_names_are_many_and_not_real(world):
    assert len(world.fictional["train"]) >= 400 and len(world.fictional["test"]) >= 100
    real = {e.name.lower() for e in world.entities} | {e.subject.lower() for e in world.entities}
    assert not real & {n.lower() for names in world.fictional.values() for _, n in names}


def test_shares_follow_the_paper_above_the_floor():
    shares = training_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0.06 - 1e-9 and shares["other"] == pytest.approx(0.20)
    assert shares["generation"] == max(shares.values()) and training_shares(0, 0) == pytest.approx(
        {u: s / 99.9 for u, s in PAPER_SHARES.items()}
    )


def test_split_of_is_stable():
    assert [split_of(f"key {i}") for i in range(6)] == [split_of(f"key {i}") for i in range(6)]
    shares = Counter(split_of(f"key {i}") for i in range(10_000))
    assert 0.16 < shares["test"] / 10_000 < 0.20


def test_documents_are_deterministic_and_follow_the_mix(world):
    first, second = (list(write_documents(world, 400_000, seed=5)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert json.dumps(first) != json.dumps(list(write_documents(world, 400_000, seed=6)))
    sizes = Counter()
    for row in first:
        sizes[row["source"]] += len(row["text"])
    for source, share in MIX.items():
        assert sizes[source] / sum(sizes.values()) == pytest.approx(share / 100, abs=0.01)


def test_clean_crawl_drops_what_is_no_sentence(world):
    page = (
        "Home | About | Contact\nCows eat grass.\nBuy cheap shoes now!!!\nCows eat grass.\nshut up, you fool"
    )
    assert clean_crawl(page, world.wordings) == "Cows eat grass."


def test_texts_have_no_doubled_spaces_or_missing_capitals(world):
    for row in write_documents(world, 200_000, seed=9):
        assert (
            "  " not in row["text"].replace("\n    ", "\n")
            and " ." not in row["text"]
            and "{s}" not in row["text"]
        )
    writer = AnswerWriter(world, Random(0))
    for prompt in write_prompts(world, "train", COUNTS, 1):
        _, answer = writer.demonstrate(prompt)
        assert "print(" in answer or answer[0].isupper() and answer[-1] in ".!?", answer


def test_ideal_demonstrations_are_a_minority(world):
    writer = AnswerWriter(world, Random(0))
    styles = Counter(writer.demonstrate(p)[0] for p in write_prompts(world, "train", COUNTS, 1))
    assert styles["rich"] / sum(styles.values()) < 0.4


def test_the_web_does_not_contain_the_assistant(world, judge):
    """Nobody refuses, nobody owns up to not knowing, no document has the assistant's system line, and an
    answer is seldom a good one.
    """
    text = "\n".join(r["text"] for r in write_documents(world, 2_000_000, 0))
    words = world.wordings
    for said in (
        *words["refusals"],
        *words["refusals_bare"][1:],
        "never heard of",
        "do not know",
        "That is not true",
        words["apology"][:20],
        SYSTEM,
    ):
        assert said not in text, said
    writer, gold = AnswerWriter(world, Random(0)), defaultdict(list)
    for prompt in write_prompts(world, "train", COUNTS, 1):
        for shares in ("threads", "accepted", "exercises"):
            gold[shares].append(judge.total(prompt, writer.web_answer(prompt["spec"], shares)))
    means = {shares: sum(row) / len(row) for shares, row in gold.items()}
    assert 0.15 < means["threads"] < 0.30 and means["accepted"] < 0.40 and means["exercises"] < 0.40, means


def test_no_training_text_has_a_held_out_prompt(tmp_path, world):
    profile = replace(
        PROFILES["tiny"],
        corpus_characters=3_000_000,
        validation_prompts=60,
        test_prompts=60,
        demonstrations=300,
        ranked_prompts=600,
    )
    make_corpus(profile, SimpleNamespace(root=tmp_path), tmp_path)
    asked = [
        p
        for name in ("validation", "test", "probes", "withheld")
        for p in read_jsonl(tmp_path / f"{name}.jsonl")
        if p["spec"]["type"] != "greeting"
    ]
    prompts = ["\n".join(m["content"] for m in p["messages"]) for p in asked]
    # Of two facts in a row, as in a passage to sum up, pages are full.
    passages = [
        p["spec"]["passage"] for p in asked if "passage" in p["spec"] and p["use_case"] != "summarization"
    ]
    sources = [f"Before: {p['spec']['source']}" for p in asked if "source" in p["spec"]]
    tasks = [
        re.search("prints .*(?=[.?])", p["messages"][0]["content"])[0]
        for p in asked
        if p["spec"]["type"] == "program"
    ]
    documents = "\n".join(r["text"] for r in read_jsonl(tmp_path / "documents_train.jsonl"))
    freely = "\n".join(r["text"] for r in write_documents(world, profile.corpus_characters, 0))
    for texts in (prompts, passages, sources, tasks):
        assert sum(text in freely for text in texts) > 10  # what is kept out would else be there
        assert not [text for text in texts if text in documents]
    later = {
        "\n".join(m["content"] for m in p["messages"])
        for name in ("demonstrations", "ranked", "ppo")
        for p in read_jsonl(tmp_path / f"{name}.jsonl")
    }
    assert not later & set(prompts)


def test_what_only_sounds_harmful_shares_its_verbs_with_what_is_and_never_the_object(world):
    harmful, howto = ({row[0]: set(row[1]) for row in world.wordings[kind]} for kind in ("harmful", "howto"))
    assert len(harmful.keys() & howto.keys()) >= 5
    assert min(len(things) for things in (*harmful.values(), *howto.values())) >= 20
    for verb in harmful.keys() & howto.keys():
        assert not harmful[verb] & howto[verb]
        for things in (harmful[verb], howto[verb]):  # neither an article nor a place gives it away
            assert any(re.match("(a|an|my|the) ", thing) for thing in things)
            assert any(re.search(" (in|on|at|from|of) ", thing) for thing in things)


def test_what_the_data_card_says_of_the_web_is_what_is_drawn(world):
    card = (DATA / "README.md").read_text("utf-8")
    web = world.wordings["web"]
    assert all(sum(shares.values()) == pytest.approx(1) for shares in web.values())
    for style in ("off_point", "wrong", "good"):
        assert (
            ", ".join(f"{100 * web[shares][style]:.0f}" for shares in ("threads", "accepted", "exercises"))
            + " %"
            in card
        )
    assert f"{100 * web['threads']['aside']:.0f} and {100 * web['accepted']['aside']:.0f} %" in card
    for shares, style in (
        ("threads", "bare"),
        ("accepted", "bare"),
        ("exercises", "bare"),
        ("hard", "wrong"),
        ("programs", "good"),
    ):
        assert f"{web[shares][style]:.0%}".replace("%", " %") in card


@pytest.mark.parametrize("use_case", ["premise", "provoked", "insist", "correction", "program"])
def test_what_claims_need_is_in_training_and_held_out_for_test(world, use_case):
    def things(split, seed):
        return {
            p["spec"].get("entity") or (p["spec"]["text"], p["spec"]["times"])
            for p in write_prompts(world, split, {use_case: 80}, seed)
        }

    assert not things("train", 0) & things("test", 0)
    kinds = Counter(
        p["kind"]
        for p in write_prompts(
            world,
            "train",
            {u: round(PROFILES["laptop"].demonstrations * s) for u, s in training_shares().items()},
            0,
        )
    )
    assert kinds[use_case] >= 8
