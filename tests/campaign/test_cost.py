"""What a campaign will take, from costs or from shapes alone: laws of the figures, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign import estimate as module
from staffa.campaign.cost import Cost, Seats, lane_bytes, matched, program_of, seats, segment_steps, warm_steps
from staffa.campaign.estimate import estimate, refuse, simulate
from staffa.campaign.machine import allocation_shape
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan, bytes_per_trial
from staffa.errors import ConfigError
from staffa.experiment.protocol import Output, Sampling

SLURM = {"kind": "slurm", "pools": {"gpu": {"work": ["sample"], "workers": 8, "gpus": 4, "walltime": "1h"}}}


def config_of(**sections: Any) -> CampaignConfig:
    return CampaignConfig.model_validate(
        {"campaign": {"name": "t"}, "experiment": {"use": "model.py:Walk"}, "space": []} | sections
    )


def group_of(number: int = 0, trials: int = 100, batch: int = 16, size: int = 4, **fields: Any) -> Group:
    output = Output("x", "float32", (size,), ("dimension",))
    known = {"name": f"g{number}", "sampler": "model.py:Walk", "experiment": {"use": "model.py:Walk"}, "static": {}}
    known |= {"traced": {"scale": "float"}, "partition": {}, "outputs": (output,), "state_bytes": 40}
    return Group(**(known | {"trials": trials, "batch": batch} | fields))


def plan_of(*groups: Group, sampling: Sampling = Sampling(10, 2), **fields: Any) -> Plan:  # noqa: B008  frozen
    known: dict[str, Any] = {"generation": 0, "trials": sum(group.trials for group in groups), "merged": 0, "seed": 0}
    known |= {"code": "c", "sampling": sampling, "x64": False, "prng": "threefry2x32", "width": "auto", "timeout": None}
    known |= {"compression": "zstd", "level": 1, "parameters": (("scale", "float"),), "partition_by": (), "parts": ()}
    return Plan(**(known | fields), groups=groups)


def cost_of(plan: Plan, number: int = 0, **fields: Any) -> Cost:
    """A cost as a pilot of this very plan would tell it."""
    group = plan.groups[number]
    plain = bytes_per_trial(group, plan.sampling.draws)
    known: dict[str, Any] = {"program": program_of(plan, group), "sampler": group.sampler, "pool": "", "device": "cpu"}
    known |= {"source": "pilot", "width": group.batch, "begin": 0.5, "segment": 2.0, "compile": 3.0, "write": 0.001}
    known |= {"stored": plain / 2, "memory": 1 << 20, "limit": 1 << 30, "plain": plain}
    known |= {"steps": segment_steps(plan, group), "warm": warm_steps(plan, group)}
    return Cost(**({"lane": lane_bytes(plan, group)} | known | fields))


plans = st.builds(
    lambda trials, batch, draws, thin, discard, segments: plan_of(
        group_of(trials=trials, batch=batch), sampling=Sampling(draws * segments, thin, discard, 0, segments)
    ),
    st.integers(1, 400), st.integers(1, 64), st.integers(1, 20), st.integers(1, 5), st.integers(0, 5),
    st.integers(1, 4),
)  # fmt: skip
seconds = st.floats(0, 100)


# --- costs -----------------------------------------------------------------------------------------


@given(plans, seconds, seconds)
@settings(deadline=None, max_examples=50)
def test_a_cost_fits_its_own_plan_as_it_is(plan, begin, segment):
    cost = cost_of(plan, begin=begin, segment=segment)
    fitted = cost.fitted(plan, plan.groups[0])
    for name in ("begin", "segment", "write", "stored", "memory"):
        assert getattr(fitted, name) == pytest.approx(getattr(cost, name)), name
    assert fitted.width == cost.width and fitted.lane == cost.lane


@given(plans, st.integers(2, 8), seconds)
@settings(deadline=None, max_examples=50)
def test_a_cost_grows_with_the_draws(plan, factor, segment):
    sampling = replace(plan.sampling, draws=plan.sampling.draws * factor, discard=0)
    cost = cost_of(plan, segment=segment)
    fitted = cost.fitted(replace(plan, sampling=sampling), plan.groups[0])
    assert fitted.segment == pytest.approx(segment * factor)
    assert fitted.stored == pytest.approx(cost.stored * factor)
    assert 0 <= fitted.begin <= cost.begin, "what was thrown away is no longer paid for"


def test_a_trial_of_plain_python_takes_its_warm_up_along():
    plan = plan_of(group_of(vectorize="off"), sampling=Sampling(8, discard=2))
    more = plan_of(group_of(vectorize="off"), sampling=Sampling(8, discard=12))
    fitted = cost_of(plan, width=1, begin=0.0, segment=1.0, memory=None).fitted(more, more.groups[0])
    assert (fitted.width, fitted.begin, fitted.segment) == (1, 0.0, 2.0)
    assert fitted.device_seconds(16, 1) == 32.0, "one after another"


def test_a_narrower_batch_takes_less_of_the_device():
    wide = plan_of(group_of(batch=64))
    narrow = plan_of(group_of(batch=16))
    fitted = cost_of(wide, memory=6400).fitted(narrow, narrow.groups[0])
    assert (fitted.width, fitted.memory, fitted.segment) == (16, 1600, 0.5)
    assert cost_of(wide).fitted(replace(narrow, width=8), narrow.groups[0]).width == 8


def test_programs_that_nobody_measured_get_the_mean_of_their_experiments():
    groups = [group_of(0), group_of(1, static={"n": 1}), group_of(2, static={"n": 2}, sampler="model.py:Other")]
    plan = plan_of(*groups)
    costs = [cost_of(plan, 0, segment=1.0), cost_of(plan, 2, segment=9.0)]
    found = matched(plan, costs, "")
    assert [found.costs[number].segment for number in range(3)] == [1.0, 1.0, 9.0]
    assert (found.guessed, found.foreign) == (1, False)
    assert matched(plan, costs, "gpu").foreign, "what ran elsewhere is a guess"
    assert matched(plan, [], "").costs == {}
    alone = matched(plan_of(groups[0], group_of(1, sampler="model.py:New", static={"n": 3})), costs, "")
    assert alone.costs[1].segment == 5.0 and alone.guessed == 1, "nothing alike: the mean of all"


def test_another_precision_is_another_program():
    plan = plan_of(group_of())
    assert matched(replace(plan, x64=True), [cost_of(plan)], "").guessed == 1


# --- hours -----------------------------------------------------------------------------------------


@given(plans, st.integers(1, 12), seconds, seconds, st.floats(0, 0.1))
@settings(deadline=None, max_examples=80)
def test_laws_of_handing_out(plan, workers, begin, segment, write):
    cost = {0: cost_of(plan, begin=begin, segment=segment, write=write)}
    group, segments = plan.groups[0], plan.sampling.segments

    def course(count: int) -> module.Course:
        return simulate(plan, [Seats("", count, 1, 0)], {"": cost})

    found, alone = course(workers), course(1)
    assert found.device == pytest.approx(alone.device), "work is the same for however many workers"
    assert found.seconds <= alone.seconds + 1e-9 and course(workers + 1).seconds <= found.seconds + 1e-9
    assert found.seconds >= found.device / workers - 1e-6
    assert found.seconds >= cost[0].device_seconds(group.size(0), segments) - 1e-9
    assert found.used[""] == min(workers, group.batches) or (begin + segment + write == 0)


def test_a_faster_pool_gets_more():
    plan = plan_of(group_of(trials=1600))
    pools = [Seats("slow", 1, 1, 0), Seats("fast", 1, 1, 1)]
    costs = {"slow": {0: cost_of(plan, segment=9.5)}, "fast": {0: cost_of(plan, segment=0.5)}}
    found = simulate(plan, pools, costs)
    assert found.device < 0.3 * simulate(plan, pools[:1], costs).device and found.used == {"slow": 1, "fast": 1}


def test_hours_of_a_cluster():
    config, plan = config_of(cluster=SLURM), plan_of(group_of(trials=1600))
    found = estimate(plan, config, [cost_of(plan, pool="gpu", device="A100", segment=3600.0)])
    hours = found["hours"]
    assert hours["workers"] == 8 and 100 < hours["device"] < 100.1 and 12.5 < hours["wall"] < 13.1
    assert hours["gpu"] == pytest.approx(8 * hours["wall"]) and hours["node"] == pytest.approx(2 * hours["wall"])
    assert found["jobs"] == {"gpu": {"jobs": 2, "rounds": math.ceil(hours["wall"]), "source": "pilot"}}
    few = estimate(plan_of(group_of(trials=16)), config, [cost_of(plan, pool="gpu", segment=3600.0)])["hours"]
    assert few["workers"] == 1 and few["gpu"] == pytest.approx(few["wall"]), "nobody holds what it has no work for"


def test_the_workers_of_each_kind_of_machine(monkeypatch):
    throttled = {**SLURM, "pools": {"gpu": {**SLURM["pools"]["gpu"], "throttle": 1}, "cpu": {"workers": 0}}}
    assert [(s.pool, s.workers, s.jobs, s.gpus) for s in seats(config_of(cluster=throttled))] == [("gpu", 4, 1, 4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    local = seats(config_of(cluster={"workers": 3, "memory": "1GiB"}))
    assert [(s.workers, s.gpus, s.memory) for s in local] == [(3, 2, 1 << 30)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert seats(config_of())[0].gpus == 0
    inside = config_of(cluster={"kind": "allocation"})
    assert seats(inside) == [], "from outside nobody can tell"
    shape = allocation_shape(inside.cluster, nodes=2, gpus=4, cores=32, memory=1 << 37)
    assert [(s.workers, s.nodes, s.gpus, s.walltime) for s in seats(inside, shape)] == [(8, 2, 8, None)]
    plan = plan_of(group_of())
    hours = estimate(plan, inside, [cost_of(plan)])["hours"]
    assert hours["wall"] is None and hours["device"] > 0


# --- bytes and memory ------------------------------------------------------------------------------


@given(plans)
@settings(deadline=None, max_examples=30)
def test_bytes_say_where_they_come_from(plan):
    config, plain = config_of(), sum(g.trials * bytes_per_trial(g, plan.sampling.draws) for g in plan.groups)
    found = estimate(plan, config, [])
    assert found["bytes"]["hot"] == {"bytes": plain, "source": "shapes"} and found["hours"] is None
    assert found["memory"][0]["source"] == "shapes"
    found = estimate(plan, config, [cost_of(plan)])
    assert found["bytes"]["hot"] == {"bytes": pytest.approx(plain / 2, abs=1), "source": "pilot"}
    assert found["bytes"]["archive"]["source"] == "estimate from pilot"
    each = plan.groups[0].trials
    told = estimate(plan, config, [cost_of(plan, archived=7.0, source="run r")])
    assert told["bytes"]["archive"] == {"bytes": 7 * each, "source": "run r"} and told["source"] == "run r"


def test_what_was_not_measured_is_called_an_estimate():
    plan = plan_of(group_of(0), group_of(1, static={"n": 1}))
    found = estimate(plan, config_of(), [cost_of(plan)])
    assert found["guessed"] == 1
    for source in (found["bytes"]["hot"]["source"], found["hours"]["source"]):
        assert source == "estimate from pilot"
    other = estimate(plan, config_of(cluster=SLURM), [cost_of(plan, source="run r")])
    assert other["foreign"] == ["gpu"] and other["hours"]["source"] == other["memory"][0]["source"]
    assert other["hours"]["source"] == "estimate from run r"


def test_the_largest_program_of_a_pool():
    plan = plan_of(group_of(0, size=4), group_of(1, size=400, static={"n": 1}), group_of(2, vectorize="off"))
    (row,) = estimate(plan, config_of(cluster={"memory": "1MiB"}), [])["memory"]
    assert row["group"] == "g1" and row["limit"] == 1 << 20
    assert row["per_trial"] == module.COPIES * (10 * 1600 + 40) and row["fits"] == (1 << 20) // row["per_trial"]
    assert row["bytes"] <= row["limit"], "a width is chosen that fits"
    assert estimate(plan_of(group_of(vectorize="off")), config_of(), [])["memory"] == []


# --- budgets ---------------------------------------------------------------------------------------


def warned(plan: Plan, config: CampaignConfig, costs: list[Cost], room: int | None = None) -> dict[str, str]:
    found = module.warnings(plan, config, estimate(plan, config, costs), room=room)
    return {one["field"]: one["text"] for one in found}


@given(st.floats(0.01, 50))
@settings(deadline=None, max_examples=30)
def test_a_budget_is_held_against_the_need(limit):
    plan, config = plan_of(group_of(trials=320)), config_of(execution={"budget": {"hours": limit, "node_hours": 1e9}})
    costs = [cost_of(plan, segment=3600.0)]
    found = estimate(plan, config, costs)["budget"]
    assert found["hours"]["needed"] == found["node_hours"]["needed"] > 5
    said = warned(plan, config, costs)
    assert ("execution.budget.hours" in said) == (found["hours"]["needed"] > limit) and len(said) <= 1


def test_gpu_hours_without_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plan, config = plan_of(group_of()), config_of(execution={"budget": {"gpu_hours": 2}})
    for costs in ([], [cost_of(plan)]):
        assert "can never be reached" in warned(plan, config, costs)["execution.budget.gpu_hours"]
    cluster = config_of(execution={"budget": {"gpu_hours": 2}}, cluster=SLURM)
    assert "not known how many gpu hours" in warned(plan, cluster, [])["execution.budget.gpu_hours"]
    assert warned(plan, cluster, [cost_of(plan, pool="gpu")]) == {}


# --- refusals --------------------------------------------------------------------------------------

BOUNDS: dict[str, Any] = {"room": None, "inodes": None, "files": 100}


def refused(plan: Plan, config: CampaignConfig, costs: list[Cost], **bounds: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        refuse(plan, config, costs, **(BOUNDS | bounds))
    assert caught.value.hint
    return caught.value.message


@given(st.integers(0, 1 << 20))
@settings(deadline=None, max_examples=40)
def test_what_was_measured_has_to_find_room(room):
    plan, config = plan_of(group_of(trials=1000)), config_of()
    costs = [cost_of(plan, archived=100.0)]
    needed = sum(part["bytes"] for part in estimate(plan, config, costs)["bytes"].values())
    if needed > room:
        assert refused(plan, config, costs, room=room).startswith("storage.root: ")
    else:
        refuse(plan, config, costs, **(BOUNDS | {"room": room}))


def test_what_was_not_measured_is_refused_only_where_compression_cannot_help():
    plan, config = plan_of(group_of(trials=1000)), config_of()  # 160 kB hot, 176 kB archived
    refuse(plan, config, [], **(BOUNDS | {"room": 20_000}))
    assert "before compression" in warned(plan, config, [], room=20_000)["storage.root"]
    assert warned(plan, config, [], room=400_000) == {}
    assert "before compression" in refused(plan, config, [], room=16_000)
    plain = config_of(storage={"compression": "none"})
    assert "(shapes)" in refused(plan, plain, [], room=159_999)
    refuse(plan, plain, [], **(BOUNDS | {"room": 160_000}))


def test_inodes():
    plan = plan_of(group_of())
    refuse(plan, config_of(), [], **(BOUNDS | {"inodes": 100}))
    assert "makes 100" in refused(plan, config_of(), [], inodes=99)


def test_one_trial_has_to_fit_one_device():
    plan, config = plan_of(group_of(size=1 << 20)), config_of(cluster={"memory": "16MiB"})  # 40 MiB a lane
    message = refused(plan, config, [])
    assert message.startswith("execution.segments: 1") and "40 MiB" in message and "(shapes)" in message
    refuse(replace(plan, sampling=Sampling(10, 2, segments=5)), config, [], **BOUNDS)
    small = plan_of(group_of())
    assert "(pilot)" in refused(small, config_of(), [cost_of(small, memory=1 << 40, limit=1 << 30)])
    refuse(small, config_of(), [cost_of(small, memory=1 << 30, limit=1 << 30)], **BOUNDS)
    pool = {"work": ["sample"], "workers": 1, "gpus": 0, "memory": "1GiB"}
    cluster = config_of(cluster={"kind": "slurm", "pools": {"cpu": pool}})
    assert "pool 'cpu'" in refused(plan_of(group_of(size=1 << 28)), cluster, [])


def test_a_job_has_to_reach_its_first_checkpoint():
    plan, config = plan_of(group_of()), config_of(cluster=SLURM)
    refuse(plan, config, [cost_of(plan, pool="gpu", segment=3000.0)], **BOUNDS)
    message = refused(plan, config, [cost_of(plan, pool="gpu", segment=3600.0)])
    assert message.startswith("cluster.pools.gpu.walltime: 3600 s, but a batch of 16 trials") and "(pilot)" in message
    split = replace(plan, sampling=Sampling(10, 2, segments=5))
    refuse(split, config, [cost_of(plan, pool="gpu", segment=3600.0)], **BOUNDS)
