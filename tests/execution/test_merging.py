"""Several campaigns as one: all that each of them found, once, and a campaign like any other afterwards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

import staffa
from execution.settling import PLAIN, computed, fingerprint, planned, sealed
from staffa.cli import main
from staffa.errors import ClusterError, ConfigError, WorkspaceError
from staffa.execution import inheriting
from staffa.execution.consolidate import Consolidation
from staffa.execution.matching import match
from staffa.execution.prepare import load_plan, open_stores, plan_digest
from staffa.experiment.protocol import Sampling
from staffa.storage.books import fold
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger, history
from staffa.storage.merged import Maker, Origins, read_origins
from staffa.storage.tables import same_rows
from staffa.storage.trial_logs import append_lines
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome, digest
from staffa.views.results import Results

STATES: dict[str, Callable[[Path], Any]] = {
    "hot": lambda root: root,
    "half": lambda root: sealed(root, lambda part: part % 2 == 0),
    "sealed": sealed,
    "pruned": lambda root: sealed(root, prune=True),
}
LETTERS = {"grid": {"s": ["p", "q"]}}
POWER = {"use": "model.py:Plain"}


def grid(*values: Any) -> list[Any]:
    return [{"grid": {"a": list(values)}}, LETTERS]


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Campaigns of which everything is computed and nothing is sealed. Ten points, of which four are common."""
    folder = tmp_path_factory.mktemp("campaigns")
    return {
        "a": computed(planned(folder / "a", grid(1, 2, 13, 4, 5))),
        "b": computed(planned(folder / "b", grid(4, 5, 6, 7, 8))),
        "seeded": computed(planned(folder / "seeded", grid(1, 2, 6), seeds={"global_seed": 7})),
        "square": computed(planned(folder / "square", grid(1, 2, 13, 4, 5), experiment=POWER | {"power": 2})),
        "thin": computed(planned(folder / "thin", grid(1, 2), sampling={"draws": 3, "thin": 2})),
    }  # fmt: skip


@pytest.fixture
def copies(campaigns: dict[str, Path], tmp_path: Path) -> Callable[..., list[Path]]:
    """Copies of some campaigns, each brought into a state: `copies(a="sealed")`."""

    def copied(**states: str) -> list[Path]:
        found = []
        for name, state in states.items():
            found.append(Path(shutil.copytree(campaigns[name], tmp_path / f"v1.0_{name}")))
            STATES[state](found[-1])
        return found

    return copied


def whole(root: Path, name: str, trials: list[str] | None = None) -> pa.Table:
    """All rows of a table, of some trials."""
    table = Results(Workspace.open(root)).to_arrow(name)
    return table if trials is None else table.filter(pc.is_in(table["trial"], pa.array(trials)))


def names(root: Path) -> list[str]:
    return list(Results(Workspace.open(root)).params["a"].index)


def marks(root: Path) -> dict[str, Outcome]:
    workspace = Workspace.open(root)
    found = {}
    for store in open_stores(workspace, load_plan(workspace)).values():
        status = store.status()[: store.layout.trials]
        found |= {n.tobytes().hex(): Outcome(int(code)) for n, code in zip(store.names, status, strict=True)}
    return found


def check_whole(root: Path) -> None:
    """What holds of every campaign whose data are all sealed."""
    assert staffa.archive_verify(root)["sound"] and staffa.verify(root, every=True)["sound"]
    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    archive = Consolidation(workspace, plan, plan_digest(plan), open_stores(workspace, plan))
    books = fold(history(workspace))
    assert not any(archive.order(part, books) for part in plan.parts if part.name in archive.sealed), "all is sealed"
    assert staffa.status(root)["figures"]["trials"] == plan.trials
    found = Results(workspace)
    for group in found.groups:
        rows = found.to_xarray(group).load()
        for trial, status in zip(rows["trial"].values, rows["status"].values, strict=True):
            if status in (Outcome.OK, Outcome.NAN):
                own = found.trial(str(trial))
                assert rows.sel(trial=trial)["x"].equals(
                    own.draws["x"].load().assign_coords(rows.sel(trial=trial)["x"].coords)
                )
                assert own.summary["trial"] == trial


