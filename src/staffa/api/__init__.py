"""What a user can do, one function each; the only place that chooses parts for another.

The command line and notebooks call these and nothing else.
"""

from staffa.ambient import deregister, register
from staffa.api.archiving import archive_copy, archive_list, archive_verify
from staffa.api.changing import cancel, expand, merge, reconcile, retry, shrink, verify
from staffa.api.comparing import diff, reproduce
from staffa.api.declaring import Campaign, describe_profile, load, plan, plugins, profiles, scripts, validate
from staffa.api.driving import consolidate, drive, resume, run, scale, stop
from staffa.api.graphs import Graph, graph
from staffa.api.looking import Run, attach, events, explain, status, telemetry, usage, watch
from staffa.api.machines import doctor, reap
from staffa.api.minimizing import Minimum, minimize
from staffa.api.reporting import plot, plot_file, report
from staffa.api.scheduling import schedule
from staffa.api.serving import serve
from staffa.campaign.runtime import runtime
from staffa.execution.trackers import Tracker

__all__ = [
    "Campaign",
    "Graph",
    "Minimum",
    "Run",
    "Tracker",
    "archive_copy",
    "archive_list",
    "archive_verify",
    "attach",
    "cancel",
    "consolidate",
    "deregister",
    "describe_profile",
    "diff",
    "doctor",
    "drive",
    "events",
    "expand",
    "explain",
    "graph",
    "load",
    "merge",
    "minimize",
    "plan",
    "plot",
    "plot_file",
    "plugins",
    "profiles",
    "reap",
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
    "scripts",
    "serve",
    "shrink",
    "status",
    "stop",
    "telemetry",
    "usage",
    "validate",
    "verify",
    "watch",
]
