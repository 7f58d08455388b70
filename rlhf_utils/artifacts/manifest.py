"""What an artifact says of itself, `manifest.json`, and whether its files are the ones that it lists."""

import json
from pathlib import Path

from rlhf_utils.artifacts.files import known_hash

FORMAT = 1


def read_manifest(folder: Path) -> dict:
    """The manifest of an artifact. Raises ValueError with the reason if it is none."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'manifest.json'} cannot be read ({type(error).__name__}).") from None
    kinds = {"files": dict, "settings": dict, "parents": dict, "id": str, "stage": str, "format": int}
    for name, kind in kinds.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise ValueError(f"{folder / 'manifest.json'} cannot be read (`{name}` is missing).")
    return manifest


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Raise ValueError unless just these files, by name and SHA-256, lie in the folder.

    What was put there beside them might be read, too: transformers applies any adapter that it finds.
    """
    found = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir() or f.is_symlink()}
    more = sorted(f for f in found - set(files) - {"manifest.json"} if not f.startswith("."))
    if more:
        raise ValueError(f"{folder / more[0]} was not written by the run: remove it.")
    for name, digest in files.items():
        path = folder / name
        if name not in found or not path.is_file():
            raise ValueError(f"{path} is missing.")
        if known_hash(path) != digest:
            raise ValueError(f"{path} is not what the run wrote: it was truncated or edited.")
