"""Models and data sets by name, from a server on loopback that speaks the Hub's protocol."""

import json
import os
import subprocess
import sys

import pytest
from hub_server import hub
from test_architectures import model_folder

BASE = """
from rlhf_utils.environment import CourseError
from rlhf_utils.language.pretrained import base_folder
from rlhf_utils.profiles import load_profile
try:
    folder = base_folder(load_profile("tiny", 0, base="{name}"))
    print(sorted(f.name for f in folder.iterdir()))
except CourseError as error:
    print("refused:", error)
"""
DATA = """
from rlhf_utils.environment import CourseError
from rlhf_utils.pipeline.importing import import_from_hub
try:
    import_from_hub("{folder}", "{name}")
except CourseError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    root = tmp_path_factory.mktemp("repositories")
    model = model_folder(root / "tiny", "llama")
    (model / "pytorch_model.bin").write_bytes(b"never asked for")
    (root / "pairs").mkdir()
    rows = [{"prompt": f"Say {i}.", "chosen": f"{i}", "rejected": "no"} for i in range(50)]
    (root / "pairs" / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {"models/me/tiny": model, "datasets/me/pairs": root / "pairs"}


def run(code: str, address: str, home, **environment) -> str:
    """What a program says that knows no other hub."""
    settings = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RLHF_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_model_comes_by_its_name_without_pickles_and_stays_for_later(repositories, tmp_path):
    asked: list[str] = []
    with hub(repositories, asked=asked) as address:
        said = run(BASE.format(name="me/tiny"), address, tmp_path)
    assert "'model.safetensors'" in said and "pytorch_model.bin" not in said
    assert not any("pytorch_model.bin" in path for path in asked)
    offline = run(BASE.format(name="me/tiny"), "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert "'model.safetensors'" in offline


@pytest.mark.slow
def test_names_that_are_gated_missing_or_out_of_reach_say_what_to_do(repositories, tmp_path):
    with hub(repositories, gated={"models/me/secret"}) as address:
        names = ("me/secret", "me/nothing")
        gated, missing = run(
            "".join(BASE.format(name=name) for name in names), address, tmp_path
        ).splitlines()
    assert "is gated: accept its terms" in gated and "There is no model me/nothing" in missing
    said = run(BASE.format(name="me/tiny"), "http://127.0.0.1:9", tmp_path)
    assert "the Hub cannot be reached" in said and "--base FOLDER" in said


@pytest.mark.slow
def test_a_download_that_broke_off_is_completed(repositories, tmp_path):
    asked: list[str] = []
    with hub(repositories, broken={"model.safetensors"}, asked=asked) as address:
        said = run(BASE.format(name="me/tiny"), address, tmp_path)
        if "refused" in said:  # the library gave up: a second try goes on
            said = run(BASE.format(name="me/tiny"), address, tmp_path)
    assert "'model.safetensors'" in said
    assert sum(path.startswith("GET") and path.endswith("model.safetensors") for path in asked) == 2


@pytest.mark.slow
def test_a_data_set_comes_by_its_name(repositories, tmp_path):
    with hub(repositories) as address:
        wanted = {"new": "me/pairs", "other": "me/nothing"}
        imports = "".join(DATA.format(folder=tmp_path / folder, name=name) for folder, name in wanted.items())
        said = run(imports, address, tmp_path / "home")
    assert "comparisons: 50 rows" in said and "There is no data set me/nothing" in said
    away = run(
        DATA.format(folder=tmp_path / "third", name="me/other"), "http://127.0.0.1:9", tmp_path / "home"
    )
    assert "refused:" in away and ("hf download me/other" in away or "There is no data set" in away)
    assert not (tmp_path / "third").exists()
