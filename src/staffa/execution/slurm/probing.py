"""One probe job for each pool, and a conversation with every node it lands on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from staffa.campaign.machine import ClusterConfig, JobShape, shapes
from staffa.errors import ClusterError
from staffa.execution.slurm.commands import Slurm, SlurmError, Task
from staffa.execution.slurm.probe import BEAT_SECONDS, CONNECT_SECONDS, Talk, answer_file, call_file
from staffa.execution.slurm.script import NODE, Launch, job_name, job_script
from staffa.storage.lease import BEAT_SECONDS as LEASE_SECONDS
from staffa.storage.lease import Lease, read_lease
from staffa.storage.workspace import Workspace

TITLE = "doctor"
FOLDER = ".doctor-"
PROBE = "staffa.execution.slurm.probe"
PROBE_SECONDS = 120.0
STAGED_SECONDS = 300.0
"""Time a probe job asks for; more where it first has to bring an environment to the node."""
ASK_SECONDS = 1.0, 10.0
"""First and longest wait between two questions to the queue."""
LAG_SECONDS = 5.0
"""What a node wrote last may come so long after its job's end."""
LEAVE_SECONDS = 15.0
"""How long cancelled jobs are waited for before their folder is removed."""

Tell = Callable[[str], None]


@dataclass
class Sight:
    """What is known of one node of a probe job.

    Arguments:
    - `facts`: what the probe says, see `staffa.execution.slurm.probe`.
    - `heard`: how its words came through.
    - `reached`: whether we got through to its port; None where it has none.
    - `ahead`: bounds of the seconds that its clock is ahead of ours.
    """

    rank: int
    talk: Talk
    facts: dict[str, Any] = field(default_factory=dict)
    reached: bool | None = None
    reach_error: str = ""
    ahead: tuple[float, float] = (-math.inf, math.inf)

    @property
    def done(self) -> bool:
        return bool(self.facts.get("done")) and self.called

    @property
    def called(self) -> bool:
        """Whether its port was tried, or cannot be."""
        return self.reached is not None or not self.facts.get("address")

    def close_in(self, low: float, high: float) -> None:
        self.ahead = max(self.ahead[0], low), min(self.ahead[1], high)


@dataclass
class Visit:
    """A pool's probe job.

    Arguments:
    - `refused`: why SLURM did not take it.
    - `state`, `reason`: as squeue had it last; empty when the job is no longer listed.
    - `waited`: seconds in the queue; None where it never ran.
    - `log`: the last lines of its log, where not every node answered.
    """

    pool: str
    sights: list[Sight]
    submitted: float = 0.0
    walltime: float = PROBE_SECONDS
    job: str = ""
    refused: SlurmError | None = None
    state: str = ""
    reason: str = ""
    waited: float | None = None
    over: float | None = None
    log: str = ""

    @property
    def done(self) -> bool:
        return self.refused is not None or all(sight.done for sight in self.sights)


def visits(
    machine: ClusterConfig,
    pools: Sequence[str],
    storage: Path,
    environment: Mapping[str, str],
    *,
    patience: float,
    tell: Tell,
    slurm: Slurm | None = None,
) -> list[Visit]:
    """Have a probe job of each of these pools look at its nodes. Nothing is left behind, however this ends.

    Arguments:
    - `storage`: the folder campaigns are kept in: all goes through a temporary folder in it.
    - `environment`: what workers have exported.
    - `patience`: seconds a job may wait in the queue.
    - `tell`: told what is being waited for.

    Raises `ClusterError` where the driver's side does not come up.
    """
    slurm = slurm or Slurm()
    with _terminable(), _folder(storage) as workspace, Lease.acquire(workspace.lease) as lease:
        # Heavy, and of use only here.
        from staffa.execution.slurm.served import served

        launch = Launch(workspace.root, TITLE, sys.executable, environment, CONNECT_SECONDS)
        names = {pool: job_name(launch, pool) for pool in pools}
        quiet = machine.model_copy(update={"dashboard": False})
        with served(workspace, quiet) as (client, _), _cleared(slurm, list(names.values()), tell):
            found = [_submitted(workspace, shapes(machine)[pool], launch, slurm) for pool in pools]
            vigil = _Vigil(workspace, found, names, slurm, lease, patience, tell)
            security = client.security
            while not vigil.over():
                _call_back([s for v in found for s in v.sights if not s.called], client, security)
                time.sleep(BEAT_SECONDS)
            vigil.last_words()
    return found


