"""The stages whose models are trained to please: PPO, PPO-ptx, and other methods on the same rankings."""

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.profiles import Profile
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge


def make_ppo(profile: Profile, store: Store, folder, stage: str = "ppo", method=None) -> None:
    from rlhf_utils.training.ppo import PPO
    from rlhf_utils.training.ppo_run import train_ppo

    tokenizer = store.tokenizer()
    rows, gold = store.prompts("ppo"), None
    if not profile.data:
        judge = Judge(load_world())

        def gold(chosen: list[int], answers: list[str]) -> float:
            return sum(judge.score(rows[i], a.strip()).total for i, a in zip(chosen, answers)) / len(chosen)

    prompts = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in rows]
    windows = store.windows() if stage in ("ppo_ptx", "taste_ppo") else None
    reward = store.folder("taste_reward" if stage == "taste_ppo" else "reward")
    train_ppo(
        profile,
        tokenizer,
        store.folder("sft"),
        reward,
        prompts,
        windows,
        folder,
        store.resume_folder(stage),
        store.root,
        stage,
        gold,
        method or PPO,
    )


def make_beyond(profile: Profile, store: Store, folder, stage: str) -> None:
    """A policy by another method than PPO, from the same rankings."""
    from rlhf_utils.training.beyond import GRADIENTS
    from rlhf_utils.training.offline import preference_pairs, train_dpo, train_rejection

    if processes.COUNT > 1:
        raise CourseError(f"{stage} trains in one process. Start it without torchrun.")
    tokenizer, sft = store.tokenizer(), store.folder("sft")
    if stage == "dpo":
        pairs = preference_pairs(store.rankings(), profile.dpo_pairs, profile.seed)
        train_dpo(profile, tokenizer, sft, pairs, folder, store.resume_folder(stage), store.root)
    elif stage == "rejection":
        train_rejection(
            profile,
            tokenizer,
            sft,
            store.folder("reward"),
            store.prompts("ppo"),
            store.windows(),
            folder,
            store.resume_folder(stage),
            store.root,
        )
    else:
        make_ppo(profile, store, folder, stage, GRADIENTS[stage])
