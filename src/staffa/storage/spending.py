"""What a campaign has held of its machines, by what its journals say: hours of devices, nodes and the clock.

A device counts from its worker's coming to its leaving, whatever it did meanwhile, and once however many
workers share it. Of a driver that was killed only the time until its last event is known. The site's
own accounting is the truth; `staffa usage` shows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HOUR = 3600.0
UNITS = ("gpu_hours", "node_hours", "hours")

ASIDE = frozenset(
    {
        "readmitted",
        "cancelled",
        "code_change_accepted",
        "grown",
        "round_settled",
        "missing_input",
        "input_found",
        "batch_damaged",
    }
)
"""Events that may be written without a driver, long after the last worker was there."""
NO_DEVICE = frozenset({"", "-1", "NoDevFiles"})

Place = tuple[str, ...]


@dataclass
class Spending:
    """Adds up who is there. Only `note` changes it.

    Arguments:
    - `there`: workers that are there, by address: their node, and the devices they hold.
    - `seconds`: what was held until `since`, by unit.
    """

    there: dict[str, tuple[Place, tuple[Place, ...]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UNITS, 0.0))
    since: float = 0.0

    def note(self, event: Mapping[str, Any]) -> None:
        """Enter one event of a history, oldest first."""
        if event["event"] in ASIDE:
            return
        at = float(event["at"])
        if event["event"] == "run_started":
            # Nobody knows how long the workers of a killed driver stayed.
            self.there.clear()
        self._go_on(at)
        if event["event"] == "worker_joined":
            self.there[event["address"]] = _held(event)
        elif event["event"] == "worker_left":
            self.there.pop(event["address"], None)
        elif event["event"] == "run_ended":
            self.there.clear()

    def hours(self, now: float) -> dict[str, float]:
        """What has been held until a Unix time, in hours by unit (`UNITS`)."""
        late = max(now - self.since, 0.0)
        return {unit: (self.seconds[unit] + late * rate) / HOUR for unit, rate in self._rates().items()}

    def _go_on(self, at: float) -> None:
        for unit, rate in self._rates().items():
            self.seconds[unit] += max(at - self.since, 0.0) * rate
        self.since = max(self.since, at)

    def _rates(self) -> dict[str, int]:
        nodes = {node for node, _ in self.there.values()}
        devices = {device for _, devices in self.there.values() for device in devices}
        return {"gpu_hours": len(devices), "node_hours": len(nodes), "hours": int(bool(self.there))}


def _held(event: Mapping[str, Any]) -> tuple[Place, tuple[Place, ...]]:
    """A worker's node and devices, each as its job holds it: two jobs on one node may call their devices alike."""
    node = (str(event.get("job") or ""), str(event.get("node") or event.get("host") or ""))
    names = [word.strip() for word in str(event.get("device") or "").split(",")]
    return node, tuple((*node, name) for name in names if name not in NO_DEVICE)