# --- what comes of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [("hot", "sealed"), ("half", "half"), ("pruned", "hot"), ("sealed", "pruned")]
)
def test_all_rows_of_both_wherever_they_stand(copies: Any, tmp_path: Path, one: str, other: str) -> None:
    a, b = copies(a=one, b=other)
    before = fingerprint(a), fingerprint(b)
    into = tmp_path / "v1.1_both"
    facts = staffa.merge(a, b, into=into)
    assert (facts["trials"], facts["with_data"], facts["to_run"]) == (16, 14, 0)
    assert [source["taken"] for source in facts["sources"]] == [10, 6] and facts["sources"][1]["duplicates"] == 4
    assert names(into)[:10] == names(a) and names(into)[10:] == [n for n in names(b) if n not in names(a)]
    for name in ("draws", "trials", "star"):
        rows = pa.concat_tables([whole(a, name), whole(b, name, names(into)[10:])])
        assert same_rows(whole(into, name), rows), name
    assert (fingerprint(a), fingerprint(b)) == before, "campaigns that are merged are only read"
    check_whole(into)
    # The declaration says it all: the same blocks, with the values of both.
    frozen = Results(Workspace.open(into)).config
    assert facts["declared"] and frozen.space == grid(1, 2, 13, 4, 5, 6, 7, 8)
    assert (frozen.campaign.name, frozen.campaign.version, frozen.storage.root) == ("both", "v1.1", str(tmp_path))


def test_merging_twice_gives_the_same_bytes(copies: Any, tmp_path: Path) -> None:
    a, b = copies(a="half", b="sealed")
    for name in ("one", "two"):
        staffa.merge(a, b, into=tmp_path / name)
    one, two = fingerprint(tmp_path / "one"), fingerprint(tmp_path / "two")
    differing = {path for path in one.keys() | two.keys() if one.get(path) != two.get(path)}
    assert {path.partition("/")[0] for path in differing} <= {"ledger", "metadata", "campaign.yaml"}
    # Rows that are as they were are copied, byte for byte.
    files = [path for path in fingerprint(a) if path.startswith("archive/draws/")]
    assert files and all(one[path] == fingerprint(a)[path] for path in files)


def test_the_same_point_of_another_seed_is_a_further_replicate(copies: Any, tmp_path: Path) -> None:
    a, b = copies(a="sealed", seeded="pruned")
    into = tmp_path / "v1.0_more"
    facts = staffa.merge(a, b, into=into)
    assert facts["sources"][1] | {"name": "", "root": ""} == {
        "name": "", "root": "", "trials": 6, "taken": 6, "renamed": 4, "duplicates": 0, "filled": 0, "left_out": 0,
    }  # fmt: skip
    params = Results(Workspace.open(into)).params.to_pandas()
    again = params[params["replicate"] == 1]
    assert sorted(again["a"]) == [1, 1, 2, 2]
    for trial, row in again.iterrows():
        point = {"a": int(row["a"]), "s": row["s"]}
        assert trial == digest("model.py:Plain", {}, point, 1)
        old = digest("model.py:Plain", {}, point, 0)
        mine, theirs = whole(into, "draws", [str(trial)]), whole(b, "draws", [old])
        assert same_rows(mine.drop_columns(["trial", "replicate"]), theirs.drop_columns(["trial", "replicate"]))
        told = staffa.explain(into, str(trial))["computed"]
        assert (told["trial"], told["root"], told["seed"]) == (old, str(b), load_plan(Workspace.open(b)).seed)
    check_whole(into)
    with pytest.raises(WorkspaceError, match=r"every trial of '.*seeded' stands in") as caught:
        staffa.merge(into, b, into=tmp_path / "again")
    assert "nothing to merge" in caught.value.hint, "it remembers whose trials were renamed"
    with pytest.raises(WorkspaceError, match="were computed in the campaigns it was merged of") as caught:
        staffa.reproduce(into)
    assert f"staffa reproduce {a}" in caught.value.hint


def test_many_at_once_are_as_one_after_the_other(copies: Any, tmp_path: Path) -> None:
    a, b, c = copies(a="sealed", b="hot", seeded="half")
    staffa.merge(a, b, c, into=tmp_path / "together")
    staffa.merge(a, b, into=tmp_path / "first")
    staffa.merge(tmp_path / "first", c, into=tmp_path / "then")
    one, two = tmp_path / "together", tmp_path / "then"
    assert names(one) == names(two) and len(names(one)) == 22
    for name in ("draws", "trials", "star"):
        assert same_rows(whole(one, name), whole(two, name)), name
    check_whole(one)
    check_whole(two)
    told = [read_origins(Workspace.open(root), 22) for root in (one, two)]
    assert told[0] is not None and told[1] is not None
    assert [maker.root for maker in told[0].makers] == [str(a), str(b), str(c)] == [m.root for m in told[1].makers]
    assert (told[0].names == told[1].names).all() and (told[0].of == told[1].of).all()
    record = json.loads((two / "metadata" / "merge.json").read_text())
    assert [source["merged"] is not None for source in record["sources"]] == [True, False]
    assert record["sources"][0]["merged"]["sources"][1]["taken"] == 6


