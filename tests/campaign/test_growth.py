"""Plans that grow: what stood stands first and unchanged, and no trial is planned twice."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign.blocks import trial_names
from staffa.campaign.model import CampaignConfig
from staffa.campaign.plan import Earlier, Group, Plan, Rows, group_parameters
from staffa.campaign.unfolding import unfold
from staffa.errors import ConfigError
from staffa.experiment.protocol import Output, Schema
from staffa.trial import digest

X = Output("x", "float32", (3,), ("dimension",))


def config_of(*space: Any, **sections: Any) -> CampaignConfig:
    given = {"campaign": {"name": "t"}, "experiment": {"use": "model.py:Walk"}, "space": list(space)}
    return CampaignConfig.model_validate(given | sections)


class Room:
    """What the experiment room would say, and how often it was asked."""

    def __init__(self, *outputs: Output, static: Sequence[str] = (), coords: Mapping[str, Any] | None = None) -> None:
        self.outputs, self.static, self.coords = outputs or (X,), tuple(static), dict(coords or {})
        self.asked: list[Group] = []

    def describe(self, group: Group, first: Mapping[str, Any]) -> Schema:
        self.asked.append(group)
        return Schema(self.outputs, self.coords, 16, None)

    def vectorize(self, block: Mapping[str, Any], names: Collection[str]) -> tuple[str, tuple[str, ...]]:
        return "vmap", self.static


class Campaign:
    """A campaign that grows in memory: its plan, and the names of its trials in order."""

    def __init__(self, config: CampaignConfig, room: Room | None = None) -> None:
        self.room = room or Room()
        self.plan, rows = self._unfold(config, None)
        self.names = rows.digests

    def _unfold(self, config: CampaignConfig, earlier: Earlier | None) -> tuple[Plan, Rows]:
        return unfold(config, "code", self.room.describe, self.room.vectorize, earlier)

    def grow(self, config: CampaignConfig) -> Rows:
        # Through the file, as it is: what is compared with later plans has been written and read.
        earlier = Plan.loads(self.plan.dumps())
        self.plan, rows = self._unfold(config, Earlier(earlier, self.names))
        self.names = np.concatenate([self.names, rows.digests])
        return rows


def texts(names: npt.NDArray[np.uint8]) -> list[str]:
    return [name.tobytes().hex() for name in names]


def test_new_values_make_a_generation_of_their_own() -> None:
    campaign = Campaign(config_of({"grid": {"scale": [0.5, 1.5]}}, {"grid": {"size": [1, 2]}}), Room(static=("size",)))
    before = campaign.plan
    rows = campaign.grow(config_of({"grid": {"scale": [2.5, 1.5]}}, {"grid": {"size": [3, 2]}}))
    plan = campaign.plan
    assert (plan.generation, plan.trials, len(rows.kept)) == (1, 7, 3)
    assert plan.groups[:2] == before.groups and plan.parts[: len(before.parts)] == before.parts
    assert [group.name for group in plan.groups] == ["g0", "g1", "g2", "g3"]
    assert [group.generation for group in plan.groups] == [0, 0, 1, 1]
    assert [part.name for part in plan.parts] == [f"part-{n:05d}" for n in range(len(plan.parts))]
    assert {part.group for part in plan.parts[len(before.parts) :]} == {2, 3}
    found = [
        (size, float(scale))
        for number in (2, 3)
        for size in [plan.groups[number].static["size"]]
        for scale in group_parameters(plan, rows, number)["scale"]
    ]
    assert found == [(3, 2.5), (3, 1.5), (2, 2.5)]
    # Two of its programs are new to it, one of them it has had before.
    assert [group.static["size"] for group in campaign.room.asked] == [1, 2, 3]


def test_more_replicates_add_only_those() -> None:
    space = {"grid": {"scale": [0.5, 1.5]}}
    campaign = Campaign(config_of(space, replicates=2))
    rows = campaign.grow(config_of(space, replicates=5))
    assert campaign.plan.trials == 10 and len(rows.kept) == 6
    columns = group_parameters(campaign.plan, rows, 1)
    assert list(zip(columns["scale"].tolist(), columns["replicate"].tolist(), strict=True)) == [
        (scale, replicate) for scale in (0.5, 1.5) for replicate in (2, 3, 4)
    ]
    assert rows.declared.shape == (10, 16)


def test_a_new_axis_is_one_more_column_behind_the_others() -> None:
    campaign = Campaign(config_of({"grid": {"scale": [0.5, 1.5]}}))
    rows = campaign.grow(config_of({"grid": {"width": [1, 2]}}, {"grid": {"scale": [0.5]}}))
    assert campaign.plan.parameters == (("scale", "float"), ("width", "int"))
    assert campaign.plan.trials == 4 and campaign.plan.groups[1].traced == {"width": "int", "scale": "float"}
    assert set(group_parameters(campaign.plan, rows, 1)) == {"scale", "width", "replicate"}
    again = campaign.grow(config_of({"grid": {"scale": [0.5, 1.5, 2.5]}}))
    assert set(group_parameters(campaign.plan, again, 2)) == {"scale", "replicate"}


def test_nothing_new_is_a_generation_without_groups() -> None:
    campaign = Campaign(config_of({"grid": {"scale": [0.5, 1.5]}}))
    before = campaign.plan
    rows = campaign.grow(config_of({"grid": {"scale": [1.5]}}))
    assert not len(rows.kept) and rows.declared.shape == (1, 16)
    assert campaign.plan == replace(before, generation=1)


def test_sampled_spaces_keep_their_first_points() -> None:
    for kind in ("sobol", "random"):
        campaign = Campaign(config_of({kind: {"scale": [0.1, 1.0]}, "points": 8}))
        campaign.grow(config_of({kind: {"scale": [0.1, 1.0]}, "points": 16}))
        assert campaign.plan.trials == 16


def test_another_type_is_refused_since_it_would_rename_every_trial() -> None:
    campaign = Campaign(config_of({"grid": {"scale": [1, 2]}}))
    with pytest.raises(ConfigError, match="'scale' was int so far and would be float") as caught:
        campaign.grow(config_of({"grid": {"scale": [1, 2, 2.5]}}))
    assert "write all its values as int" in caught.value.hint


def test_what_one_archive_cannot_hold_is_refused() -> None:
    room = Room(X, coords={"dimension": (1, 2, 3)})
    campaign = Campaign(config_of({"grid": {"scale": [0.5]}}), room)
    with pytest.raises(ConfigError, match="'dimension' is both a parameter and an axis"):
        campaign.grow(config_of({"grid": {"dimension": [1, 2]}}))
    with pytest.raises(ConfigError, match=r"'x\.mean' is both a parameter and an output"):
        campaign.grow(config_of({"grid": {"x.mean": [1.0]}}))
    room.outputs = (replace(X, dtype="float64"),)
    with pytest.raises(ConfigError, match=r"output 'x' is float32 .* but float64"):
        campaign.grow(config_of({"grid": {"other": [1, 2]}}))


def test_plans_of_old_can_still_be_read() -> None:
    plan = Campaign(config_of({"grid": {"scale": [0.5]}})).plan
    fields = json.loads(plan.dumps())
    del fields["inputs"]
    for group in fields["groups"]:
        del group["generation"], group["pilot_seconds"]
    assert Plan.loads(json.dumps(fields)) == plan


scales = st.lists(st.sampled_from([0.5, 1.5, 2.5, 3.5, 4.5]), min_size=1, unique=True)
sizes = st.lists(st.sampled_from([1, 2, 3]), min_size=1, unique=True)
spaces = st.builds(
    lambda scale, size, turned: [{"grid": {"scale": scale}}, {"grid": {"size": size}}][:: -1 if turned else 1],
    scales, sizes, st.booleans(),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(spaces, st.integers(1, 3)), min_size=1, max_size=5), st.booleans())
def test_whatever_the_order_a_campaign_holds_the_union_of_what_was_named(
    steps: list[tuple[list[dict[str, Any]], int]], partitioned: bool
) -> None:
    archive = {"partition_by": ["size"]} if partitioned else {}
    configs = [config_of(*space, replicates=count, archive=archive) for space, count in steps]
    campaign = Campaign(configs[0], Room(static=("size",)))
    named = set(texts(trial_names(configs[0])))
    for config in configs[1:]:
        before, names = campaign.plan, campaign.names.copy()
        rows = campaign.grow(config)
        named |= set(texts(trial_names(config)))
        assert (campaign.names[: len(names)] == names).all()
        assert campaign.plan.groups[: len(before.groups)] == before.groups
        assert campaign.plan.parts[: len(before.parts)] == before.parts
        _holds_its_own(campaign.plan, rows)
    assert sorted(texts(campaign.names)) == sorted(named) and campaign.plan.trials == len(named)
    assert sum(group.trials for group in campaign.plan.groups) == len(named)
    parts = campaign.plan.parts
    assert len({part.name for part in parts}) == len(parts)
    batches = [(part.group, batch) for part in parts for batch in part.batches()]
    groups = enumerate(campaign.plan.groups)
    assert sorted(batches) == [(n, batch) for n, group in groups for batch in range(group.batches)]


def _holds_its_own(plan: Plan, rows: Rows) -> None:
    """Every trial of a generation has, in its group, the values its name was made of."""
    for number, group in enumerate(plan.groups):
        if group.generation != plan.generation:
            continue
        columns = group_parameters(plan, rows, number)
        members = rows.members(number)
        assert len(members) == group.trials
        for row, position in enumerate(members):
            values = {"scale": float(columns["scale"][row]), "size": int(columns["size"][row])}
            assert group.static["size"] == values["size"]
            name = digest("model.py:Walk", {}, values, int(columns["replicate"][row]))
            assert rows.digests[position].tobytes().hex() == name
