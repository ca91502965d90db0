"""Trackers: whoever follows runs elsewhere, such as MLflow. Each lives in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from staffa.errors import PluginError
from staffa.execution.aside import FIGURES, Event
from staffa.execution.guest import Guest, NotLoaded
from staffa.execution.outside import Failed, Scene
from staffa.telemetry import Event as Happened
from staffa.telemetry import parse, record
from staffa.telemetry.events import TrackerFailed

HOST = f"{__name__}:Host"
LIMIT_SECONDS = 60.0
"""How long one call may take."""
GIVE_UP = 5
"""Failures in a row after which a tracker is left alone."""
UNTOLD = ("alerts", "hooks", "trackers")
"""Sections that are nobody's business but the driver's: they may hold addresses and secrets."""


@runtime_checkable
class Tracker(Protocol):
    """Follows runs: is told what happens, and asked nothing.

    `trackers: [{use: tracker.py:Class, …}]` names a class of this shape beside the campaign file, or
    `use` an installed plug-in (family `trackers`); the other keys are its options. It lives in a
    process of its own and may be slow, raise or die: the run goes on, and the ledger says so.
    """

    def run_started(self, config: Mapping[str, Any]) -> None:
        """A driver is at work.

        Arguments:
        - `config`: the campaign's values by section (but for who is told), and under `run` the fields of
          the event `run_started` with `root`, the campaign's folder.
        """

    def batch(self, events: Sequence[Happened]) -> None:
        """What happened since the last call, oldest first (`staffa.telemetry.events`)."""

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        """The driver ended: the fields of the event `run_ended`."""


class Tracking:
    """Tells one tracker (a `Mind`).

    Arguments:
    - `block`: its item of `trackers`; `number`: which one.
    - `values`: every value of the campaign.
    """

    def __init__(self, block: Mapping[str, Any], number: int, values: Mapping[str, Any], scene: Scene) -> None:
        self._name, self._scene = str(block["use"]), scene
        self._values = {section: value for section, value in values.items() if section not in UNTOLD}
        said = {"block": dict(block), "directory": str(scene.code), "field": f"trackers[{number}]"}
        self._guest = Guest(HOST, said, scene.environment("tracker"), scene.log)
        self._config: Mapping[str, Any] = {}
        """What a process that takes the place of one that died is told first."""
        self._failures = 0

    def wants(self, event: Event) -> bool:
        return event["event"] != FIGURES and self._failures < GIVE_UP

    def take(self, events: Sequence[Event], halt: threading.Event) -> Iterator[dict[str, Any]]:
        between: list[Event] = []
        for event in events:
            if event["event"] not in ("run_started", "run_ended"):
                between.append(event)
                continue
            yield from self._told("batch", between, halt)
            between = []
            fields = {name: value for name, value in event.items() if name != "event"}
            if event["event"] == "run_started":
                config = {**self._values, "run": {**fields, "root": str(self._scene.root)}}
                yield from self._told("run_started", config, halt)
            else:
                yield from self._told("run_ended", fields, halt)
        yield from self._told("batch", between, halt)

    def end(self) -> None:
        self._guest.end()

    def _told(self, name: str, value: Any, halt: threading.Event) -> Iterator[dict[str, Any]]:
        if halt.is_set() or self._failures >= GIVE_UP or (name == "batch" and not value):
            return
        try:
            if name == "run_started":
                self._config = value
            elif not self._guest.here and self._config:
                self._guest.call("run_started", self._config, LIMIT_SECONDS, halt)
            self._guest.call(name, value, LIMIT_SECONDS, halt)
            self._failures = 0
        except Failed as error:
            self._failures = GIVE_UP if isinstance(error, NotLoaded) else self._failures + 1
            left = " (it is left alone)" * (self._failures >= GIVE_UP)
            yield record(TrackerFailed(tracker=self._name, why=f"{name}: {error}{left}"))


class Host:
    """A tracker's home, in a process of its own (see `staffa.execution.guest`)."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._directory = Path(said["directory"])
        self._tracker = made(said["block"], self._directory, said["field"])

    def run_started(self, config: Mapping[str, Any]) -> None:
        self._call("run_started", config)

    def batch(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._call("batch", [parse(event) for event in events])

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        self._call("run_ended", summary)

    def _call(self, name: str, value: Any) -> None:
        from staffa.experiment.registry import explained, importing_from

        try:
            with importing_from(self._directory):
                getattr(self._tracker, name)(value)
        except Exception as error:
            raise explained(error, self._directory, type(self._tracker).__name__) from error


def made(block: Mapping[str, Any], directory: Path, field: str) -> Tracker:
    """The tracker that a block of the campaign describes. Raises `PluginError` for one that is none."""
    from staffa.experiment.plugins import load
    from staffa.experiment.registry import build

    options = {name: value for name, value in block.items() if name != "use"}
    found = build(block, directory, field) if ":" in block["use"] else load("trackers", block["use"], field)(**options)
    if not isinstance(found, Tracker):
        raise PluginError(
            f"{field}.use: {block['use']!r} is no tracker",
            "it needs run_started(config), batch(events), run_ended(summary)",
        )
    return found
