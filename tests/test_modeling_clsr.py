"""CLSRModel: exact vectors, gradient to the first convolution, independence of the batch, honest errors."""

import math

import pytest
import torch

from modeling_clsr import CLSRModel

from .tiny_parts import FAMILIES, noise_clips, tiny_parts

TEXTS = ["a bee", "the sea road", "lamp and lamp", "x y z"]


@pytest.fixture(params=FAMILIES)
def tiny(request, tmp_path):
    parts = tiny_parts(request.param, tmp_path)
    return parts.model(), parts.processor()


@torch.no_grad()
def test_clip_vector_is_exactly_the_text_vector_of_its_transcript(tiny):
    model, processor = tiny
    for clip in noise_clips(0.8, 1.7):
        output = model.get_audio_features(**processor(audio=clip, sampling_rate=16000))
        text = output.transcripts[0].text
        assert text
        vector = model.get_text_features(**processor(text=text)).pooler_output
        assert torch.equal(output.pooler_output, vector)


def test_vector_is_the_same_with_and_without_gradient(tiny):
    model, processor = tiny
    batch = processor(audio=noise_clips(1.2), sampling_rate=16000)
    model.config.redecode_padded = False  # second looks are for inference
    with torch.no_grad():
        expected = model.get_audio_features(**batch).pooler_output
    output = model.get_audio_features(**batch).pooler_output
    assert output.requires_grad
    assert torch.equal(output, expected)


@torch.no_grad()
def test_clip_alone_equals_clip_in_a_batch(tiny):
    model, processor = tiny
    clips = noise_clips(0.6, 2.0, 1.1)
    together = model.get_audio_features(**processor(audio=clips, sampling_rate=16000))
    for row, clip in enumerate(clips):
        alone = model.get_audio_features(**processor(audio=clip, sampling_rate=16000))
        assert alone.transcripts[0].text == together.transcripts[row].text
        torch.testing.assert_close(
            alone.pooler_output, together.pooler_output[row : row + 1], atol=1e-4, rtol=0
        )


def test_contrastive_loss_alone_reaches_the_first_convolution(tiny):
    model, processor = tiny
    model.train()
    batch = processor(text=TEXTS[:3], audio=noise_clips(0.8, 1.1, 1.4), sampling_rate=16000)
    model(**batch, return_loss=True).loss.backward()
    first = next(weight for name, weight in model.speech_model.named_parameters() if weight.ndim >= 3)
    assert first.grad.abs().max() > 0
    unused = [
        name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None
    ]
    assert unused == []


def test_thirty_steps_of_the_contrastive_loss_lower_it(tiny):
    model, processor = tiny
    torch.manual_seed(0)
    batch = processor(text=TEXTS, audio=noise_clips(0.7, 0.9, 1.1, 1.3), sampling_rate=16000)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = model(**batch, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0]


@torch.no_grad()
def test_words_have_ordered_times_inside_the_clip(tiny):
    model, processor = tiny
    (transcript,) = model.transcribe(**processor(audio=noise_clips(1.5), sampling_rate=16000))
    assert " ".join(word.text for word in transcript.words) == " ".join(transcript.text.split())
    times = [time for word in transcript.words for time in (word.start, word.end)]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= 1.5 + 0.1
    assert 0 < transcript.probability <= 1
    assert all(0 < word.probability <= 1 for word in transcript.words)


def test_loss_of_unrelated_pairs_is_the_closed_form(tiny):
    """Two equal clips and two equal questions: every cosine is the same, so the loss is log 2."""
    model, processor = tiny
    clip = noise_clips(0.8)[0]
    batch = processor(text=["a bee", "a bee"], audio=[clip, clip], sampling_rate=16000)
    with torch.no_grad():
        output = model(**batch, return_loss=True)
    assert output.loss.item() == pytest.approx(math.log(2), abs=1e-4)
    assert output.logits_per_audio.shape == (2, 2)
    assert torch.equal(output.logits_per_audio, output.logits_per_text.T)
    assert isinstance(model(**batch, return_dict=False), tuple)


