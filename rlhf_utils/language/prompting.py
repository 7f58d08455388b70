"""Asking a base model well: forms that turn a question into the beginning of a document.

InstructGPT is compared with a GPT-3 that is *prompted*, and so is every model here. A form turns a
conversation into the beginning of a document; the model goes on, and what it says up to the next line break
is its answer. Most forms put the request as it stands into a frame that documents have; some turn it
around, as somebody would who knows these documents: into a report, an article's heading, a program's
comment. Which form suits which kind of prompt best is found out on validation prompts, by `choose_forms`.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random

import numpy as np

from rlhf_utils.language.tokenizer import SYSTEM, text_ids
from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.prompts import PROBES, USE_CASES, write_prompts

# Which use case a prompt beside the ten belongs to: its form and its shots are that one's.
USE_CASE_OF = {
    "premise": "open_qa",
    "provoked": "open_qa",
    "fictional": "open_qa",
    "insist": "chat",
    "correction": "chat",
    "program": "generation",
    "harmful": "other",
    "howto": "other",
    "withheld_relation": "open_qa",
    "withheld_task": "extract",
}
assert set(PROBES) <= set(USE_CASE_OF)


def thread(turns: Sequence[str], last: str = "Answer:") -> str:
    """A forum thread: "Question: …", "Answer: …", and so on, up to where the next answer begins."""
    lines = [f"{'Answer' if i % 2 else 'Question'}: {turn}" for i, turn in enumerate(turns)]
    return "\n".join([*lines, last])


@lru_cache
def shots(use_case: str, count: int) -> tuple[str, ...]:
    """`count` ideal demonstrations of a use case as forum threads: the shortest of twenty training prompts,
    all of different kinds if there are enough.
    """
    world = load_world()
    rows = sorted(write_prompts(world, "train", {use_case: 20}, 4), key=lambda p: len(str(p["messages"])))
    by_kind = sorted(rows, key=lambda p: [r["kind"] for r in rows[: rows.index(p)]].count(p["kind"]))
    writer = AnswerWriter(world, Random(f"shots:{use_case}"))
    chosen = by_kind[:count]
    return tuple(
        thread([m["content"] for m in p["messages"]], f"Answer: {writer.write(p, 'rich')}") for p in chosen
    )


def few_shot(count: int) -> Callable[[list[str], str], str]:
    return lambda turns, use_case: SHOT.join([*shots(use_case, count), thread(turns)])


def report(turns: list[str]) -> str:
    """A short report, which goes on to say the same in other words: the text that the request is about, and
    nothing of the request.
    """
    text = turns[-1].rpartition(": ")[2]
    return " ".join(s.strip() for s in re.findall(r"[^.?!]+[.?!]", text) if not s.endswith("?")) or text


def article(turns: list[str]) -> str:
    """An encyclopedia's heading, under which it says what it knows: what follows "about", or the
    request as it stands.
    """
    about = re.search(r"(?:about|[Dd]escribe) (.+?)(?:,| in (?:one|two)| that |\.|\?|$)", turns[-1])
    heading = about.group(1) if about else turns[-1]
    return f"{heading[:1].upper()}{heading[1:]}\n"


def comment(turns: list[str]) -> str:
    """A comment, under which there would be a program: from "prints" on, where the request has that word."""
    task = turns[-1][turns[-1].find("prints") :] if "prints" in turns[-1] else turns[-1]
    return f"# {task.rstrip('.?! ')}\n"


SHOT = "\n\n"  # between the examples of a few-shot prompt, until they are seen to fit
# (turns of the conversation, use case) → what the base model reads.
FORMS: dict[str, Callable[[list[str], str], str]] = {
    "bare": lambda turns, _: "\n".join(turns),
    "forum": lambda turns, _: thread(turns),
    # The assistant's own form, which no document has.
    "system line": lambda turns, _: f"{SYSTEM}\n{thread(turns)}",
    "accepted answer": lambda turns, _: thread(turns, "Accepted answer:"),
    "exercise": lambda turns, _: " ".join(
        [
            f"Exercise: {turns[0]}",
            *(f"Answer: {t}" if i % 2 == 0 else f"Exercise: {t}" for i, t in enumerate(turns[1:])),
            "Answer:",
        ]
    ),
    "report": lambda turns, _: report(turns),
    "article": lambda turns, _: article(turns),
    # "The capital of France: …"
    "index": lambda turns, _: "\n".join([*turns[:-1], turns[-1].rstrip("?.! ") + ":"]),
    "answer sheet": lambda turns, _: "\n".join([*turns, "Answers:"]) + "\n",
    "comment": lambda turns, _: comment(turns),
    "1 shot": few_shot(1),
    "2 shots": few_shot(2),
    "4 shots": few_shot(4),
}


def form_text(form: str, prompt: dict) -> str:
    """What a base model reads of a prompt (`messages`, `use_case`) in a form."""
    use_case = USE_CASE_OF.get(prompt["use_case"], prompt["use_case"])
    return FORMS[form]([m["content"] for m in prompt["messages"]], use_case).replace(SHOT, "\n")


def form_ids(tokenizer, form: str, prompt: dict, limit: int) -> list[int]:
    """Token ids of a prompt in a form, after the end-of-text token; whole shots are left out, the first ones
    first, until `limit` tokens are left.
    """
    use_case = USE_CASE_OF.get(prompt["use_case"], prompt["use_case"])
    parts = FORMS[form]([m["content"] for m in prompt["messages"]], use_case).split(SHOT)
    while True:
        ids = [tokenizer.eos_token_id, *text_ids(tokenizer, "\n".join(parts))]
        if len(ids) <= limit or len(parts) == 1:
            return ids[-limit:]
        parts = parts[1:]


FEWEST = 8  # validation prompts of one kind, to choose a form for it alone


def choose_forms(gold: dict[str, np.ndarray], prompts: list[dict]) -> dict[str, str]:
    """The form with the highest mean gold score for each kind of prompt, each use case, and over "all"; gold:
    by form, one value a prompt.

    Kinds with fewer than `FEWEST` prompts have the form of their use case.
    """
    groups = {"all": np.ones(len(prompts), dtype=bool)}
    groups |= {case: np.array([p["use_case"] == case for p in prompts]) for case in USE_CASES}
    kinds = dict.fromkeys(p["kind"] for p in prompts)
    groups |= {
        kind: where
        for kind in kinds
        if (where := np.array([p["kind"] == kind for p in prompts])).sum() >= FEWEST
    }
    return {
        name: max(gold, key=lambda form, where=where: gold[form][where].mean())
        for name, where in groups.items()
        if where.any()
    }


def form_of(chosen: dict[str, str], prompt: dict) -> str:
    """The form for a prompt: that of its kind, of its use case, or the one for all."""
    names = (prompt.get("kind"), USE_CASE_OF.get(prompt["use_case"], prompt["use_case"]), "all")
    return next(chosen[name] for name in names if name in chosen)


def first_paragraph(text: str) -> str:
    """What a base model says until its first line break, which is where an answer would end."""
    return next((line.strip() for line in text.split("\n") if line.strip()), "")
