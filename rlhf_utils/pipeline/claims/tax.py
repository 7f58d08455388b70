"""Claim 13: alignment has a tax on what the base model knew; PPO-ptx lowers it."""

import numpy as np

from rlhf_utils.evaluation.answers import judge_answers
from rlhf_utils.evaluation.comparisons import scores_of
from rlhf_utils.evaluation.language import cloze_accuracy, token_losses
from rlhf_utils.evaluation.statistics import mean_difference, ratio
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.tokenizer import to_windows
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.shots import by_shots, examples
from rlhf_utils.pipeline.claims.trained import policy, sft_model
from rlhf_utils.world.documents import MIX
from rlhf_utils.world.prompts import thing_of

LOSS, CLOZE, BACK, GOLD, SHOTS = (
    "loss of a token of documents, nats",
    "facts filled in rightly, of four values",
    "share of PPO's tax that ptx takes back",
    "gold",
    "gold, greedy, two examples in the prompt",
)
KNOWS = ("base", "sft", "ppo", "ppo_ptx")
WEIGHTS = (0.25, 1.0, 2.0)  # of ptx, beside none and the course's
# PPO-ptx reads about as many windows of documents as three times the course's share of them in SFT.
MORE, TIMES = "sft, three times the documents", 3


def trade(bench: Bench, windows: np.ndarray) -> list[dict]:
    """Gold and tax by the weight of ptx, and of SFT that reads as much without any reward."""
    prompts, things = bench.store.prompts("test"), [r["thing"] for r in bench.rows]
    profile, read, rows = bench.profile, bench.store.windows(), []
    models = {
        f"ptx × {weight:g}": policy(bench, f"ptx × {weight:g}", windows=read, ptx_coefficient=weight)
        for weight in WEIGHTS
    }
    shown = bench.store.prompts("demonstrations")
    models[MORE] = sft_model(bench, shown, sft_mix=TIMES * profile.sft_mix)
    for name, folder in models.items():
        model = load_gpt2(folder)
        drawn = bench.ask("sft", prompts, 1.0, bench.count(2), seed=63, model=model)
        gold = judge_answers(bench.judge, prompts, drawn)["total"].mean(1)
        rows.append(figure(name, GOLD, mean_of(gold, things)))
        rows.append(figure(name, LOSS, mean_of(token_losses(model, windows, profile).mean(1), None)))
    own = {"sft": "sft", "ppo": "ptx × 0", "ppo_ptx": f"ptx × {profile.ptx_coefficient:g}"}
    for name, known in own.items():
        rows.append(figure(known, GOLD, mean_of(scores_of(bench.rows, name, "t1").mean(1), things)))
    return rows


def with_examples(bench: Bench) -> list[dict]:
    """Whether a model still learns from examples in its prompt, outside the form of a chat."""
    prompts = bench.prompts("open_qa", 150, "plain", 44)
    things, shots = [thing_of(p) for p in prompts], examples(bench)[:2]
    return [figure(n, SHOTS, mean_of(by_shots(bench, prompts, shots, n), things)) for n in KNOWS]


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
        right = cloze_accuracy(bench.model(name), bench.tokenizer, bench.world)
        rows.append(figure(name, CLOZE, (right.pop("all"),) * 3))
        rows += [figure(f"{name}, {table}", CLOZE, (share,) * 3) for table, share in right.items()]
    for a, b in (("sft", "base"), ("ppo", "base"), ("ppo_ptx", "base"), ("ppo", "ppo_ptx")):
        rows.append(figure(f"{a} − {b}", LOSS, mean_difference(losses[a], losses[b])))
    rows += trade(bench, windows) + with_examples(bench)
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
    "The tax is measured by the loss on held-out documents. The rules are about the course's weight of "
    "ptx, 0.5; four other weights were measured beside it.",
)
