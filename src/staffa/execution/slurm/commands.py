"""SLURM's commands: the only place that runs sbatch, squeue, scancel, scontrol, sinfo and sacct.

An answer is one of four things: what was asked for; `Unreachable` (nobody answered: the state of the
cluster is unknown, try again); `Full` (a limit on queued jobs: try again later, with fewer); `Refused`
(SLURM said no: somebody must change something). Nothing here waits, tries again or remembers.
"""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from staffa.execution.slurm.lists import compressed, duration, numbers
from staffa.execution.slurm.refusals import Answer, Full, Refused, SlurmError, Unreachable, complain, harmless

__all__ = [
    "Answer",
    "Call",
    "Full",
    "Limits",
    "Partition",
    "Past",
    "Refused",
    "Slurm",
    "SlurmError",
    "Task",
    "Unreachable",
    "run_command",
]

TIMEOUT = 60.0
"""Seconds after which a command that says nothing counts as unreachable."""

CHUNK = 100
"""Arrays a single command line names at most."""

Call = Callable[[Sequence[str], str | None], Answer]
"""Runs a command line with the given standard input."""


@dataclass(frozen=True)
class Task:
    """One job, or one task of a job array, as squeue lists it.

    - `array`: the job's number; `task`: its place in the array, or None for a plain job.
    - `state`: squeue's word (PENDING, RUNNING, COMPLETING, FAILED, …); `reason`: why it waits or how it ended.
    - `node`: where it runs or ran (`gpu[0-1]`), empty before.
    - `submitted`, `started`, `ends`: unix seconds; `started` is None until it runs, `ends` is the cut-off of
      a running job and the end of an ended one.
    """

    array: int
    task: int | None
    state: str
    reason: str
    node: str
    submitted: float
    started: float | None
    ends: float | None
    name: str

    @property
    def id(self) -> str:
        return str(self.array) if self.task is None else f"{self.array}_{self.task}"

    @property
    def waiting(self) -> bool:
        """Whether it has yet to run (again)."""
        return self.state in WAITING

    @property
    def over(self) -> bool:
        """Whether it has ended for good and its end is known."""
        return self.state in OVER


WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
OVER = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"})
OVER |= {"OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"}


@dataclass(frozen=True)
class Past:
    """A job, or one run of it, in the accounting.

    Times are unix seconds, None where they have not come; `gpus` is None where the site does not account for them.
    """

    id: str
    name: str
    state: str
    submitted: float | None
    started: float | None
    ended: float | None
    nodes: int
    gpus: int | None
    node: str
    code: str


@dataclass(frozen=True)
class Partition:
    """What a partition offers. Cores, memory (bytes) and GPUs are those of its largest nodes."""

    name: str
    default: bool
    up: bool
    walltime: float | None
    nodes: int
    cores: int
    memory: int
    gpus: int


@dataclass(frozen=True)
class Limits:
    """What this cluster allows.

    - `max_array`: tasks in one array at most, numbered from 0 (SLURM's MaxArraySize).
    - `max_submit`: jobs of ours that may be queued at once, where the accounting says so.
    """

    version: str
    max_array: int
    max_submit: int | None
    accounting: bool
    partitions: Mapping[str, Partition] = field(default_factory=dict)

    def partition(self, names: str | None) -> Partition | None:
        """The first of a job's partitions (`a,b`) that is known; the default one for None."""
        if names is None:
            return next((p for p in self.partitions.values() if p.default), None)
        return next((self.partitions[n] for n in names.split(",") if n in self.partitions), None)


def run_command(argv: Sequence[str], stdin: str | None) -> Answer:
    """Run a command here. Raises `Unreachable` if it does not exist or says nothing for a minute."""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin or "",
            env=_environment(argv[0], os.environ),
            timeout=TIMEOUT,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"`{argv[0]}` did not answer for {TIMEOUT:.0f} s", "sinfo") from None
    except FileNotFoundError:
        raise Unreachable(
            f"there is no `{argv[0]}` on this machine",
            "run it on a login node of the cluster, or set cluster.kind: local",
        ) from None
    except OSError as error:
        raise Unreachable(f"`{argv[0]}` cannot be run: {error}", "") from error
    return Answer(done.returncode, done.stdout, done.stderr)


FOREIGN = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")
"""Habits of the user's that would change what the commands list."""
INSIDE = ("SLURM_", "SRUN_")
"""What a job hands to its children; a job submitted from within would take it for its own."""
WHERE = ("SLURM_CONF", "SLURM_CLUSTERS")


def _environment(program: str, given: Mapping[str, str]) -> dict[str, str]:
    dropped = FOREIGN + (INSIDE if "SLURM_JOB_ID" in given else ())
    kept = {name: value for name, value in given.items() if name in WHERE or not name.startswith(dropped)}
    # The job inherits what sbatch is given.
    plain = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    return kept if program == "sbatch" else {**kept, **plain}


