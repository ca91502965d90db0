"""The history: what was appended is read back, wherever a journal was cut or a disk was full."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffa.errors import WorkspaceError
from staffa.storage.lease import Lease
from staffa.storage.ledger import Books, Failure, Ledger, Loss, Tail, fold, history, read_summary
from staffa.storage.workspace import Workspace

T0 = 1_000_000.0


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "it's a run")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(workspace: Workspace, clock: Clock) -> Iterator[Lease]:
    with Lease.acquire(workspace.lease, clock=clock) as lease:
        yield lease


def events(workspace: Workspace) -> list[str]:
    return [event["event"] for event in history(workspace)]


def settled(batch: str, attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "event": "batch_settled", "batch": batch, "attempt": attempt, "worker": "w", "node": "n1",
        "outcomes": {"ok": 255, "raised": 1}, "bytes": 1000, "timings": {"sample": 0.5, "write": 0.25},
        "failed": [{"lane": 3, "trial": "ab" * 16, "outcome": "raised", "message": "ValueError: 1"}], **more,
    }  # fmt: skip


def test_append_is_seen_by_others_at_once(workspace: Workspace, lease: Lease, clock: Clock) -> None:
    assert list(history(workspace)) == []
    assert read_summary(workspace) is None
    with Ledger.open(workspace, lease, clock) as ledger:
        ledger.append({"event": "batch_issued", "batch": "g0/0", "attempt": np.int64(1), "worker": "w"})
        clock.now += 1
        ledger.append({"event": "quarantined", "trial": b"\xab\xcd", "message": "\ud800 ü\n", "at": 5})
        first, second = history(workspace)
    assert first == {"event": "batch_issued", "at": T0, "batch": "g0/0", "attempt": 1, "worker": "w"}
    assert second["trial"] == "abcd" and second["message"] == "\ud800 ü\n" and second["at"] == 5


def test_tick_syncs_beats_and_sums_when_due(
    workspace: Workspace, lease: Lease, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with Ledger.open(workspace, lease, clock) as ledger:
        monkeypatch.setattr("os.fsync", synced.append)

        def tick(step: float, figures: dict[str, Any] | None = None) -> tuple[int, float, float]:
            clock.now += step
            ledger.tick(clock.now, figures)
            summary = read_summary(workspace) or {"at": 0.0}
            return len(synced), summary["at"] - T0, lease.holder.heartbeat - T0

        ledger.append({"event": "continued"})
        assert tick(0) == (1, 0, 0)
        ledger.append({"event": "continued"})
        assert tick(0.4) == (1, 0, 0)
        assert tick(0.2) == (2, 0, 0)
        assert tick(1.3) == (2, 0, 0)
        assert tick(0.2) == (2, pytest.approx(2.1), 0)
        assert tick(5.0) == (2, pytest.approx(2.1), 0)
        assert tick(0, {"trials": 7}) == (2, pytest.approx(7.1), 0)
        assert tick(3, {"trials": 7}) == (2, pytest.approx(7.1), pytest.approx(10.1))
        assert tick(8) == (2, pytest.approx(18.1), pytest.approx(10.1))
        assert tick(-100)[1] == pytest.approx(-81.9)
    summary = read_summary(workspace)
    assert summary is not None and summary["figures"] == {"trials": 7}
    assert summary["lease_id"] == lease.lease_id and summary["events"] == {"continued": 2}


def test_tick_notices_a_lost_lease(workspace: Workspace, lease: Lease, clock: Clock) -> None:
    with Ledger.open(workspace, lease, clock) as ledger:
        workspace.lease.unlink()
        with pytest.raises(WorkspaceError):
            ledger.tick(clock.now)


def test_drivers_follow_one_another_in_order_of_time(workspace: Workspace, clock: Clock) -> None:
    for number, now in enumerate([T0, T0 + 100, T0 + 50]):
        clock.now = now
        with (
            Lease.acquire(workspace.lease, clock=clock) as lease,
            Ledger.open(workspace, lease, clock) as ledger,
        ):
            ledger.append({"event": f"e{number}"})
            assert ledger.books.counts[f"e{number}"] == 1
            assert sum(ledger.books.counts.values()) == number + 1
    (workspace.ledger / "events-empty.jsonl").touch()
    assert events(workspace) == ["e0", "e2", "e1"]


def test_deleted_ledger_is_an_empty_history(workspace: Workspace, clock: Clock) -> None:
    shutil.rmtree(workspace.ledger)
    assert list(history(workspace)) == [] and read_summary(workspace) is None
    with Lease.acquire(workspace.lease, clock=clock) as lease, Ledger.open(workspace, lease, clock) as ledger:
        ledger.append({"event": "run_started"})
    assert events(workspace) == ["run_started"]


LINES = st.lists(
    st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=8), st.integers(), st.none()), max_size=3),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, data=st.data())
def test_a_journal_cut_anywhere_keeps_every_whole_line(
    workspace: Workspace, lines: list[dict[str, Any]], data: st.DataObject
) -> None:
    written = [{**line, "event": f"e{number}", "at": number} for number, line in enumerate(lines)]
    whole = b"".join(json.dumps(line).encode() + b"\n" for line in written)
    cut = data.draw(st.integers(0, len(whole)))
    path = workspace.journal("cut")
    path.write_bytes(whole[:cut])
    kept = list(history(workspace))
    assert kept == written[: whole[:cut].count(b"\n")]
    path.write_bytes(whole[:cut] + b"~\n" + b'{"event":"after","at":1}\n')
    rest = [event for event in history(workspace) if event["event"] != "unreadable"]
    assert rest == [*kept, {"event": "after", "at": 1}]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.binary(max_size=20), max_size=5))
def test_rubbish_between_lines_is_skipped_and_counted(workspace: Workspace, noise: list[bytes]) -> None:
    noise = [line.replace(b"\n", b"") for line in noise]
    lines = [part for line in noise for part in (line, b'{"event":"good","at":1}')]
    path = workspace.journal("noise")
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    books = fold(history(workspace))
    assert books.counts["good"] == len(noise)
    assert books.counts["unreadable"] == len(noise)
    path.unlink()


def test_a_torn_journal_of_the_same_lease_is_mended(workspace: Workspace, lease: Lease, clock: Clock) -> None:
    workspace.journal(lease.lease_id).write_bytes(b'{"event":"a","at":1}\n{"event":"lost","at":2}')
    with Ledger.open(workspace, lease, clock) as ledger:
        ledger.append({"event": "b"})
    assert events(workspace) == ["a", "b", "unreadable"]


def test_full_disk_raises_and_the_journal_stays_sound(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk: " + mounted.stderr.decode().strip())
    try:
        workspace = Workspace.create(folder / "run")
        filler = folder / "filler"
        with (
            Lease.acquire(workspace.lease, clock=clock) as lease,
            Ledger.open(workspace, lease, clock) as ledger,
        ):
            filler.write_bytes(b"x" * 40_000)
            done = _append_until_full(ledger)
            for _ in range(3):
                with pytest.raises(OSError):
                    ledger.append({"event": "big", "message": "y" * 8000})
            with pytest.raises(OSError):
                ledger.tick(clock.now + 100)
            filler.unlink()
            for number in range(3):
                ledger.append({"event": "after", "number": number})
            ledger.tick(clock.now + 200)
        read = list(history(workspace))
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert [event["number"] for event in read if event["event"] == "before"] == list(range(done))
    assert [event["number"] for event in read if event["event"] == "after"] == [0, 1, 2]
    assert [event["lines"] for event in read if event["event"] == "unreadable"] == [1]
    assert not any(event["event"] == "big" for event in read)


def _append_until_full(ledger: Ledger) -> int:
    for number in range(1000):
        try:
            ledger.append({"event": "before", "number": number, "message": "x" * 300})
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert ledger.books.counts["before"] == number
            return number
    raise AssertionError("the disk never filled")


WRITER = """
import itertools, pathlib, sys
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace
workspace = Workspace(pathlib.Path(sys.argv[1]))
with Lease.acquire(workspace.lease) as lease, Ledger.open(workspace, lease) as ledger:
    for number in itertools.count():
        ledger.append({"event": "e", "number": number, "message": "x" * 2000})
        print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_appended(workspace: Workspace) -> None:
    for _ in range(2):
        words = [sys.executable, "-c", WRITER, str(workspace.root)]
        writer = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 100:
            pass
        writer.send_signal(signal.SIGKILL)
        told = int(("100\n" + writer.stdout.read()).splitlines()[-1])
        writer.wait()
        read = [event["number"] for event in history(workspace)]
        assert read[-1] >= told
        assert read.count(told) >= 1
    assert events(workspace).count("unreadable") == 0


