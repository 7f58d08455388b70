"""Claim 20: no rule-based metric does the reward model's job."""

import re
from random import Random

import numpy as np
import torch

from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.device import autocast
from rlhf_utils.language.packing import pack
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, accuracy_gap, figure
from rlhf_utils.training.reward import encode_rankings, encoded_pairs, score_answers
from rlhf_utils.world.answers import AnswerWriter

AGREE = "pairs ordered as a labeler does"
RULES = ("ROUGE-L", "longer", "shorter", "likelihood", "likelihood a token")
CHOOSING = 1000  # rankings by which the best rule is chosen


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin, 2004). "a b c", "a c d" → 0.667."""
    a, b = (re.findall(r"\w+", text.lower()) for text in (answer, reference))
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return 2 * table[-1, -1] / max(len(a) + len(b), 1)


def likelihoods(bench: Bench, pairs: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """SFT's log-probability of each answer, in nats; pairs: (ids of a prompt, ids of an answer)."""
    pad, likely = bench.tokenizer.pad_token_id, []
    for start in range(0, len(pairs), 256):
        with torch.no_grad(), autocast(bench.profile):
            packed = pack([(prompt, [answer]) for prompt, answer in pairs[start : start + 256]], pad)
            logprobs = answer_logprobs(bench.model("sft"), packed, pad)
        likely += logprobs.float().sum(1).tolist()
    return np.array(likely)


def by_rule(bench: Bench, rankings: list[dict], asked: str) -> dict[str, np.ndarray]:
    """What each rule, and the reward model, thinks of all answers to these prompts, one after the other."""
    prompts = {p["id"]: p for p in bench.store.prompts(asked)}
    writer = AnswerWriter(bench.world, Random("references"))
    reference = {r["id"]: writer.write(prompts[r["id"]], "rich") for r in rankings}
    pairs = encoded_pairs(encode_rankings(bench.profile, bench.tokenizer, rankings))
    likely = likelihoods(bench, pairs)
    words = np.array([len(a.split()) for r in rankings for a in r["answers"]])
    tokens = np.array([len(answer) for _, answer in pairs])
    return {
        "ROUGE-L": np.array([rouge_l(a, reference[r["id"]]) for r in rankings for a in r["answers"]]),
        "longer": words,
        "shorter": -words,
        "likelihood": likely,
        "likelihood a token": likely / tokens,
        "reward model": score_answers(
            bench.model("reward"), pairs, bench.tokenizer.pad_token_id, bench.profile
        ),
    }


def marks(rankings: list[dict], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pairs ordered alike, pairs) of each ranking; equal scores are half alike."""
    right, total, start = [], [], 0
    for row in rankings:
        own = scores[start : start + len(row["answers"])]
        start += len(row["answers"])
        ranks = np.array(row["ranks"])
        better = ranks[:, None] < ranks[None, :]
        gap = own[:, None] - own[None, :]
        right.append(float((better & (gap > 0)).sum() + (better & (gap == 0)).sum() / 2))
        total.append(float(better.sum()))
    return np.array(right), np.array(total)


def measure(bench: Bench) -> list[dict]:
    held, trained = bench.store.rankings("heldout_prompts"), bench.store.rankings()[: bench.count(CHOOSING)]
    found = {k: marks(held, v) for k, v in by_rule(bench, held, "validation").items()}
    rows = [figure(k, AGREE, accuracy_of(*v, [r["id"] for r in held])) for k, v in found.items()]
    tried = {k: marks(trained, v) for k, v in by_rule(bench, trained, "ranked").items()}
    best = max(RULES, key=lambda k: accuracy_of(*tried[k])["accuracy"])
    gain = accuracy_gap(found["reward model"], found[best], paired=True)
    return [*rows, figure("reward model − the best rule", AGREE, gain)]


CLAIM = Claim(
    20,
    "No rule-based metric does the reward model's job: neither ROUGE, nor length, nor likelihood.",
    "Stiennon et al. (2020), section 4.4, on ROUGE",
    (Rule("reward model − the best rule", AGREE, 0.0),),
    ("evaluate",),
    measure,
    "ROUGE-L is given an ideal answer to compare with, which nobody has outside a small world. In each "
    "run, the rival is the rule that does best on a thousand of the rankings that the reward model learned "
    "from. One of the rules, likelihood, is a part of the course's reward model.",
)
