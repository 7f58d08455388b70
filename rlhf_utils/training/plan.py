"""What a run will take, before it starts: parameters, tokens, memory and time of each stage; and microbatches
that fit.

Arithmetic of Kaplan et al. (2020), section 2.1, for operations (2 a parameter and token forward, 4
backward), and of Korthikanti et al. (2022), section 4, for activations, without the attention scores that
fused attention never keeps.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import psutil
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.lineage import STAGES
from rlhf_utils.environment import CourseError, gpu_fraction, local_processes, share_out_always
from rlhf_utils.language.base_checks import unmade
from rlhf_utils.language.device import device, give_back_memory, use_bf16
from rlhf_utils.language.models import gpt2_config
from rlhf_utils.language.packing import Packed
from rlhf_utils.language.pretrained import planned_config, sized, weights_of_base
from rlhf_utils.language.scoring import hidden_states, next_logits
from rlhf_utils.profiles import Profile

# Bytes a parameter: float32 weight, gradient and Adam's two moments; the weight alone.
TRAINED, FROZEN = 16, 4
ACTIVATIONS = 34  # bytes a token, layer and unit of width, kept for the backward pass in bfloat16
INPUT = 4  # of these, what goes into a layer, in float32
SHARED_OUT = ("sft", "reward")  # stages whose weights several processes can share
FEW = 4  # sequences: where fewer fit, activations are computed anew
LOGITS = 10  # bytes a token and entry of the vocabulary: bfloat16 and float32, and the gradient
SHARE = 0.85  # of the free memory that is planned with
EFFICIENCY = 0.35  # of the machine's matrix rate that training reaches, as `make bench` finds about
PROMPT, ANSWER = 0.4, 0.5  # mean length as a share of the longest


def parameters(profile: Profile) -> int:
    """Weights of a GPT-2 of this size (input and output embeddings are one), or of the profile's base."""
    if profile.base:
        return weights_of_base(profile)
    d = profile.width
    return (profile.vocabulary + profile.context) * d + profile.layers * (12 * d * d + 13 * d) + 2 * d


