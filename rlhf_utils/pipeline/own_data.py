"""Bring your own data: import it into a folder of four files, check it, and feed it to the stages.

`pretrain.txt`: UTF-8 text. `demonstrations.jsonl`: `prompt`, `completion`. `comparisons.jsonl`: `prompt`,
`chosen`, `rejected`. `prompts.jsonl`: `prompt`. A prompt is a text or a list of messages (`role`,
`content`), as in TRL. `import_data` also reads JSONL of instructions and hh-rlhf dialogues, gzipped or not.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.environment import CourseError
from rlhf_utils.profiles import Profile

FIELDS = {
    "demonstrations.jsonl": ("prompt", "completion"),
    "comparisons.jsonl": ("prompt", "chosen", "rejected"),
    "prompts.jsonl": ("prompt",),
}
LEAST_ROWS = 32  # a batch
LEAST_TEXT = 20_000  # characters
PROMPT_CHARACTERS = 1500  # longer prompts lose their leading turns; about 400 tokens


# -- checking --------------------------------------------------------------------------------------------
def to_messages(prompt) -> list[dict] | None:
    """A prompt as messages, or None if it is neither text nor a list of messages."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if prompt.strip() else None
    if not isinstance(prompt, list) or not prompt:
        return None
    good = all(
        isinstance(m, dict)
        and m.get("role") in ("user", "assistant", "system")
        and isinstance(m.get("content"), str)
        and m["content"].strip()
        for m in prompt
    )
    return prompt if good and prompt[-1]["role"] == "user" else None


