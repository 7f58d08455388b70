"""Importing and checking own data, with made-up and, where present, real files."""

import gzip
import json
import re
from pathlib import Path

import pytest

from rlhf_utils.environment import CourseError
from rlhf_utils.language.tokenizer import without_leading_turns
from rlhf_utils.pipeline.data_rows import check_data, split_of_prompt
from rlhf_utils.pipeline.formats import normal_rows, parse_dialogue
from rlhf_utils.pipeline.importing import fit_prompt, import_data
from rlhf_utils.pipeline.own_data import write_own_corpus
from rlhf_utils.profiles import PROFILES, own_data

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


def lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def folder(tmp_path):
    """A small data folder that is in order."""
    (tmp_path / "pretrain.txt").write_text("It was a good day for all of us. " * 1000)
    lines(
        tmp_path / "demonstrations.jsonl", [{"prompt": f"Say {i}.", "completion": f"{i}."} for i in range(60)]
    )
    lines(
        tmp_path / "comparisons.jsonl",
        [{"prompt": f"Say {i}.", "chosen": f"{i}.", "rejected": "No."} for i in range(60)],
    )
    lines(tmp_path / "prompts.jsonl", [{"prompt": f"Say {i}."} for i in range(60)])
    return tmp_path


def test_a_good_folder_has_no_problems(folder):
    assert check_data(folder) == []


@pytest.mark.parametrize(
    "line, problem",
    [
        ('{"prompt": "a"', "not JSON"),
        ('["a"]', "not a JSON object"),
        ('{"prompt": "", "chosen": "a", "rejected": "b"}', "`prompt` is empty"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "are equal"),
        ('{"prompt": "a", "chosen": "b"}', "'rejected' is missing"),
        ('{"prompt": "a", "chosen": 3, "rejected": "b"}', "`chosen` is empty or not text"),
        ('{"prompt": 5, "chosen": "a", "rejected": "b"}', "`prompt`"),
    ],
)
def test_problems_are_listed_with_file_and_line(folder, line, problem):
    with open(folder / "comparisons.jsonl", "a") as file:
        file.write(line + "\n")
    found = check_data(folder)
    assert len(found) == 1 and "comparisons.jsonl:61:" in found[0] and problem in found[0]


def test_an_empty_line_is_no_good_row(folder):
    first = (folder / "prompts.jsonl").read_text("utf-8").splitlines()[0]
    (folder / "prompts.jsonl").write_text(first + "\n" * 40)
    (problem,) = check_data(folder)
    assert "prompts.jsonl: 1 good rows; at least 32" in problem


def test_all_problems_are_listed_at_once(folder):
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "pretrain.txt").write_bytes(b"good\n\xff bad\n")
    with open(folder / "demonstrations.jsonl", "ab") as file:
        file.write(b'{"prompt": "\xff"}\n{}\n')
    found = "\n".join(check_data(folder))
    for part in (
        "pretrain.txt:2: not UTF-8",
        "demonstrations.jsonl:61: not UTF-8",
        "demonstrations.jsonl:62:",
        "at least 32",
    ):
        assert part in found


def test_missing_files_and_folders(tmp_path):
    assert "no such folder" in check_data(tmp_path / "nothing")[0]
    assert len(check_data(tmp_path)) == 4


def test_dialogues():
    assert parse_dialogue("\n\nHuman: Hi\n\nAssistant: Hello") == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
    assert parse_dialogue("\n\nHuman: Hi\n\nAssistant:") is None and parse_dialogue("Hi") is None


def test_known_formats():
    case = {
        "instruction": "Add.",
        "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}],
    }
    assert normal_rows(case) == [
        {"prompt": "Add.\n1 1", "completion": "2"},
        {"prompt": "Add.", "completion": "0"},
    ]
    assert (
        normal_rows({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})[
            0
        ]["completion"]
        == "b"
    )
    pair = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: c"}
    with pytest.raises(ValueError, match="different prompts"):
        normal_rows(pair)
    with pytest.raises(ValueError, match="unknown format"):
        normal_rows({"text": "a"})


