"""Greedy decoding: loops end, batches do not matter."""

import pytest
import torch

from modeling_clsr import CLSRConfig
from modeling_clsr.decoding_clsr import greedy_decode, repeated_tail
from modeling_clsr.recognizer_clsr import SpeechStates, encode_speech

from .tiny_parts import FAMILIES, noise_clips, tiny_parts


def test_repeated_phrase_is_found_and_counted_without_its_first():
    assert repeated_tail([9, 8, *[1, 2, 3] * 5]) == 12
    assert repeated_tail([9, *[4] * 12]) == 11


@pytest.mark.parametrize("tokens", [[], [1], [7, 7, 7], [1, 2] * 3, [5] * 11, list(range(40))])
def test_ordinary_repetition_is_left_alone(tokens):
    assert repeated_tail(tokens) == 0


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_does_not_depend_on_the_batch(family, tmp_path):
    parts = tiny_parts(family, tmp_path)
    model, processor = parts.model(), parts.processor()
    clips = noise_clips(0.6, 2.2, 1.1)

    def decode(audio):
        batch = processor(audio=audio, sampling_rate=16000)
        speech = encode_speech(model.speech_model, batch["input_features"], batch["feature_attention_mask"])
        return greedy_decode(model.speech_model, speech, model.config)

    together = decode(clips)
    for clip, expected in zip(clips, together, strict=True):
        (alone,) = decode(clip)
        assert alone.token_ids == expected.token_ids
        assert alone.spans == expected.spans
        assert alone.log_probs == pytest.approx(expected.log_probs, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_token_spans_are_ordered_and_disjoint(family, tmp_path):
    parts = tiny_parts(family, tmp_path)
    model, processor = parts.model(), parts.processor()
    batch = processor(audio=noise_clips(1.4, 2.2), sampling_rate=16000)
    speech = encode_speech(model.speech_model, batch["input_features"], batch["feature_attention_mask"])
    for row, result in enumerate(greedy_decode(model.speech_model, speech, model.config)):
        assert result.token_ids and len(result.spans) == len(result.token_ids) == len(result.log_probs)
        edges = [edge for span in result.spans for edge in span]
        assert edges == sorted(edges)
        assert edges[-1] <= int(speech.mask[row].sum())


@torch.no_grad()
def test_whisper_equals_stock_greedy_generation(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    model, processor = parts.model(redecode_padded=False), parts.processor()
    batch = processor(audio=noise_clips(1.0), sampling_rate=16000, padding="max_length")
    speech = encode_speech(model.speech_model, batch["input_features"], None)
    (own,) = greedy_decode(model.speech_model, speech, model.config)
    ids = torch.tensor([model.config.decoder_prompt_ids])
    for expected in own.token_ids:  # stock decoder without cache, step by step
        logits = parts.speech(input_features=batch["input_features"], decoder_input_ids=ids).logits[0, -1]
        assert int(logits.argmax()) == expected
        ids = torch.cat([ids, torch.tensor([[expected]])], dim=1)


@pytest.mark.parametrize(
    ("path", "tokens", "spans"),
    [
        ([0, 5, 5, 0, 5, 0, 0, 7, 7], [5, 5, 7], [(1, 3), (4, 5), (7, 9)]),
        ([0, 0], [], []),
    ],
)
def test_ctc_path_merges_repeats_and_keeps_doubles_apart(path, tokens, spans):
    logits = 5.0 * torch.nn.functional.one_hot(torch.tensor([path]), 8).float()
    speech = SpeechStates(logits, torch.ones(1, len(path), dtype=torch.bool), logits)
    (decoded,) = greedy_decode(None, speech, CLSRConfig(recognizer_type="ctc", blank_token_id=0))
    assert (decoded.token_ids, decoded.spans) == (tokens, spans)
    assert decoded.log_probs == pytest.approx([float(logits[0, 0].log_softmax(-1).max())] * len(tokens))
