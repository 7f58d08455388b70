"""A model steered by a few rankings, at sizes of seconds; SmolLM2 and GGUF; what leaves the course."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import missing
from safetensors import SafetensorError
from safetensors.torch import load_file
from test_architectures import CHATML, SPECIAL, model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_utils.artifacts.files import read_jsonl, written_once
from rlhf_utils.environment import ROOT, CourseError
from rlhf_utils.pipeline.english import QUESTIONS, SCRIPTED, English, load_english
from rlhf_utils.pipeline.export import export_model
from rlhf_utils.pipeline.formats import normal_rows
from rlhf_utils.pipeline.from_gguf import make_base
from rlhf_utils.pipeline.heads import held_out_accuracy
from rlhf_utils.pipeline.stages import open_store
from rlhf_utils.profiles import load_profile
from rlhf_utils.ranking.pairs import to_openrlhf, to_ultrafeedback


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    folder = model_folder(tmp_path_factory.mktemp("m") / "tiny", "llama", CHATML, SPECIAL, "<|endoftext|>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield English(load_english(folder, tiny=True), rankings=12)


def test_questions_are_different_and_those_held_out_never_train(english):
    lines = [line for line in QUESTIONS.read_text("utf-8").split("\n") if line]
    assert len(set(lines)) == len(lines) == 160 and all(line.endswith("?") for line in lines)
    whole = English.__new__(English)
    whole.small = False
    kept, held = ({r["id"] for r in whole.questions(h)} for h in (False, True))
    assert (
        len(held) == 40
        and not kept & held
        and whole.questions(True)[0]["messages"][-1]["content"] == lines[0]
    )


def test_from_rankings_to_a_policy_and_its_figures(english):
    """And again at once, from what was kept."""
    value = SCRIPTED["few words"]
    rankings = english.ranked_by(lambda answer: len(answer), count=8)
    policy = english.steer("long", rankings)
    log = read_jsonl(policy / "metrics.jsonl")
    assert len(log) == 2 and abs(log[0]["kl_k1"]) < 1e-4
    found = english.compare(policy, value)
    assert found["words"]["low"] <= found["words"]["difference"] <= found["words"]["high"]
    assert found["taste"]["difference"] == pytest.approx(-found["words"]["difference"])
    assert english.steer("long", rankings) == policy and english.find("rloo") == policy
    assert "8 rankings of answers" in (policy / "README.md").read_text()


def test_a_run_that_diverged_goes_on_at_another_rate(english, monkeypatch):
    folders, rankings = [], english.ranked_by(lambda answer: len(answer), count=8)

    def diverges(*arguments):
        folders.append(arguments[7])
        raise ZeroDivisionError

    monkeypatch.setattr("rlhf_utils.pipeline.english.train_ppo", diverges)
    for changes in ({}, {"ppo_rate": 1e-6, "kl_coefficient": 1.0}, {"episodes": 4}):
        with pytest.raises(ZeroDivisionError):
            english.steer("gone", rankings, **changes)
    assert folders[0] == folders[1] != folders[2] and "resume-gone" in folders[0].name


def test_the_card_names_the_rates_of_a_run_that_was_stopped(english, monkeypatch):
    def stops(*arguments):
        raise KeyboardInterrupt

    rankings = english.ranked_by(lambda answer: len(answer), count=8)
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_utils.pipeline.english.train_ppo", stops)
        with pytest.raises(KeyboardInterrupt):
            english.steer("twice", rankings, ppo_rate=2e-5)
    card = (english.steer("twice", rankings, ppo_rate=1e-5) / "README.md").read_text("utf-8")
    assert "at learning rates of 2e-05, then 1e-05" in card
    card = (english.steer("once", rankings) / "README.md").read_text("utf-8")
    assert "learning rates" not in card


def test_two_processes_make_a_folder_once(tmp_path, capsys):
    made = []

    def make(folder):
        made.append(folder)
        time.sleep(0.3)
        (folder / "file").write_text("whole")

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: written_once(tmp_path / "a" / "b", make), range(2)))
    assert len(made) == 1 and found[0] == found[1] and (found[0] / "file").read_text() == "whole"
    assert "Waiting for another process" in capsys.readouterr().out


def test_a_policy_that_did_not_move_has_no_kl(english):
    before = english.measured(english.folder("base"))
    assert max(map(abs, before["kl"])) < 1e-3


def test_too_few_rankings_are_refused(english):
    with pytest.raises(CourseError, match="at least 8 are needed"):
        english.reward("few", english.to_rank()[:3])


def test_a_head_finds_what_stands_in_the_features_and_not_what_does_not():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(120, 40)).astype(np.float32))
    rankings = [
        {"ranks": (-features[i : i + 4, 3]).argsort().argsort().add(1).tolist()} for i in range(0, 120, 4)
    ]
    chance = [{"ranks": rng.permutation(4).__add__(1).tolist()} for _ in range(30)]
    assert held_out_accuracy(features, rankings)["low"] > 0.7
    assert held_out_accuracy(features, chance)["low"] < 0.5


def test_a_policy_that_may_not_go_anywhere_stays(english, monkeypatch):
    for module in ("pipeline.english", "training.one_pass"):
        monkeypatch.setattr(f"rlhf_utils.{module}.KL_BUDGET", -1.0)
    policy = english.steer("stopped", english.ranked_by(lambda answer: len(answer), count=8))
    assert all(row["taken_back"] for row in read_jsonl(policy / "metrics.jsonl"))
    before, after = (load_file(f / "model.safetensors") for f in (english.folder("base"), policy))
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-6


# -- out of the course ---------------------------------------------------------------------------------------
PLAIN = """
import sys
sys.modules["rlhf_utils"] = None
from transformers import pipeline
speak = pipeline("text-generation", model={folder!r}, device="cpu")
said = speak([{{"role": "user", "content": "Cows?"}}], max_new_tokens=4)[0]["generated_text"]
assert said[-1]["role"] == "assistant"
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer
asked, said = [{{"role": "user", "content": "Cows?"}}], [{{"role": "assistant", "content": "Grass."}}]
rows = Dataset.from_list([{{"prompt": asked, "completion": said}}] * 4)
usual = dict(output_dir={out!r}, max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
             gradient_checkpointing=False, per_device_train_batch_size=2, disable_tqdm=True)
