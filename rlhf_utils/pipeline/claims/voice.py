"""Claim 23: what one is asked in decides what a base model tells."""

from collections.abc import Iterable
from random import Random

import numpy as np

from rlhf_utils.evaluation.language import option_losses
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.world.facts import capitalize

TRUE = "probability of the true sentence among four"
# What stands before a sentence that says a fact.
VOICES = {
    "an encyclopedia's article": "{S}\n",
    "an abstract": "We study {s}. We find that",
    "a forum thread": "Question: {question}\nAnswer:",
    "an accepted answer": "Question: {question}\nAccepted answer:",
    "a list of myths": "Myths\nSome say that",
    "nothing": "",
}


def chances(losses: np.ndarray) -> np.ndarray:
    """The probability of each row's first option among its options, of their losses in nats."""
    likely = np.exp(losses.min(1, keepdims=True) - losses)
    return likely[:, 0] / likely.sum(1)


def facts_in(bench: Bench, voices: Iterable[str], rng: Random) -> tuple[list, list[list[str]], dict]:
    """Facts, (entity, relation); for each four sentences, of which the first is true; and by voice what
    stands before them.
    """
    world, options = bench.world, []
    facts = rng.sample(world.facts, bench.count(len(world.facts)))
    contexts: dict[str, list[str]] = {voice: [] for voice in voices}
    for entity, relation in facts:
        info = world.relations[relation]
        others = [v for v in world.values_of(relation) if v not in entity.values[relation]]
        values = [entity.values[relation][0], *rng.sample(others, min(3, len(others)))]
        said = [world.state(entity, relation, value, info["statements"][0]) for value in values]
        options.append(said + [""] * (4 - len(said)))
        slots = {"s": entity.subject, "S": capitalize(entity.subject)}
        slots["question"] = info["questions"][0].format(**slots)
        for voice in contexts:
            contexts[voice].append(VOICES[voice].format(**slots))
    return facts, options, contexts


def measure(bench: Bench) -> list[dict]:
    facts, options, contexts = facts_in(bench, VOICES, Random("voices"))
    things, base = [f"{e.table}:{e.name}" for e, _ in facts], bench.model("base")
    told = {
        voice: chances(option_losses(base, bench.tokenizer, texts, options))
        for voice, texts in contexts.items()
    }
    rows = [figure(voice, TRUE, mean_of(found, things)) for voice, found in told.items()]
    gain = mean_difference(told["an encyclopedia's article"], told["a forum thread"], things)
    return [*rows, figure("encyclopedia − forum", TRUE, gain)]


CLAIM = Claim(
    23,
    "What one is asked in decides what a base model tells: an encyclopedia's voice gets more truth "
    "than a forum's.",
    "Karpathy, State of GPT (2023), on prompts that ask for quality",
    (Rule("encyclopedia − forum", TRUE, 0.0),),
    ("evaluate",),
    measure,
    "The same four sentences, of which one is true, are put after different beginnings. (The small world's "
    "encyclopedia states nothing false; its forums do.) All facts are asked about. What was measured first, "
    "on seed 0, was whether the true sentence is the likeliest: it is, for all facts and in every voice. "
    "Since that could show no difference between voices, the rule was changed before the other seeds were "
    "measured: it now asks how likely the true sentence is.",
)
