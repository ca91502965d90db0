"""The kinds of charts, each drawn into given axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import NullFormatter

from staffa.views.drawing.style import ALARM, INK, LINE, MUTED, PAPER, SERIES, Axes, readable_on, shades
from staffa.views.levels import Levels, said, spans_decades

Row = npt.NDArray[Any]

TICKS = 12
"""Labels along an axis of levels; of more levels some go without."""
LONGEST = 18
"""Characters of such a label."""
DRAWN = 1200
"""Cells, or points, that are drawn one by one; more of them become a picture."""
WORDED = (9, 16)
"""Cells across and upward that have room for a word each."""
ROOM = 0.05
"""Share of a range that is left free at each of its ends."""
GRID = 64
"""Cells of a density along each axis."""


def heat(
    axes: Axes,
    values: Row,
    across: Levels,
    upward: Levels,
    *,
    colours: str | tuple[str, ...] = ALARM,
    limits: tuple[float, float] = (1e-9, 1.0),
    words: Sequence[Sequence[str]] | None = None,
    title: str = "",
) -> None:
    """A value for each pair of levels.

    Arguments:
    - `values`: (upward, across); NaN stays blank.
    - `words`: what stands in each cell, where there is room; otherwise a scale, called `title`, tells.
    """
    norm = Normalize(*limits) if limits[0] < limits[1] else Normalize(limits[0] - 0.5, limits[0] + 0.5)
    many = values.size > DRAWN
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=shades(colours),
        norm=norm,
        edgecolors="none" if many else PAPER,
        linewidth=0 if many else 1,
        rasterized=many,
    )
    _levels(axes.xaxis, across)
    _levels(axes.yaxis, upward)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if words is not None and len(across) <= WORDED[0] and len(upward) <= WORDED[1]:
        _write(axes, values, mesh, words)
    else:
        axes.figure.colorbar(mesh, ax=axes, aspect=30, pad=0.02).set_label(title)


def _write(axes: Axes, values: Row, mesh: Any, words: Sequence[Sequence[str]]) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = INK if value < mesh.norm.vmin else readable_on(mesh.cmap(mesh.norm(value)))
            place = (column + 0.5, row + 0.5)
            axes.text(*place, words[row][column], ha="center", va="center", color=colour, fontsize=10)


def _levels(axis: Any, found: Levels) -> None:
    """Name levels that stand in cells of one."""
    if found.edges is not None:
        _edged(axis, found)
        return
    step = -(-len(found) // TICKS)
    places = range(0, len(found), step)
    axis.set_ticks([place + 0.5 for place in places], [shortened(found.labels[place]) for place in places])
    axis.set_label_text(found.title)
    crowded = sum(len(shortened(found.labels[place])) for place in places) > 45
    if axis.axis_name == "x" and crowded:
        for label in axis.get_ticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def _edged(axis: Any, found: Levels) -> None:
    """Name the ends of bins that stand in cells of one."""
    assert found.edges is not None
    places = range(0, len(found.edges), -(-len(found.edges) // TICKS))
    axis.set_ticks(places, [said(found.edges[place]) for place in places])
    axis.set_label_text(found.title)


def shortened(text: str) -> str:
    """A label that is not longer than it may be: `targets.py:EightSc…`."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def bars(axes: Axes, edges: Row, counts: Row, colour: str = SERIES[0], label: str | None = None) -> None:
    """How often values lie between edges."""
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.25)
    axes.stairs(counts, edges, color=colour, label=label)


def counted(axes: Axes, what: str) -> None:
    """The axis of counts of `what`, once all of them are drawn: from 0."""
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.6g}")
    axes.set_ylabel(what)


def outline(axes: Axes, edges: Row, counts: Row, colour: str, label: str) -> None:
    """The same, where several share the axes."""
    axes.stairs(counts, edges, color=colour, label=label, linewidth=1.6)


def band(axes: Axes, x: Row, middle: Row, spread: Row, colour: str = SERIES[0], label: str | None = None) -> None:
    """A line through middles with their spread to both sides; (levels,) each."""
    there = np.isfinite(middle)
    x, middle, spread = x[there], middle[there], np.nan_to_num(spread[there])
    axes.fill_between(x, middle - spread, middle + spread, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, middle, color=colour, marker="o" if len(x) <= 60 else None, markersize=3.5, label=label)


def whiskers(axes: Axes, x: Row, middle: Row, spread: Row, colour: str = SERIES[0], label: str | None = None) -> None:
    """Middles with their spread over levels that are words."""
    there = np.isfinite(middle)
    axes.errorbar(
        x[there],
        middle[there],
        np.nan_to_num(spread[there]),
        fmt="o",
        color=colour,
        markersize=5,
        capsize=0,
        label=label,
    )


def points(axes: Axes, x: Row, y: Row, colour: str = SERIES[0], label: str | None = None) -> None:
    """One point each; of many only how densely they lie."""
    if len(x) > DRAWN and label is None:
        density(axes, x, y)
        return
    many = len(x) > DRAWN
    size, alpha = (20, 0.75) if len(x) < 100 else (5 if many else 13, 0.35)
    axes.scatter(x, y, s=size, color=colour, alpha=alpha, linewidths=0, label=label, rasterized=many)


