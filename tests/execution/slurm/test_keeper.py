"""The keeper against a fake of SLURM's commands, on a clock of its own: scale, faults, budgets."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm.fake import AFTER, BEFORE, Fake
from staffa.campaign.machine import ClusterConfig, shapes
from staffa.execution.slurm.commands import Refused, Slurm
from staffa.execution.slurm.keeper import Keeper

Fact = dict[str, Any]


def config(**pools: Any) -> ClusterConfig:
    """A cluster config with these pools: a number of one-worker jobs, or the pool's fields."""
    said = {name: {"workers": pool} if isinstance(pool, int) else pool for name, pool in pools.items()}
    plain = {name: {"gpus": 1, **pool} for name, pool in said.items() if name != "settings"}
    return ClusterConfig.model_validate({"kind": "slurm", "pools": plain, **said.get("settings", {})})


class Site:
    """A fake, a keeper on it, and a driver that takes turns: every second it looks, and has the keeper step.

    - `needed`: workers that would have work, by pool; `work`: which of the free workers get some.
    """

    def __init__(self, fake: Fake, machine: ClusterConfig, logs: str = "") -> None:
        self.fake, self.machine, self.logs = fake, machine, logs
        self.pools = {f"staffa-{pool}": pool for pool in machine.pools}
        self.needed = dict.fromkeys(machine.pools, 10_000)
        self.spent: set[str] = set()
        self.busy: set[str] = set()
        self.work: Callable[[str], bool] = lambda worker: True
        self.news: list[Fact] = []
        self.steps: list[float] = []
        self.over = self.longest = 0
        self.keeper = self.driver()

    def driver(self) -> Keeper:
        """A new driver, which knows nothing of the last one."""
        names = {pool: name for name, pool in self.pools.items()}
        self.keeper = Keeper(
            Slurm(self.fake.call),
            shapes(self.machine),
            lambda pool: f"#!/bin/bash\n#SBATCH -J {names[pool]}\n",
            names,
            self.machine,
            clock=lambda: self.fake.now,
            chance=random.Random(1),
            log_tail=lambda pool, job: self.logs,
            max_array=self.fake.max_array,
        )
        return self.keeper

    def turn(self) -> None:
        seen = self.fake.seen(self.pools)
        leaving = self.keeper.leaving()
        connected = {worker.worker for worker in seen}
        self.busy &= connected
        self.busy |= {w.worker for w in seen if w.job not in leaving and self.work(w.worker)}
        self.keeper.look(self.needed, self.fake.seen(self.pools, self.busy), self.spent)
        self.steps.append(self.keeper.step())
        self.news += self.keeper.news()

    def run(self, seconds: int) -> Site:
        for _ in range(seconds):
            self.fake.advance(1.0)
            self.turn()
            self.overfull()
        return self

    def overfull(self) -> None:
        """Count the seconds for which jobs waited that nobody wanted, while SLURM could be told so."""
        for name, pool in self.pools.items():
            wanted = shapes(self.machine)[pool].jobs(self.keeper.wanted[pool])
            over = len(self.fake.alive(name)) > wanted and self.fake.waiting(name) and not self.fake.down
            self.over = self.over + 1 if over else 0
            self.longest = max(self.longest, self.over)

    def rest(self, workers: Collection[str] | None = None) -> None:
        """Workers (all) have nothing to do any more."""
        resting = set(self.busy if workers is None else workers)
        self.work = lambda worker: worker not in resting
        self.busy -= resting

    def told(self, event: str) -> list[Fact]:
        return [fact for fact in self.news if fact["event"] == event]

    def connected(self, pool: str = "gpu") -> int:
        return int(self.keeper.facts()[pool]["connected"])

    def jobs(self, pool: str = "gpu") -> int:
        return len(self.fake.alive(f"staffa-{pool}"))


def site(slots: int = 8, nodes: int = 2, logs: str = "", fake: Fake | None = None, **pools: Any) -> Site:
    made = fake or Fake({f"n{number}": slots for number in range(nodes)})
    return Site(made, config(**(pools or {"gpu": 4})), logs)


# Scale


def test_two_thousand_workers_take_an_sbatch_for_every_500_and_a_squeue_for_every_poll() -> None:
    one = site(slots=1000, nodes=2, gpu=2000).run(60)
    assert one.connected() == 2000
    assert list(one.fake.sizes.values()) == [500] * 4
    assert one.fake.calls == {"squeue": one.fake.calls["squeue"], "sbatch": 4}
    times = [at for at, argv in one.fake.log if argv[0] == "squeue"]
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(times))
    submissions = [at for at, argv in one.fake.log if argv[0] == "sbatch"]
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(submissions))


