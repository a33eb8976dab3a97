"""Intervals and paired tests against what statistics books say."""

import numpy as np
import pytest

from modeling_clsr.evaluation.significance import mean_interval, paired_test, ratio_interval

RANDOM = np.random.default_rng(1)


def test_interval_of_a_share_is_near_the_normal_one():
    values = (np.arange(400) < 280).astype(float)
    half = 1.96 * np.sqrt(0.7 * 0.3 / 400)
    assert mean_interval(values) == pytest.approx((0.7 - half, 0.7 + half), abs=0.006)


def test_equal_values_leave_no_doubt():
    assert mean_interval(np.full(9, 0.25)) == (0.25, 0.25)


def test_interval_covers_the_truth_about_95_times_in_100():
    hits = 0
    for seed in range(100):
        values = np.random.default_rng(seed).random(60) < 0.6
        low, high = mean_interval(values, seed=seed)
        hits += low <= 0.6 <= high
    assert 88 <= hits <= 99


def test_queries_of_one_passage_count_as_one():
    """Ten copies of each query widen nothing and narrow nothing if they are drawn together."""
    values = (RANDOM.random(50) < 0.5).astype(float)
    alone = mean_interval(values)
    copies = np.repeat(values, 10)
    groups = [f"p{number:02d}" for number in np.repeat(np.arange(50), 10)]
    assert mean_interval(copies, groups) == pytest.approx(alone)
    narrow = mean_interval(copies)
    assert narrow[1] - narrow[0] < 0.5 * (alone[1] - alone[0])


def test_ratio_weighs_items_by_their_size():
    errors, words = np.array([1.0, 9.0]), np.array([1.0, 99.0])
    low, high = ratio_interval(errors, words)
    assert (low, high) == pytest.approx((9 / 99, 1.0))


def test_systems_that_never_differ_have_p_1():
    values = RANDOM.random(30)
    result = paired_test(values, values)
    assert (result.difference, result.p_value) == (0.0, 1.0)


def test_permutation_p_is_that_of_the_sign_test():
    """Six queries, all better: 2 of 64 sign patterns are as extreme."""
    result = paired_test(np.ones(6), np.zeros(6))
    assert result.p_value == pytest.approx(2 / 64, abs=0.006)
    assert (result.difference, result.low, result.high) == (1.0, 1.0, 1.0)


def test_pairing_finds_a_small_steady_difference():
    base = RANDOM.random(200)
    better = paired_test(base + 0.01 + 0.001 * RANDOM.standard_normal(200), base)
    assert better.p_value < 0.001 and better.low > 0.009


def test_exchange_is_whole_for_a_group():
    """One passage asked about a hundred times says nothing about the next passage."""
    result = paired_test(np.ones(100), np.zeros(100), groups=["p"] * 100)
    assert result.p_value == 1.0


def test_unequal_numbers_are_refused_with_both():
    with pytest.raises(ValueError, match="2 queries, the second 3"):
        paired_test(np.ones(2), np.ones(3))