def test_an_option_that_differs_is_explored(copies: Any, tmp_path: Path) -> None:
    a, square = copies(a="sealed", square="half")
    into = tmp_path / "v1.0_powers"
    # The one says the option, the other leaves it to the class: nobody can tell whether they are the same.
    with pytest.raises(WorkspaceError, match=r"experiment\.power: \(absent\) in '.*_a', 2 in '.*_square'"):
        staffa.merge(a, square, into=into)
    third = computed(planned(tmp_path / "cube", grid(1, 2), experiment=POWER | {"power": 3}))
    facts = staffa.merge(square, third, into=into)
    assert facts["explored"] == {"experiment.power": {str(square): 2, str(third): 3}}
    found = Results(Workspace.open(into))
    assert found.params.experiment.power.tolist() == [2] * 10 + [3] * 4
    rows = found.query('select "experiment.power" as p, a, max(z) as z from draws group by all')
    assert (rows["z"] == rows["a"] ** rows["p"]).all() and set(rows["p"]) == {2, 3}
    assert len(found.where('"experiment.power" = 3').trials) == 4
    assert found.trial(12).params.experiment.power == 3
    kept = whole(into, "draws").drop_columns(["experiment.power"])
    assert same_rows(kept, pa.concat_tables([whole(square, "draws"), whole(third, "draws")]))
    check_whole(into)
    # Ten points and four are no product, and few enough to be listed.
    assert facts["declared"] and set(found.config.space[0]["zip"]) == {"a", "s", "experiment.power"}
    for trial in found.params.to_pandas().itertuples():
        point = {"a": int(trial.a), "s": trial.s}
        assert trial.Index == digest("model.py:Plain", {"power": int(trial[3])}, point, 0)


def test_a_declared_parameter_that_differs_is_explored(tmp_path: Path) -> None:
    """As in pypet: what neither explores, and is not the same in both, is what tells their trials apart."""

    def campaign(name: str, width: float, formula: str = "a * width", **sections: Any) -> Path:
        declared = {"width": {"value": width, "unit": "m"}, "area": {"derived": formula}}
        return sealed(computed(planned(tmp_path / name, grid(1, 2), parameters=declared, **sections)))

    one, two, other = campaign("one", 0.5), campaign("two", 1.5), campaign("other", 0.5, "a + width")
    into = tmp_path / "v1.0_widths"
    with pytest.raises(WorkspaceError, match=r"area, derived: a \* width in '.*_one', a \+ width in '.*_other'"):
        staffa.merge(one, other, into=into)
    facts = staffa.merge(one, two, into=into)
    assert facts["explored"] == {"width": {str(one): 0.5, str(two): 1.5}} and facts["declared"]
    found = Results(Workspace.open(into))
    assert found.params.width.tolist() == [0.5] * 4 + [1.5] * 4
    assert found.params.area.tolist() == (found.params["a"] * found.params.width).tolist()
    described = found.params.describe()
    assert described.loc["width", "unit"] == "m" and list(described.index[described["explored"]]) == ["a", "s", "width"]
    check_whole(into)
    # From another seed each point is a further replicate, named as its formula says.
    again = campaign("again", 0.5, seeds={"global_seed": 7})
    both = tmp_path / "v1.0_both"
    assert staffa.merge(one, again, into=both)["sources"][1]["renamed"] == 4
    check_whole(both)
    grown = Results(Workspace.open(computed(planned(tmp_path / "twice", grid(1, 2), replicates=2, parameters={
        "width": 0.5, "area": {"derived": "a * width"},
    }))))  # fmt: skip
    assert set(names(both)) == set(grown.params["a"].index), "the names they would have had as replicates of one"


def test_it_grows_and_is_run_like_any_other(copies: Any, tmp_path: Path) -> None:
    a, b, seeded = copies(a="sealed", b="sealed", seeded="hot")
    into, more = tmp_path / "v1.0_both", tmp_path / "v1.0_more"
    staffa.merge(a, b, into=into)
    told = staffa.expand(into, set=["space[0].grid.a=[1, 2, 13, 4, 5, 6, 7, 8, 9]"])
    assert told["done"] and (told["added"], told["present"], told["outside"]) == (2, 16, 0)
    computed(into)
    sealed(into)
    found = Results(Workspace.open(into))
    assert len(found.trials) == 16 and found.where("a = 9").draws["z"].to_numpy().tolist() == [9.0] * 8
    check_whole(into)
    assert staffa.reproduce(into, trials=2)["agree"], "what it computed itself"
    assert staffa.explain(into, "17")["computed"] is None
    # Merged again, its generations are one.
    facts = staffa.merge(into, seeded, into=more)
    assert (facts["trials"], facts["sources"][1]["renamed"]) == (24, 6) and names(more)[:18] == names(into)
    assert [staffa.explain(more, n)["computed"]["root"] for n in ("9", "15", "17", "23")] == [
        str(a),
        str(b),
        str(into),
        str(seeded),
    ]
    check_whole(more)


