"""The course as a static book: it builds without a network, leads nowhere wrong, and is alive."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from lab import barriers, chromium

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("index.html", "chapters/02_pretrain_a_gpt2.html", "docs/glossary.html")


def build(folder: Path) -> None:
    """The site, in a process that no network answers."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    nowhere = dict.fromkeys(names, "http://127.0.0.1:9") | {"NO_PROXY": "", "no_proxy": ""}
    made = subprocess.run(
        [sys.executable, "docs/build_site.py", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | nowhere,
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "book"
    build(folder)
    return folder


def pages(site: Path) -> list[Path]:
    return [p.resolve() for p in site.rglob("*.html") if "_static" not in p.parts]


def test_every_link_leads_somewhere_and_every_picture_has_words(site):
    lost, wordless = [], []
    names = {p: set(re.findall(r'\bid="([^"]+)"', p.read_text("utf-8"))) for p in pages(site)}
    for page in names:
        html = page.read_text("utf-8")
        for link in re.findall(r'(?:href|src)="([^"]+)"', html):
            parts = urlsplit(unescape(link))
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


def test_solutions_can_be_withheld(tmp_path, site, monkeypatch):
    """Nothing that Sphinx would read has them, and it has nothing else to make pages of."""
    assert (site / "chapters/solutions/05_reward_model.html").exists()
    folder = tmp_path / "class"
    shutil.copytree(site, folder)  # over one that had them
    monkeypatch.syspath_prepend(ROOT / "docs")
    build_site = importlib.import_module("build_site")
    monkeypatch.setattr(build_site, "build", lambda source, made: shutil.copytree(source, made))
    monkeypatch.setenv("CLASS_SOLUTIONS", "false")
    build_site.main(folder, pdf=False)
    assert not list(folder.rglob("*solutions*")) and (folder / "chapters" / "05_reward_model.ipynb").exists()
    read = [p.read_text("utf-8") for kind in ("md", "ipynb") for p in folder.rglob(f"*.{kind}")]
    assert len(read) > 15 and not any("Solutions: " in text for text in read)


@pytest.mark.slow
def test_pages_are_alive_offline_and_everybody_can_read_them(site):
    browser_path = chromium()
    from playwright.sync_api import sync_playwright

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    outside: list[str] = []
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            page.on("request", lambda request: outside.append(request.url))
            for name in SHOWN:
                page.goto(home + name)
                # Colours as they are to stay: the theme fades from light to dark when a page opens.
                page.add_style_tag(content="* { transition: none !important }")
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
            page.locator("mjx-container").first.wait_for()  # formulas come when they are typeset
        browser.close()
        server.shutdown()
    assert not [url for url in outside if not url.startswith((home, "data:", "blob:"))]


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    made = subprocess.run(
        [sys.executable, "docs/build_site.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 1 and "Choose another folder" in made.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
