"""The file a search outlives its process in."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys

import pytest

from staffa.errors import WorkspaceError
from staffa.search.journal import Journal


def test_what_was_appended_is_read_again_and_infinities_are_text(tmp_path):
    path = tmp_path / "deep" / "j"
    with Journal.open(path) as journal:
        journal.append({"event": "told", "values": {"a": math.inf, "b": -math.inf, "c": None, "d": 0.1 + 0.2}})
        journal.append({"event": "asked", "params": [{"mass": "ünit\n"}]})
        assert [event["event"] for event in journal.read()] == ["told", "asked"]
    lines = path.read_text().splitlines()
    assert json.loads(lines[0], parse_constant=pytest.fail)["values"]["d"] == 0.1 + 0.2
    with Journal.open(path) as again:
        told, asked = again.read()
        assert float(told["values"]["a"]) == math.inf and float(told["values"]["b"]) == -math.inf
        assert asked["params"] == [{"mass": "ünit\n"}]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"event":"told","trial":3}', b"\n\n"])
def test_a_torn_line_is_passed_over_and_never_becomes_a_fact(tmp_path, torn):
    path = tmp_path / "j"
    with Journal.open(path) as journal:
        journal.append({"event": "a"})
    with path.open("ab") as file:
        file.write(torn)
    for name in ("b", "c"):
        with Journal.open(path) as journal:
            journal.append({"event": name})
    with Journal.open(path) as journal:
        assert [event["event"] for event in journal.read()] == ["a", "b", "c"]
        assert journal.rubbish == len([line for line in path.read_bytes().split(b"\n")[:-1] if line[-1:] != b"}"])
        assert [line for _, line in journal.lines(0)] == [b'{"event":"a"}', b'{"event":"b"}', b'{"event":"c"}']


def test_cursors(tmp_path, monkeypatch):
    monkeypatch.setattr("staffa.search.journal.CHUNK", 64)
    with Journal.open(tmp_path / "j") as journal:
        for number in range(40):
            journal.append({"event": "told", "trial": number, "text": "x" * (7 * number % 150)})
        whole = list(journal.lines(0))
        assert [json.loads(line)["trial"] for _, line in whole] == list(range(40)) and whole[-1][0] == journal.size
        assert [event["trial"] for event in journal.read()] == list(range(40))
        for at, (cursor, _) in enumerate(whole):
            assert list(journal.lines(cursor)) == whole[at + 1 :]
            assert list(journal.lines(cursor - 1)) == whole[at + 1 :], "in the midst of a line: from the next one"
        assert list(journal.lines(10**9)) == []


def test_a_second_process_is_refused(tmp_path):
    path = tmp_path / "j"
    code = "import sys, pathlib; from staffa.search.journal import Journal; Journal.open(pathlib.Path(sys.argv[1]))"
    with Journal.open(path):
        with pytest.raises(WorkspaceError, match="is held by another process"):
            Journal.open(path)
        said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        assert said.returncode == 1 and "one server, or one driver, at a time" in said.stderr
    subprocess.run([sys.executable, "-c", code, path], check=True)


def test_a_full_disk_leaves_a_sound_journal(tmp_path):
    """A file that may grow no further: the real thing, without a disk to fill."""
    path, before = tmp_path / "j", resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(path) as journal:
        journal.append({"event": "a"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + 5, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                journal.append({"event": "b", "text": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.stat().st_size == journal.size
        journal.append({"event": "b"})
        assert [event["event"] for event in journal.read()] == ["a", "b"] and journal.rubbish == 1
