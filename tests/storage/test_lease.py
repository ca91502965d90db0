"""One driver at a time: races, kills, sleepers and rubbish, with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from staffa.errors import WorkspaceError
from staffa.storage.files import write_aside
from staffa.storage.lease import Lease, read_lease

HOLD = """
import sys, time, pathlib
from staffa.storage.lease import Lease
lease = Lease.acquire(pathlib.Path(sys.argv[1]))
print(lease.lease_id, flush=True)
time.sleep(600)
"""

RACE = """
import json, pathlib, sys, time
from staffa.errors import WorkspaceError
from staffa.storage.lease import Lease
folder, start, rounds = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
kept, said = [], []
for number in range(rounds):
    while time.time() < start + number * 0.04:
        pass
    try:
        kept.append(Lease.acquire(folder / f"{number}" / "lease.json"))
        said.append("won")
    except WorkspaceError as error:
        said.append(str(error))
print(json.dumps(said), flush=True)
sys.stdin.read()
"""

TURNS = """
import os, pathlib, random, signal, sys, time
from staffa.errors import WorkspaceError
from staffa.storage.lease import Lease
path, log = pathlib.Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
me, end = os.getpid(), time.time() + float(sys.argv[3])
say = lambda word: os.write(log, f"{word} {me}\\n".encode())
while time.time() < end:
    try:
        lease = Lease.acquire(path)
    except WorkspaceError:
        continue
    say("enter")
    lease.beat()
    if random.random() < 0.02:
        say("leave")
        os.kill(me, signal.SIGKILL)
    say("leave")
    lease.release()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my run's" / "ledger" / "lease.json"


def hold(path: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_take_beat_release(path: Path) -> None:
    now = [1_000_000.0]
    with Lease.acquire(path, clock=lambda: now[0]) as lease:
        holder = read_lease(path)
        assert holder is not None and holder.alive(lambda: now[0]) and holder.pid == os.getpid()
        now[0] += 5
        lease.beat()
        holder = read_lease(path)
        assert holder is not None and (holder.since, holder.heartbeat) == (1_000_000.0, 1_000_005.0)
    assert read_lease(path) is None
    lease.release()
    assert [path.name for path in path.parent.iterdir()] == []


def test_second_driver_is_refused_with_the_holder_and_the_commands(path: Path) -> None:
    process, _ = hold(path)
    try:
        with pytest.raises(WorkspaceError) as caught:
            Lease.acquire(path, clock=lambda: time.time() + 3600)
    finally:
        process.kill()
        process.wait()
    assert f"pid {process.pid}" in caught.value.message and os.uname().nodename in caught.value.message
    assert "staffa status '" in caught.value.hint and "staffa stop '" in caught.value.hint
    assert f"kill {process.pid}" in caught.value.hint
    assert list(path.parent.glob("*claim*")) == []


@pytest.mark.parametrize("reap", [True, False], ids=["gone", "zombie"])
def test_a_killed_driver_is_followed_at_once(path: Path, reap: bool) -> None:
    process, first = hold(path)
    process.send_signal(signal.SIGKILL)
    if reap:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    holder = read_lease(path)
    assert holder is not None and holder.lease_id == first and not holder.alive()
    with Lease.acquire(path) as lease:
        assert lease.lease_id != first
    process.wait()


def test_a_stopped_driver_is_not_dead(path: Path) -> None:
    process, _ = hold(path)
    try:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(WorkspaceError):
            Lease.acquire(path)
    finally:
        process.kill()
        process.wait()


def test_a_reused_pid_is_not_the_driver(path: Path) -> None:
    lease = Lease.acquire(path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "process_started": record["process_started"] - 1}))
    with Lease.acquire(path) as heir:
        with pytest.raises(WorkspaceError, match="taken over by another driver"):
            lease.beat()
        lease.release()
        heir.beat()


