"""Workers in the books: who is there, and what was thrown away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from staffa.storage.books import CRASHES, CUT_OFFS, VANISHED, Books, cause, fold, slot
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger, history, read_summary
from staffa.storage.workspace import Workspace

Event = dict[str, Any]


def worker(name: str, node: str = "n0", pool: str = "gpu", job: str = "12_0") -> Event:
    return {"address": f"tls://{name}", "name": name, "host": node, "pid": 1, "node": node, "pool": pool, "job": job}


def joined(who: Event) -> Event:
    return {"event": "worker_joined", "at": 1.0, **who}


def left(who: Event, lost: float = 0.0, *, expected: bool = True, reason: str = "walltime") -> Event:
    return {"event": "worker_left", "at": 2.0, **who, "reason": reason, "expected": expected, "lost": lost}


def started(at: float = 0.0) -> Event:
    return {"event": "run_started", "at": at, "driver": "a"}


def test_causes() -> None:
    who = worker("12-0-0")
    assert cause(left(who)) == CUT_OFFS
    assert cause(left(who, expected=False, reason="the worker process died on n0 (code -9)")) == CRASHES
    assert cause(left(who, expected=False, reason="its node n0 or job 12_0 vanished")) == VANISHED
    assert cause({**left(who, expected=False, reason="anything"), "certain": False}) == VANISHED
    assert cause({**left(who, expected=False, reason="it vanished"), "certain": True}) == CRASHES


def test_slots() -> None:
    assert [slot(worker(name)) for name in ("12-0-0", "12-0-0.2", "12-0-1")] == ["12-0-0", "12-0-0", "12-0-1"]
    assert slot(worker("tcp://10.0.0.1:33", job="")) == "tcp://10.0.0.1:33"


def test_who_is_there() -> None:
    one, two, local = worker("12-0-0"), worker("12-1-0", job="12_1", pool="cpu"), worker("0", pool="", job="")
    books = fold([started(), joined(one), joined(two), joined(local), joined(one)])
    assert books.summary()["workers"] == {"gpu": 1, "cpu": 1, "workers": 1}
    books.note(left(two))
    books.note(left(two))
    assert books.summary()["workers"] == {"gpu": 1, "workers": 1}
    assert fold([started(), joined(one), started(5.0)]).summary()["workers"] == {}
    assert fold([started(), joined(one), {"event": "run_ended", "at": 3.0}]).summary()["workers"] == {}


def test_node_hours_lost() -> None:
    crew = [worker(f"12-0-{number}") for number in range(4)]
    alone = worker("13-0-0", node="n1", job="13_0")
    again = worker("13-0-0.2", node="n1", job="13_0")
    books = fold(
        [
            started(),
            *map(joined, crew),
            joined(alone),
            *[left(who, 3600.0) for who in crew],
            # Its successor has joined before anybody knew why it left.
            joined(again),
            left(alone, 1800.0, expected=False, reason="the worker process died on n1 (code -9)"),
            left(again, -5.0),
        ]
    )
    assert books.summary()["node_hours_lost"] == {CUT_OFFS: 1.0, CRASHES: 0.5}
    assert books.summary()["workers"] == {}


def test_drivers_without_jobs_do_not_share_a_node() -> None:
    first, second = worker("a", job=""), worker("b", job="")
    books = fold([started(), joined(first), started(5.0), joined(second), left(second, 3600.0)])
    assert books.summary()["node_hours_lost"] == {CUT_OFFS: 1.0}


def test_a_yield_spends_no_try() -> None:
    issued = {"event": "batch_issued", "at": 1.0, "batch": "g0/0", "attempt": 1, "worker": "w"}
    yielded = {
        "event": "batch_yielded", "at": 2.0, "batch": "g0/0", "attempt": 1, "worker": "w", "node": "n0",
        "segment": 2, "computed": 2, "timings": {"compile": 1.0, "sample": 4.0},
    }  # fmt: skip
    lost = {**issued, "event": "batch_lost", "reason": "walltime", "charged": False, "lanes": None}
    books = fold([started(), issued, yielded, issued, lost, issued])
    assert books.attempts("g0/0") == 0 and books.failures == {} and books.states == {}
    assert books.segments == {"g0/0": 2} and books.flying == {"g0/0": "w"}
    assert books.seconds == {"compile": 1.0, "sample": 4.0} and books.written == {}
    assert books.summary()["yielded"] == 1


@pytest.mark.parametrize("event", [{"event": "worker_joined"}, {"event": "worker_left"}])
def test_malformed(event: Event) -> None:
    books = fold([{**event, "at": 1.0}])
    assert books.counts == {"unreadable": 1}
    assert fold([left(worker("unknown"), 36.0)]).summary()["node_hours_lost"] == {CUT_OFFS: 0.01}


def test_the_summary_stays_small(tmp_path: Path) -> None:
    """However many jobs have come and gone, and from a journal on disk as well as in memory."""
    workspace = Workspace.create(tmp_path / "run")
    with Lease.acquire(workspace.lease) as lease, Ledger.open(workspace, lease) as ledger:
        ledger.append(started())
        for job in range(500):
            who = worker(f"{job}-0-0", node=f"n{job % 7}", job=f"{job}_0")
            ledger.append(joined(who))
            ledger.append(left(who, 7.2))
        in_memory = ledger.books.summary()
    summary = read_summary(workspace)
    assert summary is not None and len(json.dumps(summary)) < 2000
    assert summary["node_hours_lost"] == in_memory["node_hours_lost"] == {CUT_OFFS: 1.0}
    assert fold(history(workspace)).summary() == in_memory
    assert Books().summary()["workers"] == Books().summary()["node_hours_lost"] == {}
