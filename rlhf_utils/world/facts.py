"""The small world: entities, their relations, and which of them are kept for testing.

Everything is read from `data/world/`: one CSV per kind of entity (`a|b` means that several values
are true, the first being the usual one), `relations.json` with wordings for each attribute, and
`wordings.json` with everything else that a person might read.
"""

import csv
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from zlib import crc32

from rlhf_utils.environment import DATA

TABLES = ("countries", "animals", "foods", "jobs", "elements", "planets", "moons")
# Whose names are written with a capital letter wherever they stand.
PROPER = ("countries", "planets", "moons")


@dataclass(frozen=True)
class Entity:
    """One row of a table: `subject` is how a sentence names it ("France", "cows", "gold")."""

    table: str
    name: str
    subject: str
    values: dict[str, tuple[str, ...]]
    split: str


def capitalize(text: str) -> str:
    """First letter in upper case, the rest untouched: "cows eat" → "Cows eat"."""
    return text[:1].upper() + text[1:]


def split_of(key: str) -> str:
    """Assign a combination to train, validation or test (72 : 10 : 18) by a stable hash."""
    number = crc32(key.encode()) % 100
    return "test" if number < 18 else "validation" if number < 28 else "train"


class World:
    """All facts and wordings, loaded once; nothing in it changes afterwards."""

    def __init__(self, folder: Path):
        self.relations = json.loads((folder / "relations.json").read_text("utf-8"))
        self.wordings = json.loads((folder / "wordings.json").read_text("utf-8"))
        self.entities = [e for table in TABLES for e in self._read_table(folder, table)]
        with open(folder / "myths.csv", encoding="utf-8") as file:
            self.myths = list(csv.DictReader(file))

    def _read_table(self, folder: Path, table: str) -> list[Entity]:
        with open(folder / f"{table}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        # By rank and not by hash alone, so that every table has its share of held-out entities.
        order = sorted(range(len(rows)), key=lambda i: crc32(f"{table}:{rows[i]['name']}".encode()))
        place = {row: rank / len(rows) for rank, row in enumerate(order)}
        return [
            Entity(
                table,
                row["name"],
                row.get("plural") or row["name"],
                {r: tuple(row[r].split("|")) for r in self.relations if row.get(r)},
                "test" if place[i] < 0.2 else "validation" if place[i] < 0.3 else "train",
            )
            for i, row in enumerate(rows)
        ]

    @cached_property
    def by_name(self) -> dict[tuple[str, str], Entity]:
        return {(e.table, e.name): e for e in self.entities}

    @cached_property
    def facts(self) -> list[tuple[Entity, str]]:
        """Every (entity, relation) pair that has a value."""
        return [(e, r) for e in self.entities for r in e.values]

    @cached_property
    def fictional(self) -> dict[str, list[tuple[str, str]]]:
        """Made-up (table, subject) pairs by split: "Bradovia" is no country."""
        parts = self.wordings["syllables"]
        real = {e.name.lower() for e in self.entities}
        names: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
        for table, kind in (("countries", "country"), ("animals", "animal"), ("foods", "food")):
            for start in parts["start"]:
                for middle in parts["middle"]:
                    for end in parts[kind]:
                        name = start + middle + end
                        key = crc32(name.encode())
                        if key % 5 == 0 and name.lower() not in real:
                            # A fifth of all combinations: enough names, and no two all alike.
                            if table != "countries":
                                name = name.lower()
                                name = name[:-1] + "ies" if name.endswith("y") else name + "s"
                            names[split_of(f"fictional:{name}")].append((table, name))
        return names

    def values_of(self, relation: str) -> list[str]:
        """All usual values of a relation, in order of first appearance."""
        return list(dict.fromkeys(e.values[relation][0] for e in self.entities if relation in e.values))

    def state(self, entity: Entity | str, relation: str, value: str, wording: str) -> str:
        """Fill `{s}`, `{S}`, `{v}`, `{V}` of a wording with a subject and a value."""
        subject = entity if isinstance(entity, str) else entity.subject
        return wording.format(s=subject, S=capitalize(subject), v=value, V=capitalize(value))

    def statement(self, entity: Entity, relation: str, rng: Random, value: str | None = None) -> str:
        """One sentence that says the fact (or, with `value`, another one) in some wording."""
        options = self.relations[relation]["statements"]
        wording = options[0] if rng.random() < 0.5 else rng.choice(options)
        return self.state(entity, relation, value or entity.values[relation][0], wording)

    def wrong_value(self, entity: Entity, relation: str, rng: Random) -> str:
        """A value of the same relation that is not true of this entity."""
        return rng.choice([v for v in self.values_of(relation) if v not in entity.values[relation]])

    def members(self, relation: str, value: str) -> list[Entity]:
        """All entities for which `value` is the usual value of `relation`."""
        return [e for e in self.entities if e.values.get(relation, (None,))[0] == value]


@lru_cache(maxsize=2)
def load_world(folder: Path | None = None) -> World:
    """The world of `data/world/` (or another folder of the same form)."""
    return World(folder or DATA / "world")
