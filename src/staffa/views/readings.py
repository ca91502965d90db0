"""A run's numbers in words: the one place that turns figures into text.

`figures` are what the driver tells its listeners and leaves in its summary; any of them may be
missing where they were counted from the stores alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEALTHY = "ok"


def readings(figures: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a run that people look at, by name; those that say nothing are left out."""
    trials, settled = int(figures.get("trials", 0)), int(figures.get("settled", 0))
    rate, eta = figures.get("rate") or 0.0, figures.get("eta")
    found = {"trials": f"{settled:,}/{trials:,} trials", "percent": f"{percent(settled, trials)} %"}
    if rate and settled < trials and not figures.get("stopping"):
        found["rate"] = f"{_figure(rate)} trials/s"
        found["eta"] = f"ETA {span(eta)}" if eta is not None else ""
    found["outcomes"] = outcomes(flagged(figures.get("outcomes") or {}))
    found["retrying"] = f"{figures['retrying']:,} batches to be retried" if figures.get("retrying") else ""
    if figures.get("parts"):
        found["parts"] = f"parts {figures.get('sealed', 0):,}/{figures['parts']:,} sealed"
    found["paused"] = "PAUSED: the disk is full" if figures.get("paused") else ""
    return {name: text for name, text in found.items() if text}


def sentence(figures: Mapping[str, Any]) -> str:
    """All readings in one line."""
    return ", ".join(readings(figures).values())


def percent(part: int, whole: int) -> int:
    """Rounded down, so that 100 means all."""
    return 100 * part // whole if whole else 100


def flagged(counts: Mapping[str, int]) -> dict[str, int]:
    """The outcomes that are not simply ok."""
    return {word: count for word, count in counts.items() if word != HEALTHY and count}


def outcomes(counts: Mapping[str, int]) -> str:
    """`nan 3, raised 12`."""
    return ", ".join(f"{word} {count:,}" for word, count in counts.items() if count)


def span(seconds: float) -> str:
    """A duration as people say it: `12 s`, `3 min 20 s`, `5 h 12 min`, `2 d 4 h`."""
    if seconds < 10 and round(seconds, 1) % 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, size, lower, step in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // step
            return f"{whole // size} {name} {rest} {lower}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


def size(count: int) -> str:
    """Bytes in binary units: `3.5 KiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def number(count: int, noun: str) -> str:
    """`1 batch`, `2,048 batches`, `3 tries`."""
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("ch") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
