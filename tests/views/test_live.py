"""What is shown while a campaign runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from staffa.views import live
from staffa.views.live import PlainDisplay, RichDisplay, WidgetDisplay, _Reporter, follow
from staffa.views.readings import number, percent, readings, sentence, size, span
from staffa.views.sheet import Grid, Sheet, one_line, plain, show

ROOT = Path("runs/v1.0_walk")


def figures(**changes: Any) -> dict[str, Any]:
    known = {
        "event": "figures", "trials": 1000, "settled": 250, "outcomes": {"ok": 247, "nan": 2, "raised": 1},
        "rate": 125.0, "eta": 6.0, "parts": 8, "sealed": 2, "flying": 3, "retrying": 0, "paused": False, "stopping": "",
        "dashboard": "http://127.0.0.1:8787/status",
    }  # fmt: skip
    return {**known, **changes}


def settled(count: int, outcome: str = "raised", message: str = "ValueError: no") -> dict[str, Any]:
    failed = [{"lane": i, "trial": f"{i:032x}", "outcome": outcome, "message": message} for i in range(count)]
    return {"event": "batch_settled", "batch": "g0/3", "attempt": 1, "failed": failed}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A display that only remembers."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.notices: list[str] = []

    def figures(self, figures: Any) -> None:
        self.seen.append(figures)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def close(self) -> None: ...


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reporter(screen: Screen, clock: Clock) -> _Reporter:
    return _Reporter(screen, clock)


def test_sentence() -> None:
    text = "250/1,000 trials, 25 %, 125 trials/s, ETA 6 s, nan 2, raised 1, parts 2/8 sealed"
    assert sentence(figures()) == text
    assert sentence({"trials": 10}) == "0/10 trials, 0 %"
    assert "ETA" not in sentence(figures(settled=1000)) and "trials/s" not in sentence(figures(settled=1000))
    assert "ETA" not in sentence(figures(stopping="interrupted"))
    assert readings(figures(paused=True))["paused"].startswith("PAUSED")


def test_words() -> None:
    spans = {0.04: "0 s", 1.0: "1 s", 4.26: "4.3 s", 59.6: "1 min", 75: "1 min 15 s", 7260: "2 h 1 min", 9e4: "1 d 1 h"}
    assert {seconds: span(seconds) for seconds in spans} == spans
    assert [size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [number(1, "batch"), number(2048, "batch"), number(3, "try")] == ["1 batch", "2,048 batches", "3 tries"]
    assert [percent(999, 1000), percent(1000, 1000), percent(0, 0)] == [99, 100, 100]


def test_failures_are_told_once_a_reason(reporter: _Reporter, screen: Screen) -> None:
    event = settled(3)
    event["failed"] += settled(1, "timeout", "")["failed"]
    reporter(event)
    assert screen.notices == [
        "3 trials (00000000, …) of g0/3 failed: ValueError: no",
        "trial 00000000 of g0/3 ran out of time",
    ]


def test_notices(reporter: _Reporter, screen: Screen) -> None:
    trial = "a" * 32
    for event in (
        {"event": "run_started", "workers": 2, "resumed": True, "dashboard": "http://x/status"},
        {"event": "batch_lost", "batch": "g1/0", "reason": "the worker died", "charged": True},
        {"event": "retry_planned", "batch": "g1/0", "lanes": [1, 2], "attempt": 2, "due": 130.0, "at": 100.0},
        {"event": "quarantined", "trial": trial, "attempts": 4, "outcome": "raised", "message": "no", "batch": "g1/0"},
        {"event": "batch_damaged", "batch": "g1/0", "outputs": ["x"]},
        {"event": "paused", "reason": "No space left on device"},
        {"event": "continued"},
        {"event": "batch_issued", "batch": "g1/0"},
        {"event": "something of a later version"},
    ):
        reporter(event)
    assert screen.notices == [
        "resumed with 2 workers, dashboard http://x/status",
        "batch g1/0 was lost: the worker died (counted as a failed attempt)",
        "2 trials of g1/0 will be tried again in 30 s",
        "trial aaaaaaaa was given up after 4 tries",
        "batch g1/0 is damaged on disk (x); it is computed again",
        "paused: No space left on device",
        "the disk takes data again; continued",
    ]


def test_long_messages_are_shortened(reporter: _Reporter, screen: Screen) -> None:
    reporter(settled(1, message="ValueError: " + "x" * 1000 + "\nsecond line"))
    assert len(screen.notices[0]) == live.WIDTH and screen.notices[0].endswith("…")
    assert one_line("a\nb") == "a b"


def test_a_flood_is_counted(reporter: _Reporter, screen: Screen, clock: Clock) -> None:
    for _ in range(100):
        reporter(settled(1))
    assert len(screen.notices) == live.NOTICES
    clock.now = 11.0
    reporter(figures())
    assert screen.notices[-1] == f"… and {100 - live.NOTICES} notices more of the last seconds"
    reporter(settled(1))
    assert len(screen.notices) == live.NOTICES + 2


def test_stopping_is_said_once(reporter: _Reporter, screen: Screen) -> None:
    reporter(figures())
    reporter(figures(stopping="interrupted"))
    reporter(figures(stopping="interrupted", flying=1))
    assert screen.notices == ["stopping: letting 3 batches in flight commit; Ctrl-C again leaves at once"]
    assert "another shell" in live.stopping(figures(stopping="stopped"))


def test_plain_lines_are_few(clock: Clock) -> None:
    lines: list[str] = []
    display = PlainDisplay(1000, ROOT, write=lines.append, clock=clock)
    for tick in range(301):
        clock.now = tick / 10
        display.figures(figures(settled=tick))
    assert len(lines) == 4, "one at the start, then one every ten seconds"
    display.figures(figures(settled=1000))
    display.close()
    assert lines[0] == "runs/v1.0_walk: 1,000 trials"
    assert lines[-1].startswith("1,000/1,000 trials, 100 %")


def test_plain_says_where_a_resumed_run_begins(clock: Clock) -> None:
    lines: list[str] = []
    display = PlainDisplay(1000, ROOT, write=lines.append, clock=clock)
    display.figures(figures())
    display.close()
    assert len(lines) == 2 and lines[1].startswith("250/1,000 trials"), "the same is not said twice"


def test_follow_chooses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with follow(10, ROOT, False) as listen:
        listen(figures())
    assert capsys.readouterr().out == ""
    with follow(10, ROOT, None) as listen:
        listen(figures(trials=10, settled=10))
    assert capsys.readouterr().out.splitlines()[0] == "runs/v1.0_walk: 10 trials"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(live._chosen(10, ROOT, 1.0), RichDisplay)


class _Shell:
    pass


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """As if a kernel ran us; what is displayed is collected."""
    pytest.importorskip("ipywidgets")
    import IPython
    import IPython.display

    shown: list[Any] = []
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    yield shown


def test_widget(notebook: list[Any], clock: Clock) -> None:
    display = live._chosen(1000, ROOT, 1.0)
    assert isinstance(display, WidgetDisplay) and notebook == [display.box]
    display.figures(figures())
    assert display.bar.value == 250 and "125 trials/s" in display.line.value
    assert 'href="http://127.0.0.1:8787/status"' in display.line.value
    display.figures(figures(settled=300))
    assert display.bar.value == 250, "a few updates a second are enough"
    display.notice("<b>trial</b> failed")
    assert display.notes.value == "&lt;b&gt;trial&lt;/b&gt; failed"
    display.figures(figures(settled=1000))
    display.close()
    assert (display.bar.value, display.bar.bar_style) == (1000, "success")


@pytest.mark.parametrize(
    ("installed", "prefix", "link", "seen"),
    [
        (False, "", "http://127.0.0.1:8787/status", "http://127.0.0.1:8787/status"),
        (True, None, "http://127.0.0.1:8787/staffa", "/proxy/8787/staffa"),
        (True, "/user/me/", "http://localhost:38123/status", "/user/me/proxy/38123/status"),
        (True, "/user/me/", "/hub/elsewhere/proxy/8787/status", "/hub/elsewhere/proxy/8787/status"),
        (True, None, "http://node7:8787/status", "http://node7:8787/status"),
    ],
)
def test_the_dashboard_through_jupyter_server_proxy(
    notebook: list[Any],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    prefix: str | None,
    link: str,
    seen: str,
) -> None:
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    if prefix is not None:
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", prefix)
    display = WidgetDisplay(1000, ROOT, clock)
    display.figures(figures(dashboard=link))
    assert f'href="{seen}"' in display.line.value


def test_no_ipywidgets_falls_back_to_lines(notebook: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None)
    assert isinstance(live._chosen(10, ROOT, 1.0), PlainDisplay)


def test_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich._console", None, raising=False)
    with follow(1000, ROOT, True) as listen:
        listen({"event": "run_started", "workers": 2, "resumed": False})
        listen(figures(outcomes={"raised": 1}))
        listen(settled(1, message="[red]odd[/red] markup"))
    text = out.getvalue()
    for piece in ("runs/v1.0_walk", "250/1,000", "125 trials/s", "raised 1", "[red]odd[/red] markup", "8787/status"):
        assert piece in text, piece


@pytest.mark.parametrize(("width", "beside"), [(44, False), (80, True), (200, True)])
def test_the_bar_fits_its_terminal(width: int, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    out = io.StringIO()
    monkeypatch.setattr("rich._console", Console(file=out, width=width, force_terminal=True, color_system=None))
    display = RichDisplay(1000, ROOT)
    display.figures(figures(lagging={"slow": 2, "stuck": 1, "batches": []}))
    display.close()
    last = out.getvalue().split("runs/v1.0_walk")[-1].splitlines()
    assert max(len(line) for line in last) <= width
    assert ("25 %  250/1,000 trials  125 trials/s  ETA 6 s" in last[1]) == beside
    assert beside or last[2].rstrip() == "25 %, 250/1,000 trials, 125 trials/s, ETA 6"
    assert "nan 2, raised 1, parts 2/8 sealed, 2 slow, 1 stuck" in " ".join(line.strip() for line in last)


def test_a_real_run_is_followed(mixed: Any, mixed_events: list[dict[str, Any]], screen: Screen) -> None:
    reporter = _Reporter(screen, Clock())
    for event in mixed_events:
        reporter(event)
    assert screen.notices[0].startswith("started with 1 worker")
    assert any("ValueError: no value at scale 2.0" in text for text in screen.notices)
    assert sentence(screen.seen[-1]).startswith("48/48 trials, 100 %, nan 8, raised 4")


def test_sheet() -> None:
    grid = Grid(("n", "text"), [("5", "x\ny"), ("12", "")], frozenset("n"))
    sheet = Sheet("title", {"a": "1", "long": "2"}, grid, ["end"])
    assert list(plain(sheet)) == ["title", "a     1", "long  2", " n  text", " 5  x y", "12", "end"]
    out = io.StringIO()
    show(sheet, out)
    assert out.getvalue().splitlines()[0] == "title"
    assert list(plain(Sheet(grid=Grid(("only",), [])))) == ["only"]


def test_sheet_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    show(Sheet("title [x]", {"a": "1"}, Grid(("n",), [("[bold]5",)]), ["staffa query"]), out)
    assert all(piece in out.getvalue() for piece in ("title [x]", "[bold]5", "staffa query"))
