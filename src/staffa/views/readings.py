"""A run's numbers in words: the one place that turns figures into text.

`figures` are what the driver tells its listeners and leaves in its summary; any of them may be
missing where they were counted from the stores alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any

HEALTHY = "ok"


def readings(figures: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of a run that people look at, by name; those that say nothing are left out."""
    trials, settled = int(figures.get("trials", 0)), int(figures.get("settled", 0))
    rate, eta = figures.get("rate") or 0.0, figures.get("eta")
    found = {"trials": f"{settled:,}/{trials:,} trials", "percent": f"{percent(settled, trials)} %"}
    if rate and settled < trials and not figures.get("stopping"):
        found["rate"] = f"{speed(rate)} trials/s"
        found["eta"] = f"ETA {span(eta)}" if eta is not None else ""
    found["best"] = f"best {figures['best']}" if figures.get("best") else ""
    found["outcomes"] = outcomes(flagged(figures.get("outcomes") or {}))
    found["retrying"] = f"{figures['retrying']:,} batches to be retried" if figures.get("retrying") else ""
    if figures.get("parts"):
        found["parts"] = f"parts {figures.get('sealed', 0):,}/{figures['parts']:,} sealed"
    found["lagging"] = lagging(figures)
    found["pools"] = ", ".join(f"{name} {_pool(facts)}" for name, facts in pools(figures).items())
    found["paused"] = "PAUSED: the disk is full" if figures.get("paused") else ""
    return {name: text for name, text in found.items() if text}


def sentence(figures: Mapping[str, Any]) -> str:
    """All readings in one line."""
    return ", ".join(readings(figures).values())


def lagging(figures: Mapping[str, Any]) -> str:
    """How many batches are slow, how many seem stuck: `2 slow, 1 stuck`; empty for none."""
    found = figures.get("lagging") or {}
    said = [f"{found[state]:,} {state}" for state in ("slow", "stuck") if found.get(state)]
    return ", ".join(said)


def percent(part: int, whole: int) -> int:
    """Rounded down, so that 100 means all."""
    return 100 * part // whole if whole else 100


def flagged(counts: Mapping[str, int]) -> dict[str, int]:
    """The outcomes that are not simply ok."""
    return {word: count for word, count in counts.items() if word != HEALTHY and count}


def outcomes(counts: Mapping[str, int]) -> str:
    """`nan 3, raised 12`."""
    return ", ".join(f"{word} {count:,}" for word, count in counts.items() if count)


def pools(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The pools of a run on SLURM by name; none where the workers belong to no pool."""
    found = figures.get("pools")
    return dict(found) if isinstance(found, Mapping) else {}


def _pool(facts: Mapping[str, Any]) -> str:
    """`12/16`, `0/16 (4 jobs queued)`, `0/16 PAUSED`."""
    said = f"{facts.get('connected', 0):,}/{facts.get('wanted', 0):,}"
    if facts.get("paused"):
        return f"{said} PAUSED"
    return f"{said} ({number(facts['queued'], 'job')} queued)" if facts.get("queued") else said


def pool(facts: Mapping[str, Any]) -> str:
    """A pool in a line."""
    said = [f"{facts.get('connected', 0):,} of {number(facts.get('wanted', 0), 'worker')}"]
    names = {"running": "running", "queued": "queued", "leaving": "leaving"}
    said += [f"{number(facts[name], 'job')} {text}" for name, text in names.items() if facts.get(name)]
    why = reasons(facts.get("reasons") or {})
    left_out = f", left out: {', '.join(facts['excluded'])}" if facts.get("excluded") else ""
    paused = ", PAUSED" if facts.get("paused") else ""
    return ", ".join(said) + (f" ({why})" if why else "") + left_out + paused


def reasons(counts: Mapping[str, int]) -> str:
    """Why jobs wait, in SLURM's words: `Resources 3, Priority 1`."""
    return ", ".join(f"{word} {count:,}" for word, count in sorted(counts.items(), key=lambda item: -item[1]))


def tunnel(figures: Mapping[str, Any], host: str) -> str:
    """The command that brings the dashboard to one's own machine; empty where it can be reached as it is.

    Arguments:
    - `host`: where the driver runs. Its page has no login, so it is served to that host alone.
    """
    found = re.match(r"https?://([^/:]+):(\d+)(/.*)?", str(figures.get("dashboard") or ""))
    if found is None or not host or not (pools(figures) or found[1] in ("localhost", "127.0.0.1")):
        return ""
    if host == os.uname().nodename and "SSH_CONNECTION" not in os.environ:
        return ""
    return f"ssh -N -L {found[2]}:127.0.0.1:{found[2]} {host}, then http://127.0.0.1:{found[2]}{found[3] or '/'}"


def moment(at: float) -> str:
    """A point in time, on this machine's clock."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def utc(at: float) -> str:
    """A point in time for those who read it elsewhere: `2026-10-06 14:05:12 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


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


def speed(rate: float) -> str:
    """Trials a second, without digits that say nothing."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
