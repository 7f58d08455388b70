"""PPO and PPO-ptx for language models, as in InstructGPT (section 3.5 and appendix C.4).

Each token of an answer is an action. The reward of a token is −β times its log-ratio to the SFT model;
the last one also gets the reward model's score. What one update does, in this order: sample, score,
penalise, estimate advantages, whiten, then a few epochs of clipped steps. PPO-ptx adds the gradient of
the pretraining loss to each step.

Left out of the paper: an adaptive KL coefficient and an exponential average of weights.
"""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlhf_utils import plots
from rlhf_utils.artifacts import processes
from rlhf_utils.artifacts.files import write_jsonl
from rlhf_utils.artifacts.progress import Progress
from rlhf_utils.artifacts.store import Store
from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import autocast, device
from rlhf_utils.language.models import (
    LORA_RATE,
    load_gpt2,
    load_scorer,
    save_model,
    token_cross_entropy,
    with_lora,
)
from rlhf_utils.language.packing import Packed, pack
from rlhf_utils.language.sampling import Answers, generate
from rlhf_utils.language.scoring import answer_logprobs, answer_scores, hidden_states
from rlhf_utils.language.tokenizer import same_tokenizer
from rlhf_utils.profiles import Profile
from rlhf_utils.training.reward import unfinished

CLIP = 0.2  # of the ratio, and of the value's change
VALUE_COEFFICIENT = 0.1
GAMMA, LAMBDA = 1.0, 0.95
# Nats a token from the policy that wrote the answers: further steps on them would be steps in the dark
STEP_KL = 0.1
MAX_KL = 50.0  # nats an answer: far beyond anything useful, so the run stops
SAVE_EVERY = 20  # updates between checkpoints


class Diverged(CourseError):
    """Training ran away; `train_ppo` adds at which update and what to try."""


