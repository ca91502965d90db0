"""Every trial of a campaign, done or not: its parameters and what its mark says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from staffa.campaign.plan import Plan
from staffa.errors import WorkspaceError
from staffa.storage.roster import read_rosters
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome
from staffa.views.stored import group_store

WORDS = np.array([Outcome(code).word if code in set(Outcome) else "" for code in range(256)], object)
"""What outcomes are called, by their number in a store."""


def every_trial(workspace: Workspace, plan: Plan, lacking: list[str] | None = None) -> pa.Table:
    """All trials in the order of the campaign: `index`, `trial`, `group`, `row`, `replicate`, the parameters,
    `sampler`, and `outcome`: `ok`, `raised`, …, `missing` for one that was not tried.

    Arguments:
    - `lacking`: takes what is said of stores that cannot be read, whose trials are then `missing`; left out,
      it is raised.
    """
    table = read_rosters(workspace.rosters)
    groups, rows = table["group"].to_numpy(), table["row"].to_numpy()
    samplers = np.array([group.sampler for group in plan.groups], object)
    codes = np.zeros(len(groups), np.uint8)
    for number in range(len(plan.groups)):
        own = groups == number
        try:
            codes[own] = group_store(workspace, plan, number).status()[rows[own]]
        except (WorkspaceError, OSError) as error:
            if lacking is None:
                raise
            flaw = f"{error.strerror}: '{error.filename}'" if isinstance(error, OSError) else error.message
            lacking.append(flaw)
    found = table.append_column("sampler", pa.array(samplers[groups], pa.string()))
    return found.append_column("outcome", pa.array(WORDS[codes], pa.string()))