def _submitted(workspace: Workspace, shape: JobShape, launch: Launch, slurm: Slurm) -> Visit:
    short = min(shape.walltime, STAGED_SECONDS if shape.stage else PROBE_SECONDS)
    sights = []
    for rank in range(shape.nodes):
        sights.append(
            Sight(rank, Talk(call_file(workspace, shape.pool, rank), answer_file(workspace, shape.pool, rank)))
        )
        sights[-1].talk.say({})
    visit = Visit(shape.pool, sights, time.time(), short)
    try:
        number = slurm.submit(probe_script(dataclasses.replace(shape, walltime=short), launch), 1)
        visit.job = f"{number}_0"
    except SlurmError as error:
        visit.refused = error
    return visit


def probe_script(shape: JobShape, launch: Launch) -> str:
    """The pool's own script with the probe in the worker's place."""
    text = job_script(shape, launch)
    worker = f" -m {NODE} "
    if text.count(worker) != 1:
        raise ClusterError(f"the script of pool {shape.pool} does not start a worker just once", "this is a bug")
    return text.replace(worker, f" -m {PROBE} ")


class _Vigil:
    """Waits for all that can still come, and knows when nothing can."""

    def __init__(
        self,
        workspace: Workspace,
        visits: Sequence[Visit],
        names: Mapping[str, str],
        slurm: Slurm,
        lease: Lease,
        patience: float,
        tell: Tell,
    ) -> None:
        self._workspace, self._visits, self._names = workspace, visits, names
        self._slurm, self._lease, self._patience, self._tell = slurm, lease, patience, tell
        self._ask_at, self._wait = time.monotonic() + ASK_SECONDS[0], ASK_SECONDS[0]
        self._beat_at = 0.0
        self._told: dict[str, str] = {}

    def over(self) -> bool:
        """Hear and say one round; whether all has been said."""
        for visit in self._visits:
            for sight in visit.sights:
                _converse(sight)
            if visit.waited is None and any(sight.facts for sight in visit.sights):
                visit.waited = time.time() - visit.submitted
                self._say(visit, f"runs on {visit.sights[0].facts.get('node', '?')}")
        if time.monotonic() >= self._ask_at:
            self._ask()
        if time.monotonic() >= self._beat_at:
            self._lease.beat()
            self._beat_at = time.monotonic() + LEASE_SECONDS
        return all(visit.done or self._hopeless(visit) for visit in self._visits)

    def last_words(self) -> None:
        """Take up the logs of jobs that did not answer."""
        for visit in self._visits:
            if visit.refused is None and not visit.done and visit.job:
                visit.log = _tail(self._workspace.logs / f"{visit.pool}-{visit.job}.log")

    def _hopeless(self, visit: Visit) -> bool:
        now = time.time()
        if visit.over is not None:
            return now - visit.over > LAG_SECONDS
        if visit.waited is None and visit.state != "RUNNING":
            return now - visit.submitted > self._patience
        started = visit.submitted + (visit.waited or 0.0)
        return now - started > visit.walltime + LAG_SECONDS

    def _ask(self) -> None:
        """One question to the queue, for all jobs."""
        self._wait = min(self._wait * 1.5, ASK_SECONDS[1])
        self._ask_at = time.monotonic() + self._wait
        if all(visit.done for visit in self._visits):
            return
        try:
            listed = {task.name: task for task in self._slurm.tasks(list(self._names.values()))}
        except SlurmError as error:
            self._tell(f"the queue cannot be asked: {error.message}")
            return
        for visit in self._visits:
            self._note(visit, listed.get(self._names[visit.pool]))

    def _note(self, visit: Visit, task: Task | None) -> None:
        if visit.refused is not None or visit.over is not None:
            return
        if task is None or task.over:
            visit.over = time.time()
        if task is None:
            return
        visit.state, visit.reason = task.state, task.reason
        if visit.waited is None and task.state == "RUNNING":
            visit.waited = time.time() - visit.submitted
            self._say(visit, f"runs on {task.node}")
        elif task.waiting:
            self._say(visit, f"waits in the queue ({task.reason}), for {self._patience:.0f} s at most")

    def _say(self, visit: Visit, text: str) -> None:
        if self._told.get(visit.pool) != text:
            self._told[visit.pool] = text
            self._tell(f"pool {visit.pool}: probe job {visit.job} {text}")


