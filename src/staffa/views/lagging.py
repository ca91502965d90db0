"""Slow and stuck batches in words, for `status` and `watch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from staffa.views.readings import moment, number, span


def lagging_lines(figures: Mapping[str, Any]) -> dict[str, str]:
    """The worst of them, a line each: where a batch is, since when, and how long its like take."""
    found = figures.get("lagging") or {}
    lines = {f"{one['state']} {one['batch']}": _told(one) for one in found.get("batches", ())}
    rest = int(found.get("slow", 0)) + int(found.get("stuck", 0)) - len(lines)
    return lines | ({"slow …": f"and {number(rest, 'more batch')}"} if rest > 0 else {})


def _told(one: Mapping[str, Any]) -> str:
    worker = f"{one['worker']} ({one['node']})" if one.get("node") else str(one["worker"])
    return f"on {worker} since {moment(one['since'])}: {span(one['seconds'])}, others take {span(one['typical'])}"
