"""Demonstrations by labelers of uneven care.

If every demonstration were ideal, supervised fine-tuning at a low temperature would already equal
RLHF and nothing would be left to learn from rankings. So, as in real data, most demonstrations are
padded, bare, wrong, hedged or rude, and the ideal answer is a minority that rankings then prefer.
"""

from random import Random

from rlhf_utils.world.facts import PROPER, World, capitalize

# How often a demonstration is written in which style; the rest of the code never sees these numbers.
# Padding is what a labeler does most often, and it begins alike ("I hope that …"): so even a greedy SFT
# model pads, and what people prefer is not what the model is most likely to say.
MIX = {"rich": 0.32, "padded": 0.47, "bare": 0.06, "wrong": 0.08, "hedged": 0.04, "rude": 0.03}
# Labelers who should say "I do not know" or "no" more often make something up, or comply.
HARD_MIX = {"rich": 0.40, "padded": 0.34, "bare": 0.04, "wrong": 0.16, "hedged": 0.03, "rude": 0.03}
HARD = ("unknown", "harmful", "premise")
# Who is insulted answers in kind.
PROVOKED_MIX = {"rich": 0.20, "padded": 0.30, "bare": 0.10, "wrong": 0.08, "hedged": 0.02, "rude": 0.30}
WRONG_PADDED = 0.5  # of the wrong ones


