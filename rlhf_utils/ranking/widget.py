"""The widget over a RankingSession, and a plain form for where custom widgets cannot load.

Both only read the session and call its methods. Callbacks may run on another thread than the cell, so
nothing here holds a connection or a figure; a lock keeps two callbacks apart.
"""

import json
from html import escape
from pathlib import Path
from threading import Lock

import anywidget
import ipywidgets
import traitlets

from rlhf_utils.environment import DATA, CourseError
from rlhf_utils.ranking.feedback import lesson, told_now
from rlhf_utils.ranking.items import Item
from rlhf_utils.ranking.session import RankingSession

FOLDER = Path(__file__).parent
WRAPPED = "white-space:pre-wrap;overflow-wrap:anywhere"  # as it is, but never wider than the notebook


def labels_of(language: str, widget: str = "ranking") -> dict[str, str]:
    """The words on the ranking or the chat widget, in English ("en") or Chinese ("zh")."""
    labels = json.loads((DATA / widget / "labels.json").read_text("utf-8"))
    if language not in labels:
        raise CourseError(f"There are no labels in {language!r}. Choose one of: {', '.join(labels)}.")
    return labels[language]


def notice(session: RankingSession) -> str:
    """What the database has to say, once."""
    text = session.store.notice if session.store else ""
    if text:
        session.store.notice = ""
    return text


class RankingWidget(anywidget.AnyWidget):
    """Drag and drop or keys only; see the line of keys at its foot. `RankingWidget(session)` shows it."""

    _esm = FOLDER / "widget.js"
    _css = FOLDER / "widget.css"
    labels = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, session: RankingSession, language: str = "en", scores: bool = False):
        self.session, self.with_scores, self.lock = session, scores, Lock()
        super().__init__(labels=labels_of(language))
        self.show()
        self.on_msg(lambda _, content, buffers: self.receive(content))

    def __repr__(self) -> str:  # what a viewer without widgets shows
        return "The ranking widget stands here when this cell runs in JupyterLab."

    def show(self, message: str = "", spoken: str = "") -> None:
        """Send what is on the screen to the browser."""
        session = self.session
        state = {
            **session.progress(),
            "finished": session.finished,
            "message": message,
            "spoken": spoken,
            "step": len(session.history),
        }
        if not session.finished:
            draft = session.draft
            state |= {
                "item": session.item.id,
                "messages": list(session.item.messages),
                "answers": session.answers,
                "practice": bool(session.item.known),
                "scores": self.with_scores,
                "flags": list(session.flag_names),
                "draft": {"groups": draft.groups, "scores": draft.scores, "flags": draft.flags},
            }
        self.state = state

    def receive(self, content: dict) -> None:
        """Carry out what the browser asks for; errors are shown, not raised."""
        with self.lock:
            try:
                message, spoken = self._carry_out(content)
            except CourseError as error:
                message, spoken = str(error), ""
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                # No button of the widget sends such a thing.
                message, spoken = f"The browser's message cannot be read ({type(error).__name__}).", ""
            self.show(message or notice(self.session), spoken)

    def _carry_out(self, content: dict) -> tuple[str, str]:
        """What to write, and what to say to a screen reader."""
        session, do = self.session, content["do"]
        if do == "undo":
            return "", self.labels["undone"] if session.undo() else ""
        if session.finished or content["item"] != session.item.id:
            return "", ""  # a key pressed twice: this item has been submitted already
        if do == "skip":
            session.skip(_seconds(content))
            return "", self.labels["skipped"]
        if do != "submit":
            raise ValueError(do)
        item, seconds = session.item, _seconds(content)
        session.decide(content["groups"], content.get("scores"), content.get("flags"))
        row = session.submit(seconds)
        return told(session, item, row, self.labels), self.labels["stored"]


def _seconds(content: dict) -> float | None:
    """How long the browser says that a person was busy with an item."""
    value = content.get("seconds")
    return float(value) if value is not None and 0 <= float(value) < 1e6 else None


def told(session: RankingSession, item: Item, row: dict, labels: dict[str, str]) -> str:
    """What to say after an item was ranked: how practice went, or after each tenth how far one agrees."""
    if item.known:
        found = lesson(item, row["ranks"])
        kind = (
            "practice_right" if "why" not in found else "practice_tied" if found["tied"] else "practice_wrong"
        )
        return labels[kind].format(**found)
    lines = {"crowd": "with_crowd", "oneself": "with_oneself"}
    return " ".join(
        labels[lines[name]].format(alike=alike, strict=strict)
        for name, (alike, strict) in told_now(session).items()
    )


class PlainRanking(ipywidgets.VBox):
    """The same session with a rank number for each answer: needs nothing but ipywidgets."""

    def __init__(self, session: RankingSession, language: str = "en"):
        self.session, self.labels, self.lock = session, labels_of(language), Lock()
        self.head, self.note = ipywidgets.HTML(), ipywidgets.HTML()
        self.ranks: dict[str, ipywidgets.BoundedIntText] = {}
        self.list = ipywidgets.VBox()
        self.buttons = {}
        for name in ("submit", "skip", "undo"):
            self.buttons[name] = ipywidgets.Button(
                description=self.labels[name], button_style="primary" if name == "submit" else ""
            )
            self.buttons[name].on_click(lambda _, name=name: self.press(name))
        super().__init__([self.head, self.list, ipywidgets.HBox(list(self.buttons.values())), self.note])
        self.draw()

    def draw(self, note: str = "") -> None:
        session, L = self.session, self.labels
        progress = session.progress()
        head = L["done"].format(**progress)
        self.note.value = escape(note)
        if session.finished:
            self.head.value, self.list.children = f"<p>{head}</p><p>{escape(L['all_done'])}</p>", ()
            return
        said = ""
        for message in session.item.messages:
            who, text = L["user" if message["role"] == "user" else "assistant"], message["content"]
            said += f"<p style='{WRAPPED}'><b>{escape(who)}</b> {escape(text)}</p>"
        self.head.value = f"<p>{head}</p>{said}<p>{escape(L['plain'])}</p>"
        answers = session.answers
        chosen = {
            x: 1 + sum(len(g) for g in session.groups[:i])
            for i, group in enumerate(session.groups)
            for x in group
        }
        self.ranks = {
            x: ipywidgets.BoundedIntText(
                value=chosen.get(x, 0),
                min=0,
                max=len(answers),
                description=x.upper(),
                layout={"width": "150px"},
            )
            for x in answers
        }
        self.list.children = [
            ipywidgets.HBox([self.ranks[x], ipywidgets.HTML(f"<bdi style='{WRAPPED}'>{escape(text)}</bdi>")])
            for x, text in answers.items()
        ]

    def press(self, name: str) -> None:
        with self.lock:
            note = ""
            try:
                if name == "undo":
                    self.session.undo()
                elif name == "skip":
                    self.session.skip()
                else:
                    values = {x: box.value for x, box in self.ranks.items()}
                    missing = [x.upper() for x, v in values.items() if not v]
                    if missing:
                        self.note.value = escape(self.labels["missing"].format(x=", ".join(missing)))
                        return
                    self.session.rank(
                        [[x for x in values if values[x] == v] for v in sorted(set(values.values()))]
                    )
                    item = self.session.item
                    note = told(self.session, item, self.session.submit(), self.labels)
                self.draw(notice(self.session) or note)
            except CourseError as error:
                self.note.value = escape(str(error))


def show_session(session: RankingSession, language: str = "en", plain: bool = False, scores: bool = False):
    """The widget, or with `plain` the form without a view of its own."""
    return PlainRanking(session, language) if plain else RankingWidget(session, language, scores)
