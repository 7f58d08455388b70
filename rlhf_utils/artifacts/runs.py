"""Which folder of `runs/` belongs to a profile with its data, base and seed."""

import hashlib
from pathlib import Path

from rlhf_utils.artifacts.files import known_hash
from rlhf_utils.artifacts.manifest import read_manifest
from rlhf_utils.environment import runs_folder
from rlhf_utils.profiles import Profile


def own_data_digest(profile: Profile) -> dict:
    """Which files of own data a corpus was made from: their names and hashes."""
    if not profile.data:
        return {}
    files = (f for f in sorted(Path(profile.data).glob("*.*")) if f.suffix in (".txt", ".jsonl"))
    return {"data": {f.name: known_hash(f) for f in files if f.is_file()}}


def run_name(profile: Profile) -> str:
    """Profile, data, base and seed; folders of one name are told apart by letters for where they lie."""
    sources = [Path(source) for source in (profile.data, profile.base) if source]
    marks = [
        f"-{hashlib.sha256(str(p).encode()).hexdigest()[:6]}" if p.is_absolute() else "" for p in sources
    ]
    seed = f"-seed{profile.seed}" if profile.seed else ""
    name, older = profile.name, profile.name
    for path, mark in zip(sources, marks):
        name, older = f"{name}-{path.name}{mark}", f"{older}-{path.name}"
    is_older = not (runs_folder() / (name + seed)).exists() and made_from(
        runs_folder() / (older + seed), profile
    )
    return (older if is_older else name) + seed


def made_from(folder: Path, profile: Profile) -> bool:
    """Whether a run, which may be of the time before there were such letters, is of this data and base."""
    try:
        corpus, tokenizer = (read_manifest(folder / s)["settings"] for s in ("corpus", "tokenizer"))
    except ValueError:
        return False
    same_data = corpus.get("data") == own_data_digest(profile).get("data")
    return same_data and tokenizer.get("base", "") == profile.base
