"""Rows of own data: what is good, what is bad, and on which side of the split."""

import json
import zlib
from pathlib import Path

from rlhf_utils.artifacts.files import LONGEST, lines_of, text_of
from rlhf_utils.environment import CourseError

FIELDS = {
    "demonstrations.jsonl": ("prompt", "completion"),
    "comparisons.jsonl": ("prompt", "chosen", "rejected"),
    "prompts.jsonl": ("prompt",),
}
RANKED = ("prompt", "answers", "ranks")  # in the place of chosen and rejected: a ranking of several answers
MOST_RANKED = 64
LEAST_ROWS = 32  # a batch
LEAST_TEXT = 20_000  # characters
PROMPT_CHARACTERS = 1500  # longer prompts lose their beginning; about 400 tokens


def is_text(value) -> bool:
    """Text that can be written down: half of a character pair, as JSON may hold it, cannot."""
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def to_messages(prompt) -> list[dict] | None:
    """A prompt as messages, or None if it is neither text nor a list of messages, in which a user and the
    assistant take turns (a system's turn may come first) and the user has the last word.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if is_text(prompt) else None
    if not isinstance(prompt, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and is_text(m.get("content")) for m in prompt
    ):
        return None
    roles = [m["role"] for m in prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    good = len(turns) % 2 and all(r == ("user", "assistant")[i % 2] for i, r in enumerate(turns))
    return prompt if good else None


def answer_text(value) -> str | None:
    """A completion as text; TRL also writes it as a list with one assistant message."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    return value.strip() if is_text(value) else None


def fields_of(row, fields: tuple[str, ...]) -> tuple[str, ...]:
    """The fields that this row should have: a comparison may be a ranking."""
    return RANKED if fields[1:] == ("chosen", "rejected") and "answers" in row else fields


def ranking_problem(row: dict) -> str:
    """What is wrong with the answers and ranks of a ranking, or an empty string."""
    answers, ranks = row["answers"], row["ranks"]
    if not isinstance(answers, list) or not all(map(is_text, answers)):
        return "`answers` is not a list of texts"
    if not isinstance(ranks, list) or not all(type(r) is int and 1 <= r <= MOST_RANKED for r in ranks):
        return f"`ranks` is not a list of whole numbers from 1 to {MOST_RANKED}"
    if len(answers) != len(ranks) or not 2 <= len(ranks) <= MOST_RANKED:
        return f"{len(answers)} answers and {len(ranks)} ranks; give 2 or more answers, with a rank each"
    return ""


def row_problem(row, fields: tuple[str, ...]) -> str:
    """What is wrong with a row, or an empty string."""
    if not isinstance(row, dict):
        return "not a JSON object"
    fields = fields_of(row, fields)
    for field in fields:
        if field not in row:
            return f"the field {field!r} is missing"
    if to_messages(row["prompt"]) is None:
        return "`prompt` is empty, or neither text nor messages that take turns and end with the user's"
    if fields == RANKED:
        return ranking_problem(row)
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
        problems += _text_problems(text)
    for name, fields in FIELDS.items():
        path = folder / name
        if not path.is_file():
            problems.append(
                f"{path}: missing. Add it with: rlhf data import {folder} --{name.split('.')[0]} FILE"
            )
            continue
        found, good = _line_problems(path, fields)
        problems += found
        if good < LEAST_ROWS:
            problems.append(f"{path}: {good} good rows; at least {LEAST_ROWS}, a batch, are needed.")
    return problems


def _text_problems(path: Path) -> list[str]:
    try:
        size = len(text_of(path))
    except CourseError as error:
        return [str(error)]
    few = f"{path}: only {size:,} characters; at least {LEAST_TEXT:,} are needed to train on."
    return [few] if size < LEAST_TEXT else []


def _line_problems(path: Path, fields: tuple[str, ...]) -> tuple[list[str], int]:
    """What is wrong with lines, and how many are good rows; empty lines are neither."""
    problems, good = [], 0
    try:
        for number, line in enumerate(lines_of(path), 1):
            problem = line_problem(line, fields)
            if problem:
                problems.append(f"{path}:{number}: {problem}")
            else:
                good += bool(line)
    except CourseError as error:
        problems.append(str(error))
    return problems, good


def line_problem(line: bytes, fields: tuple[str, ...]) -> str:
    if len(line) >= LONGEST:
        return f"longer than {LONGEST / 2**20:.0f} MB"
    try:
        text = line.decode("utf-8")
        return row_problem(json.loads(text), fields) if text else ""
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error.args[0]})"


def split_of_prompt(messages: list[dict]) -> str:
    """80 % of prompts train, 20 % are held out, whatever file they come from.

    Decided by the first user's turn: a system turn is often the same for all.
    """
    first = next((m for m in messages if m["role"] == "user"), messages[0])
    return "test" if zlib.crc32(first["content"].encode()) % 100 < 20 else "train"


def side_of(row: dict) -> str:
    """ "train" or "test" of a row with a `prompt`; what lost its beginning on import remembers its side."""
    known = row.get("split") in ("train", "test")
    return row["split"] if known else split_of_prompt(to_messages(row["prompt"]))
