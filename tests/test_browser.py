"""Chapter 04 as a person sees it: a real JupyterLab, a real browser, mouse and keys."""

import json
import os
import shutil
from pathlib import Path

import pytest
from lab import (
    barriers,
    chromium,
    done,
    drag,
    lab,
    letters,
    lift,
    menu,
    notebook,
    submit_by_keys,
    wait_done,
    wait_idle,
)

from rlhf_utils.artifacts.files import file_hash, read_jsonl, write_jsonl
from rlhf_utils.ranking.store import RankingStore

CHAPTER = Path(__file__).resolve().parent.parent / "chapters" / "04_collect_rankings.ipynb"
HOSTILE = [
    "<img src=x onerror=window.hacked=1>",
    "</script><b>bold</b>",
    "\u202eright to left",
    "x" * 100_000,
    "   ",
    "🙂🙃",
]


def shot(page, name: str) -> None:
    """A picture to look at, where RLHF_SHOTS names a folder."""
    if os.environ.get("RLHF_SHOTS"):
        page.screenshot(path=Path(os.environ["RLHF_SHOTS"]) / f"{name}.png")


def wait_for_widget(page) -> None:
    """Until the whole chapter has run, which scrolls to its end, and the widget is back on the screen."""
    page.wait_for_function(
        "() => document.querySelector('.jp-Notebook').textContent.includes('Not done yet: agreement(')",
        timeout=120_000,
    )
    page.wait_for_selector(".rlhf-card", state="attached", timeout=60_000)
    page.locator(".rlhf-ranking").scroll_into_view_if_needed()
    page.wait_for_selector(".rlhf-card", state="visible", timeout=60_000)


