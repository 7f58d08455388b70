"""The stages: which settings, and which other artifacts, decide what each of them makes."""

MODEL = ("layers", "width", "heads", "context", "vocabulary")
TEXT = (
    "prompt_tokens",
    "answer_tokens",
    "demonstrations",
    "ranked_prompts",
    "ppo_prompts",
    "validation_prompts",
    "test_prompts",
    "use_cases",
)
PPO = (
    "ppo_updates",
    "episodes",
    "ppo_epochs",
    "minibatches",
    "ppo_rate",
    "kl_coefficient",
    "ppo_temperature",
    "one_trunk",
    "lora",
)
GRADIENTS = ("ppo_updates", "episodes", "ppo_rate", "kl_coefficient", "ppo_temperature", "lora")
PTX = ("ptx_coefficient", "ptx_windows")
# Which settings decide what a stage makes; other settings may change without a new artifact.
SETTINGS = {
    "corpus": ("corpus_characters", "heldout_characters", *TEXT),
    "tokenizer": ("vocabulary", "base"),
    "tokens": ("context",),
    "pretrain": (*MODEL, "pretrain_steps", "pretrain_batch", "pretrain_rate", "base"),
    "sft": ("sft_epochs", "sft_batch", "sft_rate", "sft_mix", "lora"),
    "rank": ("answer_tokens", "nine_answers"),
    "reward": ("reward_epochs", "reward_batch", "reward_rate", "reward_lm", "reward_likelihood"),
    "ppo": PPO,
    "ppo_ptx": (*PPO, *PTX),
    "evaluate": ("samples",),
    "rejection": ("best_of", "rejection_epochs", "sft_batch", "sft_rate", "sft_mix", "lora"),
    "dpo": ("dpo_pairs", "dpo_batch", "dpo_rate", "dpo_beta", "lora"),
    "reinforce": GRADIENTS,
    "ppo_no_value": GRADIENTS,
    "rloo": (*GRADIENTS, "group"),
    "grpo": (*GRADIENTS, "group"),
    "taste": ("guideline",),
    "taste_reward": ("own_weight",),
    "taste_ppo": (*PPO, *PTX),
    "taste_evaluate": ("samples",),
}
PARENTS = {
    "corpus": (),
    "tokenizer": ("corpus",),
    "tokens": ("corpus", "tokenizer"),
    "pretrain": ("tokenizer", "tokens"),
    "sft": ("corpus", "tokens", "pretrain"),
    "rank": ("corpus", "sft"),
    "reward": ("tokens", "pretrain", "rank"),
    "ppo": ("corpus", "sft", "reward"),
    "ppo_ptx": ("corpus", "tokens", "sft", "reward"),
    "evaluate": ("corpus", "tokens", "pretrain", "sft", "rank", "reward", "ppo", "ppo_ptx"),
    # Beyond PPO; see training/beyond.py and training/offline.py.
    "rejection": ("corpus", "tokens", "sft", "reward"),
    "dpo": ("sft", "rank"),
    **dict.fromkeys(("reinforce", "ppo_no_value", "rloo", "grpo"), ("corpus", "sft", "reward")),
    # From people's own rankings; see pipeline/taste.py.
    "taste": (),
    "taste_reward": ("corpus", "rank", "reward", "taste"),
    "taste_ppo": ("corpus", "tokens", "sft", "taste_reward"),
    "taste_evaluate": ("corpus", "rank", "sft", "reward", "ppo_ptx", "taste", "taste_reward", "taste_ppo"),
}
TASTE = ("taste", "taste_reward", "taste_ppo", "taste_evaluate")
BEYOND = ("rejection", "dpo", "reinforce", "ppo_no_value", "rloo", "grpo")
STAGES = tuple(s for s in PARENTS if s not in (*TASTE, *BEYOND))
# What one lowers or raises after PPO diverged: it may go on from its checkpoints. (Those of pretraining keep
# the rate that they were begun with.)
RETRY = ("ppo_rate", "kl_coefficient")
# What a reader changes all the time: another value builds anew instead of raising.
KNOBS = ("own_weight", "rankings")


# What a stage reads besides its parents: something that its parents were made from.
READS = {
    "sft": ("tokenizer",),
    "rank": ("tokenizer",),
    "reward": ("corpus", "tokenizer"),
    "ppo": ("tokenizer",),
    "ppo_ptx": ("tokenizer",),
    "evaluate": ("tokenizer",),
    **dict.fromkeys(BEYOND, ("tokenizer",)),
    "taste_reward": ("tokenizer",),
    "taste_ppo": ("tokenizer",),
    "taste_evaluate": ("tokenizer",),
}


def descendants(stage: str) -> list[str]:
    """The stage and everything that is made from it, in order."""
    found = [stage]
    for other in PARENTS:
        if other not in found and set(PARENTS[other]) & set(found):
            found.append(other)
    return found
