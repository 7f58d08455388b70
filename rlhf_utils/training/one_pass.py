"""RLOO for a model of some hundred million weights, with a brake that holds."""

import math

import torch

from rlhf_utils.language.sampling import Answers
from rlhf_utils.profiles import Profile
from rlhf_utils.training.beyond import RLOO

# Nats an answer, as the policy's own answers in an update measure them.
KL_BUDGET = 2.5
AT_ONCE = 8  # answers that are read at once: 32 take 2 GB more


class OnePass(RLOO):
    """RLOO whose answers are used once, in two steps: a pass costs more here than new answers do.

    Where the answers of an update show that the policy has gone further than `budget`, it gets back the
    weights that it had when it last measured within, and goes on at half the pace: so what a run ends with
    was within the budget, but for its last step. Without a brake (`kl_coefficient` 0)
    there is no budget.
    """

    passes, minibatches = 1, 2
    remembers = ("within", "pace")

    def __init__(self, profile: Profile, *arguments, **named):
        super().__init__(profile, *arguments, **named)
        self.budget = KL_BUDGET if profile.kl_coefficient else math.inf
        self.at_once = min(self.at_once, AT_ONCE)
        self.within: list[torch.Tensor] = []  # what trains, as it was when it last was within the budget
        self.pace = 1.0

    @torch.no_grad()
    def weights(self) -> list[torch.Tensor]:
        return [weight.clone() for weight in self.policy_parameters]

    def update(self, prompts: list[list[int]], rate: float) -> tuple[dict[str, float], Answers]:
        """As PPO's, and `taken_back` in the log: 1.0 where the policy had gone too far."""
        measured = self.weights()
        logged, answers = super().update(prompts, rate * self.pace)
        logged["taken_back"] = float(logged["kl_k1"] > self.budget)
        if logged["taken_back"]:
            self.pace /= 2
            with torch.no_grad():
                for weight, kept in zip(self.policy_parameters, self.within or measured):
                    weight.copy_(kept)
        else:
            self.within = measured
        return logged, answers
