"""What a ranker is told while ranking: how practice went and why, and how far one agrees with others and
with oneself.
"""

import json
from collections.abc import Sequence
from itertools import combinations

from rlhf_utils.environment import DATA
from rlhf_utils.ranking.items import Item, pair_counts
from rlhf_utils.ranking.session import RankingSession

TOLD_EVERY = 10  # rankings
REPEATED = (2, 5)  # numbers of the items that come once more, and after how many others
LATER = 9


def practice_items() -> list[dict]:
    """Prompts whose order is known, with what there is to say of each answer."""
    return json.loads((DATA / "ranking" / "practice.json").read_text("utf-8"))


def with_repeats(rows: Sequence[dict]) -> list[dict]:
    """The rows, two of which come a second time, so that one sees how far one agrees with oneself."""
    made = list(rows)
    for number in REPEATED if len(made) > max(REPEATED) + LATER else ():
        row = rows[number]
        again = row | {"id": f"{row['id']}:again", "repeats": str(row["id"])}
        place = next(i for i, x in enumerate(made) if x is row)
        made.insert(place + LATER, again)
    return made


def screening(session: RankingSession) -> dict | None:
    """How well the practice items went: `agreement` with the known ranks, as a share of the pairs, and how
    many `items`; None before the first.
    """
    rows = session.done
    marks = [
        pair_counts(rows[i.id]["ranks"], i.known)
        for i in session.items
        if i.known and rows.get(i.id, {}).get("ranks")
    ]
    total = sum(strict for _, strict in marks)
    return {"agreement": sum(alike for alike, _ in marks) / total, "items": len(marks)} if total else None


def lesson(item: Item, ranks: Sequence[int]) -> dict:
    """What practice on an item says: `alike` of `strict` pairs as we order them, and where another order was
    given, the pair that lies farthest apart: what was put `above`, what `below`, and `why` not.

    Tying two answers that differ counts as no pair, but is named.
    """
    alike, _ = pair_counts(ranks, item.known)
    pairs = [(i, j) for i, j in combinations(range(len(ranks)), 2) if item.known[i] != item.known[j]]
    found = {"alike": alike, "strict": len(pairs)}
    wrong = []
    for i, j in pairs:
        better, worse = (i, j) if item.known[i] < item.known[j] else (j, i)
        if ranks[better] >= ranks[worse]:
            wrong.append((item.known[worse] - item.known[better], better, worse))
    if wrong:
        _, better, worse = max(wrong)
        tied = ranks[better] == ranks[worse]
        found |= {"above": item.answers[worse], "below": item.answers[better], "tied": tied}
        found["why"] = item.reasons[worse] if item.reasons else ""
    return found


def agreement_so_far(session: RankingSession) -> dict[str, tuple[int, int]]:
    """(pairs alike, pairs that both order strictly) with the `crowd`'s reward model, and with `oneself` over
    what came twice; only those of which there are any.
    """
    found = {"crowd": [0, 0], "oneself": [0, 0]}
    for item in session.items:
        ranks = session.done.get(item.id, {}).get("ranks")
        if not ranks or item.known:
            continue
        first = session.done.get(item.repeats, {}).get("ranks") if item.repeats else None
        other = {
            "oneself": first,
            "crowd": [-s for s in item.crowd] if item.crowd and not item.repeats else None,
        }
        for name, told in other.items():
            if told:
                alike, strict = pair_counts(ranks, told)
                found[name] = [found[name][0] + alike, found[name][1] + strict]
    return {name: (alike, strict) for name, (alike, strict) in found.items() if strict}


def told_now(session: RankingSession) -> dict[str, tuple[int, int]]:
    """`agreement_so_far` right after each tenth ranking, else nothing."""
    last = session.done.get(session.history[-1][0]) if session.history else None
    if last is None or last["practice"] or last["action"] != "rank":
        return {}
    progress = session.progress()
    return {} if (progress["done"] - progress["skipped"]) % TOLD_EVERY else agreement_so_far(session)
