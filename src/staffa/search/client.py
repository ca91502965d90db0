"""A served search from elsewhere: the calls of a study, over HTTP, for programs that must not lose a result.

    client = Client("http://127.0.0.1:8787", token)           or Client.of("runs/v1.0_tuning")
    given = client.ask(4)
    for asked in given.trials:
        client.tell(asked, {"loss": loss(**asked.params)})

A call whose answer did not come is made again, with the same key, for as long as `patience`: the server counts it
once. A result that could not be delivered even so stands in the `outbox`, a folder, and is delivered with a later call,
of this process or another. Needs nothing but the standard library; threads may share a client.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from staffa.errors import ClusterError, ConfigError, StaffaError, WorkspaceError
from staffa.search.answers import Asked, ConflictError, UnknownTrialError, Verdict
from staffa.storage.files import read_json, write_aside
from staffa.trial import Scalar

PATIENCE = 300.0
"""Seconds a call is tried again."""

PAUSES = 0.05, 5.0
"""Seconds between two tries: the first pause, doubled up to the longest."""

PASSING = (500, 502, 503, 504, 507)
"""Answers that may be others in a while."""

TIMEOUT = 60.0
"""Seconds one answer may take."""


@dataclass(frozen=True)
class Given:
    """Answer to an ask: trials, and whether none will ever come any more."""

    trials: tuple[Asked, ...]
    finished: bool


@dataclass(frozen=True)
class Heard:
    """Answer to a heartbeat: as `answers.Beat`, and whether the search is finished."""

    held: tuple[int, ...]
    lost: tuple[int, ...]
    finished: bool


class Client:
    """A served search.

    Arguments:
    - `token`: what stands in the run's `secrets/write.token`, or `read.token` for who only looks.
    - `worker`: a name by which the trials asked for are held; any that nobody else has.
    - `outbox`: a folder for results that cannot be delivered; made when it is needed. Without one such a result is an
      error.
    - `ca`: the certificate a server beyond this machine is known by: `secrets/serving/ca.pem` of the run.
    - `patience`: seconds a call is tried again while the server does not answer.
    - `folder`: the campaign's, where it can be seen from here: a server that came back elsewhere is found.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        worker: str = "",
        outbox: Path | None = None,
        ca: Path | None = None,
        patience: float = PATIENCE,
        folder: Path | None = None,
    ) -> None:
        self.worker, self.outbox, self.patience = worker, outbox, patience
        self._folder, self._token, self._ca = folder, token, ca
        self._url = _checked(url)
        self._own = threading.local()
        self._left = outbox is not None and any(outbox.glob("*.json"))
        """Whether the outbox may hold something."""
        self._silent = False
        """Whether somebody is waiting for the server already, or gave up on it: others need not."""

    @classmethod
    def of(
        cls, folder: Path | str, *, worker: str = "", outbox: Path | None = None, patience: float = PATIENCE
    ) -> Client:
        """The search that is served from a campaign's folder. Raises `WorkspaceError` where none is."""
        place = Path(folder)
        said = read_json(place / "serving.json")
        if not isinstance(said, dict):
            raise WorkspaceError(f"'{folder}' is not being served", f"`staffa serve {folder}`")
        token = (place / "secrets" / "write.token").read_text().strip()
        ca = Path(said["ca"]) if said.get("ca") else None
        return cls(said["url"], token, worker=worker, outbox=outbox, ca=ca, patience=patience, folder=place)

    # --- working ---

    def ask(self, count: int = 1, *, key: str | None = None) -> Given:
        """Trials to be done. Raises `ClusterError` when nobody answers."""
        body = {"count": count, "worker": self.worker}
        answer = self._call("POST", "/ask", body, key=key or _key())
        trials = (
            Asked(one["trial"], one["params"], one["attempt"], _number(one["lease_until"])) for one in answer["trials"]
        )
        return Given(tuple(trials), answer["finished"])

    def tell(
        self, asked: Asked, values: Mapping[str, float | None] | None, *, failed: str = "", key: str | None = None
    ) -> Verdict | None:
        """The result of a trial, or why it brought none; None where it stands in the outbox for now.

        Raises `ConflictError`, `UnknownTrialError`, `ConfigError` as a study does; `ClusterError` when nobody answers
        and there is no outbox.
        """
        body: dict[str, Any] = {"trial": asked.trial, "attempt": asked.attempt, "params": asked.params}
        body |= {"failed": failed[:10_000]} if failed else {"values": _values(values)}
        return self._deliver(body, key or _key())

    def bring(self, params: Mapping[str, Scalar], values: Mapping[str, float | None]) -> Verdict | None:
        """A trial that nobody asked for, with its result."""
        return self._deliver({"params": dict(params), "values": _values(values)}, _key())

    def cancel(self, trials: Sequence[int], *, again: bool = False, own: bool = False) -> dict[int, str]:
        """Nobody, or (`again`) somebody else, is to run these trials; `own`: only those that this worker holds."""
        body = {"trials": list(trials), "again": again, "worker": self.worker if own else None}
        states: dict[str, str] = self._call("POST", "/cancel", body)["states"]
        return {int(number): state for number, state in states.items()}

    def beat(self, trials: Sequence[int] = (), *, patience: float | None = None) -> Heard:
        """This worker is alive, and believes to have these trials."""
        body = {"worker": self.worker, "trials": list(trials)}
        answer = self._call("POST", "/heartbeat", body, patience=patience)
        return Heard(tuple(answer["held"]), tuple(answer["lost"]), answer["finished"])

    def deliver(self) -> int:
        """Try once to deliver what stands in the outbox; says how much is left.

        What is refused for good (somebody else's result came first) moves to `refused` in the outbox, with the reason.
        """
        if self.outbox is None:
            return 0
        for path in sorted(self.outbox.glob("*.json")):
            kept = read_json(path)
            if not isinstance(kept, dict):
                continue
            try:
                self._call("POST", "/tell", kept["body"], key=kept["key"], patience=0.0)
            except ClusterError:
                break
            except StaffaError as error:
                write_aside(_made(self.outbox / "refused") / path.name, _text({**kept, "refused": str(error)}))
            path.unlink(missing_ok=True)
        left = len(list(self.outbox.glob("*.json")))
        self._left = left > 0
        return left

    # --- looking ---

    def status(self) -> dict[str, Any]:
        """The search in short."""
        found: dict[str, Any] = self._call("GET", "/status")
        return found

    def top(self, k: int = 10) -> list[dict[str, Any]]:
        """The best trials, best first."""
        found: list[dict[str, Any]] = self._call("GET", f"/top?k={k}")["trials"]
        return found

    def fronts(self, k: int = 1) -> list[list[dict[str, Any]]]:
        """The first k fronts."""
        found: list[list[dict[str, Any]]] = self._call("GET", f"/fronts?k={k}")["fronts"]
        return found

    def trials(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """All trials by number, from `since` on."""
        following: int | None = since
        while following is not None:
            page = self._call("GET", f"/trials?since={following}")
            yield from page["trials"]
            following = page["next"]

    def change(self, objectives: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Change targets, limits, directions, priorities or groups; says what counts from now on."""
        found: dict[str, Any] = self._call("PATCH", "/objectives", objectives)["objectives"]
        return found

    def events(self, since: int = 0, *, follow: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
        """What happened behind a cursor, each with the cursor behind it; `follow`: and what happens from then on.

        A connection that breaks is made again where it broke.
        """
        cursor, given_up = since, time.monotonic() + self.patience
        while True:
            try:
                for place, event in self._stream(cursor, follow):
                    cursor = place
                    yield place, event
                    given_up = time.monotonic() + self.patience
                if not follow:
                    return
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() >= given_up:
                    raise self._silence(error) from error
            time.sleep(PAUSES[0])
            self._moved()

    def close(self) -> None:
        """Let this thread's connection go."""
        self._drop()

    # --- inside ---

    def _deliver(self, body: dict[str, Any], key: str) -> Verdict | None:
        kept: Path | None = None
        try:
            answer = self._call("POST", "/tell", body, key=key, patience=0.0)
        except ClusterError:
            # Whoever is killed while it waits for the server leaves the result behind.
            kept = self._keep(body, key)
            if kept is not None and self._silent:
                return None
            try:
                answer = self._insist(body, key, kept)
            except ClusterError:
                if kept is None:
                    raise
                return None
        if self._left:
            self.deliver()
        scores = tuple(_number(score) for score in answer["scores"])
        return Verdict(answer["trial"], answer["status"], answer["state"], scores, answer["why"])

    def _insist(self, body: dict[str, Any], key: str, kept: Path | None) -> Any:
        """Tell with all patience; what was kept for this long goes once there is an answer of any kind."""
        self._silent = True
        try:
            answer = self._call("POST", "/tell", body, key=key)
        except ClusterError:
            raise
        except StaffaError:
            _gone(kept)
            raise
        _gone(kept)
        return answer

    def _keep(self, body: dict[str, Any], key: str) -> Path | None:
        if self.outbox is None:
            return None
        path = _made(self.outbox) / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        write_aside(path, _text({"key": key, "body": body}))
        self._left = True
        return path

    def _call(
        self, method: str, path: str, body: object = None, *, key: str = "", patience: float | None = None
    ) -> Any:
        """One call, made again until it is answered. Raises the study's errors, `ClusterError` when nobody answers."""
        began = time.monotonic()
        data = None if body is None else _text(body).encode()
        pause, fresh = PAUSES[0], False
        while True:
            try:
                status, answer = self._once(method, path, data, key)
            except ssl.SSLCertVerificationError as error:
                self._drop()
                raise ConfigError(
                    f"{self._url} is not known by the certificate '{self._ca}': {error.verify_message}",
                    "`ca`: the run's secrets/serving/ca.pem",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                # A connection that slept may be closed at the other end: that says nothing about the server.
                slept, fresh = not fresh and getattr(self._own, "used", False), True
                self._drop()
                if slept:
                    continue
                failure = self._silence(error)
            else:
                self._own.used = True
                if status not in PASSING:
                    self._silent = False
                    return _read(status, answer)
                failure = ClusterError(f"{self._url} answers {status}: {answer[:200].decode(errors='replace')}")
            if self._moved():
                continue
            if time.monotonic() + pause > began + (self.patience if patience is None else patience):
                raise failure
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSES[1])

    def _once(self, method: str, path: str, data: bytes | None, key: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._token}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if key:
            headers["Idempotency-Key"] = key
        connection = self._connection()
        connection.request(method, f"/v1{path}", data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _connection(self) -> http.client.HTTPConnection:
        """This thread's, to where the server was last."""
        if getattr(self._own, "url", None) != self._url:
            self._drop()
        if getattr(self._own, "connection", None) is None:
            self._own.connection, self._own.url, self._own.used = self._connected(), self._url, False
        connection: http.client.HTTPConnection = self._own.connection
        return connection

    def _connected(self) -> http.client.HTTPConnection:
        place = urlsplit(self._url)
        host = place.hostname or ""
        if place.scheme == "https":
            context = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
            return http.client.HTTPSConnection(host, place.port, timeout=TIMEOUT, context=context)
        return http.client.HTTPConnection(host, place.port, timeout=TIMEOUT)

    def _drop(self) -> None:
        connection = getattr(self._own, "connection", None)
        self._own.connection = None
        if connection is not None:
            connection.close()

    def _stream(self, cursor: int, follow: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        connection = self._connected()
        words = urlencode({"since": cursor, "follow": str(follow).lower()})
        try:
            connection.request("GET", f"/v1/events?{words}", headers={"Authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            if answer.status != 200:
                _read(answer.status, answer.read())
            for line in answer:
                if line.startswith(b"id: "):
                    cursor = int(line[4:])
                elif line.startswith(b"data: "):
                    yield cursor, json.loads(line[6:])
        finally:
            connection.close()

    def _moved(self) -> bool:
        """Whether the server came back elsewhere."""
        said = read_json(self._folder / "serving.json") if self._folder is not None else None
        before = self._url
        if isinstance(said, dict) and said.get("url"):
            self._url = said["url"]
        return self._url != before

    def _silence(self, error: Exception) -> ClusterError:
        return ClusterError(f"{self._url} does not answer: {error}", "is `staffa serve` running there?")


def _read(status: int, answer: bytes) -> Any:
    try:
        said = json.loads(answer)
    except ValueError:
        raise ClusterError(f"not an answer of Staffa ({status}): {answer[:200]!r}", "look at the URL") from None
    if status < 400:
        return said
    kinds: dict[int, type[StaffaError]] = {404: UnknownTrialError, 409: ConflictError}
    raise kinds.get(status, ConfigError)(said.get("error", str(said)), said.get("hint", ""))


def _checked(url: str) -> str:
    place = urlsplit(url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise ConfigError(f"{url!r} is no address of a server", "such as http://127.0.0.1:8787")
    return url.rstrip("/")


def _values(values: Mapping[str, float | None] | None) -> dict[str, float | None]:
    if values is None:
        raise ConfigError("a result needs values", "or say `failed`, and why")
    return {str(name): None if value is None else float(value) for name, value in values.items()}


def _number(said: float | None) -> float:
    return math.inf if said is None else float(said)


def _text(said: object) -> str:
    return json.dumps(said, separators=(",", ":"))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _gone(kept: Path | None) -> None:
    if kept is not None:
        kept.unlink(missing_ok=True)


def _key() -> str:
    return f"{os.getpid():x}-{uuid.uuid4().hex}"
