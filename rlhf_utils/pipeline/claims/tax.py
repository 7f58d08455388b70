"""Claim 13: alignment has a tax on what the base model knew; PPO-ptx lowers it."""

import numpy as np

from rlhf_utils.evaluation.comparisons import scores_of
from rlhf_utils.evaluation.language import cloze_accuracy, token_losses
from rlhf_utils.evaluation.statistics import mean_difference, ratio
from rlhf_utils.language.tokenizer import to_windows
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.world.documents import MIX

LOSS, CLOZE, BACK, GOLD = (
    "loss of a token of documents, nats",
    "facts filled in rightly, of four values",
    "share of PPO's tax that ptx takes back",
    "gold",
)
KNOWS = ("base", "sft", "ppo", "ppo_ptx")


def measure(bench: Bench) -> list[dict]:
    rows, windows = [], bench.store.windows("heldout")[: bench.count(10_000)]
    losses = {n: token_losses(bench.model(n), windows, bench.profile).mean(1) for n in KNOWS}
    documents = bench.store.documents("heldout")
    for source in MIX:
        texts = [d["text"] for d in documents if d["source"] == source]
        if sum(map(len, texts)) < 8 * bench.profile.context:  # too little for a window
            continue
        of_source = to_windows(bench.tokenizer, texts, bench.profile.context)
        for name in KNOWS:
            found = token_losses(bench.model(name), of_source, bench.profile).mean(1)
            rows.append(figure(f"{name}, {source}", LOSS, mean_of(found, None)))
    for name in KNOWS:
        rows.append(figure(name, LOSS, mean_of(losses[name], None)))
        right = cloze_accuracy(bench.model(name), bench.tokenizer, bench.world)["all"]
        rows.append(figure(name, CLOZE, (right,) * 3))
    for a, b in (("sft", "base"), ("ppo", "base"), ("ppo_ptx", "base"), ("ppo", "ppo_ptx")):
        rows.append(figure(f"{a} − {b}", LOSS, mean_difference(losses[a], losses[b])))
    back = ratio(losses["ppo"] - losses["ppo_ptx"], losses["ppo"] - losses["base"])
    things = [r["thing"] for r in bench.rows]
    gold = [scores_of(bench.rows, n, "t1").mean(1) for n in ("ppo_ptx", "ppo")]
    return [
        *rows,
        figure("(ppo − ppo_ptx) of (ppo − base)", BACK, back),
        figure("ppo_ptx − ppo", GOLD, mean_difference(np.array(gold[0]), np.array(gold[1]), things)),
    ]


CLAIM = Claim(
    13,
    "Alignment has a tax on what the base model knew; mixing pretraining into PPO lowers it, at no loss.",
    "InstructGPT, section 4.2 and equation 2",
    (Rule("ppo − base", LOSS, 0.0), Rule("ppo − ppo_ptx", LOSS, 0.0), Rule("ppo_ptx − ppo", GOLD, -0.02)),
    ("evaluate",),
    measure,
    "The tax is the loss on held-out documents; ptx at the weight of the course, 0.5, alone.",
)
