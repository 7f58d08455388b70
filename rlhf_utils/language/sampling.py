"""Batched generation with a key-value cache."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlhf_utils.language.device import computing_dtype
from rlhf_utils.language.models import is_gpt2, trunk_of, weight_of
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import hidden_states, next_logits


@dataclass
class Answers:
    """`tokens` are answers without padding; `ended` tells which closed: with the end-of-text token or, where
    one line was asked for, with a line break.
    """

    tokens: list[list[int]]
    ended: list[bool]


@dataclass
class DecoderBlock:
    """A block of GPT-2 as the decoder needs it; `matrices` are (weight, bias) in the decoder's precision."""

    before_attention: nn.LayerNorm
    before_mlp: nn.LayerNorm
    activation: nn.Module
    scaling: float  # of the products of queries and keys
    matrices: list[tuple[Tensor, Tensor]]  # into attention, out of it, up in the MLP, down in it
    memory: Tensor  # keys and values side by side, (batch, time, 2 · width)


class Decoder:
    """GPT-2 one token at a time, over keys and values whose place is allocated once.

    The same numbers as `model(…, past_key_values=…)`, without its bookkeeping, which at these sizes takes
    as long as the arithmetic. `logits` are those of the next token, (batch, vocabulary).
    """

    def __init__(self, model, prompts: list[list[int]], pad: int, room: int):
        """Read each different prompt once, packed; then there is room for so many more tokens."""
        different = list(dict.fromkeys(map(tuple, prompts)))
        packed, read = pack([(list(prompt), [[]]) for prompt in different], pad), []
        where, number = packed.ids.device, {prompt: i for i, prompt in enumerate(different)}
        which = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=where)
        logits = next_logits(model, hidden_states(model, packed, read)[packed.ends]).float()
        self.logits = logits[which]
        # A token of each of a few rows is too little work for bfloat16 to pay on a CPU.
        little = where.type == "cpu" and len(prompts) * model.config.n_embd < 4096
        self.dtype = torch.float32 if little else computing_dtype()
        trunk, self.heads = model.transformer, model.config.n_head
        self.token_embedding, self.position_embedding = trunk.wte.weight, trunk.wpe.weight
        self.last_norm, self.output = trunk.ln_f, trunk.wte.weight.T.to(self.dtype)
        # Prompts are padded on the left in memory, so that the next token has the same place in every row.
        self.position = torch.tensor([len(p) for p in prompts], device=where)  # of each row's next token
        self.time = int(self.position.max())  # how much of the memory is filled
        column = torch.arange(self.time, device=where) - (self.time - self.position[:, None])
        is_padding, places = column < 0, packed.starts[which, None] + column.clamp(min=0)
        self.blocks = [self._block(block, seen, places, room) for block, seen in zip(trunk.h, read)]
        self.bias = torch.zeros(len(prompts), 1, 1, self.time + room, dtype=self.dtype, device=where)
        self.bias[:, 0, 0, : self.time].masked_fill_(is_padding, -torch.inf)

    def _block(self, block, seen: Tensor, places: Tensor, room: int) -> DecoderBlock:
        """`seen`: keys and values of the packed prompts; `places`: which of them each row's memory holds."""
        attention, mlp = block.attn, block.mlp
        parts = (attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj)
        matrices = [(weight_of(part).to(self.dtype), part.bias.to(self.dtype)) for part in parts]
        size = (len(places), self.time + room, seen.shape[1])
        memory = torch.empty(size, dtype=self.dtype, device=seen.device)
        memory[:, : self.time] = F.embedding(places, seen)
        return DecoderBlock(block.ln_1, block.ln_2, mlp.act, attention.scaling, matrices, memory)

    def step(self, chosen: Tensor) -> None:
        """Read one more token of each row, (batch,)."""
        x = F.embedding(chosen, self.token_embedding) + F.embedding(self.position, self.position_embedding)
        with torch.autocast(x.device.type, enabled=False):  # precision is decided once, in __init__
            for block in self.blocks:
                x = self._through(block, x)
            self.logits = (self._normed(self.last_norm, x) @ self.output).float()
        self.time, self.position = self.time + 1, self.position + 1

    def _through(self, block: DecoderBlock, x: Tensor) -> Tensor:
        """One token of each row through a block, (batch, width)."""
        (w_in, b_in), (w_out, b_out), (w_up, b_up), (w_down, b_down) = block.matrices
        width, seen = x.shape[1], self.time + 1
        query_key_value = torch.addmm(b_in, self._normed(block.before_attention, x), w_in)
        query, block.memory[:, self.time] = query_key_value.split([width, 2 * width], 1)
        keys, values = block.memory[:, :seen].unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, bias = query.view(len(x), self.heads, 1, -1), self.bias[..., :seen]
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=block.scaling)
        x = x + torch.addmm(b_out, mixed.reshape(len(x), -1), w_out)
        up = torch.addmm(b_up, self._normed(block.before_mlp, x), w_up)
        return x + torch.addmm(b_down, block.activation(up), w_down)

    def _normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(self.dtype)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        for block in self.blocks:
            block.memory = block.memory.index_select(0, rows)
        self.bias, self.position = self.bias[rows], self.position[rows]


