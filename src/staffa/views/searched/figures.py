"""Figures of a search: how it went, which parameters matter, what has to be traded for what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.domain import Axis, Categorical, Continuous, Domain, Integer, Lattice
from staffa.campaign.objectives import Objective
from staffa.errors import ConfigError, near
from staffa.views.drawing import charts
from staffa.views.drawing.style import SERIES, Axes, Drawing, drawing, styled
from staffa.views.levels import said, spans_decades

if TYPE_CHECKING:
    from staffa.views.searched import Searched

Row = npt.NDArray[Any]

WIDTH, PANEL, MARGIN = 680, 190, 80
"""Pixels: of a figure's width, of the height of a panel, and of what stands around all panels."""
ACROSS = 3
"""Panels side by side."""
FRONTS = 5
"""Fronts that are drawn as lines."""
BEST = SERIES[1]


def plotted(search: Searched, kind: str) -> Drawing:
    """Draw a search; `facts` of the figure has the numbers in it. Raises `ConfigError` with the near names."""
    if kind not in KINDS:
        raise ConfigError(f"--kind {kind}: there is no such figure of a search", near(kind, KINDS))
    judged = search.judged
    if not (search.record.with_data if kind == "course" else judged.ranked).any():
        what = "no trial has data" if kind == "course" else "no trial is ranked"
        raise ConfigError(f"there is nothing to draw: {what}", f"staffa search status {search.workspace.root}")
    with styled():
        figure, told = KINDS[kind](search)
    figure.facts = {"kind": kind, "trials": len(search.record), "ranked": int(judged.ranked.sum()), **told}
    return figure


def fitting(search: Searched) -> tuple[str, ...]:
    """The kinds of figures that say something of a search as it stands."""
    if not search.judged.ranked.any():
        return ("course",)
    return tuple(kind for kind in KINDS if kind != "fronts" or len(search.objectives.groups) > 1)


# --- how it went -----------------------------------------------------------------------------------


def _course(search: Searched) -> tuple[Drawing, dict[str, Any]]:
    """Every objective by the trial's number, with that of the best trial so far, and its target and limit."""
    objectives = search.objectives
    figure = drawing(WIDTH, MARGIN + PANEL * len(objectives.all), margin=8)
    panels = figure.subplots(len(objectives.all), 1, sharex=True, squeeze=False)[:, 0]
    told = {}
    for place, (one, panel) in enumerate(zip(objectives.all, panels, strict=True)):
        group = objectives.groups.index(one.group)
        told[one.name] = _along(panel, one, search.judged.values[:, place], _incumbents(search, group))
    panels[-1].set_xlabel("number of the trial, in the order of asking")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure, {"objectives": told}


def _along(panel: Axes, one: Objective, values: Row, incumbent: Row) -> dict[str, Any]:
    number, there = np.arange(len(values)), np.isfinite(values)
    useful = there & (one.scores(values) < np.inf)
    shown = useful if useful.any() else there
    _upward(panel, one, values[shown])
    charts.points(panel, number[shown], values[shown])
    best = np.where(incumbent >= 0, values[incumbent], np.nan)
    charts.steps(panel, number, best, BEST, "best trial so far")
    if one.target is not None and one.limit is not None:
        charts.level(panel, one.target, "target")
        charts.level(panel, one.limit, "limit")
    panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_ylabel(one.name if one.column == one.name else f"{one.name}: {one.column}")
    beyond = int((there & ~shown).sum())
    last = best[-1] if len(best) else math.nan
    words = [f"{one.direction}d", f"best trial {said(float(last))}"] if math.isfinite(last) else [f"{one.direction}d"]
    words += [f"{beyond:,} beyond the limit are not shown"] if beyond else []
    charts.noted(panel, ", ".join(words))
    return {"best": float(last) if math.isfinite(last) else None, "shown": int(shown.sum()), "beyond": beyond}


def _upward(panel: Axes, one: Objective, values: Row) -> None:
    """The scale of an objective: logarithmic where values span decades, and with room for its target and limit."""
    bounds = [end for end in (one.target, one.limit) if end is not None]
    ends = np.array([*_ends(values), *bounds])
    charts.ranged(panel.yaxis, float(ends.min()), float(ends.max()), logarithmic=spans_decades(ends))


def _ends(values: Row) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _incumbents(search: Searched, group: int) -> Row:
    """(n,) place of the best trial so far in a group; -1 before there is any."""
    scores = np.where(search.judged.ranked, search.judged.scores[:, group], np.inf)
    before = np.concatenate([[np.inf], np.minimum.accumulate(scores)[:-1]])
    return np.maximum.accumulate(np.where(scores < before, np.arange(len(scores)), -1))


