"""Where things lie, and what the environment asks for: the only module that reads it.

`RLHF_PROFILE` chooses the profile, `RLHF_RUNS` moves `runs/`, `RLHF_DATA` names a folder of your own
data, `RLHF_BASE` a pretrained GPT-2 of your own, `RLHF_LORA` the rank of adapters to train,
`RLHF_SEED` the seed, `RLHF_SHARED` a `runs/` to read from beneath your own, `RLHF_REFERENCE=0` ignores
the models that come with the course, `RLHF_RANKINGS` is the URL of the database of rankings,
`RLHF_GPU_FRACTION` this process's share of a GPU, `JUPYTERHUB_USER` who ranks; `RANK`, `WORLD_SIZE` and
`LOCAL_RANK` are set by `accelerate launch`. All paths are found from the checkout, never from the working
folder.
"""

import getpass
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


class CourseError(Exception):
    """Something the user can mend: the message says what was found, where, and what to do."""


def variable(name: str, default: str = "") -> str:
    """What the environment says; the default where it says nothing, or the empty text."""
    return os.environ.get(name) or default


def runs_folder() -> Path:
    """`runs/` of the checkout, or `RLHF_RUNS`."""
    return Path(variable("RLHF_RUNS") or ROOT / "runs").expanduser().resolve()


def process() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` says."""
    return int(variable("RANK", "0")), int(variable("WORLD_SIZE", "1"))


def local_process() -> int:
    """This process's number among those on this machine."""
    return int(variable("LOCAL_RANK", "0"))


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


def shared_runs() -> Path | None:
    """`RLHF_SHARED`: a `runs/` that somebody else made, a class's for example, to read from and never
    to write to.
    """
    text = variable("RLHF_SHARED")
    if not text:
        return None
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise CourseError(
            f"The shared runs in {folder} (RLHF_SHARED) do not exist or cannot be read by you. Ask whoever "
            "set up the class."
        )
    return folder


def rankings_url() -> str:
    """Where people's rankings are kept: `RLHF_RANKINGS`, or one SQLite file in `runs/`."""
    return variable("RLHF_RANKINGS") or f"sqlite:///{runs_folder() / 'rankings.sqlite'}"


def ranker_name() -> str:
    """Who ranks: the user of a JupyterHub, or of this machine."""
    return variable("JUPYTERHUB_USER") or getpass.getuser()


def use_reference() -> bool:
    """Whether the models that come with the course may stand in for missing artifacts."""
    return variable("RLHF_REFERENCE", "1") != "0"
