"""Metrics against closed forms."""

import pytest

from modeling_clsr.evaluation.metrics import plain_words, proportion_interval, word_error_rate


def test_words_are_compared_without_case_and_punctuation():
    assert plain_words("Don't - stop, Twenty-one!") == "don't stop twenty one"


def test_word_error_rate_counts_words_not_clips():
    rate, (low, high) = word_error_rate(["a b c d", "e"], ["a b c d", "f"])
    assert rate == pytest.approx(1 / 5)
    assert low == 0.0 and high == 1.0  # resampling may draw either clip alone


def test_equal_clips_leave_no_doubt():
    rate, interval = word_error_rate(["a b"] * 5, ["a x"] * 5)
    assert rate == 0.5 and interval == (0.5, 0.5)


def test_unequal_numbers_are_refused_with_both():
    with pytest.raises(ValueError, match="2 true transcripts but 1 heard"):
        word_error_rate(["a", "b"], ["a"])


def test_proportion_interval_is_wilsons():
    """The textbook case: 8 of 10."""
    assert proportion_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert proportion_interval(0, 10)[0] == pytest.approx(0.0)
