"""Whether this machine, and a cluster behind it, can carry a campaign: ordered checks, each with what mends it.

A check that fails never ends the examination; only what rests on it is left out. What can be seen
from here is looked at here. What a compute node is like is seen by a probe job on one, which goes
through the pool's own script (`staffa.execution.slurm.probing`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from staffa.campaign.config import stray_variables
from staffa.campaign.machine import DRIVER, ClusterConfig, JobShape, driver_shape, shapes
from staffa.errors import StaffaError
from staffa.execution import surroundings
from staffa.execution.checks import (
    CLOCK_SECONDS,
    FAILED,
    GIBIBYTE,
    OK,
    WARNING,
    Check,
    Result,
    accelerators,
    compile_cache_check,
    devices_seen,
    gibibytes,
    install,
    mend_devices,
    plugins,
)
from staffa.execution.slurm.commands import Call, Limits, Slurm, SlurmError, run_command
from staffa.execution.slurm.probe import JAX_SECONDS, jax_facts, start_jax
from staffa.experiment.environment import COMPILE_CACHE, compile_cache, worker_environment
from staffa.storage.files import write_aside

HERE = "this machine"
CLUSTER = "the cluster"
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")

ROOM = GIBIBYTE, 10 * GIBIBYTE
INODES = 1_000, 100_000
"""Less than the first is too little for any campaign; less than the second for most."""
SYNC_SECONDS = 0.5

IMPORT_SECONDS = 120.0
IMPORTS = """
import importlib, json, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(failed))
"""
MODULES = {"pyyaml": "yaml"}
"""Packages that are imported by another name than their own."""


def examine(
    machine: ClusterConfig,
    storage: Path,
    *,
    x64: bool = False,
    prng: str = "threefry2x32",
    telemetry: bool = True,
    workers: int | None = None,
    patience: float = 120.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Check]:
    """Look at this machine, and where it is the door to a cluster, at that.

    Arguments:
    - `storage`: `storage.root`, the folder that holds the campaigns' folders.
    - `x64`, `prng`, `telemetry`, `workers`: of section `execution`.
    - `patience`: seconds a probe job may wait in the queue.
    - `tell`: told what is being waited for.
    """
    storage = storage.expanduser().absolute()
    here = machine.kind not in ("slurm", "allocation")
    wanted = machine.workers or workers
    yield from this_machine(storage, x64=x64, telemetry=telemetry, workers=wanted, sampling=here)
    if machine.kind == "allocation":
        yield allocation(os.environ)
    elif machine.kind not in ("local", "slurm"):
        yield surroundings.cluster_plugin(HERE, machine.kind)
    elif machine.kind == "slurm":
        yield from the_cluster(machine, storage, worker_environment(x64, prng), patience=patience, tell=tell)


def facts(checks: Iterable[Check], *, fail_on_warning: bool = False) -> dict[str, Any]:
    """All checks with their count, for `--json` and for a sheet.

    `exit_code` is 3 where one failed, and 1 where one warns and that is asked for.
    """
    found = list(checks)
    failed = sum(check.result == FAILED for check in found)
    warnings = sum(check.result == WARNING for check in found)
    return {
        "checks": [dataclasses.asdict(check) for check in found],
        "failed": failed,
        "warnings": warnings,
        "exit_code": 3 if failed else 1 if warnings and fail_on_warning else 0,
    }


# --- this machine ----------------------------------------------------------------------------------


def this_machine(
    storage: Path, *, x64: bool = False, telemetry: bool = True, workers: int | None = None, sampling: bool = True
) -> Iterator[Check]:
    """Everything a campaign needs of the machine its driver runs on.

    Arguments:
    - `workers`: worker processes that are asked for here; None for one a core.
    - `sampling`: whether workers run here, and not on nodes elsewhere.
    """
    looking, importing = start_jax(os.environ), _importing()
    doubling, plugging = surroundings.start_x64(), surroundings.start_plugins()
    yield python()
    yield packages()
    yield imports(importing)
    yield devices(looking)
    yield surroundings.x64(HERE, doubling, x64, os.environ)
    cores = surroundings.cores()
    granted, asked = (surroundings.granted_cores(), workers) if sampling else (None, 1)
    yield surroundings.threads(HERE, os.environ, cores, granted, asked)
    yield surroundings.variables(HERE, stray_variables(os.environ))
    kept = folder(storage)
    yield kept
    if kept.result != FAILED:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=_nearest(storage)) as place:
            yield surroundings.locks(HERE, Path(place))
    yield room(storage)
    yield surroundings.quota(HERE, _nearest(storage), (ROOM[0], INODES[0]), (ROOM[1], INODES[1]))
    yield cache()
    yield surroundings.telemetry(HERE, telemetry)
    yield surroundings.plugins_check(HERE, plugging)
    yield graphviz()


def python() -> Check:
    """The interpreter, against what the package says it needs."""
    from packaging.specifiers import SpecifierSet

    found = f"{platform.python_version()} ({sys.executable})"
    needs = metadata.metadata("staffa")["Requires-Python"] or ""
    if platform.python_version() not in SpecifierSet(needs):
        return Check(HERE, "Python", FAILED, f"{found}; Staffa needs {needs}", "install a newer Python")
    return Check(HERE, "Python", OK, found)


def packages() -> Check:
    """What is installed against what its neighbours need, from Staffa downwards."""
    wrong = dict(_misfits())
    if wrong:
        mend = f"{install(sys.executable)} {' '.join(shlex.quote(needed) for needed in wrong)}"
        return Check(HERE, "packages", FAILED, "; ".join(wrong.values()), mend)
    shown = ("staffa", "jax", "jaxlib", "dask", "distributed", "zarr", "pyarrow")
    return Check(HERE, "packages", OK, ", ".join(f"{name} {metadata.version(name)}" for name in shown))


def imports(process: subprocess.Popen[bytes]) -> Check:
    """Whether what Staffa rests on can be imported."""
    try:
        out, err = process.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Check(HERE, "imports", FAILED, f"packages are not imported within {IMPORT_SECONDS:.0f} s", _again())
    try:
        failed = json.loads(out.decode().splitlines()[-1])
    except (IndexError, ValueError):
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        words = " ".join([f"the process ended with code {process.returncode}", *last])
        return Check(HERE, "imports", FAILED, f"importing packages: {words}", _again())
    if failed:
        words = "; ".join(f"{name}: {error}" for name, error in failed.items())
        return Check(HERE, "imports", FAILED, words, _again(*failed))
    return Check(HERE, "imports", OK, f"all {len(_direct())} packages come up")


def devices(process: subprocess.Popen[bytes]) -> Check:
    """JAX's devices, and that something compiles and runs on each."""
    found = jax_facts(process, JAX_SECONDS)
    seen = devices_seen(found)
    if found["error"]:
        mend = f"{shlex.quote(sys.executable)} -c 'import jax; print(jax.devices())'"
        return Check(HERE, "JAX", FAILED, found["error"], mend)
    if list(Path("/dev").glob("nvidia[0-9]*")) and not accelerators(found):
        words = f"this machine has NVIDIA devices, JAX sees {seen} ({plugins(found)})"
        return Check(HERE, "JAX", WARNING, words, mend_devices(found, sys.executable))
    return Check(HERE, "JAX", OK, f"{seen}; a jitted function runs")


