"""Reading and writing the files of artifacts."""

import gzip
import hashlib
import json
import os
import shutil
import stat
import sys
import zlib
from codecs import BOM_UTF8 as BOM
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TextIO

import psutil
from filelock import FileLock, Timeout

from rlhf_utils.environment import CourseError

LARGEST = 512 * 2**20  # bytes of a file that somebody else wrote, unpacked
LONGEST = 16 * 2**20  # bytes of one of its lines


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


def open_plain(path: Path) -> BinaryIO:
    """A regular file, unpacked if it is gzipped; a CourseError that says why it cannot be read."""
    try:
        # Of a FIFO one would wait for a writer, perhaps for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CourseError(f"{path} is not a regular file. Copy its contents into one.")
        file = open(path, "rb")
        return gzip.open(file) if file.peek(2)[:2] == b"\x1f\x8b" else file
    except FileNotFoundError:
        raise CourseError(f"{path}: there is no such file.") from None
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a text file, gzipped or not, without a byte-order mark and their ends.

    They end at a line feed alone: a text may hold U+0085 or U+2028, at which `splitlines` splits it, too. Of
    a line longer than `LONGEST` bytes only the beginning comes; a file of more than `LARGEST` is refused,
    however small it was packed.
    """
    seen, first = 0, True
    try:
        with open_plain(path) as file:
            while line := file.readline(LONGEST):
                rest = line
                while not rest.endswith(b"\n") and len(rest) == LONGEST:
                    rest = file.readline(LONGEST)
                    seen += len(rest)
                    _check_size(seen, path)
                seen += len(line)
                _check_size(seen, path)
                yield line.removeprefix(BOM * first).rstrip(b"\r\n")
                first = False
    except (OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def text_of(path: Path) -> str:
    """A whole text file, gzipped or not, with line feeds alone; a CourseError if it is too large or none."""
    try:
        with open_plain(path) as file:
            data = file.read(LARGEST + 1)
        _check_size(len(data), path)
        return data.removeprefix(BOM).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CourseError(f"{path}:{line}: not UTF-8 (byte {error.start}). Convert it first.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _check_size(seen: int, path: Path) -> None:
    if seen > LARGEST:
        raise CourseError(
            f"{path} has more than {LARGEST / 2**20:,.0f} MB of text. Use only a part of it: a run reads "
            "some 15 MB."
        )


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a JSONL file, or of the same file gzipped (`path.gz`), as the reference artifacts have it."""
    found = path if path.exists() else path.with_name(f"{path.name}.gz")
    return [json.loads(line.decode("utf-8")) for line in lines_of(found) if line]


def remove(folder: Path) -> None:
    """A folder with all that is in it; of a link, or a file, itself alone. It need not be there."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)


def write_whole(path: Path, write: Callable[[TextIO], object]) -> None:
    """Write a file beside and rename it into place: it is there whole, or as it was before."""
    if path.exists() and not path.is_file():  # /dev/stdout, or a pipe
        with open(path, "w", encoding="utf-8") as file:
            write(file)
        return
    beside = path.with_name(f".{path.name}.new")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            write(file)
        if path.is_file() and not path.is_symlink():
            beside.chmod(path.stat().st_mode & 0o777)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_jsonl(path: Path, rows) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, lambda file: file.writelines(lines))


def written_once(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which `make` writes beside its place if it is not there; another process that is at it is
    waited for.
    """
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"Waiting for another process, which is making {target} …", flush=True)
            lock.acquire()
        try:
            if not target.is_dir():
                beside = target.with_name(f"{target.name}.partial")
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir()
                make(beside)
                beside.rename(target)
        finally:
            lock.release()
    return target
