"""`rlhf evidence`: claims are measured seed by seed, kept as they come, and decided by their rules."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rlhf_utils.artifacts.progress import Progress, duration
from rlhf_utils.environment import DATA, CourseError, runs_folder
from rlhf_utils.look import Table
from rlhf_utils.pipeline.claims import (
    averaged,
    best_of_n,
    best_only,
    context,
    continues,
    epochs,
    generalises,
    harms,
    labelers,
    manners,
    minutes,
    mistakes,
    mix,
    nine,
    online,
    penalty,
    perfect,
    plain_head,
    preferred,
    programs,
    refreshed,
    rules,
    shots,
    shuffled,
    sizes,
    tax,
    tenfold,
    ties,
    turns,
    unranked,
    voice,
    wishes,
)
from rlhf_utils.pipeline.claims.claim import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Bench, Claim, over_seeds
from rlhf_utils.pipeline.claims.kept import keep, kept
from rlhf_utils.pipeline.stages import ensure, open_store
from rlhf_utils.profiles import Profile

VERSION = 1
MORE_RUNS = """
Most claims have three runs, seeds 0 to 2. Three runs are few: where they differ, the interval is wide. Claim
14, whose runs once differed most, has eight runs, and so have the claims that train no model of their own:
1, 10, 12, 15, 16, 17, 18, 20, 21 and 23. Claims 30, 31 and 32, which came last, have five. All models were
trained on processors that have bfloat16.

All claims had been measured before, on models whose SFT had learned to predict the prompts of the
demonstrations as well as the answers, since a trainer's option was missing. After three runs the claims with
eight runs were measured on five more, and before those were trained it was written down which claims that
would be, and that all eight runs would decide. With the option set, SFT has a higher gold score. So
everything was measured again, on as many new runs. Anyone who looks twice is wrong somewhat more often than
one time in twenty.

Before the last of these measurements, when all eight older runs were known and three of the new ones had
been measured by the rules as they stood, some rules were made stricter, or made to ask what their claim
says. Claim 1 counts the first line alone. 10 also compares PPO-ptx with SFT at the best temperature of each,
and 15 greedy answers and another chooser. 12 leaves out what does not exist, asks greedily as well, draws
four answers to each insult, and allows half as much change of bias. 16 counts refusals and not every useless
answer, and a denial excuses a falsehood. 17 and 18 must reach a limit, too, and not only beat their rival,
and 17 asks for an apology; in 18 that rival is asked better. 20 chooses its rival on other rankings than
those that decide. 21 also compares answers of equal gold, and 32 has a control. The plain questions of 1 and
16 stand in no document any more. No rule was made easier, except that of claim 1, afterwards, as its note
says.

When the first rules of claims 8, 10, 12, 13, 17 and 18 were written, the evaluation of seed 0 was known
already, and that of the other seeds was not.
"""
MODULES = (
    continues,
    shots,
    context,
    epochs,
    nine,
    shuffled,
    best_only,
    labelers,
    sizes,
    preferred,
    tenfold,
    harms,
    tax,
    penalty,
    best_of_n,
    mistakes,
    manners,
    generalises,
    mix,
    rules,
    ties,
    minutes,
    voice,
    programs,
    refreshed,
    plain_head,
    online,
    averaged,
    unranked,
    perfect,
    wishes,
    turns,
)
CLAIMS: dict[int, Claim] = {module.CLAIM.number: module.CLAIM for module in MODULES}
REFERENCE = DATA / "reference" / "evidence.json"


def evidence_file(profile: Profile) -> Path:
    """Where the evidence of one's own runs is kept."""
    return runs_folder() / f"evidence-{profile.name}.json"


