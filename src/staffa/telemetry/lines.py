"""Between events and the lines of a journal: recorded, parsed, brought to the present version."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from typing import Any

from staffa.telemetry import machines  # noqa: F401  (its events are among the leaves)
from staffa.telemetry.events import Event, Unknown

SCHEMA_VERSION = 2
VERSION = "schema_version"
"""The key under which a line says its version."""


def name_of(kind: type[Event]) -> str:
    """What an event is called in a journal: `batch_settled`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _leaves(above: type[Event]) -> Iterator[type[Event]]:
    below = above.__subclasses__()
    yield from (leaf for kind in below for leaf in _leaves(kind)) if below else iter([above])


EVENTS: Mapping[str, type[Event]] = {name_of(kind): kind for kind in _leaves(Event) if kind is not Unknown}
"""Every event by its name."""


def record(event: Event) -> dict[str, Any]:
    """An event as the ledger takes it; fields that say nothing but their default are left out."""
    name = event.event if isinstance(event, Unknown) else name_of(type(event))
    written: dict[str, Any] = {"event": name}
    for one in dataclasses.fields(event):
        value = getattr(event, one.name)
        if one.name not in ("more", "event") and value != _default(one):
            written[one.name] = value
    return written | dict(event.more)


def parse(event: Mapping[str, Any]) -> Event:
    """An event of the present version (see `upgrade`) as an object.

    Raises `ValueError` naming the fields that it lacks.
    """
    kind = EVENTS.get(event["event"])
    rest = {name: value for name, value in event.items() if name not in ("event", "at")}
    if kind is None:
        return Unknown(event=str(event["event"]), at=event.get("at", 0.0), more=rest)
    known = {one.name: one for one in dataclasses.fields(kind) if one.name != "more"}
    lacking = [name for name, one in known.items() if _default(one) is MISSING and name not in event]
    if lacking:
        raise ValueError(f"{event['event']} without {', '.join(lacking)}")
    said = {name: event[name] for name in known if name in event}
    return kind(**said, more={name: value for name, value in rest.items() if name not in known})


def _default(one: dataclasses.Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def stamped(event: Mapping[str, Any]) -> dict[str, Any]:
    """The event as a line says it: with its version."""
    return {**event, VERSION: SCHEMA_VERSION}


def upgrade(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a journal as an event of the present version, without the number.

    A line of a newer version stays as it is, number included. Never raises for what a line holds.
    """
    version = line.get(VERSION, 1)
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        return dict(line)
    event = {name: value for name, value in line.items() if name != VERSION}
    for step in range(version, SCHEMA_VERSION):
        event = _STEPS[step](event)
    return event


def _from_1(event: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no number, and grew fields without telling."""
    name = event.get("event")
    if name == "run_started":
        return {"run_id": run_id("run", str(event.get("driver", ""))), **event}
    if name == "worker_left":
        return {"certain": "vanished" not in str(event.get("reason", "")), **event}
    timings = event.get("timings")
    if isinstance(timings, Mapping) and "queue" in timings:
        event = {**event, "timings": {**timings, "queue": _alone(timings)}}
    return event


def _alone(timings: Mapping[str, Any]) -> Any:
    """The wait for the device, which was counted together with compiling in version 1."""
    queue, compiling = timings["queue"], timings.get("compile", 0.0)
    return max(queue - compiling, 0.0) if isinstance(queue, float) and isinstance(compiling, float) else queue


_STEPS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""From each version to the next."""


def run_id(prefix: str, driver: str) -> str:
    """A run's name, made of its lease (`20260102T030405-a1b2c3d4e5f6`): `walk-20260102-030405-a1b2c3`."""
    date, _, rest = driver.partition("T")
    clock, _, chance = rest.partition("-")
    if not chance:
        date, clock, chance = "00000000", "000000", hashlib.sha256(driver.encode()).hexdigest()
    return f"{prefix}-{date}-{clock}-{chance[:6]}"
