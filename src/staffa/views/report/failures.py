"""What failed, where, and in which words; what holds a NaN or diverged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.storage.books import Failure
from staffa.views.readings import number, utc
from staffa.views.report.content import Exhibit, Finding, Listing, Section, Weight, listing
from staffa.views.report.evidence import FAILED, Evidence
from staffa.views.report.maps import drawn, mapped, telling, where
from staffa.views.sheet import one_line

Row = npt.NDArray[Any]

TOLD = 2
"""Parameters that are told by their levels."""
LEVELS = 12
LONGEST = 160


def failures(evidence: Evidence) -> Section:
    """The section on trials that brought no data, and batches that were lost."""
    failed = evidence.having(*FAILED)
    messages = sorted(_messages(evidence), key=lambda one: (-one.trials, -one.at))
    classes = {word: evidence.outcomes[word] for word in FAILED if evidence.outcomes.get(word)}
    facts: dict[str, Any] = {
        "failed": int(failed.sum()),
        "classes": classes,
        "quarantined": evidence.status.get("quarantined") or 0,
        "tries": sum(one.tries for one in messages),
        "where": where(evidence, failed),
        "messages": [vars(one) for one in messages],
        "lost_batches": dict(evidence.course.lost),
        "by_group": _by_group(evidence, failed),
        "by_parameter": {name: _by_level(evidence, name, failed) for name in _told(evidence, failed)},
    }
    shown: list[Listing | Exhibit] = []
    if failed.any():
        shown += [*_groups(evidence, facts), *_parameters(evidence, facts)]
        found = mapped(evidence, failed)
        # Where nothing else lacks data the map of completeness says it all.
        if (failed != ~evidence.with_data).any():
            caption = "Trials that failed, of all trials, at each pair of values."
            shown += drawn(found, "failed", caption, "failed")
        facts["map"] = None if found is None else found.facts()
    if messages:
        shown.append(_latest(messages))
    if evidence.course.lost:
        rows = [(one_line(reason, LONGEST), f"{count:,}") for reason, count in evidence.course.lost.most_common()]
        shown.append(
            listing("Batches that did not come back, and were issued again", ("why", "batches"), rows, ("batches",))
        )
    commands = _commands(evidence, messages) if failed.any() else []
    text = [] if shown else ["No trial failed, and no batch was lost."]
    return Section("failures", "Failures", _findings(evidence, failed, facts), text, shown, commands, facts)


def flaws(evidence: Evidence) -> Section:
    """The section on data that hold a NaN, and on divergent transitions."""
    nan = evidence.having("nan")
    facts: dict[str, Any] = {
        "nan": int(nan.sum()),
        "where": where(evidence, nan),
        "outputs": _nan_outputs(evidence, nan),
    }
    findings = [_nan_finding(evidence, nan)] if evidence.with_data.any() else []
    shown: list[Listing | Exhibit] = []
    if nan.any():
        found = mapped(evidence, nan, evidence.with_data)
        caption = "Trials that hold a NaN, of those with data, at each pair of values."
        shown += drawn(found, "nan", caption, "hold a NaN")
        facts["map"] = None if found is None else found.facts()
    if "divergences" in evidence.trials:
        own, finding = _divergences(evidence)
        facts["divergences"], shown, findings = own.facts, [*shown, *own.shown], [*findings, finding]
    if facts["outputs"]:
        rows = [(name, f"{count:,}") for name, count in facts["outputs"].items()]
        shown.append(listing("Outputs that hold a NaN", ("output", "trials"), rows, ("trials",)))
    text = [] if shown else ["No trial holds a NaN."] if evidence.with_data.any() else ["There are no data yet."]
    return Section("flaws", "NaN and divergences", findings, text, shown, (), facts)


# --- failures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """What failed tries said, all that said the same.

    Arguments:
    - `trials`, `tries`: how many; `trial`: the latest of them; `at`: when.
    """

    outcome: str
    message: str
    trials: int
    tries: int
    trial: str
    node: str
    at: float


def _messages(evidence: Evidence) -> Iterator[Message]:
    said: dict[tuple[str, str], list[tuple[str, Failure]]] = {}
    for trial, tries in evidence.books.failures.items():
        for failure in tries:
            said.setdefault((failure.outcome, failure.message), []).append((trial, failure))
    for (outcome, message), own in said.items():
        trial, latest = max(own, key=lambda one: one[1].at)
        yield Message(outcome, message, len({name for name, _ in own}), len(own), trial, latest.node, latest.at)


def _latest(messages: Sequence[Message]) -> Listing:
    rows = [
        (
            one.outcome,
            one_line(one.message, LONGEST),
            f"{one.trials:,}",
            f"{one.tries:,}",
            utc(one.at),
            one.trial[:12],
        )
        for one in messages
    ]
    columns = ("outcome", "message", "trials", "tries", "latest", "its trial")
    return listing("What failed tries said, most frequent first", columns, rows, ("trials", "tries"))


def _by_group(evidence: Evidence, failed: Row) -> list[dict[str, Any]]:
    groups = evidence.trials["group"].to_numpy()
    counts, hits = (np.bincount(groups[chosen], minlength=len(evidence.groups)) for chosen in (slice(None), failed))
    rows = [
        {"group": name, "trials": int(count), "failed": int(hit)}
        for name, count, hit in zip(evidence.groups, counts, hits, strict=True)
        if hit
    ]
    return sorted(rows, key=lambda row: -row["failed"])


def _told(evidence: Evidence, failed: Row) -> list[str]:
    return telling(evidence, failed, np.ones(len(failed), bool))[:TOLD]


def _by_level(evidence: Evidence, name: str, hit: Row) -> list[dict[str, Any]]:
    found = evidence.levels(name)
    counts, hits = (np.bincount(found.codes[chosen], minlength=len(found)) for chosen in (slice(None), hit))
    rows = [
        {"value": label, "trials": int(count), "failed": int(one)}
        for label, count, one in zip(found.labels, counts, hits, strict=True)
        if count
    ]
    return sorted(rows, key=lambda row: -row["failed"] / row["trials"])


def _groups(evidence: Evidence, facts: Mapping[str, Any]) -> Iterator[Listing]:
    rows = [(row["group"], f"{row['failed']:,}", f"{row['trials']:,}") for row in facts["by_group"]]
    if len(evidence.groups) > 1:
        yield listing("Groups with failed trials", ("group", "failed", "trials"), rows, ("failed", "trials"))


def _parameters(evidence: Evidence, facts: Mapping[str, Any]) -> Iterator[Listing]:
    for name, found in facts["by_parameter"].items():
        rows = [(row["value"], f"{row['failed']:,}", f"{row['trials']:,}") for row in found]
        yield listing(
            f"Failed trials by {name}", (evidence.title(name), "failed", "trials"), rows, ("failed", "trials"), LEVELS
        )


def _findings(evidence: Evidence, failed: Row, facts: Mapping[str, Any]) -> list[Finding]:
    found = []
    if failed.any():
        words = ", ".join(f"{count:,} {word}" for word, count in facts["classes"].items())
        place = f", {facts['where']}" if facts["where"] else ""
        found.append(Finding(Weight.CARE, f"{number(int(failed.sum()), 'trial')} failed ({words}){place}."))
    elif evidence.with_data.any():
        again = facts["tries"]
        tail = f" {number(again, 'try')} failed and went well later." if again else ""
        found.append(Finding(Weight.SOUND, f"No trial failed.{tail}"))
    return found


def _commands(evidence: Evidence, messages: Sequence[Message]) -> list[str]:
    run = shlex.quote(str(evidence.workspace.root))
    return [*(f"staffa explain {run} {one.trial[:12]}" for one in messages[:1]), f"staffa retry {run}"]


# --- NaN and divergences ---------------------------------------------------------------------------


def _nan_finding(evidence: Evidence, nan: Row) -> Finding:
    if not nan.any():
        return Finding(Weight.SOUND, "No trial holds a NaN.")
    place = where(evidence, nan)
    tail = f", {place}" if place else ""
    return Finding(Weight.CARE, f"{number(int(nan.sum()), 'trial')} with a NaN{tail}.")


def _nan_outputs(evidence: Evidence, nan: Row) -> dict[str, int]:
    """Single numbers that are NaN, in so many of the trials that hold one."""
    trials = evidence.trials[nan]
    found: dict[str, int] = {}
    for number_of, group in enumerate(evidence.plan.groups):
        own = trials[trials["group"] == number_of]
        for output in group.outputs:
            column = f"{output.name}.mean"
            if not output.shape and not output.table and column in trials and len(own):
                found[output.name] = found.get(output.name, 0) + int(own[column].isna().sum())
    return {name: count for name, count in found.items() if count}


def _divergences(evidence: Evidence) -> tuple[Section, Finding]:
    counts = evidence.trials["divergences"].to_numpy(float, na_value=np.nan)
    there = np.isfinite(counts)
    struck = there & (counts > 0)
    facts: dict[str, Any] = {
        "trials": int(there.sum()),
        "diverged": int(struck.sum()),
        "most": int(counts[there].max()) if there.any() else None,
        "total": int(counts[there].sum()),
        "where": where(evidence, struck),
    }
    shown: list[Listing | Exhibit] = []
    found = mapped(evidence, struck, there)
    caption = "Trials with divergent transitions, of those that tell, at each pair of values."
    shown += drawn(found, "divergent", caption, "diverged")
    facts["map"] = None if found is None else found.facts()
    if not struck.any():
        return Section("", "", facts=facts), Finding(Weight.SOUND, "No trial diverged.")
    place = f", {facts['where']}" if facts["where"] else ""
    told = number(facts["trials"], "trial")
    text = f"{facts['diverged']:,} of {told} diverged{place}; the most {facts['most']:,} times."
    return Section("", "", shown=shown, facts=facts), Finding(Weight.CARE, text)
