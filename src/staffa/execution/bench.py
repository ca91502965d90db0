"""A worker process's view of one campaign: its plan, stores and programs, and the order it was given."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from staffa.campaign.plan import Group, Plan
from staffa.errors import StaffaError
from staffa.execution.marks import StartMark
from staffa.experiment.batch import OutOfMemory, Performer, choose_width, memory_errors
from staffa.experiment.environment import compile_cache
from staffa.experiment.perform import Program, Programs, Spec, device_dtype
from staffa.experiment.protocol import Experiment, Sampling, Schema
from staffa.storage.files import read_json, write_aside
from staffa.storage.hot import HotStore
from staffa.storage.workspace import Workspace
from staffa.trial import canonical

SAFETY = 0.75
"""Share of the device's memory that may be taken: what the allocator cannot use, and whatever else is on the device,
stands beside it."""


@dataclass(frozen=True)
class Order:
    """One issue of a batch."""

    root: str
    plan: str
    """Digest of the plan: a worker never serves a stale one."""
    generation: int
    """Of the plan; the group may be of an earlier one."""
    group: int
    batch: int
    attempt: int = 1
    lanes: tuple[int, ...] | None = None
    """Lanes to compute; None for all that have no data yet."""
    leave_out: tuple[tuple[int, int, str], ...] = ()
    """Lanes not to be tried, each with the outcome and message to record."""
    suspects: tuple[int, ...] = ()
    """Lanes that were on the device when a process died: tried in small pieces first."""
    issue: int = 1
    """How often this run has issued the batch. A task is never called like an earlier one: Dask may
    still hold that one's fate, and would take it for the new one's."""
    begin: float = 0.0
    segment: float = 0.0
    """Seconds the batch's beginning and one of its segments are expected to take; 0 where unknown."""
    telemetry: bool = True
    """Whether the receipt tells of memory."""
    logs: str = "none"
    """Whose prints are kept: `none`, `failed` or `all`."""

    @property
    def batch_id(self) -> str:
        return f"g{self.group}/{self.batch}"

    @property
    def tag(self) -> str:
        again = f".{self.issue}" if self.issue > 1 else ""
        return f"g{self.group}-b{self.batch}-a{self.attempt}{again}"


