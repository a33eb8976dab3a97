"""The server: OpenAI's embeddings and transcriptions, search over an index, health and metrics.

Enters: an encoder and, for search, an index. Leaves: a FastAPI application.
"""

import asyncio
import base64
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ..data.audio import audio_duration
from ..data.passages import CutSettings, stream_passages
from ..retrieval.encoder import Encoder
from ..retrieval.index import SpeechIndex
from ..retrieval.subtitles import render
from ..transcript_clsr import Word
from .batcher import Batcher, BusyError
from .limits import Limits

try:
    from fastapi import FastAPI, File, Form, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse
    from pydantic import BaseModel, Field
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise ImportError(
        '`clsr serve` needs fastapi, which is not installed; install the "serve" extra of this package'
    ) from error

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
PIECE = 1 << 20  # bytes of an upload written at once
CLIP_BATCH = 8  # passages in one pass of the model, and read ahead of it from one recording
TEXT_BATCH = 64


@dataclass(frozen=True)
class ServerLimits:
    """What the server takes.

    Attributes:
        max_bytes: of a request.
        max_held_bytes: of all requests that are not answered yet; at least `max_bytes`.
        max_audio_s: of one recording, in seconds.
        max_inputs: of one request for embeddings.
        max_waiting: inputs and passages of all requests that may wait.
        upload_timeout_s: between two pieces of an upload.
        min_bytes_per_s: of an upload on average, once it has lasted longer than that.
        request_timeout_s: of one answer.
    """

    max_bytes: int = 200 << 20
    max_held_bytes: int = 1 << 30
    max_audio_s: float = 3 * 3600.0
    max_inputs: int = 256
    max_waiting: int = 512
    upload_timeout_s: float = 30.0
    min_bytes_per_s: float = 1000.0
    request_timeout_s: float = 600.0


class EmbeddingRequest(BaseModel):
    """OpenAI's request; an input may also be {"type": "input_audio", "input_audio": {"data": base64}}."""

    input: Any
    model: str = ""
    encoding_format: str = "float"


class SearchRequest(BaseModel):
    """A question over the index."""

    query: str
    k: int = Field(default=5, ge=1, le=100)
    mode: str = "hybrid"
    file: str | None = None
    after: date | None = None
    before: date | None = None


def create_app(
    encoder: Encoder,
    index: SpeechIndex | None = None,
    limits: ServerLimits | None = None,
    api_key: str | None = None,
) -> Any:
    """Make the application.

    Args:
        encoder: of the checkpoint.
        index: to search; None answers 404 to searches.
        limits: what is taken.
        api_key: that requests must carry; None for none.

    Returns:
        An ASGI application.
    """
    limits = limits or ServerLimits()
    service = _Service(encoder, index, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="CLSR", lifespan=lifespan)
    _add_errors(app)
    _add_routes(app, service)
    limited = Limits(
        app,
        limits.max_bytes,
        limits.max_held_bytes,
        limits.upload_timeout_s,
        limits.min_bytes_per_s,
        api_key,
    )
    return _Counting(limited, service.requests)


class _Service:
    """The model behind its batchers, and what has been counted."""

    def __init__(self, encoder: Encoder, index: SpeechIndex | None, limits: ServerLimits):
        self.encoder, self.index, self.limits = encoder, index, limits
        self.texts = Batcher(self._encode_texts, max_batch=TEXT_BATCH, max_waiting=limits.max_waiting)
        self.clips = Batcher(encoder.encode_passages, max_batch=CLIP_BATCH, max_waiting=limits.max_waiting)
        self.requests: Counter[tuple[str, int]] = Counter()
        self.audio_s = 0.0
        self.begun = time.time()

    def _encode_texts(self, texts: list[str]) -> list[np.ndarray]:
        return list(self.encoder.encode_texts(texts, truncation=True))

    def close(self) -> None:
        self.texts.close()
        self.clips.close()

    async def hear(self, path: Path) -> list[tuple[float, Any, np.ndarray]]:
        """Cut, transcribe and embed a recording: start, transcript and vector of each passage.

        A batch of passages at a time, so that a long recording fills neither the memory nor the queue.
        """
        heard: list[tuple[float, Any, np.ndarray]] = []
        with _refusing_broken(path):
            seconds = await asyncio.to_thread(audio_duration, path)
        self._check_duration(seconds)
        passages = stream_passages(path, CutSettings(max_s=self.encoder.max_audio_s))
        while True:
            with _refusing_broken(path):
                batch = await asyncio.to_thread(lambda: list(itertools.islice(passages, CLIP_BATCH)))
            if not batch:
                break
            self._check_duration(batch[-1][0].end_s)  # not every container states how long it is
            encoded = await self.clips.submit([waveform for _, waveform in batch], begun=bool(heard))
            heard += [
                (passage.start_s, transcript, vector)
                for (passage, _), (transcript, vector) in zip(batch, encoded, strict=True)
            ]
        self.audio_s += seconds
        return heard

    def _check_duration(self, seconds: float) -> None:
        limit = self.limits.max_audio_s
        if seconds > limit:
            raise _refused(
                413, f"the recording lasts {seconds:.0f} s but at most {limit:g} s are taken; cut it"
            )


