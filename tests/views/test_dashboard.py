"""The Campaign page without a browser: what is made, what is sent, and where it stands."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest
from bokeh.document import Document
from distributed import Scheduler
from distributed.utils_test import gen_test
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from seen import synthetic
from staffa.api.driving import PAGE
from staffa.execution.posting import KEY, Poster, at_page, menu, mount
from staffa.views.dashboard import sections
from staffa.views.dashboard.page import LONG_SECONDS, Page, sheets_of
from staffa.views.overview import Overview


class Opened:
    """A document somebody has open, and everything that was sent to it since."""

    def __init__(self, pictures: dict[str, Any], asked: str = "") -> None:
        self.scheduler = Held(pictures)
        self.doc = Document()
        self.page = Page(sheets_of(self.scheduler, KEY, asked), self.doc)
        self.sent: list[Any] = []
        self.doc.on_change(self.sent.append)

    def text(self, name: str) -> str:
        return str(self.doc.get_model_by_name(name).text)

    def changed(self) -> set[str]:
        """Names of what was changed since this was last asked."""
        names = {event.model.name if hasattr(event, "model") else event.column_source.name for event in self.sent}
        self.sent.clear()
        return names


class Held:
    """What the page reads of a scheduler."""

    def __init__(self, pictures: dict[str, Any]) -> None:
        self.task_metadata = {KEY: pictures}
        self.workers = {synthetic.address(0): SimpleNamespace(metrics={"memory": 3 << 30}, memory_limit=8 << 30)}


@pytest.fixture(scope="module")
def large() -> tuple[Overview, dict[str, Any]]:
    return synthetic.overview()


def test_a_large_run_is_shown_whole_and_stays_readable(large: tuple[Overview, dict[str, Any]]) -> None:
    heard, figures = large
    opened = Opened({"run": heard.snapshot()})
    groups, workers = opened.text("groups"), opened.text("workers")
    assert groups.count('scope="row"') == sections.SHOWN and "… and 321 more groups" in groups
    assert re.findall(r'scope="row"><b>(g\d+)', groups)[:2] == ["g157", "g207"], (
        "those with failures first, and of them those under way"
    )
    assert workers.count('scope="row"') == 500 and "3.0 GiB of 8.0 GiB" in workers, "memory as the scheduler knows it"
    assert "GPU 30.0 GiB of 40.0 GiB" in workers and "GPU 3, NVIDIA A100-SXM4-40GB" in workers
    all_groups = opened.doc.get_model_by_name("all_groups")
    assert all_groups.visible and opened.doc.get_model_by_name("all_workers").visible
    source = all_groups.renderers[0].data_source.data
    assert len(source["place"]) == 345
    settled = sum(round((done + bad) * one["trials"]) for done, bad, one in zip(
        source["done"], source["failed"], figures["groups"], strict=True))  # fmt: skip
    assert settled == figures["settled"]
    found = dict(re.findall(r'data-figure="([^"]+)">([\d,]+)<', opened.text("tiles")))
    assert int(found["settled"].replace(",", "")) == figures["settled"]


def test_only_what_changed_is_sent(large: tuple[Overview, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    heard, figures = large
    pictures = {"run": heard.snapshot()}
    opened = Opened(pictures)
    opened.page.refresh()
    assert opened.changed() == set(), "the same picture"
    sheets, clock = opened.page._sheets, sheets_clock(monkeypatch)
    place, one = next(
        (n, one)
        for n, one in enumerate(figures["groups"])
        if 0 < one["settled"] < one["trials"] / 2 and "raised" not in one["outcomes"]
    )
    grown = {**one, "settled": one["settled"] + 3, "outcomes": {"ok": one["settled"] + 3}}
    told = {**figures, "groups": [*figures["groups"][:place], grown, *figures["groups"][place + 1 :]]}
    pictures["run"] = {**pictures["run"], "figures": told}
    opened.page.refresh()
    assert "groups" not in opened.changed(), "long tables are made anew every few seconds"
    clock[0] += LONG_SECONDS
    pictures["run"] = {**pictures["run"]}
    opened.page.refresh()
    patches = [event.patches for event in opened.sent if hasattr(event, "patches")]
    assert [{name: len(cells) for name, cells in patch.items()} for patch in patches] == [{"told": 1, "done": 1}]
    assert sheets.texts["groups"] == opened.text("groups")


def sheets_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    from staffa.views.dashboard import page

    clock = [page.time.time()]
    monkeypatch.setattr(page, "time", SimpleNamespace(time=lambda: clock[0], perf_counter=page.time.perf_counter))
    return clock


def test_the_course_is_streamed(large: tuple[Overview, dict[str, Any]]) -> None:
    heard, _ = large
    pictures = {"run": heard.snapshot()}
    opened = Opened(pictures)
    trail = pictures["run"]["trail"]
    more = {
        **trail,
        "at": [*trail["at"], trail["at"][-1] + 4.0],
        "settled": [*trail["settled"], trail["settled"][-1] + 500],
    }
    pictures["run"] = {**pictures["run"], "trail": more}
    opened.page.refresh()
    (stream,) = [event.data for event in opened.sent if isinstance(getattr(event, "data", None), dict)]
    assert len(stream["rate"]) == 1 and stream["rate"][0] == pytest.approx(500 / 4.0)
    half = {"step": 2 * trail["step"], "at": more["at"][::2], "settled": more["settled"][::2]}
    pictures["run"] = {**pictures["run"], "trail": half}
    opened.page.refresh()
    source = opened.doc.get_model_by_name("speed").renderers[0].data_source
    assert len(source.data["at"]) == len(half["at"]) - 1


def test_campaigns_that_share_a_scheduler(large: tuple[Overview, dict[str, Any]]) -> None:
    first = large[0].snapshot()
    second = {**first, "campaign": "v2.0_<other>", "root": "/data/runs/v2.0_other", "at": first["at"] + 1}
    assert "Also here" not in Opened({"a": first}).text("head")
    latest = Opened({"a": first, "b": second})
    assert "v2.0_&lt;other&gt;</h1>" in latest.text("head") and 'href="?run=v1.0_wide"' in latest.text("head")
    assert "v1.0_wide</h1>" in Opened({"a": first, "b": second}, "v1.0_wide").text("head")
    newer = {**second, "version": 99, "figures": "in words of its own"}
    assert "Also here" not in Opened({"a": first, "b": newer}).text("head"), "of another Staffa"


def test_before_anybody_reported() -> None:
    assert "No campaign has reported yet" in Opened({}).text("verdict")
    silent = Overview(synthetic.overview(10, 1, 1)[0].root)
    opened = Opened({"run": silent.snapshot()})
    assert "Starting" in opened.text("verdict") and "No worker is there" in opened.text("workers")


def test_links() -> None:
    assert at_page("http://127.0.0.1:8787/status") == "http://127.0.0.1:8787/staffa"
    assert at_page("https://hub/user/me/proxy/8787/status") == "https://hub/user/me/proxy/8787/staffa"
    assert at_page("") == "" and at_page("https://elsewhere/board") == "https://elsewhere/board"


@gen_test(timeout=60)
async def test_the_page_stands_in_any_dashboard_and_without_its_menu(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed.dashboard import scheduler as dasks

    async with Scheduler(port=0, dashboard=True, dashboard_address="127.0.0.1:0", http_prefix="/deep") as scheduler:
        at = f"http://127.0.0.1:{scheduler.http_server.port}/deep"
        fetch = AsyncHTTPClient().fetch
        assert "staffa" not in (await fetch(f"{at}/workers")).body.decode()
        with pytest.raises(HTTPClientError, match="404"):
            await fetch(f"{at}/staffa")
        assert mount(PAGE, scheduler) and mount(PAGE, scheduler), "twice is harmless"
        page = (await fetch(f"{at}/staffa")).body.decode()
        assert '<a href="status">Status</a>' in page and '<html lang="en">' in page
        dask = (await fetch(f"{at}/workers")).body.decode()
        assert dask.count('<a href="staffa">Staffa</a>') == 1
        assert b"staffa_page_seconds_total" in (await fetch(f"{at}/metrics")).body

    monkeypatch.setattr(dasks, "template_variables", lambda scheduler: {"other": []})
    async with Scheduler(port=0, dashboard_address="127.0.0.1:0", dashboard=False) as scheduler:
        assert menu(scheduler) == ["staffa"] and mount(PAGE, scheduler)
        at = f"http://127.0.0.1:{scheduler.http_server.port}"
        page = (await AsyncHTTPClient().fetch(f"{at}/staffa")).body.decode()
        assert '<a href="staffa" aria-current="page">Staffa</a>' in page


class Client:
    """Runs functions on no scheduler, and sends nothing; counts what it is asked to send."""

    def __init__(self, mounts: Any) -> None:
        self._mounts, self.keys = mounts, []
        self.loop, self.scheduler = self, self

    def run_on_scheduler(self, function: Any, page: str, *last: Any, **more: Any) -> Any:
        self.keys += [(KEY, one["root"], one["over"]) for one in last]
        if isinstance(self._mounts, Exception):
            raise self._mounts
        return self._mounts

    def add_callback(self, post: Any, *arguments: Any) -> None:
        asyncio.run(post(*arguments))

    async def set_metadata(self, keys: list[str], value: Any) -> None:
        self.keys.append((*keys, value["over"]))
        raise OSError("the scheduler is gone")


@pytest.mark.parametrize(
    ("mounts", "link"),
    [(ImportError("no module named staffa"), "http://127.0.0.1:8787/status"), (False, "/status"), (True, "")],
)
def test_a_scheduler_without_us_gets_nothing(mounts: Any, link: str) -> None:
    client = Client(mounts)
    pool = SimpleNamespace(dashboard=link, client=client)
    poster = Poster(synthetic.overview(10, 1, 1)[0], PAGE)
    with poster.posted(pool, SimpleNamespace(failures={})):
        poster({"event": "figures", "trials": 1})
    assert client.keys == [] and pool.dashboard == link


def test_a_post_that_fails_harms_nobody_and_the_last_says_it_is_over() -> None:
    client, clock = Client(True), [0.0]
    pool = SimpleNamespace(dashboard="http://127.0.0.1:8787/status", client=client)
    poster = Poster(synthetic.overview(10, 1, 1)[0], PAGE, clock=lambda: clock[0])
    with poster.posted(pool, SimpleNamespace(failures={})):
        for _ in range(30):
            poster({"event": "figures", "trials": 1})
            clock[0] += 0.1
    poster({"event": "figures", "trials": 1})
    root = "/data/runs/v1.0_wide"
    assert client.keys == [*[(KEY, root, False)] * 3, (KEY, root, True)], "one a second"
    assert pool.dashboard.endswith("/staffa")
