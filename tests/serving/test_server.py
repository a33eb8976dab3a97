"""The server on loopback, asked by the real openai client and by raw sockets."""

import asyncio
import base64
import http.client
import io
import json
import select
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import srt

openai = pytest.importorskip("openai", reason="the extra dev is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from modeling_clsr.data.audio import load_audio  # noqa: E402
from modeling_clsr.retrieval import SpeechIndex  # noqa: E402
from modeling_clsr.serving.app import ServerLimits, create_app  # noqa: E402
from tests.retrieval.conftest import write_talks  # noqa: E402
from tests.retrieval.known_clips import KnownClips  # noqa: E402

LIMITS = ServerLimits(max_bytes=3_000_000, max_audio_s=60.0, max_inputs=8, upload_timeout_s=1.0)


class Tokens:
    """Counts words where a tokenizer counts tokens."""

    def __call__(self, texts, **settings):
        return {"input_ids": [text.split() for text in texts]}


class Processor:
    tokenizer = Tokens()


class Heard(KnownClips):
    processor = Processor()


class Slow(Heard):
    """Takes half a second for each batch, and remembers what it was asked."""

    def __init__(self, clips):
        super().__init__(clips)
        self.asked: list[str] = []

    def encode_texts(self, texts, truncation=False):
        self.asked += texts
        time.sleep(0.5)
        return super().encode_texts(texts)


@contextmanager
def serving(app, grace_s=5):
    config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=grace_s)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()  # it stops, and in time


@pytest.fixture(scope="module")
def clips(reread):
    return {row["transcript"]: load_audio(row["path"]) for row in reread[:12]}


@pytest.fixture(scope="module")
def encoder(clips):
    return Heard(clips)


@pytest.fixture(scope="module")
def index(tmp_path_factory, clips, encoder):
    folder = tmp_path_factory.mktemp("served")
    write_talks(folder / "talks", clips)
    index = SpeechIndex.create(folder / "index", encoder)
    index.add([folder / "talks"])
    return index


@pytest.fixture(scope="module")
def port(encoder, index):
    with serving(create_app(encoder, index, LIMITS)) as port:
        yield port


@pytest.fixture
def client(port):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def flac(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="FLAC")
    return buffer.getvalue()


def clip_input(samples):
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(flac(samples)).decode()}}


def post(port, path, body, headers=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


def test_openai_client_gets_the_vectors_of_texts_and_clips(client, encoder, clips):
    texts = ["who kept the lamp?", "printing"]
    expected = encoder.encode_texts(texts)
    for form in ("float", "base64"):  # the client asks for base64 by itself
        answer = client.embeddings.create(model="clsr", input=texts, encoding_format=form)
        np.testing.assert_allclose(
            [
                np.frombuffer(base64.b64decode(d.embedding), "<f4") if form == "base64" else d.embedding
                for d in answer.data
            ]
            if isinstance(answer.data[0].embedding, str)
            else [d.embedding for d in answer.data],
            expected,
            atol=1e-6,
        )
        assert answer.usage.prompt_tokens == 5
    text, clip = next(iter(clips.items()))
    answer = client.embeddings.create(model="clsr", input=["printing", clip_input(clip)])
    np.testing.assert_allclose(answer.data[0].embedding, expected[1], atol=1e-6)
    assert float(np.dot(answer.data[1].embedding, encoder.encode_texts([text])[0])) > 0.99


def test_texts_and_clips_of_one_request_keep_their_order(client, encoder, clips):
    first, second = list(clips)[:2]
    inputs = [clip_input(clips[first]), "printing", clip_input(clips[second])]
    answer = client.embeddings.create(model="clsr", input=inputs, encoding_format="float")
    expected = encoder.encode_texts([first, "printing", second])
    np.testing.assert_allclose([entry.embedding for entry in answer.data], expected, atol=1e-6)


def test_passages_without_words_do_not_enter_the_vector_of_a_recording(client, encoder, clips, reread):
    unknown = load_audio(reread[12]["path"])  # in which this encoder hears no words
    text, clip = next(iter(clips.items()))
    both = np.concatenate([clip, np.zeros(40000, np.float32), unknown])
    answer = client.embeddings.create(model="clsr", input=[clip_input(both)], encoding_format="float")
    np.testing.assert_allclose(answer.data[0].embedding, encoder.encode_texts([text])[0], atol=1e-6)
    with pytest.raises(openai.BadRequestError, match="in input 0 no words were heard, so it has no vector"):
        client.embeddings.create(model="clsr", input=[clip_input(unknown)])


def test_openai_client_gets_transcripts_in_every_form(client, clips):
    first, second = list(clips)[:2]
    gap = np.zeros(40000, np.float32)
    audio = flac(np.concatenate([clips[first], gap, clips[second]]))
    ask = client.audio.transcriptions.create
    assert ask(model="clsr", file=("a.flac", audio)).text == f"{first} {second}"
    full = ask(
        model="clsr", file=("a.flac", audio), response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert full.duration == pytest.approx(
        (len(clips[first]) + len(gap) + len(clips[second])) / 16000, abs=0.01
    )
    assert " ".join(word.word for word in full.words) == f"{first} {second}"
    later = full.words[len(first.split())]
    assert later.start == pytest.approx((len(clips[first]) + len(gap)) / 16000, abs=0.3)
    assert len(full.segments) == 2
    cues = list(srt.parse(ask(model="clsr", file=("a.flac", audio), response_format="srt")))
    assert " ".join(" ".join(cue.content.split()) for cue in cues) == f"{first} {second}"
    assert ask(model="clsr", file=("a.flac", audio), response_format="vtt").startswith("WEBVTT")
    assert ask(model="clsr", file=("a.flac", audio), response_format="text").strip() == f"{first} {second}"
    assert ask(model="clsr", file=("a.flac", flac(np.zeros(32000, np.float32)))).text == ""


def test_search_gives_the_hits_of_the_python_api(port, index, clips):
    question = list(clips)[3]
    answer = post(port, "/v1/search", {"query": question, "k": 2})
    expected = index.search(question, k=2)
    assert [hit["start_s"] for hit in answer["hits"]] == [hit.start_s for hit in expected]
    assert answer["hits"][0]["moment"]["text"] == expected[0].moment.text


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (lambda c: c.embeddings.create(model="m", input=[]), 400, "there are 0 inputs"),
        (lambda c: c.embeddings.create(model="m", input=["a"] * 9), 400, "there are 9 inputs but 1 to 8"),
        (lambda c: c.embeddings.create(model="m", input=" "), 400, "an input is an empty text"),
        (lambda c: c.embeddings.create(model="m", input=[[1, 2]]), 400, "input 0 is neither a text nor"),
        (
            lambda c: c.embeddings.create(model="m", input=[{"input_audio": {"data": "é"}}]),
            400,
            "input 0 is neither a text nor",
        ),
        (
            lambda c: c.audio.transcriptions.create(model="m", file=("a.wav", b"no audio at all")),
            400,
            "the upload begins with b'no audio'",
        ),
        (
            lambda c: c.audio.transcriptions.create(model="m", file=("a.flac", flac(np.zeros(70 * 16000)))),
            413,
            "lasts 70 s but at most 60 s",
        ),
        (lambda c: c.audio.transcriptions.create(model="m", file=("a.flac", b"")), 400, "has 0 bytes"),
        (
            lambda c: c.audio.transcriptions.create(model="m", file=("a.flac", b"x"), response_format="doc"),
            400,
            "response_format is 'doc'",
        ),
    ],
)
def test_bad_requests_are_answered_in_one_line(client, call, status, message):
    with pytest.raises(openai.APIStatusError, match=message) as raised:
        call(client)
    assert raised.value.status_code == status


