"""The endpoint's handler, called as the service calls it: handler.py of the folder, JSON in and out."""

import base64
import importlib.util
import io
import json

import numpy as np
import pytest
import soundfile
import torch

from modeling_clsr import CLSRModel, CLSRProcessor
from tests.tiny_parts import noise_clips


@pytest.fixture(scope="module")
def handler(tiny_checkpoint):
    """The toolkit of the service loads the file by its path and hands it the folder."""
    spec = importlib.util.spec_from_file_location("handler", tiny_checkpoint / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(tiny_checkpoint))


def wav(clip) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, clip, 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


CLIPS = noise_clips(0.6, 0.9)


@pytest.fixture(scope="module")
def expected(tiny_checkpoint):
    model, processor = (
        CLSRModel.from_pretrained(tiny_checkpoint),
        CLSRProcessor.from_pretrained(tiny_checkpoint),
    )
    with torch.no_grad():
        heard = [model.get_audio_features(**processor(audio=[clip], sampling_rate=16000)) for clip in CLIPS]
        text = model.get_text_features(**processor(text=["the bee"])).pooler_output[0]
    return heard, text


def answer(handler, **data):
    """Through JSON, as over the wire; audio bytes are what the service passes for an audio content type."""
    return json.loads(json.dumps(handler(data)))


def test_bytes_and_base64_give_transcript_times_and_vector(handler, expected):
    heard = expected[0][0]
    for inputs in (wav(CLIPS[0]), base64.b64encode(wav(CLIPS[0])).decode()):
        found = answer(handler, inputs=inputs)
        assert found["text"] == heard.transcripts[0].text
        assert found["words"] == [vars(word) for word in heard.transcripts[0].words]
        np.testing.assert_allclose(found["embedding"], heard.pooler_output[0].numpy(), atol=1e-6)


def test_texts_give_vectors(handler, expected):
    np.testing.assert_allclose(answer(handler, inputs="the bee")["embedding"], expected[1].numpy(), atol=1e-6)
    listed = answer(handler, inputs=["the bee", "the bee"])
    assert len(listed) == 2 and listed[0] == listed[1]


def test_question_ranks_clips(handler, expected):
    clips = [base64.b64encode(wav(clip)).decode() for clip in CLIPS]
    found = answer(handler, inputs={"question": "the bee", "clips": clips})
    scores = [float(expected[1] @ heard.pooler_output[0]) for heard in expected[0]]
    assert [entry["clip"] for entry in found] == sorted(range(2), key=lambda clip: -scores[clip])
    assert found[0]["score"] == pytest.approx(max(scores), abs=1e-6)
    assert len(answer(handler, inputs={"question": "the bee", "clips": clips}, parameters={"top_k": 1})) == 1


def test_labels_of_the_widget_are_scored(handler):
    found = answer(handler, inputs=wav(CLIPS[0]), parameters={"candidate_labels": "the bee, a road"})
    assert {entry["label"] for entry in found} == {"the bee", "a road"}
    assert sum(entry["score"] for entry in found) == pytest.approx(1.0, abs=1e-5)


def test_example_of_the_card_is_answered(handler, tiny_checkpoint):
    found = answer(handler, inputs=(tiny_checkpoint / "example.opus").read_bytes())
    assert set(found) == {"text", "words", "embedding"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": "x"}, "the request has text but needs inputs"),
        ({"inputs": 3}, "an input is of type int but must be text, audio bytes or their base64"),
        ({"inputs": b"no audio at all"}, "15 bytes cannot be read as audio"),
        ({"inputs": "the bee", "parameters": {"candidate_labels": "a"}}, "but inputs is no audio"),
        ({"inputs": {"question": "a", "clips": ["x"]}}, "clip 0 is no audio"),
    ],
)
def test_wrong_request_is_named(handler, data, message):
    with pytest.raises(ValueError, match=message):
        handler(data)
