"""Limits on requests, before anything is read into memory: size, time of upload, key.

A middleware of ASGI, because a framework's own parsers read a body before a handler can refuse it.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
OPEN_PATHS = ("/health", "/metrics")


class _RefusedError(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Limits:
    """Refuses what is too large, too slow or without the key.

    Args:
        app: what answers.
        max_bytes: of a body.
        upload_timeout_s: between two pieces of a body.
        api_key: that a request must carry as a bearer token; None for none.
    """

    def __init__(self, app: Any, max_bytes: int, upload_timeout_s: float, api_key: str | None = None):
        self.app, self.max_bytes, self.upload_timeout_s = app, max_bytes, upload_timeout_s
        self.api_key = api_key

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusals: list[_RefusedError] = []
        begun = False

        async def watched_send(message: dict[str, Any]) -> None:
            nonlocal begun
            if refusals and not begun:  # what the framework makes of the broken body is not our answer
                return
            begun = True
            await send(message)

        try:
            self._check_key(scope["path"], headers)
            declared = headers.get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > self.max_bytes:
                raise self._too_large(int(declared))
            await self.app(scope, self._limited(receive, refusals), watched_send)
        except _RefusedError as refused:
            refusals.append(refused)
        if refusals and not begun:
            await _answer(send, refusals[0].status, str(refusals[0]))

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self.api_key is None or path in OPEN_PATHS:
            return
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip()
        if not hmac.compare_digest(given, self.api_key.encode()):
            raise _RefusedError(401, "the API key is missing or wrong; send `Authorization: Bearer KEY`")

    def _limited(self, receive: Receive, refusals: list[_RefusedError]) -> Receive:
        """Watch a body while it is read; a refusal is noted, because frameworks swallow what reading raises."""
        read = 0

        def refused(error: _RefusedError) -> _RefusedError:
            refusals.append(error)
            return error

        async def limited() -> dict[str, Any]:
            nonlocal read
            try:
                message = await asyncio.wait_for(receive(), self.upload_timeout_s if read >= 0 else None)
            except TimeoutError:
                message_text = f"no data came for {self.upload_timeout_s:g} s; send faster"
                raise refused(_RefusedError(408, message_text)) from None
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self.max_bytes:
                    raise refused(self._too_large(read))
                if not message.get("more_body", False):
                    read = -1  # all is here: what follows is the client going away, which may take its time
            return message

        return limited

    def _too_large(self, size: int) -> _RefusedError:
        return _RefusedError(
            413, f"the request has {size} bytes or more but at most {self.max_bytes} are taken; send less"
        )


async def _answer(send: Send, status: int, message: str) -> None:
    """Answer in the shape of OpenAI's errors and close the connection, whose body is not read to its end."""
    body = json.dumps(
        {"error": {"message": message, "type": "invalid_request_error", "code": status}}
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
