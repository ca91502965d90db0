"""What a probe job saw, judged: one check after the other for each of its nodes."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from staffa.campaign.machine import ClusterConfig, JobShape
from staffa.execution.checks import (
    CLOCK_SECONDS,
    FAILED,
    GIBIBYTE,
    OK,
    WARNING,
    Check,
    accelerators,
    compile_cache_check,
    devices_seen,
    gibibytes,
    install,
    mend_devices,
    plugins,
)
from staffa.execution.slurm.probe import WORDS
from staffa.execution.slurm.probing import Sight, Visit
from staffa.execution.slurm.worker import versions
from staffa.storage.lease import SILENCE_SECONDS

LAG_SECONDS = 5.0
"""Files that show up on the other side later than this make for slow answers, no more."""


def judged(visit: Visit, shape: JobShape, machine: ClusterConfig) -> Iterator[Check]:
    """All there is to say of a pool's probe job."""
    yield job(visit)
    for sight in visit.sights:
        if sight.facts:
            where = f"pool {visit.pool} on {sight.facts['node']}"
            yield from (judge(where, sight, shape, machine) for judge in JUDGES if _has_looked(sight))


def job(visit: Visit) -> Check:
    """Whether the job came to its nodes, and every node answered."""
    where, what = f"pool {visit.pool}", "probe job"
    nodes = ", ".join(str(sight.facts["node"]) for sight in visit.sights if sight.facts)
    if visit.refused is not None:
        return Check(where, what, FAILED, visit.refused.message, visit.refused.hint)
    if visit.done:
        return Check(where, what, OK, f"job {visit.job} ran on {nodes}, {visit.waited:.1f} s after it was handed in")
    if visit.over is None and visit.waited is None:
        words = f"job {visit.job} still waits in the queue ({visit.state or 'PENDING'}, {visit.reason or 'no reason'})"
        return Check(where, what, WARNING, f"{words}: its nodes were not seen", "again later, or with more --wait")
    silent = len(visit.sights) - sum(sight.done for sight in visit.sights)
    words = f"job {visit.job} {_end(visit)}; {silent} of {len(visit.sights)} nodes did not answer"
    if not visit.log.strip():
        mend = "give a folder that the nodes share: --set storage.root=FOLDER; scontrol show job " + visit.job
        return Check(where, what, FAILED, f"{words}, and its log did not appear", mend)
    mend = f"cluster.pools.{visit.pool}: python, prologue, container, stage; staffa cluster script CAMPAIGN --cluster …"
    return Check(where, what, FAILED, f"{words}; its log ends: {visit.log}", mend)


def _end(visit: Visit) -> str:
    if visit.over is None:
        return f"runs, but not within {visit.walltime:.0f} s to an end"
    return f"ended ({visit.state}, {visit.reason})" if visit.state not in ("", "RUNNING", "PENDING") else "ended"


def _has_looked(sight: Sight) -> bool:
    """Whether the probe came beyond its first words."""
    return "versions" in sight.facts


