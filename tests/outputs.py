"""Execute chapters on a finished laptop run and keep their outputs, as they are committed.

    RLHF_RUNS=FOLDER python tests/outputs.py [00 01 …]        # all chapters, without numbers

FOLDER holds the run (`rlhf course` there before); nothing is read from the models that come with the course.
A cell that found its models built keeps what it showed when it trained them. Each notebook remembers in its
metadata of which code its outputs are; `test_hygiene.py` compares.
"""

import json
import os
import sys
import time
from hashlib import sha256
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"


def code_hash(notebook: dict) -> str:
    """Of the sources of all code cells."""
    sources = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return sha256(json.dumps(sources).encode()).hexdigest()[:16]


def lines(text: str | list[str]) -> list[str]:
    return text.splitlines(keepends=True) if isinstance(text, str) else text


def kept(output: dict) -> dict:
    """An output as nbstripout leaves it, texts in lines."""
    output = json.loads(json.dumps(output))
    output.pop("execution_count", None)
    if output["output_type"] == "execute_result":
        output["execution_count"] = None
    if "text" in output:
        output["text"] = lines(output["text"])
    for kind, value in output.get("data", {}).items():
        output["data"][kind] = lines(value) if isinstance(value, str) else value
    return output


def joined(outputs: list[dict]) -> list[dict]:
    """Pieces of one stream that follow one another are one output: a kernel sends them as they come."""
    found: list[dict] = []
    for output in outputs:
        if found and output["output_type"] == "stream" and output.get("name") == found[-1].get("name"):
            found[-1]["text"] = lines("".join(found[-1]["text"] + output["text"]))
        else:
            found.append(output)
    return found


def trained(outputs: list[dict]) -> bool:
    """Whether a stage was built in a cell: its progress stands there."""
    texts = ["".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in outputs]
    return any("100% of" in text for text in texts)


def execute(path: Path) -> None:
    raw, book = json.loads(path.read_text("utf-8")), nbformat.read(path, 4)
    NotebookClient(
        book, timeout=3600, kernel_name="python3", resources={"metadata": {"path": CHAPTERS}}
    ).execute()
    for cell, done in zip(raw["cells"], book.cells):
        if cell["cell_type"] == "code":
            cell["execution_count"] = None
            shown = joined([kept(o) for o in done.outputs if o.get("name") != "stderr"])
            if trained(shown) or not trained(cell["outputs"]):
                cell["outputs"] = shown
    raw["metadata"]["outputs_of"] = code_hash(raw)
    path.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main(numbers: list[str]) -> None:
    os.environ |= {"RLHF_REFERENCE": "0", "RLHF_PROFILE": "laptop", "PLOTLY_RENDERER": "plotly_mimetype+svg"}
    if "RLHF_RUNS" not in os.environ:
        sys.exit("RLHF_RUNS must name the folder of a finished laptop run.")
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        if not numbers or path.name[:2] in numbers:
            started = time.monotonic()
            execute(path)
            size = path.stat().st_size / 2**20
            print(f"{path.name}: {time.monotonic() - started:.0f} s, {size:.2f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
