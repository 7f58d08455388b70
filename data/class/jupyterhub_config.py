"""JupyterHub for a class of this course; chapter 12 says what to do before. As root, on the class's server:

    jupyterhub -f data/class/jupyterhub_config.py

On The Littlest JupyterHub, copy it into /opt/tljh/config/jupyterhub_config.d/ and reload the hub. Each
student is a user of the machine with a home that nobody else can read. They share this checkout and what
was built in its `runs/`, which they can read and not write; what they build goes into `runs/` of their own
home.
"""

import asyncio
import os
import pwd
import signal
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
# 0 withholds the exercises' solutions: in the checkout nobody but the owner may read chapters/solutions, nor
# .git, whose history has them, too. Set it before the first student logs in: each keeps a copy.
SOLUTIONS = os.environ.get("CLASS_SOLUTIONS", "1").lower() not in ("0", "no", "false")
GPU_FRACTION = os.environ.get("CLASS_GPU_FRACTION", "0.1")  # of one card, for each student who trains


def line_of(student: str) -> str:
    """A student's line of the file of passwords, HOST:PORT:DATABASE:NAME@DATABASE:PASSWORD, or nothing.

    The hub knows names in small letters only.
    """
    lines = PASSWORDS.read_text("utf-8").splitlines() if PASSWORDS.is_file() else []
    wanted = f"{student}@{make_url(RANKINGS).database}".lower()
    return next((line for line in reversed(lines) if name_in(line).lower() == wanted), "")


def name_in(line: str) -> str:
    """The name in a line of passwords; a host may hold colons, a name and a password hold none."""
    return line.rsplit(":", 2)[1] if line.count(":") >= 4 else ""


def run_as(user: pwd.struct_passwd, script: str, text: str = "", seconds: float = 30.0) -> str:
    """Run a shell's script as this user of the machine; returns what went wrong.

    What stands in a student's home is not to be trusted: a FIFO may block for ever, and a student may look at
    every process of theirs. So it gets nothing of the hub's environment, and is ended in time.
    """
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": user.pw_dir, "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        ["sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=user.pw_dir,
        umask=0o077,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        start_new_session=True,
    )
    try:
        process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"it took more than {seconds:.0f} seconds"
    return "" if process.returncode == 0 else f"exit status {process.returncode}"


# Each is written beside and renamed into place, over whatever stands there.
HOME = "chmod 700 ."
CHAPTERS = (
    'test -e chapters || { t=$(mktemp -d .chapters.XXXXXX) && for part in "%s"/*; do '
    'test ! -r "$part" || cp -r "$part" "$t" || exit 1; done && mv -T "$t" chapters; }'
)
PGPASS = 't=$(mktemp .pgpass.XXXXXX) && cat > "$t" && { test ! -d .pgpass || mv -T .pgpass "$t.old"; } && '
PGPASS += 'mv -fT "$t" .pgpass'


async def prepare(spawner) -> None:
    """Before a student's server starts: the chapters, where they have none yet, and their line for the
    database.

    Off the hub's loop, so that nobody waits for somebody else's home.
    """
    student = spawner.user.name  # in the list of students, and in the database
    name = student
    if generate_system_username:
        name = generate_system_username(f"jupyter-{student}")
        await asyncio.to_thread(ensure_user, name)
    user, line = pwd.getpwnam(name), line_of(student)
    url = make_url(RANKINGS)
    role = name_in(line) if line else f"{student}@{url.database}"
    url = url.set(username=role).render_as_string(hide_password=False)
    # Kernels talk through sockets in the student's home: to a TCP port, anyone on this machine could listen.
    # A socket's path is short, at most 107 letters.
    runtime = f"{user.pw_dir}/.runtime"
    spawner.environment = {**spawner.environment, "RLHF_RANKINGS": url, "JUPYTER_RUNTIME_DIR": runtime}
    todo = [(HOME, ""), (CHAPTERS % (COURSE / "chapters"), "")] + [(PGPASS, f"{line}\n")] * bool(line)
    for script, text in todo:
        try:
            wrong = await asyncio.to_thread(run_as, user, script, text)
        except OSError as error:  # a home that not even root may enter
            wrong = str(error)
        if wrong:  # their server starts all the same, or they could not mend it
            spawner.log.warning("Preparing the home of %s: %s (%s)", name, script, wrong)


os.umask(0o077)  # the hub's database and secrets, and what students make, are for their owners alone
solved = COURSE / "chapters" / "solutions"
for folder in (solved, COURSE / ".git"):
    if not SOLUTIONS and folder.is_dir() and folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
if SOLUTIONS and solved.is_dir() and not solved.stat().st_mode & 0o004:
    solved.chmod(0o755)
c = get_config()  # noqa: F821  (JupyterHub defines it)
if not generate_system_username:
    c.Spawner.cmd = [str(Path(sys.executable).with_name("jupyterhub-singleuser"))]
    c.JupyterHub.cleanup_servers = True
c.Spawner.default_url = "/lab/tree/chapters/00_start_here.ipynb"
c.Spawner.pre_spawn_hook = prepare
c.Spawner.args = ["--KernelManager.transport=ipc"]
c.Spawner.environment = {
    "RLHF_PROFILE": PROFILE,
    "RLHF_RUNS": "~/runs",
    "RLHF_SHARED": str(RUNS),
    "RLHF_GPU_FRACTION": GPU_FRACTION,
}
