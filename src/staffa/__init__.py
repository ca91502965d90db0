"""Staffa: tens of thousands of JAX sampling experiments, and an archive to ask.

campaign = staffa.load("campaign.yaml")
run = staffa.run(campaign)
run.results.trials
"""

from typing import Any

from staffa.errors import ClusterError, ConfigError, PluginError, StaffaError, WorkspaceError
from staffa.experiment.encoding import Encoding
from staffa.experiment.parameters import Parameter
from staffa.experiment.protocol import Experiment

__version__ = "0.1.0"

_LAZY = (
    "Campaign", "Minimum", "Run", "Tracker", "archive_copy", "archive_list", "archive_verify", "attach", "cancel",
    "consolidate", "deregister", "diff", "expand", "explain", "graph", "load", "merge", "minimize", "plan", "plot",
    "reconcile", "register", "report", "reproduce", "resume", "retry", "run", "runtime", "scale", "schedule", "shrink",
    "status", "stop", "usage", "validate", "verify", "watch",
)  # fmt: skip

__all__ = [
    "Campaign",
    "ClusterError",
    "ConfigError",
    "Encoding",
    "Experiment",
    "Minimum",
    "Parameter",
    "PluginError",
    "Run",
    "StaffaError",
    "Tracker",
    "WorkspaceError",
    "archive_copy",
    "archive_list",
    "archive_verify",
    "attach",
    "cancel",
    "consolidate",
    "deregister",
    "diff",
    "expand",
    "explain",
    "graph",
    "load",
    "merge",
    "minimize",
    "plan",
    "plot",
    "reconcile",
    "register",
    "report",
    "reproduce",
    "resume",
    "retry",
    "run",
    "runtime",
    "scale",
    "schedule",
    "shrink",
    "status",
    "stop",
    "usage",
    "validate",
    "verify",
    "watch",
]


def __getattr__(name: str) -> Any:
    # Importing the package, as every worker and every `--help` does, must not pull in Dask or Arrow.
    if name in _LAZY:
        from staffa import api

        return getattr(api, name)
    raise AttributeError(f"module 'staffa' has no attribute {name!r}")
