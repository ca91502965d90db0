"""Figures that are made first: an output against a parameter, its histogram, a map over two parameters, traces.

`x`, `y`, `z` and `by` name columns of the table of trials (`scale`, `sampler`, `seconds`, `energy.rhat`), outputs, of
which the mean over a trial's draws is taken (`energy`, `x[2]`), or, for a histogram, all draws (`draws.energy`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.campaign.qa import ELEMENT
from staffa.errors import ConfigError, near
from staffa.views.drawing import charts
from staffa.views.drawing.style import AMOUNT, SERIES, Axes, Drawing, drawing, styled
from staffa.views.levels import Levels, levels, measured, said, spans_decades, titled
from staffa.views.params import unit
from staffa.views.readings import number
from staffa.views.results import Results
from staffa.views.sheet import Sheet

if TYPE_CHECKING:
    import pandas

Row = npt.NDArray[Any]

SIZE = (640, 420)
SERIES_MOST, SERIES_BINS = len(SERIES), 6
"""Series that can be told apart; of a `by` of more numbers, bins."""
BINS = 50
TRACES = 4
"""Trials whose draws are traced where nobody says which."""
NAMED = 3
"""Parameters that are told of a trial."""
DRAW = "draw"
DRAWS = "draws."
SPREADS = {
    "trials": "spread: standard deviation over trials",
    "draws": "spread: standard deviation over a trial's draws",
}


@dataclass(frozen=True)
class Asked:
    """What is to be drawn; empty for what is not said.

    Arguments:
    - `kind`: one of `KINDS`; left out, what fits the others.
    - `trials`: which are traced: indices, or the beginnings of digests.
    """

    x: str = ""
    y: str = ""
    z: str = ""
    by: str = ""
    kind: str = ""
    trials: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """One column of the table of trials, or one number of a column of lists."""

    text: str
    column: str
    place: int | None = None
    mean: bool = False
    """Whether it is the mean of an output's draws."""
    unit: str = ""

    @property
    def label(self) -> str:
        return f"mean of {self.text}" if self.mean else titled(self.text, self.unit)

    def of(self, frame: pandas.DataFrame) -> pandas.Series[Any]:
        """Its values, one a trial."""
        if self.place is None:
            return frame[self.column]
        place = self.place
        return frame[self.column].map(lambda cells: cells[place] if len(cells) > place else np.nan, na_action="ignore")


def plotted(results: Results, asked: Asked) -> Drawing:
    """Draw what was asked for; `facts` of the figure has the numbers in it.

    Raises `ConfigError` naming the option, with the near names, and where there is nothing to draw.
    """
    kind = asked.kind or _fitting(asked)
    if kind not in KINDS:
        raise ConfigError(f"--kind {kind}: there is no such figure", near(kind, KINDS))
    needs, draw = KINDS[kind]
    _check(asked, kind, needs)
    with styled():
        figure = drawing(*SIZE, margin=10)
        told = draw(results, asked, figure.subplots())
    said_of = {name: getattr(asked, name) for name in ("x", "y", "z", "by") if getattr(asked, name)}
    figure.facts = {"kind": told.pop("kind", kind), **said_of, **told}
    return figure


def file_name(facts: Mapping[str, Any]) -> str:
    """What a file with such a figure is called: `line-energy-scale-population`."""
    words = [str(facts[name]) for name in ("kind", "z", "y", "x", "by") if facts.get(name)]
    return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)


def plot_sheet(facts: Mapping[str, Any]) -> Sheet:
    """What was drawn, and where it stands."""
    words = [f"{name} {facts[name]}" for name in ("x", "y", "z", "by") if facts.get(name)]
    lines = {"of": number(facts["trials"], "trial"), "file": str(facts["file"])}
    if facts.get("left_out"):
        lines["left out"] = f"{number(facts['left_out'], 'trial')} without a number there"
    return Sheet(f"{facts['kind']}: {', '.join(words)}", lines)


# --- what is meant ---------------------------------------------------------------------------------


def _fitting(asked: Asked) -> str:
    if asked.z:
        return "heatmap"
    if asked.x == DRAW:
        return "trace"
    return "line" if asked.x and asked.y else "histogram"


