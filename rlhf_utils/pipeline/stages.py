"""The stages from text to an aligned model, and `ensure`, which builds what is missing.

Notebooks and the command line call the same functions.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from safetensors.numpy import save_file

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.artifacts.lineage import BEYOND, PARENTS, READS, descendants
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import give_back_memory
from rlhf_utils.language.models import load_model, save_model
from rlhf_utils.language.pretrained import base_folder, base_tokenizer, write_base
from rlhf_utils.language.tokenizer import save_tokenizer, train_tokenizer
from rlhf_utils.pipeline.policies import make_beyond, make_ppo
from rlhf_utils.profiles import Profile, load_profile
from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.documents import held_out_texts, write_documents
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.prompts import PROBES, USE_CASES, training_shares, write_prompts


def rankings_digest(profile: Profile) -> dict:
    """Which of people's rankings the `taste` stage is made from, as a hash."""
    from rlhf_utils.ranking.store import own_rankings

    told = ("ranker", "item", "messages", "answers", "ranks")
    rows = [[row[k] for k in told] for row in own_rankings(profile.guideline)]
    return {"rankings": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}


def open_store(profile: Profile, reference: bool | None = None) -> Store:
    """The Store of a profile, which also knows when there are other rankings than those that a taste was made
    from.
    """
    return Store(profile, reference, {"taste": rankings_digest})


# -- one function a stage -----------------------------------------------------------------------------------
def make_corpus(profile: Profile, store: Store, folder) -> None:
    if profile.data:
        from rlhf_utils.pipeline.own_data import write_own_corpus

        return write_own_corpus(profile, folder)
    world = load_world()
    chosen = profile.use_cases or USE_CASES
    withheld = ("withheld_relation", "withheld_task")
    asked = {
        "validation": ("validation", dict.fromkeys(chosen, profile.validation_prompts), 0),
        "test": ("test", dict.fromkeys(chosen, profile.test_prompts), 0),
        "probes": ("test", dict.fromkeys(PROBES, profile.test_prompts), 2),
        "withheld": ("test", dict.fromkeys(withheld, profile.test_prompts), 1),
    }
    held_out: set[str] = set()
    for name, (split, counts, seed) in asked.items():
        rows = write_prompts(world, split, counts, seed)
        write_jsonl(folder / f"{name}.jsonl", rows)
        held_out |= held_out_texts(rows)
    with Progress("corpus", profile.corpus_characters + profile.heldout_characters, store.root) as progress:
        for name, size, seed in (
            ("train", profile.corpus_characters, 0),
            ("heldout", profile.heldout_characters, 1),
        ):
            rows, seen = [], 0
            for row in write_documents(world, size, profile.seed * 2 + seed, held_out):
                rows.append(row)
                seen += len(row["text"])
                if len(rows) % 500 == 0:
                    progress.step(seen)
                    seen = 0
            write_jsonl(folder / f"documents_{name}.jsonl", rows)
    shares = {u: s for u, s in training_shares().items() if u in chosen}
    shares = {u: s / sum(shares.values()) for u, s in shares.items()}
    sizes = {
        "demonstrations": profile.demonstrations,
        "ranked": profile.ranked_prompts,
        "ppo": profile.ppo_prompts,
    }
    writer = AnswerWriter(world, Random(f"demonstrations:{profile.seed}"))
    for i, (name, size) in enumerate(sizes.items()):
        counts = {u: max(round(share * size), 1) for u, share in shares.items()}
        rows = write_prompts(world, "train", counts, profile.seed * 10 + i)
        if name == "demonstrations":
            for row in rows:
                row["style"], row["completion"] = writer.demonstrate(row)
        write_jsonl(folder / f"{name}.jsonl", rows)


def make_tokenizer(profile: Profile, store: Store, folder) -> None:
    if profile.base:
        return save_tokenizer(base_tokenizer(base_folder(profile)), folder)
    texts = [row["text"] for row in store.documents()]
    if not profile.data:
        texts = Random(0).sample(texts, min(len(texts), 20_000))  # frequencies settle long before the end
    save_tokenizer(train_tokenizer(texts, profile.vocabulary), folder)


