"""Who may come in, and with how much: in front of all routes, before anything is parsed."""

from __future__ import annotations

import hmac

from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from staffa.search.serving.tokens import Tokens

LARGEST = 1 << 20
"""Bytes of a body."""

DRAINED = 16 * LARGEST
"""Bytes of a body too large that are read (and dropped): who is still sending does not hear an answer."""

LOOKING = ("GET", "HEAD")


class Gate:
    """Refuses whoever has no token (401), the read token where something is changed (403), and large bodies (413).

    A body is JSON whatever its header says, so that `curl --data` alone is enough.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, public: frozenset[str]) -> None:
        self._app, self._public = app, public
        self._write, self._read = tokens.write.encode(), tokens.read.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._refused(scope["method"], headers.get(b"authorization", b""))
        if refused:
            await _answer(send, *refused)
            return
        if scope["method"] in LOOKING:
            await self._app(scope, receive, send)
            return
        body = await _body(headers, receive)
        if body is None:
            await _answer(send, 413, f"a body has at most {LARGEST} bytes", "tell trials one by one")
            return
        others = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
        scope["headers"] = [*others, (b"content-type", b"application/json")]
        await self._app(scope, _replay(body, receive), send)

    def _refused(self, method: str, authorization: bytes) -> tuple[int, str, str] | None:
        scheme, _, token = authorization.partition(b" ")
        writes = hmac.compare_digest(token, self._write)
        reads = hmac.compare_digest(token, self._read)
        if scheme.lower() != b"bearer" or not (writes or reads):
            return 401, "no token, or a wrong one", "`Authorization: Bearer TOKEN`; tokens stand in the run's secrets/"
        if not writes and method not in LOOKING:
            return 403, "the read token only looks", "use the one in secrets/write.token"
        return None


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
    """The whole body; None where it is too large, announced or not."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > LARGEST and headers.get(b"expect", b"").lower() == b"100-continue":
        return None
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        part = message.get("body", b"")
        size += len(part)
        if size <= LARGEST:
            parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts) if size <= LARGEST else None


def _replay(body: bytes, receive: Receive) -> Receive:
    said = False

    async def again() -> Message:
        nonlocal said
        if said:
            return await receive()
        said = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int, error: str, hint: str) -> None:
    body = to_json({"error": error, "field": "", "hint": hint})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
