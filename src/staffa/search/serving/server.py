"""The process that serves a search, from the socket to the last fsync."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from staffa.errors import ConfigError
from staffa.search.serving.app import Serving, application
from staffa.search.serving.gate import Gate
from staffa.search.serving.tokens import certificate as own_certificate
from staffa.search.serving.tokens import tokens
from staffa.search.study import Study
from staffa.storage.files import write_aside
from staffa.storage.workspace import Workspace

PORT = 8787
PORTS = 100
"""How many ports are tried, from the wanted one on."""

PATIENCE = 10
"""Seconds that requests under way are waited for at the end."""

BREATH_SECONDS = 0.0005
SWITCH_SECONDS = 0.0005
"""How long a thread that thinks may keep the interpreter from one that answers; Python's 5 ms would be most of an
answer's time."""

EXPIRE_SECONDS = 5.0
"""How often leases are looked at, besides at each ask."""


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Encryption:
    """PEM files; `ca` is what clients trust it by."""

    certificate: Path
    key: Path
    ca: Path


def serve(
    folder: Path,
    study: Study,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    certificate: Path | None = None,
    key: Path | None = None,
    tls: bool = False,
    elsewhere: str = "",
    rescore: Callable[[Mapping[str, Mapping[str, Any]]], object] | None = None,
    say: Callable[[str], object] = _say,
) -> None:
    """Serve a search until SIGTERM or SIGINT; then answer what was asked, and close the study.

    Arguments:
    - `folder`: the campaign's: tokens stand in its `secrets/`, and its `serving.json` says where the server is.
    - `host`, `port`: where; the next free port if this one is taken, any for 0.
    - `certificate`, `key`: PEM files; `tls` makes them in `secrets/` where none are given. One of both is needed
      beyond this machine.
    - `elsewhere`, `rescore`: for a search that is only looked at, see `Serving`.
    - `say`: is told where the server is, and how it ends.

    Raises `ConfigError` for a host that cannot be bound, or beyond this machine without TLS.
    """
    workspace = Workspace(folder)
    with contextlib.closing(study):
        encryption = _encryption(workspace.secrets, host, certificate, key, tls)
        keys = tokens(workspace.secrets)
        bound = _bound(host, port)
        found = bound.getsockname()[1]
        if port not in (0, found):
            say(f"port {port} is taken: {found} it is")
        refitting = Refitting(study, say)
        serving = Serving(study, refitting.nudge, elsewhere=elsewhere, rescore=rescore)
        server = Server(_config(application(serving, keys), encryption))
        serving.stopping = lambda: server.should_exit
        url = f"{'https' if encryption else 'http'}://{_name(host)}:{found}"
        thinking = contextlib.nullcontext() if elsewhere else refitting
        with _answering_first(), thinking, _announced(workspace, url, encryption):
            say(f"serving {folder} at {url}; tokens: {workspace.secrets}")
            asyncio.run(_until_told(server, bound, study))
        serving.asking.shutdown()
        say("stopped; nothing is lost: serve it again to go on")


def _config(app: Gate, encryption: Encryption | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=PATIENCE,
        ssl_certfile=encryption.certificate if encryption else None,
        ssl_keyfile=encryption.key if encryption else None,
    )


class Server(uvicorn.Server):
    """A uvicorn server that ends in peace: it does not raise again the signal that ended it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._told_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        # Asked twice, it waits for nobody.
        self.force_exit = self.should_exit
        self.should_exit = True


class Refitting:
    """Lets the strategy think in a thread of its own: refits once enough was told, and suggestions ahead of time.

    Arguments:
    - `say`: is told what went wrong. The next ask then meets it, or goes by the refit before.
    """

    def __init__(self, study: Study, say: Callable[[str], object]) -> None:
        self._study, self._say = study, say
        self._due, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="refitting", daemon=True)

    def nudge(self) -> None:
        self._due.set()

    def __enter__(self) -> Refitting:
        self.nudge()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._due.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._ended.is_set():
                return
            try:
                self._think()
            except Exception as error:
                self._say(f"the strategy failed: {error!r}")

    def _think(self) -> None:
        while not self._ended.is_set():
            refitted = self._study.prepare()
            if not self._study.stock_up() and not refitted:
                return
            # Somebody who found too few suggestions waits for the same lock.
            time.sleep(BREATH_SECONDS)


@contextlib.contextmanager
def _answering_first() -> Iterator[None]:
    """Whoever computes in this process does not get in the way of whoever answers."""
    from threadpoolctl import threadpool_limits

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    # Looking through all trials for garbage would be a pause in the midst of an answer.
    gc.freeze()
    # A strategy's matrices are small: more threads would only wait for one another, busily.
    with threadpool_limits(limits=1):
        try:
            yield
        finally:
            sys.setswitchinterval(before)
            gc.unfreeze()


async def _until_told(server: Server, bound: socket.socket, study: Study) -> None:
    expiring = asyncio.create_task(_expire(study))
    try:
        await server.serve(sockets=[bound])
    finally:
        expiring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await expiring


async def _expire(study: Study) -> None:
    while True:
        await asyncio.sleep(min(EXPIRE_SECONDS, study.lease / 4))
        with contextlib.suppress(OSError):  # a full disk: leases wait until there is room
            await asyncio.to_thread(study.expire)


@contextlib.contextmanager
def _announced(workspace: Workspace, url: str, encryption: Encryption | None) -> Iterator[None]:
    """`serving.json` while the server is there: where it is, and by which certificate it is known."""
    ca = str(encryption.ca) if encryption else None
    said = {"url": url, "ca": ca, "host": socket.gethostname(), "pid": os.getpid()}
    write_aside(workspace.serving, json.dumps(said, indent=1))
    try:
        yield
    finally:
        workspace.serving.unlink(missing_ok=True)


def _encryption(
    secrets: Path, host: str, certificate: Path | None, key: Path | None, tls: bool
) -> Encryption | None:  # fmt: skip
    if (certificate is None) is not (key is None):
        raise ConfigError("a certificate and its key go together", "give both, or neither and `--tls`")
    if certificate is not None and key is not None:
        for path in (certificate, key):
            if not path.is_file():
                raise ConfigError(f"there is no file '{path}'", "the certificate and its key, as PEM")
        return Encryption(certificate, key, certificate)
    if tls:
        made = own_certificate(secrets, host)
        return Encryption(made.cert, made.key, made.ca)
    if not _loopback(host):
        raise ConfigError(
            f"host: {host!r} is beyond this machine, where tokens would travel in the clear",
            "`--tls` makes a certificate; or serve at 127.0.0.1 and come through `ssh -L`",
        )
    return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the first port that is free."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: {port!r} is no port", "0 to 65535; 0 is any that is free")
    for candidate in range(port, min(port + PORTS, 65536)) if port else [0]:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )[0]
        except OSError as error:
            raise ConfigError(
                f"host: {host!r} is nobody's name here: {error.strerror}", "127.0.0.1 is this machine"
            ) from error
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. Answers are small: without it each may wait 40 ms for the one before.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            bound.bind(address)
            # Bound alone is not taken: another process may bind too until somebody listens.
            bound.listen(2048)
            return bound
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"host: {host!r} cannot be served at: {error.strerror}", "`ip address` lists what can"
                ) from error
    raise ConfigError(f"port: none from {port} to {port + PORTS - 1} is free", "`--port 0` takes any that is")


def _name(host: str) -> str:
    """How others reach a host they are told of."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
