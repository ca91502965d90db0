"""Requests from other shells: asked, answered once, and never a danger to the driver."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from staffa.storage.control import Request, answer, ask, pending, wait_answer, withdraw
from staffa.storage.workspace import Workspace

DRIVER = """
import sys, time
from staffa.storage.control import answer, pending
from staffa.storage.workspace import Workspace
workspace, end = Workspace.open(sys.argv[1]), time.time() + 20
while time.time() < end:
    for request in pending(workspace):
        answer(workspace, request, {"echo": request.verb, **request.arguments})
        if request.verb == "stop":
            sys.exit()
    time.sleep(0.01)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.create(tmp_path / "it's a run")
    workspace.campaign_yaml.write_text("")
    return workspace


def test_ask_and_answer_across_processes(workspace: Workspace) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(workspace.root)])
    for number in range(3):
        reply = wait_answer(workspace, ask(workspace, "cancel", trials=["ab"], n=number), timeout=10)
        assert reply == {"echo": "cancel", "trials": ["ab"], "n": number}
    assert wait_answer(workspace, ask(workspace, "stop"), timeout=10) == {"echo": "stop"}
    assert driver.wait(timeout=10) == 0
    assert [path.name for path in workspace.control.iterdir()] == []


def test_requests_come_in_the_order_they_were_asked(workspace: Workspace) -> None:
    ids = [ask(workspace, "retry", verb="x", n=number) for number in range(5)]
    found = pending(workspace)
    assert [request.id for request in found] == sorted(ids) == ids
    assert found[0] == Request(ids[0], "retry", {"verb": "x", "n": 0}, found[0].at)
    assert abs(found[0].at - time.time()) < 10


def test_silence_is_none_and_the_request_can_be_withdrawn(workspace: Workspace) -> None:
    request_id = ask(workspace, "stop")
    started = time.monotonic()
    assert wait_answer(workspace, request_id, timeout=0.2) is None
    assert 0.2 <= time.monotonic() - started < 2
    withdraw(workspace, request_id)
    withdraw(workspace, request_id)
    assert pending(workspace) == []


def test_a_driver_killed_between_answer_and_clearing_does_not_act_twice(workspace: Workspace) -> None:
    request_id = ask(workspace, "stop")
    (request,) = pending(workspace)
    stands = (workspace.control / f"{request_id}.request.json").read_bytes()
    answer(workspace, request, {"ok": True})
    (workspace.control / f"{request_id}.request.json").write_bytes(stands)
    assert pending(workspace) == []
    assert wait_answer(workspace, request_id, timeout=1) == {"ok": True}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 9999,
        b'{"verb": "a"}',
        b'{"verb": 1, "arguments": {}, "at": 0}',
        b'{"verb": "a", "arguments": [], "at": 0}',
        b'{"verb": "a", "arguments": {}, "at": "x"}',
    ],
)
def test_malformed_requests_are_moved_aside(workspace: Workspace, data: bytes) -> None:
    (workspace.control / "1-a.request.json").write_bytes(data)
    (workspace.control / "2-b.request.json").mkdir()
    good = ask(workspace, "stop")
    assert [request.id for request in pending(workspace)] == [good]
    withdraw(workspace, good)
    assert sorted(path.name for path in workspace.control.iterdir()) == [
        "1-a.request.json.bad",
        "2-b.request.json.bad",
    ]
    assert pending(workspace) == []


def test_no_control_folder(workspace: Workspace) -> None:
    workspace.control.rmdir()
    assert pending(workspace) == []
    ask(workspace, "stop")
    assert len(pending(workspace)) == 1
