"""Foreign models that bring code, lie about themselves or reach outside; artifacts that were changed."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pretrained import hub_folder

from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError
from rlhf_utils.language.pretrained import base_folder, base_tokenizer, write_base
from rlhf_utils.pipeline.stages import ensure
from rlhf_utils.profiles import load_profile

pytestmark = pytest.mark.attack
RAN: list[str] = []


class Bomb:
    """Opened as a pickle, it says so."""

    def __reduce__(self):
        return RAN.append, ("a pickle was opened",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return hub_folder(tmp_path_factory.mktemp("hub") / "gpt2")


@pytest.fixture
def base(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "gpt2"))


def changed(name: str, **values):
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return harm


def weights(change):
    def harm(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return harm


def indexed(target: str):
    """Weights named by an index, the word embedding in `target`."""

    def harm(folder: Path) -> None:
        names = dict.fromkeys(load_file(folder / "model.safetensors"), "part.safetensors")
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        index = {"metadata": {}, "weight_map": names | {"wte.weight": target}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for place in (folder / "evil.bin", folder.parent / "evil.bin"):
            place.write_bytes(pickle.dumps(Bomb()))

    return harm


def written(name: str, content: bytes | str):
    def harm(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return harm


def both(*harms):
    return lambda folder: [harm(folder) for harm in harms]


def gone(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


BASES = {
    "code of its own": changed("config.json", auto_map={"AutoModel": "evil.Model"}),
    "another architecture": changed("config.json", model_type="llama"),
    "an architecture that is a number": changed("config.json", architectures=[5]),
    "no class": changed("config.json", architectures=[]),
    "a configuration that is a list": written("config.json", "[]"),
    "a configuration that is cut": written("config.json", '{"model_type": "gpt2"'),
    "a configuration in a configuration": written("config.json", '{"a":' * 100_000),
    "a configuration of other bytes": written("config.json", b"\xff\xfe"),
    "no configuration": gone("config.json"),
    "10^6 layers": changed("config.json", n_layer=1_000_000),
    "three layers": changed("config.json", n_layer=3),
    "one layer": changed("config.json", n_layer=1),
    "no layers": changed("config.json", n_layer=0),
    "layers that are a text": changed("config.json", n_layer="2"),
    "layers that are true": changed("config.json", n_layer=True),
    "10^12 weights": changed("config.json", n_embd=1_000_000),
    "another width": changed("config.json", n_embd=64),
    "a width that heads cannot share": changed("config.json", n_head=5),
    "no heads": changed("config.json", n_head=0),
    "10^9 words": changed("config.json", vocab_size=10**9),
    "fewer words": changed("config.json", vocab_size=100),
    "more positions than weights": changed("config.json", n_positions=512),
    "half a position": changed("config.json", n_positions=255.5),
    "positions below nought": changed("config.json", n_positions=-1),
    "a pickle alone": both(gone("model.safetensors"), written("pytorch_model.bin", pickle.dumps(Bomb()))),
    "a pickle under another name": written("model.safetensors", pickle.dumps(Bomb())),
    "an index to a pickle outside": indexed("../evil.bin"),
    "an index to a pickle": indexed("evil.bin"),
    "an index to a file outside": indexed("../part.safetensors"),
    "an index to an absolute path": indexed("/etc/passwd"),
    "an index to a number": indexed(5),
    "an index to nothing": indexed("nothing.safetensors"),
    "an index that is a list": both(indexed("evil.bin"), written("model.safetensors.index.json", "[1]")),
    "no weights": gone("model.safetensors"),
    "empty weights": written("model.safetensors", b""),
    "weights that are cut": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:5000]
    ),
    "a head of 10^18 bytes": written("model.safetensors", (10**18).to_bytes(8, "little") + b"{}"),
    "a head that is no JSON": written("model.safetensors", (4).to_bytes(8, "little") + b"{{{{" + b"0" * 64),
    "weights of other names": weights(lambda t: t.update({"x": t.pop("wte.weight")})),
    "weights that are not numbers": weights(lambda t: t["wte.weight"].fill_(float("nan"))),
    "endless weights": weights(lambda t: t["h.1.mlp.c_fc.bias"].fill_(float("inf"))),
    "an adapter beside the model": written("adapter_config.json", '{"peft_type": "LORA"}'),
    "no tokenizer": gone("tokenizer.json", "vocab.json", "merges.txt"),
    "a tokenizer that is cut": both(
        gone("vocab.json", "merges.txt"), written("tokenizer.json", '{"version": "1.0"')
    ),
    "a tokenizer that is a list": both(gone("vocab.json", "merges.txt"), written("tokenizer.json", "[]")),
    "a tokenizer with code": both(
        gone("tokenizer.json", "vocab.json", "merges.txt"),
        written("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
    ),
    "a tokenizer with words that the model lacks": lambda f: _more_words(f),
}


def _more_words(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"more{i}" for i in range(50)])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("attack", BASES)
def test_a_base_that_cannot_be_used(base, attack, tmp_path, monkeypatch):
    """Refused with the reason before anything is built; nothing that it brings is run."""
    (base / "evil.py").write_text("raise SystemExit('code was run')")
    BASES[attack](base)
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "runs"))
    profile = load_profile("tiny", 0, base=base)
    with pytest.raises(CourseError):
        folder = base_folder(profile)  # what `ensure` asks first
        write_base(folder, base_tokenizer(folder), tmp_path)  # and, of the numbers, when they are read
    assert RAN == []


def test_what_is_wrong_with_a_base_is_said_before_anything_is_built(base, tmp_path, monkeypatch):
    """A corpus takes minutes at a large profile."""
    BASES["10^6 layers"](base)
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "runs"))
    with pytest.raises(CourseError, match="n_layer"):
        ensure("pretrain", load_profile("tiny", 0, base=base))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
    ],
    ids=["that never ends", "that climbs out", "that includes a file", "that raises"],
)
def test_a_template_that_does_harm_is_no_form_of_conversations(base, template):
    """It is asked once, in a process of its own with ten seconds; then the course's own stands in."""
    (base / "chat_template.jinja").write_text(template)
    changed("tokenizer_config.json", chat_template=template)(base)
    tokenizer = base_tokenizer(base)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert "Question: Hi" in said