def folder(storage: Path) -> Check:
    """Whether campaigns can be kept there: files, renames, hard links, and writes that last."""
    existing, what = _nearest(storage), "storage.root"
    mend = f"name a folder you may write to: --set storage.root=FOLDER; ls -ld {shlex.quote(str(existing))}"
    if not existing.is_dir():
        return Check(HERE, what, FAILED, f"{existing} is no folder", mend)
    try:
        seconds, behind = _tried(existing)
    except _NoLinks as error:
        words = f"{existing} has no hard links ({error}), so two drivers could not be told apart"
        return Check(HERE, what, FAILED, words, "keep campaigns elsewhere: --set storage.root=FOLDER")
    except OSError as error:
        return Check(HERE, what, FAILED, f"{existing} cannot be written: {error.strerror}", mend)
    found = f"{storage}{'' if storage.exists() else ', made by the first campaign'}: rename, hard links, fsync"
    if abs(behind) > CLOCK_SECONDS:
        words = f"{storage}: its clock is {abs(behind):.0f} s {'behind' if behind > 0 else 'ahead of'} this machine's"
        return Check(HERE, what, WARNING, words, "chronyc tracking; tell the administrators")
    if seconds > SYNC_SECONDS:
        words = f"{found}, which takes {seconds:.1f} s: every commit waits for that"
        return Check(HERE, what, WARNING, words, "use a faster disk: --set storage.root=FOLDER")
    return Check(HERE, what, OK, f"{found} ({1000 * seconds:.1f} ms)")