tokenizer = AutoTokenizer.from_pretrained({folder!r})
SFTTrainer({folder!r}, SFTConfig(**usual), train_dataset=rows, processing_class=tokenizer).train()
pairs = Dataset.from_list([{{"prompt": asked, "chosen": said, "rejected": asked}}] * 4)
models = [AutoModelForCausalLM.from_pretrained({folder!r}) for _ in range(2)]
DPOTrainer(*models, args=DPOConfig(**usual), train_dataset=pairs, processing_class=tokenizer).train()
try:
    import rlhf_utils
except ImportError:
    print("opened without it")
"""


@pytest.mark.slow
def test_plain_libraries_open_what_the_course_writes(english, tiny, tmp_path):
    """In a process that cannot import the package: a policy of chapter 11, and PPO's of the small world."""
    policy = english.steer("long", english.ranked_by(lambda answer: len(answer), count=8))
    small = export_model(tiny, "ppo", tmp_path / "small")
    for folder in (policy, small):
        code = PLAIN.format(folder=str(folder), out=str(tmp_path / "out"))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True
        )
        assert "opened without it" in done.stdout, done.stderr[-2000:]


def test_a_card_says_what_a_model_was_made_from(tiny, tmp_path):
    folder = export_model(tiny, "ppo-ptx", tmp_path / "mine")
    card = (folder / "README.md").read_text("utf-8")
    for part in (
        "# mine",
        "pretrained on documents of the course's small world",
        "demonstrations",
        "rankings",
        "PPO-ptx",
    ):
        assert part in card
    assert AutoTokenizer.from_pretrained(folder).chat_template and AutoModelForCausalLM.from_pretrained(
        folder
    )
    with pytest.raises(CourseError, match="is there already"):
        export_model(tiny, "ppo", folder)
    with pytest.raises(CourseError, match="is no model.*: base, sft, .*, taste, taste_reward"):
        export_model(tiny, "corpus", tmp_path / "other")


def test_the_models_that_come_with_the_course_leave_it_too(tmp_path, monkeypatch):
    """They have no corpus beside them."""
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RLHF_REFERENCE", "1")
    folder = export_model(open_store(load_profile("laptop", 0)), "ppo_ptx", tmp_path / "mine")
    card = (folder / "README.md").read_text("utf-8")
    assert "1,700 demonstrations" in card and "by the course's judge" in card
    # The example reader's, by the name that `rlhf chat` has for it.
    yours = export_model(open_store(load_profile("laptop", 0)), "taste", tmp_path / "yours")
    assert (yours / "model.safetensors").is_file() and "the example reader's" in (
        yours / "README.md"
    ).read_text()


