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


@torch.no_grad()
def generate(
    model, prompts: list[list[int]], max_tokens: int, temperature: float, pad: int, end: int,
    generator: torch.Generator | None = None,
) -> Answers:  # fmt: skip
    """Sample one answer a prompt (greedy at temperature 0). Rows that have ended leave the loop.

    `prompts` are token lists of any length; they are padded on the left.
    """
    model.eval()
    ids, mask = pad_batch(prompts, pad, left=True)
    cache = DynamicCache(config=model.config)
    position = positions(mask)
    rows = list(range(len(prompts)))
    tokens: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for _ in range(max_tokens):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1].float()  # fmt: skip
        logits[:, pad] = -torch.inf
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            # Gumbel-max: the argmax of logits + Gumbel noise is a draw from their softmax.
            noise = torch.empty_like(logits).exponential_(generator=generator).log_()
            chosen = (logits / temperature - noise).argmax(-1)
        values = chosen.tolist()
        for row, token in zip(rows, values):
            if not ended[row]:
                tokens[row].append(token)
                ended[row] = token == end
        keep = [i for i, row in enumerate(rows) if not ended[row]]
        if not keep:
            break
        position = position[:, -1:] + 1
        mask = F.pad(mask, (0, 1), value=1)
        ids = chosen[:, None]
        if len(keep) < 0.75 * len(rows):  # worth the copy: stop computing for those that ended
            index = torch.tensor(keep, device=ids.device)
            cache.batch_select_indices(index)
            ids, mask, position = ids[index], mask[index], position[index]
            rows = [rows[i] for i in keep]
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
