"""Import files, or a data set of the Hub, into a folder of own data; `formats` knows what they hold."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_utils.artifacts.files import LONGEST, lines_of, text_of, write_whole
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.environment import CourseError, printable
from rlhf_utils.language.tokenizer import without_leading_turns
from rlhf_utils.pipeline.data_rows import (
    FIELDS,
    LEAST_ROWS,
    LEAST_TEXT,
    PROMPT_CHARACTERS,
    answer_text,
    fields_of,
    is_text,
    row_problem,
    side_of,
    split_of_prompt,
    to_messages,
)
from rlhf_utils.pipeline.formats import grown, normal_rows

REASONS = 10  # for which rows were dropped, that are told
KINDS = ("pretrain", "demonstrations", "comparisons", "prompts")
LONG_FILE = 20_000  # lines from which on a bar is shown


def fit_prompt(prompt) -> tuple[list[dict] | None, bool]:
    """Messages with leading turns dropped until they fit, and whether it is too long.

    A single turn that is too long stays whole: whoever reads it takes its end.
    """
    messages = to_messages(prompt)
    if messages is None:
        return None, False
    cut = False
    while sum(len(m["content"]) for m in messages) > PROMPT_CHARACTERS:
        shorter = without_leading_turns(messages)
        cut = True
        if len(shorter) == len(messages):
            break
        messages = shorter
    return messages, cut


def import_data(
    folder: str | Path,
    say=print,
    replace: bool = False,
    names: dict[str, str] | None = None,
    files: Iterable[str | Path] = (),
    **given: list[str],
) -> None:
    """Turn files into a data folder. `given`: lists of paths for pretrain, demonstrations, comparisons,
    prompts; `files` go wherever what they hold belongs. `names` are fields that are called otherwise.

    Bad rows are dropped and counted. Raises CourseError, and writes nothing, if fewer than 32 rows or
    20,000 characters are left, or if a file that would be written is there already and `replace` is not set.
    """
    folder, files = Path(folder), [Path(f) for f in files]
    chosen = {kind: [Path(p) for p in given.get(kind) or ()] for kind in KINDS}
    if not files and not any(chosen.values()):
        raise CourseError(
            "Name at least one file; its rows are put where they belong. Or say what files hold: --pretrain, "
            "--demonstrations, --comparisons or --prompts FILE."
        )
    check_free(folder, [kind for kind in KINDS if chosen[kind]], replace)
    with TemporaryDirectory() as beside:
        made: dict[str, Path] = {}
        for kind in KINDS:
            target, dropped = Path(beside) / file_name(kind), Counter()
            try:
                usable, cut = write_kind(kind, chosen[kind], files, target, dropped, names)
            except CourseError as error:
                raise CourseError(f"--{kind} {error}" if chosen[kind] else str(error)) from None
            least, what = (LEAST_TEXT, "characters") if kind == "pretrain" else (LEAST_ROWS, "rows")
            if not usable and not chosen[kind]:
                continue  # these files hold something else
            short = f", {cut:,} of them without their beginning" if kind != "pretrain" else ""
            say(f"{kind}: {usable:,} {what}{short}; {dropped.total():,} bad rows dropped")
            for reason, count in dropped.most_common(REASONS):
                say(f"  {count:,} × {printable(reason)[:200]}")
            if len(dropped) > REASONS:
                say(f"  … and {len(dropped) - REASONS:,} other reasons")
            if usable < least and not chosen[kind]:
                say(f"  left out, since at least {least:,} are needed")
                continue
            if usable < least:
                raise CourseError(
                    f"--{kind}: only {usable:,} usable {what}; at least {least:,} are needed. Nothing was "
                    "written."
                )
            made[kind] = target
        if not made:
            raise CourseError(
                f"In {', '.join(f.name for f in files)} there are too few rows of a known format (at least "
                f"32 are needed), and too little text (20,000 characters). {found_fields(files)}"
            )
        check_free(folder, list(made), replace)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, source in made.items():
            with open(source, encoding="utf-8", newline="") as file:
                write_whole(folder / file_name(kind), lambda out, file=file: shutil.copyfileobj(file, out))


def file_name(kind: str) -> str:
    return f"{kind}.{'txt' if kind == 'pretrain' else 'jsonl'}"


def check_free(folder: Path, kinds: list[str], replace: bool) -> None:
    there = [file_name(kind) for kind in kinds if os.path.lexists(folder / file_name(kind))]
    if there and not replace:
        raise CourseError(
            f"{folder} already has {', '.join(there)}. Overwrite with --replace, or name another folder."
        )


def found_fields(files: list[Path]) -> str:
    """What the first row of files has, for somebody who wonders why it is no known format."""
    rows = [row for path in files for row in islice(read_rows(path, Counter()), 1) if isinstance(row, dict)]
    if not rows:
        return "Their lines are not JSON objects."
    return (
        f"The first row has the fields {', '.join(map(str, list(rows[0])[:12]))}. Say which is which: --map "
        "prompt=FIELD,completion=FIELD or prompt=FIELD,chosen=FIELD,rejected=FIELD."
    )


def write_kind(
    kind: str,
    chosen: list[Path],
    files: list[Path],
    target: Path,
    dropped: Counter[str],
    names: dict[str, str] | None,
) -> tuple[int, int]:
    """Write what files hold of a kind: how many characters or rows, and how many lost their beginning. In
    `files`, unlike those `chosen` for this kind, rows of other kinds are nothing bad.
    """
    usable = cut = 0
    paths = [*chosen, *files]
    with open(target, "w", encoding="utf-8", newline="") as file:
        if kind == "pretrain":
            for i, path in enumerate(paths):
                for text in texts_of(path, dropped, names, mixed=i >= len(chosen)):
                    usable += file.write(f"\n\n{text}" if usable else text)
            return usable, 0
        fields = FIELDS[file_name(kind)]
        for i, path in enumerate(paths):
            found = items_of(read_rows(path, dropped), fields, dropped, names, mixed=i >= len(chosen))
            for row, shortened in found:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                usable, cut = usable + 1, cut + shortened
    return usable, cut


def read_rows(path: Path, dropped: Counter[str]) -> Iterator:
    """What a JSONL file holds, line by line; counts the lines that are no JSON."""
    total = sum(1 for _ in lines_of(path))
    rows = parsed(filter(bytes.strip, lines_of(path)), dropped)
    first = list(islice(rows, 1))
    rows = chain(first, rows)
    if first and isinstance(first[0], dict) and {"message_id", "parent_id", "role"} <= set(first[0]):
        rows = grown(rows)
    if total < LONG_FILE:
        yield from rows
        return
    with Progress(f"read {path.name}", total) as progress:
        yield from progress.through(rows)


def parsed(lines: Iterable[bytes], dropped: Counter[str]) -> Iterator:
    for line in lines:
        if len(line) >= LONGEST:
            dropped[f"longer than {LONGEST / 2**20:.0f} MB"] += 1
            continue
        try:
            yield json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            dropped["not UTF-8 JSON"] += 1


def items_of(
    rows: Iterable,
    fields: tuple[str, ...],
    dropped: Counter[str],
    names: dict[str, str] | None = None,
    mixed: bool = False,
) -> Iterator[tuple[dict, bool]]:
    """The good rows, with just `fields`, and whether they lost their beginning; counts the bad ones. Among
    `mixed` rows, one with none of a kind's own fields is a good one of another kind, as is a text.
    """
    for row in rows:
        if mixed and text_in(row, names) is not None:
            continue
        try:
            found = normal_rows(row, names)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            dropped[str(error)] += 1
            continue
        several = mixed or len(found) > 1  # in a tree, a message with a single reply prefers nothing
        for item in found:
            wanted = fields_of(item, fields)
            own = [field in item for field in wanted[1:]] or ["prompt" in item]
            if several and not any(own):
                continue
            messages, shortened = fit_prompt(item.get("prompt"))
            side = {"split": split_of_prompt(to_messages(item["prompt"]))} if shortened else {}
            item = {"prompt": messages, **{f: plain(item.get(f)) for f in wanted[1:]}, **side}
            problem = "prompt empty, or not in turns" if messages is None else row_problem(item, fields)
            if problem:
                dropped[problem] += 1
            else:
                yield item, shortened


def plain(value):
    """An answer as text, and answers as texts; ranks as they are."""
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        return value
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return [answer_text(v) for v in value]
    return answer_text(value)


def texts_of(
    path: Path, dropped: Counter[str], names: dict[str, str] | None = None, mixed: bool = False
) -> Iterator[str]:
    """Text to pretrain on: of a text file, of JSONL with a `text`, or of dialogues, a turn a line.

    What is held out of the dialogues for measuring stays out here too: a base model that knew which answers
    people chose would make the reward model look better than it is.
    """
    if not path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        yield text_of(path)
        return
    for row in read_rows(path, dropped):
        text = text_in(row, names)
        if text is not None:
            yield text
            continue
        for item, _ in items_of([row], ("prompt", "completion"), dropped, names, mixed):
            if side_of(item) == "train":
                yield "\n".join([*(m["content"] for m in item["prompt"]), item["completion"]])
            else:
                dropped["held out for measuring"] += 1


def text_in(row, names: dict[str, str] | None) -> str | None:
    """The text of a row that is no more than a text. A demonstration or a tree may have one beside it, which
    is another form of the same.
    """
    text = row.get((names or {}).get("text", "text")) if isinstance(row, dict) else None
    if not is_text(text):
        return None
    with suppress(ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None if normal_rows(row, names) else text
    return text


def import_from_hub(folder: str | Path, name: str, split: str = "train", **options) -> None:
    """Import a data set of the Hub, or a folder in its format, by name; see `import_data`."""
    import datasets
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError

    try:
        found = datasets.load_dataset(name, split=split)
    except (DatasetNotFoundError, DataFilesNotFoundError) as error:
        raise CourseError(
            f"There is no data set {name} on the Hub that can be read, or it is gated or private ({error}). "
            "Check the name; accept its terms on its page, and log in with `hf auth login`."
        ) from None
    except ValueError as error:  # a split that is not there, or several configurations
        raise CourseError(f"{name} cannot be read: {str(error).split(chr(10))[0][:300]}") from None
    except (ConnectionError, OSError, RuntimeError) as error:
        raise CourseError(
            f"{name} could not be loaded ({type(error).__name__}). Where there is a network, run `hf "
            f"download {name} --repo-type dataset --local-dir FOLDER`, copy that folder to this machine, "
            "and name its files: rlhf data import DIR FILE."
        ) from None
    with TemporaryDirectory() as beside:
        path = Path(beside) / f"{Path(name).name}.jsonl"
        found.to_json(path, force_ascii=False)
        import_data(folder, files=[path], **options)
