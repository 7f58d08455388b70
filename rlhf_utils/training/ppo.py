"""PPO and PPO-ptx for language models, as in InstructGPT (section 3.5 and appendix C.4).

Each token of an answer is an action. One update, in this order:

    1. sample     an answer to each prompt from the policy
    2. score      the whole answer by the reward model; −3 where it never ended
    3. penalise   each token by β times its log-ratio to the SFT model     (InstructGPT, eq. 2)
    4. estimate   advantages and returns of tokens, GAE                    (Schulman et al. 2016, eq. 16)
    5. whiten     the advantages of all answers together                   (Ziegler et al. 2019, their code)
    6. step       a few epochs of clipped steps, policy and value          (Schulman et al. 2017, eq. 7 and 9)
                  plus γ times the gradient of the pretraining loss        (InstructGPT, eq. 2: PPO-ptx)

`ppo_run` runs it, `ppo_log` says what is logged. Left out: the paper's average of weights (claim 28).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf_utils.artifacts import processes
from rlhf_utils.language.device import autocast, device
from rlhf_utils.language.models import LORA_RATE, load_policy, load_scorer, trunk_of
from rlhf_utils.language.packing import Packed, by_length, pack, side_by_side
from rlhf_utils.language.recomputing import recompute
from rlhf_utils.language.sampling import Answers, generate
from rlhf_utils.language.scoring import answer_logprobs, answer_scores, hidden_states, window_loss
from rlhf_utils.language.tokenizer import same_tokenizer
from rlhf_utils.profiles import Profile
from rlhf_utils.training.masked import masked_mean, whiten
from rlhf_utils.training.plan import room_of_ppo
from rlhf_utils.training.ppo_log import Diverged, StepLog, gradient_norm, summary
from rlhf_utils.training.reward import normalised

CLIP, LONGEST_GRADIENT = 0.2, 1.0  # the former of the ratio, and of the value's change
# Weight of the value's loss where trunks are shared; apart, Adam divides by it, and it only moves clipping.
VALUE_COEFFICIENT = 0.1
GAMMA, LAMBDA = 1.0, 0.95
STEP_KL = 0.1  # nats a token that the policy may be away from the one that wrote the answers


# -- the pieces ------------------------------------------------------------------------------------------
def token_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards of tokens, (batch, time): −β · log-ratio everywhere and the score on the last token.

    scores: (batch,); log_ratio: log π − log π_SFT of the sampled tokens; mask: 1 up to the end of an answer.
    An answer without a token has nowhere to put its score.
    """
    lengths = mask.sum(1)
    last = (lengths.long() - 1).clamp(min=0)[:, None]
    rewards = -beta * log_ratio * mask
    return rewards.scatter_add(1, last, (scores * (lengths > 0))[:, None].to(rewards.dtype))


def advantages_and_returns(rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016) over valid tokens, (batch, time)."""
    advantages, running = torch.zeros_like(rewards), rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] * mask[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        surprise = rewards[:, t] + GAMMA * following - values[:, t]
        running = (surprise + GAMMA * LAMBDA * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (Schulman et al., 2017, eq. 7) and the share of clipped tokens."""
    ratio = torch.exp((logprobs - old) * mask)
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    return masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error, with the value's change clipped as well."""
    clipped = old + (values - old).clamp(-CLIP, CLIP)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


# -- the algorithm ---------------------------------------------------------------------------------------
@dataclass
class Rollout:
    """Answers with all that PPO needs of them; tensors are (answers, longest answer)."""

    packed: Packed  # the sequences, and `packed.mask`: 1 on answer tokens, the end-of-text token included
    logprobs: Tensor  # of the policy that wrote them
    reference: Tensor  # log-probabilities under the SFT model
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor  # (answers,)
    ended: Tensor  # (answers,)

    @property
    def mask(self) -> Tensor:
        return self.packed.mask


