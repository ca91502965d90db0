"""Campaigns that grow and shrink on disk, with nobody driving: files, marks, the ledger, refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from staffa.campaign.blocks import trial_names
from staffa.campaign.config import dump, from_mapping, load, load_frozen, plain
from staffa.errors import ConfigError, WorkspaceError
from staffa.execution.exempt import Desk, agree, check_inputs
from staffa.execution.growing import (
    Proposal,
    alone,
    discard,
    propose,
    propose_drop,
    publish,
    reconcile,
    redeclared,
    stage,
)
from staffa.execution.prepare import check_unchanged, create, load_plan, open_stores, unfolded
from staffa.execution.tally import counted
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger, fold, history
from staffa.storage.roster import find_trial, read_rosters, roster_digests
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

MODEL = """
import staffa

class Plain(staffa.Experiment):
    vectorize = "off"

    def __init__(self, power: int = 1):
        self.power = power

    def initialize(self, key, params):
        return 0.0

    def step(self, key, state, params):
        return state, {"y": 1.0}
"""


class Field:
    """A planned campaign, and what is done to it; trials are carried out by writing their marks."""

    def __init__(self, folder: Path, *space: Any, **sections: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(MODEL)
        base = {
            "campaign": {"name": "t"},
            "experiment": {"use": "model.py:Plain"},
            "space": list(space),
            "storage": {"root": str(folder / "runs")},
            "execution": {"batch": 4},
        }
        self.declaration = from_mapping(base | sections, directory=folder)
        self.workspace = Workspace(folder / "runs" / "v1.0_t")
        create(unfolded(self.declaration), self.workspace)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        with Lease.acquire(self.workspace.lease) as lease, Ledger.open(self.workspace, lease) as ledger:
            yield ledger

    def do(self, proposal: Proposal) -> dict[str, Any]:
        with self.ledger() as ledger:
            return alone(self.workspace, ledger, stage(self.workspace, proposal))

    def expand(self, path: Path | None = None, *, back: bool = False, **changes: Any) -> dict[str, Any]:
        proposal = propose(self.workspace, redeclared(self.workspace, path, **changes), back=back)
        done = self.do(proposal) if not proposal.empty else {"done": True}
        assert done["done"], done
        return {**proposal.facts, **done}

    def shrink(self, **changes: Any) -> dict[str, Any]:
        proposal = propose(self.workspace, redeclared(self.workspace, **changes), shrink=True)
        done = self.do(proposal) if not proposal.empty else {"done": True}
        assert done["done"], done
        return {**proposal.facts, **done}

    @property
    def names(self) -> list[str]:
        return [name.tobytes().hex() for name in roster_digests(self.workspace.rosters)]

    def marks(self) -> dict[str, Outcome]:
        """What stands in the stores, by trial."""
        plan = load_plan(self.workspace)
        found = {}
        for number, store in open_stores(self.workspace, plan).items():
            status = store.status()[: plan.groups[number].trials]
            digests = [name.tobytes().hex() for name in store.names]
            found |= {name: Outcome(int(code)) for name, code in zip(digests, status, strict=True)}
        return found

    def carry_out(self, chosen: Any) -> None:
        """Commit some batches as a worker would: what is still to be run of them is done."""
        plan = load_plan(self.workspace)
        for number, store in open_stores(self.workspace, plan).items():
            for batch in range(store.layout.batches):
                status = store.status(batch)
                size = plan.groups[number].size(batch)
                if (status[:size] == Outcome.MISSING).any() and chosen(number, batch):
                    status[:size][status[:size] == Outcome.MISSING] = Outcome.OK
                    status[size:] = Outcome.PADDING
                    store.write("y", batch, 0, np.full(store.layout.batch, 1.0), self.workspace.scratch("test"))
                    sums = np.array([[store.checksum("y", batch, 0)]], np.uint32)
                    store.commit(batch, status, sums, np.zeros(len(status)))

    def files(self) -> dict[str, str]:
        """Everything that must never change again: plans, rosters, stores but for the marks of batches of which
        something is open, or was cancelled and may come back."""
        plan = load_plan(self.workspace)
        found = {}
        for path in sorted(self.workspace.metadata.iterdir()):
            if path.name.startswith(("plan-", "trials-", "campaign-", "provenance")):
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        for number, store in open_stores(self.workspace, plan).items():
            table = store.status().reshape(-1, store.layout.batch)
            done = {f"c.{batch}" for batch in np.flatnonzero(np.isin(table, (Outcome.OK, Outcome.PADDING)).all(axis=1))}
            for path in sorted(store.path.rglob("*")):
                if path.is_file() and (path.parent.name != "status" or path.name in ("zarr.json", *done)):
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            assert store.layout.trials == plan.groups[number].trials
        return found


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return Field(tmp_path, {"grid": {"a": [1, 2, 3]}}, {"grid": {"b": [0.5, 1.5]}})


# ---- growing


def test_the_new_declaration_is_frozen_and_the_old_ones_are_kept(field: Field) -> None:
    first = field.workspace.campaign_yaml.read_text()
    facts = field.expand(space=[{"grid": {"a": [4, 1]}}, {"grid": {"b": [0.5]}}], replicates=2)
    assert (facts["added"], facts["present"], facts["outside"]) == (3, 1, 5)
    assert facts["trials"] == 9 == len(set(field.names)) and field.workspace.generation == 1
    workspace = field.workspace
    assert workspace.declared(0).read_text() == first != workspace.campaign_yaml.read_text()
    assert workspace.declared(1).read_text() == workspace.campaign_yaml.read_text()
    assert workspace.frozen == workspace.declared(1)
    frozen = load_frozen(workspace.frozen, directory=field.folder).campaign
    assert frozen.space == ({"grid": {"a": [4, 1]}}, {"grid": {"b": [0.5]}}) and frozen.replicates == 2
    assert next(event for event in history(workspace) if event["event"] == "grown")["added"] == 3
    assert not list(workspace.growing.iterdir())


def test_every_value_still_tells_where_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_text(
        "campaign: {name: t}\nexperiment: {use: 'model.py:Plain'}\nspace:\n  - grid: {a: [1, 2]}\n"
        f"execution:\n  batch: 4\nstorage:\n  root: {tmp_path / 'runs'}\n"
    )
    (tmp_path / "model.py").write_text(MODEL)
    declaration = load(path, overrides=["execution.window=7"], environ={"STAFFA_EXECUTION__PATIENCE": "5"})
    workspace = Workspace(tmp_path / "runs" / "v1.0_t")
    create(unfolded(declaration), workspace)
    before = workspace.campaign_yaml.read_text()
    proposal = propose(workspace, redeclared(workspace, overrides=["space[0].grid.a=[2, 3]"]))
    with Lease.acquire(workspace.lease) as lease, Ledger.open(workspace, lease) as ledger:
        alone(workspace, ledger, stage(workspace, proposal))
    after = workspace.campaign_yaml.read_text()
    changed = {line for line in after.splitlines() if line not in before.splitlines()}
    assert changed == {"space:  # set", "  - {grid: {a: [2, 3]}}"}
    assert f"batch: 4  # campaign {path}:6" in after and "window: 7  # set" in after
    assert "patience: 5.0  # environment STAFFA_EXECUTION__PATIENCE" in after


def test_indices_digests_and_places_go_on_counting(field: Field) -> None:
    names = field.names
    field.expand(overrides=["space[0].grid.a=[0, 1, 2]", "space[1].grid.b=[2.5, 0.5]"])
    table = read_rosters(field.workspace.rosters)
    assert table["index"].to_pylist() == list(range(10)) and field.names[:6] == names
    plan = load_plan(field.workspace)
    for index, name in enumerate(field.names):
        row = find_trial(field.workspace.rosters, str(index))
        assert row is not None and row["trial"] == name and find_trial(field.workspace.rosters, name) == row
        group = plan.groups[row["group"]]
        store = open_stores(field.workspace, plan, [row["group"]])[row["group"]]
        assert store.digests(row["row"] // group.batch)[row["row"] % group.batch] == name
        assert store.path.parent.name == str(group.generation) == ("0" if index < 6 else "1")


def test_a_changed_campaign_file_is_what_a_campaign_grows_into(field: Field) -> None:
    path = field.folder / "campaign.yaml"
    values = plain(field.declaration) | {"space": [{"grid": {"b": [0.5]}}, {"grid": {"a": [9, 2]}}]}
    path.write_text(json.dumps(values))
    with pytest.raises(WorkspaceError, match="space"):
        check_unchanged(load(path), field.workspace)
    assert field.expand(path)["added"] == 1
    check_unchanged(load(path), field.workspace)
    assert field.expand(path)["added"] == 0 and field.workspace.generation == 1


def test_only_the_space_replicates_and_inputs_may_differ(field: Field) -> None:
    before = field.files()
    with pytest.raises(WorkspaceError) as caught:
        redeclared(field.workspace, overrides=["experiment.power=2", "sampling.draws=7", "replicates=3"])
    text = str(caught.value)
    assert "experiment.power: '(absent)' there, 2 here" in text and "sampling.draws: None there, 7 here" in text
    assert "replicates:" not in text and "raise campaign.version" in text
    path = field.folder / "campaign.yaml"
    path.write_text(json.dumps(plain(field.declaration) | {"replicates": 2}))
    (field.folder / "model.py").write_text(MODEL + "# changed\n")
    with pytest.raises(WorkspaceError, match=r"the model's code in .* is not the one"):
        redeclared(field.workspace, path)
    with pytest.raises(WorkspaceError, match=r"the model's code in .* is not the one"):
        propose(field.workspace, redeclared(field.workspace, replicates=2))
    assert field.files() == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space[2].grid.a=[1]", ["space[2].grid.a", "2 blocks", "space[1]"]),
        ("space[0].grid.c=[1, x]", ["space[0].grid.c", "several types"]),
        ("space[0].grid.a=[1.5]", ["'a' was int so far and would be float"]),
        ("inputs=['{c}.txt']", ["inputs.paths[0]", "'c'"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(field: Field, override: str, words: list[str]) -> None:
    before = field.files()
    with pytest.raises(ConfigError) as caught:
        propose(field.workspace, redeclared(field.workspace, overrides=[override]))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert field.files() == before and not field.workspace.growing.exists()


def test_of_two_who_let_it_grow_at_once_the_second_has_to_look_again(field: Field) -> None:
    one = propose(field.workspace, redeclared(field.workspace, replicates=2))
    two = propose(field.workspace, redeclared(field.workspace, overrides=["space[0].grid.a=[7]"]))
    request = stage(field.workspace, two)
    assert field.do(one)["done"]
    with field.ledger() as ledger:
        reply = alone(field.workspace, ledger, request)
    assert not reply["done"] and reply["stale"] and field.workspace.generation == 1
    discard(field.workspace, request)
    assert not list(field.workspace.growing.iterdir())
    assert field.expand(overrides=["space[0].grid.a=[7]"])["added"] == 4 and len(set(field.names)) == 16


def test_a_generation_cut_short_leaves_the_old_campaign_and_the_next_command_mends(field: Field) -> None:
    """The order of renames, one cut after another; the same with `kill -9` stands in tests/survival."""
    workspace = field.workspace
    names = field.names
    proposal = propose(workspace, redeclared(workspace, replicates=2))
    request = stage(workspace, proposal)
    folder = workspace.growing / request["draft"]
    (folder / "hot").rename(workspace.hot / "1")
    (folder / "trials.parquet").replace(workspace.trials(1))
    assert field.names == names and workspace.generation == 0 and load_plan(workspace).trials == 6
    request = stage(workspace, proposal)
    assert proposal.prepared is not None
    publish(workspace, request["draft"], proposal.prepared.plan)
    # Cut short between the plan and the declaration, and before anything was noted.
    workspace.campaign_yaml.write_bytes(workspace.declared(0).read_bytes())
    check_unchanged(proposal.prepared.declaration, workspace)
    with field.ledger() as ledger:
        reconcile(workspace, ledger)
    assert workspace.campaign_yaml.read_text() == dump(proposal.prepared.declaration)
    assert [event["generation"] for event in history(workspace) if event["event"] == "grown"] == [1]
    assert field.expand(replicates=2)["added"] == 0 and len(set(field.names)) == 12


# ---- shrinking


def test_what_was_issued_stays_and_the_rest_is_dropped(field: Field) -> None:
    field.carry_out(lambda group, batch: batch == 0)  # a = 1, 2
    facts = field.shrink(overrides=["space[0].grid.a=[1]"])
    assert (facts["dropped"], facts["issued"], facts["added"]) == (2, 2, 0)
    marks = list(field.marks().values())
    assert marks == [Outcome.OK] * 4 + [Outcome.CANCELLED] * 2
    events = [event for event in history(field.workspace) if event["event"] == "cancelled"]
    assert [(event["batch"], event["why"]) for event in events] == [("g0/1", "shrunk")]
    figures = counted(load_plan(field.workspace), open_stores(field.workspace, load_plan(field.workspace)))
    assert figures["settled"] == 6 and figures["outcomes"] == {"cancelled": 2, "ok": 4}
    assert field.shrink(overrides=["space[0].grid.a=[1]"])["dropped"] == 0
    with pytest.raises(ConfigError, match="4 trials of this space are not in the campaign"):
        field.shrink(overrides=["space[0].grid.a=[1, 8, 9]"])


def test_what_was_dropped_comes_back_where_it_is_named_anew(field: Field) -> None:
    field.carry_out(lambda group, batch: batch == 0)
    field.shrink(overrides=["space[0].grid.a=[1, 2]"])
    assert field.expand(replicates=2)["readmitted"] == 0
    facts = field.expand(overrides=["space[0].grid.a=[3, 2, 1]"])
    assert (facts["added"], facts["readmitted"]) == (2, 2)
    assert Counter(field.marks().values()) == {Outcome.OK: 4, Outcome.MISSING: 8}
    books = fold(history(field.workspace))
    assert not books.states


def test_trials_are_dropped_by_themselves_and_asked_back_by_a_word(field: Field) -> None:
    facts = field.do(propose_drop(field.workspace, [1, 4, 5]))
    assert facts["dropped"] == 3
    assert [mark is Outcome.CANCELLED for mark in field.marks().values()] == [False, True, False, False, True, True]
    assert field.expand(replicates=2)["readmitted"] == 0, "they are in the space all the time"
    assert field.expand(back=True)["readmitted"] == 3
    assert set(field.marks().values()) == {Outcome.MISSING}


def test_what_somebody_cancelled_is_not_brought_back_by_growing(field: Field) -> None:
    with field.ledger() as ledger:
        ledger.append({"event": "cancelled", "trial": field.names[0], "why": "it is nonsense"})
        store = open_stores(field.workspace, load_plan(field.workspace))[0]
        store.mark(0, {0: Outcome.CANCELLED})
    assert field.expand(back=True, replicates=2)["readmitted"] == 0
    assert field.marks()[field.names[0]] is Outcome.CANCELLED


def test_where_the_marks_and_the_ledger_differ_the_ledger_is_right(field: Field) -> None:
    field.do(propose_drop(field.workspace, [0, 1]))
    with field.ledger() as ledger:
        for name in field.names[:2]:
            ledger.append({"event": "readmitted", "trial": name})
        stores = open_stores(field.workspace, load_plan(field.workspace))
        agree(Desk(field.workspace, load_plan(field.workspace), stores, ledger.books, ledger.append))
    assert set(field.marks().values()) == {Outcome.MISSING}


# ---- inputs


def test_trials_without_their_input_wait_until_it_comes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for a, b in ((1, 1), (1, 2), (2, 1), (3, 1), (3, 2)):
        (tmp_path / "in" / f"{a}-{b}").touch()
    field = Field(tmp_path, {"grid": {"a": [1, 2, 3]}}, {"grid": {"b": [1, 2]}}, inputs=["in/{a}-{b}"])
    assert unfolded(field.declaration).missing == 1
    with field.ledger() as ledger:
        assert reconcile(field.workspace, ledger) == {"done": True, "missing_input": 1, "withheld": 1, "admitted": 0}
        assert reconcile(field.workspace, ledger)["withheld"] == 0
    waiting = field.names[3]
    assert [name for name, mark in field.marks().items() if mark is Outcome.MISSING_INPUT] == [waiting]
    field.carry_out(lambda group, batch: True)
    (tmp_path / "in" / "2-2").touch()
    (tmp_path / "in" / "1-1").unlink()  # it was needed once
    with field.ledger() as ledger:
        assert reconcile(field.workspace, ledger) == {"done": True, "missing_input": 0, "withheld": 0, "admitted": 1}
    assert field.marks() == {name: Outcome.MISSING if name == waiting else Outcome.OK for name in field.names}
    told = [(event["event"], event["trial"]) for event in history(field.workspace) if "input" in event["event"]]
    assert told == [("missing_input", waiting), ("input_found", waiting)]


def test_a_realization_waits_whole_and_new_trials_of_it_do_too(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for a, b in ((1, 1), (1, 2), (2, 1)):
        (tmp_path / "in" / f"{a}-{b}").touch()
    inputs = {"paths": ["in/{a}-{b}"], "together": ["a"]}
    field = Field(tmp_path, {"grid": {"a": [1, 2]}}, {"grid": {"b": [1]}}, inputs=inputs)
    with field.ledger() as ledger:
        assert reconcile(field.workspace, ledger)["missing_input"] == 0
    assert field.expand(overrides=["space[1].grid.b=[2]"])["missing_input"] == 2
    assert [mark.word for mark in field.marks().values()] == ["missing", "missing_input", "missing", "missing_input"]
    (tmp_path / "in" / "2-2").touch()
    assert field.expand(overrides=["space[1].grid.b=[1, 2]"])["missing_input"] == 0


def test_inputs_may_be_declared_later_and_begin_where_the_campaign_did(field: Field) -> None:
    (field.folder / "1.txt").touch()
    facts = field.expand(inputs=["{a}.txt"])
    assert facts["added"] == 0 and facts["missing_input"] == 4
    plan = load_plan(field.workspace)
    assert plan.generation == 1 and plan.inputs.paths == (str(field.folder / "{a}.txt"),)
    field.expand(inputs=[])
    assert set(field.marks().values()) == {Outcome.MISSING}


def test_batches_under_way_are_left_alone(field: Field) -> None:
    plan = load_plan(field.workspace)
    with field.ledger() as ledger:
        stores = open_stores(field.workspace, plan)
        desk = Desk(field.workspace, plan, stores, ledger.books, ledger.append, flying={(0, 0)})
        desk.mark((0, 0), {1: Outcome.CANCELLED})
        desk.mark((0, 1), {1: Outcome.MISSING_INPUT})
        assert set(field.marks().values()) == {Outcome.MISSING, Outcome.MISSING_INPUT}
        desk.flying = set()
        desk.landed((0, 0))
        assert list(field.marks().values())[1] is Outcome.CANCELLED
        assert check_inputs(desk)["missing_input"] == 0


# ---- whatever the order

steps = st.one_of(
    st.tuples(
        st.just("expand"),
        st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True),
        st.lists(st.sampled_from([0.5, 1.5, 2.5]), min_size=1, unique=True),
        st.booleans(),
    ),
    st.tuples(st.just("replicates"), st.integers(1, 3)),
    st.tuples(st.just("shrink"), st.integers(0, 4)),
    st.tuples(st.just("drop"), st.lists(st.integers(0, 40), max_size=6)),
    st.tuples(st.just("run"), st.integers(1, 4)),
)


class World:
    """What a campaign should hold, as a plain set of facts; the field is what it does hold."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.named = self._declared()
        self.dropped: set[str] = set()

    def _declared(self) -> set[str]:
        config = load_frozen(self.field.workspace.frozen, directory=self.field.folder).campaign
        return {name.tobytes().hex() for name in trial_names(config)}

    def expand(self, a: list[int], b: list[float], turned: bool) -> None:
        space = [{"grid": {"a": a}}, {"grid": {"b": b}}][:: -1 if turned else 1]
        before = self._declared()
        self.field.expand(space=space)
        self.dropped -= self._declared() - before
        self.named |= self._declared()

    def replicates(self, count: int) -> None:
        before = self._declared()
        self.field.expand(replicates=count)
        self.dropped -= self._declared() - before
        self.named |= self._declared()

    def shrink(self, keep: int) -> None:
        """Only the first values of the first block are declared any more."""
        space = plain(load_frozen(self.field.workspace.frozen, directory=self.field.folder))["space"]
        ((name, values),) = space[0]["grid"].items()
        space[0] = {"grid": {name: values[: keep + 1]}}
        open_before = {name for name, mark in self.field.marks().items() if mark is Outcome.MISSING}
        self.field.shrink(space=space)
        self.dropped |= open_before - self._declared()

    def drop(self, indices: list[int]) -> None:
        names = self.field.names
        chosen = {names[index] for index in indices if index < len(names)}
        open_before = {name for name, mark in self.field.marks().items() if mark is Outcome.MISSING}
        proposal = propose_drop(self.field.workspace, [index for index in indices if index < len(names)])
        assert proposal.empty == (not chosen)
        if chosen:
            told = self.field.do(proposal)
            assert told["dropped"] == proposal.facts["dropped"] == len(chosen & open_before)
        self.dropped |= chosen & open_before

    def run(self, every: int) -> None:
        self.field.carry_out(lambda group, batch: (group + batch) % every == 0)

    def check(self) -> None:
        names, marks = self.field.names, self.field.marks()
        assert len(set(names)) == len(names) and set(names) == self.named == marks.keys()
        assert {name for name, mark in marks.items() if mark is Outcome.CANCELLED} == self.dropped
        assert {mark for name, mark in marks.items() if name not in self.dropped} <= {Outcome.MISSING, Outcome.OK}


BACK_BESIDE_WHAT_IS_DONE = [("shrink", 0), ("run", 1), ("expand", [1], [0.5], False)]
"""Dropped, and named anew when the rest of its batch has data: its lane of the mark is open again."""


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@example(BACK_BESIDE_WHAT_IS_DONE)
@given(st.lists(steps, min_size=1, max_size=6))
def test_whatever_is_asked_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    field = Field(tmp_path_factory.mktemp("field"), {"grid": {"a": [3, 1]}}, {"grid": {"b": [1.5, 0.5]}})
    world = World(field)
    for word, *arguments in steps:
        names, files = field.names, field.files()
        done = {name for name, mark in field.marks().items() if mark is Outcome.OK}
        getattr(world, word)(*arguments)
        world.check()
        assert field.names[: len(names)] == names
        assert done <= {name for name, mark in field.marks().items() if mark is Outcome.OK}
        after = field.files()
        assert {path: after.get(path) for path in files} == files, "what stood was touched"