@contextmanager
def _refusing_broken(path: Path) -> Iterator[None]:
    """Answer what reading an upload raises."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        raise _refused(400, str(error).replace(str(path), "the upload")) from error


def _add_routes(app: FastAPI, service: _Service) -> None:
    @app.post("/v1/embeddings")
    async def embeddings(request: EmbeddingRequest) -> dict[str, Any]:
        if request.encoding_format not in ("float", "base64"):
            raise _refused(
                400, f"encoding_format is {request.encoding_format!r} but must be float or base64; choose one"
            )
        vectors, tokens = await _within(service, _embed(service, request.input))
        as_text = request.encoding_format == "base64"
        data = [
            {
                "object": "embedding",
                "index": place,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if as_text
                else vector.tolist(),
            }
            for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": service.encoder.name, "usage": usage}

    @app.post("/v1/audio/transcriptions")
    async def transcriptions(
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = "",
        response_format: Annotated[str, Form()] = "json",
    ) -> Any:
        if response_format not in RESPONSE_FORMATS:
            raise _refused(
                400,
                f"response_format is {response_format!r} but must be one of {', '.join(RESPONSE_FORMATS)}; "
                "choose one",
            )
        async with _stored(file) as path:
            heard = await _within(service, service.hear(path))
            duration = await asyncio.to_thread(audio_duration, path)
        return _transcription(heard, duration, response_format, file.filename or "")

    @app.post("/v1/search")
    async def search(request: SearchRequest) -> dict[str, Any]:
        if service.index is None:
            raise _refused(404, "the server has no index; start it with `clsr serve --index DIR`")
        fields = request.model_dump(exclude={"query"})
        try:
            hits = await _within(service, asyncio.to_thread(service.index.search, request.query, **fields))
        except ValueError as error:
            raise _refused(400, str(error)) from error
        answered = service.index.answered(hits)
        return {"query": request.query, "answered": answered, "hits": [asdict(hit) for hit in hits]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": service.encoder.name, "index": service.index and service.index.uri}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        lines = ["# TYPE clsr_requests_total counter"]
        lines += [
            f'clsr_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(service.requests.items())
        ]
        for name, kind, value in (
            ("audio_seconds_total", "counter", service.audio_s),
            ("batches_total", "counter", service.texts.batches + service.clips.batches),
            ("inputs_total", "counter", service.texts.items + service.clips.items),
            ("inputs_waiting", "gauge", service.texts.waiting + service.clips.waiting),
            ("uptime_seconds", "gauge", time.time() - service.begun),
        ):
            lines += [f"# TYPE clsr_{name} {kind}", f"clsr_{name} {value:.3f}"]
        return "\n".join(lines) + "\n"


async def _embed(service: _Service, given: Any) -> tuple[list[np.ndarray], int]:
    """Embed texts and clips in their order; returns the vectors and the number of text tokens."""
    inputs = given if isinstance(given, list) else [given]
    if not inputs or len(inputs) > service.limits.max_inputs:
        raise _refused(
            400,
            f"there are {len(inputs)} inputs but 1 to {service.limits.max_inputs} are taken; send other batches",
        )
    texts = [entry for entry in inputs if isinstance(entry, str)]
    if any(not text.strip() for text in texts):
        raise _refused(400, "an input is an empty text but at least one word is needed; drop it")
    # The clips together, so that they share passes of the model.
    clips = [(entry, place) for place, entry in enumerate(inputs) if not isinstance(entry, str)]
    heard = iter(await asyncio.gather(*(_embed_clip(service, entry, place) for entry, place in clips)))
    written = iter(await service.texts.submit(texts) if texts else [])
    vectors = [next(written) if isinstance(entry, str) else next(heard) for entry in inputs]
    tokenized = service.encoder.processor.tokenizer(texts, verbose=False)["input_ids"] if texts else []
    return vectors, sum(map(len, tokenized))


async def _embed_clip(service: _Service, entry: Any, place: int) -> np.ndarray:
    """Embed a clip given in base64; a longer recording has the mean of the vectors of its passages with words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip"
        try:
            await asyncio.to_thread(_unpack, entry, path)
        except (TypeError, KeyError, ValueError) as error:
            raise _refused(
                400,
                f"input {place} is neither a text nor an input_audio part with base64 data; see docs/server.md",
            ) from error
        heard = await service.hear(path)
    vectors = [vector for _, transcript, vector in heard if transcript.text.strip()]
    if not vectors:
        raise _refused(400, f"in input {place} no words were heard, so it has no vector; drop it")
    mean = np.mean(vectors, axis=0)
    return mean / np.linalg.norm(mean)


