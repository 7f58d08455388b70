"""Talk to a model: the conversation so far, cut to fit, in; an answer, word by word, out."""

from collections.abc import Iterator

import torch

from rlhf_utils.artifacts import Store
from rlhf_utils.models import autocast, load_gpt2
from rlhf_utils.profiles import CourseError
from rlhf_utils.sampling import generate
from rlhf_utils.tokenizer import load_tokenizer, prompt_ids

STAGE_OF = {"base": "pretrain", "sft": "sft", "ppo": "ppo", "ppo-ptx": "ppo_ptx"}


class Chat:
    """A conversation with one model. `ask` streams; the messages are kept in `messages`."""

    def __init__(self, store: Store, model: str = "ppo-ptx", temperature: float = 0.7, seed: int | None = None):
        if model not in STAGE_OF:
            raise CourseError(f"There is no model {model!r}. Choose one of: {', '.join(STAGE_OF)}.")
        self.profile, self.name, self.temperature = store.profile, model, temperature
        folder = store.folder(STAGE_OF[model])
        self.tokenizer = load_tokenizer(store.folder("tokenizer"))
        self.model = load_gpt2(folder)
        self.messages: list[dict] = []
        self.generator = torch.Generator(self.model.device)
        self.generator.manual_seed(seed) if seed is not None else self.generator.seed()

    def _ids(self) -> list[int]:
        if self.name == "base":  # knows no roles: gets the plain text so far
            text = "\n".join(m["content"] for m in self.messages)
            return [self.tokenizer.eos_token_id, *self.tokenizer(text)["input_ids"][-self.profile.prompt_tokens :]]
        return prompt_ids(self.tokenizer, self.messages, self.profile.prompt_tokens)

    def ask(self, text: str) -> Iterator[str]:
        """Pieces of the answer as they are generated."""
        if not text.strip():
            raise CourseError('The question is empty. Ask something, for example: rlhf chat --ask "What do cows eat?"')
        self.messages.append({"role": "user", "content": text.strip()})
        ids, said, shown = self._ids(), [], ""
        limit = min(self.profile.answer_tokens, self.profile.context - len(ids))
        for _ in range(limit):
            with autocast(self.profile):
                drawn = generate(
                    self.model, [ids + said], 1, self.temperature, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.generator
                )
            if drawn.ended[0]:
                break
            said += drawn.tokens[0]
            whole = self.tokenizer.decode(said, skip_special_tokens=True).lstrip()
            if self.name == "base" and "\n" in whole:  # the first paragraph is its answer
                yield whole.split("\n")[0][len(shown) :]
                shown = whole.split("\n")[0]
                break
            if whole.endswith("\ufffd"):
                continue  # half of a character
            yield whole[len(shown) :]
            shown = whole
        self.messages.append({"role": "assistant", "content": shown.strip() or "…"})

    def answer(self, text: str) -> str:
        return "".join(self.ask(text)).strip()
