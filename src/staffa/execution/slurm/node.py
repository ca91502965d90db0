"""What a job runs on each of its nodes: one worker process per GPU, kept alive.

Light on purpose (standard library only): it starts before anything of value. A worker that dies
is started again, one that lost its driver looks for the next, and neither ends the job. What
happened to a worker is written to `state/ended/`, where the driver learns who is to be charged.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from staffa.storage.files import write_aside
from staffa.storage.workspace import Workspace

DRIVER_GONE, NO_DRIVER, UNFIT = 75, 76, 78
"""Exit codes of a worker: the driver left; none came back in time; this node's software does not fit."""
GRACE_SECONDS = 10.0
"""The workers end so long before the job is cut off, and say so."""
QUICK_SECONDS = 20.0
QUICK_DEATHS = 5
"""A worker that dies within so many seconds, so many times in a row, is not started again."""
MEMORY_SHARE = 0.9
"""Of a GPU that several workers share, all together may take so much."""


@dataclass(frozen=True)
class Terms:
    """What the job script says of the workers."""

    root: Path
    name: str
    pool: str
    workers: int
    """Processes on this node."""
    gpus: int
    """GPUs the pool wants of each node."""
    workers_per_gpu: int
    threads: int
    memory: str
    reconnect: float
    """Seconds a worker looks for a driver before it gives up."""
    interface: str | None
    ends: float | None
    """Unix time at which the job is cut off."""


@dataclass
class Slot:
    """The place of one worker process: its device, and the process that has it now."""

    index: int
    device: str | None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    deaths: int = 0
    over: bool = False
    again: float = 0.0
    """When the next process may be started."""


def main(arguments: Sequence[str] | None = None) -> int:
    terms = _terms(arguments)
    try:
        devices = assigned(terms, os.environ)
    except ValueError as error:
        _say(str(error))
        return UNFIT
    return Node(terms, devices).run()


