"""The chat as a person uses it in a notebook: a widget over a ChatRoom, and a plain form where none can load.

Answers are generated in a thread of their own, so that Stop and everything else is heard meanwhile.
"""

import time
from collections.abc import Callable, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from threading import Lock, Thread

import anywidget
import ipywidgets
import traitlets

from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.room import SIDE_BY_SIDE, ChatRoom
from rlhf_utils.environment import CourseError
from rlhf_utils.look import COLOURS
from rlhf_utils.profiles import TASTE
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.ranking.widget import RankingWidget, labels_of

FOLDER = Path(__file__).parent
EVERY = 0.04  # seconds between two pieces that are sent: faster than anybody reads


def labels_for(room: ChatRoom, language: str) -> dict[str, str]:
    """The chat's words; chapter 11's model knows more than the small world's things to ask about."""
    labels = labels_of(language, "chat")
    return labels | {"empty": labels[room.hint]}


class ChatWidget(anywidget.AnyWidget):
    """One question, an answer by each model beside the others. `ChatWidget(room)` shows it."""

    _esm = FOLDER / "chat.js"
    _css = FOLDER / "chat.css"
    labels = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)  # what is on the screen
    stream = traitlets.Dict().tag(sync=True)  # the answers that are being given
    tokens = traitlets.Dict().tag(sync=True)  # of the one answer whose probabilities were asked for

    def __init__(
        self,
        room: ChatRoom,
        language: str = "en",
        rank: Callable[[RankingSession], None] = lambda session: None,
    ):
        self.room, self.rank, self.lock, self.thread = room, rank, Lock(), None
        self.sent = 0  # a number on all that is sent: what equals the last is not sent otherwise
        super().__init__(labels=labels_for(room, language))
        self.show()
        self.on_msg(lambda _, content, buffers: self.receive(content))

    def __repr__(self) -> str:  # what a viewer without widgets shows
        return "The chat stands here when this cell runs in JupyterLab."

    def show(self, message: str = "", spoken: str = "") -> None:
        """Send what is on the screen to the browser."""
        room = self.room
        models = [
            {"name": name, "written": chat.written, "colour": COLOURS.get(name, COLOURS[TASTE])}
            for name, chat in room.chats.items()
        ]
        self.sent += 1
        self.state = {
            "number": self.sent,
            "models": models,
            "missing": room.missing,
            "turns": [
                {"question": t.question, "answers": dict(t.answers), "thumbs": dict(t.thumbs)}
                for t in room.turns
            ],
            "forgotten": {} if room.busy else room.forgotten(),
            "temperature": room.temperature,
            "top_p": room.top_p,
            "busy": room.busy,
            "message": message,
            "spoken": spoken,
        }

    def receive(self, content: dict) -> None:
        """Carry out what the browser asks for; errors are shown, not raised."""
        with self.lock:
            try:
                self._carry_out(content)
            except CourseError as error:
                self.show(str(error))
            except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
                # No button of the widget sends such a thing.
                self.show(f"The browser's message cannot be read ({type(error).__name__}).")
            except Exception as error:  # a model that fails at its first word: seen by nobody otherwise
                self.show(f"That failed: {error}")

    def _carry_out(self, content: dict) -> None:
        room, do = self.room, content["do"]
        if do == "ask":
            pieces = room.ask(str(content["text"]))
            first = next(pieces, None)  # what is wrong with a question is said at once
            self.thread = Thread(target=self._answer, args=(first, pieces), daemon=True)
            self.show()
            self.thread.start()
        elif do == "stop":
            room.stop()
        elif do == "clear":
            room.clear()
            self.show(spoken=self.labels["cleared"])
        elif do == "rewind":
            room.rewind(int(content["turn"]))
            self.show()
        elif do == "heat":
            room.heat(content["temperature"], content["top_p"])
            self.show()
        elif do == "thumb":
            room.thumb(int(content["turn"]), content["model"], content["value"])
            self.show(spoken=self.labels["stored"])
        elif do == "rank":
            self.rank(room.session(int(content["turn"])))
        elif do == "tokens":
            turn, model = int(content["turn"]), content["model"]
            self.sent += 1
            self.tokens = {"number": self.sent, "model": model, "tokens": room.turns[turn].tokens[model]}
        else:
            raise ValueError(do)

    def _answer(self, first, pieces) -> None:
        """Send the answers as they grow, to their end."""
        turn, sent = len(self.room.turns) - 1, 0.0
        message = ""
        try:
            for _ in chain([first], pieces):
                if time.monotonic() - sent > EVERY:
                    sent = time.monotonic()
                    self.stream = {"turn": turn, "answers": dict(self.room.turns[turn].answers)}
        except Exception as error:  # whatever goes wrong in a thread would be seen by nobody
            message = f"The answers broke off: {error}"
        finally:
            pieces.close()
        with self.lock:
            self.show(message)

    def wait(self) -> None:
        """Until all answers are given; for programs."""
        if self.thread is not None:
            self.thread.join()


class Conversation(ipywidgets.VBox):
    """The chat and, beneath it, the answers that a person chose to rank."""

    def __init__(self, room: ChatRoom, language: str = "en"):
        self.chat = ChatWidget(room, language, self.open_ranking)
        self.language = language
        super().__init__([self.chat])

    def __repr__(self) -> str:
        return repr(self.chat)

    def open_ranking(self, session: RankingSession) -> None:
        self.children = (self.chat, RankingWidget(session, self.language))


class PlainChat(ipywidgets.VBox):
    """The same room with a line to write in: needs nothing but ipywidgets."""

    def __init__(self, room: ChatRoom, language: str = "en"):
        self.room, self.labels = room, labels_for(room, language)
        self.text = ipywidgets.Text(placeholder=self.labels["question"], layout={"width": "70%"})
        self.button = ipywidgets.Button(description=self.labels["ask"], button_style="primary")
        self.again = ipywidgets.Button(description=self.labels["clear"])
        self.said, self.note = ipywidgets.HTML(), ipywidgets.HTML()
        self.button.on_click(lambda _: self.press())
        self.again.on_click(lambda _: self.press(clear=True))
        super().__init__([self.said, ipywidgets.HBox([self.text, self.button, self.again]), self.note])
        self.draw()

    def draw(self, note: str = "") -> None:
        style = "white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0"
        missing = self.labels["missing"]
        lines = [
            f"<p>{escape(missing.format(model=model, why=why))}</p>"
            for model, why in self.room.missing.items()
        ]
        for turn in self.room.turns:
            lines.append(
                f"<p style='{style}'><b>{escape(self.labels['you'])}</b> {escape(turn.question)}</p>"
            )
            for name, answer in turn.answers.items():
                who = escape(self.room.chats[name].written)
                lines.append(f"<p style='{style}'><b>{who}</b> {escape(answer)}</p>")
        if not self.room.turns:
            lines.append(f"<p>{escape(self.labels['empty'])}</p>")
        self.said.value = "".join(lines)
        self.note.value = escape(note)

    def press(self, clear: bool = False) -> None:
        try:
            if clear:
                self.room.clear()
            else:
                for _ in self.room.ask(self.text.value):
                    self.draw()
                self.text.value = ""
            self.draw()
        except CourseError as error:
            self.draw(str(error))


def show_chat(
    store: Store,
    models: Sequence[str] = SIDE_BY_SIDE,
    temperature: float = 0.7,
    language: str = "en",
    plain: bool = False,
    seed: int | None = None,
):
    """A chat with several models of a Store; with `plain` a form without a view of its own."""
    room = ChatRoom(store, models, temperature, seed=seed)
    return PlainChat(room, language) if plain else Conversation(room, language)
