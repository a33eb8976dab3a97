"""True word times: sounds found again among the words, and Piper's own lengths."""

import itertools

import numpy as np
import pytest

from modeling_clsr.data.manifest import read_manifest
from modeling_clsr.data.synthesis import Utterance, read_word_times, speak_manifest
from modeling_clsr.data.voices import open_timed_voice, open_voice
from modeling_clsr.data.word_times import TimedSound, TimedWord, find_answer, time_words


def sounds_of(symbols, step=0.1):
    return [
        TimedSound(symbol, place * step, (place + 1) * step)
        for place, symbol in enumerate(symbols.split("|"))
    ]


def test_every_word_gets_the_time_of_its_own_sounds_without_the_pause_behind():
    timed = time_words("we sat, so", sounds_of("^|w|i| |s|a|t|,| |s|o|$"), list)
    assert timed == [
        TimedWord("we", 0.1, 0.3),
        TimedWord("sat,", 0.4, 0.7),
        TimedWord("so", 0.9, 1.1),
    ]


def test_words_that_run_together_or_sound_otherwise_keep_their_order():
    alone = {"of": "ɒv", "the": "ðə", "1891": "wʌn", "men": "mɛn"}
    timed = time_words("of the 1891 men", sounds_of("ə|v|ð|ə| |t|w|ʌ|n| |m|ɛ|n"), lambda word: alone[word])
    assert [word.text for word in timed] == ["of", "the", "1891", "men"]
    assert timed[0].end <= timed[1].start and timed[3] == TimedWord("men", 1.0, 1.3)
    assert all(0 <= word.start <= word.end for word in timed)


def test_word_without_any_sound_lies_between_its_neighbours():
    timed = time_words("so – we", sounds_of("s|o| |w|i"), lambda word: [] if word == "–" else list(word))
    assert timed[1] == TimedWord("–", 0.2, 0.3)


def test_answer_is_found_in_any_case_and_punctuation_or_not_at_all():
    words = [TimedWord("(Levi's", 0.0, 0.4), TimedWord("Stadium,", 0.4, 1.0), TimedWord("in", 1.2, 1.3)]
    assert find_answer(words, "levis stadium") == (0.0, 1.0)
    assert find_answer(words, "stadium of") is None and find_answer(words, "") is None


def test_voice_without_lengths_is_refused():
    with pytest.raises(ValueError, match="'flite/slt' does not tell the times"):
        open_timed_voice("flite/slt")


def test_piper_says_the_same_with_and_without_times_and_is_silent_where_no_word_is(tmp_path):
    pytest.importorskip("piper", reason="the extra synthesis is not installed")
    pytest.importorskip("onnx", reason="the extra synthesis is not installed")
    text = "Of the two hundred men; hardly one came back."
    samples, words = open_timed_voice("piper/joe")(text, 1.0)
    np.testing.assert_array_equal(samples, open_voice("piper/joe")(text, 1.0))
    assert [word.text for word in words] == text.split()
    assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(words))
    pause = samples[int(16000 * words[4].end) : int(16000 * words[5].start)]  # at the semicolon
    assert len(pause) > 1600
    loudness = np.sqrt(np.mean(samples**2))
    assert np.sqrt(np.mean(pause[800:-800] ** 2)) < 0.1 * loudness
    utterances = [Utterance("a", text, "piper/joe")]
    (row,) = read_manifest(speak_manifest(utterances, tmp_path, ["piper/joe"]))
    with pytest.raises(FileNotFoundError, match="timed=True"):
        read_word_times(row.audio)
    (row,) = read_manifest(speak_manifest(utterances, tmp_path, ["piper/joe"], timed=True))
    assert [word.text for word in read_word_times(row.audio)] == text.split()
