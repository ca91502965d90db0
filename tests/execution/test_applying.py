"""Reducers that apply what they found: their tables held against one pass in pandas, whatever happens to a campaign."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from distributed import Client

import staffa
from execution.settling import PLAIN, fingerprint
from staffa.errors import ConfigError, PluginError, StaffaError

OWN = """
import time
from pathlib import Path
import numpy as np

ROOT = Path(__file__).parents[1]

class Centred:
    "How far a trial's mean of x lies from that of all."
    of = ["x"]
    def map(self, outputs, params):
        return {"n": np.array(outputs["x"].size), "sum": outputs["x"].sum()}
    def reduce(self, one, two):
        return {name: one[name] + two[name] for name in one}
    def finish(self, whole):
        return {"mean": whole["sum"] / whole["n"]}
    def apply(self, whole, outputs, params):
        mean = outputs["x"].reshape(len(params["a"]), -1).mean(axis=1)
        return {"apart": mean - whole["mean"], "point": np.stack([params["a"], params["replicate"]], axis=1)}

class Lifted(Centred):
    "The same of a ragged output's items; of the second whole the second file waits while `held` stands there."
    of, applies = ["x", "star"], "star"
    def apply(self, whole, outputs, params):
        while (ROOT / "held").exists() and len(list(ROOT.glob("archive/lifted/part-*.parquet"))) > 3:
            time.sleep(0.05)
        return {"height": outputs["star"] - whole["mean"], "high": outputs["star"] > whole["mean"]}

class Bad(Centred):
    def __init__(self, returns):
        self.returns = returns
    def apply(self, whole, outputs, params):
        return {"shape": {"y": np.zeros(99)}, "object": {"y": np.array([object()] * len(outputs["x"]))},
                "list": [1], "key": {"trial": outputs["x"][:, 0]},
                "complex": {"y": np.zeros(len(outputs["x"]), complex)}}[self.returns]

class Nowhere(Centred):
    applies = "stars"

class Mute(Centred):
    def finish(self, whole):
        raise ValueError("nothing to say")
"""
WANTED = {"centred": {"use": "own.py:Centred", "by": "a"}, "lifted": {"use": "own.py:Lifted"}}
KEYS = ["trial", "chain", "draw", "item"]


def declared(folder: Path, reduce: Any = WANTED, **sections: Any) -> Path:
    """Two chains of two draws of three points, in two parts of two partitions."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(PLAIN)
    (folder / "own.py").write_text(OWN)
    content = {
        "campaign": {"name": "stars"},
        "experiment": {"use": "model.py:Plain"},
        "space": [{"grid": {"a": [1.0, 4.0, 2.0]}}],
        "replicates": 2,
        "sampling": {"draws": 2},
        "execution": {"batch": 1, "workers": 1},
        "storage": {"root": str(folder / "runs")},
        "cluster": {"dashboard": False},
        "archive": {"partition_by": ["a"]},
        "reduce": reduce,
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content | sections, sort_keys=False))
    return folder / "campaign.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, workers: Client) -> staffa.Run:
    return staffa.run(declared(tmp_path_factory.mktemp("applying") / "stars"), progress=False, client=workers)


@pytest.fixture
def root(run: staffa.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.root, tmp_path / run.root.name))


def compare(results: Any) -> None:
    """Both tables against one pass over all rows."""
    draws = results.draws.to_pandas(["trial", "a", "replicate", "x"])
    draws["mean"] = draws["x"].map(np.mean)
    means = draws.groupby("trial")["mean"].mean()
    a = draws.groupby("trial")["a"].first()
    found = results.centred.to_pandas().set_index("trial")
    assert found.index.tolist() == results.trials.to_pandas(["trial"])["trial"].tolist()
    apart = means - means.groupby(a).transform("mean")
    np.testing.assert_allclose(found["apart"], apart[found.index], rtol=1e-9, atol=1e-12)
    assert np.stack(found["point"].to_list())[:, 0].tolist() == a[found.index].tolist()
    items, lifted = results.star.to_pandas([*KEYS, "star"]), results["lifted"].to_pandas()
    assert lifted[KEYS].equals(items[KEYS])
    height = items["star"] - draws["mean"].mean()
    np.testing.assert_allclose(lifted["height"], height, rtol=1e-9, atol=1e-12)
    assert lifted["high"].tolist() == (height > 0).tolist()


def files(root: Path) -> set[str]:
    return {path.name for name in WANTED for path in (root / "archive" / name).iterdir()}


def test_as_one_pass_in_pandas(run: staffa.Run) -> None:
    results = run.results
    compare(results)
    assert results.tables[-2:] == ("centred", "lifted") and {"centred", "lifted"} <= set(dir(results))
    assert results["centred.point"].to_numpy().shape == (6, 2) and results["lifted.high"].type == "bool"
    found = run.query("select t.a, count(*) as n, avg(apart) as m from centred join trials t using (trial) group by 1")
    assert found["n"].tolist() == [2, 2, 2] and found["m"].abs().max() < 1e-12
    some = results.where("a = 4")
    assert len(some.centred) == 2 and set(some.lifted.to_pandas()["trial"]) == set(some.centred.to_pandas()["trial"])
    held = results.load(lifted="data", centred="skeleton")
    assert held.lifted.to_arrow().equals(results.lifted.to_arrow()) and len(held.centred) == 6
    assert held.query("select count(*) as n from lifted")["n"].item() == len(results.star)
    with pytest.raises(AttributeError, match="no 'centered'"):
        results.centered  # noqa: B018
    with pytest.raises(ConfigError, match="did you mean 'centred'"):
        results.table("centered")


