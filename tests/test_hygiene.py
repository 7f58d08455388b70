"""What is easy to forget: style, notebooks without leftovers, texts without this machine's paths."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from outputs import code_hash

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
PACKAGE = sorted((ROOT / "rlhf_utils").rglob("*.py"))


def cells(path, kind):
    return [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize("words", [["check", "."], ["format", "--check", "."]], ids=lambda words: words[0])
def test_ruff(words):
    result = subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_functions_and_modules_stay_short():
    for path in PACKAGE:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"
    assert len((ROOT / "rlhf_utils/training/ppo.py").read_text("utf-8").splitlines()) <= 250


def test_few_lines_are_set_by_hand():
    skipped = [
        line
        for path in [*PACKAGE, *(ROOT / "tests").rglob("*.py")]
        for line in path.read_text("utf-8").splitlines()
    ]
    assert sum(line.rstrip().endswith("# fmt" + ": skip") for line in skipped) <= 10


def test_the_table_of_attacks_is_of_today(request):
    """Only where all of them were collected, as `make test` does."""
    from test_attacks import table

    marked = {p for p in (ROOT / "tests").rglob("test_*.py") if "mark.attack" in p.read_text("utf-8")}
    if not marked - {Path(__file__)} <= {item.path for item in request.session.items}:
        pytest.skip("not all tests were collected")
    assert table.TABLE.read_text("utf-8") == table.text_of(request.session.items), "run table.py"


def test_there_are_chapters():
    assert {p.name[:2] for p in CHAPTERS} >= {"00", "01", "02", "03", "05", "07", "08", "09"}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
class TestNotebook:
    def test_has_the_parts_of_a_chapter(self, path):
        text = "\n".join(source(c) for c in cells(path, "markdown"))
        assert text.startswith(f"# {path.name[:2]} · ")
        for part in (
            "By the end of this chapter",
            "Predict",
            "Exercise",
            "<details>",
            "## Recap",
            "What we simplified",
        ):
            assert part in text, part
        assert "checks." in "\n".join(source(c) for c in cells(path, "code"))

    def test_cells_are_short(self, path):
        for cell in cells(path, "code"):
            assert len([line for line in source(cell).splitlines() if line.strip()]) <= 40

    def test_no_leftovers(self, path):
        notebook = json.loads(path.read_text("utf-8"))
        assert "widgets" not in notebook["metadata"]
        for cell in notebook["cells"]:
            assert not {"skip-execution", "raises-exception"} & set(cell["metadata"].get("tags", []))
            assert cell.get("execution_count") is None and cell.get("id")
            for output in cell.get("outputs", []):
                assert output["output_type"] != "error" and output.get("name") != "stderr"

    def test_links_lead_somewhere(self, path):
        for cell in cells(path, "markdown"):
            for target in re.findall(r"\]\(([^)#:]+\.(?:ipynb|md|svg))\)", source(cell)):
                assert (path.parent / target).exists(), target

    def test_pictures_are_told_in_words_as_well(self, path):
        for cell in cells(path, "markdown"):
            for words in re.findall(r"!\[([^\]]*)\]", source(cell)):
                assert len(words.split()) >= 4, words

    def test_outputs_are_those_of_the_code_beside_them(self, path):
        notebook = json.loads(path.read_text("utf-8"))
        assert notebook["metadata"].get("outputs_of") == code_hash(notebook), "run tests/outputs.py"
        assert path.stat().st_size < 1.5 * 2**20


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.name < "06"], ids=lambda p: p.stem)
class TestExercises:
    def test_there_are_some_and_their_hints_are_no_solutions(self, path):
        text = "\n".join(source(c) for c in cells(path, "markdown"))
        asked = re.findall(r"^### \d · .*\(○+, \d+ minutes\)$", text, re.MULTILINE)
        hints = re.findall(r"<details>.*?</details>", text, re.DOTALL)
        assert 3 <= len(asked) <= 5 and len(hints) == len(asked)
        assert not any("return" in hint or "def " in hint for hint in hints)
        assert "What popular notes get wrong" in text and "**Read on:**" in text

    def test_each_has_a_solution(self, path):
        solved = path.parent / "solutions" / path.name
        asked = "\n".join(source(c) for c in cells(path, "code"))
        right = "\n".join(source(c) for c in cells(solved, "code"))
        called = re.findall(r"^checks\.(\w+)\(", asked, re.MULTILINE)
        assert called and all(f"assert checks.{name}(" in right for name in called)


def test_figures_are_what_their_script_draws():
    import figures

    drawn = figures.figures()
    assert {f.stem for f in figures.FOLDER.glob("*.svg")} == set(drawn)
    for name, picture in drawn.items():
        assert (figures.FOLDER / f"{name}.svg").read_text("utf-8") == picture, "run tests/figures.py"


def test_the_environment_is_read_in_one_place():
    texts = {p.name: p.read_text("utf-8") for p in PACKAGE}
    assert [name for name, text in texts.items() if "environ.get" in text or "getenv" in text] == [
        "environment.py"
    ]


def test_the_whole_of_ppo_stands_in_four_cells_of_sixty_lines():
    """Chapter 07 and the README say so; that they equal the package's first update, the chapter asserts."""
    cells = json.loads((ROOT / "chapters" / "07_ppo.ipynb").read_text("utf-8"))["cells"]
    named = {cell["id"]: "".join(cell["source"]).splitlines() for cell in cells}
    parts = [named[name] for name in ("own-models", "own-score", "own-step", "own-update")]
    assert sum(bool(line.strip()) for part in parts for line in part) <= 60


def test_nothing_unsafe_is_loaded():
    words = ("import " + "pickle", "trust_remote_code=" + "True", "weights_only=" + "False")
    for path in [*PACKAGE, *CHAPTERS]:
        assert not any(w in path.read_text("utf-8") for w in words), path


def test_pins_live_once():
    pins = dict(
        line.split("==")
        for line in (ROOT / "requirements.txt").read_text().split("\n")
        if "==" in line and line[0] != "#"
    )
    assert {
        "torch",
        "transformers",
        "trl",
        "peft",
        "datasets",
        "jupyterlab",
        "ipywidgets",
        "pandas",
        "plotly",
    } <= set(pins)
    assert "-r requirements.txt" in (ROOT / "environment.yml").read_text()
