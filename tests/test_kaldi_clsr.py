"""Kaldi front end against kaldi-native-fbank and FunASR."""

import math

import pytest
import torch
from safetensors.torch import load_file

from modeling_clsr.hub.funasr import read_cmvn
from modeling_clsr.kaldi_clsr import (
    kaldi_fbank,
    kaldi_mel_filters,
    normalize_frames,
    num_fbank_frames,
    stack_frames,
)

from .test_sanm_clsr import GOLDEN


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "kaldi.safetensors")


def test_filterbank_equals_kaldi(golden):
    torch.testing.assert_close(kaldi_fbank(golden["waveform"]), golden["fbank"], rtol=0, atol=1e-3)


def test_stacked_frames_equal_funasr(golden):
    frames = golden["fbank"]
    stacked, lengths = stack_frames(frames.unsqueeze(0), torch.tensor([len(frames)]))
    assert torch.equal(stacked[0], golden["stacked"]) and lengths.tolist() == [len(golden["stacked"])]


def test_normalised_frames_equal_funasr(golden):
    shift, scale = read_cmvn(GOLDEN / "am.mvn")
    torch.testing.assert_close(normalize_frames(golden["stacked"], shift, scale), golden["normalized"])


def test_whole_front_end_equals_kaldi_and_funasr(golden):
    frames = kaldi_fbank(golden["waveform"].unsqueeze(0))
    stacked, _ = stack_frames(frames, torch.tensor([frames.shape[1]]))
    features = normalize_frames(stacked, *read_cmvn(GOLDEN / "am.mvn"))
    torch.testing.assert_close(features[0], golden["normalized"], rtol=0, atol=1e-3)


def test_item_alone_equals_item_in_a_padded_batch():
    torch.manual_seed(0)
    lengths = torch.tensor([16000, 9000, 500])
    waveform = torch.randn(3, 16000) * (torch.arange(16000) < lengths.unsqueeze(-1))
    frames = kaldi_fbank(waveform)
    stacked, rows = stack_frames(frames, num_fbank_frames(lengths))
    for item, length in enumerate(lengths.tolist()):
        alone = kaldi_fbank(waveform[item : item + 1, :length])
        assert alone.shape[1] == num_fbank_frames(length)
        expected, _ = stack_frames(alone, torch.tensor([alone.shape[1]]))
        assert expected.shape[1] == rows[item] == math.ceil(alone.shape[1] / 6)
        torch.testing.assert_close(stacked[item, : rows[item]], expected[0], rtol=0, atol=1e-5)
        assert not stacked[item, rows[item] :].any()


def test_stacking_repeats_the_first_and_last_frame():
    frames = torch.arange(1.0, 9.0).view(1, 8, 1)
    stacked, lengths = stack_frames(frames, torch.tensor([8]))
    assert stacked.tolist() == [[[1, 1, 1, 1, 2, 3, 4], [4, 5, 6, 7, 8, 8, 8]]] and lengths.tolist() == [2]


def test_silence_lies_at_the_floor():
    assert torch.equal(
        kaldi_fbank(torch.zeros(800)), torch.full((3, 80), torch.finfo(torch.float32).eps).log()
    )


def test_clip_shorter_than_a_frame_gives_one_frame():
    assert kaldi_fbank(torch.ones(2, 10)).shape == (2, 1, 80)


def test_tone_is_loudest_in_the_filter_of_its_frequency():
    seconds = torch.arange(8000) / 16000
    frames = kaldi_fbank(0.5 * torch.sin(2 * torch.pi * 1000 * seconds))
    filters = torch.from_numpy(kaldi_mel_filters(80, 512, 16000))
    assert (frames.argmax(dim=-1) == filters[32].argmax()).all()  # bin 32 of 512 points lies at 1000 Hz


def test_statistics_of_another_width_name_both():
    with pytest.raises(ValueError, match=r"80 wide.*560 wide"):
        normalize_frames(torch.zeros(1, 3, 80), torch.zeros(560), torch.ones(560))
