"""Start marks and time limits: with real processes, really killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.execution.marks import Started, StartMark, read_mark
from staffa.storage.spans import spans, unspan

HEAD = """
import sys, time
from pathlib import Path
from staffa.execution.marks import StartMark
mark = StartMark(Path(sys.argv[1]))
def say(word): print(word, flush=True)
"""


def script(path: Path, body: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HEAD + body, str(path)], stdout=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


# ---- who was on the device


def test_a_process_killed_on_the_device_leaves_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "state" / "node-1.mark"
    lanes = [*range(256), 300]
    process = script(
        path,
        f"with mark.on('g0/3', 2, [1], None): pass\nwith mark.on('g0/4', 2, {lanes}, 60): say('on'); time.sleep(60)",
    )
    assert heard(process) == "on"
    assert read_mark(path) == Started("g0/4", 2, tuple(lanes), False)  # readable while it lives, too
    killed(process)
    assert read_mark(path) == Started("g0/4", 2, tuple(lanes), False)


def test_a_process_killed_elsewhere_accuses_nobody(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    body = "with mark.on('g0/4', 2, range(256), None): pass\n"
    body += "try:\n    with mark.on('g0/5', 1, range(256), None): 1 / 0\n"
    body += "except ZeroDivisionError: say('off')\ntime.sleep(60)"
    process = script(path, body)
    assert heard(process) == "off"
    killed(process)
    assert path.exists() and read_mark(path) is None


KILLS = """
import os, random, signal
LANES = [range(256), range(0, 1000, 2), [7]]
folder, whole = Path(sys.argv[1]), 0
for number in range(60):
    path = folder / str(number)
    child = os.fork()
    if not child:
        mark = StartMark(path)
        for n in range(10**9):
            with mark.on("g0/1", n, LANES[n % 3], None): sum(range(20000))
    time.sleep(random.Random(number).uniform(0.002, 0.01))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = read_mark(path)
    if found is not None:
        assert found.lanes == tuple(LANES[found.attempt % 3]), found
        whole += 1
say(whole)
"""


def test_a_mark_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Processes killed at any moment while they write as fast as they can."""
    tmp_path.joinpath("marks").mkdir()
    process = script(tmp_path / "marks", "from staffa.execution.marks import read_mark" + KILLS)
    assert int(heard(process)) >= 10
    killed(process)


def test_no_mark_no_accusation(tmp_path: Path) -> None:
    assert read_mark(tmp_path / "none") is None
    for text in ("", "   ", "{", "[]", "{}", '"g0/1"'):
        (tmp_path / "odd").write_text(text)
        assert read_mark(tmp_path / "odd") is None


def test_a_mark_comes_back_after_the_folder_was_swept(tmp_path: Path) -> None:
    """Between two runs of a client's own workers, `state/` is cleared under a process that lives on."""
    mark = StartMark(tmp_path / "state" / "mark")
    with mark.on("g0/0", 1, [0], None):
        pass
    shutil.rmtree(tmp_path / "state")
    with mark.on("g0/1", 1, [2, 3], None):
        assert read_mark(mark.path) == Started("g0/1", 1, (2, 3), False)
    assert read_mark(mark.path) is None


# ---- time limits


def test_the_watchdog_kills_a_hanging_process_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    process = script(path, "with mark.on('g1/7', 3, range(8), 0.3): say('on'); time.sleep(3600)")
    assert heard(process) == "on"
    assert process.wait(timeout=240) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
    assert read_mark(path) == Started("g1/7", 3, tuple(range(8)), True)


def test_the_limit_is_for_each_call_and_ends_with_it(tmp_path: Path) -> None:
    body = "for n in range(6):\n    with mark.on('g0/0', 1, [n], 2.0): time.sleep(0.5)\n"  # 3 s in all
    body += "with mark.on('g0/0', 1, [9], None): time.sleep(2.5)\n"  # no limit
    body += "time.sleep(2.5)\nsay('alive')"
    process = script(tmp_path / "mark", body)
    assert heard(process) == "alive" and process.wait(timeout=240) == 0
    assert process.stdout is not None
    process.stdout.close()
    assert read_mark(tmp_path / "mark") is None


def test_a_mark_that_is_blanked_in_the_last_moment_does_not_hide_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog decided: the computation that ends right then must wait, not blank the mark."""
    seen: list[Started | None] = []
    late, over = threading.Event(), threading.Event()
    mark = StartMark(tmp_path / "mark")

    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        late.set()
        time.sleep(0.3)  # the computation ends now
        seen.append(read_mark(mark.path))
        over.set()

    monkeypatch.setattr(os, "kill", kill)
    with mark.on("g0/0", 1, [4], 0.05):
        assert late.wait(240)
    assert over.wait(240)
    assert seen == [Started("g0/0", 1, (4,), True)]


# ---- lanes as text


@given(st.sets(st.integers(0, 5000)))
def test_spans_round_trip(lanes: set[int]) -> None:
    assert unspan(spans(sorted(lanes, reverse=True))) == sorted(lanes)


@given(st.integers(0, 1000), st.integers(1, 5000))
def test_runs_are_short(first: int, count: int) -> None:
    assert spans(range(first, first + count)) == (f"{first}-{first + count - 1}" if count > 1 else str(first))
    assert spans([]) == "" and unspan("") == [] and unspan("0-2,9") == [0, 1, 2, 9]
