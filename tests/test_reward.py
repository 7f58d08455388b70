"""The K-wise loss against brute force over pairs, and what surrounds it."""

from dataclasses import replace
from itertools import combinations
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_utils.artifacts import processes
from rlhf_utils.language.packing import side_by_side
from rlhf_utils.training.reward import (
    RankingModel,
    collate_scores,
    encode_rankings,
    ranking_loss,
    score_answers,
    scored_ids,
)

ranking = st.integers(2, 9).flatmap(
    lambda k: st.tuples(
        st.lists(st.floats(-4, 4), min_size=k, max_size=k),
        st.lists(st.integers(1, k), min_size=k, max_size=k),
    )
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
            for i, j in combinations(range(len(values)), 2)
            if order[i] != order[j]
        ]
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


@pytest.mark.parametrize("ranks", [[[1]], [[1, 1, 1], [2, 2]]])
def test_rankings_that_prefer_nothing_are_refused(tiny, tmp_path, ranks):
    """A single answer, or ties alone: no loss, no gradient,
    and a clear error where one would train on them.
    """
    from rlhf_utils.environment import CourseError
    from rlhf_utils.training.reward import train_reward

    assert all(float(ranking_loss(torch.randn(1, len(r)), torch.tensor([r]))) == 0 for r in ranks)
    rows = [
        {"messages": [{"role": "user", "content": "Hello"}], "answers": ["Hi."] * len(r), "ranks": r}
        for r in ranks
    ]
    with pytest.raises(CourseError, match="None of the . rankings prefers"):
        train_reward(
            tiny.profile,
            tiny.tokenizer(),
            tiny.folder("pretrain"),
            rows,
            [],
            [],
            None,
            tmp_path,
            tmp_path / "resume",
        )


def test_where_ties_count_rankings_of_ties_alone_train(tiny, tmp_path):
    """Rao and Kupper's loss learns from ties, so they are not refused there; a single answer still is."""
    from rlhf_utils.environment import CourseError
    from rlhf_utils.training.reward import train_reward

    rows = [
        {"messages": [{"role": "user", "content": "Hello"}], "answers": ["Hi.", "Good day."], "ranks": [1, 1]}
    ]
    rest = (tiny.prompts("demonstrations")[:4], rows, tiny.windows(), tmp_path, tmp_path / "resume")
    train_reward(tiny.profile, tiny.tokenizer(), tiny.folder("pretrain"), rows, *rest, tie_threshold=0.5)
    assert (tmp_path / "model.safetensors").is_file()
    single = [{**rows[0], "answers": ["Hi."], "ranks": [1]}]
    with pytest.raises(CourseError, match="None of the 1 rankings prefers"):
        train_reward(
            tiny.profile, tiny.tokenizer(), tiny.folder("pretrain"), single, *rest, tie_threshold=0.5
        )