def test_trials_that_were_sampled_otherwise(copies: Any, campaigns: dict[str, Path], tmp_path: Path) -> None:
    a, thin = copies(a="sealed", thin="sealed")
    into = tmp_path / "v1.0_thinned"
    facts = staffa.merge(a, thin, into=into)
    assert facts["explored"] == {
        "sampling.draws": {str(a): 2, str(thin): 3}, "sampling.thin": {str(a): 1, str(thin): 2},
    }  # fmt: skip
    found = Results(Workspace.open(into))
    assert found.params["sampling.thin"].tolist() == [1] * 10 + [2] * 4
    assert found.query('select count(*) as n from draws where "sampling.draws" = 3')["n"][0] == 4 * 2 * 3
    assert found.trial(11).draws["x"].shape == (2, 3) and not facts["declared"]
    check_whole(into)
    with pytest.raises(WorkspaceError, match="does not name all of its trials"):
        staffa.expand(into, replicates=3)
    with pytest.raises(ConfigError, match=r"sampling\.draws, sampling\.thin: explored since"):
        staffa.expand(into, space=grid(1, 99))


def test_experiments_that_have_little_in_common(mixed: Any, tmp_path: Path) -> None:
    """Groups, partitions, ragged tables and outputs that some have and others not; parameters only some have."""
    space = [
        {"grid": {"experiment.use": ["model.py:Fragile", "model.py:Walk"]}},
        {"grid": {"kind": ["cold"], "population": [8], "scale": [3.0]}},
        {"grid": {"size": [2]}, "when": {"experiment.use": "model.py:Walk"}},
    ]
    shape = {"sampling": {"draws": 3}, "archive": {"partition_by": ["kind", "population"]}}
    other = computed(planned(tmp_path / "cold", space, (mixed.root / "code" / "model.py").read_text(), **shape))
    before, into = fingerprint(mixed.root), tmp_path / "both"
    facts = staffa.merge(mixed.root, other, into=into)
    assert (facts["trials"], facts["with_data"], facts["explored"]) == (50, 46, {})
    for name in ("draws", "trials"):
        rows = [whole(mixed.root, name), whole(other, name)]
        assert same_rows(whole(into, name), pa.concat_tables(rows, promote_options="default")), name
    assert same_rows(whole(into, "run"), whole(mixed.root, "run"))
    assert same_rows(whole(into, "failed"), whole(mixed.root, "failed"))
    found = Results(Workspace.open(into))
    assert set(found.where("kind = 'cold'").to_pandas()["sampler"]) == {"model.py:Fragile", "model.py:Walk"}
    assert found.trial(49).draws["x"].shape == (3, 2) and found.trial(49).params["size"] == 2
    assert staffa.archive_verify(into)["sound"] and staffa.verify(into, every=True)["sound"]
    assert fingerprint(mixed.root) == before
    # No product of blocks says that, and points that lack a parameter cannot be listed.
    with pytest.raises(
        WorkspaceError, match=r"replicates=2: the space of .*both does not name all of its trials"
    ) as caught:
        staffa.expand(into, replicates=2)
    assert caught.value.hint.endswith(f"staffa expand {into} CAMPAIGN.yaml") and not facts["declared"]


def test_another_experiment_is_explored_too(tmp_path: Path) -> None:
    model = PLAIN + "\n\nclass Other(Plain):\n    pass\n"
    a, b = (
        sealed(computed(planned(tmp_path / name, grid(1, 2), model, experiment={"use": f"model.py:{use}"})))
        for name, use in (("a", "Plain"), ("b", "Other"))
    )
    facts = staffa.merge(a, b, into=tmp_path / "both")
    found = Results(Workspace.open(tmp_path / "both"))
    assert facts["declared"] and found.config.space == [
        *grid(1, 2),
        {"grid": {"experiment.use": ["model.py:Plain", "model.py:Other"]}},
    ]
    assert found.trials.sampler.to_arrow().to_pylist() == ["model.py:Plain"] * 4 + ["model.py:Other"] * 4


# --- trials without data ----------------------------------------------------------------------------