def test_a_template_in_a_run_of_somebody_elses_is_not_asked_either(store):
    """The course's own is set whatever lies in the folder."""
    from rlhf_utils.language.tokenizer import load_tokenizer, prompt_text

    folder = store.folder("tokenizer")
    (folder / "chat_template.jinja").write_text("EVIL {{ messages|length }}")
    assert "EVIL" not in prompt_text(load_tokenizer(folder), [{"role": "user", "content": "Hi"}])


def test_a_base_may_leave_out_what_is_usual(base):
    """GPT-2's own sizes, and a matrix that is input and output under one of its names."""
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("wte.weight")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert base_folder(load_profile("tiny", 0, base=base)) == base
    changed("config.json", n_layer=12)(base)
    config = json.loads((base / "config.json").read_text())
    del config["n_layer"]
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(CourseError, match="config.json says 12"):
        base_folder(load_profile("tiny", 0, base=base))


def test_links_to_files_of_a_cache_are_fine(base, tmp_path):
    """That is how the Hub's cache keeps a model."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for file in list(base.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(blobs / file.name)
    assert base_folder(load_profile("tiny", 0, base=base)) == base
    write_base(base, base_tokenizer(base), tmp_path)  # what the attacks above never come to
    assert (tmp_path / "model.safetensors").is_file()


# -- artifacts -----------------------------------------------------------------------------------------------
@pytest.fixture
def store(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny.root, tmp_path / "tiny")
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    return Store(tiny.profile)


def manifest(**values):
    return changed("manifest.json", **values)


def adapter(folder: Path) -> None:
    """An adapter that peft would apply to the model beside it."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder)
    get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


ARTIFACTS = {
    "a model that was cut": lambda f: (f / "model.safetensors").write_bytes(b"x" * 10),
    "a bit that was turned": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-1] + b"\x00"
    ),
    "a model of another stage": lambda f: shutil.copy(f.parent / "ppo" / "model.safetensors", f),
    "a stage for another": lambda f: [shutil.rmtree(f), shutil.copytree(f.parent / "ppo", f)],
    "an adapter beside the model": adapter,
    "a pickle beside the model": written("pytorch_model.bin", pickle.dumps(Bomb())),
    "a file in a folder beside the model": lambda f: [
        (f / "x").mkdir(),
        (f / "x" / "y.json").write_text("{}"),
    ],
    "a link to a folder beside the model": lambda f: (f / "x").symlink_to("/etc"),
    "a file outside": lambda f: manifest(
        files=json.loads((f / "manifest.json").read_text())["files"] | {"../../x": "0"}
    )(f),
    "an absolute path": lambda f: manifest(
        files=json.loads((f / "manifest.json").read_text())["files"] | {"/etc/passwd": "0"}
    )(f),
    "a hash that is a number": lambda f: manifest(
        files=json.loads((f / "manifest.json").read_text())["files"] | {"model.safetensors": 5}
    )(f),
    "a manifest without parents": lambda f: _without(f, "parents"),
    "a manifest without files": lambda f: _without(f, "files"),
    "a manifest without a name": lambda f: _without(f, "id"),
    "parents that are a list": manifest(parents=[]),
    "files that are a text": manifest(files="all"),
    "another version": manifest(format=2),
    "a version that is a text": manifest(format="1"),
    "another stage": manifest(stage="ppo"),
    "other settings": lambda f: manifest(
        settings=json.loads((f / "manifest.json").read_text())["settings"] | {"sft_rate": 1.0}
    )(f),
    "a manifest that is a list": written("manifest.json", "[]"),
    "a manifest in a manifest": written("manifest.json", '{"a":' * 100_000),
    "a manifest of other bytes": written("manifest.json", b"\xff"),
    "an empty manifest": written("manifest.json", ""),
    "a manifest that is a folder": lambda f: [(f / "manifest.json").unlink(), (f / "manifest.json").mkdir()],
}


