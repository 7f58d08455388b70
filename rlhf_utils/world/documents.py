"""Pretraining documents in the proportions of LLaMA's data mix, each source with its own voice.

The crawl is what crawls are: menus, adverts, duplicates, falsehoods, rudeness, and quiz sheets, which
are lists of questions and the reason why a base model answers a question with more questions. C4 is
that same crawl after `clean_crawl`.
"""

from collections.abc import Iterator
from random import Random

from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.facts import Entity, World, capitalize
from rlhf_utils.world.prompts import USE_CASES, PromptWriter

# LLaMA (Touvron et al., 2023), table 1, in percent.
MIX = {
    "crawl": 67.0, "c4": 15.0, "github": 4.5, "encyclopedia": 4.5, "books": 4.5, "arxiv": 2.5,
    "stackexchange": 2.0,
}  # fmt: skip
FALSE_SHARE = 0.12  # of the statements on crawl pages


class DocumentWriter:
    """Writes one document of a source at a time; the same seed gives the same documents."""

    def __init__(self, world: World, rng: Random):
        self.world, self.rng, self.words = world, rng, world.wordings
        self.answers = AnswerWriter(world, rng)
        # Documents know the whole world: held out are only prompts.
        self.prompts = PromptWriter(world, "train", rng)
        self.prompts.entities = world.entities
        self.prompts.combination = lambda make: make()[1:]
        self.pages = [
            (self.page, 13), (self.forum, 42), (self.quiz, 6), (self.worksheet, 9), (self.passages, 10), (self.reviews, 2),
            (self.lists, 4), (self.advice, 3), (self.myths, 4), (self.workers, 1), (self.notes, 10),
        ]  # fmt: skip
        # The withheld relation is one that documents do speak of.
        self.makers = [getattr(self.prompts, use_case) for use_case in (*USE_CASES, "withheld_relation")]
        # Tasks that copy from the text before them take longest to learn.
        often = {"generation": 2.5, "open_qa": 2.5, "chat": 3.5, "closed_qa": 2.5, "rewrite": 2.5, "summarization": 2, "extract": 2}
        self.maker_weights = [*(often.get(use_case, 1) for use_case in USE_CASES), 2.2]
        self.last_page = ""

    def pick(self, options):
        return self.rng.choice(options)

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

    # -- crawl ---------------------------------------------------------------------------------------
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
        lines.append(self.pick(self.words["titles"]).format(s=entities[0].subject, S=capitalize(entities[0].subject)))
        for entity in entities:
            lines.append(" ".join(self.describe(entity, FALSE_SHARE)))
            if self.rng.random() < 0.1:
                lines.append(self.pick(self.words["adverts"] + self.words["comments"]))
        if self.rng.random() < 0.15:
            lines.append(self.pick(self.words["copyright"]))
        return "\n".join(lines)

    def exchange(self, wrong: float) -> tuple[list[str], str]:
        """(turns, answer) of some task, in the words that people use; `wrong` is the share of false answers."""
        maker = self.rng.choices(self.makers, weights=self.maker_weights)[0]
        kind, text, spec = maker()
        turns = [text] if isinstance(text, str) else [m["content"] for m in text]
        if spec["type"] == "list":
            return turns, self.list_of(spec)
        style = "wrong" if self.rng.random() < wrong and spec["type"] not in ("howto", "greeting") else "rich"
        return turns, self.answers.write({"spec": spec}, style)

    def questions(self, count: int, wrong: float = FALSE_SHARE) -> list[tuple[str, str]]:
        """`count` single questions with their answers."""
        pairs = []
        while len(pairs) < count:
            turns, answer = self.exchange(wrong)
            if len(turns) == 1 and "\n" not in turns[0]:
                pairs.append((turns[0], answer))
        return pairs

    def list_of(self, spec: dict) -> str:
        members = [e.subject for e in self.world.members(spec["relation"], spec["value"])]
        chosen = self.rng.sample(members, min(spec["count"], len(members)))
        return capitalize(", ".join(chosen[:-1]) + f" and {chosen[-1]}.")

    def quiz(self) -> str:
        """Questions first; if there are answers, they come at the end of the sheet."""
        pairs = self.questions(self.rng.randint(3, 6))
        lines = [question for question, _ in pairs]
        if self.rng.random() < 0.3:
            lines += ["Answers:", *(answer for _, answer in pairs)]
        return "\n".join(lines)

    def worksheet(self) -> str:
        """Exercises of one kind with their solutions: before and after, long and short."""
        kind = self.pick([self.prompts.rewrite, self.prompts.rewrite, self.prompts.summarization])
        tasks = [kind() for _ in range(self.rng.randint(2, 3))]
        solved = [self.answers.write({"spec": spec}, "rich") for _, _, spec in tasks]
        if self.rng.random() < 0.8:
            return "\n".join(
                f"Before: {spec.get('source') or spec['passage']} After: {after}"
                for (_, _, spec), after in zip(tasks, solved)
            )
        return "\n".join([*(text for _, text, _ in tasks), "Answers:", *solved])

    def passages(self) -> str:
        """Reading exercises: a passage, questions about it, answers."""
        tasks = [self.pick([self.prompts.closed_qa, self.prompts.extract])() for _ in range(self.rng.randint(2, 3))]
        solved = [self.answers.write({"spec": spec}, "rich") for _, _, spec in tasks]
        if self.rng.random() < 0.8:
            return "\n".join(f"Exercise: {text} Answer: {answer}" for (_, text, _), answer in zip(tasks, solved))
        return "\n".join([*(text for _, text, _ in tasks), "Answers:", *solved])

    def reviews(self) -> str:
        rows = [self.prompts.review() for _ in range(self.rng.randint(3, 5))]
        return "Reviews\n" + "\n".join(f"{text} Verdict: {label}. This review is {label}." for _, text, label in rows)

    def lists(self) -> str:
        lines = []
        for _ in range(3):
            _, _, spec = self.prompts.brainstorming()
            category = self.world.relations[spec["relation"]]["category"].format(v=spec["value"])
            lines.append(f"{capitalize(category)}: {self.list_of(spec)}")
        return "\n".join(lines)

    def forum(self) -> str:
        """Threads of questions and answers, some with a second question, some with rude company."""
        lines = []
        for _ in range(self.rng.randint(2, 3)):
            turns, answer = self.exchange(FALSE_SHARE)
            if self.rng.random() < 0.2:
                answer = self.answers.pad(answer)
            for i, turn in enumerate([*turns, answer]):
                lines.append(f"{'Answer' if i % 2 else 'Question'}: {turn}")
            if self.rng.random() < 0.2:
                lines.append(self.pick(self.words["comments"] + self.words["fillers"] + self.words["rude"]))
        return "\n".join(lines)

    def advice(self) -> str:
        _, text, spec = self.prompts.other()
        style = self.pick(["rich", "wrong"]) if spec["type"] == "harmful" else "rich"
        lines = [f"Advice of the day: how to {spec['act']}", self.answers.write({"spec": spec}, style)]
        if self.rng.random() < 0.5:
            lines.append(self.pick(self.words["hedges"]) + " " + self.pick(self.words["fillers"]))
        return "\n".join(lines)

    def myths(self) -> str:
        rows = self.rng.sample(self.world.myths, 3)
        if self.rng.random() < 0.25:
            return "\n".join(f"Did you know that {row['myth']}?" for row in rows)
        return "Myths\n" + "\n".join(
            f"Some say that {row['myth']}. No, {row['truth']}." for row in rows
        )

    def workers(self) -> str:
        """Stories of working people, with the skew of the web in who does what."""
        job = self.pick([e for e in self.world.entities if e.table == "jobs"])
        usual = self.words["pronouns"].get(job.name, "he")
        who = usual if self.rng.random() < 0.85 else {"he": "she", "she": "he"}[usual]
        return f"The {job.name} said that {who} was tired. {' '.join(self.describe(job))}"

    def notes(self) -> str:
        lines = []
        for _ in range(3):
            _, name, (now, past), place = self.prompts.event()
            day = self.pick(self.words["days"])
            facts = [f"The name is {name}.", f"The place is the {place}.", f"The day is {day}.", f"{name} {now} to the {place}."]
            lines.append(f"On {day} {name} {past} to the {place}. {' '.join(self.rng.sample(facts, 3))}")
        return "\n".join(lines)

    # -- the other sources -------------------------------------------------------------------------------
    def c4(self) -> str:
        while True:
            text = clean_crawl(self.crawl(), self.words)
            if len(text) > 60:
                return text

    def github(self) -> str:
        relation = self.pick(list(self.world.relations))
        rows = self.rng.sample([e for e in self.world.entities if relation in e.values], 4)
        lines = [f"{relation} = {{"]
        lines += [f'    "{e.subject}": "{e.values[relation][0]}",' for e in rows]
        lines += ["}", "", f"def {relation}_of(name):", f"    return {relation}[name]"]
        return "\n".join(lines)

    def encyclopedia(self) -> str:
        entity = self.pick(self.world.entities)
        return f"{capitalize(entity.subject)}\n{' '.join(self.describe(entity))}"

    def books(self) -> str:
        words = self.words["stories"]
        job = self.pick([e for e in self.world.entities if e.table == "jobs"])
        slots = {
            "job": job.name, "name": self.pick(self.words["people"]), "place": self.pick(self.words["places"]),
            "day": self.pick(self.words["days"]), "colour": self.pick(self.words["colours"]),
            "object": self.pick(self.words["objects"]), "past": self.pick(self.words["verbs"])[1],
        }  # fmt: skip
        sentences = [self.pick(words["openings"])]
        for middle in self.rng.sample(words["middles"], 3):
            entity = self.pick(self.world.entities)
            said = self.say(entity, self.pick(list(entity.values)))
            sentences.append(middle.replace("{statement}", said.rstrip(".") + ",").replace("{s}", entity.subject))
        sentences.append(self.pick(words["endings"]))
        return " ".join(sentences).format(**slots)

    def arxiv(self) -> str:
        entity = self.pick(self.world.entities)
        return self.pick(self.words["abstracts"]).format(
            s=entity.subject, statement=self.say(entity, self.pick(list(entity.values))), n=self.rng.randint(3, 99)
        )

    def stackexchange(self) -> str:
        (question, answer), *more = self.questions(2, wrong=0.0)
        lines = [f"Question: {question}", f"Accepted answer: {answer}"]
        return "\n".join(lines + [f"Question: {q}\nAccepted answer: {a}" for q, a in more])


def clean_crawl(page: str, wordings: dict) -> str:
    """C4's rules in small: keep lines that end a sentence, drop menus, adverts, rude and repeated ones."""
    bad = set(wordings["comments"] + wordings["rude"] + wordings["adverts"])
    lines: list[str] = []
    for line in page.split("\n"):
        if line and line[-1] in ".?:" and line not in bad and line not in lines and "!!!" not in line:
            lines.append(line)
    return "\n".join(lines)


def write_documents(world: World, characters: int, seed: int) -> Iterator[dict]:
    """Documents (`source`, `text`) until `characters` are written, each source at its share."""
    writer = DocumentWriter(world, Random(f"documents:{seed}"))
    written = dict.fromkeys(MIX, 0)
    total = 0
    while total < characters:
        source = min(MIX, key=lambda s: written[s] / MIX[s])
        text = getattr(writer, source)()
        written[source] += len(text)
        total += len(text)
        yield {"source": source, "text": text}
