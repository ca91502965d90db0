"""What the commands of a search say: plain mappings (for `--json`) and the sheets made of them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from staffa.views.levels import said
from staffa.views.readings import number, percent
from staffa.views.sheet import Grid, Sheet, one_line

if TYPE_CHECKING:
    import pandas

    from staffa.campaign.objectives import Objective, Objectives
    from staffa.views.searched import Searched

Facts = Mapping[str, Any]

DIGEST, CELL = 12, 60
"""Characters of a digest that are shown, and of any cell at most."""
STATES = {
    "ranked": "ranked",
    "useless": "of no use",
    "failed": "failed",
    "hopeless": "hopeless",
    "cancelled": "cancelled",
}


def status_sheet(facts: Facts) -> Sheet:
    """Where a search stands."""
    asked, budget = facts["asked"], facts["budget"]
    told = ", ".join(f"{facts[state]:,} {word}" for state, word in STATES.items() if facts[state])
    flying = f", {facts['in_flight']:,} in flight" if facts["in_flight"] else ""
    waiting = f", {facts['waiting']:,} wait for `staffa resume`" if facts["waiting"] else ""
    options = ", ".join(f"{name} {said(value)}" for name, value in facts["strategy"].items() if name != "use")
    lines = {
        "driver": "at work" if facts["live"] else "none",
        "asked": f"{asked:,} of {number(budget, 'trial')} ({percent(asked, budget)} %){flying}{waiting}",
        "told": f"{facts['told']:,}" + (f": {told}" if told else ""),
        "strategy": facts["strategy"]["use"] + (f" ({options})" if options else ""),
        **{f"best{name}": text for name, text in _best(facts["best"])},
    }
    run = shlex.quote(str(facts["root"]))
    after = "watch" if facts["live"] else "resume" if asked < budget or facts["waiting"] else "search top"
    grid = _objective_grid(facts["described"])
    notes = ["these are not the objectives it was declared with"] if facts["changed"] else []
    return Sheet(str(facts["root"]), lines, grid, [*notes, f"next: staffa {after} {run}"])


def _best(best: Facts | None) -> Iterator[tuple[str, str]]:
    if best is None:
        yield "", "none yet"
        return
    scores = ", ".join(said(score) for score in best["scores"])
    yield "", f"trial {best['number']} ({best['trial'][:DIGEST]}): score {scores}"
    yield " parameters", _values(best["params"])
    yield " objectives", _values(best["objectives"])


def _values(values: Facts) -> str:
    return ", ".join(f"{name} {said(value)}" for name, value in values.items())


def table_facts(search: Searched, frame: pandas.DataFrame) -> dict[str, Any]:
    """Some trials of a search, as plain values."""
    rows = frame.reset_index().to_dict("records")
    return {
        "root": str(search.workspace.root),
        "columns": [str(name) for name in (frame.index.name, *frame.columns)],
        "rows": rows,
        "ranked": search.judged.counts["ranked"],
        "asked": len(search.record),
        "objectives": search.objectives.words(),
    }


def table_sheet(facts: Facts) -> Sheet:
    """Some trials of a search, on a page."""
    rows, columns = facts["rows"], telling(facts)
    cells = [[_cell(name, row[name]) for name in columns] for row in rows]
    right = frozenset(name for name in columns if all(isinstance(row[name], int | float) for row in rows))
    run = shlex.quote(str(facts["root"]))
    shown = f"{number(len(rows), 'trial')} of {facts['ranked']:,} ranked, {facts['asked']:,} asked for"
    notes = (
        [f"next: staffa explain {run} {rows[0]['trial'][:DIGEST]}"] if rows else [f"next: staffa search status {run}"]
    )
    return Sheet(f"{facts['root']}: {shown}", {}, Grid(columns, cells, right), notes)


def telling(facts: Facts) -> list[str]:
    """The columns of a table that say something: fronts only of several groups, reasons only where there are any."""
    silent = {"front", "crowding"} if "score" in facts["columns"] else set()
    silent |= set() if any(row["why"] for row in facts["rows"]) else {"why"}
    return [str(name) for name in facts["columns"] if name not in silent]


def _cell(name: str, value: Any) -> str:
    if name == "trial":
        return str(value)[:DIGEST]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return one_line(said(value), CELL)


# --- objectives ------------------------------------------------------------------------------------


def objectives_facts(search: Searched) -> dict[str, Any]:
    """What a search is after, and what it was declared to be after."""
    return {
        "root": str(search.workspace.root),
        "objectives": search.objectives.words(),
        "declared": search.declared.words(),
        "changed": search.objectives != search.declared,
        "described": described(search.objectives, search.declared),
    }


def described(objectives: Objectives, declared: Objectives) -> list[dict[str, Any]]:
    """Objectives with all their words, and as they were declared."""
    before = {one.name: _words(one) for one in declared.all}
    return [{**_words(one), "declared": before.get(one.name, {})} for one in objectives.all]


def _words(one: Objective) -> dict[str, Any]:
    words = ("name", "direction", "target", "limit", "priority", "group")
    return {**{word: getattr(one, word) for word in words}, "of": one.column}


def objectives_sheet(facts: Facts) -> Sheet:
    """What a search is after."""
    notes = [f"next: staffa search top {shlex.quote(str(facts['root']))}"]
    return Sheet(str(facts["root"]), {}, _objective_grid(facts["described"]), notes)


def _objective_grid(rows: list[dict[str, Any]]) -> Grid:
    columns = ("objective", "of", "direction", "target", "limit", "priority", "group")
    names = ("name", *columns[1:])
    cells = [[_word(row[name], row["declared"].get(name, row[name])) for name in names] for row in rows]
    return Grid(columns, cells, frozenset(("target", "limit", "priority", "group")))


def _word(value: Any, declared: Any) -> str:
    """A word of an objective: `0.02`, or `0.02 (was 0.01)` where it was declared otherwise."""
    now, before = ("-" if one is None else said(one) for one in (value, declared))
    return now if value == declared else f"{now} (was {before})"


# --- figures ---------------------------------------------------------------------------------------


def plot_sheet(facts: Facts) -> Sheet:
    """What was drawn, and where it stands."""
    return Sheet(str(facts["root"]), {one["kind"]: one["file"] for one in facts["figures"]})