class PPO:
    """Policy, value model, reference and reward model, and an optimizer of each of the first two."""

    group, remembers = 1, ()  # answers a prompt; what a checkpoint keeps besides models and optimizers

    def __init__(
        self, profile: Profile, tokenizer, sft: Path, reward: Path, windows: np.ndarray | None = None
    ):
        self.profile, self.pad, self.end = profile, tokenizer.pad_token_id, tokenizer.eos_token_id
        same_tokenizer(tokenizer, sft, reward)
        self.at_once, saves_memory = room_of_ppo(profile)
        self.policy, self.reference = load_policy(sft, profile.lora)
        self.reward = load_scorer(reward).requires_grad_(False)
        # The value model starts from the reward model, but expects 0, the mean reward of demonstrations:
        # the reward's head was trained on finished answers only, and misjudges beginnings.
        self.value = None if profile.one_trunk else load_scorer(reward)
        recompute(self.policy, self.value, wanted=saves_memory)
        self.head = torch.nn.Linear(self.reward.score.weight.shape[1], 1, bias=False, device=device())
        torch.nn.init.zeros_(self.head.weight)
        self.windows = windows  # of pretraining text, (windows, context); None is PPO without ptx
        self.policy_parameters = [p for p in self.policy.parameters() if p.requires_grad]
        trunk = trunk_of(self.value).parameters() if self.value else ()
        self.value_parameters = [*self.head.parameters(), *trunk]
        adam = partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.optimizer, self.value_optimizer = adam(self.policy_parameters), adam(self.value_parameters)
        self.generator = torch.Generator(device()).manual_seed(profile.seed + 17)
        self.shuffle = np.random.default_rng(profile.seed + 17)

    def update(self, prompts: list[list[int]], rate: float) -> tuple[dict[str, float], Answers]:
        """One update on prompts (token lists): what there is to log, and the answers that were drawn."""
        answers = self.sample(prompts)
        minibatches = self.rollout(prompts, answers)
        count, log = len(minibatches), StepLog()
        later = [i for _ in range(1, self.profile.ppo_epochs) for i in self.shuffle.permutation(count)]
        for i in (*range(count), *later):
            log.add(self.step(minibatches[i], rate))
            if log.last["step_kl"] > STEP_KL:
                break
        self.optimizer.zero_grad()
        return summary([part for minibatch in minibatches for part in minibatch], log, rate), answers

    def sample(self, prompts: list[list[int]]) -> Answers:
        """1. An answer to each prompt; what is drawn does not depend on how many processes draw."""
        longest, temperature = self.profile.answer_tokens, self.profile.ppo_temperature
        numbers = torch.rand(len(prompts), longest, generator=self.generator, device=device())
        mine, chance = processes.mine(prompts), processes.mine(numbers)
        with autocast(self.profile):
            own = generate(self.policy, mine, longest, temperature, self.pad, self.end, chance)
        return Answers(processes.gathered(own.tokens), processes.gathered(own.ended))

    def rollout(self, prompts: list[list[int]], answers: Answers) -> list[list[Rollout]]:
        """2. to 5. Minibatches of sequences of like length, in random order.

        They pack best, and train as well as random ones (`tests/benchmarks/minibatches.py`).
        A minibatch is one Rollout, or several where not all of its answers fit into memory at once.
        """
        lengths = [len(prompt) + len(tokens) for prompt, tokens in zip(prompts, answers.tokens)]
        groups = by_length(lengths, self.profile.minibatches)
        minibatches = []
        for k in self.shuffle.permutation(len(groups)):
            numbers = processes.mine(groups[k])
            parts = [numbers[i : i + self.at_once] for i in range(0, len(numbers), self.at_once)]
            minibatches.append([self.score(prompts, answers, part) for part in parts])
        rollouts = [part for minibatch in minibatches for part in minibatch]
        whitened = whiten([r.advantages for r in rollouts], [r.mask for r in rollouts])
        for rollout, advantages in zip(rollouts, whitened):
            rollout.advantages = advantages
        return minibatches

    @torch.no_grad()
    def score(self, prompts: list[list[int]], answers: Answers, numbers: Sequence[int]) -> Rollout:
        """2. to 4. Scores, rewards of tokens and advantages (not yet whitened) of some of the answers."""
        packed = pack(side_by_side([(prompts[i], answers.tokens[i]) for i in numbers]), self.pad)
        # The sampler's own probabilities differ by rounding from those of a pass over the whole sequence, and
        # the ratio must be 1 before the first step: so the old ones come from a pass.
        logprobs, values = self.logprobs_and_values(packed)
        with autocast(self.profile), self.reference() as model:
            reference = answer_logprobs(model, packed, self.pad, self.profile.ppo_temperature)
            raw = answer_scores(self.reward, packed)
        ended = torch.tensor([answers.ended[i] for i in numbers], device=raw.device)
        scores = normalised(self.reward, raw, ended, packed.mask.sum(1))
        rewards = token_rewards(scores, logprobs - reference, packed.mask, self.profile.kl_coefficient)
        advantages, returns = advantages_and_returns(rewards, values, packed.mask)
        return Rollout(packed, logprobs, reference, values, rewards, advantages, returns, scores, ended)

    def logprobs_and_values(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer token, and the value before it, read at the token before."""
        with autocast(self.profile):
            hidden = hidden_states(self.policy, packed)
            logprobs = answer_logprobs(self.policy, packed, self.pad, self.profile.ppo_temperature, hidden)
            seen = hidden_states(self.value, packed) if self.value else hidden
            values = self.head(seen.index_select(0, packed.before)).squeeze(-1).float()
        return logprobs, packed.table(values)

    def step(self, minibatch: list[Rollout], rate: float) -> dict[str, float]:
        """6. One step of both optimizers on a minibatch; what there is to log of it."""
        factor = LORA_RATE if self.profile.lora else 1
        for optimizer, its_rate in ((self.optimizer, rate * factor), (self.value_optimizer, rate)):
            optimizer.param_groups[0]["lr"] = its_rate
            optimizer.zero_grad()
        # Means over the tokens of all processes: each part counts by its share of them.
        (tokens,) = processes.totals(torch.stack([part.mask.sum() for part in minibatch]).sum())
        found = 0
        for part in minibatch:
            logprobs, values = self.logprobs_and_values(part.packed)
            surrogate, clipped = policy_loss(logprobs, part.logprobs, part.advantages, part.mask)
            error = value_loss(values, part.values, part.returns, part.mask)
            share = part.mask.sum() / tokens.clamp(min=1)
            (share * (surrogate + VALUE_COEFFICIENT * error)).backward()
            log_ratio = (logprobs - part.logprobs).detach()
            # How far the policy has moved: k3 on tokens that the old one drew.
            moved = masked_mean(torch.expm1(log_ratio) - log_ratio, part.mask)
            found += part.mask.sum() * torch.stack([surrogate.detach(), error.detach(), clipped, moved])
        (found,) = processes.totals(found)
        names = ("policy_loss", "value_loss", "clip_fraction", "step_kl")
        logged = dict(zip(names, (found / tokens.clamp(min=1)).tolist()))
        processes.add_up(*(p.grad for p in [*self.policy_parameters, *self.value_parameters]))
        norm, value_norm = gradient_norm(self.policy_parameters), gradient_norm(self.value_parameters)
        logged |= {"policy_gradient": float(norm), "value_gradient": float(value_norm)}
        torch.nn.utils.clip_grads_with_norm_(self.value_parameters, LONGEST_GRADIENT, value_norm)
        self.value_optimizer.step()
        self.value_optimizer.zero_grad()  # gives its memory back before ptx needs as much once more
        if self.windows is not None:
            logged |= self.add_ptx()
            norm = gradient_norm(self.policy_parameters)
        torch.nn.utils.clip_grads_with_norm_(self.policy_parameters, LONGEST_GRADIENT, norm)
        if not torch.isfinite(norm):
            raise Diverged(f"the gradient is not a number, at a learning rate of {rate:.1e}")
        self.optimizer.step()
        return logged | {"gradient_norm": float(norm)}

    def add_ptx(self) -> dict[str, float]:
        """Adds γ times the gradient of the loss on windows of documents to the policy's."""
        chosen = processes.mine(self.shuffle.integers(len(self.windows), size=self.profile.ptx_windows))
        ids = torch.from_numpy(self.windows[chosen].astype(np.int64)).to(self.head.weight.device)
        of_ppo = [p.grad for p in self.policy_parameters]
        self.optimizer.zero_grad()
        total = torch.zeros((), device=ids.device)
        answer = self.profile.prompt_tokens + self.profile.answer_tokens  # with its prompt, at most
        for part in ids.split(max(self.at_once * answer // self.profile.context, 1)):
            with autocast(self.profile):
                loss = window_loss(self.policy, part) * len(part) / self.profile.ptx_windows
            (self.profile.ptx_coefficient * loss).backward()
            total += loss.detach()
        processes.add_up(*(p.grad for p in self.policy_parameters))
        length = gradient_norm(self.policy_parameters)
        torch._foreach_add_([p.grad for p in self.policy_parameters], of_ppo)
        return {"ptx_loss": float(*processes.totals(total)), "ptx_gradient": float(length)}
