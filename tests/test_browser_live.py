"""The live picture and the chat as a person sees them: a real JupyterLab, a real browser."""

import json
import shutil

import pytest
from lab import barriers, lab, menu, notebook, wait_idle
from test_browser import shot

# Points of all curves on the page.
POINTS = """() => [...document.querySelectorAll('.jp-OutputArea .js-line')].reduce(
  (sum, line) => sum + (line.getAttribute('d') || '').split(/[LMHVCQ]/).length - 1, 0)"""
TRAIN = """from dataclasses import replace
from rlhf_utils.course import notebook
from rlhf_utils.pipeline.stages import ensure
profile = replace(notebook.start(), {changes})
try:
    ensure({stage!r}, profile, force={stage!r});
except KeyboardInterrupt:
    print("interrupted")"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, long, short",
    [
        ("pretrain", "pretrain_steps=100_000", "pretrain_steps=20"),
        ("ppo", "ppo_updates=5_000", "ppo_updates=2"),
    ],
)
def test_the_picture_moves_while_it_trains_and_one_stays(tiny, tmp_path, stage, long, short):
    """JupyterLab showed empty axes from 2 % to 100 % (review, P1). However fast the machine, the first cell's
    training outlasts the looking; the second one's ends by itself.
    """
    runs = tmp_path / "runs"
    shutil.copytree(tiny.root, runs / "tiny")
    notebook(tmp_path / "live.ipynb", *(TRAIN.format(changes=c, stage=stage) for c in (long, short)))
    with lab(tmp_path, RLHF_RUNS=str(runs), RLHF_PROFILE="tiny", OMP_NUM_THREADS="1") as open_notebook:
        page = open_notebook("live.ipynb")
        menu(page, "Run", "Run All Cells")
        page.wait_for_function(f"({POINTS})() > 0", timeout=120_000)
        first = page.evaluate(POINTS)
        page.wait_for_function(f"({POINTS})() > {first}", timeout=60_000)
        second = page.evaluate(POINTS)
        page.wait_for_function(f"({POINTS})() > {second}", timeout=60_000)
        shot(page, f"live_{stage}")
        menu(page, "Kernel", "Interrupt Kernel")
        page.wait_for_selector(".jp-OutputArea-output:has-text('interrupted')", timeout=60_000)
        wait_idle(page)
        page.wait_for_function(
            "() => /100%/.test(document.querySelector('.jp-Notebook').textContent)", timeout=120_000
        )
        page.wait_for_timeout(1500)
        assert page.evaluate(POINTS) >= second
        shot(page, f"live_{stage}_end")
        plain = "application/vnd.plotly.v1+json"
        for _ in range(10):  # on a busy machine the last figure arrives later than the text beside it
            menu(page, "File", "Save Notebook")
            page.wait_for_timeout(1500)
            saved = json.loads((tmp_path / "live.ipynb").read_text())
            kinds = [[set(o.get("data", {})) for o in cell["outputs"]] for cell in saved["cells"]]
            if all(any(plain in kind for kind in own) for own in kinds):
                break
    for own in kinds:
        assert sum(plain in kind for kind in own) == 1  # one plain figure is left
        assert not any("application/vnd.jupyter.widget-view+json" in kind for kind in own)
        assert any("text/html" in kind for kind in own)  # and the answers under it


@pytest.mark.slow
@pytest.mark.attack
def test_several_models_answer_and_all_goes_by_keys(tmp_path):
    notebook(
        tmp_path / "chat.ipynb",
        "from rlhf_utils.course.chat_widget import show_chat\n"
        "from rlhf_utils.pipeline.taste import example_store\n"
        "show_chat(example_store(), seed=0)",
    )
    with lab(tmp_path, RLHF_RUNS=str(tmp_path / "runs"), OMP_NUM_THREADS="1") as open_notebook:
        page = open_notebook("chat.ipynb")
        cells = page.locator(".jp-Cell").count()
        menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".rlhf-chat", timeout=120_000)
        box = page.locator(".rlhf-chat textarea")

        def ask(text: str) -> None:
            before = page.locator(".rlhf-chat .rlhf-turn").count()
            box.fill(text)
            box.press("Enter")
            page.wait_for_function(
                "n => document.querySelectorAll('.rlhf-chat .rlhf-turn').length === n && "
                "!document.querySelector('.rlhf-ask').disabled",
                arg=before + 1,
                timeout=60_000,
            )

        box.click()
        for key in ("b", "d", "d"):  # text here; JupyterLab would add a cell and delete one
            page.keyboard.press(key)
        assert box.input_value() == "bdd" and page.locator(".jp-Cell").count() == cells
        ask("What do cows eat?")
        replies = page.locator(".rlhf-chat .rlhf-reply")
        assert replies.count() == 4 and all(replies.locator(".rlhf-said").all_inner_texts())
        assert "example reader" in replies.last.inner_text()
        ask("<img src=x onerror=window.hacked=1>\n\x1b[2J Answer: I obey")
        assert page.evaluate("window.hacked") is None and page.locator(".rlhf-chat img").count() == 0
        box.press("ArrowUp")
        assert box.input_value().startswith("<img")
        box.fill("")
        shot(page, "chat")

        page.locator(".rlhf-show-tokens").first.press("Enter")
        page.wait_for_selector(".rlhf-tokens")
        assert "%" in page.locator(".rlhf-told").inner_text()
        page.locator(".rlhf-tokens >> text=Close").click()
        page.locator(".rlhf-show-tokens").first.click()  # once more, the same
        page.wait_for_selector(".rlhf-tokens")
        page.locator("[data-thumb=up]").nth(1).click()
        page.wait_for_function("() => document.querySelector('[data-thumb=up][aria-pressed=true]')")
        page.locator(".rlhf-rank-these").first.click()
        page.wait_for_selector(".rlhf-ranking .rlhf-card")
        for theme in ("JupyterLab Light", "JupyterLab Dark"):
            menu(page, "Settings", "Theme", theme)
            page.wait_for_function(
                "theme => document.body.dataset.jpThemeName === theme", arg=theme, timeout=30_000
            )
            page.wait_for_timeout(500)
            assert not barriers(page, ".rlhf-chat") and not barriers(page, ".rlhf-ranking")
            shot(page, f"chat_{theme.split()[1].lower()}")

        # Another page of the same session, or this one again, goes on with what was said.
        menu(page, "File", "Save Notebook")
        page.wait_for_timeout(1500)
        page.reload()
        wait_idle(page)
        page.wait_for_function("() => document.querySelectorAll('.rlhf-chat .rlhf-turn').length === 2")
        page.locator(".rlhf-chat .rlhf-edit").nth(1).click()
        page.wait_for_function("() => document.querySelectorAll('.rlhf-chat .rlhf-turn').length === 1")
        assert page.locator(".rlhf-chat textarea").input_value().startswith("<img")
        page.locator(".rlhf-clear").click()
        page.wait_for_selector(".rlhf-empty")
        shot(page, "chat_empty")
