"""The machine itself: what is wrong with it, and which jobs nobody wants any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from staffa.ambient import current
from staffa.storage.workspace import Workspace


def doctor(
    cluster: str | Path | None = None,
    *,
    run: str | Path | None = None,
    set: Iterable[str] = (),
    fail_on_warning: bool = False,
    patience: float = 120.0,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Check this machine, and the cluster a config names; every check with what mends it.

    Arguments:
    - `run`: a campaign's folder: it is looked at instead of the machine.
    - `fail_on_warning`: have `exit_code` be 1 where something warns and nothing failed.
    - `patience`: seconds a probe job may wait in the queue.
    - `tell`: told what is being waited for.
    """
    from staffa.campaign.config import load_machine
    from staffa.doctor import examine, facts

    if run is not None:
        from staffa.execution.upkeep import campaign_folder

        return facts(campaign_folder(Workspace.open(run)), fail_on_warning=fail_on_warning)
    found = load_machine(cluster if cluster is not None else current().cluster, overrides=set)
    checks = examine(
        found.cluster,
        Path(found.storage.root),
        x64=found.execution.x64,
        prng=found.execution.prng,
        telemetry=found.execution.telemetry,
        workers=found.execution.workers,
        patience=patience,
        tell=tell or (lambda text: None),
    )
    return facts(checks, fail_on_warning=fail_on_warning)


def reap(run: str | Path | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """Cancel the jobs of campaigns that nobody drives; `dry_run` only lists them."""
    from staffa.execution.slurm.reap import reap as reap_jobs

    return reap_jobs(run, dry_run=dry_run)
