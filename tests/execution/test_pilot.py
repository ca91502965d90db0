"""The pilot and the receipts of past runs: what they foretell is held against what a run really took."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import staffa
from signals import interruptible
from staffa.campaign.cost import program_of
from staffa.errors import ClusterError, ConfigError, PluginError
from staffa.execution.pilot import FOLDER, _sweep, pilot
from staffa.execution.prepare import unfolded
from staffa.storage.lease import Lease
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

MODEL = """
import os, time
from pathlib import Path

import jax, jax.numpy as jnp, numpy as np
import staffa

def late(seconds, like):
    def sleep(x):
        time.sleep(seconds)
        return np.zeros(x.shape[:-1], np.float32)
    return jax.pure_callback(sleep, jax.ShapeDtypeStruct((), jnp.float32), like, vmap_method="broadcast_all")

class Slow(staffa.Experiment):
    "Each step takes `pause` seconds, whatever else the machine has to do."
    def __init__(self, pause: float = 0.05):
        self.pause = pause
    def initialize(self, key, params):
        return jnp.zeros(500)
    def step(self, key, x, params):
        x = x + params["scale"] * jax.random.normal(key, (500,)) + late(self.pause, x)
        return x, {"x": jnp.round(x)}

class Plain(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return np.random.default_rng(key)
    def step(self, key, rng, params):
        time.sleep(0.02)
        return rng, {"y": np.cumsum(rng.normal(size=2000))}

class Failing(Slow):
    def step(self, key, x, params):
        def fail(x):
            raise ValueError("no such protein")
        bad = jax.pure_callback(fail, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="broadcast_all")
        return x + bad, {"x": x}

class Deadly(Slow):
    def step(self, key, x, params):
        def die(x):
            os.kill(os.getpid(), 9)
        bad = jax.pure_callback(die, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="broadcast_all")
        return x + bad, {"x": x}

class Hanging(staffa.Experiment):
    vectorize = "off"
    def initialize(self, key, params):
        return 0.0
    def step(self, key, state, params):
        if Path("planned").exists():  # the trial that shows the shapes is over
            time.sleep(600)
        return state, {"y": 1.0}
"""

ROOT = "runs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


def declared(folder: Path, *uses: str, **sections: Any) -> Path:
    space: list[Any] = [{"grid": {"experiment.use": [f"model.py:{use}" for use in uses]}}] if uses[1:] else []
    space.append({"linspace": {"scale": [0.5, 5.0, 200]}})
    known = {
        "campaign": {"name": "walk"},
        "experiment": {"use": f"model.py:{uses[0]}"},
        "space": space,
        "sampling": {"draws": 8} if "Plain" not in uses else {},
        "execution": {"workers": 2, "batch": 50, "retries": {"limit": 0}},
        "cluster": {"dashboard": False},
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(known | sections, sort_keys=False))
    return folder / "campaign.yaml"


def nothing_stays(folder: Path, *names: str) -> None:
    here = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert here == {"campaign.yaml", "model.py", *names}


def taken(root: Path) -> dict[str, float]:
    """What a run's receipts say it took, and its bytes on disk."""
    batches = [event for event in history(Workspace(root)) if event["event"] == "batch_settled"]
    device = sum(e["timings"].get("sample", 0.0) + e["timings"].get("initialize", 0.0) for e in batches)
    hot, archive = (sum(path.stat().st_size for path in (root / name).rglob("c.*" if name == "hot" else "*.parquet"))
                    for name in ("hot", "archive"))  # fmt: skip
    return {"device": device, "hot": hot, "archive": archive, "receipts": sum(e["bytes"] for e in batches)}


def test_the_pilot_foretells_the_run_and_the_run_the_next_one(folder: Path) -> None:
    """Device seconds are held against the receipts by a factor of 2, wide enough for a machine that does other things:
    nearly all of them are spent asleep."""
    file = declared(
        folder, "Slow", sampling={"draws": 8, "discard": 2}, execution={"batch": 50, "segments": 2, "workers": 1}
    )
    told: list[str] = []
    plan = staffa.plan(file, pilot=True, tell=told.append)
    nothing_stays(folder)
    assert told == ["measuring 1 of 1 programs"]
    (cost,), found = plan.costs, plan.estimate
    assert (cost.source, cost.device, cost.pool, cost.width) == ("pilot", "cpu", "", 50)
    assert cost.memory is not None and cost.memory > 50 * 4 * 500 and cost.limit is not None
    assert found["memory"][0]["source"] == found["hours"]["source"] == found["bytes"]["hot"]["source"] == "pilot"
    assert cost.begin >= 2 * 0.05 and cost.segment >= 4 * 0.05
    run = staffa.run(file, allow_dirty=True, progress=False)
    took = taken(run.root)
    assert took["device"] / 2 < found["hours"]["device"] * 3600 < took["device"] * 2
    assert 0.75 < found["bytes"]["hot"]["bytes"] / took["hot"] < 1.25
    assert 0.5 < found["bytes"]["archive"]["bytes"] / took["archive"] < 2
    assert found["bytes"]["hot"]["bytes"] < 0.9 * plan.bytes, "it compresses, and that was seen"
    assert found["files"]["inodes"] >= sum(1 for _ in run.root.rglob("*")) - 20

    again = staffa.plan(file).estimate
    source = f"run {os.path.relpath(run.root)}"
    assert again["source"] == again["hours"]["source"] == again["bytes"]["archive"]["source"] == source
    assert again["hours"]["device"] * 3600 == pytest.approx(took["device"], rel=1e-3)
    assert again["bytes"]["hot"]["bytes"] == pytest.approx(took["receipts"], rel=1e-3)
    assert 0.9 < again["bytes"]["archive"]["bytes"] / took["archive"] < 1.1

    # Another version of the same program, with twice the draws, beside it: in proportion.
    double = staffa.plan(file, set=["campaign.version=v2.0", "sampling.draws=16"]).estimate
    assert double["source"] == source and double["note"] == ""
    assert double["bytes"]["hot"]["bytes"] == pytest.approx(2 * again["bytes"]["hot"]["bytes"], rel=1e-3)
    assert 1.5 < double["hours"]["device"] / again["hours"]["device"] < 2.1
    (folder / "model.py").write_text(MODEL + "\n# another word\n")
    assert staffa.plan(file).estimate["note"] == "the model's code was another"
    other = declared(folder, "Slow", experiment={"use": "model.py:Slow", "pause": 0.0}, campaign={"name": "other"})
    assert staffa.plan(other).estimate["source"] == "shapes", "another option is another program"
    near = staffa.plan(other, past=run.root).estimate
    assert near["guessed"] == 1 and near["hours"]["source"] == f"estimate from run {run.root}"
    with pytest.raises(ConfigError, match=r"--past .*: it ran model.py:Slow, this campaign is of model.py:Hanging"):
        staffa.plan(declared(folder, "Hanging"), past=run.root)


def test_plain_python_beside_a_program(folder: Path) -> None:
    file = declared(folder, "Plain", "Slow", execution={"batch": 40, "workers": 1})
    plan = staffa.plan(file, pilot=True)
    by_sampler = {cost.sampler: cost for cost in plan.costs}
    plain = by_sampler["model.py:Plain"]
    assert plain.width == 1 and plain.memory is None and plain.segment >= 0.02 and plain.stored > 10_000
    run = staffa.run(file, allow_dirty=True, progress=False)
    took = taken(run.root)
    assert took["device"] / 2 < plan.estimate["hours"]["device"] * 3600 < took["device"] * 2
    assert 0.75 < plan.estimate["bytes"]["hot"]["bytes"] / took["hot"] < 1.25
    assert {cost.program for cost in staffa.plan(file).costs} == {cost.program for cost in plan.costs}
    assert plain.program == program_of(plan.plan, plan.plan.groups[0])


def test_only_trials_with_their_input_are_tried(folder: Path) -> None:
    model = MODEL + (
        "\nclass Reading(Hanging):\n    def step(self, key, state, params):\n"
        "        return state, {'y': float(Path(f\"box-{params['box']}\").read_text())}\n"
    )
    (folder / "model.py").write_text(model)
    for number in (0, 7, 8, 9):  # the first serves the trial that shows the shapes
        (folder / f"box-{number}").write_text("1.5")
    space = [{"grid": {"box": list(range(20))}}]
    file = declared(folder, "Reading", space=space, sampling={}, inputs={"paths": [f"{folder}/box-{{box}}"]})
    found = staffa.plan(file, pilot=True)
    assert found.missing == 16 and found.costs[0].stored > 0


def test_where_the_batch_in_the_middle_waits_another_is_tried(folder: Path) -> None:
    """Of ten batches of two only the last but one has inputs, beside the first trial, which shows the shapes."""
    model = MODEL + (
        "\nclass Reading(Hanging):\n    def step(self, key, state, params):\n"
        "        return state, {'y': float(Path(f\"box-{params['box']}\").read_text())}\n"
    )
    (folder / "model.py").write_text(model)
    for number in (0, 16, 17):
        (folder / f"box-{number}").write_text("1.5")
    file = declared(
        folder, "Reading", space=[{"grid": {"box": list(range(20))}}], sampling={},
        inputs={"paths": [f"{folder}/box-{{box}}"]}, execution={"workers": 2, "batch": 2, "retries": {"limit": 0}},
    )  # fmt: skip
    found = staffa.plan(file, pilot=True)
    assert found.missing == 17 and found.costs[0].stored > 0


@pytest.mark.parametrize("use, error, words", [
    ("Failing", PluginError, "campaign.yaml:3: experiment: the pilot's trials of model.py:Failing .* no such protein"),
    ("Deadly", ClusterError, "took their worker down"),
])  # fmt: skip
def test_a_pilot_that_fails_leaves_nothing(folder: Path, use: str, error: type[Exception], words: str) -> None:
    file = declared(folder, use)
    with pytest.raises(error, match=words):
        staffa.plan(file, pilot=True)
    nothing_stays(folder)


def test_a_pilot_obeys_the_timeout(folder: Path) -> None:
    file = declared(folder, "Hanging", execution={"timeout": "1s", "batch": 4}, sampling={})
    found = unfolded(staffa.load(file).declaration)
    (folder / "planned").touch()
    with pytest.raises(ClusterError, match=r"execution\.timeout"):
        pilot(found)
    nothing_stays(folder, "planned")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_pilot_that_is_interrupted_leaves_nothing(folder: Path, how: signal.Signals) -> None:
    file = declared(folder, "Slow", experiment={"use": "model.py:Slow", "pause": 5.0})
    command = [sys.executable, "-m", "staffa", "plan", str(file), "--pilot"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=interruptible
    )
    marks = folder / ROOT
    until = time.monotonic() + 240
    while not any(marks.glob(f"{FOLDER}*/state/started/*.json")):
        assert process.poll() is None and time.monotonic() < until, "the pilot never began"
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130 and "Traceback" not in said, said
    nothing_stays(folder)
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive


def test_what_a_killed_pilot_left_is_swept_by_the_next(folder: Path) -> None:
    dead, living, fresh = (Workspace.create(folder / ROOT / f"{FOLDER}{name}") for name in ("dead", "living", "fresh"))
    code = f"from pathlib import Path; from staffa.storage.lease import Lease; Lease.acquire(Path({str(dead.lease)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    with Lease.acquire(living.lease):
        _sweep(folder / ROOT)
        assert {path.name for path in (folder / ROOT).iterdir()} == {living.root.name, fresh.root.name}
    old = time.time() - 3600
    os.utime(fresh.root, (old, old))
    _sweep(folder / ROOT)
    assert not fresh.root.exists()


def test_a_past_that_says_nothing(folder: Path) -> None:
    file = declared(folder, "Slow", execution={"batch": 50})
    run = staffa.run(file, allow_dirty=True, progress=False, set=["sampling.draws=1", "cluster.workers=1"])
    shutil.rmtree(run.root / "ledger")
    with pytest.raises(ConfigError, match="not one whole batch was settled there"):
        staffa.plan(file, past=run.root)
    assert staffa.plan(file).estimate["source"] == "shapes"
    (run.root / "ledger").mkdir()
    rubbish = {"event": "batch_settled", "at": 1.0, "batch": "?", "timings": {}, "outcomes": {"ok": 1}}
    (run.root / "ledger" / "events-x.jsonl").write_text("no json\n" + json.dumps(rubbish) + "\n")
    (run.root / "ledger" / "summary.json").write_text("{}")
    assert staffa.plan(file).estimate["source"] == "shapes", "what stands there is no reason not to plan"
    with pytest.raises(ConfigError, match="--pilot --past"):
        staffa.plan(file, pilot=True, past=run.root)
