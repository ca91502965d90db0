"""The workers a driver has, wherever they run: who is there, why one left, what the site does about it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

from staffa.execution.lanes import whereabouts

SAMPLE, REDUCE = "sample", "reduce"


@dataclass(frozen=True)
class Member:
    """A worker process.

    Arguments:
    - `name`: as the dashboard shows it; `host` and `pid` name its process.
    - `node`: the machine by SLURM's name, else the host's.
    - `pool`, `job`: which pool it belongs to, and the SLURM job (`12_3`) it runs in.
    - `ends`: Unix time at which its job is cut off.
    - `device`: `CUDA_VISIBLE_DEVICES` of the process.
    """

    address: str
    name: str
    host: str
    pid: int
    node: str = ""
    pool: str = ""
    job: str = ""
    ends: float | None = None
    device: str | None = None


@dataclass(frozen=True)
class Departure:
    """Why a worker left.

    Arguments:
    - `reason`: for people.
    - `expected`: walltime, preemption, scancel, a drained node: nobody is to blame.
    - `certain`: its process died while its node lived on, so whatever was on the device is charged.
    """

    reason: str
    expected: bool = False
    certain: bool = True


@dataclass(frozen=True)
class Demand:
    """What there is to do, for whoever gets the workers.

    Arguments:
    - `batches`, `seals`: how many are waiting or in flight.
    - `busy`: names of the workers that have something in flight.
    - `spent`: names of the workers whose time left is too short for anything that waits.
    """

    batches: int = 0
    seals: int = 0
    busy: frozenset[str] = frozenset()
    spent: frozenset[str] = frozenset()


@dataclass
class Pool:
    """A Dask client and what the driver needs to know of its workers. This one's are there for good."""

    client: Client
    dashboard: str = ""
    cluster: Any = None
    _members: dict[str, Member] = field(default_factory=dict)

    def members(self) -> dict[str, Member]:
        """The workers that are there now, by address."""
        # Not `scheduler_info`: now and then the client asks for itself, without workers, and hands out that answer.
        workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        for gone in set(self._members) - set(workers):
            del self._members[gone]
        fresh = sorted(set(workers) - set(self._members))
        if fresh:
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = self.client.run(whereabouts, workers=fresh, on_error="ignore")
                for address, facts in found.items():
                    self._members[address] = Member(address, **{"name": str(workers[address]["name"]), **facts})
        return dict(self._members)

    def departure(self, member: Member, since: float) -> Departure | None:
        """Why a worker left `since` seconds ago; None while that is not known yet."""
        return Departure("the worker left")

    def turn(self, demand: Demand) -> list[dict[str, Any]]:
        """Told what there is to do, now and then; returns what happened meanwhile, as events."""
        return []

    def does(self, member: Member, kind: str) -> bool:
        """Whether a worker is there for `sample` or `reduce`, and is to get more of it."""
        return True

    def expects(self) -> bool:
        """Whether workers may still come by themselves: an empty pool is then no reason to give up."""
        return False

    def trouble(self) -> str:
        """Why no worker comes, if that is known."""
        return ""

    def scale(self, wanted: Mapping[str, int]) -> dict[str, Any]:
        """Have other numbers of workers from now on; answers what is wanted of each pool."""
        return {"done": False, "why": "these workers are not SLURM's: their number is fixed"}

    def facts(self) -> dict[str, Any]:
        """The pools in numbers and words, for `status` and `explain pool`."""
        return {}

    def keep(self) -> None:
        """Leave the workers where they are when this driver ends: another one follows."""
