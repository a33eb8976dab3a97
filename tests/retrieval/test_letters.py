"""Letters: misheard words are found by what they share with the question, whatever the gaps between words."""

import math

import numpy as np

from modeling_clsr.retrieval.letters import letter_shares, run_together


def test_misheard_name_is_found_by_its_letters():
    heard = ["A sport was an agar.", "Schwarz and Egger spoke."]
    assert letter_shares("What did Schwarzenegger say?", heard).tolist() == [0.0, 1.0]


def test_words_that_are_cut_elsewhere_share_their_letters():
    assert run_together("Over-whelming!") == "overwhelming" == run_together("over whelming")
    shares = letter_shares("overwhelming", ["an over whelming win", "an underwhelming win", "a win"])
    assert shares[0] == 1.0 and 0 < shares[1] < 1 and shares[2] == 0


def test_shares_are_bm25_of_runs_counted_among_the_transcripts():
    texts = ["abcde", "abcdabcd", "xyz"]
    lengths = np.array([2, 5, 0])
    counts = {"abcd": np.array([1, 2, 0]), "bcde": np.array([1, 0, 0])}
    slowness = 1.5 * (0.25 + 0.75 * lengths / lengths.mean())
    expected = np.zeros(3)
    for count in counts.values():
        holders = (count > 0).sum()
        expected += math.log(1 + (3 - holders + 0.5) / (holders + 0.5)) * count / (count + slowness)
    np.testing.assert_allclose(letter_shares("ABC de", texts), expected / expected.max())


def test_nothing_in_common_is_zero_and_no_transcripts_are_none():
    assert letter_shares("zebra", ["the sea", ""]).tolist() == [0.0, 0.0]
    assert letter_shares("a?", ["a"]).tolist() == [0.0]
    assert letter_shares("zebra", []).tolist() == []
