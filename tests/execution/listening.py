"""What the tests of alerts, hooks and trackers share: a place, a server that answers as told, patience."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from staffa.execution.aside import Aside
from staffa.execution.outside import Scene

PATIENCE = 240.0
"""Longest any test waits for what has to happen; it says nothing about how long it takes."""


def scene(folder: Path) -> Scene:
    """A run's place, with an empty workflow."""
    for name in ("root", "source", "code"):
        (folder / name).mkdir()
    return Scene(
        folder / "root", folder / "source", folder / "code", folder / "outside.out", "walk-20260102-030405-abcdef"
    )


def eventually(done: Callable[[], Any]) -> Any:
    """Wait until something is so; returns it."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := done():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def finished(companion: Aside) -> list[dict[str, Any]]:
    """Close a companion, wait for its end; returns all it had to say."""
    companion.close()
    eventually(lambda: not companion.busy)
    return companion.news()


@dataclass
class Server:
    """A web server on this machine; `answer` decides what becomes of each request."""

    url: str = ""
    heard: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """What the next requests are answered with; 200 once it is empty."""
    released: threading.Event = field(default_factory=threading.Event)
    """Cleared, a request is read and not answered."""


@contextmanager
def serving() -> Iterator[Server]:
    """A real server on a free port."""
    server = Server()
    server.released.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.headers.append(dict(self.headers))
            server.heard.append(json.loads(body))
            server.released.wait(PATIENCE)
            self.send_response(server.statuses.pop(0) if server.statuses else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
        thread.join()
