"""The pictures at the head of the README, made from the models and figures that come with the course.

    python tests/pictures.py        # needs Chromium and playwright; half a minute

Writes docs/pictures/: the pipeline with its figures, gold by model, and both widgets as a browser shows them.
"""

import os
import sys
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).parent))

from lab import lab, menu, notebook  # noqa: E402

from rlhf_utils import plots  # noqa: E402
from rlhf_utils.look import COLOURS, INK  # noqa: E402
from rlhf_utils.pipeline.taste import example_store  # noqa: E402

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
ASKED = ("What do cows eat?", "How do I break into a bank?")


def boxes(metrics: dict) -> list[tuple[str, str, str, str]]:
    """(stage, what it is made of, a figure of it, its colour)."""
    gold = {name: rows["t1"]["total"] for name, rows in metrics["gold"].items()}
    agrees = metrics["reward_accuracy"]["gold"]["accuracy"]
    bits = metrics["bits_per_byte"]
    return [
        ("text", "a small world of facts", f"5-gram: {bits['five_gram']:.2f} bits a byte", INK),
        (
            "GPT-2, pretrained",
            f"{bits['base']:.2f} bits a byte",
            f"prompted: gold {gold['base_prompted']:.2f}",
            COLOURS["base_prompted"],
        ),
        ("SFT", "1,700 demonstrations", f"gold {gold['sft']:.2f}", COLOURS["sft"]),
        ("reward model", "4,400 rankings, and yours", f"as gold in {agrees:.0%}", COLOURS["taste"]),
        ("PPO-ptx", "96 updates", f"gold {gold['ppo_ptx']:.2f}", COLOURS["ppo_ptx"]),
    ]


def pipeline(metrics: dict) -> str:
    """An SVG: five boxes with arrows between them, legible on light and dark pages."""
    width, gap, made = 200, 30, []
    for i, (name, made_of, figure, colour) in enumerate(boxes(metrics)):
        x = i * (width + gap) + 4
        made.append(
            f'<rect x="{x}" y="6" width="{width}" height="92" rx="10" fill="none" stroke="{colour}" '
            'stroke-width="2"/>'
            f'<text x="{x + width / 2}" y="36" font-size="17" font-weight="600">{name}</text>'
            f'<text x="{x + width / 2}" y="60" font-size="13">{made_of}</text>'
            f'<text x="{x + width / 2}" y="82" font-size="13" font-weight="600">{figure}</text>'
        )
        if i:
            arrow = f"M{x - gap + 4} 52h{gap - 12}m-7 -6l7 6l-7 6"
            made.append(f'<path d="{arrow}" fill="none" stroke="{INK}" stroke-width="2"/>')
    total = 5 * (width + gap) - gap + 8
    told = ", ".join(f"{name} ({figure})" for name, _, figure, _ in boxes(metrics))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} 104" role="img" '
        f'aria-label="From {told}" '
        f'font-family="system-ui, sans-serif" text-anchor="middle" fill="{INK}">{"".join(made)}</svg>\n'
    )


def widgets() -> None:
    """Chapter 04's and 09's widgets, photographed in a JupyterLab."""
    folder = Path(mkdtemp())
    start = "from rlhf_utils.pipeline.taste import example_store\nstore = example_store()\n"
    notebook(
        folder / "rank.ipynb",
        start + "import json\nfrom rlhf_utils.environment import DATA\n"
        "from rlhf_utils.ranking.session import RankingSession\n"
        "from rlhf_utils.ranking.widget import show_session\n"
        "rows = [json.loads(line) for line in open(DATA / 'ranking' / 'example.jsonl')][20:]\n"
        "show_session(RankingSession([r | {'id': r['item']} for r in rows], 'you'))",
    )
    (folder / "chat").mkdir()
    notebook(
        folder / "chat" / "chat.ipynb",
        start + "from rlhf_utils.course.chat_widget import show_chat\nshow_chat(store, seed=3)",
    )
    with lab(folder, RLHF_RUNS=str(folder / "runs")) as open_notebook:
        page = open_notebook("rank.ipynb")
        menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".rlhf-card", timeout=60_000)
        page.locator(".rlhf-card").first.focus()
        for key in ("3", "2", "1", "2"):  # wrong; polite; to the point; polite
            page.keyboard.press(key)
        page.locator(".rlhf-ranking").screenshot(path=FOLDER / "ranking.png")
    # Another JupyterLab: this one would open its last notebook beside the new one.
    with lab(folder / "chat", RLHF_RUNS=str(folder / "runs")) as open_notebook:
        page = open_notebook("chat.ipynb")
        menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".rlhf-chat", timeout=60_000)
        for number, question in enumerate(ASKED, 1):
            page.locator(".rlhf-chat textarea").fill(question)
            page.locator(".rlhf-chat textarea").press("Enter")
            page.wait_for_function(
                "n => document.querySelectorAll('.rlhf-chat .rlhf-turn').length === n && "
                "!document.querySelector('.rlhf-ask').disabled",
                arg=number,
            )
        page.locator(".rlhf-chat").screenshot(path=FOLDER / "chat.png")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.pop("RLHF_PROFILE", None)
    figures = example_store().metrics("evaluate")
    (FOLDER / "pipeline.svg").write_text(pipeline(figures), "utf-8")
    plots.gold_by_model(figures).write_image(FOLDER / "gold.svg", width=760, height=360)
    widgets()
    print(
        *(f"{file.stat().st_size // 1024:5} KB  {file.name}" for file in sorted(FOLDER.iterdir())), sep="\n"
    )
