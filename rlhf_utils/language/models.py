"""GPT-2 of a profile's size, pretrained models of any architecture, and their trunks with a scalar head for
rewards and values.
"""

import warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)
from transformers.masking_utils import eager_mask
from transformers.utils import logging as transformers_logging

from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import device, has_bf16, use_bf16
from rlhf_utils.profiles import Profile

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def plain_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_,
):
    """Attention by two matrix products in the precision of its inputs, (batch, heads, time, size).

    `attention_mask` is added to the products, (batch or 1, 1, time, keys). Autocast would take the softmax
    to fp32 and back: two more passes over the largest tensor there is, for a result that is rounded to
    bfloat16 all the same.
    """
    lines, heads, time, size = query.shape
    # The lowest number of one precision may be −∞ in the other, and all of −∞ has no softmax.
    if attention_mask.dtype != query.dtype:
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
    """torch's fused attention, but for bfloat16 on a CPU: there its backward pass takes four times as long as
    plain matrix products.
    """
    bf16 = has_bf16() if bf16 is None else bf16
    return "plain" if bf16 and device().type == "cpu" else "sdpa"


def gpt2_config(profile: Profile, tokenizer=None) -> GPT2Config:
    end, pad = (tokenizer.eos_token_id, tokenizer.pad_token_id) if tokenizer else (0, 1)
    # GPT-2 starts its weights at a deviation of 0.02, which suits a width of 768 and up. A narrow model
    # learns to copy from its context much sooner from 1/√width.
    return GPT2Config(
        vocab_size=len(tokenizer) if tokenizer else profile.vocabulary,
        n_positions=profile.context,
        n_embd=profile.width,
        n_layer=profile.layers,
        n_head=profile.heads,
        initializer_range=profile.width**-0.5,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
        # Dropout is 0 throughout: small models do not need it, and PPO's ratio must be 1 at first.
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        summary_first_dropout=0.0,
        num_labels=1,
        # GPT-2 approximated the GELU by a tanh, which today takes a CPU five times as long as the function
        # itself.
        activation_function="gelu",
        attn_implementation=attention(use_bf16(profile)),
    )


def new_gpt2(profile: Profile, tokenizer) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(gpt2_config(profile, tokenizer))


# Adapters start at nothing and need about ten times the learning rate of all weights (Schulman et al., "LoRA
# Without Regret", 2025)
LORA_RATE = 10


def with_lora(model: PreTrainedModel, rank: int):
    """The model with low-rank adapters on all its matrices (Hu et al., 2021); nothing else trains.

    The adapters start at exactly 0, so the model is what it was.
    """
    from peft import LoraConfig, get_peft_model

    # GPT-2 stores its matrices transposed, which peft calls fan_in_fan_out.
    transposed = is_gpt2(model)
    matrices = ["c_attn", "c_proj", "c_fc"] if transposed else "all-linear"
    adapters = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=matrices, fan_in_fan_out=transposed, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        adapted = get_peft_model(model, adapters)
    # peft takes what an adapter reads to the adapter's fp32, from where autocast takes it to bfloat16 again.
    # Nothing needs that where all weights are in fp32 (`peft.helpers.disable_input_dtype_casting`).
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False
    return adapted


def load_policy(folder: Path, lora: int = 0):
    """A model to train, and the frozen one it starts from: `with reference() as model: …`.

    Without LoRA (rank 0) the reference is a copy; with it, the policy without its adapters, which takes no
    memory.
    """
    policy = load_model(folder)
    if not lora:
        return policy, partial(nullcontext, load_model(folder).requires_grad_(False))
    policy = with_lora(policy, lora)

    @contextmanager
    def without_adapters():
        with policy.disable_adapter():
            yield policy

    return policy, without_adapters


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


def read_model(kind, folder: Path, **options) -> PreTrainedModel:
    """A model from a folder: in float32, from safetensors alone, and never from a network.

    `kind` is a class of transformers, or an Auto class. Attention in plain products is known to GPT-2 alone.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.model_type == "gpt2":
        options["attn_implementation"] = attention()
    model, found = kind.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(set(found["missing_keys"]) - {"score.weight"}):  # a new head is made
        raise CourseError(f"The weights in {folder} lack {missing[0]} and {len(missing) - 1} more.")
    if config.model_type == "gpt_neo":
        # Half of its layers look back 256 tokens, counted in a line, where there may be several texts. No
        # text here is longer.
        for name, buffer in model.named_buffers():
            if name.endswith("attention.bias"):
                buffer.copy_(torch.ones_like(buffer).tril())
    return model


def is_gpt2(model: nn.Module) -> bool:
    return model.config.model_type == "gpt2"


def bare(model: nn.Module) -> PreTrainedModel:
    """A model of transformers, out of peft's wrapper if it has one; adapters stay where they are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trunk_of(model: nn.Module) -> PreTrainedModel:
    """All of a model but its head: hidden states of every token come out of it."""
    return bare(model).base_model


def load_model(folder: Path, place: torch.device | None = None) -> PreTrainedModel:
    """A language model of any architecture, on the device or in another `place`."""
    return read_model(AutoModelForCausalLM, folder).to(place or device()).eval()


def load_gpt2(folder: Path) -> GPT2LMHeadModel:
    """A language model of the small world."""
    return read_model(GPT2LMHeadModel, folder).to(device()).eval()


def load_scorer(folder: Path, place: torch.device | None = None) -> PreTrainedModel:
    """A reward model, or a policy's trunk with a new scalar head, on the device or in another `place`.

    A reward model with somebody's taste has two heads.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    heads = 2 if hasattr(config, "taste") else 1
    model = read_model(AutoModelForSequenceClassification, folder, num_labels=heads)
    return model.to(place or device()).eval()


def token_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy in nats of each next token: logits (…, vocabulary), ids (…).

    Rows are flattened first: torch's loss over a middle axis takes 1.6 times as long on a CPU.
    """
    flat = F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), ids.reshape(-1), reduction="none")
    return flat.view(ids.shape)


def pad_batch(sequences: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Pad token lists on the right to (batch, time);
    returns ids and a mask that is 1 where a token is real.
    """
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad)
    mask = torch.zeros((len(sequences), length), dtype=torch.long)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids.to(device()), mask.to(device())