@pytest.mark.slow
def test_thirty_rankings_by_mouse_and_keys_reach_reward_model_and_ppo(tiny, rlhf, tmp_path):
    runs, folder = tmp_path / "runs", tmp_path / "lab"
    shutil.copytree(tiny.root, runs / "tiny")
    folder.mkdir()
    shutil.copy(CHAPTER, folder)
    store = RankingStore(f"sqlite:///{runs / 'rankings.sqlite'}")
    with lab(folder, RLHF_RUNS=str(runs), RLHF_PROFILE="tiny", JUPYTERHUB_USER="ada") as open_notebook:
        page = open_notebook(CHAPTER.name)
        menu(page, "Run", "Run All Cells")
        wait_for_widget(page)
        cells = page.locator(".jp-Cell").count()
        shot(page, "chapter")

        # Practice by keys: the known order of three answers, then the widget says how it went.
        for item in range(2):
            known = {
                "nice day": 2,
                "made of steel": 2,
                "fish": 3,
                "Break": 3,
                "eat grass.": 1,
                "because it would": 1,
            }
            page.locator(".rlhf-card").first.focus()
            for text in [card.text_content() for card in page.locator(".rlhf-card").all()]:
                page.keyboard.press(str(next(rank for words, rank in known.items() if words in text)))
            page.keyboard.press("Enter")
            page.wait_for_function(
                "() => document.querySelector('.rlhf-message')?.textContent.includes('3 of 3')"
            )
            page.wait_for_function(
                "n => document.querySelectorAll('.rlhf-practice').length === n", arg=1 - item, timeout=20_000
            )
        assert done(page) == 0  # practice counts for nothing

        # By mouse: the card goes along, its target says what will happen, and the keys go on with it.
        lift(page, 0, 1, 0.5)
        assert (
            page.locator(".rlhf-flying").count() == 1
            and "tie" in page.locator(".rlhf-on .rlhf-note").inner_text()
        )
        assert "is tied with" in page.locator(".rlhf-live").inner_text()
        under, card = page.locator(".rlhf-on").bounding_box(), page.locator(".rlhf-flying").bounding_box()
        assert (
            card["y"] < under["y"] + under["height"] / 2 < card["y"] + card["height"]
        )  # it is where the mouse is
        assert card["x"] < under["x"] + 50 < card["x"] + card["width"]
        shot(page, "dragged")
        page.keyboard.press("Escape")
        page.mouse.up()
        assert page.locator(".rlhf-flying, .rlhf-tied").count() == 0
        moved = letters(page)[0]
        drag(page, 0, 1, 0.9, ".rlhf-answer")
        assert letters(page)[1] == moved
        assert page.evaluate("document.activeElement.dataset.letter") == moved
        page.keyboard.press("u")
        assert letters(page)[0] == moved

        # One card to the end, one onto another, then take it all back, and do it again.
        first = letters(page)[0]
        drag(page, 0, len(letters(page)) - 1, 0.85)
        assert letters(page)[-1] == first
        drag(page, 0, 1, 0.5)
        assert len(letters(page, ".rlhf-card.rlhf-tied")) == 1
        shot(page, "tied")
        page.click(".rlhf-undo")
        assert letters(page)[0] == first and not letters(page, ".rlhf-card.rlhf-tied")
        drag(page, 0, 1, 0.5)
        page.click(".rlhf-submit")
        wait_done(page, 1)
        assert len(set(store.latest("ada")[-1]["ranks"])) == len(store.latest("ada")[-1]["answers"]) - 1
        page.click(".rlhf-undo")  # a submission
        wait_done(page, 0)
        page.click(".rlhf-submit")
        wait_done(page, 1)
        for left in (0, 1):  # two submissions, one after the other: the second of them was practice
            page.click(".rlhf-undo")
            page.wait_for_function(
                "n => document.querySelectorAll('.rlhf-practice').length === n", arg=left, timeout=20_000
            )
        page.click(".rlhf-submit")
        page.wait_for_selector(".rlhf-practice", state="detached")
        drag(page, 0, 1, 0.5)
        page.click(".rlhf-submit")
        wait_done(page, 1)

        # By keys: nothing of it reaches JupyterLab, where b adds a cell and d d deletes one.
        page.locator(".rlhf-card").first.focus()
        for key in ("b", "d", "d", "a", "ArrowDown", "t", "Alt+ArrowUp", "u"):
            page.keyboard.press(key)
        assert page.locator(".jp-Cell").count() == cells
        # A card steps over two that are tied, and parts them where it is dropped between.
        a, b, c = letters(page)[:3]
        page.locator(".rlhf-card").nth(1).focus()
        page.keyboard.press("t")
        page.locator(".rlhf-card").nth(2).focus()
        page.keyboard.press("Alt+ArrowUp")
        assert letters(page)[:3] == [c, a, b] and letters(page, ".rlhf-card.rlhf-tied") == [b]
        page.keyboard.press("Alt+ArrowDown")
        assert letters(page)[:3] == [a, b, c] and letters(page, ".rlhf-card.rlhf-tied") == [b]
        drag(page, 2, 1, 0.1)
        assert letters(page)[:3] == [a, c, b] and not letters(page, ".rlhf-card.rlhf-tied")
        page.keyboard.press("u")
        while done(page) < 18:
            keys = [str(n + 1) for n in range(len(letters(page)))]
            submit_by_keys(
                page, keys if done(page) % 2 else [*keys[1:], keys[1]]
            )  # every second one with a tie
        ranked = len(store.ranked("ada"))

        # Reload, run again: it goes on where it was left.
        menu(page, "File", "Save Notebook")
        page.wait_for_timeout(1500)
        page.reload()
        wait_idle(page)
        menu(page, "Run", "Run All Cells")
        page.wait_for_function(
            "() => document.querySelector('.rlhf-count')?.textContent.trim().startsWith('18 ')",
            timeout=120_000,
        )
        wait_for_widget(page)
        assert len(store.ranked("ada")) == ranked == 18
        page.locator(".rlhf-card").first.focus()
        while done(page) < 32:
            submit_by_keys(page, [str(n + 1) for n in range(len(letters(page)))])
            if done(page) == 20:
                assert "alike both times" in page.locator(".rlhf-message").inner_text()
        shot(page, "later")
    rows = store.ranked("ada")
    assert (
        len(rows) == 32
        and len(store.latest("ada")) == 36
        and all(r["models"] and set(" + ".join(r["models"]).split(" + ")) == {"sft"} for r in rows)
    )

    rlhf("run", "--until", "taste_evaluate", runs=runs, check=0)
    figures = json.loads((runs / "tiny" / "taste_evaluate" / "metrics.json").read_text())
    assert sum(figures["rankings"].values()) == len([r for r in rows if len(set(r["ranks"])) > 1]) >= 30
    assert figures["rankers"] == ["ada"] and figures["reward_accuracy"]["taste"]["own"]["pairs"] > 0


