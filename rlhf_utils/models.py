"""GPT-2 of a profile's size, and the same trunk with a scalar head for rewards and values."""

from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from rlhf_utils.profiles import Profile

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@lru_cache
def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(profile: Profile) -> bool:
    return profile.precision == "bf16" or (profile.precision == "auto" and has_bf16())


def autocast(profile: Profile):
    """bfloat16 for matrix products where the machine is good at it, else a context that does nothing."""
    if use_bf16(profile):
        return torch.autocast(device().type, dtype=torch.bfloat16)
    return nullcontext()


def attention() -> str:
    """Plain matrix products beat torch's fused attention on a CPU: its backward pass is slow there."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def gpt2_config(profile: Profile, tokenizer) -> GPT2Config:
    # GPT-2 starts its weights at a deviation of 0.02, which suits a width of 768 and up. A narrow model
    # learns to copy from its context much sooner from 1/√width.
    return GPT2Config(
        vocab_size=len(tokenizer), n_positions=profile.context, n_embd=profile.width, n_layer=profile.layers, n_head=profile.heads,
        initializer_range=profile.width**-0.5, bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        # Dropout is 0 throughout: small models do not need it, and PPO's ratio must be 1 at first.
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, summary_first_dropout=0.0, num_labels=1,
        # The same function as GPT-2's "gelu_new", in one kernel.
        activation_function="gelu_pytorch_tanh", attn_implementation=attention(),
    )  # fmt: skip


def new_gpt2(profile: Profile, tokenizer) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(gpt2_config(profile, tokenizer))


def save_model(model: nn.Module, folder: Path, tokenizer=None) -> None:
    """Weights as safetensors in fp32, with config and, if given, the tokenizer beside them."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def load_gpt2(folder: Path) -> GPT2LMHeadModel:
    model = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation=attention())
    return model.to(device()).eval()


def load_scorer(folder: Path) -> GPT2ForSequenceClassification:
    """A reward model, or a policy's trunk with a new scalar head. A reward model with somebody's taste has two heads."""
    config = GPT2Config.from_pretrained(folder, local_files_only=True)
    model = GPT2ForSequenceClassification.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation=attention(),
        num_labels=2 if hasattr(config, "taste") else 1,
    )  # fmt: skip
    return model.to(device()).eval()


def token_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy in nats of each next token: logits (batch, time, vocabulary), ids (batch, time).

    Rows are flattened first: torch's loss over a middle axis takes 1.6 times as long on a CPU.
    """
    flat = F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), ids.reshape(-1), reduction="none")
    return flat.view(ids.shape)


def pad_batch(sequences: list[list[int]], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad token lists to (batch, time); returns ids and a mask that is 1 where a token is real."""
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad)
    mask = torch.zeros((len(sequences), length), dtype=torch.long)
    for row, tokens in enumerate(sequences):
        where = slice(length - len(tokens), length) if left else slice(0, len(tokens))
        ids[row, where] = torch.tensor(tokens)
        mask[row, where] = 1
    return ids.to(device()), mask.to(device())


