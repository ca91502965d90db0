"""Changing what a campaign is to do: more trials, fewer, some of them again; by whoever drives it, or at once."""

from __future__ import annotations

import contextlib
import math
import random
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.api.holding import alive, ask, disk_told, driven
from staffa.errors import ConfigError, WorkspaceError
from staffa.storage.ledger import Ledger
from staffa.storage.states import State
from staffa.storage.workspace import Workspace, absolute
from staffa.trial import DIGEST_BYTES

if TYPE_CHECKING:
    from staffa.execution.growing import Proposal
    from staffa.execution.wishes import Wishes

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


def grow(workspace: Workspace, growth: Mapping[str, Any]) -> int:
    """Have a campaign grow that nobody drives, as `expand` does it; returns how many trials are to be run now.

    Arguments:
    - `growth`: `space`, `replicates`, `inputs`, as for `expand`, or `points` instead of a space. What names no trial
      that is new changes nothing.
    """
    from staffa.execution.growing import lengthened, propose, redeclared

    others = {name: value for name, value in growth.items() if name != "points"}
    if growth.get("points"):
        others["space"] = lengthened(workspace, growth["points"])
    declaration = redeclared(workspace, **others)
    made = [propose(workspace, declaration)]
    if not made[0].facts["added"] + made[0].facts["readmitted"]:
        return 0
    done = _changed(workspace, lambda: made.pop() if made else propose(workspace, declaration), dry_run=False)
    if not done["done"]:
        raise WorkspaceError(f"{workspace.root} cannot grow: {done['why']}", f"staffa resume {workspace.root}")
    return int(done["added"]) + int(done["readmitted"])


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


