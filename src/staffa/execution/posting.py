"""What the dashboard's page shows, posted where the page is: with the scheduler, wherever that runs.

A page in Dask's dashboard lives in the scheduler's process: the driver's own, or that of a cluster somebody
else started, which need not see our files. So a picture of the run goes there as metadata, of which a
scheduler keeps the latest alone, and the page is loaded there by name. Where that cannot be done (no Bokeh, another
Staffa) nothing is posted, and the run goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from distributed import Client

from staffa.execution.pool import Pool
from staffa.storage.books import Books

KEY = "staffa"
"""Under which a scheduler's metadata hold the pictures, by campaign folder."""
PAGE = "staffa"
"""The page's path, and its name in the menu."""
POST_SECONDS = 1.0
PATIENCE = 10.0
"""Seconds a post may be under way; the last one, `LEAVE_SECONDS`."""
LEAVE_SECONDS = 2.0


class Picture(Protocol):
    """A listener that can sum up what it heard."""

    over: bool

    def __call__(self, event: Mapping[str, Any]) -> None: ...

    def remember(self, books: Books) -> None:
        """Take over what drivers before have noted."""

    def snapshot(self) -> dict[str, Any]:
        """All of it, fit for a message of Dask's; `root` names the campaign's folder."""


class Poster:
    """Has a picture of the run stand with the scheduler, renewed every second.

    Arguments:
    - `picture`: hears every event.
    - `page`: module that shows it, loaded by name in the scheduler's process (see `mount`).
    """

    def __init__(self, picture: Picture, page: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._picture, self._page, self._clock = picture, page, clock
        self._client: Client | None = None
        self._posted = -POST_SECONDS
        self._under_way = False

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._picture(event)
        now = self._clock()
        if self._client is None or self._under_way or event["event"] != "figures":
            return
        if now - self._posted >= POST_SECONDS:
            self._posted, self._under_way = now, True
            self._client.loop.add_callback(self._post, self._client, self._picture.snapshot())

    @contextlib.contextmanager
    def posted(self, pool: Pool, books: Books) -> Iterator[None]:
        """Show the page and post to it while the block lasts; the last picture says that it is over."""
        if not pool.dashboard or not mounted(pool.client, self._page):
            yield
            return
        pool.dashboard = at_page(pool.dashboard)
        self._picture.remember(books)
        self._client = pool.client
        try:
            yield
        finally:
            self._client, self._picture.over = None, True
            with contextlib.suppress(Exception):
                last = self._picture.snapshot()
                pool.client.run_on_scheduler(show_last, self._page, last, callback_timeout=LEAVE_SECONDS)

    async def _post(self, client: Client, snapshot: Mapping[str, Any]) -> None:
        # Whatever becomes of it, the run goes on; the page says how old its picture is.
        try:
            with contextlib.suppress(Exception):
                sent = client.scheduler.set_metadata(keys=[KEY, snapshot["root"]], value=snapshot)
                await asyncio.wait_for(sent, PATIENCE)
        finally:
            self._under_way = False


def mounted(client: Client, page: str) -> bool:
    """Have the scheduler show a page; whether it does."""
    try:
        return bool(client.run_on_scheduler(mount, page))
    except Exception:
        # A scheduler without Bokeh or this very page, one that runs no functions: all of them say it differently.
        return False


def at_page(link: str) -> str:
    """The link to our page, made of that to Dask's first; any other is left as it is."""
    return link.removesuffix("status") + PAGE if link.endswith("/status") else link


# --- in the scheduler's process -------------------------------------------------------------------------


def mount(page: str, dask_scheduler: Any) -> bool:
    """Show a page in a scheduler's dashboard, its metrics beside Dask's; twice is harmless.

    Arguments:
    - `page`: a module with `document(scheduler, extra, doc)`, as Dask's own pages have it, `measure(scheduler)`
      for the metrics, and `renew()`, which brings all that is open up to date.
    """
    from distributed.dashboard.core import BokehApplication
    from tornado.ioloop import IOLoop

    http = dask_scheduler.http_application
    if getattr(dask_scheduler, "staffa_page", None) == page:
        return True
    module = importlib.import_module(page)
    module.measure(dask_scheduler)
    prefix = next((found for one in http.applications if (found := getattr(one, "prefix", None))), "")
    extra = {"pages": menu(dask_scheduler), "key": KEY}
    shown = BokehApplication({f"/{PAGE}": module.document}, dask_scheduler, prefix=prefix, template_variables=extra)
    http.add_application(shown)
    shown.initialize(IOLoop.current())
    shown.start()
    dask_scheduler.staffa_page = page
    return True


def show_last(page: str, snapshot: Mapping[str, Any], dask_scheduler: Any) -> None:
    """Show a last picture at once: the scheduler may end with its driver."""
    dask_scheduler.set_metadata(keys=[KEY, snapshot["root"]], value=snapshot)
    importlib.import_module(page).renew()


def menu(scheduler: Any) -> list[str]:
    """The pages in Dask's menu, ours the first of them from now on; only ours where Dask made its menu otherwise."""
    try:
        from distributed.dashboard.scheduler import template_variables

        # Memoised by scheduler: all of Dask's pages show this very list.
        pages: list[str] = template_variables(scheduler)["pages"]
        if PAGE not in pages:
            pages.insert(0, PAGE)
        return list(pages)
    except Exception:
        return [PAGE]