@pytest.mark.slow
@pytest.mark.attack
def test_what_models_write_is_text_and_few_keys_rank_it(tmp_path):
    """HTML, scripts, marks that turn the direction of writing, 100 kB: text in both widgets, in a browser."""
    database = f"sqlite:///{tmp_path / 'r.sqlite'}"
    answers = [f"answer {i}" for i in range(9)]
    notebook(
        tmp_path / "w.ipynb",
        "from rlhf_utils.ranking.session import RankingSession\nfrom rlhf_utils.ranking.store import "
        "RankingStore\n"
        "from rlhf_utils.ranking.widget import show_session\n"
        f"prompts = {[HOSTILE, answers, answers[:4]]!r}\n"
        "rows = [{'id': str(i), 'messages': [{'role': 'user', 'content': a[0]}], 'answers': a} for i, a in "
        "enumerate(prompts)]\n"
        "from IPython.display import display\n"
        "display(show_session(RankingSession(rows, 'bob'), plain=True))\n"
        f"show_session(RankingSession(rows, 'ada', RankingStore({database!r})))",
    )
    with lab(tmp_path) as open_notebook:
        page = open_notebook("w.ipynb")
        menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".rlhf-card", timeout=60_000)
        shot(page, "hostile")
        shown = "\n".join(page.locator(".rlhf-card").all_inner_texts())
        assert (
            HOSTILE[0] in shown
            and HOSTILE[1] in shown
            and "🙂🙃" in shown
            and "(nothing but spaces)" in shown
        )
        assert len(shown) < 3000  # the long one is folded
        assert (
            page.evaluate("window.hacked") is None
            and page.locator(".rlhf-ranking img, .rlhf-ranking b, .rlhf-ranking script").count() == 0
            and page.locator(".widget-html img, .widget-html script").count() == 0
            and HOSTILE[0] in "\n".join(page.locator(".widget-html").all_inner_texts())
        )
        page.locator(".rlhf-card").first.focus()
        for item, count in enumerate((6, 9, 4)):  # the number keys and Enter: K + 1 keystrokes
            for n in range(count):
                page.keyboard.press(str(count - n))
            page.keyboard.press("Enter")
            wait_done(page, item + 1)
        page.wait_for_selector(".rlhf-finished")
        shot(page, "finished")
    stored = RankingStore(database).ranked("ada")
    assert [len(r["ranks"]) for r in stored] == [6, 9, 4]
    for row in stored:  # what stood first on the screen got the highest number
        assert [row["ranks"][i] for i in row["shown"]] == list(range(len(row["ranks"]), 0, -1))


@pytest.mark.attack
def test_what_models_write_is_text_in_the_report(tiny, tmp_path, monkeypatch):
    """The same texts as questions and answers, in the page as a browser shows it."""
    browser_path = chromium()
    from playwright.sync_api import sync_playwright

    from rlhf_utils.artifacts.store import Store
    from rlhf_utils.course.report import write_report

    shutil.copytree(tiny.root, tmp_path / "tiny")
    file = tmp_path / "tiny" / "evaluate" / "answers.jsonl"
    rows = read_jsonl(file)
    for i, row in enumerate(rows):
        row["messages"] = [{"role": "user", "content": HOSTILE[i % 2]}]
        for answers in row["answers"].values():
            answers["t1"] = [HOSTILE[(i + 1) % 3]]
    write_jsonl(file, rows)
    manifest = tmp_path / "tiny" / "evaluate" / "manifest.json"
    listed = json.loads(manifest.read_text())
    listed["files"]["answers.jsonl"] = file_hash(file)
    manifest.write_text(json.dumps(listed))
    monkeypatch.setenv("RLHF_RUNS", str(tmp_path))
    page_file = write_report(Store(tiny.profile))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, headless=True, args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(page_file.as_uri())
        shown = "\n".join(page.locator(".dialogue").all_inner_texts())
        shot(page, "report")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert not barriers(page, "body")
        assert HOSTILE[0] in shown and HOSTILE[1] in shown
        assert (
            page.evaluate("window.hacked") is None
            and page.locator(".dialogue img, .dialogue script").count() == 0
        )
        browser.close()
