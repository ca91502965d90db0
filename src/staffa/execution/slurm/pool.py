"""Workers as SLURM jobs, behind the pool that the runner sees."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from distributed import Client

from staffa.campaign.machine import ClusterConfig, JobShape, shapes
from staffa.errors import near
from staffa.execution.pool import REDUCE, SAMPLE, Demand, Departure, Member, Pool
from staffa.execution.slurm.commands import Slurm
from staffa.execution.slurm.departures import departure
from staffa.execution.slurm.keeper import Keeper, Seen
from staffa.execution.slurm.script import Launch, job_name, job_script
from staffa.execution.slurm.served import served
from staffa.storage.workspace import Workspace

TAIL_BYTES = 4096


@contextlib.contextmanager
def slurm_pool(
    workspace: Workspace,
    title: str,
    machine: ClusterConfig,
    environment: Mapping[str, str],
    batches: int,
    *,
    slurm: Slurm | None = None,
) -> Iterator[SlurmPool]:
    """The pools a cluster config declares, kept at the wanted size while there is work.

    The jobs are handed in first, so that they start while the rest is made ready. Leaving cancels
    them, unless `keep` was said.

    Arguments:
    - `batches`: how many are to be done, as far as is known yet; for none no job is handed in.

    Raises `Refused` in SLURM's own words where it takes none of the jobs.
    """
    keeper = _keeper(workspace, title, machine, environment, slurm or Slurm())
    if batches:
        keeper.look({name: batches for name, pool in machine.pools.items() if SAMPLE in pool.work}, ())
    keeper.step()
    pool: SlurmPool | None = None
    thread = _Stepping(keeper)
    try:
        with served(workspace, machine) as (client, cluster):
            link = cluster.dashboard_link if machine.dashboard else ""
            pool = SlurmPool(client, link, cluster, workspace, keeper, shapes(machine), thread)
            thread.start()
            try:
                yield pool
            finally:
                thread.end()
    finally:
        left = keeper.close(cancel=pool is None or not pool.kept)
        if left:
            logging.getLogger("staffa").warning(
                "jobs may be left in the queue: %s\n  staffa cluster reap %s", left, workspace.root
            )


class SlurmPool(Pool):
    """A scheduler's client, and the keeper of the jobs that its workers run in."""

    def __init__(
        self,
        client: Client,
        dashboard: str,
        cluster: Any,
        workspace: Workspace,
        keeper: Keeper,
        shapes: Mapping[str, JobShape],
        thread: _Stepping,
    ) -> None:
        super().__init__(client, dashboard, cluster)
        self.workspace, self.keeper, self.shapes = workspace, keeper, shapes
        self._thread = thread
        self.kept = False
        self._joined: dict[str, float] = {}
        self._leaving: set[str] = set()
        self._facts = keeper.facts()

    def departure(self, member: Member, since: float) -> Departure | None:
        return departure(self.workspace, member, since)

    def turn(self, demand: Demand) -> list[dict[str, Any]]:
        if self._thread.error is not None:
            raise self._thread.error
        now = time.time()
        members = {m.name: m for m in self._members.values() if m.job}
        self._joined = {name: self._joined.get(name, now) for name in members}
        seen = [
            Seen(name, member.job, member.pool, name in demand.busy, self._joined[name])
            for name, member in members.items()
        ]
        self._leaving = self.keeper.leaving()  # before the look: what is busy is counted after nothing more was given
        self.keeper.look(self._needed(demand), seen, spent={members[n].job for n in demand.spent if n in members})
        self._facts = self.keeper.facts()
        return self.keeper.news()

    def does(self, member: Member, kind: str) -> bool:
        shape = self.shapes.get(member.pool)
        return shape is not None and kind in self._work(shape) and member.job not in self._leaving

    def expects(self) -> bool:
        return any(not facts["paused"] for facts in self._facts.values())

    def trouble(self) -> str:
        return "; ".join(f"pool {name}: {facts['paused']}" for name, facts in self._facts.items() if facts["paused"])

    def scale(self, wanted: Mapping[str, int]) -> dict[str, Any]:
        for name, workers in wanted.items():
            if name not in self.shapes:
                return {"done": False, "why": f"no pool is called {name!r}; {near(name, self.shapes)}"}
            if not isinstance(workers, int) or workers < 0:
                return {"done": False, "why": f"{name}={workers!r}: a number of workers is 0 or more"}
        for name, workers in wanted.items():
            self.keeper.scale(name, workers)
        return {"done": True, "workers": dict(self.keeper.wanted)}

    def facts(self) -> dict[str, Any]:
        return self._facts

    def keep(self) -> None:
        self.kept = True

    def _needed(self, demand: Demand) -> dict[str, int]:
        """Workers that would have something to do, in each pool."""
        needed = {}
        for name, shape in self.shapes.items():
            work = self._work(shape)
            needed[name] = demand.batches * (SAMPLE in work) + demand.seals * (REDUCE in work)
        return needed

    def _work(self, shape: JobShape) -> tuple[str, ...]:
        """What a pool does; where none is there for reducing, those that sample do that, too."""
        alone = not any(REDUCE in other.work for other in self.shapes.values())
        return (*shape.work, REDUCE) if alone else shape.work


class _Stepping(threading.Thread):
    """Has the keeper do what is due: SLURM's commands may take seconds, and the driver must not wait for them."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__(name="staffa-keeper", daemon=True)
        self._keeper = keeper
        self._over = threading.Event()
        self.error: Exception | None = None
        """What ended it before its time; the driver raises it."""

    def run(self) -> None:
        try:
            while not self._over.is_set():
                wait = self._keeper.step()
                self._over.wait(min(max(wait, 0.05), 0.5))
        except Exception as error:
            self.error = error

    def end(self) -> None:
        self._over.set()
        self.join(timeout=90)


def launch_of(workspace: Workspace, title: str, machine: ClusterConfig, environment: Mapping[str, str]) -> Launch:
    """What all job scripts of a campaign share."""
    return Launch(workspace.root, title, sys.executable, environment, machine.reconnect)


def _keeper(
    workspace: Workspace, title: str, machine: ClusterConfig, environment: Mapping[str, str], slurm: Slurm
) -> Keeper:
    launch, found = launch_of(workspace, title, machine, environment), shapes(machine)
    workspace.logs.mkdir(parents=True, exist_ok=True)

    def last_words(pool: str, job: str) -> str:
        try:
            data = (workspace.logs / f"{pool}-{job}.log").read_bytes()[-TAIL_BYTES:]
        except OSError:
            return ""
        return "\n".join(data.decode(errors="replace").splitlines()[-8:])

    return Keeper(
        slurm,
        found,
        lambda pool: job_script(found[pool], launch),
        {name: job_name(launch, name) for name in found},
        machine,
        clock=time.time,
        chance=random.Random(f"{socket.gethostname()} {time.time()}"),
        log_tail=last_words,
        max_array=slurm.limits().max_array,
    )