def test_what_one_lacks_and_the_other_has(tmp_path: Path) -> None:
    a = computed(planned(tmp_path / "a", grid(1, 2, 3)), lambda group, batch: batch == 0)
    b = computed(planned(tmp_path / "b", grid(2, 3, 4)), lambda group, batch: batch == 0)
    sealed(a)
    into = tmp_path / "v1.0_both"
    facts = staffa.merge(a, b, into=into)
    assert facts["sources"][1]["filled"] == 2 and facts["to_run"] == 2
    found = marks(into)
    assert [found[name] for name in names(into)] == [Outcome.OK] * 6 + [Outcome.MISSING] * 2
    assert same_rows(whole(into, "draws"), pa.concat_tables([whole(a, "draws"), whole(b, "draws", names(into)[4:6])]))
    assert sorted(path.stem for path in (into / "archive" / "trials").iterdir()) == ["part-00000", "part-00000-s1"]
    check_whole(into)
    computed(into)
    assert set(marks(into).values()) == {Outcome.OK}
    complete = computed(planned(tmp_path / "c", grid(1, 2, 3, 4)))
    for state in (lambda root: root, sealed, lambda root: sealed(root, prune=True)):
        state(into)
        assert same_rows(whole(into, "draws"), whole(complete, "draws"))
    check_whole(into)


TRACED = """
import jax
import staffa

class Plain(staffa.Experiment):
    def initialize(self, key, params):
        return jax.random.normal(key)

    def step(self, key, state, params):
        state = state + params["a"] * jax.random.normal(key)
        return state, {"z": state}
"""


def test_what_was_cut_into_other_segments_and_batches_is_run_on(tmp_path: Path) -> None:
    shape = {"sampling": {"draws": 4}}
    a = computed(planned(tmp_path / "a", [{"grid": {"a": [1, 2, 3]}}], TRACED, execution={"batch": 2}, **shape))
    cut = {"batch": 4, "segments": 2}
    b = planned(tmp_path / "b", [{"grid": {"a": [3, 4, 5, 6, 7, 8]}}], TRACED, execution=cut, **shape)
    sealed(computed(b, lambda group, batch: batch == 1))
    into = tmp_path / "both"
    facts = staffa.merge(a, b, into=into)
    assert (facts["trials"], facts["with_data"], facts["to_run"]) == (8, 5, 3)
    before = whole(into, "draws")
    sealed(computed(into))
    complete = computed(planned(tmp_path / "c", [{"grid": {"a": list(range(1, 9))}}], TRACED, **shape))
    found, wanted = (
        whole(root, "draws").sort_by([("a", "ascending"), ("draw", "ascending")]) for root in (into, complete)
    )
    assert found["trial"].equals(wanted["trial"]) and same_rows(
        whole(into, "draws", names(into)[:3]), before.slice(0, 12)
    )
    np.testing.assert_allclose(found["z"].to_numpy(), wanted["z"].to_numpy(), rtol=1e-5)
    assert staffa.archive_verify(into)["sound"] and staffa.verify(into, every=True)["sound"]


