"""The routes of a served search, and the process behind them."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import signal
import socket
import stat
import threading
from urllib.parse import urlsplit

import httpx
import pytest

from search.serve import OBJECTIVES, SPACE, Process
from staffa.campaign.domain import Domain
from staffa.campaign.objectives import Objectives
from staffa.errors import ConfigError, WorkspaceError
from staffa.search.journal import Journal
from staffa.search.serving.app import DOCUMENT, Serving, application
from staffa.search.serving.gate import LARGEST
from staffa.search.serving.server import Refitting, serve
from staffa.search.serving.tokens import Tokens, tokens
from staffa.search.strategies.random import Random
from staffa.search.study import Study

KEYS = Tokens("w" * 32, "r" * 32)
ROUTES = [
    ("POST", "/v1/ask"), ("POST", "/v1/tell"), ("POST", "/v1/cancel"), ("POST", "/v1/heartbeat"),
    ("PATCH", "/v1/objectives"), ("GET", "/v1/trials"), ("GET", "/v1/top"), ("GET", "/v1/fronts"),
    ("GET", "/v1/status"), ("GET", "/v1/events"),
]  # fmt: skip


def study(path, **more):
    domain = Domain.read(SPACE)
    strategy = more.pop("strategy", None) or Random(domain=domain, budget=None, seed=1)
    return Study(domain, Objectives.read(OBJECTIVES), strategy, journal=Journal.open(path), **more)


class Caller:
    """Calls of the application itself, without a socket."""

    def __init__(self, application, token):
        self.application, self.headers = application, {"Authorization": b"Bearer " + token.encode()} if token else {}

    def request(self, verb, path, *, headers=(), **more):
        async def once():
            transport = httpx.ASGITransport(self.application, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(verb, path, headers={**self.headers, **dict(headers)}, **more)

        return asyncio.run(once())

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, **more):
        return self.request("POST", path, **more)

    def patch(self, path, **more):
        return self.request("PATCH", path, **more)


def called(study, token=KEYS.write, **more):
    return Caller(application(Serving(study, **more), KEYS), token)


@pytest.fixture
def searched(tmp_path):
    found = study(tmp_path / "j", trials=20)
    yield found
    found.close()


def test_a_search_by_its_routes(searched):
    at = called(searched)
    asked = at.post("/v1/ask", json={"count": 3, "worker": "w"}).json()
    assert [one["trial"] for one in asked["trials"]] == [0, 1, 2] and not asked["finished"]
    assert asked["trials"][0]["params"] == searched.record(0).params
    told = at.post("/v1/tell", json={"trial": 0, "attempt": 1, "values": {"loss": 2}}).json()
    assert told == {"trial": 0, "status": "recorded", "state": "recorded", "scores": [2.0], "why": ""}
    assert at.post("/v1/tell", json={"trial": 0, "values": {"loss": 2.0}}).json()["status"] == "replayed"
    assert at.post("/v1/tell", json={"trial": 1, "failed": "boom"}).json()["state"] == "waiting"
    assert at.post("/v1/heartbeat", json={"worker": "w", "trials": [1, 2]}).json() == {
        "held": [2], "lost": [1], "finished": False,
    }  # fmt: skip
    assert at.post("/v1/cancel", json={"trials": [2]}).json() == {"states": {"2": "cancelled"}}
    params = {"rate": 0.5, "leaps": 3, "mass": "unit"}
    assert at.post("/v1/tell", json={"params": params, "values": {"loss": 1.0}}).json()["trial"] == 3
    assert [one["trial"] for one in at.get("/v1/top?k=5").json()["trials"]] == [3, 0]
    assert [[one["trial"] for one in front] for front in at.get("/v1/fronts?k=9").json()["fronts"]] == [[3], [0]]
    first = at.get("/v1/trials?limit=3").json()
    assert first["next"] == 3 and [one["state"] for one in first["trials"]] == ["recorded", "waiting", "cancelled"]
    assert at.get("/v1/trials?since=3").json()["next"] is None
    status = at.get("/v1/status").json()
    assert (status["asked"], status["budget"], status["best"]["trial"]) == (3, 20, 3)
    assert status["space"] == searched.domain.words() and status["lease"] == 300.0
    changed = at.patch("/v1/objectives", json={"loss": {"target": 0.0, "limit": 1.5}})
    assert changed.json() == {"objectives": {"loss": {"target": 0.0, "limit": 1.5}}}
    assert [one["trial"] for one in at.get("/v1/top").json()["trials"]] == [3]
    assert at.get("/v1/trials").json()["trials"][0]["scores"] == [None]


def test_who_may_do_what(searched):
    document = called(searched, "").get(DOCUMENT).json()
    listed = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    assert listed == set(ROUTES)
    at = called(searched)
    for verb, path in [*ROUTES, ("GET", "/v1/nothing"), ("GET", "/")]:
        for token in ("x" * 32, KEYS.write[:-1], KEYS.write + "w", "ü"):
            answer = at.request(verb, path, content=b"{}", headers={"Authorization": b"Bearer " + token.encode()})
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        looks = at.request(verb, path + "?follow=false", headers={"Authorization": f"Bearer {KEYS.read}"})
        assert looks.status_code == (403 if verb != "GET" else 200 if (verb, path) in ROUTES else 404)
    assert called(searched, "").get("/v1/status").status_code == 401
    basic = called(searched, "").post("/v1/ask", headers={"Authorization": f"Basic {KEYS.write}"})
    assert basic.status_code == 401 and searched.trials() == []


def brought(**wrong):
    return {"values": {"loss": 1.0}, "params": {"rate": 0.5, "leaps": 1, "mass": "unit", **wrong}}


BAD = [
    ("/v1/tell", '{"trial": 0, "val', 422, "body", "not JSON"),
    ("/v1/tell", b"\xff\xfe{}", 422, "body", ""),
    ("/v1/tell", "[" * 100_000, 422, "body", ""),
    ("/v1/tell", "", 422, "body", ""),
    ("/v1/tell", "7", 422, "body", ""),
    ("/v1/tell", {"trial": 0}, 422, "body", "either `values` or `failed`"),
    ("/v1/tell", {"trial": 0, "valeus": {}}, 422, "valeus", "not permitted"),
    ("/v1/tell", {"trial": "0", "values": {"loss": 1}}, 422, "trial", "valid integer"),
    ("/v1/tell", {"trial": 0, "values": {"loss": "1"}}, 422, "values.loss", "valid number"),
    ("/v1/tell", {"trial": 0, "values": {"loss": True}}, 422, "values.loss", "valid number"),
    ("/v1/tell", {"trial": 0, "values": {"los": 1.0}}, 422, "values.los", "did you mean 'loss'?"),
    ("/v1/tell", {"trial": 77, "values": {"loss": 1.0}}, 404, "", "no trial 77"),
    ("/v1/tell", {"trial": 0, "values": {"loss": 1.0}, "attempt": 2}, 409, "", "attempt 2"),
    ("/v1/tell", {"trial": 0, "values": {"loss": 1.0}, "params": {"rate": 1}}, 409, "", "other parameters"),
    ("/v1/tell", brought(rate=2.0), 422, "params", "rate"),
    ("/v1/tell", brought(rate=math.nan), 422, "params", "rate"),
    ("/v1/tell", brought(leaps=1.5), 422, "params", "leaps"),
    ("/v1/tell", brought(mas="unit"), 422, "params", "'mas' is no parameter"),
    ("/v1/ask", {"count": 0}, 422, "count", "greater"),
    ("/v1/ask", {"count": 1.0}, 422, "count", ""),
    ("/v1/cancel", {"trials": [0, 77]}, 404, "", "no trial 77"),
    ("/v1/heartbeat", {"trials": [77]}, 404, "", "no trial 77"),
    ("/v1/objectives", {"los": {"target": 0}}, 422, "objectives.los", "did you mean 'loss'?"),
    ("/v1/objectives", {"loss": {"target": 1.0}}, 422, "objectives.loss", "no limit"),
    ("/v1/objectives", {"loss": {"target": 1.0, "limit": 0.5}}, 422, "objectives.loss", "not below"),
    ("/v1/objectives", {"loss": {"priority": None}}, 422, "objectives.loss.priority", ""),
    ("/v1/objectives", {"loss": {"of": "x"}}, 422, "loss.of", "not permitted"),
]  # fmt: skip


def test_what_is_refused_leaves_no_trace(searched):
    at = called(searched)
    at.post("/v1/ask", json={})
    size = searched.journal.size
    for path, body, status, field, text in BAD:
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        answer = at.request("PATCH" if "objectives" in path else "POST", path, content=content)
        said = answer.json()
        assert (answer.status_code, said["field"]) == (status, field), (path, body, said)
        assert text in said["error"] + said["hint"] and said["error"]
    for query in ("/v1/top?k=0", "/v1/trials?since=-1", "/v1/fronts?k=x", "/v1/events?since=x"):
        assert at.get(query).status_code == 422
    assert at.post("/v1/ask", json={}, headers={"Idempotency-Key": "k" * 201}).status_code == 422
    assert searched.journal.size == size and searched.record(0).state == "pending"
    assert at.post("/v1/tell", json={"trial": 0, "values": {"loss": 1.0}}).status_code == 200, "nothing was lost"


def test_no_number_is_recorded_with_its_reason(searched):
    at = called(searched)
    at.post("/v1/ask", json={"count": 4})
    for trial, (said, why) in enumerate(
        [("NaN", "loss is nan"), ("null", "loss is missing"), ("Infinity", "loss is inf"), ("1e999", "loss is inf")]
    ):
        answer = at.post("/v1/tell", content=f'{{"trial": {trial}, "values": {{"loss": {said}}}}}')
        assert answer.json() == {
            "trial": trial, "status": "recorded", "state": "recorded", "scores": [None], "why": why,
        }  # fmt: skip
    assert at.get("/v1/top").json() == {"trials": []}


def test_keys(searched):
    at, key = called(searched), {"Idempotency-Key": "one"}
    first = at.post("/v1/ask", json={"count": 2}, headers=key)
    assert at.post("/v1/ask", json={"count": 2}, headers=key).content == first.content
    assert at.post("/v1/ask", json={"count": 3}, headers=key).status_code == 409
    assert at.post("/v1/tell", json={"trial": 0, "values": {"loss": 1}}, headers=key).status_code == 409
    assert len(searched.trials()) == 2


def test_events_from_a_cursor(searched):
    at = called(searched)
    at.post("/v1/ask", json={"count": 2})
    at.post("/v1/tell", json={"trial": 1, "values": {"loss": 1}})

    def said(**more):
        blocks = at.get("/v1/events", params={"follow": "false"}, **more).text.strip().split("\n\n")
        return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if block]

    whole = said()
    assert [one["event"] for one in whole] == ["opened", "asked", "told"]
    assert [json.loads(one["data"])["event"] for one in whole] == ["opened", "asked", "told"]
    assert int(whole[-1]["id"]) == at.get("/v1/status").json()["cursor"]
    for number, one in enumerate(whole):
        assert said(headers={"Last-Event-ID": one["id"]}) == whole[number + 1 :]


def test_a_full_disk_is_said_and_passes(searched, monkeypatch):
    at = called(searched)

    def full(event):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(searched.journal, "append", full)
        answer = at.post("/v1/ask", json={})
        assert answer.status_code == 507 and "No space left" in answer.json()["error"]
    assert at.post("/v1/ask", json={}).json()["trials"][0]["trial"] == 0


def test_a_refit_keeps_nobody_waiting(tmp_path):
    """The strategy refits for as long as it takes to ask and tell five times; were one to wait, none would end."""
    go_on, began = threading.Event(), threading.Event()

    class Slow(Random):
        def refits_at(self, told):
            return told

        def prepare(self, told):
            if len(told):
                began.set()
                assert go_on.wait(60)

    found = study(tmp_path / "j", strategy=Slow(domain=Domain.read(SPACE), budget=None, seed=1))
    with Refitting(found, pytest.fail) as refitting:
        at = called(found, nudge=refitting.nudge)
        for trial in range(6):
            assert at.post("/v1/ask", json={}).json()["trials"][0]["trial"] == trial
            assert at.post("/v1/tell", json={"trial": trial, "values": {"loss": 1.0}}).status_code == 200
            assert began.wait(60)
        go_on.set()
    found.close()


def test_what_the_document_says_holds(tmp_path):
    """Calls made from the OpenAPI document, sound and unsound: no server error, nothing the document does not say."""
    schemathesis = pytest.importorskip("schemathesis")
    import hypothesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    found = study(tmp_path / "j")
    found.ask(3)
    serving = Serving(found, longest_stream=0.0)
    schema = schemathesis.openapi.from_asgi(DOCUMENT, application(serving, KEYS))
    made = []
    for operation in (one.ok() for one in schema.get_all_operations()):
        strategy = operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=strategy)
        def called(case):
            made.append(case.operation.label)
            case.call_and_validate(headers={"Authorization": f"Bearer {KEYS.write}"}, checks=checks)

        called()
    assert {label.lower() for label in made} == {f"{verb} {path}".lower() for verb, path in ROUTES}
    found.close()


# --- the process ---


def test_a_server_from_start_to_end(tmp_path):
    folder = tmp_path / "run"
    with socket.socket() as taken, Process(folder, trials=5) as first:
        client = first.client(worker="w")
        stream = client.events()
        assert next(stream)[1]["event"] == "opened"
        (asked,) = client.ask().trials
        assert next(stream)[1]["event"] == "asked", "it is said as it happens"
        client.tell(asked, {"loss": 1.0})
        place = urlsplit(first.at["url"])
        for words in ({"Content-Length": str(2 * LARGEST)}, {"Transfer-Encoding": "chunked"}):
            assert _large(place, first.token, words) == 413
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in [folder / "secrets", *(folder / "secrets").iterdir()]
        }
        assert modes == {"secrets": 0o700, "write.token": 0o600, "read.token": 0o600}
        with pytest.raises(WorkspaceError, match="is held by another process"):
            Journal.open(folder / "ledger" / "search.jsonl")
        assert first.end() == 0, "also while somebody listens to its events"
        assert not (folder / "serving.json").exists()
        with pytest.raises(WorkspaceError, match="is not being served"):
            first.client()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Process(folder, trials=5, port=port) as second:
            found = urlsplit(second.at["url"]).port
            assert port < found < port + 100 and f"port {port} is taken: {found} it is" in second.log.read_text()
            assert second.client().status()["trials"]["recorded"] == 1
            assert second.end(signal.SIGINT) == 0
    assert "nothing is lost" in first.log.read_text()


def _large(place, token, words):
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.putrequest("POST", "/v1/tell")
    for name, value in {"Authorization": f"Bearer {token}", **words}.items():
        connection.putheader(name, value)
    connection.endheaders()
    for _ in range(32):
        piece = b"x" * (LARGEST // 16)
        connection.send(piece if "Content-Length" in words else b"%x\r\n%s\r\n" % (len(piece), piece))
    if "Transfer-Encoding" in words:
        connection.send(b"0\r\n\r\n")
    status = connection.getresponse().status
    connection.close()
    return status


def test_beyond_this_machine_only_encrypted(tmp_path):
    found = study(tmp_path / "j")
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match=r"beyond this machine.*\n.*--tls"):
            serve(tmp_path / "run", found, host=host)
    with pytest.raises(ConfigError, match="go together"):
        serve(tmp_path / "run", found, certificate=tmp_path / "c.pem")
    found.close()
    with Process(tmp_path / "run", host="0.0.0.0", tls=True, trials=2) as server:
        url = f"https://127.0.0.1:{urlsplit(server.at['url']).port}"
        from staffa.search.client import Client

        assert Client(url, server.token, ca=tmp_path / "run/secrets/serving/ca.pem").status()["asked"] == 0
        with pytest.raises(ConfigError, match="is not known by the certificate"):
            Client(url, server.token).status()
        assert stat.S_IMODE((tmp_path / "run/secrets/serving/key.pem").stat().st_mode) == 0o600


def test_secrets_that_others_can_read_are_refused(tmp_path):
    first = tokens(tmp_path / "secrets")
    assert tokens(tmp_path / "secrets") == first and first.write != first.read and len(first.write) > 40
    (tmp_path / "secrets" / "read.token").chmod(0o644)
    with pytest.raises(WorkspaceError, match="can be read by others"):
        tokens(tmp_path / "secrets")


def test_leases_run_out_without_anybody_asking(tmp_path):
    with Process(tmp_path / "run", lease=0.5, trials=1, retries=0) as server:
        client = server.client(worker="w")
        client.ask()
        stream = client.events()
        while (found := next(stream)[1])["event"] != "expired":
            pass
        assert found["trial"] == 0
        assert client.status()["finished"]
