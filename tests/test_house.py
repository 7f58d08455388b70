"""The package's rooms: each imports only from those below it, and no two modules need each other."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rlhf_utils"
# From the top.
ROOMS = ("course", "pipeline", "ranking", "evaluation", "training", "artifacts", "language", "world")
GROUND = (
    "environment",
    "profiles",
    "look",
    "plots",
)  # modules that every room may import, and that import no room


def imported(source: str, modules: set[str]) -> set[str]:
    """The package's modules that a module imports, at its top or within a function;
    "" is the package itself.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "modules are imported by their whole names"
            names = [
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in modules else node.module or ""
                for a in node.names
            ]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "rlhf_utils"}
    return found


def height(module: str) -> int:
    """How high a module stands: 0 on the ground, 1 in the lowest room."""
    room = module.split(".")[1] if "." in module else ""
    return 0 if room in (*GROUND, "") else len(ROOMS) - ROOMS.index(room)


def problems(sources: dict[str, str]) -> list[str]:
    """Imports that run up, and the first circle there is, of modules by name."""
    graph = {name: imported(source, set(sources)) for name, source in sources.items()}
    found = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if height(other) > height(name)
    ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("circle: " + " → ".join(error.args[1]))
    return found


def house() -> dict[str, str]:
    modules = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text("utf-8")
    return modules


def test_there_are_eight_rooms_and_the_ground():
    assert {f.parent.name for f in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    assert {f.stem for f in PACKAGE.glob("*.py")} == {*GROUND, "__init__"}


def test_imports_run_downwards():
    assert problems(house()) == []


@pytest.mark.parametrize(
    ("module", "line", "problem"),
    [
        (
            "rlhf_utils.world.facts",
            "from rlhf_utils.language.tokenizer import END",
            "rlhf_utils.world.facts imports rlhf_utils.language.tokenizer",
        ),
        (
            "rlhf_utils.profiles",
            "import rlhf_utils.world.facts",
            "rlhf_utils.profiles imports rlhf_utils.world.facts",
        ),
        (
            "rlhf_utils.artifacts.store",
            "def f():\n    from rlhf_utils.ranking import store",
            "rlhf_utils.artifacts.store imports rlhf_utils.ranking.store",
        ),
        ("rlhf_utils.language.device", "from rlhf_utils.language.packing import pack", "circle: "),
    ],
)
def test_a_wrong_import_would_be_found(module, line, problem):
    sources = house()
    sources[module] += f"\n{line}\n"
    assert [found for found in problems(sources) if found.startswith(problem)]
