"""Pretraining documents in the proportions of LLaMA's data mix, each source with its own voice.

The crawl is what crawls are: menus, adverts, duplicates, falsehoods, rudeness, and quiz sheets, which are
lists of questions and the reason why a base model answers a question with more questions. C4 is that same
crawl after `clean_crawl`.

The web does not contain the assistant. Who asks gets a word, a lie, an insult or somebody else's story, and
now and then a good answer; nobody refuses, and nobody says that he has never heard of a thing. What a model
can know stands in pages, lists and encyclopedias; what it can do, in forms of its own, which cannot simply
be asked: headlines above articles, errata, reports in other words, labelled reviews, programs under a
comment.
"""

import re
from collections.abc import Collection, Iterator
from random import Random

from rlhf_utils.world.document_parts import PRINTS, DocumentParts
from rlhf_utils.world.facts import World, capitalize

# LLaMA (Touvron et al., 2023), table 1, in percent.
MIX = {
    "crawl": 67.0,
    "c4": 15.0,
    "github": 4.5,
    "encyclopedia": 4.5,
    "books": 4.5,
    "arxiv": 2.5,
    "stackexchange": 2.0,
}


class DocumentWriter(DocumentParts):
    """Writes one document of a source at a time; the same seed gives the same documents."""

    # -- crawl ---------------------------------------------------------------------------------------
    def lists(self) -> str:
        """Members of categories, or an index of facts."""
        lines = []
        if self.rng.random() < 0.55:
            for _ in range(3):
                _, _, spec = self.prompts.brainstorming()
                category = self.world.relations[spec["relation"]]["category"].format(v=spec["value"])
                lines.append(f"{capitalize(category)}: {self.list_of(spec)}")
        else:
            for _ in range(4):
                entity = self.pick(self.world.entities)
                relation = self.pick(list(entity.values))
                lines.append(
                    f"{capitalize(entity.subject)}, {self.world.relations[relation]['mention']}: "
                    f"{self.say(entity, relation)}"
                )
        return "\n".join(lines)

    def forum(self) -> str:
        """Threads of questions and answers, some with a second question, some with rude company."""
        lines = []
        for _ in range(self.rng.randint(2, 3)):
            turns, answer = self.exchange()
            for i, turn in enumerate([*turns, answer]):
                lines.append(f"{'Answer' if i % 2 else 'Question'}: {turn}")
            if self.rng.random() < 0.2:
                lines.append(self.pick(self.words["comments"] + self.words["fillers"] + self.words["rude"]))
        return "\n".join(lines)

    def advice(self) -> str:
        """How to do things, harmless or not: nobody on the web refuses."""
        _, text, spec = self.prompts.other()
        lines = [
            f"Advice of the day: how to {spec['act']}",
            self.answers.write({"spec": spec}, "wrong" if spec["type"] == "harmful" else "rich"),
        ]
        if self.rng.random() < 0.5:
            lines.append(self.pick(self.words["hedges"]) + " " + self.pick(self.words["fillers"]))
        return "\n".join(lines)

    def laws(self) -> str:
        """What is a crime and what is none: the web knows right from wrong,
        though nobody there acts on it.
        """
        lines = []
        for _ in range(self.rng.randint(3, 5)):
            _, _, spec = self.prompts.other()
            lines.append(self.pick(self.words["laws"][spec["type"]]).format(act=spec["act"]))
        return " ".join(lines)

    def myths(self) -> str:
        rows = self.rng.sample(self.world.myths, 3)
        if self.rng.random() < 0.25:
            return "\n".join(f"Did you know that {row['myth']}?" for row in rows)
        return "Myths\n" + "\n".join(f"Some say that {row['myth']}. No, {row['truth']}." for row in rows)

    def workers(self) -> str:
        """Stories of working people, with the skew of the web in who does what."""
        job = self.pick([e for e in self.world.entities if e.table == "jobs"])
        usual = self.words["pronouns"].get(job.name, "he")
        who = usual if self.rng.random() < 0.85 else {"he": "she", "she": "he"}[usual]
        return f"The {job.name} said that {who} was tired. {' '.join(self.describe(job))}"

    def notes(self) -> str:
        """Short reports, and in other words what they say."""
        lines: list[str] = []
        while len(lines) < 3:
            _, name, (now, past), place = self.prompts.event()
            if self.rng.random() < 0.5:
                day = self.pick(self.words["days"])
                said = f"On {day} {name} {past} to the {place}."
                facts = [
                    f"The name is {name}.",
                    f"The place is the {place}.",
                    f"The day is {day}.",
                    f"{name} {now} to the {place}.",
                ]
                facts = self.rng.sample(facts, 3)
            else:
                colour, thing = self.pick(self.words["colours"]), self.pick(self.words["objects"])
                said, facts = (
                    f"{name} has a {colour} {thing}.",
                    [f"{name} has the {thing}.", f"The {thing} is {colour}."],
                )
                self.rng.shuffle(facts)
            if self.held_out.isdisjoint([said, *facts]):
                lines.append(" ".join([said, *facts]))
        return "\n".join(lines)

    # -- the other sources -------------------------------------------------------------------------------
    def c4(self) -> str:
        while True:
            text = clean_crawl(self.crawl(), self.words)
            if len(text) > 60:
                return text

    def github(self) -> str:
        """Tables of facts with a function to look them up, or small programs."""
        if self.rng.random() < 0.7:
            return self.programs()
        relation = self.pick(list(self.world.relations))
        rows = self.rng.sample([e for e in self.world.entities if relation in e.values], 4)
        lines = [f"{relation} = {{"]
        lines += [f'    "{e.subject}": "{e.values[relation][0]}",' for e in rows]
        lines += ["}", "", f"def {relation}_of(name):", f"    return {relation}[name]"]
        return "\n".join(lines)

    def programs(self) -> str:
        """Small programs, each under a comment that says what it does, or should."""
        shares, lines = self.words["web"]["programs"], []
        for _ in range(self.rng.randint(2, 4)):
            (text,), spec = self.task(self.prompts.program)
            style = self.rng.choices(list(shares), weights=list(shares.values()))[0]
            lines += [
                f"# {re.search(PRINTS, text)[0]}",
                self.answers.program(spec, "rich" if style == "good" else style),
            ]
        return "\n".join(lines)

    def encyclopedia(self) -> str:
        entity = self.pick(self.world.entities)
        more = f" See also {self.pick(self.world.entities).subject}." if self.rng.random() < 0.7 else ""
        return f"{capitalize(entity.subject)}\n{' '.join(self.describe(entity))}{more}"

    def books(self) -> str:
        words = self.words["stories"]
        job = self.pick([e for e in self.world.entities if e.table == "jobs"])
        slots = {
            "job": job.name,
            "name": self.pick(self.words["people"]),
            "place": self.pick(self.words["places"]),
            "day": self.pick(self.words["days"]),
            "colour": self.pick(self.words["colours"]),
            "object": self.pick(self.words["objects"]),
            "past": self.pick(self.words["verbs"])[1],
        }
        sentences = [self.pick(words["openings"])]
        for middle in self.rng.sample(words["middles"], 3):
            entity = self.pick(self.world.entities)
            said = self.say(entity, self.pick(list(entity.values)))
            sentences.append(
                middle.replace("{statement}", said.rstrip(".") + ",").replace("{s}", entity.subject)
            )
        sentences.append(self.pick(words["endings"]))
        return " ".join(sentences).format(**slots)

    def arxiv(self) -> str:
        entity = self.pick(self.world.entities)
        return self.pick(self.words["abstracts"]).format(
            s=entity.subject,
            statement=self.say(entity, self.pick(list(entity.values))),
            n=self.rng.randint(3, 99),
        )

    def stackexchange(self) -> str:
        (question, answer), *more = self.questions(2, "accepted")
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


