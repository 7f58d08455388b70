"""Batched generation with a key-value cache, and log-probabilities of what was generated."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from rlhf_utils.models import pad_batch, positions, token_cross_entropy


@dataclass
class Answers:
    """`tokens` are answers without padding; `ended` tells which closed with the end-of-text token."""

    tokens: list[list[int]]
    ended: list[bool]


class Decoder:
    """GPT-2 one token at a time, over keys and values whose place is allocated once.

    The same numbers as `model(…, past_key_values=…)`, without its bookkeeping, which at these sizes takes
    as long as the arithmetic. `logits` are those of the next token, (batch, vocabulary).
    """

    def __init__(self, model, ids: Tensor, mask: Tensor, room: int):
        """Read the prompts, (batch, time), left-padded; then there is room for so many more tokens."""
        first = model(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), past_key_values=DynamicCache(config=model.config), use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        self.logits, self.heads = first.logits[:, -1].float(), model.config.n_head
        kind = ids.device.type
        self.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        body = model.transformer
        self.tokens, self.places, self.last = body.wte.weight, body.wpe.weight, body.ln_f
        self.output = self.tokens.T.to(self.dtype)
        self.blocks = [
            (block.ln_1, block.ln_2, [(part.weight.to(self.dtype), part.bias.to(self.dtype)) for part in
                                      (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)])
            for block in body.h
        ]  # fmt: skip
        self.time = ids.shape[1]
        self.memory = []
        for layer in first.past_key_values.layers:
            pair = []
            for seen in (layer.keys, layer.values):
                whole = torch.zeros(*seen.shape[:2], self.time + room, seen.shape[3], dtype=self.dtype, device=ids.device)
                whole[:, :, : self.time] = seen
                pair.append(whole)
            self.memory.append(pair)
        self.hidden = torch.zeros(len(ids), 1, 1, self.time + room, dtype=self.dtype, device=ids.device)
        self.hidden[:, 0, 0, : self.time].masked_fill_(mask == 0, -torch.inf)
        self.position = mask.sum(1)

    def step(self, chosen: Tensor) -> None:
        """Read one more token of each row, (batch,)."""
        x = F.embedding(chosen, self.tokens) + F.embedding(self.position, self.places)
        seen = self.time + 1
        with torch.autocast(x.device.type, enabled=False):  # precision is decided once, in __init__
            for (before, between, weights), (keys, values) in zip(self.blocks, self.memory):
                (w_in, b_in), (w_out, b_out), (w_up, b_up), (w_down, b_down) = weights
                h = F.layer_norm(x, before.normalized_shape, before.weight, before.bias, before.eps).to(self.dtype)
                query, key, value = torch.addmm(b_in, h, w_in).view(len(x), 3, self.heads, 1, -1).unbind(1)
                keys[:, :, self.time : seen], values[:, :, self.time : seen] = key, value
                mixed = F.scaled_dot_product_attention(query, keys[:, :, :seen], values[:, :, :seen], attn_mask=self.hidden[..., :seen])
                x = x + torch.addmm(b_out, mixed.reshape(len(x), -1), w_out)
                h = F.layer_norm(x, between.normalized_shape, between.weight, between.bias, between.eps).to(self.dtype)
                x = x + torch.addmm(b_down, F.gelu(torch.addmm(b_up, h, w_up), approximate="tanh"), w_down)
            h = F.layer_norm(x, self.last.normalized_shape, self.last.weight, self.last.bias, self.last.eps).to(self.dtype)
            self.logits = (h @ self.output).float()
        self.time, self.position = seen, self.position + 1

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.memory = [[whole[rows] for whole in pair] for pair in self.memory]
        self.hidden, self.position = self.hidden[rows], self.position[rows]


@torch.no_grad()
def generate(
    model, prompts: list[list[int]], max_tokens: int, temperature: float, pad: int, end: int,
    generator: torch.Generator | None = None,
) -> Answers:  # fmt: skip
    """Sample one answer a prompt (greedy at temperature 0). Rows that have ended leave the loop.

    `prompts` are token lists of any length; they are padded on the left.
    """
    model.eval()
    decoder = Decoder(model, *pad_batch(prompts, pad, left=True), max_tokens)
    rows = list(range(len(prompts)))
    tokens: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for number in range(max_tokens):
        logits = decoder.logits
        logits[:, pad] = -torch.inf
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            # Where a uniform number falls among the cumulated probabilities. One random number a row:
            # torch.multinomial draws one a token of the vocabulary, which takes twice as long as the model.
            heights = (logits / temperature).softmax(-1).cumsum(-1)
            drawn = torch.rand(len(logits), 1, generator=generator, device=logits.device) * heights[:, -1:]
            chosen = torch.searchsorted(heights, drawn, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
        for row, token in zip(rows, chosen.tolist()):
            if not ended[row]:
                tokens[row].append(token)
                ended[row] = token == end
        keep = [i for i, row in enumerate(rows) if not ended[row]]
        if not keep or number + 1 == max_tokens:
            break
        if len(keep) < 0.75 * len(rows):  # worth the copy: stop computing for those that ended
            index = torch.tensor(keep, device=chosen.device)
            decoder.keep(index)
            chosen, rows = chosen[index], [rows[i] for i in keep]
        decoder.step(chosen)
    return Answers(tokens, ended)


def answer_logprobs(
    model, prompts: list[list[int]], answers: list[list[int]], pad: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of answer tokens under a model.

    Returns log-probabilities and their mask, both (batch, longest answer), and the ids and attention
    mask, (batch, time), of prompt and answer that they were computed from (left-padded prompts,
    right-padded answers).
    """
    left, left_mask = pad_batch(prompts, pad, left=True)
    right, right_mask = pad_batch(answers, pad)
    ids, mask = torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1)
    return logprobs_of(model, ids, mask, right.shape[1], pad, temperature), right_mask, ids, mask


def logprobs_of(model, ids: Tensor, mask: Tensor, width: int, pad: int, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of the last `width` tokens, (batch, width)."""
    logits = model(
        input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions(mask)[:, :-1], logits_to_keep=width, use_cache=False
    ).logits  # fmt: skip
    # Sampling never draws <pad>, so its logit takes no part in the softmax either.
    logits[..., pad] = -torch.inf
    if temperature != 1.0:
        logits = logits / temperature
    return -token_cross_entropy(logits, ids[:, -width:].masked_fill(ids[:, -width:] == pad, 0))


def sample_texts(
    model, tokenizer, prompts: list[list[int]], max_tokens: int, temperature: float, seed: int, batch: int = 256, progress=None
) -> tuple[list[str], list[list[int]]]:  # fmt: skip
    """Answers to many prompts as texts and as token lists, in the order of the prompts.

    Prompts of like length share a batch, which saves padding.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    tokens: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        drawn = generate(
            model, [prompts[i] for i in part], max_tokens, temperature, tokenizer.pad_token_id, tokenizer.eos_token_id, generator
        )
        for i, sequence in zip(part, drawn.tokens):
            tokens[i] = sequence
        if progress is not None:
            progress.step(len(part))
    texts = [t.strip() for t in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
    return texts, tokens
