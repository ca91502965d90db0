"""A run of any size, as its driver would tell it: events, made up, through the real summing up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from staffa.views.overview import Overview

TRIALS, GROUPS, WORKERS = 100_000, 345, 500
TICKS = 24
AT_ONCE = 0.25
"""Of the groups, the share that is under way at a time."""


def overview(
    trials: int = TRIALS, groups: int = GROUPS, workers: int = WORKERS, now: float | None = None
) -> tuple[Overview, dict[str, Any]]:
    """A run under way, and the figures it told last."""
    now = time.time() if now is None else now
    clock = [now - 600.0]
    found = Overview(Path("/data/runs/v1.0_wide"), clock=lambda: clock[0])
    at = clock[0]
    found({"event": "run_started", "at": at, "run_id": "wide-1", "host": "login1", "pid": 7, "driver": "d"})
    for number in range(workers):
        found(joined(number, at))
    for tick in range(TICKS):
        clock[0] = at + 600.0 * tick / TICKS
        told = figures(trials, groups, workers, 0.6 * tick / TICKS)
        found({"event": "figures", **told})
        for number in range(workers):
            if number % 9 or tick % 3:  # some have less to do
                for event in batch(number, clock[0], tick):
                    found(event)
    clock[0] = now
    return found, told


def joined(number: int, at: float) -> dict[str, Any]:
    return {
        "event": "worker_joined", "at": at, "address": address(number), "name": f"90{number // 4}-{number % 4}",
        "host": f"nid{number // 4:04}", "node": f"nid{number // 4:04}", "pid": 100 + number, "pool": "gpu",
        "job": f"90{number // 4}", "ends": at + 7200.0 + number, "device": str(number % 4),
    }  # fmt: skip


def batch(number: int, at: float, tick: int) -> list[dict[str, Any]]:
    """One batch of a worker: issued, and settled with a failure now and then."""
    of = {
        "batch": f"g{number % GROUPS}/{tick}",
        "attempt": 1,
        "worker": address(number),
        "node": f"nid{number // 4:04}",
    }
    failed = [{"lane": 0, "trial": f"{number:032x}", "outcome": "raised", "message": f"ValueError: case {tick % 7}"}]
    memory = {"rss": 2 << 30, "device": 30 << 30, "device_limit": 40 << 30}
    compiling, sampling = 9.0 if tick < 2 else 0.0, 18.0 + number % 7
    timings = {"queue": 1.0, "compile": compiling, "sample": sampling - compiling, "write": 1.5, "commit": 0.3}
    return [
        {"event": "batch_issued", "at": at, **of},
        {
            "event": "batch_settled", "at": at + sampling, **of, "outcomes": {"ok": 64}, "timings": timings,
            "memory": memory,
            "device": "NVIDIA A100-SXM4-40GB", "bytes": 1 << 20, "failed": failed if (number + tick) % 97 == 0 else [],
        },
    ]  # fmt: skip


def figures(trials: int, groups: int, workers: int, share: float) -> dict[str, Any]:
    """What the driver tells when so large a share is settled, group by group."""
    sizes = [trials // groups + (number < trials % groups) for number in range(groups)]
    begun = [(1 - AT_ONCE) * number / groups for number in range(groups)]
    told = [
        group(number, size, min(max((share - begun[number]) / AT_ONCE, 0.0), 1.0)) for number, size in enumerate(sizes)
    ]
    outcomes: dict[str, int] = {}
    for one in told:
        for word, count in one["outcomes"].items():
            outcomes[word] = outcomes.get(word, 0) + count
    settled, flying = sum(outcomes.values()), sum(one["flying"] for one in told)
    raised = outcomes.get("raised", 0)
    states = {"planned": trials - settled - flying, "issued": flying, "done": settled - raised, "quarantined": raised}
    return {
        "trials": trials, "settled": settled, "outcomes": outcomes, "states": states, "groups": told, "rate": 98.4,
        "eta": (trials - settled) / 98.4, "batches": 2000, "flying": 900, "waiting": 600, "retrying": 3,
        "workers": workers, "parts": groups, "sealed": groups // 3, "pools": {}, "budget": {}, "paused": False,
        "lagging": {"slow": 0, "stuck": 0, "batches": []}, "stopping": "", "dashboard": "http://127.0.0.1:8787/staffa",
    }  # fmt: skip


def group(number: int, size: int, share: float) -> dict[str, Any]:
    settled = int(size * share)
    raised = 1 if number % 50 == 7 and settled else 0
    outcomes = {word: count for word, count in (("ok", settled - raised), ("raised", raised)) if count}
    label = f"nuts, population={number}, temperature={number / 10}"
    flying = min(size // 3, size - settled) if settled else 0
    return {
        "group": f"g{number}", "of": label, "trials": size, "settled": settled, "outcomes": outcomes, "flying": flying
    }  # fmt: skip


def address(number: int) -> str:
    return f"tls://10.1.{number // 250}.{number % 250}:4711"
