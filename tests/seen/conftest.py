"""A real browser for the tests with the mark `browser`: Debian's Chromium, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from staffa.cli import main

REQUIRED = os.environ.get("STAFFA_REQUIRE_BROWSER") == "1"
"""Tests that cannot run fail instead of being skipped."""
CHROMIUM = "chromium"
SHOTS = Path(os.environ.get("STAFFA_SCREENSHOTS", Path(__file__).parents[2] / "runs" / "screenshots"))
"""Where tests leave what they saw: kept by CI."""
SECONDS = 180.0
"""How long a page may take: browsers are slow where tests run beside each other."""


@pytest.fixture(scope="module")  # while it is there, an event loop runs in this thread: others could not have theirs
def browser() -> Iterator[Any]:
    path = shutil.which(CHROMIUM)
    if path is None:
        if REQUIRED:
            pytest.fail(f"STAFFA_REQUIRE_BROWSER=1, but there is no {CHROMIUM}", pytrace=False)
        pytest.skip(f"there is no {CHROMIUM} here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, in a container, Chromium cannot make its sandbox; it opens nothing but our own pages.
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a desk's width; what it says on its console stands in `page.said`, errors in `page.errors`."""
    with opened(browser, viewport={"width": 1280, "height": 900}) as found:
        yield found


@contextmanager
def opened(browser: Any, **options: Any) -> Iterator[Any]:
    """A page in a window of its own."""
    context = browser.new_context(ignore_https_errors=True, **options)
    context.set_default_timeout(1000 * SECONDS)
    found = context.new_page()
    found.said, found.errors = [], []
    found.on("console", lambda message: found.said.append(message.text))
    found.on("pageerror", lambda error: found.errors.append(str(error)))
    yield found
    context.close()


def shot(name: str) -> Path:
    """The file of a picture to be kept."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS / name


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """The exit code of a command, what it wrote and what it complained."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        seen = capsys.readouterr()
        assert "Traceback" not in seen.err
        return code, seen.out, seen.err

    return call