def gather(profile: Profile, numbers: Sequence[int], seeds: Sequence[int], say=print) -> dict:
    """Measure claims on the runs of these seeds, which are built where they are missing, and write
    `evidence_file`; returns what it holds.

    What was measured on the same models by the same code is not measured again, so an interrupted command
    goes on.
    """
    if profile.data or profile.base or profile.lora:
        raise CourseError(
            "Claims are measured on the course's own models in the small world, whose facts are known: unset "
            "RLHF_DATA, RLHF_BASE and RLHF_LORA."
        )
    unknown = [number for number in numbers if number not in CLAIMS]
    if unknown:
        raise CourseError(
            f"There is no measurement of a claim {unknown[0]}. Choose from: {', '.join(map(str, CLAIMS))}."
        )
    numbers = list(dict.fromkeys(numbers))
    runs_folder().mkdir(parents=True, exist_ok=True)
    with Progress("evidence", len(numbers) * len(seeds), runs_folder()) as progress:
        for seed in seeds:
            bench, own = None, replace(profile, seed=seed)
            # What is out of date is built first: what was measured on it does not hold any more.
            ensure({stage for number in numbers for stage in CLAIMS[number].stages}, own)
            for number in numbers:
                started = time.monotonic()
                if kept(open_store(own), CLAIMS[number]) is None:
                    bench = bench or Bench(own, CLAIMS[number].stages)
                    keep(bench, CLAIMS[number])
                    say(f"claim {number}, seed {seed}: measured in {duration(time.monotonic() - started)}")
                progress.step()
    document = {
        "version": VERSION,
        "profile": profile.name,
        "seeds": list(seeds),
        "claims": [decided(claim, rows) for claim, rows in of_all_seeds(profile, seeds)],
    }
    before = []
    with suppress(CourseError):  # there is none, or it is of another version
        before = read_evidence(evidence_file(profile))["claims"]
    lost = {claim["number"] for claim in before} - {claim["number"] for claim in document["claims"]}
    if lost:
        again = f"--claims {','.join(map(str, sorted(lost)))} --seeds {len(seeds)}"
        say(f"Left out, since models, code or runs are others now: rlhf evidence {again}")
    partial = evidence_file(profile).with_suffix(".new")
    partial.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    os.replace(partial, evidence_file(profile))
    return document


def of_all_seeds(profile: Profile, seeds: Sequence[int]) -> Iterator[tuple[Claim, list[dict]]]:
    """Every claim that was measured on all of these runs, now or before, with its rows."""
    for number, claim in CLAIMS.items():
        found = [kept(open_store(replace(profile, seed=seed)), claim) for seed in seeds]
        if None not in found:
            yield (
                claim,
                [row | {"claim": number, "seed": seed} for seed, rows in zip(seeds, found) for row in rows],
            )


def decided(claim: Claim, rows: list[dict]) -> dict:
    """A claim with its figures over all seeds, and what its rules say of them.

    It is supported if all of them say so, and not supported if one says that.
    """
    by_key: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        by_key.setdefault((row["condition"], row["metric"]), []).append(row)
    seeds = {row["seed"] for row in rows}
    # Of some seeds alone there is no figure of all: what one of them lacks stays undecided.
    by_key = {key: found for key, found in by_key.items() if len(found) == len(seeds)}
    figures = [{"condition": c, "metric": m} | over_seeds(found) for (c, m), found in by_key.items()]
    tried = []
    for rule in claim.rules:
        found = by_key.get((rule.condition, rule.metric))
        pooled = over_seeds(found) if found else {"value": None, "low": None, "high": None}
        verdict = rule.verdict(pooled["low"], pooled["high"]) if found else UNDECIDED
        tried.append({"rule": str(rule), "limit": rule.limit, "verdict": verdict} | pooled)
    verdicts = {rule["verdict"] for rule in tried}
    verdict = next((v for v in (NOT_SUPPORTED, UNDECIDED) if v in verdicts), SUPPORTED)
    return {
        "number": claim.number,
        "says": claim.says,
        "source": claim.source,
        "note": claim.note,
        "verdict": verdict,
        "rules": tried,
        "figures": figures,
        "rows": rows,
    }


def read_evidence(path: Path) -> dict:
    """What `gather` wrote. Raises CourseError for a file of another version, or that is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
        version, _, _ = found["version"], found["seeds"], found["claims"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"{path} holds no evidence ({type(error).__name__}). Measure it with: rlhf evidence"
        ) from None
    if version != VERSION:
        raise CourseError(
            f"{path} is of version {version!r:.20}, and this is version {VERSION}. Measure again with: "
            "rlhf evidence"
        )
    return found


def course_figures(number: int) -> dict[tuple[str, str], dict]:
    """What the course's own runs measured of a claim: (condition, metric) → `value`, `low`, `high`."""
    claims = read_evidence(REFERENCE)["claims"]
    figures = next(claim["figures"] for claim in claims if claim["number"] == number)
    return {(f["condition"], f["metric"]): f for f in figures}


