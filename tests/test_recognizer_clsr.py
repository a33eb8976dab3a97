"""The recogniser: Whisper at true length against the original, every family independent of its batch."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from modeling_clsr import recognizer_clsr
from modeling_clsr.parts_clsr import copy_weights
from modeling_clsr.recognizer_clsr import TrueLengthWhisper, decode_tokens, encode_speech

from .tiny_parts import FAMILIES, noise_clips, tiny_parts, tiny_whisper


@pytest.fixture
def whispers():
    torch.manual_seed(0)
    stock = tiny_whisper()[0].eval()
    own = TrueLengthWhisper(stock.config).eval()
    copy_weights(stock, own)
    return stock, own


@torch.no_grad()
def test_full_window_equals_the_original_encoder_bit_for_bit(whispers):
    stock, own = whispers
    features = torch.randn(2, 80, 3000)
    expected = stock.model.encoder(features).last_hidden_state
    assert torch.equal(own.model.encoder(features).last_hidden_state, expected)


@torch.no_grad()
def test_decoder_equals_the_original(whispers):
    stock, own = whispers
    states, ids = torch.randn(2, 50, 32), torch.randint(0, 200, (2, 7))
    expected = stock.model.decoder(input_ids=ids, encoder_hidden_states=states).last_hidden_state
    torch.testing.assert_close(own.model.decoder(ids, states).last_hidden_state, expected, atol=1e-6, rtol=0)


def test_clip_longer_than_the_window_is_refused_with_both_values(whispers):
    with pytest.raises(ValueError, match="1600 encoder frames but Whisper has 1500 positions"):
        whispers[1].model.encoder(torch.zeros(1, 80, 3200))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_does_not_reach_the_states_or_the_decoder(whispers, attention):
    own = whispers[1]
    own.set_attn_implementation(attention)
    features = torch.randn(2, 80, 300)
    mask = torch.ones(2, 300, dtype=torch.long)
    mask[1, 171:] = 0  # an odd length
    batch = encode_speech(own, features, mask)
    alone = encode_speech(own, features[1:, :, :171], None)
    frames = alone.states.shape[1]
    assert batch.mask.sum(dim=1).tolist() == [150, frames]
    torch.testing.assert_close(batch.states[1:, :frames], alone.states, atol=1e-5, rtol=0)
    ids = torch.randint(0, 200, (2, 6))
    in_batch, _ = decode_tokens(own, ids, batch)
    by_itself, _ = decode_tokens(own, ids[1:], alone)
    torch.testing.assert_close(in_batch[1:], by_itself, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 300, 470, 3000])
def test_few_clips_at_once_give_the_states_of_the_whole_batch(whispers, monkeypatch, frames):
    own = whispers[1]
    features = torch.randn(4, 80, 300)
    mask = torch.ones(4, 300, dtype=torch.long)
    for row, length in enumerate((171, 300, 60, 59)):
        mask[row, length:] = 0
    sizes = []
    whole = own.model.encoder(features, mask).last_hidden_state
    own.model.encoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    monkeypatch.setattr(recognizer_clsr, "CPU_FRAMES", frames)
    few = encode_speech(own, features, mask)
    torch.testing.assert_close(few.states[few.mask], whole[few.mask], atol=1e-5, rtol=0)
    assert sizes == {1: [1, 1, 1, 1], 300: [1, 1, 2], 470: [1, 1, 2], 3000: [4]}[frames]


@torch.no_grad()
@pytest.mark.parametrize("family", ["whisper", "moonshine"])
def test_cached_steps_equal_one_pass(family, tmp_path):
    parts = tiny_parts(family, tmp_path)
    model, processor = parts.model(), parts.processor()
    batch = processor(audio=noise_clips(0.8, 1.5), sampling_rate=16000)
    speech = encode_speech(model.speech_model, batch["input_features"], batch["feature_attention_mask"])
    ids = torch.randint(3, 50, (2, 6))
    whole, _ = decode_tokens(model.speech_model, ids, speech)
    cache, steps = EncoderDecoderCache(DynamicCache(), DynamicCache()), []
    for step in range(6):
        logits, cache = decode_tokens(model.speech_model, ids[:, step : step + 1], speech, cache)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_a_clip_do_not_depend_on_its_batch(family, tmp_path):
    parts = tiny_parts(family, tmp_path)
    model, processor = parts.model(), parts.processor()
    clips = noise_clips(0.7, 1.9)
    batch = processor(audio=clips, sampling_rate=16000)
    together = encode_speech(model.speech_model, batch["input_features"], batch["feature_attention_mask"])
    alone = processor(audio=clips[0], sampling_rate=16000)
    single = encode_speech(model.speech_model, alone["input_features"], alone["feature_attention_mask"])
    frames = single.states.shape[1]
    assert together.mask[0].sum() == frames == single.mask[0].sum()
    torch.testing.assert_close(together.states[:1, :frames], single.states, atol=1e-4, rtol=0)
    if single.logits is not None:
        torch.testing.assert_close(together.logits[:1, :frames], single.logits, atol=1e-4, rtol=0)
