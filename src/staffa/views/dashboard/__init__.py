"""The Campaign page of Dask's dashboard, and its metrics; loaded by name in the scheduler's process.

What it shows is the latest picture (`staffa.views.overview`) that a driver posted there: the page looks at no
file and asks nobody. Texts are made once a second for all who look, and only what changed is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["document", "measure", "renew"]


def document(scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
    """Fill a Bokeh document, as Dask's own pages do.

    Arguments:
    - `scheduler`: whose metadata hold the pictures.
    - `extra`: `key` in these metadata, and the `pages` of the menu.
    """
    from staffa.views.dashboard.page import open_page

    open_page(scheduler, extra, doc)


def measure(scheduler: Any) -> None:
    """Have Prometheus read the pictures of a scheduler, too."""
    from staffa.views.dashboard.metrics import measured

    measured(scheduler)


def renew() -> None:
    """Bring every page that somebody has open up to date, at once."""
    from staffa.views.dashboard.page import OPEN

    for page in OPEN:
        page.doc.add_next_tick_callback(page.refresh)
