"""Models that embed audio, each a tiny real one: CLAP, and sentence-transformers."""

import numpy as np
import pytest
import torch
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from modeling_clsr.evaluation.audio_encoders import clap, sentence_transformers_system
from modeling_clsr.evaluation.systems import CLSRSystem
from modeling_clsr.retrieval.encoder import Encoder
from tests.tiny_parts import tiny_bert
from tests.training.tiny_runs import tone_rows

pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")


@pytest.fixture
def rows(tmp_path):
    return tone_rows(tmp_path / "tones", 5)


def test_tiny_clap_embeds_texts_and_clips(rows, tmp_path):
    torch.manual_seed(0)
    _, tokenizer = tiny_bert()
    extractor = ClapFeatureExtractor(truncation="rand_trunc")  # one channel, as an unfused CLAP hears
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    audio = ClapAudioConfig(
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 4],
        patch_embeds_hidden_size=16,
        hidden_size=128,
        num_hidden_layers=4,
    )
    config = ClapConfig(
        text_config=ClapTextConfig(vocab_size=len(tokenizer), pad_token_id=0, **small).to_dict(),
        audio_config=audio.to_dict(),
        projection_dim=16,
    )

    class Processor:
        feature_extractor = extractor

        @staticmethod
        def tokenizer(texts, **settings):
            batch = tokenizer(texts, **settings)
            return {name: batch[name] for name in ("input_ids", "attention_mask")}

    scored = clap(ClapModel(config).eval(), Processor, tmp_path).score(["the sea", "a bee"], rows)
    assert scored.scores.shape == (2, 5) and np.isfinite(scored.scores).all()
    assert np.abs(scored.scores).max() <= 1.0 + 1e-5
    assert scored.transcripts is None


def test_any_sentence_transformer_that_hears_is_a_system(tiny_checkpoint, rows, tmp_path):
    system = sentence_transformers_system(tiny_checkpoint, tmp_path / "cache")
    scored = system.score(["the sea"], rows)
    same = CLSRSystem(Encoder.from_pretrained(tiny_checkpoint, device="cpu")).score(["the sea"], rows)
    np.testing.assert_allclose(scored.scores, same.scores, atol=1e-5)
    assert scored.seconds > 0


def test_sentence_transformer_without_ears_is_refused(tmp_path):
    model, tokenizer = tiny_bert()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes text but the system needs audio"):
        sentence_transformers_system(tmp_path)
