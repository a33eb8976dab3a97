"""Moments: sentences of a transcript, and which of them answers."""

import numpy as np
import pytest

from modeling_clsr import Word
from modeling_clsr.retrieval.moments import embed_windows, find_moments, sentence_windows, split_sentences

from .known_clips import KnownClips, embed


def timed(text: str, step: float = 0.4, pauses: dict[int, float] | None = None) -> list[Word]:
    """Time words evenly; `pauses` are seconds of silence before the words of these indices."""
    words, at = [], 0.0
    for number, word in enumerate(text.split()):
        at += (pauses or {}).get(number, 0.0)
        words.append(Word(word, at, at + step, 1.0))
        at += step
    return words


def sentences(words: list[Word]) -> list[str]:
    return [" ".join(word.text for word in words[first:end]) for first, end in split_sentences(words)]


def test_sentences_end_at_punctuation_and_short_ones_go_with_what_follows():
    text = 'The lamp was lit. Why? Nobody at sea "knows the road." Dr. Ames and J. Hill kept it lit.'
    assert sentences(timed(text)) == [
        "The lamp was lit.",
        'Why? Nobody at sea "knows the road."',
        "Dr. Ames and J. Hill kept it lit.",
    ]


def test_long_pause_ends_a_sentence():
    words = timed("one two three four five six", pauses={3: 1.0, 5: 1.0})
    assert sentences(words) == ["one two three", "four five six"]  # "four five" alone would be too short


def test_long_sentence_is_cut_at_a_comma_else_at_a_pause_else_in_the_middle():
    words = [f"w{number}" for number in range(32)]
    comma = [*words[:12], "w12,", *words[13:]]
    assert [len(part.split()) for part in sentences(timed(" ".join(comma)))] == [13, 19]
    assert [len(part.split()) for part in sentences(timed(" ".join(words), pauses={20: 0.3}))] == [20, 12]
    assert [len(part.split()) for part in sentences(timed(" ".join(words)))] == [16, 16]


@pytest.mark.parametrize("count", [0, 1, 2, 25, 26, 100, 101])
def test_sentences_cover_all_words(count: int):
    spans = list(split_sentences(timed(" ".join(["word"] * count))))
    assert [index for span in spans for index in range(*span)] == list(range(count))
    assert all(end - first <= 25 for first, end in spans)


TRANSCRIPT = (
    "The harbour was quiet. The lighthouse was built of granite in spring. Nobody came to see it shine."
)


def moments(question: str, transcripts: list[str], word_lists: list[list[Word]]):
    windows = embed_windows(KnownClips({}), transcripts, word_lists)
    return find_moments(embed(question), transcripts, word_lists, windows)


def moment(question: str, transcript: str = TRANSCRIPT):
    return moments(question, [transcript], [timed(transcript)])[0]


def test_windows_are_the_sentences_and_their_neighbours_of_each_passage():
    words = timed(TRANSCRIPT)
    first, none, second = embed_windows(KnownClips({}), [TRANSCRIPT, "", TRANSCRIPT], [words, [], words])
    assert len(first) == len(second) == len(list(sentence_windows(words))) == 5 and len(none) == 0
    np.testing.assert_array_equal(first[0], embed("The harbour was quiet."))
    np.testing.assert_array_equal(
        first[3], embed("The harbour was quiet. The lighthouse was built of granite in spring.")
    )


def test_moment_is_the_sentence_that_answers_with_its_words_times():
    found = moment("When was the lighthouse built of granite?")
    assert found.text == "The lighthouse was built of granite in spring."
    assert (found.start_s, found.end_s) == (pytest.approx(4 * 0.4), pytest.approx(12 * 0.4))
    assert TRANSCRIPT[found.start_char : found.end_char] == found.text
    assert found.score == pytest.approx(
        float(embed(found.text) @ embed("When was the lighthouse built of granite?"))
    )


def test_moment_is_two_sentences_when_both_answer():
    found = moment("quiet harbour, lighthouse of granite built in spring")
    assert found.text == "The harbour was quiet. The lighthouse was built of granite in spring."


def test_hit_without_words_has_no_moment():
    found = moments("when?", ["", TRANSCRIPT], [[], timed(TRANSCRIPT)])
    assert found[0] is None and found[1] is not None
    assert moments("when?", [""], [[]]) == [None]


def test_words_that_differ_from_the_transcript_still_give_a_moment():
    words = timed("the light house WAS built")
    found = moments("light", ["The lighthouse was built"], [words])[0]
    assert 0 <= found.start_char <= found.end_char <= len("The lighthouse was built")
