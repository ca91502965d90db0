"""What each command has to say: plain mappings (for `--json`) and the sheets made of them.

The mappings hold numbers and names as they are; the sheets hold text for people.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.views.estimate import estimate_lines, estimate_notes
from staffa.views.lagging import lagging_lines
from staffa.views.params import described, in_words
from staffa.views.readings import flagged, moment, number, outcomes, percent, pool, pools, size, span, tunnel
from staffa.views.sheet import Grid, Sheet, one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from staffa.campaign.config import Row
    from staffa.campaign.plan import Group, Plan

GROUPS = 20
"""Groups a plan's table shows; the others are counted."""
WIDE = 100
"""Longest text that a line of a plan says of a parameter."""
CELL = 60
"""Longest text in a cell of a query's answer on a page."""
LOG_LINES = 20
"""Lines of a trial's log that are shown with its story: the last ones."""

Facts = Mapping[str, Any]


def as_json(facts: Any) -> str:
    """Any of the mappings as JSON, which knows neither NaN nor infinities: null instead."""
    return json.dumps(_finite(facts), default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- plan ------------------------------------------------------------------------------------------


def plan_facts(
    plan: Plan, root: Path, total_bytes: int, inodes: int, estimate: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A plan in numbers.

    Arguments:
    - `total_bytes`: of the outputs, uncompressed; `inodes`: of the finished campaign.
    - `estimate`: what it will take (`staffa.campaign.estimate.estimate`).
    """
    return {
        "root": str(root),
        "trials": plan.trials,
        "merged": plan.merged,
        "search": [name for name, _ in plan.search.objectives] if plan.search is not None else None,
        "groups": len(plan.groups),
        "programs": plan.programs,
        "batches": plan.batches,
        "batch": sorted({group.batch for group in plan.groups}),
        "segments": plan.sampling.segments,
        "draws": plan.sampling.draws,
        "parts": len(plan.parts),
        "bytes": total_bytes,
        "inodes": inodes,
        "inodes_per_1000_trials": round(1000 * inodes / max(plan.trials, 1), 1),
        "parameters": dict(plan.parameters),
        "about": described(plan) if plan.about else [],
        "partition_by": list(plan.partition_by),
        "estimate": dict(estimate or {}),
        "partitions": [_group_facts(plan, group, number) for number, group in enumerate(plan.groups)],
    }


def _group_facts(plan: Plan, group: Group, number: int) -> dict[str, Any]:
    from staffa.campaign.plan import bytes_per_trial

    return {
        "group": group.name,
        "sampler": group.sampler,
        "partition": dict(group.partition),
        "static": dict(group.static),
        "vectorize": group.vectorize,
        "trials": group.trials,
        "batch": group.batch,
        "batches": group.batches,
        "parts": sum(1 for part in plan.parts if part.group == number),
        "bytes": bytes_per_trial(group, plan.sampling.draws) * group.trials,
        "outputs": {output.name: output.kind for output in group.outputs},
    }


def plan_sheet(facts: Facts) -> Sheet:
    """A plan on a page."""
    merged = f" ({number(facts['merged'], 'duplicate')} merged away)" if facts["merged"] else ""
    sizes = "/".join(f"{batch:,}" for batch in facts["batch"])
    inodes = f"{facts['inodes']:,}, {facts['inodes_per_1000_trials']:g} for 1,000 trials"
    lines = {
        "trials": _planned(facts) + merged,
        "groups": f"{facts['groups']:,}, {number(facts['programs'], 'program')} to compile",
        "batches": f"{facts['batches']:,} of up to {sizes} trials"
        + (f", {number(facts['segments'], 'segment')} each" if facts["segments"] > 1 else ""),
        "archive": f"{number(facts['parts'], 'part')}, {_partitioned(facts)}",
        "outputs": f"{size(facts['bytes'])} before compression",
        "inodes": inodes,
        **estimate_lines(facts.get("estimate") or {}),
        "run hash": str(facts.get("run_hash") or ""),
        **{one["name"]: one_line(in_words(one), WIDE) for one in facts["about"][:GROUPS]},
        **_machine_lines(facts.get("cluster") or {}),
    }
    shown = facts["partitions"][:GROUPS]
    rest = len(facts["partitions"]) - len(shown)
    notes = [f"… and {number(rest, 'more group')}"] if rest else []
    notes += estimate_notes(facts.get("estimate") or {})
    notes.append("nothing is refused, nothing was written; next: " + facts["next"])
    return Sheet(facts["root"], lines, _group_grid(shown), notes)


def _planned(facts: Facts) -> str:
    if not facts.get("search"):
        return f"{facts['trials']:,}"
    return f"up to {facts['trials']:,}, asked for as results come in, for {', '.join(facts['search'])}"


def _machine_lines(cluster: Facts) -> dict[str, str]:
    """What SLURM would be asked for, and whether it would give it."""
    lines = {}
    for name, shape in cluster.get("pools", {}).items():
        each = f"{number(shape['nodes'], 'node')}" + (f" with {number(shape['gpus'], 'GPU')}" if shape["gpus"] else "")
        jobs = f"{number(shape['jobs'], 'job')} of {each}, {shape['walltime']}"
        lines[f"pool {name}"] = f"{number(shape['workers'], 'worker')} in {jobs}; {' and '.join(shape['work'])}"
        if name in cluster.get("waits", {}):
            lines[f"pool {name}"] += f"; {cluster['waits'][name]}"
    if cluster.get("unchecked"):
        lines["slurm"] = f"limits not checked: {cluster['unchecked']}"
    elif cluster:
        lines["slurm"] = f"{cluster['slurm']} would take these jobs"
    return lines


def _partitioned(facts: Facts) -> str:
    if not facts["partition_by"]:
        return "not partitioned"
    distinct = {tuple(group["partition"].items()) for group in facts["partitions"]}
    return f"{number(len(distinct), 'partition')} by {', '.join(facts['partition_by'])}"


def _group_grid(groups: Sequence[Facts]) -> Grid:
    rows = [
        (
            group["group"],
            _values({**group["partition"], **group["static"]}) or "-",
            group["sampler"],
            f"{group['trials']:,}",
            f"{group['batches']:,} x {group['batch']:,}",
            f"{group['parts']:,}",
            size(group["bytes"]),
            _values(group["outputs"], " "),
        )
        for group in groups
    ]
    columns = ("group", "values", "sampler", "trials", "batches", "parts", "bytes", "outputs")
    return Grid(columns, rows, frozenset(("trials", "batches", "parts", "bytes")))


def _values(values: Facts, between: str = "=") -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())


# --- run -------------------------------------------------------------------------------------------


def ended_facts(root: Path, resumed: bool, ended: Facts, exit_code: int, status: Facts) -> dict[str, Any]:
    """How a run ended.

    Arguments:
    - `ended`: `reason`, `outcomes`, `quarantined`, `seconds`.
    - `status`: as `staffa status` has it.
    """
    figures = status.get("figures", {})
    return {
        "root": str(root),
        "resumed": resumed,
        **ended,
        "exit_code": exit_code,
        "trials": figures.get("trials", 0),
        "missing": figures.get("asked", figures.get("trials", 0)) - figures.get("settled", 0),
        "unasked": figures.get("trials", 0) - figures.get("asked", figures.get("trials", 0)),
        "parts": figures.get("parts", 0),
        "sealed": figures.get("sealed", 0),
        "archive": str(root / "archive"),
        "next": next_commands(root, status),
    }


ENDINGS = {
    "finished": "finished",
    "stopped": "stopped (asked by staffa stop)",
    "budget": "stopped (execution.budget is reached: raise it to go on)",
}


def ended_sheet(facts: Facts) -> Sheet:
    """The last words of a run: where the results are, what to do, and last what is not as it should be."""
    verb = ENDINGS.get(facts["reason"], "interrupted")
    again = " an unchanged campaign was resumed;" if facts["resumed"] else ""
    title = f"{verb}:{again} {number(facts['trials'], 'trial')}, {span(facts['seconds'])}"
    lines = {
        "results": f"{facts['archive']} ({facts['sealed']:,} of {number(facts['parts'], 'part')} sealed)",
        **{f"next{' ' * place}": command for place, command in enumerate(facts["next"])},
        **class_counts(facts["outcomes"], facts["quarantined"], facts["missing"]),
        **({"not asked": f"{facts['unasked']:,}"} if facts["unasked"] else {}),
    }
    return Sheet(title, lines)


def class_counts(counts: Mapping[str, int], quarantined: int, missing: int) -> dict[str, str]:
    """Trials by class: `ok`, each other outcome, quarantined, missing; what is zero is left out but ok."""
    lines = {"ok": f"{counts.get('ok', 0):,}"}
    lines |= {word: f"{count:,}" for word, count in flagged(counts).items() if word != "missing"}
    lines |= {"quarantined": f"{quarantined:,}"} if quarantined else {}
    return lines | ({"missing": f"{missing:,}"} if missing else {})


def next_commands(root: str | Path, status: Facts) -> list[str]:
    """What one would do next, most likely first."""
    run, figures = shlex.quote(str(root)), status.get("figures", {})
    if status.get("live"):
        return [f"staffa watch {run}", f"staffa stop {run}"]
    commands = []
    if figures.get("settled", 0) < figures.get("trials", 0):
        commands.append(f"staffa resume {run}")
    if figures.get("settled", 0) and figures.get("sealed", 0) < figures.get("parts", 0):
        commands.append(f"staffa consolidate {run}")
    if any(figures.get("outcomes", {}).get(word) for word in ("raised", "timeout", "killed")):
        commands += [f'staffa query {run} "select * from failed"', f"staffa retry {run}"]
    if "asked" in figures:
        commands.append(f"staffa search top {run}")
    return commands or [f'staffa query {run} "select * from trials limit 5"']


# --- status ----------------------------------------------------------------------------------------


def status_sheet(status: Facts) -> Sheet:
    """Where a campaign stands."""
    figures = status.get("figures", {})
    trials, settled = figures.get("trials", 0), figures.get("settled", 0)
    speed = f", {figures['rate']:,.0f} trials/s" if status["live"] and figures.get("rate") else ""
    eta = f", ETA {span(figures['eta'])}" if status["live"] and figures.get("eta") else ""
    lines = {
        "run hash": str(status.get("run_hash") or ""),
        "tags": ", ".join(status.get("tags") or ()),
        "driver": _driver(status),
        **{f"pool {name}": text for name, text in _pools(status).items()},
        "trials": f"{settled:,} of {trials:,} settled ({percent(settled, trials)} %){speed}{eta}",
        "asked": f"{figures['asked']:,} of {trials:,} by the search" if "asked" in figures else "",
        "outcomes": outcomes(figures.get("outcomes", {})) or "none yet",
        "states": ", ".join(f"{count:,} {state}" for state, count in (figures.get("states") or {}).items()),
        "batches": _batches(figures),
        **(lagging_lines(figures) if status["live"] else {}),
        "budget": _budget(figures),
        "archive": f"{figures.get('sealed', 0):,} of {number(figures.get('parts', 0), 'part')} sealed",
        "quarantined": f"{status['quarantined']:,}" if status.get("quarantined") else "",
        "lost": _lost(status.get("node_hours_lost") or {}),
        "paused": str(status.get("paused") or ""),
        **(_dashboard(status) if status["live"] else {}),
    }
    notes = [f"next: {command}" for command in next_commands(status["root"], status)]
    return Sheet(status["root"], {name: text for name, text in lines.items() if text}, notes=notes)


def _budget(figures: Facts) -> str:
    found = figures.get("budget") or {}
    return ", ".join(f"{one['spent']:.3g} of {one['limit']:g} {unit.replace('_', ' ')}" for unit, one in found.items())


def _driver(status: Facts) -> str:
    run = status.get("run") or {}
    if status["live"]:
        workers = status.get("figures", {}).get("workers")
        job = f" in job {run['job']}" if run.get("job") else ""
        return f"running as {status['driver']}{job}" + (f", {number(workers, 'worker')}" if workers is not None else "")
    waiting = f"; job {status['driver_job']} is to drive it" if status.get("driver_job") else ""
    if "ended" in run:
        why = f"{run.get('reason')} (exit {run.get('exit_code')})"
        return f"none; the last one ended {moment(run['ended'])}: {why}{waiting}"
    return ("none; the last one died" if run else "none yet") + waiting


def _pools(status: Facts) -> dict[str, str]:
    """The pools of a live driver; of one that is gone, those that stood still."""
    found = pools(status.get("figures", {}))
    if status["live"]:
        return {name: pool(facts) for name, facts in found.items()}
    return {name: f"was paused: {one_line(facts['paused'], CELL)}" for name, facts in found.items() if facts["paused"]}


def _lost(hours: Mapping[str, float]) -> str:
    """Work that was thrown away."""
    words = {"cut_offs": "cut-offs", "crashes": "crashes", "vanished": "vanished nodes"}
    said = [f"{lost:.3g} node-hours by {words.get(name, name)}" for name, lost in hours.items() if lost]
    return ", ".join(said)


def _dashboard(status: Facts) -> dict[str, str]:
    figures = status.get("figures", {})
    way = tunnel(figures, str(status.get("host") or ""))
    return {"tunnel": way} if way else {"dashboard": str(figures.get("dashboard") or "")}


def _batches(figures: Facts) -> str:
    counts = [f"{figures.get('batches', 0):,} in all"]
    names = {"flying": "in flight", "waiting": "waiting", "retrying": "to be retried"}
    counts += [f"{figures[name]:,} {text}" for name, text in names.items() if figures.get(name)]
    return ", ".join(counts)


# --- the rest --------------------------------------------------------------------------------------


def explain_sheet(facts: Facts) -> Sheet:
    """A trial's story."""
    place = f"batch {facts['batch']}, lane {facts['lane']}, {facts['part']}"
    lines = {
        "state": facts["state"],
        "why": facts["why"],
        "outcome": facts["outcome"],
        "sampler": facts["sampler"],
        **{name: str(value) for name, value in facts["parameters"].items()},
        "replicate": str(facts["replicate"]),
        "place": place,
        **_computed(facts["computed"]),
    }
    rows = [(moment(event["at"]), one_line(event["text"])) for event in facts["history"]]
    return Sheet(
        f"trial {facts['trial']} (index {facts['index']})",
        lines,
        Grid(("when", "what happened"), rows),
        [*_log_end(facts), f"next: {facts['next']}"],
    )


def _log_end(facts: Facts) -> Iterator[str]:
    """The last lines of a trial's log."""
    lines = facts["log"].splitlines()
    if lines:
        yield f"printed (the last {min(len(lines), LOG_LINES)} of {number(len(lines), 'line')} of {facts['log_file']}):"
        yield from lines[-LOG_LINES:]


def _computed(found: Facts | None) -> dict[str, str]:
    """Where a trial of a merged campaign was computed."""
    return {"computed": f"in {found['root']} from seed {found['seed']}, as {found['trial']}"} if found else {}


def config_facts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Every value of a declaration with where it came from."""
    return [
        {"field": path, "value": value, "tier": origin.tier, "from": _origin(origin)} for path, value, origin in rows
    ]


def config_sheet(facts: Sequence[Facts]) -> Sheet:
    rows = [(row["field"], one_line(str(row["value"]), CELL), row["from"]) for row in facts]
    return Sheet(grid=Grid(("field", "value", "from"), rows))


def _origin(origin: Any) -> str:
    return str(origin.tier) if origin.file is None else f"{origin.tier} {origin}"


def answer_facts(table: pa.Table, limit: int) -> dict[str, Any]:
    """The answer to a query: at most `limit` rows (0: all), and how many there are."""
    shown = table.slice(0, limit) if limit else table
    return {"columns": table.column_names, "rows": shown.to_pylist(), "total": table.num_rows}


def answer_sheet(facts: Facts, sealed: bool, root: Path) -> Sheet:
    """The answer to a query on a page."""
    columns, rows = facts["columns"], facts["rows"]
    numeric = frozenset(
        name for name in columns if rows and all(isinstance(row[name], int | float | None) for row in rows)
    )
    grid = Grid(columns, [[_cell(row[name]) for name in columns] for row in rows], numeric)
    hidden = facts["total"] - len(rows)
    notes = [f"… and {number(hidden, 'more row')} (--limit 0 shows all)"] if hidden else []
    if not sealed:
        notes.append(f"nothing is sealed yet; next: staffa consolidate {shlex.quote(str(root))}")
    return Sheet(grid=grid, notes=notes)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value), CELL)
