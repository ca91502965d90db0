"""Outputs against parameters: a small figure for each pair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.qa import ELEMENT
from staffa.views.drawing import charts
from staffa.views.drawing.style import SERIES, drawing, markup, styled
from staffa.views.levels import Levels, said
from staffa.views.readings import number
from staffa.views.report.content import Exhibit, Section
from staffa.views.report.evidence import Evidence, base, plotted

Row = npt.NDArray[Any]

PARAMETERS = 6
"""Parameters that outputs are shown against."""
NAMED = 8
"""Outputs that are named as not shown."""


def pairs(evidence: Evidence) -> Section:
    """The section on outputs against parameters."""
    names, against = plotted(evidence.plan, evidence.qa), _against(evidence)
    facts: dict[str, Any] = {}
    shown = []
    for name in names:
        values = numbers(evidence, name)
        for parameter in against if np.isfinite(values).any() else ():
            there = np.isfinite(values)
            found = evidence.levels(parameter, there)
            if len(found) > 1:
                rows = _averaged(found, values[there])
                facts.setdefault(name, {})[parameter] = rows
                shown.append(_panel(evidence, name, parameter, values[there], found, rows, there))
    text = [] if shown else [_why_not(evidence, names, against)]
    if shown:
        text = [_legend(evidence)]
    text += _not_shown(evidence, names)
    return Section("outputs", "Outputs against parameters", (), text, shown, (), facts, small=True)


def _legend(evidence: Evidence) -> str:
    dot = "a trial" if evidence.plan.sampling.draws is None else "the mean of an output over a trial's draws"
    return f"Each dot is {dot}; the line is the mean over trials, the band their standard deviation."


def _not_shown(evidence: Evidence, names: tuple[str, ...]) -> Iterator[str]:
    """Which outputs there are besides, where the campaign does not say which are shown."""
    told = {base(name) for name in names}
    rest = [] if evidence.qa.plot else [one for one in evidence.plan.outputs() if one.name not in told]
    if rest:
        some = ", ".join(f"{one.name} ({one.kind})" for one in rest[:NAMED])
        more = f" and {len(rest) - NAMED} more" if len(rest) > NAMED else ""
        yield f"Not shown: {some}{more}. Numbers, and elements of arrays such as 'x[0]', are chosen by qa.plot."


def numbers(evidence: Evidence, name: str) -> Row:
    """(trials,) means of an output (or of one number of it); NaN where there are none."""
    column, element = f"{base(name)}.mean", ELEMENT.fullmatch(name)
    if column not in evidence.trials:
        return np.full(len(evidence.trials), np.nan)
    cells = evidence.trials[column]
    if element is None:
        return np.asarray(cells.to_numpy(np.float64, na_value=np.nan))
    place = int(element["place"])
    there = (isinstance(cell, np.ndarray | list) and len(cell) > place for cell in cells)
    return np.array([cell[place] if inside else np.nan for cell, inside in zip(cells, there, strict=True)], float)


def _against(evidence: Evidence) -> tuple[str, ...]:
    """Parameters to show: those that maps are over first."""
    own = [name for name in evidence.qa.over if evidence.differs(name)]
    return tuple(dict.fromkeys([*own, *evidence.swept]))[:PARAMETERS]


def _why_not(evidence: Evidence, names: tuple[str, ...], against: tuple[str, ...]) -> str:
    if not evidence.with_data.any():
        return "There are no data yet."
    if not against:
        return "All trials have the same parameters."
    return "Nothing but NaN." if names else "No output is a single number."


def _averaged(found: Levels, values: Row) -> list[dict[str, Any]]:
    """Mean and standard deviation over the trials at each level."""
    counts = np.bincount(found.codes, minlength=len(found))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(found.codes, values, minlength=len(found)) / counts
        apart = (values - means[found.codes]) ** 2
        spread = np.sqrt(np.bincount(found.codes, apart, minlength=len(found)) / (counts - 1))
    return [
        {"value": label, "trials": int(count), "mean": float(mean), "sd": float(sd)}
        for label, count, mean, sd in zip(found.labels, counts, means, spread, strict=True)
    ]


def _panel(
    evidence: Evidence, name: str, parameter: str, values: Row, found: Levels, rows: list[dict[str, Any]], there: Row
) -> Exhibit:
    means, spread = (np.array([row[word] for row in rows]) for word in ("mean", "sd"))
    numeric = found.middles is not None and not np.isnan(found.middles).any()
    with styled():
        figure = drawing(300, 220)
        axes = figure.subplots()
        places = charts.along(axes, found)
        at = evidence.trials[parameter][there].to_numpy(np.float64) if numeric else _beside(found, places)
        charts.points(axes, at, values)
        (charts.band if numeric else charts.whiskers)(axes, places, means, spread, SERIES[1])
        axes.set_ylabel(charts.shortened(name))
        alt = " ".join(_seen(name, parameter, rows))
        anchor = re.sub(r"\W", "-", f"pair-{name}-{parameter}")
        comment = evidence.plan.about[parameter].comment if parameter in evidence.plan.about else ""
        return Exhibit(f"{name} against {parameter}{f': {comment}' if comment else ''}", markup(figure, anchor, alt))


def _beside(found: Levels, places: Row) -> Row:
    """Where trials lie at levels that are words: side by side, spread evenly by the golden ratio."""
    jitter = np.modf(np.arange(len(found.codes)) * 0.6180339887)[0] - 0.5
    return np.asarray(places[found.codes] + 0.5 * jitter)


def _seen(name: str, parameter: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    told = [row for row in rows if row["trials"]]
    low, high = (choose(told, key=lambda row: row["mean"]) for choose in (min, max))
    yield f"{name} against {parameter}, {number(sum(row['trials'] for row in told), 'trial')}:"
    yield f"the mean is least at {low['value']} ({said(low['mean'])})"
    yield f"and greatest at {high['value']} ({said(high['mean'])})."