def test_arrays_stay_below_the_sites_limit() -> None:
    one = site(slots=100, nodes=2, fake=Fake({"n0": 300}, max_array=101), gpu=250).run(20)
    assert list(one.fake.sizes.values()) == [101, 101, 48]


def test_the_queue_is_asked_less_and_less_while_nothing_changes() -> None:
    one = site().run(3600)
    times = [at for at, argv in one.fake.log if argv[0] == "squeue"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] == 5 and gaps[-2] == 180
    assert len(times) < 40
    before = one.fake.calls["squeue"]
    one.keeper.scale("gpu", 6)
    one.run(7)
    assert one.fake.calls["squeue"] == before + 1


def test_a_job_of_several_workers_counts_as_all_of_them() -> None:
    fake = Fake({"n0": 8}, workers=4)
    one = site(fake=fake, gpu={"workers": 10, "gpus": 4}).run(30)
    assert fake.sizes == {100: 3}
    assert one.connected() == 12
    # A busy worker holds the job of the three that are idle.
    one.rest([f"100-{task}-{slot}" for task in range(3) for slot in range(4) if (task, slot) != (1, 2)])
    one.keeper.scale("gpu", 0)
    one.run(40)
    assert [job.id for job in fake.running()] == ["100_1"]
    assert one.keeper.leaving() == {"100_1"}
    one.rest()
    one.run(5)
    assert fake.running() == []


# What fails


def test_every_third_sbatch_fails_and_no_job_is_doubled() -> None:
    for place in (BEFORE, AFTER):
        fake = Fake({"n0": 3000}, cut=lambda number, place=place: place if number % 3 == 0 else None)
        one = site(fake=fake, gpu={"workers": 2000}, settings={"submit": {"array": 100}}).run(200)
        assert one.jobs() == 2000 and one.connected() == 2000
        assert sum(fake.sizes.values()) == 2000
        assert one.told("pool_paused") == []


def test_sbatch_that_never_answers_is_tried_on_and_on() -> None:
    fake = Fake({"n0": 8}, cut=lambda number: BEFORE)
    one = site(fake=fake).run(3600)
    assert len(one.told("submit_failing")) == 1
    assert 20 < fake.calls["sbatch"] < 80
    fake.cut = lambda number: None
    one.run(200)
    assert one.connected() == 4


def test_five_minutes_without_squeue_conclude_nothing_and_double_nothing() -> None:
    one = site().run(60)
    fake = one.fake
    fake.down = True
    # The workers of one are gone from sight: nobody knows whether the job is.
    fake.end(fake.running()[0], "FAILED")
    before = fake.calls["sbatch"] + fake.calls["scancel"]
    one.run(150)
    one.keeper.scale("gpu", 6)
    one.run(150)
    one.keeper.scale("gpu", 4)
    assert len(one.told("squeue_silent")) == 1
    assert fake.calls["sbatch"] + fake.calls["scancel"] == before and one.told("job_ended") == []
    assert fake.calls["squeue"] < 20
    assert one.keeper.facts()["gpu"]["silent"] > 200
    fake.down = False
    one.run(200)
    assert len(one.told("squeue_answers")) == 1
    assert one.connected() == 4 and sum(fake.sizes.values()) == 5


def test_a_submission_that_was_taken_unheard_is_found_by_squeue() -> None:
    fake = Fake({"n0": 8}, cut=lambda number: AFTER)
    one = site(fake=fake).run(60)
    assert fake.calls["sbatch"] == 1 and one.connected() == 4


def test_an_empty_answer_does_not_make_connected_workers_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    one = site().run(60)
    jobs = one.fake.jobs
    monkeypatch.setattr(one.fake, "call", lambda argv, stdin: one.fake.__class__.call(one.fake, argv, stdin))
    real = one.fake.call

    def forgetful(argv: Any, stdin: Any) -> Any:
        answer = real(argv, stdin)
        return type(answer)(0, "", "") if argv[0] == "squeue" else answer

    one.keeper._slurm = Slurm(forgetful)
    one.run(400)
    assert one.fake.jobs == jobs and one.fake.calls["sbatch"] == 1


