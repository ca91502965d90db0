"""How much of the design has data, and which combinations of parameters lack some."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from staffa.views.levels import said
from staffa.views.params import described
from staffa.views.readings import number, percent
from staffa.views.report.content import Exhibit, Finding, Listing, Section, Weight, listing
from staffa.views.report.evidence import Evidence
from staffa.views.report.maps import drawn, mapped, points, where

if TYPE_CHECKING:
    import pandas

LISTED = 20
NAMED = 6
"""Values of a parameter that are told one by one."""
KEPT = 1000
"""Rows of a list that are kept among the numbers."""
MEANING = {
    "ok": "data, without a NaN",
    "nan": "data that hold a NaN",
    "raised": "the experiment raised; no data",
    "timeout": "ran past its time; no data",
    "killed": "took its process down; no data",
    "cancelled": "not to be run",
    "hopeless": "given up",
    "missing_input": "waits for a file it needs",
    "missing": "not settled yet",
}
"""Outcomes, in the order they are told."""


def completeness(evidence: Evidence) -> Section:
    """The section on what is there and what is not."""
    lacking = ~evidence.with_data
    total, there = len(lacking), int(evidence.with_data.sum())
    # A search has no design: the points are what it asked for.
    listed = evidence.plan.search is None
    lists = points(evidence, lacking) if listed else []
    design = _design(evidence)
    facts = {
        "parameters": design,
        "trials": total,
        "with_data": there,
        "outcomes": {word: evidence.outcomes[word] for word in MEANING if word in evidence.outcomes},
        "states": (evidence.status.get("figures") or {}).get("states") or {},
        "where": where(evidence, lacking),
        "incomplete_points": len(lists),
        "incomplete": lists[:KEPT],
    }
    found = mapped(evidence, lacking) if listed else None
    shown: list[Listing | Exhibit] = [_outcomes(evidence)]
    caption = "Trials without data, of all trials, at each pair of values. Blank: the design has no trial there."
    shown += drawn(found, "lacking", caption, "have no data")
    facts["map"] = None if found is None else found.facts()
    if lists:
        shown.append(_incomplete(evidence, lists))
    shown += _parameters(design)
    what = number(total, "trial") if listed else f"{number(total, 'trial')} asked for"
    text = [f"{there:,} of {what} ({percent(there, total)} %) have data."]
    text += ["No combination of parameters lacks any."] * (found is not None and not lists)
    return Section("completeness", "Completeness", _findings(evidence), text, shown, _commands(evidence), facts)


def _findings(evidence: Evidence) -> list[Finding]:
    outcomes, total = evidence.outcomes, len(evidence.trials)
    pending = outcomes.get("missing", 0)
    without = {word: outcomes[word] for word in ("cancelled", "missing_input") if outcomes.get(word)}
    found = []
    if not total:
        return []
    if pending == total:
        found.append(Finding(Weight.OPEN, f"Nothing has settled yet; to come: {number(total, 'trial')}."))
    elif pending:
        found.append(Finding(Weight.OPEN, f"Still to come: {pending:,} of {number(total, 'trial')}."))
    for word, count in without.items():
        place = where(evidence, evidence.having(word))
        tail = f", {place}" if place else ""
        found.append(Finding(Weight.CARE, f"Not run, {MEANING[word]}: {number(count, 'trial')}{tail}."))
    if outcomes.get("hopeless"):
        given_up = number(outcomes["hopeless"], "trial")
        found.append(Finding(Weight.SOUND, f"Given up between segments, as a search does: {given_up}."))
    whole = evidence.with_data.all()
    return found or [Finding(Weight.SOUND, f"Every trial has data ({total:,} in all).")] * bool(whole)


def _design(evidence: Evidence) -> list[dict[str, Any]]:
    """What is said of each parameter, and what values the trials have of it: all of few, the ends of many numbers."""
    return [{**facts, **_values(evidence.trials[facts["name"]].dropna())} for facts in described(evidence.plan)]


def _values(values: pandas.Series[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"distinct": int(values.nunique()), "values": None}
    if found["distinct"] <= NAMED:
        found["values"] = sorted(values.unique().tolist())
    if values.dtype.kind in "iuf" and found["distinct"]:
        found |= {"least": values.min().item(), "greatest": values.max().item()}
    return found


def _parameters(design: Sequence[Mapping[str, Any]]) -> Iterator[Listing]:
    rows = [
        {"parameter": one["name"], "unit": one["unit"], "values": _spanned(one), "is": _remark(one)} for one in design
    ]
    heads = [head for head in rows[0] if any(row[head] for row in rows)] if rows else []
    if heads:
        cells = [[row[head] for head in heads] for row in rows]
        yield listing("Parameters, and the values that trials have", heads, cells)


def _spanned(one: Mapping[str, Any]) -> str:
    """`0.1, 0.5, 1`, or of many values how many: `64 from 0.1 to 10`."""
    if one["values"] is not None:
        return ", ".join(map(said, one["values"])) or "none"
    ends = f" from {said(one['least'])} to {said(one['greatest'])}" if "least" in one else ""
    return f"{one['distinct']:,}{ends}"


def _remark(one: Mapping[str, Any]) -> str:
    constant = "the same in every trial" * (not one["explored"] and one["distinct"] == 1)
    return "; ".join(text for text in (one["comment"], f"= {one['derived']}" if one["derived"] else constant) if text)


def _outcomes(evidence: Evidence) -> Listing:
    rows = [(word, f"{count:,}", text) for word, text in MEANING.items() if (count := evidence.outcomes.get(word))]
    return listing("Trials by outcome", ("outcome", "trials", "meaning"), rows, ("trials",))


def _incomplete(evidence: Evidence, lists: list[dict[str, object]]) -> Listing:
    names = list(evidence.swept)
    rows = [
        [
            *("none" if row[name] is None else said(row[name]) for name in names),
            f"{row['hits']:,}",
            f"{row['trials']:,}",
        ]
        for row in lists[:KEPT]
    ]
    caption = "Combinations of parameters that lack data, the emptiest first"
    heads = [evidence.title(name) for name in names]
    found = listing(caption, (*heads, "without data", "trials"), rows, ("without data", "trials"), LISTED)
    hidden = len(lists) - LISTED
    return Listing(
        found.caption,
        found.grid,
        f"… and {hidden:,} more (report.json has {min(len(lists), KEPT):,})" if hidden > 0 else "",
    )


def _commands(evidence: Evidence) -> list[str]:
    run, outcomes = shlex.quote(str(evidence.workspace.root)), evidence.outcomes
    if outcomes.get("missing") and not evidence.status.get("live"):
        return [f"staffa resume {run}"]
    return [f"staffa reconcile {run}"] if outcomes.get("missing_input") else []
