"""`rlhf`: doctor, run, course, report, chat and data, over the same functions that the notebooks call."""

import argparse
import json
import os
import signal
import sys

from rlhf_utils.profiles import PROFILES, ROOT, CourseError, load_profile, runs_folder

MODELS = ("base", "sft", "ppo", "ppo-ptx")


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="rlhf", description="Train your own ChatGPT: from raw text to a small aligned model.")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if name not in ("doctor", "data"):
            sub.add_argument("--profile", help=f"one of {', '.join(PROFILES)} (default: RLHF_PROFILE, else laptop)")
            sub.add_argument("--seed", type=whole, help="0 by default; other seeds get folders of their own")
            sub.add_argument("--data", metavar="DIR", help="a folder of your own data instead of the small world")
        return sub

    command("doctor", "Say whether this machine is ready, and what to do if not.")
    run = command("run", "Build what is missing, from text to an evaluated policy.")
    run.add_argument("--until", metavar="STAGE", default="evaluate", help="the last stage to build (default: evaluate)")
    run.add_argument("--force", metavar="STAGE", help="build this stage and all that follow anew")
    course = command("course", "Execute the chapters in order and write report.html.")
    course.add_argument("--chapters", metavar="NUMBER", nargs="*", help="only these, for example 02 03")
    report = command("report", "Show the results, and write report.html.")
    report.add_argument("--json", action="store_true", help="print all figures as JSON")
    chat = command("chat", "Talk to a model.")
    chat.add_argument("--model", default="ppo-ptx", help=f"one of {', '.join(MODELS)} (default: ppo-ptx)")
    chat.add_argument("--ask", metavar="TEXT", help="answer once and exit")
    chat.add_argument("--temperature", type=float, default=0.7)
    data = command("data", "Check or import a folder of your own data.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="list all problems of a data folder")
    check.add_argument("folder", metavar="DIR")
    load = actions.add_parser("import", help="turn text, instructions, hh-rlhf or TRL files into a data folder")
    load.add_argument("folder", metavar="DIR")
    for kind in ("pretrain", "demonstrations", "comparisons", "prompts"):
        load.add_argument(f"--{kind}", metavar="FILE", action="append", default=[], help="may be given more than once; gzip is fine")
    return main


def whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, not {text!r}")
    return int(text)


def run(arguments) -> None:
    from rlhf_utils.stages import ensure

    profile = load_profile(arguments.profile, arguments.seed, arguments.data)
    store = ensure(arguments.until, profile, arguments.force, wait=False)
    print(f"{arguments.until} is ready in {store.folder(arguments.until)}")
    if arguments.until == "evaluate":
        from rlhf_utils.report import summary_table

        print(summary_table(json.loads((store.folder("evaluate") / "metrics.json").read_text("utf-8"))))


def course(arguments) -> None:
    from rlhf_utils.course import run_course

    run_course(load_profile(arguments.profile, arguments.seed, arguments.data), arguments.chapters)


def report(arguments) -> None:
    from rlhf_utils.artifacts import Store
    from rlhf_utils.report import summary_table, write_report

    store = Store(load_profile(arguments.profile, arguments.seed, arguments.data))
    metrics = json.loads((store.folder("evaluate") / "metrics.json").read_text("utf-8"))
    if arguments.json:
        print(json.dumps(metrics, indent=1))
        return
    print(summary_table(metrics))
    print(f"The whole report is in {write_report(store)}")


def chat(arguments) -> None:
    from rlhf_utils.artifacts import Store
    from rlhf_utils.chat import Chat

    if arguments.ask is not None and not arguments.ask.strip():
        raise CourseError('--ask is empty. Ask something, for example: rlhf chat --ask "What do cows eat?"')
    conversation = Chat(Store(load_profile(arguments.profile, arguments.seed, arguments.data)), arguments.model, arguments.temperature)

    def say(text: str) -> None:
        for piece in conversation.ask(text):
            print(piece, end="", flush=True)
        print()

    if arguments.ask is not None:
        return say(arguments.ask)
    print(f"You are talking to {arguments.model}. It knows countries, animals, foods, jobs, elements and planets. Leave with Ctrl-D.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            return print()
        if text.strip():
            say(text)


def data(arguments) -> None:
    from rlhf_utils.own_data import check_data, import_data

    if arguments.action == "check":
        problems = check_data(arguments.folder)
        if problems:
            raise CourseError("\n".join([*problems, f"{len(problems)} problems. Mend these lines, or let `rlhf data import` drop bad rows."]))
        return print(f"{arguments.folder} is ready: rlhf run --data {arguments.folder}")
    kinds = {k: getattr(arguments, k) for k in ("pretrain", "demonstrations", "comparisons", "prompts")}
    import_data(arguments.folder, **kinds)
    print(f"Written to {arguments.folder}. Next: rlhf data check {arguments.folder} && rlhf run --data {arguments.folder}")


def doctor(arguments) -> None:
    from rlhf_utils.doctor import diagnose

    lines, ready = diagnose(ROOT, runs_folder())
    print("\n".join(lines))
    if not ready:
        raise CourseError("This machine is not ready yet: mend the lines marked ✗.")
    print("Ready. Start with: rlhf course, or jupyter lab chapters/00_start_here.ipynb")


def main(words: list[str] | None = None) -> int:
    """Exit status: 0, 2 for what the user can mend (one message, no traceback), 130 after Ctrl-C."""
    arguments = parser().parse_args(words)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off for what runs in the background
    try:
        {"run": run, "course": course, "report": report, "chat": chat, "data": data, "doctor": doctor}[arguments.command](arguments)
    except CourseError as error:
        print(f"rlhf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        again = " ".join(["rlhf", *(words if words is not None else sys.argv[1:])])
        print(f"\nStopped. Finished stages are kept; go on with: {again}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(130)  # worker threads of torch may take longer to end than a person waits
    except BrokenPipeError:
        os._exit(0)
    return 0


def entry() -> None:
    sys.exit(main())


if __name__ == "__main__":
    entry()
