"""Campaigns that grow while they run, and `kill -9` of whoever lets them grow, step by step."""

import hashlib
import json
import shutil
import threading

import pyarrow.parquet as pq
import pytest

import staffa
from staffa.api import holding
from staffa.storage.workspace import Workspace
from survival.accidents import assert_checksums, assert_manifest, failed, status, table


def files(*folders):
    """What must never be touched again: shards, marks, plans, rosters, sealed parts."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name not in ("manifest.json", "failed.parquet"):
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def planned(root):
    """Names of all trials, generation by generation."""
    return [name for path in Workspace(root).rosters for name in pq.read_table(path)["trial"].to_pylist()]


def assert_all_done(root, trials, *, without=0, computed=True):
    """Nothing is lost, nothing stands twice, whatever generation it is of.

    Arguments:
    - `without`: trials that have no data; `computed`: whether every batch has at least one that does.
    """
    names, archived = planned(root), table(root, "trials")["trial"].to_pylist()
    assert len(names) == len(set(names)) == trials
    lacking = [row["trial"] for row in failed(root)]
    assert len(lacking) == without and sorted(archived + lacking) == sorted(names)
    draws = table(root, "draws")
    keys = draws.select(["trial", "chain", "draw"])
    assert keys.group_by(keys.column_names).aggregate([]).num_rows == draws.num_rows == 8 * len(archived)
    if computed:
        assert_checksums(root)
    assert_manifest(root)


BEFORE = {
    "inside the first store": r"/growing/.*/g2\.zarr\.\d+\.partial/scale/zarr\.json$",
    "before its plan is written": r"/growing/.*/plan\.json$",
    "before the stores": r"/hot/1$",
    "before the old declaration is kept": r"/metadata/campaign-0\.yaml$",
    "before the trials": r"/metadata/trials-1\.parquet$",
    "before its declaration": r"/metadata/campaign-1\.yaml$",
    "before the plan": r"/metadata/plan-1\.json$",
}
"""Moments at which a campaign that grows is still the old one."""


CORE = ("inside the first store", "before the stores", "before the trials", "before the plan")
REST = tuple(moment for moment in BEFORE if moment not in CORE)


@pytest.mark.parametrize("moments", [CORE, pytest.param(REST, marks=pytest.mark.soak)], ids=["core", "rest"])
def test_killed_between_any_two_steps_of_expand(lab, undisturbed, moments):
    root = shutil.copytree(undisturbed("Walk"), lab.root)
    names = planned(root)
    old = files(root / "hot" / "0", root / "archive")
    words = ("--replicates", "3", "--set", "space[1].linspace.scale=[0.1, 1.0, 16]")
    for number, moment in enumerate(moments):
        lab.trap(f"expand-{number}", "driver", BEFORE[moment])
        lab.start("expand", root, *words)
        lab.caught(f"expand-{number}")
        lab.drivers[-1].end()
        assert planned(root) == names, moment
        assert staffa.status(root)["figures"]["outcomes"] == {"ok": 64}, moment
    # From here on it is the new campaign.
    lab.trap("new", "driver", r"/v1\.0_walk/campaign\.yaml$")
    lab.start("expand", root, *words)
    lab.caught("new")
    lab.drivers[-1].end()
    assert len(planned(root)) == 96 and "replicates: 2" in (root / "campaign.yaml").read_text()
    assert staffa.status(root)["figures"]["settled"] == 64
    driver = lab.start("expand", root, *words)
    assert driver.wait() == 0 and "96 trials of the space stand in the campaign already" in driver.said, driver.said
    assert "replicates: 3" in (root / "campaign.yaml").read_text(), "the next command mends it"
    # Once more, cut short when it has become the new one and nothing was noted.
    lab.trap("noted", "driver", r"/state/growing/[^/]+$", event="open", skip=3)
    lab.start("expand", root, "--replicates", "4")
    lab.caught("noted")
    lab.drivers[-1].end()
    assert len(planned(root)) == 128 and "replicates: 4" in (root / "campaign.yaml").read_text()
    lab.complete()
    assert_all_done(root, 128)
    assert {path: text for path, text in files(root / "hot" / "0", root / "archive").items() if path in old} == old
    grown = lab.journal("grown")
    assert [event["generation"] for event in grown] == [1, 2] and [event["added"] for event in grown] == [32, 32]
    for line in (root / "campaign.yaml").read_text().splitlines():
        assert not line.strip().startswith("replicates") or "replicates: 4  # set" in line


def test_a_campaign_that_grew_is_the_one_that_was_whole_from_the_start(lab, undisturbed):
    reference = undisturbed("Walk")
    lab.campaign("Walk", replicates=1, space=[{"linspace": {"scale": [0.1, 1.0, 16]}}, {"grid": {"population": [2]}}])
    first = lab.start("run", lab.workflow / "campaign.yaml")
    assert first.wait() == 0, first.said
    campaign = lab.campaign("Walk")
    facts = staffa.expand(lab.root, campaign, set=[f"storage.root={lab.runs}"])
    assert (facts["added"], facts["present"], facts["outside"], facts["done"]) == (48, 16, 0, True)
    lab.complete()
    assert_all_done(lab.root, 64)
    for name in ("draws", "trials"):
        here, there = table(lab.root, name), table(reference, name)
        kept = [column for column in there.column_names if column not in ("seconds", "attempts", "node")]
        assert here.select(kept).equals(there.select(kept)), name
    again = staffa.run(campaign, set=[f"storage.root={lab.runs}"], client=lab.client, progress=False)
    assert again.resumed and again.ended.exit_code == 0


def live(lab, model="Gated", **changes):
    """A driver at work, held at its first step; its folder."""
    lab.hold("step-1")
    lab.start("run", lab.campaign(model, **changes))
    lab.reached("step-1")
    return lab.root


def test_a_driver_takes_up_what_is_added_dropped_and_asked_back_while_it_runs(lab):
    root = live(lab)
    first = staffa.shrink(root, where="scale > 0.69")  # not yet issued, for the greater part
    assert first["done"] and first["dropped"] and first["dropped"] + first["issued"] == 24
    facts = staffa.expand(root, set=["space[1].linspace.scale=[0.1, 1.0, 31]"])
    assert facts["done"] and (facts["added"], facts["readmitted"]) == (60, 0)
    assert staffa.expand(root, replicates=3, dry_run=True)["added"] == 62
    back = staffa.expand(root, readmit=True)
    assert back["done"] and back["readmitted"] == first["dropped"] and back["added"] == 0
    second = staffa.shrink(root, where="replicate = 1 and scale > 0.99")
    assert second["done"] and second["dropped"] + second["issued"] == 2
    lab.release("step-1")
    assert lab.drivers[-1].wait() == 0, lab.drivers[-1].said
    assert len(lab.journal("run_started")) == 1, "one driver did it all"
    assert_all_done(root, 124, without=second["dropped"])
    assert {row["state"] for row in failed(root)} <= {"cancelled"}
    results = staffa.attach(root).results
    assert len(results.params.scale) == 124 and len(results.trials) == 124 - second["dropped"]
    assert set(results.groups) == {"g0", "g1", "g2", "g3"}
    found = {name: len(results.to_xarray(name)["trial"]) for name in results.groups}
    assert found == {"g0": 32, "g1": 32, "g2": 30, "g3": 30}
    assert results.query("select count(distinct trial) as n from draws")["n"].tolist() == [124 - second["dropped"]]


def test_a_driver_killed_while_it_takes_up_a_generation(lab, monkeypatch):
    monkeypatch.setattr(holding, "ANSWER_SECONDS", 5.0)
    lab.hold("step-1")
    lab.trap("publish", "driver", r"/metadata/plan-1\.json$")
    lab.start("run", lab.campaign("Gated"))
    lab.reached("step-1")
    told = []
    asking = threading.Thread(target=lambda: told.append(staffa.expand(lab.root, replicates=3)))
    asking.start()
    lab.caught("publish")
    lab.drivers[-1].end()
    asking.join(120)
    # Whoever asked has found that there is no driver any more, and did it alone.
    assert told and told[0]["done"] and told[0]["added"] == 32
    lab.release("step-1")
    lab.complete()
    assert_all_done(lab.root, 96)
    assert [event["added"] for event in lab.journal("grown")] == [32]


def test_inputs_that_come_while_it_runs(lab):
    folder = lab.workflow / "in"
    folder.mkdir()
    for scale in range(1, 17):
        (folder / f"{scale}.dat").touch()
    (folder / "16.dat").unlink()
    (folder / "2.dat").unlink()
    space = [
        {"grid": {"population": [1, 2]}},
        {"zip": {"scale": [n / 16 for n in range(1, 17)], "run": [*range(1, 17)]}},
    ]
    root = live(lab, space=space, inputs=["in/{run}.dat"])
    assert staffa.status(root)["figures"]["outcomes"] == {"missing_input": 8}
    lab.release("step-1")
    assert lab.drivers[-1].wait() == 1, lab.drivers[-1].said
    assert_all_done(root, 64, without=8)
    rows = failed(root)
    assert {row["run"] for row in rows} == {2, 16} and {row["state"] for row in rows} == {"missing_input"}
    assert rows[0]["message"] == f"not there: {folder / '2.dat'}" and {row["attempts"] for row in rows} == {0}
    told = staffa.explain(root, rows[0]["trial"])
    assert told["state"] == "missing_input" and str(folder / "2.dat") in told["why"]
    (folder / "2.dat").touch()
    facts = staffa.reconcile(root)
    assert (facts["admitted"], facts["missing_input"]) == (4, 4)
    (folder / "16.dat").touch()
    lab.complete()  # looks again by itself
    assert_all_done(root, 64)
    assert all(set(codes.tolist()) <= {1, 255} for codes in status(root).values())
    events = [event["event"] for event in lab.journal("missing_input", "input_found")]
    assert events.count("missing_input") and events.count("input_found")
    assert json.loads((root / "metadata" / "plan-0.json").read_text())["inputs"]["paths"] == [f"{folder}/{{run}}.dat"]


def test_shrunk_before_anything_ran_the_campaign_ends_well(lab):
    lab.hold("initialize")
    lab.start("run", lab.campaign("Gated"))
    lab.reached("initialize")
    facts = staffa.shrink(lab.root, where="population = 2")
    assert (facts["dropped"], facts["issued"], facts["done"]) == (32, 0, True)
    lab.release("initialize")
    assert lab.drivers[-1].wait() == 0, lab.drivers[-1].said
    assert_all_done(lab.root, 64, without=32, computed=False)
    assert staffa.status(lab.root)["figures"]["settled"] == 64
    issued = {event["batch"] for event in lab.journal("batch_issued")}
    assert issued and all(batch.startswith("g0/") for batch in issued), "batches wholly dropped are not issued"
    assert staffa.expand(lab.root, readmit=True)["readmitted"] == 32
    lab.complete()
    assert_all_done(lab.root, 64)


def test_refusals_leave_a_live_driver_alone(lab):
    root = live(lab)
    with pytest.raises(staffa.ConfigError, match="there is no parameter 'skale'") as caught:
        staffa.shrink(root, where="skale > 1")
    assert "scale" in caught.value.hint
    with pytest.raises(staffa.WorkspaceError, match=r"sampling\.draws: 8 there, 16 here"):
        staffa.expand(root, set=["sampling.draws=16"])
    with pytest.raises(staffa.ConfigError, match="a smaller space and a condition"):
        staffa.shrink(root, where="scale > 1", replicates=1)
    assert staffa.expand(root)["done"] and staffa.expand(root)["added"] == 0
    lab.release("step-1")
    assert lab.drivers[-1].wait() == 0
    assert_all_done(root, 64)
