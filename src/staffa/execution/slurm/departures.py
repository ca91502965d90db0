"""Why a worker left, as its node wrote it down: who is to be charged, and who is not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from staffa.execution.pool import Departure, Member
from staffa.storage.files import read_json
from staffa.storage.workspace import Workspace

VERDICT_SECONDS = 10.0
"""How long a node is waited for to write down the end of its worker."""


def departure(workspace: Workspace, member: Member, since: float) -> Departure | None:
    """Why a worker left, from what its node wrote down; after a while, that nobody could write."""
    record = read_json(workspace.worker_end(member.name))
    if isinstance(record, dict):
        with contextlib.suppress(OSError):
            workspace.worker_end(member.name).unlink()
        return departed(record)
    if since < VERDICT_SECONDS:
        return None
    return Departure(f"its node {member.node} or job {member.job} vanished", certain=False)


def departed(record: Mapping[str, Any]) -> Departure:
    """What a node wrote about the end of one of its workers."""
    reason, node, code = record.get("reason"), record.get("node"), record.get("code")
    if reason == "walltime":
        return Departure(f"the time of job {record.get('job')} was over", expected=True)
    if reason == "terminated":
        return Departure(f"job {record.get('job')} was cancelled or preempted", expected=True)
    if reason == "crashed":
        return Departure(f"the worker process died on {node} (code {code})")
    return Departure(f"the worker ended on {node}: {reason}", expected=True)