def test_what_is_known_of_trials_without_data_is_kept(tmp_path: Path, workers: Client) -> None:
    execution = {"batch": 4, "workers": 1, "retries": {"limit": 1, "backoff": {"initial": "0s", "jitter": 0}}}
    machine = {"execution": execution, "cluster": {"dashboard": False}}
    a = sealed(computed(planned(tmp_path / "a", grid(1, 2), **machine)))
    b = planned(tmp_path / "b", grid(3, 13, 4, 5, 6), **machine)
    computed(b, lambda group, batch: batch == 0)
    given_up, failed = names(b)[2:4]
    workspace = Workspace.open(b)
    with Lease.acquire(workspace.lease) as lease, Ledger.open(workspace, lease) as ledger:
        known = {"batch": "g0/0", "outcome": "raised", "attempts": 2}
        lanes = [
            {"lane": n, "trial": trial, "outcome": "raised", "message": f"no {n}"}
            for n, trial in ((2, given_up), (3, failed))
        ]
        ledger.append(
            {"event": "batch_settled", "batch": "g0/0", "attempt": 1, "worker": "w", "node": "n", "failed": lanes}
        )
        ledger.append({"event": "quarantined", **known, "trial": given_up, "lane": 2, "message": "no 2"})
    said = {"at": 0.0, "batch": "g0/0", "attempt": 1, "outcome": "", "dropped": 0}
    lines = [(3, failed, "it was thirteen"), (None, None, "all of us")]
    append_lines(
        workspace.trial_log("g0/0"), [{**said, "lane": n, "trial": trial, "text": text} for n, trial, text in lines]
    )
    staffa.cancel(b, names(b)[8:], why="enough")
    into = tmp_path / "v1.0_all"
    facts = staffa.merge(a, b, into=into)
    assert (facts["trials"], facts["with_data"], facts["to_run"]) == (14, 6, 4)
    assert facts["next"] == f"staffa resume {into}"
    told = Results(Workspace.open(into)).to_pandas("failed").set_index("trial")
    assert told.loc[given_up, ["message", "state"]].tolist() == ["no 2", "quarantined"]
    assert told.loc[failed, ["message", "state"]].tolist() == ["no 3", "failed"]
    assert told.loc[names(b)[9], ["message", "state"]].tolist() == ["enough", "cancelled"]
    assert any("raised before the merge: no 3" in event["text"] for event in staffa.explain(into, failed)["history"])
    found = Results(Workspace.open(into))
    assert "it was thirteen" in found.trial(failed).log and "all of us" in found.trial(given_up).log
    assert "thirteen" not in found.trial(given_up).log and not found.trial(0).log
    check_whole(into)
    run = staffa.resume(into, progress=False, client=workers)
    assert run.ended is not None and run.ended.reason == "finished"
    stand = marks(into)
    assert [stand[name] for name in (given_up, failed)] == [Outcome.RAISED] * 2
    assert [stand[name] for name in names(into)[8:12]] == [Outcome.OK] * 4
    books = fold(history(Workspace.open(into)))
    assert {books.state(given_up), books.state(failed)} == {"quarantined"} and books.tries(failed) == 2
    staffa.consolidate(into, client=workers)
    assert len(Results(Workspace.open(into)).trials) == 10
    check_whole(into)


def test_reducers_say_what_all_trials_come_to(tmp_path: Path) -> None:
    reduce = {
        "spread": {"use": "covariance", "of": "x"},
        "items": {"use": "histogram", "of": "star", "low": 0, "high": 9},
    }
    a = sealed(computed(planned(tmp_path / "a", grid(1, 2, 3), reduce=reduce)))
    b = computed(planned(tmp_path / "b", grid(3, 4, 5), reduce=reduce))
    sealed(b, lambda part: part == 0)
    both = sealed(computed(planned(tmp_path / "c", grid(1, 2, 3, 4, 5), reduce=reduce)))
    staffa.merge(a, b, into=tmp_path / "both")
    found, wanted = (Results(Workspace.open(root)).reduced for root in (tmp_path / "both", both))
    assert list(found) == ["items", "spread"] and found.spread["count"] == 10 * 2 * 2
    for name in ("count", "mean", "covariance"):
        np.testing.assert_allclose(found.spread[name], wanted.spread[name], rtol=1e-12)
    assert json.loads((tmp_path / "both" / "archive" / "reduced" / "spread.json").read_text())["without"] == []


# --- what is refused, and what is cut short --------------------------------------------------------------


def option(deep: Any) -> dict[str, Any]:
    return {"use": "model.py:Plain", "deep": deep}


UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "other parameters": (
        {"space": [{"grid": {"a": [1], "b": [2]}}, LETTERS]},
        r"b: \(absent\) in '.*_a', explored \(int\) in '.*_b'",
    ),
    "other types": (
        {"space": [{"grid": {"a": [1.5]}}, LETTERS]},
        r"a: explored \(int\) in '.*_a', explored \(float\) in '.*_b'",
    ),
    "another type of an option": ({"experiment": option({"w": 1.5})}, r"experiment\.deep\.w: 1 in .*, 1\.5 in '.*_b'"),
    "an option that is a list": ({"experiment": option({"w": [1]})}, r"experiment\.deep\.w: 1 in .*, \[1\] in '.*_b'"),
    "an option one has not": ({"experiment": option({})}, r"experiment\.deep\.w: 1 in '.*_a', \(absent\) in '.*_b'"),
    "one shot": ({"sampling": {"draws": None}}, r"sampling\.draws: 2 in '.*_a', None in '.*_b'"),
    "another precision": ({"execution": {"x64": True}}, r"execution\.x64: False in '.*_a', True in '.*_b'"),
    "other folders": ({"archive": {"partition_by": ["s"]}}, r"archive\.partition_by: \[\] in '.*_a', \['s'\] in"),
    "other columns": (
        {"model": PLAIN.replace('"z": z', '"z": int(z)')},
        r"output z: float64 with 0 axes in '.*_a', int64 with 0 axes in '.*_b'",
    ),
    "other code": ({"model": PLAIN + "\n# changed"}, r"not computed by the same code: model\.py differ"),
}


