"""Import files into a folder of own data: text, instructions, hh-rlhf and TRL, gzipped or not."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_utils.artifacts.files import LONGEST, lines_of, text_of, write_jsonl, write_whole
from rlhf_utils.environment import CourseError, printable
from rlhf_utils.language.tokenizer import without_leading_turns
from rlhf_utils.pipeline.data_rows import (
    FIELDS,
    LEAST_ROWS,
    LEAST_TEXT,
    PROMPT_CHARACTERS,
    answer_text,
    is_text,
    row_problem,
    split_of_prompt,
    to_messages,
)

REASONS = 10  # for which rows were dropped, that are told


def parse_dialogue(text: str) -> list[dict] | None:
    """hh-rlhf's "\\n\\nHuman: … \\n\\nAssistant: …" as messages."""
    parts = re.split(r"\n\n(Human|Assistant):", text)
    if len(parts) < 3 or parts[0].strip():
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [{"role": roles[r], "content": c.strip()} for r, c in zip(parts[1::2], parts[2::2])]
    alternate = all(m["role"] == ("user", "assistant")[i % 2] for i, m in enumerate(messages))
    return messages if alternate and all(m["content"] for m in messages) else None


def normal_rows(row) -> list[dict]:
    """A row of any known format as rows with `prompt` and, as far as there, `completion`, `chosen`,
    `rejected`.

    Raises ValueError with the reason if the row is bad.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if "instruction" in row:
        found = []
        for case in row.get("instances") or [row]:
            if not isinstance(case, dict) or not str(case.get("output") or "").strip():
                raise ValueError("empty output")
            extra = str(case.get("input") or "").strip()
            prompt = f"{row['instruction']}\n{extra}" if extra else str(row["instruction"])
            found.append({"prompt": prompt, "completion": str(case["output"])})
        return found
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or len(messages) < 2 or messages[-1].get("role") != "assistant":
            raise ValueError("`messages` must end with the assistant's")
        return [{"prompt": messages[:-1], "completion": messages[-1]["content"]}]
    if "chosen" in row and "prompt" not in row:
        texts = [str(row.get(key, "")) for key in ("chosen", "rejected")]
        chosen, rejected = map(parse_dialogue, texts)
        if texts[0].rpartition("\n\nAssistant:")[0] != texts[1].rpartition("\n\nAssistant:")[0]:
            raise ValueError("chosen and rejected answer different prompts")
        if chosen is None or rejected is None:
            raise ValueError("an empty turn, or no dialogue")
        if chosen[-1]["role"] != "assistant":
            raise ValueError("the dialogue does not end with an answer")
        last, other = chosen[-1]["content"], rejected[-1]["content"]
        return [{"prompt": chosen[:-1], "completion": last, "chosen": last, "rejected": other}]
    if "prompt" not in row:
        raise ValueError(f"unknown format (fields {', '.join(map(str, list(row)[:5]))})")
    row = dict(row)
    if "chosen" in row and "completion" not in row:
        row["completion"] = row["chosen"]
    return [row]


def fit_prompt(prompt) -> tuple[list[dict] | None, bool]:
    """Messages with leading turns dropped until they fit, and whether any were dropped."""
    messages = to_messages(prompt)
    if messages is None:
        return None, False
    cut = False
    while sum(len(m["content"]) for m in messages) > PROMPT_CHARACTERS:
        shorter = without_leading_turns(messages)
        if len(shorter) == len(messages):
            return None, cut
        messages, cut = shorter, True
    return messages, cut


def import_data(folder: str | Path, say=print, replace: bool = False, **files: list[str]) -> None:
    """Turn files into a data folder. `files`: lists of paths for pretrain, demonstrations, comparisons,
    prompts.

    Bad rows are dropped and counted. Raises CourseError, and writes nothing, if fewer than 32 rows or
    20,000 characters are left, or if a file that would be written is there already and `replace` is not set.
    """
    folder = Path(folder)
    names = [f"{kind}.{'txt' if kind == 'pretrain' else 'jsonl'}" for kind, paths in files.items() if paths]
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not replace:
        raise CourseError(
            f"{folder} has {', '.join(there)} already. Write over it with --replace, or name another folder."
        )
    ready: dict[str, str | list[dict]] = {}
    for kind, paths in files.items():
        if not paths:
            continue
        dropped: Counter[str] = Counter()
        try:
            found = (_text if kind == "pretrain" else _read_rows)(kind, [Path(p) for p in paths], dropped)
        except CourseError as error:
            raise CourseError(f"--{kind} {error}") from None
        if isinstance(found, str):
            ready["pretrain.txt"] = found
            usable, least, what = len(found), LEAST_TEXT, "characters"
            say(f"pretrain: {usable:,} characters; {dropped.total():,} rows dropped")
        else:
            ready[f"{kind}.jsonl"] = [row for row, _ in found]
            usable, least, what = len(found), LEAST_ROWS, "rows"
            cut = sum(shortened for _, shortened in found)
            say(
                f"{kind}: {usable:,} rows, {cut:,} of them without their leading turns; "
                f"{dropped.total():,} bad rows dropped"
            )
        for reason, count in dropped.most_common(REASONS):
            say(f"  {count:,} × {printable(reason)[:200]}")
        if len(dropped) > REASONS:
            say(f"  … and {len(dropped) - REASONS:,} other reasons")
        if usable < least:
            raise CourseError(
                f"--{kind}: only {usable:,} usable {what}; at least {least:,} are needed. Nothing was "
                "written."
            )
    if not ready:
        raise CourseError(
            "Name at least one file: --pretrain, --demonstrations, --comparisons or --prompts FILE."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ready.items():
        if isinstance(content, str):
            write_whole(folder / name, lambda file, text=content: file.write(text))
        else:
            write_jsonl(folder / name, content)


def _rows(path: Path, dropped: Counter[str]) -> Iterator:
    """What a JSONL file holds, line by line; counts the lines that are no JSON."""
    for line in filter(bytes.strip, lines_of(path)):
        if len(line) >= LONGEST:
            dropped[f"longer than {LONGEST / 2**20:.0f} MB"] += 1
            continue
        try:
            yield json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            dropped["not UTF-8 JSON"] += 1


def _items(rows: Iterable, fields: tuple[str, ...], dropped: Counter[str]) -> Iterator[tuple[dict, bool]]:
    """The good rows, with just `fields`, and whether their leading turns were dropped;
    counts the bad ones.
    """
    for row in rows:
        try:
            found = normal_rows(row)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            dropped[str(error)] += 1
            continue
        for item in found:
            messages, shortened = fit_prompt(item.get("prompt"))
            item = {"prompt": messages, **{f: answer_text(item.get(f)) for f in fields[1:]}}
            problem = "prompt empty or too long" if messages is None else row_problem(item, fields)
            if problem:
                dropped[problem] += 1
            else:
                yield item, shortened


def _read_rows(kind: str, paths: list[Path], dropped: Counter[str]) -> list[tuple[dict, bool]]:
    fields = FIELDS[f"{kind}.jsonl"]
    return [item for path in paths for item in _items(_rows(path, dropped), fields, dropped)]


def _text(kind: str, paths: list[Path], dropped: Counter[str]) -> str:
    return "\n\n".join(_text_of(path, dropped) for path in paths)


def _text_of(path: Path, dropped: Counter[str]) -> str:
    """Text to pretrain on: of a text file, of JSONL with a `text`, or of dialogues, a turn a line.

    What is held out of the dialogues for measuring stays out here too: a base model that knew which answers
    people chose would make the reward model look better than it is.
    """
    if not path.name.removesuffix(".gz").endswith(".jsonl"):
        return text_of(path)
    texts = []
    for row in _rows(path, dropped):
        if isinstance(row, dict) and is_text(row.get("text")):
            texts.append(row["text"])
            continue
        for item, _ in _items([row], ("prompt", "completion"), dropped):
            if split_of_prompt(item["prompt"]) == "train":
                texts.append("\n".join([*(m["content"] for m in item["prompt"]), item["completion"]]))
            else:
                dropped["held out for measuring"] += 1
    return "\n\n".join(texts)
