"""What a user can do, one function each; the only place that chooses parts for another.

The command line and notebooks call these and nothing else.
"""

from staffa.api.declaring import Campaign, load, plan, scripts
from staffa.api.driving import consolidate, drive, resume, retry, run, scale, stop
from staffa.api.graphs import Graph, graph
from staffa.api.looking import Run, attach, events, explain, status, usage, watch
from staffa.api.machines import doctor, reap

__all__ = [
    "Campaign",
    "Graph",
    "Run",
    "attach",
    "consolidate",
    "doctor",
    "drive",
    "events",
    "explain",
    "graph",
    "load",
    "plan",
    "reap",
    "resume",
    "retry",
    "run",
    "scale",
    "scripts",
    "status",
    "stop",
    "usage",
    "watch",
]
