"""Claim 1: a base model is no assistant."""

import re

import numpy as np

from rlhf_utils.evaluation.statistics import mean_difference, share
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure
from rlhf_utils.pipeline.claims.unread import unread_prompts
from rlhf_utils.world.prompts import thing_of

ASKS = "share of continuations whose first line asks for something"
# A question, or one of the verbs with which the world's prompts ask without a question mark.
REQUEST = re.compile(
    r"\?|(^|[.:] )(ask|change|describe|explain|extract|find|give|list|make|name|put|replace|say|"
    r"summarise|tell|write)\b",
    re.I,
)


def first_line(text: str) -> str:
    """The first line with anything in it. What follows an answer in a forum may be the next thread."""
    return next((line for line in text.splitlines() if line.strip()), "")


def measure(bench: Bench) -> list[dict]:
    prompts = unread_prompts(bench, "open_qa", 200, "plain", 40)
    things = [thing_of(p) for p in prompts]
    asks, rows = {}, []
    for name in ("base", "sft"):
        said = bench.ask(name, prompts, temperature=1.0, whole=True)
        texts = [bench.tokenizer.decode(row[0].tokens, skip_special_tokens=True) for row in said]
        asks[name] = np.array([bool(REQUEST.search(first_line(text))) for text in texts], dtype=float)
        rows.append(figure(name, ASKS, share(asks[name], np.ones(len(prompts)), things)))
    return [*rows, figure("base − sft", ASKS, mean_difference(asks["base"], asks["sft"], things))]


CLAIM = Claim(
    1,
    "A base model is no assistant: it continues a question with more questions.",
    "Karpathy, State of GPT (2023)",
    (Rule("base", ASKS, 0.5), Rule("base − sft", ASKS, 0.0)),
    ("evaluate",),
    measure,
    "Nothing is put around the questions, and what comes is drawn at temperature 1. Only its first line "
    "counts: after an answer, the next thread of a forum may follow. No question stands in a document that "
    "the models read. At first a question mark anywhere counted, on older models, and the claim was "
    "supported. Then only one in the first line counted, and it was not (0.40): many lines without one were "
    "requests, such as “Give me two animals that are mammals.” So the verbs of requests count as well; that "
    "was decided after this had been seen.",
)
