"""What was measured of a claim is kept beside the models that it was measured on, and holds as long as
they and the code are the same.
"""

import ast
import json
from functools import cache
from hashlib import sha256
from inspect import getsourcefile
from math import isfinite
from pathlib import Path

from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import ROOT
from rlhf_utils.pipeline.claims.claim import Bench, Claim

PACKAGE = ROOT / "rlhf_utils"
ROOMS = ("world", "language", "training", "evaluation")  # what writes, trains, draws and judges
STAGES = PACKAGE / "pipeline" / "stages.py"  # builds the models, and their identities tell if that changes


@cache
def code_of(file: Path) -> bytes:
    """What a file does. Comments, docstrings and how its claim is worded are no part of that."""
    tree = ast.parse(file.read_bytes().split(b"\nCLAIM = ")[0])
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree).encode()


@cache
def imported(file: Path) -> frozenset[Path]:
    """The file and those of the pipeline that it imports, at any remove."""
    found, todo = set(), [file]
    while todo:
        found.add(file := todo.pop())
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf_utils.pipeline"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                files = {ROOT / f"{name.replace('.', '/')}.py" for name in names} - {STAGES} - found
                todo += [path for path in files if path.is_file()]
    return frozenset(found)


def made_from(store: Store, claim: Claim) -> dict[str, str] | None:
    """The models, by identity, and the code that a measurement comes from. None if a stage is missing."""
    if any(store.find(stage) is None for stage in claim.stages):
        return None
    files = imported(Path(getsourcefile(claim.measure))).union(*(PACKAGE.glob(f"{r}/*.py") for r in ROOMS))
    code = sha256(b"".join(code_of(file) for file in sorted(files))).hexdigest()[:16]
    return {stage: store.manifest(stage)["id"] for stage in claim.stages} | {"code": code}


def kept_file(store: Store, claim: Claim) -> Path:
    return store.root / "evidence" / f"{claim.number:02}.json"


def kept(store: Store, claim: Claim) -> list[dict] | None:
    """The rows that were measured before, if nothing has changed since."""
    try:
        found = json.loads(kept_file(store, claim).read_text("utf-8"))
        return found["rows"] if found["made_from"] == made_from(store, claim) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never measured, or half-written: measured anew


def keep(bench: Bench, claim: Claim) -> list[dict]:
    """Measure a claim, whose stages are built, and keep its rows."""
    measured = claim.measure(bench)
    # Where nothing was decided there is no figure.
    rows = [row for row in measured if all(isfinite(row[k]) for k in ("value", "low", "high"))]
    file = kept_file(bench.store, claim)
    file.parent.mkdir(exist_ok=True)
    document = {"made_from": made_from(bench.store, claim), "rows": rows}
    file.write_text(json.dumps(document, indent=1), "utf-8")
    return rows
