"""Watching a run: one listener, three displays.

A terminal gets a bar, a notebook a widget, anything else plain lines, at most one every ten
seconds. All of them show the same readings (`staffa.views.readings`) and the same notices:
what fails, what is given up, which workers are lost, as it happens.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from staffa.views.readings import number, readings, sentence, span, tunnel
from staffa.views.sheet import one_line

Event = Mapping[str, Any]
Listener = Callable[[Event], None]

LINE_SECONDS = 10.0
WIDGET_SECONDS = 0.5
NOTICES = 8
"""Notices shown within `LINE_SECONDS`; the others are counted. A model that fails everywhere must
not bury the numbers."""
WIDTH = 160
"""Longest notice, in characters; `staffa explain` tells the rest."""


class Display(Protocol):
    """Where figures and notices are shown."""

    def figures(self, figures: Event) -> None: ...

    def notice(self, text: str) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def follow(trials: int, root: Path, progress: bool | None = None, every: float = LINE_SECONDS) -> Iterator[Listener]:
    """Show a run while the block lasts; yields what takes its events.

    Arguments:
    - `trials`: how many there are in all.
    - `root`: the campaign's folder, for the titles.
    - `progress`: False shows nothing; None and True choose the display that fits.
    - `every`: seconds between plain lines.
    """
    if progress is False:
        yield lambda event: None
        return
    display = _chosen(trials, root, every)
    try:
        yield _Reporter(display)
    finally:
        display.close()


def _chosen(trials: int, root: Path, every: float) -> Display:
    if _in_notebook() and importlib.util.find_spec("ipywidgets") is not None:
        return WidgetDisplay(trials, root)
    if sys.stdout.isatty():
        return RichDisplay(trials, root)
    return PlainDisplay(trials, root, every)


def _in_notebook() -> bool:
    # Looked up, never imported: outside of a notebook IPython is not there.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Reporter:
    """Sorts events into figures and notices, and keeps the notices few."""

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._stopping = False
        self._shown = self._hidden = 0
        self._since = clock()

    def __call__(self, event: Event) -> None:
        if event["event"] == "figures":
            self._figures(event)
            return
        for text in notices(event):
            self._notice(text)

    def _figures(self, figures: Event) -> None:
        if figures.get("stopping") in ("interrupted", "stopped") and not self._stopping:
            self._stopping = True
            self._display.notice(stopping(figures))
        self._renew()
        self._display.figures(figures)

    def _notice(self, text: str) -> None:
        self._renew()
        if self._shown < NOTICES:
            self._shown += 1
            self._display.notice(one_line(text, WIDTH))
        else:
            self._hidden += 1

    def _renew(self) -> None:
        now = self._clock()
        if now - self._since < LINE_SECONDS:
            return
        if self._hidden:
            self._display.notice(f"… and {number(self._hidden, 'notice')} more of the last seconds")
        self._shown, self._hidden, self._since = 0, 0, now


_ENDINGS = {"raised": "failed", "timeout": "ran out of time", "killed": "took its process down"}


def stopping(figures: Event) -> str:
    """What is said while a run comes to its end early."""
    asked = " (asked from another shell)" if figures.get("stopping") == "stopped" else ""
    flying = int(figures.get("flying", 0))
    rest = f"letting {number(flying, 'batch')} in flight commit; " if flying else ""
    return f"stopping{asked}: {rest}Ctrl-C again leaves at once"


def notices(event: Event) -> Iterator[str]:
    """What an event is worth saying at once; most are worth nothing."""
    tell = _NOTICES.get(event["event"])
    if tell is not None:
        yield from tell(event)


def _started(event: Event) -> Iterator[str]:
    verb = "resumed" if event.get("resumed") else "started"
    taken = f" (port {event['port_taken']} is taken)" if event.get("port_taken") else ""
    dashboard = f", dashboard {event['dashboard']}{taken}" if event.get("dashboard") else ""
    yield f"{verb} with {number(int(event.get('workers', 0)), 'worker')}{dashboard}"
    way = tunnel(event, str(event.get("host") or ""))
    if way:
        yield f"the dashboard from your desk: {way}"


def _failed(event: Event) -> Iterator[str]:
    trials: dict[tuple[str, str], list[str]] = {}
    for lane in event.get("failed", ()):
        trials.setdefault((lane["outcome"], lane.get("message", "")), []).append(lane["trial"])
    for (outcome, message), found in trials.items():
        which = f"trial {found[0][:8]}" if len(found) == 1 else f"{number(len(found), 'trial')} ({found[0][:8]}, …)"
        yield f"{which} of {event['batch']} {_ENDINGS.get(outcome, outcome)}{': ' * bool(message)}{message}"


def _retried(event: Event) -> Iterator[str]:
    wait = max(round(float(event["due"]) - float(event["at"])), 0)
    yield f"{number(len(event['lanes']), 'trial')} of {event['batch']} will be tried again in {wait} s"


def _quarantined(event: Event) -> Iterator[str]:
    tries = number(int(event["attempts"]), "try")
    yield f"trial {event['trial'][:8]} was given up after {tries}"


def _lost(event: Event) -> Iterator[str]:
    charged = "counted as a failed attempt" if event.get("charged") else "issued again"
    yield f"batch {event['batch']} was lost: {event['reason']} ({charged})"


def _damaged(event: Event) -> Iterator[str]:
    yield f"batch {event['batch']} is damaged on disk ({', '.join(event['outputs'])}); it is computed again"


def _budget_reached(event: Event) -> Iterator[str]:
    spent = ", ".join(f"{amount:.3g} {unit.replace('_', ' ')}" for unit, amount in event["spent"].items())
    yield f"the budget is reached ({spent}): nothing more is issued"


def _paused(event: Event) -> Iterator[str]:
    yield f"paused: {event['reason']}"


def _continued(_: Event) -> Iterator[str]:
    yield "the disk takes data again; continued"


def _left(event: Event) -> Iterator[str]:
    # Walltime, scancel and the like happen all the time, and cost nobody a try.
    if not event.get("expected"):
        yield f"worker {event['name']} left: {event['reason']}"


def _pool_paused(event: Event) -> Iterator[str]:
    yield f"pool {event['pool']} is paused: {event['why']}"


def _excluded(event: Event) -> Iterator[str]:
    count = number(int(event["failures"]), "job")
    yield f"pool {event['pool']}: node {event['node']} is left out, {count} ended there before a worker came"


def _held(event: Event) -> Iterator[str]:
    yield f"pool {event['pool']}: SLURM holds job {event['job']} ({event['reason']}); it is replaced"


def _troubled(event: Event) -> Iterator[str]:
    pool = f"pool {event['pool']}: " if event.get("pool") else ""
    yield f"{pool}{_TROUBLES[event['event']]}: {event['why']}"


def _answers(event: Event) -> Iterator[str]:
    yield f"SLURM answers again, after {span(float(event['seconds']))}"


_TROUBLES = {
    "squeue_silent": "SLURM does not answer; running jobs go on",
    "queue_full": "the queue takes no more jobs for now",
    "submit_failing": "jobs could not be handed in; tried again",
    "command_failed": "a command of SLURM failed; tried again",
}


_NOTICES: Mapping[str, Callable[[Event], Iterator[str]]] = {
    "run_started": _started,
    "batch_settled": _failed,
    "retry_planned": _retried,
    "quarantined": _quarantined,
    "trial_failed": lambda event: iter([f"trial {event['trial']} failed: {event['why']}"]),
    "batch_lost": _lost,
    "batch_damaged": _damaged,
    "paused": _paused,
    "budget_reached": _budget_reached,
    "grown": lambda event: iter([f"grown by {number(event['added'], 'trial')} to {event['trials']:,}"]),
    "hook_failed": lambda event: iter([f"hook {event['hook']} failed: {event['why']}"]),
    "alert_failed": lambda event: iter([f"alert {event['alert']} could not be sent: {event['why']}"]),
    "tracker_failed": lambda event: iter([f"tracker {event['tracker']} failed: {event['why']}"]),
    "continued": _continued,
    "worker_left": _left,
    "pool_paused": _pool_paused,
    "pool_continued": lambda event: iter([f"pool {event['pool']} goes on"]),
    "node_excluded": _excluded,
    "job_held": _held,
    **dict.fromkeys(_TROUBLES, _troubled),
    "squeue_answers": _answers,
}


class PlainDisplay:
    """Lines on standard output, for logs and pipes."""

    def __init__(
        self,
        trials: int,
        root: Path,
        every: float = LINE_SECONDS,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._clock, self._every = write or _write_line, clock, every
        self._last: dict[str, Any] = {}
        self._said = ""
        self._due = clock() + every
        self._write(f"{root}: {number(trials, 'trial')}")

    def figures(self, figures: Event) -> None:
        first, self._last = not self._last, dict(figures)
        if (first and figures.get("settled")) or self._clock() >= self._due:
            self._say()

    def notice(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        if self._last:
            self._say()

    def _say(self) -> None:
        self._due = self._clock() + self._every
        text = sentence(self._last)
        if text != self._said:
            self._said = text
            self._write(text)


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


BAR, SHORT, GAP = 40, 12, 2
"""Columns of the bar at most, and at least beside its numbers; and between all of them."""
_REST = ("best", "outcomes", "retrying", "parts", "lagging", "pools", "paused")


class RichDisplay:
    """A bar and a line of readings at the bottom of a terminal, notices above."""

    def __init__(self, trials: int, root: Path) -> None:
        from rich import get_console
        from rich.live import Live
        from rich.progress_bar import ProgressBar

        self._title = str(root)
        self._bar = ProgressBar(total=max(trials, 1), completed=0, width=BAR)
        self._figures: Event = {"trials": trials}
        self._console = get_console()
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4)
        self._live.start()

    def figures(self, figures: Event) -> None:
        # Called many times a second: the display redraws at its own pace.
        self._figures = figures

    def notice(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        found = readings(self._figures)
        rest = [found[name] for name in _REST if name in found]
        lines: list[Any] = [Text(self._title, style="bold"), *self._head(found)]
        if rest:
            lines.append(Text(", ".join(rest)))
        if self._figures.get("dashboard"):
            lines.append(Text(str(self._figures["dashboard"]), style="dim"))
        return Group(*lines)

    def _head(self, found: Mapping[str, str]) -> Iterator[Any]:
        """The bar with its numbers beside it, or below it where the terminal is narrow."""
        from rich.table import Table
        from rich.text import Text

        texts = [found[name] for name in ("percent", "trials", "rate", "eta") if name in found]
        width = self._console.width
        left = width - sum(len(text) + GAP for text in texts)
        self._bar.width = min(BAR, left if left >= SHORT else width)
        self._bar.update(int(self._figures.get("settled", 0)))
        head = Table.grid(padding=(0, GAP))
        head.add_row(self._bar, *(map(Text, texts) if left >= SHORT else ()))
        yield head
        if left < SHORT:
            yield Text(", ".join(texts))


def proxied(link: str) -> str:
    """A dashboard's link as a notebook's browser can follow it: through jupyter-server-proxy, where that is installed.

    Links that Dask was told how to write (`distributed.dashboard.link`) are left alone.
    """
    found = re.match(r"https?://(?:127\.0\.0\.1|localhost):(\d+)(/.*)", link)
    if found is None or importlib.util.find_spec("jupyter_server_proxy") is None:
        return link
    # A hub says below which path a user's server answers; one's own answers at the root.
    return f"{os.environ.get('JUPYTERHUB_SERVICE_PREFIX', '').rstrip('/')}/proxy/{found[1]}{found[2]}"


class WidgetDisplay:
    """A bar and a line under it in a notebook; notices are kept in a short list."""

    def __init__(self, trials: int, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        import ipywidgets
        from IPython.display import display

        self._clock, self._due = clock, 0.0
        self._last: Event = {}
        self._texts: list[str] = []
        self.bar = ipywidgets.IntProgress(value=0, max=max(trials, 1), description="trials")
        self.line = ipywidgets.HTML(f"{root}: {number(trials, 'trial')}")
        self.notes = ipywidgets.HTML()
        self.box = ipywidgets.VBox([ipywidgets.HBox([self.bar, self.line]), self.notes])
        display(self.box)

    def figures(self, figures: Event) -> None:
        # Each change is a message to the browser: a few a second are enough.
        self._last = figures
        if self._clock() >= self._due:
            self._due = self._clock() + WIDGET_SECONDS
            self._show()

    def notice(self, text: str) -> None:
        import html

        self._texts = [*self._texts, html.escape(text)][-NOTICES:]
        self.notes.value = "<br>".join(self._texts)

    def close(self) -> None:
        if self._last:
            self._show()
            whole = self._last.get("settled") == self._last.get("trials")
            self.bar.bar_style = "success" if whole else "warning"

    def _show(self) -> None:
        import html

        self.bar.value = int(self._last.get("settled", 0))
        link = html.escape(proxied(str(self._last.get("dashboard") or "")), quote=True)
        dashboard = f' · <a href="{link}" target="_blank">dashboard</a>' if link else ""
        self.line.value = html.escape(sentence(self._last)) + dashboard
