"""Every system with a tiny real model of its class, on clips that are there."""

import numpy as np
import pytest
import soundfile
import torch

from modeling_clsr.data.manifest import Row
from modeling_clsr.evaluation.scoring import KnownTexts, bm25_scores, sentence_encoder
from modeling_clsr.evaluation.systems import (
    CascadeSystem,
    CLSRSystem,
    Entry,
    TextSystem,
)
from modeling_clsr.retrieval.encoder import Encoder
from tests.tiny_parts import tiny_bert
from tests.training.tiny_runs import tone_rows

pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    """The texts' side of a sentence-transformers model over the tiny text encoder."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    model, tokenizer = tiny_bert()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return KnownTexts(sentence_encoder(folder))


@pytest.fixture
def rows(tmp_path):
    return tone_rows(tmp_path / "tones", 5)


def test_true_text_ranks_a_passage_asked_for_in_its_own_words_first(text_encoder, rows):
    questions = [row.transcript for row in rows]
    scored = TextSystem(text_encoder).score(questions, rows)
    assert scored.scores.argmax(axis=1).tolist() == list(range(5))
    assert scored.transcripts == questions and scored.seconds == 0.0


def test_clsr_scores_are_the_cosines_of_its_own_vectors(tiny_checkpoint, rows):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    system = CLSRSystem(encoder)
    scored = system.score(["the sea", "a bee"], rows)
    model, processor = encoder.model, encoder.processor
    from modeling_clsr.data.audio import load_audio

    with torch.no_grad():
        heard = model.get_audio_features(**processor(audio=[load_audio(rows[3].audio)], sampling_rate=16000))
        asked = model.get_text_features(**processor(text=["the sea", "a bee"])).pooler_output
    expected = (asked @ heard.pooler_output.T)[:, 0].numpy()
    np.testing.assert_allclose(scored.scores[:, 3], expected, atol=1e-5)
    assert scored.transcripts[3] == heard.transcripts[0].text
    hybrid = CLSRSystem(encoder, "hybrid").score(["the sea", "a bee"], rows)
    np.testing.assert_allclose(
        hybrid.scores, scored.scores + 0.01 * bm25_scores(["the sea", "a bee"], scored.transcripts), atol=1e-5
    )


def test_a_clip_too_long_for_one_pass_is_heard_in_parts_and_embedded_as_one(tiny_checkpoint, clips, tmp_path):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    first, second = list(clips.values())[:2]
    pause = np.zeros(16000, dtype=np.float32)
    soundfile.write(tmp_path / "long.wav", np.concatenate([first, pause, second]), 16000)
    row = Row("long", str(tmp_path / "long.wav"), transcript="", duration=len(first) / 16000)
    encoder.max_audio_s = max(len(first), len(second)) / 16000 + 0.5
    heard = []
    whole, encoder.encode_passages = (
        encoder.encode_passages,
        lambda parts: heard.extend(parts) or whole(parts),
    )
    scored = CLSRSystem(encoder).score(["the sea"], [row])
    assert len(heard) == 2 and abs(len(heard[0]) - len(first)) < 8000
    (text,) = scored.transcripts
    assert text == " ".join(transcript.text for transcript, _ in whole(heard))
    expected = encoder.encode_texts(["the sea"]) @ encoder.encode_texts([text], truncation=True).T
    np.testing.assert_allclose(scored.scores, expected, atol=1e-5)


def test_second_run_hears_only_what_is_new(rows, tmp_path, text_encoder):
    asked = []

    def recogniser(waveforms):
        asked.extend(waveforms)
        return ["the sea"] * len(waveforms)

    def system():
        return CascadeSystem(recogniser, "counting", text_encoder, cache_dir=tmp_path / "cache")

    first = system().score(["the sea"], rows[:3])
    assert len(asked) == 3
    with system().cache.file.open("a") as file:
        file.write('{"clip": "half')  # of a killed run
    again = system().score(["the sea"], rows)
    assert len(asked) == 5
    assert again.transcripts[:3] == first.transcripts
    both = [system(), CascadeSystem(recogniser, "shared", text_encoder, cache_dir=tmp_path / "cache")]
    both[0].cache.key = "recogniser/shared"  # two systems made before either has heard anything
    for one in both:
        one.score(["the sea"], rows)
    assert len(asked) == 10
    other = CascadeSystem(recogniser, "another recogniser", text_encoder, cache_dir=tmp_path / "cache")
    other.score(["the sea"], rows)
    assert len(asked) == 15


def test_cascade_ranks_by_what_was_heard(rows, text_encoder):
    from modeling_clsr.data.audio import load_audio

    words = {len(load_audio(row.audio)): row.transcript for row in rows}
    chosen = [
        row for row in rows if words[len(load_audio(row.audio))] == row.transcript
    ]  # lengths may be shared

    def hear(waveforms):
        return [words[len(waveform)] for waveform in waveforms]

    system = CascadeSystem(hear, "by length", text_encoder)
    scored = system.score([row.transcript for row in chosen], chosen)
    assert scored.scores.argmax(axis=1).tolist() == list(range(len(chosen)))
    assert scored.seconds > 0
    lexical = CascadeSystem(hear, "by length", text_encoder, "bm25")
    best = lexical.score([row.transcript for row in chosen], chosen).scores
    assert (best.max(axis=1) > 0).all()


def test_entries_hold_what_a_cache_needs():
    assert vars(Entry("a", [1.0], 0.5)) == {"text": "a", "vector": [1.0], "seconds": 0.5}
