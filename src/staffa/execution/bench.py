"""A worker process's view of one campaign: its plan, stores and programs, and the order it was given."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from staffa.campaign.plan import Group, Plan
from staffa.errors import StaffaError
from staffa.execution.marks import StartMark
from staffa.experiment.batch import Performer, choose_width
from staffa.experiment.perform import Program, Programs, Spec, device_dtype
from staffa.experiment.protocol import Schema
from staffa.storage.files import read_json, write_aside
from staffa.storage.hot import HotStore
from staffa.storage.workspace import Workspace
from staffa.trial import canonical


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
        if self.plan.width != "auto":
            return min(int(self.plan.width), group.batch)
        remembered = read_json(self._width_file(group))
        if isinstance(remembered, dict) and group.batch % remembered.get("width", group.batch + 1) == 0:
            return int(remembered["width"])
        sizes = {
            output.name: 2 if output.dtype == "bfloat16" else np.dtype(output.dtype).itemsize
            for output in group.outputs
        }
        return choose_width(group.batch, self.schema(group), self.plan.sampling.segment_draws, sizes)

    def remember_width(self, group: Group, width: int) -> None:
        write_aside(self._width_file(group), json.dumps({"width": width, "device": device_kind()}))

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
        name = f"width-{device_kind()}-{group.batch}-{abs(hash_text(canonical([group.experiment, group.static])))}"
        return self.workspace.state / f"{name.replace(' ', '_')}.json"


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


def hash_text(text: str) -> int:
    return zlib.crc32(text.encode())
