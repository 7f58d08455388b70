"""The stages from text to an aligned model, and `ensure`, which builds what is missing.

Notebooks and the command line call the same functions.
"""

import ctypes
import gc
import hashlib
import json
import sys
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file, save_file

from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import read_jsonl, write_jsonl
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import PARENTS, Store, descendants
from rlhf_utils.environment import CourseError
from rlhf_utils.language.tokenizer import load_tokenizer, prompt_ids, save_tokenizer, train_tokenizer
from rlhf_utils.profiles import Profile, load_profile
from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.documents import held_out_texts, write_documents
from rlhf_utils.world.facts import load_world
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.prompts import PROBES, USE_CASES, training_shares, write_prompts


def rankings_digest(profile: Profile) -> dict:
    """Which of people's rankings the `taste` stage is made from, as a hash."""
    from rlhf_utils.ranking.store import own_rankings

    rows = [
        {k: row[k] for k in ("ranker", "item", "answers", "ranks")} for row in own_rankings(profile.guideline)
    ]
    return {"rankings": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}


def open_store(profile: Profile, reference: bool | None = None) -> Store:
    """The Store of a profile, which also knows when there are other rankings than those that a taste was made
    from.
    """
    return Store(profile, reference, {"taste": rankings_digest})


# -- reading what stages wrote ---------------------------------------------------------------------------
def folder_of(store: Store, stage: str):
    """The folder of an artifact, built first if need be: reference models come without their corpus."""
    if store.find(stage) is None:
        ensure(stage, store.profile)
    return store.folder(stage)


def prompts_of(store: Store, name: str) -> list[dict]:
    """`demonstrations`, `ranked`, `ppo`, `validation`, `test`,
    `probes` or `withheld` prompts of the corpus.
    """
    return read_jsonl(folder_of(store, "corpus") / f"{name}.jsonl")


def documents_of(store: Store, name: str = "train") -> list[dict]:
    return read_jsonl(folder_of(store, "corpus") / f"documents_{name}.jsonl")


def windows_of(store: Store, name: str = "train") -> np.ndarray:
    """Token ids of the documents, (windows, context)."""
    return load_file(folder_of(store, "tokens") / "tokens.safetensors")[name]


def tokenizer_of(store: Store):
    return load_tokenizer(folder_of(store, "tokenizer"))


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
        from rlhf_utils.language.pretrained import base_folder, base_tokenizer

        return save_tokenizer(base_tokenizer(base_folder(profile)), folder)
    texts = [row["text"] for row in documents_of(store)]
    if not profile.data:
        texts = Random(0).sample(texts, min(len(texts), 20_000))  # frequencies settle long before the end
    save_tokenizer(train_tokenizer(texts, profile.vocabulary), folder)


