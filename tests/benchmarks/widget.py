"""How long a person waits: from Enter to the next item on the screen, in a real browser, with a
queue of 1,000 items.

python tests/benchmarks/widget.py
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lab import lab, menu, notebook, wait_done

WATCH = """() => {
  const shown = document.querySelector('.rlhf-prompt').textContent;
  window.waited = null;
  const start = performance.now();
  const see = new MutationObserver(() => {
    const prompt = document.querySelector('.rlhf-prompt');
    if (prompt && prompt.textContent !== shown && window.waited === null) {
      window.waited = performance.now() - start;
      see.disconnect();
    }
  });
  see.observe(document.querySelector('.rlhf-ranking'), { childList: true, subtree: true });
}"""


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    notebook(
        folder / "w.ipynb",
        "from rlhf_utils.ranking.session import RankingSession\nfrom rlhf_utils.ranking.store import "
        "RankingStore\n"
        "from rlhf_utils.ranking.widget import show_session\n"
        "rows = [{'id': str(i), 'messages': [{'role': 'user', 'content': f'What do cows eat? ({i})'}],\n"
        "         'answers': ['Cows eat grass.', 'Grass.', 'Cows eat grass. I hope that you like my "
        "answer.', 'Cows eat fish.']} for i in range(1000)]\n"
        f"show_session(RankingSession(rows, 'ada', RankingStore('sqlite:///{folder}/r.sqlite')))",
    )
    waited = []
    with lab(folder) as open_notebook:
        page = open_notebook("w.ipynb")
        menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".rlhf-card", timeout=60_000)
        for i in range(120):
            page.locator(".rlhf-card").first.focus()
            for key in "1234":
                page.keyboard.press(key)
            page.evaluate(WATCH)
            page.keyboard.press("Enter")
            wait_done(page, i + 1)
            waited.append(page.evaluate("window.waited"))
    waited.sort()
    figures = {
        "submissions": len(waited),
        "median_ms": round(waited[len(waited) // 2]),
        "p95_ms": round(waited[int(0.95 * len(waited))]),
    }
    print(json.dumps(figures), "goal: p95 at most 100 ms")


if __name__ == "__main__":
    main()