def test_files_that_are_listed_verified_and_copied(root: Path, tmp_path: Path, workers: Client) -> None:
    facts = staffa.archive_list(root)
    assert facts["tables"]["lifted"] == facts["tables"]["star"] and facts["tables"]["centred"] == 6
    before = files(root)
    assert len(before) == 6
    copy = tmp_path / "copy"
    staffa.archive_copy(root, copy)
    # It grows: the old tables stay as they are until there are new ones.
    staffa.expand(root, replicates=3)
    assert len(staffa.attach(root).results.centred) == 6
    staffa.resume(root, progress=False, client=workers)
    compare(staffa.attach(root).results)
    assert len(staffa.attach(root).results.centred) == 9 and not before & files(root)
    assert staffa.archive_verify(root)["sound"]
    told: list[str] = []
    staffa.archive_copy(root, copy, tell=lambda entry: told.append(entry.table))
    assert staffa.archive_verify(copy)["sound"] and fingerprint(copy / "lifted") == fingerprint(root / "archive/lifted")
    assert (told.count("centred"), told.count("draws")) == (6, 3), "what was copied once is not copied again"
    path = next((root / "archive" / "lifted").iterdir())
    data = path.read_bytes()
    path.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    assert [flaw["file"] for flaw in staffa.archive_verify(root)["flaws"]] == [f"lifted/{path.name}"]
    # One that is taken away is made again.
    path.unlink()
    staffa.consolidate(root, client=workers)
    compare(staffa.attach(root).results)
    assert staffa.archive_verify(root)["sound"]


def test_pruned_late_and_given_up(root: Path, workers: Client) -> None:
    late = ['reduce.late={"use": "own.py:Centred", "by": "a"}']
    staffa.consolidate(root, prune=True, client=workers)
    staffa.consolidate(root, set=late, client=workers)
    found = staffa.attach(root).results
    assert found.late.to_arrow().equals(found.centred.to_arrow())
    (root / "archive" / "reduced" / "late.json").unlink()
    staffa.consolidate(root, client=workers)
    assert staffa.attach(root).results.tables[-2:] == ("centred", "lifted") and not list(root.glob("archive/late/*"))
    assert staffa.archive_verify(root)["sound"]


def test_merged_it_is_made_anew(run: staffa.Run, root: Path, tmp_path: Path, workers: Client) -> None:
    staffa.expand(root, replicates=3)
    staffa.resume(root, progress=False, client=workers)
    whole = tmp_path / "whole"
    staffa.merge(run.root, root, into=whole)
    assert "centred" not in staffa.attach(whole).results.tables and staffa.archive_verify(whole)["sound"]
    staffa.consolidate(whole, client=workers)
    compare(staffa.attach(whole).results)


def test_killed_while_applying_there_is_the_old_or_the_new(root: Path, workers: Client) -> None:
    staffa.expand(root, replicates=3)
    staffa.resume(root, set=["archive.every=off"], progress=False, client=workers)
    (root / "held").touch()
    before, tables = files(root), staffa.attach(root).results.lifted.to_arrow()
    process = subprocess.Popen([sys.executable, "-m", "staffa", "consolidate", str(root)], stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 120
        while len(list(root.glob("archive/lifted/part-*.parquet"))) <= 3:
            assert process.poll() is None and time.monotonic() < ends
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (root / "held").unlink()
    assert before < files(root), "some of the new stand beside the old"
    assert staffa.attach(root).results.lifted.to_arrow().equals(tables) and staffa.archive_verify(root)["sound"]
    staffa.consolidate(root, client=workers)
    compare(staffa.attach(root).results)
    assert not before & files(root) and staffa.archive_verify(root)["sound"]


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        ({"star": WANTED["centred"]}, r"reduce.star: the table that it makes would be called as a table is"),
        ({"z": WANTED["centred"]}, r"reduce.z: .* as an output is"),
        ({"trials": WANTED["centred"]}, r"reduce.trials: .* as a table is"),
        ({"it": {"use": "own.py:Nowhere"}}, r"applies to 'stars'.*\n.*did you mean 'star'"),
        ({"it": {"use": "own.py:Centred", "by": "aa"}}, r"reduce.it.by: no parameter is called 'aa'\n.*'a'"),
    ],
)
def test_what_makes_no_sense_is_refused_at_plan(tmp_path: Path, reduce: Any, words: str) -> None:
    with pytest.raises(StaffaError, match=words):
        staffa.plan(declared(tmp_path / "stars", reduce))


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ("shape", r"reduce.bad: apply: 'y' has the shape \(99,\)"),
        ("object", "reduce.bad: 'y' is no array of numbers or text"),
        ("list", "reduce.bad: list is no mapping"),
        ("key", "'trial' is a column of every table"),
        ("complex", "'y' holds complex128"),
        ("none", "apply raised KeyError: 'none'"),
    ],
)
def test_bad_returns_are_refused_and_nothing_is_touched(root: Path, workers: Client, returns: str, words: str) -> None:
    before = fingerprint(root / "archive")
    bad = f'reduce.bad={{"use": "own.py:Bad", "returns": "{returns}"}}'
    with pytest.raises(PluginError, match=words):
        staffa.consolidate(root, set=[bad], client=workers)
    after = fingerprint(root / "archive")
    assert before.items() <= after.items() and all("bad" in name for name in after.keys() - before.keys())
    assert staffa.archive_verify(root)["sound"]


def test_who_has_nothing_to_say_keeps_nobody_from_their_tables(tmp_path: Path, workers: Client) -> None:
    file = declared(tmp_path / "stars", {"mute": {"use": "own.py:Mute"}, **WANTED})
    with pytest.raises(PluginError, match=r"reduce.mute: finish raised ValueError: nothing to say"):
        staffa.run(file, progress=False, client=workers)
    compare(staffa.attach(next((tmp_path / "stars" / "runs").iterdir())).results)