# --- what matters ----------------------------------------------------------------------------------


def _parameters(search: Searched) -> tuple[Drawing, dict[str, Any]]:
    """The score against every parameter, the first front marked; of several groups one block of panels each."""
    judged, axes, names = search.judged, Domain.read(search.config.space).axes, _scores(search)
    across = min(len(axes), ACROSS)
    rows = -(-len(axes) // across)
    figure = drawing(WIDTH, MARGIN + PANEL * rows * len(names), margin=8)
    panels = figure.subplots(rows * len(names), across, squeeze=False)
    places, first = np.flatnonzero(judged.ranked), judged.leading(1)
    for group, label in enumerate(names):
        block, own = panels[rows * group : rows * (group + 1)], judged.scores[:, group]
        for panel, (name, axis) in zip(block.reshape(-1), axes.items(), strict=False):
            along = _along_axis(panel, axis, search.record.params[name])
            charts.ranged(panel.yaxis, *_ends(own[places]), logarithmic=spans_decades(own[places]))
            panel.set_xlabel(name)
            charts.points(panel, along[places], own[places])
            charts.marked(panel, along[first], own[first], "first front" if len(names) > 1 else "best")
        for row in block:
            row[0].set_ylabel(label)
        for panel in block.reshape(-1)[len(axes) :]:
            panel.remove()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper right")
    return figure, {"parameters": list(axes), "first_front": len(first)}


def _along_axis(panel: Axes, axis: Axis, values: Row) -> Row:
    """Where values of a parameter lie along a panel, which is scaled for them."""
    if isinstance(axis, Lattice):
        ends = np.array([axis.values[0], axis.values[-1]], float)
        charts.ranged(panel.xaxis, *_ends(ends), logarithmic=spans_decades(ends))
    elif isinstance(axis, Continuous | Integer):
        charts.ranged(panel.xaxis, axis.low, axis.high, logarithmic=axis.log)
    elif isinstance(axis, Categorical):
        panel.set_xticks(range(len(axis.values)), [charts.shortened(said(value)) for value in axis.values])
        codes = np.array([axis.values.index(value) for value in values.tolist()], float)
        # Beside one another by their number: the same figure every time.
        return np.asarray(codes + 0.5 * ((np.arange(len(codes)) * 0.618034) % 1 - 0.5))
    return np.asarray(values, float)


def _scores(search: Searched) -> list[str]:
    """What the score of each group is called."""
    objectives = search.objectives
    own = {group: [one.name for one in objectives.all if one.group == group] for group in objectives.groups}
    return [f"score of {' + '.join(names)}" for names in own.values()]


# --- what is traded --------------------------------------------------------------------------------


def _fronts(search: Searched) -> tuple[Drawing, dict[str, Any]]:
    """Scores of two groups against each other, with the first fronts; of more groups every pair."""
    groups, judged, names = search.objectives.groups, search.judged, _scores(search)
    if len(groups) < 2:
        raise ConfigError(
            "--kind fronts: all objectives are of one group, and are added up",
            f"give one a group of its own to look at: --set {search.objectives.names[-1]}.group=1",
        )
    pairs = list(itertools.combinations(range(len(groups)), 2))
    across = min(len(pairs), 2)
    rows = -(-len(pairs) // across)
    figure = drawing(WIDTH, MARGIN + (340 if across == 1 else 300) * rows, margin=8)
    panels = figure.subplots(rows, across, squeeze=False).reshape(-1)
    places = np.flatnonzero(judged.ranked)
    scores, front = judged.scores[places], judged.standing(places)[0]
    for (left, right), panel in zip(pairs, panels, strict=False):
        for axis, own in ((panel.xaxis, scores[:, left]), (panel.yaxis, scores[:, right])):
            charts.ranged(axis, *_ends(own), logarithmic=spans_decades(own))
        charts.points(panel, scores[:, left], scores[:, right])
        for number in range(FRONTS if len(groups) == 2 else 0):
            edge = scores[front == number]
            charts.staircase(panel, edge[:, left], edge[:, right], 1 - number / FRONTS)
        own = scores[front == 0]
        charts.marked(panel, own[:, left], own[:, right], "first front")
        panel.set_xlabel(names[left])
        panel.set_ylabel(names[right])
    for panel in panels[len(pairs) :]:
        panel.remove()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right")
    return figure, {"fronts": int(front.max()) + 1, "first_front": int((front == 0).sum())}


KINDS: Mapping[str, Callable[[Searched], tuple[Drawing, dict[str, Any]]]] = {
    "course": _course,
    "parameters": _parameters,
    "fronts": _fronts,
}
