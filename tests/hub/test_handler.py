"""The endpoint's handler, called as the service calls it: handler.py of the folder, JSON in and out."""

import base64
import importlib.util
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlencode

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard

from modeling_clsr import CLSRModel, CLSRProcessor
from tests.clean_process import clean_environment
from tests.tiny_parts import noise_clips

# As Hugging Face's toolkit does, it loads handler.py by its path, makes {"inputs": bytes} of an audio body and of JSON
# its content, takes the query for parameters where the body has none, and answers 400 to whatever is raised.
SERVICE = """
import importlib.util, json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

sys.modules["modeling_clsr"] = None  # the package is not installed
folder = sys.argv[1]
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
module = sys.modules["handler"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)

def deserialise(body, content_type):
    media_type = content_type.split(";")[0].strip().lower()
    if media_type.startswith("audio/"):
        return {"inputs": body}
    if media_type == "application/json":
        return json.loads(body)
    raise ValueError(f"content type {media_type} is not supported")

class Service(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            data = deserialise(body, self.headers["Content-Type"])
            if "inputs" not in data:
                raise ValueError("the body needs to provide inputs")
            query = dict(parse_qsl(urlsplit(self.path).query))
            if query and "parameters" not in data:
                data["parameters"] = query
            status, answer = 200, handler(data)
        except Exception as error:
            status, answer = 400, {"error": str(error)}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

server = HTTPServer(("127.0.0.1", 0), Service)
print(server.server_port, flush=True)
server.serve_forever()
"""


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


@pytest.fixture(scope="module")
def endpoint(tiny_checkpoint, tmp_path_factory):
    """Address of the service, in a process where the package is not installed."""
    folder = tmp_path_factory.mktemp("endpoint")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(tiny_checkpoint)],
        cwd=folder,
        env=clean_environment(folder / "modules"),
        stdout=subprocess.PIPE,
        text=True,
    )
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
    process.terminate()
    process.wait(10)


def post(address: str, body: bytes, content_type: str, **query: str):
    """Send a request as the widget does; return status and answer."""
    request = urllib.request.Request(
        f"{address}?{urlencode(query)}", body, {"Content-Type": content_type, "Accept": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_widget_gets_the_answer_of_the_python_api_over_http(endpoint, tiny_checkpoint):
    """The example that the card names, as raw bytes and as base64, with and without the labels of the widget."""
    (example,) = ModelCard.load(tiny_checkpoint / "README.md").data.to_dict()["widget"]
    audio = (tiny_checkpoint / example["src"]).read_bytes()
    encoded = base64.b64encode(audio).decode()
    model = CLSRModel.from_pretrained(tiny_checkpoint)
    processor = CLSRProcessor.from_pretrained(tiny_checkpoint)
    labels = [label.strip() for label in example["candidate_labels"].split(",")]
    with torch.no_grad():
        heard = model.get_audio_features(
            **processor(audio=[processor.read_audio(audio)], sampling_rate=16000)
        )
        written = model.get_text_features(**processor(text=labels)).pooler_output
    scores = (model.logit_scale.exp() * written @ heard.pooler_output[0]).softmax(dim=0).tolist()
    words = heard.transcripts[0].words
    assert words

    for answer in (
        post(endpoint, audio, "audio/ogg"),
        post(endpoint, json.dumps({"inputs": encoded}).encode(), "application/json"),
    ):
        status, found = answer
        assert status == 200 and set(found) == {"text", "words", "embedding"}
        assert found["text"] == heard.transcripts[0].text
        # Another process need not round the last bits of a probability alike.
        expected = [vars(word) | {"probability": pytest.approx(word.probability, abs=1e-5)} for word in words]
        assert found["words"] == expected
        np.testing.assert_allclose(found["embedding"], heard.pooler_output[0].numpy(), atol=1e-5)

    parameters = {"candidate_labels": example["candidate_labels"]}
    content = json.dumps({"inputs": encoded, "parameters": parameters}).encode()
    for answer in (
        post(endpoint, content, "application/json; charset=utf-8"),
        post(endpoint, audio, "audio/ogg", **parameters),
    ):
        status, found = answer
        assert status == 200
        assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(
            dict(zip(labels, scores, strict=True)), abs=1e-5
        )

    status, found = post(endpoint, json.dumps({"inputs": labels[0]}).encode(), "application/json")
    assert status == 200
    np.testing.assert_allclose(found["embedding"], written[0].numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"no audio at all", "audio/wav", "15 bytes cannot be read as audio"),
        (b"{}", "application/json", "needs to provide inputs"),
        (b"inputs", "text/plain", "content type text/plain is not supported"),
    ],
)
def test_wrong_request_over_http_is_answered_in_one_line(endpoint, body, content_type, message):
    status, found = post(endpoint, body, content_type)
    assert status == 400 and message in found["error"] and "\n" not in found["error"]
