"""PPO and PPO-ptx for language models, as in InstructGPT (section 3.5 and appendix C.4).

Each token of an answer is an action. The reward of a token is −β times its log-ratio to the SFT model;
the last one also gets the reward model's score. What one update does, in this order: sample, score,
penalise, estimate advantages, whiten, then a few epochs of clipped steps. PPO-ptx adds the gradient of
the pretraining loss to each step.

Left out of the paper: an adaptive KL coefficient and an exponential average of weights.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_utils.artifacts import Store, write_jsonl
from rlhf_utils.models import answer_scores, autocast, device, load_gpt2, load_scorer, save_model, token_cross_entropy, token_scores
from rlhf_utils.profiles import CourseError, Profile
from rlhf_utils.progress import Progress
from rlhf_utils.sampling import answer_logprobs, generate, logprobs_of

CLIP = 0.2  # of the ratio, and of the value's change
VALUE_COEFFICIENT = 0.1
GAMMA, LAMBDA = 1.0, 0.95
NO_ANSWER = -3.0  # reward, in standard deviations, of an answer that never ends, or ends before its first word
STEP_KL = 0.1  # nats a token from the policy that wrote the answers: further steps on them would be steps in the dark
MAX_KL = 50.0  # nats an answer: far beyond anything useful, so the run stops


# -- the pieces ------------------------------------------------------------------------------------------
def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def token_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards of tokens, (batch, time): −β · log-ratio everywhere and the score on the last token.

    scores: (batch,); log_ratio: log π − log π_SFT of the sampled tokens; mask: 1 up to the end of an answer.
    """
    last = mask.sum(1).long() - 1
    rewards = -beta * log_ratio * mask
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


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


