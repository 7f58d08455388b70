"""Claim 31: who ranks decides what the model becomes."""

import json

import numpy as np

from rlhf_utils.evaluation.statistics import mean_difference, win_rate
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy, reward_model
from rlhf_utils.pipeline.claims.unranked import RANKED, UNRANKED, likelihood_of
from rlhf_utils.pipeline.taste import SCRIPTED
from rlhf_utils.world.labelers import make_labelers
from rlhf_utils.world.prompts import USE_CASES, thing_of

WISHED = "PPO, labelers who want manners"
SHARE, WORDS, GOLD = "share of polite answers", "words of an answer", "gold"
WINS, CROWD, OWN = "wins of those decided", "the course's labelers", "labelers who want manners"


def wish(answer: str) -> float:
    """What a polite phrase is worth to those who want manners: as much as all that divides, to the course's
    labelers, the best answer from the worst.
    """
    return float(SCRIPTED["polite"](answer))


def ranked_anew(bench: Bench) -> list[dict]:
    """The rankings that the run's reward model learned from, made once more: of the same answers, by the same
    people and with as much noise, but they now want manners as well.
    """
    prompts = {json.dumps(p["messages"]): p for p in bench.store.prompts("ranked")}
    people = {person.name: person for person in make_labelers(bench.profile.seed)}
    noise, rng = bench.store.metrics("rank")[0]["noise"], np.random.default_rng(bench.profile.seed)
    rows = []
    for row in bench.store.rankings():
        person, prompt = people[row["labeler"]], prompts[json.dumps(row["messages"])]
        felt = [person.utility(bench.judge.score(prompt, a)) + wish(a) for a in row["answers"]]
        rows.append(row | {"ranks": person.order(np.array(felt), noise, rng)})
    return rows


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=71)]
    people = [person for person in make_labelers(bench.profile.seed) if not person.held_out]
    things, rows, found = [thing_of(p) for p in prompts], [], {}
    models = {"SFT": bench.model("sft"), RANKED: bench.model("ppo")}
    rewards = {UNRANKED: likelihood_of(bench, "sft"), WISHED: reward_model(bench, ranked_anew(bench))}
    models |= {name: load_gpt2(policy(bench, name, reward=r)) for name, r in rewards.items()}
    for name, model in models.items():
        drawn = bench.ask("ppo", prompts, 1.0, bench.count(2), seed=72, model=model)
        said = [[a.text for a in row] for row in drawn]
        scores = [[bench.judge.score(p, a) for a in row] for p, row in zip(prompts, said)]
        felt = np.array([[np.mean([x.utility(s) for x in people]) for s in row] for row in scores])
        wished = np.array([[wish(a) for a in row] for row in said])
        found[name] = {CROWD: felt, OWN: felt + wished}
        figures = {
            SHARE: wished.mean(1),
            WORDS: np.array([np.mean([len(a.split()) for a in row]) for row in said]),
            GOLD: np.array([np.mean([s.total for s in row]) for row in scores]),
        }
        found[name] |= figures
        rows += [figure(name, metric, mean_of(values, things)) for metric, values in figures.items()]
    for other in ("SFT", UNRANKED, RANKED):
        for metric in (SHARE, WORDS, GOLD):
            change = mean_difference(found[WISHED][metric], found[other][metric], things)
            rows.append(figure(f"{WISHED} − {other}", metric, change))
    pairs = [(OWN, WISHED, other) for other in ("SFT", UNRANKED, RANKED)]
    for judges, one, other in (*pairs, (CROWD, RANKED, WISHED)):
        won = win_rate(found[one][judges], found[other][judges], things)
        rows.append(figure(f"{one} over {other}, as {judges} feel", WINS, won))
    return rows


CLAIM = Claim(
    31,
    "Who ranks decides what the model becomes: labelers who want something else make another model of the "
    "same answers, and each crowd prefers its own.",
    "InstructGPT, section 5.2: who are we aligning to?",
    (
        Rule(f"{WISHED} − {RANKED}", SHARE, 0.0),
        Rule(f"{WISHED} − {UNRANKED}", SHARE, 0.0),
        Rule(f"{WISHED} − SFT", SHARE, 0.0),
        Rule(f"{WISHED} over {RANKED}, as {OWN} feel", WINS, 0.5),
        Rule(f"{WISHED} over {UNRANKED}, as {OWN} feel", WINS, 0.5),
        Rule(f"{WISHED} over SFT, as {OWN} feel", WINS, 0.5),
        Rule(f"{RANKED} over {WISHED}, as {CROWD} feel", WINS, 0.5),
    ),
    ("ppo",),
    measure,
    "Both crowds are the same fifteen people, who rank the same answers with as much noise. The second "
    "time, a polite phrase (“I hope that the weather is nice today.”) is worth as much to them as all "
    "that divides the best answer from the worst; the first time, and to gold, most such phrases are "
    "padding. About half of the demonstrations have one, which is why SFT is among the rivals. SFT's "
    "likelihood does not know who ranks: rewarded by it, PPO makes one and the same model for everybody. "
    "Answers are drawn at temperature 1, and are compared by what a crowd feels on average, without "
    "noise. That a reader's own rankings, added to the crowd's reward, change the policy (chapter 07) was"
    " known when the rules were written.",
)