class Bench:
    """A worker process's view of one campaign: plan, stores, programs."""

    def __init__(self, root: str, digest: str, generation: int) -> None:
        self.workspace = Workspace.open(root)
        self.plan = Plan.loads(self.workspace.plan(generation).read_text())
        self.digest = digest
        self._stores: dict[int, HotStore] = {}
        self._widths: dict[Path, int] = {}
        self._lock = threading.Lock()

    def group(self, number: int) -> Group:
        return self.plan.groups[number]

    def store(self, number: int) -> HotStore:
        with self._lock:
            if number not in self._stores:
                group = self.group(number)
                self._stores[number] = HotStore.open(self.workspace.group(group.generation, group.name))
            return self._stores[number]

    def spec(self, group: Group) -> Spec:
        return spec_of(self.plan, group)

    def schema(self, group: Group) -> Schema:
        return Schema(group.outputs, group.coords, group.state_bytes)

    def program(self, group: Group, width: int) -> Program:
        return programs().get(self.spec(group), group.experiment, width, self.workspace.code)

    def width(self, group: Group) -> int:
        """Lanes of one call: as asked for, or as many as the device has room for.

        Where nobody asks, the program is compiled at the width that shapes suggest, and at narrower ones until
        what the compiler says it takes is `SAFETY` of the device at most. What was found, or is left after the
        device ran out of memory, is kept beside the compiled programs: no later process, and no other
        campaign of the same program on such a device, has to find it again.
        """
        if self.plan.width != "auto":
            return min(int(self.plan.width), group.batch)
        file = self._width_file(group)
        if file not in self._widths:
            kept = read_json(file)
            known = kept.get("width") if isinstance(kept, dict) else None
            fits = isinstance(known, int) and known > 0 and group.batch % known == 0
            self._widths[file] = int(known) if fits else self._fitted(group)  # type: ignore[arg-type]
        return self._widths[file]

    def remember_width(self, group: Group, width: int) -> None:
        file = self._width_file(group)
        self._widths[file] = width
        kept = {"width": width, "device": device_kind(), "memory": device_memory(), "sampler": group.sampler}
        # A cache: whoever cannot write it finds the width again.
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_aside(file, json.dumps(kept), sync=False)

    def _fitted(self, group: Group) -> int:
        draws, lanes = self.plan.sampling.segment_draws, self._experiment(group).cpu_lanes
        first = width = choose_width(group.batch, self.schema(group), draws, lanes)
        limit = device_memory()
        while limit is not None and width > 1:
            # Between two segments the states of the batch's other slices stay on the device.
            room = SAFETY * limit - (group.batch - width) * group.state_bytes
            taken = self._taken(group, width)
            if taken is None or taken <= room:
                break
            most = min(width - 1, max(int(width * room / taken), 1))
            width = max(lanes for lanes in range(1, most + 1) if group.batch % lanes == 0)
        if width < first:
            self.remember_width(group, width)
        return width

    def _experiment(self, group: Group) -> Experiment:
        return programs().experiment(self.spec(group), group.experiment, self.workspace.code)

    def _taken(self, group: Group, width: int) -> float | None:
        """Bytes that a call of so many lanes takes; infinity if it cannot even be compiled, None if nobody knows."""
        program = self.program(group, width)
        try:
            with bench_errors(), memory_errors(width):
                return program.memory(*phases(self.plan.sampling))
        except OutOfMemory:
            return float("inf")

    def performer(self, order: Order) -> Performer:
        group = self.group(order.group)

        @contextlib.contextmanager
        def guard(lanes: list[int]) -> Iterator[None]:
            limit = self.plan.timeout
            if limit is not None and group.vectorize == "map":
                limit *= len(lanes)  # lanes in turn: the limit is a trial's, not a call's
            with start_mark(order.root).on(order.batch_id, order.attempt, lanes, limit):
                yield

        return Performer(
            lambda width: self.program(group, width),
            self.schema(group),
            guard,
            lambda width: self.remember_width(group, width),
        )

    def _width_file(self, group: Group) -> Path:
        facts = [asdict(self.spec(group)), group.batch, device_kind(), device_memory()]
        name = hashlib.sha256(canonical(facts).encode()).hexdigest()[:24]
        return compile_cache() / "widths" / f"{name}.json"


def phases(sampling: Sampling) -> list[str]:
    """The functions of a program that a batch calls."""
    return ["initialize", *["adapt"] * bool(sampling.warmup), *["discard"] * bool(sampling.discard), "sample"]


def spec_of(plan: Plan, group: Group) -> Spec:
    """The program of a group, but for its width."""
    return Spec(
        experiment=canonical(group.experiment),
        code=plan.code,
        static=tuple(sorted(group.static.items())),
        traced=tuple(
            (name, device_dtype(kind, plan.x64) if kind != "str" else kind)
            for name, kind in sorted(group.traced.items())
        ),
        sampling=plan.sampling,
        x64=plan.x64,
        prng=plan.prng,
        vectorize=group.vectorize,
    )


@contextlib.contextmanager
def bench_errors() -> Iterator[None]:
    """Our own errors cross the wire as text: they carry no references to local objects."""
    try:
        yield
    except StaffaError as error:
        raise type(error)(error.message, error.hint) from None


def bench_of(order: Order) -> Bench:
    return _bench(order.root, order.plan, order.generation)


@functools.lru_cache(maxsize=8)
def _bench(root: str, digest: str, generation: int) -> Bench:
    return Bench(root, digest, generation)


@functools.lru_cache(maxsize=1)
def programs() -> Programs:
    """This process's compiled programs."""
    return Programs()


@functools.lru_cache(maxsize=8)
def start_mark(root: str) -> StartMark:
    """This process's start mark in a workspace."""
    return StartMark(Workspace(Path(root)).start_mark(mark_name(socket.gethostname(), os.getpid())))


def mark_name(host: str, pid: int) -> str:
    """A worker process's name in `state/`."""
    return f"{host}-{pid}"


@functools.lru_cache(maxsize=1)
def device_kind() -> str:
    import jax

    return str(jax.local_devices()[0].device_kind)


def device_memory() -> int | None:
    """Bytes that this process may take of its device: of a CPU what its worker is allowed; None: not known."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        limit = get_worker().memory_manager.memory_limit
        return int(limit) if limit else None
    return None
