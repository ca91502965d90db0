"""What was held, and what became of it: from ledgers written by hand, whose hours are known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from staffa.storage.lease import Lease
from staffa.storage.workspace import Workspace
from staffa.views.sheet import plain
from staffa.views.sheets import as_json
from staffa.views.usage import PARTS, hours, usage_facts, usage_sheet

T0 = 1_700_000_000.0
HOUR = 3600.0
Event = dict[str, Any]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "it's a run")


def write(workspace: Workspace, *events: Event, journal: str = "a") -> None:
    """A journal as a driver leaves it; `at` in hours after T0."""
    lines = [json.dumps({**event, "at": T0 + HOUR * event["at"]}) for event in events]
    workspace.journal(journal).write_text("".join(f"{line}\n" for line in lines))


def started(at: float, driver: str = "a") -> Event:
    return {"event": "run_started", "at": at, "driver": driver, "host": "login", "pid": 1}


def ended(at: float, reason: str = "finished") -> Event:
    return {"event": "run_ended", "at": at, "reason": reason, "exit_code": 0}


def member(name: str, node: str = "n0", pool: str = "gpu", device: str | None = "0", again: int = 1) -> Event:
    """A worker of job `12_3`, by its name `12-3-0`."""
    job, _, _ = name.rpartition("-")
    whole = name if again == 1 else f"{name}.{again}"
    return {
        "address": f"tls://{whole}", "name": whole, "host": node, "pid": 7, "node": node, "pool": pool,
        "job": job.replace("-", "_"), "ends": None, "device": device,
    }  # fmt: skip


def joined(at: float, who: Event) -> Event:
    return {"event": "worker_joined", "at": at, **who}


def left(
    at: float, who: Event, *, expected: bool = True, lost: float = 0.0, reason: str = "its time was over"
) -> Event:
    return {"event": "worker_left", "at": at, **who, "reason": reason, "expected": expected, "lost": lost * HOUR}


def issued(at: float, who: Event, batch: str = "g0/0") -> Event:
    return {"event": "batch_issued", "at": at, "batch": batch, "attempt": 1, "worker": who["address"]}


def settled(at: float, who: Event, batch: str = "g0/0", **timings: float) -> Event:
    seconds = {name: HOUR * part for name, part in timings.items()}
    return {
        "event": "batch_settled", "at": at, "batch": batch, "attempt": 1, "worker": who["address"],
        "node": who["node"], "pool": who["pool"], "timings": seconds, "device": "NVIDIA H200", "computed": 2,
    }  # fmt: skip


def yielded(at: float, who: Event, batch: str = "g0/0", **timings: float) -> Event:
    return {**settled(at, who, batch, **timings), "event": "batch_yielded", "segment": 1}


def test_a_yield_of_which_nobody_took_the_time(workspace: Workspace) -> None:
    who = member("5-0-0")
    write(
        workspace,
        started(0),
        joined(0, who),
        issued(1, who, "g0/0"),
        issued(1, who, "g0/1"),
        yielded(4, who, "g0/0", compile=0.5),
        {**yielded(4, who, "g0/1", compile=0.0), "computed": 0},
        left(5, who),
    )
    found = usage_facts(workspace)["total"]["gpu_hours"]
    assert parts(found) == about(held=5, useful=2.5, compiling=0.5, waiting=2)


def parts(found: Event) -> dict[str, float]:
    return {name: found[name] for name in ("held", *PARTS)}


def about(**known: float) -> Any:
    return pytest.approx({name: known.get(name, 0.0) for name in ("held", *PARTS)}, abs=2e-6)


def test_a_pool_of_gpus_hour_by_hour(workspace: Workspace) -> None:
    one, two = member("12-0-0"), member("12-1-0", node="n1")
    write(
        workspace,
        started(0),
        {"event": "jobs_submitted", "at": -0.5, "pool": "gpu", "array": 12, "jobs": 2},
        joined(1, one),
        joined(1.5, two),
        issued(1, one, "g0/0"),
        settled(
            4, one, "g0/0", queue=0.5, compile=0.5, initialize=0.25, adapt=0.5, discard=0.25, sample=1.0, write=2.0
        ),
        issued(1.5, two, "g0/1"),
        yielded(3.5, two, "g0/1", compile=0.25, sample=1.5, write=0.25, commit=0.25),
        left(3.5, two),
        ended(5),
    )
    facts = usage_facts(workspace)
    pool = facts["pools"]["gpu"]
    assert parts(pool["worker_hours"]) == about(held=6, useful=3.5, compiling=0.75, waiting=1.75)
    assert pool["gpu_hours"] == pool["worker_hours"] == pool["node_hours"]
    assert (pool["workers"], pool["jobs"], pool["nodes"], pool["gpus"]) == (2, 2, 2, 2)
    assert pool["writing_hours"] == 2.5, "it overlaps, and is not part of the sum"
    assert pool["queue"] == {"jobs": 2, "mean": 1.75 * HOUR, "longest": 2 * HOUR}
    assert pool["departures"] == {"cut_offs": 1, "crashes": 0, "vanished": 0}
    assert facts["total"] == pool and not facts["live"] and facts["accounting"] is None
    assert (facts["since"], facts["until"]) == (T0 + HOUR, T0 + 5 * HOUR)


def test_lost_by_cause(workspace: Workspace) -> None:
    cut, dead, gone = member("1-0-0"), member("1-1-0", "n1"), member("1-2-0", "n2")
    write(
        workspace,
        started(0),
        *[event for who in (cut, dead, gone) for event in (joined(0, who), issued(0, who, f"g0/{who['node']}"))],
        left(4, cut, lost=1, reason="job 1_0 was cancelled or preempted"),
        left(4, dead, lost=4, expected=False, reason="the worker process died on n1 (code -9)"),
        left(4, gone, lost=0.5, expected=False, reason="its node n2 or job 1_2 vanished"),
        ended(5),
    )
    found = usage_facts(workspace)["total"]
    lost = {"cut_offs": 1.0, "crashes": 4.0, "vanished": 0.5, "drivers": 0.0}
    assert found["gpu_hours"]["lost_to"] == lost
    # What was done before a checkpoint is useful, although no receipt tells of it.
    assert parts(found["gpu_hours"]) == about(held=12, lost=5.5, useful=3 + 0 + 3.5)
    assert found["departures"] == {"cut_offs": 1, "crashes": 1, "vanished": 1}


def test_what_a_checkpoint_keeps_is_counted_from_the_last_receipt(workspace: Workspace) -> None:
    who = member("1-0-0")
    write(
        workspace,
        started(0),
        joined(0, who),
        issued(2, who, "g0/0"),
        # Batches are issued ahead: that one is on the device now tells only the receipt before it.
        issued(2.5, who, "g0/1"),
        settled(3, who, "g0/0", sample=1.0),
        issued(3.5, who, "g0/2"),
        left(7, who, lost=1),
        ended(8),
    )
    found = usage_facts(workspace)["total"]["gpu_hours"]
    assert parts(found) == about(held=7, useful=1 + 3, waiting=2, lost=1)

    write(workspace, started(0), joined(0, who), issued(0, who, "g0/0"), issued(2, who, "g0/1"), left(4, who, lost=1))
    assert parts(usage_facts(workspace)["total"]["gpu_hours"]) == about(held=4, useful=3, lost=1)


def test_certain_is_believed(workspace: Workspace) -> None:
    who = member("1-0-0")
    gone = {**left(1, who, expected=False, lost=1, reason="it has gone"), "certain": False}
    write(workspace, started(0), joined(0, who), issued(0, who), gone)
    assert usage_facts(workspace)["total"]["node_hours"]["lost_to"]["vanished"] == 1


def test_a_whole_node_counts_once_and_its_gpus_each(workspace: Workspace) -> None:
    crew = [member(f"7-0-{slot}", device=str(slot)) for slot in range(4)]
    write(
        workspace,
        started(0),
        *[joined(0, who) for who in crew],
        *[issued(0, who, f"g0/{slot}") for slot, who in enumerate(crew)],
        *[settled(2, who, f"g0/{slot}", sample=2.0) for slot, who in enumerate(crew[:2])],
        *[left(2, who, lost=0 if slot < 2 else 2) for slot, who in enumerate(crew)],
        ended(2),
    )
    found = usage_facts(workspace)["pools"]["gpu"]
    assert parts(found["node_hours"]) == about(held=2, useful=1, lost=1)
    assert parts(found["gpu_hours"]) == about(held=8, useful=4, lost=4)
    assert (found["nodes"], found["gpus"], found["jobs"], found["workers"]) == (1, 4, 1, 4)


def test_two_jobs_on_a_node_are_two(workspace: Workspace) -> None:
    one, two = member("7-0-0"), member("7-1-0")
    write(workspace, started(0), joined(0, one), joined(0, two), ended(3))
    found = usage_facts(workspace)["total"]
    assert found["node_hours"]["held"] == 6 and found["gpu_hours"]["held"] == 6
    assert (found["nodes"], found["jobs"]) == (1, 2)


def test_a_shared_gpu_counts_once(workspace: Workspace) -> None:
    one, two = member("7-0-0"), member("7-0-1")
    write(workspace, started(0), joined(0, one), joined(0, two), issued(0, one), settled(1, one, sample=1.0), ended(1))
    found = usage_facts(workspace)["total"]
    assert parts(found["worker_hours"]) == about(held=2, useful=1, waiting=1)
    assert parts(found["gpu_hours"]) == about(held=1, useful=0.5, waiting=0.5)
    assert found["gpus"] == 1


def test_a_pool_without_gpus_has_no_gpu_hours(workspace: Workspace) -> None:
    sampler, reducer = member("7-0-0"), member("8-0-0", pool="cpu", device="")
    sealed = {"event": "part_sealed", "at": 1, "part": "p", "rows": 1, "trials": 1, "bytes": 1, "seconds": HOUR / 2}
    write(
        workspace,
        started(0),
        joined(0, sampler),
        joined(0, reducer),
        issued(0, sampler),
        settled(1, sampler, sample=1.0),
        {**sealed, "worker": reducer["address"]},
        {**sealed, "worker": sampler["address"]},
        sealed,
        ended(2),
    )
    facts = usage_facts(workspace)
    cpu, gpu = facts["pools"]["cpu"], facts["pools"]["gpu"]
    assert "gpu_hours" not in cpu and parts(cpu["worker_hours"]) == about(held=2, useful=0.5, waiting=1.5)
    assert parts(gpu["gpu_hours"]) == about(held=2, useful=1, waiting=1), "sealing goes on beside the device"
    assert facts["total"]["gpu_hours"]["held"] == 2 and facts["total"]["node_hours"]["held"] == 4


def test_a_worker_started_again_in_its_job_was_held_all_the_time(workspace: Workspace) -> None:
    first, again = member("5-0-0"), member("5-0-0", again=2)
    write(
        workspace,
        started(0),
        {"event": "jobs_submitted", "at": -1, "pool": "gpu", "array": 5, "jobs": 1},
        joined(0, first),
        issued(0, first),
        left(1, first, expected=False, lost=1, reason="the worker process died on n0 (code -11)"),
        joined(1.5, again),
        issued(1.5, again),
        settled(2.5, again, sample=1.0),
        left(3, again),
        ended(9),
    )
    found = usage_facts(workspace)["total"]
    assert parts(found["gpu_hours"]) == about(held=3, useful=1, lost=1, waiting=1) and found["workers"] == 1
    assert found["queue"]["longest"] == HOUR


def test_a_job_put_back_into_the_queue_is_not_held_meanwhile(workspace: Workspace) -> None:
    who = member("5-0-0")
    write(workspace, started(0), joined(0, who), left(1, who), joined(7, who), left(8, who), ended(9))
    found = usage_facts(workspace)["total"]
    assert found["node_hours"]["held"] == 2 and (found["workers"], found["jobs"]) == (2, 1)


def test_why_a_worker_left_is_told_after_its_successor_came(workspace: Workspace) -> None:
    first, again = member("5-0-0"), member("5-0-0", again=2)
    write(workspace, started(0), joined(0, first), joined(1.1, again), left(1, first, expected=False), ended(2))
    assert usage_facts(workspace)["total"]["node_hours"]["held"] == 2


def test_a_worker_nobody_saw_leaving_is_held_to_the_last_sign_of_its_driver(workspace: Workspace) -> None:
    stays, goes = member("5-0-0"), member("5-1-0", node="n1")
    batches = [event for who in (stays, goes) for event in (joined(0, who), issued(0, who, who["node"]))]
    write(workspace, started(0), *batches, settled(2, stays, "n0", sample=2.0), issued(2, stays, "n2"),
          {"event": "paused", "at": 3, "reason": "disk full"})  # fmt: skip
    # What others write long after says nothing of workers.
    write(workspace, {"event": "readmitted", "at": 50, "trial": "ab"}, journal="b")
    found = usage_facts(workspace)["total"]["gpu_hours"]
    assert parts(found) == about(held=6, useful=2, lost=1 + 3) and found["lost_to"]["drivers"] == 4

    # The next driver finds one of them again: its job was held between the two.
    again = member("5-0-0", again=2)
    change = {"event": "code_change_accepted", "at": 9, "old": "a", "new": "b"}
    write(workspace, change, started(10, "c"), joined(10, again), ended(11), journal="c")
    found = usage_facts(workspace)["total"]["gpu_hours"]
    assert parts(found) == about(held=11 + 3, useful=2, lost=4, waiting=8)


def test_a_driver_that_hands_over_loses_nothing(workspace: Workspace) -> None:
    who = member("5-0-0")
    write(workspace, started(0), joined(0, who), issued(0, who), yielded(1, who, sample=1.0), ended(1, "handover"))
    write(workspace, started(1.5, "b"), joined(2, member("5-0-0", again=2)), ended(3), journal="b")
    found = usage_facts(workspace)["total"]
    assert parts(found["gpu_hours"]) == about(held=3, useful=1, waiting=2) and found["workers"] == 1


def test_a_live_run_and_its_work_in_flight(workspace: Workspace) -> None:
    who = member("5-0-0")
    with Lease.acquire(workspace.lease, clock=lambda: T0 + 4 * HOUR) as lease:
        write(workspace, started(0, lease.lease_id), joined(0, who), issued(1, who))
        facts = usage_facts(workspace)
    assert facts["live"] and parts(facts["total"]["gpu_hours"]) == about(held=4, in_flight=3, waiting=1)
    page = list(plain(usage_sheet(facts)))
    assert any("in flight" in line for line in page)


def test_the_lease_of_a_dead_driver_is_its_last_sign_of_life(workspace: Workspace) -> None:
    lease = Lease.acquire(workspace.lease, clock=lambda: T0 + 2 * HOUR, pid=2**22 + 1, host="elsewhere")
    write(workspace, started(0, lease.lease_id), joined(0, member("5-0-0")))
    facts = usage_facts(workspace)
    assert not facts["live"] and facts["total"]["node_hours"]["held"] == 2


def test_local_workers_belong_to_no_pool(workspace: Workspace) -> None:
    crew = [{**member(f"{n}", node="desk", pool="", device=None), "job": ""} for n in range(2)]
    events = [event for who in crew for event in (joined(0, who), issued(0, who, who["name"]))]
    done = [{**settled(1, who, who["name"], sample=0.75), "device": "cpu"} for who in crew]
    write(workspace, started(0), *events, *done, ended(1))
    facts = usage_facts(workspace)
    assert list(facts["pools"]) == ["workers"] and facts["total"]["jobs"] == 0
    assert "gpu_hours" not in facts["total"]
    assert parts(facts["total"]["worker_hours"]) == about(held=2, useful=1.5, waiting=0.5)
    assert parts(facts["total"]["node_hours"]) == about(held=1, useful=0.75, waiting=0.25)


def test_a_ledger_of_before_workers_were_noted(workspace: Workspace) -> None:
    who = member("old")
    write(workspace, started(0), issued(1, who), settled(3, who, sample=1.0), ended(4))
    found = usage_facts(workspace)["pools"]
    assert parts(found["workers"]["worker_hours"]) == about(held=3, useful=1, waiting=2)


def test_jobs_that_no_worker_came_from(workspace: Workspace) -> None:
    over = {"event": "job_ended", "pool": "gpu", "job": "5_0", "node": "n0", "state": "FAILED", "seconds": 18.0}
    write(
        workspace,
        started(0),
        {**over, "at": 1, "cause": "no worker came", "words": "ImportError"},
        {**over, "at": 2},
        {**over, "at": 2, "seconds": None, "words": "no log"},
        ended(3),
    )
    facts = usage_facts(workspace)
    assert facts["pools"]["gpu"]["failed_starts"] == {"jobs": 2, "hours": 0.005}
    assert list(plain(usage_sheet(facts)))[1:3] == [
        "held    nothing: no worker has joined yet",
        "failed  2 jobs ended before a worker came, after 18 s in all",
    ]


def test_accounting(workspace: Workspace) -> None:
    asked = []

    def rows(pools: Any, since: float) -> list[Event]:
        asked.append((list(pools), since))
        row = {"nodes": 1, "gpus": 2, "started": T0, "ended": T0 + HOUR}
        return [{**row, "id": "12_0"}, {**row, "id": "12_1", "ended": None}, {**row, "id": "99_0"},
                {**row, "id": "12_2", "started": None}]  # fmt: skip

    submitted = {"event": "jobs_submitted", "at": -1, "pool": "gpu", "array": 12, "jobs": 3}
    write(workspace, started(0), submitted, joined(0, member("12-0-0")), ended(2))
    facts = usage_facts(workspace, rows)
    assert asked == [(["gpu"], T0 - HOUR)]
    assert facts["accounting"] == {"jobs": 2, "node_hours": 3.0, "gpu_hours": 6.0}
    assert any("3 node-hours, 6 GPU-hours for 2 jobs" in line for line in plain(usage_sheet(facts)))
    facts = usage_facts(workspace, lambda pools, since: None)
    assert facts["accounting"] is None and any("accounting  unknown" in line for line in plain(usage_sheet(facts)))


def test_page(workspace: Workspace) -> None:
    one, two = member("12-0-0"), member("13-0-0", node="n1", pool="cpu", device="")
    write(
        workspace,
        started(0),
        {"event": "jobs_submitted", "at": -0.05, "pool": "gpu", "array": 12, "jobs": 1},
        joined(0, one),
        joined(0, two),
        issued(0, one),
        settled(3, one, compile=0.3, sample=2.4, write=1.0),
        issued(3, one, "g0/1"),
        left(4, one, lost=1.0),
        ended(10),
    )
    facts = usage_facts(workspace)
    page = list(plain(usage_sheet(facts)))
    assert page[1:4] == [
        "held        14 node-hours on 2 nodes, 4 GPU-hours on 1 GPU; 2 workers in 2 jobs",
        "lost        1 node-hours (1 GPU-hours): 1 by cut-offs",
        "queue       1 job waited 3 min on average for the first worker, 3 min at most",
    ]
    assert page[6:10] == [
        "pool  unit          held      useful  compiling      waiting      lost",
        "cpu   worker-hours    10           0          0   10 (100 %)         0",
        "gpu   GPU-hours        4  2.4 (60 %)  0.3 (8 %)    0.3 (8 %)  1 (25 %)",
        "all   node-hours      14  2.4 (17 %)  0.3 (2 %)  10.3 (74 %)   1 (7 %)",
    ]
    assert page[-1].startswith("next: staffa explain '") and page[-1].endswith(" pool gpu")
    assert json.loads(as_json(facts))["total"]["nodes"] == 2


def test_a_real_run(mixed: Any) -> None:
    facts = usage_facts(Workspace.open(mixed.root))
    found = facts["pools"]["workers"]["worker_hours"]
    assert not facts["live"] and facts["total"]["workers"] == 1
    assert found["useful"] > 0 and found["compiling"] > 0 and found["lost"] == found["in_flight"] == 0
    assert sum(found[name] for name in PARTS) == pytest.approx(found["held"], abs=1e-5)


def test_no_ledger(workspace: Workspace) -> None:
    facts = usage_facts(workspace)
    assert facts["pools"] == {} and facts["total"]["worker_hours"]["held"] == 0 and facts["since"] is None
    assert "nothing" in list(plain(usage_sheet(facts)))[1]


def test_hours() -> None:
    said = {0.0: "0", 1.2e-5: "0.000012", 0.04216: "0.0422", 12.345: "12.3", 987.6: "988", 1204.4: "1,204"}
    assert {count: hours(count) for count in said} == said


AT = st.floats(0, 100, allow_nan=False)
SECONDS = st.floats(-1, 50, allow_nan=False)
WHO = st.builds(
    lambda task, slot, again, pool: member(
        f"9-{task}-{slot}", node=f"n{task % 2}", pool=pool, device="" if pool == "cpu" else str(slot), again=again
    ),
    st.integers(0, 3), st.integers(0, 1), st.integers(1, 3), st.sampled_from(["gpu", "cpu"]),
)  # fmt: skip
BATCH = st.sampled_from(["g0/0", "g0/1", "g1/0"])
STEP = st.one_of(
    st.builds(started, AT),
    st.builds(ended, AT),
    st.builds(joined, AT, WHO),
    st.builds(lambda at, who, why, lost: left(at, who, expected=why, lost=lost), AT, WHO, st.booleans(), SECONDS),
    st.builds(issued, AT, WHO, BATCH),
    st.builds(lambda at, who, one, s, c: settled(at, who, one, sample=s, compile=c), AT, WHO, BATCH, SECONDS, SECONDS),
    st.builds(lambda at, who, one, s: yielded(at, who, one, sample=s), AT, WHO, BATCH, SECONDS),
    st.just({"event": "worker_joined", "at": 3.0}),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=30), ordered=st.booleans())
def test_parts_add_up_whatever_happens(workspace: Workspace, steps: list[Event], ordered: bool) -> None:
    write(workspace, *(sorted(steps, key=lambda step: step["at"]) if ordered else steps))
    facts = usage_facts(workspace)
    for pool in (*facts["pools"].values(), facts["total"]):
        for unit in ("worker_hours", "node_hours", "gpu_hours"):
            found = pool.get(unit)
            if found is None:
                continue
            assert all(found[name] >= 0 for name in ("held", *PARTS))
            assert sum(found[name] for name in PARTS) == pytest.approx(found["held"], abs=1e-5)
            assert sum(found["lost_to"].values()) == pytest.approx(found["lost"], abs=1e-5)
        assert pool["node_hours"]["held"] <= pool["worker_hours"]["held"] + 1e-5
    assert facts["total"]["worker_hours"]["held"] == pytest.approx(
        sum(pool["worker_hours"]["held"] for pool in facts["pools"].values()), abs=1e-4
    )
    json.loads(as_json(facts))
    assert list(plain(usage_sheet(facts)))


def story(chance: random.Random) -> tuple[list[Event], float]:
    """A true story of one pool, event after event as a driver writes it, and the hours its workers were held."""
    events, held = [started(0)], 0.0
    for task in range(chance.randint(1, 6)):
        at = begun = chance.uniform(0, 5)
        who = member(f"9-{task}-0", node=f"n{task}")
        events.append(joined(at, who))
        for batch in range(chance.randint(0, 4)):
            events.append(issued(at, who, f"g{task}/{batch}"))
            compiling, sampling, idle = (chance.uniform(0, 1) for _ in range(3))
            at += compiling + sampling + idle
            tell = chance.choice([settled, yielded])
            events.append(tell(at, who, f"g{task}/{batch}", compile=compiling, sample=sampling))
        if chance.random() < 0.5:
            events.append(issued(at, who, f"g{task}/x"))
            lost, kept = chance.uniform(0, 1), chance.uniform(0, 1)
            at += lost + kept
            events.append(left(at, who, expected=chance.random() < 0.5, lost=lost))
        else:
            events.append(left(at, who))
        held += at - begun
    return [events[0], *sorted(events[1:], key=lambda event: event["at"])], held


@pytest.mark.parametrize("seed", range(20))
def test_true_stories(workspace: Workspace, seed: int) -> None:
    events, held = story(random.Random(seed))
    write(workspace, *events, ended(1000))
    found = usage_facts(workspace)["total"]["gpu_hours"]
    compiling = sum(event.get("timings", {}).get("compile", 0.0) for event in events) / HOUR
    lost = sum(event.get("lost", 0.0) for event in events) / HOUR
    assert found["held"] == pytest.approx(held, abs=1e-5)
    assert found["compiling"] == pytest.approx(compiling, abs=1e-5)
    assert found["lost"] == pytest.approx(lost, abs=1e-5)
