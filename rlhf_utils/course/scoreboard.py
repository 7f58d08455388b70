"""The report's second half: what the field claims and what was measured of it, all models in one table, and
answers to look at.
"""

from html import escape

import numpy as np
import pandas as pd

from rlhf_utils import look
from rlhf_utils.environment import CourseError
from rlhf_utils.pipeline.claims.claim import NOT_SUPPORTED, SUPPORTED
from rlhf_utils.pipeline.claims.evidence import REFERENCE, evidence_file, read_evidence, seeds_of, written
from rlhf_utils.profiles import MODELS, Profile
from rlhf_utils.ranking.matches import bradley_terry

STYLE = """
.claim { background: var(--card); border-radius: 10px; padding: .8rem 1rem; margin: 1rem 0;
  break-inside: avoid; }
.claim p { margin: .25rem 0; } .claim svg { display: block; max-width: 100%; }
.verdict { font-weight: 700; border-radius: 4px; padding: 0 .4em; white-space: nowrap; }
.verdict.yes { background: rgba(0,158,115,.3); } .verdict.no { background: rgba(213,94,0,.3); }
.verdict.open { background: rgba(128,132,142,.3); }
"""
SIGN = {SUPPORTED: ("yes", "✓"), NOT_SUPPORTED: ("no", "✗")}
WIDE, HIGH, EDGE = 260, 22, 6  # pixels of a rule's picture


def picture(rule: dict) -> str:
    """An interval as a line with a dot, and the limit that it is held against, dashed, as SVG.

    Empty without a figure.
    """
    if rule["value"] is None:
        return ""
    ends = [rule["low"], rule["high"], rule["limit"], 0.0]
    least, most = min(ends), max(ends)
    room = (most - least) or 1.0

    def x(value: float) -> float:
        return round(EDGE + (value - least) / room * (WIDE - 2 * EDGE), 1)

    low, value, high, limit = (x(rule[k]) for k in ("low", "value", "high", "limit"))
    middle = HIGH / 2
    said = escape(f"{written(rule)}; the limit is {rule['limit']:g}")
    return (
        f'<svg width="{WIDE}" height="{HIGH}" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{said}">'
        f'<line x1="{limit}" x2="{limit}" y1="1" y2="{HIGH - 1}" stroke="currentColor" '
        f'stroke-dasharray="3 3"/>'
        f'<line x1="{low}" x2="{high}" y1="{middle}" y2="{middle}" stroke="{look.COLOURS["sft"]}" '
        f'stroke-width="4"/><circle cx="{value}" cy="{middle}" r="5" fill="{look.COLOURS["sft"]}"/></svg>'
    )


def claim_card(claim: dict) -> str:
    kind, sign = SIGN.get(claim["verdict"], ("open", "?"))
    count = len(seeds_of(claim))
    lines = [
        f"<p><b>{int(claim['number'])}. {escape(claim['says'])}</b> "
        f'<span class="verdict {kind}">{sign} {escape(claim["verdict"])}</span></p>',
        f"<p class=note>{escape(claim['source'])}; {count} {'run' if count == 1 else 'runs'}</p>",
    ]
    for rule in claim["rules"]:
        lines.append(f"<p>{escape(rule['rule'])}. Measured: {escape(written(rule))}</p>{picture(rule)}")
    if claim["note"]:
        lines.append(f"<p class=note>{escape(claim['note'])}</p>")
    return f"<div class=claim>{''.join(lines)}</div>"


def evidence_of(profile: Profile) -> tuple[dict, bool] | None:
    """The evidence to show, and whether it is the reader's own; None if there is none that can be read."""
    for path in (evidence_file(profile), REFERENCE):
        if path.is_file():
            try:
                return read_evidence(path), path != REFERENCE
            except CourseError:
                continue
    return None


def claims_part(profile: Profile) -> list[str]:
    found = evidence_of(profile)
    if found is None:
        return []
    document, own = found
    whose = (
        "your own runs"
        if own
        else "the runs that come with the course (<code>rlhf evidence</code> measures yours)"
    )
    counts = [len(seeds_of(claim)) for claim in document["claims"]]
    runs = " to ".join(map(str, sorted({min(counts, default=0), max(counts, default=0)})))
    verdicts = pd.Series([claim["verdict"] for claim in document["claims"]]).value_counts()
    counted = ", ".join(f"{count} {escape(verdict)}" for verdict, count in verdicts.items())
    return [
        "<h2>What the field claims</h2>",
        f"<p>Measured on {whose}, each claim on {runs} {'run' if runs == '1' else 'runs'}: {counted}. Each "
        "rule was fixed beforehand, unless docs/claims.md says otherwise. The dot is the mean over runs, the "
        "bar its 95 % interval, the dashed line the limit that it is held against.</p>",
        *map(claim_card, document["claims"]),
    ]


def models_table(rows: list[dict]) -> pd.DataFrame:
    """Bradley–Terry strengths of all models, in log-odds, by gold of their answers at temperature 1."""
    played = []
    for row in rows:
        scores = {n: row["gold"][n]["t1"]["total"][0] for n in MODELS}
        ranks = [1 + sum(other > own + 1e-9 for other in scores.values()) for own in scores.values()]
        played.append({"models": list(scores), "ranks": ranks})
    table = bradley_terry(played, draws=100)
    table["model"] = [MODELS[name].written for name in table["model"]]
    return table


def gallery(rows: list[dict], count: int = 4) -> list[dict]:
    """PPO-ptx's most improved answers over SFT's, and its worst, as rows for a table; one a use case."""
    gold = {n: np.array([r["gold"][n]["greedy"]["total"][0] for r in rows]) for n in ("sft", "ppo_ptx")}
    found = []
    for words, value in (("gained", gold["ppo_ptx"] - gold["sft"]), ("worst", -gold["ppo_ptx"])):
        seen: set[str] = set()
        for i in np.argsort(-value, kind="stable"):
            row = rows[i]
            sft, ptx = (row["answers"][n]["greedy"][0] for n in ("sft", "ppo_ptx"))
            if row["use_case"] in seen or sft == ptx or len(seen) == count:
                continue
            seen.add(row["use_case"])
            found.append(
                {
                    "chosen as": words,
                    "prompt": "\n".join(m["content"] for m in row["messages"]),
                    "SFT": look.Answer(sft, float(gold["sft"][i])),
                    "PPO-ptx": look.Answer(ptx, float(gold["ppo_ptx"][i]), before=sft),
                }
            )
    return found
