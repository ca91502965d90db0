"""What the doctor found, and what was reaped, on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from staffa.views.readings import number
from staffa.views.sheet import Grid, Sheet, one_line

Facts = Mapping[str, Any]

MARKS = {"ok": "ok", "warning": "warning", "failed": "FAILED"}
JOBS = 6
"""Job expressions a row shows; the others are counted."""


def doctor_sheet(facts: Facts) -> Sheet:
    """Every check in its order; below, what mends those that are not as they should be."""
    rows = []
    before = ""
    for check in facts["checks"]:
        where = check["where"] if check["where"] != before else ""
        before = check["where"]
        rows.append((MARKS[check["result"]], where, check["what"], one_line(check["found"])))
    notes = [
        f"mend: {check['where']}, {check['what']}: {check['mend']}"
        for check in facts["checks"]
        if check["result"] != "ok" and check["mend"]
    ]
    return Sheet(_verdict(facts), grid=Grid(("result", "where", "what", "found"), rows), notes=notes)


def _verdict(facts: Facts) -> str:
    counts = [f"{facts['failed']} failed"] if facts["failed"] else []
    counts += [number(facts["warnings"], "warning")] if facts["warnings"] else []
    return f"{number(len(facts['checks']), 'check')}: {', '.join(counts) or 'all is well'}"


def reap_sheet(facts: Facts) -> Sheet:
    """Campaigns with jobs in the queue, and what was done to them."""
    campaigns: Sequence[Facts] = facts["campaigns"]
    rows = [(_done(campaign), campaign["root"], _pools(campaign), campaign["why"]) for campaign in campaigns]
    orphans = [campaign for campaign in campaigns if campaign["orphan"]]
    notes = [f"{campaign['root']}: jobs {_jobs(campaign)}" for campaign in orphans]
    if facts["foreign"]:
        notes.append(f"left alone, since name and log do not belong together: {', '.join(facts['foreign'])}")
    if orphans and facts["dry_run"]:
        notes.append("nothing was cancelled; next: the same without --dry-run")
    if not campaigns:
        return Sheet("no campaign has jobs in the queue", notes=notes)
    title = f"{number(len(campaigns), 'campaign')} with jobs in the queue, {number(len(orphans), 'orphan')}"
    return Sheet(title, grid=Grid(("", "campaign", "jobs", "why"), rows), notes=notes)


def _done(campaign: Facts) -> str:
    if campaign["cancelled"]:
        return "cancelled"
    return "orphan" if campaign["orphan"] else "kept"


def _pools(campaign: Facts) -> str:
    return ", ".join(
        f"{pool}: {count} {state.lower()}"
        for pool, states in campaign["pools"].items()
        for state, count in states.items()
    )


def _jobs(campaign: Facts) -> str:
    shown, rest = campaign["jobs"][:JOBS], len(campaign["jobs"]) - JOBS
    return " ".join(shown) + (f" … and {rest} more" if rest > 0 else "")