def test_fold_tells_the_story() -> None:
    trial, killer = "ab" * 16, "cd" * 16
    story: list[dict[str, Any]] = [
        {"event": "run_started", "driver": "a", "host": "h", "pid": 1, "workers": 2, "resumed": False},
        {"event": "batch_issued", "batch": "g0/0", "attempt": 1, "worker": "w1"},
        {"event": "batch_issued", "batch": "g0/1", "attempt": 1, "worker": "w2"},
        settled("g0/0", nan=["ef" * 16]),
        {"event": "retry_planned", "batch": "g0/0", "lanes": [3], "attempt": 2, "due": 9.0},
        {"event": "batch_lost", "batch": "g0/1", "attempt": 1, "worker": "w2", "reason": "gone",
         "charged": False},
        {"event": "batch_lost", "batch": "g0/1", "attempt": 1, "worker": "w", "reason": "oom",
         "charged": True, "lanes": [0, 8]},
        {"event": "batch_yielded", "batch": "g0/2", "segment": 3},
        {"event": "batch_issued", "batch": "g0/0", "attempt": 2, "worker": "w1"},
        settled("g0/0", 2, outcomes={"raised": 1}),
        {"event": "quarantined", "trial": trial, "batch": "g0/0", "lane": 3, "outcome": "raised",
         "message": "m", "attempts": 2},
        {"event": "quarantined", "trial": killer, "batch": "g0/1", "lane": 5, "outcome": "killed",
         "message": "took its process down", "attempts": 3},
        {"event": "cancelled", "trial": "01" * 16},
        {"event": "cancelled", "batch": "g0/7"},
        {"event": "part_sealed", "part": "p0", "rows": 10, "trials": 5, "bytes": 99, "seconds": 0.1},
        {"event": "part_sealed", "part": "p0", "rows": 10, "trials": 5, "bytes": 99, "seconds": 0.1},
        {"event": "code_change_accepted", "old": "o", "new": "n"},
        {"event": "paused", "reason": "disk full"},
        {"event": "invented_later", "anything": 1},
        {"event": "batch_settled"},
        {"event": "batch_settled", "batch": [], "attempt": 1},
    ]  # fmt: skip
    books = fold({**event, "at": T0 + number} for number, event in enumerate(story))
    assert (books.attempts("g0/0"), books.attempts("g0/1"), books.attempts("g0/9")) == (2, 1, 0)
    assert books.failures[trial] == [
        Failure(1, "raised", "ValueError: 1", T0 + 3, "n1"),
        Failure(2, "raised", "ValueError: 1", T0 + 9, "n1"),
    ]
    assert [f.outcome for f in books.failures[killer]] == ["killed"]
    assert books.losses["g0/1"] == [
        Loss(1, "w2", "gone", T0 + 5, False, None),
        Loss(1, "w", "oom", T0 + 6, True, (0, 8)),
    ]
    assert books.states == {
        trial: "quarantined", killer: "quarantined", "01" * 16: "cancelled", "g0/7": "cancelled",
    }  # fmt: skip
    assert books.segments == {"g0/2": 3} and books.flying == {} and books.retries == {}
    assert books.nan == {"ef" * 16}
    assert books.parts == {"p0": {"rows": 10, "trials": 5, "bytes": 99, "seconds": 0.1, "at": T0 + 15}}
    assert books.code_changes == [("o", "n")] and books.condition == {"paused": "disk full"}
    assert books.outcomes == {"ok": 255, "raised": 2}
    assert books.written == {"batches": 2, "bytes": 2000} and books.seconds == {"sample": 1.0, "write": 0.5}
    assert books.counts["unreadable"] == 2 and books.counts["invented_later"] == 1
    assert json.loads(json.dumps(books.summary()))["rows"] == 10
    books.note({"event": "readmitted", "trial": trial, "at": 0})
    books.note({"event": "run_ended", "reason": "done", "exit_code": 1, "at": 7.0})
    assert trial not in books.states and books.condition == {}
    assert books.runs[-1]["ended"] == 7.0 and books.runs[-1]["pid"] == 1


