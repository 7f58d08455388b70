"""JupyterHub for a class of this course; chapter 11 says what to do before. As root, on the class's server:

    jupyterhub -f data/class/jupyterhub_config.py

On The Littlest JupyterHub, copy it into /opt/tljh/config/jupyterhub_config.d/ and reload the hub. Each student is a
user of the machine with a home that nobody else can read. They share this checkout and what was built in its
`runs/`, which they can read and not write; what they build goes into `runs/` of their own home.
"""

import os
import pwd
import subprocess
import sys
from pathlib import Path

COURSE = Path(os.environ.get("CLASS_COURSE", "/srv/course"))  # the checkout; a file copied elsewhere has no other way to know
RUNS = Path(os.environ.get("CLASS_RUNS", COURSE / "runs"))  # what you built before the lesson, with `rlhf run`
RANKINGS = os.environ.get("CLASS_RANKINGS", "postgresql+psycopg://localhost/course")  # as `rlhf class init` prints it
PASSWORDS = Path(os.environ.get("CLASS_PASSWORDS", COURSE / "class_passwords.txt"))  # what it wrote; for root's eyes only
PROFILE = os.environ.get("CLASS_PROFILE", "laptop")
GPU_FRACTION = os.environ.get("CLASS_GPU_FRACTION", "0.1")  # of one card, for each student who trains


def prepare(spawner) -> None:
    """Before a student's server starts: the chapters, where they have none yet, and their line for the database."""
    user = pwd.getpwnam(spawner.user.name)

    def as_student(*command: str, text: str = "") -> None:
        subprocess.run(command, input=text, text=True, check=True, cwd=user.pw_dir, umask=0o077, user=user.pw_uid, group=user.pw_gid, extra_groups=[])

    as_student("chmod", "700", user.pw_dir)
    if not (Path(user.pw_dir) / "chapters").exists():  # with nbgitpuller they are there already
        as_student("cp", "-r", str(COURSE / "chapters"), "chapters")
    lines = PASSWORDS.read_text("utf-8").splitlines() if PASSWORDS.is_file() else []
    own = [line for line in lines if line.split(":")[3] == user.pw_name]
    if own:
        as_student("sh", "-c", "cat > .pgpass", text=own[-1] + "\n")


c = get_config()  # noqa: F821  (JupyterHub defines it)
c.Spawner.cmd = [str(Path(sys.executable).with_name("jupyterhub-singleuser"))]
c.Spawner.default_url = "/lab/tree/chapters/00_start_here.ipynb"
c.Spawner.pre_spawn_hook = prepare
c.Spawner.environment = {
    "RLHF_PROFILE": PROFILE, "RLHF_RUNS": "~/runs", "RLHF_SHARED": str(RUNS), "RLHF_RANKINGS": RANKINGS, "RLHF_GPU_FRACTION": GPU_FRACTION,
}  # fmt: skip
c.JupyterHub.cleanup_servers = True
