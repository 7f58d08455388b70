"""PPO's pieces against values worked out by hand, and its invariants on a tiny run."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf_utils.artifacts.files import read_jsonl
from rlhf_utils.environment import CourseError
from rlhf_utils.language.device import autocast
from rlhf_utils.language.models import load_gpt2, save_model
from rlhf_utils.language.packing import pack
from rlhf_utils.language.sampling import Answers, generate
from rlhf_utils.language.scoring import answer_logprobs
from rlhf_utils.language.tokenizer import prompt_ids, save_tokenizer, train_tokenizer
from rlhf_utils.training import ppo as ppo_module
from rlhf_utils.training.masked import masked_mean, whiten
from rlhf_utils.training.ppo import PPO, advantages_and_returns, policy_loss, token_rewards, value_loss
from rlhf_utils.training.ppo_log import kl_estimates
from rlhf_utils.training.ppo_run import train_ppo

MASK = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]])


def test_score_falls_on_the_last_token_and_kl_on_all():
    rewards = token_rewards(
        torch.tensor([1.0, -2.0]), torch.tensor([[0.5, -0.5, 1, 9], [2, 0, 9, 9.0]]), MASK, beta=0.1
    )
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


def test_losses_and_gradients_equal_float64_values():
    """Everything from scores to gradients, token by token in float64, against the package in float32."""
    rng = np.random.default_rng(3)
    lengths, time, beta = [5, 1, 3, 4], 5, 0.1
    mask = (np.arange(time) < np.array(lengths)[:, None]).astype(float)
    new, old, reference, values, old_values = (
        rng.normal(size=mask.shape) * scale for scale in (0.3, 0.3, 0.5, 1.0, 1.0)
    )
    scores = rng.normal(size=4)
    gae, targets = np.zeros_like(mask), np.zeros_like(mask)
    for i, length in enumerate(lengths):
        rewards = [
            -beta * (old[i, t] - reference[i, t]) + (scores[i] if t == length - 1 else 0)
            for t in range(length)
        ]
        for t in range(length):
            errors = [
                rewards[s] + (old_values[i, s + 1] if s + 1 < length else 0) - old_values[i, s]
                for s in range(length)
            ]
            gae[i, t] = sum((1.0 * 0.95) ** (s - t) * errors[s] for s in range(t, length))
            targets[i, t] = gae[i, t] + old_values[i, t]
    valid = gae[mask == 1]
    white = (gae - valid.mean()) / (valid.std() + 1e-8) * mask
    surrogate = error = 0.0
    by_logprob, by_value = np.zeros_like(mask), np.zeros_like(mask)
    for i, length in enumerate(lengths):
        for t in range(length):
            ratio, advantage = math.exp(new[i, t] - old[i, t]), white[i, t]
            bounded = min(max(ratio, 0.8), 1.2)
            surrogate -= min(ratio * advantage, bounded * advantage) / mask.sum()
            if ratio * advantage <= bounded * advantage:  # the clip takes no part
                by_logprob[i, t] = -ratio * advantage / mask.sum()
            near = old_values[i, t] + min(max(values[i, t] - old_values[i, t], -0.2), 0.2)
            plain, held = (values[i, t] - targets[i, t]) ** 2, (near - targets[i, t]) ** 2
            error += 0.5 * max(plain, held) / mask.sum()
            if plain >= held:
                by_value[i, t] = (values[i, t] - targets[i, t]) / mask.sum()
            elif near == values[i, t]:
                by_value[i, t] = (near - targets[i, t]) / mask.sum()

    def single(x):
        return torch.tensor(x, dtype=torch.float32)

    m = single(mask)
    rewards = token_rewards(single(scores), single(old - reference), m, beta)
    advantages, returns = advantages_and_returns(rewards, single(old_values) * m, m)
    (found,) = whiten([advantages], [m])
    assert advantages.numpy() == pytest.approx(gae, abs=1e-5) and returns.numpy() == pytest.approx(
        targets, abs=1e-5
    )
    assert found.numpy() == pytest.approx(white, abs=1e-5)
    logprobs, predicted = single(new).requires_grad_(), single(values).requires_grad_()
    one, other = (
        policy_loss(logprobs, single(old), found, m)[0],
        value_loss(predicted, single(old_values), returns, m),
    )
    (one + other).backward()
    assert one.item() == pytest.approx(surrogate, abs=1e-5) and other.item() == pytest.approx(error, abs=1e-5)
    assert logprobs.grad.numpy() == pytest.approx(
        by_logprob, abs=1e-5
    ) and predicted.grad.numpy() == pytest.approx(by_value, abs=1e-5)
    log_ratio = new - reference
    exact = {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": np.exp(-log_ratio) - 1 + log_ratio}
    for name, value in kl_estimates(single(log_ratio), m).items():
        assert value == pytest.approx((exact[name] * mask).sum(1).mean(), abs=1e-5)


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
    return PPO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"), tiny.windows())


def rollouts(ppo, prompts):
    """One Rollout a minibatch."""
    minibatches = ppo.rollout(prompts, ppo.sample(prompts))
    assert all(len(parts) == 1 for parts in minibatches)
    return [rollout for parts in minibatches for rollout in parts]


@pytest.fixture(scope="module")
def prompts(tiny):
    return [
        prompt_ids(tiny.tokenizer(), p["messages"], tiny.profile.prompt_tokens)
        for p in tiny.prompts("ppo")[:16]
    ]


def test_ratio_is_1_and_kl_0_before_the_first_step(ppo, prompts):
    for batch in rollouts(ppo, prompts):
        assert (batch.logprobs - batch.reference).abs().max() == 0
        with torch.no_grad():
            again, values = ppo.logprobs_and_values(batch.packed)
        assert torch.equal(again, batch.logprobs) and torch.equal(values, batch.values)


def test_whitening_looks_at_valid_tokens_of_all_minibatches(ppo, prompts):
    batches = rollouts(ppo, prompts)
    assert len(batches) == ppo.profile.minibatches and sum(len(b.scores) for b in batches) == len(prompts)
    valid = torch.cat([b.advantages[b.mask.bool()] for b in batches])
    assert valid.mean().item() == pytest.approx(0, abs=1e-5) and valid.pow(2).mean().item() == pytest.approx(
        1, abs=1e-4
    )


def test_nothing_after_the_end_counts(ppo, prompts):
    for batch in rollouts(ppo, prompts):
        outside = batch.mask == 0
        for name in ("logprobs", "reference", "values", "rewards", "advantages", "returns"):
            assert getattr(batch, name)[outside].abs().sum() == 0, name


def test_an_answer_that_never_ends_or_never_begins_gets_the_penalty(ppo):
    batch = ppo.score(
        [[5, 6], [7], [7]], Answers([[8, 9], [8, ppo.end], [ppo.end]], [False, True, True]), range(3)
    )
    assert batch.scores[0] == -3.0 and batch.scores[1] != -3.0 and batch.scores[2] == -3.0


def test_ptx_gradient_is_the_sum_of_both_parts(ppo, prompts, monkeypatch):
    """With the same windows, gradient(PPO + γ ptx) = gradient(PPO) + γ gradient(ptx)."""
    batch = rollouts(ppo, prompts)[0]

    def gradient(windows, coefficient):
        ppo.windows, ppo.profile = windows, replace(ppo.profile, ptx_coefficient=coefficient)
        ppo.shuffle = np.random.default_rng(0)
        kept = {n: p.detach().clone() for n, p in ppo.policy.named_parameters()}
        ppo.step([batch], 0.0)
        for n, p in ppo.policy.named_parameters():
            p.data.copy_(kept[n])
        return torch.cat([p.grad.flatten() for p in ppo.policy.parameters()])

    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", lambda *_: None)
    windows = ppo.windows
    plain, one, two = gradient(None, 0.0), gradient(windows, 1.0), gradient(windows, 2.0)
    assert (one - plain).norm() > 0
    assert torch.allclose(two - plain, 2 * (one - plain), atol=1e-5)
    batches, forward = [], ppo.policy.forward
    monkeypatch.setattr(ppo, "at_once", 1)  # where not all windows fit into memory at once
    monkeypatch.setattr(
        ppo.policy, "forward", lambda *a, **k: batches.append(len(k["input_ids"])) or forward(*a, **k)
    )
    assert torch.allclose(gradient(windows, 1.0), one, atol=1e-5)
    assert batches[-ppo.profile.ptx_windows :] == [1] * ppo.profile.ptx_windows


def test_each_part_of_the_gradient_is_logged_before_clipping(ppo, prompts):
    batch = rollouts(ppo, prompts)[0]
    logged = ppo.step([batch], 0.0)
    assert logged["step_kl"] == 0  # nothing has moved yet
    assert min(logged[f"{part}_gradient"] for part in ("policy", "value", "ptx")) > 0
    whole = logged["gradient_norm"]  # of policy and ptx together, before clipping
    assert (
        abs(logged["policy_gradient"] - logged["ptx_gradient"])
        <= whole
        <= logged["policy_gradient"] + logged["ptx_gradient"] + 1e-6
    )


def test_microbatches_add_up_to_the_step_of_the_whole_minibatch(tiny, prompts, monkeypatch):
    """What a GPU reads in parts is the step that a CPU takes at once, but for rounding."""
    found = {}
    for at_once in (16, 3):
        monkeypatch.setattr(ppo_module, "room_of_ppo", lambda _, n=at_once: (n, False))
        profile = replace(tiny.profile, precision="fp32")
        ppo = PPO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"), tiny.windows())
        logged, answers = ppo.update(prompts, 1e-3)
        weights = torch.cat([p.detach().flatten() for p in ppo.policy.parameters()])
        found[at_once] = logged, answers, weights
    (one, drawn, weights), (parts, again, others) = found[16], found[3]
    assert drawn == again
    assert {k: pytest.approx(v, abs=1e-3, rel=1e-3) for k, v in one.items()} == parts
    # A weight whose gradient is 0 but for rounding may take Adam's first steps either way.
    assert (weights - others).abs().mean() < 1e-6


def test_a_value_model_of_its_own_learns_alike_whatever_its_coefficient(tiny, prompts, monkeypatch):
    """Adam divides by the size of the gradient, as long as nothing is clipped."""
    steps = []
    for coefficient in (0.01, 0.1):
        monkeypatch.setattr(ppo_module, "VALUE_COEFFICIENT", coefficient)
        monkeypatch.setattr(ppo_module, "LONGEST_GRADIENT", 1e9)
        profile = replace(tiny.profile, precision="fp32")
        ppo = PPO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"))
        ppo.step(ppo.rollout(prompts, ppo.sample(prompts))[0], 1e-3)
        steps.append(ppo.head.weight.detach().clone())
    assert steps[0].abs().max() > 1e-4 and torch.allclose(*steps, atol=1e-5)


def test_steps_end_when_the_policy_has_left_what_it_sampled(ppo, prompts):
    (calm, _), (wild, _) = ppo.update(prompts, 1e-6), ppo.update(prompts, 0.3)
    assert calm["steps"] == ppo.profile.ppo_epochs * ppo.profile.minibatches and calm["step_kl"] < 1e-3
    assert wild["steps"] < calm["steps"] and wild["step_kl"] > 0.05


@pytest.mark.parametrize(
    "change", [{"one_trunk": True}, {"lora": 4}, {"lora": 4, "one_trunk": True}, {"ppo_temperature": 0.7}]
)
def test_variants_start_at_the_sft_model_and_train(tiny, prompts, change):
    profile = replace(tiny.profile, precision="fp32", **change)
    ppo = PPO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"), tiny.windows())
    before = {n: p.detach().clone() for n, p in ppo.policy.named_parameters()}
    for batch in rollouts(ppo, prompts):
        assert (batch.logprobs - batch.reference).abs().max() == 0
        with torch.no_grad():
            assert torch.equal(ppo.logprobs_and_values(batch.packed)[0], batch.logprobs)
    for _ in range(3):
        logged, _ = ppo.update(prompts, 3e-3)
    assert logged["kl_k3"] > 0
    moved = {n for n, p in ppo.policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(("lora" in n) == bool(profile.lora) for n in moved)


def test_a_lora_policy_samples_what_its_merged_weights_say(tiny, prompts, tmp_path):
    profile = replace(tiny.profile, precision="fp32", lora=4)
    ppo = PPO(profile, tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward"))
    for _ in range(3):
        ppo.update(prompts, 3e-3)
    tokens = generate(ppo.policy, prompts, 12, 0.0, ppo.pad, ppo.end).tokens
    packed = pack([(p, [t]) for p, t in zip(prompts, tokens)], ppo.pad)
    with torch.no_grad():
        adapted = answer_logprobs(ppo.policy, packed, ppo.pad)
        save_model(ppo.policy, tmp_path)
        assert (answer_logprobs(load_gpt2(tmp_path), packed, ppo.pad) - adapted).abs().max() < 1e-4
        assert (answer_logprobs(tiny.model("sft"), packed, ppo.pad) - adapted).abs().max() > 1e-3
    assert generate(load_gpt2(tmp_path), prompts, 12, 0.0, ppo.pad, ppo.end).tokens == tokens
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_bfloat16_changes_the_first_ratio_by_little(tiny, prompts):
    """Scored in the same minibatch the ratio is 1 in any precision; scored alone, bfloat16 rounds."""
    ppo = PPO(
        replace(tiny.profile, precision="bf16"), tiny.tokenizer(), tiny.folder("sft"), tiny.folder("reward")
    )
    batch = rollouts(ppo, prompts)[0]
    with torch.no_grad(), autocast(ppo.profile):
        assert torch.equal(ppo.logprobs_and_values(batch.packed)[0], batch.logprobs)
    alone = answer_logprobs(ppo.policy, batch.packed, ppo.pad).detach()
    assert 0 < (alone - batch.logprobs).abs().mean() < 0.02


# -- bad input ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_stops_at_once(ppo, prompts, value):
    ppo.reward.score.weight.data.fill_(value)
    with pytest.raises(CourseError, match="not a finite number"):
        ppo.update(prompts, 1e-4)


def test_answers_without_a_token_take_no_part(ppo):
    batch = ppo.score([[5, 6], [7], [7]], Answers([[], [8, ppo.end], []], [False, True, False]), range(3))
    assert (
        batch.mask.sum(1).tolist() == [0, 2, 0]
        and batch.rewards[0].abs().sum() == 0
        and batch.scores[0] == -3.0
    )
    assert torch.isfinite(batch.advantages).all()
    assert all(math.isfinite(v) for v in ppo.step([batch], 1e-4).values())


def test_answers_that_never_end_all_get_the_penalty_and_train_on(ppo, prompts):
    ppo.end = -1
    logged, _ = ppo.update(prompts, 1e-4)
    assert (
        logged["ended"] == 0 and logged["reward"] == -3.0 and all(math.isfinite(v) for v in logged.values())
    )


@pytest.mark.parametrize("episodes, minibatches", [(10, 4), (3, 8), (1, 1)])
def test_batches_that_do_not_divide(ppo, prompts, episodes, minibatches):
    ppo.profile = replace(ppo.profile, episodes=episodes, minibatches=minibatches)
    batches = rollouts(ppo, prompts[:episodes])
    assert (
        sorted(n for b in batches for n in [len(b.scores)])
        and sum(len(b.scores) for b in batches) == episodes
    )
    assert max(len(b.scores) for b in batches) - min(len(b.scores) for b in batches) <= 1
    assert all(math.isfinite(v) for v in ppo.update(prompts[:episodes], 1e-4)[0].values())


def test_a_rate_that_diverges_says_where_and_goes_on_from_the_last_good_checkpoint(
    tiny, prompts, tmp_path, monkeypatch
):
    monkeypatch.setattr("rlhf_utils.training.ppo_run.SAVE_EVERY", 1)
    # A wrecked policy may also say one word only, which is but a few nats.
    monkeypatch.setattr("rlhf_utils.training.ppo_run.MAX_KL", 2.0)

    def run(rate, updates):
        profile = replace(tiny.profile, precision="fp32", ppo_updates=updates, ppo_rate=rate)
        train_ppo(
            profile,
            tiny.tokenizer(),
            tiny.folder("sft"),
            tiny.folder("reward"),
            prompts,
            None,
            tmp_path,
            tmp_path / ".resume",
        )

    calm = PPO.update

    def wild(self, batch, rate):  # calm at first, then the rate of 100 that was asked for
        done = len(list((tmp_path / ".resume").glob("update-*")))
        return calm(self, batch, 1e-4 if done < 2 else rate)

    monkeypatch.setattr(PPO, "update", wild)
    with pytest.raises(
        CourseError,
        match=r"ppo stopped at update \d+ of 12: .*KL.* before\. Try half the ppo_rate .* goes on from "
        r"update [1-9]",
    ):
        run(100.0, 12)
    kept = max(int(f.name.split("-")[1]) for f in (tmp_path / ".resume").glob("update-*"))
    monkeypatch.setattr(PPO, "update", calm)
    run(1e-4, kept + 1)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [r["update"] for r in rows] == list(range(kept + 1)) and rows[-1][
        "kl_k1"
    ] < 2  # what it went on from was sound


def test_a_reward_model_of_another_tokenizer_is_refused(tiny, tmp_path):
    from rlhf_utils.language.models import gpt2_config, save_model

    config = gpt2_config(tiny.profile, tiny.tokenizer())
    config.vocab_size += 8
    from transformers import GPT2ForSequenceClassification

    config.reward_mean, config.reward_std = 0.0, 1.0
    save_model(GPT2ForSequenceClassification(config), tmp_path)
    with pytest.raises(CourseError, match="another tokenizer"):
        PPO(tiny.profile, tiny.tokenizer(), tiny.folder("sft"), tmp_path)


def test_an_sft_model_of_another_tokenizer_of_the_same_size_is_refused(tiny, tmp_path):
    tokenizer = tiny.tokenizer()
    shutil.copytree(tiny.folder("sft"), tmp_path / "sft")
    other = train_tokenizer([row["text"][::-1] for row in tiny.documents()], len(tokenizer))
    assert len(other) == len(tokenizer)
    save_tokenizer(other, tmp_path / "sft")
    with pytest.raises(CourseError, match="sft was made with another tokenizer"):
        PPO(tiny.profile, tokenizer, tmp_path / "sft", tiny.folder("reward"))


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2)) == 0
