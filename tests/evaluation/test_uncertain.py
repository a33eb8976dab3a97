"""`benchmarks/uncertain.py` on a tiny checkpoint: what is heard is kept; without doubt all ways are the plain one."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from modeling_clsr.data.audio import load_audio
from modeling_clsr.retrieval.encoder import Encoder
from tests.training.tiny_runs import tone_rows

UNCERTAIN = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "uncertain.py"))


@pytest.fixture
def encoder(tiny_checkpoint):
    encoder = Encoder.from_pretrained(tiny_checkpoint)
    encoder.model.config.no_speech_token_id = None  # random weights believe that nobody speaks
    return encoder


def test_what_was_heard_is_kept_and_goes_on_where_it_stopped(encoder, tmp_path):
    rows, file = tone_rows(tmp_path / "tones", 3), tmp_path / "heard" / "set.jsonl"
    first = UNCERTAIN["hear_passages"](encoder, rows[:2], file)
    assert [entry["id"] for entry in first] == [row.id for row in rows[:2]]
    for row in rows[:2]:
        Path(row.audio).unlink()  # is not read again
    heard = UNCERTAIN["hear_passages"](encoder, rows, file)
    assert heard[:2] == first and len(file.read_text().splitlines()) == 3
    assert all(
        len(entry["tokens"]) == len(entry["probabilities"]) == len(entry["chances"]) for entry in heard
    )


def test_best_is_the_vector_of_the_model_and_without_doubt_every_way_is(encoder, tmp_path):
    rows = tone_rows(tmp_path / "tones", 3)
    heard = UNCERTAIN["hear_passages"](encoder, rows, tmp_path / "heard.jsonl")
    assert all(entry["tokens"] for entry in heard)
    of_model = np.stack(
        [vector for _, vector in encoder.encode_passages([load_audio(row.audio) for row in rows])]
    )
    found = UNCERTAIN["embed"](encoder, heard)
    assert np.allclose(found["best"], of_model, atol=1e-5)
    assert not np.allclose(found["weighted 2.0"], of_model, atol=1e-5)
    for entry in heard:
        entry["probabilities"] = [1.0] * len(entry["tokens"])
        entry["chances"] = [[1.0, 0.0, 0.0, 0.0] for _ in entry["tokens"]]
    for way, vectors in UNCERTAIN["embed"](encoder, heard).items():
        assert np.allclose(vectors, of_model, atol=1e-5), way


def test_words_have_the_mean_probability_of_their_tokens(encoder):
    strings = encoder.model.strings
    tokens = next(
        [first, second]
        for first, start in enumerate(strings.token_bytes)
        if start.startswith(b" ") and start.strip().isalpha()
        for second, end in enumerate(strings.token_bytes)
        if end.isalpha()
    )
    text, words = UNCERTAIN["sure_words"](encoder, {"tokens": tokens, "probabilities": [0.4, 0.8]})
    assert words == [(0, len(text), pytest.approx(0.6))]
