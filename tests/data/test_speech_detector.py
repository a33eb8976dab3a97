"""The detector computed in blocks against the one of the package, frame by frame."""

import itertools

import numpy as np
import pytest
import torch
from silero_vad import get_speech_timestamps, load_silero_vad

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.passages import speech_segments
from modeling_clsr.data.speech_detector import FRAME_SAMPLES, SpeechDetector


@pytest.fixture(scope="module")
def speech(reread: list[dict]) -> np.ndarray:
    return np.concatenate([load_audio(row["path"]) for row in reread[:6]])


def probabilities(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([frames for _, frames in SpeechDetector().stream(blocks)])


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the package's own model crawls with several
    yield
    torch.set_num_threads(threads)


def test_probabilities_are_those_of_the_package(speech: np.ndarray, one_thread):
    theirs = load_silero_vad().audio_forward(torch.from_numpy(speech), 16000)[0].numpy()
    np.testing.assert_allclose(probabilities([speech]), theirs, atol=2e-5)


def test_segments_are_those_of_the_package(speech: np.ndarray, one_thread):
    theirs = get_speech_timestamps(torch.from_numpy(speech), load_silero_vad(), speech_pad_ms=0)
    ours = speech_segments(probabilities([speech]))
    theirs[-1]["end"] = ours[-1][1] * FRAME_SAMPLES  # theirs lets the last speech run to the end of the file
    assert [(start * FRAME_SAMPLES, end * FRAME_SAMPLES) for start, end in ours] == [
        (segment["start"], segment["end"]) for segment in theirs
    ]


def test_cut_into_blocks_does_not_change_the_probabilities(speech: np.ndarray):
    edges = [0, 100, 511, 512, 30000, 30001, 100000, len(speech)]
    blocks = [speech[start:end] for start, end in itertools.pairwise(edges)]
    np.testing.assert_allclose(probabilities(blocks), probabilities([speech]), atol=1e-5)


def test_thread_count_of_the_process_stays_as_it_was(speech: np.ndarray):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        probabilities([speech[:16000]])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_nothing_gives_no_frames():
    assert len(probabilities([])) == 0
