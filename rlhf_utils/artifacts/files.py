"""Reading and writing the files of artifacts."""

import gzip
import hashlib
import json
import sys
from functools import lru_cache
from pathlib import Path

import psutil


def known_hash(path: Path) -> str:
    """The SHA-256 of a file, worked out anew only when it has changed: stages are checked often."""
    state = path.stat()
    return _hash_of(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=4096)
def _hash_of(path: Path, *state: int) -> str:
    return file_hash(path)


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def peak_memory() -> float:
    """Peak resident memory of this process so far, in MB."""
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSONL file, or of the same file gzipped (`path.gz`), as the reference artifacts have it.

    Lines end at a line feed alone: a model's answer may hold U+0085 or U+2028, at which `splitlines` would
    split a string, too.
    """
    if path.exists():
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    return [
        json.loads(line)
        for line in gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()).splitlines()
    ]


def write_jsonl(path: Path, rows) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
