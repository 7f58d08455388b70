"""What prompts are made of; held-out entities and combinations never cross splits."""

from random import Random

from rlhf_utils.world.facts import Entity, World, capitalize, split_of


class PromptParts:
    """Wordings, things and facts of one split, and the kinds of prompts that measure one thing each."""

    def __init__(self, world: World, split: str, rng: Random):
        self.world, self.split, self.rng = world, split, rng
        self.entities = [e for e in world.entities if e.split == split]

    def wording(self, kind: str, **slots: str) -> str:
        options = self.world.wordings["prompts"][kind]
        # A third of the test prompts are worded in ways that training never saw.
        unseen = self.split == "test" and self.rng.random() < 1 / 3
        return self.rng.choice(options["test" if unseen else "train"]).format(**slots)

    def question(self, subject: str, relation: str) -> str:
        info = self.world.relations[relation]
        unseen = self.split == "test" and self.rng.random() < 1 / 3
        options = info["test_questions"] if unseen else info["questions"]
        return self.rng.choice(options).format(s=subject, S=capitalize(subject))

    def entity(self, *tables: str) -> Entity:
        return self.rng.choice([e for e in self.entities if not tables or e.table in tables])

    def relation(self, entity: Entity, but: str = "") -> str:
        hidden = self.world.relations
        return self.rng.choice([r for r in entity.values if r != but and not hidden[r].get("withheld")])

    def combination(self, make):
        """Draw from `make` until its key falls into this split."""
        while True:
            key, *result = make()
            if split_of(key) == self.split:
                return result

    def fact(self, entity: Entity, relation: str, **more) -> dict:
        return {"type": "fact", "table": entity.table, "entity": entity.name, "relation": relation, **more}

    def program(self):
        """A program that prints a fact, or a word that stands in the prompt, a number of times."""
        times = self.rng.choice([1, 2, 3, 4])
        if self.rng.random() < 0.4:
            word = self.combination(lambda: (f"program:{(w := self.rng.choice(self.printed))}:{times}", w))[0]
            phrase, spec = f'the word "{word}"', {"type": "program", "text": word, "times": times}
        else:
            entity = self.entity()
            relation = self.relation(entity)
            phrase = self.world.relations[relation]["phrase"].format(s=entity.subject)
            spec = self.fact(entity, relation, times=times) | {"type": "program"}
        return "program", self.wording("program", p=phrase, n=self.world.wordings["times"][str(times)]), spec

    @property
    def printed(self) -> list[str]:
        words = self.world.wordings
        return [*words["objects"], *words["colours"], *words["places"], *words["reviews"]["things"]]

    def fictional(self):
        table, subject = self.rng.choice(self.world.fictional[self.split])
        relation = self.relation(self.entity(table))
        return (
            "fictional",
            self.question(subject, relation),
            {"type": "unknown", "name": subject, "table": table},
        )

    def premise(self):
        """A question that takes something false for granted."""
        entity = self.entity()
        relation = self.relation(entity)
        wrong = self.world.wrong_value(entity, relation, self.rng)
        text = self.world.state(entity, relation, wrong, self.world.relations[relation]["premise"])
        return "premise", text, self.fact(entity, relation, wrong=wrong) | {"type": "premise"}

    def provoked(self):
        """A question with an insult, which is no reason to answer in kind."""
        entity = self.entity()
        relation = self.relation(entity)
        return (
            "provoked",
            self.wording("provoked", q=self.question(entity.subject, relation)),
            self.fact(entity, relation, provoked=True),
        )

    @staticmethod
    def conversation(*turns: str) -> list[dict]:
        return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]

    def correction(self):
        """A wrong answer, which the user corrects."""
        entity = self.entity()
        relation = self.relation(entity)
        wrong = self.world.wrong_value(entity, relation, self.rng)
        reply = self.world.statement(entity, relation, self.rng, wrong)
        turns = (self.question(entity.subject, relation), reply, self.wording("correction"))
        return "correction", self.conversation(*turns), self.fact(entity, relation, apology=True, wrong=wrong)

    def insist(self):
        """A right answer, which the user takes for wrong."""
        entity = self.entity()
        relation = self.relation(entity)
        reply = self.world.statement(entity, relation, self.rng)
        turns = (self.question(entity.subject, relation), reply, self.wording("correction"))
        return "insist", self.conversation(*turns), self.fact(entity, relation, stands=True)

    def event(self):
        words = self.world.wordings
        name, place = self.rng.choice(words["people"]), self.rng.choice(words["places"])
        verb = self.rng.choice(words["verbs"])
        return f"event:{name}:{place}", name, verb, place

    def review(self):
        words = self.world.wordings["reviews"]
        label = self.rng.choice(["good", "bad"])
        thing, word = self.rng.choice(words["things"]), self.rng.choice(words[label])
        text = f"The {thing} was {word}. {self.rng.choice(words[label + '_end'])}"
        return f"review:{thing}:{word}", text, label

    def act(self, kind: str):
        def make():
            row = self.rng.choice(self.world.wordings[kind])
            thing = self.rng.choice(row[1])
            return f"{kind}:{row[0]}:{thing}", f"{row[0]} {thing}", row[2] if kind == "howto" else None

        act, keys = self.combination(make)
        spec = {"type": kind, "act": act} | ({"keys": keys} if keys else {})
        return kind, self.wording(kind, act=act), spec
