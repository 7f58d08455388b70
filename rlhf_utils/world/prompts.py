"""Prompts in InstructGPT's ten use cases, with what the gold judge needs to know of each.

A prompt is a plain dict: `id`, `split`, `use_case`, `kind`, `messages` (role and content) and `spec`,
which the judge reads and no model ever sees.
"""

from random import Random

from rlhf_utils.world.facts import PROPER, World
from rlhf_utils.world.prompt_parts import PromptParts

# What is asked for beside the ten use cases, to measure one thing each; most of it is also part of a use
# case.
PROBES = ("premise", "provoked", "insist", "correction", "program", "fictional", "harmful", "howto")

# InstructGPT, table 1 (share of the API prompts), in percent.
PAPER_SHARES = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
}
USE_CASES = tuple(PAPER_SHARES)


def training_shares(floor: float = 6.0, other: float = 20.0) -> dict[str, float]:
    """The paper's shares with every use case raised to `floor` percent, and "other" to `other`, summing to 1.

    1.9 % of 1,700 demonstrations would be 32 for `extract`: too few for a model this small. "Other" holds
    all that would hurt somebody and all that only sounds so, which takes many examples to tell apart.
    """
    least = dict.fromkeys(PAPER_SHARES, floor) | {"other": other}
    raised: set[str] = set()
    while True:
        left = 100 - sum(least[u] for u in raised)
        rest = sum(share for u, share in PAPER_SHARES.items() if u not in raised)
        shares = {u: least[u] if u in raised else share / rest * left for u, share in PAPER_SHARES.items()}
        low = {u for u in PAPER_SHARES if shares[u] < least[u] - 1e-9}
        if not low:
            return {u: share / 100 for u, share in shares.items()}
        raised |= low


def thing_of(prompt: dict) -> str:
    """What a prompt asks about, in one word or text: prompts about one thing are not independent of each
    other.
    """
    spec = prompt["spec"]
    if "entity" in spec:
        return f"{spec['table']}:{spec['entity']}"
    return next(
        (
            f"{key}:{spec[key]}"
            for key in ("name", "myth", "act", "value", "passage", "source", "text")
            if key in spec
        ),
        spec["type"],
    )


