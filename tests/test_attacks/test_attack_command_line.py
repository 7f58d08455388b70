"""Wrong, missing, extreme and unicode arguments; nonsense in the environment; streams and disks that fail."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_utils.course.cli import main

pytestmark = pytest.mark.attack


@pytest.fixture
def tried(tmp_path, monkeypatch, capfd):
    """Run a command in this process: what it said, if it ended with exit status 2 as it should."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RLHF_PROFILE", "tiny")

    def call(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        try:
            status = main(list(words))
        except SystemExit as error:  # from argparse
            status = error.code
        said = capfd.readouterr().err
        assert status == 2, said
        refused(said)
        assert sorted(tmp_path.rglob("*")) == before  # and nothing was touched
        return said

    return call


def refused(said: str) -> None:
    """One clear line (argparse shows the usage before it), no traceback, nothing that moves a cursor."""
    assert said.strip() and "Traceback" not in said and "should not happen" not in said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
    assert sum("rlhf" in line and ": " in line for line in said.splitlines()) >= 1 and len(said) < 6000


WORDS = {
    "no command": [],
    "a command that is none": ["fly"],
    "a command in capitals": ["RUN"],
    "an escape sequence as a command": ["\x1b[2J"],
    "an option that is none": ["run", "--nonsense"],
    "words too many": ["report", "now"],
    "a seed with an exponent": ["run", "--seed", "²"],
    "an Arabic-Indic seed": ["run", "--seed", "٣"],
    "a seed in full width": ["run", "--seed", "１"],
    "a seed of 400 digits": ["run", "--seed", "9" * 400],
    "a negative seed": ["run", "--seed", "-1"],
    "a broken seed": ["run", "--seed", "1.5"],
    "a seed that is empty": ["run", "--seed", ""],
    "a rank too high": ["run", "--lora", "65"],
    "a rank that is a word": ["run", "--lora", "eight"],
    "a weight that is no number": ["run", "--own-weight", "nan"],
    "an endless weight": ["run", "--own-weight", "inf"],
    "a negative weight": ["run", "--own-weight", "-1"],
    "a guideline outside": ["run", "--guideline", "../../x"],
    "a guideline with a slash": ["run", "--guideline", "a/b"],
    "a guideline of 41 letters": ["run", "--guideline", "x" * 41],
    "a guideline with a line end": ["run", "--guideline", "a\nb"],
    "a stage outside": ["run", "--until", "../sft"],
    "a stage in capitals": ["run", "--until", "SFT"],
    "a forced stage of SQL": ["run", "--force", "'; DROP TABLE rankings"],
    "a forced stage with an escape": ["run", "--force", "\x1b]0;title\x07"],
    "a profile in capitals": ["run", "--profile", "TINY"],
    "a profile outside": ["run", "--profile", "../tiny"],
    "a profile in full width": ["run", "--profile", "ｔｉｎｙ"],
    "data that are a device": ["run", "--data", "/dev/null"],
    "data with a NUL": ["run", "--data", "x\0y"],
    "data of 5,000 letters": ["run", "--data", "x" * 5000],
    "data of nobody's home": ["run", "--data", "~nobody-at-all/x"],
    "data with an escape": ["run", "--data", "\x1b[31m"],
    "data with quotes and a line end": ["run", "--data", "a 'b\" \n c"],
    "a base with a NUL": ["run", "--base", "x\0y"],
    "a base of nobody's home": ["run", "--base", "~nobody-at-all/x"],
    "a base that is a file": ["run", "--base", __file__],
    "a base of spaces": ["run", "--base", "a b c"],
    "a base outside": ["run", "--base", "../../etc"],
    "a temperature that is no number": ["chat", "--temperature", "nan"],
    "a negative temperature": ["chat", "--temperature", "-1"],
    "an endless temperature": ["chat", "--temperature", "inf"],
    "a temperature of 100": ["chat", "--temperature", "100"],
    "a warm temperature": ["chat", "--temperature", "warm"],
    "a model of no name": ["chat", "--model", "", "--ask", "Hi"],
    "a model outside": ["chat", "--model", "../sft", "--ask", "Hi"],
    "a stage for a model": ["chat", "--model", "reward", "--ask", "Hi"],
    "an empty question": ["chat", "--ask", ""],
    "a question of spaces": ["chat", "--ask", " \n\t"],
    "a prompted assistant": ["chat", "--model", "sft", "--prompted", "--ask", "Hi"],
    "a model that is not there": ["chat", "--ask", "Hi"],
    "chapter 0": ["course", "--chapters", "0"],
    "chapter 004": ["course", "--chapters", "004"],
    "chapter *": ["course", "--chapters", "*"],
    "a chapter outside": ["course", "--chapters", "../00"],
    "a report of nothing": ["report"],
    "a report of nothing as JSON": ["report", "--json"],
    "data to nowhere": ["data"],
    "an action that is none": ["data", "eat", "x"],
    "checking nothing": ["data", "check"],
    "checking a file": ["data", "check", __file__],
    "checking a NUL": ["data", "check", "x\0y"],
    "importing nothing": ["data", "import", "new"],
    "importing a folder": ["data", "import", "new", "--prompts", "."],
    "importing a device": ["data", "import", "new", "--prompts", "/dev/zero"],
    "importing what is not there": ["data", "import", "new", "--prompts", "nowhere\x1b[2J"],
    "importing a NUL": ["data", "import", "new", "--prompts", "x\0y"],
    "importing 300 letters": ["data", "import", "new", "--prompts", "x" * 300],
    "a class without a database": ["class", "init"],
    "a class at no URL": ["class", "init", "--db", "nonsense"],
    "a class at an empty URL": ["class", "status", "--db", ""],
    "a class in SQLite": [
        "class",
        "init",
        "--db",
        "sqlite:///x",
        "--students",
        __file__,
        "--items",
        "nowhere",
    ],
    "a class in a database of another kind": ["class", "status", "--db", "oracle://x/y"],
    "a port that is a word": ["class", "status", "--db", "postgresql+psycopg://a:b@host:port/x"],
    "a class of nobody": ["class", "init", "--db", "postgresql+psycopg://x/y"],
    "a list of students that is a folder": [
        *("class", "init", "--db", "postgresql+psycopg://x/y", "--students", ".")
    ],
    "no prompts for a class": ["class", "init", "--db", "postgresql+psycopg://x/y", "--prompts", "0"],
    "a password for nobody": ["class", "reset-password", "--db", "postgresql+psycopg://x/y"],
}


@pytest.mark.parametrize("attack", WORDS)
def test_words_that_make_no_sense(tried, attack):
    """Exit status 2 and one clear line; nothing is touched."""
    tried(*WORDS[attack])


ENVIRONMENT = {
    "runs in a file": ("RLHF_RUNS", __file__, "is a file"),
    "runs in nobody's home": ("RLHF_RUNS", "~nobody-at-all/runs", "RLHF_RUNS"),
    "runs of 300 letters": ("RLHF_RUNS", "/tmp/" + "x" * 300, "RLHF_RUNS"),
    "runs that loop": ("RLHF_RUNS", "/proc/self/fd/none/x", "rlhf run"),
    "shared runs that are not there": ("RLHF_SHARED", "/nowhere/at/all", "RLHF_SHARED"),
    "shared runs in a file": ("RLHF_SHARED", __file__, "RLHF_SHARED"),
    "shared runs of nobody": ("RLHF_SHARED", "~nobody-at-all", "RLHF_SHARED"),
    "a seed with an exponent": ("RLHF_SEED", "²", "RLHF_SEED"),
    "a negative seed": ("RLHF_SEED", "-1", "RLHF_SEED"),
    "a seed with an escape": ("RLHF_SEED", "\x1b[31m", "RLHF_SEED"),
    "a rank that is a word": ("RLHF_LORA", "eight", "RLHF_LORA"),
    "a rank of 1,000": ("RLHF_LORA", "1000", "RLHF_LORA"),
    "a profile that is none": ("RLHF_PROFILE", "huge", "no profile"),
    "data that are not there": ("RLHF_DATA", "/nowhere/at/all", "does not exist"),
    "a process that is a word": ("RANK", "abc", "RANK"),
    "the second of one process": ("RANK", "1", "WORLD_SIZE"),
    "two processes, and no word of the other": ("WORLD_SIZE", "2", "MASTER_ADDR"),
    "no processes": ("WORLD_SIZE", "-1", "WORLD_SIZE"),
    "a million million processes": ("WORLD_SIZE", "1" * 12, "WORLD_SIZE"),
}


@pytest.mark.parametrize("attack", ENVIRONMENT)
def test_an_environment_of_nonsense(tried, monkeypatch, attack):
    """Exit status 2 and one line that names the variable."""
    name, value, expected = ENVIRONMENT[attack]
    monkeypatch.setenv(name, value)
    assert expected in tried("report")


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite:////proc/none/x.sqlite", "oracle://x/y", "sqlite:///" + "x" * 300, "http://x"],
    ids=lambda url: url[:40],
)
def test_a_database_that_is_none(monkeypatch, url):
    """An error that says what an address looks like, or why there can be no file."""
    from rlhf_utils.environment import CourseError
    from rlhf_utils.ranking.store import RankingStore

    monkeypatch.setenv("RLHF_RANKINGS", url)
    with pytest.raises(CourseError):
        RankingStore(patience=0.2)


