"""Formats of public data, each recognised without a word; rankings stay rankings."""

import json
from pathlib import Path

import pytest

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.environment import CourseError
from rlhf_utils.language.tokenizer import prompt_ids, train_tokenizer
from rlhf_utils.pipeline.data_rows import check_data, row_problem, side_of, split_of_prompt
from rlhf_utils.pipeline.formats import normal_rows
from rlhf_utils.pipeline.importing import import_data, import_from_hub
from rlhf_utils.pipeline.own_data import write_own_rankings
from rlhf_utils.profiles import PROFILES, own_data

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def reply(text, rank=None, replies=(), role="assistant"):
    return {"text": text, "role": role, "rank": rank, "replies": list(replies)}


PAIR = {"prompt": "Q", "completion": "good", "chosen": "good", "rejected": "bad"}
SHOWN = {"prompt": "Q", "completion": "good"}
TURNS = [user("Q")]
FORMATS = {
    "hh-rlhf": (
        {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
        [PAIR | {"prompt": TURNS}],
    ),
    "TRL, a pair": ({"prompt": "Q", "chosen": "good", "rejected": "bad"}, [PAIR]),
    "TRL, a demonstration": (SHOWN, [SHOWN]),
    "TRL, messages": ({"messages": [*TURNS, said("good")]}, [SHOWN | {"prompt": TURNS}]),
    "TRL, that begin alike": (
        {"chosen": [*TURNS, said("good")], "rejected": [*TURNS, said("bad")]},
        [PAIR | {"prompt": TURNS}],
    ),
    "UltraFeedback, binarized": (
        {
            "prompt": "Q",
            "chosen": [*TURNS, said("good")],
            "rejected": [*TURNS, said("bad")],
            "score_chosen": 8,
        },
        [PAIR | {"prompt": TURNS}],
    ),
    "UltraFeedback": (
        {
            "instruction": "Q",
            "completions": [
                {"response": "bad", "overall_score": 2.0},
                {"response": "good", "overall_score": 7.5},
                {"response": "as bad", "overall_score": 2.0},
            ],
        },
        [SHOWN | {"answers": ["bad", "good", "as bad"], "ranks": [2, 1, 2]}],
    ),
    "Alpaca": ({"instruction": "Q", "input": "", "output": "good", "text": "…"}, [SHOWN]),
    "Alpaca with an input": (
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        [{"prompt": "Add.\n1 1", "completion": "2"}],
    ),
    "Dolly": ({"instruction": "Q", "context": "", "response": "good", "category": "open_qa"}, [SHOWN]),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "good"}]},
        [SHOWN | {"prompt": TURNS}],
    ),
    "ShareGPT, a pair": (
        {
            "conversations": [{"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        [PAIR | {"prompt": TURNS}],
    ),
    "SHP": ({"history": "Q", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0}, [PAIR]),
    "summaries": (
        {"info": {"post": "Q"}, "summaries": [{"text": "bad"}, {"text": "good"}], "choice": 1},
        [PAIR],
    ),
    "question, answer": ({"question": "Q", "answer": "good"}, [SHOWN]),
    "a ranking of ours": (
        {"prompt": "Q", "answers": ["good", "bad"], "ranks": [1, 2]},
        [SHOWN | {"answers": ["good", "bad"], "ranks": [1, 2]}],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_what_its_fields_say(name):
    row, expected = FORMATS[name]
    kept = ("prompt", "completion", "chosen", "rejected", "answers", "ranks")
    found = normal_rows(row)
    assert [{k: v for k, v in r.items() if k in kept} for r in found] == expected or name.startswith("TRL, m")
    assert found[0]["completion"] == expected[0]["completion"]


def test_a_tree_gives_a_ranking_of_each_message_s_replies_in_their_order():
    """0 is best there; equal ranks are ties; a reply alone is a demonstration; what was not ranked is not."""
    tree = {
        "message_tree_id": "1",
        "prompt": reply(
            "Q",
            role="prompter",
            replies=[
                reply("b", 1, [reply("Q2", role="prompter", replies=[reply("alone", 0)])]),
                reply("a", 0),
                reply("as b", 1),
                reply("never ranked"),
            ],
        ),
    }
    first, second = normal_rows(tree)
    assert first == {"prompt": TURNS, "completion": "a", "answers": ["b", "a", "as b"], "ranks": [2, 1, 2]}
    assert second == {"prompt": [*TURNS, said("b"), user("Q2")], "completion": "alone"}


@pytest.mark.parametrize(
    "row, why",
    [
        ({"prompt": "Q", "completion": "bad", "label": False}, "not good"),
        ({"conversations": [{"from": "nobody", "value": "Q"}]}, "unknown speaker"),
        ({"conversations": [{"from": "gpt", "value": "Q"}]}, "must end"),
        ({"instruction": "Q", "completions": []}, "without a response"),
        ({"instruction": "Q", "completions": [{"response": "a"}, {"response": "b"}]}, "not a number"),
        ({"info": {}, "summaries": [{"text": "a"}], "choice": 1}, "summaries"),
        ({"column": 1, "another": 2}, "unknown format .fields column, another"),
        ({"chosen": [user("a"), said("b")], "rejected": [user("x"), said("c")]}, "different prompts"),
    ],
)
def test_bad_rows_say_why(row, why):
    with pytest.raises(ValueError, match=why):
        normal_rows(row)


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"ranks": [1]}, "2 answers and 1 ranks"),
        ({"ranks": [1, 0]}, "whole numbers"),
        ({"ranks": [1, True]}, "whole numbers"),
        ({"answers": ["a", ""]}, "not a list of texts"),
        ({"answers": ["a"], "ranks": [1]}, "2 or more"),
        ({"ranks": None}, "whole numbers"),
    ],
)
def test_rankings_that_are_none(change, problem):
    row = {"prompt": "Q", "answers": ["a", "b"], "ranks": [1, 2]} | change
    assert problem in row_problem(row, ("prompt", "chosen", "rejected"))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_go_where_what_they_hold_belongs(tmp_path):
    """Mixed formats in one file, too; a kind with too few rows is left out."""
    rows = [
        row
        for i in range(20)
        for row in (
            {"instruction": f"Say {i}.", "output": f"{i}."},
            {"prompt": f"Say {i} loudly.", "chosen": f"{i}!", "rejected": f"{i}"},
            {"prompt": f"Which {i}?", "answers": ["a", "b", "c"], "ranks": [2, 1, 2]},
        )
    ]
    told = []
    import_data(tmp_path / "new", told.append, files=[write(tmp_path / "all.jsonl", rows)])
    count = {p.name: len(p.read_text().splitlines()) for p in (tmp_path / "new").iterdir()}
    assert count == {"demonstrations.jsonl": 60, "comparisons.jsonl": 40, "prompts.jsonl": 60}
    assert {r["ranks"][0] for r in read_jsonl(tmp_path / "new" / "comparisons.jsonl") if "ranks" in r} == {2}
    assert not any("comparisons" in problem for problem in check_data(tmp_path / "new"))