def _check(asked: Asked, kind: str, needs: tuple[str, ...]) -> None:
    """Refuse options that a kind lacks, or has no use for."""
    for name in ("x", "y", "z", "by"):
        given = getattr(asked, name)
        if not given and name in needs:
            raise ConfigError(f"--kind {kind}: needs --{name}", f"such as {EXAMPLES[kind]}")
        if given and name not in needs and not (name == "by" and kind in ("line", "scatter", "histogram")):
            raise ConfigError(f"--{name} {given}: a {kind} has no use for it", f"such as {EXAMPLES[kind]}")
    if asked.trials and kind != "trace":
        raise ConfigError(f"--trial {asked.trials[0]}: a {kind} is of all trials", "choose some by --where")


def _wanted(results: Results, text: str, option: str) -> Wanted:
    """What a name means in the table of trials."""
    schema = results.schema("trials")
    element = ELEMENT.fullmatch(text)
    name, place = (element["name"], int(element["place"])) if element else (text, None)
    mean = name not in schema.names
    column = f"{name}.mean" if mean else name
    if column not in schema.names:
        _check_numeric(results, name, f"--{option} {text}")
        outputs = {one.rpartition(".")[0] for one in schema.names if one.endswith(".mean")}
        raise ConfigError(
            f"--{option} {text}: the trials have no column {name!r}", near(name, {*schema.names, *outputs})
        )
    if pa.types.is_list(schema.field(column).type) != (place is not None):
        if place is None:
            raise ConfigError(
                f"--{option} {text}: {name!r} is an array", f"name one of its numbers, such as '{name}[0]'"
            )
        raise ConfigError(f"--{option} {text}: {name!r} is a single number", f"write --{option} {name}")
    return Wanted(text, column, place, mean and results.plan.sampling.draws is not None, unit(results.plan, text))


def _check_numeric(results: Results, name: str, place: str) -> None:
    """Refuse an output that is no number."""
    other = next((one for one in results.plan.outputs() if one.name == name and not one.numeric), None)
    if other is not None:
        raise ConfigError(f"{place}: {name!r} is {other.kind}, of which there is no mean", "numbers can be drawn")


@dataclass(frozen=True)
class Rows:
    """Trials that have a number where one is wanted.

    Arguments:
    - `values`: (trials,) numbers; `series`: the level of `by` of each.
    - `left_out`: trials with data, but without a number there.
    """

    frame: pandas.DataFrame
    values: Row
    series: Levels
    left_out: int

    @property
    def facts(self) -> dict[str, Any]:
        return {"trials": len(self.values), "left_out": self.left_out}


def _rows(results: Results, asked: Asked, option: str, *others: Wanted | None) -> Rows:
    """The trials with a number in one option's column, with the columns of others.

    Raises `ConfigError` for words, and where there is no number at all.
    """
    wanted = _wanted(results, getattr(asked, option), option)
    by = _wanted(results, asked.by, "by") if asked.by else None
    frame = _frame(results, wanted, by, *others)
    found = _numbers(wanted.of(frame), wanted, option)
    there = np.isfinite(found)
    if not there.any():
        raise ConfigError(f"--{option} {wanted.text}: no trial has a number there", "NaN, or recorded by none of them")
    kept = frame[there]
    return Rows(kept, found[there], _divided(by, kept), int((~there).sum()))


def _divided(by: Wanted | None, frame: pandas.DataFrame) -> Levels:
    """The series that trials belong to; one without a name where nothing divides them."""
    if by is None:
        return Levels("", ("",), np.zeros(len(frame), np.int64))
    return levels(by.text, by.of(frame), SERIES_MOST, SERIES_BINS, by.unit)


def _frame(results: Results, *wanted: Wanted | None) -> pandas.DataFrame:
    """The columns that are wanted, of all trials with data. Raises `ConfigError` where there is none."""
    columns = dict.fromkeys(["trial", *(one.column for one in wanted if one is not None)])
    frame = results.trials.to_pandas(list(columns))
    if not len(frame):
        raise ConfigError("there is nothing to draw: no trial has data", f"staffa status {results.workspace.root}")
    return frame


