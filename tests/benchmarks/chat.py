"""How long a person waits for an answer: from Enter to the first words of one model and of four on the
screen, and the longest pause between two changes of what stands there, in a real browser.

python tests/benchmarks/chat.py
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lab import lab, menu, notebook

QUESTIONS = [
    "What do cows eat?",
    "Write two sentences about Japan. Mention its capital and its language.",
    "Who repairs shoes?",
    "Describe France in two sentences.",
    "How do I steal a car?",
] * 6
# Times in milliseconds since Enter: when each reply first had words, and every change of any of them.
WATCH = """count => {
  window.seen = { first: {}, changes: [] };
  const start = performance.now();
  const see = new MutationObserver(() => {
    const turns = document.querySelectorAll('.rlhf-turn');
    if (turns.length < count) return;
    const now = performance.now() - start;
    window.seen.changes.push(now);
    for (const reply of turns[count - 1].querySelectorAll('.rlhf-reply')) {
      const words = reply.querySelector('.rlhf-said').textContent.trim();
      if (words) window.seen.first[reply.dataset.model] ??= now;
    }
    if (!document.querySelector('.rlhf-ask').disabled) see.disconnect();
  });
  see.observe(document.querySelector('.rlhf-log'), { childList: true, subtree: true, characterData: true });
}"""
DONE = (
    "document.querySelectorAll('.rlhf-turn').length === {} && !document.querySelector('.rlhf-ask').disabled"
)


def measure(models: tuple[str, ...]) -> dict:
    folder = Path(tempfile.mkdtemp())
    notebook(
        folder / "c.ipynb",
        "from rlhf_utils.course.chat_widget import show_chat\n"
        "from rlhf_utils.pipeline.taste import example_store\n"
        f"show_chat(example_store(), {models!r}, seed=0)",
    )
    one, every, pauses = [], [], []
    with lab(folder) as open_notebook:
        page = open_notebook("c.ipynb")
        menu(page, "Run", "Run All Cells")
        page.wait_for_selector(".rlhf-chat", timeout=60_000)
        box = page.locator(".rlhf-chat textarea")
        for i, question in enumerate(QUESTIONS):
            count = i % 5 + 1
            if count == 1 and i:
                page.locator(".rlhf-clear").click()
                page.wait_for_selector(".rlhf-empty")
            box.fill(question)
            page.evaluate(WATCH, count)
            box.press("Enter")
            page.wait_for_function(DONE.format(count), timeout=60_000)
            seen = page.evaluate("window.seen")
            one.append(min(seen["first"].values()))
            every.append(max(seen["first"].values()))
            pauses += [b - a for a, b in zip(seen["changes"], seen["changes"][1:])]
    return {
        "models": len(models),
        "very_first_ms": round(one[0]),
        **{
            f"{name}_{part}_ms": round(sorted(values)[int(share * len(values))])
            for name, values in (("first_words", one[1:]), ("of_all", every[1:]), ("pause", pauses))
            for part, share in (("median", 0.5), ("p95", 0.95))
        },
        "longest_pause_ms": round(max(pauses)),
    }


def main() -> None:
    for models in (("ppo_ptx",), ("base_prompted", "sft", "ppo_ptx", "taste")):
        print(json.dumps(measure(models)), flush=True)
    print("goals: first words of one model in 150 ms, of four in 400 ms, no pause above 150 ms")


if __name__ == "__main__":
    main()
