"""`rlhf`: doctor, run, course, evidence, report, reset, chat, data, base, export and class, over the same
functions that the notebooks call.
"""

import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress

from rlhf_utils.course.arguments import parser, profile_of, still_to_do
from rlhf_utils.environment import ROOT, CourseError, printable, process, runs_folder
from rlhf_utils.profiles import Profile, load_profile

MOST_PROBLEMS = 100  # lines of a data folder that are shown


def run(arguments) -> None:
    from rlhf_utils.artifacts.lineage import TASTE, descendants
    from rlhf_utils.pipeline.stages import ensure, known_stages
    from rlhf_utils.pipeline.taste import FEWEST, usable_rankings

    profile = profile_of(arguments)
    known_stages(*filter(None, (arguments.until, arguments.force)))
    ranked = 0 if arguments.until else len(usable_rankings(profile.guideline))
    by_taste = not arguments.until and (ranked >= FEWEST or bool(arguments.guideline))
    until, force = arguments.until or "evaluate", arguments.force
    later = force if by_taste and force in TASTE else None  # then it is no concern of what comes before
    if force and not arguments.until and not later and until not in descendants(force):
        until = force  # a method of chapter 10, say, which `evaluate` does not need
    if arguments.plan or profile.name == "gpu":
        wanted = (until, "taste_evaluate") if by_taste else (until,)
        print(plan_text(profile, wanted, force))
    if arguments.plan:
        return
    store = ensure(until, profile, None if later else force, wait=False)
    print(f"{until} is ready in {store.folder(until)}")
    if until == "evaluate":
        from rlhf_utils.course.report import summary_table

        print(summary_table(store.metrics("evaluate")))
    if by_taste:
        until = "taste_evaluate"
        store = ensure(until, profile, later, wait=False)
    elif ranked:
        print(
            f"{ranked} of your rankings prefer one answer to another. With {FEWEST} or more, `rlhf run` also "
            "trains a model to your taste."
        )
    if until == "taste_evaluate":
        show_taste(store)


def plan_text(profile: Profile, wanted: tuple[str, ...], force: str | None = None) -> str:
    """What is missing for the `wanted` stages, and what it will take."""
    from rlhf_utils.artifacts.lineage import PARENTS, descendants
    from rlhf_utils.language.device import use_bf16
    from rlhf_utils.language.pretrained import sized
    from rlhf_utils.pipeline.stages import known_stages, open_store, to_be_built
    from rlhf_utils.training.plan import check_shapes, free_bytes, matrix_rate, parameters, plan

    known_stages(*wanted, *([force] if force else []))
    check_shapes(profile)
    store, forced = open_store(profile), set(descendants(force)) if force else set()
    missing = [s for s in PARENTS if to_be_built(store, s, wanted, forced, lambda text: None)]
    if not missing:
        return f"Everything is built in {store.root}: there is nothing to do."
    rate, free = matrix_rate(profile), free_bytes()
    table = plan(profile, rate, free, missing)
    millions, precision = parameters(sized(profile)) / 1e6, "bfloat16" if use_bf16(profile) else "float32"
    return (
        f"Profile {profile.name}: {millions:.1f} M parameters in {precision}; {free / 2**30:.1f} GB are "
        f"free, and this machine does {rate / 1e12:.2f} · 10¹² operations a second.\n"
        f"To be built: {', '.join(missing)}.\n{table.round(1).to_string() if len(table) else ''}\n"
        f"About {table.minutes.sum():.0f} minutes for the arithmetic of training alone; small models and "
        "short answers take longer."
    )


def show_taste(store) -> None:
    from rlhf_utils.look import Table
    from rlhf_utils.pipeline.taste_evaluation import taste_table

    metrics = store.metrics("taste_evaluate")
    print(
        f"\nYour taste ({metrics['rankings']['rankings']} rankings, weight "
        f"{metrics['own_weight']}):\n\n{Table(taste_table(metrics))}\n"
    )


def course(arguments) -> None:
    from rlhf_utils.course.chapters import run_course

    run_course(profile_of(arguments), arguments.chapters)


