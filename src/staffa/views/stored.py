"""What views need of a workspace: its plan and its stores."""

from __future__ import annotations

from staffa.campaign.plan import Plan
from staffa.errors import WorkspaceError
from staffa.storage.hot import HotStore
from staffa.storage.roster import listed
from staffa.storage.workspace import Workspace


def stored_plan(workspace: Workspace) -> Plan:
    """The frozen plan of the latest generation, which holds those before."""
    path = workspace.plan(workspace.generation)
    advice = f"restore it, or move '{workspace.root}' away and plan anew"
    if not path.exists():
        raise WorkspaceError(f"'{path}' is not there", advice)
    try:
        return Plan.loads(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"'{path}' cannot be read: {error}", advice) from None


def how_to_name(workspace: Workspace) -> str:
    """How a trial is named, for whoever named none."""
    count = listed(workspace.rosters)
    return f"give its index, 0 to {count - 1}, or more of its digest" if count else "no trial was asked for so far"


def group_store(workspace: Workspace, plan: Plan, group: int) -> HotStore:
    """The hot store of a group of trials."""
    return HotStore.open(workspace.group(plan.groups[group].generation, plan.groups[group].name))