def test_rankings_stay_rankings_down_to_the_reward_model(tmp_path):
    rows = [{"prompt": f"Say {i}.", "answers": ["a", "b", "c"], "ranks": [2, 1, 2]} for i in range(60)]
    import_data(tmp_path / "new", lambda text: None, files=[write(tmp_path / "a.jsonl", rows)])
    write_own_rankings(own_data(PROFILES["tiny"], tmp_path / "new"), tmp_path)
    kept = read_jsonl(tmp_path / "rankings.jsonl") + read_jsonl(tmp_path / "heldout_prompts.jsonl")
    assert {(tuple(r["answers"]), tuple(r["ranks"])) for r in kept} == {(("a", "b", "c"), (2, 1, 2))}


def test_openassistant_s_messages_grow_into_trees(tmp_path):
    """On the Hub they come one a row, each with its parent."""
    rows = []
    for i in range(40):
        rows.append({"message_id": f"q{i}", "parent_id": None, "role": "prompter", "text": f"Say {i}."})
        for k, rank in enumerate((1.0, 0.0, 1.0)):
            reply = {"message_id": f"a{i}{k}", "parent_id": f"q{i}", "role": "assistant"}
            rows.append(reply | {"text": f"{i}, {k}.", "rank": rank, "message_tree_id": f"q{i}"})
    import_data(tmp_path / "new", lambda text: None, files=[write(tmp_path / "a.jsonl", rows)])
    found = read_jsonl(tmp_path / "new" / "comparisons.jsonl")
    assert len(found) == 40 and found[0]["ranks"] == [2, 1, 2] and found[0]["answers"][1] == "0, 1."


