"""A conversation with several models side by side, as plain state; a widget, a form and a test drive it.

    room = ChatRoom(store)
    for name, piece in room.ask("What do cows eat?"): …

Every model has its own conversation: the same questions, its own answers. Answers are drawn in turn, a token
of each model at a time, so that all of them appear at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from rlhf_utils.artifacts.store import Store
from rlhf_utils.course.arguments import temperature_of
from rlhf_utils.course.chat import Chat, plain_name
from rlhf_utils.environment import CourseError, ranker_name
from rlhf_utils.ranking.session import RankingSession
from rlhf_utils.ranking.store import guidelines, own_store

SIDE_BY_SIDE = ("base_prompted", "sft", "ppo_ptx", "taste")
LONGEST = 2000  # characters of a question: far more than the context holds


@dataclass
class Turn:
    """A question, every model's answer to it, and what a person thinks of them: 1, -1 or nothing."""

    question: str
    answers: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, list[dict]] = field(default_factory=dict)
    thumbs: dict[str, int] = field(default_factory=dict)


class ChatRoom:
    """See the module. A model that is not there yet is left out, and `missing` says why."""

    def __init__(
        self,
        store: Store,
        models: Sequence[str] = SIDE_BY_SIDE,
        temperature: float = 0.7,
        top_p: float = 1.0,
        seed: int | None = None,
        rankings=None,
    ):
        self.chats: dict[str, Chat] = {}
        self.missing: dict[str, str] = {}
        for name in dict.fromkeys(map(plain_name, models)):
            try:
                self.chats[name] = Chat(store, name, temperature, seed, top_p=top_p)
            except CourseError as error:
                self.missing[name] = str(error)
        if not self.chats:
            raise CourseError("\n".join(self.missing.values()) or "A chat needs a model.")
        self.temperature, self.top_p = temperature, top_p
        self.rankings, self.hint = rankings, getattr(store, "hint", "empty")
        self.guideline = getattr(store, "guideline", None) or guidelines()[0]
        self.turns: list[Turn] = []
        self.busy = self.stopped = False

    # -- talking --------------------------------------------------------------------------------------
    def ask(self, text: str) -> Iterator[tuple[str, str]]:
        """(model, piece of its answer), as they are generated, until all have ended or `stop` is called."""
        text = text.strip()
        if not text:
            raise CourseError("The question is empty. Ask something, for example: What do cows eat?")
        if len(text) > LONGEST:
            raise CourseError(
                f"The question has {len(text):,} characters. Shorten it to {LONGEST:,} at most; the models "
                "read far fewer."
            )
        if self.busy:
            raise CourseError("The models are still answering. Stop them first, or wait.")
        self.busy, self.stopped = True, False
        turn = Turn(text, dict.fromkeys(self.chats, ""))
        self.turns.append(turn)
        open_answers = {name: chat.ask(text) for name, chat in self.chats.items()}
        try:
            while open_answers and not self.stopped:
                for name in list(open_answers):
                    piece = next(open_answers[name], None)
                    if piece is None:
                        del open_answers[name]
                        continue
                    turn.answers[name] = self.chats[name].said
                    yield name, piece
        finally:
            for answer in open_answers.values():
                answer.close()
            for name, chat in self.chats.items():
                # One that was stopped before its first token has not heard the question, either.
                if len(chat.messages) < 2 * len(self.turns):
                    chat.drawn = []
                    chat.messages += [
                        {"role": "user", "content": text},
                        {"role": "assistant", "content": "…"},
                    ]
                turn.tokens[name] = [self._told(chat, drawn) for drawn in chat.drawn]
            self.busy = False

    def _told(self, chat: Chat, drawn) -> dict:
        """A token of an answer with its probability and the likeliest ones, as text."""
        decode = chat.tokenizer.decode
        likeliest = [[decode([token]), round(p, 3)] for token, p in drawn.likeliest]
        return {"text": decode([drawn.token]), "p": round(drawn.probability, 3), "likeliest": likeliest}

    def stop(self) -> None:
        self.stopped = True

    def clear(self) -> None:
        """Begin anew; the models forget all that was said."""
        self.rewind(0)

    def rewind(self, turn: int) -> str:
        """Forget a turn and all after it, to ask it in other words; returns its question."""
        if self.busy:
            raise CourseError("The models are still answering. Stop them first, or wait.")
        if not 0 <= turn <= len(self.turns):
            raise CourseError(f"There is no question number {turn + 1}.")
        question = self.turns[turn].question if turn < len(self.turns) else ""
        del self.turns[turn:]
        for chat in self.chats.values():
            del chat.messages[2 * turn :]
        return question

    def heat(self, temperature: float | str, top_p: float | str = 1.0) -> None:
        """Set the temperature, 0 to 10, and top-p, above 0 and up to 1."""
        try:
            warm, share = temperature_of(str(temperature)), float(top_p)
        except ValueError as error:
            raise CourseError(str(error)) from None
        if not 0 < share <= 1:
            raise CourseError(f"Top-p is a number above 0 and up to 1, not {top_p!r:.40}.")
        self.temperature, self.top_p = warm, share
        for chat in self.chats.values():
            chat.temperature, chat.top_p = warm, share

    def forgotten(self) -> dict[str, int]:
        """How many of the leading turns each model will not read any more."""
        return {name: chat.forgotten() // 2 for name, chat in self.chats.items()}

    # -- what a person thinks of it ---------------------------------------------------------------------
    def item(self, turn: int) -> dict:
        """A turn as a row to rank: the question as one model after the other met it, and the answers.

        Only the first turn is the same for all models; for later ones the questions before are given with
        no answers between them.
        """
        if not 0 <= turn < len(self.turns):
            raise CourseError(f"There is no question number {turn + 1}.")
        said = self.turns[turn]
        answers = {name: text for name, text in said.answers.items() if text.strip()}
        if len(set(answers.values())) < 2:
            raise CourseError("There is nothing to rank: no two answers here differ.")
        asked = "\n".join(t.question for t in self.turns[: turn + 1])
        told = sha256(repr((asked, list(answers.items()))).encode()).hexdigest()[:12]
        return {
            "id": f"chat:{told}",
            "messages": [{"role": "user", "content": asked}],
            "answers": list(answers.values()),
            "models": list(answers),
        }

    def session(self, turn: int) -> RankingSession:
        """A session of one item, the answers of a turn; its ranking lies with those of the same model."""
        if self.rankings is None:
            self.rankings = own_store()
        row = self.item(turn)
        session = RankingSession([row], ranker_name(), self.rankings, guideline=self.guideline)
        if session.finished:  # a second thought is a revision
            session.undo()
        return session

    def thumb(self, turn: int, model: str, value: int) -> None:
        """A thumb up (1), down (-1) or none (0): stored as a ranking, ups before none before downs."""
        if value not in (-1, 0, 1) or model not in self.chats or not 0 <= turn < len(self.turns):
            raise CourseError("A thumb is up, down or neither, for one of the answers.")
        if not self.turns[turn].answers[model].strip():
            raise CourseError("There is no answer here to like or dislike.")
        session, before = self.session(turn), self.turns[turn].thumbs
        ranked = [sorted(group) for group in session.groups]
        if ranked and not (before and ranked == self._liked(turn, session, before)):
            raise CourseError("You have ranked these answers already. To change your mind, rank them again.")
        thumbs = before | {model: value}
        session.decide(self._liked(turn, session, thumbs))
        session.submit()
        self.turns[turn].thumbs = thumbs  # only once it is stored

    def _liked(self, turn: int, session: RankingSession, thumbs: dict[str, int]) -> list[list[str]]:
        """The answers' letters, grouped by the best thumb that anyone who wrote them got; ups first."""
        liked: dict[int, list[str]] = {}
        for letter, text in session.answers.items():
            writers = [n for n, said in self.turns[turn].answers.items() if said == text]
            liked.setdefault(max(thumbs.get(n, 0) for n in writers), []).append(letter)
        return [liked[value] for value in sorted(liked, reverse=True)]