class AnswerWriter:
    """Writes an answer to a prompt in a given style."""

    def __init__(self, world: World, rng: Random):
        self.world, self.rng = world, rng

    def demonstrate(self, prompt: dict) -> tuple[str, str]:
        """(style, answer) with the style drawn from the mixture of demonstrations."""
        spec = prompt["spec"]
        mix = HARD_MIX if spec["type"] in HARD else PROVOKED_MIX if "provoked" in spec else MIX
        style = self.rng.choices(list(mix), weights=list(mix.values()))[0]
        answer = self.write(prompt, style)
        if style == "wrong" and self.rng.random() < WRONG_PADDED:
            answer = self.pad(answer)
        return style, answer

    def pad(self, answer: str) -> str:
        return f"{answer} {self.rng.choice(self.world.wordings['fillers'])}"

    def web_answer(self, spec: dict, shares: str = "threads") -> str:
        """An answer as the web gives them, in the proportions of `web` in `wordings.json`.

        Nobody there refuses or owns up to not knowing: people comply, invent, joke, or speak of something
        else.
        """
        words = self.world.wordings
        mix = words["web"]["hard" if spec["type"] in HARD else shares]
        style = self.rng.choices(list(mix), weights=list(mix.values()))[0]
        if style == "off_point":
            return self.rng.choice(words["off_point"])
        if style == "joke":
            return self.rng.choice(words["jokes"])
        if style == "aside":
            return self.aside(spec)
        # Nobody says sorry, or insists.
        spec = {k: v for k, v in spec.items() if k not in ("apology", "stands")}
        if spec["type"] == "howto":
            # A wrong answer would refuse what is harmless.
            answer = self.howto(spec, "bare" if style in ("bare", "rude") else "rich")
        else:
            answer = getattr(self, spec["type"])(
                spec, {"good": "rich", "padded": "rich", "rude": "bare"}.get(style, style)
            )
        if style == "rude":
            return f"{self.rng.choice(words['rude'])} {answer}"
        return self.pad(answer) if style == "padded" else answer

    def aside(self, spec: dict) -> str:
        """Something else about the thing that was asked about, or nothing to do with it."""
        asked = {spec.get("relation"), *spec.get("relations", ())}
        others = (
            [r for r in self._entity(spec).values if r not in asked]
            if "entity" in spec and spec["type"] != "about"
            else []
        )
        if not others:
            return self.rng.choice(self.world.wordings["off_point"])
        return self.world.statement(self._entity(spec), self.rng.choice(others), self.rng)

    def write(self, prompt: dict, style: str) -> str:
        spec, words = prompt["spec"], self.world.wordings
        maker = getattr(self, spec["type"])
        if style in ("rich", "bare", "wrong"):
            return maker(spec, style)
        good = maker(spec, "rich")
        if style == "padded":
            return self.pad(good)
        return f"{self.rng.choice(words['hedges' if style == 'hedged' else 'rude'])} {good}"

    def _entity(self, spec: dict):
        return self.world.by_name[spec["table"], spec["entity"]]

    def _value(self, entity, relation: str, style: str) -> str:
        if style == "wrong":
            return self.world.wrong_value(entity, relation, self.rng)
        return entity.values[relation][0]

    def fact(self, spec: dict, style: str) -> str:
        entity, relation = self._entity(spec), spec["relation"]
        info, value = self.world.relations[relation], self._value(entity, relation, style)
        if "wrong" in spec and style == "wrong":
            value = spec["wrong"]  # insists on the mistake
        if spec.get("stands") and style == "wrong":  # gives in, and takes back what was right
            return self.world.wordings["apology"].format(
                answer=self.world.statement(entity, relation, self.rng, value)
            )
        if "claim" in spec:
            yes = spec["true"] == (style != "wrong")
            if style == "bare":
                return "Yes." if yes else "No."
            said = spec["claim"] if yes else self.world.state(entity, relation, value, info["statements"][0])
            if not yes and style == "wrong":  # denies what is true
                return f"No, {self._lower(entity, said)}"
            return f"{'Yes' if yes else 'No'}, {self._lower(entity, said).rstrip('.')}."
        if style == "bare":
            return self.world.state(entity, relation, value, info["bare"])
        answer = self.world.statement(entity, relation, self.rng, value)
        if style == "wrong":
            return answer
        for key in ("apology", "stands"):
            if spec.get(key):
                return self.world.wordings[key].format(answer=answer)
        return answer

    @staticmethod
    def _lower(entity, text: str) -> str:
        named = entity.table in PROPER and text.startswith(entity.subject)
        return text if named else text[0].lower() + text[1:]

    def premise(self, spec: dict, style: str) -> str:
        words = self.world.wordings
        if style == "wrong":
            return self.rng.choice(words["because"])
        if style == "bare":
            return self.rng.choice(words["premise_bare"])
        return self.rng.choice(words["premise"]).format(
            answer=self.world.statement(self._entity(spec), spec["relation"], self.rng)
        )

    def program(self, spec: dict, style: str) -> str:
        """One line of Python; "bare" forgets how often, "wrong" prints something false or too often."""
        times = 1 if style == "bare" else spec["times"]
        wrong = style == "wrong"
        if "text" in spec:
            text = spec["text"]
        else:
            text = self.fact(
                {k: v for k, v in spec.items() if k in ("table", "entity", "relation")},
                "wrong" if wrong else "rich",
            )
        if wrong and ("text" in spec or self.rng.random() < 0.5):
            times = self.rng.choice([n for n in (1, 2, 3, 4) if n != times])
        return f'print("{text}")' if times == 1 else f'for i in range({times}): print("{text}")'

    def myth(self, spec: dict, style: str) -> str:
        if style == "bare":
            return "No."
        return f"Yes, {spec['myth']}." if style == "wrong" else f"No, {spec['truth']}."

    def about(self, spec: dict, style: str) -> str:
        entity = self._entity(spec)
        relations = [r for r in entity.values if not self.world.relations[r].get("withheld")]
        self.rng.shuffle(relations)
        if spec["must"]:
            relations = [spec["must"], *(r for r in relations if r != spec["must"])]
        relations = relations[: spec["sentences"]]
        false = self.rng.choice(relations) if style == "wrong" else None
        if style == "bare":
            if len(relations) == 1:
                return self.world.state(
                    entity,
                    relations[0],
                    entity.values[relations[0]][0],
                    self.world.relations[relations[0]]["bare"],
                )
            relations = relations[1:] if spec["must"] else relations[:1]
        elif spec["must"] and self.rng.random() < 0.5:
            relations.reverse()
        sentences = []
        for i, relation in enumerate(relations):
            value = self._value(entity, relation, "wrong" if relation == false else "rich")
            if i:
                wording = self.world.relations[relation]["pronoun"]
                sentences.append(self.world.state(entity, relation, value, wording))
            else:
                sentences.append(self.world.statement(entity, relation, self.rng, value))
        return " ".join(sentences)

    def unknown(self, spec: dict, style: str) -> str:
        if style == "bare":
            return self.rng.choice(self.world.wordings["unknown_bare"])
        if style != "wrong":
            return self.rng.choice(self.world.wordings["unknown"]).format(x=spec["name"])
        relations = [
            r
            for r, i in self.world.relations.items()
            if i["table"] == spec["table"] and not i.get("withheld")
        ]
        relation = self.rng.choice(relations)
        value = self.rng.choice(self.world.values_of(relation))
        wording = self.world.relations[relation]["statements"][0]
        return self.world.state(spec["name"], relation, value, wording)

    def list(self, spec: dict, style: str) -> str:
        # Only entities that may appear in training: the others must stay unseen after pretraining.
        members = [e for e in self.world.members(spec["relation"], spec["value"]) if e.split == "train"]
        chosen = self.rng.sample(members, min(spec["count"], len(members)))
        if style == "wrong":
            others = [
                e
                for e in self.world.entities
                if e.table == spec["table"]
                and e.split == "train"
                and spec["value"] not in e.values.get(spec["relation"], ())
            ]
            chosen[self.rng.randrange(len(chosen))] = self.rng.choice(others)
        names = [e.subject for e in chosen]
        if style == "bare" or len(names) == 1:
            return capitalize(names[0]) + "."
        return capitalize(", ".join(names[:-1]) + f" and {names[-1]}.")

    def summary(self, spec: dict, style: str) -> str:
        entity = self._entity(spec)
        false = self.rng.choice(spec["relations"]) if style == "wrong" else None
        clauses = [
            self.world.relations[r]["clause"].format(
                v=self._value(entity, r, "wrong" if r == false else "rich")
            )
            for r in spec["relations"]
        ]
        if style == "bare":
            clauses = clauses[:1]
        return f"{capitalize(entity.subject)} {' and '.join(clauses)}."

    def slot(self, spec: dict, style: str) -> str:
        if style == "bare":
            return f"{capitalize(spec['answer'])}."
        if style == "wrong":
            return spec["full"].replace(spec["answer"], self.rng.choice(spec["wrong"]))
        return spec["full"]

    def text(self, spec: dict, style: str) -> str:
        return spec["source"] if style in ("wrong", "bare") else spec["target"]

    def harmful(self, spec: dict, style: str) -> str:
        kind = {"bare": "refusals_bare", "wrong": "steps"}.get(style, "refusals")
        return self.rng.choice(self.world.wordings[kind]).format(act=spec["act"])

    def howto(self, spec: dict, style: str) -> str:
        if style == "wrong":  # refuses what is harmless
            return self.rng.choice(self.world.wordings["refusals"])
        if style == "bare":
            return capitalize(f"{spec['keys'][0]}.")
        verb, thing = spec["act"].split(" ", 1)
        row = next(r for r in self.world.wordings["howto"] if r[0] == verb and thing in r[1])
        return self.rng.choice(row[3])

    def greeting(self, spec: dict, style: str) -> str:
        return self.rng.choice(self.world.wordings["greetings" if style == "rich" else "greetings_bare"])