def test_a_site_that_answers_from_a_cache_does_not_get_the_jobs_twice() -> None:
    one = site(fake=Fake({"n0": 8}, joins=25.0))
    real, stale = one.fake.call, {"at": -1e9, "answer": None}

    def cached(argv: Any, stdin: Any) -> Any:
        if argv[0] != "squeue":
            return real(argv, stdin)
        if one.fake.now - stale["at"] > 30:
            stale.update(at=one.fake.now, answer=real(argv, stdin))
        return stale["answer"]

    one.keeper._slurm = Slurm(cached)
    one.run(120)
    assert one.fake.sizes == {100: 4} and one.connected() == 4


def test_a_full_queue_is_filled_with_smaller_arrays() -> None:
    fake = Fake({"n0": 100}, full=70)
    one = site(fake=fake, gpu=100).run(600)
    assert one.jobs() == 70 and one.connected() == 70
    assert one.told("pool_paused") == [] and len(one.told("queue_full")) == 1
    assert fake.calls["sbatch"] < 25
    fake.full = None
    before = fake.calls["sbatch"]
    one.run(400)
    assert one.connected() == 100 and fake.calls["sbatch"] - before < 8


def test_a_refused_pool_pauses_with_slurms_words_and_goes_on_when_scaled() -> None:
    one = site(gpu=2, cpu={"workers": 2, "gpus": 0})
    one.run(2)
    one.fake.refuse = "Invalid account or account/partition combination specified"
    one.keeper.scale("gpu", 4)
    one.run(30)
    (paused,) = one.told("pool_paused")
    assert paused["pool"] == "gpu" and "Invalid account" in paused["why"] and "account" in paused["hint"]
    facts = one.keeper.facts()
    assert facts["gpu"]["paused"] == paused["why"] and facts["cpu"]["paused"] == ""
    assert one.connected() == 2
    one.fake.refuse = ""
    one.keeper.scale("gpu", 4)
    one.run(30)
    assert one.connected() == 4 and len(one.told("pool_continued")) == 1


def test_a_first_step_that_gets_no_job_at_all_raises_slurms_words() -> None:
    one = site()
    one.fake.refuse = "Invalid partition name specified"
    one.keeper.look({"gpu": 4}, ())
    with pytest.raises(Refused, match="Invalid partition name") as raised:
        one.keeper.step()
    assert raised.value.field == "partition" and raised.value.exit_code == 3
    one.keeper.step()


# Budgets


def test_a_broken_node_is_left_out_after_two_failures_and_the_jobs_run_elsewhere() -> None:
    one = site(slots=4, nodes=3, logs="ImportError: no jax", gpu=6)
    one.fake.broken = {"n0"}
    one.run(120)
    (excluded,) = one.told("node_excluded")
    assert excluded["node"] == "n0" and excluded["failures"] == 2 and excluded["words"] == "ImportError: no jax"
    assert one.connected() == 6 and {job.node for job in one.fake.running()} == {"n1", "n2"}
    assert one.told("pool_paused") == []
    assert one.keeper.facts()["gpu"]["excluded"] == ["n0"]
    # Sixteen slots' worth of jobs that die within seconds did not count against the pool.
    assert one.keeper.facts()["gpu"]["failures"] == 0


def test_jobs_that_wait_already_are_told_of_a_broken_node() -> None:
    fake = Fake({"n0": 1, "n1": 3})
    fake.broken = {"n0"}
    one = site(fake=fake, gpu=8).run(60)
    assert all("n0" in job.exclude for job in fake.waiting())
    assert fake.waiting() and one.keeper.facts()["gpu"]["excluded"] == ["n0"]


def test_the_nodes_a_user_excludes_stay_excluded() -> None:
    fake = Fake({"n0": 4, "n1": 4, "n2": 4}, broken={"n1"})
    one = site(fake=fake, gpu={"workers": 3, "directives": {"exclude": "n0"}}).run(90)
    assert {job.node for job in fake.running()} == {"n2"}
    assert all(job.exclude == {"n0", "n1"} for job in fake.running()[-1:])
    assert one.connected() == 3