class Slurm:
    """The commands, with Python's types. Every method runs the one command it names (`limits` three)."""

    def __init__(self, call: Call = run_command) -> None:
        self._call = call

    def submit(
        self,
        script: str,
        tasks: int,
        *,
        throttle: int | None = None,
        exclude: Sequence[str] = (),
        dependency: str = "",
    ) -> int:
        """sbatch: an array of `tasks` (0: a plain job), at most `throttle` of them at once; the number it got.

        Raises `Refused` or `Full`, then nothing was submitted; `Unreachable`, then nobody knows whether it was.
        """
        argv = ["sbatch", "--parsable", *_options(tasks, throttle, exclude, dependency)]
        answer = self._ask(argv, script)
        for line in reversed(answer.out.splitlines()):
            if found := re.fullmatch(r"(\d+)(;\S+)?", line.strip()):
                return int(found[1])
        raise Unreachable(f"`sbatch --parsable` answered {answer.out.strip()!r}, which is no job number", "squeue --me")

    def test(self, script: str, tasks: int = 0, *, throttle: int | None = None, exclude: Sequence[str] = ()) -> None:
        """sbatch --test-only: nothing is submitted. Raises `Refused` if it would not be accepted."""
        self._ask(["sbatch", "--test-only", *_options(tasks, throttle, exclude, "")], script)

    def tasks(self, names: Collection[str] | None = None) -> list[Task]:
        """squeue, once: all tasks of these job names (None: all of this user) that run, wait, or ended lately."""
        if names is not None and not names:
            return []
        # Not --array, which leaves out the last task of `1-39:2`, nor plain squeue, which joins the reasons of
        # tasks that wait: one line for each job of the controller's.
        argv = ["squeue", "--me", "-h", "--array-unique", "-t", "all", "-o", "%F|%K|%T|%r|%N|%V|%S|%e|%j"]
        lines = [line for line in self._ask(argv).out.splitlines() if re.match(r"\d+(\|[^|]*){8}", line)]
        listed = [task for line in lines for task in _tasks(line)]
        return [task for task in listed if names is None or task.name in names]

    def cancel(self, ids: Iterable[str]) -> None:
        """scancel: jobs (`12`) and tasks (`12_3`); those that are over or were never there are no error."""
        for chunk in _chunks(compressed(ids)):
            self._ask(["scancel", *chunk], tolerant=True)

    def throttle(self, array: int, limit: int) -> None:
        """scontrol: let at most `limit` tasks of an array run at once (0: all)."""
        self._ask(["scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={limit}"], tolerant=True)

    def exclude(self, arrays: Iterable[int | str], nodes: Iterable[str]) -> None:
        """scontrol: tasks of these arrays that still wait shall not run on `nodes` (which replaces an earlier list)."""
        names = ",".join(sorted(nodes))
        for chunk in _chunks(sorted({str(array) for array in arrays})):
            self._ask(["scontrol", "update", f"JobId={','.join(chunk)}", f"ExcNodeList={names}"], tolerant=True)

    def end_of(self, job: str) -> float | None:
        """scontrol: unix time at which a running job will be cut off; None if it is not known (any more)."""
        return _time(self._shown(job).get("EndTime", ""))

    def state_of(self, job: str) -> str:
        """scontrol: PENDING, RUNNING, FAILED, …; empty for a job that it does not know (any more)."""
        return self._shown(job).get("JobState", "")

    def gpus_per_node(self, job: str) -> int:
        """scontrol: GPUs that a job has on each of its nodes; what salloc's shell is not told."""
        shown = self._shown(job)
        if each := re.search(r"gres[:/]gpu(?::[^:,=]+)?[:=](\d+)", shown.get("TresPerNode", "")):
            return int(each[1])
        total = re.search(r"gres/gpu=(\d+)", shown.get("AllocTRES", shown.get("TRES", "")))
        return int(total[1]) // max(1, _number(shown.get("NumNodes", ""), 1)) if total else 0

    def _shown(self, job: str) -> dict[str, str]:
        answer = self._ask(["scontrol", "show", "job", "-o", job], tolerant=True)
        return dict(word.split("=", 1) for word in answer.out.partition("\n")[0].split() if "=" in word)

    def nodes(self, partition: str | None = None) -> dict[str, str]:
        """sinfo: the nodes of a partition (`a,b`; None: the default one) and the state of each, `idle`, `down*`, …"""
        chosen = [f"--partition={partition}"] if partition else []
        lines = self._ask(["sinfo", "-h", "-N", *chosen, "-o", "%P|%N|%T"]).out.splitlines()
        rows = [line.split("|") for line in lines if line.count("|") == 2]
        return {name: state for of, name, state in rows if partition or of.endswith("*")}

    def limits(self) -> Limits:
        """scontrol show config, sinfo, and where there is accounting sacctmgr."""
        shown = self._ask(["scontrol", "show", "config"]).out
        config = dict(_setting(line) for line in shown.splitlines() if "=" in line)
        # `accounting_storage/none`, and since 23.11 `(null)`, where there is none.
        accounting = config.get("AccountingStorageType", "").endswith("/slurmdbd")
        rows = self._ask(["sinfo", "-h", "-e", "-o", "%P|%a|%l|%D|%c|%m|%G"]).out.splitlines()
        return Limits(
            version=config.get("SLURM_VERSION", ""),
            max_array=max(1, _number(config.get("MaxArraySize", ""), 1001)),
            max_submit=self._max_submit() if accounting else None,
            accounting=accounting,
            partitions=_partitions(rows),
        )

    def history(self, names: Collection[str], since: float) -> list[Past] | None:
        """sacct: all runs of jobs of these names since `since`; None where nobody can tell.

        Nobody can where the site keeps no accounting or its data base is down: unknown, not failed.
        """
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
        argv = ["sacct", "-n", "-P", "-X", "-D", f"--starttime={start}", f"--name={','.join(sorted(names))}"]
        try:
            answer = self._call([*argv, f"--format={','.join(SACCT)}"], None)
        except Unreachable:
            return None
        # It exits with 0 and an error message where the data base is down.
        if answer.code or "error" in answer.err.lower():
            return None
        rows = [line.split("|") for line in answer.out.splitlines()]
        return [_past(dict(zip(SACCT, row, strict=True))) for row in rows if len(row) == len(SACCT) and row[1] in names]

    def _max_submit(self) -> int | None:
        """The lowest of the limits on queued jobs that hold for this user; None where there is none known."""
        argv = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=MaxSubmit,GrpSubmit"]
        try:
            answer = self._call(argv, None)
        except Unreachable:
            return None
        if answer.code:
            return None
        return min((int(word) for word in re.split(r"[|\n]", answer.out) if word.isdigit()), default=None)

    def _ask(self, argv: Sequence[str], stdin: str | None = None, *, tolerant: bool = False) -> Answer:
        answer = self._call(argv, stdin)
        if answer.code and not (tolerant and harmless(answer)):
            complain(argv, answer)
        return answer