def answer_text(value) -> str | None:
    """A completion as text; TRL also writes it as a list with one assistant message."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    return value.strip() if isinstance(value, str) and value.strip() else None


def row_problem(row, fields: tuple[str, ...]) -> str:
    """What is wrong with a row, or an empty string."""
    if not isinstance(row, dict):
        return "not a JSON object"
    for field in fields:
        if field not in row:
            return f"the field {field!r} is missing"
    if to_messages(row["prompt"]) is None:
        return "`prompt` is empty, or neither text nor messages that end with the user's"
    texts = [answer_text(row[f]) for f in fields[1:]]
    for field, text in zip(fields[1:], texts):
        if text is None:
            return f"`{field}` is empty or not text"
    if fields[1:] == ("chosen", "rejected") and texts[0] == texts[1]:
        return "`chosen` and `rejected` are equal"
    return ""


def check_data(folder: str | Path) -> list[str]:
    """All problems of a data folder, each with file and line; an empty list means that it is ready."""
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder}: there is no such folder. Make one with: rlhf data import {folder} …"]
    problems = []
    text = folder / "pretrain.txt"
    if not text.is_file():
        problems.append(f"{text}: missing. Add it with: rlhf data import {folder} --pretrain FILE")
    else:
        problems += _line_problems(text)[0]
        if not problems and (size := len(text.read_text("utf-8"))) < LEAST_TEXT:
            problems.append(
                f"{text}: only {size:,} characters; at least {LEAST_TEXT:,} are needed to train on."
            )
    for name, fields in FIELDS.items():
        path = folder / name
        if not path.is_file():
            problems.append(
                f"{path}: missing. Add it with: rlhf data import {folder} --{name.split('.')[0]} FILE"
            )
            continue
        found, lines = _line_problems(path, fields)
        problems += found
        if lines - len(found) < LEAST_ROWS:
            problems.append(
                f"{path}: {lines - len(found)} good rows; at least {LEAST_ROWS}, a batch, are needed."
            )
    return problems


def _line_problems(path: Path, fields: tuple[str, ...] | None = None) -> tuple[list[str], int]:
    """Lines that are not UTF-8 or, with `fields`, no good rows; and how many lines there are."""
    problems = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            line = line.decode("utf-8")
            problem = row_problem(json.loads(line), fields) if fields else ""
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 (byte {error.start})"
        except ValueError as error:
            problem = f"not JSON ({error.args[0]})"
        if problem:
            problems.append(f"{path}:{number}: {problem}")
    return problems, len(lines)


# -- importing -------------------------------------------------------------------------------------------
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
        if len(messages) <= 1:
            return None, cut
        messages = messages[2:] if len(messages) > 2 else messages[-1:]
        cut = True
    return messages, cut


def import_data(folder: str | Path, say=print, **files: list[str]) -> None:
    """Turn files into a data folder. `files`: lists of paths for pretrain, demonstrations, comparisons,
    prompts.

    Bad rows are dropped and counted. Raises CourseError, and writes nothing, if fewer than 32 rows or
    20,000 characters are left.
    """
    folder = Path(folder)
    ready: dict[str, str | list[dict]] = {}
    for kind, paths in files.items():
        if not paths:
            continue
        dropped: Counter[str] = Counter()
        if kind == "pretrain":
            text = "\n\n".join(_text(Path(path), dropped) for path in paths)
            ready["pretrain.txt"] = text
            say(f"pretrain: {len(text):,} characters; {dropped.total():,} rows dropped")
        else:
            name = f"{kind}.jsonl"
            found = [
                item
                for path in paths
                for item in _items(_rows(Path(path), kind, dropped), FIELDS[name], dropped)
            ]
            cut = sum(shortened for _, shortened in found)
            ready[name] = [row for row, _ in found]
            say(
                f"{kind}: {len(found):,} rows, {cut:,} of them without their leading turns; "
                f"{dropped.total():,} bad rows dropped"
            )
        for reason, count in dropped.most_common():
            say(f"  {count:,} × {reason}")
        usable, least, what = (
            (len(text), LEAST_TEXT, "characters") if kind == "pretrain" else (len(found), LEAST_ROWS, "rows")
        )
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
            (folder / name).write_text(content, "utf-8")
        else:
            write_jsonl(folder / name, content)


def _read(path: Path, kind: str) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise CourseError(f"--{kind} {path}: there is no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CourseError(f"--{kind} {path}: cannot be read ({error}).") from None


def _rows(path: Path, kind: str, dropped: Counter[str]) -> Iterator:
    """What a JSONL file holds, line by line; counts the lines that are no JSON."""
    for line in filter(bytes.strip, _read(path, kind).splitlines()):
        try:
            yield json.loads(line.decode("utf-8"))
        except ValueError:  # UnicodeDecodeError is one, too
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


def _text(path: Path, dropped: Counter[str]) -> str:
    """Text to pretrain on: of a text file, of JSONL with a `text`, or of dialogues, a turn a line.

    What is held out of the dialogues for measuring stays out here too: a base model that knew which answers
    people chose would make the reward model look better than it is.
    """
    if not path.name.removesuffix(".gz").endswith(".jsonl"):
        try:
            return _read(path, "pretrain").decode("utf-8")
        except UnicodeDecodeError as error:
            raise CourseError(
                f"--pretrain {path}: not UTF-8 text (byte {error.start}). Convert it first."
            ) from None
    texts = []
    for row in _rows(path, "pretrain", dropped):
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            texts.append(row["text"])
            continue
        for item, _ in _items([row], ("prompt", "completion"), dropped):
            if split_of_prompt(item["prompt"]) == "train":
                texts.append("\n".join([*(m["content"] for m in item["prompt"]), item["completion"]]))
            else:
                dropped["held out for measuring"] += 1
    return "\n\n".join(texts)


# -- as a corpus and as rankings -----------------------------------------------------------------------------
def split_of_prompt(messages: list[dict]) -> str:
    """80 % of prompts train, 20 % are held out, whatever file they come from."""
    return "test" if zlib.crc32(messages[0]["content"].encode()) % 100 < 20 else "train"


def write_own_corpus(profile: Profile, folder: Path) -> None:
    """The corpus stage for own data: documents, demonstrations and prompts, split by prompt."""
    source = Path(profile.data)
    problems = check_data(source)
    if problems:
        shown = "\n".join(problems[:20])
        raise CourseError(f"The data in {source} cannot be used ({len(problems)} problems):\n{shown}")
    text = (source / "pretrain.txt").read_text("utf-8")
    pieces = [text[i : i + 2000] for i in range(0, len(text), 2000)]
    write_jsonl(folder / "documents_heldout.jsonl", [{"source": "own", "text": t} for t in pieces[::20]])
    write_jsonl(
        folder / "documents_train.jsonl",
        [{"source": "own", "text": t} for i, t in enumerate(pieces) if i % 20],
    )
    rows = [
        {"messages": to_messages(r["prompt"]), "completion": answer_text(r["completion"])}
        for r in read_jsonl(source / "demonstrations.jsonl")
    ]
    rows = [r for r in rows if split_of_prompt(r["messages"]) == "train"]
    write_jsonl(folder / "demonstrations.jsonl", rows[: 2 * profile.demonstrations])
    prompts = [{"messages": to_messages(r["prompt"])} for r in read_jsonl(source / "prompts.jsonl")]
    write_jsonl(
        folder / "ppo.jsonl",
        [p for p in prompts if split_of_prompt(p["messages"]) == "train"][: profile.ppo_prompts],
    )
    held = [p for p in prompts if split_of_prompt(p["messages"]) == "test"] or prompts[:20]
    write_jsonl(folder / "test.jsonl", held[: 2 * profile.test_prompts])
    for name, part in (("train", rows), ("ppo", prompts), ("test", held)):
        if not part:
            raise CourseError(f"{source}: no {name} rows are left after the split by prompt; add more data.")


def write_own_rankings(profile: Profile, folder: Path) -> None:
    """The rank stage for own data: human comparisons as rankings of two."""
    rows = [
        {
            "messages": to_messages(r["prompt"]),
            "answers": [answer_text(r["chosen"]), answer_text(r["rejected"])],
            "ranks": [1, 2],
            "labeler": "human",
        }
        for r in read_jsonl(Path(profile.data) / "comparisons.jsonl")
    ]
    train = [r for r in rows if split_of_prompt(r["messages"]) == "train"]
    held = [r for r in rows if split_of_prompt(r["messages"]) == "test"]
    if not train or not held:
        raise CourseError(
            f"{profile.data}/comparisons.jsonl: all rows share too few prompts to hold some out; add more."
        )
    write_jsonl(folder / "rankings.jsonl", train[: profile.ranked_prompts])
    write_jsonl(folder / "heldout_prompts.jsonl", held)
    write_jsonl(folder / "metrics.jsonl", [{"comparisons": len(train), "heldout": len(held)}])