def test_long_dialogues_lose_leading_turns():
    turns = [{"role": ("user", "assistant")[i % 2], "content": str(i) * 400} for i in range(7)]
    kept, cut = fit_prompt(turns)
    assert cut and kept[0]["role"] == "user" and kept[-1] == turns[-1] and len(kept) == 3
    assert fit_prompt("x" * 5000) == ([asked("x" * 5000)], True)  # a single turn: whoever reads it cuts it


def test_import_counts_bad_rows_and_writes_nothing_if_too_few_are_left(tmp_path):
    said = []
    source = lines(
        tmp_path / "a.jsonl",
        [{"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(40)]
        + [{"prompt": "x", "chosen": "a", "rejected": "a"}],
    )
    import_data(tmp_path / "new", said.append, comparisons=[source])
    assert "40 rows" in said[0] and "1 bad rows" in said[0] and "equal" in said[1]
    few = lines(tmp_path / "b.jsonl", [{"prompt": "a"}])
    with pytest.raises(CourseError, match="only 1 usable rows"):
        import_data(tmp_path / "none", said.append, prompts=[few])
    with pytest.raises(CourseError, match="only 1 usable characters"):
        import_data(
            tmp_path / "none",
            said.append,
            prompts=[source],
            pretrain=[lines(tmp_path / "c.jsonl", [{"text": "A"}, {"no": "text"}])],
        )
    assert not (tmp_path / "none").exists()


def test_good_rows_of_another_kind_are_no_bad_ones(tmp_path):
    said = []
    pairs = [{"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(40)]
    shown = [{"prompt": f"{i}", "completion": "a"} for i in range(50)]
    texts = [{"text": "It was a good day for all of us. " * 100}] * 10
    asked_alone = [{"prompt": f"only {i}"} for i in range(5)]
    bad = [{"prompt": "x", "chosen": "a", "rejected": "a"}, {"prompt": "y", "chosen": "a"}]
    source = lines(tmp_path / "a.jsonl", [*pairs, *shown, *texts, *asked_alone, *bad])
    import_data(tmp_path / "new", said.append, files=[source])
    told = {line.split(":")[0]: line for line in said if not line.startswith(" ")}
    # Dialogues that are held out of the text for measuring are told, and nothing else.
    assert re.fullmatch(r"  \d+ × held out for measuring", said[1]) and said[2].startswith("demonstrations")
    assert int(re.search(r"[\d,]+", told.pop("pretrain"))[0].replace(",", "")) > 33_000  # the texts, too
    assert {kind: line.split("; ")[1] for kind, line in told.items()} == {
        "demonstrations": "0 bad rows dropped",  # the chosen answers are demonstrations, too
        "comparisons": "2 bad rows dropped",  # equal, and without a rejected one
        "prompts": "0 bad rows dropped",
    }
    assert "40 rows" in told["comparisons"]


SYSTEM, YES = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}


def asked(text):
    return {"role": "user", "content": text}


def test_dropping_leading_turns_keeps_the_system_turn_and_whose_turn_it_is():
    long = [SYSTEM, asked("a" * 900), YES, asked("b" * 900), YES, asked("c")]
    messages, cut = fit_prompt(long)
    assert cut and [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert without_leading_turns([YES, asked("b"), YES, asked("c")]) == [asked("b"), YES, asked("c")]
    assert without_leading_turns([SYSTEM, asked("a")]) == [SYSTEM, asked("a")]  # nothing left to drop


def test_a_constant_system_turn_does_not_put_everything_on_one_side(folder):
    prompts = [[SYSTEM, asked(f"Say {i}.")] for i in range(200)]
    sides = [split_of_prompt(p) for p in prompts]
    assert 0.1 < sides.count("test") / len(sides) < 0.3
    assert sides == [split_of_prompt(p[1:]) for p in prompts]


def test_what_trains_is_never_measured_on(folder, tmp_path_factory):
    """Prompts that all fall on one side are refused, not shared out."""
    train = [p for i in range(200) if split_of_prompt([asked(p := f"Say {i}.")]) == "train"]
    lines(folder / "prompts.jsonl", [{"prompt": p} for p in train[:40]])
    with pytest.raises(CourseError, match="prompts.jsonl: no rows are left to test on"):
        write_own_corpus(own_data(PROFILES["tiny"], folder), tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("name", PROFILES)
def test_dialogues_fit_and_a_step_of_pretraining_stays_as_large(folder, name):
    usual, own = PROFILES[name], own_data(PROFILES[name], folder)
    assert own.prompt_tokens + own.answer_tokens <= own.context and own.reward_likelihood == 0
    assert own.pretrain_batch * own.context == usual.pretrain_batch * usual.context


def test_gzip_is_fine(tmp_path):
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"Some text. " * 4000))
    import_data(tmp_path / "new", lambda text: None, pretrain=[tmp_path / "t.txt.gz"])
    assert (tmp_path / "new" / "pretrain.txt").read_text().startswith("Some text.")


def test_dialogues_are_text_to_pretrain_on_but_what_measures_is_held_out(tmp_path):
    answer = "Answer " + "and so on " * 12
    rows = [
        {
            "chosen": f"\n\nHuman: Question {i}?\n\nAssistant: {answer}{i}.",
            "rejected": f"\n\nHuman: Question {i}?\n\nAssistant: No.",
        }
        for i in range(200)
    ]
    source, said = lines(tmp_path / "a.jsonl", [*rows, {"text": "A page."}, {"chosen": 3, "rejected": 4}]), []
    with open(source, "ab") as file:
        file.write(b'{"text": \xff}\n')
    import_data(tmp_path / "new", said.append, pretrain=[source], comparisons=[source])
    documents = (tmp_path / "new" / "pretrain.txt").read_text().split("\n\n")
    pairs = map(json.loads, (tmp_path / "new" / "comparisons.jsonl").read_text().splitlines())
    kept = [p for p in pairs if split_of_prompt(p["prompt"]) == "train"]
    assert 100 < len(kept) < 190
    assert documents == [*(f"{p['prompt'][0]['content']}\n{p['chosen']}" for p in kept), "A page."]
    assert any(f"{200 - len(kept)} × held out" in line for line in said) and any(
        "1 × not UTF-8 JSON" in line for line in said
    )


@pytest.mark.parametrize(
    "data", [gzip.compress(b"Some text. " * 4000)[:-20], b"\x1f\x8b" + b"nonsense" * 9, b"\xff\xfe"]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, data):
    (tmp_path / "t.txt.gz").write_bytes(data)
    with pytest.raises(CourseError, match=r"--pretrain .*t\.txt\.gz"):
        import_data(tmp_path / "new", lambda text: None, pretrain=[tmp_path / "t.txt.gz"])
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_every_stage_runs_on_own_data(rlhf, folder, tmp_path_factory):
    runs = tmp_path_factory.mktemp("own")
    rlhf("data", "check", folder, check=0)
    rlhf("run", "--data", folder, runs=runs, check=0)
    metrics = json.loads(rlhf("report", "--json", "--data", folder, runs=runs, check=0).stdout)
    assert "none" in metrics["judge"] and metrics["reward_accuracy"]["heldout_pairs"]["pairs"] > 0
    assert "gold" not in metrics


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no public data beside the checkout (shared/real)")
def test_every_stage_runs_on_real_data(rlhf, tmp_path):
    hh, seeds = REAL / "hh_rlhf_harmless_base_test.jsonl.gz", REAL / "self_instruct_seed_tasks.jsonl"
    said = rlhf(
        "data",
        "import",
        tmp_path / "real",
        "--pretrain",
        REAL / "tinyshakespeare.txt.gz",
        "--pretrain",
        hh,
        "--demonstrations",
        seeds,
        "--demonstrations",
        hh,
        "--comparisons",
        hh,
        "--prompts",
        hh,
        check=0,
    ).stdout
    assert "5 × chosen and rejected answer different prompts" in said
    rlhf("run", "--data", tmp_path / "real", check=0)
    accuracy = json.loads(rlhf("report", "--json", "--data", tmp_path / "real", check=0).stdout)[
        "reward_accuracy"
    ]["heldout_pairs"]
    assert 0 <= accuracy["low"] <= accuracy["accuracy"] <= accuracy["high"] <= 1 and accuracy["pairs"] > 200
