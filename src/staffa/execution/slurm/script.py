"""Job scripts as text, made by dask-jobqueue's own `SLURMJob`.

It interpolates without quoting and reads the user's Dask configuration; both are kept out here:
every value is quoted before it goes in, and its settings come from a section of our own. What it
always writes (`-n 1`, `--cpus-per-task`, `--mem`, `-t`) is skipped by the whole beginning of the
line, since it skips every line that contains the word, and written again where it was replaced.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask

from staffa.campaign.machine import DRIVER, JobShape
from staffa.campaign.words import Directive
from staffa.errors import ConfigError
from staffa.execution.lanes import THREADS

NODE = "staffa.execution.slurm.node"
SHEBANG = "#!/bin/bash"

NATIVE = {
    "ntasks": "#SBATCH -n ",
    "cpus-per-task": "#SBATCH --cpus-per-task=",
    "mem": "#SBATCH --mem=",
    "time": "#SBATCH -t ",
}
"""Directives that dask-jobqueue writes itself, and how their lines begin."""

RIVALS = (
    ("gres", "gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "tres-per-node"),
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("no-requeue", "requeue"),
)
"""Families of which SLURM takes one: what the user says replaces what we would say."""

SECTION = "staffa"
SETTINGS: dict[str, Any] = {
    **dict.fromkeys(
        ("interface", "local-directory", "log-directory", "job-extra", "env-extra", "header-skip", "extra")
    ),
    **dict.fromkeys(("queue", "account", "project", "walltime")),
}
"""Our own section `jobqueue.staffa` of Dask's configuration; `jobqueue.slurm` is the user's, for other purposes."""

UNPACK = """\
set -e
[ -O "$2" ] && [ -x "$2/bin/python" ] && exit
aside=$2.$SLURMD_NODENAME
tidy() { rm -rf -- "$aside"; }
trap tidy EXIT
tidy
mkdir -p -- "$(dirname -- "$aside")"
mkdir -m 700 -- "$aside"
case $1 in
*.tar.zst) tar --use-compress-program=unzstd -xf "$1" -C "$aside" ;;
*.tar | *.tar.gz | *.tgz) tar -xf "$1" -C "$aside" ;;
*) cp -a -- "$1/." "$aside/" ;;
esac
if [ ! -x "$aside/bin/python" ]; then
    echo "staffa: $1 has no bin/python: pack an environment from inside (tar -C FOLDER -cf ARCHIVE .)"
    exit 1
fi
mv -T -- "$aside" "$2" || [ -O "$2" ]
"""
"""Brings an environment (`$1`) to a node's disk (`$2`): aside, then renamed.

No locks: the target's name holds the job's id, so jobs share nothing, and of two nodes that see the
same disk the first to rename wins. In a folder open to all (/tmp) somebody else's is never taken.
"""

WAIT = "trap : TERM"
"""SLURM's SIGTERM is for the workers, who say why they end. A shell that ended first would take them along."""


@dataclass(frozen=True)
class Launch:
    """What a job script needs beside its shape.

    Arguments:
    - `root`: the campaign's folder.
    - `title`: `<version>_<name>`.
    - `python`: the driver's interpreter; a shape may name another.
    - `environment`: exported before the worker starts (`experiment.environment.worker_environment`).
    - `reconnect`: seconds a worker looks for a driver.
    """

    root: Path
    title: str
    python: str
    environment: Mapping[str, str] = field(default_factory=dict)
    reconnect: float = 600.0


def job_name(launch: Launch, pool: str) -> str:
    """Name of a pool's jobs: the campaign, the pool, and six characters that tell folders apart."""
    return f"staffa-{launch.title}-{pool}-{hashlib.sha256(str(launch.root).encode()).hexdigest()[:6]}"


def job_script(shape: JobShape, launch: Launch) -> str:
    """The script of a pool's jobs, to be submitted as an array.

    Raises `ConfigError` where a value cannot stand in a script.
    """
    header = _header(shape, launch, f"{shape.pool}-%A_%a.log")
    return _script(shape, launch, header, "${SLURM_ARRAY_JOB_ID}-${SLURM_ARRAY_TASK_ID}")


def allocation_script(shape: JobShape, launch: Launch) -> str:
    """Workers on every node of an allocation that is there already: run it with bash, inside."""
    return _script(shape, launch, None, "${SLURM_JOB_ID}-0")


