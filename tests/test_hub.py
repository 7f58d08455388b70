"""A real JupyterHub with the class's configuration: three users of the machine, a browser, one
PostgreSQL, one shared `runs/`.
"""

import asyncio
import json
import os
import pwd
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, free_port, missing
from lab import chromium, done, letters, menu, notebook, wait_done, wait_for_server, wait_idle
from traitlets.config import Config

STUDENTS = ("rlhf-ada", "rlhf-bob", "rlhf-cleo")
CHAPTER = ROOT / "chapters" / "04_collect_rankings.ipynb"
CONFIG = ROOT / "data" / "class" / "jupyterhub_config.py"
PROXY = shutil.which("configurable-http-proxy") or str(
    ROOT / "node_modules" / ".bin" / "configurable-http-proxy"
)


@pytest.fixture(scope="module")
def folder():
    """A folder that all users can enter, as /srv is."""
    made = Path(tempfile.mkdtemp(prefix="rlhf-hub"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def students(folder):
    if os.getuid() != 0 or not shutil.which("useradd"):
        pytest.skip("only root can make users of the machine")
    (folder / "home").mkdir()
    for name in STUDENTS:
        subprocess.run(["userdel", name], capture_output=True)
        subprocess.run(
            ["useradd", "--create-home", "--home-dir", folder / "home" / name, "--shell", "/bin/bash", name],
            check=True,
            capture_output=True,
        )
    yield STUDENTS
    for name in STUDENTS:
        subprocess.run(["pkill", "-KILL", "-u", name], capture_output=True)
        subprocess.run(["userdel", name], capture_output=True)


@pytest.fixture(scope="module")
def python(students, folder) -> str:
    """This interpreter, or, where students may not enter its folder, the system's with the same packages."""
    if as_student(students[0], f"{sys.executable} -c ''").returncode == 0:
        return sys.executable
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin:/bin")
    if not system:
        missing(f"a Python 3.{sys.version_info.minor} that others than root may run")
    subprocess.run([system, "-m", "venv", "--without-pip", folder / "python"], check=True)
    packages = next(p for p in sys.path if p.endswith("site-packages"))
    next((folder / "python" / "lib").glob("*/site-packages")).joinpath("course.pth").write_text(
        f"{packages}\n{ROOT}\n"
    )
    for name in ("share", "etc"):  # where JupyterLab and its extensions are
        (folder / "python" / name).symlink_to(Path(sys.prefix) / name)
    return str(folder / "python" / "bin" / "python")


@pytest.fixture(scope="module")
def hub(python, students, folder, tiny, postgres):
    """The hub's address, the administrator's URL of the database, the hub's process, the proxy's address."""
    pytest.importorskip("jupyterhub")
    if not Path(PROXY).exists():
        missing("configurable-http-proxy")
    from rlhf_utils.artifacts.store import Store
    from rlhf_utils.pipeline.rank import items_to_rank
    from rlhf_utils.ranking.classroom import init_class, write_passwords

    shutil.copytree(tiny.root, folder / "class" / "tiny")
    admin = postgres.database()
    store = Store(tiny.profile, reference=False)
    store.root = folder / "class" / "tiny"  # what others read is not drawn into
    rows = items_to_rank(tiny.profile, store, tiny.prompts("ppo")[:12])
    write_passwords(admin, init_class(admin, students, rows, rankers=1, shared=3), folder / "passwords")
    ports = [free_port() for _ in range(3)]
    (folder / "config.py").write_text(
        f"exec(open({str(CONFIG)!r}).read())\n"
        "c.JupyterHub.authenticator_class = 'dummy'\nc.Authenticator.allow_all = "
        "True\nc.DummyAuthenticator.password = 'lesson'\n"
        f"c.JupyterHub.bind_url = 'http://127.0.0.1:{ports[0]}'\nc.JupyterHub.hub_port = "
        f"{ports[1]}\nc.JupyterHub.db_url = 'sqlite:///hub.sqlite'\n"
        f"c.ConfigurableHTTPProxy.command = [{PROXY!r}]\nc.ConfigurableHTTPProxy.api_url = "
        f"'http://127.0.0.1:{ports[2]}'\n"
        f"c.Spawner.http_timeout = c.Spawner.start_timeout = 60\nc.Spawner.cmd = [{python!r}, '-m', "
        "'jupyterhub.singleuser']\n"
    )
    log = open(folder / "log", "wb")
    url = postgres.url("", "", admin.rsplit("/", 1)[1]).replace("://:@", "://")
    environment = {
        "CLASS_COURSE": str(ROOT),
        "CLASS_RUNS": str(folder / "class"),
        "CLASS_RANKINGS": url,
        "CLASS_PASSWORDS": str(folder / "passwords"),
        "CLASS_PROFILE": "tiny",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterhub", "-f", folder / "config.py"],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_for_server(f"{address}/hub/health")
    except TimeoutError:
        pytest.fail((folder / "log").read_text()[-3000:])
    yield address, admin, process.pid, f"http://127.0.0.1:{ports[2]}/api/routes"
    process.terminate()
    process.wait(timeout=60)
    print((folder / "log").read_text()[-6000:])  # pytest shows it where the test failed


def read_configuration(config: Config) -> dict:
    """Its names. It narrows the process's umask, which is the hub's there and the suite's here."""
    mask = os.umask(0o077)
    try:
        return runpy.run_path(str(CONFIG), {"get_config": lambda: config})
    finally:
        os.umask(mask)


def wait_for_chapter(page, path: Path) -> None:
    """Until the last cell has run; if it does not, what the saved notebook says went wrong."""
    try:
        page.wait_for_function(
            "() => document.querySelector('.jp-Notebook').textContent.includes('Not done yet: tau_b(')",
            timeout=120_000,
        )
    except Exception:
        menu(page, "File", "Save Notebook")
        page.wait_for_timeout(2000)
        outputs = [
            o for cell in json.loads(path.read_text("utf-8"))["cells"] for o in cell.get("outputs", [])
        ]
        raise AssertionError(
            [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
        ) from None


def short_chapter(chapters: Path, name: str) -> str:
    """A notebook with the cells of chapter 04 that make the widget, in a student's folder; its name."""
    cells = {c["id"]: "".join(c["source"]) for c in json.loads(CHAPTER.read_text("utf-8"))["cells"]}
    made = notebook(chapters / "rank.ipynb", *(cells[i] for i in ("c04-01", "c04-03", "c04-09")))
    shutil.chown(made, name, name)
    return made.name


def as_student(name: str, command: str) -> subprocess.CompletedProcess:
    user = pwd.getpwnam(name)
    own = {"HOME": user.pw_dir, "USER": name, "PATH": os.environ["PATH"]}
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        errors="replace",
        env=own,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
    )


def test_the_littlest_jupyterhub_has_other_names_for_the_machines_users(students, folder, monkeypatch):
    """There `ada` is jupyter-ada (here: rlhf-ada), made at the first login; her password is looked up by her
    own name.
    """
    made = []
    monkeypatch.setitem(sys.modules, "tljh", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules,
        "tljh.normalize",
        SimpleNamespace(generate_system_username=lambda name: name.replace("jupyter-", "rlhf-")),
    )
    monkeypatch.setitem(sys.modules, "tljh.user", SimpleNamespace(ensure_user=made.append))
    (folder / "names").write_text("host:5432:course:bob@course:other\nhost:5432:course:Ada@course:secret\n")
    monkeypatch.setenv("CLASS_PASSWORDS", str(folder / "names"))
    monkeypatch.setenv("CLASS_COURSE", str(ROOT))
    config = Config()
    space = read_configuration(config)
    spawner = SimpleNamespace(user=SimpleNamespace(name="ada"), environment=dict(config.Spawner.environment))
    asyncio.run(space["prepare"](spawner))
    home = folder / "home" / "rlhf-ada"
    # Its own environment has the students' server.
    assert made == ["rlhf-ada"] and "cmd" not in config.Spawner
    assert (home / ".pgpass").read_text() == "host:5432:course:Ada@course:secret\n" and (
        home / ".pgpass"
    ).stat().st_mode & 0o777 == 0o600
    assert spawner.environment["RLHF_RANKINGS"] == "postgresql+psycopg://Ada%40course@localhost/course"
    shutil.rmtree(home / "chapters")


def prepared(folder, monkeypatch, password: str = "secret") -> tuple[dict, SimpleNamespace, list]:
    """The configuration as the hub reads it, a spawner of rlhf-ada's, and what it logs."""
    (folder / "lines").write_text(f"host:5432:course:rlhf-ada@course:{password}\n")
    monkeypatch.setenv("CLASS_PASSWORDS", str(folder / "lines"))
    monkeypatch.setenv("CLASS_COURSE", str(ROOT))
    said = []
    config = Config()
    space = read_configuration(config)
    spawner = SimpleNamespace(
        user=SimpleNamespace(name="rlhf-ada"),
        environment=dict(config.Spawner.environment),
        log=SimpleNamespace(warning=lambda *words: said.append(words)),
    )
    return space, spawner, said


@pytest.mark.parametrize("shown", [True, False])
def test_solutions_can_be_withheld(students, folder, monkeypatch, shown):
    course = folder / f"course-{shown}"
    shutil.copytree(ROOT / "chapters" / "solutions", course / "chapters" / "solutions")
    (course / "chapters" / "00_start_here.ipynb").write_text("{}")
    (course / ".git").mkdir()
    course.chmod(0o755)
    (course / ".git").chmod(0o755)
    (course / "chapters").chmod(0o755)
    space, spawner, said = prepared(folder, monkeypatch)
    monkeypatch.setenv("CLASS_COURSE", str(course))
    monkeypatch.setenv("CLASS_SOLUTIONS", "1" if shown else "0")
    space = read_configuration(Config())
    as_student("rlhf-ada", "cd; rm -rf chapters")
    asyncio.run(space["prepare"](spawner))
    home = folder / "home" / "rlhf-ada" / "chapters"
    assert not said and (home / "00_start_here.ipynb").read_text() == "{}"
    assert (home / "solutions").is_dir() == shown
    for hidden in ("chapters/solutions", ".git"):
        assert (as_student("rlhf-ada", f"ls {course}/{hidden}").returncode == 0) == shown
    as_student("rlhf-ada", "cd; rm -rf .pgpass* chapters")


HOMES = {
    "a FIFO as .pgpass": "mkfifo .pgpass",
    "a folder as .pgpass": "mkdir -p .pgpass/deep",
    "another's file behind .pgpass": "ln -s ../rlhf-bob/.bashrc .pgpass",
    "the machine's passwords behind .pgpass": "ln -s /etc/passwd .pgpass",
    "nothing behind .pgpass": "ln -s nowhere .pgpass",
    "a .pgpass that cannot be written": "touch .pgpass; chmod 000 .pgpass",
    "a FIFO as chapters": "mkfifo chapters",
    "nothing behind chapters": "ln -s nowhere chapters",
    "another's home behind chapters": "ln -s ../rlhf-bob chapters",
    "a file as chapters": "touch chapters",
    "a home that cannot be written": "chmod 500 .",
}


@pytest.mark.attack
@pytest.mark.parametrize("home", HOMES)
def test_what_stands_in_a_students_home_stops_nobody(students, folder, monkeypatch, home):
    """The hook ends soon, writes the student's line and nobody else's file."""
    place = folder / "home" / "rlhf-ada"
    assert as_student("rlhf-ada", f"cd; rm -rf .pgpass* chapters; {HOMES[home]}").returncode == 0
    before = {f: Path(f).read_bytes() for f in ("/etc/passwd", folder / "home" / "rlhf-bob" / ".bashrc")}
    space, spawner, said = prepared(folder, monkeypatch)
    started = time.monotonic()
    asyncio.run(space["prepare"](spawner))
    assert time.monotonic() - started < 20
    assert all(Path(f).read_bytes() == content for f, content in before.items())
    assert not any("pgpass" in str(words) for words in said)
    assert (place / ".pgpass").read_text() == "host:5432:course:rlhf-ada@course:secret\n"
    assert (place / ".pgpass").lstat().st_mode == 0o100600
    as_student("rlhf-ada", "cd; chmod 700 .; rm -rf .pgpass* chapters")


@pytest.mark.attack
def test_what_runs_as_a_student_knows_nothing_of_the_hub(students, folder, monkeypatch):
    """A student may read the environment of every process of theirs."""
    for name in ("JUPYTERHUB_CRYPT_KEY", "PGPASSWORD", "CONFIGPROXY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "the-hub's-secret")
    space, spawner, _ = prepared(folder, monkeypatch)
    assert space["run_as"](pwd.getpwnam("rlhf-ada"), "tr '\\0' '\\n' < /proc/$$/environ > seen") == ""
    seen = (folder / "home" / "rlhf-ada" / "seen").read_text()
    assert "HOME=" in seen and "secret" not in seen and "CLASS_" not in seen


@pytest.mark.attack
def test_what_hangs_as_a_student_is_ended(students, folder, monkeypatch):
    """With all that it has started."""
    space, _, _ = prepared(folder, monkeypatch)
    assert as_student("rlhf-ada", "cd; rm -f pipe; mkfifo pipe").returncode == 0
    assert "1 seconds" in space["run_as"](
        pwd.getpwnam("rlhf-ada"), "cat pipe | cat & wait", "text", seconds=1
    )
    time.sleep(0.5)
    left = as_student("rlhf-ada", "ps -u rlhf-ada -o stat=,comm=").stdout.splitlines()
    assert [line for line in left if "cat" in line and not line.startswith("Z")] == []


@pytest.mark.slow
@pytest.mark.attack
def test_three_users_rank_and_none_reaches_anothers_work(hub, students, folder, python):
    """Not each other's files, kernels, environment or rankings, nor the hub's secrets or the shared runs."""
    from playwright.sync_api import sync_playwright

    from rlhf_utils.ranking.store import RankingStore

    address, admin, pid, routes = hub
    browser_path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, headless=True, args=["--no-sandbox"]
        )
        for number, name in enumerate(students, 1):
            page = browser.new_context(viewport={"width": 1200, "height": 1000}).new_page()
            page.goto(f"{address}/hub/login")
            page.fill("#username_input", name)
            page.fill("#password_input", "lesson")
            page.click("#login_submit")
            page.wait_for_url(f"**/user/{name}/lab**", timeout=120_000)
            chapters = folder / "home" / name / "chapters"
            # The chapter as a whole for the first; for the others what shows the widget.
            opened = CHAPTER.name if number == 1 else short_chapter(chapters, name)
            page.goto(f"{address}/user/{name}/lab/tree/chapters/{opened}")
            wait_idle(page)
            menu(page, "Run", "Run All Cells")
            if number == 1:
                wait_for_chapter(page, chapters / opened)
            page.wait_for_selector(".rlhf-ranking", timeout=120_000)
            page.locator(".rlhf-ranking").scroll_into_view_if_needed()
            page.wait_for_selector(".rlhf-card", state="visible", timeout=60_000)
            page.locator(".rlhf-card").first.focus()
            for _ in range(number + 1):
                before = done(page)
                for n in range(len(letters(page))):
                    page.keyboard.press(str(n + 1))
                page.keyboard.press("Enter")
                wait_done(page, before + 1)
            if os.environ.get("RLHF_SHOTS"):
                page.screenshot(path=Path(os.environ["RLHF_SHOTS"]) / f"hub-{name}.png")
            page.context.close()
        browser.close()

    # Nobody can listen to another's kernel: its five channels are sockets in a home that others cannot enter.
    # The one port left takes the output of forked processes, with a secret.
    for name in students:
        files = list((folder / "home" / name / ".runtime").glob("kernel-*.json"))
        assert files and {json.loads(f.read_text())["transport"] for f in files} == {"ipc"}
    kernels = [p for p in psutil.process_iter() if p.username() in students and "-f" in p.cmdline()]
    assert len(kernels) == len(students)
    assert all(sum(c.status == "LISTEN" for c in p.net_connections("inet")) <= 1 for p in kernels)

    # The database has each one's rankings, and shows each only their own.
    rows = RankingStore(admin).latest()
    ranked = {name: [r for r in rows if r["ranker"] == name] for name in students}
    assert all(ranked.values()) and set(r["ranker"] for r in rows) == set(students)
    for name in students:
        names = "{r['ranker'] for r in RankingStore().latest()}"
        program = f"from rlhf_utils.ranking.store import RankingStore; print({names})"
        command = f'cd; RLHF_RANKINGS=$CLASS {python} -c "{program}"'
        result = as_student(name, command.replace("$CLASS", _url_of(name, folder)))
        assert result.stdout.strip() == f"{{'{name}'}}", result.stderr[-2000:]

    # Nobody writes the shared runs, the course, or another's files, or reads the latter or the passwords.
    for name, other in zip(students, (*students[1:], students[0])):
        home = folder / "home" / other
        for command in (
            f"touch {folder}/class/tiny/x",
            f"rm -rf {folder}/class/tiny/sft",
            f"touch {ROOT}/x",
            f"ls {home}",
            f"touch {home}/x",
            f"cat {home}/.pgpass",
            f"cat {folder}/passwords",
            f"cat {folder}/jupyterhub_cookie_secret",
            f"cat {folder}/hub.sqlite",
            f"cat /proc/{pid}/environ",
            f"kill -0 {pid}",
            f"pkill -KILL -u {other}",
            f"cat /proc/$(pgrep -u {other} | head -1)/environ",
            f"cat {home}/.runtime/*.json",
            f"{python} -c \"import urllib.request as u; u.urlopen('{address}/user/{other}/api/kernels')\"",
            f"{python} -c \"import urllib.request as u; u.urlopen('{address}/hub/api/users')\"",
            f"{python} -c \"import urllib.request as u; u.urlopen('{routes}')\"",
            f"echo x >> {folder}/class/tiny/sft/manifest.json",
            f"ln -s /etc/passwd {folder}/class/tiny/sft/x",
        ):
            assert as_student(name, command).returncode != 0, f"{name}: {command}"
        assert (folder / "class" / "tiny" / "sft" / "model.safetensors").is_file()
        assert as_student(name, "cd && touch x && ls chapters/04_collect_rankings.ipynb").returncode == 0


def _url_of(name: str, folder: Path) -> str:
    host, port, database, *_ = next(
        x for x in (folder / "passwords").read_text().splitlines() if f":{name}@" in x
    ).split(":")
    return f"postgresql+psycopg://{name}%40{database}@{host}:{port}/{database}"
