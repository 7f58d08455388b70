"""Simulated labelers: ranks, ties and the calibration of their noise."""

import numpy as np
import pytest

from rlhf_utils.world.judge import Scores
from rlhf_utils.world.labelers import (
    PAPER_AGREEMENT,
    Labeler,
    agreement,
    calibrate_noise,
    ceiling,
    make_labelers,
)


def random_items(count=600, answers=4, seed=0):
    rng = np.random.default_rng(seed)
    return [[Scores(*rng.uniform(0, 1, 3)) for _ in range(answers)] for _ in range(count)]


def test_without_noise_the_better_answer_is_first():
    ranks = Labeler("a", (1, 1, 1), 1.0, 0.0).rank(
        [Scores(0.2, 1, 1), Scores(1, 1, 1), Scores(0.6, 1, 1)], 1e-9, np.random.default_rng(0)
    )
    assert ranks == [3, 1, 2]


def test_equal_answers_are_tied():
    ranks = Labeler("a", (1, 1, 1), 1.0, 0.05).rank(
        [Scores(1, 1, 1)] * 2 + [Scores(0, 1, 1)], 1e-9, np.random.default_rng(0)
    )
    assert ranks == [1, 1, 3]


def test_choices_follow_plackett_luce():
    """With two answers P(first is better) = 1 / (1 + exp((u2 - u1) / noise)) (Luce, 1959)."""
    labeler, rng = Labeler("a", (1, 1, 1), 1.0, 0.0), np.random.default_rng(1)
    scores, noise = [Scores(0.9, 1, 1), Scores(0.5, 1, 1)], 0.4
    expected = 1 / (1 + np.exp((labeler.utility(scores[1]) - labeler.utility(scores[0])) / noise))
    wins = np.mean([labeler.rank(scores, noise, rng)[0] == 1 for _ in range(8000)])
    assert wins == pytest.approx(expected, abs=4 * (0.25 / 8000) ** 0.5)


def test_noise_is_calibrated_to_the_papers_agreement():
    crowd = make_labelers(0)
    noise = calibrate_noise(crowd, random_items(), seed=0)
    assert agreement(crowd, random_items(2000, seed=1), noise, seed=7) == pytest.approx(
        PAPER_AGREEMENT, abs=0.02
    )


def test_some_labelers_are_held_out():
    crowd = make_labelers(3)
    assert sum(w.held_out for w in crowd) == 5 and len({w.name for w in crowd}) == 20
    assert make_labelers(3) == crowd != make_labelers(4)


def test_the_ceiling_is_perfect_without_noise_and_lies_above_the_agreement_of_two():
    items = [[Scores(h, 1, 1) for h in (0.1, 0.4, 0.7, 1.0)] for _ in range(60)]
    crowd = [Labeler(str(i), (1, 1, 1), 1.0, 0.0) for i in range(4)]
    assert ceiling(crowd, items, 1e-9, 0) == 1.0
    noise = calibrate_noise(crowd, items, 0)
    two = agreement(crowd, items, noise, 1)
    one = ceiling(crowd, items, noise, 2)
    # Two labelers who are right with chance p agree in p² + (1 − p)².
    assert two < one < 1 and abs(two - (one**2 + (1 - one) ** 2)) < 0.05
    assert ceiling(crowd, [[Scores(0.5, 1, 1)] * 3] * 20, 0.3, 0) == 0.5  # equal answers: a coin