def course_runs(number: int) -> dict[tuple[str, str], list[float]]:
    """The same run by run: (condition, metric) → a value of each run, in the order of their seeds."""
    claims, found = read_evidence(REFERENCE)["claims"], {}
    for row in next(claim["rows"] for claim in claims if claim["number"] == number):
        found.setdefault((row["condition"], row["metric"]), []).append(row["value"])
    return found


def seeds_of(claim: dict) -> list[int]:
    """The runs that a claim was measured on, by their seeds."""
    return sorted({row["seed"] for row in claim["rows"]})


def written(found: dict) -> str:
    """ "0.42 (0.38 to 0.46)", of a figure that may be missing. An end that only rounding puts on a rule's
    limit has four digits, so that one sees on which side it lies.
    """
    if found["value"] is None:
        return "–"
    limit = found.get("limit")

    def rounded(value: float, digits: int = 2) -> str:
        return f"{round(value, digits) + 0.0:.{digits}f}"

    def end(value: float) -> str:
        on_limit = limit is not None and round(value, 2) == round(limit, 2) and value != limit
        return rounded(value, 4 if on_limit else 2)

    return f"{rounded(found['value'])} ({end(found['low'])} to {end(found['high'])})"


def scoreboard(document: dict) -> Table:
    """Claims with what decides them, a line a rule."""
    rows = []
    for claim in document["claims"]:
        for i, rule in enumerate(claim["rules"]):
            first = {
                "": claim["number"],
                "claim": f"{claim['says']} → {claim['verdict']}",
                "runs": len(seeds_of(claim)),
            }
            rows.append(
                (first if i == 0 else dict.fromkeys(first, ""))
                | {"rule": f"{rule['rule']} → {rule['verdict']}", "measured": written(rule)}
            )
    return Table(rows, width=150, most=len(rows))


def page(document: dict) -> str:
    """The same as a page in Markdown, with what each claim's measurement assumes."""
    counted = Counter(claim["verdict"] for claim in document["claims"])
    lines = [
        "# What the field claims, and what was measured of it",
        "",
        f"The figures below come from runs of the profile `{document['profile']}` with seeds 0, 1, …, and",
        "were measured by `rlhf evidence`; each claim says how many runs it was measured on. Each rule was",
        "written down before its first measurement, except where a note or one of these paragraphs says",
        "otherwise. A claim is supported if the whole 95 % interval of each figure in its table lies on the",
        "right side of the limit, not supported if even one whole interval lies on the wrong side, and",
        "undecided otherwise. Each interval is the wider of two: one over the runs, and one over the things",
        "that the prompts are about (where rankings are counted, over rankings; of losses, over windows of",
        "text). Where both are about equally wide, it is somewhat too narrow. Unless a note says otherwise,",
        "the prompts are about things that no training prompt is about. Documents keep clear of the",
        "evaluation's prompts. Of those that a claim asks beside them, many plain questions stand in some",
        "document, if its note does not say otherwise. *Gold* is the score from 0 to 1 that the small",
        "world's judge gives.",
        "*Greedy* answers take the likeliest token each time; *at temperature 1* they are drawn. *Wins of",
        "those decided* leave out ties. Losses and KL are in *nats*, units of the natural logarithm.",
        "",
        f"Of {len(document['claims'])} claims, {counted[SUPPORTED]} are supported, "
        f"{counted[NOT_SUPPORTED]} are not, and {counted[UNDECIDED]} are undecided. A claim with",
        "several rules is only as good as the worst of them: look at its table, and at the note below it.",
        MORE_RUNS,
    ]
    for claim in document["claims"]:
        lines += [
            f"## {claim['number']}. {claim['says']}",
            "",
            f"*{claim['source']}* **{claim['verdict']}**, {len(seeds_of(claim))} runs",
            "",
        ]
        lines += ["| rule | measured | it says |", "|---|---|---|"]
        lines += [f"| {r['rule']} | {written(r)} | {r['verdict']} |" for r in claim["rules"]]
        lines += ["", claim["note"], ""] if claim["note"] else [""]
    return "\n".join(lines).rstrip() + "\n"
