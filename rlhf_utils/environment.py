"""Where things lie, and what the environment asks for: the only module that reads it.

`RLHF_PROFILE` chooses the profile, `RLHF_RUNS` moves `runs/`, `RLHF_DATA` names a folder of your own
data, `RLHF_BASE` a pretrained model of your own, `RLHF_FROM=sft` takes it for the SFT model, `RLHF_LORA`
the rank of adapters to train,
`RLHF_SEED` the seed, `RLHF_SHARED` a `runs/` to read from beneath your own, `RLHF_REFERENCE=0` ignores
the models that come with the course, `RLHF_RANKINGS` is the URL of the database of rankings,
`RLHF_GPU_FRACTION` this process's share of a GPU, `RLHF_SHARE_OUT=1` has several processes share a model's
weights out even where they would fit, `JUPYTERHUB_USER` who ranks; `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and
`LOCAL_WORLD_SIZE` are set by `torchrun`. The course's own files are found from the checkout, never from the
working folder; a relative path in a variable counts from the working folder, in a chapter from the checkout.
"""

import getpass
import os
from pathlib import Path
from unicodedata import category
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


class CourseError(Exception):
    """Something the user can mend: the message says what was found, where, and what to do."""


# Marks that turn the direction of writing around hide what a text says.
TURNS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """A text for a terminal: control characters, which could move its cursor or name its window, are written
    out (an escape is \\x1b); tabs and line ends stay.
    """
    return "".join(
        c.encode("unicode_escape").decode() if (category(c) == "Cc" and c not in "\n\t") or c in TURNS else c
        for c in text
    )


def variable(name: str, default: str = "") -> str:
    """What the environment says; the default where it says nothing, or the empty text."""
    return os.environ.get(name) or default


def memory_is_tuned() -> bool:
    """Whether glibc's own variables say how memory is given back to the system."""
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    return any(map(variable, names)) or "malloc" in variable("GLIBC_TUNABLES")


def place(name: str, text: str | Path) -> Path:
    """A path that a person wrote, without `~` and links; `name` says where, for the error."""
    try:
        path = Path(text).expanduser().resolve()
        path.exists()  # raises for what no path can be
        return path
    except (RuntimeError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise CourseError(f"{name} is not a path here: {printable(str(text))[:100]!r} ({why}).") from None


def in_chapter() -> bool:
    """Whether this runs in the chapters' own folder, where whoever set a variable was not."""
    try:
        return Path.cwd().resolve().is_relative_to(ROOT / "chapters")
    except OSError:  # the working folder is gone
        return False


def path_variable(name: str) -> str:
    """A path that a variable names; a relative one counts from the checkout in a chapter."""
    text = variable(name)
    relative = text and not text.startswith("~") and not Path(text).is_absolute()
    return str(ROOT / text) if relative and in_chapter() else text


def runs_folder() -> Path:
    """`runs/` of the checkout, or `RLHF_RUNS`."""
    folder = place("RLHF_RUNS", path_variable("RLHF_RUNS") or ROOT / "runs")
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} (RLHF_RUNS) is a file. Name a folder, which need not exist yet.")
    return folder


def whole_number(name: str, default: str) -> int:
    text = variable(name, default)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise CourseError(f"{name} must be a whole number, 0 or more, not {printable(text)[:40]!r}.")
    return int(text)


def process() -> tuple[int, int]:
    """This process's number and how many there are, as `torchrun` says."""
    number, count = whole_number("RANK", "0"), whole_number("WORLD_SIZE", "1")
    alone = [v for v in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not variable(v)] if count > 1 else []
    if number >= max(count, 1) or alone:
        raise CourseError(
            f"RANK is {number} and WORLD_SIZE {count}"
            + (f", but {', '.join(alone)} is not set" if alone else "")
            + ". Unset both, or start several processes: torchrun --nproc_per_node 2 -m rlhf_utils.course.cli"
        )
    return number, count


def local_process() -> int:
    """This process's number among those on this machine."""
    return whole_number("LOCAL_RANK", "0")


def local_processes() -> int:
    """How many processes there are on this machine."""
    return max(whole_number("LOCAL_WORLD_SIZE", str(process()[1])), 1)


def gpu_fraction() -> float:
    """`RLHF_GPU_FRACTION`: how much of a shared GPU's memory this process may take, 1 by default."""
    text = variable("RLHF_GPU_FRACTION", "1")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise CourseError(
            "RLHF_GPU_FRACTION is a share of the GPU's memory, above 0 and up to 1 (0.1 for a tenth), not "
            f"{text!r}."
        )
    return share


def share_out_always() -> bool:
    """`RLHF_SHARE_OUT=1`: weights are shared out among processes even where they would fit."""
    return variable("RLHF_SHARE_OUT", "0") != "0"


def shared_runs() -> Path | None:
    """`RLHF_SHARED`: a `runs/` that somebody else made, a class's for example, to read from and never
    to write to.
    """
    text = path_variable("RLHF_SHARED")
    if not text:
        return None
    folder = place("RLHF_SHARED", text)
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise CourseError(
            f"The shared runs in {folder} (RLHF_SHARED) do not exist or cannot be read by you. Ask whoever "
            "set up the class."
        )
    return folder


def rankings_url() -> str:
    """Where people's rankings are kept: `RLHF_RANKINGS`, or one SQLite file in `runs/`."""
    text = variable("RLHF_RANKINGS")
    if not text:
        return sqlite_url(runs_folder() / "rankings.sqlite")
    file = text.removeprefix("sqlite:///")
    path = file.partition("?")[0]
    if file in (text, "") or path == ":memory:" or path.startswith("file:") or Path(path).is_absolute():
        return text
    # A file that lies in the chapters' folder, where it once went from there, is still used.
    from_here = not in_chapter() or Path(path).is_file()
    return f"{sqlite_url(Path.cwd() if from_here else ROOT)}/{file}"


def sqlite_url(path: Path) -> str:
    """The address of a SQLite file, whatever characters its name has."""
    return "sqlite:///" + quote(str(path), safe="/:\\ +")


def ranker_name() -> str:
    """Who ranks: the user of a JupyterHub, or of this machine."""
    try:
        return variable("JUPYTERHUB_USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user, who has no entry
        return "me"


def use_reference() -> bool:
    """Whether the models that come with the course may stand in for missing artifacts."""
    return variable("RLHF_REFERENCE", "1") != "0"