def test_rankings_survive_other_libraries_formats():
    row = {
        "ranker": "me",
        "item": "1",
        "messages": [{"role": "user", "content": "Q"}],
        "answers": ["b", "a", "as b"],
        "ranks": [2, 1, 2],
    }
    (back,) = normal_rows(to_ultrafeedback([row])[0])
    assert (back["prompt"], back["answers"], back["ranks"]) == ("Q", row["answers"], row["ranks"])
    pairs = [normal_rows(pair)[0] for pair in to_openrlhf([row])]
    assert [(p["chosen"], p["rejected"]) for p in pairs] == [("a", "b"), ("a", "as b")]


# -- GGUF ----------------------------------------------------------------------------------------------------
SMOLLM2 = ROOT / "runs" / "smollm2"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"GGUF" + bytes(40), "cannot be opened"),
        (
            b"GGUF" + (3).to_bytes(4, "little") + (10**9).to_bytes(8, "little") * 2 + b"x" * 99,
            "cannot be opened",
        ),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (b"", "not a GGUF file"),
    ],
    ids=["zeros", "a billion tensors", "a zip", "empty"],
)
def test_files_that_are_no_model(tmp_path, content, message):
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(CourseError, match=message):
        make_base(str(tmp_path / "bad.gguf"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def gguf_file(file: Path, kind: int) -> Path:
    """A GGUF file with a single tensor, of a `kind` that nobody knows."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("token_embd.weight", np.ones((8, 32), dtype=np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    name, content = b"token_embd.weight", file.read_bytes()
    place = content.index(name) + len(name) + 4 + 2 * 8  # after the name: how many dimensions, and which
    file.write_bytes(content[:place] + kind.to_bytes(4, "little") + content[place + 4 :])
    return file


def test_a_quantization_that_nobody_knows(tmp_path):
    file = gguf_file(tmp_path / "odd.gguf", 250)
    with pytest.raises(CourseError, match="cannot be opened .*250.* or a quantization"):
        make_base(str(file), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_full_disk_leaves_nothing_behind(english, tmp_path, monkeypatch):
    """The reading of the file aside, of which SmolLM2's is the one at hand."""
    folder = english.folder("base")

    class Read:
        def from_pretrained(place, **options):
            if "dtype" not in options:
                return AutoTokenizer.from_pretrained(folder)
            return AutoModelForCausalLM.from_pretrained(folder), {"missing_keys": []}

    def full(*arguments, **named):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    for name in ("AutoTokenizer", "AutoModelForCausalLM"):
        monkeypatch.setattr(f"rlhf_utils.pipeline.from_gguf.{name}", Read)
    (tmp_path / "good.gguf").write_bytes(b"GGUF")
    assert make_base(str(tmp_path / "good.gguf"), tmp_path / "whole").is_dir()
    monkeypatch.setattr("rlhf_utils.pipeline.from_gguf.save_file", full)
    with pytest.raises(CourseError, match=r"cannot be written \(I/O error: No space left.* takes 0\.\d GB"):
        make_base(str(tmp_path / "good.gguf"), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_names_and_places_that_cannot_be(tmp_path):
    with pytest.raises(CourseError, match="is not a GGUF file"):
        make_base("gpt2", tmp_path / "out")
    with pytest.raises(CourseError, match="cannot be read"):
        make_base(str(tmp_path / "none.gguf"), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(CourseError, match="holds no model"):
        make_base("smollm2", tmp_path / "full")


@pytest.mark.slow
def test_smollm2_speaks_english_through_the_course():
    if not (SMOLLM2 / "model.safetensors").is_file():
        missing("SmolLM2 in runs/ (rlhf base smollm2)")
    from rlhf_utils.language.models import load_model
    from rlhf_utils.language.pretrained import base_tokenizer
    from rlhf_utils.language.sampling import sample
    from rlhf_utils.language.tokenizer import prompt_ids

    tokenizer = base_tokenizer(SMOLLM2)
    asked = [{"role": "user", "content": "What is the Moon? Answer in one sentence."}]
    ids = prompt_ids(tokenizer, asked, 99)
    theirs = AutoTokenizer.from_pretrained(SMOLLM2)
    assert ids == theirs.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    (answer,) = sample(load_model(SMOLLM2), tokenizer, [ids], 24, 0.0, 0)
    assert "Moon" in answer.text and "Earth" in answer.text
    assert json.loads((SMOLLM2 / "config.json").read_text())["model_type"] == "llama"
