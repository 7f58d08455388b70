"""PPO's pieces against values worked out by hand, and its invariants on a tiny run."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf_utils.models import load_gpt2
from rlhf_utils.ppo import (
    PPO,
    advantages_and_returns,
    kl_estimates,
    masked_mean,
    policy_loss,
    token_rewards,
    train_ppo,
    value_loss,
)  # fmt: skip
from rlhf_utils.profiles import CourseError
from rlhf_utils.stages import prompts_of, tokenizer_of, windows_of
from rlhf_utils.tokenizer import prompt_ids

MASK = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]])


def test_score_falls_on_the_last_token_and_kl_on_all():
    rewards = token_rewards(torch.tensor([1.0, -2.0]), torch.tensor([[0.5, -0.5, 1, 9], [2, 0, 9, 9.0]]), MASK, beta=0.1)
    assert rewards.tolist() == [pytest.approx([-0.05, 0.05, 0.9, 0]), pytest.approx([-0.2, -2.0, 0, 0])]


def test_advantages_equal_the_sum_of_discounted_errors():
    rewards = torch.tensor([[0.1, -0.2, 1.0, 0], [0.3, -1.0, 0, 0]])
    values = torch.tensor([[0.5, 0.4, 0.3, 7], [0.2, -0.1, 7, 7]])
    advantages, returns = advantages_and_returns(rewards, values, MASK)
    for row, length in ((0, 3), (1, 2)):
        r, v = rewards[row, :length].double().tolist(), values[row, :length].double().tolist()
        errors = [r[t] + (v[t + 1] if t + 1 < length else 0.0) - v[t] for t in range(length)]
        expected = [sum(0.95 ** (s - t) * errors[s] for s in range(t, length)) for t in range(length)]
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-6)
        assert returns[row, :length].tolist() == pytest.approx([a + b for a, b in zip(expected, v)], abs=1e-6)
    assert advantages[MASK == 0].abs().sum() == 0 and returns[MASK == 0].abs().sum() == 0


def test_policy_loss_clips_and_its_gradient_stops_there():
    old = torch.zeros(1, 3)
    logprobs = torch.tensor([[0.0, math.log(1.5), math.log(0.5)]], requires_grad=True)
    advantages, mask = torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(1, 3)
    loss, clipped = policy_loss(logprobs, old, advantages, mask)
    assert loss.item() == pytest.approx(-(1.0 + 1.2 + 0.5) / 3) and clipped.item() == pytest.approx(1 / 3)
    loss.backward()
    assert logprobs.grad[0].tolist() == pytest.approx([-1 / 3, 0.0, -0.5 / 3])


def test_value_loss_takes_the_worse_of_clipped_and_not():
    loss = value_loss(torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[0.1]]), torch.ones(1, 1))
    assert loss.item() == pytest.approx(0.5 * max((1 - 0.1) ** 2, (0.2 - 0.1) ** 2))


def test_kl_estimates_agree_with_the_exact_kl():
    rng = np.random.default_rng(0)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.4, 0.4, 0.2])
    exact = (p * np.log(p / q)).sum()
    draws = rng.choice(3, 200_000, p=p)
    log_ratio = torch.tensor(np.log(p / q)[draws])[:, None]
    found = kl_estimates(log_ratio, torch.ones_like(log_ratio))
    assert found["k1"] == pytest.approx(exact, abs=0.005) and found["k3"] == pytest.approx(exact, abs=0.005)


@pytest.fixture
def ppo(tiny):
    profile = replace(tiny.profile, precision="fp32")
    return PPO(profile, tokenizer_of(tiny), tiny.folder("sft"), tiny.folder("reward"), windows_of(tiny))


@pytest.fixture(scope="module")
def prompts(tiny):
    return [prompt_ids(tokenizer_of(tiny), p["messages"], tiny.profile.prompt_tokens) for p in prompts_of(tiny, "ppo")[:16]]


def test_ratio_is_1_and_kl_0_before_the_first_step(ppo, prompts):
    for batch in ppo.rollout(prompts):
        assert (batch.logprobs - batch.reference).abs().max() == 0
        with torch.no_grad():
            again, values = ppo.look(batch.packed)
        assert torch.equal(again, batch.logprobs) and torch.equal(values, batch.values)


def test_whitening_looks_at_valid_tokens_of_all_minibatches(ppo, prompts):
    batches = ppo.rollout(prompts)
    assert len(batches) == ppo.profile.minibatches and sum(len(b.scores) for b in batches) == len(prompts)
    valid = torch.cat([b.advantages[b.mask.bool()] for b in batches])
    assert valid.mean().item() == pytest.approx(0, abs=1e-5) and valid.pow(2).mean().item() == pytest.approx(1, abs=1e-4)


def test_nothing_after_the_end_counts(ppo, prompts):
    for batch in ppo.rollout(prompts):
        outside = batch.mask == 0
        for name in ("logprobs", "reference", "values", "rewards", "advantages", "returns"):
            assert getattr(batch, name)[outside].abs().sum() == 0, name


def test_an_answer_that_never_ends_or_never_begins_gets_the_penalty(ppo):
    batch = ppo.score([[5, 6], [7], [7]], [[8, 9], [8, ppo.end], [ppo.end]], [False, True, True])
    assert batch.scores[0] == -3.0 and batch.scores[1] != -3.0 and batch.scores[2] == -3.0


def test_ptx_gradient_is_the_sum_of_both_parts(ppo, prompts):
    """With the same windows, gradient(PPO + γ ptx) = gradient(PPO) + γ gradient(ptx)."""
    batch = ppo.rollout(prompts)[0]

    def gradient(windows, coefficient):
        ppo.windows, ppo.profile = windows, replace(ppo.profile, ptx_coefficient=coefficient)
        ppo.shuffle = np.random.default_rng(0)
        kept = {n: p.detach().clone() for n, p in ppo.policy.named_parameters()}
        clip = torch.nn.utils.clip_grad_norm_
        torch.nn.utils.clip_grad_norm_ = lambda parameters, norm: torch.tensor(1.0)
        try:
            ppo.step(batch, 0.0)
        finally:
            torch.nn.utils.clip_grad_norm_ = clip
        for n, p in ppo.policy.named_parameters():
            p.data.copy_(kept[n])
        return torch.cat([p.grad.flatten() for p in ppo.policy.parameters()])

    windows = ppo.windows
    plain, one, two = gradient(None, 0.0), gradient(windows, 1.0), gradient(windows, 2.0)
    assert (one - plain).norm() > 0
    assert torch.allclose(two - plain, 2 * (one - plain), atol=1e-5)


def test_each_part_of_the_gradient_is_logged_before_clipping(ppo, prompts):
    batch = ppo.rollout(prompts)[0]
    logged = ppo.step(batch, 0.0)
    assert logged["step_kl"] == 0  # nothing has moved yet
    assert min(logged[f"{part}_gradient"] for part in ("policy", "value", "ptx")) > 0
    whole = logged["gradient_norm"]  # of policy and ptx together, before clipping
    assert abs(logged["policy_gradient"] - logged["ptx_gradient"]) <= whole <= logged["policy_gradient"] + logged["ptx_gradient"] + 1e-6


def test_steps_end_when_the_policy_has_left_what_it_sampled(ppo, prompts):
    calm, wild = ppo.update(prompts, 1e-6), ppo.update(prompts, 0.3)
    assert calm["steps"] == ppo.profile.ppo_epochs * ppo.profile.minibatches and calm["step_kl"] < 1e-3
    assert wild["steps"] < calm["steps"] and wild["step_kl"] > 0.05


def test_same_seed_same_run_and_killed_runs_resume(tiny, prompts, tmp_path, monkeypatch):
    """Stopped after any update and resumed, PPO ends with the very same weights."""
    profile = replace(tiny.profile, precision="fp32", ppo_updates=4)

    class Here:
        root = tmp_path

        def resume_folder(self, stage):
            return tmp_path / f".{stage}.resume"

    def run(name):
        folder = tmp_path / name
        folder.mkdir()
        train_ppo(profile, tokenizer_of(tiny), tiny.folder("sft"), tiny.folder("reward"), prompts, windows_of(tiny), Here(), name, folder)
        return load_gpt2(folder).state_dict()

    whole, again = run("whole"), run("again")
    assert all(torch.equal(whole[k], again[k]) for k in whole)

    original, calls = PPO.update, []

    def update(self, batch, rate):
        calls.append(rate)
        if len(calls) == 3:
            raise KeyboardInterrupt
        logged = original(self, batch, rate)
        self.save(tmp_path / ".killed.resume", len(calls), [{"update": len(calls) - 1, **logged}])
        return logged

    monkeypatch.setattr(PPO, "update", update)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    monkeypatch.setattr(PPO, "update", original)
    (tmp_path / "killed").rmdir()
    resumed = run("killed")
    assert len(calls) == 3
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_reward_model_of_another_tokenizer_is_refused(tiny, tmp_path):
    from rlhf_utils.models import gpt2_config, save_model

    config = gpt2_config(tiny.profile, tokenizer_of(tiny))
    config.vocab_size += 8
    from transformers import GPT2ForSequenceClassification

    config.reward_mean, config.reward_std = 0.0, 1.0
    save_model(GPT2ForSequenceClassification(config), tmp_path)
    with pytest.raises(CourseError, match="another tokenizer"):
        PPO(tiny.profile, tokenizer_of(tiny), tiny.folder("sft"), tmp_path)


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2)) == 0