def test_recording_of_more_passages_than_may_wait_is_heard(encoder, clips):
    gap = np.zeros(round(1.7 * 16000), np.float32)  # ends a passage
    audio = flac(np.concatenate([part for clip in clips.values() for part in (clip, gap)]))
    with serving(create_app(encoder, None, ServerLimits(max_waiting=8))) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        found = client.audio.transcriptions.create(
            model="m", file=("a.flac", audio), response_format="verbose_json"
        )
    assert len(found.segments) == len(clips) > 8
    assert found.text == " ".join(clips)


def test_failure_of_the_server_has_the_shape_of_an_error(clips):
    class Failing(Heard):
        def encode_texts(self, texts, truncation=False):
            raise RuntimeError("no memory")

    with serving(create_app(Failing(clips), None, LIMITS)) as port:
        with pytest.raises(urllib.error.HTTPError) as raised:
            post(port, "/v1/embeddings", {"input": "who?"})
        assert raised.value.code == 500
        assert "its log says why" in json.load(raised.value)["error"]["message"]


def test_search_without_an_index_or_with_a_bad_mode_is_refused(encoder, port):
    with serving(create_app(encoder, None, LIMITS)) as other:
        for place, body, status in (
            (other, {"query": "who?"}, 404),
            (port, {"query": "who?", "mode": "magic"}, 400),
            (port, {"query": "who?", "k": 0}, 400),
        ):
            with pytest.raises(urllib.error.HTTPError) as raised:
                post(place, "/v1/search", body)
            assert raised.value.code == status and "message" in json.load(raised.value)["error"]


def test_large_upload_is_refused_before_it_is_read(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 2147483648\r\n\r\n"
        )
        assert b"413" in raw.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:  # its length is not said
        raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        answer = b""
        try:
            for _ in range(8):
                raw.sendall(piece)
            answer = raw.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            answer = answer or raw.recv(4096)
        assert b"413" in answer.split(b"\r\n")[0]


def test_slow_client_is_answered_and_does_not_hold_the_others(port, client):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert client.embeddings.create(model="m", input="quick").data
        assert b"408" in raw.recv(4096).split(b"\r\n")[0]


