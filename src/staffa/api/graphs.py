"""The delayed graphs of a campaign, to look at or to compute with any Dask scheduler."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.api.declaring import Campaign, campaign_of, plan
from staffa.api.driving import planned
from staffa.api.holding import driven
from staffa.api.looking import Run
from staffa.errors import ConfigError, WorkspaceError
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from dask.delayed import Delayed


class Graph:
    """`staffa.graph(campaign, trial)`, `(campaign, batch=i)` and `staffa.graph.reduce(run)`.

    The graphs are plain `dask.delayed`: visualize them, or compute them with any Dask scheduler;
    the bytes written are the same.
    """

    def __call__(self, campaign: Campaign | str | Path, trial: int | str | None = None, *, batch: int = 0) -> Delayed:
        """The graph of one batch: the `batch`-th of the campaign, or the one that holds `trial`."""
        from staffa.execution.bench import Order
        from staffa.execution.graph import batch_graph
        from staffa.execution.prepare import load_plan, plan_digest

        campaign = campaign_of(campaign, {})
        workspace = Workspace(campaign.root.absolute())
        if trial is None and campaign.declaration.campaign.search is not None:
            raise ConfigError(
                f"batch {batch} of {campaign.root.name}: of a search no batch is known before it is asked for",
                f"name a trial it asked for: staffa search top {workspace.root}",
            )
        with contextlib.ExitStack() as stack:
            prepared = None
            if not workspace.is_planned:
                prepared = plan(campaign)
                stack.enter_context(driven(workspace))
            planned(workspace, campaign.declaration, prepared)
            campaign.used = workspace.root
        found = load_plan(workspace)
        group, number = _place(workspace, found, trial) if trial is not None else _numbered(found, batch)
        order = Order(str(workspace.root), plan_digest(found), found.generation, group, number)
        return batch_graph(order, found.sampling)

    def reduce(self, run: Run | str | Path, part: int = 0) -> Delayed:
        """The graph that seals one part of the archive."""
        from staffa.execution.consolidate import Consolidation
        from staffa.execution.graph import reduce_graph
        from staffa.execution.prepare import load_plan, open_stores, plan_digest
        from staffa.storage.books import fold

        workspace = Workspace.open(run.root if isinstance(run, Run) else run)
        found = load_plan(workspace)
        consolidation = Consolidation(workspace, found, plan_digest(found), open_stores(workspace, found))
        seal = consolidation.order(found.parts[part], fold(history(workspace)), again=True)
        if seal is None:
            raise WorkspaceError(f"part {part} of {workspace.root} has nothing to seal")
        return reduce_graph(seal, found.sampling.segments)


graph = Graph()


def _numbered(found: Any, batch: int) -> tuple[int, int]:
    for number, group in enumerate(found.groups):
        if 0 <= batch < group.batches:
            return number, batch
        batch -= group.batches
    raise ConfigError(f"there is no batch {batch}: the campaign has {found.batches}")


def _place(workspace: Workspace, found: Any, trial: int | str) -> tuple[int, int]:
    from staffa.storage.roster import find_trial

    row = find_trial(workspace.rosters, str(trial))
    if row is None:
        raise ConfigError(
            f"{trial!r} is no trial of {workspace.root}", "give its index, or the beginning of its digest"
        )
    return int(row["group"]), int(row["row"]) // found.groups[row["group"]].batch