def gradient_norm(model, before: list[Tensor] | None = None) -> float:
    """Length of a model's gradient, or of what was added to the gradients `before`."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if before is not None:
        gradients = [g - b for g, b in zip(gradients, before)]
    return float(torch.stack([g.norm() for g in gradients]).norm())


# -- a rollout ---------------------------------------------------------------------------------------------
@dataclass
class Rollout:
    """A minibatch of answers with all that PPO needs of them; tensors are (batch, time)."""

    ids: Tensor  # prompt and answer, (batch, prompt + answer)
    attention: Tensor
    mask: Tensor  # 1 on answer tokens, the end-of-text token included
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor  # (batch,)
    ended: Tensor


class PPO:
    """Policy, value model, reference and reward model with one optimizer over the first two."""

    def __init__(self, profile: Profile, tokenizer, sft: Path, reward: Path, windows: np.ndarray | None = None):
        self.profile, self.pad, self.end = profile, tokenizer.pad_token_id, tokenizer.eos_token_id
        self.policy, self.reference = load_gpt2(sft), load_gpt2(sft)
        self.reward, self.value = load_scorer(reward), load_scorer(reward)
        if self.reward.config.vocab_size != self.policy.config.vocab_size:
            raise CourseError(
                f"The reward model in {reward} has {self.reward.config.vocab_size} tokens, the policy in {sft} has "
                f"{self.policy.config.vocab_size}: they come from different tokenizers. Train the reward model anew."
            )
        # The value model starts from the reward model, but expects 0, the mean reward of demonstrations:
        # the reward's head was trained on finished answers only, and misjudges beginnings.
        self.value.score = torch.nn.Linear(self.value.config.n_embd, 1, bias=False, device=device())
        torch.nn.init.zeros_(self.value.score.weight)
        self.windows = windows
        parameters = [*self.policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=profile.ppo_rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.generator = torch.Generator(device()).manual_seed(profile.seed + 17)
        self.shuffle = np.random.default_rng(profile.seed + 17)

    @torch.no_grad()
    def rollout(self, prompts: list[list[int]]) -> list[Rollout]:
        """Sample an answer to each prompt and work out rewards and advantages, as one Rollout a minibatch.

        Minibatches are made of sequences of like length: half of a random one would be padding.
        """
        profile = self.profile
        with autocast(profile):
            drawn = generate(self.policy, prompts, profile.answer_tokens, 1.0, self.pad, self.end, self.generator)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(drawn.tokens[i]))
        size = -(-len(prompts) // profile.minibatches)
        batches = [
            self.score([prompts[i] for i in part], [drawn.tokens[i] for i in part], [drawn.ended[i] for i in part])
            for part in (order[k : k + size] for k in range(0, len(order), size))
        ]
        valid = torch.cat([b.advantages[b.mask.bool()] for b in batches])
        mean, deviation = valid.mean(), valid.std(correction=0) + 1e-8
        for batch in batches:  # whitened over all of them, and over valid tokens only
            batch.advantages = (batch.advantages - mean) / deviation * batch.mask
        return batches

    def score(self, prompts: list[list[int]], answers: list[list[int]], ended: list[bool]) -> Rollout:
        """Rewards and advantages (not yet whitened) of a minibatch of answers."""
        profile = self.profile
        with autocast(profile):
            # The sampler's own probabilities differ by rounding from those of a pass over the whole
            # sequence, and the ratio must be 1 before the first step: so the old ones come from a pass.
            logprobs, mask, ids, attention = answer_logprobs(self.policy, prompts, answers, self.pad)
            width = mask.shape[1]
            reference = logprobs_of(self.reference, ids, attention, width, self.pad)
            scores = answer_scores(self.reward, ids, attention, F.pad(mask, (ids.shape[1] - width, 0)))
            values = self.values(ids, attention, width) * mask
        scores = (scores - self.reward.config.reward_mean) / self.reward.config.reward_std
        finished = torch.tensor(ended, device=ids.device)
        scores = torch.where(finished & (mask.sum(1) > 1), scores, NO_ANSWER)
        if not torch.isfinite(scores).all():
            raise CourseError("The reward model gave a reward that is not a number. Train it anew with a lower reward_rate.")
        logprobs, reference = logprobs * mask, reference * mask
        rewards = token_rewards(scores, logprobs - reference, mask, profile.kl_coefficient)
        advantages, returns = advantages_and_returns(rewards, values, mask)
        return Rollout(ids, attention, mask, logprobs, reference, values, rewards, advantages, returns, scores, finished)

    def values(self, ids: Tensor, attention: Tensor, width: int) -> Tensor:
        """Value before each answer token: read at the token before it, (batch, width)."""
        return token_scores(self.value, ids[:, :-1], attention[:, :-1])[:, -width:].float()

    def step(self, batch: Rollout, rate: float) -> dict[str, float]:
        """One optimizer step on a minibatch; returns what there is to log."""
        profile, width = self.profile, batch.mask.shape[1]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(profile):
            logprobs = logprobs_of(self.policy, batch.ids, batch.attention, width, self.pad) * batch.mask
            values = self.values(batch.ids, batch.attention, width) * batch.mask
        surrogate, clipped = policy_loss(logprobs, batch.logprobs, batch.advantages, batch.mask)
        error = value_loss(values, batch.values, batch.returns, batch.mask)
        moved = torch.expm1(logprobs - batch.logprobs) - (logprobs - batch.logprobs)  # k3 on tokens that the old policy drew
        logged = {
            "policy_loss": surrogate.item(), "value_loss": error.item(), "clip_fraction": clipped.item(),
            "step_kl": masked_mean(moved.detach(), batch.mask).item(),
        }  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        (surrogate + VALUE_COEFFICIENT * error).backward()
        logged["policy_gradient"], logged["value_gradient"] = gradient_norm(self.policy), gradient_norm(self.value)
        if self.windows is not None:
            chosen = self.shuffle.integers(len(self.windows), size=profile.ptx_windows)
            ids = torch.from_numpy(self.windows[chosen].astype(np.int64)).to(batch.ids.device)
            with autocast(profile):
                logits = self.policy(input_ids=ids, use_cache=False).logits[:, :-1]
            ptx = token_cross_entropy(logits, ids[:, 1:]).mean()
            alone = [p.grad.clone() for p in self.policy.parameters()]
            (profile.ptx_coefficient * ptx).backward()
            logged["ptx_loss"], logged["ptx_gradient"] = ptx.item(), gradient_norm(self.policy, alone)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        torch.nn.utils.clip_grad_norm_(self.value.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise CourseError(f"PPO's gradient is not a number at learning rate {rate:.1e}. Try half of it (ppo_rate).")
        self.optimizer.step()
        return logged | {"gradient_norm": float(norm)}

    def update(self, prompts: list[list[int]], rate: float) -> dict[str, float]:
        """Sample answers to `prompts`, then take the steps of all epochs on them."""
        batches = self.rollout(prompts)
        logs: list[dict[str, float]] = []
        for i in (i for _ in range(self.profile.ppo_epochs) for i in self.shuffle.permutation(len(batches))):
            logs.append(self.step(batches[i], rate))
            if logs[-1]["step_kl"] > STEP_KL:
                break
        everything = torch.cat([b.mask.bool().flatten() for b in batches])

        def flat(name: str) -> Tensor:  # the valid tokens of all minibatches
            return torch.cat([getattr(b, name).flatten() for b in batches])[everything]

        kl = {k: sum(kl_estimates(b.logprobs - b.reference, b.mask)[k] * len(b.scores) for b in batches) / len(prompts) for k in ("k1", "k2", "k3")}
        if kl["k3"] > MAX_KL:
            raise CourseError(f"PPO ran away: KL {kl['k3']:.0f} nats an answer. Try a lower ppo_rate or a higher kl_coefficient.")
        returns, error = flat("returns"), (flat("returns") - flat("values")) ** 2
        return {
            "reward": torch.cat([b.scores for b in batches]).mean().item(), **{f"kl_{k}": v for k, v in kl.items()},
            "length": everything.sum().item() / len(prompts), "ended": torch.cat([b.ended for b in batches]).float().mean().item(),
            "entropy": -flat("logprobs").mean().item(), "explained_variance": 1 - (error.mean() / returns.var().clamp(min=1e-8)).item(),
            **{k: float(np.mean([log[k] for log in logs])) for k in logs[0]}, "steps": len(logs), "rate": rate,
        }  # fmt: skip

    # -- resuming ------------------------------------------------------------------------------------------
    def save(self, folder: Path, update: int, rows: list[dict]) -> None:
        """A private checkpoint; `complete` is written last, so a half-written one is never used."""
        partial = folder / f"update-{update}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = {
            "policy": self.policy.state_dict(), "value": self.value.state_dict(), "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(), "shuffle": self.shuffle.bit_generator.state, "update": update, "rows": rows,
        }  # fmt: skip
        torch.save(state, partial / "state.pt")
        (partial / "complete").touch()
        for old in folder.glob("update-*"):
            if old != partial:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, folder: Path) -> tuple[int, list[dict]]:
        """Go on from the newest complete checkpoint; returns the update and the rows logged so far."""
        done = [f for f in folder.glob("update-*") if (f / "complete").exists()]
        if not done:
            return 0, []
        newest = max(done, key=lambda f: int(f.name.split("-")[1]))
        state = torch.load(newest / "state.pt", weights_only=True, map_location=device())
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.shuffle.bit_generator.state = state["shuffle"]
        return state["update"], state["rows"]


def train_ppo(
    profile: Profile, tokenizer, sft: Path, reward: Path, prompts: list[list[int]], windows: np.ndarray | None, store: Store,
    stage: str, folder: Path,
) -> None:  # fmt: skip
    """Train a policy with PPO (with PPO-ptx if there are `windows`) and write it into `folder`."""
    torch.manual_seed(profile.seed)
    ppo = PPO(profile, tokenizer, sft, reward, windows)
    resume = store.resume_folder(stage)
    first, rows = ppo.restore(resume)
    with Progress(stage, profile.ppo_updates, store.root, done=first) as progress:
        for update in range(first, profile.ppo_updates):
            draw = np.random.default_rng([profile.seed, update])
            batch = [prompts[i] for i in draw.choice(len(prompts), profile.episodes, replace=len(prompts) < profile.episodes)]
            rate = profile.ppo_rate * (1 - 0.9 * update / profile.ppo_updates)
            rows.append({"update": update, **ppo.update(batch, rate)})
            progress.step(note=f"reward {rows[-1]['reward']:+.2f}, KL {rows[-1]['kl_k3']:.1f}")
            if (update + 1) % 20 == 0 and update + 1 < profile.ppo_updates:
                ppo.save(resume, update + 1, rows)
    save_model(ppo.policy, folder, tokenizer)
    write_jsonl(folder / "metrics.jsonl", rows)