# Parsing.

SACCT = ("JobID", "JobName", "State", "Submit", "Start", "End", "NNodes", "AllocTRES", "NodeList", "ExitCode")


def _options(tasks: int, throttle: int | None, exclude: Sequence[str], dependency: str) -> list[str]:
    options = []
    if tasks:
        options.append(f"--array=0-{tasks - 1}" + (f"%{throttle}" if throttle else ""))
    if exclude:
        options.append(f"--exclude={','.join(sorted(exclude))}")
    if dependency:
        options.append(f"--dependency={dependency}")
    return options


def _tasks(line: str) -> list[Task]:
    """The tasks of a line of squeue's, which is one job or all tasks of an array that have yet to run."""
    array, places, state, reason, node, submitted, started, ends, name = line.split("|", 8)
    # Of a job that waits squeue tells when it expects to start it.
    begun = state not in WAITING
    facts = (
        state,
        # Some are written with spaces here and with underscores there.
        reason.replace(" ", "_"),
        node,
        _time(submitted) or 0.0,
        _time(started) if begun else None,
        _time(ends) if begun else None,
        name,
    )
    if "..." in places:
        raise Unreachable(f"`squeue` cut its answer short: {places!r}", "it does not know SLURM_BITSTR_LEN=0")
    return [Task(int(array), place, *facts) for place in (numbers(places) if places[:1].isdigit() else [None])]


def _time(word: str) -> float | None:
    if word.isdigit():
        return float(word)
    try:
        # A release, or a site's wrapper, that does not honour SLURM_TIME_FORMAT.
        return time.mktime(time.strptime(word, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def _past(row: Mapping[str, str]) -> Past:
    gpus = re.search(r"gres/gpu=(\d+)", row["AllocTRES"])
    accounted = "gres/" in row["AllocTRES"]
    return Past(
        row["JobID"],
        row["JobName"],
        row["State"].partition(" ")[0],
        _time(row["Submit"]),
        _time(row["Start"]),
        _time(row["End"]),
        _number(row["NNodes"], 0),
        int(gpus[1]) if gpus else 0 if accounted else None,
        "" if row["NodeList"] == "None assigned" else row["NodeList"],
        row["ExitCode"],
    )


def _partitions(rows: Iterable[str]) -> dict[str, Partition]:
    """Partitions of sinfo's lines, of which there is one for each kind of node."""
    found: dict[str, Partition] = {}
    for row in rows:
        name, up, walltime, nodes, cores, memory, gres = row.split("|", 6)
        plain = name.rstrip("*")
        known = found.get(plain)
        found[plain] = Partition(
            plain,
            name.endswith("*"),
            up == "up",
            duration(walltime),
            _number(nodes, 0) + (known.nodes if known else 0),
            max(_number(cores, 0), known.cores if known else 0),
            max(_number(memory, 0) << 20, known.memory if known else 0),
            max(_gpus(gres), known.gpus if known else 0),
        )
    return found


def _gpus(gres: str) -> int:
    """GPUs a node has: `gpu:a100:4(S:0-1),tmpdisk:100` has 4."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", gres))


def _number(word: str, otherwise: int) -> int:
    found = re.match(r"\d+", word.strip())
    return int(found[0]) if found else otherwise


def _setting(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip()


def _chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
