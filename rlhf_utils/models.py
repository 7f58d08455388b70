"""GPT-2 of a profile's size, and the same trunk with a scalar head for rewards and values."""

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
)
from transformers.masking_utils import eager_mask
from transformers.utils import logging as transformers_logging

from rlhf_utils.profiles import Profile, gpu_fraction

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@lru_cache
def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 matrices faster than float32 ones.

    `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` make any processor an ordinary one, which has float32 alone.
    """
    if device().type == "cuda":
        return torch.cuda.is_bf16_supported()
    cpu = torch.cpu
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


@lru_cache
def device() -> torch.device:
    """The GPU if there is one with room for this process's share of it (`RLHF_GPU_FRACTION`), else the CPU."""
    share = gpu_fraction()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    free, total = torch.cuda.mem_get_info()
    if share < 1 and free < share * total:
        print(
            f"The GPU is full: {free / 2**30:.1f} GB are free, and RLHF_GPU_FRACTION={share:g} of it are {share * total / 2**30:.1f} GB. "
            "Working on the CPU instead; restart the kernel once others are done.", flush=True,
        )  # fmt: skip
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(share)
    return torch.device("cuda")


def use_bf16(profile: Profile) -> bool:
    return profile.precision == "bf16" or (profile.precision == "auto" and has_bf16())


def autocast(profile: Profile):
    """bfloat16 for matrix products where the machine is good at it, else a context that does nothing."""
    if use_bf16(profile):
        return torch.autocast(device().type, dtype=torch.bfloat16)
    return nullcontext()


def computing_dtype() -> torch.dtype:
    """What matrix products are computed in here: bfloat16 inside `autocast`, if at all."""
    kind = device().type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def plain_attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, dropout: float = 0.0, **_):
    """Attention by two matrix products in the precision of its inputs, (batch, heads, time, size).

    `attention_mask` is added to the products, (batch or 1, 1, time, keys). Autocast would take the softmax to fp32
    and back: two more passes over the largest tensor there is, for a result that is rounded to bfloat16 all the same.
    """
    lines, heads, time, size = query.shape
    if attention_mask.dtype != query.dtype:  # the lowest number of one precision may be −∞ in the other, and all of −∞ has no softmax
        attention_mask = attention_mask.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
    seen = attention_mask.expand(lines, heads, time, key.shape[2]).reshape(lines * heads, time, -1)
    with torch.autocast(device().type, enabled=False):
        query, key, value = (x.reshape(lines * heads, -1, size) for x in (query, key, value))
        shares = torch.baddbmm(seen, query, key.transpose(1, 2), alpha=scaling).softmax(-1)
        mixed = torch.bmm(F.dropout(shares, dropout, module.training), value)
    return mixed.view(lines, heads, time, size).transpose(1, 2), None


AttentionInterface.register("plain", plain_attention)
AttentionMaskInterface.register("plain", eager_mask)


def attention(bf16: bool | None = None) -> str:
    """torch's fused attention, but for bfloat16 on a CPU: there its backward pass takes four times as long as plain matrix products."""
    bf16 = has_bf16() if bf16 is None else bf16
    return "plain" if bf16 and device().type == "cpu" else "sdpa"


def gpt2_config(profile: Profile, tokenizer=None) -> GPT2Config:
    end, pad = (tokenizer.eos_token_id, tokenizer.pad_token_id) if tokenizer else (0, 1)
    # GPT-2 starts its weights at a deviation of 0.02, which suits a width of 768 and up. A narrow model
    # learns to copy from its context much sooner from 1/√width.
    return GPT2Config(
        vocab_size=len(tokenizer) if tokenizer else profile.vocabulary, n_positions=profile.context, n_embd=profile.width, n_layer=profile.layers, n_head=profile.heads,
        initializer_range=profile.width**-0.5, bos_token_id=end, eos_token_id=end, pad_token_id=pad,
        # Dropout is 0 throughout: small models do not need it, and PPO's ratio must be 1 at first.
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, summary_first_dropout=0.0, num_labels=1,
        # GPT-2 approximated the GELU by a tanh, which today takes a CPU five times as long as the function itself.
        activation_function="gelu", attn_implementation=attention(use_bf16(profile)),
    )  # fmt: skip


def new_gpt2(profile: Profile, tokenizer) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(gpt2_config(profile, tokenizer))


LORA_RATE = 10  # adapters start at nothing and need about ten times the learning rate of all weights (Schulman et al., "LoRA Without Regret", 2025)


def with_lora(model: GPT2LMHeadModel, rank: int):
    """The model with low-rank adapters on all its matrices (Hu et al., 2021); nothing else trains.

    The adapters start at exactly 0, so the model is what it was.
    """
    from peft import LoraConfig, get_peft_model

    # GPT-2 stores its matrices transposed, which peft calls fan_in_fan_out.
    matrices = ["c_attn", "c_proj", "c_fc"]
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=matrices, fan_in_fan_out=True, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        return get_peft_model(model, adapters)


