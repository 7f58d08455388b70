"""The solved exercises, each from top to bottom: in this process, since they take less time than a kernel
of their own takes to start.
"""

import json

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
