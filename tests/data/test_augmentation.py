"""Augmentation against closed forms."""

import numpy as np
import pytest
import torch

from modeling_clsr.data.augmentation import (
    Augmentation,
    add_noise,
    add_room,
    change_speed,
    load_noises,
    mask_features,
    through_codec,
)

DRAW = np.random.default_rng(0)
CLIP = (0.1 * DRAW.standard_normal(16000)).astype(np.float32)
NOISE = DRAW.standard_normal(5000).astype(np.float32)
EVERYTHING = Augmentation([NOISE], [np.array([0.0, 1.0, 0.3], dtype=np.float32)], 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("snr", [20.0, 5.0, 0.0, -5.0])
def test_noise_has_the_ratio_asked_for(snr):
    added = add_noise(CLIP, NOISE, snr, start=17) - CLIP
    ratio = 10 * np.log10(np.mean(CLIP**2) / np.mean(added**2))
    assert ratio == pytest.approx(snr, abs=0.1)


def test_room_keeps_length_power_and_the_place_of_the_direct_sound():
    click = np.zeros(1000, dtype=np.float32)
    click[200] = 1.0
    response = np.zeros(400, dtype=np.float32)
    response[50], response[150] = 1.0, 0.5
    wet = add_room(click, response)
    assert len(wet) == 1000 and np.abs(wet).argmax() == 200
    assert wet[300] / wet[200] == pytest.approx(0.5, abs=1e-4)
    assert np.mean(wet**2) == pytest.approx(np.mean(click**2), rel=1e-4)


def test_speed_changes_length_and_times_by_its_factor():
    wave = np.zeros(16000, dtype=np.float32)
    wave[7990:8010] = 0.5
    for factor in (0.9, 1.1):
        changed = change_speed(wave, factor)
        assert len(changed) == pytest.approx(16000 / factor, abs=3)
        assert np.abs(changed).argmax() == pytest.approx(8000 / factor, abs=20)


@pytest.mark.parametrize("codec", ["telephone", "opus"])
def test_codec_keeps_length_and_tune(codec):
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
    coded = through_codec(tone, 16000, codec)
    assert coded.shape == tone.shape and coded.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(coded))
    assert spectrum.argmax() == 440


def test_same_key_gives_the_same_samples_and_another_epoch_others():
    first = EVERYTHING(CLIP, 16000, (1, 0, 5))
    assert np.array_equal(first, EVERYTHING(CLIP, 16000, (1, 0, 5)))
    others = [EVERYTHING(CLIP, 16000, key) for key in ((1, 1, 5), (1, 0, 6), (2, 0, 5))]
    assert not any(other.shape == first.shape and np.array_equal(other, first) for other in others)


def test_one_setting_does_not_shift_the_draws_of_another():
    noisy = Augmentation([NOISE], noise_probability=1.0)
    with_speed = Augmentation([NOISE], noise_probability=1.0, speed_probability=1e-12)
    assert np.array_equal(noisy(CLIP, 16000, (3, 0, 1)), with_speed(CLIP, 16000, (3, 0, 1)))


def test_probability_zero_changes_nothing():
    assert Augmentation([NOISE])(CLIP, 16000, (0, 0, 0)) is CLIP


def test_silence_stays_silence_and_nothing_is_ever_nan_or_clipped():
    silence = np.zeros(8000, dtype=np.float32)
    for index in range(20):
        quiet = EVERYTHING(silence, 16000, (0, 0, index))
        assert np.abs(quiet).max() < 1e-3
        loud = EVERYTHING(10 * CLIP, 16000, (0, 0, index))
        assert np.isfinite(loud).all() and np.abs(loud).max() <= 1.0


def test_masks_cover_bands_and_stretches_and_leave_the_input_alone():
    features = torch.arange(80 * 200, dtype=torch.float32).reshape(80, 200)
    before = features.clone()
    masked = [mask_features(features, (0, epoch, 0)) for epoch in range(8)]
    assert torch.equal(features, before)
    assert any(not torch.equal(one, features) for one in masked)
    assert torch.equal(masked[3], mask_features(features, (0, 3, 0)))
    assert all((one != features).float().mean() < 0.5 for one in masked)


def test_noises_and_rooms_of_the_data_folder_are_read(speech_data, tmp_path):
    noises, rooms = load_noises(speech_data / "noise")
    assert (len(noises), len(rooms)) == (5, 4)
    with pytest.raises(FileNotFoundError, match="holds no noise"):
        load_noises(tmp_path)
