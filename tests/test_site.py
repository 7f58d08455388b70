"""The course as a static book: it builds without a network, leads nowhere wrong, and is alive."""

import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from lab import barriers, chromium

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("index.html", "chapters/02_pretrain_a_gpt2.html", "docs/glossary.html")


def build(folder: Path, **environment) -> None:
    """The site, in a process that no network answers."""
    nowhere = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    made = subprocess.run(
        [sys.executable, "docs/site.py", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | nowhere | environment,
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "book"
    build(folder)
    return folder


def pages(site: Path) -> list[Path]:
    return [p for p in site.rglob("*.html") if "_static" not in p.parts]


def test_every_link_leads_somewhere_and_every_picture_has_words(site):
    lost, wordless = [], []
    names = {p: set(re.findall(r'\bid="([^"]+)"', p.read_text("utf-8"))) for p in pages(site)}
    for page in names:
        html = page.read_text("utf-8")
        for link in re.findall(r'(?:href|src)="([^"]+)"', html):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchors = names.get(target, {parts.fragment})
            if not target.exists() or (parts.fragment and parts.fragment not in anchors):
                lost.append(f"{page.name}: {link}")
        pictures = re.findall(r"<img[^>]*>", html)
        wordless += [
            f"{page.name}: {picture}" for picture in pictures if not re.search(r'alt="[^"]', picture)
        ]
    assert len(names) > 20 and not lost and not wordless, (lost, wordless)


def test_solutions_can_be_withheld(tmp_path, site):
    assert (site / "chapters/solutions/05_reward_model.html").exists()
    build(tmp_path / "class", CLASS_SOLUTIONS="0")
    assert not list((tmp_path / "class").rglob("*solutions*"))
    assert not any("Solutions: " in p.read_text("utf-8") for p in pages(tmp_path / "class"))


@pytest.mark.slow
def test_pages_are_alive_offline_and_everybody_can_read_them(site):
    browser_path = chromium()
    from playwright.sync_api import sync_playwright

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, outside = f"http://127.0.0.1:{server.server_port}/", []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            page.on("request", lambda request: outside.append(request.url))
            for name in SHOWN:
                page.goto(home + name)
                page.wait_for_function("() => !document.querySelector('.alive:not(.js-plotly-plot)')")
                assert not (found := barriers(page, "body", ("serious", "critical"))), (scheme, name, found)
            page.goto(home + SHOWN[1])
            slider = page.locator(".js-plotly-plot:has(.slider-container)").first
            slider.wait_for()
            bars = "plot => [...plot.querySelectorAll('.point path')].map(p => p.getAttribute('d')).join()"
            before = slider.evaluate(bars)
            slider.locator(".slider-rail-touch-rect").click(position={"x": 5, "y": 3})
            changed = f"([plot, old]) => ({bars})(plot) !== old"
            page.wait_for_function(changed, arg=[slider.element_handle(), before])
            assert page.locator("mjx-container").count() > 0
        browser.close()
    server.shutdown()
    assert not [url for url in outside if not url.startswith((home, "data:", "blob:"))]