def evidence(arguments) -> None:
    from rlhf_utils.pipeline.claims.evidence import CLAIMS, evidence_file, gather, scoreboard

    profile = load_profile(arguments.profile)
    wanted = arguments.claims or list(CLAIMS)
    document = gather(profile, wanted, range(arguments.seeds))
    document["claims"] = [claim for claim in document["claims"] if claim["number"] in wanted]
    print(f"\n{scoreboard(document)}\n\nAll figures are in {evidence_file(profile)}")


def report(arguments) -> None:
    from rlhf_utils.course.report import summary_table, write_report
    from rlhf_utils.pipeline.stages import open_store

    store = open_store(profile_of(arguments))
    metrics = store.metrics("evaluate")
    taste = store.path("taste_evaluate").is_dir()
    if arguments.json:
        if taste:
            metrics["taste"] = json.loads(
                (store.folder("taste_evaluate") / "metrics.json").read_text("utf-8")
            )
        # What cannot be said is null: JSON knows no NaN.
        print(json.dumps(json.loads(json.dumps(metrics), parse_constant=lambda name: None), indent=1))
        return
    print(summary_table(metrics))
    if taste:
        show_taste(store)
    print(f"The whole report is in {write_report(store)}")


def reset(arguments) -> None:
    from rlhf_utils.artifacts.store import Store

    store = Store(profile_of(arguments))
    if not store.root.is_dir():
        return print(f"There is nothing in {store.root}.")
    if not arguments.yes and not agreed(
        f"Delete the models and data that were built in {store.root}? Rankings are kept. [y/N] "
    ):
        return print("Nothing was deleted.")
    print(f"Deleted: {', '.join(f.name for f in store.reset()) or 'nothing'}. Your rankings were left alone.")


def agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to answer
        print()
        return False


def chat(arguments) -> None:
    if arguments.ask is not None and not arguments.ask.strip():
        raise CourseError('--ask is empty. Ask something, for example: rlhf chat --ask "What do cows eat?"')
    from rlhf_utils.course.talk import open_chats, say, talk
    from rlhf_utils.pipeline.stages import open_store

    profile = profile_of(arguments)
    store = open_store(profile)
    chats = open_chats(store, arguments.model, arguments.temperature, arguments.prompted)
    if arguments.ask is not None:
        return say(chats, arguments.ask)
    world = "countries, animals, foods, jobs, elements and planets"
    talk(chats, store, arguments.prompted, f"what is in {profile.data}" if profile.data else world)


def data(arguments) -> None:
    from rlhf_utils.pipeline.data_rows import check_data
    from rlhf_utils.pipeline.importing import import_data, import_from_hub

    if arguments.action == "export":
        return export_rankings(arguments)
    folder = shlex.quote(str(arguments.folder))
    if arguments.action == "check":
        problems = check_data(arguments.folder)
        if problems:
            more = [f"… and {len(problems) - MOST_PROBLEMS:,} more"] * (len(problems) > MOST_PROBLEMS)
            end = f"{len(problems):,} problems. Fix these lines, or let `rlhf data import` drop bad rows."
            raise CourseError("\n".join([*problems[:MOST_PROBLEMS], *more, end]))
        return print(f"{arguments.folder} is ready: rlhf run --data {folder}")
    kinds = {k: getattr(arguments, k) for k in ("pretrain", "demonstrations", "comparisons", "prompts")}
    options = {"replace": arguments.replace, "names": arguments.map}
    if arguments.from_hub:
        if arguments.files or any(kinds.values()):
            raise CourseError("Import with --from-hub and from files one after the other, into two folders.")
        import_from_hub(arguments.folder, arguments.from_hub, arguments.split, **options)
    else:
        import_data(arguments.folder, files=arguments.files, **options, **kinds)
    print(f"Written to {arguments.folder}. Next: rlhf data check {folder} && rlhf run --data {folder}")


def export_rankings(arguments) -> None:
    from pathlib import Path

    from rlhf_utils.artifacts.files import write_jsonl
    from rlhf_utils.ranking.pairs import FORMATS
    from rlhf_utils.ranking.store import own_rankings

    rows = FORMATS[arguments.format](own_rankings(arguments.guideline))
    if not rows:
        raise CourseError(
            "You have no rankings to export. Rank some in chapter 04 first, or choose those of chapter 11: "
            "--guideline english"
        )
    write_jsonl(Path(arguments.folder), rows)
    print(f"{len(rows):,} rows written to {arguments.folder}, in the format of {arguments.format}.")


