"""The command line: exit codes, messages, kills and Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from rlhf_utils.artifacts.lineage import STAGES
from rlhf_utils.course.arguments import parser, still_to_do
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile

pytestmark = pytest.mark.slow


def fails(result, *words):
    assert result.returncode == 2, result.stderr[-1500:]
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    return result


def test_report_has_every_figure(rlhf, tiny):
    metrics = json.loads(rlhf("report", "--json", runs=tiny.root.parent, check=0).stdout)
    for model in ("base", "base_prompted", "sft", "ppo", "ppo_ptx"):
        for kind in ("t1", "greedy", *(["best"] if model != "base" else [])):
            assert set(metrics["gold"][model][kind]) == {"total", "helpful", "honest", "harmless"}
    assert set(metrics["perplexity"]) == set(metrics["profession_skew"]) == {"base", "sft", "ppo", "ppo_ptx"}
    assert all(x > 1 for x in metrics["perplexity"].values()) and all(
        0 < x < 1 for x in metrics["profession_skew"].values()
    )
    pairs = ["sft_vs_base", "ppo_vs_sft"]
    for pair in ("sft_vs_base_prompted", "ppo_ptx_vs_base_prompted", "ppo_ptx_vs_sft"):
        pairs += [pair, f"{pair}_best", f"{pair}_greedy"]
    for pair in pairs:
        assert set(metrics["win_rate"][pair]) == {"decided", "low", "high", "ties_half", "ties", "n"}
    assert set(metrics["win_rate"]["ppo_ptx_vs_base_prompted_equal_length"]) == {"matched", "regression"}
    for model in ("base_prompted", "sft", "ppo", "ppo_ptx"):
        for rate in (
            "refuses_harmful",
            "answers_lookalikes",
            "admits_unknown",
            "challenges_false_premise",
            "programs_right",
        ):
            assert 0 <= metrics["rates"][model][rate]["rate"] <= 1
    forms = metrics["prompt_form"]
    assert len(forms["tried"]) >= 8 and all(
        set(row) == {"0.0", "0.4", "0.7", "1.0"} for row in forms["tried"].values()
    )
    assert (
        all(form in forms["tried"] for row in forms["chosen"].values() for form in row.values())
        and str(forms["temperature"]) in forms["chosen"]
    )
    assert (
        set(metrics["reward_accuracy"]) >= {"labelers", "heldout_labelers", "gold"}
        and 0.5 < metrics["labelers"]["ceiling"] <= 1
    )
    assert metrics["seconds"]["total"] > 0 and metrics["peak_rss_mb"] > 100
    assert set(metrics["bits_per_byte"]) == {"base", "five_gram"} and metrics["kl"]["sft"] == 0


def test_report_writes_one_self_contained_page(rlhf, tiny, tmp_path):
    shutil.copytree(tiny.root, tmp_path / "tiny")
    rlhf("report", check=0)
    page = (tmp_path / "tiny" / "report.html").read_text("utf-8")
    loaded = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            loaded.extend(value for name, value in attributes if name in ("src", "href"))

    Reader().feed(page)
    assert "PPO-ptx" in page and loaded == []


def test_chat_answers_once(rlhf, rlhf_process, tiny):
    rlhf_process("chat", "--ask", "What do cows eat?", runs=tiny.root.parent, check=0)
    for model in ("base", "sft", "ppo", "ppo-ptx"):
        rlhf("chat", "--model", model, "--ask", "What do cows eat?", runs=tiny.root.parent, check=0)
    rlhf(
        "chat", "--model", "base", "--prompted", "--ask", "What do cows eat?", runs=tiny.root.parent, check=0
    )
    fails(
        rlhf("chat", "--model", "sft", "--prompted", "--ask", "What do cows eat?", runs=tiny.root.parent),
        "Only the base model is prompted",
    )


def test_a_conversation_in_the_terminal(tiny, monkeypatch, capsys):
    """Several models side by side, commands, and what goes wrong without an end of the conversation."""
    from rlhf_utils.course import talk

    lines = iter(
        [
            "What do cows eat?",
            "/model sft, ppo-ptx",
            "And bears?",
            "/temperature 0",
            "/temperature nan",
            "/reset",
            "/dance",
            "/model gpt5",
            "/model taste",
            "",
            "exit",
        ]
    )
    chats = talk.open_chats(tiny, "base", 0.7, prompted=True)
    monkeypatch.setattr(talk.Chat, "ask", lambda self, text: iter([f"{self.name} heard: ", text]))
    talk.talk(chats, tiny, True, "cows", ask=lambda prompt: next(lines))
    said = capsys.readouterr().out
    assert "talking to base, prompted. Ask about cows" in said and "base heard: What do cows eat?" in said
    assert "talking to SFT and PPO-ptx now" in said
    assert "SFT: sft heard: And bears?" in said and "PPO-ptx: ppo_ptx heard: And bears?" in said
    for expected in ("is 0 now", "not 'nan'", "starts anew", "no command /dance", "no model 'gpt5'"):
        assert expected in said
    assert "talking to example reader now" in said and "gpt5 heard" not in said


def test_a_reset_conversation_has_no_memory(tiny):
    from rlhf_utils.course.talk import obey, open_chats

    chats = open_chats(tiny, "sft", 0.0)
    chats[0].answer("What do cows eat?")
    assert len(chats[0].messages) == 2
    obey("/reset", chats, tiny, False)
    assert chats[0].messages == [] and obey("/temperature 1", chats, tiny, False)[0].temperature == 1


def test_a_browser_that_does_not_draw_is_not_asked_by_chapters(monkeypatch):
    from rlhf_utils.course.chapters import kernel_environment
    from rlhf_utils.profiles import load_profile

    def broken():
        raise RuntimeError("The browser seemed to close immediately after starting.")

    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr("rlhf_utils.course.chapters.draw_image", broken)
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype+svg")
    with kernel_environment(load_profile("tiny")):
        assert "PLOTLY_RENDERER" not in os.environ
    monkeypatch.setattr("rlhf_utils.course.chapters.draw_image", lambda: None)
    with kernel_environment(load_profile("tiny")):
        assert os.environ["PLOTLY_RENDERER"] == "plotly_mimetype+svg"


def test_a_figure_that_fails_is_the_last_of_the_kept_browser(monkeypatch):
    """Its queues would hold the next figure up for ever, or give it the picture of the one before."""
    from rlhf_utils.course.notebook import keep_browser

    server, drawn = SimpleNamespace(_initialized=False), []

    def draw(figure, **_):
        if figure == "interrupted":
            raise KeyboardInterrupt
        drawn.append(server._initialized)

    kaleido = SimpleNamespace(
        calc_fig_sync=draw,
        _global_server=server,
        start_sync_server=lambda **_: setattr(server, "_initialized", True),
    )
    monkeypatch.setitem(sys.modules, "kaleido", kaleido)
    keep_browser()
    kaleido.calc_fig_sync("one")
    with pytest.raises(KeyboardInterrupt):
        kaleido.calc_fig_sync("interrupted")
    kaleido.calc_fig_sync("another")
    assert drawn == [False, True, False]


def test_course_leaves_executed_notebooks(rlhf, tmp_path):
    said = rlhf("course", "--chapters", "12", check=0).stdout
    assert "[1/1] 12_scale_up" in said
    executed = json.loads((tmp_path / "tiny" / "chapters" / "12_scale_up.ipynb").read_text())
    assert all(c["execution_count"] for c in executed["cells"] if c["cell_type"] == "code")


def test_the_next_chapters_kernel_has_loaded_and_does_not_outlive_an_error(tmp_path, monkeypatch):
    import nbformat
    from nbclient.util import run_sync

    from rlhf_utils.course import chapters
    from rlhf_utils.environment import CourseError

    cells = ["import sys\nassert 'torch' in sys.modules and 'torch' not in dir()", "1 / 0", "1"]
    paths = [tmp_path / f"{i:02}.ipynb" for i in range(3)]
    for path, cell in zip(paths, cells):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), path)
    started, kernel_of = [], chapters.kernel_of
    monkeypatch.setattr(chapters, "kernel_of", lambda path: started.append(kernel_of(path)) or started[-1])
    with pytest.raises(CourseError, match="01.ipynb stopped with an error: .*ZeroDivisionError"):
        with chapters.kernels(paths) as clients:
            for path, client in zip(paths, clients):
                chapters.run_chapter(client, path, tmp_path / "executed.ipynb", SimpleNamespace())
    assert len(started) == 3
    assert not any(client.km and run_sync(client.km.is_alive)() for client in started)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])  # the second: Windows, when output goes to a file
def test_doctor(rlhf_process, encoding):
    assert "Ready" in rlhf_process("doctor", check=0, PYTHONIOENCODING=encoding).stdout


@pytest.mark.parametrize(
    "words, expected",
    [
        (["run", "--profile", "huge"], "no profile 'huge'"),
        (["run", "--until", "sfft"], "no stage 'sfft'"),
        (["run", "--force", "sfft"], "no stage 'sfft'"),
        (["chat", "--ask", ""], "--ask is empty"),
        (["chat", "--model", "gpt5", "--ask", "Hi"], "no model 'gpt5'"),
        (["chat", "--ask", "Hi"], "rlhf run"),
        (["report"], "rlhf run"),
        (["run", "--seed", "-1"], "--seed"),
        (["run", "--data", "missing"], "does not exist"),
        (["data", "check", "missing"], "no such folder"),
        (["data", "import", "new"], "at least one file"),
        (["data", "import", "new", "--prompts", "missing.jsonl"], "missing.jsonl"),
        (["course", "--chapters", "77"], "no chapter 77"),
    ],
)
def test_what_the_user_can_mend_is_one_message(rlhf, words, expected):
    fails(rlhf(*words), expected)


def test_so_it_is_in_a_process_of_its_own(rlhf_process):
    fails(rlhf_process("run", "--profile", "huge"), "no profile 'huge'")


def test_damaged_artifact_in_a_run(rlhf, tiny, tmp_path):
    shutil.copytree(tiny.root, tmp_path / "tiny")
    path = tmp_path / "tiny" / "reward" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    fails(rlhf("run"), str(path), "--force reward")
    fails(rlhf("run", "--until", "ppo"), "--force reward")
    rlhf("run", "--force", "reward", check=0)


def start(tmp_path, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_utils.course.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RLHF_RUNS": str(tmp_path), "RLHF_PROFILE": "tiny"},
    )


def wait_for(process, *paths, seconds=90):
    """Until one of the paths is there."""
    end = time.time() + seconds
    while not any(path.exists() for path in paths):
        assert process.poll() is None and time.time() < end, process.communicate()[1][-1500:]
        time.sleep(0.02)


def test_two_runs_in_the_same_folder(rlhf, tmp_path):
    first = start(tmp_path, "run", "--until", "pretrain")
    try:
        wait_for(first, tmp_path / "tiny" / ".holder.json")
        first.send_signal(signal.SIGSTOP)  # or it might be done before the second one begins
        fails(rlhf("run", "--until", "pretrain"), f"process {first.pid}", "RLHF_RUNS")
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("stage", ["corpus", "pretrain", "sft", "ppo_ptx"])
def test_killed_runs_leave_the_old_artifact_or_none(rlhf, tmp_path, tiny, stage):
    shutil.copytree(tiny.root, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / stage)
    kept = {s: (tmp_path / "tiny" / s / "manifest.json").read_text() for s in STAGES if s != stage}
    process = start(tmp_path, "run", "--until", stage)
    # A tiny corpus is soon done.
    wait_for(process, tmp_path / "tiny" / f".{stage}.partial", tmp_path / "tiny" / stage)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert kept == {s: (tmp_path / "tiny" / s / "manifest.json").read_text() for s in STAGES if s != stage}
    rlhf("run", "--until", stage, check=0)
    assert (tmp_path / "tiny" / stage / "manifest.json").exists() and not list(
        (tmp_path / "tiny").glob(".*.resume")
    )


@pytest.mark.parametrize(
    "words", [("run", "--until", "pretrain"), ("course", "--chapters", "03")], ids=["run", "course"]
)
def test_ctrl_c_stops_soon_and_says_how_to_go_on(tmp_path, words):
    process = start(tmp_path, *words)
    wait_for(process, tmp_path / "tiny" / ".pretrain.partial")
    sent = time.time()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and time.time() - sent < 2
    assert f"go on with: rlhf {' '.join(words)}" in errors and "Traceback" not in errors


@pytest.mark.parametrize("force", [["--force", "corpus"], ["--force=corpus"]])
def test_what_was_forced_and_is_rebuilt_is_not_rebuilt_again_by_going_on(tmp_path, monkeypatch, force):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    words = ["run", "--profile", "tiny", *force, "--until", "tokens"]
    arguments, before = parser().parse_args(words), time.time() - 1
    assert still_to_do(arguments, words, before) == words
    ensure("corpus", load_profile("tiny"))
    assert still_to_do(arguments, words, before) == ["run", "--profile", "tiny", "--until", "tokens"]
    assert still_to_do(arguments, words, time.time() + 1) == words
    store = ensure("tokens", load_profile("tiny"))
    for stage in ("tokenizer", "tokens"):  # as old as a run before: an equal corpus does not make them stale
        os.utime(store.folder(stage) / "manifest.json", (before - 9, before - 9))
    told = ["run", "--profile", "tiny", "--force", "tokenizer", "--until", "tokens"]
    assert still_to_do(arguments, words, before) == told
    monkeypatch.delitem(sys.modules, "rlhf_utils.pipeline.stages")  # Ctrl-C while libraries are loaded
    assert still_to_do(arguments, words, before) == words


def test_before_anything_is_trained_the_report_shows_the_models_that_come_with_the_course(rlhf, tmp_path):
    result = rlhf("report", RLHF_PROFILE="laptop", RLHF_REFERENCE="1", check=0)
    assert "PPO-ptx beats SFT" in result.stdout
    assert "come without their answers" in (tmp_path / "laptop" / "report.html").read_text("utf-8")
