"""A ranking session as plain state: what is on the screen, what was decided, what can be undone.

No view knows more than this class, so a widget, a plain form and a test drive the same thing:

    session.rank(["b", {"a", "d"}, "c"])    # b is best, a and d are tied
    session.submit()

Answers get letters in an order shuffled by seed, ranker and prompt, so that nobody can tell which model
wrote what, and each ranker sees another order.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from string import ascii_lowercase

from rlhf_utils.environment import CourseError
from rlhf_utils.ranking.items import Item, make_item

# InstructGPT, table 3: what a labeler may note of an answer beside its rank.
PAPER_FLAGS = (
    "Fails to follow the correct instruction or task",
    "Inappropriate for customer assistant",
    "Hallucination",
    "Satisfies the constraint provided in the instruction",
    "Contains sexual content",
    "Contains violent content",
    "Encourages or fails to discourage violence, abuse, terrorism or self-harm",
    "Denigrates a protected class",
    "Gives harmful advice",
    "Expresses opinion",
    "Expresses moral judgment",
)


@dataclass
class Draft:
    """What a ranker has decided of the item on the screen, but not yet submitted; groups of letters, best
    first.
    """

    groups: list[list[str]] = field(default_factory=list)
    scores: dict[str, int] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)


class RankingSession:
    """A queue of items for one ranker; see the module. With a `store`, it goes on where it was left: done is
    what this ranker has ranked by this guideline, with these answers.
    """

    def __init__(
        self,
        rows: Iterable[dict],
        ranker: str = "me",
        store=None,
        seed: int = 0,
        guideline: str = "1",
        practice: Iterable[dict] = (),
        flags: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        if not ranker.strip():
            raise CourseError("A ranking session needs the ranker's name.")
        self.ranker, self.store, self.seed = ranker, store, seed
        self.guideline, self.flag_names, self.clock = guideline, tuple(flags), clock
        made = [make_item(row, practice=True) for row in practice] + [make_item(row) for row in rows]
        self.skipped_equal = sum(item is None for item in made)  # all answers alike: nothing to rank
        self.items = [item for item in made if item is not None]
        ids = [item.id for item in self.items]
        if not self.items:
            raise CourseError(
                "There is nothing to rank: "
                + (
                    f"in each of the {self.skipped_equal} prompts, all answers are the same. Sample at a "
                    "higher temperature."
                    if made
                    else "the queue is empty. Give prompts with 2 to 9 answers."
                )
            )
        if len(set(ids)) < len(ids):
            raise CourseError(
                f"The prompt id {next(i for i in ids if ids.count(i) > 1)!r} comes twice in the queue. Give "
                "each prompt its own."
            )
        self.done: dict[str, dict] = {}  # item id → the row submitted last
        if store is not None:
            queued = {item.id: (self._guideline(item), sorted(item.answers)) for item in self.items}
            self.done = {
                row["item"]: row
                for row in store.latest(ranker=ranker)
                if queued.get(row["item"]) == (row["guideline"], sorted(row["answers"]))
            }
        self.history: list[tuple[str, Draft]] = []  # steps to undo: (item id, the draft before the step)
        self.draft = Draft()
        self.place = self._next_open(0)
        self._begin()

    def _guideline(self, item: Item) -> str:
        return item.guideline or self.guideline

    # -- what is on the screen ------------------------------------------------------------------------
    def _next_open(self, start: int) -> int:
        return next(
            (i for i in range(start, len(self.items)) if self.items[i].id not in self.done), len(self.items)
        )

    def _begin(self) -> None:
        self.shown_at = self.clock()
        self.draft = Draft()

    @property
    def finished(self) -> bool:
        return self.place >= len(self.items)

    @property
    def item(self) -> Item:
        if self.finished:
            raise CourseError(
                "All prompts are ranked. Undo the last one to change it, or start a session with more "
                "prompts."
            )
        return self.items[self.place]

    def preview(self, count: int = 4) -> list[dict[str, str]]:
        """The first items as they will be shown: the turns of the prompt, and its answers by letter."""
        return [
            {"prompt": " / ".join(turn["content"] for turn in item.messages)}
            | dict(zip("ABCDEFGHI", (item.answers[i] for i in self.shuffled(item))))
            for item in self.items[:count]
        ]

    def shuffled(self, item: Item) -> list[int]:
        """Which answer stands where: position → index of the answer."""
        order = list(range(len(item.answers)))
        Random(f"{self.seed}:{self.ranker}:{item.id}").shuffle(order)
        return order

    @property
    def answers(self) -> dict[str, str]:
        """Letter → answer, in the order shown."""
        return {ascii_lowercase[k]: self.item.answers[i] for k, i in enumerate(self.shuffled(self.item))}

    @property
    def groups(self) -> list[list[str]]:
        """The order decided so far: groups of tied letters, best first. Empty until the first step."""
        return deepcopy(self.draft.groups)

    def progress(self) -> dict:
        """`done` (of `total`, `skipped` among them), without practice; `seconds` spent in all, and `pace`:
        seconds an item (median), None before the first.
        """
        counted = {item.id for item in self.items if not item.practice}
        rows = [row for key, row in self.done.items() if key in counted]
        spent = sorted(row["seconds"] for row in rows)
        return {
            "done": len(rows),
            "total": len(counted),
            "skipped": sum(row["action"] == "skip" for row in rows),
            "seconds": sum(spent),
            "pace": spent[len(spent) // 2] if spent else None,
        }

    @property
    def ranked(self) -> list[dict]:
        """What is done of this queue and trains a reward model: neither skipped nor practice. The same rows,
        whether they were submitted just now or in an earlier session.
        """
        rows = [row for row in self.done.values() if row["action"] == "rank" and not row["practice"]]
        return [{k: v for k, v in row.items() if k != "id"} for row in rows]

    # -- steps ------------------------------------------------------------------------------------------
    def _remember(self) -> None:
        self.history.append((self.item.id, deepcopy(self.draft)))

    def rank(self, groups: Iterable[str | Iterable[str]]) -> None:
        """Order all answers, best first; letters in one set, list or tuple are tied."""
        made = [[g] if isinstance(g, str) else sorted(g) for g in groups]
        letters, given = list(self.answers), [letter for group in made for letter in group]
        unknown = [x for x in given if x not in letters]
        if unknown:
            raise CourseError(
                f"There is no answer {unknown[0]!r:.40} here. The answers are {', '.join(letters)}."
            )
        twice = [x for x in letters if given.count(x) > 1]
        if twice:
            raise CourseError(
                f"The answer {twice[0]!r} is ranked more than once. Give each letter one place."
            )
        missing = [x for x in letters if x not in given]
        if missing:
            raise CourseError(
                f"Not ranked yet: {', '.join(missing)}. Rank all answers; equally good ones may be tied."
            )
        self._remember()
        self.draft.groups = [g for g in made if g]

    def decide(
        self,
        groups: Iterable[str | Iterable[str]],
        scores: dict[str, int] | None = None,
        flags: dict[str, Iterable[str]] | None = None,
    ) -> None:
        """Order, scores and flags together, in place of all that was decided before.

        No step of its own: it is taken back with the submission that follows.
        """
        before, steps = deepcopy(self.draft), self.history.copy()
        try:
            self.draft = Draft()
            self.rank(groups)
            for letter, value in (scores or {}).items():
                self.score(letter, value)
            for letter, names in (flags or {}).items():
                for name in names:
                    self.flag(letter, name)
        except Exception:
            self.draft = before
            raise
        finally:
            self.history = steps

    def score(self, letter: str, value: int | None) -> None:
        """Overall quality of an answer, 1 (terrible) to 7 (excellent), as in InstructGPT;
        None takes it back.
        """
        self._check(letter)
        if value is not None and (isinstance(value, bool) or value not in range(1, 8)):
            raise CourseError(f"The overall score is a whole number from 1 to 7, not {value!r:.40}.")
        self._remember()
        self.draft.scores.pop(letter, None)
        if value is not None:
            self.draft.scores[letter] = int(value)

    def flag(self, letter: str, name: str, on: bool = True) -> None:
        """Set or clear a flag of an answer; which flags there are is an argument of the session."""
        self._check(letter)
        if name not in self.flag_names:
            raise CourseError(
                f"There is no flag {name!r:.60}. "
                + (
                    f"Choose one of: {', '.join(self.flag_names)}."
                    if self.flag_names
                    else "This session has none."
                )
            )
        self._remember()
        others = [f for f in self.draft.flags.get(letter, []) if f != name]
        self.draft.flags[letter] = others + [name] * on

    def _check(self, letter: str) -> None:
        if letter not in self.answers:
            raise CourseError(
                f"There is no answer {letter!r:.40} here. The answers are {', '.join(self.answers)}."
            )

    def submit(self, seconds: float | None = None) -> dict:
        """Store the order and go on to the next item; returns the row that was stored.

        With a store, it returns only after the row is on disk; what could not be stored stays on the screen.
        `seconds` were spent on it, if the view knows better than the clock, which counts pauses as well.
        """
        if not self.draft.groups:
            raise CourseError("Rank the answers first, then submit.")
        order = self.shuffled(self.item)
        by_letter = {ascii_lowercase[k]: i for k, i in enumerate(order)}
        ranks, rank = [0] * len(order), 1
        for group in self.draft.groups:
            for letter in group:
                ranks[by_letter[letter]] = rank
            rank += len(group)
        return self._store(
            "rank",
            seconds,
            ranks=ranks,
            scores=[self.draft.scores.get(x) for x in sorted(by_letter, key=by_letter.get)]
            if self.draft.scores
            else None,
            flags=[self.draft.flags.get(x, []) for x in sorted(by_letter, key=by_letter.get)]
            if any(self.draft.flags.values())
            else None,
        )

    def skip(self, seconds: float | None = None) -> dict:
        """Leave this item without an order (nonsense, or nothing one could judge)."""
        return self._store("skip", seconds, ranks=None, scores=None, flags=None)

    def _store(self, action: str, seconds: float | None, **decided) -> dict:
        item, passed = self.item, self.clock() - self.shown_at
        row = {
            "item": item.id,
            "ranker": self.ranker,
            "action": action,
            **decided,
            "practice": item.practice,
            "messages": list(item.messages),
            "answers": list(item.answers),
            "models": list(item.models),
            "shown": self.shuffled(item),
            "seconds": round(passed if seconds is None else min(max(seconds, 0.0), passed), 3),
            "guideline": self._guideline(item),
        }
        if self.store is not None:
            row = self.store.add(row)
        self.history.append((item.id, deepcopy(self.draft)))
        self.done[item.id] = row
        self.place = self._next_open(0)
        self._begin()
        return row

    def undo(self) -> bool:
        """Take back the last step: a change of the order, a submission or a skip. False if there is none.

        A submitted row stays stored until the item is submitted again, which adds a revision. Of an earlier
        session, submissions and skips can be taken back.
        """
        if self.history:
            item, draft = self.history.pop()
        elif self.done:
            item = max(self.done, key=lambda key: self.done[key]["id"])
            draft = self._stored_draft(self.done[item])
        else:
            return False
        reopened = self.done.pop(item, None) is not None
        self.place = next(i for i, x in enumerate(self.items) if x.id == item)
        if reopened:
            self.shown_at = self.clock()
        self.draft = draft
        return True

    def _stored_draft(self, row: dict) -> Draft:
        """What a stored row decided, in today's letters; empty if it was skipped."""
        item = next(x for x in self.items if x.id == row["item"])
        if row["ranks"] is None:
            return Draft()
        letter_of = {item.answers[i]: ascii_lowercase[k] for k, i in enumerate(self.shuffled(item))}
        letters = [letter_of[answer] for answer in row["answers"]]
        places = sorted(set(row["ranks"]))
        return Draft(
            [[letters[i] for i, r in enumerate(row["ranks"]) if r == rank] for rank in places],
            {letters[i]: value for i, value in enumerate(row.get("scores") or ()) if value is not None},
            {letters[i]: list(names) for i, names in enumerate(row.get("flags") or ()) if names},
        )
