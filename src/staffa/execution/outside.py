"""Running other people's commands and reaching other people's servers: bounded in time, told without secrets."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

Result = TypeVar("Result")

WORDS = 300
"""Longest reason that is told, in characters."""
NO_ADDRESS = "the address is no http(s) URL"
KEPT = 1 << 16
"""Bytes of a command's output that are kept."""
KILL_SECONDS = 2.0
"""Between asking a command to end and ending it."""


@dataclass(frozen=True)
class Scene:
    """Where a run takes place, for those outside who are told of it.

    Arguments:
    - `root`: the campaign's folder.
    - `source`: where commands are run: the workflow's folder.
    - `code`: where functions are imported from: the campaign's own snapshot.
    - `log`: where all of them print to.
    """

    root: Path
    source: Path
    code: Path
    log: Path
    run_id: str = ""

    def environment(self, event: str, **more: str) -> dict[str, str]:
        """What a command finds in its environment."""
        told = {"STAFFA_RUN": str(self.root), "STAFFA_RUN_ID": self.run_id, "STAFFA_EVENT": event}
        return told | {f"STAFFA_{name.upper()}": value for name, value in more.items()}


class Failed(Exception):
    """It could not be done; the text says why, in words fit for the ledger."""


def shown(url: str) -> str:
    """A URL without anything that may be secret: no name, password, path or query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        rest = "/…" if parts.path.strip("/") or parts.query or parts.fragment else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{rest}"
    except ValueError:
        return "a URL that cannot be read"


def discreet(text: str) -> str:
    """A text in one line, not too long, its URLs `shown`."""
    whole = " ".join(re.sub(r"\w+://[^\s'\"<>]+", lambda found: shown(found[0]), text).split())
    return whole if len(whole) <= WORDS else whole[: WORDS - 1] + "…"


def run_command(
    words: Sequence[str],
    *,
    said: str,
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    limit: float,
    halt: threading.Event,
) -> None:
    """Run a command to its end.

    Arguments:
    - `said`: what it reads on its standard input.
    - `environment`: added to this process's own.
    - `log`: what it prints is appended there.
    - `limit`: seconds; then it is ended, with everything it started.
    - `halt`: set when it is to be ended at once.

    Raises `Failed` for a command that is missing, fails, or takes too long.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as given:
        given.write(said.encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                list(words),
                stdin=given,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise Failed(discreet(f"cannot be started: {getattr(error, 'strerror', None) or error}")) from None
        try:
            why = _waited(process, limit, halt)
        finally:
            if process.poll() is None:
                end_group(process)
            told = _kept(out, log, words[0])
    if why or process.returncode:
        last = f": {told}" if told else ""
        raise Failed(discreet(f"{why or _ended(process.returncode)}{last}"))


def post(url: str, body: bytes, limit: float) -> None:
    """Send JSON to a web server. Raises `Failed` unless it answers with success within `limit` seconds."""
    try:
        request = _request(url, body)
    except ValueError:
        raise Failed(NO_ADDRESS) from None
    try:
        bounded(lambda: _sent(request, limit), limit)
    except InvalidURL:
        raise Failed(NO_ADDRESS) from None
    except urllib.error.HTTPError as error:
        error.close()
        raise Failed(f"answered {error.code} {discreet(str(error.reason))}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise Failed(discreet(text.replace(url, shown(url)))) from None


def bounded(action: Callable[[], Result], limit: float) -> Result:
    """Do something that may hang, in a thread that is left behind if it does. Raises `Failed` for that."""
    found: list[Result] = []
    raised: list[BaseException] = []

    def act() -> None:
        try:
            found.append(action())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=act, name="staffa-bounded", daemon=True)
    thread.start()
    thread.join(limit)
    if raised:
        raise raised[0]
    if not found:
        raise Failed(f"no answer within {limit:g} s")
    return found[0]


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process and everything it started in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)


def _waited(process: subprocess.Popen[Any], limit: float, halt: threading.Event) -> str:
    """Wait for a process; why it has to be ended, if it has to."""
    until = time.monotonic() + limit
    while process.poll() is None:
        if halt.wait(0.02):
            return "ended with the run"
        if time.monotonic() >= until:
            return f"ran past {limit:g} s"
    return ""


def _kept(out: IO[bytes], log: Path, name: str) -> str:
    """Append the last that a command printed to a log; returns its last line."""
    out.seek(max(out.seek(0, os.SEEK_END) - KEPT, 0))
    text = out.read()
    if text.strip():
        with contextlib.suppress(OSError), log.open("ab") as file:
            file.write(f"--- {name}\n".encode() + text.rstrip() + b"\n")
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _ended(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"ended by signal {-code}"


def _request(url: str, body: bytes) -> urllib.request.Request:
    """A POST; a name and a password that stand in the URL go where servers look for them."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 0:
        raise ValueError(NO_ADDRESS)
    headers = {"Content-Type": "application/json", "User-Agent": "staffa"}
    if parts.username is not None:
        said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(said.encode()).decode()}"
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return urllib.request.Request(url, body, headers)


def _sent(request: urllib.request.Request, limit: float) -> bool:
    with urllib.request.urlopen(request, timeout=limit):
        return True
