"""Requests from other shells to a live driver, and its answers: one small JSON file each.

`staffa stop` in another terminal writes a request; the driver looks every
couple of seconds and answers. Files only, since a login node can rarely
connect to a compute node, while both see the campaign's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staffa.storage.files import read_bytes, read_json, write_aside
from staffa.storage.workspace import Workspace

_REQUEST = ".request.json"
_ANSWER = ".answer.json"


@dataclass(frozen=True)
class Request:
    """What another shell wants.

    Arguments:
    - `id`: sorts by time.
    - `verb`: `stop`, `cancel`, `retry`, …; an unknown one deserves an answer too.
    - `at`: when it was asked; a driver drops what is older than itself, where that matters.
    """

    id: str
    verb: str
    arguments: Mapping[str, Any]
    at: float


def ask(workspace: Workspace, verb: str, /, **arguments: Any) -> str:
    """Leave a request for the driver and return its id, for `wait_answer`."""
    at = time.time()
    request_id = f"{int(at * 1e6):017d}-{os.urandom(4).hex()}"
    workspace.control.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"verb": verb, "arguments": arguments, "at": at})
    write_aside(workspace.control / (request_id + _REQUEST), text)
    return request_id


def pending(workspace: Workspace) -> list[Request]:
    """Requests without an answer, oldest first.

    What is no request is moved aside (`*.bad`): one malformed file must not stop a driver.
    """
    found = [_read(path) for path in sorted(workspace.control.glob("*" + _REQUEST))]
    return [request for request in found if request is not None]


def answer(workspace: Workspace, request: Request, payload: Mapping[str, Any]) -> None:
    """Answer a request and take it off the list."""
    write_aside(workspace.control / (request.id + _ANSWER), json.dumps(dict(payload), default=str))
    withdraw(workspace, request.id)


def withdraw(workspace: Workspace, request_id: str) -> None:
    """Take a request back, so that no later driver acts upon it."""
    (workspace.control / (request_id + _REQUEST)).unlink(missing_ok=True)


def wait_answer(workspace: Workspace, request_id: str, timeout: float, *, every: float = 0.1) -> dict[str, Any] | None:
    """Wait for the driver and collect its answer; None when it stayed silent for `timeout` seconds.

    The request then still stands; `withdraw` it, unless a later driver may act upon it.
    """
    path = workspace.control / (request_id + _ANSWER)
    end = time.monotonic() + timeout
    while True:
        payload = read_json(path)
        if isinstance(payload, dict):
            path.unlink(missing_ok=True)
            return payload
        if time.monotonic() >= end:
            return None
        time.sleep(min(every, max(end - time.monotonic(), 0.0)))


def _read(path: Path) -> Request | None:
    request_id = path.name.removesuffix(_REQUEST)
    with contextlib.suppress(OSError):
        if path.with_name(request_id + _ANSWER).exists():
            # The driver died between answering and clearing: it was done once.
            path.unlink(missing_ok=True)
            return None
    try:
        data = read_bytes(path)
        return None if data is None else _parse(request_id, data)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        with contextlib.suppress(OSError):
            path.replace(path.with_name(path.name + ".bad"))
        return None


def _parse(request_id: str, data: bytes) -> Request:
    fields = json.loads(data)
    verb, arguments = fields["verb"], fields["arguments"]
    if not isinstance(verb, str) or not isinstance(arguments, dict):
        raise TypeError(f"{request_id} is no request")
    return Request(request_id, verb, arguments, float(fields["at"]))
