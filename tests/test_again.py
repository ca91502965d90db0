"""The second chance of tests that fail beside others: for a few, once, and never in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import again

ONCE = """
from pathlib import Path

def test_right(): pass

def test_late(tmp_path_factory):
    "Fails the first time, as on a busy machine."
    seen = Path(__file__).with_name("seen")
    there = seen.exists()
    seen.touch()
    assert there
"""
WRONG = "\ndef test_wrong(): assert False\n"
MANY = "".join(f"\ndef test_wrong_{number}(): assert False\n" for number in range(again.LIMIT))


@pytest.mark.parametrize(
    ("tests", "code", "runs", "words"),
    [
        (ONCE, 0, 2, ["1 failed beside others", "PASSED ON A QUIET MACHINE ONLY:\n  test_it.py::test_late\n"]),
        (ONCE + WRONG, 1, 2, ["FAILED AGAIN, of these:\n  test_it.py::test_late\n  test_it.py::test_wrong\n"]),
        (ONCE + MANY, 1, 1, []),
        (ONCE + "\nimport nowhere_at_all\n", 2, 1, ["No module named 'nowhere_at_all'"]),
    ],
    ids=["once", "one of them again", "too many", "not collected"],
)
def test_a_second_chance(tmp_path: Path, tests: str, code: int, runs: int, words: list[str]) -> None:
    # No plug-in is needed, and looking for them takes most of the time.
    done = run_in(tmp_path, tests, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == code, done.stdout
    assert done.stdout.count("test session starts") == runs
    assert all(text in done.stdout for text in words), done.stdout
    assert ("beside others" in done.stdout) == (runs == 2)


@pytest.mark.soak
def test_beside_others(tmp_path: Path) -> None:
    """As `make test` has it; a test whose process dies is one that failed."""
    dies = ONCE.replace("assert there", "assert there or __import__('os')._exit(3)")
    done = run_in(tmp_path, dies, "--numprocesses", "2", "--dist", "worksteal")
    assert done.returncode == 0 and "crashed while running" in done.stdout
    assert "PASSED ON A QUIET MACHINE ONLY:\n  test_it.py::test_late\n" in done.stdout


def run_in(folder: Path, tests: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(tests)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, again.__file__, *words]
    return subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False)
