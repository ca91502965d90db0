"""What a search asked for and found: how far it is, the best trials, how it went."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from staffa.errors import StaffaError
from staffa.views.drawing.style import markup
from staffa.views.levels import said
from staffa.views.readings import number, percent
from staffa.views.report.content import Exhibit, Finding, Listing, Section, Weight, listing
from staffa.views.report.evidence import Evidence
from staffa.views.searched import Searched
from staffa.views.searched.figures import fitting
from staffa.views.searched.sheets import DIGEST, table_facts, telling

BEST = 10
"""Trials that are listed."""
CAPTIONS = {
    "course": "Objectives of each trial in the order of asking, and of the best trial so far.",
    "parameters": "The score against every parameter; rings: the first front.",
    "fronts": "Scores of the groups of objectives against each other; lines: the first fronts.",
}


def search(evidence: Evidence) -> Section | None:
    """The section on a search; None for a campaign whose points were listed."""
    if evidence.plan.search is None:
        return None
    try:
        return _section(evidence, Searched(evidence.workspace))
    except (StaffaError, OSError) as error:
        text = f"What the search found could not be read: {str(error).splitlines()[0]}."
        return Section("search", "Search", [Finding(Weight.CARE, text)])


def _section(evidence: Evidence, found: Searched) -> Section:
    status = found.status
    best = table_facts(found, found.top(BEST))
    shown: list[Listing | Exhibit] = [_best(best)] if best["rows"] else []
    shown += _figures(found)
    run = shlex.quote(str(evidence.workspace.root))
    asked, budget = status["asked"], status["budget"]
    names = ", ".join(found.objectives.names)
    text = [f"{asked:,} of {number(budget, 'trial')} ({percent(asked, budget)} %) were asked for; objectives: {names}."]
    text += ["The objectives were changed since the search was declared."] if status["changed"] else []
    return Section(
        "search", "Search", list(_findings(status)), text, shown, [f"staffa search top {run}"], {**status, "top": best}
    )


def _findings(status: Mapping[str, Any]) -> Iterator[Finding]:
    asked, budget = status["asked"], status["budget"]
    if asked < budget:
        yield Finding(Weight.OPEN, f"Not asked for yet: {budget - asked:,} of {number(budget, 'trial')}.")
    if status["told"] and not status["ranked"]:
        yield Finding(Weight.CARE, "The search has found nothing: every trial failed, or is beyond a limit.")
    elif status["useless"]:
        yield Finding(
            Weight.SOUND, f"Data, but no score (NaN, or beyond a limit): {number(status['useless'], 'trial')}."
        )


def _best(facts: Mapping[str, Any]) -> Listing:
    columns = [name for name in telling(facts) if name != "outcome"]
    rows = [[_cell(name, row[name]) for name in columns] for row in facts["rows"]]
    right = [name for name in columns if all(isinstance(row[name], int | float) for row in facts["rows"])]
    return listing("The best trials", columns, rows, right)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "∞"
    return str(value)[:DIGEST] if name == "trial" else said(value)


def _figures(found: Searched) -> Iterator[Exhibit]:
    if not found.record.with_data.any():
        return
    for kind in fitting(found):
        figure = found.plot(kind)
        alt = f"{CAPTIONS[kind]} {figure.facts['ranked']:,} of {number(figure.facts['trials'], 'trial')} are ranked."
        yield Exhibit(CAPTIONS[kind], markup(figure, f"search-{kind}", alt), wide=True)
