"""The page of 100,000 trials on 500 workers, made up (`synthetic.py`), in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, LocalCluster

from seen import synthetic
from seen.conftest import shot
from seen.looks import too_wide
from staffa.api.driving import PAGE
from staffa.execution.posting import Poster
from staffa.views.dashboard.sections import SHOWN

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Poster, str, int]]:
    """Who tells of such a run, where it is shown, and how many trials are settled."""
    heard, figures = synthetic.overview()
    address = "127.0.0.1:0"
    with (
        LocalCluster(
            n_workers=0, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address=address
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        pool = SimpleNamespace(client=client, dashboard=client.dashboard_link)
        poster = Poster(heard, PAGE)
        with poster.posted(pool, SimpleNamespace(failures={})):
            poster({"event": "figures", **figures})
            yield poster, pool.dashboard, figures["settled"]


def test_so_many_are_comfortable_on_desk_and_phone(told: tuple[Poster, str, int], page: Any) -> None:
    poster, link, settled = told
    page.goto(link)
    page.wait_for_selector(f'[data-figure="settled"]:text-is("{settled:,}")')
    assert page.get_by_role("table", name="Progress of groups").locator("tbody tr").count() == SHOWN
    assert page.get_by_role("table", name="Workers").locator("tbody tr").count() == synthetic.WORKERS
    for title in ("Progress of all groups", "What all workers do"):
        assert page.get_by_role("img", name=title).locator("canvas").count()
    assert too_wide(page) <= 0
    page.screenshot(path=shot("wide.png"), full_page=True)

    page.set_viewport_size({"width": 390, "height": 844})
    assert too_wide(page) <= 0
    worker = page.get_by_role("table", name="Workers").locator("tbody tr").first
    assert worker.bounding_box()["width"] < 390 and worker.get_by_role("cell").nth(3).is_visible(), "a card"
    page.screenshot(path=shot("wide-phone.png"), full_page=True)

    more = synthetic.figures(synthetic.TRIALS, synthetic.GROUPS, synthetic.WORKERS, 1.0)
    page.wait_for_timeout(1000)
    poster({"event": "figures", **more})
    page.wait_for_selector('[data-figure="settled"]:text-is("100,000")')
    assert page.errors == []
