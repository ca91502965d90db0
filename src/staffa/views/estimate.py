"""What a campaign will take, as lines of the plan's sheet; each says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from staffa.views.readings import number, size, span

Facts = Mapping[str, Any]

HOUR = 3600.0
LABELS = {"shapes": "an estimate, from shapes alone", "pilot": "by a pilot"}
"""Sources in words; a run is called by its folder."""
ESTIMATE = "estimate from "


def estimate_lines(found: Facts) -> dict[str, str]:
    """Lines of the sheet by name; none without an estimate."""
    if not found:
        return {}
    return {
        **_bytes(found["bytes"]),
        **{_of_pool("memory", row["pool"]): _memory(row) for row in found["memory"]},
        **_hours(found["hours"]),
        **{_of_pool("jobs", pool): _jobs(row) for pool, row in found["jobs"].items()},
        **{f"budget {unit}".replace("_", " "): _budget(row) for unit, row in found["budget"].items()},
    }


def estimate_notes(found: Facts) -> list[str]:
    """What is to be said of the estimate as a whole, and what to look out for."""
    if not found:
        return []
    notes = []
    if not found["measured"]:
        notes.append("not known without a pilot (--pilot) or an earlier run (--past RUN): hours, compressed bytes")
    if found["note"]:
        notes.append(f"of {found['source']}: {found['note']}")
    if found["guessed"]:
        was, they = ("was", "it is") if found["guessed"] == 1 else ("were", "they are")
        notes.append(f"{number(found['guessed'], 'group')} {was} not measured: {they} taken to be like the others")
    for pool in found["foreign"]:
        notes.append(f"{f'pool {pool}' if pool else 'this machine'} was not measured: other workers were")
    for one in found["warnings"]:
        place = "" if one["where"] == "default" else f"{one['where']}: "
        notes.append(f"warning: {place}{one['field']}: {one['text']}; {one['hint']}")
    return notes


def label(source: str) -> str:
    """A source in words: `by a pilot`, `by run runs/v1.0_walk`, `an estimate, from shapes alone`."""
    if source.startswith(ESTIMATE):
        return f"an {ESTIMATE}{source.removeprefix(ESTIMATE).replace('pilot', 'a pilot')}"
    return LABELS.get(source) or f"by {source}"


def _of_pool(name: str, pool: str) -> str:
    return f"{name} {pool}" if pool else name


def _bytes(found: Facts) -> dict[str, str]:
    parts = {"hot": found["hot"], "archived": found["archive"]}
    return {name: f"{size(part['bytes'])} ({label(part['source'])})" for name, part in parts.items()}


def _memory(row: Facts) -> str:
    lanes, whole = number(row["width"], "trial"), f" of {size(row['limit'])}" if row["limit"] else ""
    fits = f"; {row['fits']:,} would fit" if row["fits"] is not None else ""
    return f"{size(row['bytes'])}{whole} for {lanes} of {row['group']} at a time{fits} ({label(row['source'])})"


def _hours(hours: Facts | None) -> dict[str, str]:
    if hours is None:
        return {}
    source = label(hours["source"])
    device = f"{span(hours['device'] * HOUR)} on the device, {span(hours['compile'])} compiling"
    if hours["wall"] is None:
        return {"time": f"{device} ({source}); how many workers there will be is not known"}
    held = f"{hours['gpu']:.3g} GPU-hours, " if hours["gpu"] else ""
    return {
        "time": f"{span(hours['wall'] * HOUR)} on {number(hours['workers'], 'worker')}, time in the queue apart; "
        f"{device} ({source})",
        "held": f"{held}{hours['node']:.3g} node-hours ({source})",
    }


def _jobs(row: Facts) -> str:
    rounds = f", each handed in {row['rounds']:,} times" if (row["rounds"] or 1) > 1 else ""
    return f"{number(row['jobs'], 'job')} at once{rounds} ({label(row['source'])})"


def _budget(row: Facts) -> str:
    needed = "not known" if row["needed"] is None else f"{row['needed']:.3g}"
    return f"{row['limit']:g}, needed {needed} ({label(row['source'])})"
