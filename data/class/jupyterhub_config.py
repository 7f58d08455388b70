"""JupyterHub for a class of this course; chapter 11 says what to do before. As root, on the class's server:

    jupyterhub -f data/class/jupyterhub_config.py

On The Littlest JupyterHub, copy it into /opt/tljh/config/jupyterhub_config.d/ and reload the hub. Each
student is a user of the machine with a home that nobody else can read. They share this checkout and what
was built in its `runs/`, which they can read and not write; what they build goes into `runs/` of their own
home.
"""

import os
import pwd
import subprocess
import sys
from pathlib import Path

from sqlalchemy import make_url

# The Littlest JupyterHub runs students in an environment of its own, and makes their users at the first login
try:
    from tljh.normalize import generate_system_username
    from tljh.user import ensure_user
except ImportError:
    generate_system_username = None

# The checkout; a file copied elsewhere has no other way to know.
COURSE = Path(os.environ.get("CLASS_COURSE", "/srv/course"))
# What you built before the lesson, with `rlhf run`.
RUNS = Path(os.environ.get("CLASS_RUNS", COURSE / "runs"))
# As `rlhf class init` prints it.
RANKINGS = os.environ.get("CLASS_RANKINGS", "postgresql+psycopg://localhost/course")
# What it wrote; for root's eyes only.
PASSWORDS = Path(os.environ.get("CLASS_PASSWORDS", COURSE / "class_passwords.txt"))
PROFILE = os.environ.get("CLASS_PROFILE", "laptop")
GPU_FRACTION = os.environ.get("CLASS_GPU_FRACTION", "0.1")  # of one card, for each student who trains


def prepare(spawner) -> None:
    """Before a student's server starts: the chapters, where they have none yet, and their line for the
    database.
    """
    student = spawner.user.name  # in the list of students, and in the database
    name = student
    if generate_system_username:
        name = generate_system_username(f"jupyter-{student}")
        ensure_user(name)
    user = pwd.getpwnam(name)
    own_url = make_url(RANKINGS).set(username=student).render_as_string(hide_password=False)
    spawner.environment = {**spawner.environment, "RLHF_RANKINGS": own_url}

    def as_student(*command: str, text: str = "") -> None:
        subprocess.run(
            command,
            input=text,
            text=True,
            check=True,
            cwd=user.pw_dir,
            umask=0o077,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
        )

    as_student("chmod", "700", user.pw_dir)
    if not (Path(user.pw_dir) / "chapters").exists():
        as_student("cp", "-r", str(COURSE / "chapters"), "chapters")
    lines = PASSWORDS.read_text("utf-8").splitlines() if PASSWORDS.is_file() else []
    own = [line for line in lines if line.split(":")[3] == student]
    if own:
        as_student("sh", "-c", "cat > .pgpass", text=own[-1] + "\n")


c = get_config()  # noqa: F821  (JupyterHub defines it)
if not generate_system_username:
    c.Spawner.cmd = [str(Path(sys.executable).with_name("jupyterhub-singleuser"))]
    c.JupyterHub.cleanup_servers = True
c.Spawner.default_url = "/lab/tree/chapters/00_start_here.ipynb"
c.Spawner.pre_spawn_hook = prepare
c.Spawner.environment = {
    "RLHF_PROFILE": PROFILE,
    "RLHF_RUNS": "~/runs",
    "RLHF_SHARED": str(RUNS),
    "RLHF_GPU_FRACTION": GPU_FRACTION,
}