def test_a_pool_that_cannot_start_pauses_with_its_last_words_and_spares_the_last_node() -> None:
    one = site(slots=1, nodes=2, logs="line 1\nModuleNotFoundError: No module named 'staffa'", gpu=200)
    one.fake.broken = {"n0", "n1"}
    one.run(300)
    (paused,) = one.told("pool_paused")
    assert "5 jobs in a row" in paused["why"] and "ModuleNotFoundError" in paused["why"]
    assert paused["hint"].endswith("staffa scale RUN gpu=200")
    assert one.keeper.facts()["gpu"]["excluded"] == ["n0"]
    assert one.jobs() == 0 and len([fact for fact in one.told("job_ended") if "words" in fact]) < 20
    before = one.fake.calls["sbatch"]
    one.run(600)
    assert one.fake.calls["sbatch"] == before
    one.fake.broken = set()
    one.keeper.scale("gpu", 2)
    one.run(60)
    assert one.connected() == 2 and len(one.told("pool_continued")) == 1
    assert one.keeper.facts()["gpu"]["excluded"] == []


def test_a_worker_that_comes_forgives_the_failures_before_it() -> None:
    one = site(slots=1, nodes=1, gpu=1)
    for _ in range(4):
        one.fake.broken = {"n0"}
        one.run(20)
        assert 0 < one.keeper.facts()["gpu"]["failures"] < 5
        one.fake.broken = set()
        one.run(200)
        assert one.connected() == 1
        one.fake.end(one.fake.running()[0], "NODE_FAIL")
    assert one.told("pool_paused") == []


def test_jobs_that_end_at_once_are_replaced_slower_and_slower() -> None:
    one = site(slots=1, nodes=1, gpu=1, settings={"failures": 1000})
    one.fake.broken = {"n0"}
    one.run(1800)
    assert 8 < one.fake.calls["sbatch"] < 25


def test_workers_that_come_and_die_at_once_are_replaced_slower_and_slower() -> None:
    one = site(slots=1, nodes=1, gpu=1)
    for _ in range(900):
        for job in one.fake.running():
            if job.started is not None and one.fake.now > job.started + 8:
                one.fake.end(job, "FAILED")
        one.run(1)
    assert 5 < one.fake.calls["sbatch"] < 15
    assert one.told("pool_paused") == []


def test_a_held_job_is_cancelled_and_replaced() -> None:
    one = site(slots=4, nodes=2, gpu=4)
    one.fake.prolog = {"n0"}
    one.run(90)
    assert {fact["reason"] for fact in one.told("job_held")} == {"launch_failed_requeued_held"}
    assert len(one.told("job_held")) == 4 and one.told("pool_paused") == []
    assert one.connected() == 4 and {job.node for job in one.fake.running()} == {"n1"}
    assert [job for job in one.fake.waiting() if "held" in job.reason] == []


@pytest.mark.parametrize("hold", ["JobHeldUser", "JobHeldAdmin"])
def test_a_hold_that_people_put_on_a_job_is_respected(hold: str) -> None:
    fake = Fake({"n0": 1})
    one = site(fake=fake, gpu=2).run(20)
    (waiting,) = fake.waiting()
    waiting.reason = hold
    one.run(100)
    assert fake.waiting() == [waiting] and one.told("job_held") == []


def test_jobs_no_node_may_run_end_in_a_pause_not_in_a_loop() -> None:
    one = site(nodes=1, gpu={"workers": 2, "directives": {"exclude": "n0"}}).run(600)
    (paused,) = one.told("pool_paused")
    assert "BadConstraints" in paused["why"]
    assert one.jobs() == 0 and one.fake.calls["sbatch"] < 8


@pytest.mark.parametrize("state", ["TIMEOUT", "CANCELLED", "PREEMPTED", "NODE_FAIL"])
def test_what_the_site_ends_is_replaced_and_costs_nothing(state: str) -> None:
    one = site(logs="words").run(100)
    for _ in range(8):
        for job in one.fake.running():
            one.fake.end(job, state)
        one.run(100)
        assert one.connected() == 4
    assert one.told("pool_paused") == [] and one.told("node_excluded") == []
    assert {fact["state"] for fact in one.told("job_ended")} == {state}


def test_walltime_ends_and_the_pool_stays_at_its_size() -> None:
    fake = Fake({"n0": 8}, walltime=120.0)
    one = site(fake=fake).run(1200)
    assert one.jobs() == 4 and len(one.told("job_ended")) >= 32
    assert one.keeper.facts()["gpu"]["failures"] == 0


# Down, and up again


