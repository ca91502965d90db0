"""The page's charts: trials a second over time, and one column for each of many groups or workers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure

from staffa.views.readings import flagged, number

Facts = Mapping[str, Any]
Columns = dict[str, list[Any]]

MANY = 24
"""So many rows can be read one by one; of more a chart shows all."""
COLOURS = {"done": "#12897a", "failed": "#d1491f", "issued": "#3b74d6"}
"""As in `page.css`: with enough contrast on white and on black."""
KINDS = tuple(COLOURS)


class Speed:
    """Trials a second, from the campaign's trail."""

    def __init__(self) -> None:
        self._step = 0.0
        self.source = ColumnDataSource({"at": [], "rate": []})
        self.plot = _plot("Trials per second over time", x_axis_type="datetime")
        self.plot.varea("at", 0, "rate", source=self.source, fill_color=COLOURS["done"], fill_alpha=0.25)
        line = self.plot.line("at", "rate", source=self.source, line_width=2, line_color=COLOURS["done"])
        tips = [("at", "@at{%H:%M:%S}"), ("trials/s", "@rate{0,0.[00]}")]
        self.plot.add_tools(HoverTool(renderers=[line], tooltips=tips, formatters={"@at": "datetime"}, mode="vline"))
        self.plot.y_range.start = 0
        self.plot.xaxis.ticker.desired_num_ticks = 4  # as many as a phone has room for

    def show(self, trail: Facts) -> None:
        """Add what is new of a trail; all of it where its steps have changed."""
        found, known = speeds(trail), self.source.data["at"]
        fresh = 0 if trail["step"] != self._step else sum(at <= (known[-1] if known else 0) for at in found["at"])
        self._step = trail["step"]
        if fresh == 0:
            self.source.data = found
        elif fresh < len(found["at"]):
            self.source.stream({name: values[fresh:] for name, values in found.items()})


def speeds(trail: Facts) -> Columns:
    """Trials settled a second up to each point, at milliseconds of the local clock, as Bokeh counts time."""
    at, settled = trail["at"], trail["settled"]
    rates = [
        round(max(after - before, 0) / max(end - start, 1e-3), 3)
        for before, after, start, end in zip(settled, settled[1:], at, at[1:], strict=False)
    ]
    return {"at": [1000 * (end + time.localtime(end).tm_gmtoff) for end in at[1:]], "rate": rates}


class Stacks:
    """A column for each of many things, filled from below: done, failed, issued."""

    def __init__(self, title: str, noun: str) -> None:
        self._noun = noun
        self.source = ColumnDataSource({name: [] for name in ("place", "name", "told", *KINDS)})
        self.plot = _plot(title, visible=False, x_range=(-0.5, 0.5), y_range=(0, 1))
        bars = self.plot.vbar_stack(KINDS, x="place", width=1.0, color=list(COLOURS.values()), source=self.source)
        self.plot.add_tools(HoverTool(renderers=bars, tooltips="<b>@name</b> @told", point_policy="follow_mouse"))
        self.plot.xaxis.ticker = []
        self.plot.xaxis.axis_label_text_font_style = "normal"
        self.plot.xaxis.axis_label_text_font_size = "13px"
        self.plot.xgrid.visible = False
        self.plot.yaxis.ticker = [0, 0.5, 1]
        self.plot.yaxis.major_label_overrides = {0: "0 %", 0.5: "50 %", 1: "100 %"}

    def show(self, found: Columns) -> None:
        """Show these; only cells that changed are sent."""
        known = self.source.data
        many = len(found["place"]) > MANY
        if self.plot.visible != many:
            self.plot.visible = many
        if not many:
            return
        if len(known["place"]) != len(found["place"]):
            self.source.data = found
            self.plot.x_range.end = len(found["place"]) - 0.5
            self.plot.xaxis.axis_label = f"{number(len(found['place']), self._noun)}, one column each"
            return
        changed = {
            name: [(place, value) for place, value in enumerate(values) if known[name][place] != value]
            for name, values in found.items()
        }
        changed = {name: cells for name, cells in changed.items() if cells}
        if changed:
            self.source.patch(changed)


def group_columns(groups: Sequence[Facts]) -> Columns:
    """Each group's share of trials that are done, flagged, in flight."""
    found = [(one, max(one["trials"], 1), sum(flagged(one["outcomes"]).values())) for one in groups]
    return {
        "place": list(range(len(found))),
        "name": [one["group"] for one, _, _ in found],
        "told": [f"{one['of']}: {one['settled']:,} of {one['trials']:,}" for one, _, _ in found],
        "done": [round((one["settled"] - flaws) / trials, 4) for one, trials, flaws in found],
        "failed": [round(flaws / trials, 4) for _, trials, flaws in found],
        "issued": [round(min(one["flying"], trials - one["settled"]) / trials, 4) for one, trials, _ in found],
    }


def worker_columns(workers: Sequence[Facts]) -> Columns:
    """The share of each worker's time that its device sampled, or compiled."""
    held = [max(one["held"], 1e-3) for one in workers]
    return {
        "place": list(range(len(workers))),
        "name": [str(one["name"]) for one in workers],
        "told": [
            f"on {one['node']}: {100 * one['idle'] / whole:.0f} % idle"
            for one, whole in zip(workers, held, strict=True)
        ],
        "done": [round(one["sampling"] / whole, 2) for one, whole in zip(workers, held, strict=True)],
        "failed": [0.0] * len(workers),
        "issued": [round(one["compiling"] / whole, 2) for one, whole in zip(workers, held, strict=True)],
    }


def _plot(title: str, **options: Any) -> Any:
    """A chart without decoration; what it shows stands in a table, too, for those who cannot see it."""
    plot = figure(
        height=170, sizing_mode="stretch_width", tools="", toolbar_location=None, output_backend="canvas",
        background_fill_color=None, border_fill_color=None, outline_line_color=None, min_border_left=48,
        margin=(0, 0, 10, 0), html_attributes={"role": "img", "aria-label": title}, **options,
    )  # fmt: skip
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_line_color = None
    return plot
