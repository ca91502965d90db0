"""The commands and the keeper on a real SLURM: what the fake imitates is what it does."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from slurm.machine import ACCOUNT, Machine
from staffa.campaign.machine import ClusterConfig, shapes
from staffa.execution.slurm.commands import Full, Refused, Slurm, SlurmError, Task, Unreachable
from staffa.execution.slurm.keeper import Keeper, Seen

pytestmark = pytest.mark.slurm

NAME = "staffa-v1_walk-gpu-0a1b2c"


def script(*directives: str, body: str = "sleep 600", name: str = NAME) -> str:
    lines = [f"#SBATCH {directive}" for directive in (f"-J {name}", "-o /dev/null", *directives)]
    return "\n".join(["#!/bin/bash", *lines, body, ""])


def until(machine: Machine, array: int, holds: Callable[[list[Task]], bool]) -> list[Task]:
    found: list[Task] = []

    def there() -> bool:
        found[:] = [task for task in Slurm().tasks([NAME]) if task.array == array]
        return holds(found)

    machine.until(there, f"array {array}")
    return sorted(found, key=lambda task: task.task or 0)


def alive() -> list[Task]:
    return [task for task in Slurm().tasks([NAME]) if not task.over]


def states(tasks: list[Task]) -> list[str]:
    return sorted(task.state for task in tasks)


def complaint(ask: Callable[[], Any]) -> Exception | None:
    try:
        ask()
    except SlurmError as error:
        return error
    return None


def test_an_array_from_its_submission_to_its_end(machine: Machine) -> None:
    slurm, before = Slurm(), time.time()
    array = slurm.submit(script("--gpus-per-node=1"), 6, throttle=2, exclude=["gpu1"])
    tasks = until(machine, array, lambda found: states(found).count("RUNNING") == 2)
    assert [task.id for task in tasks] == [f"{array}_{number}" for number in range(6)]
    running, waiting = tasks[0], tasks[5]
    assert running.node == "gpu0" and running.started is not None and running.ends is not None
    assert before - 2 <= running.submitted <= running.started <= time.time() + 1
    assert running.ends - running.started == 3600, "the partition's default"
    assert waiting.waiting and waiting.reason == "JobArrayTaskLimit" and waiting.started is None
    assert slurm.end_of(running.id) == running.ends
    assert slurm.state_of(running.id) == "RUNNING" and slurm.state_of("999999") == ""
    # Some tasks run, so SLURM answers with an error for those.
    slurm.exclude([array], [])
    slurm.throttle(array, 3)
    tasks = until(machine, array, lambda found: states(found).count("RUNNING") == 3)
    assert {task.node for task in tasks if task.state == "RUNNING"} == {"gpu0", "gpu1"}
    slurm.cancel([f"{array}_0", f"{array}_4", f"{array}_5", f"{array}_77", "999999"])
    tasks = until(machine, array, lambda found: "CANCELLED" in states(found))
    # A task that never ran is not listed any more, or as cancelled.
    assert all(task.over for task in tasks if task.task in (0, 4, 5))
    slurm.cancel([str(array)])
    assert set(states(until(machine, array, lambda found: all(task.over for task in found)))) == {"CANCELLED"}
    slurm.throttle(array, 1)
    slurm.exclude([array, 999999], ["gpu0"])


def test_a_thousand_tasks_are_one_expression(machine: Machine) -> None:
    slurm = Slurm()
    assert slurm.limits().max_array == 1001
    array = slurm.submit(script("--hold"), 1001)
    assert len(alive()) == 1001 and slurm.tasks(["another"]) == []
    slurm.cancel([f"{array}_{number}" for number in range(0, 1001, 2)])
    assert [task.task for task in alive()] == list(range(1, 1001, 2))
    assert {task.reason for task in alive()} == {"JobHeldUser"}
    slurm.cancel([task.id for task in alive() if (task.task or 0) % 7 < 5])
    assert [task.task for task in alive()] == [n for n in range(1, 1001, 2) if n % 7 >= 5], "none is cut off"
    with pytest.raises(Refused, match="Invalid job array specification"):
        slurm.submit(script("--hold"), 1002)


def test_how_jobs_end(machine: Machine) -> None:
    slurm = Slurm()
    failing = slurm.submit(script(body="exit 3"), 2)
    (first, _) = until(machine, failing, lambda found: states(found) == ["FAILED", "FAILED"])
    assert first.reason == "NonZeroExitCode" and first.node and first.started is not None and first.ends is not None
    assert first.ends - first.started <= 5
    for node in machine.nodes:
        machine.set_prolog(node, failing=True)
    held = slurm.submit(script(), 1)
    # For a moment it is COMPLETING.
    (task,) = until(machine, held, lambda found: states(found) == ["PENDING"] and found[0].reason.startswith("launch"))
    assert (task.reason, task.node) == ("launch_failed_requeued_held", "")
    # SLURM drains the node by itself, before long.
    machine.until(lambda: any("drain" in state for state in slurm.nodes().values()), "a drained node")


@pytest.mark.parametrize(
    ("directive", "field"),
    [
        ("--partition=nowhere", "partition"),
        ("--gpus-per-node=5", "gpus"),
        ("--time=5:00:00", "walltime"),
        ("--constraint=h100", "constraint"),
        ("--reservation=mine", "reservation"),
        ("--mem=900000", "memory"),
    ],
)
def test_the_impossible_is_refused_in_slurms_words(machine: Machine, directive: str, field: str) -> None:
    slurm = Slurm()
    for ask in (slurm.test, slurm.submit):
        with pytest.raises(Refused) as raised:
            ask(script(directive), 2)
        assert raised.value.exit_code == 3 and f"`{field}`" in raised.value.hint
    slurm.test(script(), 2)
    assert alive() == []


def test_a_request_that_only_left_out_nodes_could_meet_is_refused(machine: Machine) -> None:
    with pytest.raises(Refused, match="Requested node configuration is not available"):
        Slurm().submit(script(), 1, exclude=machine.nodes)


def test_nobody_answers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = Slurm()
    array = slurm.submit(script("--hold"), 2)
    machine.stop_controller()
    asks: list[Callable[[], Any]] = [
        lambda: slurm.tasks([NAME]),
        lambda: slurm.cancel([str(array)]),
        lambda: slurm.throttle(array, 1),
        lambda: slurm.exclude([array], ["gpu0"]),
        lambda: slurm.state_of(str(array)),
        lambda: slurm.submit(script(), 1),
        slurm.nodes,
        slurm.limits,
    ]
    with ThreadPoolExecutor(len(asks)) as several:
        assert [type(error) for error in several.map(complaint, asks)] == [Unreachable] * len(asks)
    machine.start_controller()
    assert [task.id for task in alive()] == [f"{array}_0", f"{array}_1"]
    with monkeypatch.context() as elsewhere, pytest.raises(Unreachable, match="no `squeue` on this machine"):
        elsewhere.setenv("PATH", "/nowhere")
        slurm.tasks([NAME])


def test_a_controller_that_hangs_may_take_a_job_unheard(machine: Machine) -> None:
    """Why a failed sbatch is never simply repeated."""
    slurm = Slurm()
    controller = int((machine.folder / "slurmctld.pid").read_text())
    os.kill(controller, signal.SIGSTOP)
    try:
        with pytest.raises(Unreachable, match="timed out"):
            slurm.submit(script("--hold"), 2)
    finally:
        os.kill(controller, signal.SIGCONT)
    machine.until(lambda: len(alive()) == 2, "the job nobody heard of")


def test_accounting(machine_with_accounting: Machine) -> None:
    machine, slurm, since = machine_with_accounting, Slurm(), time.time() - 5
    limits = slurm.limits()
    assert limits.accounting and limits.max_submit is None
    with pytest.raises(Refused, match="Invalid account") as raised:
        slurm.submit(script("--account=nobodys"), 1)
    assert raised.value.field == "account"
    array = slurm.submit(script(f"--account={ACCOUNT}", "--gpus-per-node=2", body="sleep 1"), 2)
    until(machine, array, lambda found: states(found) == ["COMPLETED"] * 2)
    machine.until(lambda: {past.state for past in slurm.history([NAME], since) or []} == {"COMPLETED"}, "accounting")
    runs = slurm.history([NAME], since) or []
    assert sorted(past.id for past in runs) == [f"{array}_0", f"{array}_1"]
    assert {(past.nodes, past.gpus, past.code) for past in runs} == {(1, 2, "0:0")}
    assert all(past.started and past.ended and past.ended >= past.started + 1 for past in runs)
    assert slurm.history(["another"], since) == []

    machine.run(["sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=3"])
    try:
        machine.until(lambda: isinstance(complaint(lambda: slurm.test(script(), 4)), Full), "a limit")
        assert slurm.limits().max_submit == 3
        with pytest.raises(Full, match="AssocMaxSubmitJobLimit"):
            slurm.submit(script("--hold"), 4)
        slurm.submit(script("--hold"), 3)
    finally:
        machine.run(["sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1"])

    machine.stop_accounting()
    assert slurm.history([NAME], since) is None, "unknown, not none"
    assert len(alive()) == 3, "the queue does not need it"


def test_without_accounting(machine: Machine) -> None:
    slurm = Slurm()
    limits = slurm.limits()
    assert slurm.history([NAME], time.time() - 60) is None
    assert (limits.accounting, limits.max_submit) == (False, None)
    gpu, short = limits.partition(None), limits.partitions["short"]
    assert gpu is not None and gpu.name == "gpu" and gpu.up
    assert (gpu.nodes, gpu.gpus, gpu.cores, gpu.walltime) == (2, 2, 16, 4 * 3600)
    assert gpu.memory == 64_000 << 20 and short.walltime == 120
    assert slurm.nodes() == {"gpu0": "idle", "gpu1": "idle"} == slurm.nodes("short,cpu")
    machine.drain("gpu1")
    assert slurm.nodes("cpu") == {"gpu0": "idle", "gpu1": "drained"}


# The keeper


class Site:
    """A keeper of three one-GPU jobs. Their workers are files, which the jobs make when they have come up."""

    def __init__(self, machine: Machine, body: str = "") -> None:
        self.machine, self.body = machine, body
        self.folder = machine.folder / f"workers-{time.time_ns()}"
        self.folder.mkdir()
        self.needed, self.sees, self.workers = 3, True, list[str]()
        self.news: list[dict[str, Any]] = []
        self.keeper = self.driver()

    def driver(self) -> Keeper:
        pool = {"work": ["sample"], "workers": 3, "gpus": 1, "memory": "1GiB", "cores": 1}
        config = ClusterConfig.model_validate({"kind": "slurm", "pools": {"gpu": pool}, "poll": {"initial": "1s"}})
        worker = f"touch {self.folder}/${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID; sleep 600"
        log = f"{self.folder}/%A_%a.log"
        text = script("--gpus-per-node=1", "--mem=1G", f"-o {log}", body=f"{self.body}\n{worker}")
        self.keeper = Keeper(
            Slurm(),
            shapes(config),
            lambda pool: text,
            {"gpu": NAME},
            config,
            clock=time.time,
            chance=random.Random(1),
            log_tail=lambda pool, job: (self.folder / f"{job}.log").read_text(),
            max_array=1001,
        )
        return self.keeper

    def turn(self) -> None:
        if self.sees:
            alive = {task.id for task in Slurm().tasks([NAME]) if task.state == "RUNNING"}
            self.workers = [job for job in sorted(alive) if (self.folder / job).exists()]
        self.keeper.leaving()
        self.keeper.look({"gpu": self.needed}, [Seen(job, job, "gpu", False, 0.0) for job in self.workers])
        self.keeper.step()
        self.news += self.keeper.news()

    def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        def there() -> bool:
            self.turn()
            return holds(self.keeper.facts()["gpu"])

        self.machine.until(there, what)
        return self.keeper.facts()["gpu"]

    def told(self, event: str) -> list[dict[str, Any]]:
        return [fact for fact in self.news if fact["event"] == event]


def three(facts: dict[str, Any]) -> bool:
    return bool(facts["connected"] == 3 and facts["jobs"] == 3)


def test_a_job_that_goes_is_replaced_and_a_new_driver_takes_over(machine: Machine) -> None:
    site = Site(machine)
    site.until(three, "three workers")
    first = site.told("jobs_submitted")
    assert [event["jobs"] for event in first] == [3]
    machine.run(["scancel", f"{first[0]['array']}_1"])
    site.until(lambda facts: len(site.told("jobs_submitted")) == 2 and three(facts), "a fourth")
    # It is replaced as soon as it ends, and over only once SLURM has cleaned up after it.
    site.until(lambda facts: bool(site.told("job_ended")), "its end")
    assert site.told("job_ended")[0]["state"] == "CANCELLED"

    # slurmctld comes back with all it knew; squeue's silence concludes nothing.
    machine.stop_controller()
    site.sees = False
    site.until(lambda facts: facts["silent"] > 0, "silence")
    machine.start_controller()
    site.sees = True
    site.until(lambda facts: not facts["silent"] and three(facts), "answers")

    site.driver()
    site.until(three, "the same workers")
    assert site.told("jobs_adopted") == [site.told("jobs_adopted")[0]] and site.told("jobs_adopted")[0]["jobs"] == 3
    assert sum(event["jobs"] for event in site.told("jobs_submitted")) == 4, "none by the second driver"
    assert site.keeper.close(cancel=True) == ""
    machine.wait_idle()


def test_jobs_whose_prolog_fails_are_replaced(machine: Machine) -> None:
    machine.set_prolog("gpu0", failing=True)
    site = Site(machine)
    site.until(lambda facts: bool(site.told("job_held")), "a held job")
    assert site.told("job_held")[0]["reason"] == "launch_failed_requeued_held"
    machine.set_prolog("gpu0", failing=False)
    machine.until(lambda: "drain" in machine.node_states()["gpu0"], "a drained node")
    machine.resume("gpu0")
    site.until(three, "three workers")
    assert not any(job.reason.startswith("launch") for job in machine.jobs())


def test_a_node_where_jobs_die_is_left_out(machine: Machine) -> None:
    site = Site(machine, body='[ "$SLURMD_NODENAME" = gpu0 ] && { echo libcuda.so is missing; exit 1; }')
    site.needed = 2
    facts = site.until(lambda facts: facts["connected"] == 2, "two workers")
    assert facts["excluded"] == ["gpu0"] and not facts["paused"]
    (event,) = site.told("node_excluded")
    assert (event["node"], event["failures"], event["words"]) == ("gpu0", 2, "libcuda.so is missing")
    assert {job.node for job in machine.jobs()} == {"gpu1"}


def test_a_pool_that_cannot_start_pauses(machine: Machine) -> None:
    site = Site(machine, body="echo no module named staffa; exit 1")
    facts = site.until(lambda facts: bool(facts["paused"]), "a pause")
    assert "no module named staffa" in facts["paused"]
    site.body = ""
    site.driver()
    site.until(three, "three workers")
