"""Artifacts are whole or absent, and what does not fit is said clearly."""

import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace

import pytest

from rlhf_utils.artifacts import files
from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.artifacts.lineage import PARENTS, SETTINGS, STAGES, descendants
from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.chapters import kernel_environment
from rlhf_utils.environment import DATA, ROOT, CourseError, rankings_url, runs_folder
from rlhf_utils.pipeline.stages import ensure, required
from rlhf_utils.profiles import PROFILES, load_profile
from rlhf_utils.ranking.store import own_store


@pytest.fixture
def copy(tiny, tmp_path, monkeypatch):
    """A Store with a copy of the tiny run that a test may damage."""
    shutil.copytree(tiny.root, tmp_path / "tiny")
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    return Store(load_profile("tiny", 0))


def write(store, stage="corpus", text="1"):
    with store.write(stage) as folder:
        (folder / "a.json").write_text(text)


def test_answers_with_other_line_separators_come_back_whole(tmp_path):
    rows = [{"answer": "a\u0085b\u2028c\x1cd\u2029e\r\nf"}, {"answer": "東京"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


def test_parents_come_before_their_children():
    order = list(PARENTS)
    for stage, parents in PARENTS.items():
        assert all(order.index(p) < order.index(stage) for p in parents)
    assert descendants("reward") == [
        "reward",
        "ppo",
        "ppo_ptx",
        "evaluate",
        "rejection",
        "reinforce",
        "ppo_no_value",
        "rloo",
        "grpo",
        "taste_reward",
        "taste_ppo",
        "taste_evaluate",
    ]
    assert descendants("dpo") == ["dpo"]  # nothing that is built by default


def test_a_failed_stage_leaves_the_old_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = Store(PROFILES["tiny"])
    write(store, text="old")
    with pytest.raises(ZeroDivisionError):
        with store.write("corpus") as folder:
            (folder / "a.json").write_text("new")
            raise ZeroDivisionError
    assert (store.folder("corpus") / "a.json").read_text() == "old"


def test_private_checkpoints_go_when_the_artifact_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = Store(PROFILES["tiny"])
    store.resume_folder("corpus").mkdir(parents=True)
    write(store)
    assert not store.resume_folder("corpus").exists()


def test_checkpoints_of_other_settings_are_dropped_and_a_lower_rate_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))

    def left(profile) -> bool:
        """Whether a checkpoint is still there when the stage begins; the stage then fails and leaves one."""
        store = Store(profile)
        with pytest.raises(ZeroDivisionError), store.write("corpus"):
            found = (store.resume_folder("corpus") / "update-20").exists()
            (store.resume_folder("corpus") / "update-20").mkdir(exist_ok=True)
            raise ZeroDivisionError
        return found

    monkeypatch.setitem(SETTINGS, "corpus", ("ppo_rate", "episodes"))
    profile = PROFILES["tiny"]
    assert not left(profile) and left(profile) and left(replace(profile, ppo_rate=1e-5))
    assert not left(replace(profile, episodes=8)) and left(replace(profile, episodes=8))


def test_pretraining_at_another_rate_begins_anew_since_its_checkpoints_keep_theirs(
    tiny, monkeypatch, tmp_path
):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    shutil.copytree(tiny.root, tmp_path / "tiny")
    for rate in (1e-3, 2e-3):
        store = Store(replace(tiny.profile, pretrain_rate=rate))
        with pytest.raises(ZeroDivisionError), store.write("pretrain"):
            assert not (store.resume_folder("pretrain") / "checkpoint-10").exists()
            (store.resume_folder("pretrain") / "checkpoint-10").mkdir()
            raise ZeroDivisionError


def test_what_an_artifact_is_made_from_is_what_was_there_when_it_was_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = Store(PROFILES["tiny"])
    write(store)
    with store.write("tokenizer"):
        write(store, text="another")
    assert store.stale("tokenizer", store.folder("tokenizer")) == "its corpus has changed"


