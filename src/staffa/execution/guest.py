"""The user's own Python beside a run: in a process of its own, spoken to line by line.

A hook or a tracker may block, raise, leak, exit or crash; in here it can harm neither the driver nor
the interpreter's lock the driver needs. The driver's side is `Guest`; `main` is the process:

    python -m staffa.execution.guest FILE-DESCRIPTOR

Each line is a JSON object. The driver says `{"call": name, "with": value}` and waits for
`{"failed": "", "answer": value}` or why. The first call, `come`, names what is to be loaded; what it is then decides
what the others mean. The process ends when the driver closes its end, or dies.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from staffa.execution.outside import Failed, discreet, end_group

STARTUP_SECONDS = 60.0
"""Importing may take long on a network's disk; it is not the called function's fault."""
LINGER_SECONDS = 5.0
"""After its driver is gone, for what is done at exit."""
RECEIVED = 1 << 16


class NotLoaded(Failed):
    """What was named cannot be loaded; trying again would not help."""


class Guest:
    """A process for one hook or tracker, started when it is first called; again after it failed.

    Arguments:
    - `kind`: `module:class` of ours, made in the process from `said` and told everything else.
    - `said`: what it is to load; fit for JSON.
    - `environment`: added to the driver's own.
    - `log`: where it prints to.
    """

    def __init__(self, kind: str, said: Mapping[str, Any], environment: Mapping[str, str], log: Path) -> None:
        self._kind, self._said, self._log = kind, said, log
        # The user's module may import JAX, which must not take a device away from a worker.
        self._environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._rest = b""

    @property
    def here(self) -> bool:
        """Whether its process is there; otherwise the next call starts one, which knows nothing."""
        return self._process is not None

    def call(self, name: str, value: Any, limit: float, halt: threading.Event) -> Any:
        """Have it do something; returns what it answers, as far as JSON can say it.

        Raises `Failed` where it raised, died or took longer than `limit` seconds (`NotLoaded` where it
        cannot be had at all); a process that did not answer is ended, and another one is started for
        the next call.
        """
        if not self.here:
            self._start(halt)
        return self._ask(name, value, limit, halt)

    def end(self) -> None:
        """Let the process go, and see that it goes."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            if self._process.poll() is None:
                end_group(self._process)
        self._line, self._process, self._rest = None, None, b""

    def _start(self, halt: threading.Event) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "staffa.execution.guest", str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=[theirs.fileno()],
                        env=self._environment,
                        start_new_session=True,
                    )
            except OSError as error:
                ours.close()
                raise Failed(discreet(f"its process cannot be started: {error.strerror}")) from None
        self._line = ours
        try:
            self._ask("come", {"kind": self._kind, **self._said}, STARTUP_SECONDS, halt)
        except NotLoaded:
            self.end()
            raise

    def _ask(self, name: str, value: Any, limit: float, halt: threading.Event) -> Any:
        try:
            reply = self._exchange({"call": name, "with": value}, time.monotonic() + limit, halt)
        except TimeoutError:
            self.end()
            raise Failed("ended with the run" if halt.is_set() else f"ran past {limit:g} s") from None
        except (OSError, ValueError):
            code = self._gone()
            self.end()
            raise Failed(f"its process ended{code}") from None
        if reply.get("failed"):
            raise (NotLoaded if name == "come" else Failed)(discreet(str(reply["failed"])))
        return reply.get("answer")

    def _exchange(self, message: Mapping[str, Any], until: float, halt: threading.Event) -> dict[str, Any]:
        assert self._line is not None
        self._line.settimeout(max(until - time.monotonic(), 0.01))
        self._line.sendall(json.dumps(message, default=str).encode() + b"\n")
        self._line.settimeout(0.1)
        while b"\n" not in self._rest:
            if time.monotonic() > until or halt.is_set():
                raise TimeoutError
            with contextlib.suppress(TimeoutError):
                received = self._line.recv(RECEIVED)
                if not received:
                    raise ConnectionResetError
                self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def _gone(self) -> str:
        """How the process ended, as far as that is known by now."""
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            return f" (signal {-code})" if code < 0 else f" (exit code {code})"
        return ""


# --- the process -----------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Serve one driver until it hangs up."""
    heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with socket.socket(fileno=descriptor) as line:
        threading.Thread(target=_hear, args=(line, heard.put), daemon=True).start()
        host: Any = None
        while (text := heard.get()) is not None:
            message, answer = json.loads(text), None
            if message["call"] == "come":
                host, failed = _tried(_come, message["with"])
            else:
                answer, failed = _tried(getattr(host, message["call"]), message["with"])
            sys.stdout.flush()
            line.sendall(json.dumps({"failed": failed, "answer": answer}, default=str).encode() + b"\n")


def _hear(line: socket.socket, put: Callable[[bytes | None], None]) -> None:
    """Hand on what the driver says; once it hangs up, what still hangs in here is not waited for."""
    with contextlib.suppress(OSError), line.makefile("rb") as lines:
        for text in lines:
            put(text)
    put(None)
    time.sleep(LINGER_SECONDS)
    os._exit(1)


def _come(said: Mapping[str, Any]) -> Any:
    module, _, name = said["kind"].partition(":")
    return getattr(importlib.import_module(module), name)(said)


def _tried(action: Callable[[Any], Any], value: Any) -> tuple[Any, str]:
    """What came of it, and why it failed. Whatever user code raises stays here."""
    try:
        return action(value), ""
    except (Exception, SystemExit) as error:
        return None, getattr(error, "message", None) or f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(int(sys.argv[1]))