def _without(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != name}))


@pytest.mark.parametrize("attack", ARTIFACTS)
def test_an_artifact_that_was_tampered_with(store, attack):
    """Refused by name, with the way out."""
    ARTIFACTS[attack](store.root / "sft")
    with pytest.raises(CourseError, match="--force sft"):
        store.model("sft")
    assert RAN == []


@pytest.mark.slow
def test_the_way_out_works_over_whatever_stands_there(store):
    """A stage behind a link is built anew twice, and what the link led to is as it was."""
    real = store.root.parent / "elsewhere"
    (store.root / "sft").rename(real)
    (store.root / "sft").symlink_to(real)
    before = {f: f.read_bytes() for f in real.iterdir()}
    for _ in range(2):
        ensure("sft", store.profile, force="sft", say=lambda text: None)
    assert before == {f: f.read_bytes() for f in real.iterdir()} and not (store.root / "sft").is_symlink()


def test_two_folders_of_one_name_have_a_run_each(tmp_path, monkeypatch):
    """Neither sees the other's models."""
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "runs"))
    roots = []
    for place in ("a", "b"):
        (tmp_path / place / "mine").mkdir(parents=True)
        roots.append(Store(load_profile("tiny", 0, tmp_path / place / "mine")).root)
    assert roots[0] != roots[1] and all("mine" in r.name for r in roots)


def test_a_run_of_before_there_were_letters_is_found(tmp_path, monkeypatch):
    """Under its older name, if it was made from these very data."""
    from rlhf_utils.artifacts.runs import own_data_digest

    monkeypatch.setenv("RLHF_RUNS", str(tmp_path / "runs"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prompts.jsonl").write_text("{}\n")
    profile = load_profile("tiny", 0, tmp_path / "mine")
    made = {"files": {}, "parents": {}, "id": "x", "format": 1}
    for stage, settings in (("corpus", own_data_digest(profile)), ("tokenizer", {"base": ""})):
        folder = tmp_path / "runs" / "tiny-mine" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(made | {"stage": stage, "settings": settings}))
    assert Store(profile).root.name == "tiny-mine"
    (tmp_path / "mine" / "prompts.jsonl").write_text('{"other": 1}\n')
    assert Store(profile).root.name != "tiny-mine"


def test_a_clock_that_jumps(monkeypatch, capsys):
    """Progress goes by a clock that nobody sets: a day forth or back changes nothing."""
    import time

    from rlhf_utils.artifacts.progress import Progress

    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    with Progress("work", 10) as progress:
        for day in (1, -30, 365):
            now[0] += 86_400 * day
            progress.step()
    assert "0 s" in capsys.readouterr().out


def test_a_lock_that_somebody_left(store):
    """The file alone locks nothing: whoever died holds no lock, and what they left behind is ignored."""
    (store.root / ".lock").write_text("")
    (store.root / ".holder.json").write_text('{"pid": 1, "host": "elsewhere", "since": "yesterday"}')
    with store.lock(wait=False):
        pass
    (store.root / ".holder.json").write_text("\x00")
    with store.lock(wait=False), pytest.raises(CourseError, match="in use by"):
        with Store(store.profile).lock(wait=False):
            pass


def test_weights_are_read_without_torchs_pickles(monkeypatch, store):
    """Nothing in a run is opened by `torch.load`."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load"))
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("pickle.load"))
    for name in ("sft", "reward", "ppo_ptx"):
        store.model(name)