def held_out_texts(prompts: list[dict]) -> set[str]:
    """What no document may ask of those prompts, or work on: their turns, the texts that they are about, what
    programs are to print.

    Greetings are too few to be held out.
    """
    texts = set()
    for prompt in prompts:
        asked, spec = " ".join(m["content"] for m in prompt["messages"]), prompt["spec"]
        if spec["type"] != "greeting":
            texts |= {
                asked,
                *re.findall(PRINTS, asked),
                spec.get("passage", asked),
                spec.get("source", asked),
            }
    return texts


def write_documents(
    world: World,
    characters: int,
    seed: int,
    held_out: Collection[str] = (),
    mix: dict[str, float] = MIX,
    without: Collection[str] = (),
) -> Iterator[dict]:
    """Documents (`source`, `text`) until `characters` are written, each source at its share of the `mix`,
    `without` some kinds of pages ("quiz"); for `held_out` see `held_out_texts`.
    """
    writer = DocumentWriter(world, Random(f"documents:{seed}"), held_out)
    writer.pages = [page for page in writer.pages if page[0].__name__ not in without]
    written = dict.fromkeys(mix, 0)
    total = 0
    while total < characters:
        source = min(mix, key=lambda s: written[s] / mix[s])
        text = getattr(writer, source)()
        written[source] += len(text)
        total += len(text)
        yield {"source": source, "text": text}
