"""What a cluster could never give is refused at plan, with the field that asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

from staffa.campaign.machine import DRIVER, ClusterConfig, JobShape, driver_shape, shapes
from staffa.errors import ConfigError, near
from staffa.execution.slurm.commands import Limits, Partition, Refused, Slurm, SlurmError
from staffa.execution.slurm.script import walltime

GIBIBYTE = 1 << 30
AWAY = ("down", "drain", "fail", "maint", "unk", "power", "reserved", "block", "planned")
"""How sinfo's words for nodes begin that take no jobs now."""


def preflight(
    machine: ClusterConfig, script: Callable[[str], str], *, detached: bool = False, slurm: Slurm | None = None
) -> dict[str, Any]:
    """Compare every pool with what the cluster has, then have sbatch judge its script.

    Arguments:
    - `script`: the text of a pool's job script, by name; `driver` for the detached driver's.
    - `detached`: whether there is to be a driver's job.

    Returns what was found, for the plan's report; `waits` says of which pools all nodes are away just
    now. Raises `ConfigError` for what no node or
    partition can give, `Refused` in sbatch's own words for the rest, `Unreachable` without SLURM.
    """
    slurm = slurm or Slurm()
    limits = slurm.limits()
    pools = shapes(machine)
    drivers = {DRIVER: driver_shape(machine)} if detached else {}
    waits: dict[str, str] = {}
    for name, shape in {**pools, **drivers}.items():
        where = "cluster.driver" if name == DRIVER else f"cluster.pools.{name}"
        _fits(where, shape, limits)
        try:
            slurm.test(script(name), 0 if name == DRIVER else 1)
        except Refused as error:
            gone = _away(shape, slurm)
            if gone:
                waits[name] = f"{gone}; jobs would wait"
                continue
            field = f"{where}.{error.field}" if error.field else where
            raise Refused(f"{field}: {error.message}", _hint(error, shape, limits), error.field) from None
    return {"slurm": limits.version, "pools": {name: _facts(shape) for name, shape in pools.items()}, "waits": waits}


def considered(machine: ClusterConfig, script: Callable[[str], str]) -> dict[str, Any]:
    """The same for a plan, which may be made where there is no SLURM: then nothing is checked, and that is said."""
    facts = {name: _facts(shape) for name, shape in shapes(machine).items()}
    if shutil.which("sbatch") is None:
        return {"slurm": None, "pools": facts, "unchecked": "there is no sbatch on this machine"}
    try:
        return preflight(machine, script)
    except Refused:
        raise
    except SlurmError as error:
        return {"slurm": None, "pools": facts, "unchecked": error.message}


def _away(shape: JobShape, slurm: Slurm) -> str:
    """The nodes of a partition, where all of them are down or drained: --test-only then calls them impossible."""
    said = shape.directives.get("partition")
    try:
        states = slurm.nodes(said if isinstance(said, str) else None)
    except SlurmError:
        return ""
    if any(not state.startswith(AWAY) for state in states.values()):
        return ""
    return ", ".join(f"{node} is {state}" for node, state in sorted(states.items())[:4])


def _hint(error: Refused, shape: JobShape, limits: Limits) -> str:
    said = shape.directives.get("partition")
    if error.field == "partition" and isinstance(said, str) and limits.partitions:
        return near(said, limits.partitions)
    return error.hint or "sinfo"


def _fits(where: str, shape: JobShape, limits: Limits) -> None:
    said = shape.directives.get("partition")
    partition = limits.partition(said if isinstance(said, str) else None)
    if partition is None:
        # Some sites hide partitions: whether there is such a one is for sbatch to say.
        return
    for field, wants, has, show in _requests(shape, partition):
        if has and wants > has:
            raise ConfigError(
                f"{where}.{field}: {show(wants)} is more than a node of partition {partition.name!r} has: {show(has)}"
                if field not in ("walltime", "nodes")
                else f"{where}.{field}: {show(wants)} is more than partition {partition.name!r} allows: {show(has)}",
                f"lower it, or choose another partition: {', '.join(sorted(limits.partitions))}",
            )
    if shape.gpus and not partition.gpus:
        raise ConfigError(
            f"{where}.gpus: {shape.gpus}, but the nodes of partition {partition.name!r} have none",
            f"partitions with GPUs: {', '.join(sorted(n for n, p in limits.partitions.items() if p.gpus)) or 'none'}",
        )


def _requests(shape: JobShape, partition: Partition) -> list[tuple[str, float, float, Callable[[float], str]]]:
    """(field, what is asked for, what there is, how to write it); what the user drops is not asked for."""
    dropped = {name for name, value in shape.directives.items() if value is None}
    asked: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("nodes", shape.nodes, partition.nodes, "{:g}".format),
        ("gpus", shape.gpus, partition.gpus, "{:g}".format),
    ]
    if "cpus-per-task" not in dropped:
        asked.append(("cores", shape.cores, partition.cores, "{:g}".format))
    if "mem" not in dropped:
        asked.append(("memory", shape.memory, partition.memory, lambda size: f"{size / GIBIBYTE:.4g}GiB"))
    if "time" not in dropped and partition.walltime is not None:
        asked.append(("walltime", shape.walltime, partition.walltime, walltime))
    return asked


def _facts(shape: JobShape) -> Mapping[str, Any]:
    return {
        "work": list(shape.work),
        "workers": shape.workers,
        "jobs": shape.jobs(shape.workers),
        "nodes": shape.nodes,
        "gpus": shape.gpus,
        "walltime": walltime(shape.walltime),
    }