@pytest.mark.parametrize("why", UNLIKE)
def test_unlike_campaigns_are_refused_with_both_sides(tmp_path: Path, why: str) -> None:
    changes, complaint = UNLIKE[why]
    common: dict[str, Any] = {"space": grid(1), "experiment": option({"w": 1})}
    a, b = planned(tmp_path / "a", **common), planned(tmp_path / "b", **common | changes)
    with pytest.raises(WorkspaceError, match=complaint) as caught:
        staffa.merge(a, b, into=tmp_path / "both")
    assert caught.value.hint.startswith(f"staffa diff {a} {b}") and not (tmp_path / "both").exists()


def test_other_code_is_merged_where_that_is_said(tmp_path: Path) -> None:
    a = sealed(computed(planned(tmp_path / "a", grid(1, 2))))
    b = sealed(
        computed(planned(tmp_path / "b", grid(1, 2), PLAIN.replace("state.normal(size=2)", "-state.normal(size=2)")))
    )
    facts = staffa.merge(a, b, into=tmp_path / "both", accept_code_change=True)
    assert facts["sources"][1]["renamed"] == 4, "other code computes other trials"
    x = whole(tmp_path / "both", "draws")["x"].to_numpy().reshape(8, -1)
    assert not np.allclose(x[:4], x[4:])
    check_whole(tmp_path / "both")


def test_places_that_cannot_be(copies: Any, tmp_path: Path) -> None:
    a, b = copies(a="hot", b="hot")
    into = tmp_path / "both"
    for sources, where, complaint in [
        ((a,), into, "one campaign alone"),
        ((a, a), into, "named twice"),
        ((a, tmp_path / "." / "nested" / ".." / a.name), into, "same campaign"),
        ((a, b), b, "is there already"),
        ((a, b), a / "both", "lies in"),
        ((a, tmp_path / "v1.0_c"), into, "is not a campaign's folder"),
    ]:
        with pytest.raises(WorkspaceError, match=complaint):
            staffa.merge(*sources, into=where)
    with (
        Lease.acquire(Workspace(b).lease),
        pytest.raises(WorkspaceError, match="is being driven") as caught,
    ):
        staffa.merge(a, b, into=into)
    assert caught.value.hint == f"staffa stop {b}" and not into.exists()


def test_damage_is_named_with_the_command_that_shows_it(copies: Any, tmp_path: Path) -> None:
    a, b = copies(a="sealed", b="hot")
    file = sorted((a / "archive" / "draws").glob("*.parquet"))[0]
    whole_file = file.read_bytes()
    file.write_bytes(whole_file[:-100])
    for sources in ((a, b), (b, a)):
        with pytest.raises(WorkspaceError, match=rf"draws/{file.name}: it has .* bytes, the manifest says") as caught:
            staffa.merge(*sources, into=tmp_path / "both")
        assert caught.value.hint == f"staffa archive verify {a}"
    data = bytearray(whole_file)
    data[20] ^= 1
    file.write_bytes(bytes(data))
    for sources in ((a, b), (b, a)):
        with pytest.raises(WorkspaceError, match=r"SHA-256 is not|is not what its manifest lists") as caught:
            staffa.merge(*sources, into=tmp_path / "both")
        assert caught.value.hint.startswith(f"staffa archive verify {a}")
    (a,) = copies(seeded="hot")
    shard = next((a / "hot" / "0" / "g0.zarr" / "z").glob("c.*"))
    shard.write_bytes(b"\0" + shard.read_bytes()[1:])
    with pytest.raises(WorkspaceError, match=r"batch g0/\d is damaged \(z\)") as caught:
        staffa.merge(b, a, into=tmp_path / "both")
    assert caught.value.hint == f"staffa verify {a}"
    assert not list(tmp_path.glob("both*"))


KILLED = """
import os, signal, sys
from staffa.storage.archive import Archive
seal, calls = Archive.seal, []
def killed(self, *given):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return seal(self, *given)
Archive.seal = killed
import staffa
staffa.merge(*sys.argv[2:], into=sys.argv[1])
"""


