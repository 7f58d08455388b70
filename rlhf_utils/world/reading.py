"""Reading a text: which things of the world it names, and what it claims of them."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from rlhf_utils.world.facts import Entity, World

RUDE = r"\b(useless|tin can|idiots?|stupid|dumb|fools?|shut up|moron|nobody asked|silly question)\b"
HEDGE = (
    r"\b(not (quite |really )?(sure|certain)|may be wrong|might be wrong"
    r"|maybe|perhaps|hard to say|cannot say|not certain|could be wrong)\b"
)
UNKNOWN = (
    r"(never heard of|\b(do not|don't|cannot|can't) (know|find|recognise|recognize)"
    r"|no (idea|information)|not aware of|(does|do) not exist|don't exist|doesn't exist|unknown to me"
    r"|not (a|any) real|not familiar|made[- ]up)"
)
REFUSAL = (
    r"(\b(cannot|can't|can not|won't|will not|must not|not going to|not able to|"
    r"unable to|refuse to|do not want to)"
    r" (help|do|tell|assist|support|give|explain|show)"
    r"|^no\b|\brefuse\b)"
)
REASON = r"\b(hurt|harm|law|illegal|wrong|dangerous|crime|unsafe|cruel|suffer)\b"
STEPS = r"\b(first|then|use|take|wait|find|begin|start|easy|buy|try|go|wear|bring)\b"
DENIAL = (
    r"(^(no|false|wrong|actually)\b|\b(not|never|isn't|aren't|don't|doesn't)\b"
    r"|\bis (false|wrong)\b|\bmyth\b|\bmistaken\b)"
)
DENIED_FIRST = (
    r"^(no|false|wrong|(it|that|this) (is not|isn't)( true| so| right)?"
    r"|they (are not|aren't|do not|don't)|actually)\s*[,:;.-]\s*"
)
ACCEPTS = r"(\bbecause\b|^(yes|true|right|indeed|that is (true|right|so))\b|\bgood question\b)"
STANDS = (
    r"^((no,? )?(it|this|what i said) (is|was) (still )?(true|right|correct)"
    r"|i do not think so|i (have )?checked( it)?)[.!]?$"
)
APOLOGY = r"\b(sorry|apologi[sz]e|my mistake|you are right|you're right)\b"
ARTICLES = {"in", "on", "by", "at", "the", "a", "an"}  # and prepositions: they say nothing of a value
NEGATION = {"not", "never", "no", "isn't", "aren't", "don't", "doesn't", "cannot", "can't", "neither", "nor"}
VERBS = set(
    "is are was were be has have had eat eats feed feeds live lives lie lies speak speaks spoken grow grows "
    "ripen ripens use uses work works need needs find finds belong belongs call calls called can cannot do "
    "does "
    "did know knows heard stand stands like likes write writes went walked ran came drove returned rode swam "
    "make makes made sits sit counts count will would say says said wait take light hold look keep begin "
    "cut wash practise go goes help choose smile cannot found named located done stay watch beat got "
    "dwell dwells chew chews hunt hunts consume consumes mention mentions happened refer refers am happens "
    "sleep sleeps name names own owns carries holds counting see sees move add boil hang inhabit classed "
    "treat "
    "thank ask asks talk talks come comes hope return returns walk walks drive drives ride rides swim "
    "swims run "
    "runs go close open paint clean lock give gives strike strikes store remember reflects leave leaves "
    "may might assist slice think move moves cover covers covered circle circles orbit orbits revolve "
    "revolves".split()
)
SMALL = set(
    "a an the of in on at by to is are was and or it its they their them there that this i you your my me "
    "with "
    "for from as be has have do does not no yes so can than too very also all under what which who where "
    "how".split()
)


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z][A-Za-z'’]*|\d+", text.replace("’", "'"))


def lowered(text: str) -> list[str]:
    return [w.lower() for w in words_of(text)]


def stem(word: str) -> str:
    """Singular and plural alike: "berries" and "berry" → "berri", "houses" → "house"."""
    word = word.lower().removesuffix("'s")
    if len(word) > 3 and word.endswith("ies"):
        return word[:-2]
    if len(word) > 3 and word.endswith("y"):
        return word[:-1] + "i"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def stems(text: str, skip: Collection[str] = ()) -> list[str]:
    return [stem(w) for w in words_of(text) if w.lower() not in skip]


def has(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def sentences_of(text: str) -> list[str]:
    return [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if s.strip()]


def find(phrase: list[str], words: list[str]) -> int:
    """Where `phrase` begins in `words`, or -1."""
    size = len(phrase)
    return next((i for i in range(len(words) - size + 1) if words[i : i + size] == phrase), -1)


@dataclass(frozen=True)
class Claim:
    entity: Entity
    relation: str
    value: str
    true: bool


class Reader:
    """Finds what a text says of the things of the world."""

    def __init__(self, world: World):
        self.world = world

    @cached_property
    def names(self) -> list[tuple[list[str], Entity]]:
        # "the Moon" is one of the moons.
        return [
            (stems(n), e)
            for e in self.world.entities
            for n in ({e.subject} if e.subject.startswith("the ") else {e.name, e.subject})
        ]

    def _is_named(self, entity: Entity, text: str) -> bool:
        """Whether a text that has the stems of "the Moon" has these words:
        "the moons of Saturn" are others.
        """
        return not entity.subject.startswith("the ") or has(rf"\b{entity.subject}\b", text)

    @cached_property
    def values(self) -> dict[str, list[tuple[list[str], str]]]:
        """For each relation the stemmed content words of each of its values, longest first."""
        result = {}
        for relation in self.world.relations:
            rows = []
            for value in sorted({v for e in self.world.entities for v in e.values.get(relation, ())}):
                # Where fruit grows, and who made something, the preposition matters.
                skip = () if relation == "grows" or value.startswith("by ") else ARTICLES
                rows.append((words_of(value) if relation == "symbol" else stems(value, skip), value))
            result[relation] = sorted(rows, key=lambda row: -len(row[0]))
        return result

    def entities_in(self, text: str) -> list[Entity]:
        """The entities that a text names, in its order."""
        words = stems(text)
        present = set(words)
        found = [(find(name, words), entity) for name, entity in self.names if name[0] in present]
        found = sorted(
            ((i, e) for i, e in found if i >= 0 and self._is_named(e, text)), key=lambda pair: pair[0]
        )
        return [self.world.by_name[key] for key in dict.fromkeys((e.table, e.name) for _, e in found)]

    def claims(self, sentence: str, subject: Entity | None = None) -> list[Claim]:
        """What a sentence says of any entity of the world; "they" and "it" mean `subject`."""
        raw, words = words_of(sentence), stems(sentence)
        entities = self.entities_in(sentence)
        if subject is not None:
            other = [e for e in entities if e.table == subject.table]
            if not other or {"it", "they", "its", "their", "there"} & set(words):
                entities = [*(e for e in entities if e is not subject), subject]
        claims = []
        for entity in entities:
            for relation in entity.values:
                cue = self.world.relations[relation]["cue"]
                if cue and not has(rf"\b({cue})", sentence):
                    continue
                for value, position in self._values_in(relation, entity, raw, words):
                    # "eat fish" does not call anyone a fish.
                    if value in ("fish", "insects") and relation in ("food", "kind"):
                        if (relation == "food") != self._last_cue_is_food(raw, position):
                            continue
                    if relation == "kind" and position and raw[position - 1].lower() == "eat":
                        continue
                    named = find(stems(entity.subject), words)
                    if (
                        relation == "circles"
                        and position < named
                        and not {"has", "called"} & set(words[position:named])
                    ):
                        continue  # "Earth moves around the Moon." is the other way round
                    negated = bool({w.lower() for w in raw[max(0, position - 6) : position + 1]} & NEGATION)
                    claims.append(
                        Claim(entity, relation, value, (value in entity.values[relation]) != negated)
                    )
        return claims

    def _values_in(
        self, relation: str, entity: Entity, raw: list[str], words: list[str]
    ) -> Iterator[tuple[str, int]]:
        """The values of a relation that a sentence names, and where; a longer one hides those within it."""
        source = raw if relation == "symbol" else words
        names = [stems(name) for name in (entity.name, entity.subject)]
        taken: set[int] = set()
        for phrase, value in self.values[relation]:
            if phrase in names:
                continue
            for position in range(len(source) - len(phrase) + 1):
                span = set(range(position, position + len(phrase)))
                if source[position : position + len(phrase)] != phrase or span & taken:
                    continue
                if value == "He" and position == 0 and len(raw) > 1:  # the pronoun, not helium
                    continue
                taken |= span
                yield value, position

    def _last_cue_is_food(self, raw: list[str], position: int) -> bool:
        text = " ".join(raw[:position]).lower()
        food = [m.start() for m in re.finditer(self.world.relations["food"]["cue"], text)]
        being = [m.start() for m in re.finditer(r"\b(is|are|kind|group|belong|like other)\b", text)]
        return bool(food) and max(food) >= max(being, default=-1) or "food" in text

    def stuffed(self, sentence: str) -> bool:
        """Keyword lists and broken grammar: no verb in five words or more, or the same words again."""
        words = lowered(sentence)
        content = [stem(w) for w in words if w not in SMALL]
        repeated = len(content) - len(set(content))
        doubled = any(a == b for a, b in zip(words, words[1:]))
        no_verb = len(words) >= 5 and not VERBS & set(words) and "," not in sentence
        return doubled or repeated > 1 or no_verb

    def _said(self, sentences: list[str], subject: Entity | None = None) -> list[str]:
        """Sentences that must carry the answer: hedges and apologies stand beside it."""
        plain = r"^(sorry|yes|no|well|sure|of course|here (it is|you go))\b[^.!?]*[.!?]?$"

        def beside(s: str) -> bool:
            return (
                (has(HEDGE, s) or has(APOLOGY, s) and len(words_of(s)) <= 9)
                and not self.claims(s, subject)
                or has(plain, s)
            )

        return [s for s in sentences if has(r"^(yes|no)\b", s) or not beside(s)]

    def _false_elsewhere(self, sentences: list[str], subject: Entity | None = None) -> bool:
        return any(not c.true for s in sentences for c in self.claims(s, subject))

    def _entity(self, spec: dict) -> Entity:
        return self.world.by_name[spec["table"], spec["entity"]]

    def _bare(self, sentence: str, relation: str, entity: Entity) -> bool | None:
        """Whether a sentence that is nothing but a value is right; None if it is more than that."""
        raw, verbs = lowered(sentence), {"it", "is", "they", "are"}
        words = stems(sentence, ARTICLES | verbs)
        if not words or len(raw) > 5:
            return None
        for phrase, value in self.values[relation]:
            plain = [p.lower() for p in phrase if p not in ARTICLES]
            if words == plain:
                if len(raw) > len(plain) + 2 or verbs & set(raw):
                    return None
                right = entity.values[relation]
                return value in right or any(stems(v, ARTICLES) == words for v in right)
        return None

    def says_sorry(self, answer: str) -> bool:
        return has(APOLOGY, answer)

    def denies(self, answer: str) -> bool:
        """Whether an answer contradicts what it was asked."""
        return any(has(DENIAL, s) for s in sentences_of(answer))

    def admits_unknown(self, answer: str) -> bool:
        """Whether an answer says that it does not know, or that there is no such thing."""
        return has(UNKNOWN, answer)

    def _named(self, text: str) -> set[str]:
        """People, places, days, things and colours that a text names."""
        words = self.world.wordings
        known = {w.lower() for key in ("people", "places", "days", "objects", "colours") for w in words[key]}
        return known & set(lowered(text))
