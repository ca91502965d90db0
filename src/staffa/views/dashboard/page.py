"""The page itself: a Bokeh document that follows the pictures of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from bokeh.events import ClientReconnected, ConnectionLost
from bokeh.models import CustomJS, InlineStyleSheet
from bokeh.models.widgets import Div
from jinja2 import Environment, FileSystemLoader

from staffa.views.dashboard import sections
from staffa.views.dashboard.charts import MANY, Columns, Speed, Stacks, group_columns, worker_columns
from staffa.views.overview import readable
from staffa.views.verdict import GOOD, Verdict, verdict

Facts = Mapping[str, Any]

HERE = Path(__file__).parent
LOOK_SECONDS = 1.0
LONG_SECONDS = 5.0
"""How often long tables are made anew."""
TEXTS = ("head", "verdict", "tiles", "states", "failures", "lagging", "groups", "workers")
NOBODY = Verdict(GOOD, "No campaign has reported yet")


@dataclass
class Spent:
    """What the page costs the scheduler: seconds, and how often it looked."""

    seconds: float = 0.0
    looks: int = 0


SPENT = Spent()
"""Of all pages of this process; Prometheus is told."""


@dataclass
class Sheets:
    """The texts of one campaign's page, made once for all who look.

    Arguments:
    - `read`: the latest picture, None before there is one; `others`: of other campaigns.
    - `live`: bytes every worker has in memory and may have, by address.
    """

    read: Callable[[], Facts | None]
    live: Callable[[], Mapping[str, tuple[int, int]]]
    others: Callable[[], list[Facts]]
    texts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(TEXTS, ""))
    columns: dict[str, Columns] = field(default_factory=dict)
    trail: Facts | None = None
    title: str = "Staffa"
    _shown: Facts | None = None
    _long: float = 0.0
    """When the long tables were made."""

    def look(self, now: float) -> None:
        """Make what is due."""
        found = self.read()
        if found is None:
            self.texts["verdict"] = sections.headline(NOBODY)
            return
        self.texts["verdict"] = sections.headline(verdict(found, now))
        if found is not self._shown:
            self._shown = found
            self._short(found)
            if self._rows(found) <= MANY or not 0 <= now - self._long < LONG_SECONDS or found["over"]:
                self._long = now
                self._tables(found)

    @staticmethod
    def _rows(found: Facts) -> int:
        return max(len(found["workers"]), len(found["figures"].get("groups") or ()))

    def _short(self, found: Facts) -> None:
        self.texts["head"] = sections.head(found, self.others())
        self.trail = found["trail"]
        self.title = f"{sections.share(found)} % {found['campaign']} · Staffa"
        for name, make in (
            ("tiles", sections.tiles),
            ("states", sections.states),
            ("failures", sections.failures),
            ("lagging", sections.lagging),
        ):
            self.texts[name] = make(found)

    def _tables(self, found: Facts) -> None:
        self.texts["groups"] = sections.groups(found)
        self.texts["workers"] = sections.workers(found, self.live())
        self.columns["groups"] = group_columns(found["figures"].get("groups") or ())
        self.columns["workers"] = worker_columns(found["workers"])


class Page:
    """One document somebody has open."""

    def __init__(self, sheets: Sheets, doc: Any) -> None:
        style = InlineStyleSheet(css=looks())
        self.doc, self._sheets = doc, sheets
        self._texts = {name: _text(name, style) for name in TEXTS}
        self._speed = Speed()
        self._stacks = {
            "groups": Stacks("Progress of all groups", "group"),
            "workers": Stacks("What all workers do", "worker"),
        }
        self._speed.plot.name = "speed"
        for name, stacks in self._stacks.items():
            stacks.plot.name = f"all_{name}"
        self.refresh()
        for root in (*self._texts.values(), self._speed.plot, *(one.plot for one in self._stacks.values())):
            doc.add_root(root)

    def refresh(self) -> None:
        """Bring the document up to date: only what changed is sent."""
        began = time.perf_counter()
        sheets = self._sheets
        sheets.look(time.time())
        for name, div in self._texts.items():
            if div.text != sheets.texts[name]:
                div.text = sheets.texts[name]
        if self.doc.title != sheets.title:
            self.doc.title = sheets.title
        if sheets.trail is not None:
            self._speed.show(sheets.trail)
        for name, columns in sheets.columns.items():
            self._stacks[name].show(columns)
        SPENT.seconds += time.perf_counter() - began
        SPENT.looks += 1


OPEN: WeakSet[Page] = WeakSet()
"""Pages of this process that somebody looks at."""


def open_page(scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
    """Fill a document with the campaign that is asked for (`?run=`), or the one that reported last."""
    asked = _asked(doc)
    page = Page(sheets_of(scheduler, extra["key"], asked), doc)
    doc.template = templates().get_template("page.html")
    doc.template_variables.update({"pages": extra["pages"], "style": looks()})
    doc.add_periodic_callback(page.refresh, int(1000 * LOOK_SECONDS))
    # In words of its own: that the connection was lost is for most how a run ends.
    doc.config.notify_connection_status = False
    doc.js_on_event(ConnectionLost, CustomJS(code="document.body.classList.add('lost')"))
    doc.js_on_event(ClientReconnected, CustomJS(code="document.body.classList.remove('lost')"))
    OPEN.add(page)
    doc.on_session_destroyed(lambda context: OPEN.discard(page))


def sheets_of(scheduler: Any, key: str, asked: str = "") -> Sheets:
    """The sheets of a scheduler's campaign: the same for all who ask for it."""
    known = _SHEETS.setdefault(scheduler, {})
    if asked not in known:

        def pictures() -> list[Facts]:
            return readable(scheduler.task_metadata.get(key, {}))

        def read() -> Facts | None:
            return next((one for one in reversed(pictures()) if asked in ("", one["campaign"])), None)

        def others() -> list[Facts]:
            mine = read()
            return [one for one in pictures() if one is not mine]

        known[asked] = Sheets(read, lambda: memory_of(scheduler), others)
    return known[asked]


_SHEETS: WeakKeyDictionary[Any, dict[str, Sheets]] = WeakKeyDictionary()


def memory_of(scheduler: Any) -> dict[str, tuple[int, int]]:
    """Bytes each worker has in memory, as it told the scheduler with its last heartbeat, and may have."""
    return {
        address: (int(worker.metrics.get("memory") or 0), int(worker.memory_limit or 0))
        for address, worker in scheduler.workers.items()
    }


@cache
def looks() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


@cache
def templates() -> Environment:
    return Environment(loader=FileSystemLoader(HERE))  # what is shown was made by `sections`, and escaped there


def _asked(doc: Any) -> str:
    context = doc.session_context
    words = context.request.arguments.get("run", [b""]) if context is not None and context.request else [b""]
    return words[0].decode(errors="replace")


def _text(name: str, style: InlineStyleSheet) -> Div:
    return Div(name=name, text="", stylesheets=[style], sizing_mode="stretch_width", margin=0, disable_math=True)