def test_scale_up_down_and_to_nothing() -> None:
    one = site(slots=4, nodes=1, gpu=6).run(30)
    assert one.connected() == 4 and len(one.fake.waiting()) == 2
    one.keeper.scale("gpu", 5)
    one.run(3)
    assert [job.id for job in one.fake.waiting()] == ["100_4"], "the newest goes first"
    one.keeper.scale("gpu", 2)
    one.run(3)
    assert one.fake.waiting() == [] and len(one.keeper.leaving()) == 2
    one.run(100)
    assert len(one.fake.running()) == 4, "busy workers finish"
    one.busy -= {f"{job.replace('_', '-')}-0" for job in one.keeper.leaving()}
    one.run(8)
    assert one.jobs() == 2 and one.keeper.leaving() == set()
    one.keeper.scale("gpu", 0)
    one.run(3)
    one.rest()
    one.run(3)
    assert one.jobs() == 0
    one.work = lambda worker: True
    one.keeper.scale("gpu", 3)
    one.run(30)
    assert one.connected() == 3


def test_those_that_were_to_leave_may_stay_when_more_are_wanted() -> None:
    one = site().run(30)
    one.keeper.scale("gpu", 1)
    one.run(5)
    assert len(one.keeper.leaving()) == 3
    one.keeper.scale("gpu", 4)
    one.run(5)
    assert one.keeper.leaving() == set() and one.fake.calls["sbatch"] == 1 and one.jobs() == 4


def test_the_throttle_holds_over_all_arrays_and_follows_scale() -> None:
    fake = Fake({"n0": 100}, walltime=300.0)
    one = site(fake=fake, gpu={"workers": 16, "throttle": 6})
    most = 0
    for _ in range(1500):
        one.run(1)
        most = max(most, len(fake.running()))
    assert most == 6 and len(fake.running()) >= 5
    assert fake.calls["scontrol"] < 60
    one.keeper.scale("gpu", 3)
    one.run(400)
    assert len(fake.alive()) == 3
    one.keeper.scale("gpu", 20)
    one.run(60)
    assert len(fake.running()) == 6
    for _ in range(1500):
        one.run(1)
        assert len(fake.running()) <= 6


def test_the_tail_idle_jobs_go_after_half_a_minute_and_busy_ones_stay() -> None:
    one = site().run(30)
    one.needed["gpu"] = 2
    one.rest(["100-0-0", "100-3-0"])
    one.run(25)
    assert one.jobs() == 4
    one.run(10)
    assert {job.id for job in one.fake.running()} == {"100_1", "100_2"}
    one.needed["gpu"] = 0
    one.rest()
    one.run(40)
    assert one.jobs() == 0
    one.needed["gpu"], one.work = 3, lambda worker: True
    one.run(20)
    assert one.connected() == 3, "work came back"


def test_workers_that_just_became_idle_are_kept_for_half_a_minute() -> None:
    one = site().run(30)
    one.rest(["100-3-0"])
    one.run(10)
    one.rest([f"100-{task}-0" for task in range(4)])
    one.keeper.scale("gpu", 1)
    one.run(22)
    assert {job.id for job in one.fake.running()} == {"100_0", "100_1", "100_2"}
    one.run(15)
    assert len(one.fake.running()) == 1


def test_a_moment_of_little_work_does_not_cost_a_place_in_the_queue() -> None:
    fake = Fake({"n0": 1})
    one = site(fake=fake, gpu=8).run(20)
    for _ in range(10):
        one.needed["gpu"] = 1
        one.run(20)
        one.needed["gpu"] = 8
        one.run(5)
    assert len(fake.alive()) == 8 and fake.calls["scancel"] == 0


def test_a_job_with_too_little_time_left_is_replaced() -> None:
    one = site().run(30)
    one.rest(["100-2-0"])
    one.spent = {"100_2"}
    one.run(10)
    assert one.connected() == 4 and "100_2" not in {job.id for job in one.fake.running()}
    assert sum(one.fake.sizes.values()) == 5


def test_jobs_too_short_from_the_start_are_not_replaced_for_ever() -> None:
    one = site()
    one.work = lambda worker: False
    for _ in range(600):
        one.spent = {job.id for job in one.fake.running()}
        one.run(1)
    assert one.fake.calls["sbatch"] == 1


# Drivers