def make_tokens(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.language.tokenizer import to_windows

    tokenizer = tokenizer_of(store)
    windows = {
        n: to_windows(tokenizer, [r["text"] for r in documents_of(store, n)], profile.context)
        for n in ("train", "heldout")
    }
    save_file(windows, folder / "tokens.safetensors")


def make_pretrain(profile: Profile, store: Store, folder) -> None:
    if profile.base:
        from rlhf_utils.language.pretrained import base_folder, write_base

        write_base(base_folder(profile), tokenizer_of(store), folder)
        return write_jsonl(folder / "metrics.jsonl", [])
    from rlhf_utils.training.pretraining import pretrain

    pretrain(profile, tokenizer_of(store), windows_of(store), store, folder)


def make_sft(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.training.sft import fine_tune

    rows, windows = prompts_of(store, "demonstrations"), windows_of(store)
    fine_tune(profile, tokenizer_of(store), store.folder("pretrain"), rows, windows, store, folder)


def make_rank(profile: Profile, store: Store, folder) -> None:
    if profile.data:
        from rlhf_utils.pipeline.own_data import write_own_rankings

        return write_own_rankings(profile, folder)
    from rlhf_utils.pipeline.rank import rank_answers

    rank_answers(
        profile,
        load_world(),
        tokenizer_of(store),
        store.folder("sft"),
        prompts_of(store, "ranked"),
        prompts_of(store, "validation"),
        store,
        folder,
    )


def make_reward(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.training.reward import train_reward

    ranked = store.folder("rank")
    train_reward(
        profile,
        tokenizer_of(store),
        store.folder("pretrain"),
        read_jsonl(ranked / "rankings.jsonl"),
        prompts_of(store, "demonstrations"),
        read_jsonl(ranked / "heldout_prompts.jsonl"),
        windows_of(store),
        store,
        folder,
    )


def make_ppo(profile: Profile, store: Store, folder, stage: str = "ppo") -> None:
    from rlhf_utils.training.ppo import train_ppo

    tokenizer = tokenizer_of(store)
    rows, gold = prompts_of(store, "ppo"), None
    if not profile.data:
        judge = Judge(load_world())

        def gold(chosen: list[int], answers: list[str]) -> float:
            return sum(judge.score(rows[i], a.strip()).total for i, a in zip(chosen, answers)) / len(chosen)

    prompts = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in rows]
    windows = windows_of(store) if stage != "ppo" else None
    reward = store.folder("taste_reward" if stage == "taste_ppo" else "reward")
    train_ppo(profile, tokenizer, store.folder("sft"), reward, prompts, windows, store, stage, folder, gold)


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
        tokenizer_of(store),
        store.folder("reward"),
        read_jsonl(store.folder("taste") / "rankings.jsonl"),
        read_jsonl(store.folder("rank") / "heldout_prompts.jsonl"),
        prompts_of(store, "demonstrations"),
        folder,
    )


def make_taste_evaluate(profile: Profile, store: Store, folder) -> None:
    from rlhf_utils.pipeline.taste import evaluate_taste

    (folder / "metrics.json").write_text(
        json.dumps(evaluate_taste(profile, store, folder), indent=1), "utf-8"
    )


# -- building ------------------------------------------------------------------------------------------------
def ensure(
    stage: str, profile: Profile | None = None, force: str | None = None, wait: bool = True, say=print
) -> Store:
    """Build `stage` and all it needs, as far as it is missing or out of date; returns the Store.

    `force` rebuilds that stage and everything made from it up to `stage`. If another process is
    building in the same folder, wait for it (or raise CourseError if `wait` is False).
    """
    for name in (stage, force or stage):
        if name not in PARENTS:
            raise CourseError(f"There is no stage {name!r}. Choose one of: {', '.join(PARENTS)}.")
    profile = profile or load_profile()
    store = open_store(profile)
    needed = {stage}
    for name in reversed(PARENTS):
        if name in needed:
            needed |= set(PARENTS[name])
    plan = [s for s in PARENTS if s in needed]
    forced = set(descendants(force)) if force else set()
    if not forced & needed and all(store.find(s) and not store.stale(s, store.find(s)) for s in plan):
        return store
    with store.lock(wait, say) if processes.LEADS else nullcontext():
        for name in plan:
            if not processes.from_leader(processes.LEADS and missing(store, name, stage, forced, say)):
                continue
            # All processes train together; what the others would write besides is thrown away.
            with store.write(name) if processes.LEADS else TemporaryDirectory() as folder:
                processes.wait()  # the leader has looked after old checkpoints
                if processes.LEADS or name in TRAINED:
                    MAKERS[name](profile, store, Path(folder))
                    give_back_memory()
            processes.wait()
    return store


def give_back_memory() -> None:
    """To the system, what a stage has used: with 124 million weights the next one would else come on top of
    some gigabytes.
    """
    gc.collect()  # a Trainer and its parts refer to each other
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a C library other than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def missing(store: Store, name: str, stage: str, forced: set[str], say) -> bool:
    """Whether `name` must be built for `stage`."""
    # A parent that only a missing artifact would need is not built for one that is there.
    if name not in required(store, stage, forced):
        return False
    found = store.find(name) if name not in forced else None
    why = store.stale(name, found) if found else ""
    if why:
        say(f"{name}: built anew, since {why}.")
    return not found or bool(why)


def required(store: Store, stage: str, forced: set[str]) -> set[str]:
    """Stages that `stage` needs, without the parents of artifacts that are there and up to date."""
    needed, queue = set(), [stage]
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        found = store.find(name) if name not in forced else None
        if found is None or store.stale(name, found) or found.parent == store.root:
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
    "evaluate": make_evaluate,
    "taste": make_taste,
    "taste_reward": make_taste_reward,
    "taste_ppo": partial(make_ppo, stage="taste_ppo"),
    "taste_evaluate": make_taste_evaluate,
}
