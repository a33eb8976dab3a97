"""CLSRFeatureExtractor: equal to the recognisers' own extractors, exact under padding, strict about its input."""

import json

import numpy as np
import pytest
import torch
from transformers import ParakeetFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from modeling_clsr import CLSRFeatureExtractor
from modeling_clsr.kaldi_clsr import kaldi_fbank, stack_frames

from .tiny_parts import noise_clips


def test_whisper_features_at_full_window_equal_whispers_own():
    clip = noise_clips(3.3)[0]
    own = CLSRFeatureExtractor()(clip, sampling_rate=16000, padding="max_length")
    whisper = WhisperFeatureExtractor()(clip, sampling_rate=16000, return_tensors="pt")
    assert torch.equal(own.input_features, whisper.input_features)
    assert own.feature_attention_mask.all()


def test_true_length_features_are_the_start_of_the_full_window():
    clip = noise_clips(3.3)[0]
    extractor = CLSRFeatureExtractor()
    true = extractor(clip, sampling_rate=16000).input_features
    full = extractor(clip, sampling_rate=16000, padding="max_length").input_features
    assert true.shape[-1] == 430  # 3.3 s and 1.0 s of silence at 100 frames a second
    # The two transforms sum the same numbers in another order.
    torch.testing.assert_close(true, full[..., :430], atol=1e-5, rtol=0)


def test_last_frame_of_whisper_features_is_digital_silence():
    """What makes padding by repetition of the last frame exact (re-decoding of suspicious clips)."""
    features = CLSRFeatureExtractor()(noise_clips(2.0)[0], sampling_rate=16000).input_features[0]
    assert torch.equal(features[:, -1], features.min().expand(80))


def test_parakeet_features_equal_nemos_log_mel():
    clips = noise_clips(2.0, 1.3)
    own = CLSRFeatureExtractor("parakeet", n_fft=512, tail_silence_s=0.0)(clips, sampling_rate=16000)
    nemo = ParakeetFeatureExtractor()(clips, sampling_rate=16000, return_tensors="pt")
    lengths = own.feature_attention_mask.sum(dim=1)
    assert lengths.tolist() == nemo.attention_mask.sum(dim=1).tolist()
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            own.input_features[row, :length], nemo.input_features[row, :length], atol=1e-4, rtol=0
        )


def test_waveforms_equal_wav2vec2s_normalisation():
    clip = noise_clips(1.0)[0]
    own = CLSRFeatureExtractor("waveform", 1, do_normalize=True)(clip, sampling_rate=16000).input_features
    other = Wav2Vec2FeatureExtractor()(clip, sampling_rate=16000, return_tensors="pt").input_values
    torch.testing.assert_close(own, other, atol=1e-5, rtol=0)


def test_kaldi_rows_are_the_stacked_filterbank():
    clip = noise_clips(1.0)[0]
    extractor = CLSRFeatureExtractor("kaldi", tail_silence_s=0.0)
    features = extractor(clip, sampling_rate=16000)
    frames = kaldi_fbank(torch.from_numpy(clip))[None]
    expected, lengths = stack_frames(frames, torch.tensor([98]))
    assert torch.equal(features.input_features, expected) and features.input_features.shape == (1, 17, 560)
    assert features.feature_attention_mask.sum() == lengths[0]


@pytest.mark.parametrize("kind", ["whisper", "parakeet", "waveform", "kaldi"])
def test_padding_does_not_change_a_clip(kind):
    clips = noise_clips(0.9, 2.1)
    extractor = CLSRFeatureExtractor(kind, n_fft=512 if kind == "parakeet" else 400)
    batch = extractor(clips, sampling_rate=16000)
    alone = extractor(clips[0], sampling_rate=16000)
    time = 2 if kind == "whisper" else 1
    length = alone.feature_attention_mask.shape[1]
    assert batch.feature_attention_mask.sum(dim=1).tolist()[0] == length
    assert torch.equal(batch.input_features.narrow(time, 0, length)[:1], alone.input_features)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(16000, np.float32), None, "sampling_rate is missing but the model expects 16000 Hz"),
        (np.zeros(16000, np.float32), 44100, "sampled at 44100 Hz but the model expects 16000 Hz; resample"),
        (np.zeros(0, np.float32), 16000, "clip 0 has 0 samples but at least 1 is needed"),
        (np.array([0.0, np.nan, np.inf]), 16000, "clip 0 has 2 NaN or infinite samples of 3"),
        (np.zeros((2, 3, 4)), 16000, r"clip 0 has shape \(3, 4\) but the model expects mono"),
        (
            np.zeros(16000, np.int16),
            16000,
            "clip 0 has dtype int16 but the model expects floats.*divide it by 32768",
        ),
        (
            np.zeros(16000 * 31, np.float32),
            16000,
            "clip 0 is 31.00 s but one pass takes at most 29 s; cut it",
        ),
        ([], 16000, "audio is an empty list but at least 1 clip"),
    ],
)
def test_bad_audio_is_refused_with_both_values_and_the_remedy(audio, rate, message):
    with pytest.raises(ValueError, match=message):
        CLSRFeatureExtractor()(audio, sampling_rate=rate)


def test_very_short_clips_are_lengthened_for_the_waveform_encoders():
    features = CLSRFeatureExtractor("waveform", 1)(np.ones(5, np.float32), sampling_rate=16000)
    assert features.feature_attention_mask.sum() == 1600


def test_extractor_is_the_same_after_saving(tmp_path):
    extractor = CLSRFeatureExtractor("parakeet", n_fft=512, tail_silence_s=0.0, max_audio_s=20.0)
    extractor.save_pretrained(tmp_path)
    again = CLSRFeatureExtractor.from_pretrained(tmp_path)
    assert again.to_dict() == extractor.to_dict()
    assert "mel_filters" not in json.loads((tmp_path / "preprocessor_config.json").read_text())
    clip = noise_clips(1.0)[0]
    assert torch.equal(
        again(clip, sampling_rate=16000).input_features, extractor(clip, sampling_rate=16000).input_features
    )
