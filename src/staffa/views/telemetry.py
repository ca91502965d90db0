"""What a ledger's events add up to: per field the mean, the percentiles, the most; and the shipped schema."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from staffa.errors import ConfigError, WorkspaceError, near
from staffa.storage.ledger import history, journal
from staffa.storage.workspace import Workspace
from staffa.views.rendering import rendered

STATISTICS = ("count", "mean", "p50", "p90", "p99", "max")
DEFAULT_EVENT = "batch_settled"
NOT_MEASURED = frozenset({"at", "attempt", "pid"})
"""Numbers of an event whose mean says nothing; told where they are asked for."""


@dataclass
class Measured:
    """The numbers of one kind of event.

    Arguments:
    - `values`: finite numbers by dotted field, in the order of the events.
    - `names`: every field that occurred, whatever it holds.
    - `events`: how often each event occurred.
    """

    event: str
    values: dict[str, list[float]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""
        self.events[event["event"]] += 1
        if event["event"] != self.event:
            return
        for name, value in _leaves(event, ""):
            self.names.add(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self.values.setdefault(name, []).append(float(value))


def telemetry_facts(source: str | Path, event: str = DEFAULT_EVENT, show: Sequence[str] = ()) -> dict[str, Any]:
    """The statistics of one kind of event.

    Arguments:
    - `source`: a campaign's folder, or one journal of it.
    - `event`: which events.
    - `show`: dotted fields, such as `timings.sample` (`timings` stands for all in it); by default
      every field that holds numbers.

    Returns `source`, `event`, `events` (how many) and `fields`: for each its `STATISTICS`. Raises
    `ConfigError` with the near names for an event or a field that does not occur.
    """
    measured = Measured(event)
    for one in _events(Path(source)):
        measured.note(one)
    if not measured.events[event]:
        known = [name for name, count in measured.events.items() if count]
        raise ConfigError(f"--event {event}: there is none in {source}", near(event, known) or "the ledger is empty")
    names = [name for wanted in show for name in _asked(measured, wanted)] if show else _worth(measured)
    fields = {name: statistics(measured.values[name]) for name in dict.fromkeys(names)}
    return {"source": str(source), "event": event, "events": measured.events[event], "fields": fields}


def statistics(values: Sequence[float]) -> dict[str, float]:
    """How many numbers there are, their mean, percentiles (between two numbers in proportion) and maximum."""
    numbers = np.asarray(values, float)
    p50, p90, p99 = (float(found) for found in np.percentile(numbers, (50, 90, 99)))
    middle = float(np.mean(numbers))
    return dict(zip(STATISTICS, (len(values), middle, p50, p90, p99, float(numbers.max())), strict=True))


def render(facts: Mapping[str, Any], form: str = "md") -> str:
    """The statistics as a table, in the format `md`, `csv`, `json` or that of a plug-in (family `renderers`).

    Raises `PluginError` for a format nobody knows.
    """
    rows = [(name, *(found[one] for one in STATISTICS)) for name, found in facts["fields"].items()]
    return rendered(form, ("field", *STATISTICS), rows)


def schema_text() -> str:
    """The JSON Schema of a ledger's lines, as it is shipped."""
    from staffa.telemetry.schema import SCHEMA_FILE

    return SCHEMA_FILE.read_text(encoding="utf-8")


def _events(source: Path) -> Iterator[dict[str, Any]]:
    if source.is_dir():
        return history(Workspace.open(source))
    if not source.is_file():
        raise WorkspaceError(
            f"'{source}' is neither a campaign's folder nor a journal",
            "name a folder such as runs/v1.0_walk, or a file of its ledger: events-….jsonl",
        )
    return journal(source)


def _leaves(value: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{above}{key}.")
        elif key != "event":
            yield f"{above}{key}", item


def _worth(measured: Measured) -> list[str]:
    return [name for name in measured.values if name not in NOT_MEASURED]


def _asked(measured: Measured, wanted: str) -> Iterable[str]:
    """The fields of numbers meant by a name."""
    found = [name for name in measured.values if name == wanted or name.startswith(f"{wanted}.")]
    if found:
        return found
    if wanted in measured.names:
        raise ConfigError(f"--show {wanted}: holds no numbers", f"those that do: {', '.join(sorted(measured.values))}")
    hint = near(wanted, measured.values) or f"there are {', '.join(sorted(measured.values))}"
    raise ConfigError(f"--show {wanted}: no {measured.event} has this field", hint)
