"""The K-wise loss against brute force over pairs, and what surrounds it."""

from itertools import combinations
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_utils.reward import collate_scores, ranking_loss, scored_ids

ranking = st.integers(2, 9).flatmap(
    lambda k: st.tuples(st.lists(st.floats(-4, 4), min_size=k, max_size=k), st.lists(st.integers(1, k), min_size=k, max_size=k))
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ranking, min_size=1, max_size=5))
def test_loss_equals_brute_force_for_any_k_and_ties(rows):
    flat = torch.tensor([s for scores, _ in rows for s in scores], dtype=torch.float64)
    scores, ranks, mask = collate_scores(flat.float(), [r for _, r in rows])
    per_prompt = []
    for values, order in rows:
        losses = [
            log(1 + exp(-(values[i] - values[j]) * (1 if order[i] < order[j] else -1)))
            for i, j in combinations(range(len(values)), 2) if order[i] != order[j]
        ]  # fmt: skip
        if losses:
            per_prompt.append(sum(losses) / len(losses))
    expected = sum(per_prompt) / len(per_prompt) if per_prompt else 0.0
    assert float(ranking_loss(scores, ranks, mask)) == pytest.approx(expected, abs=1e-5)


def test_equal_scores_cost_log_two():
    assert float(ranking_loss(torch.zeros(3, 4), torch.tensor([[1, 2, 3, 4]] * 3))) == pytest.approx(log(2))


def test_all_tied_prompts_give_no_loss_and_no_nan():
    scores = torch.randn(2, 4, requires_grad=True)
    loss = ranking_loss(scores, torch.ones(2, 4, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(scores.grad).all()


def test_at_k_2_it_is_trls_loss():
    """RewardTrainer's loss is -log sigmoid(chosen - rejected)."""
    chosen, rejected = torch.randn(6), torch.randn(6)
    ours = ranking_loss(torch.stack([rejected, chosen], 1), torch.tensor([[2, 1]] * 6))
    assert float(ours) == pytest.approx(float(-torch.nn.functional.logsigmoid(chosen - rejected).mean()), abs=1e-6)


def test_the_end_is_part_of_what_is_scored(tiny):
    from rlhf_utils.stages import tokenizer_of

    tokenizer = tokenizer_of(tiny)
    for answer in ("Cows eat grass.", "", "word " * 500):
        prompt, ids = scored_ids(tiny.profile, tokenizer, [{"role": "user", "content": "Hello!"}], answer)
        assert ids[-1] == tokenizer.eos_token_id and len(prompt) + len(ids) <= tiny.profile.context


def test_rewards_are_shifted_and_scaled(tiny):
    from rlhf_utils.artifacts import read_jsonl
    from rlhf_utils.models import load_scorer
    from rlhf_utils.reward import rewards
    from rlhf_utils.stages import tokenizer_of

    model, tokenizer = load_scorer(tiny.folder("reward")), tokenizer_of(tiny)
    rows = read_jsonl(tiny.folder("corpus") / "demonstrations.jsonl")
    values = rewards(model, [scored_ids(tiny.profile, tokenizer, r["messages"], r["completion"]) for r in rows], 1, tiny.profile)
    assert np.mean(values) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("likelihood", [0.0, 0.3])
def test_reading_a_prompt_once_changes_no_score_and_no_gradient(tiny, likelihood):
    from rlhf_utils.models import answer_scores, load_scorer, packed_scores, pad_answers

    model = load_scorer(tiny.folder("reward"))
    model.config.likelihood = likelihood
    torch.manual_seed(0)
    rows = [([5, 6, 7], [[8, 1], [9, 10, 11, 1], [1]]), ([12] * 20, [[k, k + 1, 1] for k in range(20, 29)]), ([4], [[3] * 23 + [1], [2, 1]])]
    pairs = [(prompt, answer) for prompt, answers in rows for answer in answers]
    found = []
    for scores in (packed_scores(model, rows, 0), answer_scores(model, *pad_answers(pairs, 0))):
        model.zero_grad()
        (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
        found.append((scores.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (packed, packed_gradient), (plain, plain_gradient) = found
    assert torch.allclose(packed, plain, atol=1e-5)
    assert torch.allclose(packed_gradient, plain_gradient, atol=1e-4 * float(plain_gradient.abs().max()))
