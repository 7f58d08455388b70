"""Policy gradients without a value model; several answers to a prompt are each other's yardstick:

    reinforce      one step an update; the baseline is the mean of the batch          (Williams, 1992)
    ppo_no_value   PPO whose advantages are rewards to go, whitened                   (GAE, λ = 1, V = 0)
    rloo           the baseline is the mean of the *other* answers to the prompt       (Ahmadian et al., 2024)
    grpo           advantages in standard deviations of the group, KL in the loss      (Shao et al., 2024)

Losses equal those of TRL's RLOOTrainer and GRPOTrainer (as in the paper: loss_type="grpo", and no correction
of the KL term by the ratio, which is its default). Left out: what only large models need. `offline.py` has
what needs no policy gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import device
from rlhf_utils.language.models import LORA_RATE
from rlhf_utils.language.packing import by_length
from rlhf_utils.language.sampling import Answers
from rlhf_utils.profiles import Profile
from rlhf_utils.training.masked import whiten
from rlhf_utils.training.ppo import CLIP, LONGEST_GRADIENT, PPO, Rollout, policy_loss, token_rewards
from rlhf_utils.training.ppo_log import Diverged, gradient_norm

Verify = Callable[[list[list[int]], list[str]], Sequence[float]]  # prompts as tokens, answers → rewards


# -- the pieces ------------------------------------------------------------------------------------------
def leave_one_out(rewards: Tensor) -> Tensor:
    """Advantages by RLOO, of rewards (prompts, answers): each less the mean of the others to its prompt.

    An answer is not in its own baseline: else a part of its praise would be taken back.
    [1, 0, 0] → [1, −½, −½].
    """
    count = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * count / (count - 1)


def group_normalised(rewards: Tensor) -> Tensor:
    """Advantages by GRPO, of rewards (prompts, answers): in standard deviations of the prompt's group.

    So a prompt whose answers hardly differ counts as much as one where much is at stake (Liu et al., 2025,
    call it a bias, and leave the division out).
    """
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)


def sequence_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The clipped surrogate with whole answers as actions, and the share of those clipped: RLOO's.

    logprobs, old, mask: (answers, tokens); advantages: (answers,). Its gradient at ratio 1 is REINFORCE's.
    """
    ratio = torch.exp(((logprobs - old) * mask).sum(1))
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    return torch.maximum(plain, clipped).mean(), (clipped > plain).float().mean()


