"""Changing what a campaign is to do: more trials, fewer, some of them again; by whoever drives it, or at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.api.holding import alive, ask, driven
from staffa.errors import ConfigError
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.execution.growing import Proposal

PROPOSALS = 5
"""How often a change is proposed anew, where the campaign has changed meanwhile."""


def expand(
    root: str | Path,
    campaign: str | Path | None = None,
    *,
    space: Sequence[Mapping[str, Any]] | None = None,
    replicates: int | None = None,
    inputs: Any = None,
    set: Iterable[str] = (),
    cluster: str | None = None,
    profile: str | None = None,
    readmit: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Let a campaign grow, while it runs or after: to other values, more axes, more replicates.

    What stands is left alone, in whatever order values are written now: only trials that are new by
    identity are added. Trials the space does not name any more stay, too (`shrink` drops them).

    Arguments:
    - `campaign`: a changed campaign file; by default the frozen declaration is what is changed.
    - `space`, `replicates`, `inputs`: in the place of what was declared.
    - `set`: `a.b=c` each; also `space[0].grid.scale=[1, 2, 3]`.
    - `readmit`: bring back all that was dropped and is in the space, not only what is named anew.
    - `dry_run`: say what would be, and change nothing.

    Returns how many trials are `added`, `present`, `outside` (of the space), `readmitted`, and `done`.
    """
    from staffa.execution.growing import propose, redeclared

    workspace = Workspace.open(root)
    declaration = redeclared(
        workspace,
        campaign,
        space=space,
        replicates=replicates,
        inputs=inputs,
        overrides=set,
        cluster=cluster,
        profile=profile,
    )
    return _changed(workspace, lambda: propose(workspace, declaration, back=readmit), dry_run)


def shrink(
    root: str | Path,
    campaign: str | Path | None = None,
    *,
    where: str | None = None,
    space: Sequence[Mapping[str, Any]] | None = None,
    replicates: int | None = None,
    set: Iterable[str] = (),
    cluster: str | None = None,
    profile: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Drop trials that were not issued yet: those outside of a smaller space, or those a condition names.

    Arguments:
    - `where`: SQL over the parameters: `temperature > 5 and replicate > 0`.
    - `campaign`, `space`, `replicates`, `set`: the smaller space, as for `expand`.
    - `dry_run`: say what would be, and change nothing.

    Returns how many are `dropped`, for how many it is too late (`issued`), and `done`.
    """
    from staffa.execution.growing import propose, propose_drop, redeclared

    workspace = Workspace.open(root)
    if where is not None:
        if campaign is not None or space is not None or replicates is not None or tuple(set):
            raise ConfigError("a smaller space and a condition at the same time", "shrink by one, then by the other")
        from staffa.views.selection import select_trials

        indices = select_trials(workspace, where)["index"].to_pylist()
        return _changed(workspace, lambda: propose_drop(workspace, indices), dry_run)
    declaration = redeclared(
        workspace, campaign, space=space, replicates=replicates, overrides=set, cluster=cluster, profile=profile
    )
    return _changed(workspace, lambda: propose(workspace, declaration, shrink=True), dry_run)


def reconcile(root: str | Path) -> dict[str, Any]:
    """Look again for the files trials need (`inputs`): those whose files came are admitted."""
    from staffa.execution.growing import reconcile as look_again

    workspace = Workspace.open(root)
    if alive(workspace):
        reply = ask(workspace, "reconcile")
    else:
        with driven(workspace) as lease, Ledger.open(workspace, lease) as ledger:
            reply = look_again(workspace, ledger)
    return {"root": str(workspace.root), **reply, "next": _next(workspace, reply.get("admitted", 0))}


def retry(root: str | Path) -> dict[str, Any]:
    """Try failed and quarantined trials again: by the live driver, or at the next `resume`."""
    workspace = Workspace.open(root)
    if alive(workspace):
        return ask(workspace, "retry")
    from staffa.execution.prepare import load_plan, open_stores
    from staffa.execution.tally import failed_trials

    count = 0
    with driven(workspace) as lease, Ledger.open(workspace, lease) as ledger:
        for trial in failed_trials(open_stores(workspace, load_plan(workspace))):
            ledger.append({"event": "readmitted", "trial": trial})
            count += 1
    return {"done": True, "trials": count, "next": f"staffa {'resume' if count else 'status'} {root}"}


def _changed(workspace: Workspace, propose: Callable[[], Proposal], dry_run: bool) -> dict[str, Any]:
    """Have what is proposed done: by the live driver, or here if there is none."""
    from staffa.execution.growing import alone, discard, stage

    for _ in range(PROPOSALS):
        proposal = propose()
        if dry_run or proposal.empty:
            return {**proposal.facts, "done": True, "dry_run": dry_run, "next": ""}
        request = stage(workspace, proposal)
        try:
            if live := alive(workspace):
                reply = ask(workspace, "grow", **request)
            else:
                with driven(workspace) as lease, Ledger.open(workspace, lease) as ledger:
                    reply = alone(workspace, ledger, request)
        finally:
            discard(workspace, request)
        # Somebody else was faster; or the driver ended before it looked.
        if reply["done"] or not (reply.get("stale") or (live and not alive(workspace))):
            break
    found = proposal.facts["added"] if "added" in proposal.facts else 0
    return {**proposal.facts, **reply, "dry_run": False, "next": _next(workspace, found + reply.get("readmitted", 0))}


def _next(workspace: Workspace, trials: int) -> str:
    return f"staffa {'resume' if trials and not alive(workspace) else 'status'} {workspace.root}"
