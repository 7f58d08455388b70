"""`rlhf class`: set up a class's database, say how far the class is, give a student another password."""

import sys
from pathlib import Path

from sqlalchemy.engine import URL

from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.environment import CourseError
from rlhf_utils.profiles import load_profile
from rlhf_utils.ranking.classroom import class_rows, class_status, init_class, reset_password, write_passwords
from rlhf_utils.ranking.store import RankingStore, make_engine


def database(arguments) -> URL:
    """The administrator's URL; a CourseError if it is none."""
    url = make_engine(arguments.db).url
    if not url.database:
        raise CourseError("The URL names no database: postgresql+psycopg://ADMIN@HOST/NAME.")
    if url.password:
        print(
            "Note: other users of this machine can see a password on a command line, and your shell keeps it "
            "in its history. Leave it out, and put HOST:PORT:NAME:ADMIN:PASSWORD into ~/.pgpass.",
            file=sys.stderr,
        )
    return url


def read_names(file: str) -> list[str]:
    try:
        return Path(file).read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise CourseError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise CourseError(f"{file} is not UTF-8 text (byte {error.start}).") from None


def read_items(file: str) -> list[dict]:
    try:
        rows = read_jsonl(Path(file))
    except OSError as error:
        raise CourseError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise CourseError(f"{file} is not JSON Lines ({type(error).__name__}: {error}).") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise CourseError(f"{file}, row {number} is not a JSON object.")
    return rows


def sampled_items(arguments) -> list[dict]:
    """Prompts of the corpus, answered by the SFT model."""
    from rlhf_utils.pipeline.rank import items_to_rank
    from rlhf_utils.pipeline.stages import ensure

    options = {name: getattr(arguments, name) for name in ("base", "lora", "start")}
    profile = load_profile(arguments.profile, arguments.seed, arguments.data, **options)
    store = ensure(("corpus", "tokenizer", "sft"), profile)
    return items_to_rank(profile, store, store.prompts("ppo")[: arguments.prompts])


def init(arguments) -> None:
    url = database(arguments)
    if not arguments.students:
        raise CourseError("Who is in the class? Give --students FILE with one name a line.")
    names = read_names(arguments.students)
    rows = read_items(arguments.items) if arguments.items else sampled_items(arguments)
    file = Path(arguments.passwords)
    passwords = init_class(
        url,
        names,
        rows,
        arguments.rankers,
        arguments.shared,
        arguments.guideline,
        keep=lambda found: write_passwords(url, found, file),
    )
    print(
        f"The class is ready: {len(rows)} items. Passwords of {len(passwords)} new students are in {file}, "
        "one line for each ~/.pgpass. If one gets lost: rlhf class reset-password --db ADDRESS "
        "--student NAME."
    )
    # Without a name: each student connects as themselves.
    shown = url._replace(username=None, password=None).render_as_string()
    print(f"Students set RLHF_RANKINGS={shown} and open chapters/04_collect_rankings.ipynb.")


def status(arguments) -> None:
    url = database(arguments)
    progress, agreement = class_status(url)
    print(f"{progress.to_string()}\n\n{agreement.round(2).to_string(index=False)}")
    store = RankingStore(url)
    rows = class_rows(store)
    if store.skipped:
        print("\nLeft out (not rankings): " + " ".join(f"{text}." for text in store.skipped[:20]))
    if arguments.export:
        write_jsonl(Path(arguments.export), [{k: v for k, v in r.items() if k != "id"} for r in rows])
        print(f"\n{len(rows)} rankings written to {arguments.export}")


def reset(arguments) -> None:
    url, file = database(arguments), Path(arguments.passwords)
    if not arguments.student:
        raise CourseError("Whose password? Give --student NAME.")
    reset_password(url, arguments.student, lambda found: write_passwords(url, found, file))
    print(f"The new password of {arguments.student} is in {file}, as a line for ~/.pgpass.")
