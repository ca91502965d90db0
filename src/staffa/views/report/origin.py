"""Where a campaign came from: versions, code, seeds, machines, drivers; and how its archive stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from pyarrow.lib import ArrowException

from staffa.storage.merged import read_origins
from staffa.storage.provenance import known_backends
from staffa.views.readings import number, size, span, utc
from staffa.views.report.content import Finding, Listing, Section, Weight, listing
from staffa.views.report.evidence import Evidence

MAKER = ("root", "run_hash", "seed", "trials")


def origin(evidence: Evidence) -> Section:
    """The section on provenance."""
    facts = _facts(evidence)
    shown = [
        _table("Campaign", _campaign(evidence, facts)),
        _table("Code", _code(facts)),
        _table("Machine", _machine(facts)),
    ]
    if facts["merged"]:
        rows = [[str(one[name]) for name in MAKER] for one in facts["merged"]]
        shown.append(listing("Merged of these campaigns, which computed the data", MAKER, rows, ("trials",)))
    shown.append(listing("Packages at planning", ("package", "version"), sorted(facts["packages"].items()), (), 40))
    if facts["backends"]:
        names = list(dict.fromkeys(key for one in facts["backends"].values() for key in one))
        rows = [[name, *(str(one.get(key, "")) for key in names)] for name, one in facts["backends"].items()]
        shown.append(listing("What workers computed with", ("backend", *names), rows))
    if facts["drivers"]:
        shown.append(_drivers(facts))
    return Section("provenance", "Provenance", list(_findings(evidence, facts)), (), shown, _commands(evidence), facts)


def _facts(evidence: Evidence) -> dict[str, Any]:
    known, status = evidence.provenance, evidence.status
    figures = status.get("figures") or {}
    names = (
        "git",
        "python",
        "machine",
        "environment",
        "source",
        "code",
        "dirty_files",
        "config_hash",
        "run_hash",
        "seeds",
    )
    return {
        **{name: known.get(name) for name in names},
        "packages": known.get("packages") or {},
        "merged": _merged(evidence),
        "tags": status.get("tags") or [],
        "backends": known_backends(evidence.workspace.metadata),
        "devices": dict(evidence.course.devices),
        "code_changes": [list(change) for change in evidence.books.code_changes],
        "drivers": [vars(drive) for drive in evidence.course.drives],
        "parts": figures.get("parts", len(evidence.plan.parts)),
        "sealed": figures.get("sealed", 0),
        "rows": sum(int(part.get("rows", 0)) for part in evidence.books.parts.values()),
        "archive_bytes": sum(int(part.get("bytes", 0)) for part in evidence.books.parts.values()),
        "groups": len(evidence.plan.groups),
        "programs": evidence.plan.programs,
        "batches": evidence.plan.batches,
        "sampling": vars(evidence.plan.sampling),
    }


def _merged(evidence: Evidence) -> list[dict[str, Any]]:
    """Which campaigns computed how many of a merged campaign's trials; empty for one that was not merged."""
    try:
        origins = read_origins(evidence.workspace, evidence.plan.trials)
    except (OSError, ArrowException, KeyError, TypeError):
        return []  # a record of the past: the report goes on without it
    if origins is None:
        return []
    counts = [int((origins.of == place).sum()) for place in range(len(origins.makers))]
    makers = zip(origins.makers, counts, strict=True)
    return [{"root": maker.root, "run_hash": maker.run_hash, "seed": maker.seed, "trials": n} for maker, n in makers]


def _campaign(evidence: Evidence, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    sampling = evidence.plan.sampling
    yield "folder", str(evidence.workspace.root)
    yield "run hash", str(facts["run_hash"] or "not known")
    yield "configuration hash", str(facts["config_hash"] or "not known")
    yield "tags", ", ".join(facts["tags"])
    most = "up to " if evidence.plan.search is not None else ""
    inside = f"{number(facts['groups'], 'group')}, {most}{number(facts['batches'], 'batch')}"
    yield "trials", f"{most}{evidence.plan.trials:,} in {inside}"
    draws = (
        "one shot, without draws" if sampling.draws is None else f"{sampling.draws:,} draws, thinned by {sampling.thin}"
    )
    yield (
        "sampling",
        f"{draws}; discard {sampling.discard:,}, warm-up {sampling.warmup:,}, {number(sampling.segments, 'segment')}",
    )
    yield (
        "archive",
        f"{facts['sealed']:,} of {number(facts['parts'], 'part')} sealed, {facts['rows']:,} rows, "
        f"{size(facts['archive_bytes'])}",
    )
    seeds = facts["seeds"] or {}
    yield "seeds", ", ".join(f"{name} {value}" for name, value in seeds.items())


def _code(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    git = facts["git"] or {}
    yield "source", str(facts["source"] or "not known")
    yield "digest", str(facts["code"] or "not known")[:16]
    if git.get("outside"):
        yield "git", "outside of any repository; a snapshot is kept in code/"
    elif git:
        dirty = {True: "with changes that were not committed", False: "clean", None: "not known whether clean"}
        yield "git", f"{git.get('commit') or 'no commit'}, {dirty[git.get('dirty')]}"
    yield "files that differ from their commit", ", ".join(facts["dirty_files"] or ())
    yield "accepted changes", ", ".join(f"{old[:12]} to {new[:12]}" for old, new in facts["code_changes"])


def _machine(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine = facts["machine"] or {}
    yield "planned on", f"{machine.get('host', 'not known')}, {machine.get('platform', '')}"
    yield "processors", str(machine.get("processors", ""))
    yield "memory", size(int(machine["memory"])) if machine.get("memory") else ""
    yield "Python", str(facts["python"] or "")
    yield "devices", ", ".join(f"{kind or 'not known'} ({count:,} batches)" for kind, count in facts["devices"].items())
    yield "environment", ", ".join(f"{name}={value}" for name, value in (facts["environment"] or {}).items())


def _table(caption: str, rows: Iterator[tuple[str, str]]) -> Listing:
    return listing(caption, ("what", "is"), [row for row in rows if row[1]], (), 40)


def _drivers(facts: Mapping[str, Any]) -> Listing:
    rows = [
        (
            utc(one["began"]),
            span(one["last"] - one["began"]),
            str(one["workers"]),
            one["reason"] or "no word of its end",
            one["staffa"],
        )
        for one in facts["drivers"]
    ]
    return listing("Drivers", ("began", "lasted", "workers at first", "ended", "staffa"), rows, ("workers at first",))


def _findings(evidence: Evidence, facts: Mapping[str, Any]) -> Iterator[Finding]:
    if facts["dirty_files"]:
        yield Finding(
            Weight.CARE,
            f"{number(len(facts['dirty_files']), 'file')} of the workflow differed from git's when it was planned.",
        )
    if facts["code_changes"]:
        yield Finding(
            Weight.CARE, f"The model's code was changed on the way, and accepted ({len(facts['code_changes'])} times)."
        )
    if evidence.with_data.any() and facts["sealed"] < facts["parts"] and not evidence.status.get("live"):
        yield Finding(
            Weight.CARE,
            f"The archive is not complete: {facts['sealed']:,} of {number(facts['parts'], 'part')} are sealed.",
        )


def _commands(evidence: Evidence) -> list[str]:
    return [f"staffa reproduce {shlex.quote(str(evidence.workspace.root))}"] if evidence.with_data.any() else []