def _numbers(values: pandas.Series[Any], wanted: Wanted, option: str) -> Row:
    """(trials,) numbers. Raises `ConfigError` for words."""
    from pandas.api.types import is_numeric_dtype

    values = values.astype(float) if wanted.place is not None else values
    if not is_numeric_dtype(values):
        raise ConfigError(f"--{option} {wanted.text}: these are no numbers", "words and times go with --x or --by")
    return np.asarray(values.to_numpy(np.float64, na_value=np.nan))


def _legend(axes: Axes, series: Levels) -> None:
    if series.name:
        axes.figure.legend(title=series.title, loc="outside right upper", alignment="left")


# --- kinds -----------------------------------------------------------------------------------------


def _line(results: Results, asked: Asked, axes: Axes) -> dict[str, Any]:
    """The mean of y at each level of x, with its spread; a scatter where x has too many values for that."""
    x, y = _wanted(results, asked.x, "x"), _wanted(results, asked.y, "y")
    name = f"{y.column.removesuffix('.mean')}.sd" if y.mean else ""
    inner = Wanted(asked.y, name, y.place) if name in results.schema("trials").names else None
    rows = _rows(results, asked, "y", x, inner)
    along = levels(asked.x, x.of(rows.frame), unit=x.unit)
    if along.edges is not None and not asked.kind:
        return {"kind": "scatter", **_scatter(results, asked, axes)}
    within = None if inner is None else _numbers(inner.of(rows.frame), inner, "y")
    found = list(_averages(along, rows.series, rows.values, within))
    _lines(axes, along, found)
    charts.noted(axes, SPREADS[found[0]["spread"]])
    axes.set_ylabel(y.label)
    _legend(axes, rows.series)
    return {**rows.facts, "series": found}


def _lines(axes: Axes, along: Levels, found: Sequence[Mapping[str, Any]]) -> None:
    """A line for each series; side by side, without a line, where x is words."""
    places = charts.along(axes, along)
    words = along.middles is None or bool(np.isnan(along.middles).any())
    for place, row in enumerate(found):
        middle, apart = (np.array([one[word] for one in row["points"]], float) for word in ("mean", "sd"))
        shift = 0.12 * (place - (len(found) - 1) / 2) if words else 0.0
        draw = charts.whiskers if words else charts.band
        draw(axes, places + shift, middle, apart, SERIES[place % len(SERIES)], row["by"] or None)
    charts.ruled(axes)


def _averages(along: Levels, series: Levels, values: Row, within: Row | None) -> Iterator[dict[str, Any]]:
    """Of each series the mean at each level, and its spread: over trials, or where there is one each, its draws."""
    cells = series.codes * len(along) + along.codes
    counts = np.bincount(cells, minlength=len(series) * len(along))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(cells, values, minlength=len(counts)) / counts
        sd = np.sqrt(np.bincount(cells, (values - means[cells]) ** 2, minlength=len(counts)) / (counts - 1))
    alone = within is not None and counts.max() == 1
    if within is not None and alone:
        sd = np.full(len(counts), np.nan)
        sd[cells] = within
    for place, label in enumerate(series.labels):
        own = slice(place * len(along), (place + 1) * len(along))
        rows = zip(along.labels, means[own], sd[own], counts[own], strict=True)
        points = [{"x": at, "mean": float(m), "sd": float(s), "trials": int(n)} for at, m, s, n in rows]
        yield {"by": label, "spread": "draws" if alone else "trials", "points": points}


def _scatter(results: Results, asked: Asked, axes: Axes) -> dict[str, Any]:
    """A point for each trial."""
    x, y = _wanted(results, asked.x, "x"), _wanted(results, asked.y, "y")
    rows = _rows(results, asked, "y", x)
    across = _numbers(x.of(rows.frame), x, "x")
    there = np.isfinite(across)
    charts.scaled(axes, across[there], rows.values[there])
    for place, label in enumerate(rows.series.labels):
        own = there & (rows.series.codes == place)
        if not own.any():
            continue
        charts.points(axes, across[own], rows.values[own], SERIES[place % len(SERIES)], label or None)
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    _legend(axes, rows.series)
    return {"trials": int(there.sum()), "left_out": rows.left_out + int((~there).sum())}


