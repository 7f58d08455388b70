"""Profiles: every size and budget of the course in one place; and the models that it compares."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlhf_utils.environment import CourseError, path_variable, place, variable, whole_number


@dataclass(frozen=True)
class Model:
    """One of the models that are compared: the stage that makes it, its name in print, its colour."""

    stage: str
    written: str
    colour: str


MODELS = {
    "base": Model("pretrain", "base, bare", "#9aa0ad"),
    "base_prompted": Model("pretrain", "base, prompted", "#c98a00"),
    "sft": Model("sft", "SFT", "#3a86d8"),
    "ppo": Model("ppo", "PPO", "#cc5500"),
    "ppo_ptx": Model("ppo_ptx", "PPO-ptx", "#009e73"),
}
# Other methods on the same rankings: `training/beyond.py`, and the two of `training/offline.py`, which never
# draw from the policy that they train and have a colour of their own: more could not be told apart.
BEYOND = {
    "rejection": Model("rejection", "rejection sampling", "#8c6d31"),
    "dpo": Model("dpo", "DPO", "#8c6d31"),
    "reinforce": Model("reinforce", "REINFORCE", "#7f6db3"),
    "ppo_no_value": Model("ppo_no_value", "PPO, no value model", "#7f6db3"),
    "rloo": Model("rloo", "RLOO", "#7f6db3"),
    "grpo": Model("grpo", "GRPO", "#7f6db3"),
}
TASTE = "taste"  # the model of one's own rankings, which not everybody has
YOURS = Model("taste_ppo", "yours", "#b03a8c")
POLICIES = ("sft", "ppo", "ppo_ptx")


@dataclass(frozen=True)
class Profile:
    """All budgets are in steps, tokens, prompts or episodes, never in minutes."""

    name: str
    seed: int = 0
    data: str = ""  # folder of one's own data; empty for the small world
    base: str = ""  # folder or Hub name of a pretrained model; empty trains one from nothing
    # model
    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 128
    vocabulary: int = 2048
    # corpus and pretraining
    corpus_characters: int = 14_000_000
    heldout_characters: int = 300_000
    pretrain_steps: int = 7500
    pretrain_batch: int = 8  # windows of `context` tokens
    pretrain_rate: float = 6e-3
    # prompts
    use_cases: tuple[str, ...] = ()  # all ten if empty
    demonstrations: int = 1700
    ranked_prompts: int = 4400
    nine_answers: int = 1800  # of the ranked prompts get K = 9 answers, the others K = 4
    ppo_prompts: int = 3100
    validation_prompts: int = 40  # per use case
    test_prompts: int = 100  # per use case
    prompt_tokens: int = 80
    answer_tokens: int = 32
    # supervised fine-tuning
    sft_epochs: int = 6
    sft_batch: int = 8
    sft_rate: float = 5e-4
    sft_mix: float = 0.15  # windows of pretraining text a demonstration
    # reward model
    reward_epochs: int = 2
    reward_batch: int = 8  # prompts
    reward_rate: float = 2e-3
    reward_lm: float = 0.5  # weight of the language-model loss on pretraining windows
    reward_likelihood: float = 0.3  # weight in the score of the answer's log-probability
    # PPO
    ppo_updates: int = 96
    episodes: int = 128  # per update
    ppo_epochs: int = 2
    minibatches: int = 4
    ppo_rate: float = 3e-4
    kl_coefficient: float = 0.06
    ppo_temperature: float = 1.0  # logits are divided by it, in sampling and in scoring alike
    one_trunk: bool = False  # value model: a head on the policy instead of a network of its own
    lora: int = 0  # rank of the adapters that SFT and policies train; 0 trains all weights
    ptx_coefficient: float = 0.5
    ptx_windows: int = 4  # per minibatch
    # beyond PPO
    group: int = 4  # answers a prompt, of RLOO and GRPO
    best_of: int = 8  # samples a prompt of rejection sampling; the best by the reward model is kept
    rejection_epochs: int = 2  # over the best answers
    dpo_pairs: int = 4  # at most, of each ranking
    dpo_batch: int = 32  # pairs
    dpo_rate: float = 1e-4
    dpo_beta: float = 0.3
    # your own rankings beside the crowd's
    own_weight: float = 1.5  # 0 is the crowd alone, 1 as much as the crowd
    guideline: str = ""  # only rankings by this guideline; by the committed one if empty
    # evaluation
    samples: int = 4  # answers a prompt at temperature 1
    # how it is computed
    precision: str = "auto"  # auto, fp32 or bf16
    compiled: bool = False  # pretrains through torch.compile, which takes a minute first

    def settings(self) -> dict:
        """Everything that decides what an artifact contains (how it is computed does not)."""
        return {k: v for k, v in asdict(self).items() if k not in ("precision", "compiled")}


PROFILES = {
    "laptop": Profile("laptop"),
    # GPT-2 small's 12 layers of width 768, with rates usual at that size; each document is read some three
    # times. To train it up to PPO-ptx took an H200 ten minutes (`tests/benchmarks/gpu.py`).
    "gpu": Profile(
        "gpu",
        layers=12,
        width=768,
        heads=12,
        context=256,
        vocabulary=4096,
        corpus_characters=60_000_000,
        heldout_characters=600_000,
        pretrain_steps=3000,
        pretrain_batch=64,
        pretrain_rate=6e-4,
        sft_batch=32,
        sft_rate=5e-5,
        reward_batch=16,
        reward_rate=5e-5,
        ppo_updates=100,
        episodes=256,
        ppo_rate=2e-5,
        ptx_windows=8,
        dpo_rate=5e-6,
        compiled=True,
    ),
    "tiny": Profile(
        "tiny",
        layers=2,
        width=32,
        heads=2,
        vocabulary=768,
        corpus_characters=250_000,
        heldout_characters=30_000,
        pretrain_steps=40,
        pretrain_batch=8,
        demonstrations=96,
        ranked_prompts=48,
        nine_answers=12,
        ppo_prompts=64,
        validation_prompts=2,
        test_prompts=4,
        prompt_tokens=96,
        answer_tokens=24,
        sft_epochs=1,
        reward_epochs=1,
        reward_batch=8,
        ppo_updates=3,
        episodes=16,
        minibatches=2,
        ptx_windows=2,
        samples=2,
    ),
}


# Usual for GPT-2 small; the rates of the profiles suit models that are far smaller.
PRETRAINED_RATES = {"sft_rate": 5e-5, "reward_rate": 5e-5, "ppo_rate": 2e-5, "dpo_rate": 5e-6}


def own_data(profile: Profile, folder: str | Path) -> Profile:
    """The profile for a folder of one's own data, whose dialogues are long: of 64 tokens a third of hh-rlhf's
    answers would be cut.

    A step of pretraining has as many tokens as the profile's, in fewer and longer windows, and goes half as
    far: held-out text is predicted better so. The reward is the scalar head alone: how likely an answer is
    tells whether a fact is true, but of free text, where longer answers are less likely, little more than
    how long it is.
    """
    path = place("The data folder", folder)
    if not path.is_dir():
        raise CourseError(f"The data folder {path} does not exist. Make one with: rlhf data import {path} …")
    return replace(
        profile,
        data=str(path),
        context=512,
        prompt_tokens=384,
        answer_tokens=128,
        pretrain_batch=max(profile.pretrain_batch * profile.context // 512, 1),
        pretrain_rate=profile.pretrain_rate / 2,
        reward_likelihood=0.0,
    )


def by_guideline(profile: Profile, name: str) -> Profile:
    """The same profile for the rankings that were made by another guideline."""
    if not re.fullmatch(r"[\w.-]{1,40}", name):
        raise CourseError(
            f"A guideline's name has letters, digits, dots and dashes only, 40 at most, not {name!r:.60}."
        )
    return replace(profile, guideline=name)


def load_profile(
    name: str | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    own_weight: float | None = None,
    guideline: str | None = None,
    base: str | Path | None = None,
    lora: int | None = None,
    start: str | None = None,
) -> Profile:
    """The profile that arguments or, where they are missing, the environment ask for.

    `start` "sft": the base follows instructions already, and nothing is fine-tuned on demonstrations.
    """
    name = name or variable("RLHF_PROFILE", "laptop")
    if name not in PROFILES:
        raise CourseError(f"There is no profile {name!r}. Choose one of: {', '.join(PROFILES)}.")
    if seed is None:
        seed = whole_number("RLHF_SEED", "0")
    profile = replace(PROFILES[name], seed=seed)
    if own_weight is not None:
        if not 0 <= own_weight <= 10:  # also refuses NaN
            raise CourseError(
                "The weight of your own rankings must be from 0 (the crowd alone) to 10, where 1 is as much "
                f"as the crowd, not {own_weight}."
            )
        profile = replace(profile, own_weight=own_weight)
    if guideline:
        profile = by_guideline(profile, guideline)
    named = base or variable("RLHF_BASE")
    if named:
        folder = place("The base", base or path_variable("RLHF_BASE"))
        profile = replace(profile, base=str(folder if folder.is_dir() else named), **PRETRAINED_RATES)
    start = start or variable("RLHF_FROM")
    if start:
        if start != "sft" or not profile.base:
            raise CourseError(
                "--from sft (RLHF_FROM) uses the base as the SFT model: name an instruction-tuned one with "
                "--base. --from takes no other stage."
            )
        profile = replace(profile, sft_epochs=0)
    lora = lora if lora is not None else whole_number("RLHF_LORA", "0")
    if lora:
        if not 1 <= lora <= 64:
            raise CourseError(
                f"The rank of LoRA adapters (--lora, RLHF_LORA) is 1 to 64, or 0 for none, not {lora}; 8 is "
                "usual."
            )
        profile = replace(profile, lora=lora)
    data = data or path_variable("RLHF_DATA")
    return own_data(profile, data) if data else profile