def driver_script(shape: JobShape, launch: Launch, command: Sequence[str]) -> str:
    """The script of the detached driver's own job.

    Arguments:
    - `shape`: `staffa.campaign.machine.driver_shape`.
    - `command`: what follows the interpreter, such as `("-m", "staffa", "resume", root)`.
    """
    job = _job(shape, launch, _header(shape, launch, f"{shape.pool}-%j.log"), "", "", ())
    words = " ".join(shlex.quote(_clean("the command", word)) for word in (launch.python, *command))
    # dask-jobqueue has scripts of workers alone: of its own script the head is taken.
    return "\n".join([SHEBANG, "", job.job_header, *_before(shape, {}), f"exec {words}", ""])


def walltime(seconds: float) -> str:
    """SLURM's `[d-]hh:mm:ss`, rounded up."""
    total = math.ceil(seconds)
    days, hours, minutes = total // 86400, total // 3600 % 24, total // 60 % 60
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{total % 60:02}"


def _seconds(seconds: float) -> str:
    return str(int(seconds) if seconds == int(seconds) else seconds)


def mebibytes(size: int) -> str:
    """SLURM's size of a number of bytes, rounded up."""
    return f"{math.ceil(size / 1024**2)}M"


# --- directives ------------------------------------------------------------------------------------


def _header(shape: JobShape, launch: Launch, log: str) -> dict[str, Directive]:
    """Every directive of a job, ours under the user's."""
    ours: dict[str, Directive] = {
        "nodes": str(shape.nodes),
        ("ntasks-per-node" if shape.nodes > 1 else "ntasks"): "1",
        "cpus-per-task": str(shape.cores),
        "mem": mebibytes(shape.memory),
        "time": walltime(shape.walltime),
        "output": _log_pattern(launch.root) + log,
        "open-mode": "append",
        # A task that SLURM may not requeue turns into a ghost when a prolog fails, or takes its whole array along
        # (22.05). The keeper cancels and replaces what is held; of drivers there are no arrays, and heirs wait.
        ("no-requeue" if shape.pool == DRIVER else "requeue"): True,
    }
    if shape.gpus:
        ours["gres"] = f"gpu:{shape.gpus}"
    said = {name for name, value in shape.directives.items() if value is not None}
    rivals = {name for family in RIVALS if said & set(family) for name in family}
    merged = {name: value for name, value in ours.items() if name not in rivals} | dict(shape.directives)
    return {name: _checked(shape.pool, name, value) for name, value in merged.items() if value is not None}


def _log_pattern(root: Path) -> str:
    """The folder of the logs as SLURM reads a file name: `%` begins a symbol, a backslash ends them all."""
    if "\\" in str(root):
        raise ConfigError(
            f"storage.root: {str(root)!r} holds a backslash, which SLURM forbids in the name of a log",
            "name another folder: `--set storage.root=FOLDER`",
        )
    return _clean("storage.root", str(root)).replace("%", "%%") + "/logs/"


def _checked(pool: str, name: str, value: Directive) -> Directive:
    where = "cluster.driver" if pool == DRIVER else f"cluster.pools.{pool}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise ConfigError(
            f"{where}.directives: {name!r} is not the name of a directive", "write for example qos: debug"
        )
    return value if value is None or value is True else _clean(f"{where}.directives.{name}", value)