def test_vectors_have_unit_length(tiny):
    model, processor = tiny
    with torch.no_grad():
        text = model.get_text_features(**processor(text=TEXTS)).pooler_output
        audio = model.get_audio_features(
            **processor(audio=noise_clips(1.0), sampling_rate=16000)
        ).pooler_output
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(audio.norm(dim=-1), torch.ones(1))


@pytest.mark.parametrize("family", ["whisper", "moonshine"])
def test_decoder_learns_beside_a_frozen_encoder(family, tmp_path):
    """Its states carry no gradient then; the bridge must open all the same."""
    parts = tiny_parts(family, tmp_path)
    model, processor = parts.model().train(), parts.processor()
    for weight in model.speech_model.model.encoder.parameters():
        weight.requires_grad_(False)
    for weight in model.text_model.parameters():
        weight.requires_grad_(False)
    batch = processor(text=TEXTS[:2], audio=noise_clips(0.8, 1.1), sampling_rate=16000)
    model(**batch, return_loss=True).loss.backward()
    weight = model.speech_model.model.decoder.layers[0].encoder_attn.q_proj.weight
    assert weight.grad is not None and weight.grad.abs().max() > 0


@pytest.fixture
def whisper(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    return parts.model(), parts.processor()


@pytest.mark.parametrize(
    ("texts", "clips", "loss", "message"),
    [
        (None, None, False, "input_ids, input_features and passage_ids are None"),
        (None, 2, True, "input_ids is None but the loss compares"),
        (2, None, True, "input_features is None but the loss compares"),
        (3, 2, True, "3 texts and 2 clips but needs pairs"),
        (1, 1, True, "1 texts and 1 clips but needs pairs, at least 2"),
    ],
)
def test_forward_refuses_what_it_cannot_compare(whisper, texts, clips, loss, message):
    model, processor = whisper
    batch = {}
    if texts:
        batch |= processor(text=TEXTS[:texts])
    if clips:
        batch |= processor(audio=noise_clips(*[0.5] * clips), sampling_rate=16000)
    with pytest.raises(ValueError, match=message):
        model(**batch, return_loss=loss)


def test_forward_refuses_unknown_arguments(whisper):
    with pytest.raises(ValueError, match="forward got labels"):
        whisper[0](labels=1)


def test_model_object_without_tokenizer_is_refused(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    with pytest.raises(
        ValueError, match="speech is a WhisperForConditionalGeneration but speech_tokenizer is None"
    ):
        CLSRModel.from_pretrained_parts(parts.speech, parts.text, text_tokenizer=parts.text_tokenizer)


def test_recogniser_of_another_kind_is_refused(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    with pytest.raises(ValueError, match="of type 'bert' but CLSR takes whisper"):
        CLSRModel.from_pretrained_parts(parts.text, parts.text, parts.text_tokenizer, parts.text_tokenizer)


@torch.no_grad()
def test_silent_answer_is_an_empty_transcript(whisper):
    """A recogniser that says itself that nobody speaks, and is unsure of its words, says nothing."""
    model, processor = whisper
    model.config.no_speech_threshold, model.config.logprob_threshold = 0.0, 0.0
    output = model.get_audio_features(**processor(audio=noise_clips(1.0), sampling_rate=16000))
    assert output.transcripts[0].text == "" and output.transcripts[0].words == []
    assert torch.isfinite(output.pooler_output).all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_kinds_agree(whisper, attention):
    model, processor = whisper
    batch = processor(audio=noise_clips(0.8, 1.4), sampling_rate=16000)
    expected = model.get_audio_features(**batch).pooler_output
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model.get_audio_features(**batch).pooler_output, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_same_input_gives_the_same_bytes(whisper):
    model, processor = whisper
    batch = processor(audio=noise_clips(0.8, 1.4), sampling_rate=16000)
    assert torch.equal(model.get_audio_features(**batch)[1], model.get_audio_features(**batch)[1])
