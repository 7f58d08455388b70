"""Fixtures: a world, a judge, one tiny run that many tests read, and a PostgreSQL server of one's own."""

import gc
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
os.environ["RLHF_REFERENCE"] = "0"
# On the CPU also where there is a GPU: tests make models of their own there, and want the same bits from the
# same seed. On a GPU one tries `rlhf course --profile tiny` and `tests/benchmarks/gpu.py`.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Begun first, so that none of them is left over for one worker while the others have nothing to do.
LONGEST = (
    "test_learning.py",
    "test_claims.py",
    "test_hub.py",
    "11_a_real_language_model.ipynb",
    "test_cli.py",
    "test_browser_live.py",
    "test_processes.py",
    "test_browser.py",
    "test_hub_server.py",
    "test_resume.py",
    "test_site.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(n) if (n := item.path.name) in LONGEST else len(LONGEST))


def pytest_collection_finish():
    """What the tests have imported stays, and a collection of garbage need not look through it again: a
    trainer asks for one after each run, and it took a third of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def world():
    from rlhf_utils.world.facts import load_world

    return load_world()


@pytest.fixture(scope="session")
def judge(world):
    from rlhf_utils.world.judge import Judge

    return Judge(world)


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory):
    """The folder of a whole tiny run, one for all of pytest's workers; never write into it."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "runs"


@pytest.fixture(scope="session")
def tiny(tiny_runs):
    """The Store of a whole tiny run, which the first that asks builds."""
    from rlhf_utils.pipeline.stages import ensure
    from rlhf_utils.profiles import load_profile

    with FileLock(tiny_runs.with_suffix(".lock")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_RUNS", str(tiny_runs))
        return ensure("evaluate", load_profile("tiny", 0), say=lambda text: None)


@pytest.fixture
def rlhf(tmp_path, monkeypatch):
    """Run the command line: `rlhf("run", "--until", "sft", runs=folder)`.

    In this process, since to load torch anew takes longer than most commands; `rlhf_process` is for what
    needs one of its own.
    """
    from rlhf_utils.course.cli import main

    def call(*words, runs=tmp_path, check=None, **environment):
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(tmp_path)
            for name, value in ({"RLHF_RUNS": str(runs), "RLHF_PROFILE": "tiny"} | environment).items():
                patch.setenv(name, value)
            try:
                status = main(list(map(str, words)))
            except SystemExit as error:  # from argparse
                status = error.code
        if check is not None:
            assert status == check, err.getvalue()[-2000:]
        return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())

    return call


@pytest.fixture
def rlhf_process(tmp_path):
    """The same in another process."""

    def call(*words, runs=tmp_path, check=None, **environment):
        result = subprocess.run(
            [sys.executable, "-m", "rlhf_utils.course.cli", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "RLHF_RUNS": str(runs), "RLHF_PROFILE": "tiny", **environment},
        )
        if check is not None:
            assert result.returncode == check, result.stderr[-2000:]
        return result

    return call


def to_rank(count: int) -> list[dict]:
    """Prompts with three answers each, as a queue of rankings takes them."""
    return [
        {
            "id": f"p{i}",
            "messages": [{"role": "user", "content": f"Question {i}?"}],
            "answers": [f"one {i}", f"two {i}", f"three {i}"],
            "models": ["sft", "ppo", "sft"],
        }
        for i in range(count)
    ]


def missing(what: str) -> None:
    """Skip a test that needs a program, but fail in CI, which installs it."""
    if os.environ.get("RLHF_REQUIRE_ALL"):
        pytest.fail(f"{what} is missing, and RLHF_REQUIRE_ALL is set.")
    pytest.skip(f"{what} is missing")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PostgreSQL:
    """A private server in a folder of its own; as root it runs as the user `postgres`,
    who may not be root.
    """

    def __init__(self):
        found = shutil.which("initdb") or next(
            iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
        )
        if not found:
            missing("PostgreSQL (initdb)")
        self.bin = Path(found).resolve().parent
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="pg"))
        password = self.folder / "password"
        password.write_text("course")
        if self.user:
            shutil.chown(self.folder, "postgres", "postgres")
            shutil.chown(password, "postgres")
        subprocess.run(
            [
                self.bin / "initdb",
                "-D",
                self.folder / "data",
                "-U",
                "postgres",
                "-A",
                "scram-sha-256",
                f"--pwfile={password}",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self.user,
        )
        self.port, self.process = free_port(), None
        self.start()

    def start(self) -> None:
        import psycopg

        command = [
            self.bin / "postgres",
            "-D",
            "data",
            "-p",
            str(self.port),
            "-k",
            str(self.folder),
            "-c",
            "listen_addresses=127.0.0.1",
            # Tests kill the server, never the machine: what was written outlives it in the system cache. With
            # fsync, recovery first flushes every file, more than 20 s on a busy disk.
            "-c",
            "fsync=off",
        ]
        end = time.monotonic() + 120
        while time.monotonic() < end:
            # After a kill, old backends may still hold its memory.
            if self.process is None or self.process.poll() is not None:
                log = open(self.folder / "log", "ab")
                self.process = subprocess.Popen(
                    command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True, **self.user
                )
            try:
                return psycopg.connect(
                    self.url("postgres", "course", "postgres", driver=""), connect_timeout=2
                ).close()
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def url(self, user: str, password: str, database: str, driver: str = "+psycopg") -> str:
        return f"postgresql{driver}://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The administrator's URL of a new, empty database."""
        import psycopg

        name = f"class{time.monotonic_ns()}"
        with psycopg.connect(
            self.url("postgres", "course", "postgres", driver=""), autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url("postgres", "course", name)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres():
    pytest.importorskip("psycopg")
    server = PostgreSQL()
    yield server
    server.stop()