def _clean(where: str, text: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ConfigError(f"{where}: {text!r} holds a line break or another control character", "take it out")
    return text


def _line(name: str, value: Directive) -> str:
    return f"--{name}" if value is True else f"--{name}={_quoted(str(value))}"


def _quoted(value: str) -> str:
    """A value as sbatch reads its lines: unlike in a shell, a backslash counts between quotes, too."""
    if re.fullmatch(r"[\w.,:;/@%+=*&|()\[\]!~^-]*", value, re.ASCII):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- the script ------------------------------------------------------------------------------------


def _script(shape: JobShape, launch: Launch, header: Mapping[str, Directive] | None, name: str) -> str:
    interpreter = _interpreter(shape, launch)
    steps = _steps(shape, header)
    arguments = ["--pool", shape.pool, "--workers", shape.workers_per_node, "--gpus", shape.gpus]
    if shape.workers_per_gpu > 1:
        arguments += ["--workers-per-gpu", shape.workers_per_gpu]
    if shape.walltime < math.inf:
        arguments += ["--walltime", _seconds(shape.walltime)]
    if shape.interface:
        arguments += ["--interface", shlex.quote(_clean("interface", shape.interface))]
    before = [*_before(shape, launch.environment), *_staging(shape, steps), WAIT]
    job = _job(shape, launch, header, name, steps + interpreter, arguments, before)
    return str(job.job_script())


@functools.lru_cache(maxsize=1)
def slurm_job() -> Any:
    """dask-jobqueue's class. Its import takes Ctrl-C for itself, which is ours, and only a main thread's to take."""
    real = signal.signal
    signal.signal = lambda number, handler: signal.getsignal(number)  # type: ignore[assignment]
    try:
        from dask_jobqueue.slurm import SLURMJob
    finally:
        signal.signal = real
    return SLURMJob


def _job(
    shape: JobShape,
    launch: Launch,
    header: Mapping[str, Directive] | None,
    name: str,
    python: str,
    arguments: Sequence[object],
    before: Sequence[str] = (),
) -> Any:
    """dask-jobqueue's job, without a word from the user's Dask configuration."""
    kept = header or {}
    plain = {"ntasks": "1", "cpus-per-task": str(shape.cores), "mem": mebibytes(shape.memory)}
    plain["time"] = walltime(shape.walltime) if header is not None else ""
    native = {key for key, value in plain.items() if kept.get(key) == value}
    skipped = ["#SBATCH"] if header is None else [NATIVE[key] for key in NATIVE.keys() - native]
    job = slurm_job()  # outside: what its import adds to Dask's configuration is to stay
    with dask.config.set({f"jobqueue.{SECTION}": SETTINGS}):
        return job(
            scheduler=shlex.quote(str(launch.root)),
            name=name,
            config_name=SECTION,
            job_name=_quoted(job_name(launch, shape.pool)),
            python=python,
            cores=THREADS * shape.workers_per_node,
            processes=shape.workers_per_node,
            memory=str(shape.memory),
            job_cpu=shape.cores,
            job_mem=mebibytes(shape.memory),
            walltime=plain["time"] or None,
            death_timeout=_seconds(launch.reconnect),
            worker_command=NODE,
            worker_extra_args=list(arguments),
            job_extra_directives=[_line(key, value) for key, value in kept.items() if key not in native],
            job_directives_skip=skipped,
            job_script_prologue=list(before),
            shebang=SHEBANG,
        )


def _before(shape: JobShape, environment: Mapping[str, str]) -> list[str]:
    """Lines before the command: the site's own, then variables, which so have the last word."""
    exports = {**environment, **shape.environment}
    return [
        # node.py counts the job's time from here where SLURM does not say when it ends.
        "export STAFFA_STARTED=$(date +%s)",
        *shape.prologue,
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
    ]


def _interpreter(shape: JobShape, launch: Launch) -> str:
    """Container and interpreter as the shell reads them."""
    if shape.stage:
        python = '"$STAFFA_STAGE/bin/python"'
    else:
        python = _expanding(shape.python) if shape.python else shlex.quote(launch.python)
    return f"{shape.container} {python}" if shape.container else python


def _steps(shape: JobShape, header: Mapping[str, Directive] | None) -> str:
    """What makes a command run once on every node; nothing where the script itself runs on the only one."""
    if header is None:
        # The driver, or the shell that started it, holds a step of the allocation already.
        words = ["--overlap", f"--cpus-per-task={shape.cores}"]
    elif shape.nodes > 1:
        # srun does not take this from the job by itself, and would bind the node's workers to one core.
        cores = header.get("cpus-per-task")
        words = [f"--cpus-per-task={cores}"] if cores else []
    else:
        return ""
    words += [f"--nodes={shape.nodes}", f"--ntasks={shape.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    return " ".join(["srun", *words, ""])


def _staging(shape: JobShape, steps: str) -> list[str]:
    if shape.stage is None:
        return []
    source, target = (_expanding(path) for path in (shape.stage.source, shape.stage.target))
    clear = f'{steps}rm -rf -- "$STAFFA_STAGE"'
    return [
        f"export STAFFA_STAGE={target}-$SLURM_JOB_ID",
        f"trap {shlex.quote(clear)} EXIT",
        f'{steps}bash -c {shlex.quote(UNPACK)} stage {source} "$STAFFA_STAGE" ||',
        f'    {{ echo "staffa: no environment in $STAFFA_STAGE, to be staged from" {source}; exit 1; }}',
    ]


_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*(?::?-[\w./ -]*)?\})", re.ASCII)


def _expanding(path: str) -> str:
    """A path as a shell word, in which `$NAME`, `${NAME}` and `${NAME:-other}` are filled in, and nothing else."""
    pieces = re.split(f"({_VARIABLE.pattern})", path, flags=re.ASCII)
    escaped = (piece if index % 2 else re.sub(r'([\\"`$])', r"\\\1", piece) for index, piece in enumerate(pieces))
    return f'"{"".join(escaped)}"'
