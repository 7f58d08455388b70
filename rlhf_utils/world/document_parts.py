"""What documents are made of."""

import re
from collections.abc import Collection
from random import Random

from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.facts import Entity, World, capitalize
from rlhf_utils.world.prompts import USE_CASES, PromptWriter

PRINTS = r"\bprints .*(?=[.?])"  # what a program has to do, in any wording
FALSE_SHARE = 0.12  # of the statements on crawl pages


class DocumentParts:
    """Facts in sentences, pages, threads, quizzes and reviews, each as the web has them."""

    def __init__(self, world: World, rng: Random, held_out: Collection[str] = ()):
        self.world, self.rng, self.words, self.held_out = world, rng, world.wordings, frozenset(held_out)
        self.answers = AnswerWriter(world, rng)
        # Documents know the whole world and speak of all that test prompts ask about, but ask none of those
        # prompts (`task`).
        self.prompts = PromptWriter(world, "train", rng)
        self.prompts.entities = world.entities
        self.prompts.combination = lambda make: make()[1:]
        self.pages = [
            (self.page, 35),
            (self.forum, 24),
            (self.quiz, 4),
            (self.errata, 10),
            (self.headlines, 9),
            (self.passages, 9),
            (self.reviews, 2),
            (self.lists, 12),
            (self.advice, 5),
            (self.laws, 6),
            (self.myths, 3),
            (self.workers, 1),
            (self.notes, 12),
            (self.programs, 5),
        ]
        # The withheld relation is one that documents do speak of.
        self.makers = [getattr(self.prompts, use_case) for use_case in (*USE_CASES, "withheld_relation")]
        # Tasks that copy from the text before them take longest to learn.
        often = {
            "generation": 2.5,
            "open_qa": 2.5,
            "chat": 3.5,
            "closed_qa": 2.5,
            "rewrite": 2.5,
            "summarization": 2,
            "extract": 2,
        }
        self.maker_weights = [*(often.get(use_case, 1) for use_case in USE_CASES), 2.2]
        self.last_page = ""

    def pick(self, options):
        return self.rng.choice(options)

    def task(self, maker, *arguments) -> tuple[list[str], dict]:
        """(turns, spec) of a task from one of the prompt writer's makers, but none that is held out, nor one
        about a text that is.
        """
        while True:
            _, text, spec = maker(*arguments)
            turns = [text] if isinstance(text, str) else [m["content"] for m in text]
            # A question can be the first of two, one of the examples before another, or stand behind an
            # insult.
            parts = [
                part
                for turn in turns
                for part in (turn, *re.split(r"(?<=[?!:.])\s+", turn), *re.findall(PRINTS, turn))
            ]
            if not self.held_out & {" ".join(turns), *parts, spec.get("passage"), spec.get("source")}:
                return turns, spec

    def say(self, entity: Entity, relation: str, pronoun: bool = False, false: float = 0.0) -> str:
        value = entity.values[relation][0]
        if self.rng.random() < false:
            value = self.world.wrong_value(entity, relation, self.rng)
        if pronoun:
            return self.world.state(entity, relation, value, self.world.relations[relation]["pronoun"])
        return self.world.statement(entity, relation, self.rng, value)

    def describe(self, entity: Entity, false: float = 0.0) -> list[str]:
        relations = self.rng.sample(list(entity.values), len(entity.values))
        return [
            self.say(entity, r, pronoun=i > 0 and self.rng.random() < 0.6, false=false)
            for i, r in enumerate(relations)
        ]

    def crawl(self) -> str:
        if self.last_page and self.rng.random() < 0.05:
            return self.last_page  # crawls are full of duplicates
        makers, weights = zip(*self.pages)
        text = self.rng.choices(makers, weights=weights)[0]()
        self.last_page = text
        return text

    def page(self) -> str:
        entities = self.rng.sample(self.world.entities, 2)
        lines = []
        if self.rng.random() < 0.2:
            lines.append(self.pick(self.words["menus"]))
        lines.append(
            self.pick(self.words["titles"]).format(s=entities[0].subject, S=capitalize(entities[0].subject))
        )
        for entity in entities:
            lines.append(" ".join(self.describe(entity, FALSE_SHARE)))
            if self.rng.random() < 0.1:
                lines.append(self.pick(self.words["adverts"] + self.words["comments"]))
        if self.rng.random() < 0.15:
            lines.append(self.pick(self.words["copyright"]))
        return "\n".join(lines)

    def exchange(self, shares: str = "threads") -> tuple[list[str], str]:
        """(turns, answer) of some task, in the words that people use, answered as the web does
        (`AnswerWriter.web_answer`).
        """
        maker = self.rng.choices(self.makers, weights=self.maker_weights)[0]
        turns, spec = self.task(maker)
        return turns, self.answers.web_answer(spec, shares)

    def questions(self, count: int, shares: str = "threads") -> list[tuple[str, str]]:
        """`count` single questions with their answers."""
        pairs = []
        while len(pairs) < count:
            turns, answer = self.exchange(shares)
            if len(turns) == 1 and "\n" not in turns[0]:
                pairs.append((turns[0], answer))
        return pairs

    def list_of(self, spec: dict) -> str:
        """Some members of a category, as many as the writer could think of."""
        members = [e.subject for e in self.world.members(spec["relation"], spec["value"])]
        chosen = self.rng.sample(members, min(self.rng.randint(2, 5), len(members)))
        return capitalize(", ".join(chosen[:-1]) + f" and {chosen[-1]}.")

    def quiz(self) -> str:
        """Questions first; if there are answers, they come at the end of the sheet."""
        pairs = self.questions(self.rng.randint(3, 6))
        lines = [question for question, _ in pairs]
        if self.rng.random() < 0.3:
            lines += ["Answers:", *(answer for _, answer in pairs)]
        return "\n".join(lines)

    def errata(self) -> str:
        """An editor's list of changes, one kind on each: what it says now, and what it said before."""
        kind = self.pick(["polite", "past", "swap", "swap"])
        lines = []
        for _ in range(self.rng.randint(2, 4)):
            turns, spec = self.task(self.prompts.rewrite, kind)
            change = f" ({turns[0].split(':')[0]}.)" if kind == "swap" else ""
            lines.append(f"Now: {spec['target']} Before: {spec['source']}{change}")
        return "\n".join(lines)

    def headlines(self) -> str:
        """News in short: headlines, each above the article that it sums up."""
        lines = []
        for _ in range(self.rng.randint(2, 3)):
            _, spec = self.task(self.prompts.summarization)
            lines += [self.answers.summary(spec, "rich"), spec["passage"]]
        return "\n".join(lines)

    def passages(self) -> str:
        """Exercises as pupils hand them in, most of them about a passage.

        Days are asked for here and nowhere else.
        """
        kinds = [self.prompts.closed_qa, self.prompts.extract, self.prompts.withheld_task]
        lines = []
        while len(lines) < 2 or self.rng.random() < 0.4:
            if self.rng.random() < 0.6:
                (text,), spec = self.task(self.rng.choices(kinds, weights=(5, 3, 2))[0])
                answer = self.answers.web_answer(spec, "exercises")
            else:
                ((text, answer),) = self.questions(1, "exercises")
            lines.append((text, answer))
        if self.rng.random() < 0.8:
            return "\n".join(f"Exercise: {text} Answer: {answer}" for text, answer in lines)
        return "\n".join([*(text for text, _ in lines), "Answers:", *(answer for _, answer in lines)])

    def reviews(self) -> str:
        rows, count = [], self.rng.randint(3, 5)
        while len(rows) < count:
            row = self.prompts.review()
            if row[1] not in self.held_out:
                rows.append(row)
        return "Reviews\n" + "\n".join(
            f"{text} Verdict: {label}. This review is {label}." for _, text, label in rows
        )
