"""The MLflow tracker against a real store of MLflow's: what a run leaves there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from distributed import Client

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")

from staffa.execution.trackers import Tracker, made
from staffa.telemetry import parse, record
from staffa.telemetry.events import BatchSettled, PartSealed, Quarantined

WORKFLOW = Path(__file__).parents[2] / "workflows" / "protein"
CONFIG = {
    "campaign": {"name": "walk", "version": "v1.0"},
    "sampling": {"draws": 3, "thin": 1},
    "space": [{"grid": {"p": list(range(1000))}}],
    "run": {"at": 1000.0, "run_id": "walk-1", "root": "/r", "run_hash": "ab", "config_hash": "cd", "code": "ef"},
}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def tracker(uri: str, **options: str) -> Tracker:
    block = {"use": "mlflow_tracker.py:MlflowTracker", "uri": uri, **options}
    return made(block, WORKFLOW, "trackers[0]")


def settled(number: int, **outcomes: int) -> BatchSettled:
    return BatchSettled(
        at=1000.0 + number, batch=f"g0/{number}", attempt=1, worker="w", outcomes=outcomes, failed=(),
        timings={"sample": 0.5 * number, "write": 0.25}, bytes=100, width=1, device="cpu", compiles=0, pid=1,
        duplicate=False, memory={"rss_peak": 7},
    )  # fmt: skip


def test_a_run_of_staffas_is_a_run_of_mlflows(uri: str, client: Any) -> None:
    following = tracker(uri)
    following.run_started(CONFIG)
    # As they come over the line: recorded and parsed.
    events = [settled(1, ok=4), settled(2, ok=3, raised=1), PartSealed(
        at=1003.0, part="part-00000", worker="w", rows=1, trials=1, bytes=1, seconds=0.1,
    ), Quarantined(at=1004.0, trial="ab", batch="g0/2", lane=1, outcome="raised", message="", attempts=3)]  # fmt: skip
    following.batch([parse(record(event)) for event in events])
    # A process that takes the place of one that died goes on with the same run.
    again = tracker(uri)
    again.run_started(CONFIG)
    again.run_ended({"at": 1010.0, "reason": "finished", "exit_code": 1, "outcomes": {"ok": 7, "raised": 1}})

    experiment = client.get_experiment_by_name("walk")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("walk-1", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_010_000)
    tags = run.data.tags
    assert (tags["staffa.run_id"], tags["staffa.run_hash"], tags["staffa.root"]) == ("walk-1", "ab", "/r")
    assert (tags["staffa.reason"], tags["staffa.exit_code"]) == ("finished", "1")
    assert run.data.params["sampling.draws"] == "3" and "run.root" not in run.data.params
    assert len(run.data.params["space"]) == 500
    metrics = run.data.metrics
    assert (metrics["trials.ok"], metrics["trials.raised"], metrics["quarantined"], metrics["parts"]) == (7, 1, 1, 1)
    assert (metrics["final.ok"], metrics["final.raised"], metrics["bytes.rss_peak"]) == (7, 1, 7)
    curve = client.get_metric_history(run.info.run_id, "trials.ok")
    assert [(point.step, point.value, point.timestamp) for point in curve] == [(1, 4, 1_001_000), (2, 7, 1_002_000)]


@pytest.mark.parametrize(("reason", "status"), [("stopped", "KILLED"), ("ClusterError", "FAILED")])
def test_other_ends(uri: str, client: Any, reason: str, status: str) -> None:
    following = tracker(uri, experiment="others")
    following.run_started({**CONFIG, "run": {**CONFIG["run"], "run_id": reason}})
    following.run_ended({"at": 1010.0, "reason": reason, "exit_code": 3})
    experiment = client.get_experiment_by_name("others")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`staffa.run_id` = '{reason}'")
    assert run.info.status == status


def test_a_campaign_is_followed(uri: str, client: Any, tmp_path: Path, workers: Client) -> None:
    import staffa

    (tmp_path / "mlflow_tracker.py").write_bytes((WORKFLOW / "mlflow_tracker.py").read_bytes())
    (tmp_path / "model.py").write_text(
        "import jax.numpy as jnp\nimport staffa\n\n\nclass Line(staffa.Experiment):\n"
        "    def initialize(self, key, params):\n        return params['p']\n\n"
        "    def step(self, key, state, params):\n        return state + 1, {'x': state}\n"
    )
    (tmp_path / "campaign.yaml").write_text(
        "campaign: {name: followed}\nexperiment: {use: 'model.py:Line'}\nspace: [{linspace: {p: [0.0, 1.0, 8]}}]\n"
        "sampling: {draws: 2}\nexecution: {batch: 2, workers: 1}\ncluster: {dashboard: false}\n"
        f"trackers: [{{use: 'mlflow_tracker.py:MlflowTracker', uri: '{uri}'}}]\n"
    )
    run = staffa.run(
        tmp_path / "campaign.yaml", set=[f"storage.root={tmp_path / 'runs'}"], progress=False, client=workers
    )
    assert run.ended is not None and run.ended.reason == "finished"
    (found,) = client.search_runs([client.get_experiment_by_name("followed").experiment_id])
    assert found.info.status == "FINISHED" and found.data.metrics["trials.ok"] == 8
    assert [point.step for point in client.get_metric_history(found.info.run_id, "trials.ok")] == [1, 2, 3, 4]
    assert run.status["events"].get("tracker_failed", 0) == 0


def test_it_names_what_is_missing(tmp_path: Path) -> None:
    """What the ledger says where MLflow is not installed."""
    spec = importlib.util.spec_from_file_location("mlflow_tracker", WORKFLOW / "mlflow_tracker.py")
    assert spec is not None and spec.loader is not None
    hidden: ModuleType | None = sys.modules.get("mlflow")
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        with pytest.raises(ImportError, match="mlflow"):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    finally:
        del sys.modules["mlflow"]
        if hidden is not None:
            sys.modules["mlflow"] = hidden