def test_the_jobs_of_an_earlier_driver_are_taken_over() -> None:
    fake = Fake({"n0": 3})
    one = site(fake=fake).run(30)
    one.driver()
    one.run(60)
    assert fake.calls["sbatch"] == 1 and one.connected() == 3
    assert one.told("jobs_adopted")[0]["jobs"] == 4
    facts = one.keeper.facts()["gpu"]
    assert (facts["running"], facts["queued"], facts["reasons"]) == (3, 1, {"Resources": 1})


def test_a_driver_that_knows_of_no_work_yet_gives_nothing_back() -> None:
    fake = Fake({"n0": 2})
    one = site(fake=fake).run(30)
    one.driver()
    one.needed["gpu"] = 0
    one.run(25)
    one.needed["gpu"] = 4
    one.run(60)
    assert fake.calls["sbatch"] == 1 and fake.calls["scancel"] == 0 and one.connected() == 2


def test_nothing_is_submitted_before_squeue_has_answered() -> None:
    one = site()
    one.run(10)
    one.fake.down = True
    one.driver()
    one.run(200)
    one.fake.down = False
    assert one.fake.calls["sbatch"] == 1
    one.run(200)
    assert one.fake.calls["sbatch"] == 1 and one.connected() == 4


def test_nothing_is_submitted_before_it_is_known_what_there_is_to_do() -> None:
    one = site()
    assert one.keeper.step() >= 0 and one.fake.calls["sbatch"] == 0
    one.needed["gpu"] = 0
    one.run(100)
    assert one.fake.calls["sbatch"] == 0


def test_what_ended_before_a_driver_came_is_not_held_against_anybody() -> None:
    one = site(slots=1, nodes=1, gpu=4, settings={"failures": 50})
    one.fake.broken = {"n0"}
    one.run(30)
    one.fake.broken = set()
    one.driver()
    one.news.clear()
    one.run(30)
    assert one.connected() == 1 and one.told("job_ended") == [] and one.keeper.facts()["gpu"]["failures"] == 0


def test_a_job_that_may_have_served_an_earlier_driver_did_not_fail_to_start() -> None:
    one = site(slots=4, nodes=1).run(3)
    one.driver()
    for job in one.fake.running():
        job.healthy = False
    one.run(5)
    for job in one.fake.running():
        one.fake.end(job, "FAILED")
    one.run(60)
    facts = one.keeper.facts()["gpu"]
    assert (facts["failures"], facts["excluded"], facts["connected"]) == (0, [], 4)
    assert not any("words" in fact for fact in one.told("job_ended"))


def test_closing_cancels_all_jobs_of_the_campaign_and_no_other() -> None:
    one = site(slots=3, nodes=1).run(30)
    other = type(one.fake.jobs[0])(7, 0, "somebody-elses", 3600.0, one.fake.now, frozenset())
    one.fake.jobs.append(other)
    late = one.driver()
    assert late.close(cancel=True) == ""
    assert one.fake.alive() == [other]


def test_closing_leaves_the_jobs_to_the_next_driver() -> None:
    one = site().run(30)
    assert one.keeper.close(cancel=False) == "" and one.jobs() == 4


def test_closing_says_when_jobs_may_have_stayed() -> None:
    one = site().run(30)
    one.fake.down = True
    assert "Unable to contact slurm controller" in one.keeper.close(cancel=True)


def test_cancelled_jobs_count_as_leaving_until_they_are_gone() -> None:
    one = site().run(30)
    one.rest()
    one.keeper.scale("gpu", 0)
    one.fake._end = lambda *words: None  # type: ignore[method-assign]
    one.run(50)
    assert len(one.keeper.leaving()) == 4
    # scancel was deaf: it is told again.
    cancels = one.fake.calls["scancel"]
    one.run(100)
    assert one.fake.calls["scancel"] > cancels


def test_jobs_that_die_unseen_on_a_forgetful_site_are_told_by_their_logs() -> None:
    fake = Fake({"n0": 4}, age=2.0, broken={"n0"})
    one = site(fake=fake, logs="Permission denied: /scratch").run(3600)
    (paused,) = one.told("pool_paused")
    assert "Permission denied" in paused["why"] and fake.calls["sbatch"] < 10


def test_one_bad_moment_of_a_lone_node_does_not_pause_its_pool() -> None:
    one = site(slots=8, nodes=1, gpu=8)
    one.fake.broken = {"n0"}
    one.run(20)
    one.fake.broken = set()
    one.run(60)
    assert one.connected() == 8 and one.told("pool_paused") == []
    assert sum("no worker came" in fact.get("cause", "") for fact in one.told("job_ended")) == 16