def _histogram(results: Results, asked: Asked, axes: Axes) -> dict[str, Any]:
    """How often trials have which values."""
    if asked.x.startswith(DRAWS):
        return _histogram_of_draws(results, asked, axes)
    rows = _rows(results, asked, "x")
    values, series, logarithmic = rows.values, rows.series, spans_decades(rows.values)
    edges = _edges(float(values.min()), float(values.max()), logarithmic)
    counts = [np.histogram(values[series.codes == place], edges)[0] for place in range(len(series))]
    axes.set_xscale("log" if logarithmic else "linear")
    axes.set_xlabel(_wanted(results, asked.x, "x").label)
    return {**rows.facts, **_counted(axes, edges, counts, series, "trials")}


def _histogram_of_draws(results: Results, asked: Asked, axes: Axes) -> dict[str, Any]:
    """Over all draws, some rows at a time: twice, since the ends have to be known first."""
    name, schema = asked.x.removeprefix(DRAWS), results.schema("draws")
    if name not in schema.names:
        raise ConfigError(f"--x {asked.x}: the draws have no column {name!r}", near(name, schema.names))
    if not (pa.types.is_floating(schema.field(name).type) or pa.types.is_integer(schema.field(name).type)):
        raise ConfigError(f"--x {asked.x}: {name!r} is no single number", "a histogram is of numbers")
    by = _wanted(results, asked.by, "by") if asked.by else None
    frame = _frame(results, by)
    series = _divided(by, frame)
    codes = frame.assign(code=series.codes).set_index("trial")["code"]
    low, high = _ends(results, name)
    edges, counts = _edges(low, high), [np.zeros(BINS, np.int64) for _ in range(len(series))]
    for batch in results.draws.to_batches(["trial", name]):
        values = np.asarray(batch.column(name).to_numpy(zero_copy_only=False), np.float64)
        own = batch.column("trial").to_pandas().map(codes).to_numpy()
        for place in range(len(series)):
            counts[place] += np.histogram(values[(own == place) & np.isfinite(values)], edges)[0]
    axes.set_xlabel(name)
    return {"trials": len(frame), **_counted(axes, edges, counts, series, "draws")}


def _ends(results: Results, name: str) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for batch in results.draws.to_batches([name]):
        values = np.asarray(batch.column(name).to_numpy(zero_copy_only=False), np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low > high:
        raise ConfigError(f"{DRAWS}{name}: there is no number to draw", f"staffa status {results.workspace.root}")
    return low, high


def _edges(low: float, high: float, logarithmic: bool = False) -> Row:
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)


def _counted(axes: Axes, edges: Row, counts: Sequence[Row], series: Levels, what: str) -> dict[str, Any]:
    """Draw counts between edges, one outline a series; returns them."""
    for place, (label, own) in enumerate(zip(series.labels, counts, strict=True)):
        if series.name:
            charts.outline(axes, edges, own, SERIES[place % len(SERIES)], label)
        else:
            charts.bars(axes, edges, own)
    charts.ruled(axes)
    charts.counted(axes, what)
    _legend(axes, series)
    rows = [{"by": label, "counts": own.tolist()} for label, own in zip(series.labels, counts, strict=True)]
    return {"edges": edges.tolist(), "series": rows}


def _heatmap(results: Results, asked: Asked, axes: Axes) -> dict[str, Any]:
    """The mean of z at each pair of levels of x and y."""
    x, y, z = (_wanted(results, getattr(asked, option), option) for option in ("x", "y", "z"))
    rows = _rows(results, asked, "z", x, y)
    across, upward = (levels(one.text, one.of(rows.frame), unit=one.unit) for one in (x, y))
    shape = (len(upward), len(across))
    cells = upward.codes * len(across) + across.codes
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (np.bincount(cells, rows.values, minlength=len(counts)) / counts).reshape(shape)
    limits = (float(np.nanmin(means)), float(np.nanmax(means)))
    words = [[said(mean) for mean in row] for row in means]
    charts.heat(axes, means, across, upward, colours=AMOUNT, limits=limits, words=words, title=z.label)
    charts.noted(axes, z.label)
    told = {"means": means.tolist(), "counts": counts.reshape(shape).tolist()}
    return {**rows.facts, "across": list(across.labels), "upward": list(upward.labels), **told}