def group_loss(
    logprobs: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """GRPO's loss, and the share of tokens that are clipped: the mean over answers of the mean over tokens.

    So a token of a long answer counts less than one of a short answer: the *length bias*, which makes wrong
    answers long. KL to the reference is a term of the loss, by k3, and no part of the reward.
    """
    ratio, away = torch.exp((logprobs - old) * mask), (reference - logprobs) * mask
    plain = -advantages[:, None] * ratio
    clipped = -advantages[:, None] * ratio.clamp(1 - CLIP, 1 + CLIP)
    worse = torch.maximum(plain, clipped) + beta * (torch.exp(away) - away - 1)
    lengths = mask.sum(1).clamp(min=1)
    share = ((clipped > plain) * mask).sum() / lengths.sum()
    return ((worse * mask).sum(1) / lengths).mean(), share


# -- policy gradients without a value model --------------------------------------------------------------
class Reinforce(PPO):
    """REINFORCE: all that stands in PPO's place is a baseline. The toll is part of an answer's reward."""

    group = 1  # answers a prompt
    passes, minibatches = 1, 1
    by_tokens = False  # whether the loss is a mean over tokens, else over answers
    faster = 4.0  # times PPO's learning rate: it takes an eighth of the steps

    def __init__(
        self,
        profile: Profile,
        tokenizer,
        sft: Path,
        reward: Path,
        windows: np.ndarray | None = None,
        verify: Verify | None = None,
    ):
        settings = {"one_trunk": True, "ppo_epochs": self.passes, "minibatches": self.minibatches}
        super().__init__(replace(profile, **settings), tokenizer, sft, reward, windows)
        self.tokenizer, self.verify, self.scored = tokenizer, verify, []

    def rollout(self, prompts: list[list[int]], answers: Answers) -> list[list[Rollout]]:
        """Minibatches of answers of like length, with advantages from what all answers got."""
        lengths = [len(prompt) + len(tokens) for prompt, tokens in zip(prompts, answers.tokens)]
        # In their order, so that answers to one prompt stand beside each other and share it.
        groups = [np.sort(group) for group in by_length(lengths, self.minibatches)]
        numbers = [
            [group[i : i + self.at_once] for i in range(0, len(group), self.at_once)]
            for group in (groups[k] for k in self.shuffle.permutation(len(groups)))
        ]
        minibatches = [[self.score(prompts, answers, part) for part in parts] for parts in numbers]
        if self.verify:
            self.verified(prompts, answers, numbers, minibatches)
        worth = torch.zeros(len(prompts), device=device())
        for part, which in self._parts(minibatches, numbers):
            worth[torch.as_tensor(which, device=worth.device)] = self.worth(part)
        credit = self.advantages(worth.view(-1, self.group)).flatten()
        for part, which in self._parts(minibatches, numbers):
            part.advantages = credit[torch.as_tensor(which, device=credit.device)]
        return minibatches

    @staticmethod
    def _parts(minibatches, numbers):
        return ((part, which) for pair in zip(minibatches, numbers) for part, which in zip(*pair))

    def verified(self, prompts, answers: Answers, numbers, minibatches) -> None:
        """Puts what `verify` gives in the place of the reward model's scores, of answers cut off as well. It
        finds those scores in `scored`, where an answer that was cut off has −3.
        """
        scored = torch.zeros(len(prompts), device=device())
        for part, which in self._parts(minibatches, numbers):
            scored[torch.as_tensor(which, device=scored.device)] = part.scores.to(scored)
        self.scored = scored.tolist()
        texts = self.tokenizer.batch_decode(answers.tokens, skip_special_tokens=True)
        given = torch.tensor(list(self.verify(prompts, [t.strip() for t in texts])), device=device())
        if given.shape != (len(prompts),) or not torch.isfinite(given).all():
            raise CourseError(
                f"The reward function was asked about {len(prompts)} answers and gave {len(given)} rewards, "
                f"{int(torch.isfinite(given).sum())} of them finite numbers. It has to give one for each."
            )
        for part, which in self._parts(minibatches, numbers):
            part.scores = given[torch.as_tensor(which, device=given.device)].float()
            toll = part.logprobs - part.reference
            part.rewards = token_rewards(part.scores, toll, part.mask, self.profile.kl_coefficient)

    def worth(self, part: Rollout) -> Tensor:
        """What each answer is credited with: its score less the toll, β times its log-ratio to SFT."""
        toll = ((part.logprobs - part.reference) * part.mask).sum(1)
        return part.scores - self.profile.kl_coefficient * toll

    def advantages(self, worth: Tensor) -> Tensor:
        return worth - worth.mean()

    def loss(self, logprobs: Tensor, part: Rollout) -> tuple[Tensor, Tensor]:
        return sequence_loss(logprobs, part.logprobs, part.advantages, part.mask)

    def step(self, minibatch: list[Rollout], rate: float) -> dict[str, float]:
        """One step on a minibatch; what there is to log of it."""
        rate = rate * self.faster * (LORA_RATE if self.profile.lora else 1)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        weights = [float(p.mask.sum()) if self.by_tokens else len(p.scores) for p in minibatch]
        logged = np.zeros(3)
        for part, weight in zip(minibatch, weights):
            logprobs, _ = self.logprobs_and_values(part.packed)
            loss, clipped = self.loss(logprobs, part)
            share = weight / sum(weights)
            (share * loss).backward()
            moved = ((logprobs - part.logprobs) * part.mask).detach()
            step_kl = (torch.expm1(moved) - moved).sum() / part.mask.sum().clamp(min=1)
            logged += share * torch.stack([loss.detach(), clipped.detach(), step_kl]).cpu().numpy()
        if self.windows is not None:
            self.add_ptx()
        norm = gradient_norm(self.policy_parameters)
        if not torch.isfinite(norm):
            raise Diverged(f"the gradient is not a number, at a learning rate of {rate:.1e}")
        torch.nn.utils.clip_grads_with_norm_(self.policy_parameters, LONGEST_GRADIENT, norm)
        self.optimizer.step()
        names = ("policy_loss", "clip_fraction", "step_kl")
        return dict(zip(names, logged.tolist())) | {"gradient_norm": float(norm)}


class Grouped(Reinforce):
    """Several answers to each prompt; eight steps an update, as many as PPO takes in the laptop profile."""

    passes, minibatches, faster = 2, 4, 1.0

    def __init__(self, profile: Profile, *arguments, **named):
        self.group = profile.group
        if self.group < 2:
            raise CourseError(
                f"Answers to a prompt are compared with each other: group is 2 or more, not {self.group}."
            )
        if profile.episodes % self.group:
            raise CourseError(
                f"{profile.episodes} episodes per update cannot be split into groups of {self.group}. "
                "Choose a group that divides them."
            )
        super().__init__(profile, *arguments, **named)


class RLOO(Grouped):
    """REINFORCE, leave one out: the others' mean is the baseline."""

    def advantages(self, worth: Tensor) -> Tensor:
        return leave_one_out(worth)


class GRPO(Grouped):
    """Group relative policy optimization."""

    def worth(self, part: Rollout) -> Tensor:
        return part.scores

    def advantages(self, worth: Tensor) -> Tensor:
        return group_normalised(worth)

    def loss(self, logprobs: Tensor, part: Rollout) -> tuple[Tensor, Tensor]:
        return group_loss(
            logprobs, part.logprobs, part.reference, part.advantages, part.mask, self.profile.kl_coefficient
        )


class WithoutValue(Reinforce):
    """PPO whose value model expects nothing: what a token is credited with is all that came after it."""

    passes, minibatches, faster = 2, 4, 1.0
    by_tokens = True

    def rollout(self, prompts: list[list[int]], answers: Answers) -> list[list[Rollout]]:
        minibatches = super().rollout(prompts, answers)
        parts = [part for minibatch in minibatches for part in minibatch]
        to_go = [part.rewards.flip(1).cumsum(1).flip(1) * part.mask for part in parts]
        for part, whitened in zip(parts, whiten(to_go, [part.mask for part in parts])):
            part.advantages = whitened
        return minibatches

    def loss(self, logprobs: Tensor, part: Rollout) -> tuple[Tensor, Tensor]:
        return policy_loss(logprobs, part.logprobs, part.advantages, part.mask)


GRADIENTS: dict[str, type[Reinforce]] = {
    "reinforce": Reinforce,
    "ppo_no_value": WithoutValue,
    "rloo": RLOO,
    "grpo": GRPO,
}