def _converse(sight: Sight) -> None:
    """Say something new, and take up what the probe says."""
    heard = sight.talk.hear()
    if heard:
        heard.pop("padding", None)
        sight.facts = heard
        # The probe's words took their time to us, ours to it: both bound how far its clock is ahead.
        sight.close_in(-sight.talk.behind, math.inf)
        there = (heard.get("heard") or {}).get("behind")
        if there is not None:
            sight.close_in(-math.inf, there)
    with contextlib.suppress(OSError):  # no room on the disk: the probe then hears nothing, and says so
        sight.talk.say({"enough": sight.done})


def _call_back(sights: Sequence[Sight], client: Any, security: Any) -> None:
    """Knock at the ports of probes, all at once."""
    if not sights:
        return
    answers = client.sync(_reach_all, [sight.facts["address"] for sight in sights], security)
    for sight, answer in zip(sights, answers, strict=True):
        if isinstance(answer, str):
            sight.reached, sight.reach_error = False, answer
        else:
            before, there, after = answer
            sight.reached = True
            sight.close_in(there - after, there - before)


async def _reach_all(addresses: Sequence[str], security: Any) -> list[tuple[float, float, float] | str]:
    import asyncio

    return await asyncio.gather(*(_reach(address, security) for address in addresses))


async def _reach(address: str, security: Any) -> tuple[float, float, float] | str:
    """Our clock, the probe's, our clock; or why there was no answer."""
    import asyncio

    from distributed.core import rpc

    try:
        async with rpc(
            address, connection_args=security.get_connection_args("scheduler"), timeout=CONNECT_SECONDS
        ) as probe:
            before = time.time()
            there = await asyncio.wait_for(probe.clock(), CONNECT_SECONDS + 1)
            return before, float(there), time.time()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())


# --- coming and going ------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder(storage: Path) -> Iterator[Workspace]:
    """A folder as a campaign has one, and all of it gone in the end. Earlier doctors' leftovers go, too."""
    made = [folder for folder in (storage, *storage.parents) if not folder.exists()]
    root = storage / f"{FOLDER}{os.urandom(3).hex()}"
    try:
        workspace = Workspace.create(root)
        for old in storage.glob(f"{FOLDER}*/"):
            if old != root and not _inhabited(Workspace(old)):
                shutil.rmtree(old, ignore_errors=True)
        yield workspace
    finally:
        shutil.rmtree(root, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _inhabited(workspace: Workspace) -> bool:
    """Whether another doctor may be at work there: it holds the lease, or is about to."""
    holder = read_lease(workspace.lease)
    if holder is not None:
        return holder.alive()
    with contextlib.suppress(OSError):
        return time.time() - workspace.root.stat().st_mtime < 60
    return True


@contextlib.contextmanager
def _cleared(slurm: Slurm, names: Sequence[str], tell: Tell) -> Iterator[None]:
    """Cancel what was handed in under these names, by whatever way we leave."""
    try:
        yield
    finally:
        until, cancelled = time.monotonic() + LEAVE_SECONDS, False
        while time.monotonic() < until:
            try:
                # Asked by name: a submission cut short may have left a job whose number nobody knows.
                left = [task.id for task in slurm.tasks(names) if not task.over]
                if left and not cancelled:
                    slurm.cancel(left)
                    cancelled = True
            except SlurmError as error:
                tell(f"probe jobs may be left: {error.message}; then: staffa cluster reap")
                break
            if not left:
                break
            time.sleep(0.5)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Leave on SIGTERM and SIGHUP as on Ctrl-C, whatever a library made of that: through the doors."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tail(path: Path, lines: int = 8) -> str:
    try:
        return "\n".join(path.read_bytes()[-4096:].decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
