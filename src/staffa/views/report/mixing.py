"""How far draws can be trusted: R-hat and effective draws of every output, and the gates a campaign sets."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.experiment.diagnostics import FEWEST_DRAWS
from staffa.views.drawing import charts
from staffa.views.drawing.style import SERIES, drawing, markup, styled
from staffa.views.levels import spans_decades
from staffa.views.readings import number
from staffa.views.report.content import Exhibit, Finding, Listing, Section, Weight, listing
from staffa.views.report.evidence import WORDS, Evidence
from staffa.views.report.gates import (
    NAMES,
    STUCK,
    UPPER,
    Gate,
    asked_of,
    gates_of,
    judged,
    missing_any,
    outputs_of,
    passed,
    summary,
    values_of,
    worst_trials,
)
from staffa.views.report.maps import drawn, mapped, where

Row = npt.NDArray[Any]

PICTURED = 4
NAMED = 6
"""Trials of each gate that are listed."""
BINS = 40
MOST = {"rhat": 10.0}
"""Values beyond are drawn as if they were this."""


def mixing(evidence: Evidence) -> Section:
    """The section on R-hat, effective draws and gates."""
    gates, outputs = gates_of(evidence), outputs_of(evidence)
    verdicts = [judged(evidence, gate, name) for gate in gates for name in asked_of(gate, outputs)]
    missed = missing_any(evidence, [gate for gate in gates if gate.declared], outputs)
    facts: dict[str, Any] = {
        "gates": verdicts,
        "outputs": [summary(evidence, name) for name in outputs if evidence.with_data.any()],
        "missed_trials": int(missed.sum()),
        "worst": list(worst_trials(evidence, gates, outputs)),
        "passed": passed(verdicts),
    }
    shown: list[Listing | Exhibit] = []
    if any(row["judged"] for row in verdicts):
        found = mapped(evidence, missed, evidence.with_data)
        caption = "Trials that miss a gate, of those with data, at each pair of values."
        shown += [_gate_listing(verdicts), *_histograms(gates, outputs, evidence)]
        shown += drawn(found, "gates", caption, "miss a gate")
        shown += [_output_listing(facts["outputs"]), *_worst_listing(facts["worst"])]
        facts["map"] = None if found is None else found.facts()
    text = _text(outputs, verdicts, bool(evidence.with_data.any()))
    findings = list(_findings(evidence, verdicts))
    run = shlex.quote(str(evidence.workspace.root))
    commands = [f"staffa explain {run} {row['trial'][:12]}" for row in facts["worst"][:1]]
    return Section("mixing", "R-hat and effective draws", findings, text, shown, commands, facts)


# --- words and figures -----------------------------------------------------------------------------


def _text(outputs: tuple[str, ...], judged: list[dict[str, Any]], data: bool) -> list[str]:
    if not outputs and not judged:
        return ["The campaign records no output that R-hat could be made of."]
    if not data:
        return ["There are no data yet."]
    if not any(row["judged"] for row in judged):
        return [f"Nothing could be judged: R-hat takes at least {FEWEST_DRAWS} draws of numbers that vary."]
    asked = [f"{NAMES[row['gate']]} {row['limit']:g}" for row in judged if row["declared"]]
    advice = (
        "No gates are declared in qa; judged by the usual advice: R-hat at most 1.01, at least 400 effective draws."
    )
    return [f"Judged by the campaign's gates: {', '.join(dict.fromkeys(asked))}." if asked else advice]


def _findings(evidence: Evidence, judged: list[dict[str, Any]]) -> Iterator[Finding]:
    declared = [row for row in judged if row["declared"]]
    if declared:
        yield from _gate_findings(evidence, declared)
    elif any(row["judged"] for row in judged):
        missing = [row for row in judged if row["missed"]]
        if missing:
            worst = _of_worst(max(missing, key=lambda row: (row["gate"] == "rhat", _badness(row))))
            gates = [Gate(row["gate"], row["limit"], False) for row in missing]
            beyond = missing_any(evidence, gates, tuple({row["output"] for row in missing}))
            count = f"the draws of {number(int(beyond.sum()), 'trial')} have not mixed"
            yield Finding(Weight.CARE, f"No gates are declared; by the usual advice {count}: at worst {worst}.")
        else:
            yield Finding(Weight.SOUND, "No gates are declared; by the usual advice all draws have mixed.")
    elif judged and evidence.with_data.any():
        yield Finding(Weight.CARE, "Whether draws have mixed could not be judged: there are too few of them.")


def _gate_findings(evidence: Evidence, declared: list[dict[str, Any]]) -> Iterator[Finding]:
    for word in dict.fromkeys(row["gate"] for row in declared):
        rows = [row for row in declared if row["gate"] == word]
        gate = Gate(word, rows[0]["limit"], True)
        if not any(row["judged"] for row in rows):
            weight = Weight.AGAINST if evidence.with_data.any() else Weight.OPEN
            yield Finding(weight, f"Gate {gate}: nothing could be judged.")
        elif any(row["missed"] for row in rows):
            worst = max((row for row in rows if row["missed"]), key=_badness)
            beyond = missing_any(evidence, [gate], tuple(row["output"] for row in rows))
            place = where(evidence, beyond)
            text = f"Gate {gate}: {number(int(beyond.sum()), 'trial')} beyond it{', ' * bool(place)}{place}; "
            yield Finding(Weight.AGAINST, f"{text}at worst {_of_worst(worst)}, trial {worst['trial'][:12]}.")
        else:
            yield Finding(Weight.SOUND, f"Gate {gate}: met by every trial that can be judged.")


def _badness(row: Mapping[str, Any]) -> float:
    return float(row["worst"] if row["gate"] in UPPER else -row["worst"])


def _of_worst(row: Mapping[str, Any]) -> str:
    """`R-hat 1.32 of energy`; of draws that never move just that."""
    if row["gate"] == "divergences":
        return number(int(row["worst"]), "divergence")
    still = row["worst"] == STUCK.get(row["gate"])
    return f"{row['output']} never moves" if still else f"{NAMES[row['gate']]} {row['worst']:.4g} of {row['output']}"


def _gate_listing(judged: list[dict[str, Any]]) -> Listing:
    rows = [
        (
            f"{Gate(row['gate'], row['limit'], row['declared'])}{'' if row['declared'] else ' (advice)'}",
            row["output"] or "-",
            _verdict(row),
            f"{row['missed']:,}",
            f"{row['judged']:,}",
            f"{row['not_judged']:,}",
            _said(row["worst"]),
        )
        for row in judged
    ]
    columns = ("gate", "output", "verdict", "beyond", "judged", "not judged", "worst")
    return listing("Gates, and how many trials are beyond them", columns, rows, columns[3:])


def _said(value: float | None) -> str:
    if value is None:
        return "-"
    return "never moves" if math.isinf(value) else f"{value:.4g}"


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["judged"]:
        return "not judged"
    return "missed" if row["missed"] else "met"


def _output_listing(outputs: list[dict[str, Any]]) -> Listing:
    rows = [
        (row["output"], NAMES[word], *_spread(row, word)) for row in outputs for word in WORDS if row[word] is not None
    ]
    columns = ("output", "quantity", "median", "worst 1 %", "worst")
    return listing("R-hat and effective draws over all trials with data", columns, rows, columns[2:])


def _spread(row: Mapping[str, Any], word: str) -> list[str]:
    """Median, 1 % and worst of a quantity; R-hat cannot be made of draws that never move."""
    told = [_said(row[word][which]) for which in ("median", "percentile", "worst")]
    return [*told[:2], "never moves"] if word == "rhat" and row["stuck"] else told


def _worst_listing(worst: list[dict[str, Any]]) -> Iterator[Listing]:
    rows = [
        (
            NAMES[row["gate"]],
            _said(row["value"]),
            row["output"] or "-",
            row["trial"][:12],
            ", ".join(f"{name} = {value}" for name, value in row["parameters"].items()),
        )
        for gate in dict.fromkeys(row["gate"] for row in worst)
        for row in [one for one in worst if one["gate"] == gate][:NAMED]
    ]
    columns = ("quantity", "value", "output", "trial", "parameters")
    if rows:
        yield listing("The trials furthest beyond each gate", columns, rows, ("value",), len(rows))


def _histograms(gates: list[Gate], outputs: tuple[str, ...], evidence: Evidence) -> Iterator[Exhibit]:
    for gate in gates:
        if gate.word == "divergences":
            continue
        told = {name: values_of(evidence, gate.word, name) for name in outputs[:PICTURED]}
        told = {name: values[~np.isnan(values)] for name, values in told.items()}
        told = {name: values for name, values in told.items() if len(values)}
        if told:
            yield _histogram(gate, told, len(outputs) - len(told))


def _histogram(gate: Gate, told: Mapping[str, Row], hidden: int) -> Exhibit:
    # R-hat is 1 at best: on a logarithmic scale it is told by how much it is above.
    shift, most = (1.0 if gate.word == "rhat" else 0.0), MOST.get(gate.word, math.inf)
    whole = np.minimum(np.concatenate([*told.values(), [gate.limit]]), most) - shift
    above = whole[whole > 0]
    logarithmic = spans_decades(above)
    low, high = (float(above.min()) if logarithmic else float(whole.min())), float(whole.max())
    high = high if high > low else low + 1.0
    edges = np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
    with styled():
        figure = drawing(420, 260)
        axes = figure.subplots()
        for place, (name, values) in enumerate(told.items()):
            counts, _ = np.histogram(np.clip(values - shift, low, high), edges)
            charts.outline(axes, edges, counts, SERIES[place % len(SERIES)], charts.shortened(name))
        axes.set_xscale("log" if logarithmic else "linear")
        axes.xaxis.set_major_formatter(lambda at, _: f"{at + shift:.6g}")
        charts.limit(axes, gate.limit - shift, f"{gate.limit:g}" + ("" if gate.declared else " (advice)"))
        axes.set_xlabel(NAMES[gate.word])
        charts.counted(axes, "trials")
        axes.legend()
        beyond = {name: int(gate.missed(values).sum()) for name, values in told.items()}
        said = ", ".join(f"{count:,} of {len(told[name]):,} for {name}" for name, count in beyond.items())
        alt = f"Histogram of {NAMES[gate.word]} over trials; beyond {gate.limit:g} are {said}."
        rest = f" The first {len(told)} outputs; {hidden} more are in the table." if hidden > 0 else ""
        rest += f" Values above {most:g} are drawn there." if any((one > most).any() for one in told.values()) else ""
        return Exhibit(
            f"{NAMES[gate.word]} of trials; dashed: the gate.{rest}", markup(figure, f"mixing-{gate.word}", alt)
        )