def test_at_k_2_it_is_the_loss_of_trls_reward_trainer(tiny, tmp_path):
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from rlhf_utils.language.packing import pack
    from rlhf_utils.language.scoring import answer_scores

    pass

    tokenizer, model = tiny.tokenizer(), tiny.model("reward")
    model.config.likelihood = 0.0  # the head alone, as theirs
    rows = [
        ([5, 6, 7 + i], [[8 + i, 9, tokenizer.eos_token_id], [10, tokenizer.eos_token_id]]) for i in range(6)
    ]
    pairs = [{"chosen_ids": prompt + best, "rejected_ids": prompt + worst} for prompt, (best, worst) in rows]
    config = RewardConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        report_to="none",
    )
    trainer = RewardTrainer(model, config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    theirs = trainer.compute_loss(model, next(iter(trainer.get_train_dataloader())))
    ours = ranking_loss(
        answer_scores(model, pack(rows, tokenizer.pad_token_id)).view(6, 2), torch.tensor([[1, 2]] * 6)
    )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("gap, threshold", [(0.0, 0.5), (1.3, 0.5), (-2.0, 1.5)])
def test_rao_kupper_gives_better_worse_and_tied_probabilities_that_add_up(gap, threshold):
    scores = torch.tensor([[gap, 0.0]])
    better, worse, tied = (
        float(torch.exp(-ranking_loss(scores, torch.tensor([ranks]), tie_threshold=threshold)))
        for ranks in ([1, 2], [2, 1], [1, 1])
    )
    theta = exp(threshold)
    assert better == pytest.approx(exp(gap) / (exp(gap) + theta), abs=1e-5)
    assert tied == pytest.approx(
        (theta**2 - 1) * exp(gap) / ((exp(gap) + theta) * (1 + theta * exp(gap))), abs=1e-5
    )
    assert better + worse + tied == pytest.approx(1.0, abs=1e-5)


def test_ties_pull_scores_together_only_where_they_are_counted():
    for threshold, moves in ((0.0, False), (0.5, True)):
        scores = torch.tensor([[2.0, 0.0]], requires_grad=True)
        ranking_loss(scores, torch.tensor([[1, 1]]), tie_threshold=threshold).backward()
        assert (scores.grad[0, 0] > 0) == moves and (scores.grad[0, 1] < 0) == moves


def test_rankings_count_alike_and_one_of_ties_alone_does_not():
    scores, ranks = torch.randn(3, 4), torch.tensor([[1, 2, 3, 4], [4, 3, 2, 2], [1, 1, 1, 1]])
    first, second = (ranking_loss(scores[i : i + 1], ranks[i : i + 1]) for i in (0, 1))
    assert float(ranking_loss(scores, ranks)) == pytest.approx(float((first + second) / 2), abs=1e-6)


def test_the_end_is_part_of_what_is_scored(tiny):
    pass

    tokenizer = tiny.tokenizer()
    for answer in ("Cows eat grass.", "", "word " * 500):
        prompt, ids = scored_ids(tiny.profile, tokenizer, [{"role": "user", "content": "Hello!"}], answer)
        assert ids[-1] == tokenizer.eos_token_id and len(prompt) + len(ids) <= tiny.profile.context


def test_rewards_are_shifted_and_scaled(tiny):
    from rlhf_utils.artifacts.files import read_jsonl
    from rlhf_utils.training.reward import rewards

    model, tokenizer = tiny.model("reward"), tiny.tokenizer()
    rows = read_jsonl(tiny.folder("corpus") / "demonstrations.jsonl")
    values = rewards(
        model,
        [scored_ids(tiny.profile, tokenizer, r["messages"], r["completion"]) for r in rows],
        1,
        tiny.profile,
    )
    assert np.mean(values) == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize("likelihood", [0.0, 0.3])
def test_reading_a_prompt_once_changes_no_score_and_no_gradient(tiny, likelihood):
    """K answers packed behind one prompt,
    against each answer alone through transformers' own forward pass.
    """
    from rlhf_utils.language.packing import pack
    from rlhf_utils.language.scoring import answer_scores

    model = tiny.model("reward")
    model.config.likelihood = likelihood
    rows = [
        ([5, 6, 7], [[8, 1], [9, 10, 11, 1], [1]]),
        ([12] * 20, [[k, k + 1, 1] for k in range(20, 29)]),
        ([4], [[3] * 23 + [1], [2, 1]]),
    ]

    def alone(prompt, answer):
        hidden = model.transformer(torch.tensor([prompt + answer])).last_hidden_state[0]
        logprobs = (hidden @ model.transformer.wte.weight.T).log_softmax(-1)[
            range(len(prompt) - 1, len(prompt) + len(answer) - 1), answer
        ]
        return model.score(hidden[-1])[0] + likelihood * logprobs.sum()

    found = []
    for scores in (
        answer_scores(model, pack(rows, 0)),
        torch.stack([alone(p, a) for p, answers in rows for a in answers]),
    ):
        model.zero_grad()
        (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
        found.append(
            (scores.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        )
    (packed, packed_gradient), (plain, plain_gradient) = found
    assert torch.allclose(packed, plain, atol=1e-5)
    assert torch.allclose(packed_gradient, plain_gradient, atol=1e-4 * float(plain_gradient.abs().max()))


def test_a_process_without_a_window_has_a_loss(tiny, monkeypatch):
    """Of eight processes and four windows, four have none: the loss is still the mean over all four."""
    model, rows = tiny.model("reward"), encode_rankings(tiny.profile, tiny.tokenizer(), tiny.rankings()[:2])
    windows = torch.from_numpy(tiny.windows()[:4].astype(np.int64))
    wrapped = RankingModel(model, tiny.tokenizer().pad_token_id, 0.5, 0.0)
    with torch.no_grad():
        whole, ranking = wrapped(rows, windows, 4)["loss"], wrapped(rows)["loss"]
        monkeypatch.setattr(processes, "COUNT", 8)
        monkeypatch.setattr(processes, "add_up", lambda total: total.mul_(8))  # all have the same rankings
        each = [wrapped(rows, windows[i : i + 1] if i < 4 else windows[:0], 4)["loss"] for i in range(8)]
    assert all(torch.isfinite(loss) for loss in each) and each[7] == pytest.approx(float(ranking))
    assert torch.stack(each).mean() == pytest.approx(float(whole), rel=1e-4)


def test_answers_to_one_prompt_are_scored_as_each_alone(tiny):
    """They share their prompt, in batches of like length, and come back in their order."""
    profile, tokenizer, model = (
        replace(tiny.profile, precision="fp32"),
        tiny.tokenizer(),
        tiny.model("reward"),
    )
    rows, pad = tiny.rankings()[:4], tokenizer.pad_token_id
    pairs = [
        (row["prompt"], answer)
        for row in encode_rankings(profile, tokenizer, rows)
        for answer in row["answers"]
    ]
    pairs += pairs[:3]
    together = score_answers(model, pairs, pad, profile, batch=7)
    alone = [float(score_answers(model, [pair], pad, profile)[0]) for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-4) and together.std() > 0


@given(st.lists(st.tuples(st.sampled_from("pqr"), st.text("ab", max_size=4)), max_size=30))
def test_what_shares_a_prompt_stays_in_order_and_short(pairs):
    made = side_by_side(pairs := [(list(prompt), list(answer)) for prompt, answer in pairs])
    assert [(prompt, answer) for prompt, answers in made for answer in answers] == pairs
    longest = max((len(prompt) + len(answer) for prompt, answer in pairs), default=0)
    assert all(len(prompt) + sum(map(len, answers)) <= 2 * longest for prompt, answers in made)