def make_tokens(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.language.tokenizer import to_windows

    tokenizer = store.tokenizer()
    windows = {
        n: to_windows(tokenizer, [r["text"] for r in store.documents(n)], profile.context)
        for n in ("train", "heldout")
    }
    save_file(windows, folder / "tokens.safetensors")


def make_pretrain(profile: Profile, store: Store, folder) -> None:
    if profile.base:
        write_base(base_folder(profile), store.tokenizer(), folder)
        return write_jsonl(folder / "metrics.jsonl", [])
    from rlhf_utils.training.pretraining import pretrain

    beginnings = [" ".join(row["text"].split()[:4])[:40] for row in store.documents("heldout")[:3]]
    resume = store.resume_folder("pretrain")
    pretrain(profile, store.tokenizer(), store.windows(), folder, resume, store.root, beginnings)


def make_sft(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.training.sft import fine_tune

    if not profile.sft_epochs:  # a base that follows instructions is the SFT model
        save_model(load_model(store.folder("pretrain")), folder, store.tokenizer())
        return write_jsonl(folder / "metrics.jsonl", [])
    fine_tune(
        profile,
        store.tokenizer(),
        store.folder("pretrain"),
        store.prompts("demonstrations"),
        store.windows(),
        folder,
        store.resume_folder("sft"),
        store.root,
        store.prompts("test" if profile.data else "validation")[:15:5],
    )


def make_rank(profile: Profile, store: Store, folder) -> None:
    if profile.data:
        from rlhf_utils.pipeline.own_data import write_own_rankings

        return write_own_rankings(profile, folder)
    from rlhf_utils.pipeline.rank import rank_answers

    rank_answers(
        profile,
        load_world(),
        store.tokenizer(),
        store.folder("sft"),
        store.prompts("ranked"),
        store.prompts("validation"),
        folder,
        store.root,
    )


def make_reward(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.training.reward import train_reward

    train_reward(
        profile,
        store.tokenizer(),
        store.folder("pretrain"),
        store.rankings(),
        store.prompts("demonstrations"),
        store.rankings("heldout_prompts"),
        store.windows(),
        folder,
        store.resume_folder("reward"),
        store.root,
    )


def make_evaluate(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.evaluation.measures import evaluate

    (folder / "metrics.json").write_text(json.dumps(evaluate(profile, store, folder), indent=1), "utf-8")


def make_taste(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.pipeline.taste import write_taste

    write_taste(profile, folder)


def make_taste_reward(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.pipeline.taste import train_taste

    train_taste(
        profile,
        store.tokenizer(),
        store.folder("reward"),
        read_jsonl(store.folder("taste") / "rankings.jsonl"),
        store.rankings("heldout_prompts"),
        store.prompts("demonstrations"),
        folder,
    )


def make_taste_evaluate(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.pipeline.taste_evaluation import evaluate_taste

    (folder / "metrics.json").write_text(
        json.dumps(evaluate_taste(profile, store, folder), indent=1), "utf-8"
    )


# -- building ------------------------------------------------------------------------------------------------
def ensure(
    stages: str | Sequence[str],
    profile: Profile | None = None,
    force: str | None = None,
    wait: bool = True,
    say=print,
) -> Store:
    """Build a stage, or several, and all they need, where it is missing or out of date; returns the Store.

    `force` rebuilds that stage and everything made from it up to `stages`. If another process is building in
    the same folder, wait for it (or raise CourseError if `wait` is False).
    """
    wanted = (stages,) if isinstance(stages, str) else tuple(stages)
    known_stages(*wanted, force or "corpus")
    profile = profile or load_profile()
    store = open_store(profile)
    forced = set(descendants(force)) if force else set()
    needed = {name for name in PARENTS if set(descendants(name)) & set(wanted)}
    if not forced & needed and all(up_to_date(store, name) for name in needed):
        return store
    if profile.base and not store.path("pretrain").is_dir():
        base_folder(profile)  # what is wrong with it is said before anything is built
    with store.lock(wait, say) if processes.LEADS else nullcontext():
        for name in (s for s in PARENTS if s in needed):
            build = processes.LEADS and to_be_built(store, name, wanted, forced, say)
            if processes.from_leader(build):
                build_stage(store, name)
    return store


def known_stages(*names: str) -> None:
    for name in names:
        if name not in PARENTS:
            raise CourseError(f"There is no stage {name!r}. Choose one of: {', '.join(PARENTS)}.")


def build_stage(store: Store, name: str) -> None:
    """All processes train together; what the others would write besides is thrown away."""
    with store.write(name) if processes.LEADS else TemporaryDirectory() as folder:
        processes.wait()  # the leader has looked after old checkpoints
        if processes.LEADS or name in TRAINED:
            try:
                MAKERS[name](store.profile, store, Path(folder))
            finally:
                give_back_memory()
    processes.wait()


def up_to_date(store: Store, name: str) -> bool:
    return bool(found := store.find(name)) and not store.stale(name, found)


def to_be_built(store: Store, name: str, wanted: Sequence[str], forced: set[str], say) -> bool:
    """Whether `name` must be built for the `wanted` stages."""
    # A parent that only a missing artifact would need is not built for one that is there.
    if name not in required(store, wanted, forced):
        return False
    found = store.find(name) if name not in forced else None
    why = store.stale(name, found) if found else ""
    if why:
        say(f"{name}: to be rebuilt, since {why}.")
    return not found or bool(why)


def required(store: Store, wanted: Sequence[str], forced: set[str]) -> set[str]:
    """Stages that the `wanted` ones need, without the parents of artifacts that are there and up to date."""
    needed, queue = set(), list(wanted)
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        found = store.find(name) if name not in forced else None
        if found is None or store.stale(name, found):
            queue += [*PARENTS[name], *READS.get(name, ())]
        elif found.parent == store.root:
            queue += PARENTS[name]
    return needed


TRAINED = ("pretrain", "sft", "reward", "ppo", "ppo_ptx", "taste_ppo")  # by all processes together
MAKERS = {
    "corpus": make_corpus,
    "tokenizer": make_tokenizer,
    "tokens": make_tokens,
    "pretrain": make_pretrain,
    "sft": make_sft,
    "rank": make_rank,
    "reward": make_reward,
    "ppo": make_ppo,
    "ppo_ptx": partial(make_ppo, stage="ppo_ptx"),
    **{stage: partial(make_beyond, stage=stage) for stage in BEYOND},
    "evaluate": make_evaluate,
    "taste": make_taste,
    "taste_reward": make_taste_reward,
    "taste_ppo": partial(make_ppo, stage="taste_ppo"),
    "taste_evaluate": make_taste_evaluate,
}
