"""A live run, looked at by everybody at once: a browser, Prometheus, terminals narrow and wide, a pipe.

The run stands still (`held.py`), so that all of them can be compared with `staffa status --json`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seen.conftest import SECONDS, opened, shot
from seen.held import STAFFA, TRIALS, HeldRun, wait
from seen.looks import cut_off, pale, too_wide, unnamed
from seen.terminals import Terminals, terminals
from staffa.views.readings import readings

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}


@dataclass
class Scene:
    """A run in a terminal of 80 columns, that stands still; `taken` is the port it was to have."""

    run: HeldRun
    terminals: Terminals
    taken: int
    status: dict[str, Any]

    @property
    def figures(self) -> dict[str, Any]:
        return dict(self.status["figures"])

    @property
    def link(self) -> str:
        return str(self.figures["dashboard"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = taken.getsockname()[1]
        run = HeldRun(tmp_path_factory.mktemp("held"), {"cluster": {"dashboard_port": port}})
        shown = stack.enter_context(terminals())
        shown.open("run", run.command, 80)
        stack.callback(run.release)
        yield Scene(run, shown, port, run.until_held())


def look(page: Any, link: str) -> None:
    """Open the page, and wait until it shows what stands still."""
    page.goto(link)
    page.wait_for_selector(f'[data-figure="settled"]:text-is("{TRIALS + 6}")')
    page.wait_for_selector("section .bar.thin")


def shown(page: Any) -> dict[str, int]:
    """Every figure on the page by the name `status --json` has for it."""
    found = page.eval_on_selector_all("[data-figure]", "all => all.map(el => [el.dataset.figure, el.textContent])")
    return {name: int(text.replace(",", "")) for name, text in found}


def rows(page: Any, caption: str) -> list[list[str]]:
    table = page.get_by_role("table", name=caption, exact=True)
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]


def test_the_page_shows_what_status_says(scene: Scene, page: Any) -> None:
    look(page, scene.link)
    figures = scene.figures
    counts = {name: figures[name] for name in ("trials", "settled", "workers", "flying", "parts", "sealed")}
    counts |= {f"outcomes.{word}": count for word, count in figures["outcomes"].items()}
    counts |= {f"states.{word}": count for word, count in figures["states"].items()}
    assert shown(page) == counts
    assert counts["outcomes.raised"] == 3 and counts["outcomes.nan"] == 2
    told = [(one["of"], one["settled"], one["trials"], one["flying"]) for one in figures["groups"]]
    assert [tuple(row) for row in groups(page)] == told
    assert sum(settled for _, settled, _, _ in told) == figures["settled"]
    failures = {row[0]: row for row in rows(page, "Failures by class")}
    assert failures["raised"][1] == "3" and failures["nan"][1] == "2"
    assert "ValueError: no value at place 18 <b>of this kind</b>" in failures["raised"][3], "texts are no markup"
    workers = rows(page, "Workers")
    assert len(workers) == figures["workers"] == 2
    assert all(re.search(r"\d MiB of \d", row[6]) for row in workers), "memory, as Dask's workers told"
    assert "trials failed" in page.locator(".verdict").inner_text()
    assert page.title() == "60 % v1.0_held · Staffa"
    assert page.errors == []


def groups(page: Any) -> list[list[Any]]:
    found = rows(page, "Progress of groups")
    return [[row[0].partition(" ")[2], *(int(row[place].replace(",", "")) for place in (2, 3, 5))] for row in found]


def test_it_can_be_read_by_everybody(scene: Scene, page: Any, browser: Any) -> None:
    look(page, scene.link)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert pale(page) == []
        page.screenshot(path=shot(f"page-{scheme}.png"), full_page=True)
    with opened(browser, viewport=PHONE, is_mobile=True, has_touch=True) as phone:
        look(phone, scene.link)
        phone.screenshot(path=shot("page-phone.png"), full_page=True)
        assert too_wide(phone) <= 0
        assert phone.locator(".verdict").bounding_box()["y"] < PHONE["height"] / 2, "without scrolling"
        assert cut_off(phone) == [] and pale(phone) == []
        assert len(rows(phone, "Workers")) == 2, "still a table, for those who hear it"


def test_it_needs_neither_mouse_nor_eyes(scene: Scene, page: Any) -> None:
    look(page, scene.link)
    assert unnamed(page) == []
    assert page.get_by_role("heading", level=1).all_inner_texts() == ["v1.0_held"]
    titles = ["Trials by state", "Trials per second", "Slow and stuck batches", "Failures", "Groups", "Workers"]
    assert page.get_by_role("heading", level=2).all_inner_texts() == titles
    assert page.get_by_role("progressbar", name="settled trials").get_attribute("aria-valuenow") == "60"
    assert "done 33" in page.get_by_role("img", name="Trials by state").get_attribute("aria-label")
    assert "needs you:" in page.get_by_role("status").locator(".verdict").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the campaign"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "campaign"
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-labelledby')"))
    sections = ["lagging", "failures", "groups", "workers"]
    assert [name for name in reached if name][: len(sections)] == sections, reached


def test_dasks_menu_leads_here(scene: Scene, page: Any) -> None:
    page.goto(scene.link.replace("/staffa", "/status"))
    page.get_by_role("link", name="Staffa", exact=True).click()
    page.wait_for_selector(".verdict")
    assert page.url == scene.link
    page.get_by_role("link", name="Workers", exact=True).click()
    assert page.url == scene.link.replace("/staffa", "/workers")


def test_prometheus_reads_the_same(scene: Scene) -> None:
    with urllib.request.urlopen(scene.link.replace("/staffa", "/metrics"), timeout=SECONDS) as answer:
        families = {one.name: one for one in text_string_to_metric_families(answer.read().decode())}
    own = {name: family for name, family in families.items() if name.startswith("staffa_")}
    assert "dask_scheduler_workers" in families and all(one.documentation for one in own.values())
    assert {one.type for one in own.values()} == {"gauge", "counter"}

    def values(name: str, label: str) -> dict[str, float]:
        return {sample.labels[label]: sample.value for sample in own[name].samples}

    figures = scene.figures
    assert values("staffa_trials", "state") == figures["states"]
    assert values("staffa_settled_trials", "outcome") == figures["outcomes"]
    assert values("staffa_parts", "state") == {"sealed": 0, "open": 2}
    assert values("staffa_batches", "state")["flying"] == figures["flying"]
    assert values("staffa_failed_tries", "outcome") == {"raised": 3, "nan": 2}
    assert values("staffa_workers", "campaign") == {"v1.0_held": 2}
    for family in own.values():
        ends = {sample.name.removeprefix(family.name) for sample in family.samples}
        assert ends <= ({"_total"} if family.type == "counter" else {""}), family
        plain = family.name in ("staffa_page_seconds", "staffa_page_looks")
        assert plain or all(sample.labels["campaign"] == "v1.0_held" for sample in family.samples)


def test_every_terminal_shows_it_and_a_pipe_gets_lines(scene: Scene, page: Any) -> None:
    """Last: it lets the run end."""
    said = readings(scene.figures)
    steady = [said[name] for name in ("percent", "trials", "outcomes", "parts")]
    root = str(scene.run.root)
    for width in (44, 80, 200):
        scene.terminals.open(f"watch{width}", [*STAFFA, "watch", root, "--interval", "0.5"], width)
    piped = subprocess.Popen([*STAFFA, "watch", root, "--interval", "0.5"], stdout=subprocess.PIPE, text=True)
    look(page, scene.link)
    for name, width in (("run", 80), ("watch44", 44), ("watch80", 80), ("watch200", 200)):
        wait(lambda name=name, width=width: drawn(scene.terminals.lines(name), steady, width))
        shot(f"terminal-{name}.txt").write_text("\n".join(scene.terminals.lines(name)))
    first = scene.terminals.lines("run")[0]
    port = int(scene.link.split(":")[2].partition("/")[0])
    assert scene.taken < port < scene.taken + 100, "the next that is free"
    assert first == f"started with 2 workers, dashboard {scene.link} (port {scene.taken} is taken)"

    scene.run.release()
    page.wait_for_selector("body.lost .gone")
    assert page.locator(".verdict .words").inner_text().endswith("Finished; 4 trials failed"), "its last word"
    assert shown(page)["states.archived"] == 56
    wait(lambda: "ended with 1" in scene.terminals.lines("run"))
    last = scene.terminals.lines("run")
    shot("terminal-run-ended.txt").write_text("\n".join(last))
    assert any("100 %  60/60 trials" in line for line in last) and "nan 2, raised 4, parts 2/2 sealed" in last
    for width in (44, 80, 200):
        wait(lambda width=width: "ended with 0" in scene.terminals.lines(f"watch{width}"))
    out = piped.communicate(timeout=SECONDS)[0]
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == f"{root}: 60 trials" and lines[1].startswith("36/60 trials, 60 %")
    assert "60/60 trials, 100 %, nan 2, raised 4, parts 2/2 sealed" in lines


def drawn(lines: list[str], texts: list[str], width: int) -> bool:
    """Whether a terminal shows a bar with all of these texts, and nothing that it had to break."""
    last = lines[-10:]
    bar = [line for line in last if "━" in line]
    return bool(bar) and len(bar[-1]) <= width and all(text in " ".join(last) for text in texts)