def _trace(results: Results, asked: Asked, axes: Axes) -> dict[str, Any]:
    """Draws of some trials, one above the other, a line for each chain."""
    element = ELEMENT.fullmatch(asked.y)
    name, rows = element["name"] if element else asked.y, []
    for trial in _traced(results, asked, name):
        draws = trial.draws
        _check_numeric(results, name, f"--y {asked.y}")
        if name not in draws:
            raise ConfigError(f"--y {asked.y}: trial {trial.trial[:12]} records no {name!r}", near(name, draws))
        values = draws[name].expand_dims("chain") if "chain" not in draws[name].dims else draws[name]
        if DRAW not in values.dims:
            raise ConfigError(f"--y {asked.y}: {name!r} has no draws to trace", "sampling.draws is not set")
        own = values.transpose("chain", DRAW, ...).to_numpy()
        own = own.reshape(*own.shape[:2], -1)
        inside = int(element["place"]) if element else 0
        if bool(element) != (values.ndim > 2) or inside >= own.shape[2]:
            hint = f"such as --y '{name}[0]'" if values.ndim > 2 else f"write --y {name}"
            raise ConfigError(f"--y {asked.y}: {name!r} has {own.shape[2]} numbers a draw", hint)
        rows.append((_named(results, trial), trial.trial, own[:, :, inside]))
    _traces(axes, [(label, draws) for label, _, draws in rows], asked.y)
    return {"trials": len(rows), "series": [{"trial": trial, "draws": draws.tolist()} for _, trial, draws in rows]}


def _named(results: Results, trial: Any) -> str:
    """What stands above a trial's draws: `3f9a6c2b: rho = 0.9, temperature = 4 K`."""
    told = [(name, value) for name, value in trial.values.items() if name in results.plan.explored]
    words = ", ".join(f"{name} = {measured(said(value), unit(results.plan, name))}" for name, value in told[:NAMED])
    return f"{trial.trial[:12]}: {words}" if words else trial.trial[:12]


def _traces(axes: Axes, rows: Sequence[tuple[str, Row]], name: str) -> None:
    figure = axes.figure
    axes.remove()
    figure.set_figheight((90 + 110 * len(rows)) / 72)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (label, draws) in zip(panels, rows, strict=True):
        charts.traces(panel, np.arange(draws.shape[1]), draws)
        charts.noted(panel, label)
    panels[-1].set_xlabel(DRAW)
    figure.supylabel(name, fontsize=12)


def _traced(results: Results, asked: Asked, output: str) -> Iterator[Any]:
    for name in asked.trials or _some(results, output):
        trial = results.trial(name)
        if trial.outcome not in ("ok", "nan"):
            raise ConfigError(f"--trial {name}: it has no data: {trial.outcome}", f"staffa explain RUN {name}")
        yield trial


def _some(results: Results, name: str) -> list[str]:
    """A few trials from all over the campaign that record an output, sound ones if there are any."""
    frame = _frame(results, Wanted("outcome", "outcome"), Wanted("sampler", "sampler"))
    recording = {group.sampler for group in results.plan.groups if name in {one.name for one in group.outputs}}
    for narrower in (frame["sampler"].isin(recording), frame["outcome"] == "ok"):
        frame = frame[narrower[frame.index]] if narrower[frame.index].any() else frame
    names = frame["trial"].tolist()
    return [names[place] for place in np.unique(np.linspace(0, len(names) - 1, TRACES).astype(int))]


KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[Results, Asked, Axes], dict[str, Any]]]] = {
    "line": (("x", "y"), _line),
    "scatter": (("x", "y"), _scatter),
    "histogram": (("x",), _histogram),
    "heatmap": (("x", "y", "z"), _heatmap),
    "trace": (("x", "y"), _trace),
}
"""What each needs to be told, and who draws it."""
EXAMPLES = {
    "line": "--x scale --y energy --by sampler",
    "scatter": "--x scale --y energy --kind scatter",
    "histogram": "--x energy --by sampler, or --x draws.energy",
    "heatmap": "--x scale --y temperature --z energy",
    "trace": "--x draw --y energy --trial 0 --trial 7",
}