def export(arguments) -> None:
    from rlhf_utils.pipeline.export import export_model
    from rlhf_utils.pipeline.stages import open_store

    folder = export_model(open_store(profile_of(arguments)), arguments.stage, arguments.folder)
    print(
        f"Written to {folder}. To talk to it with transformers[serving]: transformers serve {folder}, and in "
        f"another terminal transformers chat {folder}. For llama.cpp, whose converter knows only the "
        f"tokenizers of published bases, in a clone of it: python convert_hf_to_gguf.py {folder} --outfile "
        "model.gguf"
    )


def base(arguments) -> None:
    from rlhf_utils.pipeline.from_gguf import make_base

    folder = make_base(arguments.name, arguments.folder)
    print(f"{folder} is ready: rlhf run --base {folder}, or chapter 11")


def classroom(arguments) -> None:
    from rlhf_utils.course import classes

    {"init": classes.init, "status": classes.status, "reset-password": classes.reset}[arguments.action](
        arguments
    )


def doctor(arguments) -> None:
    from rlhf_utils.course.doctor import diagnose

    lines, ready = diagnose(ROOT, runs_folder())
    print("\n".join(lines))
    if not ready:
        raise CourseError("This machine is not ready yet: fix what the lines marked ✗ say.")
    print("Ready. Start with: rlhf course, or jupyter lab chapters/00_start_here.ipynb")


def main(words: list[str] | None = None) -> int:
    """Exit status: 0; 1 for an error that nobody foresaw; 2 for what the user can mend (one message, no
    traceback); 130 after Ctrl-C.
    """
    words = sys.argv[1:] if words is None else words
    arguments, started = parser().parse_args(words), time.time()
    todo = {
        "run": run,
        "course": course,
        "evidence": evidence,
        "report": report,
        "reset": reset,
        "chat": chat,
        "data": data,
        "base": base,
        "export": export,
        "doctor": doctor,
        "class": classroom,
    }
    try:
        if process()[0] > 0:  # with `torchrun`, one process speaks for all
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        # A shell may have switched it off for what runs in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        todo[arguments.command](arguments)
        sys.stdout.flush()
    except CourseError as error:
        return complain(str(error))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        again = shlex.join(["rlhf", *still_to_do(arguments, words, started)])
        again = re.sub(r"(://[^\s:/@]+):[^\s@]*@", r"\1@", again)  # without a password
        print(f"\nStopped. Finished stages are kept; go on with: {again}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # worker threads of torch may take longer to end than a person waits
    except BrokenPipeError:
        os._exit(0)
    except OSError as error:  # a disk that is full or read-only, a folder that is gone
        where = f" ({error.filename})" if error.filename else ""
        return complain(f"{error.strerror or error}{where}. What was finished before is kept.")
    except Exception as error:
        if "No space left" in str(error) or "os error 28" in str(error):  # said by a library's own writer
            return complain("The disk is full. What was finished before is kept; free some space.")
        return complain(unforeseen(error), status=1)
    return 0


def complain(text: str, status: int = 2) -> int:
    with suppress(OSError):  # nobody listens
        print(f"rlhf: {printable(text)}", file=sys.stderr, flush=True)
    return status


def unforeseen(error: Exception) -> str:
    """What to say of an error that nobody thought of: in a line, with the whole story in a file."""
    kind = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="rlhf-", suffix=".txt", delete=False) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return f"This should not happen ({kind}). Please report it."
    return f"This should not happen ({kind}). Please report it with {file.name}."


def entry() -> None:
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # closed by the shell: what is opened next would stand in its place
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        # A "✓" is "?" where the code page has none, as Windows' when output goes to a file.
        stream.reconfigure(errors="replace")
    status = main()
    try:
        sys.stdout.flush()
    except OSError:  # main has said so; Python would try, and complain, once more
        os._exit(status or 2)
    sys.exit(status)


if __name__ == "__main__":
    entry()