def test_client_that_sends_a_byte_now_and_then_is_ended(port):
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        while not select.select([raw], [], [], 0.2)[0]:
            assert time.monotonic() - begun < 5
            raw.sendall(b"{")
        with http.client.HTTPResponse(raw) as answer:  # head and body may come apart
            answer.begin()
            assert answer.status == 408 and b"1000 bytes a second are needed" in answer.read()


def test_uploads_that_are_together_too_large_are_told_to_come_back(encoder):
    limits = ServerLimits(max_bytes=3_000_000, max_held_bytes=3_000_000, upload_timeout_s=20.0)
    body = {"input": ["printing"], "model": " " * 1_000_000}
    with serving(create_app(encoder, None, limits)) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 2900000\r\n\r\n")
            raw.sendall(b" " * 2_500_000)
            time.sleep(1.0)  # until the server has taken them
            with pytest.raises(urllib.error.HTTPError) as raised:
                post(port, "/v1/embeddings", body)
            assert raised.value.code == 503 and raised.value.headers["retry-after"] == "1"
            assert "of requests wait but at most 3000000 may" in json.load(raised.value)["error"]["message"]
            assert post(port, "/v1/embeddings", {"input": ["printing"]})["data"]  # what is small finds room
        time.sleep(1.0)  # until the server has seen the other go
        assert post(port, "/v1/embeddings", body)["data"]


def test_nothing_is_done_for_a_client_that_has_gone(clips):
    slow = Slow(clips)
    with serving(create_app(slow, None, LIMITS)) as port, ThreadPoolExecutor() as pool:
        first = pool.submit(post, port, "/v1/embeddings", {"input": "first"})
        time.sleep(0.2)  # until it is in work
        body = b'{"input": "left"}'
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            raw.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            time.sleep(0.1)
        assert post(port, "/v1/embeddings", {"input": "last"})["data"] and first.result()["data"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            assert b"clsr_inputs_waiting 0.000" in response.read()
    assert slow.asked == ["first", "last"]


def test_stopping_server_tells_who_waits_and_does_not_work_off_its_queue(clips):
    slow = Slow(clips)
    texts = [[f"{number} {place}" for place in range(64)] for number in range(64)]  # 32 s of work

    def ask(port, own):
        try:
            return bool(post(port, "/v1/embeddings", {"input": own})["data"])
        except urllib.error.HTTPError as error:
            assert error.code == 503 and "the server is stopping" in json.load(error)["error"]["message"]
            return False

    app = create_app(slow, limits=ServerLimits(max_waiting=10_000))
    with ThreadPoolExecutor(64) as pool:
        with serving(app, grace_s=1) as port:
            answers = [pool.submit(ask, port, own) for own in texts]
            time.sleep(1.0)
            begun = time.monotonic()
        assert time.monotonic() - begun < 8
        assert {answer.result() for answer in answers} == {True, False}


def test_key_is_asked_for_where_one_is_set(encoder, index):
    with serving(create_app(encoder, index, LIMITS, api_key="secret")) as port:
        good, bad = (
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
            for key in ("secret", "guess")
        )
        assert good.embeddings.create(model="m", input="who?").data
        with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
            bad.embeddings.create(model="m", input="who?")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as response:
            assert json.load(response)["status"] == "ok"


def test_two_hundred_clients_are_served_or_told_to_come_back_and_share_batches(encoder, index):
    limits = ServerLimits(max_waiting=150)
    with serving(create_app(encoder, index, limits)) as port:

        def ask(number):
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            try:
                answer = client.embeddings.create(
                    model="m", input=f"question {number}", encoding_format="float"
                )
                return number, np.array(answer.data[0].embedding)
            except openai.APIStatusError as error:
                assert error.status_code == 503 and error.response.headers["retry-after"] == "1"
                return number, None

        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(ask, range(200)))
        served = [(number, vector) for number, vector in answers if vector is not None]
        assert len(answers) == 200 and len(served) >= 100
        for number, vector in served:
            np.testing.assert_allclose(vector, encoder.encode_texts([f"question {number}"])[0], atol=1e-6)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            metrics = dict(
                line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#"
            )
        assert (
            float(metrics["clsr_inputs_total"]) == len(served) and float(metrics["clsr_inputs_waiting"]) == 0
        )
        assert float(metrics["clsr_batches_total"]) < len(served)
        assert float(metrics['clsr_requests_total{path="/v1/embeddings",status="200"}']) == len(served)


def test_one_bad_input_does_not_fail_the_others_of_its_batch():
    from modeling_clsr.serving.batcher import Batcher, BusyError

    def double(items):
        if None in items:
            raise ValueError("a bad one")
        return [2 * item for item in items]

    async def together():
        batcher = Batcher(double, max_batch=8, max_waiting=6, wait_s=0.1)
        results = await asyncio.gather(
            batcher.submit([1, 2]), batcher.submit([None]), batcher.submit([3]), return_exceptions=True
        )
        with pytest.raises(BusyError, match="0 inputs wait and 7 more came but at most 6"):
            await batcher.submit([0] * 7)
        assert batcher.waiting == 0
        batcher.close()
        return results

    first, bad, last = asyncio.run(together())
    assert first == [2, 4] and last == [6] and isinstance(bad, ValueError)