class CachedDecoder:
    """Any model of transformers one token at a time, over the cache that it brings; see `Decoder`."""

    def __init__(self, model, prompts: list[list[int]], pad: int, room: int):
        """Read each different prompt once, padded on the left."""
        self.model, self.trunk, where = model, trunk_of(model), next(model.parameters()).device
        different = list(dict.fromkeys(map(tuple, prompts)))
        longest = max(map(len, different))
        ids = torch.full((len(different), longest), pad)
        self.mask = torch.zeros_like(ids)
        for row, prompt in enumerate(different):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            self.mask[row, longest - len(prompt) :] = 1
        ids, self.mask, self.cache = ids.to(where), self.mask.to(where), None
        self.read(ids, (self.mask.cumsum(1) - 1).clamp(min=0))
        rows = torch.tensor([different.index(tuple(prompt)) for prompt in prompts], device=where)
        self.position = self.mask.sum(1)
        self.keep(rows)
        self.logits = self.logits[rows]

    def read(self, ids: Tensor, positions: Tensor) -> None:
        """Read tokens of each row, (batch, time); `logits` are those of the next one."""
        found = self.trunk(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = found.past_key_values
        self.logits = next_logits(self.model, found.last_hidden_state[:, -1]).float()

    def step(self, chosen: Tensor) -> None:
        """Read one more token of each row, (batch,)."""
        self.mask = F.pad(self.mask, (0, 1), value=1)
        self.read(chosen[:, None], self.position[:, None])
        self.position = self.position + 1

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]


@dataclass(frozen=True)
class LineEnds:
    """Tokens of a vocabulary: `closing` ones hold a line break behind a word, `breaks` any line break, and
    `blank` ones nothing that would be read.
    """

    closing: frozenset[int]
    breaks: frozenset[int]
    blank: frozenset[int]

    def over(self, tokens: list[int], token: int) -> bool:
        """Whether a token ends the line that these began."""
        return token in self.closing or (token in self.breaks and not self.blank.issuperset(tokens))


