"""Talk to a model: the conversation so far, cut to fit, in; an answer, word by word, out."""

from collections.abc import Iterator
from copy import copy

import torch

from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import autocast
from rlhf_utils.language.prompting import FORMS, form_ids
from rlhf_utils.language.sampling import Drawn, stream
from rlhf_utils.language.tokenizer import fitting_prompt, prompt_ids
from rlhf_utils.pipeline.taste import EXAMPLE, example_store, has_own_taste
from rlhf_utils.profiles import BEYOND, MODELS, TASTE, YOURS, by_guideline


def best_form(store: Store) -> str:
    """The form in which the base model answers plain questions best, as `evaluate` found; "accepted
    answer" if it was not yet run.
    """
    measured = not store.profile.data and store.find("evaluate")
    form = store.metrics("evaluate").get("prompt_form") if measured else None
    if not form:
        return "accepted answer"
    chosen = form["chosen"][str(form["temperature"])]
    return next(chosen[kind] for kind in ("plain", "open_qa", "all") if kind in chosen)


def plain_name(model: str) -> str:
    """A model's name as programs write it, of one as people do: "ppo_ptx" of "ppo-ptx". What follows "taste-"
    is the name of a guideline, and stays as it is.
    """
    return model if model.startswith(f"{TASTE}-") else model.replace("-", "_")


class Chat:
    """A conversation with one model. `ask` streams; the messages are kept in `messages`.

    `model` is a name in `profiles.MODELS` or `BEYOND`, or "taste", the model of one's own rankings (the
    example reader's until there are any), or "taste-NAME", that of the rankings by guideline NAME. A base
    model gets the plain text so far; `prompted` (or as "base_prompted"), or in a form of `prompting.FORMS`
    named so, it is asked as it answers best.
    """

    def __init__(
        self,
        store: Store,
        model: str = "ppo_ptx",
        temperature: float = 0.7,
        seed: int | None = None,
        prompted: bool | str = False,
        top_p: float = 1.0,
    ):
        model, _, guideline = plain_name(model).partition("-")
        named = MODELS | BEYOND | {TASTE: YOURS}
        if model not in named:
            raise CourseError(f"There is no model {model!r:.40}. Choose one of: {', '.join(named)}.")
        if guideline:
            store = self._by_guideline(store, guideline)
        if model == "base_prompted":
            model, prompted = "base", prompted or True
        if prompted and model != "base":
            raise CourseError(
                f"Only the base model is prompted; {model} reads a conversation as it is. Leave out "
                "--prompted, or choose --model base."
            )
        if isinstance(prompted, str) and prompted not in FORMS:
            raise CourseError(f"There is no form {prompted!r}. Choose one of: {', '.join(FORMS)}.")
        self.form = prompted if isinstance(prompted, str) else best_form(store) if prompted else "bare"
        self.profile, self.name = store.profile, model
        self.temperature, self.top_p = temperature, top_p
        self.written = named["base_prompted" if prompted else model].written
        if guideline:
            self.written = f"{YOURS.written}, {guideline}"
        elif model == TASTE and not store.profile.data and not has_own_taste(store):
            store, self.written = example_store(), EXAMPLE  # until there are rankings of one's own
        self.model, self.tokenizer = store.model(named[model].stage), store.tokenizer()
        self.messages: list[dict] = []
        self.drawn: list[Drawn] = []  # of the last answer
        self.said = ""
        self.generator = torch.Generator(self.model.device)
        self.generator.manual_seed(seed) if seed is not None else self.generator.seed()

    def _by_guideline(self, store: Store, name: str) -> Store:
        other = copy(store)
        other.profile = by_guideline(store.profile, name)
        if other.find(YOURS.stage) is None:
            raise CourseError(
                f"There is no model trained on rankings by guideline {name!r} yet. Train it with: "
                f"rlhf run{other.options}"
            )
        return other

    def _ids(self) -> list[int]:
        if self.name == "base":  # knows no roles
            prompt = {"messages": self.messages, "use_case": "open_qa"}
            return form_ids(
                self.tokenizer, self.form, prompt, self.profile.context - self.profile.answer_tokens
            )
        return prompt_ids(self.tokenizer, self.messages, self.profile.prompt_tokens)

    def forgotten(self) -> int:
        """How many of the leading messages would not fit in front of the next question any more."""
        asked = [*self.messages, {"role": "user", "content": ""}]
        if self.name == "base" or not self.messages:
            return 0
        return len(asked) - len(fitting_prompt(self.tokenizer, asked, self.profile.prompt_tokens)[1])

    def ask(self, text: str) -> Iterator[str]:
        """Pieces of the answer as they are generated; `drawn` has its tokens.

        What was said until then is the answer where the reader stops in the middle.
        """
        if not text.strip():
            raise CourseError(
                'The question is empty. Ask something, for example: rlhf chat --ask "What do cows eat?"'
            )
        self.messages.append({"role": "user", "content": text.strip()})
        self.drawn, self.said = [], ""
        try:
            yield from self._pieces()
        finally:
            self.messages.append({"role": "assistant", "content": self.said.strip() or "…"})

    def _pieces(self) -> Iterator[str]:
        ids, tokenizer = self._ids(), self.tokenizer
        limit = min(self.profile.answer_tokens, self.profile.context - len(ids))
        drawing = stream(
            self.model, ids, limit, self.temperature, tokenizer.pad_token_id, self.top_p, self.generator
        )
        while True:
            with autocast(self.profile):  # not around the whole: several answers may be drawn in turn
                drawn = next(drawing, None)
            if drawn is None or drawn.token == tokenizer.eos_token_id:
                return
            self.drawn.append(drawn)
            whole = tokenizer.decode([d.token for d in self.drawn], skip_special_tokens=True).lstrip()
            if whole.endswith("\ufffd"):
                continue  # half of a character
            ends = self.name == "base" and "\n" in whole  # the first paragraph is its answer
            whole = whole.split("\n")[0] if ends else whole
            piece, self.said = whole[len(self.said) :], whole
            yield piece
            if ends:
                return

    def answer(self, text: str) -> str:
        return "".join(self.ask(text)).strip()
