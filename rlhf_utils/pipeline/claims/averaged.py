"""Claim 28: at a constant learning rate the average of the weights is better than the last of them."""

import torch
from torch import Tensor

from rlhf_utils.environment import CourseError
from rlhf_utils.evaluation.answers import judge_answers, kl_to_sft
from rlhf_utils.evaluation.statistics import mean_difference
from rlhf_utils.language.models import load_gpt2
from rlhf_utils.pipeline.claims.claim import Bench, Claim, Rule, figure, mean_of
from rlhf_utils.pipeline.claims.trained import policy
from rlhf_utils.training.ppo import PPO
from rlhf_utils.world.prompts import USE_CASES, thing_of

DECAY = 0.992  # as in the paper; of a step
GOLD, GREEDY, NATS = "gold, temperature 1", "gold, greedy", "KL to SFT, nats an answer"
AVERAGE, LAST, COURSE = "average of the weights", "last weights", "the course's falling rate"
KINDS = {"ppo": "PPO", "ppo_ptx": "PPO-ptx"}


class Averaging(PPO):
    """PPO whose learning rate stays as it is, and which keeps an exponential average of the policy's weights
    beside the policy: nothing is drawn from it, and it changes nothing.
    """

    def __init__(self, *parts):
        super().__init__(*parts)
        self.average: list[Tensor] = [weights.detach().clone() for weights in self.policy_parameters]

    def update(self, prompts, rate):
        return super().update(prompts, self.profile.ppo_rate)

    def step(self, minibatch, rate):
        logged = super().step(minibatch, rate)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.policy_parameters], 1 - DECAY)
        return logged


def last_and_average(bench: Bench, kind: str) -> dict:
    """Two policies of one training."""
    learners: list[Averaging] = []

    def learner(*parts) -> Averaging:
        learners.append(Averaging(*parts))
        return learners[-1]

    windows = bench.store.windows() if kind == "ppo_ptx" else None
    folder = policy(bench, f"{KINDS[kind]}, constant rate", windows=windows, method=learner)
    last, average = load_gpt2(folder), load_gpt2(folder)
    with torch.no_grad():
        for weights, averaged in zip(average.parameters(), learners[0].average, strict=True):
            weights.copy_(averaged)
    return {LAST: last, AVERAGE: average}


def measure(bench: Bench) -> list[dict]:
    if bench.profile.lora:
        raise CourseError("Claim 28 averages all weights: measure it without adapters (--lora 0).")
    prompts = [p for case in USE_CASES for p in bench.prompts(case, 40, seed=68)]
    things, rows, sft = [thing_of(p) for p in prompts], [], bench.model("sft")
    for kind, written in KINDS.items():
        models, found = last_and_average(bench, kind) | {COURSE: bench.model(kind)}, {}
        for name, model in models.items():
            drawn = bench.ask(kind, prompts, 1.0, bench.count(4), seed=69, model=model)
            likeliest = bench.ask(kind, prompts, 0.0, model=model)
            found[name] = {
                metric: judge_answers(bench.judge, prompts, answers)["total"].mean(1)
                for metric, answers in ((GOLD, drawn), (GREEDY, likeliest))
            }
            for metric, gold in found[name].items():
                rows.append(figure(f"{written}, {name}", metric, mean_of(gold, things)))
            first = [row[0] for row in drawn]
            nats = kl_to_sft(bench.profile, bench.tokenizer, model, sft, prompts, first)
            rows.append(figure(f"{written}, {name}", NATS, (nats,) * 3))
        for other in (LAST, COURSE):
            for metric, gold in found[AVERAGE].items():
                gain = mean_difference(gold, found[other][metric], things)
                rows.append(figure(f"{written}, {AVERAGE} − {other}", metric, gain))
    return rows


CLAIM = Claim(
    28,
    "PPO at a constant learning rate ends better if the weights of its steps are averaged.",
    "InstructGPT, appendix C.4, which trains so: an exponential moving average of the weights",
    tuple(
        Rule(f"{kind}, {AVERAGE} − {LAST}", metric, 0.0)
        for kind in KINDS.values()
        for metric in (GOLD, GREEDY)
    ),
    ("evaluate",),
    measure,
    "The average and the last weights come from the same training, whose learning rate stays where the "
    "course's begins. In the average, the weights after each step count 0.8 %, and all those before them "
    "count that much less. (The paper does not say whether its decay is per step or per update.) The rule "
    "was written down after a first look at three other trainings of PPO-ptx, on another machine, from "
    "the same SFT and reward models. On validation prompts, their averaged weights were ahead by two "
    "hundredths of gold, both with drawn answers and with greedy ones. PPO's average was not looked at. "
    "The prompts are those of claim 27.",
)
