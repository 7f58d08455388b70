"""Claim 2: examples in the prompt help a base model, but unstably; fine-tuning beats them."""

from math import ceil
from random import Random

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.statistics import bootstrap, mean_difference
from rlhf_utils.language.device import autocast
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
    """Threads with ideal answers to plain questions of fact: more than uneven demonstrations offer."""
    rows = write_prompts(bench.world, "train", {"open_qa": 300}, 42)
    writer = AnswerWriter(bench.world, Random("shots"))
    return [
        thread([p["messages"][0]["content"]], f"Answer: {writer.write(p, 'rich')}")
        for p in rows
        if p["kind"] == "plain"
    ]


def by_shots(bench: Bench, prompts: list[dict], shots: list[str]) -> np.ndarray:
    """Gold of the base model with these examples before each question, (prompts,)."""
    limit = bench.profile.context - bench.profile.answer_tokens
    asked = ["\n".join([*shots, thread([p["messages"][0]["content"]])]) for p in prompts]
    ids = [[bench.tokenizer.eos_token_id, *text_ids(bench.tokenizer, text)][-limit:] for text in asked]
    with autocast(bench.profile):
        said = sample(bench.model("base"), bench.tokenizer, ids, bench.profile.answer_tokens, 0.0, 43)
    answers = [first_paragraph(answer.text) for answer in said]
    return np.array([bench.judge.total(p, text) for p, text in zip(prompts, answers)])


def by_demonstrations(bench: Bench, prompts: list[dict], count: int) -> np.ndarray:
    """Gold of an SFT model of the first `count` demonstrations, (prompts,)."""
    epochs = max(bench.profile.sft_epochs, ceil(STEPS * bench.profile.sft_batch / count))
    model = sft_model(bench, bench.store.prompts("demonstrations")[:count], sft_epochs=epochs)
    answers = bench.ask("sft", prompts, model=model)
    return judge_answers(bench.judge, prompts, answers)["total"][:, 0]


def measure(bench: Bench) -> list[dict]:
    prompts = bench.prompts("open_qa", 150, "plain", 44)
    things = [thing_of(p) for p in prompts]
    threads, rows, means = examples(bench), [], {}
    for count in SHOTS:
        tried = range(bench.count(CHOICES) if count else 1)
        chosen = [Random(f"{count}:{i}").sample(threads, count) for i in tried]
        gold = np.stack([by_shots(bench, prompts, shots) for shots in chosen])  # (choices, prompts)
        means[count] = gold.mean(0)
        rows.append(figure(f"{count} shots", GOLD, mean_of(means[count], things)))
        if count:
            apart = float(np.ptp(gold.mean(1)))
            columns = list(gold.T)
            low, high = bootstrap(lambda drawn: float(np.ptp(np.mean(drawn, axis=0))), columns)
            rows.append(figure(f"{count} shots", RANGE, (apart, low, high)))
    for count in DEMONSTRATIONS:
        found = by_demonstrations(bench, prompts, bench.count(count))
        rows.append(figure(f"SFT on {count} demonstrations", GOLD, mean_of(found, things)))
    sft = judge_answers(bench.judge, prompts, bench.ask("sft", prompts))["total"][:, 0]
    best = max(means, key=lambda count: means[count].mean())
    rows.append(figure("SFT on all demonstrations", GOLD, mean_of(sft, things)))
    return [*rows, figure("SFT − best number of shots", GOLD, mean_difference(sft, means[best], things))]


CLAIM = Claim(
    2,
    "Examples in the prompt help a base model, but unstably; fine-tuning beats them.",
    "Karpathy, State of GPT (2023); InstructGPT, section 4.1",
    (Rule("2 shots", RANGE, 0.1), Rule("SFT − best number of shots", GOLD, 0.0)),
    ("evaluate",),
    measure,
    "Plain questions of fact. Eight examples and a question do not fit into a context of 128 tokens.",
)
