"""Limits on requests, before anything is read into memory: size, speed of upload, key.

A middleware of ASGI, because a framework's own parsers read a body before a handler can refuse it.
"""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
OPEN_PATHS = ("/health", "/metrics")


class _RefusedError(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass
class _Upload:
    """How far a body has come."""

    begun: float = field(default_factory=time.monotonic)
    size: int = 0
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class Limits:
    """Refuses what is too large, too slow or without the key, and what comes while too much is held already.

    Work for a client that has gone away is cancelled, so that it does not keep others waiting.

    Args:
        app: what answers.
        max_bytes: of a body.
        max_held_bytes: of all bodies whose requests are not answered yet; at least `max_bytes`.
        upload_timeout_s: between two pieces of a body.
        min_bytes_per_s: of a body on average, `upload_timeout_s` after it began; else who sends a byte now and then
            holds a connection for ever.
        api_key: that a request must carry as a bearer token; None for none.
    """

    def __init__(
        self,
        app: Any,
        max_bytes: int,
        max_held_bytes: int,
        upload_timeout_s: float,
        min_bytes_per_s: float,
        api_key: str | None = None,
    ):
        self.app, self.max_bytes, self.max_held_bytes = app, max_bytes, max(max_held_bytes, max_bytes)
        self.upload_timeout_s, self.min_bytes_per_s = upload_timeout_s, min_bytes_per_s
        self.api_key = api_key
        self.held = 0  # bytes

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        upload = _Upload()
        refusals: list[_RefusedError] = []
        begun = gone = False
        work = asyncio.current_task()
        assert work is not None

        async def watched_send(message: dict[str, Any]) -> None:
            nonlocal begun
            if refusals and not begun:  # what the framework makes of the broken body is not our answer
                return
            begun = True
            await send(message)

        async def watch_client() -> None:
            nonlocal gone
            await upload.complete.wait()
            while (await receive())["type"] != "http.disconnect":  # which also comes when the answer is sent
                pass
            if not begun:
                gone = True
                work.cancel()

        watcher = asyncio.create_task(watch_client())
        try:
            self._check_key(scope["path"], headers)
            declared = headers.get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > self.max_bytes:
                raise self._too_large(int(declared))
            await self.app(scope, self._limited(receive, upload, refusals), watched_send)
        except _RefusedError as refused:
            refusals.append(refused)
        except asyncio.CancelledError:
            work.uncancel()
            if not gone:
                refusals.append(_RefusedError(503, "the server is stopping; try again in a moment"))
        finally:
            watcher.cancel()
            self.held -= upload.size
        if refusals and not begun:
            await _answer(send, refusals[0].status, str(refusals[0]))

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.api_key is None or path in OPEN_PATHS:
            return
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip()
        if not hmac.compare_digest(given, self.api_key.encode()):
            raise _RefusedError(401, "the API key is missing or wrong; send `Authorization: Bearer KEY`")

    def _limited(self, receive: Receive, upload: _Upload, refusals: list[_RefusedError]) -> Receive:
        """Watch a body while it is read; a refusal is noted, because frameworks swallow what reading raises."""

        async def limited() -> dict[str, Any]:
            if upload.complete.is_set():  # what follows is the client going away, which may take its time
                return await receive()
            try:
                return await self._read(receive, upload)
            except _RefusedError as refused:
                refusals.append(refused)
                raise

        return limited

    async def _read(self, receive: Receive, upload: _Upload) -> dict[str, Any]:
        """Read one piece of a body."""
        now = time.monotonic()
        earned = upload.size / self.min_bytes_per_s  # seconds
        due = min(now, upload.begun + earned) + self.upload_timeout_s
        try:
            message = await asyncio.wait_for(receive(), due - now)
        except TimeoutError:
            raise _RefusedError(
                408,
                f"{upload.size} bytes came in {time.monotonic() - upload.begun:.0f} s but a piece each "
                f"{self.upload_timeout_s:g} s and {self.min_bytes_per_s:g} bytes a second are needed; send faster",
            ) from None
        if message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        upload.size += size
        self.held += size
        if upload.size > self.max_bytes:
            raise self._too_large(upload.size)
        if self.held > self.max_held_bytes:
            raise _RefusedError(
                503,
                f"{self.held} bytes of requests wait but at most {self.max_held_bytes} may; "
                "try again in a moment",
            )
        if not message.get("more_body", False):
            upload.complete.set()
        return message

    def _too_large(self, size: int) -> _RefusedError:
        return _RefusedError(
            413, f"the request has {size} bytes or more but at most {self.max_bytes} are taken; send less"
        )


async def _answer(send: Send, status: int, message: str) -> None:
    """Answer in the shape of OpenAI's errors and close the connection, whose body is not read to its end."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
