"""Every code block of README.md and docs runs, top to bottom; and the pages build as a site that asks nobody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import staffa
from pages import blocks as found
from pages.blocks import LANGUAGES, ROOT, Block
from pages.running import KIND, Page, workers
from pages.settings import WORDS, finished, laid_out

EXCEPTIONS = yaml.safe_load((Path(__file__).parent / "without_runner.yaml").read_text()) or []
PAGES = [page for page in found.pages() if found.blocks(page)]


def excepted(block: Block) -> bool:
    return any(block.page == one["page"] and block.text.startswith(one["begins"]) for one in EXCEPTIONS)


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Workers are threads of this process, and what was compiled for one page is there for the next."""
    with pytest.MonkeyPatch.context() as patch, staffa.register("clusters", "here", workers):
        patch.setenv(KIND, "here")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONWARNINGS", "ignore")
        yield


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    made: list[Path] = []

    def once() -> Path:
        if not made:
            made.append(finished(tmp_path_factory.mktemp("setting") / "finished"))
        return made[0]

    return once


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, tmp_path: Path, setting: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "page"
    monkeypatch.chdir(tmp_path)
    if page == "README.md":
        monkeypatch.setenv("STAFFA_REPLICATES", "1")  # 2,000 trials, not 8,000
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    going = Page(folder, WORDS)
    going.names |= laid_out(page, folder, setting)
    for path in folder.glob("*.py"):
        going.make_room(path)
    try:
        for block in found.blocks(page):
            if not excepted(block):
                assert block.language in LANGUAGES, f"{block.place}: say what it is: one of {', '.join(LANGUAGES)}"
                going.go(block)
    finally:
        going.close()
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
        sys.modules.update(going.aside)


def test_what_does_not_run_is_told() -> None:
    assert len(EXCEPTIONS) <= 5
    every = [block for page in found.pages() for block in found.blocks(page)]
    for one in EXCEPTIONS:
        assert set(one) == {"page", "begins", "reason"}
        assert sum(excepted(block) and block.page == one["page"] for block in every) >= 1, one


def test_readme_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / link).exists(), link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; building it is `make docs`: warnings are errors."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--builder", "html", "docs", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_the_site_asks_nobody(site: Path) -> None:
    """No page and no style sheet loads anything from elsewhere."""
    loads = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=["'](?:https?:)?//[^"']+""")
    for page in site.rglob("*.html"):
        assert not loads.findall(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"']?https?:", sheet.read_text()), sheet


def test_the_reference_has_everything(site: Path) -> None:
    fields = (site / "reference" / "campaign-file.html").read_text()
    assert "execution.retries.backoff" in fields and "256MiB" in fields and "10min" in fields
    python = (site / "reference" / "python.html").read_text()
    assert all(f"staffa.{name}" in python for name in staffa.__all__)
    commands = (site / "reference" / "commands.html").read_text()
    assert all(f"staffa {word}" in commands for word in ("run", "archive copy", "config explain", "telemetry render"))


def test_a_name_that_says_nothing_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from weaving import python
    from weaving.words import Undocumented

    def silent() -> None:
        raise AssertionError

    monkeypatch.setattr(staffa, "plan", silent)
    with pytest.raises(Undocumented, match=r"staffa\.plan has no docstring"):
        python.public_face()
