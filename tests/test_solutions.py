"""The solved exercises, each from top to bottom: in this process, since they take less time than a kernel
of their own takes to start.
"""

import json
import re

import pytest

from rlhf_utils.environment import ROOT

FILES = sorted((ROOT / "chapters" / "solutions").glob("*.ipynb"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_solutions_run_from_top_to_bottom(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    names = {"__name__": "__main__"}
    cells = [c for c in json.loads(file.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    assert cells
    for cell in cells:
        exec(compile("".join(cell["source"]), f"{file.name}, cell {cell['id']}", "exec"), names)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_an_exercise_asks_the_same_in_both_places(file):
    def texts(path):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")

    chapter = re.sub(r"\n<details>.*?</details>\n?", "\n", texts(ROOT / "chapters" / file.name), flags=re.S)
    for head, asked in re.findall(r"^## (\d+ · .*?)\n\n(.*?)\n\n\*\*", texts(file), re.S | re.M):
        assert f"### {head}\n\n{asked}" in chapter
