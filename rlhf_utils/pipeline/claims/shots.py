"""Claim 2: examples in the prompt help a base model, but unstably; fine-tuning beats them."""

from math import ceil
from random import Random
from zlib import crc32

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.prompting import first_paragraph, thread
from rlhf_utils.language.sampling import sample
from rlhf_utils.language.tokenizer import text_ids
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import sft_model
from rlhf_utils.world.answers import AnswerWriter
from rlhf_utils.world.prompts import thing_of, write_prompts

SHOTS, CHOICES = (0, 1, 2, 4), 10
DEMONSTRATIONS = (8, 50, 200)
STEPS = 60  # at least: six epochs of eight demonstrations would be six
GOLD, RANGE = "gold, greedy", "gold of the best choice of shots − of the worst"


def examples(bench: Bench) -> list[str]:
    """Threads with ideal answers to plain questions of fact, more than uneven demonstrations offer.

    The shorter half of them, so that four fit.
    """
    rows = write_prompts(bench.world, "train", {"open_qa": 300}, 42)
    writer = AnswerWriter(bench.world, Random("shots"))
    made = [
        thread([p["messages"][0]["content"]], f"Answer: {writer.write(p, 'rich')}")
        for p in rows
        if p["kind"] == "plain"
    ]
    return sorted(made, key=len)[: len(made) // 2]


def by_shots(bench: Bench, prompts: list[dict], shots: list[str], name: str = "base") -> np.ndarray:
    """Gold of the base model, or of another, with these examples before each question, (prompts,); what does
    not fit is left out, whole examples, the first ones first.
    """
    limit, ids = bench.profile.context - bench.profile.answer_tokens, []
    for prompt in prompts:
        parts = [*shots, thread([prompt["messages"][0]["content"]])]
        while len(text := text_ids(bench.tokenizer, "\n".join(parts))) >= limit and len(parts) > 1:
            parts = parts[1:]
        ids.append([bench.tokenizer.eos_token_id, *text[: limit - 1]])
    with autocast(bench.profile):
        said = sample(bench.model(name), bench.tokenizer, ids, bench.profile.answer_tokens, 0.0, 43)
    answers = [first_paragraph(answer.text) for answer in said]
    return np.array([bench.judge.total(p, text) for p, text in zip(prompts, answers)])


def extremes(gold: np.ndarray, things: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Gold of the best and of the worst choice of shots, (prompts,) each, of (choices, prompts).

    Which they are is found on one half of the things and measured on the other: the highest of many means is
    too high by chance.
    """
    first = np.array([crc32(thing.encode()) % 2 == 0 for thing in things])
    best, worst = np.empty(len(things)), np.empty(len(things))
    for half in (first, ~first):
        if half.any() and not half.all():
            means = gold[:, ~half].mean(1)
            best[half], worst[half] = gold[means.argmax(), half], gold[means.argmin(), half]
        elif half.all():
            best, worst = gold[0].copy(), gold[0].copy()
    return best, worst


def by_demonstrations(bench: Bench, prompts: list[dict], count: int) -> np.ndarray:
    """Gold of an SFT model of the first `count` demonstrations, (prompts,)."""
    epochs = max(bench.profile.sft_epochs, ceil(bench.count(STEPS) * bench.profile.sft_batch / count))
    chosen = bench.store.prompts("demonstrations")[:count]
    model = load_gpt2(sft_model(bench, chosen, sft_epochs=epochs))
    answers = bench.ask("sft", prompts, model=model)
    return judge_answers(bench.judge, prompts, answers)["total"][:, 0]


def measure(bench: Bench) -> list[dict]:
    prompts = bench.prompts("open_qa", 150, "plain", 44)
    tuning = [
        p for p in write_prompts(bench.world, "validation", {"open_qa": 300}, 44) if p["kind"] == "plain"
    ]
    tuning = tuning[: bench.count(100)]
    things, threads, rows = [thing_of(p) for p in prompts], examples(bench), []
    found: dict[float, np.ndarray] = {}  # gold on test prompts by that on validation prompts
    for count in SHOTS:
        tried = range(bench.count(CHOICES) if count else 1)
        chosen = [Random(f"{count}:{i}").sample(threads, count) for i in tried]
        gold = np.stack([by_shots(bench, prompts, shots) for shots in chosen])  # (choices, prompts)
        found |= {float(by_shots(bench, tuning, s).mean()): g for s, g in zip(chosen, gold)}
        rows.append(figure(f"{count} shots", GOLD, mean_of(gold.mean(0), things)))
        if count:
            rows.append(figure(f"{count} shots", RANGE, mean_difference(*extremes(gold, things), things)))
    for count in DEMONSTRATIONS:
        of_count = by_demonstrations(bench, prompts, bench.count(count))
        rows.append(figure(f"SFT on {count} demonstrations", GOLD, mean_of(of_count, things)))
    best = found[max(found)]
    sft, prompted = (
        judge_answers(bench.judge, prompts, bench.ask(name, prompts))["total"][:, 0]
        for name in ("sft", "base_prompted")
    )
    return [
        *rows,
        figure("the best shots by validation prompts", GOLD, mean_of(best, things)),
        figure("the best form by validation prompts", GOLD, mean_of(prompted, things)),
        figure("SFT on all demonstrations", GOLD, mean_of(sft, things)),
        figure("SFT − the best shots", GOLD, mean_difference(sft, best, things)),
        figure("SFT − the best form", GOLD, mean_difference(sft, prompted, things)),
    ]


CLAIM = Claim(
    2,
    "Examples in the prompt help a base model, but unstably; fine-tuning beats them.",
    "Karpathy, State of GPT (2023); InstructGPT, section 4.1",
    (Rule("2 shots", RANGE, 0.1), Rule("SFT − the best shots", GOLD, 0.0)),
    ("evaluate",),
    measure,
    "The prompts are plain questions of fact, in the form of a forum thread. The examples have ideal "
    "answers, and “the best shots” are the best, by validation prompts, of thirty choices of examples and "
    "of no examples at all. Eight examples and a question do not fit into a context of 128 tokens. The "
    "demonstrations that SFT learns from are uneven in quality, and gold has no use for padding. For the "
    "comparison over all kinds of prompts, see claim 10.",
)
