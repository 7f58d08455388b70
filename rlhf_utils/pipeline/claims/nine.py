"""Claim 5: nine answers to rank cost a labeler a third more time than four, and teach more."""

from rlhf_utils.evaluation.reward_accuracy import pair_marks
from rlhf_utils.evaluation.statistics import accuracy_of
from rlhf_utils.language.models import load_scorer
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, accuracy_gap, figure
from rlhf_utils.pipeline.claims.trained import reward_model

AGREE = "pairs ordered as a labeler does"
SECONDS = {4: 30, 9: 40}  # a ranking, by how many answers: an estimate that notes on the paper give
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the time that all rankings of nine take


def measure(bench: Bench) -> list[dict]:
    nine = {p["id"] for p in bench.store.prompts("ranked")[: bench.profile.nine_answers]}
    of = {
        9: [r for r in bench.store.rankings() if r["id"] in nine],
        4: [r for r in bench.store.rankings() if r["id"] not in nine],
    }
    held, rows, last = bench.store.rankings("heldout_prompts"), [], {}
    most = min(len(given) * SECONDS[answers] for answers, given in of.items())  # seconds that both have
    for share in SHARES:
        for answers, given in of.items():
            chosen = given[: max(int(share * most / SECONDS[answers]), 8)]
            model = load_scorer(reward_model(bench, chosen))
            last[answers] = pair_marks(model, bench.tokenizer, bench.profile, held)
            rows.append(figure(f"K = {answers}, {share:g} of the time", AGREE, accuracy_of(*last[answers])))
        gain = accuracy_gap(last[9], last[4], paired=True)
        rows.append(figure(f"K = 9 − K = 4, {share:g} of the time", AGREE, gain))
    return rows


CLAIM = Claim(
    5,
    "Nine answers take a labeler a third more time to rank than four and give six times the comparisons: at "
    "equal time the reward model is better.",
    "InstructGPT, section 3.5, on K between 4 and 9; the times are estimates of notes on it",
    (Rule("K = 9 − K = 4, 0.5 of the time", AGREE, 0.0), Rule("K = 9 − K = 4, 1 of the time", AGREE, 0.0)),
    ("evaluate",),
    measure,
    "Ranking four answers is taken to cost 30 s, and ranking nine 40 s; the full time is 20 hours. "
    "Simulated labelers do not tire, but a person who ranks nine answers may.",
)