# -- the pieces ------------------------------------------------------------------------------------------
def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def token_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards of tokens, (batch, time): −β · log-ratio everywhere and the score on the last token.

    scores: (batch,); log_ratio: log π − log π_SFT of the sampled tokens; mask: 1 up to the end of an answer.
    An answer without a token has nowhere to put its score.
    """
    lengths = mask.sum(1)
    rewards = -beta * log_ratio * mask
    return rewards.scatter_add(
        1, (lengths.long() - 1).clamp(min=0)[:, None], (scores * (lengths > 0))[:, None].to(rewards.dtype)
    )


def advantages_and_returns(rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016) over valid tokens, (batch, time)."""
    advantages = torch.zeros_like(rewards)
    running = torch.zeros(len(rewards), device=rewards.device)
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] * mask[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + GAMMA * following - values[:, t]
        running = (delta + GAMMA * LAMBDA * running) * mask[:, t]
        advantages[:, t] = running
    return advantages, (advantages + values) * mask


def whiten(advantages: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    """Mean 0 and deviation 1 over the valid tokens of all minibatches together; padding takes no part and
    stays 0.
    """
    valid = torch.cat([a[m.bool()] for a, m in zip(advantages, masks)])
    sums = torch.stack([valid.sum(), valid.new_tensor(len(valid))])
    processes.add_up(sums)
    mean = sums[0] / sums[1]
    squares = ((valid - mean) ** 2).sum()[None]
    processes.add_up(squares)
    deviation = (squares[0] / sums[1]).sqrt() + 1e-8
    return [(a - mean) / deviation * m for a, m in zip(advantages, masks)]


def policy_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (Schulman et al., 2017, eq. 7) and the share of clipped tokens."""
    ratio = torch.exp((logprobs - old) * mask)
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    return masked_mean(torch.maximum(plain, clipped), mask), masked_mean((clipped > plain).float(), mask)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Half the squared error, with the value's change clipped as well."""
    clipped = old + (values - old).clamp(-CLIP, CLIP)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


def kl_estimates(log_ratio: Tensor, mask: Tensor) -> dict[str, float]:
    """Estimates of KL(π ‖ π_SFT) in nats an answer: k1 unbiased and noisy, k2 biased, k3 unbiased and ≥ 0.

    See Schulman, "Approximating KL divergence" (2020).
    """
    rows = {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": torch.expm1(-log_ratio) + log_ratio}
    return {k: float((v * mask).sum(1).mean()) for k, v in rows.items()}


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Length of the gradient."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters])


# -- a rollout ---------------------------------------------------------------------------------------------
@dataclass
class Rollout:
    """A minibatch of answers with all that PPO needs of them; tensors are (answers, longest answer)."""

    packed: Packed  # the sequences, and `packed.mask`: 1 on answer tokens, the end-of-text token included
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor  # (answers,)
    ended: Tensor
    forward: tuple[Tensor, Tensor] | None = (
        None  # log-probabilities and values with their graph, for the very first step
    )

    @property
    def mask(self) -> Tensor:
        return self.packed.mask


class PPO:
    """Policy, value model, reference and reward model, and an optimizer of each of the first two."""

    def __init__(
        self, profile: Profile, tokenizer, sft: Path, reward: Path, windows: np.ndarray | None = None
    ):
        self.profile, self.pad, self.end = profile, tokenizer.pad_token_id, tokenizer.eos_token_id
        same_tokenizer(tokenizer, sft, reward)
        processes.per_process(
            max(profile.episodes // profile.minibatches, 1), "The number of episodes a minibatch"
        )
        processes.per_process(profile.ptx_windows, "ptx_windows")
        self.policy, self.reward = load_gpt2(sft), load_scorer(reward).requires_grad_(False)
        self.reference = (
            None if profile.lora else load_gpt2(sft).requires_grad_(False)
        )  # LoRA: the policy without its adapters
        if profile.lora:
            self.policy = with_lora(self.policy, profile.lora)
        # The value model starts from the reward model, but expects 0, the mean reward of demonstrations:
        # the reward's head was trained on finished answers only, and misjudges beginnings.
        self.value = None if profile.one_trunk else load_scorer(reward)
        self.head = torch.nn.Linear(self.reward.config.n_embd, 1, bias=False, device=device())
        torch.nn.init.zeros_(self.head.weight)
        self.windows, self.drawn = windows, Answers([], [], [])  # the answers of the latest update
        self.of_policy = [p for p in self.policy.parameters() if p.requires_grad]
        self.of_value = [
            *self.head.parameters(),
            *(self.value.transformer.parameters() if self.value else ()),
        ]
        adam = partial(
            torch.optim.AdamW, lr=profile.ppo_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.optimizer, self.value_optimizer = adam(self.of_policy), adam(self.of_value)
        self.generator = torch.Generator(device()).manual_seed(profile.seed + 17)
        self.shuffle = np.random.default_rng(profile.seed + 17)

    @torch.no_grad()
    def rollout(self, prompts: list[list[int]]) -> list[Rollout]:
        """Sample an answer to each prompt and work out rewards and advantages, as one Rollout a minibatch.

        Minibatches are made of sequences of like length, which pack best, and come in random order. The
        pass that scores the first of them is also the forward pass of the first step.
        """
        profile = self.profile
        # A random number for each token that may be drawn, so that the answers do not depend on who draws
        # them.
        chance = torch.rand(
            len(prompts), profile.answer_tokens, generator=self.generator, device=self.generator.device
        )
        with autocast(profile):
            own = generate(
                self.policy,
                processes.mine(prompts),
                profile.answer_tokens,
                profile.ppo_temperature,
                self.pad,
                self.end,
                processes.mine(chance),
            )
        drawn = self.drawn = Answers(*map(processes.gathered, (own.tokens, own.ended, own.logprobs)))
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(drawn.tokens[i]))
        parts = np.array_split(order, min(profile.minibatches, len(prompts)))
        batches = [
            self.score(
                [prompts[i] for i in part],
                [drawn.tokens[i] for i in part],
                [drawn.ended[i] for i in part],
                first=n == 0,
            )
            for n, part in enumerate(processes.mine(parts[k]) for k in self.shuffle.permutation(len(parts)))
        ]
        for batch, whitened in zip(
            batches, whiten([b.advantages for b in batches], [b.mask for b in batches])
        ):
            batch.advantages = whitened
        return batches

    @torch.no_grad()
    def score(
        self, prompts: list[list[int]], answers: list[list[int]], ended: list[bool], first: bool = False
    ) -> Rollout:
        """Rewards and advantages (not yet whitened) of a minibatch of answers; the `first` keeps the graph of
        its pass.
        """
        profile = self.profile
        packed = pack([(prompt, [answer]) for prompt, answer in zip(prompts, answers)], self.pad)
        with autocast(profile):
            # The sampler's own probabilities differ by rounding from those of a pass over the whole
            # sequence, and the ratio must be 1 before the first step: so the old ones come from a pass.
            with torch.set_grad_enabled(first):
                kept = self.look(packed)
            logprobs, values = (x.detach() for x in kept)
            with nullcontext() if self.reference else self.policy.disable_adapter():
                reference = answer_logprobs(
                    self.reference or self.policy, packed, self.pad, profile.ppo_temperature
                )
            scores = answer_scores(self.reward, packed)
        scores = (scores - self.reward.config.reward_mean) / self.reward.config.reward_std
        finished = torch.tensor(ended, device=scores.device)
        scores = unfinished(scores, finished, packed.mask.sum(1))
        if not torch.isfinite(scores).all():
            raise CourseError(
                "The reward model gave a reward that is not a finite number. Train it anew with a lower "
                "reward_rate."
            )
        rewards = token_rewards(scores, logprobs - reference, packed.mask, profile.kl_coefficient)
        advantages, returns = advantages_and_returns(rewards, values, packed.mask)
        return Rollout(
            packed,
            logprobs,
            reference,
            values,
            rewards,
            advantages,
            returns,
            scores,
            finished,
            kept if first else None,
        )

    def look(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer token, and the value before it,
        which is read at the token before.
        """
        hidden = hidden_states(self.policy, packed)
        logprobs = answer_logprobs(self.policy, packed, self.pad, self.profile.ppo_temperature, hidden)
        seen = hidden_states(self.value, packed) if self.value else hidden
        return logprobs, packed.table(self.head(seen.index_select(0, packed.before)).squeeze(-1).float())

    def step(self, batch: Rollout, rate: float) -> dict[str, float]:
        """One step of both optimizers on a minibatch; returns what there is to log."""
        profile, mask = self.profile, batch.mask
        for optimizer, times in (
            (self.optimizer, LORA_RATE if profile.lora else 1),
            (self.value_optimizer, 1),
        ):
            optimizer.param_groups[0]["lr"] = rate * times
            optimizer.zero_grad()  # its memory is the forward pass's now
        with autocast(profile):
            logprobs, values = batch.forward or self.look(batch.packed)
        batch.forward = None
        surrogate, clipped = policy_loss(logprobs, batch.logprobs, batch.advantages, mask)
        error = value_loss(values, batch.values, batch.returns, mask)
        moved = (
            torch.expm1(logprobs - batch.logprobs) - (logprobs - batch.logprobs)
        ).detach()  # k3 on tokens that the old policy drew
        # Means over the tokens of all processes: each counts by its share of them.
        seen = (
            torch.stack(
                [
                    surrogate.detach(),
                    error.detach(),
                    clipped,
                    masked_mean(moved, mask),
                    torch.ones_like(clipped),
                ]
            )
            * mask.sum()
        )
        processes.add_up(seen)
        share, seen = mask.sum() / seen[-1].clamp(min=1), seen / seen[-1].clamp(min=1)
        logged = dict(zip(("policy_loss", "value_loss", "clip_fraction", "step_kl"), seen.tolist()))
        self.gradients(share * (surrogate + VALUE_COEFFICIENT * error), [*self.of_policy, *self.of_value])
        norm, value_norm = gradient_norm(self.of_policy), gradient_norm(self.of_value)
        logged["policy_gradient"], logged["value_gradient"] = float(norm), float(value_norm)
        torch.nn.utils.clip_grads_with_norm_(self.of_value, 1.0, value_norm)
        self.value_optimizer.step()
        self.value_optimizer.zero_grad()  # before PPO-ptx needs as much memory once more
        if self.windows is not None:
            chosen = processes.mine(self.shuffle.integers(len(self.windows), size=profile.ptx_windows))
            ids = torch.from_numpy(self.windows[chosen].astype(np.int64)).to(mask.device)
            with autocast(profile):
                logits = self.policy(input_ids=ids, use_cache=False).logits[:, :-1]
            ptx = token_cross_entropy(logits, ids[:, 1:]).mean() * len(ids) / profile.ptx_windows
            alone = [p.grad for p in self.of_policy]
            self.gradients(profile.ptx_coefficient * ptx, self.of_policy)
            total = ptx.detach()[None]
            processes.add_up(total)
            logged["ptx_loss"], logged["ptx_gradient"] = total.item(), float(gradient_norm(self.of_policy))
            torch._foreach_add_([p.grad for p in self.of_policy], alone)
            norm = gradient_norm(self.of_policy)
        torch.nn.utils.clip_grads_with_norm_(self.of_policy, 1.0, norm)
        if not torch.isfinite(norm):
            raise Diverged(f"the gradient is not a number, at a learning rate of {rate:.1e}")
        self.optimizer.step()
        return logged | {"gradient_norm": float(norm)}

    def gradients(self, loss: Tensor, parameters: list[Tensor]) -> None:
        """The gradient of the sum of all processes' losses, in `parameters`."""
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        processes.add_up(*(p.grad for p in parameters))

    def update(self, prompts: list[list[int]], rate: float) -> dict[str, float]:
        """Sample answers to `prompts`, then take the steps of all epochs on them."""
        batches = self.rollout(prompts)
        logs: list[dict[str, float]] = []
        later = [i for _ in range(1, self.profile.ppo_epochs) for i in self.shuffle.permutation(len(batches))]
        for i in [*range(len(batches)), *later]:
            logs.append(self.step(batches[i], rate))
            if logs[-1]["step_kl"] > STEP_KL:
                break
        self.optimizer.zero_grad()
        sums = torch.stack([self.totals(b) for b in batches]).sum(0)
        processes.add_up(sums)
        answers, tokens, reward, ended, surprise, error, returns, squares, *kl = sums.tolist()
        kl = {k: v / answers for k, v in zip(("k1", "k2", "k3"), kl)}
        if not kl["k1"] <= MAX_KL:  # k3 can be thrown far by a single unlikely token
            raise Diverged(f"the KL is {kl['k1']:.0f} nats an answer, at a learning rate of {rate:.1e}")
        variance = (squares - returns**2 / tokens) / max(tokens - 1, 1)
        return {
            "reward": reward / answers,
            **{f"kl_{k}": v for k, v in kl.items()},
            "length": tokens / answers,
            "ended": ended / answers,
            "entropy": surprise / tokens,
            "explained_variance": 1 - error / tokens / max(variance, 1e-8),
            **{k: float(np.mean([log[k] for log in logs])) for k in logs[0]},
            "steps": len(logs),
            "rate": rate,
        }

    def totals(self, batch: Rollout) -> Tensor:
        """Sums over a minibatch, in float64: answers, tokens, rewards, ended, surprise, squared errors of the
        value, returns, their squares, KL.
        """
        mask, answers = batch.mask, len(batch.scores)
        error = ((batch.returns - batch.values) * mask) ** 2
        kl = [value * answers for value in kl_estimates(batch.logprobs - batch.reference, mask).values()]
        sums = [
            batch.scores,
            batch.ended,
            -batch.logprobs * mask,
            error,
            batch.returns * mask,
            (batch.returns * mask) ** 2,
        ]
        return torch.tensor(
            [answers, mask.sum(), *(x.double().sum() for x in sums), *kl],
            dtype=torch.float64,
            device=mask.device,
        )

    # -- resuming ------------------------------------------------------------------------------------------
    def save(self, folder: Path, update: int, rows: list[dict]) -> None:
        """A private checkpoint; `complete` is written last, so a half-written one is never used."""
        partial = folder / f"update-{update}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = {
            "policy": self.policy.state_dict(),
            "head": self.head.state_dict(),
            "value": self.value.state_dict() if self.value else {},
            "optimizer": self.optimizer.state_dict(),
            "value_optimizer": self.value_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "shuffle": self.shuffle.bit_generator.state,
            "update": update,
            "rows": rows,
        }
        torch.save(state, partial / "state.pt")
        (partial / "complete").touch()
        for old in sorted(folder.glob("update-*"), key=_number)[
            :-2
        ]:  # two, since only what it samples shows that one is good
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, folder: Path) -> tuple[int, list[dict]]:
        """Go on from the newest complete checkpoint; returns the update and the rows logged so far."""
        done = [f for f in folder.glob("update-*") if (f / "complete").exists()]
        if not done:
            return 0, []
        state = torch.load(max(done, key=_number) / "state.pt", weights_only=True, map_location=device())
        self.policy.load_state_dict(state["policy"])
        self.head.load_state_dict(state["head"])
        if self.value:
            self.value.load_state_dict(state["value"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.shuffle.bit_generator.state = state["shuffle"]
        return state["update"], state["rows"]


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def train_ppo(
    profile: Profile,
    tokenizer,
    sft: Path,
    reward: Path,
    prompts: list[list[int]],
    windows: np.ndarray | None,
    store: Store,
    stage: str,
    folder: Path,
    gold: Callable[[list[int], list[str]], float] | None = None,
) -> None:
    """Train a policy with PPO (with PPO-ptx if there are `windows`) and write it into `folder`.

    `gold`, where the truth is known, says how good answers to some of the prompts (their numbers) are. It is
    logged and drawn, and never a reward.
    """
    torch.manual_seed(profile.seed)
    ppo = PPO(profile, tokenizer, sft, reward, windows)
    resume = store.resume_folder(stage)
    first, rows = ppo.restore(resume)
    watched = Samples(ppo, tokenizer, prompts[:: max(len(prompts) // 3, 1)][:3])
    with Progress(stage, profile.ppo_updates, store.root, done=first) as progress:
        for update in range(first, profile.ppo_updates):
            draw = np.random.default_rng([profile.seed, update])
            chosen = draw.choice(
                len(prompts), profile.episodes, replace=len(prompts) < profile.episodes
            ).tolist()
            rate = profile.ppo_rate * (1 - 0.9 * update / profile.ppo_updates)
            try:
                logged = ppo.update([prompts[i] for i in chosen], rate)
            except Diverged as error:
                shutil.rmtree(
                    resume / f"update-{update}", ignore_errors=True
                )  # what it would have gone on from is what ran away
                before = f"KL was {rows[-1]['kl_k1']:.1f} nats an answer before. " if rows else ""
                kept = max(map(_number, resume.glob("update-*")), default=0)
                raise Diverged(
                    f"{stage} stopped at update {update + 1} of {profile.ppo_updates}: {error}. {before}Try "
                    "half the ppo_rate or twice the "
                    "kl_coefficient; "
                    + (
                        f"training then goes on from update {kept}, the last one kept."
                        if kept
                        else "training then starts anew."
                    )
                ) from None
            if gold is not None:
                logged["gold"] = gold(
                    chosen, tokenizer.batch_decode(ppo.drawn.tokens, skip_special_tokens=True)
                )
            rows.append({"update": update, **logged})
            progress.step(note=f"reward {logged['reward']:+.2f}, KL {logged['kl_k3']:.1f}")
            progress.picture(
                lambda: plots.ppo_curves(
                    {stage: rows}, f"{plots.NAMES.get(stage, stage)} while it trains", watched()
                )
            )
            if (update + 1) % SAVE_EVERY == 0 and update + 1 < profile.ppo_updates and processes.LEADS:
                ppo.save(resume, update + 1, rows)
    save_model(ppo.policy, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)


class Samples:
    """A few prompts with the greedy answers of the SFT model and of the policy as it is now, for the live
    picture.
    """

    def __init__(self, ppo: PPO, tokenizer, prompts: list[list[int]]):
        self.ppo, self.tokenizer, self.prompts = ppo, tokenizer, prompts
        self.before: list[str] | None = None

    def __call__(self) -> list[tuple[str, str, str]]:
        """(prompt, what SFT says, what the policy says)."""
        ppo = self.ppo
        if self.before is None:
            with nullcontext() if ppo.reference else ppo.policy.disable_adapter():
                self.before = self.answers(ppo.reference or ppo.policy)
        asked = [self.tokenizer.decode(p, skip_special_tokens=True).strip() for p in self.prompts]
        return list(zip(asked, self.before, self.answers(ppo.policy)))

    def answers(self, model) -> list[str]:
        with autocast(self.ppo.profile):
            drawn = generate(
                model, self.prompts, self.ppo.profile.answer_tokens, 0.0, self.ppo.pad, self.ppo.end
            )
        return [t.strip() for t in self.tokenizer.batch_decode(drawn.tokens, skip_special_tokens=True)]