def test_another_host_is_followed_after_a_minute_of_silence(path: Path) -> None:
    now = [5000.0]
    far = Lease.acquire(path, clock=lambda: now[0], host="far-away")
    now[0] += 30
    far.beat()
    now[0] += 59
    with pytest.raises(WorkspaceError, match="far-away") as caught:
        Lease.acquire(path, clock=lambda: now[0])
    assert "60 s" in caught.value.hint
    now[0] += 2
    near = Lease.acquire(path, clock=lambda: now[0])
    with pytest.raises(WorkspaceError, match="taken over"):
        far.beat()
    far.release()
    near.beat()
    holder = read_lease(path)
    assert holder is not None and holder.lease_id == near.lease_id
    near.release()
    assert read_lease(path) is None


def test_a_sleeper_that_overwrites_the_lease_does_not_get_it_back(path: Path) -> None:
    now = [5000.0]
    far = Lease.acquire(path, clock=lambda: now[0], host="far-away")
    asleep = path.read_bytes()
    now[0] += 61
    near = Lease.acquire(path, clock=lambda: now[0])
    write_aside(path, asleep)
    with pytest.raises(WorkspaceError):
        far.beat()
    with pytest.raises(WorkspaceError):
        Lease.acquire(path, clock=lambda: now[0])
    near.beat()
    assert json.loads(path.read_text())["lease_id"] == near.lease_id
    near.release()


def test_a_lease_removed_under_its_driver_is_noticed(path: Path) -> None:
    lease = Lease.acquire(path)
    path.unlink()
    with pytest.raises(WorkspaceError, match="removed"):
        lease.beat()


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[1]", b'{"pid": 1}', b"\xff\0"])
def test_rubbish_holds_nothing(path: Path, rubbish: bytes) -> None:
    path.parent.mkdir(parents=True)
    for _ in range(2):
        path.write_bytes(rubbish)
        holder = read_lease(path)
        assert holder is not None and not holder.alive()
        Lease.acquire(path).release()


def test_old_heirs_are_swept(path: Path) -> None:
    for _ in range(2):
        process, _ = hold(path)
        process.kill()
        process.wait()
    (heir,) = path.parent.glob("*.next")
    Lease.acquire(path).release()
    assert [path.name for path in path.parent.iterdir()] == [heir.name]
    os.utime(heir, (0, 0))
    Lease.acquire(path).release()
    assert [path.name for path in path.parent.iterdir()] == []


DEAD = {
    "lease_id": "dead", "host": "?", "pid": 1, "process_started": 1, "boot": "?", "since": 0, "heartbeat": 0,
}  # fmt: skip


@pytest.mark.parametrize("before", [None, json.dumps(DEAD), "rubbish"], ids=["free", "dead", "rubbish"])
def test_of_eight_racing_processes_one_wins(tmp_path: Path, before: str | None) -> None:
    rounds = 30
    for number in range(rounds):
        (tmp_path / f"{number}").mkdir()
        if before is not None:
            (tmp_path / f"{number}" / "lease.json").write_text(before)
    words = [sys.executable, "-c", RACE, str(tmp_path), str(time.time() + 1.5), str(rounds)]
    racers = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    said = {racer.pid: json.loads(racer.stdout.readline()) for racer in racers if racer.stdout}
    for racer in racers:
        racer.communicate()
    for number in range(rounds):
        winners = [pid for pid, words in said.items() if words[number] == "won"]
        assert len(winners) == 1
        losers = [words[number] for words in said.values() if words[number] != "won"]
        assert all(re.search(rf"pid {winners[0]}\b", text) for text in losers)


def test_holds_never_overlap_though_holders_die(tmp_path: Path) -> None:
    path, log = tmp_path / "lease.json", tmp_path / "log"
    log.touch()
    words = [sys.executable, "-c", TURNS, str(path), str(log), "2.5"]
    for racer in [subprocess.Popen(words) for _ in range(8)]:
        racer.wait()
    turns = [line.split() for line in log.read_text().splitlines()]
    assert len(turns) > 40
    for enter, leave in zip(turns[::2], turns[1::2], strict=True):
        assert (enter[0], leave[0]) == ("enter", "leave") and enter[1] == leave[1]