def test_one_that_is_killed_leaves_nothing_behind_that_counts(
    copies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = copies(a="hot", b="sealed")
    into, before = tmp_path / "both", (fingerprint(a), fingerprint(b))
    done = subprocess.run([sys.executable, "-c", KILLED, into, a, b], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    (left,) = tmp_path.glob("both*")
    assert left.name.endswith(".partial") and (fingerprint(a), fingerprint(b)) == before
    os.utime(left, (0, 0))
    with monkeypatch.context() as patched:

        def full(*given: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(inheriting, "write_origins", full)
        with pytest.raises(ClusterError, match="No space left") as caught:
            staffa.merge(a, b, into=into)
        assert "make room, then: the same command again" in caught.value.hint and not list(tmp_path.glob("both*"))
    staffa.merge(a, b, into=into)
    check_whole(into)
    assert [path.name for path in tmp_path.glob("both*")] == ["both"]


def test_the_command(copies: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, seeded = map(str, copies(a="sealed", b="hot", seeded="hot"))
    into = str(tmp_path / "v1.0_all")
    assert main(["merge", a, b, seeded, "--into", into, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "nothing is done yet" in out and not Path(into).exists()
    assert "6 of 10 trials, 4 stand in it already" in out and "6 of 6 trials, 6 as further replicates" in out
    assert main(["merge", a, b, seeded, "--into", into, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["trials"], facts["with_data"], facts["next"]) == (22, 20, f"staffa status {into}")
    assert main(["merge", a, b, "--into", into]) == 2 and "is there already" in capsys.readouterr().err
    assert main(["explain", into, "20"]) == 0 and "computed" in capsys.readouterr().out
    assert main(["status", into]) == 0 and "22 of 22 settled" in capsys.readouterr().out
    assert main(["report", into, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["sections"]["completeness"]["with_data"], told["lacking"]) == (20, [])
    makers = {maker["root"]: maker["trials"] for maker in told["sections"]["provenance"]["merged"]}
    assert makers == {a: 8, b: 6, seeded: 6}


# --- which trials are the same, against comparing every pair ---------------------------------------------


class Stub:
    """What matching has to know of a campaign: points by replicate, from one seed."""

    def __init__(self, trials: dict[tuple[int, int], bool], seed: int) -> None:
        self.points = list(trials)
        self.plan, self.trials = SimpleNamespace(sampling=Sampling()), len(trials)
        self.marks = np.array([Outcome.OK if data else Outcome.MISSING for data in trials.values()], np.uint8)
        self.replicates = np.array([replicate for _, replicate in trials], np.int64)
        self.names = self._named([point for point, _ in trials], self.replicates)
        self.maker = Maker("", "", seed, "", ())
        self.origins = Origins((self.maker,), np.zeros(self.trials, np.int32), self.names)

    def named(self, chosen: Any, replicates: Any) -> Any:
        return self._named([self.points[n][0] for n in chosen], replicates)

    @staticmethod
    def _named(points: Any, replicates: Any) -> Any:
        texts = [hashlib.sha256(f"{p}/{r}".encode()).digest()[:16] for p, r in zip(points, replicates, strict=True)]
        return np.frombuffer(b"".join(texts), np.uint8).reshape(-1, 16)


TRIALS = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 2)), st.booleans(), min_size=1)


@given(st.lists(st.tuples(TRIALS, st.integers(0, 1)), min_size=2, max_size=4))
@settings(max_examples=200, deadline=None)
def test_matching_agrees_with_comparing_every_pair(given_: list[tuple[dict[tuple[int, int], bool], int]]) -> None:
    sources = [Stub(trials, seed) for trials, seed in given_]
    found = match(sources)  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    for number, (trials, seed) in enumerate(given_):
        new: list[dict[str, Any]] = []
        for (point, replicate), data in trials.items():
            key = (point, replicate, seed)
            same = [row for row in rows if row["key"] == key]
            if same:
                if data and not same[0]["data"]:
                    same[0].update(data=True, giver=number)
                continue
            giver = number if data else -1
            new.append({"point": point, "replicate": replicate, "key": key, "data": data, "giver": giver})
        clash = [
            row for row in new if any((o["point"], o["replicate"]) == (row["point"], row["replicate"]) for o in rows)
        ]
        for row in clash:
            others = [other for other in (*rows, *new) if other["point"] == row["point"] and other not in clash]
            row["after"] = max(other["replicate"] for other in others)
        for turn, row in enumerate(clash):
            row["replicate"] = row["after"] + 1 + sum(other["point"] == row["point"] for other in clash[:turn])
        for row in new:
            if not row["data"]:
                row["key"] = (row["point"], row["replicate"], given_[0][1])
        rows += new
    points = [sources[s].points[p][0] for s, p in zip(found.source, found.place, strict=True)]
    assert points == [row["point"] for row in rows]
    assert found.replicates.tolist() == [row["replicate"] for row in rows]
    assert found.giver.tolist() == [row["giver"] for row in rows]
    assert len({name.tobytes() for name in found.names}) == len(rows)
    assert (found.names == Stub._named(points, found.replicates)).all()
