"""The forms in which a base model is asked, and how the best is chosen."""

import numpy as np
import pytest

from rlhf_utils.language.prompting import (
    FORMS,
    USE_CASE_OF,
    choose_forms,
    first_paragraph,
    form_ids,
    form_of,
    form_text,
    shots,
)
from rlhf_utils.language.tokenizer import train_tokenizer
from rlhf_utils.world.documents import write_documents
from rlhf_utils.world.prompts import PROBES, USE_CASES, write_prompts

COWS = {"use_case": "open_qa", "messages": [{"role": "user", "content": "What do cows eat?"}]}
TWO = {
    "use_case": "chat",
    "messages": [
        {"role": r, "content": c}
        for r, c in (
            ("user", "What do cows eat?"),
            ("assistant", "Cows eat grass."),
            ("user", "Where do they live?"),
        )
    ],
}


def ask(text):
    return {"use_case": "generation", "messages": [{"role": "user", "content": text}]}


def test_forms_by_hand():
    assert len(FORMS) >= 8
    assert form_text("bare", COWS) == "What do cows eat?"
    assert form_text("forum", COWS) == "Question: What do cows eat?\nAnswer:"
    assert (
        form_text("accepted answer", TWO)
        == "Question: What do cows eat?\nAnswer: Cows eat grass.\nQuestion: Where do they live?\nAccepted "
        "answer:"
    )
    assert (
        form_text("exercise", TWO)
        == "Exercise: What do cows eat? Answer: Cows eat grass. Exercise: Where do they live? Answer:"
    )
    assert (
        form_text("index", COWS) == "What do cows eat:"
        and form_text("comment", COWS) == "# What do cows eat\n"
    )
    assert (
        form_text("comment", ask("Write a program that prints what cows eat twice."))
        == "# prints what cows eat twice\n"
    )
    for text in (
        "Write two sentences about cows.",
        "Tell me two things about cows, and say what is known of their food.",
        "Describe cows in one sentence.",
    ):
        assert form_text("article", ask(text)) == "Cows\n"
    assert form_text("report", ask("What colour is the hat? Tom has a red hat.")) == form_text(
        "report", ask("Read this: Tom has a red hat. What colour is the hat?")
    )
    assert form_text("2 shots", COWS).count("Question:") == 3 and form_text("2 shots", COWS).endswith(
        "Question: What do cows eat?\nAnswer:"
    )


@pytest.mark.parametrize("use_case", USE_CASES)
def test_shots_are_ideal_training_demonstrations_and_always_the_same(world, judge, use_case):
    test = {m["content"] for p in write_prompts(world, "test", {use_case: 60}, 0) for m in p["messages"]}
    four = shots(use_case, 4)
    assert len(set(four)) == 4 and shots(use_case, 2) == four[:2]
    for shot in four:
        questions = [
            line.removeprefix("Question: ") for line in shot.split("\n") if line.startswith("Question: ")
        ]
        assert shot.split("\n")[-1].startswith("Answer: ") and (
            not set(questions) & test or use_case in ("chat", "classification")
        )


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer([d["text"] for d in write_documents(world, 100_000, 0)], 768)


def test_long_prompts_lose_their_shots_first(tokenizer):
    long = form_ids(tokenizer, "4 shots", COWS, 300)
    short = form_ids(tokenizer, "4 shots", COWS, 40)
    assert len(short) <= 40 < len(long) and short[0] == tokenizer.eos_token_id
    said = tokenizer.decode(short[1:]).strip()
    # Whole shots, or none.
    assert said.endswith("Question: What do cows eat?\nAnswer:") and said.startswith("Question:")


def test_the_best_form_is_chosen_by_kind_by_use_case_and_over_all():
    prompts = (
        [{"use_case": "chat", "kind": "insist"}] * 8
        + [{"use_case": "chat", "kind": "greeting"}] * 2
        + [{"use_case": "rewrite", "kind": "past"}] * 2
    )
    gold = {"forum": np.array([1.0] * 8 + [0, 0] + [0, 0]), "bare": np.array([0.0] * 8 + [1, 1] + [1, 0.5])}
    chosen = choose_forms(gold, prompts)
    # Two greetings are too few.
    assert chosen == {"all": "forum", "chat": "forum", "rewrite": "bare", "insist": "forum"}
    assert (
        form_of(chosen, {"use_case": "chat", "kind": "greeting"}) == "forum"
        and form_of(chosen, {"use_case": "rewrite", "kind": "past"}) == "bare"
    )
    assert (
        form_of(chosen, {"use_case": "insist", "kind": "insist"}) == "forum"
        and form_of(chosen, {"use_case": "open_qa"}) == "forum"
    )
    assert form_of({"all": "bare"}, COWS) == "bare"


def test_every_probe_belongs_to_a_use_case():
    assert set(PROBES) <= set(USE_CASE_OF) and set(USE_CASE_OF.values()) <= set(USE_CASES)


def test_first_paragraph():
    assert (
        first_paragraph("\n\n Cows eat grass. \nQuestion: …") == "Cows eat grass."
        and first_paragraph(" \n") == ""
    )
