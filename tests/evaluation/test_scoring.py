"""Scoring of transcripts: each rule against its plain meaning, and against the search of an index."""

import time

import numpy as np
import pytest

from modeling_clsr import Word
from modeling_clsr.evaluation.scoring import KnownTexts, bm25_scores, score_texts
from modeling_clsr.retrieval.letters import letter_shares
from modeling_clsr.retrieval.moments import embed_windows, find_moments
from modeling_clsr.retrieval.search import joint_score
from tests.retrieval.known_clips import KnownClips, embed

TEXTS = [
    "The harbour was quiet. The lighthouse was built of granite in spring. Nobody came to see it shine.",
    "The bees are kept by the miller. He sells honey on Sundays.",
    "",
]
QUESTIONS = ["Who sells honey?", "When was the lighthouse built of granite?"]


def encode(texts):
    return np.stack([embed(text) for text in texts])


def test_bm25_finds_rare_words_and_survives_unknown_ones():
    texts = ["the sea and the road", "the bee and the lamp", "the road"]
    scores = bm25_scores(["the bee", "zebra"], texts)
    assert scores[0].argmax() == 1
    assert scores[1].tolist() == [0.0, 0.0, 0.0]
    assert bm25_scores(["the bee"], ["", " "]).tolist() == [[0.0, 0.0]]


def test_known_texts_are_embedded_once_and_their_seconds_stay_known():
    asked = []

    def slow(texts):
        asked.extend(texts)
        time.sleep(0.01)
        return encode(texts)

    known = KnownTexts(slow)
    vectors = known([*TEXTS, TEXTS[0]])
    np.testing.assert_array_equal(vectors, encode([*TEXTS, TEXTS[0]]))
    seconds = known.seconds(TEXTS)
    assert seconds >= 0.01
    np.testing.assert_array_equal(known(TEXTS[::-1]), encode(TEXTS[::-1]))
    assert asked == TEXTS and known.seconds(TEXTS) == seconds


def test_dense_is_the_cosine_and_hybrid_adds_a_little_of_the_words():
    dense = score_texts("dense", encode, QUESTIONS, TEXTS)
    np.testing.assert_allclose(dense, encode(QUESTIONS) @ encode(TEXTS).T)
    given = score_texts("dense", encode, QUESTIONS, TEXTS, vectors=encode(TEXTS)[::-1])
    np.testing.assert_allclose(given, dense[:, ::-1])
    hybrid = score_texts("hybrid", encode, QUESTIONS, TEXTS)
    np.testing.assert_allclose(hybrid, dense + 0.01 * bm25_scores(QUESTIONS, TEXTS))


def test_moments_are_those_that_search_finds():
    scores = score_texts("moments", encode, QUESTIONS, TEXTS)
    words = [[Word(w, float(n), n + 1.0, 1.0) for n, w in enumerate(text.split())] for text in TEXTS]
    dense = encode(QUESTIONS) @ encode(TEXTS).T
    for row, question in enumerate(QUESTIONS):
        moments = find_moments(embed(question), TEXTS, words, embed_windows(KnownClips({}), TEXTS, words))
        expected = [
            joint_score(float(c), moment.score if moment else None)
            for c, moment in zip(dense[row], moments, strict=True)
        ]
        np.testing.assert_allclose(scores[row], expected, atol=1e-6)


def test_search_adds_the_shares_of_the_best_words_and_letters():
    questions, texts = ["honey lighthouse", "zebra"], [*TEXTS, "honey"]
    scores = score_texts("search", encode, questions, texts)
    joint = score_texts("moments", encode, questions, texts)
    words = bm25_scores(questions, texts)
    letters = letter_shares(questions[0], texts)
    np.testing.assert_allclose(
        scores[0], joint[0] + 0.2 * words[0] / words[0].max() + 0.1 * letters, atol=1e-6
    )
    np.testing.assert_allclose(scores[1], joint[1], atol=1e-6)


def test_what_search_would_not_find_stands_behind_what_it_would(monkeypatch):
    monkeypatch.setattr("modeling_clsr.evaluation.scoring.POOL", 1)
    questions, texts = ["Who sells honey?"], [*TEXTS, "honey"]
    order = np.argsort(-score_texts("search", encode, questions, texts)[0])
    dense, words = score_texts("dense", encode, questions, texts)[0], bm25_scores(questions, texts)[0]
    found = {int(dense.argmax()), int(words.argmax())}
    assert set(order[: len(found)].tolist()) == found


def test_rank_fusion_sums_the_reciprocals_of_both_ranks():
    scores = score_texts("rrf", encode, ["honey lighthouse"], [*TEXTS, "honey"])
    joint = score_texts("moments", encode, ["honey lighthouse"], [*TEXTS, "honey"])[0]
    words = bm25_scores(["honey lighthouse"], [*TEXTS, "honey"])[0]
    for place in range(4):
        expected = 1 / (60 + 1 + int((joint > joint[place]).sum()))
        if words[place] > 0:
            expected += 1 / (60 + 1 + int((words > words[place]).sum()))
        assert scores[0, place] == pytest.approx(expected)
    with pytest.raises(ValueError, match="scoring is 'magic' but must be one of dense, hybrid"):
        score_texts("magic", encode, QUESTIONS, TEXTS)
