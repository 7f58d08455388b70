"""What a model in training says: greedy texts after the same few prompts, now and before."""

from collections.abc import Callable

import torch

from rlhf_utils.language.device import autocast
from rlhf_utils.language.sampling import generate
from rlhf_utils.look import Answer, Table
from rlhf_utils.profiles import Profile


def greedy_texts(
    profile: Profile, tokenizer, model, prompts: list[list[int]], tokens: int | None = None
) -> list[str]:
    """What a model says at temperature 0, in `tokens` at most; draws no random number."""
    trains = model.training
    model.eval()  # no dropout
    try:
        with torch.no_grad(), autocast(profile):
            limit = tokens or profile.answer_tokens
            drawn = generate(model, prompts, limit, 0.0, tokenizer.pad_token_id, tokenizer.eos_token_id)
    finally:
        model.train(trains)
    return [t.strip() for t in tokenizer.batch_decode(drawn.tokens, skip_special_tokens=True)]


class Samples:
    """A Table at each call: the prompts, what was said `before` (the model at the first call, unless another
    text is given), and what `model` says now, with the words marked that are new.

    prompts: what is shown → its token ids.
    """

    def __init__(
        self,
        profile: Profile,
        tokenizer,
        prompts: dict[str, list[int]],
        model,
        before: Callable[[], list[str]] | None = None,
        heads: tuple[str, str, str] = ("prompt", "at the start", "now"),
        tokens: int | None = None,
    ):
        self.profile, self.tokenizer, self.prompts, self.model = profile, tokenizer, prompts, model
        self.before, self.heads, self.tokens = before, heads, tokens
        self.first: list[str] | None = None

    def __call__(self) -> Table:
        now = greedy_texts(self.profile, self.tokenizer, self.model, list(self.prompts.values()), self.tokens)
        if self.first is None:
            self.first = self.before() if self.before else now
        rows = zip(self.prompts, self.first, now)
        return Table(
            [dict(zip(self.heads, (prompt, old, Answer(new, before=old)))) for prompt, old, new in rows]
        )