def _unpack(entry: Any, path: Path) -> None:
    """Write the clip of an input to a file."""
    path.write_bytes(base64.b64decode(entry["input_audio"]["data"], validate=True))


def _transcription(heard: list, duration: float, response_format: str, name: str) -> Any:
    """Write a transcription in one of OpenAI's forms."""
    words: list[Word] = []
    segments: list[dict[str, Any]] = []
    for start, transcript, _ in heard:
        if not transcript.text.strip():
            continue
        timed = [
            Word(word.text, start + word.start, start + word.end, word.probability)
            for word in transcript.words
        ]
        words += timed
        segments.append(
            {
                "id": len(segments),
                "start": round(start, 3),
                "end": round(timed[-1].end if timed else start, 3),
                "text": transcript.text.strip(),
            }
        )
    text = " ".join(segment["text"] for segment in segments)
    if response_format == "json":
        return {"text": text}
    if response_format == "text":
        return PlainTextResponse(text + "\n")
    if response_format in ("srt", "vtt"):
        return PlainTextResponse(render(words, response_format, name))
    listed = [
        {"word": word.text.strip(), "start": round(word.start, 3), "end": round(word.end, 3)}
        for word in words
    ]
    found = {"task": "transcribe", "language": "english", "duration": duration, "text": text}
    return found | {"words": listed, "segments": segments}


@asynccontextmanager
async def _stored(file: UploadFile) -> AsyncIterator[Path]:
    """Keep an upload in a file while it is needed, with its own suffix, by which formats are told."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{Path(file.filename or '').suffix}"
        with path.open("wb") as target:
            while piece := await file.read(PIECE):
                target.write(piece)
        yield path


async def _within(service: _Service, work: Any) -> Any:
    """Wait for an answer, but not for ever, and not behind too many others."""
    try:
        return await asyncio.wait_for(work, service.limits.request_timeout_s)
    except BusyError as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from error
    except TimeoutError as error:
        raise _refused(
            504, f"no answer within {service.limits.request_timeout_s:g} s; send shorter audio"
        ) from error


def _refused(status: int, message: str) -> HTTPException:
    return HTTPException(status, message)


def _add_errors(app: FastAPI) -> None:
    """Answer errors in OpenAI's shape."""

    def answer(status: int, message: str, headers: Any = None) -> JSONResponse:
        kind = "invalid_request_error" if status < 500 else "server_error"
        return JSONResponse(
            {"error": {"message": message, "type": kind, "code": status}}, status, headers=headers
        )

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "the body"
        return answer(400, f"{where}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "the server failed; its log says why")


class _Counting:
    """Counts answers by path and status."""

    def __init__(self, app: Any, counts: Counter[tuple[str, int]]):
        self.app, self.counts = app, counts

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        async def counted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                known = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
                self.counts[known, message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)


KNOWN_PATHS = ("/v1/embeddings", "/v1/audio/transcriptions", "/v1/search", "/health", "/metrics")