def assigned(terms: Terms, environ: Mapping[str, str]) -> list[str | None]:
    """The device of each worker on this node, out of those SLURM gave the job.

    Raises `ValueError` where SLURM gave other GPUs than the pool was to have.
    """
    if not terms.gpus:
        return [None] * terms.workers
    given = [device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    if len(given) != terms.gpus:
        raise ValueError(
            f"SLURM gave CUDA_VISIBLE_DEVICES={environ.get('CUDA_VISIBLE_DEVICES')!r} on {_node(environ)}, "
            f"cluster.pools.{terms.pool}.gpus wants {terms.gpus}"
        )
    return [device for device in given for _ in range(terms.workers_per_gpu)]


class Node:
    """The workers of one node of a job, until all of them are over or the job ends."""

    def __init__(self, terms: Terms, devices: Sequence[str | None]) -> None:
        self.terms = terms
        self.workspace = Workspace(terms.root)
        first = _rank(os.environ) * len(devices)
        self.slots = [Slot(first + number, device) for number, device in enumerate(devices)]
        self._ending = ""

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked_to_end)
        _say(f"{_node(os.environ)}: {len(self.slots)} workers, devices {[slot.device for slot in self.slots]}")
        while not self._ending and not all(slot.over for slot in self.slots):
            for slot in self.slots:
                self._attend(slot)
            if self.terms.ends is not None and time.time() > self.terms.ends - GRACE_SECONDS:
                self._ending = "walltime"
            time.sleep(0.1)
        if self._ending:
            self._end_workers()
            return 0
        return 1 if any(slot.deaths for slot in self.slots) else 0

    def _attend(self, slot: Slot) -> None:
        if slot.over:
            return
        if slot.process is None:
            if time.monotonic() >= slot.again:
                self._start(slot)
            return
        code = slot.process.poll()
        if code is not None:
            self._ended(slot, code)

    def _start(self, slot: Slot) -> None:
        slot.starts += 1
        slot.started = time.monotonic()
        command = [sys.executable, "-m", "staffa.execution.slurm.worker", str(self.terms.root)]
        command += ["--nthreads", str(self.terms.threads), "--memory-limit", self.terms.memory]
        command += ["--death-timeout", str(self.terms.reconnect)]
        if self.terms.interface:
            command += ["--interface", self.terms.interface]
        # Started by `exec`, never by a fork that goes on: JAX's threads would not survive it.
        slot.process = subprocess.Popen(command, env={**os.environ, **self.environment(slot)})

    def environment(self, slot: Slot) -> dict[str, str]:
        """What tells a worker who it is and which device is its own."""
        own = {
            "STAFFA_WORKER": self._name(slot),
            "STAFFA_POOL": self.terms.pool,
            "STAFFA_JOB": job_id(os.environ),
            "STAFFA_NODE": _node(os.environ),
            # What is not done before we end the workers is lost, whatever SLURM would still allow.
            "STAFFA_ENDS": "" if self.terms.ends is None else f"{self.terms.ends - GRACE_SECONDS:.0f}",
            "CUDA_VISIBLE_DEVICES": slot.device or "",
        }
        if slot.device is not None and self.terms.workers_per_gpu > 1:
            share = f"{MEMORY_SHARE / self.terms.workers_per_gpu:.3f}"
            own |= {"XLA_CLIENT_MEM_FRACTION": share, "XLA_PYTHON_CLIENT_MEM_FRACTION": share}
        return own

    def _ended(self, slot: Slot, code: int) -> None:
        lived = time.monotonic() - slot.started
        reason = _reason(code)
        _say(f"worker {self._name(slot)} ended: {reason} (code {code}) after {lived:.0f} s")
        self._record(slot, reason, code)
        slot.process = None
        slot.over = code in (NO_DRIVER, UNFIT)
        if code == UNFIT:
            slot.deaths += 1
        if reason == "crashed":
            slot.deaths = slot.deaths + 1 if lived < QUICK_SECONDS else 1
            slot.over = slot.over or slot.deaths >= QUICK_DEATHS
            slot.again = time.monotonic() + min(2.0 ** (slot.deaths - 1) - 1, 30.0)
        else:
            slot.deaths = 0 if not slot.over else slot.deaths

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:
        self._ending = self._ending or "terminated"

    def _end_workers(self) -> None:
        """Say why first: SLURM may not leave us time for anything else."""
        living = [slot for slot in self.slots if slot.process is not None]
        for slot in living:
            self._record(slot, self._ending, 0)
        for slot in living:
            assert slot.process is not None
            slot.process.kill()
        for slot in living:
            assert slot.process is not None
            slot.process.wait()

    def _record(self, slot: Slot, reason: str, code: int) -> None:
        if reason == "driver gone":
            return
        name = self._name(slot)
        record = {
            "worker": name,
            "job": job_id(os.environ),
            "pool": self.terms.pool,
            "node": _node(os.environ),
            "host": socket.gethostname(),
            "pid": slot.process.pid if slot.process is not None else 0,
            "reason": reason,
            "code": code,
            "at": time.time(),
        }
        path = self.workspace.worker_end(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_aside(path, json.dumps(record), sync=False)
        except OSError as error:  # a full disk: the driver then takes the worker for lost, which costs nobody a try
            _say(f"{path} could not be written: {error}")

    def _name(self, slot: Slot) -> str:
        again = f".{slot.starts}" if slot.starts > 1 else ""
        return f"{self.terms.name}-{slot.index}{again}"


def _reason(code: int) -> str:
    if code in (DRIVER_GONE, NO_DRIVER):
        return "driver gone"
    if code == UNFIT:
        return "unfit"
    if code == -signal.SIGTERM:
        return "terminated"  # SLURM signals every process of a job, and ours may be the last to notice
    return "closed" if code == 0 else "crashed"


def job_id(environ: Mapping[str, str]) -> str:
    """The job as squeue names it: `12_3` for a task of an array."""
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID", "")


def _node(environ: Mapping[str, str]) -> str:
    return environ.get("SLURMD_NODENAME") or socket.gethostname()


def _rank(environ: Mapping[str, str]) -> int:
    """Which of the job's nodes this is; a batch script without srun runs on the first."""
    return int(environ.get("SLURM_NODEID") or 0)


def _terms(arguments: Sequence[str] | None) -> Terms:
    parser = argparse.ArgumentParser(prog="staffa.execution.slurm.node", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--nthreads", type=int, default=8)
    parser.add_argument("--memory-limit", default="auto")
    parser.add_argument("--death-timeout", type=float, default=600.0)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--workers-per-gpu", type=int, default=1)
    parser.add_argument("--interface")
    parser.add_argument("--walltime", type=float)
    said = parser.parse_args(arguments)
    return Terms(
        said.root,
        said.name,
        said.pool,
        said.workers,
        said.gpus,
        said.workers_per_gpu,
        said.nthreads,
        said.memory_limit,
        said.death_timeout,
        said.interface,
        _ends(said.walltime, os.environ),
    )


def _ends(walltime: float | None, environ: Mapping[str, str]) -> float | None:
    """When SLURM will cut the job off: as it says itself (23.02 on), or counted from the script's first line."""
    if environ.get("SLURM_JOB_END_TIME", "").isdecimal():
        return float(environ["SLURM_JOB_END_TIME"])
    if walltime is None:
        return None
    started = environ.get("STAFFA_STARTED", "")
    return (float(started) if started.isdecimal() else time.time()) + walltime


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} staffa: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
