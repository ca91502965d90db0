"""A campaign's report: is it complete, what failed, did it mix, what came out, where does it come from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from staffa.campaign.config import Declaration
from staffa.storage.files import write_aside
from staffa.storage.workspace import Workspace
from staffa.views.readings import number, utc
from staffa.views.report.completeness import completeness
from staffa.views.report.evidence import Evidence, gather
from staffa.views.report.failures import failures, flaws
from staffa.views.report.mixing import mixing
from staffa.views.report.origin import origin
from staffa.views.report.own import own
from staffa.views.report.page import page
from staffa.views.report.pairs import pairs
from staffa.views.report.search import search
from staffa.views.report.timing import timing
from staffa.views.report.verdict import verdict
from staffa.views.results import Results
from staffa.views.sheets import as_json

SCHEMA = 1
"""Version of what `report.json` looks like."""


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Arguments:
    - `page`: the HTML file; `numbers`: the JSON file beside it.
    - `facts`: what that holds.
    """

    page: Path
    numbers: Path
    facts: Mapping[str, Any]

    @property
    def passed(self) -> bool | None:
        """Whether every gate is met; None where the campaign sets none."""
        return None if self.facts["passed"] is None else bool(self.facts["passed"])

    @property
    def exit_code(self) -> int:
        """1 where a gate is missed, or could not be judged; else 0."""
        return 1 if self.passed is False else 0

    def __repr__(self) -> str:
        answer = self.facts["verdict"]
        return f"<report of {self.facts['campaign']}: {answer['answer']} {answer['why']} {str(self.page)!r}>"

    def _repr_html_(self) -> str:
        from html import escape

        answer, place = self.facts["verdict"], escape(str(self.page), quote=True)
        items = "".join(f"<li>{escape(finding['text'])}</li>" for finding in answer["findings"])
        head = f"<p><b>{escape(answer['answer'])}</b> {escape(answer['why'])}</p>"
        return f'{head}<ul>{items}</ul><p><a href="file://{place}" target="_blank">{place}</a></p>'


def written(workspace: Workspace, declaration: Declaration, status: Mapping[str, Any], to: Path) -> Report:
    """Make a report and write it, whole or not at all.

    Arguments:
    - `declaration`: whose section `qa` says what is asked.
    - `status`: as `staffa status` has it.
    - `to`: the HTML file; its numbers stand beside it in a file of the same name that ends in `.json`.

    Raises `WorkspaceError` where not even the campaign's plan can be read.
    """
    began, numbers = time.perf_counter(), to.with_suffix(".json")
    config = declaration.campaign
    evidence = gather(workspace, config.qa, status)
    made = [section for section in [search(evidence)] if section is not None]
    made += [completeness(evidence), failures(evidence), flaws(evidence), mixing(evidence), pairs(evidence)]
    made += [section for section in [own(Results(workspace), config.qa.figures)] if section is not None]
    made += [timing(evidence), origin(evidence)]
    facts = {
        "schema": SCHEMA,
        "campaign": workspace.root.name,
        "description": config.campaign.description,
        "root": str(workspace.root),
        "made": time.time(),
        "staffa": metadata.version("staffa"),
        "state": _state(evidence),
        "numbers": numbers.name,
        "live": bool(status.get("live")),
        "qa": config.qa.model_dump(mode="json"),
        "passed": next(section.facts["passed"] for section in made if section.name == "mixing"),
        "verdict": verdict(evidence, made),
        "lacking": list(evidence.lacking),
        "sections": {section.name: section.facts for section in made},
    }
    facts["seconds"] = round(time.perf_counter() - began, 3)
    text = page(facts, made)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_aside(numbers, as_json(facts))
    write_aside(to, text)
    return Report(to, numbers, facts)


def _state(evidence: Evidence) -> str:
    """In a sentence: whether somebody is at work, or how the last one ended."""
    status, count = evidence.status, number(evidence.plan.trials, "trial")
    if evidence.plan.search is not None:
        count = f"{len(evidence.trials):,} of {count} asked for"
    if status.get("live"):
        return f"{count}; running as {status.get('driver')}."
    run = status.get("run") or {}
    if "ended" in run:
        return f"{count}; the last driver ended {utc(run['ended'])} ({run.get('reason')})."
    return f"{count}; {'the last driver died' if evidence.course.drives else 'never run so far'}."
