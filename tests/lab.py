"""A real JupyterLab in a real browser, for tests and benchmarks of what a person sees."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from conftest import free_port, missing

FOLDERS = (
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "JUPYTERLAB_SETTINGS_DIR",
    "JUPYTERLAB_WORKSPACES_DIR",
    "IPYTHONDIR",
)


def notebook(path: Path, *cells: str) -> Path:
    made = [
        {
            "cell_type": "code",
            "source": s,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "id": f"cell-{i}",
        }
        for i, s in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.write_text(
        json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})
    )
    return path


def chromium() -> str:
    """The browser's program; the test is skipped if there is none, or nothing that drives it."""
    if not find_spec("playwright"):
        missing("playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((p for p in map(shutil.which, names) if p), None) or missing("Chromium")


@contextmanager
def lab(folder: Path, **environment):
    """A JupyterLab over `folder` with settings of its own; yields a function that opens a notebook in a new
    page.
    """
    browser_path = chromium()
    from playwright.sync_api import sync_playwright

    private = folder / ".jupyter"
    for name in FOLDERS:
        (private / name).mkdir(parents=True)
    settings = private / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    port = free_port()
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=T",
            f"--ServerApp.root_dir={folder}",
            "--allow-root",
        ],
        env={**os.environ, **{n: str(private / n) for n in FOLDERS}, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_server(f"http://127.0.0.1:{port}/api/status?token=T")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path,
                headless=True,
                args=["--no-sandbox", "--disable-background-networking"],
            )

            def open_notebook(name: str):
                page = browser.new_page(viewport={"width": 1200, "height": 1000})
                page.goto(f"http://127.0.0.1:{port}/lab/tree/{name}?token=T")
                wait_idle(page)
                return page

            yield open_notebook
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for_server(url: str) -> None:
    for _ in range(240):
        try:
            return urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.25)
    raise TimeoutError(f"{url} does not answer")


def wait_idle(page) -> None:
    # Idle is announced twice; before the second time "Run All" may be lost.
    page.wait_for_selector(".jp-Notebook", timeout=60_000)
    page.wait_for_selector(".jp-NotebookPanel [data-status=idle]", timeout=60_000)
    page.wait_for_selector(".jp-StatusBar-TextItem:has-text('| Idle')", timeout=60_000)


def menu(page, *names: str) -> None:
    page.click(f".lm-MenuBar-item:has-text('{names[0]}')")
    for name in names[1:]:
        page.click(f".lm-Menu-item:has-text('{name}')")


def barriers(page, part: str, impacts: tuple[str, ...] = ()) -> list[str]:
    """What keeps somebody from reading or using a part of the page, by axe-core's rules: all, or of some
    impacts.
    """
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=part).response["violations"]
    found = [rule for rule in found if not impacts or rule["impact"] in impacts]
    return [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found]


def done(page) -> int:
    """How many items the widget says are done."""
    return int(page.locator(".rlhf-count").inner_text().split()[0])


def wait_done(page, count: int) -> None:
    page.wait_for_function(
        "n => document.querySelector('.rlhf-count')?.textContent.trim().split(/\\s+/)[0] === String(n)",
        arg=count,
        timeout=20_000,
    )


def submit_by_keys(page, keys: list[str]) -> None:
    """Type ranks and Enter, and wait for the next item."""
    step = page.get_attribute(".rlhf-ranking", "data-step")
    for key in (*keys, "Enter"):
        page.keyboard.press(key)
    page.wait_for_function(
        "step => document.querySelector('.rlhf-ranking').dataset.step !== step", arg=step, timeout=20_000
    )


def letters(page, selector: str = ".rlhf-card") -> list[str]:
    return [card.get_attribute("data-letter") for card in page.locator(selector).all()]


def lift(page, source: int, target: int, share: float, grip: str = ".rlhf-handle") -> None:
    """Take a card by its `grip` and hold it over a share of another card's height: below 0.3 before it, above
    0.7 after it, between: a tie.
    """
    handle, card = page.locator(grip).nth(source), page.locator(".rlhf-card").nth(target)
    handle.scroll_into_view_if_needed()
    start, end = handle.bounding_box(), card.bounding_box()
    page.mouse.move(start["x"] + 4, start["y"] + 4)
    page.mouse.down()
    page.mouse.move(end["x"] + 50, end["y"] + end["height"] * share, steps=12)


def drag(page, source: int, target: int, share: float, grip: str = ".rlhf-handle") -> None:
    """`lift` a card and drop it there."""
    lift(page, source, target, share, grip)
    page.mouse.up()
