"""Following a campaign in MLflow: one MLflow run for each driver, its curves drawn batch by batch.

    pip install mlflow-skinny sqlalchemy alembic
    staffa run workflows/protein/campaign.yaml \\
        --set 'trackers=[{use: mlflow_tracker.py:MlflowTracker, uri: "sqlite:///mlflow.db"}]'

A tracker lives in a process of its own, beside the driver: a slow or dead MLflow server delays and
stops nothing. Copy this file next to your own campaign; nothing in it is about proteins.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from staffa.telemetry.events import BatchSettled, Event, PartSealed, Quarantined

RUN_ID = "staffa.run_id"
LONGEST = 500
"""Characters of a parameter that MLflow is given."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 1000
"""What MLflow takes in one request."""


class MlflowTracker:
    """Follows runs in MLflow.

    Arguments:
    - `uri`: of the tracking server or store; by default what MLflow itself is set to.
    - `experiment`: MLflow's experiment; by default one named after the campaign.
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        self._client = MlflowClient(uri)
        self._experiment = experiment
        self._run = ""
        self._outcomes: Counter[str] = Counter()
        self._quarantined = self._batches = self._parts = 0

    def run_started(self, config: Mapping[str, Any]) -> None:
        """Make a run of MLflow's, or find the one that a process before this had made."""
        told = config["run"]
        name = self._experiment or config["campaign"]["name"]
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        made = self._client.search_runs([experiment], f"tags.`{RUN_ID}` = '{told['run_id']}'", max_results=1)
        if made:
            self._run = made[0].info.run_id
            return
        tags = {RUN_ID: told["run_id"]} | {
            f"staffa.{key}": str(told.get(key, "")) for key in ("run_hash", "config_hash", "code", "campaign", "root")
        }
        run = self._client.create_run(experiment, _milliseconds(told["at"]), tags, told["run_id"])
        self._run = run.info.run_id
        values = [(key, value) for key, value in _leaves(config, "") if not key.startswith("run.")]
        for start in range(0, len(values), PARAMS_AT_ONCE):
            params = [Param(key, str(value)[:LONGEST]) for key, value in values[start : start + PARAMS_AT_ONCE]]
            self._client.log_batch(self._run, params=params)

    def batch(self, events: Sequence[Event]) -> None:
        """One point of every curve for each batch that settled."""
        metrics = [metric for event in events for metric in self._metrics(event)]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[start : start + METRICS_AT_ONCE])

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        """Close the run: `FINISHED` whatever came of single trials, `KILLED` where it is to be resumed."""
        status = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED", "handover": "KILLED"}
        reason = str(summary["reason"])
        tags = [RunTag("staffa.reason", reason), RunTag("staffa.exit_code", str(summary["exit_code"]))]
        self._client.log_batch(self._run, tags=tags)
        for outcome, count in (summary.get("outcomes") or {}).items():
            self._client.log_metric(self._run, f"final.{outcome}", count)
        self._client.set_terminated(self._run, status.get(reason, "FAILED"), _milliseconds(summary["at"]))

    def _metrics(self, event: Event) -> list[Metric]:
        if isinstance(event, Quarantined):
            self._quarantined += 1
            return self._points(event, {"quarantined": self._quarantined})
        if isinstance(event, PartSealed):
            self._parts += 1
            return self._points(event, {"parts": self._parts})
        if not isinstance(event, BatchSettled) or event.duplicate:
            return []
        self._batches += 1
        self._outcomes.update(event.outcomes)
        values: dict[str, float] = {f"trials.{outcome}": count for outcome, count in self._outcomes.items()}
        values |= {f"seconds.{kind}": float(spent) for kind, spent in event.timings.items()}  # type: ignore[arg-type]
        values |= {f"bytes.{kind}": int(size) for kind, size in (event.memory or {}).items()}  # type: ignore[call-overload]
        return self._points(event, values | {"bytes.written": event.bytes})

    def _points(self, event: Event, values: Mapping[str, float]) -> list[Metric]:
        return [Metric(key, value, _milliseconds(event.at), self._batches) for key, value in values.items()]


def _milliseconds(at: float) -> int:
    return int(at * 1000)


def _leaves(value: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, item in value.items():
        pairs += _leaves(item, f"{above}{key}.") if isinstance(item, Mapping) else [(f"{above}{key}", item)]
    return pairs
