"""What a campaign will take, with what can be found out here: a pilot, an earlier run, the room there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from staffa.campaign.cost import Cost
from staffa.campaign.estimate import estimate, refuse, warnings
from staffa.campaign.machine import JobShape
from staffa.campaign.model import CampaignConfig
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.execution.past import costs_of_run, earlier_costs
from staffa.execution.prepare import Prepared

Tell = Callable[[str], None]


def estimated(
    prepared: Prepared, root: Path, *, pilot: bool = False, past: Path | None = None, tell: Tell = lambda text: None
) -> Prepared:
    """Add what a campaign will take, and refuse what cannot fit. Nothing stays on the disk.

    Arguments:
    - `root`: the campaign's folder. A run in it, or of the same programs beside it, is used where nothing else is said.
    - `pilot`: run a few trials of each program on a worker of each pool that samples.
    - `past`: the run whose receipts are to be used.
    - `tell`: told what is being waited for.

    Raises `ConfigError` for what cannot fit, and whatever a pilot or a run object to, with file and line.
    """
    if pilot and past is not None:
        raise ConfigError("--pilot --past: both say what it costs", "leave one of them out")
    declaration, config = prepared.declaration, prepared.declaration.campaign
    try:
        inside = allocation(config)
        room, inodes = free(Path(config.storage.root))
        bounds: dict[str, Any] = {"room": room, "inodes": inodes, "files": prepared.files, "inside": inside}
        if pilot:
            refuse(prepared.plan, config, (), **bounds)  # before a worker is asked for
        costs = _costs(prepared, root, pilot, past, tell)
        refuse(prepared.plan, config, costs, **bounds)
    except (ConfigError, ClusterError, PluginError) as error:
        raise declaration.located(error) from None
    found = estimate(prepared.plan, config, costs, inside)
    said = warnings(prepared.plan, config, found, room=room)
    found["warnings"] = [{"where": str(declaration.where(one["field"])), **one} for one in said]
    found["files"] = {"inodes": prepared.files, "source": "shapes"}
    found["room"] = {"bytes": room, "inodes": inodes}
    return replace(prepared, costs=tuple(costs), estimate=found)


def _costs(prepared: Prepared, root: Path, pilot: bool, past: Path | None, tell: Tell) -> Sequence[Cost]:
    if pilot:
        from staffa.execution.pilot import pilot as measured

        return measured(prepared, tell=tell)
    if past is not None:
        return costs_of_run(past, prepared.plan)
    return earlier_costs(root, prepared.plan)


def allocation(config: CampaignConfig) -> JobShape | None:
    """The allocation this process runs in, where the campaign is to use it."""
    if config.cluster.kind != "allocation" or not os.environ.get("SLURM_JOB_ID"):
        return None
    from staffa.execution.slurm.allocation import given
    from staffa.execution.slurm.commands import Slurm, SlurmError

    gpus = 0
    with contextlib.suppress(SlurmError):
        gpus = Slurm().gpus_per_node(os.environ["SLURM_JOB_ID"])
    return given(config.cluster, os.environ, gpus)


def free(root: Path) -> tuple[int | None, int | None]:
    """Bytes and inodes that are free where a folder is to stand; None where the file system does not say."""
    place = root.expanduser().absolute()
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    try:
        disk = os.statvfs(place)
    except OSError:
        return None, None
    return disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
