"""How long trials took, how fast they came, and what the time went into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.views.drawing import charts
from staffa.views.drawing.style import drawing, markup, styled
from staffa.views.levels import spans_decades
from staffa.views.readings import number, percent, span, speed, utc
from staffa.views.report.content import Exhibit, Finding, Listing, Section, Weight, listing
from staffa.views.report.course import Course
from staffa.views.report.evidence import Evidence
from staffa.views.usage import PARTS, hours, usage_facts

Row = npt.NDArray[Any]

BINS = 40
SHOWN, LISTED = 6, 12
"""Groups (or nodes) that have a histogram of their own, or a row of the table: those that took longest in all."""
TITLE = 62
KEPT = 500
MOMENTS = (12, 60)
"""Stretches that a run's time is divided into: one for every third batch, at least and at most."""
UNITS = (("days", 86400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
KINDS = ("queue", "compile", "initialize", "adapt", "discard", "sample", "write", "commit")
QUANTILES = {"median": 0.5, "p95": 0.95}
LOST = 0.1
"""Of what was held of the machines: a larger share thrown away is worth a word."""


def timing(evidence: Evidence) -> Section:
    """The section on time."""
    course = evidence.course
    durations = {by: _durations(evidence, by) for by in ("group", "node")}
    usage = usage_facts(evidence.workspace)["total"]
    facts = {
        "trials": {f"by_{by}": [_without_key(row) for row in rows[:KEPT]] for by, rows in durations.items()},
        "throughput": _throughput(course),
        "split": _split(evidence),
        "usage": usage,
    }
    if not course.settled:
        return Section("time", "Time", text=["No batch has settled yet."], facts=facts)
    shown: list[Listing | Exhibit] = [_throughput_figure(facts["throughput"])]
    shown += [*_split_figure(facts["split"]), *_duration_figures(evidence, durations)]
    shown += [*_split_listing(facts["split"]), *_usage_listing(usage), *_duration_listings(durations)]
    return Section("time", "Time", _findings(evidence, usage), _text(course), shown, (), facts)


def _without_key(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "key"}


def _text(course: Course) -> list[str]:
    tried = sum(count for _, count in course.settled)
    began = utc(course.drives[0].began) if course.drives else ""
    drives = f"{number(len(course.drives), 'driver')} at work for {span(course.active)} in all, the first from {began}."
    tail = f", {speed(tried / course.active)} a second of a driver's time" if course.active else ""
    return [f"{drives} Tried: {number(tried, 'trial')}{tail}."]


def _findings(evidence: Evidence, usage: Mapping[str, Any]) -> list[Finding]:
    held, lost = usage["worker_hours"]["held"], usage["worker_hours"]["lost"]
    if not held or lost / held < LOST:
        return []
    return [Finding(Weight.CARE, f"{percent(lost, held)} % of the workers' hours were thrown away (see staffa usage).")]


# --- durations -------------------------------------------------------------------------------------


def _durations(evidence: Evidence, by: str) -> list[dict[str, Any]]:
    """Of each group, or node, that tried trials: how many and how long, those that took longest in all first."""
    trials = evidence.trials[evidence.trials["seconds"].notna()]
    rows = []
    for key, own in trials.groupby(by, sort=True)["seconds"]:
        name = evidence.groups[int(key)] if by == "group" else str(key) or "not recorded"
        quantiles = {word: float(own.quantile(share)) for word, share in QUANTILES.items()}
        row = {"name": name, "trials": len(own), **quantiles, "longest": float(own.max()), "total": float(own.sum())}
        rows.append({**row, "key": key})
    return sorted(rows, key=lambda row: -row["total"])


def _duration_figures(evidence: Evidence, rows: Mapping[str, list[dict[str, Any]]]) -> Iterator[Exhibit]:
    seconds = evidence.trials["seconds"].to_numpy()
    for by, found in rows.items():
        if not found or (by == "node" and len(found) == 1):
            continue  # of one node it is the same as of all groups
        keys = evidence.trials[by].to_numpy()
        series = [(row["name"], seconds[keys == row["key"]]) for row in found[:SHOWN]]
        yield _histogram(by, series, found)


def _duration_listings(rows: Mapping[str, list[dict[str, Any]]]) -> Iterator[Listing]:
    for by, found in rows.items():
        words = (*QUANTILES, "longest", "total")
        cells = [(row["name"], f"{row['trials']:,}", *(_short(row[word]) for word in words)) for row in found]
        columns = (by, "trials", "median", "95 %", "longest", "in all")
        if cells:
            yield listing(f"Device time of a trial, by {by}", columns, cells, columns[1:], LISTED)


def _histogram(by: str, series: Sequence[tuple[str, Row]], rows: Sequence[Mapping[str, Any]]) -> Exhibit:
    own = [(name, values[np.isfinite(values)]) for name, values in series]
    edges = _edges(np.concatenate([values for _, values in own]))
    with styled():
        figure = drawing(420, 90 + 78 * len(own))
        panels = np.atleast_1d(figure.subplots(len(own), 1, sharex=True))
        for panel, (name, values) in zip(panels, own, strict=True):
            charts.bars(panel, edges, np.histogram(values, edges)[0])
            panel.set_title(name if len(name) <= TITLE else f"{name[: TITLE - 1]}…", fontsize=11)
            charts.counted(panel, "")
            panel.locator_params(axis="y", nbins=3, integer=True)
        if spans_decades(edges):
            panels[-1].set_xscale("log")
        panels[-1].set_xlabel("device seconds of a trial")
        figure.supylabel("trials", fontsize=12)
        hidden = len(rows) - len(own)
        rest = f" The {len(own)} that took longest in all; {hidden} more are in the table." if hidden else ""
        return Exhibit(
            f"How long trials took, by {by}.{rest}", markup(figure, f"durations-{by}", _durations_seen(by, rows))
        )


def _durations_seen(by: str, rows: Sequence[Mapping[str, Any]]) -> str:
    longest, shortest = (choose(rows, key=lambda row: row["median"]) for choose in (max, min))
    text = f"Histograms of the device time of a trial for {number(len(rows), by)}: the "
    if len(rows) == 1:
        return f"{text}median of {longest['name']} is {_short(longest['median'])}."
    text += f"longest median is {_short(longest['median'])} ({longest['name']}), "
    return f"{text}the shortest {_short(shortest['median'])} ({shortest['name']})."


def _edges(values: Row) -> Row:
    low, high = float(values.min()), float(values.max())
    if spans_decades(values):
        return np.geomspace(low, high, BINS + 1)
    return np.linspace(low, high, BINS + 1) if high > low else np.linspace(0, 2 * high or 1.0, BINS + 1)


def _short(seconds: float) -> str:
    """A time that may be far below a second."""
    for size, unit in ((1e-3, "µs"), (1.0, "ms")):
        if seconds < size:
            return f"{seconds / size * 1000:.3g} {unit}"
    return span(seconds) if seconds >= 60 else f"{seconds:.3g} s"


# --- throughput ------------------------------------------------------------------------------------


def _throughput(course: Course) -> dict[str, Any]:
    """Trials a second in stretches of equal length since the first driver began."""
    if not course.settled:
        return {}
    at, counts = (np.array(column, float) for column in zip(*course.settled, strict=True))
    began = course.drives[0].began if course.drives else float(at.min())
    end = max([float(at.max()), *(drive.last for drive in course.drives)])
    count = min(max(len(at) // 3, MOMENTS[0]), MOMENTS[1])
    edges = np.linspace(began, max(end, began + 1e-3), count + 1)
    trials, _ = np.histogram(at, edges, weights=counts)
    return {
        "began": began,
        "edges": (edges - began).tolist(),
        "per_second": (trials / np.diff(edges)).tolist(),
        "drivers": [drive.began - began for drive in course.drives],
    }


def _throughput_figure(facts: Mapping[str, Any]) -> Exhibit:
    edges, found = np.array(facts["edges"]), np.array(facts["per_second"])
    unit, size = next((unit, size) for unit, size in UNITS if edges[-1] >= 2 * size or size == 1)
    with styled():
        figure = drawing(420, 230)
        axes = figure.subplots()
        charts.area(axes, edges / size, found)
        charts.ruled(axes)
        for at in facts["drivers"]:
            charts.moment(axes, at / size)
        axes.set_xlabel(f"{unit} since the first driver began")
        charts.counted(axes, "trials a second")
        mean = float((found * np.diff(edges)).sum() / edges[-1])
        alt = f"Trials settled a second over {span(edges[-1])}: at most {speed(found.max())}, on average {speed(mean)}."
        caption = "Trials settled a second, in stretches of equal length. Dotted: a driver began."
        return Exhibit(caption, markup(figure, "throughput", alt))


# --- split -----------------------------------------------------------------------------------------


def _split(evidence: Evidence) -> dict[str, Any]:
    """Seconds of batches by kind: in all, of each group, of each node."""
    whole, groups, nodes = Counter[str](), dict[str, Counter[str]](), dict[str, Counter[str]]()
    for (group, node), spent in evidence.course.spent.items():
        name = evidence.groups[group] if group < len(evidence.groups) else f"g{group}"
        for found in (whole, groups.setdefault(name, Counter()), nodes.setdefault(node or "not recorded", Counter())):
            found.update(spent)
    return {"total": _known(whole), "by_group": _most(groups), "by_node": _most(nodes)}


def _known(spent: Mapping[str, float]) -> dict[str, float]:
    return {kind: round(spent[kind], 6) for kind in KINDS if spent.get(kind)}


def _most(found: Mapping[str, Counter[str]]) -> dict[str, dict[str, float]]:
    longest = sorted(found, key=lambda name: -sum(found[name].values()))
    return {name: _known(found[name]) for name in longest[:KEPT]}


def _split_figure(split: Mapping[str, Any]) -> Iterator[Exhibit]:
    whole = split["total"]
    if not whole:
        return
    found = split["by_group"] if len(split["by_group"]) > 1 else split["by_node"]
    chosen = dict(list(found.items())[:SHOWN]) if len(found) > 1 else {}
    shares = [_shares(spent) for spent in (whole, *chosen.values())]
    amounts = {kind: np.array([100 * share.get(kind, 0.0) for share in shares]) for kind in whole}
    with styled():
        figure = drawing(420, 120 + 30 * len(shares))
        axes = figure.subplots()
        charts.stacked(
            axes, ["all", *(name.partition(":")[0] for name in chosen)], amounts, "share of batches' time, %"
        )
        figure.legend(loc="outside upper left", ncols=4, handlelength=1, columnspacing=1)
        largest = max(whole, key=lambda kind: whole[kind])
        alt = f"What batches' time went into: most into {largest}, {100 * shares[0][largest]:.0f} %."
        caption = (
            "What batches' time went into. Queue is time behind other batches of the same worker, while these "
            "compute; writing goes on beside the next batch's sampling."
        )
        yield Exhibit(caption, markup(figure, "split", alt))


def _split_listing(split: Mapping[str, Any]) -> Iterator[Listing]:
    whole = split["total"]
    shares = _shares(whole)
    cells = [(kind, _short(seconds), f"{100 * shares[kind]:.1f} %") for kind, seconds in whole.items()]
    if cells:
        yield listing("Batches' time by kind", ("kind", "time", "share"), cells, ("time", "share"))


def _shares(spent: Mapping[str, float]) -> dict[str, float]:
    total = sum(spent.values()) or 1.0
    return {kind: seconds / total for kind, seconds in spent.items()}


def _usage_listing(usage: Mapping[str, Any]) -> Iterator[Listing]:
    held = usage["worker_hours"]
    if not usage["workers"]:
        return
    units = [("worker-hours", "worker_hours"), ("node-hours", "node_hours"), ("GPU-hours", "gpu_hours")]
    names = [name for name in ("held", *PARTS) if held.get(name)]
    rows = [(word, *(hours(usage[unit][name]) for name in names)) for word, unit in units if unit in usage]
    heads = [name.replace("_", " ") for name in names]
    yield listing("What was held of the machines, and what became of it", ("unit", *heads), rows, heads)
