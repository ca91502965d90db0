"""A fake of SLURM's commands on a clock of its own: for scale and for faults in numbers, never instead of a real one.

`Fake.call` stands where `commands.run_command` does. What it prints, its exit codes and its words are those that a
SLURM 22.05 was seen to print (tests/slurm/test_commands_real.py holds that). Nothing happens but by `advance`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from staffa.execution.slurm.commands import Answer, Unreachable
from staffa.execution.slurm.lists import hosts, ranges
from staffa.execution.slurm.roll import Seen

NO_CONTROLLER = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
TOO_MANY = (
    "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
    "policy (job submit limit, user's size and/or time limits)\n"
)
BEFORE, AFTER = "before", "after"
"""Where an sbatch is cut off: before or after the controller has taken the job."""


@dataclass
class FakeJob:
    """One task of an array."""

    array: int
    task: int
    name: str
    walltime: float
    submitted: float
    exclude: frozenset[str]
    state: str = "PENDING"
    reason: str = "None"
    node: str = ""
    started: float | None = None
    ended: float | None = None
    dies_at: float | None = None
    healthy: bool = True

    @property
    def id(self) -> str:
        return f"{self.array}_{self.task}"

    @property
    def alive(self) -> bool:
        return self.state in ("PENDING", "RUNNING")

    def line(self, places: str) -> str:
        started = "N/A" if self.started is None else f"{self.started:.0f}"
        ends = self.ended if self.ended is not None else (self.started or 0.0) + self.walltime
        end = "N/A" if self.started is None else f"{ends:.0f}"
        words = (self.array, places, self.state, self.reason, self.node, f"{self.submitted:.0f}", started, end)
        return "|".join(map(str, (*words, self.name)))


@dataclass
class Fake:
    """A cluster of nodes with `slots` jobs each.

    - `workers`: worker processes of a job; they join `joins` seconds after its start.
    - `broken`: nodes where jobs die after a second; `prolog`: nodes whose prolog fails (drained, the job held).
    - `down`: no command is answered; `full`: jobs of ours that may be queued.
    - `cut`: told the number of each sbatch (from 1), says whether and where it is cut off.
    - `age`: seconds for which squeue lists what has ended.
    - `calls`: how often each program ran; `sizes`: tasks of each array; `log`: all command lines with their time.
    """

    nodes: dict[str, int]
    now: float = 1_000_000.0
    workers: int = 1
    joins: float = 5.0
    walltime: float = 3600.0
    max_array: int = 1001
    full: int | None = None
    age: float = 300.0
    down: bool = False
    cut: Callable[[int], str | None] = lambda number: None
    refuse: str = ""
    broken: set[str] = field(default_factory=set)
    prolog: set[str] = field(default_factory=set)
    drained: set[str] = field(default_factory=set)
    jobs: list[FakeJob] = field(default_factory=list)
    throttles: dict[int, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    sizes: dict[int, int] = field(default_factory=dict)
    log: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    next_id: int = 100

    # What tests look at

    def running(self, name: str | None = None) -> list[FakeJob]:
        return [job for job in self.jobs if job.state == "RUNNING" and name in (None, job.name)]

    def waiting(self, name: str | None = None) -> list[FakeJob]:
        return [job for job in self.jobs if job.state == "PENDING" and name in (None, job.name)]

    def alive(self, name: str | None = None) -> list[FakeJob]:
        return [job for job in self.jobs if job.alive and name in (None, job.name)]

    def seen(self, pools: dict[str, str], busy: Collection[str] = ()) -> list[Seen]:
        """The workers that a scheduler would see; `pools`: name of a job -> pool; `busy`: names of workers."""
        found = []
        for job in self.running():
            if job.healthy and job.started is not None and self.now >= job.started + self.joins:
                for slot in range(self.workers):
                    worker = f"{job.array}-{job.task}-{slot}"
                    joined = job.started + self.joins
                    found.append(Seen(worker, job.id, pools[job.name], worker in busy, joined))
        return found

    # Time

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            self._end_jobs()
            self._start_jobs()

    def kill_node(self, node: str) -> None:
        """The power is cut; SLURM notices."""
        self.drained.add(node)
        for job in self.running():
            if job.node == node:
                self._end(job, "NODE_FAIL", "NodeDown")

    def end(self, job: FakeJob, state: str) -> None:
        self._end(job, state, "None")

    def _end_jobs(self) -> None:
        for job in self.jobs:
            if job.state == "RUNNING" and job.started is not None:
                if job.dies_at is not None and self.now >= job.dies_at:
                    self._end(job, "FAILED", "NonZeroExitCode")
                elif self.now >= job.started + job.walltime:
                    self._end(job, "TIMEOUT", "TimeLimit")
        self.jobs = [job for job in self.jobs if job.ended is None or self.now - job.ended < self.age]

    def _end(self, job: FakeJob, state: str, reason: str) -> None:
        job.state, job.reason, job.ended = state, reason, self.now

    def _start_jobs(self) -> None:
        taken = Counter(job.node for job in self.jobs if job.state == "RUNNING")
        free = {node: slots - taken[node] for node, slots in self.nodes.items() if node not in self.drained}
        going = Counter(job.array for job in self.jobs if job.state == "RUNNING")
        for job in self.jobs:
            if job.state != "PENDING" or job.reason.startswith(("launch", "JobHeld", "BadConstraints")):
                continue
            limit = self.throttles.get(job.array, 0)
            if job.exclude >= set(self.nodes):
                job.reason = "BadConstraints"
            elif limit and going[job.array] >= limit:
                job.reason = "JobArrayTaskLimit"
            elif node := next((name for name, left in free.items() if left > 0 and name not in job.exclude), None):
                going[job.array] += 1
                free[node] -= 1
                self._start(job, node)
            else:
                job.reason = "Resources"

    def _start(self, job: FakeJob, node: str) -> None:
        if node in self.prolog:
            self.drained.add(node)
            job.reason = "launch failed requeued held"
            return
        job.state, job.reason, job.node, job.started = "RUNNING", "None", node, self.now
        job.healthy = node not in self.broken
        job.dies_at = None if job.healthy else self.now + 1.0

    # Commands

    def call(self, argv: Sequence[str], stdin: str | None) -> Answer:
        program = argv[0]
        self.calls[program] += 1
        self.log.append((self.now, tuple(argv)))
        if self.down:
            return Answer(1, "", NO_CONTROLLER)
        if program == "sbatch":
            return self._sbatch(argv[1:], stdin or "")
        if program == "squeue":
            return Answer(0, self._listing(), "")
        if program == "scancel":
            return self._scancel(argv[1:])
        if program == "sinfo":
            lines = [f"gpu*|{node}|{'drained' if node in self.drained else 'mixed'}\n" for node in self.nodes]
            return Answer(0, "".join(lines), "")
        if program == "scontrol":
            return self._scontrol(argv[1:])
        raise Unreachable(f"there is no `{program}` on this machine")

    def _listing(self) -> str:
        """Of the tasks of an array that wait for the same reason there is one line."""
        together: dict[tuple[int, str], list[FakeJob]] = {}
        for job in self.jobs:
            if job.state == "PENDING":
                together.setdefault((job.array, job.reason), []).append(job)
        lines = [job.line(str(job.task)) for job in self.jobs if job.state != "PENDING"]
        for (array, _), jobs in together.items():
            limit = self.throttles.get(array, 0)
            lines.append(jobs[0].line(ranges(job.task for job in jobs) + (f"%{limit}" if limit else "")))
        return "".join(f"{line}\n" for line in lines)

    def _sbatch(self, options: Sequence[str], script: str) -> Answer:
        cut = self.cut(self.calls["sbatch"])
        if cut == BEFORE:
            return Answer(1, "", LOST)
        if self.refuse:
            return Answer(1, "", f"sbatch: error: Batch job submission failed: {self.refuse}\n")
        said = dict(option.lstrip("-").split("=", 1) for option in options if "=" in option)
        last, _, limit = said.get("array", "0-0").removeprefix("0-").partition("%")
        tasks = int(last) + 1
        if tasks > self.max_array:
            return Answer(1, "", "sbatch: error: Batch job submission failed: Invalid job array specification\n")
        if self.full is not None and len(self.alive()) + tasks > self.full:
            return Answer(1, "", TOO_MANY)
        name = re.search(r"-J (\S+)", script)
        assert name, "a script without a job name"
        array, self.next_id = self.next_id, self.next_id + tasks
        self.throttles[array], self.sizes[array] = int(limit or 0), tasks
        exclude = frozenset(hosts(said.get("exclude", "")))
        self.jobs += [FakeJob(array, task, name[1], self.walltime, self.now, exclude) for task in range(tasks)]
        self._start_jobs()
        return Answer(1, "", LOST) if cut == AFTER else Answer(0, f"{array}\n", "")

    def _scancel(self, expressions: Sequence[str]) -> Answer:
        for job in self._named(expressions):
            if job.state == "RUNNING":
                self._end(job, "CANCELLED", "None")
            elif job.state == "PENDING":
                # As seen: tasks that never ran are not listed any more.
                self.jobs.remove(job)
        return Answer(0, "", "")

    def _named(self, expressions: Iterable[str]) -> list[FakeJob]:
        found = []
        for expression in expressions:
            array, _, tasks = expression.partition("_")
            wanted = {int(task[1:]) for task in hosts(f"t{tasks}")} if tasks else None
            found += [job for job in self.jobs if job.array == int(array) and (wanted is None or job.task in wanted)]
        return found

    def _scontrol(self, words: Sequence[str]) -> Answer:
        said = dict(word.split("=", 1) for word in words if "=" in word)
        arrays = {int(word) for word in said["JobId"].split(",")}
        jobs = [job for job in self.jobs if job.array in arrays]
        if not jobs:
            return Answer(1, "", f"Invalid job id specified for job {said['JobId']}\n")
        if "ArrayTaskThrottle" in said:
            self.throttles |= dict.fromkeys(arrays, int(said["ArrayTaskThrottle"]))
            return Answer(0, "", "")
        for job in jobs:
            if job.state == "PENDING":
                job.exclude = frozenset(hosts(said["ExcNodeList"]))
        if all(job.state == "PENDING" for job in jobs):
            return Answer(0, "", "")
        return Answer(1, "", f"{jobs[0].id}: Job is no longer pending execution\n{jobs[-1].id}: No error\n")