@lru_cache(maxsize=4)
def line_ends(tokenizer) -> LineEnds:
    """Which tokens end a line, by what each is written as."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
    return LineEnds(
        frozenset(i for i, text in enumerate(texts) if "\n" in text.lstrip()),
        frozenset(i for i, text in enumerate(texts) if "\n" in text),
        frozenset(i for i, text in enumerate(texts) if not text.strip()),
    )


def decoder_of(model, prompts: list[list[int]], pad: int, room: int) -> Decoder | CachedDecoder:
    """A decoder that has read the prompts."""
    return (Decoder if is_gpt2(model) else CachedDecoder)(model, prompts, pad, room)


@torch.no_grad()
def generate(
    model,
    prompts: list[list[int]],
    max_tokens: int,
    temperature: float,
    pad: int,
    end: int,
    chance: torch.Generator | Tensor | None = None,
    line: LineEnds | None = None,
) -> Answers:
    """Sample one answer a prompt (greedy at temperature 0). Rows that have ended leave the loop.

    `prompts` are token lists of any length, 1 at least. `chance` draws, or holds one number in [0, 1) for
    each token that may be drawn, (prompts, max_tokens): then an answer depends on nothing but its own row.
    With `line` an answer also ends at the first line break after its first word.
    """
    model.eval()
    decoder = decoder_of(model, prompts, pad, max_tokens)
    rows = list(range(len(prompts)))  # which prompt each row of the decoder answers
    tokens: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for number in range(max_tokens):
        logits = decoder.logits
        logits[:, pad] = -torch.inf
        if temperature == 0:
            chosen = logits.argmax(-1)
        elif isinstance(chance, Tensor):
            chosen = draw(logits / temperature, chance[rows, number, None])
        else:
            uniform = torch.rand(len(logits), 1, generator=chance, device=logits.device)
            chosen = draw(logits / temperature, uniform)
        for row, token in zip(rows, chosen.tolist()):
            if not ended[row]:
                ended[row] = token == end or (line is not None and line.over(tokens[row], token))
                tokens[row].append(token)
        if all(ended) or number + 1 == max_tokens:
            break
        # Stop computing for those that ended, but for a few: sizes that come again are faster (see `Packed`).
        size = 16 * math.ceil((len(prompts) - sum(ended)) / 16)
        if size <= 0.75 * len(rows):  # worth the copy
            going_on_first = sorted(range(len(rows)), key=lambda i: ended[rows[i]])
            keep = sorted(going_on_first[:size])
            index = torch.tensor(keep, device=chosen.device)
            decoder.keep(index)
            chosen, rows = chosen[index], [rows[i] for i in keep]
        decoder.step(chosen)
    return Answers(tokens, ended)


@dataclass(frozen=True)
class Drawn:
    """A token as it was drawn: its probability before the cut of top-p, and the likeliest tokens."""

    token: int
    probability: float
    likeliest: tuple[tuple[int, float], ...]


@torch.no_grad()
def stream(
    model,
    prompt: list[int],
    max_tokens: int,
    temperature: float,
    pad: int,
    top_p: float = 1.0,
    chance: torch.Generator | None = None,
) -> Iterator[Drawn]:
    """One answer, token by token as it is drawn; whoever reads it decides where it ends.

    `top_p` draws from the likeliest tokens that together have this probability (Holtzman et al., 2020). At
    temperature 0 the probabilities are those at 1.
    """
    model.eval()
    decoder = decoder_of(model, [prompt], pad, max_tokens)
    for _ in range(max_tokens):
        logits = decoder.logits
        logits[:, pad] = -torch.inf
        chances = (logits / (temperature or 1.0)).softmax(-1)
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            uniform = torch.rand(1, 1, generator=chance, device=logits.device)
            chosen = draw(nucleus(chances, top_p).log(), uniform)
        best = chances[0].topk(min(5, chances.shape[1]))
        likeliest = tuple(zip(best.indices.tolist(), best.values.tolist()))
        yield Drawn(int(chosen), float(chances[0, chosen]), likeliest)
        decoder.step(chosen)


def nucleus(chances: Tensor, top_p: float) -> Tensor:
    """Probabilities, (rows, vocabulary), with those set to 0 that are not among the likeliest `top_p`.

    The likeliest token always stays.
    """
    sorted_chances, order = chances.sort(-1, descending=True)
    before = sorted_chances.cumsum(-1) - sorted_chances  # what is likelier than a token, together
    cut = torch.where(before < top_p, sorted_chances, 0.0)
    cut[:, 0] = sorted_chances[:, 0]
    return torch.zeros_like(chances).scatter(-1, order, cut)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """A token of each row by its probability: where a number in [0, 1), (rows, 1), falls among their sums.

    One random number a row: torch.multinomial draws one for each token of the vocabulary, which takes twice
    as long as the model.
    """
    sums = logits.softmax(-1).cumsum(-1)
    chosen = torch.searchsorted(sums, uniform * sums[:, -1:], right=True).squeeze(-1)
    return chosen.clamp(max=logits.shape[-1] - 1)  # rounding may put the number behind the last sum


@dataclass(frozen=True)
class Answer:
    """What a model said: its text without special tokens, the tokens that were drawn, and whether it closed
    (see `Answers`).
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
    one_line: bool = False,
) -> list[Answer]:
    """An answer to each of many prompts (token lists), in their order; of `one_line`, if that is all that
    will be read.

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
            line_ends(tokenizer) if one_line else None,
        )
        texts = tokenizer.batch_decode(drawn.tokens, skip_special_tokens=True)
        for i, text, tokens, ended in zip(part, texts, drawn.tokens, drawn.ended):
            answers[i] = Answer(text.strip(), tuple(tokens), ended)
        if progress is not None:
            progress.step(len(part))
    return answers
