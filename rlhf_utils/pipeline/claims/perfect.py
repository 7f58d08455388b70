"""Claim 30: what a reward model that makes no mistake would bring."""

from functools import partial

import numpy as np
import torch

from rlhf_utils.evaluation.answers import kl_to_sft
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.language.tokenizer import prompt_ids
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy
from rlhf_utils.pipeline.claims.unranked import DRAWN, GREEDY, RANKED, asked, judged
from rlhf_utils.training.ppo import PPO, advantages_and_returns, token_rewards
from rlhf_utils.training.reward import NO_ANSWER
from rlhf_utils.world.prompts import USE_CASES, thing_of

JUDGED, NATS = "PPO, the judge itself", "KL to SFT, nats an answer"


class Judged(PPO):
    """PPO whose reward is gold: in the unit that `set_scale` gives a reward model, the mean over
    demonstrations being 0 and the deviation over answers of SFT's 1.
    """

    def __init__(self, bench: Bench, *parts):
        super().__init__(*parts)
        self.bench, store = bench, bench.store
        self.rows = {tuple(self.ids(p)): p for p in store.prompts("ppo")}
        self.mean = np.mean([bench.judge.total(p, p["completion"]) for p in store.prompts("demonstrations")])
        sampled = [gold for row in store.rankings("heldout_prompts") for gold in row["gold"]]
        self.deviation = max(float(np.std(sampled)), 1e-6)

    def ids(self, prompt: dict) -> list[int]:
        return prompt_ids(self.bench.tokenizer, prompt["messages"], self.profile.prompt_tokens)

    def gold(self, prompt: list[int], answer: list[int], ended: bool) -> float:
        text = self.bench.tokenizer.decode(answer, skip_special_tokens=True).strip()
        if not (ended and text):
            return NO_ANSWER
        return (self.bench.judge.total(self.rows[tuple(prompt)], text) - self.mean) / self.deviation

    def score(self, prompts, answers, numbers):
        rollout = super().score(prompts, answers, numbers)
        gold = [self.gold(prompts[i], answers.tokens[i], answers.ended[i]) for i in numbers]
        rollout.scores = torch.tensor(gold, dtype=rollout.scores.dtype, device=rollout.scores.device)
        log_ratio, beta = rollout.logprobs - rollout.reference, self.profile.kl_coefficient
        rollout.rewards = token_rewards(rollout.scores, log_ratio, rollout.mask, beta)
        estimated = advantages_and_returns(rollout.rewards, rollout.values, rollout.mask)
        rollout.advantages, rollout.returns = estimated
        return rollout


def measure(bench: Bench) -> list[dict]:
    prompts, rows, found = asked(bench), [], {}
    cases, things = np.array([p["use_case"] for p in prompts]), np.array([thing_of(p) for p in prompts])
    methods = {RANKED: PPO, JUDGED: partial(Judged, bench)}  # both trained here, on the same machine
    models = {name: load_gpt2(policy(bench, name, method=method)) for name, method in methods.items()}
    for name, model in models.items():
        found[name] = judged(bench, prompts, model)
        rows += [figure(name, metric, mean_of(values, things)) for metric, values in found[name].items()]
        first = [row[0] for row in bench.ask("ppo", prompts, 1.0, 1, seed=73, model=model)]
        nats = kl_to_sft(bench.profile, bench.tokenizer, model, bench.model("sft"), prompts, first)
        rows.append(figure(name, NATS, (nats,) * 3))
    for metric, values in found[JUDGED].items():
        gain = mean_difference(values, found[RANKED][metric], things)
        rows.append(figure(f"{JUDGED} − {RANKED}", metric, gain))
    for case in USE_CASES:
        here = cases == case
        gain = mean_difference(found[JUDGED][DRAWN][here], found[RANKED][DRAWN][here], things[here])
        rows.append(figure(f"{JUDGED} − {RANKED}, {case}", DRAWN, gain))
    return rows


CLAIM = Claim(
    30,
    "With the judge itself in the place of the reward model, PPO gains more.",
    "Gao et al. (2023), section 2, for a judge behind the reward model; the question is the course's own",
    (Rule(f"{JUDGED} − {RANKED}", DRAWN, 0.0), Rule(f"{JUDGED} − {RANKED}", GREEDY, 0.0)),
    ("ppo",),
    measure,
    "Nobody has such a judge outside a small world: the figures show what a reward model that always "
    "agrees with it would bring in this training. Both policies start from SFT and are trained by the "
    "same number of updates at the same β, which was chosen for the reward model and not for the judge; "
    "both value models start from the reward model. Rewards are in standard deviations over SFT's "
    "answers. The prompts are those of claim 29. The rule was written after a look at seed 0, on "
    "validation prompts: the judge brought 0.76 drawn and 0.87 greedy, the course's policy had 0.69 and "
    "0.80, and the same training once more, on another machine, 0.72 and 0.82. Since trainings differ by "
    "as much as that, five runs were to decide.",
)
