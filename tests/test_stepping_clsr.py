"""Whisper's own steps give the scores, queries and keys of the library's decoder with its cache."""

import pytest
import torch

from modeling_clsr.recognizer_clsr import encode_speech
from modeling_clsr.stepping_clsr import CachedSteps, WhisperSteps, start_decoding

from .tiny_parts import noise_clips, tiny_parts

TIMED = (0, 1)


@pytest.mark.parametrize("lengths", [(1.3,), (0.6, 2.2, 1.1)], ids=["alone", "padded"])
@torch.no_grad()
def test_steps_equal_those_with_a_cache(tmp_path, lengths):
    parts = tiny_parts("whisper", tmp_path)
    model = parts.model()
    batch = parts.processor()(audio=noise_clips(*lengths), sampling_rate=16000)
    speech = encode_speech(model.speech_model, batch["input_features"], batch["feature_attention_mask"])
    own, cached = (kind(model.speech_model, speech, TIMED) for kind in (WhisperSteps, CachedSteps))
    assert isinstance(start_decoding(model.speech_model, speech, TIMED), WhisperSteps)
    size = model.speech_model.config.vocab_size
    tokens = torch.arange(4).repeat(len(lengths), 1)
    for step in range(6):
        found, expected = own.next(tokens), cached.next(tokens)
        assert found.shape == (*tokens.shape, size)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        tokens = expected[:, -1:].argmax(dim=-1)
        if step == 2 and len(lengths) > 1:  # the first clip ends, the others change places
            rows = torch.tensor([2, 1])
            own.keep(rows)
            cached.keep(rows)
            tokens = tokens[rows]
    for layer in TIMED:
        last = [len(lengths) - 1] * 3 + [0] * 3
        torch.testing.assert_close(
            own.queries(layer, last), cached.queries(layer, last), atol=1e-5, rtol=1e-5
        )
        for keys, others, mask in zip(own.keys(layer), cached.keys(layer), speech.mask, strict=True):
            torch.testing.assert_close(keys[:, mask], others[:, mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_other_recognisers_and_devices_take_the_steps_with_a_cache(tmp_path):
    parts = tiny_parts("moonshine", tmp_path)
    model = parts.model()
    batch = parts.processor()(audio=noise_clips(1.0), sampling_rate=16000)
    speech = encode_speech(model.speech_model, *batch.values())
    assert isinstance(start_decoding(model.speech_model, speech, TIMED), CachedSteps)
    whisper = tiny_parts("whisper", tmp_path / "whisper").model().speech_model.to("meta")
    speech.states = speech.states.to("meta")
    assert isinstance(start_decoding(whisper, speech, TIMED), CachedSteps)