def room(storage: Path) -> Check:
    """Free space and inodes, as far as the file system tells; quotas it does not."""
    existing = _nearest(storage)
    try:
        disk = os.statvfs(existing)
    except OSError as error:
        return Check(HERE, "room", FAILED, f"{existing}: {error.strerror}", "--set storage.root=FOLDER")
    free, inodes = disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
    found = f"{gibibytes(free)} and {'any number of' if inodes is None else f'{inodes:,}'} inodes free"
    grades = [_grade(free, ROOM), OK if inodes is None else _grade(inodes, INODES)]
    result: Result = next((grade for grade in (FAILED, WARNING) if grade in grades), OK)
    mend = f"make room, or --set storage.root=FOLDER; df -h {shlex.quote(str(existing))}; df -i; quota -s"
    return Check(HERE, "room", result, found, "" if result == OK else mend)


def cache() -> Check:
    """The folder of compiled programs, which are executed: nobody else may write there."""
    try:
        place = compile_cache()
        status = place.stat()
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=place):
            pass
    except OSError as error:
        given = os.environ.get("STAFFA_CACHE") or os.environ.get(COMPILE_CACHE)
        where = f"export STAFFA_CACHE=FOLDER, which is {given!r} now" if given else "export STAFFA_CACHE=FOLDER"
        return Check(HERE, "compile cache", FAILED, f"it cannot be written: {error}", where)
    return compile_cache_check(HERE, str(place), stat.S_IMODE(status.st_mode), own=status.st_uid == os.getuid())


def graphviz() -> Check:
    """Only pictures of graphs need it."""
    missing = [name for name, there in (("graphviz", find_spec("graphviz")), ("dot", shutil.which("dot"))) if not there]
    if missing:
        words = f"not installed ({', '.join(missing)}): only staffa.graph(…).visualize() needs it"
        return Check(HERE, "graphviz", WARNING, words, f"{install(sys.executable)} graphviz; apt install graphviz")
    return Check(HERE, "graphviz", OK, str(shutil.which("dot")))


class _NoLinks(OSError):
    """The file system has no hard links."""


def _tried(place: Path) -> tuple[float, float]:
    """Seconds a write that lasts takes, and seconds the file system's clock is behind ours."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as name:
        file, second = Path(name, "file"), Path(name, "second")
        write_aside(file, "first")
        began = time.perf_counter()
        write_aside(file, "renamed over the first")
        seconds, behind = time.perf_counter() - began, time.time() - file.stat().st_mtime
        try:
            second.hardlink_to(file)
            if second.stat().st_nlink != 2:
                raise OSError(0, "a link does not count")
        except OSError as error:
            raise _NoLinks(error.strerror) from error
    return seconds, behind


def _nearest(path: Path) -> Path:
    """The folder itself, or what there is of the way to it."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), Path("/"))


def _grade(count: int, bounds: tuple[int, int]) -> Result:
    return FAILED if count < bounds[0] else WARNING if count < bounds[1] else OK


# --- packages --------------------------------------------------------------------------------------


def _direct() -> list[str]:
    """Packages Staffa names itself."""
    from packaging.requirements import Requirement

    asked = (Requirement(line) for line in metadata.requires("staffa") or ())
    return [found.name for found in asked if found.marker is None or found.marker.evaluate({"extra": ""})]


