"""Systems by name: what is asked for is made, what cannot be is refused in one line."""

import shutil
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from modeling_clsr import CLSRModel
from modeling_clsr.data.manifest import Row
from modeling_clsr.evaluation.build_systems import (
    NEED_A_MODEL,
    SYSTEMS,
    SYSTEMS_OF_BASE,
    build_systems,
    encode_heard,
)
from modeling_clsr.retrieval.encoder import Encoder
from tests.tiny_parts import noise_clips, tiny_parts
from tests.training.tiny_runs import tone_rows

pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")
DEFAULTS = dict.fromkeys(("systems", "also", "base", "text_encoder", "recogniser", "dual", "speechdpr", "st"))


def arguments(**fields):
    return Namespace(**(DEFAULTS | {"checkpoint": "default"} | fields))


@pytest.fixture
def ctc(tmp_path):
    """Folder of a tiny recogniser of transformers."""
    parts = tiny_parts("wav2vec2", tmp_path)
    parts.speech.save_pretrained(tmp_path / "ctc")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), parts.speech_tokenizer).save_pretrained(tmp_path / "ctc")
    return str(tmp_path / "ctc")


@pytest.fixture
def bert(tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    parts.text.save_pretrained(tmp_path / "bert")
    parts.text_tokenizer.save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def test_every_system_with_tiny_models_scores_every_passage(ctc, bert, tiny_checkpoint, tmp_path):
    checkpoint = str(tiny_checkpoint)
    untuned = CLSRModel.from_pretrained(shutil.copytree(checkpoint, tmp_path / "base"))
    torch.nn.init.normal_(untuned.text_model.get_input_embeddings().weight)
    untuned.save_pretrained(tmp_path / "base")
    names = [name for name in SYSTEMS + SYSTEMS_OF_BASE if "clap" not in name and "batched" not in name]
    args = arguments(
        systems=",".join(names),
        checkpoint=checkpoint,
        base=str(tmp_path / "base"),
        text_encoder=bert,
        recogniser=ctc,
        **dict.fromkeys(NEED_A_MODEL, checkpoint),
        also=[f"clsr-twin={checkpoint}"],
    )
    systems = build_systems(args, tmp_path / "cache")
    assert [system.name for system in systems] == [*names, "clsr-twin"]
    rows = tone_rows(tmp_path / "tones", 3)
    found = {system.name: system.score(["the sea", "a bee"], rows) for system in systems}
    scores = {name: scored.scores for name, scored in found.items()}
    assert {name for name, scored in found.items() if scored.transcripts is None} == {
        "st",
        "dual",
        "speechdpr",
    }
    assert {matrix.shape for matrix in scores.values()} == {(2, 3)}
    assert found["cascade@base"].transcripts == found["cascade"].transcripts
    assert not np.allclose(scores["cascade@base"], scores["cascade"])
    assert (scores["clsr-twin"] == scores["clsr"]).all() and (scores["dual"] == scores["clsr"]).all()


def test_systems_without_a_model_are_left_out_or_refused(bert, tiny_checkpoint, tmp_path):
    args = arguments(text_encoder=bert, checkpoint=str(tiny_checkpoint), systems="text,dual")
    with pytest.raises(ValueError, match="'dual' is asked for but --dual is None"):
        build_systems(args, tmp_path)
    with pytest.raises(ValueError, match="'text@base' is asked for but --base is None"):
        build_systems(arguments(systems="text@base"), tmp_path)
    with pytest.raises(ValueError, match="'magic' is none of text, text-search, bm25-true"):
        build_systems(arguments(systems="magic"), tmp_path)
    with pytest.raises(ValueError, match="--also is 'x' but must be NAME=CHECKPOINT"):
        build_systems(arguments(systems="text", text_encoder=bert, also=["x"]), tmp_path)
    with pytest.raises(
        ValueError, match="'cascade-batched' is faster-whisper's but --recogniser is some/asr"
    ):
        build_systems(
            arguments(systems="cascade-batched", recogniser="some/asr", text_encoder=bert), tmp_path
        )


def test_untrained_clap_is_a_floor_that_hears_long_clips(tiny_checkpoint, tmp_path):
    samples = noise_clips(12.0)[0]
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    (system,) = build_systems(arguments(systems="clap", checkpoint=str(tiny_checkpoint)), tmp_path / "cache")
    scored = system.score(["the sea"], [Row("long", str(tmp_path / "long.wav"), duration=12.0)])
    assert scored.scores.shape == (1, 1) and np.isfinite(scored.scores).all()


def test_where_nothing_was_heard_nothing_is_near(tiny_checkpoint):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    vectors = encode_heard(encoder, ["the sea", "", " "])
    np.testing.assert_array_equal(vectors[0], encoder.encode_texts(["the sea"])[0])
    assert not vectors[1:].any() and not encode_heard(encoder, [""]).any()
