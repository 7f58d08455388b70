"""Intervals: against closed forms, simulation and scipy, and what clusters do to them."""

import numpy as np
import pytest
from scipy.stats import norm

from rlhf_utils.evaluation.statistics import (
    accuracy_of,
    bootstrap,
    draw_sums,
    equal_length,
    logistic_intercept,
    mean_difference,
    ratio,
    share,
    win_rate,
)


def test_mean_difference_has_the_normal_interval_of_independent_rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 800), np.zeros(800)
    found = mean_difference(a, b)
    half = norm.ppf(0.975) * a.std() / 800**0.5
    assert found["difference"] == pytest.approx(a.mean())
    assert found["low"] == pytest.approx(a.mean() - half, abs=0.01) and found["high"] == pytest.approx(
        a.mean() + half, abs=0.01
    )


def test_rows_of_one_group_are_drawn_together():
    """Twenty rows that say the same thing are one observation: the interval is as wide as without them."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=60)
    alone = mean_difference(values, np.zeros(60))
    groups = np.repeat(np.arange(60), 20)
    repeated = np.repeat(values, 20)
    together = mean_difference(repeated, np.zeros(1200), groups)
    blind = mean_difference(repeated, np.zeros(1200))
    assert together == pytest.approx(alone)
    assert blind["high"] - blind["low"] < 0.3 * (alone["high"] - alone["low"])


def test_an_interval_over_groups_covers_the_truth_where_one_over_rows_does_not():
    """40 things with an effect of their own, 10 prompts each, the true mean 0."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 10)
    covered = {"groups": 0, "rows": 0}
    for _ in range(100):
        values = rng.normal(size=40)[groups] + rng.normal(size=400) * 0.5
        for name, labels in (("groups", groups), ("rows", None)):
            low, high = ratio(values, np.ones(400), labels)[1:]
            covered[name] += low <= 0 <= high
    assert covered["groups"] / 100 > 0.88 and covered["rows"] / 100 < 0.7


def test_groups_may_be_named_by_anything_and_sums_are_those_of_drawn_groups():
    sums = draw_sums([np.array([1.0, 2.0, 4.0])], ["a", "b", "a"], draws=200)[0]
    assert set(sums) == {10.0, 7.0, 4.0}  # a twice, once each, b twice


def test_win_rate_by_hand():
    a, b = np.array([[1.0, 0.5], [0.2, 0.9]]), np.array([[0.0, 0.5], [0.3, 0.1]])
    found = win_rate(a, b)
    assert (
        found["decided"] == pytest.approx(2 / 3)
        and found["ties"] == 0.25
        and found["ties_half"] == pytest.approx(2.5 / 4)
        and found["n"] == 4
    )
    assert found["low"] <= found["decided"] <= found["high"]


def test_a_comparison_without_a_winner_is_not_a_number():
    assert np.isnan(win_rate(np.ones((3, 1)), np.ones((3, 1)))["decided"])
    assert np.isnan(accuracy_of(np.zeros(2), np.zeros(2))["accuracy"])


def test_accuracy_by_hand():
    found = accuracy_of(np.array([3.0, 1.0]), np.array([4.0, 4.0]))
    assert found["accuracy"] == 0.5 and found["pairs"] == 8 and found["low"] == 0.25 and found["high"] == 0.75


def test_logistic_intercept_finds_the_chance_at_equal_length():
    rng = np.random.default_rng(3)
    gap = rng.normal(2, 3, 20_000)
    won = (rng.random(20_000) < 1 / (1 + np.exp(-(0.8 + 0.5 * gap)))).astype(float)
    assert logistic_intercept(gap, won, np.ones(20_000)) == pytest.approx(1 / (1 + np.exp(-0.8)), abs=0.02)
    # All won: finite, and nearly sure.
    assert 0.99 < logistic_intercept(np.arange(5.0), np.ones(5), np.ones(5)) <= 1


def test_a_model_that_wins_by_length_alone_does_not_win_at_equal_length():
    rng = np.random.default_rng(4)
    words_a, words_b = rng.integers(6, 14, (600, 1)), rng.integers(2, 10, (600, 1))
    gap = words_a - words_b
    a = (rng.random((600, 1)) < 1 / (1 + np.exp(-0.9 * gap))).astype(float)
    b = 1 - a
    assert win_rate(a, b)["decided"] > 0.8
    found = equal_length(a, b, words_a, words_b)
    assert abs(found["matched"]["decided"] - 0.5) < 0.12 and abs(found["regression"]["decided"] - 0.5) < 0.1
    assert found["matched"]["n"] == int((np.abs(gap) <= 1).sum())


def test_a_bootstrap_of_any_figure_is_that_of_a_mean_and_leaves_out_what_is_no_number():
    rng = np.random.default_rng(3)
    values = rng.normal(2.0, 1.0, 400)
    low, high = bootstrap(np.mean, list(values), draws=2000)
    width = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - width, abs=0.02)
    assert high == pytest.approx(values.mean() + width, abs=0.02)
    both = bootstrap(lambda drawn: np.array([min(drawn), max(drawn)]), [1.0, 2.0, 3.0])
    assert both[0][0] == 1.0 and both[1][1] == 3.0  # one interval for each entry
    assert all(np.isnan(end) for end in bootstrap(lambda drawn: None, [1.0]))
    assert all(np.isnan(end) for end in bootstrap(np.mean, []))


def test_seven_of_seven_is_no_certainty():
    """Drawing anew gives seven of seven each time; Wilson's interval is that of scipy, over groups."""
    ones, none = np.ones(7), np.zeros(7)
    assert share(ones, ones) == pytest.approx((1.0, 1 / (1 + 1.959964**2 / 7), 1.0), abs=1e-6)
    assert share(none, ones) == pytest.approx((0.0, 0.0, 1 - 1 / (1 + 1.959964**2 / 7)), abs=1e-6)
    assert share(ones, ones, ["a", "a", "a", "b", "b", "b", "c"])[1] < share(ones, ones)[1]
    some = np.array([1, 0, 1, 1, 0, 1, 1.0])
    assert share(some, ones) == ratio(some, ones)
    assert np.isnan(share(none, none)).all()
    assert win_rate(ones[:, None], none[:, None])["low"] == pytest.approx(0.6457, abs=1e-4)