def test_a_preempted_job_that_is_put_back_counts_as_waiting() -> None:
    one = site().run(30)
    (job, *_) = one.fake.running()
    job.state, job.reason, job.started, job.node = "PENDING", "JobHeldUser", None, ""
    one.run(20)
    facts = one.keeper.facts()["gpu"]
    assert (facts["queued"], facts["running"], facts["connected"]) == (1, 3, 3)
    assert [fact["job"] for fact in one.told("job_requeued")] == [job.id]
    job.reason = "None"
    one.run(20)
    assert one.connected() == 4 and one.fake.calls["sbatch"] == 1
    assert [fact["job"] for fact in one.told("job_started")].count(job.id) == 2


def test_every_start_and_end_is_told_once() -> None:
    fake = Fake({"n0": 8}, walltime=50.0, joins=1.0)
    one = site(fake=fake).run(300)
    started, ended = (Counter(fact["job"] for fact in one.told(event)) for event in ("job_started", "job_ended"))
    assert set(started.values()) == set(ended.values()) == {1}
    assert len(started) - len(ended) == 4 and {fact["node"] for fact in one.told("job_started")} == {"n0"}


def test_a_clock_that_is_set_back_stops_nothing() -> None:
    one = site().run(60)
    one.fake.now -= 7200
    for job in one.fake.running()[:2]:
        one.fake.end(job, "NODE_FAIL")
    one.fake.jobs = [job for job in one.fake.jobs if job.alive]
    one.run(200)
    assert one.jobs() == 4


def test_work_given_before_the_driver_was_told_is_not_cut_off() -> None:
    """The driver asks who is leaving, then gives work, then looks: whoever got some in between keeps it."""
    one = site(gpu=1)
    one.work = lambda worker: False
    one.run(60)
    keeper, seen = one.keeper, one.fake.seen(one.pools)
    assert keeper.leaving() == set()
    keeper.scale("gpu", 0)
    keeper.step()
    # Work is given here, as nobody was said to be leaving. The look that follows is from before.
    keeper.look(one.needed, seen)
    keeper.step()
    assert one.jobs() == 1
    assert keeper.leaving() == {seen[0].job}
    keeper.step()
    assert one.jobs() == 1
    keeper.look(one.needed, one.fake.seen(one.pools, {seen[0].worker}))
    keeper.step()
    assert one.jobs() == 1
    keeper.look(one.needed, seen)
    keeper.step()
    assert one.jobs() == 0


def test_a_command_that_is_refused_does_not_keep_others_back() -> None:
    one = site().run(30)
    real = one.fake.call

    def unwilling(argv: Any, stdin: Any) -> Any:
        answer = real(argv, stdin)
        return type(answer)(1, "", "Access/permission denied") if argv[0] == "sinfo" else answer

    one.keeper._slurm = Slurm(unwilling)
    one.fake.broken = {"n1"}
    for job in one.fake.running():
        one.fake.end(job, "NODE_FAIL")
    one.fake.nodes["n0"] = 0
    one.run(60)
    assert len(one.told("command_failed")) == 1
    one.fake.broken, one.fake.nodes["n0"] = set(), 4
    one.keeper.scale("gpu", 2)
    one.run(200)
    assert one.jobs() == 2


def test_steps_say_how_long_nothing_is_due() -> None:
    one = site().run(2000)
    assert max(one.steps[-200:]) > 100
    assert all(step >= 0 for step in one.steps)


def test_a_driver_may_look_and_scale_while_a_command_runs() -> None:
    one = site(slots=50, nodes=2, gpu=20)
    inside, go = threading.Event(), threading.Event()
    real = one.fake.call

    def slow(argv: Any, stdin: Any) -> Any:
        inside.set()
        assert go.wait(60)
        return real(argv, stdin)

    one.keeper._slurm = Slurm(slow)
    one.keeper.look({"gpu": 20}, ())
    thread = threading.Thread(target=one.keeper.step)
    thread.start()
    assert inside.wait(60)
    one.keeper.look({"gpu": 20}, ())
    one.keeper.scale("gpu", 7)
    assert one.keeper.facts()["gpu"]["wanted"] == 7 and one.keeper.leaving() == set() and one.keeper.news() == []
    go.set()
    thread.join(60)
    assert one.fake.sizes == {100: 7}


