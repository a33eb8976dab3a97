"""Transcripts: what is suspicious, what is silence, how words get their times."""

import pytest

from modeling_clsr import CLSRConfig
from modeling_clsr.decoding_clsr import Decoded
from modeling_clsr.strings_clsr import TokenStrings
from modeling_clsr.transcript_clsr import compression_ratio, nobody_speaks, read_words, suspicion

from .tiny_parts import tiny_bert


@pytest.mark.parametrize(
    ("text", "seconds", "looped", "expected"),
    [
        ("the lamp was lit at six every evening", 3.0, False, None),
        ("chapter one", 9.0, False, "early stop"),
        ("the lamp was lit at six every evening by the keeper", 1.0, False, "invention"),
        ("the sea, " * 30, 20.0, False, "loop"),
        ("the lamp was lit at six every evening", 3.0, True, "loop"),
    ],
)
def test_suspicion_names_what_is_wrong(text, seconds, looped, expected):
    assert suspicion(Decoded([1], [0.0], looped=looped), text, seconds, CLSRConfig()) == expected


def test_compression_ratio_of_nothing_is_zero():
    assert compression_ratio("") == 0.0
    assert compression_ratio("na " * 100) > 10


@pytest.mark.parametrize(
    ("no_speech", "log_prob", "silent"),
    [(0.9, -1.5, True), (0.9, -0.2, False), (0.1, -1.5, False), (0.1, -1.9, True)],
)
def test_silence_needs_both_signs_or_hopeless_words(no_speech, log_prob, silent):
    config = CLSRConfig(no_speech_token_id=7)
    assert nobody_speaks(Decoded([1], [log_prob], no_speech_probability=no_speech), config) is silent


def test_recogniser_without_a_no_speech_token_is_believed():
    assert not nobody_speaks(Decoded([1], [-9.0]), CLSRConfig())


def test_words_take_the_frames_of_their_tokens():
    strings = TokenStrings(32)
    strings.fill([b" the", b" s", b"ea", b"."], tiny_bert()[1].backend_tokenizer.to_str())
    decoded = Decoded([0, 1, 2, 3], [0.0, 0.0, 0.0, 0.0], [(0, 10), (10, 20), (20, 30), (30, 200)])
    transcript = read_words(decoded, 1.5, strings, CLSRConfig())
    assert transcript.text == "the sea."
    assert [(word.text, word.start, word.end) for word in transcript.words] == [
        ("the", 0.0, 0.2),
        ("sea.", 0.2, 1.5),
    ]
    assert transcript.probability == 1.0