def weight_of(part: nn.Module) -> Tensor:
    """The weight of a layer, with its adapter if there is one."""
    if hasattr(part, "get_delta_weight") and not part.disable_adapters:
        return part.weight + part.get_delta_weight("default")
    return part.weight


def save_model(model: nn.Module, folder: Path, tokenizer=None) -> None:
    """Weights as safetensors in fp32, with config and, if given, the tokenizer beside them.

    Of a model with LoRA, the adapters go into `adapter/`, and the weights are the merged ones.
    """
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(folder / "adapter")
        model = model.merge_and_unload()
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
    """Cross-entropy in nats of each next token: logits (…, vocabulary), ids (…).

    Rows are flattened first: torch's loss over a middle axis takes 1.6 times as long on a CPU.
    """
    flat = F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), ids.reshape(-1), reduction="none")
    return flat.view(ids.shape)


def pad_batch(sequences: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Pad token lists on the right to (batch, time); returns ids and a mask that is 1 where a token is real."""
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad)
    mask = torch.zeros((len(sequences), length), dtype=torch.long)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids.to(device()), mask.to(device())


@dataclass
class Packed:
    """Prompts and their answers laid end to end in lines of one width, so that hardly anything is padding.

    A prompt stands once, its answers follow one after the other. Each answer's positions go on from the prompt's
    end, and its tokens see the prompt and themselves, never another answer or another prompt. So every number is
    that of a sequence on its own; only the work saved is different. Answers keep their order: `rows` and `columns`
    place what belongs to answer tokens in an (answers, longest answer) table.
    """

    ids: Tensor  # (lines, width)
    positions: Tensor  # (lines, width)
    sees: Tensor  # (lines, 1, width, width): 0 where a token may look, else the lowest number there is
    # `kept`, `before` and `said` are filled up with zeros to a multiple of 64.
    kept: Tensor  # (kept,): places in the flattened lines whose hidden states are read: an answer's and the one before it
    before: Tensor  # (answer tokens,): place among the kept of the token before each
    said: Tensor  # (answer tokens,): their ids
    rows: Tensor  # (answer tokens,): which answer each belongs to …
    columns: Tensor  # (answer tokens,): … and where in it
    ends: Tensor  # (answers,): place among the kept of the last token of each
    starts: Tensor  # (prompts,): place of the first token of each prompt in the flattened lines
    mask: Tensor  # (answers, longest): 1 on an answer's tokens, the end-of-text token included

    def table(self, values: Tensor) -> Tensor:
        """(answer tokens,) → (answers, longest), 0 elsewhere."""
        return torch.zeros(self.mask.shape, device=values.device, dtype=values.dtype).index_put((self.rows, self.columns), values[: len(self.rows)])


def fit(lengths: list[int], width: int) -> list[tuple[int, int]]:
    """Line and column of each sequence in lines of one width: first fit, the longest first."""
    free: list[int] = []
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((k for k, left in enumerate(free) if left >= lengths[i]), len(free))
        if line == len(free):
            free.append(width)
        places[i] = line, width - free[line]
        free[line] -= lengths[i]
    return places


def pack(rows: list[tuple[list[int], list[list[int]]]], pad: int) -> Packed:
    """Lay out (prompt, answers) token lists; a prompt has at least one token."""
    lengths = [len(prompt) + sum(map(len, answers)) for prompt, answers in rows]
    # Wider lines waste less on padding and more on attention, which costs as much as all else at about 350 tokens.
    # A CPU's matrix products and softmax like multiples of 16.
    widths = sorted({16 * math.ceil(k * max(lengths) / 16) for k in (1, 1.25, 1.5, 2, 2.5)})
    tries = [(width, fit(lengths, width)) for width in widths]
    width, found = min(tries, key=lambda t: (1 + max(t[1])[0]) * t[0] * (1 + t[0] / 350))
    places, shape = [line * width + column for line, column in found], (1 + max(found)[0], width)
    ids = np.full(shape[0] * width, pad)
    position, owner, part = (np.zeros(len(ids), dtype=np.int64) for _ in range(3))  # part: 0 is the prompt
    before, said, row_of, columns, ends = [], [], [], [], []
    for number, ((prompt, answers), place) in enumerate(zip(rows, places), 1):
        start = place + len(prompt)
        ids[place:start], position[place:start] = prompt, np.arange(len(prompt))
        owner[place : place + lengths[number - 1]] = number
        for k, answer in enumerate(answers, 1):
            stop = start + len(answer)
            ids[start:stop], part[start:stop] = answer, k
            position[start:stop] = np.arange(len(prompt), len(prompt) + len(answer))
            before += [place + len(prompt) - 1, *range(start, stop - 1)][: len(answer)]
            said += answer
            row_of += [len(ends)] * len(answer)
            columns += range(len(answer))
            ends.append(stop - 1 if answer else place + len(prompt) - 1)
            start = stop
    owner, part = (torch.from_numpy(x.reshape(shape)).to(device()) for x in (owner, part))
    sees = (owner[:, :, None] == owner[:, None, :]) & ((part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0))
    sees &= torch.ones(width, width, dtype=torch.bool, device=device()).tril()
    bias = torch.zeros(sees.shape, device=device()).masked_fill(~sees, torch.finfo(torch.bfloat16).min)[:, None]
    ids, position = (torch.from_numpy(x.reshape(shape)).to(device()) for x in (ids, position))
    kept, where = np.unique(before + ends, return_inverse=True)
    before, ends = where[: len(before)], where[len(before) :]
    # oneDNN compiles a bfloat16 product anew for each size it has not met, which takes as long as ten products: so few sizes.
    kept, before, said = (np.pad(np.array(x, dtype=np.int64), (0, -len(x) % 64)) for x in (kept, before, said))
    kept, before, said, row_of, columns, ends, starts = (
        torch.as_tensor(x, device=device(), dtype=torch.long) for x in (kept, before, said, row_of, columns, ends, places)
    )
    mask = torch.zeros(len(ends), int(columns.max()) + 1 if len(columns) else 1, device=device())
    mask[row_of, columns] = 1
    return Packed(ids, position, bias, kept, before, said, row_of, columns, ends, starts, mask)


def hidden_states(model, packed: Packed, memory: list[Tensor] | None = None) -> Tensor:
    """Last hidden states of the trunk where they are read, (kept, width).

    GPT2Model's forward pass but for its end: the last MLP sees only what is kept, and no prompt. The keys and values
    of all tokens, (lines · their width, 2 · width), go into `memory`, block by block.
    """
    body, heads, attend = model.transformer, model.config.n_head, AttentionInterface()[model.config._attn_implementation]
    sees = packed.sees.to(computing_dtype())
    if attend is plain_attention:
        sees = sees.repeat(1, heads, 1, 1)  # once rather than in each block
    x = body.drop(body.wte(packed.ids) + body.wpe(packed.positions))
    for number, block in enumerate(body.h, 1):
        three = block.attn.c_attn(block.ln_1(x))  # queries, keys and values side by side
        if memory is not None:
            memory.append(three[..., x.shape[-1] :].flatten(0, 1))
        query, key, value = three.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(block.attn, query, key, value, sees, scaling=block.attn.scaling, dropout=block.attn.attn_dropout.p * block.training)[0]
        x = x + block.attn.resid_dropout(block.attn.c_proj(mixed.flatten(2)))
        if number == len(body.h):
            x = x.flatten(0, 1).index_select(0, packed.kept)  # its backward pass is faster than that of […]
        x = x + block.mlp(block.ln_2(x))
    return body.ln_f(x)


def next_logits(model, hidden: Tensor) -> Tensor:
    """Logits of the next token; a reward model's trunk has a language model's output, too."""
    return hidden @ model.transformer.wte.weight.T.to(hidden.dtype)


def answer_logprobs(model, packed: Packed, pad: int, temperature: float = 1.0, hidden: Tensor | None = None) -> Tensor:
    """Log-probabilities of answer tokens under a model, (answers, longest answer), 0 beyond an answer's end.

    `hidden` are the model's hidden states if they are known already.
    """
    hidden = hidden_states(model, packed) if hidden is None else hidden
    logits = next_logits(model, hidden.index_select(0, packed.before))
    logits[:, pad] = -torch.inf  # sampling never draws <pad>, so it takes no part in the softmax either
    if temperature != 1.0:
        logits = logits / temperature
    return packed.table(-token_cross_entropy(logits, packed.said))


def head_scores(model: GPT2ForSequenceClassification, hidden: Tensor) -> Tensor:
    """The scalar head; where there is a head for somebody's taste, plus `scale` · σ(that head − `middle`) (`config.taste`)."""
    values = model.score(hidden).float()
    if values.shape[-1] == 1:
        return values.squeeze(-1)
    taste = model.config.taste
    return values[..., 0] + taste["scale"] * torch.sigmoid(values[..., 1] - taste["middle"])


def answer_scores(model: GPT2ForSequenceClassification, packed: Packed) -> Tensor:
    """What a reward model thinks of each answer, (answers,).

    The score is the scalar head at the answer's last token plus `config.likelihood` times the log-probability
    that the model's own language model gives the answer. With a likelihood of 0 it is InstructGPT's.
    """
    hidden = hidden_states(model, packed)
    scores = head_scores(model, hidden[packed.ends])
    likelihood = getattr(model.config, "likelihood", 0.0)
    if not likelihood:
        return scores
    logprobs = -token_cross_entropy(next_logits(model, hidden.index_select(0, packed.before)), packed.said)[: len(packed.rows)]
    return scores + likelihood * torch.zeros_like(scores).index_add(0, packed.rows, logprobs)