class PromptWriter(PromptParts):
    """Writes prompts of one split; held-out entities and combinations never cross splits."""

    # -- use cases: each returns kind, messages or text, spec ---------------------------------------
    def generation(self):
        roll = self.rng.random()
        if roll < 0.12:
            table, subject = self.rng.choice(self.world.fictional[self.split])
            kind = self.rng.choice(["about", "about_one"])
            return (
                "fictional",
                self.wording(kind, s=subject),
                {"type": "unknown", "name": subject, "table": table},
            )
        if roll < 0.30:
            return self.program()
        entity = self.entity()
        spec = {"type": "about", "table": entity.table, "entity": entity.name, "sentences": 2, "must": None}
        if roll < 0.46:
            return "about_one", self.wording("about_one", s=entity.subject), spec | {"sentences": 1}
        if roll < 0.72:
            return "about", self.wording("about", s=entity.subject), spec
        must = self.relation(entity)
        mention = self.world.relations[must]["mention"]
        return "about_must", self.wording("about_must", s=entity.subject, m=mention), spec | {"must": must}

    def open_qa(self):
        roll = self.rng.random()
        if roll < 0.16:
            return self.fictional()
        if roll < 0.30:
            return self.premise()
        if roll < 0.38:
            return self.provoked()
        if roll < 0.43:
            row = self.combination(lambda: ((m := self.rng.choice(self.world.myths))["myth"], m))[0]
            spec = {"type": "myth", "myth": row["myth"], "truth": row["truth"]}
            return "myth", self.wording("true_false", claim=row["myth"]), spec
        entity = self.entity()
        relation = self.relation(entity)
        if roll < 0.53:
            true = self.rng.random() < 0.5
            value = entity.values[relation][0] if true else self.world.wrong_value(entity, relation, self.rng)
            claim = self.world.state(entity, relation, value, self.world.relations[relation]["statements"][0])
            claim = claim.rstrip(".")
            if entity.table not in PROPER or claim.startswith("The "):
                claim = claim[0].lower() + claim[1:]
            spec = self.fact(entity, relation, claim=claim, true=true)
            return "true_false", self.wording("true_false", claim=claim), spec
        text = self.question(entity.subject, relation)
        if roll < 0.60:
            shots = [e for e in self.entities if relation in e.values and e is not entity]
            shots = self.rng.sample(shots, min(2, len(shots)))
            lines = [
                f"{self.question(e.subject, relation)} {self.world.statement(e, relation, self.rng)}"
                for e in shots
            ]
            return "few_shot", "\n".join([*lines, text]), self.fact(entity, relation)
        return "plain", text, self.fact(entity, relation)

    def brainstorming(self):
        def make():
            relation = self.rng.choice([r for r, i in self.world.relations.items() if i["category"]])
            value = self.rng.choice(self.world.values_of(relation))
            return f"list:{relation}:{value}", relation, value

        while True:
            relation, value = self.combination(make)
            members = [e for e in self.world.members(relation, value) if e.split == "train"]
            count = self.rng.choice([2, 3])
            if len(members) > count:
                break
        category = self.world.relations[relation]["category"].format(v=value)
        text = self.wording("list", n=self.world.wordings["numbers"][str(count)], c=category)
        table = self.world.relations[relation]["table"]
        return (
            "list",
            text,
            {"type": "list", "table": table, "relation": relation, "value": value, "count": count},
        )

    def chat(self):
        roll = self.rng.random()
        if roll < 0.12:
            return "greeting", self.wording("greeting"), {"type": "greeting"}
        if roll < 0.32:
            return self.correction()
        if roll < 0.46:
            return self.insist()
        entity = self.entity()
        first = self.relation(entity)
        second = self.relation(entity, but=first)
        reply = self.world.statement(entity, first, self.rng)
        turns = (self.question(entity.subject, first), reply, self.world.relations[second]["followup"])
        return "follow_up", self.conversation(*turns), self.fact(entity, second)

    def rewrite(self, kind: str | None = None):
        kind = kind or self.rng.choice(["polite", "past", "swap"])
        words = self.world.wordings
        if kind == "polite":
            verbs, things, times = words["requests"]
            verb, thing, time = self.combination(
                lambda: (
                    "polite:"
                    + ":".join(
                        r := [self.rng.choice(verbs), self.rng.choice(things), self.rng.choice(times)]
                    ),
                    *r,
                )
            )
            source = f"{verb} the {thing} {time}."
            target = f"Please {source[0].lower()}{source[1:]}"
            text = self.wording(kind, p=source)
        else:
            name, (now, past), place = self.combination(self.event)
            source = f"{name} {now} to the {place}."
            if kind == "past":
                target, text = source.replace(now, past), self.wording(kind, p=source)
            else:
                other = self.rng.choice([n for n in words["people"] if n != name])
                target, text = source.replace(name, other), self.wording(kind, a=name, b=other, p=source)
        return kind, text, {"type": "text", "kind": kind, "source": source, "target": target}

    def summarization(self):
        while True:
            entity = self.entity()
            relations = [r for r in entity.values if not self.world.relations[r].get("withheld")]
            if len(relations) >= 2:
                break
        first, second = self.rng.sample(relations, 2)
        value = entity.values[second][0]
        passage = (
            self.world.state(
                entity, first, entity.values[first][0], self.world.relations[first]["statements"][0]
            )
            + " "
            + self.world.state(entity, second, value, self.world.relations[second]["pronoun"])
        )
        spec = {"type": "summary", "table": entity.table, "entity": entity.name, "relations": [first, second]}
        return "facts", self.wording("summary", p=passage), spec | {"passage": passage}

    def classification(self):
        if self.rng.random() < 0.5:
            entity = self.entity("animals")
            labels = [v for v in self.world.values_of("kind") if v != entity.values["kind"][0]]
            labels = self.rng.sample(labels, 2) + [entity.values["kind"][0]]
            self.rng.shuffle(labels)
            text = self.wording(
                "class_animals", s=entity.subject, labels=f"{labels[0]}, {labels[1]} or {labels[2]}"
            )
            return "animals", text, self.fact(entity, "kind")
        review, label = self.combination(self.review)
        other = "bad" if label == "good" else "good"
        spec = {
            "type": "slot",
            "answer": label,
            "wrong": [other],
            "full": f"This review is {label}.",
            "passage": review,
        }
        return "sentiment", self.wording("sentiment", p=review), spec

    def other(self):
        return self.rng.choice([self.harmful, self.howto])()

    def harmful(self):
        return self.act("harmful")

    def howto(self):
        """What only sounds harmful."""
        return self.act("howto")

    def closed_qa(self):
        words = self.world.wordings

        def make():
            name, thing = self.rng.choice(words["people"]), self.rng.choice(words["objects"])
            return f"closed:{name}:{thing}", name, thing

        name, thing = self.combination(make)
        colour = self.rng.choice(words["colours"])
        passage = f"{name} has a {colour} {thing}."
        if self.rng.random() < 0.5:
            kind, question, answer, full = "who", f"Who has the {thing}?", name, f"{name} has the {thing}."
            wrong = [p for p in words["people"] if p != name]
        else:
            kind, question, answer, full = (
                "colour",
                f"What colour is the {thing}?",
                colour,
                f"The {thing} is {colour}.",
            )
            wrong = [c for c in words["colours"] if c != colour]
        spec = {"type": "slot", "answer": answer, "wrong": wrong, "full": full, "passage": passage}
        return kind, self.wording("closed", p=passage, q=question), spec

    def extract(self, kind: str | None = None):
        name, (_, past), place = self.combination(self.event)
        days = self.world.wordings["days"]
        day = self.rng.choice(days)
        passage = f"On {day} {name} {past} to the {place}."
        kind = kind or self.rng.choice(["name", "place"])
        answer = {"name": name, "place": place, "day": day}[kind]
        full = {
            "name": f"The name is {name}.",
            "place": f"The place is the {place}.",
            "day": f"The day is {day}.",
        }
        wrong = [w for w in (name, place, day) if w != answer]
        spec = {"type": "slot", "answer": answer, "wrong": wrong, "full": full[kind], "passage": passage}
        return kind, self.wording(f"extract_{kind}", p=passage), spec

    # -- withheld from all training: one relation, one kind of task -----------------------------------
    def withheld_relation(self):
        entity = self.rng.choice([e for e in self.entities if "young" in e.values])
        return "young", self.question(entity.subject, "young"), self.fact(entity, "young")

    def withheld_task(self):
        return self.extract("day")


def write_prompts(world: World, split: str, counts: dict[str, int], seed: int) -> list[dict]:
    """`counts[use_case]` prompts of a split, without repeats as long as there are enough of them.

    Beyond the ten there are `PROBES`, and `withheld_relation` and `withheld_task`, which only tests ask for.
    """
    rng = Random(f"prompts:{split}:{seed}")
    writer = PromptWriter(world, split, rng)
    prompts, seen = [], set()
    for use_case, count in counts.items():
        made = 0
        for attempt in range(count * 30):
            if made == count:
                break
            kind, text, spec = getattr(writer, use_case)()
            messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
            key = " ".join(m["content"] for m in messages)
            if key in seen and attempt < count * 20:
                continue
            seen.add(key)
            made += 1
            prompts.append(
                {"split": split, "use_case": use_case, "kind": kind, "messages": messages, "spec": spec}
            )
    rng.shuffle(prompts)
    return [{"id": f"{split}-{seed}-{i:05}", **p} for i, p in enumerate(prompts)]