def weight_bytes(profile: Profile, weights: int, shared_out: bool = False) -> int:
    """Memory of all models together, which take so many bytes a parameter: in this process."""
    count, layered = parameters(profile), sized(profile)
    if not shared_out:
        # Several processes have a copy of the gradients, in which they are summed.
        copies = FROZEN * (weights // TRAINED) if processes.COUNT > 1 else 0
        return (weights + copies) * count
    # Embeddings and the layer in work are whole, and so are their gradients; of the other layers, autograd
    # keeps what autocast made of their weights.
    whole = 2 * layered.vocabulary * layered.width + 12 * layered.width**2
    rounded = 2 * count if use_bf16(profile) else 0
    return weights * count // processes.COUNT + 2 * FROZEN * whole + rounded


def row_bytes(profile: Profile, tokens: int, recompute: bool = False) -> int:
    """Memory of what the backward pass needs of a sequence of so many tokens; with `recompute`, all that goes
    into a layer, and the rest of one layer at a time.
    """
    layer = ACTIVATIONS * profile.width * (1 if use_bf16(profile) else 2)
    kept = INPUT * profile.width * profile.layers + layer if recompute else layer * profile.layers
    return tokens * (kept + LOGITS * profile.vocabulary)


def free_bytes() -> int:
    """For this process: what others on the same device may take is not counted."""
    give_back_memory()  # what is kept of an earlier stage is free
    if device().type == "cuda":
        free, total = torch.cuda.mem_get_info()
        sharers = -(-local_processes() // torch.cuda.device_count())
        return min(free, int(gpu_fraction() * total)) // sharers
    return psutil.virtual_memory().available // local_processes()


@dataclass(frozen=True)
class Room:
    """How a step fits into memory: so many sequences at once, whether their activations are computed anew in
    the backward pass, and whether the weights are shared out among processes.
    """

    at_once: int
    recompute: bool = False
    shared_out: bool = False

    @property
    def place(self) -> torch.device:
        """Where a model is read to: what is shared out never is on one card as a whole."""
        return torch.device("cpu") if self.shared_out else device()

    def __str__(self) -> str:
        names = ("gradient checkpointing", self.recompute), ("FSDP", self.shared_out)
        return ", ".join(name for name, used in names if used)


def room(
    profile: Profile,
    rows: int,
    tokens: int,
    free: int | None = None,
    weights: int = TRAINED,
    alone: bool = True,
) -> Room:
    """The first way, the cheapest first, in which a step on `rows` sequences of so many tokens fits into
    memory, a divisor of them at once; CourseError if there is none.

    `weights` are the bytes a parameter that all models together take; not `alone`, processes may share them.
    """
    free = free_bytes() if free is None else free
    ways = [(False, False), (False, True)]  # shared out, computed anew
    if processes.COUNT > 1 and not alone:
        ways = ways * (not share_out_always()) + [(True, False), (True, True)]
    for shared_out, recompute in ways:
        taken, each = weight_bytes(profile, weights, shared_out), row_bytes(sized(profile), tokens, recompute)
        fit = int((SHARE * free - taken) // each)
        if fit >= (1 if recompute else min(FEW, rows)):
            most = min(fit, FEW) if recompute else fit
            at_once = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= most)
            return Room(at_once, recompute, shared_out)
    needed = (taken + each) / SHARE
    raise CourseError(
        f"Training this model takes {needed / 2**30:.1f} GB at least, and {free / 2**30:.1f} GB are "
        "free. Close other programs and kernels that use memory, or choose a smaller profile."
    )


def room_here(profile: Profile, rows: int, tokens: int, **how) -> Room:
    """The same for all processes, which step together. The models of the small world fit any laptop."""
    if device().type == "cpu" and not profile.base and not share_out_always():
        return Room(rows)
    processes.wait()  # nobody has loaded anything yet
    try:
        own = room(profile, rows, tokens, **how)
    except CourseError as error:  # the others learn of it before they wait for this process
        own = str(error)
    found = processes.gathered([own])
    if refused := [said for said in found if isinstance(said, str)]:
        raise CourseError(refused[0])
    return Room(
        min(r.at_once for r in found), any(r.recompute for r in found), any(r.shared_out for r in found)
    )


def weights_of_ppo(profile: Profile) -> int:
    """Bytes a parameter of policy, reference, value model and reward model."""
    policy = FROZEN if profile.lora else TRAINED + FROZEN  # with LoRA the reference is the policy
    return policy + (0 if profile.one_trunk else TRAINED) + FROZEN


def room_of_ppo(profile: Profile) -> tuple[int, bool]:
    """How many answers PPO reads at once, and whether it computes activations anew: before its models are
    loaded.
    """
    longest = profile.prompt_tokens + profile.answer_tokens
    found = room_here(profile, profile.episodes, longest, weights=weights_of_ppo(profile))
    return found.at_once, found.recompute


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


@dataclass(frozen=True)
class Work:
    """What a stage does: `tokens` pass `forward` times, and `both` times forward and backward; those of
    `documents`, which are mixed in, pass once forward and backward.

    A step has `rows` sequences of at most `length` tokens; `weights` are bytes a parameter.
    """

    tokens: float
    forward: float
    both: float
    rows: int = 0
    length: int = 0
    weights: int = TRAINED
    documents: float = 0


def work_of(profile: Profile) -> dict[str, Work]:
    """The work of each stage that trains or samples; a base of one's own needs no pretraining."""
    p, context = profile, profile.context
    prompt, answer = p.prompt_tokens * PROMPT, p.answer_tokens * ANSWER  # their mean lengths
    sequence = prompt + answer
    longest, nine = p.prompt_tokens + p.answer_tokens, p.prompt_tokens + 9 * p.answer_tokens
    answers = p.nine_answers * 9 + (p.ranked_prompts - p.nine_answers) * 4
    ranked = p.ranked_prompts * prompt + answers * answer  # a prompt is read once for all its answers
    shown = p.demonstrations * p.sft_epochs
    # Windows beside rankings; a base whose output is no word embedding has none (`training.reward`).
    tied = not p.base or getattr(planned_config(p), "tie_word_embeddings", True)
    beside = p.ranked_prompts * p.reward_epochs / 2 if p.reward_lm and tied else 0
    written = p.ppo_updates * p.episodes * sequence
    windows = p.ppo_updates * p.ppo_epochs * p.minibatches * p.ptx_windows * context
    of_sft = FROZEN if p.lora else TRAINED
    ppo = Work(written, 5, 2 * p.ppo_epochs, p.episodes // p.minibatches, longest, weights_of_ppo(p))
    gradient = replace(
        ppo, forward=4, rows=p.episodes // 4, weights=weights_of_ppo(replace(p, one_trunk=True))
    )
    drawn = p.ppo_prompts * p.best_of * sequence
    pairs = p.ranked_prompts * p.dpo_pairs * 2 * sequence
    pretrain = Work(p.pretrain_steps * p.pretrain_batch * context, 0, 1, p.pretrain_batch, context)
    return ({} if p.base else {"pretrain": pretrain}) | {
        "sft": Work(shown * sequence, 0, 1, p.sft_batch, context, of_sft, p.sft_mix * shown * context),
        "rank": Work(ranked, 1, 0, weights=FROZEN),
        "reward": Work(ranked * p.reward_epochs, 0, 1, p.reward_batch, nine, documents=beside * context),
        "ppo": ppo,
        "ppo_ptx": replace(ppo, documents=windows),
        "rejection": Work(
            *(drawn, 2, p.rejection_epochs / max(p.best_of, 1), p.sft_batch, context, of_sft),
            documents=p.sft_mix * p.ppo_prompts * p.rejection_epochs * context,
        ),
        "dpo": Work(pairs, 1, 1, p.dpo_batch, 2 * context, of_sft + FROZEN),
        **dict.fromkeys(("ppo_no_value", "rloo", "grpo"), replace(gradient, both=2)),
        "reinforce": replace(gradient, both=1, rows=p.episodes),
        "taste_ppo": replace(ppo, documents=windows),
    }


def plan(
    profile: Profile, rate: float, free: int | None = None, stages: Sequence[str] = STAGES
) -> pd.DataFrame:
    """One row for each of the `stages` that trains or samples: tokens that pass through the model,
    microbatch, memory in GB, and minutes.

    `rate`: operations a second of a plain matrix product; `free`: bytes of memory. A CourseError names the
    stages that do not fit.
    """
    works = {stage: work for stage, work in work_of(profile).items() if stage in stages}
    made, refused = [], {}
    for stage, work in works.items():
        found = Room(0)
        if work.rows:
            alone = stage not in SHARED_OUT
            own = max(work.rows // processes.COUNT, 1)
            try:
                found = room(profile, own, work.length, free, work.weights, alone)
            except CourseError as error:
                refused[stage] = str(error)
                continue
        each = row_bytes(sized(profile), work.length, found.recompute)
        memory = weight_bytes(profile, work.weights, found.shared_out) + found.at_once * each
        both = 6 + 2 * found.recompute
        passes = work.tokens * (2 * work.forward + both * work.both) + work.documents * both
        operations = passes * parameters(profile)
        minutes = operations / (rate * EFFICIENCY) / 60 / processes.COUNT
        tokens = (work.tokens + work.documents) / 1e6
        made.append((stage, tokens, found.at_once or "", str(found), memory / 2**30, minutes))
    if refused:
        fit = ", ".join(stage for stage in works if stage not in refused) or "none"
        raise CourseError(
            "\n".join(f"{stage}: {why}" for stage, why in refused.items()) + f"\nThese fit: {fit}."
        )
    names = ["stage", "million tokens", "microbatch", "by", "GB", "minutes"]
    return pd.DataFrame(made, columns=names).set_index("stage")


def check_shapes(profile: Profile) -> None:
    """Run models of the profile's size forward without memory or arithmetic (on the meta device), and check
    what comes out.
    """
    if profile.prompt_tokens + profile.answer_tokens > profile.context:
        raise CourseError(
            f"Prompts of {profile.prompt_tokens} and answers of {profile.answer_tokens} tokens do not fit a "
            f"context of {profile.context}."
        )
    config = planned_config(profile) if profile.base else gpt2_config(profile)
    profile = sized(profile)
    rows, width = profile.pretrain_batch, profile.context
    model, scorer = (
        unmade(config, kind) for kind in (AutoModelForCausalLM, AutoModelForSequenceClassification)
    )
    with torch.device("meta"):
        ids, flat = torch.zeros(rows, width, dtype=torch.long), torch.zeros(rows * width, dtype=torch.long)
        packed = Packed(
            ids=ids,
            positions=ids,
            attention_bias=torch.zeros(rows, 1, width, width),
            read_positions=flat,
            before=flat,
            answer_ids=flat,
            rows=flat,
            columns=flat,
            ends=flat[:rows],
            starts=flat[:rows],
            mask=torch.zeros(rows, width),
        )
        logits = next_logits(model, hidden_states(model, packed))
        scores = scorer.score(hidden_states(scorer, packed)[packed.ends])
    counted = sum(p.numel() for p in model.parameters())
    shapes = logits.shape == (rows * width, profile.vocabulary) and scores.shape == (rows, 1)
    if not shapes or counted != parameters(profile):
        raise CourseError(
            f"The plan counts {parameters(profile):,} parameters, the model has {counted:,}; logits are "
            f"{tuple(logits.shape)}."
        )
