"""What views need of a workspace: its plans, and the columns of its archive."""

from __future__ import annotations

import re

from staffa.campaign.plan import Plan
from staffa.errors import WorkspaceError
from staffa.storage.hot import ArrayLayout, HotStore
from staffa.storage.tables import ArchiveLayout
from staffa.storage.workspace import Workspace


def stored_plans(workspace: Workspace) -> list[Plan]:
    """The frozen plans, one a generation, oldest first."""
    found = [
        (int(match[1]), path)
        for path in workspace.metadata.glob("plan-*.json")
        if (match := re.fullmatch(r"plan-(\d+)\.json", path.name))
    ]
    if not found:
        raise WorkspaceError(
            f"'{workspace.plan(0)}' is not there", f"restore it, or move '{workspace.root}' away and plan anew"
        )
    plans = []
    for _, path in sorted(found):
        try:
            plans.append(Plan.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(
                f"'{path}' cannot be read: {error}", f"restore it, or move '{workspace.root}' away and plan anew"
            ) from None
    return plans


def archive_columns(plan: Plan) -> ArchiveLayout:
    """The columns of the archive's tables."""
    outputs = tuple(ArrayLayout(o.name, o.dtype, o.shape, o.dims, o.chains, o.table, o.length) for o in plan.outputs())
    return ArchiveLayout(plan.parameters, outputs, plan.partition_by)


def group_store(workspace: Workspace, plan: Plan, group: int) -> HotStore:
    """The hot store of a group of trials."""
    return HotStore.open(workspace.group(plan.generation, plan.groups[group].name))
