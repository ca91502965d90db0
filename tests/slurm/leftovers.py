"""Which processes belong to a machine, and how to be rid of them; run as a program, once its maker is gone.

Job processes and slurmstepd detach from every parent, so they are known by what they hold on to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "STAFFA_SLURM_MACHINE"
"""The variable that a machine's daemons carry: its folder."""

PATIENCE = 240.0
"""Seconds that anything may take on a machine that has much else to do."""


def belonging(folder: Path, node: str | None = None) -> Iterator[int]:
    """Pids of the machine in `folder`: of its daemons and jobs, or of the jobs on one node alone."""
    for entry in Path("/proc").glob("[0-9]*"):
        # A process may be gone before it is looked at.
        with contextlib.suppress(OSError):
            found = _is_job(entry, folder, node) or _is_step(entry, folder, node)
            if found or (node is None and _variables(entry).get(MARK) == str(folder)):
                yield int(entry.name)


def _variables(entry: Path) -> dict[str, str]:
    words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def _is_job(entry: Path, folder: Path, node: str | None) -> bool:
    variables = _variables(entry)
    here = variables.get("SLURM_CONF") == f"{folder}/etc/slurm.conf" and "SLURM_JOB_ID" in variables
    return here and node in (None, variables.get("SLURMD_NODENAME"))


def _is_step(entry: Path, folder: Path, node: str | None) -> bool:
    # slurmstepd writes over its environment, but keeps its node's log open.
    if not (entry / "exe").readlink().name.startswith("slurmstepd"):
        return False
    files = [link.readlink() for link in (entry / "fd").iterdir()]
    return any(file.parent == folder / "log" and node in (None, file.stem) for file in files)


def end(folder: Path, node: str | None = None) -> None:
    """Kill all that belongs to the machine (the jobs of one node), until nothing does."""
    deadline = time.monotonic() + PATIENCE
    while pids := [pid for pid in belonging(folder, node) if not _gone(pid)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {pids} of {folder} do not die")
        time.sleep(0.05)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def watchdog(folder: Path) -> subprocess.Popen[bytes]:
    """A process that ends the machine when this process is no more, however it went."""
    return subprocess.Popen([sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True)


def guard(folder: Path) -> None:
    """Wait for the other end of stdin to go, then clear up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
