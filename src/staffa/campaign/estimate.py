"""What a campaign will take: memory, bytes, hours; and the refusal of what cannot fit. Pure.

Without costs only what follows from shapes is known. Every figure carries its source: `shapes`,
`pilot`, `run FOLDER`, or `estimate from …` where one of these tells of something else.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from staffa.campaign.cost import (
    SHAPES,
    Cost,
    Matched,
    Seats,
    labelled,
    lane_bytes,
    matched,
    program_of,
    seats,
    width_in,
)
from staffa.campaign.machine import JobShape
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Plan, bytes_per_trial
from staffa.errors import ConfigError

ESTIMATE = "estimate from "
"""Comes before a source that tells of something else."""
COPIES = 4
"""Of what a lane carries and records, as long as nothing is measured: state and outputs, old and new."""
ARCHIVE_SHARE = 1.1
"""Bytes of the archive for each byte of the hot store, unless a run has told."""
COMPRESSION = 20
"""More than this nothing is taken to shrink before it was measured: what is too large even so is refused."""
STARTUP_SECONDS = 5.0
"""Until the first local worker is there."""
MARGIN, SETTLE_SECONDS = 1.1, 3.0
"""What has to end before a job is cut off gets so much more time than it took."""
HOUR = 3600.0
UNITS = {"gpu_hours": "gpu", "node_hours": "node", "hours": "wall"}
"""Units of a budget, and which of the estimated hours each is."""


def estimate(
    plan: Plan, config: CampaignConfig, costs: Sequence[Cost], inside: JobShape | None = None
) -> dict[str, Any]:
    """What a campaign will take, as far as it can be known.

    Arguments:
    - `costs`: none for what follows from shapes alone.
    - `inside`: the allocation this process runs in.

    Returns, each figure with its `source`:
    - `source`, `note`: of what was measured; `measured`: whether anything was.
    - `guessed`: groups without a cost of their own; `foreign`: pools that others were measured for.
    - `bytes`: `hot` and `archive`. `memory`: the largest program of each pool (see `_memory_of`).
    - `hours`: see `_hours`; None where nothing was measured. `jobs`: see `_jobs`.
    - `budget`: for each limit `limit`, `needed` (None: not known), `never` (it cannot be reached).
    - `programs`: the costs themselves, one row a program and pool.
    """
    workers = seats(config, inside)
    table = {seat.pool: matched(plan, costs, seat.pool) for seat in workers}
    anywhere = next(iter(table.values()), None) or matched(plan, costs, "")
    hours = _hours(plan, workers, table, anywhere) if costs else None
    return {
        "source": costs[0].source if costs else SHAPES,
        "note": costs[0].note if costs else "",
        "measured": bool(costs),
        "guessed": anywhere.guessed,
        "foreign": [pool for pool, found in table.items() if found.foreign],
        "bytes": _bytes(plan, anywhere),
        "memory": _memory(plan, workers, table),
        "hours": hours,
        "jobs": _jobs(workers, hours),
        "budget": _budget(config, workers, hours),
        "programs": labelled(costs),
    }


def _bytes(plan: Plan, found: Matched) -> dict[str, dict[str, Any]]:
    """Bytes on disk when all is done: uncompressed where nothing was measured."""
    hot = archive = 0.0
    told = bool(found.costs)
    for number, group in enumerate(plan.groups):
        cost = found.costs.get(number)
        stored = cost.stored if cost is not None else bytes_per_trial(group, plan.sampling.draws)
        archived = cost.archived if cost is not None else None
        told = told and archived is not None
        hot += stored * group.trials
        archive += (archived if archived is not None else stored * ARCHIVE_SHARE) * group.trials
    source = next((cost.source for cost in found.costs.values()), SHAPES)
    return {
        "hot": {"bytes": int(hot), "source": _carried(source, found)},
        "archive": {"bytes": int(archive), "source": _carried(source, found) if told else _estimate(source)},
    }


def _carried(source: str, found: Matched) -> str:
    """The source of a figure: an estimate where part of it was not measured."""
    return _estimate(source) if found.guessed else source


def _estimate(source: str) -> str:
    return source if source == SHAPES or source.startswith(ESTIMATE) else f"{ESTIMATE}{source}"


def _memory(plan: Plan, workers: Sequence[Seats], table: Mapping[str, Matched]) -> list[dict[str, Any]]:
    """The largest program of each pool."""
    found = []
    for seat in workers:
        rows = [_memory_of(plan, number, seat, table[seat.pool].costs.get(number)) for number in _compiled(plan)]
        found += [max(rows, key=lambda row: int(row["per_trial"]))] if rows else []
    return found


def _compiled(plan: Plan) -> list[int]:
    return [number for number, group in enumerate(plan.groups) if group.vectorize != "off"]


def _memory_of(plan: Plan, number: int, seat: Seats, cost: Cost | None) -> dict[str, Any]:
    """Bytes of a call: `width` lanes, `bytes` of them, `per_trial`, `limit` of the device, `fits` (lanes that do)."""
    group = plan.groups[number]
    limit = (cost.limit if cost is not None else None) or seat.memory
    if cost is not None and cost.memory is not None:
        width, size = cost.width, cost.memory
        own = cost.program == program_of(plan, group) and cost.pool == seat.pool
        source = cost.source if own else _estimate(cost.source)
    else:
        each = COPIES * max(lane_bytes(plan, group), 1)
        # Half of the device is what a width is chosen for (`experiment.batch.choose_width`).
        width = width_in(plan, group, group.batch if limit is None else max(limit // 2 // each, 1))
        size, source = each * width, SHAPES
    each = max(math.ceil(size / width), 1)
    return {
        "pool": seat.pool,
        "group": group.name,
        "width": width,
        "bytes": size,
        "per_trial": each,
        "limit": limit,
        "fits": limit // each if limit is not None else None,
        "source": source,
    }


def _hours(plan: Plan, workers: Sequence[Seats], table: Mapping[str, Matched], anywhere: Matched) -> dict[str, Any]:
    """Hours by the clock (`wall`, time in the queue apart), on the device, and held by the workers.

    Held are `worker`, `node`, `gpu`. `compile`: seconds to compile every program once. Where nobody can
    tell how many workers there will be, `wall` and what is held are None.
    """
    compiling = {cost.program: cost.compile for cost in anywhere.costs.values()}
    source = _carried(next(iter(anywhere.costs.values())).source, anywhere)
    compile_seconds = math.fsum(compiling.values())
    if not workers:
        device = math.fsum(
            anywhere.costs[number].device_seconds(group.size(batch), plan.sampling.segments)
            for number, group in enumerate(plan.groups)
            for batch in range(group.batches)
        )
        unknown = dict.fromkeys(("wall", "worker", "node", "gpu", "workers"))
        return {**unknown, "device": device / HOUR, "compile": compile_seconds, "source": source}
    course = simulate(plan, workers, {pool: found.costs for pool, found in table.items()})
    total = sum(course.used.values())
    longest = max(max(compiling.values(), default=0.0), compile_seconds / max(total, 1))
    wall = STARTUP_SECONDS + longest + course.seconds
    shares = [(seat, course.used[seat.pool] / seat.workers) for seat in workers]
    return {
        "wall": wall / HOUR,
        "device": course.device / HOUR,
        "worker": wall * total / HOUR,
        "node": wall * sum(math.ceil(seat.nodes * share) for seat, share in shares) / HOUR,
        "gpu": wall * sum(math.ceil(seat.gpus * share) for seat, share in shares) / HOUR,
        "compile": compile_seconds,
        "workers": total,
        "source": _estimate(source) if any(found.foreign for found in table.values()) else source,
    }


@dataclass(frozen=True)
class Course:
    """How a campaign would go: `seconds` until the last trial is on disk, `device` seconds of all workers
    together, and how many workers of each pool were `used`."""

    seconds: float
    device: float
    used: Mapping[str, int]


def simulate(plan: Plan, workers: Sequence[Seats], costs: Mapping[str, Mapping[int, Cost]]) -> Course:
    """Hand the batches of a plan out, in order, to whoever is free first."""
    segments, device, end = plan.sampling.segments, 0.0, 0.0
    free = [(0.0, place, number) for place, seat in enumerate(workers) for number in range(seat.workers)]
    used: set[tuple[int, int]] = set()
    heapq.heapify(free)
    for group_number, group in enumerate(plan.groups):
        for batch in range(group.batches):
            since, place, number = free[0]
            cost, trials = costs[workers[place].pool][group_number], group.size(batch)
            until = since + cost.period(trials, segments)
            device += cost.device_seconds(trials, segments)
            end = max(end, until + trials * cost.write)
            used.add((place, number))
            heapq.heapreplace(free, (until, place, number))
    counts = {seat.pool: sum(place == number for place, _ in used) for number, seat in enumerate(workers)}
    return Course(end, device, counts)


def _jobs(workers: Sequence[Seats], hours: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """By pool how many `jobs` run at once, and how often each is handed in (`rounds`; None: not known)."""
    wall = (hours or {}).get("wall")
    return {
        seat.pool: {
            "jobs": seat.jobs,
            "rounds": None if wall is None else math.ceil(wall * HOUR / seat.walltime) if seat.walltime else 1,
            "source": SHAPES if wall is None or hours is None else hours["source"],
        }
        for seat in workers
        if seat.jobs
    }


def _budget(
    config: CampaignConfig, workers: Sequence[Seats], hours: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """For each limit of the budget what it is, and what the campaign would need."""
    without = bool(workers) and not any(seat.gpus for seat in workers)
    found = {}
    for unit, name in UNITS.items():
        limit = getattr(config.execution.budget, unit)
        if limit is not None:
            needed = (hours or {}).get(name)
            source = SHAPES if needed is None or hours is None else hours["source"]
            never = unit == "gpu_hours" and without
            found[unit] = {"limit": limit, "needed": needed, "never": never, "source": source}
    return found


def warnings(plan: Plan, config: CampaignConfig, found: Mapping[str, Any], *, room: int | None) -> list[dict[str, str]]:
    """What a campaign could run with and somebody should know: `field`, `text`, `hint` each.

    Arguments:
    - `found`: the estimate; `room`: bytes that are free where the campaign is to stand (None: not known).
    """
    said = [_budget_warning(unit, row) for unit, row in found["budget"].items()]
    total = sum(part["bytes"] for part in found["bytes"].values())
    if not found["measured"] and room is not None and total > room:
        text = (
            f"{config.storage.root!r} has room for {gibibytes(room)}, and the campaign takes {gibibytes(total)} "
            "before compression"
        )
        hint = "find out how well it compresses: staffa plan … --pilot"
        said.append({"field": "storage.root", "text": text, "hint": hint})
    return [one for one in said if one]


def _budget_warning(unit: str, row: Mapping[str, Any]) -> dict[str, str]:
    words, name = unit.replace("_", " "), f"execution.budget.{unit}"
    if row["never"]:
        text = f"{row['limit']:g} can never be reached: no worker holds a GPU that SLURM or CUDA_VISIBLE_DEVICES names"
        return {"field": name, "text": text, "hint": "set node_hours or hours instead"}
    if row["needed"] is None:
        text = f"{row['limit']:g}, and it is not known how many {words} the campaign needs"
        return {"field": name, "text": text, "hint": "find out: staffa plan … --pilot"}
    if row["needed"] > row["limit"]:
        share = 100 * row["limit"] / row["needed"]
        text = (
            f"{row['limit']:g} is reached after some {share:.3g} % of the campaign, which needs "
            f"{row['needed']:.3g} {words} ({row['source']})"
        )
        return {"field": name, "text": text, "hint": f"raise it to {row['needed'] * MARGIN:.2g}, or ask for less"}
    return {}


# --- refusals --------------------------------------------------------------------------------------


def refuse(
    plan: Plan,
    config: CampaignConfig,
    costs: Sequence[Cost],
    *,
    room: int | None,
    inodes: int | None,
    files: int,
    inside: JobShape | None = None,
) -> None:
    """Refuse what cannot fit, naming the field that asks for it.

    Arguments:
    - `room`, `inodes`: what is free where the campaign is to stand (None: not known).
    - `files`: inodes of the whole campaign.

    Raises `ConfigError`.
    """
    workers = seats(config, inside)
    table = {seat.pool: matched(plan, costs, seat.pool) for seat in workers}
    for seat in workers:
        for number in _compiled(plan):
            _check_memory(plan, number, seat, table[seat.pool])
        for number, cost in table[seat.pool].costs.items():
            _check_walltime(plan, number, seat, cost)
    anywhere = next(iter(table.values()), None) or matched(plan, costs, "")
    _check_room(config, _bytes(plan, anywhere), bool(costs), room)
    if inodes is not None and files > inodes:
        raise ConfigError(
            f"storage.root: {config.storage.root!r} has room for {inodes:,} files, and the campaign makes {files:,}",
            "raise execution.batch, or name another folder",
        )


def _check_memory(plan: Plan, number: int, seat: Seats, found: Matched) -> None:
    group, cost = plan.groups[number], found.costs.get(number)
    # Less than that it cannot be, whatever the program does with it.
    needs, has, source = lane_bytes(plan, group), seat.memory, SHAPES
    if cost is not None and cost.memory is not None and not found.foreign:
        needs, has, source = cost.memory_at(1) or 0, cost.limit or seat.memory, cost.source
    if has is not None and needs > has:
        where = f" of pool {seat.pool!r}" if seat.pool else ""
        raise ConfigError(
            f"execution.segments: {plan.sampling.segments}, and one trial of {group.sampler} takes {gibibytes(needs)} "
            f"in a segment ({source}); a worker{where} has {gibibytes(has)}",
            "raise execution.segments, record less, or use devices with more memory: one trial has to fit one device",
        )


def _check_walltime(plan: Plan, number: int, seat: Seats, cost: Cost) -> None:
    if seat.walltime is None:
        return
    group = plan.groups[number]
    needs = cost.compile + MARGIN * cost.calls(group.batch) * (cost.begin + cost.segment) + SETTLE_SECONDS
    if needs > seat.walltime:
        raise ConfigError(
            f"cluster.pools.{seat.pool}.walltime: {seat.walltime:.0f} s, but a batch of {group.batch} trials of "
            f"{group.sampler} takes {needs:.0f} s to its first checkpoint ({cost.source})",
            "raise the walltime or execution.segments, or lower execution.batch",
        )


def _check_room(config: CampaignConfig, needed: Mapping[str, Any], measured: bool, room: int | None) -> None:
    """What was measured has to fit; of what was not, only what no compression could help is refused."""
    hot, archive = needed["hot"]["bytes"], needed["archive"]["bytes"]
    plain = config.storage.compression == "none"
    least = hot + archive if measured else hot if plain else (hot + archive) // COMPRESSION
    if room is None or least <= room:
        return
    how = f"({needed['hot']['source']})" if measured or plain else "before compression"
    raise ConfigError(
        f"storage.root: {config.storage.root!r} has room for {gibibytes(room)}, and the campaign takes "
        f"{gibibytes(hot)} hot and {gibibytes(archive)} in the archive {how}",
        "make room, name another folder, or record less",
    )


def gibibytes(size: float) -> str:
    """Bytes as people read them."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if size >= 1 << power:
            return f"{size / (1 << power):.3g} {unit}"
    return f"{size / 1024:.3g} KiB"