def software(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """Interpreter and packages, against the driver's."""
    facts, what = sight.facts, "packages"
    found = f"Python {facts['python']} ({facts['executable']})"
    if facts["differences"] is None:
        return Check(where, what, FAILED, f"{found}, but the driver's versions are not seen there", _share(shape))
    if not facts["differences"]:
        return Check(where, what, OK, f"{found}, packages as at the driver")
    here, there = versions(), facts["versions"]
    wrong = [f"{name}=={here[name]}" for name in here if name != "python" and here[name] != there.get(name)]
    mend = f"{install(facts['executable'])} {' '.join(wrong)}"
    if here["python"] != there.get("python") or not wrong:
        mend = f"cluster.pools.{shape.pool}.python: an interpreter like the driver's, Python {here['python']}"
    return Check(where, what, FAILED, f"{found}: {facts['differences']}", mend)


def devices(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """GPUs as SLURM gave them, and as JAX sees them."""
    facts, jax, what = sight.facts, sight.facts.get("jax") or {}, "devices"
    field, executable = f"cluster.pools.{shape.pool}", facts["executable"]
    given = [device for device in (facts["given"] or "").split(",") if device]
    said = f"SLURM gave CUDA_VISIBLE_DEVICES={facts['given']}"
    if shape.gpus and len(given) != shape.gpus:
        mend = f"{field}.directives: ask for GPUs as this site wants it, such as gpus-per-node: {shape.gpus}"
        return Check(where, what, FAILED, f"{said}, {field}.gpus wants {shape.gpus}", mend)
    if not jax or jax["error"]:
        mend = f"srun … {shlex.quote(executable)} -c 'import jax; print(jax.devices())'"
        return Check(where, what, FAILED, jax.get("error") or "JAX was not tried", mend)
    if shape.gpus and not accelerators(jax):
        asked = f"JAX_PLATFORMS={facts['platforms']}, " if facts["platforms"] else ""
        words = f"{said}, but JAX sees no GPU, {devices_seen(jax)}; {asked}{plugins(jax)}"
        return Check(where, what, FAILED, words, mend_devices(jax, executable))
    if shape.gpus and accelerators(jax) != shape.gpus:
        words = f"{said}, but JAX sees {devices_seen(jax)}"
        return Check(where, what, FAILED, words, "nvidia-smi -L there: one of them may be broken")
    given_too = f"{said}, " if shape.gpus else ""
    return Check(where, what, OK, f"{given_too}JAX sees {devices_seen(jax)}; a jitted function runs")


def to_driver(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """Whether a worker could join."""
    facts, what = sight.facts, "node to driver"
    address = facts.get("driver") or "the driver"
    if facts.get("connected") is not None:
        return Check(where, what, OK, f"{address} answered within {1000 * facts['connected']:.0f} ms")
    words = f"{address} is not reached: {facts.get('connect_error')}"
    return Check(where, what, FAILED, words, _network(shape, machine))


def to_node(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """Whether the driver could talk to a worker there."""
    facts, what = sight.facts, "driver to node"
    if sight.reached:
        return Check(where, what, OK, f"{facts['address']} answered")
    if not facts.get("address"):
        words = facts.get("listen_error") or facts.get("connect_error") or "unknown why"
        return Check(where, what, FAILED, f"no port could be opened there: {words}", _network(shape, machine))
    words = f"{facts['address']} is not reached from here: {sight.reach_error or 'not tried'}"
    return Check(where, what, FAILED, words, f"{_network(shape, machine)}; a firewall may be in between")


def workspace(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """Whether both see what the other writes, wholly and soon."""
    there, here, what = sight.facts.get("heard") or {}, sight.talk.report, "workspace"
    if not there.get("words"):
        return Check(where, what, FAILED, "what the driver writes is not seen on the node", _share(shape))
    torn = there["torn"] + here["torn"]
    if torn:
        words = f"{torn} of {there['words'] + here['words']} renames were seen half done: they are not atomic"
        return Check(where, what, FAILED, words, "another file system: --set storage.root=FOLDER")
    if sight.facts["links"]:
        words = f"no hard links from there: {sight.facts['links']}; no driver can run on the node"
        return Check(where, what, FAILED, words, "another file system: --set storage.root=FOLDER")
    lag = max(here["behind"] + there["behind"], 0.0)
    words = f"each sees what the other writes, there and back in {lag:.1f} s at best; "
    words += f"{there['words'] + here['words']} renames, none of them half done"
    if lag > LAG_SECONDS or there["words"] < WORDS:
        return Check(where, what, WARNING, words, "mount it with less caching, such as actimeo=1 for NFS")
    return Check(where, what, OK, words)


def clock(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """Clocks: leases and walltimes are reckoned on both sides."""
    low, high = sight.ahead
    mend = "chronyc tracking, there and here; tell the administrators"
    if math.isinf(low) or math.isinf(high):
        return Check(where, "clock", WARNING, "how far it is from this machine's is not known", mend)
    middle, half = (low + high) / 2, (high - low) / 2
    words = f"{abs(middle):.1f} s {'ahead of' if middle > 0 else 'behind'} this machine's (± {max(half, 0.05):.1f} s)"
    if low > SILENCE_SECONDS / 2 or high < -SILENCE_SECONDS / 2:
        return Check(where, "clock", FAILED, f"{words}: a living driver would be taken for dead", mend)
    if low > CLOCK_SECONDS or high < -CLOCK_SECONDS:
        return Check(where, "clock", WARNING, words, mend)
    return Check(where, "clock", OK, words)


def temporary(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """The node's own disk."""
    facts: Mapping[str, Any] = sight.facts["temporary"]
    mend = f"cluster.pools.{shape.pool}.prologue: ['export TMPDIR=FOLDER']"
    if facts["error"]:
        return Check(where, "temporary folder", FAILED, f"it cannot be written: {facts['error']}", mend)
    words = f"{facts['folder']}, {gibibytes(facts['free'])} free"
    return Check(where, "temporary folder", *((OK, words) if facts["free"] > GIBIBYTE else (WARNING, words, mend)))


def cache(where: str, sight: Sight, shape: JobShape, machine: ClusterConfig) -> Check:
    """The folder of compiled programs, as the workers there would find it."""
    facts = sight.facts["cache"]
    if facts["mode"] is None or facts["error"]:
        words = f"{facts['folder']} cannot be used: {facts['error']}; every worker would compile anew"
        mend = "export STAFFA_CACHE=FOLDER, one that the nodes share"
        return Check(where, "compile cache", WARNING, words, mend)
    return compile_cache_check(where, facts["folder"], facts["mode"], own=facts["owner"] == facts["user"])


JUDGES = (software, devices, to_driver, to_node, workspace, clock, temporary, cache)


def _share(shape: JobShape) -> str:
    return "give a folder that the nodes share: --set storage.root=FOLDER"


def _network(shape: JobShape, machine: ClusterConfig) -> str:
    chosen = f"it is {machine.interface!r} here and {shape.interface!r} there"
    return (
        f"cluster.interface, cluster.pools.{shape.pool}.interface: networks that see each other ({chosen}); ip address"
    )
