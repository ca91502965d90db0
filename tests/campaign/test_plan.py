"""The plan: groups, batches, parts, and all that is refused before anything is written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign import sizes
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Group, Plan, Rows, bytes_per_trial, group_parameters
from staffa.campaign.space import Space
from staffa.campaign.unfolding import unfold
from staffa.errors import ConfigError
from staffa.experiment.protocol import Output, Schema
from staffa.trial import digest

X = Output("x", "float32", (3,), ("dimension",))


def config_of(*space: Any, **sections: Any) -> CampaignConfig:
    given = {"campaign": {"name": "t"}, "experiment": {"use": "model.py:Walk"}, "space": list(space)}
    return CampaignConfig.model_validate(given | sections)


class Describer:
    """What the experiment room would say, and how often it was asked."""

    def __init__(
        self, *outputs: Output, static: Sequence[str] = (), mode: str = "vmap", pilot: float | None = None,
        coords: Mapping[str, Any] | None = None, by_use: Mapping[str, tuple[Output, ...]] | None = None,
    ) -> None:  # fmt: skip
        self.outputs, self.static, self.mode = outputs or (X,), tuple(static), mode
        self.pilot, self.coords, self.by_use = pilot, dict(coords or {}), dict(by_use or {})
        self.asked: list[Group] = []

    def __call__(self, group: Group, first: Mapping[str, Any]) -> Schema:
        self.asked.append(group)
        return Schema(self.by_use.get(group.sampler, self.outputs), self.coords, 16, self.pilot)

    def vectorize(self, block: Mapping[str, Any], names: Collection[str]) -> tuple[str, tuple[str, ...]]:
        return self.mode, self.static


def planned(config: CampaignConfig, describer: Describer | None = None) -> tuple[Plan, Rows]:
    describer = describer or Describer()
    return unfold(config, "code", describer, describer.vectorize)


def refused(config: CampaignConfig, describer: Describer | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        planned(config, describer)
    return str(caught.value)


# ---- trials and groups


def test_every_trial_stands_in_one_group_with_its_own_values() -> None:
    config = config_of(
        {"grid": {"size": [1, 2], "scale": [0.5, 1.5, 2.5]}}, {"grid": {"kind": ["a", "b"]}}, replicates=2
    )
    describer = Describer(static=("size",))
    plan, rows = planned(config, describer)
    assert plan.trials == 24 and len(plan.groups) == 4 and sum(g.trials for g in plan.groups) == 24
    seen = []
    for number, group in enumerate(plan.groups):
        assert group.traced == {"scale": "float"} and set(group.static) == {"size", "kind"}
        columns = group_parameters(plan, rows, number)
        for row, position in enumerate(rows.members(number)):
            values = {name: column[row] for name, column in columns.items()}
            replicate = int(values.pop("replicate"))
            assert {name: values[name] for name in group.static} == group.static
            given = {"size": int(values["size"]), "scale": float(values["scale"]), "kind": str(values["kind"])}
            assert rows.digests[position].tobytes().hex() == digest("model.py:Walk", {}, given, replicate)
            seen.append((*given.values(), replicate))
    points = list(Space(config.space, config.seeds.pack().channel("space")).expand().rows())
    assert sorted(seen) == sorted((*(p[n] for n in ("size", "scale", "kind")), r) for p in points for r in (0, 1))
    assert len(describer.asked) == 4 and plan.programs == 4


def test_groups_of_one_program_are_described_once() -> None:
    config = config_of({"grid": {"scale": [0.1, 0.2, 0.3], "size": [1, 2]}}, archive={"partition_by": ["scale"]})
    describer = Describer(static=("size",))
    plan, _ = planned(config, describer)
    assert len(plan.groups) == 6 and len(describer.asked) == 2 and plan.programs == 2
    assert Counter(group.partition["scale"] for group in plan.groups) == {0.1: 2, 0.2: 2, 0.3: 2}
    assert all(group.outputs == (X,) and group.state_bytes == 16 for group in plan.groups)


def test_a_parameter_that_does_not_apply_makes_a_group_of_its_own() -> None:
    config = config_of(
        {"grid": {"kernel": ["rbf", "flat"]}}, {"grid": {"width": [0.5, 1.0]}, "when": {"kernel": "rbf"}},
        archive={"partition_by": ["width"]},
    )  # fmt: skip
    plan, rows = planned(config)
    found = {(g.static["kernel"], g.partition["width"]): g for g in plan.groups}
    assert set(found) == {("rbf", 0.5), ("rbf", 1.0), ("flat", None)}
    assert found["flat", None].traced == {} and found["rbf", 0.5].traced == {"width": "float"}
    flat = plan.groups.index(found["flat", None])
    assert set(group_parameters(plan, rows, flat)) == {"kernel", "replicate"}
    assert plan.parameters == (("kernel", "str"), ("width", "float"))


def test_a_program_is_not_asked_for_parameters_that_some_of_its_trials_lack() -> None:
    plan, rows = planned(config_of({"grid": {"n": [1, 2]}}, {"grid": {"width": [0.5, 1.0]}, "when": {"n": 1}}))
    assert [(group.trials, set(group.traced)) for group in plan.groups] == [(2, {"n", "width"}), (1, {"n"})]
    assert group_parameters(plan, rows, 0)["width"].dtype == "float64"


def test_texts_are_static_but_for_plain_python() -> None:
    config = config_of({"grid": {"kind": ["a", "b"], "size": [1, 2]}})
    assert len(planned(config)[0].groups) == 2
    plan, _ = planned(config, Describer(static=("size",), mode="off"))
    (group,) = plan.groups
    assert group.static == {} and group.traced == {"kind": "str", "size": "int"} and group.vectorize == "off"


def test_static_names_a_parameter_of_the_space() -> None:
    message = refused(config_of({"grid": {"size": [1]}}), Describer(static=("sizes",)))
    assert "'sizes' is not a parameter" in message and "did you mean 'size'?" in message


def test_an_empty_space_is_one_trial_a_replicate() -> None:
    plan, rows = planned(config_of(replicates=3))
    assert plan.trials == 3 and len(plan.groups) == 1 and plan.groups[0].traced == {}
    assert rows.replicate(np.arange(3)).tolist() == [0, 1, 2]


# ---- sweeping the experiment


def test_dotted_paths_sweep_the_experiment_block_and_show_as_sampler() -> None:
    config = config_of(
        {"grid": {"experiment.use": ["smc", "gibbs"], "experiment.target.width": [1, 2]}},
        {"grid": {"scale": [0.5, 1.0]}},
        experiment={"use": "smc", "target": {"use": "model.py:Target", "width": 9}, "steps": 3},
        archive={"partition_by": ["sampler", "experiment.target.width"]},
    )  # fmt: skip
    describer = Describer(by_use={"gibbs": (X, Output("energy", "float32", (), ()))})
    plan, rows = planned(config, describer)
    assert [group.sampler for group in plan.groups] == ["smc", "smc", "gibbs", "gibbs"]
    assert [group.experiment for group in plan.groups] == [
        {"use": use, "target": {"use": "model.py:Target", "width": width}, "steps": 3}
        for use in ("smc", "gibbs") for width in (1, 2)
    ]  # fmt: skip
    assert [group.partition for group in plan.groups] == [
        {"sampler": group.sampler, "experiment.target.width": group.experiment["target"]["width"]}
        for group in plan.groups
    ]
    # A column, but no parameter of the program.
    assert plan.parameters == (("experiment.target.width", "int"), ("scale", "float"))
    assert all(group.traced == {"scale": "float"} for group in plan.groups)
    assert group_parameters(plan, rows, 1)["experiment.target.width"].tolist() == [2, 2]
    assert [output.name for output in plan.outputs()] == ["x", "energy"]
    # The block enters the trial's identity as it is, and the columns made of it not again.
    options = {"target": {"use": "model.py:Target", "width": 2}, "steps": 3}
    first = rows.digests[rows.members(1)[0]].tobytes().hex()
    assert first == digest("smc", options, {"scale": 0.5})


def test_a_dotted_path_through_a_value_is_refused() -> None:
    message = refused(config_of({"grid": {"experiment.steps.size": [1]}}, experiment={"use": "smc", "steps": 3}))
    assert "experiment.steps.size" in message and "'steps' is not a block" in message


# ---- batches


@settings(max_examples=60, deadline=None)
@given(
    points=st.integers(1, 3000), values=st.sampled_from([1, 100, 50_000, 3_000_000]), groups=st.integers(1, 5),
    width=st.one_of(st.just("auto"), st.integers(1, 200)), factor=st.one_of(st.just("auto"), st.integers(1, 40)),
)  # fmt: skip
def test_batches_cover_every_trial_and_are_not_padded_beyond_reason(
    points: int, values: int, groups: int, width: Any, factor: Any
) -> None:
    batch = "auto" if factor == "auto" else factor * (1 if width == "auto" else width)
    config = config_of(
        {"linspace": {"scale": [0, 1, points]}} if points > 1 else {"grid": {"scale": [0.0]}},
        {"grid": {"size": list(range(groups))}}, execution={"width": width, "batch": batch}, sampling={"draws": 1},
    )  # fmt: skip
    plan, _ = planned(config, Describer(Output("x", "float32", (values,), ("a",)), static=("size",)))
    for group in plan.groups:
        assert group.trials == points
        power = 1 << (points - 1).bit_length()
        step = 1 if width == "auto" else width
        assert group.batch % step == 0  # whole slices
        assert group.batch <= math.ceil(power / step) * step
        sizes = [group.size(number) for number in range(group.batches)]
        assert sum(sizes) == points and min(sizes) >= 1 and max(sizes) <= group.batch
        if batch != "auto":
            assert group.batch == min(batch, math.ceil(power / step) * step)


def batch_of(points: int, *, draws: int | None = 100, shape: tuple[int, ...] = (10,), **how: Any) -> int:
    config = config_of({"linspace": {"scale": [0, 1, points]}}, sampling={"draws": draws} if draws else {})
    plan, _ = planned(config, Describer(Output("x", "float32", shape, ("a",) * len(shape)), **how))
    return plan.groups[0].batch


def test_a_batch_chosen_by_itself_fills_its_bytes_or_its_trials() -> None:
    assert batch_of(50_000) == sizes.BATCH_TRIALS  # 4 kB a trial
    for megabytes in (0.1, 0.5, 3):
        values = int(megabytes * 2**20 / 4)
        batch = batch_of(5000, draws=1, shape=(values,))
        assert sizes.BATCH_BYTES / 3 < batch * values * 4 <= sizes.BATCH_BYTES
    assert batch_of(500, draws=1, shape=(16 << 20,)) == 1  # larger than a batch may be: one by one


def test_small_campaigns_get_small_batches_down_to_a_floor() -> None:
    for points in (20_000, 5000, 2000):
        batch = batch_of(points)
        assert points >= sizes.FEWEST_BATCHES * batch or batch < 2 * sizes.SMALLEST_BATCH
    assert sizes.SMALLEST_BATCH <= batch_of(300) < 2 * sizes.SMALLEST_BATCH
    assert batch_of(20) == 32 and batch_of(2) == 2


def test_plain_python_batches_are_bounded_by_number_and_by_time() -> None:
    assert batch_of(50_000, mode="off") == sizes.PLAIN_BATCH
    assert batch_of(50_000, mode="off", pilot=0.001) == sizes.PLAIN_BATCH
    for seconds in (3.0, 20.0):
        batch = batch_of(50_000, mode="off", pilot=seconds)
        assert sizes.PLAIN_SECONDS / 3 < batch * seconds <= sizes.PLAIN_SECONDS
    assert batch_of(50_000, mode="off", pilot=4000.0) == 1


# ---- parts


@settings(max_examples=60, deadline=None)
@given(
    points=st.integers(1, 400), batch=st.integers(1, 40), kib=st.sampled_from([1, 300, 2000]),
    part_mib=st.integers(1, 64), groups=st.integers(1, 3),
)  # fmt: skip
def test_parts_are_whole_batches_and_at_most_so_large(
    points: int, batch: int, kib: int, part_mib: int, groups: int
) -> None:
    config = config_of(
        {"linspace": {"scale": [0, 1, points]}} if points > 1 else {"grid": {"scale": [0.0]}},
        {"grid": {"size": list(range(groups))}}, execution={"batch": batch}, archive={"part_size": f"{part_mib}MiB"},
    )  # fmt: skip
    plan, _ = planned(config, Describer(Output("x", "float32", (kib * 256,), ("a",)), static=("size",)))
    assert [part.name for part in plan.parts] == [f"part-{n:05d}" for n in range(len(plan.parts))]
    for number, group in enumerate(plan.groups):
        own = [part for part in plan.parts if part.group == number]
        assert [n for part in own for n in part.batches()] == list(range(group.batches))
        each = bytes_per_trial(group, None)
        sizes = [sum(group.size(n) for n in part.batches()) * each for part in own]
        for part, size in zip(own, sizes, strict=True):
            assert len(part.batches()) >= 1
            assert size <= part_mib << 20 or len(part.batches()) == 1
        total = group.trials * each
        assert len(own) >= min(8, total // (20 << 20), group.batches)


# ---- partitions


def partition(*space: Any, by: Sequence[str]) -> str:
    return refused(config_of(*space, archive={"partition_by": list(by)}))


def test_partitions_that_make_no_sense_are_refused_with_their_number() -> None:
    sobol = {"sobol": {"temperature": [0.1, 10.0]}, "points": 64}
    message = partition(sobol, by=["temperature"])
    assert "'temperature' is sampled from a continuous range (64 values)" in message
    grid = {"grid": {"a": list(range(101)), "b": list(range(100))}}
    assert "makes 10100 partitions; more than 10000" in partition(grid, by=["a", "b"])
    message = partition(grid, by=["aa"])
    assert "archive.partition_by: 'aa' is not a parameter" in message and "'a'" in message
    assert "sampler" in partition(grid, by=["experiment.use"])


def test_partitions_are_counted_as_they_occur() -> None:
    both = {"zip": {"a": list(range(200)), "b": list(range(200))}}
    plan, _ = planned(config_of(both, archive={"partition_by": ["a", "b"]}))
    assert len(plan.groups) == 200
    most = {"grid": {"a": list(range(100)), "b": list(range(100))}}
    plan, _ = planned(config_of(most, archive={"partition_by": ["a", "b"]}))
    assert len(plan.groups) == 10_000


@pytest.mark.parametrize("text", ["64", "1e3", "true", "null", "2024-01-01", "0x10", ""])
def test_texts_that_look_like_something_else_are_refused_as_partitions(text: str) -> None:
    space = {"grid": {"kind": ["plain", text]}}
    message = partition(space, by=["kind"])
    assert f"kind={text!r}" in message and "archive.partition_by" in message
    planned(config_of(space))  # only as a partition


# ---- duplicates, names


def test_repeated_points_are_refused_or_merged() -> None:
    space = {"list": [{"a": 1, "b": 2.0}, {"a": 1, "b": 2.0}, {"a": 1, "b": 2.0}, {"a": 2, "b": 2.0}]}
    message = refused(config_of(space, replicates=2))
    assert "point 1 repeats point 0" in message and "{'a': 1, 'b': 2.0}" in message
    assert "4 duplicated trials" in message and "duplicates: merge" in message
    plan, rows = planned(config_of(space, replicates=2, duplicates="merge"))
    assert plan.trials == 4 and plan.merged == 4
    positions = rows.members(0)
    assert rows.column("a", positions).tolist() == [1, 1, 2, 2]
    assert rows.replicate(positions).tolist() == [0, 1, 0, 1]
    assert len(np.unique(rows.digests, axis=0)) == 4 == len(rows.digests)


def test_one_and_one_point_zero_are_two_campaigns() -> None:
    digests = [planned(config_of({"grid": {"a": [value]}}))[1].digests.tobytes() for value in (1, 1.0)]
    assert digests[0] != digests[1]


@pytest.mark.parametrize("name", ["x", "x.mean", "x.sd", "x.count", "x.min"])
def test_a_parameter_and_an_output_of_one_name_are_refused(name: str) -> None:
    message = refused(config_of({"grid": {name: [1]}}))
    assert repr(name) in message and "parameter" in message and "output" in message


@pytest.mark.parametrize(
    "name", ["status", "seconds", "sampler", "item", "node", "attempts", "message", "identity", "row", "index"]
)
def test_names_of_our_own_columns_are_refused(name: str) -> None:
    message = refused(config_of({"grid": {name: [1]}}))
    assert repr(name) in message and "rename" in message


def test_an_axis_with_values_is_no_parameter() -> None:
    message = refused(config_of({"grid": {"dimension": [1, 2]}}), Describer(coords={"dimension": (1, 2, 3)}))
    assert "'dimension' is both a parameter and an axis" in message
    planned(config_of({"grid": {"dimension": [1, 2]}}))  # without values it is no array of the store


def test_one_column_has_one_type() -> None:
    config = config_of({"grid": {"experiment.use": ["smc", "gibbs"]}})
    for other, words in [
        (replace(X, dtype="int32"), "int32 with 1 axes in gibbs"),
        (replace(X, shape=(3, 3), dims=("a", "b")), "float32 with 2 axes in gibbs"),
    ]:
        message = refused(config, Describer(by_use={"gibbs": (other,)}))
        assert "output 'x' is float32 with 1 axes in smc" in message and words in message
    plan, _ = planned(config, Describer(by_use={"gibbs": (replace(X, shape=(9,)),)}))  # lengths may differ
    assert [group.outputs[0].shape for group in plan.groups] == [(3,), (9,)]
    assert [output.shape for output in plan.outputs()] == [(0,)]


def test_what_a_mode_cannot_do_is_refused() -> None:
    config = config_of({"grid": {"a": [1]}}, sampling={"draws": 4}, execution={"segments": 2})
    assert "execution.segments: 2" in refused(config, Describer(mode="off"))
    config = config_of({"grid": {"a": [1]}}, execution={"prng": "rbg"})
    assert "vectorize: map" in refused(config) and planned(config, Describer(mode="map"))
    config = config_of({"grid": {"a": [1]}}, sampling={"draws": 2**31, "thin": 2})
    assert "2**32 steps" in refused(config)


# ---- size, and the way to disk


def test_a_hundred_thousand_trials() -> None:
    config = config_of({"sobol": {"a": [0, 1], "b": [0.1, 10, "log"]}, "points": 50_000}, replicates=2)
    plan, rows = planned(config, Describer(static=()))
    assert plan.trials == 100_000 == len(rows.digests) and len(np.unique(rows.digests[:, :8].view(">u8"))) == 100_000
    assert len(plan.groups) == 1 and sum(len(part.batches()) for part in plan.parts) == plan.batches
    assert len(group_parameters(plan, rows, 0)["b"]) == 100_000


def test_a_plan_comes_back_from_its_text() -> None:
    config = config_of(
        {"grid": {"size": [1, 2], "on": [True, False], "kind": ["é", "b"], "scale": [0.1, 1e-300]}},
        experiment={"use": "m.py:M", "list": [1, [2, {"a": None}]], "target": {"use": "x", "deep": 0.1}},
        archive={"partition_by": ["kind", "sampler"]}, execution={"timeout": "90s", "width": 2},
        sampling={"draws": 10, "warmup": 3},
    )  # fmt: skip
    ragged = Output("g.m", "float64", (4, 2), ("item", "axis"), 2, "g", "n")
    plan, _ = planned(config, Describer(X, ragged, static=("size",), coords={"axis": ("a", "b")}))
    again = Plan.loads(plan.dumps())
    assert again == plan and again.dumps() == plan.dumps()
    assert isinstance(again.groups[0].outputs[1].shape, tuple) and again.groups[0].coords == {"axis": ("a", "b")}
    json.loads(plan.dumps())
