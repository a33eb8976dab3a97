"""Passages: ordered, disjoint, short enough, in pauses, and all speech is in them."""

import itertools

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.passages import (
    CutSettings,
    FixedWindows,
    _Cutter,
    cut_passages,
    speech_segments,
    stream_passages,
)
from modeling_clsr.data.speech_detector import FRAME_S, FRAME_SAMPLES, SpeechDetector

RATE = 16000


@pytest.fixture(scope="module")
def detector() -> SpeechDetector:
    return SpeechDetector()


@pytest.fixture(scope="module")
def clips(reread: list[dict]) -> list[np.ndarray]:
    return [load_audio(row["path"]) for row in reread[:16]]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


def cut_frames(probabilities: np.ndarray, settings: CutSettings, block: int = 10**9):
    """Cut made-up probabilities, fed `block` frames at a time; the waveform counts its samples."""
    cutter = _Cutter(settings)
    samples = np.arange(len(probabilities) * FRAME_SAMPLES, dtype=np.float32)
    found = []
    for at in range(0, len(probabilities), block):
        cutter.push(
            samples[at * FRAME_SAMPLES : (at + block) * FRAME_SAMPLES], probabilities[at : at + block]
        )
        found += cutter.ready()
    return found + list(cutter.ready(final=True))


@st.composite
def frame_probabilities(draw) -> np.ndarray:
    """Runs of speech, silence and doubt, up to about two minutes."""
    runs = draw(
        st.lists(st.tuples(st.sampled_from([0.02, 0.4, 0.6, 0.97]), st.integers(1, 500)), max_size=12)
    )
    return np.concatenate(
        [np.full(length, level, dtype=np.float32) for level, length in runs] or [np.zeros(0)]
    )


@given(frame_probabilities(), st.sampled_from([3.0, 8.0, 29.0]), st.sampled_from([0.0, 0.15]))
def test_passages_are_ordered_disjoint_short_and_hold_all_speech(probabilities, max_s, pad_s):
    settings = CutSettings(max_s=max_s, pad_s=pad_s)
    passages = [passage for passage, _ in cut_frames(probabilities, settings)]
    # two ends in seconds, each rounded, may differ by a hair more than the limit
    assert all(0 < passage.end_s - passage.start_s <= max_s + 1e-9 for passage in passages)
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(passages))
    inside = np.zeros(len(probabilities), dtype=bool)
    for passage in passages:
        inside[round(passage.start_s / FRAME_S - 0.499) : round(passage.end_s / FRAME_S + 0.499)] = True
    for start, end in speech_segments(probabilities):
        assert inside[start:end].all()


@given(frame_probabilities(), st.integers(1, 700))
def test_reading_in_blocks_cuts_as_reading_at_once(probabilities, block):
    settings = CutSettings(max_s=6.0)
    at_once, in_blocks = cut_frames(probabilities, settings), cut_frames(probabilities, settings, block)
    assert [passage for passage, _ in at_once] == [passage for passage, _ in in_blocks]


@given(frame_probabilities())
def test_waveform_of_a_passage_lies_where_the_passage_says(probabilities):
    for passage, waveform in cut_frames(probabilities, CutSettings(max_s=6.0), block=300):
        assert waveform[0] == round(passage.start_s * RATE)
        assert len(waveform) == round(passage.end_s * RATE) - round(passage.start_s * RATE)


def test_long_speech_is_cut_at_its_longest_pause():
    speech = np.full(1200, 0.97, dtype=np.float32)  # 38.4 s
    speech[500:508] = speech[600:620] = speech[700:710] = 0.02
    first, second = (passage for passage, _ in cut_frames(speech, CutSettings(pad_s=0.0)))
    assert first.end_s == pytest.approx(600 * FRAME_S)
    assert second.start_s == pytest.approx(620 * FRAME_S)


def test_speech_without_a_pause_is_cut_where_it_is_least_like_speech():
    speech = np.full(1200, 0.97, dtype=np.float32)
    speech[700:703] = 0.45
    first, second = (passage for passage, _ in cut_frames(speech, CutSettings()))
    assert first.end_s == second.start_s == pytest.approx(701 * FRAME_S, abs=2 * FRAME_S)


def test_long_pause_always_ends_a_passage(clips, detector):
    waveform = np.concatenate([clips[0], silence(2.5), clips[1]])
    passages = cut_passages(waveform, RATE, detector=detector)
    assert len(passages) == 2
    assert passages[0].end_s == pytest.approx(len(clips[0]) / RATE, abs=0.4)


def test_neighbouring_sentences_share_passages_and_cuts_fall_between_them(clips, detector):
    """The known gaps of 1.2 s are the longest pauses, so that every cut lies in one."""
    parts, gaps, length = [], [], 0
    for clip in clips:
        parts += [clip, silence(1.2)]
        length += len(clip)
        gaps.append((length / RATE - 0.5, length / RATE + 1.7))
        length += len(parts[-1])
    passages = cut_passages(np.concatenate(parts), RATE, detector=detector)
    assert len(passages) < len(clips) / 1.5
    assert all(passage.end_s - passage.start_s > 10 for passage in passages[:-1])
    assert all(any(start < passage.end_s < end for start, end in gaps) for passage in passages)


def test_silence_and_noise_have_no_passages(detector):
    noise = np.random.default_rng(0).normal(0, 0.1, 60 * RATE).astype(np.float32)
    assert cut_passages(silence(60), RATE, detector=detector) == []
    assert cut_passages(noise, RATE, detector=detector) == []
    assert cut_passages(silence(0), RATE, detector=detector) == []


def test_file_gives_the_passages_of_its_waveform(tmp_path, clips, detector):
    waveform = np.concatenate([np.concatenate([clip, silence(0.5)]) for clip in clips])
    soundfile.write(tmp_path / "a.wav", waveform, RATE, subtype="FLOAT")
    streamed = list(stream_passages(tmp_path / "a.wav", detector=detector))
    assert [passage for passage, _ in streamed] == cut_passages(waveform, RATE, detector=detector)
    for passage, part in streamed:
        np.testing.assert_array_equal(part, waveform[round(passage.start_s * RATE) :][: len(part)])


def test_other_rate_is_refused_with_both_rates():
    with pytest.raises(ValueError, match=r"44100 Hz .* expects 16000 Hz; resample"):
        cut_passages(silence(1), 44100)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"max_s is 1, max_pause_s 1\.5 and pad_s 0\.15 but"):
        CutSettings(max_s=1.0)


@pytest.mark.parametrize(
    ("seconds", "starts"), [(1.0, [0.0]), (5.0, [0.0]), (5.5, [0.0, 4.0]), (9.2, [0.0, 4.0, 8.0])]
)
def test_fixed_windows_have_one_length_and_share_their_overlap(tmp_path, seconds, starts):
    samples = np.linspace(-0.9, 0.9, round(seconds * RATE), dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    found = list(stream_passages(tmp_path / "a.wav", FixedWindows(max_s=5.0, overlap_s=1.0)))
    assert [passage.start_s for passage, _ in found] == starts
    for passage, waveform in found:
        np.testing.assert_array_equal(
            waveform, samples[round(passage.start_s * RATE) : round(passage.end_s * RATE)]
        )
    assert found[-1][0].end_s == pytest.approx(seconds) and all(
        passage.end_s - passage.start_s == 5.0 for passage, _ in found[:-1]
    )


def test_windows_that_share_more_than_half_are_refused():
    with pytest.raises(ValueError, match="max_s is 5 and overlap_s 3 but"):
        FixedWindows(5.0, 3.0)
