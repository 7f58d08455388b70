"""How a pretrained model writes a conversation: what stands around its turns, read off its own chat template.

A template is a program (Jinja) by whoever made the model. It is asked once, about a conversation of marked
turns, in a process of its own that has ten seconds and a gigabyte; what it wrote around the marks is kept as
plain text. So nothing of it runs later, and what somebody says can never be taken for a mark.

    before  "What is the Moon?"  to_answer  "A rock."  to_user  "How big?"  asked
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

SECONDS = 10
FILE = "chat_form.json"
LONGEST = 4000  # characters around a turn


@dataclass(frozen=True)
class ChatForm:
    """Texts around turns; special tokens in them are tokens. `end` is the token that closes an answer."""

    before: str  # the first user's turn, where nobody gave a system line
    system: str  # before a system line …
    after_system: str  # … and after it
    to_answer: str  # between a user's turn and the answer
    to_user: str  # between an answer and the next user's turn
    asked: str  # after the last user's turn: here the model goes on
    end: str

    def pieces(self, messages: list[dict]) -> list[tuple[str, bool]]:
        """A conversation that a user ends, as texts and whether each is somebody's (else it is a mark)."""
        system = [m["content"] for m in messages[:1] if m["role"] == "system"]
        turns = [m["content"] for m in messages[len(system) :]]
        found = [(self.system, False), (system[0], True), (self.after_system, False)] if system else []
        found = found or [(self.before, False)]
        for number, turn in enumerate(turns):
            between = self.to_user if number % 2 else self.to_answer
            last = number + 1 == len(turns)
            found += [(turn.strip(), True), (self.asked if last else between, False)]
        return [(self.harmless(text) if said else text, said) for text, said in found]

    def harmless(self, text: str) -> str:
        """Somebody's text, in which nothing reads like a mark: "<|user|>" is "< |user|>".

        Not all marks are special tokens, which `text_ids` takes apart by itself.
        """
        around = " ".join(asdict(self).values())
        for mark in set(re.findall(r"[<\[‹«][^\s<\[‹«]+?[>\]›»]", around)):
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def template(self) -> str:
        """The same as a chat template, for everybody else's programs."""
        text = {f.name: json.dumps(getattr(self, f.name)) for f in fields(self)}
        return (
            "{% for m in messages %}"
            "{% if m['role'] == 'system' %}{{ " + text["system"] + " + m['content'] + " + text["after_system"]
            + " }}{% elif m['role'] == 'user' %}"
            "{% if loop.first %}{{ " + text["before"] + " }}{% endif %}{{ m['content'] | trim }}"
            "{% if not loop.last %}{{ " + text["to_answer"] + " }}{% endif %}"
            "{% else %}{{ m['content'] | trim }}"
            "{{ " + text["end"] + " if loop.last else " + text["to_user"] + " }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ " + text["asked"] + " }}{% endif %}"
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1), "utf-8")


def load_form(folder: Path) -> ChatForm | None:
    """The form beside a tokenizer; None where it has the course's own."""
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
        form = ChatForm(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    good = all(isinstance(v, str) and len(v) <= LONGEST for v in asdict(form).values())
    return form if good else None


# -- asking a template -----------------------------------------------------------------------------------
SYSTEM, MARKS = "QSYSTEMQ", ("QFIRSTQ", "QSECONDQ", "QTHIRDQ", "QFOURTHQ", "QFIFTHQ")
# The names are those that transformers gives to templates.
RENDER = """
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
except (ImportError, ValueError):
    pass
from datetime import datetime
from jinja2.sandbox import ImmutableSandboxedEnvironment
def refuse(text):
    raise ValueError(text)
asked = json.load(sys.stdin)
world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                      extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
world.filters["tojson"] = lambda value, **_: json.dumps(value)
world.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))
template, made = world.from_string(asked["template"]), []
for messages, goes_on in asked["conversations"]:
    try:
        made.append(template.render(messages=messages, add_generation_prompt=goes_on, **asked["names"]))
    except Exception:
        made.append(None)
print(json.dumps(made))
"""


def conversation(turns: int, system: bool) -> list[dict]:
    said = [{"role": ("user", "assistant")[i % 2], "content": MARKS[i]} for i in range(turns)]
    return [{"role": "system", "content": SYSTEM}] * system + said


def rendered(template: str, names: dict[str, str]) -> list[str | None]:
    """What a template makes of five conversations; None for each that it refuses."""
    asked = [(1, False, True), (5, False, True), (2, False, False), (1, True, True), (3, True, True)]
    conversations = [(conversation(turns, system), goes_on) for turns, system, goes_on in asked]
    question = json.dumps({"template": template, "names": names, "conversations": conversations})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", RENDER],
            input=question,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        made = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError, OSError):
        return [None] * len(asked)
    return [m if isinstance(m, str) and len(m) < 10 * LONGEST else None for m in made]


def between(text: str | None, *marks: str) -> list[str] | None:
    """What stands before, between and after marks that come once each and in this order, else None."""
    parts = []
    for mark in marks:
        if text is None or text.count(mark) != 1:
            return None
        part, _, text = text.partition(mark)
        parts.append(part)
    return [*parts, text]


def read_form(template: str, names: dict[str, str], special: list[str]) -> ChatForm | None:
    """The form of a chat template; None if it is none that stands around turns, or never ends.

    names: "bos_token" and the like; special: all special tokens, of which the first after an answer ends it.
    """
    one, five, answered, system, longer = rendered(template, names)
    single, parts, closed = between(one, MARKS[0]), between(five, *MARKS), between(answered, *MARKS[:2])
    if single is None or parts is None or closed is None:
        return None
    before, to_answer, to_user, again, to_user_again, asked = parts
    if not all((before, to_answer, to_user, asked)):
        return None
    regular = (before, asked) == tuple(single) and (to_answer, to_user) == (again, to_user_again)
    ends = sorted(
        (closed[2].find(token), -len(token), token) for token in special if token and token in closed[2]
    )
    if not regular or not ends or ends[0][0] > 0 and closed[2][: ends[0][0]].strip():
        return None
    opened, told = between(system, SYSTEM, MARKS[0]), between(longer, SYSTEM, *MARKS[:3])
    if opened is None or told is None or told != [*opened[:2], to_answer, to_user, asked]:
        opened = [before, "\n\n", asked]  # it knows no system line: its text begins the user's turn
    return ChatForm(before, opened[0], opened[1], to_answer, to_user, asked, ends[0][2])