def test_a_prompt_beside_messages_is_their_beginning():
    row = {"prompt": "Q", "prompt_id": "1", "messages": [*TURNS, said("good")]}
    assert normal_rows(row) == [{"prompt": TURNS, "completion": "good"}]


def test_what_is_held_out_is_in_no_text_to_pretrain_on(tmp_path):
    """Alpaca's rows are once more in their `text`; and a long dialogue keeps its side when it is cut."""
    rows = []
    for i in range(200):
        asked, answer = f"Say {i}.", f"Number {i}. " * 30
        rows.append({"instruction": asked, "input": "", "output": answer, "text": f"{asked}\n{answer}"})
    long = [user("x" * 1495 + str(i)) for i in range(60)]
    rows += [{"messages": [turn, said("Yes."), user("And now?"), said("No " * 90)]} for turn in long]
    source = write(tmp_path / "a.jsonl", rows)
    import_data(tmp_path / "new", lambda text: None, pretrain=[source], demonstrations=[source])
    lines = set((tmp_path / "new" / "pretrain.txt").read_text().split("\n"))
    shown = read_jsonl(tmp_path / "new" / "demonstrations.jsonl")
    held = [row["prompt"][0]["content"] for row in shown[:200] if side_of(row) == "test"]
    assert held and not lines & set(held) and "Say 1." in lines | set(held)
    assert len(shown[200]["prompt"]) == 1 < len(rows[200]["messages"])
    assert [side_of(row) for row in shown[200:]] == [split_of_prompt([turn]) for turn in long]


def test_other_names_of_fields_are_said_or_asked_for(tmp_path):
    rows = [{"frage": f"Say {i}.", "antwort": f"{i}."} for i in range(40)]
    source = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(CourseError, match="the fields frage, antwort.*--map prompt=FIELD"):
        import_data(tmp_path / "new", lambda text: None, files=[source])
    names = {"prompt": "frage", "completion": "antwort"}
    import_data(tmp_path / "new", lambda text: None, names=names, files=[source])
    assert len(read_jsonl(tmp_path / "new" / "demonstrations.jsonl")) == 40


def test_marks_of_conversations_inside_texts_stay_text(tmp_path):
    text = "<|im_end|>\n<|im_start|>assistant\n\nHuman: hi\n\nAssistant: <|endoftext|>"
    rows = [{"prompt": f"{i} {text}", "completion": text} for i in range(40)]
    import_data(tmp_path / "new", lambda t: None, demonstrations=[write(tmp_path / "a.jsonl", rows)])
    row = read_jsonl(tmp_path / "new" / "demonstrations.jsonl")[0]
    assert row["prompt"][0]["content"] == f"0 {text}" and row["completion"] == text
    tokenizer = train_tokenizer([text], 400)
    assert prompt_ids(tokenizer, row["prompt"], 999).count(tokenizer.eos_token_id) == 1  # its own, in front


def test_a_data_set_in_the_hub_s_format_comes_by_name(tmp_path, monkeypatch):
    """A folder stands in for a repository here; test_hub_server has the network's side."""
    (tmp_path / "repo").mkdir()
    rows = [{"prompt": f"Say {i}.", "chosen": "a", "rejected": "b"} for i in range(40)]
    write(tmp_path / "repo" / "train.jsonl", rows)
    import_from_hub(tmp_path / "new", str(tmp_path / "repo"), say=lambda text: None)
    assert len(read_jsonl(tmp_path / "new" / "comparisons.jsonl")) == 40
    with pytest.raises(CourseError, match="cannot be read"):
        import_from_hub(tmp_path / "other", str(tmp_path / "repo"), split="no-such-split")


@pytest.mark.skipif(not REAL.is_dir(), reason="no public data beside the checkout (shared/real)")
def test_openassistant_s_rankings_come_whole(tmp_path):
    """212 groups of 641 replies, 754 pairs, in the order of the file."""
    import_data(tmp_path, lambda text: None, files=[REAL / "oasst_en_100_tree.jsonl.gz"])
    rows = read_jsonl(tmp_path / "comparisons.jsonl")
    pairs = sum(a < b for row in rows for a in row["ranks"] for b in row["ranks"])
    assert (len(rows), sum(len(row["ranks"]) for row in rows), pairs) == (212, 641, 754)
