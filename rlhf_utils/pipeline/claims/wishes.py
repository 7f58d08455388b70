"""Claim 31: who ranks decides what the model becomes."""

from collections.abc import Callable

import numpy as np

from rlhf_utils.evaluation.statistics import mean_difference, win_rate
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy, reward_model
from rlhf_utils.pipeline.claims.unranked import RANKED, UNRANKED, likelihood_of
from rlhf_utils.pipeline.taste import SCRIPTED
from rlhf_utils.world.labelers import make_labelers
from rlhf_utils.world.prompts import USE_CASES, thing_of

# What a crowd wants beyond what all labelers want, in units of their utility, which goes from 0 to 1.
MANNERS, BREVITY = "manners", "few words"
WISHES: dict[str, Callable[[str], float]] = {
    MANNERS: lambda answer: 0.5 * SCRIPTED["polite"](answer),
    BREVITY: lambda answer: -0.5 * min(len(answer.split()) / 20, 1.0),
}
POLITE, WORDS, GOLD, WINS = ("share of polite answers", "words of an answer", "gold", "wins of those decided")


def trained_for(wish: str) -> str:
    return f"PPO for {wish}"


def ranked_by(bench: Bench, wish: str) -> list[dict]:
    """The rankings that PPO's reward model learned from, ranked anew: the same answers and the same people
    with the same noise, who now want something more.
    """
    prompts = {p["id"]: p for p in bench.store.prompts("ranked")}
    people = {w.name: w for w in make_labelers(bench.profile.seed)}
    noise, worth = bench.store.metrics("rank")[0]["noise"], WISHES[wish]
    rng, rows = np.random.default_rng(bench.profile.seed), []
    for row in bench.store.rankings():
        who, prompt = people[row["labeler"]], prompts[row["id"]]
        felt = [who.utility(bench.judge.score(prompt, a)) + worth(a) for a in row["answers"]]
        rows.append(row | {"ranks": who.order(np.array(felt), noise, rng)})
    return rows


def policies(bench: Bench) -> dict:
    """SFT, the two policies that claim 29 compares, and one for each wish."""
    models = {"SFT": bench.model("sft"), RANKED: bench.model("ppo")}
    rewards = {UNRANKED: likelihood_of(bench, "sft")}
    rewards |= {trained_for(wish): reward_model(bench, ranked_by(bench, wish)) for wish in WISHES}
    return models | {name: load_gpt2(policy(bench, name, reward=r)) for name, r in rewards.items()}


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=71)]
    people = [w for w in make_labelers(bench.profile.seed) if not w.held_out]
    things, rows, found = [thing_of(p) for p in prompts], [], {}
    for name, model in policies(bench).items():
        drawn = bench.ask("ppo", prompts, 1.0, bench.count(2), seed=72, model=model)
        said = [[a.text for a in row] for row in drawn]
        scores = [[bench.judge.score(p, a) for a in row] for p, row in zip(prompts, said)]
        felt = np.array([[np.mean([w.utility(s) for w in people]) for s in row] for row in scores])
        found[name] = {
            POLITE: np.array([np.mean([SCRIPTED["polite"](a) for a in row]) for row in said]),
            WORDS: np.array([np.mean([len(a.split()) for a in row]) for row in said]),
            GOLD: np.array([np.mean([s.total for s in row]) for row in scores]),
        }
        rows += [figure(name, metric, mean_of(values, things)) for metric, values in found[name].items()]
        for wish, worth in WISHES.items():
            found[name][wish] = felt + np.array([[worth(a) for a in row] for row in said])
    own, others = trained_for(MANNERS), (UNRANKED, trained_for(BREVITY))
    for metric in (POLITE, WORDS, GOLD):
        for other in others:
            change = mean_difference(found[own][metric], found[other][metric], things)
            rows.append(figure(f"{own} − {other}", metric, change))
    for wish in WISHES:
        own = trained_for(wish)
        for other in (UNRANKED, RANKED, *map(trained_for, WISHES)):
            if other != own:
                won = win_rate(found[own][wish], found[other][wish], things)
                rows.append(figure(wins(wish, other), WINS, won))
    return rows


def wins(wish: str, other: str) -> str:
    return f"by those who want {wish}, {trained_for(wish)} over {other}"


CLAIM = Claim(
    31,
    "Who ranks decides what the model becomes: two crowds that want different things make two models of the "
    "same answers, and each prefers its own.",
    "InstructGPT, section 5.2: who are we aligning to?",
    (
        Rule(f"{trained_for(MANNERS)} − {UNRANKED}", POLITE, 0.25),
        Rule(wins(MANNERS, trained_for(BREVITY)), WINS, 0.5),
        Rule(wins(MANNERS, UNRANKED), WINS, 0.5),
        Rule(wins(BREVITY, trained_for(MANNERS)), WINS, 0.5),
        Rule(wins(BREVITY, UNRANKED), WINS, 0.5),
    ),
    ("ppo",),
    measure,
    "Both crowds are the course's labelers, who rank the answers that they ranked before, with as much "
    "noise. Beyond what they wanted then, one crowd wants a word of courtesy, the other few words, by up to "
    "half of what divides the best answer from the worst. SFT's likelihood is one and the same for both: "
    "rewarded by it, PPO can please one crowd at most. Answers are drawn at temperature 1, and compared by "
    "what a crowd feels on average, without noise. That one's own rankings steer, with a weight of their own "
    "beside the crowd's, was known when the rules were written.",
)
