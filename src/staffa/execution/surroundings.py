"""What stands around a driver on its machine, and gets in its way: variables, threads, quotas, plug-ins."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staffa.campaign.complaints import Complaint
from staffa.errors import WorkspaceError
from staffa.execution.checks import FAILED, OK, WARNING, Check, Result, gibibytes
from staffa.storage.lease import Lease

X64 = """
import json
import jax, jax.numpy as jnp
doubled = jax.jit(lambda x: x + 2.0**-40)(jnp.ones((), "float64"))
print("\\n" + json.dumps({"dtype": str(doubled.dtype), "exact": float(doubled) == 1 + 2.0**-40}))
"""
"""In a process of its own: precision is decided before anything is computed."""

PLUGINS = """
import json
from staffa.experiment.plugins import listed
print("\\n" + json.dumps(list(listed())))
"""
"""In a process of its own: a plug-in may take the process along in which it is imported."""

SECONDS = 120.0
QUOTA_SECONDS = 10.0

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NPROC")
"""Variables that size pools of threads. Workers have all of the first three and the last set to 1."""

XLA_POOLS = {
    "--xla_cpu_multi_thread_eigen=true": "every worker would use all cores",
    "--xla_force_host_platform_device_count": "every worker would have so many devices, and use one",
    "intra_op_parallelism_threads": "every worker would have so many threads",
}
"""What in XLA_FLAGS is stronger than what Staffa sets for its workers."""


# --- precision -------------------------------------------------------------------------------------


def start_x64() -> subprocess.Popen[bytes]:
    """Begin to find out whether the device computes in double precision."""
    return _python(X64, {**os.environ, "JAX_ENABLE_X64": "1"})


def x64(where: str, process: subprocess.Popen[bytes], wanted: bool, environ: Mapping[str, str]) -> Check:
    """Double precision: whether it is there, and whether this shell says what the campaign says.

    Arguments:
    - `wanted`: `execution.x64`.
    """
    found, error = _answer(process)
    mend = "--set execution.x64=false"
    if error or found is None:
        result: Result = FAILED if wanted else WARNING
        return Check(where, "x64", result, f"not known: {error}", f"{shlex.quote(sys.executable)} -c 'import jax'")
    if found["dtype"] != "float64" or not found["exact"]:
        words = f"asked for float64, this device computes in {found['dtype']}"
        return Check(where, "x64", FAILED if wanted else WARNING, words, mend)
    said = environ.get("JAX_ENABLE_X64", "")
    if said and (said.lower() in ("1", "true", "yes", "on")) != wanted:
        words = f"JAX_ENABLE_X64={said} in this shell, execution.x64: {str(wanted).lower()} for the workers"
        other = f"unset JAX_ENABLE_X64, or --set execution.x64={str(not wanted).lower()}"
        return Check(where, "x64", WARNING, words, other)
    return Check(where, "x64", OK, f"double precision computes; execution.x64: {str(wanted).lower()}")


# --- threads ---------------------------------------------------------------------------------------


def threads(
    where: str, environ: Mapping[str, str], cores: int, granted: float | None = None, workers: int | None = None
) -> Check:
    """Settings of threads that contradict each other, or the cores there are.

    Arguments:
    - `cores`: this process may use.
    - `granted`: cores worth of time a container gives; None for no limit.
    - `workers`: that are asked for; None for one a core.
    """
    wrong = [*_pool_sizes(environ, cores), *_xla(environ.get("XLA_FLAGS", "")), *_too_many(cores, granted, workers)]
    if wrong:
        words, mends = zip(*wrong, strict=True)
        return Check(where, "threads", WARNING, "; ".join(words), "; ".join(dict.fromkeys(mends)))
    return Check(where, "threads", OK, f"{cores} cores, workers of one thread each")


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def granted_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores worth of time this process's container gets; None where there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    return None


def _pool_sizes(environ: Mapping[str, str], cores: int) -> Iterator[tuple[str, str]]:
    sizes: dict[str, int] = {}
    for name in POOLS:
        text = environ.get(name, "")
        if not text:
            continue
        first = text.split(",")[0].strip()  # OpenMP takes a number for each level
        if not first.isdecimal() or int(first) < 1:
            yield f"{name}={text} is no number of threads", f"unset {name}"
            continue
        sizes[name] = int(first)
        if sizes[name] > cores:
            yield f"{name}={text}, and this process may use {cores} cores", f"export {name}={cores}"
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name}={size}" for name, size in sizes.items())
        yield f"{said} contradict each other", f"unset {' '.join(sizes)}"


def _xla(flags: str) -> Iterator[tuple[str, str]]:
    for flag in flags.split():
        for known, harm in XLA_POOLS.items():
            name, _, value = known.partition("=")
            size = flag.partition("=")[2]
            if flag.startswith(name) and (size == value if value else size not in ("", "1")):
                yield f"XLA_FLAGS has {flag}: {harm}", "unset XLA_FLAGS"


def _too_many(cores: int, granted: float | None, workers: int | None) -> Iterator[tuple[str, str]]:
    room = cores if granted is None else max(int(granted), 1)
    if (workers or cores) > room:
        asked = f"{workers} workers are asked for" if workers else f"there would be {cores} workers, one a core"
        given = f"{cores} cores" if granted is None else f"{granted:g} cores granted of {cores} seen"
        yield f"{asked}, and there are {given}", f"--set cluster.workers={room}"


# --- variables, telemetry, plug-ins ----------------------------------------------------------------


def variables(where: str, strays: Sequence[Complaint]) -> Check:
    """`STAFFA_*` variables that were meant as settings, and are none."""
    if strays:
        words = "; ".join(f"{stray.origin}: {stray.text}, {stray.hint}" for stray in strays)
        return Check(where, "variables", WARNING, words, f"unset {' '.join(str(stray.origin) for stray in strays)}")
    return Check(where, "variables", OK, "no STAFFA_* variable goes unheard")


def telemetry(where: str, on: bool) -> Check:
    """Whether what happens is measured and kept."""
    if not on:
        words = "execution.telemetry is off: usage and telemetry render will have nothing to show"
        return Check(where, "telemetry", WARNING, words, "--set execution.telemetry=true")
    return Check(where, "telemetry", OK, "on")


def start_plugins() -> subprocess.Popen[bytes]:
    """Begin to import every plug-in."""
    return _python(PLUGINS, dict(os.environ))


def plugins_check(where: str, process: subprocess.Popen[bytes]) -> Check:
    """Plug-ins that are there and cannot be used. They harm only those who ask for them."""
    found, error = _answer(process)
    if error or found is None:
        return Check(where, "plug-ins", FAILED, f"they cannot be looked at: {error}", "staffa plugins list --debug")
    failed = [row for row in found if row["status"] == "failed"]
    if failed:
        words = "; ".join(f"{row['family']} {row['name']!r} of {row['origin']}: {row['reason']}" for row in failed)
        owners = " ".join(dict.fromkeys(row["distribution"] for row in failed if row["distribution"]))
        mend = f"reinstall or remove: {shlex.quote(sys.executable)} -m pip uninstall {owners or '…'}"
        return Check(where, "plug-ins", WARNING, words, mend)
    return Check(where, "plug-ins", OK, f"{len(found)} offered by installed packages, all can be used")


def cluster_plugin(where: str, kind: str) -> Check:
    """A cluster kind that a plug-in brings."""
    from staffa.errors import PluginError
    from staffa.experiment.plugins import load

    try:
        load("clusters", kind, "cluster.kind")
    except PluginError as error:
        return Check(where, "cluster.kind", FAILED, error.message, error.hint)
    return Check(where, "cluster.kind", OK, f"{kind}, of a plug-in")


# --- locks and quotas ------------------------------------------------------------------------------


def locks(where: str, place: Path) -> Check:
    """Whether one driver keeps another out there: a lease is taken, a second refused, both given back.

    Arguments:
    - `place`: a folder for the attempt, empty before and after.
    """
    path = place / "lease.json"
    try:
        with Lease.acquire(path), contextlib.suppress(WorkspaceError):
            Lease.acquire(path).release()
            return Check(where, "locks", FAILED, "two drivers get one lease", "--set storage.root=FOLDER")
        Lease.acquire(path).release()
    except (WorkspaceError, OSError) as error:
        return Check(where, "locks", FAILED, str(error).splitlines()[0], "--set storage.root=FOLDER")
    return Check(where, "locks", OK, "one driver keeps another out, and is followed by the next")


@dataclass(frozen=True)
class Quota:
    """What a user may still take of a file system; None for without limit."""

    filesystem: str
    used: int
    room: int | None
    inodes: int | None


def quota(where: str, place: Path, least: tuple[int, int], enough: tuple[int, int]) -> Check:
    """The user's quota there, as `lfs quota` or `quota` tells; the file system itself does not know of it.

    Arguments:
    - `least`, `enough`: bytes and inodes; less than the first fails, less than the second warns.
    """
    device, point = mount_of(place)
    found = [row for row in _quotas(point) if row.filesystem in (device, str(point))]
    if not found:
        return Check(where, "quota", OK, f"none is known on {point}")
    row = found[0]
    grades = [_grade(row.room, least[0], enough[0]), _grade(row.inodes, least[1], enough[1])]
    result: Result = next((grade for grade in (FAILED, WARNING) if grade in grades), OK)
    room = "without limit" if row.room is None else f"{gibibytes(max(row.room, 0))} left"
    inodes = "any number of files" if row.inodes is None else f"{max(row.inodes, 0):,} files left"
    words = f"{gibibytes(row.used)} used on {point}, {room}, {inodes}"
    return Check(where, "quota", result, words, "" if result == OK else "make room, or --set storage.root=FOLDER")


def mount_of(place: Path, mounts: Path = Path("/proc/self/mounts")) -> tuple[str, Path]:
    """Device and mount point of the file system a folder is in."""
    found = ("", Path("/"))
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            device, point, *_ = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), word) for word in line.split())
            if place.resolve().is_relative_to(point) and len(point) >= len(str(found[1])):
                found = (device, Path(point))
    return found


def _quotas(point: Path) -> Iterator[Quota]:
    commands = [["lfs", "quota", "-q", "-u", getpass.getuser(), str(point)], ["quota", "-w", "-p"]]
    for command in commands:
        if shutil.which(command[0]):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", timeout=QUOTA_SECONDS, check=False
                )
                # Over its quota the command says so by its exit code, too.
                yield from filter(None, map(_quota, done.stdout.splitlines()))


def _quota(line: str) -> Quota | None:
    """`filesystem blocks quota limit grace files quota limit grace`, blocks of 1 KiB; a star marks too much."""
    words = line.split()
    numbers = [word.rstrip("*") for word in words[1:]]
    if len(words) < 9 or not all(numbers[place].isdecimal() for place in (0, 1, 2, 4, 5, 6)):
        return None
    used, soft, hard, _, files, soft_files, hard_files, *_ = (int(n) if n.isdecimal() else 0 for n in numbers)
    room, inodes = _left(used, soft, hard), _left(files, soft_files, hard_files)
    return Quota(words[0], used << 10, None if room is None else room << 10, inodes)


def _left(used: int, soft: int, hard: int) -> int | None:
    limits = [limit for limit in (soft, hard) if limit]
    return min(limits) - used if limits else None


def _grade(count: int | None, least: int, enough: int) -> Result:
    return OK if count is None or count >= enough else FAILED if count < least else WARNING


# --- processes of their own ------------------------------------------------------------------------


def _python(script: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environ),
    )


def _answer(process: subprocess.Popen[bytes]) -> tuple[Any, str]:
    """The last line such a process says, as JSON; or what became of it."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None, f"nothing is heard within {SECONDS:.0f} s"
    with contextlib.suppress(IndexError, ValueError):
        return json.loads(out.decode(errors="replace").splitlines()[-1]), ""
    last = err.decode(errors="replace").strip().splitlines()[-1:]
    return None, " ".join([f"the process ended with code {process.returncode}", *last])