def merge(
    *roots: str | Path,
    into: str | Path,
    accept_code_change: bool = False,
    dry_run: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Make one campaign of several; they are only read.

    They need the same parameters of the same types. What is one value in each of them, and not the same, becomes
    explored. Trials of the first keep their index, those of the others follow; a trial with the same name, seed and
    code as another stands once, the same point of another seed becomes a further replicate.

    Arguments:
    - `into`: the folder of the new campaign, which must not be there.
    - `accept_code_change`: merge them although their code differs; what has no data is run with that of the first.
    - `dry_run`: say what would be, and write nothing.
    - `tell`: told now and then how far it is.

    Returns `trials`, how many `with_data` and `to_run`, of each of `sources` how many were `taken`, `renamed`,
    `duplicates`, `filled` and `left_out`, what is `explored` now, and whether a space of blocks says it all
    (`declared`).
    """
    from staffa.execution.merging import check_sources, propose
    from staffa.execution.sources import read_source
    from staffa.execution.uniting import write

    folders = {str(root): Workspace.open(root) for root in roots}
    if len(folders) < len(roots):
        twice = next(str(root) for root in roots if [str(other) for other in roots].count(str(root)) > 1)
        raise WorkspaceError(f"'{twice}' is named twice", "name each campaign once")
    target = Workspace(absolute(into))
    check_sources(folders, target.root)
    for name, workspace in folders.items():
        if alive(workspace):
            raise WorkspaceError(
                f"'{name}' is being driven: it changes while it is read", f"staffa stop {shlex.quote(name)}"
            )
    merger = propose(
        [read_source(name, workspace) for name, workspace in folders.items()],
        target.root,
        accept_code_change=accept_code_change,
    )
    if not dry_run:
        with disk_told(target):
            write(merger, tell)
    facts = merger.facts
    return {**facts, "dry_run": dry_run, "next": "" if dry_run else _next(target, facts["to_run"])}


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


def retry(
    root: str | Path, trials: Iterable[str] | None = None, *, where: str | None = None, quarantined: bool = False
) -> dict[str, Any]:
    """Try failed and quarantined trials again: by the live driver, or at the next `resume`.

    Arguments:
    - `trials`: digests of those that are meant; also cancelled ones.
    - `where`: SQL over the parameters and `outcome` that chooses them: `outcome = 'timeout' and scale > 2`.
    - `quarantined`: only those that were given up.
    """
    workspace = Workspace.open(root)
    if quarantined:
        trials = _given_up(workspace)
    chosen = _chosen(workspace, trials, where)
    if alive(workspace):
        return ask(workspace, "retry", trials=chosen)
    with _wishes(workspace) as wishes:
        count = wishes.retry(chosen)
        wishes.settle(math.inf)
    return {"done": True, "trials": count, "next": _next(workspace, count)}


def cancel(
    root: str | Path, trials: Iterable[str] | None = None, *, where: str | None = None, why: str = ""
) -> dict[str, Any]:
    """Have trials not run, or not finished; what has data keeps it. `retry` brings them back.

    Arguments:
    - `trials`: digests of those that are meant; `where`: SQL over the parameters and `outcome` that chooses
      them. Without either, all that have no data yet.
    - `why`: is kept, and told by `explain`.

    Returns how many `trials` are cancelled, how many of them are `flying`, and how many were named and
    are `kept`, since they have data.
    """
    workspace = Workspace.open(root)
    chosen = _chosen(workspace, trials, where)
    if alive(workspace):
        return ask(workspace, "cancel", trials=chosen, why=why)
    with _wishes(workspace) as wishes:
        told = wishes.cancel(chosen, why)
        wishes.settle(math.inf)
    return {"done": True, **told, "next": _next(workspace, 0)}


def verify(root: str | Path, *, every: bool = False) -> dict[str, Any]:
    """Read back what was committed and sealed, and compare checksums; have damaged batches done again.

    Arguments:
    - `every`: all of it, not a sample.

    Returns what was read of `hot` and `archive`, with what is `damaged`, and the batches that are done
    `again`; `sound` where nothing is.
    """
    from staffa.execution.prepare import load_plan, open_stores
    from staffa.execution.verify import read_archive, read_back
    from staffa.rows import archive_layout
    from staffa.storage.archive import Archive
    from staffa.storage.books import fold
    from staffa.storage.ledger import history

    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    flying = list(fold(history(workspace)).flying) if alive(workspace) else []
    hot = read_back(plan, open_stores(workspace, plan), every=every, chance=random.Random(), flying=flying)
    sealed = read_archive(Archive(workspace.archive, archive_layout(plan)), every=every)
    again = _mended(workspace, list(hot["damaged"])) if hot["damaged"] else []
    sound = not (hot["damaged"] or sealed["damaged"])
    return {"root": str(root), "sound": sound, "hot": hot, "archive": sealed, "again": again}


def _mended(workspace: Workspace, batches: list[str]) -> list[str]:
    if alive(workspace):
        return list(ask(workspace, "mend", batches=batches).get("batches", ()))
    from staffa.execution.verify import reopen

    with _wishes(workspace) as wishes:
        return reopen(wishes, batches)


@contextlib.contextmanager
def _wishes(workspace: Workspace) -> Iterator[Wishes]:
    """Where requests for single trials are dealt with while no driver is at work."""
    from staffa.execution.growing import desk_of
    from staffa.execution.wishes import Wishes

    with driven(workspace) as lease, Ledger.open(workspace, lease) as ledger:
        yield Wishes(desk_of(workspace, ledger))


def _chosen(workspace: Workspace, trials: Iterable[str] | None, where: str | None) -> list[str] | None:
    if where is None:
        return None if trials is None else [_digest(workspace, str(trial)) for trial in trials]
    if trials is not None:
        raise ConfigError("trials by name and by a condition at the same time", "say one, then the other")
    from staffa.views.selection import select_trials

    return [str(trial) for trial in select_trials(workspace, where)["trial"].to_pylist()]


def _digest(workspace: Workspace, trial: str) -> str:
    """A trial's digest: it may be named by its index, or by the beginning of its digest."""
    if len(trial) == 2 * DIGEST_BYTES:
        return trial
    from staffa.storage.roster import find_trial

    row = find_trial(workspace.rosters, trial)
    if row is None:
        raise ConfigError(
            f"{trial!r} names no trial of '{workspace.root}', or more than one", "give its index, or more of its digest"
        )
    return str(row["trial"])


def _given_up(workspace: Workspace) -> list[str]:
    from staffa.storage.books import fold
    from staffa.storage.ledger import history

    states = fold(history(workspace)).states
    return [trial for trial, word in states.items() if word == State.QUARANTINED and "/" not in trial]


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
    found = proposal.facts.get("added", 0)
    return {**proposal.facts, **reply, "dry_run": False, "next": _next(workspace, found + reply.get("readmitted", 0))}


def _next(workspace: Workspace, trials: int) -> str:
    return f"staffa {'resume' if trials and not alive(workspace) else 'status'} {workspace.root}"
