"""A run at a glance: what its driver tells its listeners, summed up for the dashboard's page.

The driver's own figures are passed on as they are, so that every display shows the same numbers. What
is added here: the latest messages of each class of failures, what each worker does with its time, and
how the campaign went so far. All of it stays small however large the campaign, and is made of plain
numbers and texts: it travels to the scheduler, wherever that is.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from staffa.storage.books import Books
from staffa.telemetry.events import SCHEMA_ID
from staffa.views.usage import Stint, Tracks

Event = Mapping[str, Any]

VERSION = 1
MESSAGES = 4
"""Distinct messages that are remembered of a class of failures, the latest."""
POINTS = 240
"""Points of the campaign's course: when there are more, every second one goes and the steps double."""
STEP_SECONDS = 2.0
NAN = "nan"


@dataclass
class Failures:
    """Tries of one class (an outcome's word) that brought no data."""

    tries: int = 0
    messages: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)
    """The latest, by text, the oldest first: how often, when last, and where."""

    def note(self, text: str, trial: str, batch: str, node: str, at: float) -> None:
        self.tries += 1
        seen = self.messages.pop(text, {"count": 0})
        self.messages[text] = {
            "text": text,
            "count": seen["count"] + 1,
            "trial": trial,
            "batch": batch,
            "node": node,
            "at": at,
        }
        while len(self.messages) > MESSAGES:
            self.messages.popitem(last=False)


class Trail:
    """How many trials were settled, from the first look to the last, in at most `POINTS` steps.

    Arguments:
    - `step`: seconds between two points, at first.
    """

    def __init__(self, step: float = STEP_SECONDS) -> None:
        self.step = step
        self.at: list[float] = []
        self.settled: list[int] = []

    def note(self, now: float, settled: int) -> None:
        """Take in the number there is now, if it is time for a point."""
        if self.at and now - self.at[-1] < self.step:
            return
        self.at.append(round(now, 3))
        self.settled.append(settled)
        if len(self.at) > POINTS:
            self.at, self.settled, self.step = self.at[::2], self.settled[::2], 2 * self.step