def test_a_setting_that_is_newer_than_an_artifact_had_its_default(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = Store(PROFILES["tiny"])
    write(store)
    monkeypatch.setitem(SETTINGS, "corpus", (*SETTINGS["corpus"], "one_trunk"))
    assert store.find("corpus")
    with pytest.raises(CourseError, match="one_trunk was False, is True"):
        Store(replace(PROFILES["tiny"], one_trunk=True)).find("corpus")


def test_a_run_that_died_between_the_renames_is_recovered(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store = Store(PROFILES["tiny"])
    write(store)
    (store.root / "corpus").rename(store.root / ".corpus.old")
    assert store.find("corpus") is None
    with store.lock(wait=False):
        pass
    assert store.find("corpus")


def test_same_content_has_the_same_identity(tmp_path, monkeypatch):
    identities = []
    for name in ("a", "b"):
        monkeypatch.setenv("RLHF_RUNS", str(tmp_path / name))
        store = Store(PROFILES["tiny"])
        write(store)
        identities.append(store.manifest("corpus")["id"])
    assert identities[0] == identities[1]


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "truncated or edited"),
        (
            lambda f: (f / "config.json").write_text((f / "config.json").read_text() + " "),
            "truncated or edited",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "manifest.json").unlink(), "cannot be read"),
    ],
)
def test_damage_is_named_with_the_way_out(copy, harm, message):
    harm(copy.root / "sft")
    with pytest.raises(CourseError, match=message) as error:
        copy.find("sft")
    assert "--force sft" in str(error.value) and "sft" in str(error.value)


def test_an_artifact_of_another_profile_is_refused(copy):
    other = Store(replace(copy.profile, sft_rate=1e-5))
    with pytest.raises(CourseError, match="other settings: sft_rate"):
        other.find("sft")


def test_an_artifact_of_another_tokenizer_is_refused(copy):
    path = copy.root / "pretrain" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parents"]["tokenizer"] = "0" * 16
    path.write_text(json.dumps(manifest))
    with pytest.raises(CourseError, match="another tokenizer"):
        ensure("pretrain", copy.profile)


def test_a_newer_parent_means_building_anew(copy):
    with copy.write("sft") as folder:
        for file in (copy.root / "sft").iterdir():
            if file.name != "manifest.json":
                shutil.copy(file, folder)
        (folder / "note.json").write_text("{}")
    said = []
    ensure("reward", copy.profile, say=said.append)
    assert any("rank: to be rebuilt" in s for s in said) and any("reward: to be rebuilt" in s for s in said)


def test_finished_stages_are_not_built_again(copy):
    before = {s: (copy.root / s / "manifest.json").stat().st_mtime_ns for s in STAGES}
    ensure("evaluate", copy.profile)
    assert before == {s: (copy.root / s / "manifest.json").stat().st_mtime_ns for s in STAGES}


def test_a_notebook_waits_for_another_process_and_says_for_whom(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    store, said, entered = Store(PROFILES["tiny"]), [], threading.Event()

    def second():
        with Store(PROFILES["tiny"]).lock(wait=True, say=said.append):
            entered.set()

    with store.lock(wait=False):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
        with pytest.raises(CourseError, match="in use by process"):
            with Store(PROFILES["tiny"]).lock(wait=False):
                pass
    assert entered.wait(5)
    thread.join()
    assert f"process {os.getpid()}" in said[0]


def test_unknown_profile_and_stage(copy):
    with pytest.raises(CourseError, match="no profile 'huge'"):
        load_profile("huge")
    with pytest.raises(CourseError, match="no stage 'sfft'"):
        ensure("sfft", copy.profile)


def test_seeds_and_data_have_folders_of_their_own(tmp_path):
    names = {
        Store(p).root.name
        for p in (PROFILES["tiny"], replace(PROFILES["tiny"], seed=2), load_profile("tiny", 0, tmp_path))
    }
    place = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:6]
    assert names == {"tiny", "tiny-seed2", f"tiny-{tmp_path.name}-{place}"}


REFERENCE = DATA / "reference" / "laptop"