def test_empty_books_have_a_summary() -> None:
    assert Books().summary()["run"] is None
    assert fold([{"event": "run_ended", "at": 1.0}]).runs == [{"ended": 1.0, "reason": None, "exit_code": None}]


def test_reading_and_folding_two_thousand_batches_is_quick(workspace: Workspace) -> None:
    lines = [json.dumps({"at": 1.0, **settled(f"g0/{number}")}) for number in range(2000)]
    workspace.journal("long").write_text("\n".join(lines) + "\n")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        books = fold(history(workspace))
        seconds.append(time.perf_counter() - began)
    assert books.counts["batch_settled"] == 2000
    assert min(seconds) < 0.1


def test_a_tail_tells_each_event_once_and_no_half_line(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "v1.0_a")
    path = workspace.ledger / "events-20260101T000000-a.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"event":"paused","at":1.0,"reason":"x"}\n{"event":"contin')
    tail = Tail(workspace)
    assert [event["event"] for event in tail.news()] == ["paused"]
    assert list(tail.news()) == []
    with path.open("a") as file:
        file.write('ued","at":2.0}\nrubbish\n')
    (path.parent / "events-20260102T000000-b.jsonl").write_text('{"event":"grown","at":3.0,"generation":1}\n')
    assert [event["event"] for event in tail.news()] == ["continued", "grown"]
    assert list(tail.news()) == []
