"""Sample K answers a prompt, for people to rank, or for the simulated labelers."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, zip_longest
from pathlib import Path
from random import Random
from zlib import crc32

import numpy as np

from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import Store
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_model
from rlhf_utils.language.sampling import sample
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.profiles import Profile
from rlhf_utils.training.reward import rewards, scored_ids
from rlhf_utils.world.judge import Judge
from rlhf_utils.world.labelers import agreement, calibrate_noise, ceiling, make_labelers

TEMPERATURE = 1.0


def sample_answers(
    profile: Profile, tokenizer, model, prompts: list[dict], counts: list[int], live: Path | None = None
) -> list[list[str]]:
    """`counts[i]` answers to prompt i; identical answers are merged, so there may be fewer."""
    flat = [i for i, count in enumerate(counts) for _ in range(count)]
    ids = [prompt_ids(tokenizer, p["messages"], profile.prompt_tokens) for p in prompts]
    with Progress("rank: sample answers", len(flat), live) as progress, autocast(profile):
        drawn = sample(
            model,
            tokenizer,
            [ids[i] for i in flat],
            profile.answer_tokens,
            TEMPERATURE,
            profile.seed + 1,
            progress=progress,
        )
    answers: list[list[str]] = [[] for _ in prompts]
    for i, answer in zip(flat, drawn):
        if answer.text not in answers[i]:
            answers[i].append(answer.text)
    return answers


def items_to_rank(
    profile: Profile, store: Store, prompts: list[dict], writers: Sequence[str] = ("sft",) * 4, seed: int = 0
) -> list[dict]:
    """Rows for a `RankingSession`: to each prompt one answer by each of `writers` (stages of the
    Store), drawn at temperature 1.

    ("sft",) * 4 gives four samples of the SFT model; ("sft", "ppo_ptx") sets two models head to head.
    Prompts without an id (own data) are numbered. An answer with a NUL character is left out.
    """
    tokenizer = store.tokenizer()
    by_writer = {
        w: sample_answers(
            replace(profile, seed=seed + 100 * i),
            tokenizer,
            store.model(w),
            prompts,
            [list(writers).count(w)] * len(prompts),
            store.root,
        )
        for i, w in enumerate(dict.fromkeys(writers))
    }
    rows = []
    for i, prompt in enumerate(prompts):
        # A model may draw any byte, and PostgreSQL, which classes use, keeps no NUL.
        written = [(text, w) for w, texts in by_writer.items() for text in texts[i] if "\0" not in text]
        rows.append(
            {
                # Other answers, as of a model trained anew, are another item
                "id": f"{prompt.get('id', i)}:{crc32(repr(written).encode()):08x}",
                "messages": prompt["messages"],
                "answers": [a for a, _ in written],
                "models": [w for _, w in written],
                "prompt": prompt,
            }
        )
    return [row for row in rows if len(set(row["answers"])) > 1]


def items_worth_ranking(
    profile: Profile, store: Store, prompts: list[dict], count: int = 40, answers: int = 4
) -> list[dict]:
    """Rows for a `RankingSession`, chosen among the samples to three times as many prompts.

    Four of five are those, use case by use case, whose answers differ most: by the scores of the crowd's
    reward model if there is one (kept as `crowd`), else by the words of their first sentences. The others are
    drawn by chance, so that nothing is hidden. Each id ends in how its item was chosen.
    """
    rows = items_to_rank(profile, store, prompts[: 3 * count], ("sft",) * answers)
    if store.find("reward"):
        model, tokenizer = store.model("reward"), store.tokenizer()
        pairs = [
            scored_ids(profile, tokenizer, r["messages"], answer) for r in rows for answer in r["answers"]
        ]
        scores = iter(rewards(model, pairs, tokenizer.pad_token_id, profile).tolist())
        for row in rows:
            row["crowd"] = [round(next(scores), 3) for _ in row["answers"]]
    chance = Random(f"items:{profile.seed}")
    by_chance = chance.sample(rows, min(count // 5, len(rows)))
    left = sorted((r for r in rows if r not in by_chance), key=spread, reverse=True)
    kinds: dict[str, list[dict]] = {}
    for row in left:
        kinds.setdefault(row["prompt"].get("use_case", ""), []).append(row)
    in_turn = [row for line in zip_longest(*kinds.values()) for row in line if row]
    chosen = in_turn[: count - len(by_chance)]
    made = [row | {"id": f"{row['id']}:spread"} for row in chosen]
    made += [row | {"id": f"{row['id']}:chance"} for row in by_chance]
    chance.shuffle(made)
    return made


def spread(row: dict) -> float:
    """How much there is to choose among a row's answers: the range of the crowd's scores, in standard
    deviations, or else the mean share of words that two first sentences do not have in common.
    """
    if "crowd" in row:
        return max(row["crowd"]) - min(row["crowd"])
    words = [set(answer.split(".")[0].lower().split()) for answer in row["answers"]]
    pairs = list(combinations(words, 2))
    return sum(1 - len(a & b) / max(len(a | b), 1) for a, b in pairs) / len(pairs)


def rank_answers(
    profile: Profile,
    world,
    tokenizer,
    sft: Path,
    prompts: list[dict],
    validation: list[dict],
    folder: Path,
    live: Path | None = None,
    noise: float | None = None,
) -> None:
    """Write `rankings.jsonl` (training labelers); of validation prompts `heldout_prompts.jsonl` (the same
    labelers) and `heldout_labelers.jsonl` (others).

    A row has `messages`, `answers`, `ranks` (1 is best, equal ranks are ties) and `labeler`. The noise
    of the labelers, if it is not given, is set so that two of them agree as often as InstructGPT's did.
    """
    model = load_model(sft)
    everything = prompts + validation
    counts = [9 if i < profile.nine_answers else 4 for i in range(len(everything))]
    answers = sample_answers(profile, tokenizer, model, everything, counts, live)
    judge, crowd = Judge(world), make_labelers(profile.seed)
    training = [w for w in crowd if not w.held_out]
    others = [w for w in crowd if w.held_out]
    scores = [[judge.score(p, a) for a in row] for p, row in zip(everything, answers)]
    noise = noise or calibrate_noise(training, scores, profile.seed)
    rng = np.random.default_rng(profile.seed)

    def rows(index: range, who: list) -> list[dict]:
        result = []
        for i in index:
            if len(answers[i]) < 2:
                continue  # all answers were the same: nothing to rank
            labeler = who[int(rng.integers(len(who)))]
            result.append(
                {
                    "id": everything[i]["id"],
                    "use_case": everything[i]["use_case"],
                    "messages": everything[i]["messages"],
                    "answers": answers[i],
                    "ranks": labeler.rank(scores[i], noise, rng),
                    "labeler": labeler.name,
                    "gold": [round(s.total, 4) for s in scores[i]],
                }
            )
        return result

    first, later = range(len(prompts)), range(len(prompts), len(everything))
    write_jsonl(folder / "rankings.jsonl", rows(first, training))
    write_jsonl(folder / "heldout_prompts.jsonl", rows(later, training))
    write_jsonl(folder / "heldout_labelers.jsonl", rows(later, others))
    figures = {
        "noise": noise,
        "agreement": agreement(training, scores, noise, profile.seed + 1),
        "agreement_heldout": agreement(others, scores, noise, profile.seed + 1),
        # Of any reward model on `heldout_prompts`
        "ceiling": ceiling(training, scores[len(prompts) :], noise, profile.seed + 2),
    }
    write_jsonl(folder / "metrics.jsonl", [figures])