def marked(axes: Axes, x: Row, y: Row, label: str | None = None) -> None:
    """Rings around the points that matter; of many only dots."""
    many = len(x) > 100
    face, size = (INK, 9) if many else ("none", 46)
    axes.scatter(x, y, s=size, facecolors=face, edgecolors=INK, linewidths=0 if many else 1.2, label=label, zorder=3)


def steps(axes: Axes, x: Row, y: Row, colour: str, label: str | None = None) -> None:
    """What holds from one point on until the next; NaN before there is anything."""
    there = np.isfinite(y)
    axes.step(x[there], y[there], where="post", color=colour, linewidth=2, label=label, zorder=3)


def staircase(axes: Axes, x: Row, y: Row, fade: float = 1.0) -> None:
    """The edge of what some points, none of which is better than another in both, leave behind."""
    order = np.lexsort((-y, x))
    axes.step(x[order], y[order], where="post", color=SERIES[1], linewidth=1.6, alpha=max(fade, 0.15), zorder=2)


def density(axes: Axes, x: Row, y: Row) -> None:
    """How many points lie where, on a logarithmic scale; where x has few values, at each of them."""
    places = np.unique(x)
    columns = _around(places) if 1 < len(places) <= GRID else _between(x, axes.get_xscale() == "log")
    edges = [columns, _between(y, axes.get_yscale() == "log")]
    counts, *_ = np.histogram2d(x, y, bins=edges)
    shown = np.ma.masked_equal(counts.T, 0)
    axes.pcolormesh(*edges, shown, cmap="Blues", norm=LogNorm(0.3, max(counts.max(), 1)), rasterized=True)


def _around(places: Row) -> Row:
    """Edges half-way between places."""
    halves = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - halves[0]], halves, [2 * places[-1] - halves[-1]]])


def _between(values: Row, logarithmic: bool) -> Row:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.geomspace(low, high, GRID + 1) if logarithmic else np.linspace(low, high, GRID + 1)


def stacked(axes: Axes, rows: Sequence[str], parts: dict[str, Row], unit: str) -> None:
    """A bar for each row, of parts that add up; `parts`: (rows,) amounts by name."""
    left = np.zeros(len(rows))
    for number, (name, amounts) in enumerate(parts.items()):
        colour = SERIES[number % len(SERIES)]
        axes.barh(np.arange(len(rows)), amounts, left=left, color=colour, height=0.66, label=name)
        left = left + amounts
    axes.set_yticks(np.arange(len(rows)), [shortened(row) for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit)


def area(axes: Axes, edges: Row, values: Row, colour: str = SERIES[0]) -> None:
    """What went on between points in time."""
    axes.stairs(values, edges, fill=True, color=colour, alpha=0.3)
    axes.stairs(values, edges, color=colour)


def traces(axes: Axes, draws: Row, chains: Row) -> None:
    """Draws of one trial, a line for each chain: (chains, draws)."""
    for number, chain in enumerate(chains):
        axes.plot(draws, chain, color=SERIES[number % len(SERIES)], linewidth=0.9, alpha=0.8)


def limit(axes: Axes, at: float, label: str) -> None:
    """Where a gate stands."""
    axes.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        label, (at, 1), (4, -2), xycoords=("data", "axes fraction"), textcoords="offset points", va="top", color=INK
    )


def level(axes: Axes, at: float, label: str) -> None:
    """How high something has to be, or may be."""
    axes.axhline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(label, (1, at), (-4, 2), ha="right", va="bottom", color=INK, **place)


def moment(axes: Axes, at: float) -> None:
    """When something began."""
    axes.axvline(at, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))


def ruled(axes: Axes) -> None:
    """Faint lines to read heights by."""
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def along(axes: Axes, found: Levels) -> Row:
    """Where levels lie along the x axis, which is labelled and scaled for them: (levels,)."""
    axes.set_xlabel(found.title)
    if found.middles is None or np.isnan(found.middles).any():
        _levels(axes.xaxis, found)
        axes.set_xlim(0, len(found))
        return np.arange(len(found)) + 0.5
    if found.logarithmic:
        axes.set_xscale("log")
    return found.middles


def scaled(axes: Axes, x: Row, y: Row) -> None:
    """Logarithmic axes where values span decades."""
    axes.set_xscale("log" if spans_decades(x) else "linear")
    axes.set_yscale("log" if spans_decades(y) else "linear")


def ranged(axis: Any, low: float, high: float, *, logarithmic: bool = False) -> None:
    """Have an axis show a range, with some room at its ends for what stands there."""
    which = axis.axis_name
    if logarithmic:
        getattr(axis.axes, f"set_{which}scale")("log")
        room = (high / low) ** ROOM
        low, high = low / room, high * room
        if np.floor(np.log10(high)) > np.ceil(np.log10(low)):  # two powers of ten are enough to read by
            axis.set_minor_formatter(NullFormatter())
    else:
        room = ROOM * (high - low) or 0.5
        low, high = low - room, high + room
    getattr(axis.axes, f"set_{which}lim")(low, high)


def noted(axes: Axes, text: str) -> None:
    """A word above a chart."""
    axes.set_title(text, color=MUTED, fontsize=11)
