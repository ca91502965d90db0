"""Profiles, plug-ins and what is wrong with a declaration, on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from staffa.views.readings import number
from staffa.views.sheet import Grid, Sheet, one_line

Facts = Mapping[str, Any]

LONGEST = 60
"""Characters of a value that a row shows."""


def profiles_sheet(facts: Facts) -> Sheet:
    """The profiles of a workflow; below, what is wrong with those that cannot be used."""
    found: Sequence[Facts] = facts["profiles"]
    if not found:
        return Sheet(f"no profiles in {facts['folder']}")
    rows = [
        (
            one["name"],
            one["workload"],
            ", ".join(one["tags"]),
            one["description"] or ("unusable" if one["flaw"] else ""),
        )
        for one in found
    ]
    notes = [line for one in found if one["flaw"] for line in one["flaw"].splitlines()]
    return Sheet(
        f"{number(len(found), 'profile')} in {facts['folder']}",
        grid=Grid(("name", "workload", "tags", "description"), rows),
        notes=notes,
    )


def plugins_sheet(facts: Facts) -> Sheet:
    """Plug-ins by family, and where each comes from; below, why some cannot be used."""
    found: Sequence[Facts] = facts["plugins"]
    if not found:
        return Sheet("no plug-ins: installed packages offer them by entry points staffa.<family>")
    rows = [(one["status"], one["family"], one["name"], one["origin"]) for one in found]
    notes = [f"{one['family']} {one['name']}: {one['reason']}" for one in found if one["reason"]]
    failed = f", {facts['failed']} failed" if facts["failed"] else ""
    grid = Grid(("status", "family", "name", "origin"), rows)
    return Sheet(f"{number(len(found), 'plug-in')}{failed}", grid=grid, notes=notes)


def validation_sheet(facts: Facts) -> Sheet:
    """Complaints in their order, each with its place and what was probably meant."""
    rows = [
        (one["level"], _place(one), one["field"], one_line(one["text"], LONGEST * 2), one_line(one["hint"], LONGEST))
        for one in facts["complaints"]
    ]
    counts = [number(facts["errors"], "error")] if facts["errors"] else []
    counts += [number(facts["warnings"], "warning")] if facts["warnings"] else []
    plan = facts["plan"]
    sizes = f": {number(plan['trials'], 'trial')}, {number(plan['batches'], 'batch')}" if plan else ""
    title = f"{facts['campaign']} {'is sound' if facts['valid'] else 'cannot run'}{sizes}"
    title += f" ({', '.join(counts)})" if counts else ""
    grid = Grid(("", "where", "field", "what", "hint"), rows) if rows else None
    return Sheet(title, grid=grid)


def _place(complaint: Facts) -> str:
    if complaint["file"] is None:
        return "--set" if complaint["tier"] == "set" else "" if complaint["tier"] == "default" else complaint["tier"]
    return f"{complaint['file']}:{complaint['line']}" if complaint["line"] else str(complaint["file"])