def test_relative_paths_in_variables_count_from_the_checkout_in_a_chapter(tmp_path, monkeypatch):
    """Whoever wrote `RLHF_RUNS=mine make lab` was in the checkout, and the kernels are in `chapters/`."""
    monkeypatch.setenv("RLHF_RUNS", "mine")
    monkeypatch.setenv("RLHF_DATA", "data/world")
    monkeypatch.setenv("RLHF_BASE", "data/ranking")
    monkeypatch.chdir(ROOT / "chapters" / "solutions")
    assert runs_folder() == ROOT / "mine"
    found = load_profile("tiny")
    assert (found.data, found.base) == (str(ROOT / "data" / "world"), str(ROOT / "data" / "ranking"))
    monkeypatch.setenv("RLHF_BASE", "openai-community/gpt2")
    assert load_profile("tiny").base == "openai-community/gpt2"  # a name on the Hub
    monkeypatch.setenv("RLHF_RANKINGS", "sqlite:///mine.sqlite")
    assert rankings_url() == f"sqlite:///{ROOT}/mine.sqlite"
    monkeypatch.chdir(tmp_path)
    assert runs_folder() == tmp_path.resolve() / "mine"
    assert rankings_url() == f"sqlite:///{tmp_path.resolve()}/mine.sqlite"
    for url in ("sqlite:////srv/r.sqlite", "postgresql+psycopg://ada@host/class", "sqlite:///:memory:"):
        monkeypatch.setenv("RLHF_RANKINGS", url)
        assert rankings_url() == url
    profile = PROFILES["tiny"]
    with kernel_environment(profile):  # a kernel, which starts in chapters/, finds the same folder
        assert os.environ["RLHF_RUNS"] == str(tmp_path.resolve() / "mine")
    with pytest.raises(CourseError, match="does not exist"):
        load_profile("tiny")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference artifacts in this checkout")
def test_reference_artifacts_are_small_sound_and_of_this_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    size = {f: f.stat().st_size for f in REFERENCE.rglob("*") if f.is_file()}
    example = sum(bytes_ for f, bytes_ in size.items() if f.parent.name.startswith("taste"))
    assert sum(size.values()) - example <= 12_000_000 and example <= 4_600_000
    store = Store(PROFILES["laptop"], reference=True)
    for stage in ("tokenizer", "pretrain", "sft", "rank", "reward", "ppo", "ppo_ptx", "evaluate"):
        assert store.find(stage) == REFERENCE / stage, stage
    assert {"rankings.jsonl.gz"} <= {f.name for f in store.folder("rank").iterdir()}
    assert len(store.rankings()) > 3000


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference artifacts in this checkout")
def test_the_corpus_that_the_reference_was_trained_on_comes_out_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    monkeypatch.setenv("RLHF_REFERENCE", "1")
    store = ensure("corpus", PROFILES["laptop"], say=lambda text: None)
    wanted = json.loads((REFERENCE / "tokenizer" / "manifest.json").read_text())["parents"]["corpus"]
    assert store.manifest("corpus")["id"] == wanted
    assert store.find("ppo_ptx") == REFERENCE / "ppo_ptx"


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference artifacts in this checkout")
def test_what_reference_models_lack_is_built_when_it_is_asked_for(tmp_path, monkeypatch):
    """A chapter opened first on a new machine: its models are there, their corpus is not."""
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    monkeypatch.setenv("RLHF_REFERENCE", "1")
    store = ensure("ppo_ptx", PROFILES["laptop"], say=lambda text: None)
    assert store.find("corpus") is None
    with pytest.raises(CourseError, match="Build it with: rlhf run --profile laptop --until corpus"):
        store.prompts("validation")
    store = ensure(("corpus", "tokens", "ppo_ptx"), PROFILES["laptop"], say=lambda text: None)
    assert store.prompts("validation") and len(store.windows("heldout"))
    # And nothing was trained.
    assert {f.name for f in store.root.iterdir() if f.is_dir()} == {"corpus", "tokens"}
    assert ensure("ppo_ptx", store.profile).find("ppo_ptx") == REFERENCE / "ppo_ptx"


@pytest.mark.parametrize("name", ["what? #1", "a%20b", "übung 1"])
def test_rankings_lie_in_a_folder_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / name))
    monkeypatch.delenv("RLHF_RANKINGS", raising=False)
    assert own_store().count() == 0
    assert (tmp_path / name / "rankings.sqlite").is_file()