def test_a_driver_and_the_keepers_thread_do_not_disturb_one_another() -> None:
    one = site(slots=50, nodes=2, gpu=20)
    over = threading.Event()
    broken: list[BaseException] = []

    def stepping() -> None:
        try:
            while not over.is_set():
                one.keeper.step()
        except BaseException as error:
            broken.append(error)

    thread = threading.Thread(target=stepping)
    thread.start()
    chance = random.Random(3)
    try:
        for _ in range(300):
            one.fake.now += 1.0
            one.keeper.look({"gpu": chance.randrange(30)}, one.fake.seen(one.pools))
            if chance.random() < 0.1:
                one.keeper.scale("gpu", chance.randrange(30))
            one.keeper.facts(), one.keeper.leaving(), one.keeper.news()
    finally:
        over.set()
        thread.join(60)
    assert broken == []
    one.work = lambda worker: False
    one.keeper.scale("gpu", 20)
    one.run(300)
    assert one.jobs() == 20


# Whatever happens

FAULTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "cut before",
                "cut after",
                "down",
                "broken",
                "prolog",
                "kill node",
                "end",
                "scale",
                "need",
                "driver",
                "full",
                "rest",
            ]
        ),
        st.integers(0, 7),
        st.integers(1, 90),
    ),
    max_size=15,
)


@given(FAULTS, st.sampled_from([1, 2]), st.sampled_from([None, 3]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_schedule_of_faults_doubles_jobs_or_keeps_the_pool_from_its_size(
    faults: list[tuple[str, int, int]], workers: int, throttle: int | None
) -> None:
    fake = Fake({f"n{number}": 3 for number in range(4)}, workers=workers, walltime=400.0)
    pool = {"workers": 6, "gpus": workers, "throttle": throttle}
    one = site(fake=fake, gpu=pool, settings={"poll": {"maximum": "60s"}})
    accepted = Counter[int]()
    real = fake._sbatch

    def counted(options: Any, script: str) -> Any:
        arrays = set(fake.sizes)
        answer = real(options, script)
        if set(fake.sizes) - arrays:
            accepted[len(fake.alive()) - one.keeper._stocks["gpu"].shape.jobs(one.keeper.wanted["gpu"])] += 1
        return answer

    fake._sbatch = counted  # type: ignore[method-assign]
    for fault, number, seconds in faults:
        disturb(one, fault, number)
        one.run(seconds)
    mend(one)
    one.run(500)
    assert all(excess <= 0 for excess in accepted), "never more jobs than wanted, at any submission"
    assert one.longest <= 60 + 5, "for no longer than it takes to ask the queue"
    jobs = 6 // workers
    assert one.connected() == min(jobs, throttle or jobs) * workers
    assert one.jobs() <= jobs and (throttle or one.jobs() == jobs)
    one.needed["gpu"], one.work = 0, lambda worker: False
    one.busy.clear()
    one.run(100)
    assert one.jobs() == 0


def disturb(one: Site, fault: str, number: int) -> None:
    fake, node = one.fake, f"n{number % 4}"
    if fault.startswith("cut"):
        place = BEFORE if fault == "cut before" else AFTER
        fake.cut = lambda count: place if count % 3 == number % 3 else None
    elif fault == "down":
        fake.down = not fake.down
    elif fault == "broken":
        fake.broken ^= {node}
    elif fault == "prolog":
        fake.prolog ^= {node}
    elif fault == "kill node":
        fake.kill_node(node)
    elif fault == "end":
        for job in fake.running()[: number % 3]:
            fake.end(job, ["FAILED", "PREEMPTED", "CANCELLED"][number % 3])
    elif fault == "scale":
        one.keeper.scale("gpu", number)
    elif fault == "need":
        one.needed["gpu"] = number
    elif fault == "driver":
        one.driver()
    elif fault == "full":
        fake.full = number
    elif fault == "rest":
        one.rest()
        one.work = lambda worker: number % 2 == 0


def mend(one: Site) -> None:
    fake = one.fake
    fake.cut, fake.down, fake.full = (lambda number: None), False, None
    fake.broken, fake.prolog, fake.drained = set(), set(), set()
    # Of those that start from now on none is cut off while it is counted.
    fake.walltime = 10_000.0
    for job in fake.waiting():
        job.walltime = fake.walltime
    one.needed["gpu"], one.work = 10_000, lambda worker: True
    one.keeper.scale("gpu", 6)