def _importing() -> subprocess.Popen[bytes]:
    """Begin to import them, in a process of its own: a broken one may take its process along."""
    names = [MODULES.get(name.lower(), name.lower().replace("-", "_")) for name in _direct()]
    return subprocess.Popen(
        [sys.executable, "-c", IMPORTS, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _misfits() -> Iterator[tuple[str, str]]:
    """Requirements that are not met, below Staffa: what would be installed, and what is wrong."""
    from packaging.requirements import Requirement

    open_, seen = ["staffa"], {"staffa"}
    while open_:
        owner = open_.pop()
        for line in metadata.requires(owner) or ():
            needs = Requirement(line)
            if needs.marker is not None and not needs.marker.evaluate({"extra": ""}):
                continue
            here = _version(needs.name)
            if here is None:
                yield f"{needs.name}{needs.specifier}", f"{needs.name} is missing, {owner} needs {needs}"
            elif not needs.specifier.contains(here, prereleases=True):
                yield f"{needs.name}{needs.specifier}", f"{needs.name} {here} is here, {owner} needs {needs}"
            if here is not None and needs.name.lower() not in seen:
                seen.add(needs.name.lower())
                open_.append(needs.name)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _again(*names: str) -> str:
    return f"{install(sys.executable)} --force-reinstall {' '.join(names) or 'staffa'}"


# --- the cluster, from here ------------------------------------------------------------------------


def allocation(environ: Mapping[str, str]) -> Check:
    """With `kind: allocation` everything happens inside a job: whether this is one."""
    job = environ.get("SLURM_JOB_ID")
    if not job:
        mend = "salloc --nodes=1 --gpus-per-node=4, and there again: staffa doctor --cluster …"
        return Check(CLUSTER, "allocation", FAILED, "SLURM_JOB_ID is not set: this is no job of SLURM", mend)
    given = environ.get("CUDA_VISIBLE_DEVICES")
    words = f"job {job} with {environ.get('SLURM_JOB_NUM_NODES', '1')} nodes, CUDA_VISIBLE_DEVICES={given}"
    return Check(CLUSTER, "allocation", OK, words)


def the_cluster(
    machine: ClusterConfig,
    storage: Path,
    environment: Mapping[str, str],
    *,
    patience: float,
    tell: Callable[[str], None],
    call: Call = run_command,
) -> Iterator[Check]:
    """What the driver's machine sees of the cluster, then what its nodes see.

    Arguments:
    - `environment`: what workers have exported.
    - `call`: runs SLURM's commands.
    """
    try:
        limits = Slurm(call).limits()
    except SlurmError as error:
        yield Check(CLUSTER, "SLURM", FAILED, error.message, error.hint)
        return
    slurm = _Known(call, limits)
    yield controller(limits)
    yield submissions(machine, limits)
    yield open_files(machine)
    yield security(machine)
    network = interface(machine)
    yield network
    possible = []
    for check, pool in requests(machine, storage, environment, slurm):
        yield check
        possible += [pool] if check.result != FAILED and pool != DRIVER else []
    if not possible or network.result == FAILED:
        yield Check(
            CLUSTER, "probe jobs", WARNING, "none handed in, since the above would stop them", "mend that first"
        )
        return
    yield from _probed(machine, possible, storage, environment, patience, tell, slurm)


def controller(limits: Limits) -> Check:
    """The commands, and who answers them."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return Check(CLUSTER, "SLURM", FAILED, f"no {', '.join(missing)} on this machine", "load the module of SLURM")
    names = ", ".join(name for name, found in limits.partitions.items() if found.up)
    accounting = "accounting" if limits.accounting else "no accounting"
    return Check(CLUSTER, "SLURM", OK, f"{limits.version}, {accounting}; partitions {names}")


def submissions(machine: ClusterConfig, limits: Limits) -> Check:
    """Limits on arrays and on jobs in the queue."""
    wanted = sum(shape.jobs(shape.workers) for shape in shapes(machine).values())
    found = f"arrays of up to {min(limits.max_array, machine.submit.array):,} (MaxArraySize {limits.max_array:,})"
    if limits.max_submit is None:
        return Check(CLUSTER, "limits", OK, f"{found}, no limit known on queued jobs; {wanted:,} are wanted")
    found += f", {limits.max_submit:,} jobs queued at once (MaxSubmitJobs)"
    # A detached driver and its heir are jobs, too.
    if wanted + 2 > limits.max_submit:
        mend = "lower cluster.pools.<name>.workers, or have more workers in a job: nodes, gpus, workers_per_node"
        return Check(CLUSTER, "limits", WARNING, f"{found}; {wanted:,} are wanted, and 2 for a driver", mend)
    return Check(CLUSTER, "limits", OK, f"{found}; {wanted:,} are wanted")


def open_files(machine: ClusterConfig) -> Check:
    """Every worker holds connections to the driver."""
    workers = sum(pool.workers for pool in machine.pools.values())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed, found = 512 + 4 * workers, f"{soft:,} files may be open, for {workers:,} workers"
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = "" if hard in (resource.RLIM_INFINITY,) or hard >= needed else f" (the hard limit is {hard:,})"
        return Check(CLUSTER, "open files", WARNING, f"{found}; {needed:,} are safe", f"ulimit -n {needed}{limit}")
    return Check(CLUSTER, "open files", OK, found)


def security(machine: ClusterConfig) -> Check:
    """Whether strangers are kept out."""
    if machine.insecure:
        words = "cluster.insecure: whoever reaches the driver's port can run code as you"
        return Check(CLUSTER, "TLS", WARNING, words, "take cluster.insecure out")
    return Check(CLUSTER, "TLS", OK, "on, with credentials of each campaign's own")


def interface(machine: ClusterConfig) -> Check:
    """The network the driver listens to."""
    known = [name for _, name in socket.if_nameindex()]
    if machine.interface is None:
        return Check(CLUSTER, "interface", OK, f"that of the host's name, {socket.gethostname()}")
    if machine.interface not in known:
        words = f"cluster.interface: {machine.interface!r} is none of this machine's"
        return Check(CLUSTER, "interface", FAILED, words, f"there are: {', '.join(known)}; ip address")
    return Check(CLUSTER, "interface", OK, machine.interface)


class _Known(Slurm):
    """SLURM with its limits asked for once."""

    def __init__(self, call: Call, limits: Limits) -> None:
        super().__init__(call)
        self._limits = limits

    def limits(self) -> Limits:
        return self._limits


def requests(
    machine: ClusterConfig, storage: Path, environment: Mapping[str, str], slurm: Slurm
) -> Iterator[tuple[Check, str]]:
    """Each pool, and the detached driver, as `plan` would judge them."""
    from staffa.execution.slurm.script import Launch, driver_script, job_script

    # The log's folder need not be there: nothing is started.
    launch = Launch(storage / "v1_campaign", "v1_campaign", sys.executable, environment, machine.reconnect)
    for name, shape in shapes(machine).items():
        alone = machine.model_copy(update={"pools": {name: machine.pools[name]}})
        yield _request(f"pool {name}", shape, alone, job_script(shape, launch), slurm), name
    driver, nobody = driver_shape(machine), machine.model_copy(update={"pools": {}})
    check = _request(DRIVER, driver, nobody, driver_script(driver, launch, ("-m", "staffa")), slurm)
    if check.result == FAILED:
        check = dataclasses.replace(check, result=WARNING, found=f"{check.found} (only --detach needs it)")
    yield check, DRIVER


def _request(where: str, shape: JobShape, alone: ClusterConfig, script: str, slurm: Slurm) -> Check:
    from staffa.execution.slurm.preflight import preflight
    from staffa.execution.slurm.script import walltime

    try:
        found = preflight(alone, lambda name: script, detached=where == DRIVER, slurm=slurm)
    except StaffaError as error:
        return Check(where, "request", FAILED, error.message, error.hint)
    waits = next(iter(found["waits"].values()), "")
    if waits:
        return Check(where, "request", WARNING, waits, "sinfo -R")
    return Check(where, "request", OK, f"{_asked(shape)}, {walltime(shape.walltime)}: sbatch --test-only agrees")


def _asked(shape: JobShape) -> str:
    """`16 x 1 node with 4 GPUs, 32 cores, 128.0 GiB`."""
    jobs, several = shape.jobs(shape.workers), "s" if shape.nodes > 1 else ""
    gpus = f"{shape.gpus} GPU{'s' if shape.gpus > 1 else ''}, " if shape.gpus else ""
    cores = f"{shape.cores} core{'s' if shape.cores > 1 else ''}"
    return f"{jobs:,} x {shape.nodes} node{several} with {gpus}{cores}, {gibibytes(shape.memory)}"


def _probed(
    machine: ClusterConfig,
    pools: Sequence[str],
    storage: Path,
    environment: Mapping[str, str],
    patience: float,
    tell: Callable[[str], None],
    slurm: Slurm,
) -> Iterator[Check]:
    from staffa.execution.slurm.findings import judged
    from staffa.execution.slurm.probing import visits

    found = shapes(machine)
    try:
        visited = visits(machine, pools, storage, environment, patience=patience, tell=tell, slurm=slurm)
    except StaffaError as error:
        yield Check(CLUSTER, "probe jobs", FAILED, error.message, error.hint)
        return
    except OSError as error:
        yield Check(CLUSTER, "probe jobs", FAILED, str(error), "make room, or --set storage.root=FOLDER")
        return
    for visit in visited:
        yield from judged(visit, found[visit.pool], machine)
