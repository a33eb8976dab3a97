"""Transcripts as files, read back by the parsers that others use."""

import io
import itertools
import json

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from modeling_clsr import Word
from modeling_clsr.retrieval.subtitles import MAX_CHARACTERS, cut_cues, render

TEXT = (
    "The harbour was quiet, and nobody came. In spring the lighthouse was built of granite, which a ship had brought "
    "from the north; it took nine men a whole summer to raise the walls. Then the lamp was lit."
)


def timed(text: str, step: float = 0.4, shift: float = 0.0) -> list[Word]:
    return [
        Word(f" {word}", shift + place * step, shift + (place + 1) * step, 0.9)
        for place, word in enumerate(text.split())
    ]


WORDS = timed(TEXT, shift=3599.0)  # over the hour


def test_subrip_is_read_back_with_all_words_and_times():
    cues = list(srt.parse(render(WORDS, "srt")))
    assert " ".join(" ".join(cue.content.split()) for cue in cues) == TEXT
    assert cues[0].start.total_seconds() == pytest.approx(3599.0)
    assert cues[-1].end.total_seconds() == pytest.approx(WORDS[-1].end, abs=0.001)
    assert [cue.index for cue in cues] == list(range(1, len(cues) + 1)) and len(cues) >= 4


def test_webvtt_is_read_back_with_all_words_and_times():
    cues = list(webvtt.from_buffer(io.StringIO(render(WORDS, "vtt"))))
    assert " ".join(" ".join(cue.text.split()) for cue in cues) == TEXT
    assert cues[0].start == "00:59:59.000" and cues[-1].end.startswith("01:00:1")


def test_json_and_text_hold_every_word():
    content = json.loads(render(WORDS, "json", "talk.ogg"))
    assert content["source"] == "talk.ogg" and content["text"] == TEXT
    assert content["words"][3]["start"] == pytest.approx(3600.2)
    assert render(WORDS, "txt").splitlines()[0] == "The harbour was quiet, and nobody came."
    assert " ".join(render(WORDS, "txt").split()) == TEXT


def test_nobody_speaks():
    assert render([], "srt") == "" and render([], "txt") == ""
    assert list(webvtt.from_buffer(io.StringIO(render([], "vtt")))) == []
    with pytest.raises(ValueError, match="format is 'doc' but must be one of srt, vtt, json, txt"):
        render([], "doc")


def test_pause_and_sentence_end_a_cue():
    words = [*timed("It was quiet"), *timed("until the morning", shift=4.0)]
    assert [cue.text for cue in cut_cues(words)] == ["It was quiet", "until the morning"]
    texts = [cue.text for cue in cut_cues(WORDS)]
    assert texts[0] == "The harbour was quiet, and nobody came." and texts[-1] == "Then the lamp was lit."


@given(
    st.lists(
        st.tuples(st.text("ab,.", min_size=1, max_size=12), st.floats(0, 1.5), st.floats(0, 1.5)), max_size=60
    )
)
def test_cues_are_in_order_short_and_lose_no_word(parts):
    words, at = [], 0.0
    for text, pause, length in parts:
        words.append(Word(text, at + pause, at + pause + length, 1.0))
        at += pause + length
    cues = cut_cues(words)
    assert " ".join(cue.text for cue in cues) == " ".join(text for text, _, _ in parts)
    assert all(cue.start <= cue.end and len(cue.text) <= MAX_CHARACTERS for cue in cues)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(cues))
