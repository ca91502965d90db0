"""What is said of sealed archives, on a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from staffa.views.readings import number, size
from staffa.views.sheet import Grid, Sheet

Facts = Mapping[str, Any]
SHOWN = 40


def listed_sheet(facts: Facts) -> Sheet:
    """Parts with their trials, rows, files and bytes."""
    names = ("trials", "rows", "files")
    rows = [
        [part, *(f"{found[name]:,}" for name in names), size(found["bytes"])] for part, found in facts["parts"].items()
    ]
    total = ["", *(f"{facts[name]:,}" for name in names), size(facts["bytes"])]
    grid = Grid(["part", *names, "bytes"], [*rows, total], frozenset((*names, "bytes")))
    notes = [f"next: staffa archive verify {shlex.quote(facts['archive'])}"]
    lines = {"rows": ", ".join(f"{table} {count:,}" for table, count in facts["tables"].items())}
    return Sheet(f"{number(len(rows), 'part')} in {facts['archive']}", lines, grid=grid, notes=notes)


def examined_sheet(facts: Facts) -> Sheet:
    """What was looked at, and what is wrong with it."""
    flaws = facts["flaws"]
    title = (
        "the archive is whole" if facts["sound"] else f"{number(len(flaws), 'file')} of the archive are NOT as listed"
    )
    lines = {"archive": facts["archive"], "files": f"{facts['files']:,}, {size(facts['bytes'])}, read: {facts['read']}"}
    notes = [f"{flaw['file']}: {flaw['why']}" for flaw in flaws[:SHOWN]]
    if flaws[SHOWN:]:
        notes.append(f"and {len(flaws) - SHOWN} more: --json lists all")
    if flaws:
        notes.append("next: move the files that are named away; staffa consolidate RUN seals their parts again")
    return Sheet(title, lines, notes=notes)


def copied_sheet(facts: Facts) -> Sheet:
    """What was copied, and where to."""
    lines = {
        "copied now": f"{number(facts['parts'], 'part')}, {number(facts['files'], 'file')}, {size(facts['bytes'])}",
        "there": number(facts["total"], "part"),
    }
    return Sheet(f"copied to {facts['to']}", lines, notes=[f"next: staffa archive verify {shlex.quote(facts['to'])}"])


def schedule_sheet(facts: Facts) -> Sheet:
    """The lines of a crontab, and whether they would work."""
    checks = [f"{'ok' if check['sound'] else 'NOT'}  {check['what']}: {check['why']}" for check in facts["checks"]]
    return Sheet(notes=[*facts["lines"], "", *checks, f"next: {facts['install']}, and put the line in"])
