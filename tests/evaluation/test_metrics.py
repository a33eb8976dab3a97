"""Metrics against closed forms."""

import pytest

from modeling_clsr.evaluation.metrics import (
    character_error_rate,
    plain_words,
    proportion_interval,
    whisper_letters,
    whisper_words,
    word_error_rate,
)


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


def test_whispers_normaliser_spells_out_and_spells_american():
    assert whisper_words("Mr. Grey can't organise 'em, um, all!") == "mister gray can not organize em all"
    assert whisper_words("It cost twenty-one dollars in 1,984.") == "it cost $21 in 1984"


def test_normaliser_decides_what_is_an_error():
    truths, heard = ["The colour of Dr. Grey"], ["the color of doctor gray"]
    assert word_error_rate(truths, heard)[0] == pytest.approx(3 / 5)
    assert word_error_rate(truths, heard, normalize=whisper_words)[0] == 0.0


def test_character_errors_ignore_spaces_and_marks():
    assert whisper_letters("Où est-ce ?") == whisper_letters("où est ce")
    assert character_error_rate(["今天 天氣好。"], ["今天天气好"])[0] == pytest.approx(1 / 5)


def test_empty_transcript_is_all_deletions():
    assert word_error_rate(["a b", "c d"], ["", "c d"])[0] == 0.5
    assert word_error_rate(["", "c d"], ["x", "c d"])[0] == 0.5
