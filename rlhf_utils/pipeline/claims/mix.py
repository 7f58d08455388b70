"""Claim 19: what a base model is depends on the mix that it read."""

from random import Random

import numpy as np

from rlhf_utils.evaluation.answers import answer_prompts
from rlhf_utils.evaluation.language import option_losses, token_losses
from rlhf_utils.evaluation.statistics import mean_difference, share
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.tokenizer import to_windows
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import base_model, corpus
from rlhf_utils.pipeline.claims.voice import TRUE, chances, facts_in
from rlhf_utils.world.documents import MIX
from rlhf_utils.world.prompts import thing_of
from rlhf_utils.world.reading import RUDE, has

LOSS, RUDE_ANSWERS, ASKS = (
    "loss of a token of documents, nats",
    "share of answers in a forum's thread that are rude",
    "share of continuations that ask something",
)
WHOLE, CRAWL, CLEANED, NO_QUIZ = "the mix", "crawl alone", "cleaned crawl alone", "the mix without quiz pages"


def corpora(bench: Bench) -> dict[str, np.ndarray]:
    """Windows of four corpora of the same size."""
    return {
        WHOLE: corpus(bench),
        CRAWL: corpus(bench, {"crawl": 1.0}),
        CLEANED: corpus(bench, {"c4": 1.0}),
        NO_QUIZ: corpus(bench, without=("quiz",)),
    }


def measure(bench: Bench) -> list[dict]:
    facts, options, contexts = facts_in(bench, ("nothing",), Random("mixes"))
    things = [f"{e.table}:{e.name}" for e, _ in facts]
    plain = bench.prompts("open_qa", 200, "plain", 59)
    about, of_source, rows = [thing_of(p) for p in plain], {}, []
    documents = bench.store.documents("heldout")
    for source in MIX:
        texts = [d["text"] for d in documents if d["source"] == source]
        if sum(map(len, texts)) >= 8 * bench.profile.context:  # enough for a window
            of_source[source] = to_windows(bench.tokenizer, texts, bench.profile.context)
    found = {}
    steps = max(bench.profile.pretrain_steps // 2, 1)  # about once over each corpus
    for name, windows in corpora(bench).items():
        model = load_gpt2(base_model(bench, name.replace(" ", "-"), windows, pretrain_steps=steps))
        for source, held in of_source.items():
            losses = token_losses(model, held, bench.profile).mean(1)
            rows.append(figure(f"{name}, {source}", LOSS, mean_of(losses, None)))

        def said(form: str, model=model) -> list[str]:
            """All that it wrote, not its first paragraph alone."""
            asked = bench.profile, bench.tokenizer, model, plain
            drawn = answer_prompts(*asked, 1.0, 1, 60, {"all": form}, whole=True)
            return [bench.tokenizer.decode(row[0].tokens, skip_special_tokens=True) for row in drawn]

        found[name] = {
            TRUE: chances(option_losses(model, bench.tokenizer, contexts["nothing"], options)),
            RUDE_ANSWERS: np.array([float(has(RUDE, text)) for text in said("forum")]),
            ASKS: np.array([float("?" in text) for text in said("bare")]),
        }
        rows.append(figure(name, TRUE, mean_of(found[name][TRUE], things)))
        for metric in (RUDE_ANSWERS, ASKS):
            marks = found[name][metric]
            rows.append(figure(name, metric, share(marks, np.ones(len(marks)), about)))
    for one, other in ((CLEANED, CRAWL), (NO_QUIZ, WHOLE), (WHOLE, CRAWL)):
        for metric, of in ((TRUE, things), (RUDE_ANSWERS, about), (ASKS, about)):
            gain = mean_difference(found[one][metric], found[other][metric], of)
            rows.append(figure(f"{one} − {other}", metric, gain))
    return rows


CLAIM = Claim(
    19,
    "What a base model is depends on the mix that it read: cleaned text makes it more truthful and less "
    "rude, and pages of questions make it ask back.",
    "Touvron et al. (2023), section 2.1; Raffel et al. (2020), section 2.2",
    (
        Rule(f"{CLEANED} − {CRAWL}", TRUE, 0.0),
        Rule(f"{CLEANED} − {CRAWL}", RUDE_ANSWERS, 0.0, above=False),
        Rule(f"{NO_QUIZ} − {WHOLE}", ASKS, 0.0, above=False),
    ),
    ("evaluate",),
    measure,
    "The four corpora are of the same size, and each was read once, with the run's tokenizer. Cleaning "
    "drops lines; it does not know what is true.",
)