class Overview:
    """A listener that can sum up what it heard (`snapshot`).

    Arguments:
    - `root`: the campaign's folder.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root, self._clock = root, clock
        self.over = False
        """Whether the driver is about to leave: what is summed up is its last word."""
        self._run: dict[str, Any] = {}
        self._figures: dict[str, Any] = {}
        self._tracks = Tracks()
        self._members: dict[str, dict[str, Any]] = {}
        self._gauges: dict[str, dict[str, Any]] = {}
        self._failures: dict[str, Failures] = {}
        self._trail = Trail()
        self._counts: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._written = 0
        self._spent = 0.0

    def __call__(self, event: Event) -> None:
        name = event["event"]
        if name == "figures":
            self._figures = {key: value for key, value in event.items() if key != "event"}
            self._trail.note(self._clock(), int(event.get("settled", 0)))
            return
        self._counts[name] += 1
        self._tracks.note(event)
        take = _TAKERS.get(name)
        if take is not None:
            take(self, event)

    def remember(self, books: Books) -> None:
        """Take over what drivers before have noted: failures, and why."""
        found = ((trial, failure) for trial, failures in books.failures.items() for failure in failures)
        for trial, failure in sorted(found, key=lambda one: one[1].at):
            self._class(failure.outcome).note(failure.message, trial, "", failure.node, failure.at)

    def snapshot(self) -> dict[str, Any]:
        """All of it, in plain numbers, texts, lists and mappings."""
        now, began = self._clock(), time.perf_counter()
        found = {
            "schema": SCHEMA_ID,
            "version": VERSION,
            "at": round(now, 3),
            "root": str(self.root),
            "campaign": self.root.name,
            "over": self.over,
            "run": self._run,
            "figures": self._figures,
            "failures": [self._told(word, found) for word, found in self._failures.items()],
            "workers": self._workers(now),
            "left": dict(self._left),
            "lost": dict(self._lost),
            "events": dict(self._counts),
            "seconds": {name: round(spent, 3) for name, spent in self._seconds.items()},
            "written": self._written,
            "trail": {"step": self._trail.step, "at": self._trail.at, "settled": self._trail.settled},
        }
        self._spent += time.perf_counter() - began
        return found | {"spent": round(self._spent, 6)}

    def _class(self, word: str) -> Failures:
        return self._failures.setdefault(word, Failures())

    @staticmethod
    def _told(word: str, found: Failures) -> dict[str, Any]:
        return {"outcome": word, "tries": found.tries, "messages": list(reversed(found.messages.values()))}

    def _workers(self, now: float) -> list[dict[str, Any]]:
        present = self._tracks.present()
        return [
            {**member, **self._gauges.get(address, {}), **shares(present[address], now)}
            for address, member in self._members.items()
            if address in present
        ]

    def _started(self, event: Event) -> None:
        names = ("run_id", "run_hash", "host", "pid", "job", "at", "resumed", "staffa", "dashboard")
        self._run = {name: event[name] for name in names if name in event}

    def _joined(self, event: Event) -> None:
        names = ("address", "name", "host", "node", "pool", "job", "ends", "device")
        self._members[event["address"]] = {name: event.get(name) for name in names}
        self._gauges.pop(event["address"], None)

    def _worker_left(self, event: Event) -> None:
        self._members.pop(event["address"], None)
        self._left["expected" if event.get("expected") else "unexpected"] += 1

    def _told_by(self, event: Event) -> None:
        """A batch settled or was put down: its receipt tells of its worker, too."""
        memory = event.get("memory") or {}
        # `device` alone would be the worker's own: which GPU it was given.
        gauges = {
            "rss": memory.get("rss"),
            "device_bytes": memory.get("device"),
            "device_limit": memory.get("device_limit"),
        }
        self._gauges[event["worker"]] = {"kind": event.get("device", ""), "told": event["at"], **gauges}
        for name, spent in (event.get("timings") or {}).items():
            self._seconds[name] = self._seconds.get(name, 0.0) + float(spent)

    def _settled(self, event: Event) -> None:
        self._told_by(event)
        self._written += int(event.get("bytes") or 0)
        place = event["batch"], str(event.get("node") or ""), float(event["at"])
        for lane in event.get("failed", ()):
            self._class(lane["outcome"]).note(lane.get("message", ""), lane["trial"], *place)
        known = {lane["trial"] for lane in event.get("failed", ())}
        for trial in event.get("nan", ()):
            if trial not in known:
                self._class(NAN).note("an output holds a NaN", trial, *place)

    def _batch_lost(self, event: Event) -> None:
        self._lost["charged" if event.get("charged") else "free"] += 1

    def _given_up(self, event: Event) -> None:
        """A trial that took its process down never had a receipt: here alone stands why."""
        if event["outcome"] not in ("killed", "timeout"):
            return
        known = self._failures.get(event["outcome"])
        if known is None or all(one["trial"] != event["trial"] for one in known.messages.values()):
            place = event["batch"], str(event.get("node") or ""), float(event["at"])
            self._class(event["outcome"]).note(event.get("message", ""), event["trial"], *place)


def shares(stint: Stint, now: float) -> dict[str, Any]:
    """What became of a worker's time since it came: the seconds its device sampled, compiled and idled.

    They add up to `held`. What is in flight counts as sampled since the last receipt. Writing goes on
    beside the device, and is told apart.
    """
    held = max(now - stint.since, 0.0)
    compiling = min(stint.amounts["compiling"], held)
    flying = max(now - stint.busy, 0.0) if stint.flying else 0.0
    sampling = min(stint.amounts["useful"] + flying, held - compiling)
    return {
        "since": stint.since,
        "batches": len(stint.flying),
        "held": round(held, 1),
        "sampling": round(sampling, 1),
        "compiling": round(compiling, 1),
        "idle": round(held - sampling - compiling, 1),
        "writing": round(stint.amounts["writing"], 1),
        "sealing": round(stint.amounts["sealing"], 1),
    }


_TAKERS: Mapping[str, Callable[[Overview, Event], None]] = {
    "run_started": Overview._started,
    "worker_joined": Overview._joined,
    "worker_left": Overview._worker_left,
    "batch_yielded": Overview._told_by,
    "batch_settled": Overview._settled,
    "batch_lost": Overview._batch_lost,
    "quarantined": Overview._given_up,
}


def readable(found: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The pictures among these that are of this version, the oldest first: another Staffa may post them, too."""
    return sorted((one for one in found.values() if one.get("version") == VERSION), key=lambda one: float(one["at"]))


def classes(snapshot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Failures by class, the most first: how many trials stand so now, how many tries did, the latest messages."""
    counts: Mapping[str, int] = snapshot["figures"].get("outcomes") or {}
    told = {found["outcome"]: found for found in snapshot["failures"]}
    words: Iterable[str] = dict.fromkeys([*(word for word in counts if word != "ok" and counts[word]), *told])
    found = [
        {
            "outcome": word,
            "trials": counts.get(word, 0),
            "tries": told[word]["tries"] if word in told else 0,
            "messages": told[word]["messages"] if word in told else [],
        }
        for word in words
    ]
    return sorted(found, key=lambda one: (-one["trials"], -one["tries"]))