def test_messages_name_the_run_that_they_are_about(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    profile = replace(PROFILES["tiny"], seed=3, lora=4, data=str(tmp_path / "my data"))
    with pytest.raises(CourseError) as raised:
        Store(profile, reference=False).folder("ppo")
    told = f"rlhf run --profile tiny --seed 3 --data '{tmp_path}/my data' --lora 4 --until ppo"
    assert told in str(raised.value)


# -- a class's runs beneath one's own ------------------------------------------------------------------------
@pytest.fixture
def shared(tiny, tmp_path, monkeypatch):
    """A student's Store over the class's runs, which are whole and read-only."""
    shutil.copytree(tiny.root, tmp_path / "class" / "tiny")
    monkeypatch.setenv("RLHF_SHARED", str(tmp_path / "class"))
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "ada"))
    return Store(PROFILES["tiny"], reference=False)


def state_of(folder):
    return {f.relative_to(folder): (f.stat().st_mtime_ns, f.stat().st_size) for f in folder.rglob("*")}


def test_students_start_from_the_shared_runs_and_write_only_their_own(shared):
    before = state_of(shared.shared)
    assert ensure("ppo", shared.profile).folder("sft") == shared.shared / "sft" and not shared.root.exists()
    mine = ensure("sft", replace(shared.profile, sft_rate=1e-3), say=lambda text: None)
    assert mine.folder("sft") == mine.root / "sft" and mine.folder("pretrain") == mine.shared / "pretrain"
    assert state_of(shared.shared) == before
    assert mine.find("rank") is None  # the class's rankings are of the class's SFT model
    # and what was made from them is of no use either, though it lies beside them
    assert mine.find("reward") is None and mine.find("ppo") is None and mine.find("evaluate") is None
    assert required(mine, ("ppo",), set()) >= {"rank", "reward"}


def test_what_is_built_may_be_read_by_whom_the_umask_lets(shared):
    store = ensure("tokens", replace(shared.profile, seed=3), say=lambda text: None)
    assert {f.stat().st_mode & 0o777 for f in store.folder("tokens").iterdir()} == {0o644}


def test_resetting_keeps_the_rankings(shared):
    from rlhf_utils.ranking.store import RankingStore

    rankings = RankingStore(f"sqlite:///{shared.root.parent / 'rankings.sqlite'}")
    ensure("sft", shared.profile, force="sft", say=lambda text: None)
    (shared.root / "notes.txt").write_text("mine")
    assert [f.name for f in shared.reset()] == ["sft"]
    assert (
        (shared.root / "notes.txt").read_text() == "mine"
        and (shared.root.parent / "rankings.sqlite").is_file()
        and rankings is not None
    )
    assert shared.folder("sft") == shared.shared / "sft"


def test_shared_runs_of_another_version_are_named_and_built_anew(shared, capsys):
    path = shared.shared / "tokenizer" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert shared.find("tokenizer") is None
    assert "The shared tokenizer cannot be used, so yours will be built." in capsys.readouterr().err
    # What lies in another layer is as good as before.
    laptop = shared.shared.parent / "laptop"
    shutil.copytree(shared.shared / "corpus", laptop / "corpus")
    assert Store(PROFILES["laptop"], reference=True).find("ppo_ptx") == REFERENCE / "ppo_ptx"


@pytest.mark.parametrize("kind", ["missing", "unreadable"])
def test_shared_runs_that_cannot_be_read_are_named(tmp_path, monkeypatch, kind):
    folder = tmp_path / "class"
    if kind == "unreadable":
        folder.mkdir()
        # Tests may run as root, who may read anything.
        monkeypatch.setattr("rlhf_utils.environment.os.access", lambda path, mode: False)
    monkeypatch.setenv("RLHF_SHARED", str(folder))
    with pytest.raises(CourseError, match="do not exist or cannot be read by you"):
        Store(PROFILES["tiny"])


def test_a_file_is_read_for_its_hash_once_until_it_changes(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(files, "file_hash", lambda path: read.append(path) or f"hash {len(read)}")
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert files.known_hash(path) == files.known_hash(path) == "hash 1"
    path.write_bytes(b"other")
    assert files.known_hash(path) == "hash 2" and len(read) == 2