def pad_answers(pairs: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """(prompt, answer) token lists → ids, mask and a mask of the answers, each (batch, time)."""
    ids, mask = pad_batch([prompt + answer for prompt, answer in pairs], pad)
    starts = torch.tensor([len(prompt) for prompt, _ in pairs], device=ids.device)
    return ids, mask, mask * (torch.arange(ids.shape[1], device=ids.device) >= starts[:, None])


def positions(mask: Tensor) -> Tensor:
    """Position ids that start at 0 at the first real token, so left padding changes nothing."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def hidden_states(model, ids: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states of the trunk, (batch, time, width)."""
    return model.transformer(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False).last_hidden_state


def token_scores(model: GPT2ForSequenceClassification, ids: Tensor, mask: Tensor) -> Tensor:
    """The scalar head at every position, (batch, time)."""
    return model.score(hidden_states(model, ids, mask)).squeeze(-1)


def head_scores(model: GPT2ForSequenceClassification, hidden: Tensor) -> Tensor:
    """The scalar head; where there is a head for somebody's taste, plus `scale` · σ(that head − `middle`) (`config.taste`)."""
    values = model.score(hidden).float()
    if values.shape[-1] == 1:
        return values.squeeze(-1)
    taste = model.config.taste
    return values[..., 0] + taste["scale"] * torch.sigmoid(values[..., 1] - taste["middle"])


def answer_scores(model: GPT2ForSequenceClassification, ids: Tensor, mask: Tensor, answer: Tensor) -> Tensor:
    """What a reward model thinks of the answer in each row, (batch,).

    ids, mask, answer: (batch, time); answer is 1 on the answer's tokens, the end-of-text token included.
    The score is the scalar head at the last real token plus `config.likelihood` times the log-probability
    that the model's own language model gives the answer. With a likelihood of 0 it is InstructGPT's.
    """
    hidden = hidden_states(model, ids, mask)
    last = (mask * torch.arange(ids.shape[1], device=ids.device)).argmax(-1)
    scores = head_scores(model, hidden[torch.arange(len(ids)), last])
    likelihood = getattr(model.config, "likelihood", 0.0)
    if not likelihood:
        return scores
    first = int(answer.amax(0).argmax())  # no answer begins before this column
    logits = hidden[:, first - 1 : -1] @ model.transformer.wte.weight.T.to(hidden.dtype)
    logprobs = -token_cross_entropy(logits, ids[:, first:])
    return scores + likelihood * (logprobs * answer[:, first:]).sum(1)


def packed_scores(model: GPT2ForSequenceClassification, rows: list[tuple[list[int], list[list[int]]]], pad: int) -> Tensor:
    """`answer_scores` of all answers to each prompt with the prompt read once, (answers,) in their order.

    rows: (prompt, answers) token lists. A row becomes one sequence: the prompt, then its answers one after the
    other. Each answer's positions go on from the prompt's end, and its tokens see the prompt and themselves, never
    another answer, so nothing but the work saved is different. With K = 9 it is less than half the tokens.
    """
    width = max(len(p) + sum(map(len, a)) for p, a in rows)
    shape = (len(rows), width)
    ids, position, owner = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)  # owner: 0 is the prompt
    before, said, ends = [], [], []  # flat places of: the token before each answer token, that token, and each answer's last
    for row, (prompt, answers) in enumerate(rows):
        start = len(prompt)
        ids[row, :start] = torch.tensor(prompt)
        position[row, :start] = torch.arange(start)
        owner[row, :start] = 0
        for number, answer in enumerate(answers, 1):
            where = range(row * width + start, row * width + start + len(answer))
            ids[row, start : start + len(answer)] = torch.tensor(answer)
            position[row, start : start + len(answer)] = torch.arange(len(prompt), len(prompt) + len(answer))
            owner[row, start : start + len(answer)] = number
            before += [row * width + len(prompt) - 1, *where[:-1]]
            said += where
            ends.append(where[-1])
            start += len(answer)
    causal = torch.ones(width, width).tril().bool()
    sees = causal & ((owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0))
    ids, position, sees = ids.to(device()), position.to(device()), sees.to(device())
    mask = torch.zeros(sees.shape, device=ids.device).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
    hidden = model.transformer(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=False).last_hidden_state.flatten(0, 1)
    scores = head_scores(model, hidden[ends])
    likelihood = getattr(model.config, "likelihood", 0.0)
    if not likelihood:
        return scores
    logits = hidden[before] @ model.transformer.wte.weight.T.to(hidden.dtype)
    logprobs = -token_cross_entropy(logits, ids.flatten()[said])
    answer = torch.repeat_interleave(torch.tensor([len(a) for _, answers in rows for a in answers]))
    return scores + likelihood * torch.zeros_like(scores).index_add(0, answer.to(ids.device), logprobs)
