"""How a campaign went, from its history: when trials settled, where time went, batch by batch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from staffa.storage.spans import unspan

Event = Mapping[str, Any]

UNTRIED = frozenset({"missing", "cancelled", "missing_input", "hopeless", "padding"})
"""Outcomes of trials that a batch did not try."""


@dataclass
class Drive:
    """What one driver did. Times are Unix seconds."""

    began: float
    last: float
    """Its last sign: its end, where it could say so."""
    reason: str = ""
    run_id: str = ""
    run_hash: str = ""
    staffa: str = ""
    workers: int = 0


@dataclass
class Course:
    """Takes in a history, event by event.

    Arguments:
    - `settled`: when a batch settled, and how many trials it had tried.
    - `spent`: seconds by kind, of each group and node.
    - `lost`: batches that did not come back, by reason.
    """

    drives: list[Drive] = field(default_factory=list)
    settled: list[tuple[float, int]] = field(default_factory=list)
    spent: dict[tuple[int, str], dict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    lost: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)

    def note(self, event: Event) -> None:
        """Take in the next event; malformed ones are passed over."""
        name = event["event"]
        try:
            if name == "run_started":
                self._begin(event)
            elif self.drives and name != "unreadable":
                self.drives[-1].last = max(self.drives[-1].last, float(event["at"]))
            if name in ("batch_settled", "batch_yielded"):
                self._spend(event)
            if name == "batch_settled":
                self._settle(event)
            elif name == "batch_lost":
                self.lost[str(event["reason"])] += 1
            elif name == "run_ended" and self.drives:
                self.drives[-1].reason = str(event.get("reason") or "")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return

    @property
    def active(self) -> float:
        """Seconds during which a driver was at work."""
        return sum(drive.last - drive.began for drive in self.drives)

    def _begin(self, event: Event) -> None:
        said = {name: str(event.get(name) or "") for name in ("run_id", "run_hash", "staffa")}
        at = float(event["at"])
        self.drives.append(Drive(at, at, workers=int(event.get("workers") or 0), **said))

    def _spend(self, event: Event) -> None:
        group = int(event["batch"][1:].partition("/")[0])
        spent: dict[str, float] = self.spent[group, str(event.get("node") or "")]
        for kind, seconds in (event.get("timings") or {}).items():
            spent[kind] += float(seconds)

    def _settle(self, event: Event) -> None:
        if event.get("duplicate"):
            return
        tried = sum(count for word, count in event["outcomes"].items() if word not in UNTRIED)
        lanes = event.get("lanes")
        self.settled.append((float(event["at"]), len(unspan(lanes)) if lanes is not None else tried))
        self.devices[str(event.get("device") or "")] += 1
