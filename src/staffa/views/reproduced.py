"""What came of running trials again, on a page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from staffa.views.readings import number
from staffa.views.sheet import Grid, Sheet

Facts = Mapping[str, Any]

REASONS = 6
"""Reasons that are shown; the others are counted."""


def reproduced_sheet(facts: Facts) -> Sheet:
    """Whether the trials came out as recorded, what they had to agree in, and why."""
    verdict = "came out as recorded" if facts["agree"] else "did NOT come out as recorded"
    exact, close = facts["bit_for_bit"], facts["within_tolerance"]
    lines = {
        "trials": f"{number(facts['trials'], 'trial')} of {facts['among']:,} with data (--seed {facts['seed']})",
        "bit for bit": f"{exact:,}: the recorded program ran again" if exact else "",
        "tolerance": f"{close:,} within {facts['tolerance']:g}" if close else "",
        "code": facts["code"],
    }
    shown = {name: text for name, text in lines.items() if text}
    notes = [f"not the recorded program: {reason}" for reason in facts["reasons"][:REASONS]]
    rest = len(facts["reasons"]) - REASONS
    notes += [f"… and {number(rest, 'more reason')}"] if rest > 0 else []
    if facts["differ"] and facts["reasons"]:
        notes.append("elsewhere last bits differ, and chaotic sampling makes them large: run it as recorded to tell")
    apart = next((one for one in facts["compared"] if not one["agrees"]), None)
    if apart is not None:
        notes.append(f"next: staffa explain {shlex.quote(facts['root'])} {apart['trial'][:12]}")
    return Sheet(f"{facts['root']}: {verdict}", shown, _grid(facts), notes)


def _grid(facts: Facts) -> Grid:
    columns = ("trial", "batch", "lane", "read from", "compared", "verdict", "largest difference")
    rows = [
        (
            one["trial"][:12],
            f"g{one['group']}/{one['batch']}",
            str(one["lane"]),
            one["recorded_in"],
            one["compared"],
            "agrees" if one["agrees"] else one["trouble"] or "differs",
            _worst(one["worst"]),
        )
        for one in facts["compared"]
    ]
    return Grid(columns, rows, frozenset({"lane"}))


def _worst(worst: Facts | None) -> str:
    """`x[3, 0]: 0.25 recorded, 0.5 now, 0.25 apart (12 values)`."""
    if worst is None:
        return "none"
    place = f"{worst['output']}{list(worst['place'])}" if worst["place"] else worst["output"]
    if math.isnan(worst["recorded"]) and math.isnan(worst["again"]):
        return f"{place}: another value ({number(worst['bits'], 'value')} differ)"
    values = f"{worst['recorded']:.9g} recorded, {worst['again']:.9g} now, {worst['largest']:.3g} apart"
    return f"{place}: {values} ({number(worst['bits'], 'value')} differ)"