def test_somebody_without_a_name(monkeypatch):
    """In a container a user may have no entry and no name: they rank as `me`."""
    import getpass

    from rlhf_utils.environment import ranker_name

    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert ranker_name() == "me"


COMMAND = f"{sys.executable} -m rlhf_utils.course.cli"
STREAMS = {
    "output closed": f"{COMMAND} data check nowhere >&-",
    "errors closed": f"{COMMAND} data check nowhere 2>&-",
    "everything closed": f"{COMMAND} data check nowhere <&- >&- 2>&-",
    "output to a full disk": f"{COMMAND} --help > /dev/full",
    "errors to a full disk": f"{COMMAND} data check nowhere 2> /dev/full",
    "nobody to ask": f"{COMMAND} reset < /dev/null",
    "no way to ask": f"{COMMAND} reset <&-",
    "a reader who goes": f"{COMMAND} --help | true",
    "no home": f"env -u HOME {COMMAND} data check nowhere",
    "a home that is not there": f"HOME=/nowhere {COMMAND} data check nowhere",
    "the C locale": f"LC_ALL=C {COMMAND} data check nowhere",
    "a locale that is none": f"LC_ALL=xx_YY {COMMAND} data check nöwhere",
    "ASCII alone": f"PYTHONIOENCODING=ascii {COMMAND} data check nöwhere",
    "no terminal": f"TERM= setsid {COMMAND} data check nowhere",
    "an empty PATH": f"PATH= {COMMAND} data check nowhere",
    "a folder that is gone": f"mkdir gone; cd gone; rmdir ../gone; {COMMAND} data check nowhere",
    "a folder with spaces and quotes": f'mkdir -p "a \'b c"; cd "a \'b c"; {COMMAND} data check nowhere',
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", STREAMS)
def test_streams_and_homes_that_fail(tmp_path, tiny, attack):
    """No traceback; exit status 0, or 2 where something could not be done."""
    shutil.copytree(tiny.root, tmp_path / "tiny")
    result = subprocess.run(
        ["bash", "-c", STREAMS[attack]],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "RLHF_RUNS": str(tmp_path), "RLHF_PROFILE": "tiny"},
    )
    said = result.stdout + result.stderr
    assert "Traceback" not in said and "Exception ignored" not in said and "should not happen" not in said
    assert result.returncode in (0, 2), said
    assert (tmp_path / "tiny" / "sft" / "model.safetensors").is_file()  # nobody said yes to a reset


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, of which little is free."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("only root can make a small disk")
    (place / "fill").write_bytes(b"x" * 900_000)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("run", "--until", "corpus"),
        ("run", "--force", "sft", "--until", "sft"),
        ("report",),
        ("data", "import", "{disk}/own", "--pretrain", "{here}/text.txt"),
    ],
    ids=["building a corpus", "training", "a report", "importing"],
)
def test_a_full_disk(rlhf, tiny, tmp_path, small_disk, words):
    """One line, exit status 2; what was there before is as it was."""
    (tmp_path / "text.txt").write_text("It was a good day for all of us. " * 20_000)
    linked = small_disk / "tiny"
    linked.mkdir()
    if words[0] == "report" or "sft" in words:
        for stage in tiny.root.iterdir():
            if stage.is_dir() and not stage.name.startswith("."):
                (linked / stage.name).symlink_to(stage)
    before = {f: f.read_bytes() for f in tiny.root.rglob("*") if f.is_file()}
    places = {"disk": small_disk, "here": tmp_path}
    result = rlhf(*(w.format(**places) for w in words), runs=small_disk)
    assert result.returncode == 2, result.stdout + result.stderr
    refused(result.stderr)
    assert "full" in result.stderr or "space" in result.stderr
    assert before == {f: f.read_bytes() for f in before}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("run", "--until", "corpus"), ("data", "import", "{disk}/own")], ids=" ".join
)
def test_a_disk_that_cannot_be_written(rlhf, tmp_path, small_disk, words):
    """As above, of a disk that is read-only."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    (tmp_path / "text.txt").write_text("It was a good day for all of us. " * 2_000)
    more = ("--pretrain", "text.txt") if words[0] == "data" else ()
    result = rlhf(*(w.format(disk=small_disk) for w in words), *more, runs=small_disk / "runs")
    assert result.returncode == 2, result.stdout + result.stderr
    refused(result.stderr)
    assert "ead-only" in result.stderr


def test_what_a_model_says_cannot_move_the_cursor(monkeypatch, capsys, tiny):
    """Escape sequences in an answer are written out."""
    from rlhf_utils.course import chat, cli

    monkeypatch.setenv("RLHF_RUNS", str(tiny.root.parent))
    monkeypatch.setattr(
        chat.Chat, "ask", lambda self, text: iter(["\x1b[2J\x1b]0;mine\x07", "\u202eevil", "ok\n"])
    )
    assert cli.main(["chat", "--profile", "tiny", "--ask", "Hi"]) == 0
    assert capsys.readouterr().out == "\\x1b[2J\\x1b]0;mine\\x07\\u202eevilok\n\n"


@pytest.mark.slow
def test_an_error_nobody_thought_of_is_one_line(monkeypatch, capsys):
    """With its story in a file, to be reported; exit status 1."""
    from rlhf_utils.course import cli

    def broken(arguments):
        raise ZeroDivisionError("by \x1b nought")

    monkeypatch.setattr(cli, "doctor", broken)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert "should not happen (ZeroDivisionError: by \\x1b nought)" in said and said.count("\n") == 1
    assert "ZeroDivisionError" in Path(said.rsplit("with ", 1)[1].strip().rstrip(".")).read_text()
