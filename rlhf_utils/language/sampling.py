"""Batched generation with a key-value cache."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_utils.language.device import computing_dtype
from rlhf_utils.language.models import weight_of
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import hidden_states, next_logits


@dataclass
class Answers:
    """`tokens` are answers without padding; `ended` tells which closed with the end-of-text token.

    `logprobs` are those of the tokens at the sampler's temperature (1 where it was greedy). They differ by
    rounding from those of a pass over the whole sequence.
    """

    tokens: list[list[int]]
    ended: list[bool]
    logprobs: list[list[float]]


class Decoder:
    """GPT-2 one token at a time, over keys and values whose place is allocated once.

    The same numbers as `model(…, past_key_values=…)`, without its bookkeeping, which at these sizes takes
    as long as the arithmetic. `logits` are those of the next token, (batch, vocabulary).
    """

    def __init__(self, model, prompts: list[list[int]], pad: int, room: int):
        """Read the prompts, packed; then there is room for so many more tokens."""
        packed, memory = pack([(prompt, [[]]) for prompt in prompts], pad), []
        self.logits, self.heads = (
            next_logits(model, hidden_states(model, packed, memory)[packed.ends]).float(),
            model.config.n_head,
        )
        # A token of each of a few rows is too little work for bfloat16 to pay on a CPU.
        little = packed.ids.device.type == "cpu" and len(prompts) * model.config.n_embd < 4096
        body, self.dtype = model.transformer, torch.float32 if little else computing_dtype()
        self.tokens, self.places, self.last = body.wte.weight, body.wpe.weight, body.ln_f
        self.output = self.tokens.T.to(self.dtype)
        self.blocks = [
            (
                block.ln_1,
                block.ln_2,
                block.mlp.act,
                [
                    (weight_of(part).to(self.dtype), part.bias.to(self.dtype))
                    for part in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
                ],
            )
            for block in body.h
        ]
        # Prompts are padded on the left in memory, so that the next token has the same place in every row.
        lengths = torch.tensor([len(p) for p in prompts], device=packed.ids.device)
        self.time = int(lengths.max())
        column = torch.arange(self.time, device=packed.ids.device) - (
            self.time - lengths[:, None]
        )  # negative: padding
        places = packed.starts[:, None] + column.clamp(min=0)
        self.memory = []  # keys and values of each block, (batch, time, 2 · width)
        for seen in memory:
            self.memory.append(
                torch.empty(
                    len(prompts), self.time + room, seen.shape[1], dtype=self.dtype, device=seen.device
                )
            )
            self.memory[-1][:, : self.time] = F.embedding(places, seen)
        self.hidden = torch.zeros(
            len(prompts), 1, 1, self.time + room, dtype=self.dtype, device=lengths.device
        )
        self.hidden[:, 0, 0, : self.time].masked_fill_(column < 0, -torch.inf)
        self.position = lengths

    def step(self, chosen: Tensor) -> None:
        """Read one more token of each row, (batch,)."""
        x = F.embedding(chosen, self.tokens) + F.embedding(self.position, self.places)
        seen, width = self.time + 1, x.shape[1]
        with torch.autocast(x.device.type, enabled=False):  # precision is decided once, in __init__
            for (before, between, act, weights), memory in zip(self.blocks, self.memory):
                (w_in, b_in), (w_out, b_out), (w_up, b_up), (w_down, b_down) = weights
                h = F.layer_norm(x, before.normalized_shape, before.weight, before.bias, before.eps).to(
                    self.dtype
                )
                query, memory[:, self.time] = torch.addmm(b_in, h, w_in).split([width, 2 * width], 1)
                keys, values = memory[:, :seen].unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
                mixed = F.scaled_dot_product_attention(
                    query.view(len(x), self.heads, 1, -1), keys, values, attn_mask=self.hidden[..., :seen]
                )
                x = x + torch.addmm(b_out, mixed.reshape(len(x), -1), w_out)
                h = F.layer_norm(x, between.normalized_shape, between.weight, between.bias, between.eps).to(
                    self.dtype
                )
                x = x + torch.addmm(b_down, act(torch.addmm(b_up, h, w_up)), w_down)
            h = F.layer_norm(
                x, self.last.normalized_shape, self.last.weight, self.last.bias, self.last.eps
            ).to(self.dtype)
            self.logits = (h @ self.output).float()
        self.time, self.position = seen, self.position + 1

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.memory = [memory.index_select(0, rows) for memory in self.memory]
        self.hidden, self.position = self.hidden[rows], self.position[rows]


@torch.no_grad()
def generate(
    model,
    prompts: list[list[int]],
    max_tokens: int,
    temperature: float,
    pad: int,
    end: int,
    chance: torch.Generator | Tensor | None = None,
) -> Answers:
    """Sample one answer a prompt (greedy at temperature 0). Rows that have ended leave the loop.

    `prompts` are token lists of any length, 1 at least. `chance` draws, or holds one number in [0, 1) for
    each token that may be drawn, (prompts, max_tokens): then an answer depends on nothing but its own row.
    """
    model.eval()
    decoder = Decoder(model, prompts, pad, max_tokens)
    rows = list(range(len(prompts)))
    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for number in range(max_tokens):
        logits = decoder.logits
        logits[:, pad] = -torch.inf
        probabilities = (logits / (temperature or 1.0)).softmax(-1)
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            # Where a uniform number falls among the cumulated probabilities. One random number a row:
            # torch.multinomial draws one a token of the vocabulary, which takes twice as long as the model.
            heights = probabilities.cumsum(-1)
            if isinstance(chance, Tensor):
                drawn = chance[rows, number, None]
            else:
                drawn = torch.rand(len(logits), 1, generator=chance, device=logits.device)
            chosen = (
                torch.searchsorted(heights, drawn * heights[:, -1:], right=True)
                .squeeze(-1)
                .clamp(max=logits.shape[-1] - 1)
            )
        for row, token, logprob in zip(
            rows, chosen.tolist(), probabilities.gather(1, chosen[:, None]).log().flatten().tolist()
        ):
            if not ended[row]:
                tokens[row].append(token)
                logprobs[row].append(logprob)
                ended[row] = token == end
        if all(ended) or number + 1 == max_tokens:
            break
        # Stop computing for those that ended, but for a few: sizes that come again are faster (see `pack`).
        size = 16 * math.ceil((len(prompts) - sum(ended)) / 16)
        if size <= 0.75 * len(rows):  # worth the copy
            keep = sorted(sorted(range(len(rows)), key=lambda i: ended[rows[i]])[:size])
            index = torch.tensor(keep, device=chosen.device)
            decoder.keep(index)
            chosen, rows = chosen[index], [rows[i] for i in keep]
        decoder.step(chosen)
    return Answers(tokens, ended, logprobs)


@dataclass(frozen=True)
class Answer:
    """What a model said: its text without special tokens, the tokens that were drawn, and whether it closed
    with the end-of-text token.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool


def sample(
    model,
    tokenizer,
    prompts: list[list[int]],
    max_tokens: int,
    temperature: float,
    seed: int,
    batch: int = 256,
    progress=None,
) -> list[Answer]:
    """An answer to each of many prompts (token lists), in their order.

    Prompts of like length share a batch, which saves padding.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[Answer] = [Answer("", (), False)] * len(prompts)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        drawn = generate(
            model,
            [prompts[i] for i in part],
            max_tokens,
            temperature,
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            generator,
        )
        texts = tokenizer.batch_decode(drawn.tokens, skip_special_tokens=True)
        for i, text, tokens, ended in zip(part, texts, drawn.tokens, drawn.ended):
            answers[i] = Answer(text.strip(), tuple(tokens), ended)
        if progress is not None:
            progress.step(len(part))
    return answers
