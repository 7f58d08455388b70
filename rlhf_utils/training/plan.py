"""What a run will take, before it starts: parameters, tokens, memory and time of each stage; and microbatches
that fit.

Arithmetic of Kaplan et al. (2020), section 2.1, for operations (2 a parameter and token forward, 4
backward), and of Korthikanti et al. (2022), section 4, for activations, without the attention scores that
fused attention never keeps.
"""

import time

import pandas as pd
import psutil
import torch
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from rlhf_utils.environment import CourseError, gpu_fraction
from rlhf_utils.language.device import device, use_bf16
from rlhf_utils.language.models import gpt2_config
from rlhf_utils.language.packing import Packed
from rlhf_utils.language.scoring import hidden_states, next_logits
from rlhf_utils.profiles import Profile

TRAINED, FROZEN = (
    16,
    4,
)  # bytes a parameter: float32 weight, gradient and Adam's two moments; the weight alone
ACTIVATIONS = 34  # bytes a token, layer and unit of width, kept for the backward pass in bfloat16
LOGITS = 10  # bytes a token and entry of the vocabulary: bfloat16 and float32, and the gradient
SHARE = 0.85  # of the free memory that is planned with
EFFICIENCY = 0.35  # of the machine's matrix rate that training reaches, as `make bench` finds about
PROMPT, ANSWER = 0.4, 0.5  # mean length as a share of the longest


def parameters(profile: Profile) -> int:
    """Weights of a GPT-2 of this size; input and output embeddings are one."""
    d = profile.width
    return (profile.vocabulary + profile.context) * d + profile.layers * (12 * d * d + 13 * d) + 2 * d


def row_bytes(profile: Profile, tokens: int) -> int:
    """Memory of what the backward pass needs of a sequence of so many tokens."""
    return tokens * (
        ACTIVATIONS * profile.width * profile.layers * (1 if use_bf16(profile) else 2)
        + LOGITS * profile.vocabulary
    )


def free_bytes() -> int:
    if device().type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return min(free, int(gpu_fraction() * total))
    return psutil.virtual_memory().available


def microbatch(profile: Profile, rows: int, tokens: int, free: int | None = None) -> int:
    """How many of `rows` sequences fit into memory at once beside the trained model: the largest divisor of
    `rows`.
    """
    free = free_bytes() if free is None else free
    left = SHARE * free - TRAINED * parameters(profile)
    fitting = int(left // row_bytes(profile, tokens))
    if fitting < 1:
        needed = (TRAINED * parameters(profile) + row_bytes(profile, tokens)) / SHARE
        raise CourseError(
            f"Training this model takes {needed / 2**30:.1f} GB at least, and {free / 2**30:.1f} GB are "
            "free. Close what else uses the "
            "memory, or choose a smaller profile."
        )
    return max(n for n in range(1, rows + 1) if rows % n == 0 and n <= fitting)


def answers_at_once(profile: Profile, rows: int, tokens: int) -> int:
    """How many answers are read at once for a step of PPO: all on a CPU, on a GPU what fits."""
    return microbatch(profile, rows, tokens) if device().type == "cuda" else rows


def matrix_rate(profile: Profile, size: int = 2048) -> float:
    """Operations a second of a plain matrix product in the precision that training uses."""
    a = torch.randn(size, size, dtype=torch.bfloat16 if use_bf16(profile) else torch.float32, device=device())
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        if device().type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def plan(profile: Profile, rate: float, free: int | None = None) -> pd.DataFrame:
    """One row a stage: tokens that pass through the model, microbatch, memory in GB, and minutes at `rate`
    operations a second.
    """
    n, context = parameters(profile), profile.context
    answer = profile.prompt_tokens * PROMPT + profile.answer_tokens * ANSWER  # prompt and answer, mean
    ranked = profile.nine_answers * 9 + (profile.ranked_prompts - profile.nine_answers) * 4
    written = profile.ppo_updates * profile.episodes
    windows = profile.ppo_updates * profile.ppo_epochs * profile.minibatches * profile.ptx_windows * context
    rows = {
        # stage: (tokens, passes forward, passes forward and backward, sequences a step, their tokens, bytes
        # of weights a parameter)
        "pretrain": (
            profile.pretrain_steps * profile.pretrain_batch * context,
            0,
            1,
            profile.pretrain_batch,
            context,
            TRAINED,
        ),
        "sft": (
            profile.demonstrations * answer * profile.sft_epochs,
            0,
            1,
            profile.sft_batch,
            context,
            TRAINED,
        ),
        "rank": (ranked * answer, 1, 0, 0, 0, FROZEN),
        "reward": (
            (profile.nine_answers * 9 + (profile.ranked_prompts - profile.nine_answers) * 4)
            * answer
            * profile.reward_epochs,
            0,
            1,
            profile.reward_batch,
            context,
            TRAINED,
        ),
        "ppo": (
            written * answer,
            5,
            2 * profile.ppo_epochs,
            profile.episodes // profile.minibatches,
            round(answer),
            2 * TRAINED + 2 * FROZEN,
        ),
        "ppo_ptx": (
            written * answer + windows,
            5,
            2 * profile.ppo_epochs,
            profile.episodes // profile.minibatches,
            round(answer),
            2 * TRAINED + 2 * FROZEN,
        ),
    }
    made = []
    for stage, (tokens, forward, both, sequences, length, weights) in rows.items():
        at_once = microbatch(profile, sequences, length, free) if stage in ("pretrain", "sft") else sequences
        memory = weights * n + at_once * row_bytes(profile, length)
        minutes = tokens * n * (2 * forward + 6 * both) / (rate * EFFICIENCY) / 60
        made.append((stage, tokens / 1e6, at_once or "", memory / 2**30, minutes))
    return pd.DataFrame(made, columns=["stage", "million tokens", "microbatch", "GB", "minutes"]).set_index(
        "stage"
    )


def check_shapes(profile: Profile) -> None:
    """Run models of the profile's size forward without memory or arithmetic (on the meta device), and check
    what comes out.
    """
    if profile.prompt_tokens + profile.answer_tokens > profile.context:
        raise CourseError(
            f"Prompts of {profile.prompt_tokens} and answers of {profile.answer_tokens} tokens do not fit a "
            f"context of {profile.context}."
        )
    rows, width = profile.pretrain_batch, profile.context
    with torch.device("meta"):
        model, scorer = (
            GPT2LMHeadModel(gpt2_config(profile)),
            GPT2ForSequenceClassification(gpt2_config(profile)),
        )
        ids, flat = torch.zeros(rows, width, dtype=torch.long), torch.zeros(rows * width, dtype=torch.long)
        packed = Packed(
            ids,
            ids,
            torch.zeros(rows, 1, width, width),
            flat,
            flat,
            flat,
            flat,
            flat,
            flat[:rows],
            flat[:rows],
            torch.zeros(rows, width),
        )
        logits, scores = (
            next_logits(model, hidden_states(model, packed)),
            scorer.score(hidden_states(scorer, packed)[packed.ends]),
        )
    counted = sum(p.numel() for p in model.parameters())
    if (
        logits.shape != (rows * width, profile.vocabulary)
        or scores.shape != (rows, 1)
        or counted != parameters(profile)
    ):
        raise CourseError(
            f"The plan counts {parameters(profile):,} parameters, the model has {counted:,}; logits are "
            f"{tuple(logits.shape)}."
        )
