"""Whether a campaign can be trusted, in words: the sum of what all sections found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from staffa.views.readings import number
from staffa.views.report.content import Finding, Section, Weight
from staffa.views.report.evidence import Evidence
from staffa.views.report.gates import Gate
from staffa.views.sheet import Grid, Sheet

ANSWERS = {
    Weight.AGAINST: "No, not as it stands.",
    Weight.OPEN: "Not yet.",
    Weight.CARE: "With care.",
    Weight.SOUND: "Yes, as far as this report can tell.",
}
"""By the weightiest finding, in the order in which they are looked for."""
MARKS = {Weight.AGAINST: "✗", Weight.OPEN: "…", Weight.CARE: "!", Weight.SOUND: "✓"}
WORST = 3
"""Trials of each gate that are named in a terminal."""
WORDS = {Weight.AGAINST: "against", Weight.OPEN: "open", Weight.CARE: "care", Weight.SOUND: "sound"}


def verdict(evidence: Evidence, sections: Sequence[Section]) -> dict[str, Any]:
    """The answer, what it rests on, and whether the gates are passed (None where none is declared)."""
    found = [(finding, section.name) for section in sections for finding in section.findings]
    found += [(Finding(Weight.CARE, f"Could not be read: {text}."), "") for text in evidence.lacking]
    weights = {finding.weight for finding, _ in found}
    weight = next(weight for weight in (*ANSWERS, Weight.SOUND) if weight in weights or weight is Weight.SOUND)
    order = list(ANSWERS)
    found.sort(key=lambda one: order.index(one[0].weight))
    return {
        "answer": ANSWERS[weight],
        "weight": weight,
        "why": _why(weight, [finding for finding, _ in found]),
        "findings": [{"weight": finding.weight, "text": finding.text, "section": name} for finding, name in found],
    }


def _why(weight: Weight, findings: Sequence[Finding]) -> str:
    own = sum(1 for finding in findings if finding.weight is weight)
    things = number(own, "thing")
    return {
        Weight.AGAINST: f"{things} {'speaks' if own == 1 else 'speak'} against it.",
        Weight.OPEN: f"{things} cannot be told yet.",
        Weight.CARE: f"{things} to look at first.",
        Weight.SOUND: "Nothing was found that speaks against it.",
    }[weight]


def report_sheet(facts: Mapping[str, Any], page: Path) -> Sheet:
    """What a report comes to, in a terminal: the answer, what it rests on, the trials that miss gates by most."""
    answer, worst = facts["verdict"], _worst(facts["sections"]["mixing"]["worst"])
    rows = [(MARKS[finding["weight"]], finding["text"]) for finding in answer["findings"]]
    run = shlex.quote(str(facts["root"]))
    return Sheet(
        f"Can {facts['campaign']} be trusted? {answer['answer']} {answer['why']}",
        {"page": str(page), "numbers": str(page.with_name(facts["numbers"]))},
        Grid(("", "what was found"), rows),
        [*map(_missing, worst), *(f"next: staffa explain {run} {row['trial'][:12]}" for row in worst[:1])],
    )


def _worst(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first few of each gate that the campaign sets."""
    gates = dict.fromkeys(row["gate"] for row in rows if row["declared"])
    return [row for gate in gates for row in [one for one in rows if one["gate"] == gate][:WORST]]


def _missing(row: Mapping[str, Any]) -> str:
    """`trial 3f9a6c2b1d00 misses R-hat at most 1.05: energy 1.32 (rho = 0.9)`."""
    gate = Gate(row["gate"], row["limit"], row["declared"])
    value = "never moves" if row["stuck"] else f"{row['value']:.4g}"
    place = ", ".join(f"{name} = {value}" for name, value in row["parameters"].items())
    what = f"{row['output']} {value}".strip() + (f" ({place})" if place else "")
    return f"trial {row['trial'][:12]} misses {gate}: {what}"
