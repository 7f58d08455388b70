"""Claim 15: a reward model alone improves nothing but the choice among samples; RL puts it into the model."""

from math import log

import numpy as np

from rlhf_utils.evaluation.answers import answer_rewards, judge_answers
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.rules import likelihoods
from rlhf_utils.world.prompts import USE_CASES, thing_of

GOLD, PROXY, NATS = "gold", "reward", "KL to SFT, nats"
NUMBERS = (1, 2, 4, 8, 16, 32, 64)
TURN = "√KL at which gold would turn"
CHOOSERS = "best of 16 by the reward model − by SFT's likelihood"


def fit(nats: np.ndarray, gained: np.ndarray) -> list[dict]:
    """gained = d (α − β d), d = √KL, the form of Gao et al. (2023, section 3) for best of n, by least
    squares: α, β and where gold would turn.
    """
    distance = np.sqrt(nats)
    design = np.stack([distance, -(distance**2)], 1)
    alpha, beta = map(float, np.linalg.lstsq(design, gained, rcond=None)[0])
    at = alpha / (2 * beta) if beta > 0 else np.inf
    named = ((TURN, at), ("α", alpha), ("β", beta))
    return [figure("fit of d (α − β d)", metric, (value,) * 3) for metric, value in named]


def choose(scores: np.ndarray, n: int) -> list[np.ndarray]:
    """What is chosen from each of the disjoint groups of n samples, (prompts,) each: the mean over them is
    that of choosing once. scores: (prompts, samples)
    """
    starts = range(0, scores.shape[1] - n + 1, n)
    return [start + scores[:, start : start + n].argmax(1) for start in starts]


def measure(bench: Bench) -> list[dict]:
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 20, seed=45)[: bench.count(20)]]
    things, most = [thing_of(p) for p in prompts], bench.count(max(NUMBERS))
    said = bench.ask("sft", prompts, 1.0, most)
    gold = judge_answers(bench.judge, prompts, said)["total"]
    asked = [p for p in prompts for _ in range(most)]
    flat = [a for row in said for a in row]
    reward = bench.model("reward")
    proxy = answer_rewards(bench.profile, bench.tokenizer, reward, asked, flat).reshape(gold.shape)
    rows, chosen, lines = [], {}, np.arange(len(prompts))
    for n in (n for n in NUMBERS if n <= most):
        picks = choose(proxy, n)
        chosen[n] = np.mean([gold[lines, pick] for pick in picks], axis=0)
        rewarded = np.mean([proxy[lines, pick] for pick in picks], axis=0)
        rows.append(figure(f"best of {n}", GOLD, mean_of(chosen[n], things)))
        rows.append(figure(f"best of {n}", PROXY, mean_of(rewarded, things)))
        rows.append(figure(f"best of {n}", NATS, (log(n) - (n - 1) / n,) * 3))
    nats = np.array([log(n) - (n - 1) / n for n in chosen])
    rows += fit(nats, np.array([gold_of.mean() - chosen[1].mean() for gold_of in chosen.values()]))
    one = judge_answers(bench.judge, prompts, bench.ask("ppo", prompts, 1.0, bench.count(8)))["total"].mean(1)
    many = 16 if 16 in chosen else max(chosen)
    ids = [prompt_ids(bench.tokenizer, p["messages"], bench.profile.prompt_tokens) for p in asked]
    likely = likelihoods(bench, [(i, list(a.tokens)) for i, a in zip(ids, flat)]).reshape(gold.shape)
    by_likelihood = np.mean([gold[lines, pick] for pick in choose(likely, many)], axis=0)
    rows.append(figure("best of 16 by SFT's likelihood", GOLD, mean_of(by_likelihood, things)))
    rows.append(figure(CHOOSERS, GOLD, mean_difference(chosen[many], by_likelihood, things)))
    greedy = {}
    for name in ("sft", "ppo"):
        greedy[name] = judge_answers(bench.judge, prompts, bench.ask(name, prompts))["total"][:, 0]
        rows.append(figure(f"{name}, greedy", GOLD, mean_of(greedy[name], things)))
    gain = mean_difference(greedy["ppo"], greedy["sft"], things)
    rows.append(figure("ppo, greedy − sft, greedy", GOLD, gain))
    rows.append(figure("ppo, one sample", GOLD, mean_of(one, things)))
    rows.append(figure("best of 16 − best of 1", GOLD, mean_difference(chosen[many], chosen[1], things)))
    return [*rows, figure("ppo, one sample − best of 1", GOLD, mean_difference(one, chosen[1], things))]


CLAIM = Claim(
    15,
    "A reward model alone improves nothing but the choice among samples (best of n); RL puts it into the "
    "model.",
    "Karpathy, State of GPT (2023); Stiennon et al. (2020), appendix G.3, for the KL of best of n",
    (
        Rule("best of 16 − best of 1", GOLD, 0.0),
        Rule(CHOOSERS, GOLD, 0.0),
        Rule("ppo, one sample − best of 1", GOLD, 0.0),
        Rule("ppo, greedy − sft, greedy", GOLD, 0.0),
    ),
    ("evaluate",),
    measure,
    "The samples are SFT's answers at temperature 1, and they are chosen by the reward model that PPO was "
    "trained with. SFT's own likelihood, which nobody had to rank for, chooses from the same samples. Greedy "
    "answers are compared as well: a policy that only becomes surer of itself gains when it is sampled.",
)
