"""The default checkpoint on real speech: Whisper base and all-MiniLM-L6-v2 joined without training."""

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration

from modeling_clsr import CLSRModel
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.evaluation.metrics import word_error_rate
from modeling_clsr.hub.parts import minilm_folder, whisper_tokenizer, write_whisper_base

pytestmark = pytest.mark.slow


def read(row: dict) -> np.ndarray:
    return soundfile.read(row["path"], dtype="float32")[0]


@torch.no_grad()
def test_clip_vector_is_exactly_the_text_encoders_vector(base, reread):
    model, processor = base
    for row in reread[:3]:
        output = model.get_audio_features(**processor(audio=read(row), sampling_rate=16000))
        text = output.transcripts[0].text
        own = model.get_text_features(**processor(text=text)).pooler_output
        assert torch.equal(output.pooler_output, own)


@torch.no_grad()
def test_vectors_are_those_of_sentence_transformers(base, reread):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model, processor = base
    encoder = sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu")
    output = model.get_audio_features(**processor(audio=read(reread[0]), sampling_rate=16000))
    expected = encoder.encode(output.transcripts[0].text, convert_to_tensor=True, normalize_embeddings=True)
    torch.testing.assert_close(output.pooler_output[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_word_error_rate_at_true_length_is_below_15_percent(base, reread):
    model, processor = base
    rows = reread[:30]
    texts = [""] * len(rows)
    clips = [read(row) for row in rows]
    for batch in length_batches([len(clip) for clip in clips], 8):
        found = model.transcribe(**processor(audio=[clips[row] for row in batch], sampling_rate=16000))
        for row, transcript in zip(batch, found, strict=True):
            texts[row] = transcript.text
    rate, _ = word_error_rate([row["transcript"] for row in rows], texts)
    assert rate < 0.15


@torch.no_grad()
def test_labels_for_training_are_the_tokens_that_it_writes(base, reread):
    model, processor = base
    tokenizer = whisper_tokenizer()
    for row in reread[:20]:
        (heard,) = model.transcribe(**processor(audio=read(row), sampling_rate=16000))
        assert tokenizer(" " + heard.text, add_special_tokens=False)["input_ids"] == heard.token_ids


@torch.no_grad()
def test_padded_tokens_equal_stock_whisper(base, reread, tmp_path):
    model, processor = base
    stock = WhisperForConditionalGeneration.from_pretrained(write_whisper_base(tmp_path / "whisper")).eval()
    batch = processor(audio=[read(row) for row in reread[:3]], sampling_rate=16000, padding="max_length")
    expected = stock.generate(batch["input_features"], language="en", task="transcribe").tolist()
    end = model.config.eos_token_id
    for transcript, row in zip(model.transcribe(**batch), expected, strict=True):
        assert transcript.token_ids == [token for token in row if token < end]


@torch.no_grad()
def test_clip_alone_equals_clip_in_the_batches_of_the_index(base, reread):
    model, processor = base
    clips = [read(row) for row in reread[30:42]]
    for batch in length_batches([len(clip) for clip in clips], 6):
        audio = [clips[row] for row in batch]
        together = model.get_audio_features(**processor(audio=audio, sampling_rate=16000))
        for place in (0, len(batch) - 1):
            alone = model.get_audio_features(**processor(audio=audio[place], sampling_rate=16000))
            assert alone.transcripts[0].text == together.transcripts[place].text
            difference = alone.pooler_output[0] - together.pooler_output[place]
            assert difference.abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", ["silence", "white noise", "tones"])
def test_a_minute_without_speech_has_at_most_a_handful_of_words(base, kind):
    model, processor = base
    time = np.arange(60 * 16000) / 16000
    audio = {
        "silence": np.zeros(len(time)),
        "white noise": 0.1 * np.random.default_rng(0).standard_normal(len(time)),
        "tones": 0.1 * np.sin(2 * np.pi * 110 * 2 ** (np.floor(time * 2) % 12 / 12) * time),
    }[kind].astype(np.float32)
    words = []
    for start in range(0, len(audio), 20 * 16000):
        batch = processor(audio=audio[start : start + 20 * 16000], sampling_rate=16000)
        words += model.transcribe(**batch)[0].words
    assert len(words) <= 5, [word.text for word in words]


def test_contrastive_loss_of_real_clips_falls_through_the_recogniser(base, reread, default_checkpoint):
    """The text encoder and the temperature are frozen: what falls must fall through the bridge."""
    _, processor = base
    model = CLSRModel.from_pretrained(default_checkpoint)
    for weight in (*model.text_model.parameters(), model.logit_scale):
        weight.requires_grad_(False)
    clips = sorted((read(row) for row in reread), key=len)[:4]
    questions = [
        "Who was the printer?",
        "What did the prisoners do?",
        "When was it built?",
        "Where did they go?",
    ]
    batch = processor(text=questions, audio=clips, sampling_rate=16000)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
    losses = []
    for _ in range(12):
        loss = model(**batch, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert model.speech_model.model.encoder.conv1.weight.grad.abs().max() > 0
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]), losses  # single steps may rise
