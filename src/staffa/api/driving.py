"""Driving a campaign, and asking whoever drives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.ambient import current
from staffa.api.declaring import Campaign, campaign_of, located
from staffa.api.holding import alive, ask, driven
from staffa.api.looking import Run, status
from staffa.api.rounds import After, Rounds, more, rounds_of
from staffa.campaign.config import Declaration, load_frozen
from staffa.errors import ClusterError, ConfigError, WorkspaceError
from staffa.experiment.external import EXTERNAL
from staffa.experiment.plugins import exported
from staffa.storage.lease import Lease
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.execution.chronicle import Listener
    from staffa.execution.ending import Ended
    from staffa.execution.prepare import Prepared

PAGE = "staffa.views.dashboard"
"""The page in Dask's dashboard."""


def run(
    campaign: Campaign | str | Path,
    *,
    client: Any = None,
    cluster: Any = None,
    allow_dirty: bool = False,
    accept_code_change: bool = False,
    detach: bool = False,
    listeners: Iterable[Listener] = (),
    progress: bool | None = None,
    after: After | None = None,
    rounds: int | None = None,
    **options: Any,
) -> Run:
    """Run a campaign, or resume it where it stands.

    Arguments:
    - `client`: an existing `distributed.Client`; by default a local cluster is started.
    - `cluster`: a cluster config's name, or a Dask cluster object.
    - `allow_dirty`: run although the workflow's code differs from its commit.
    - `detach`: return at once; the driver goes on by itself, on SLURM as a small job of its own.
    - `listeners`: called with every event.
    - `after`: `after(results, new)` is asked for more once all trials are settled: it answers with points, with what
      `expand` takes, or with None, and the campaign goes on. `rounds`: how often at most. See `staffa.api.rounds`.

    A campaign that was loaded is locked from then on: its parameters stand on disk.
    Raises `ConfigError`, `PluginError`, `WorkspaceError` (exit 2) before anything is written, and
    `ClusterError` (exit 3) when the machinery fails; `resume` then goes on.
    """
    if isinstance(cluster, str):
        options["cluster"] = cluster
    elif cluster is not None:
        client = cluster.get_client()
    _check_detachable(detach, client, after)
    campaign = campaign_of(campaign, options)
    _check_done_here(campaign.declaration, "CAMPAIGN")
    asked = rounds_of(campaign.declaration, after, rounds)
    exported()  # refuses what workers could not import
    workspace = Workspace(campaign.root.absolute())
    resumed, prepared = workspace.is_planned, None
    if not resumed:
        from staffa.execution.prepare import unfolded

        _check_dirty(campaign.declaration, allow_dirty)
        _check_tag(campaign.declaration)
        prepared = unfolded(campaign.declaration)
    if client is None:
        _check_machine(workspace, campaign.declaration, detach)
    how = _How(client, accept_code_change, tuple(listeners), progress)
    with driven(workspace) as lease:
        declaration = planned(workspace, campaign.declaration, prepared, grows=asked is not None)
        campaign.used = workspace.root
        _tagged(workspace, declaration)
        if not detach:
            ended = _drive(workspace, declaration, lease, how)
    if detach:
        return _detached(workspace, declaration, accept_code_change, resumed)
    return Run(workspace.root, _onward(workspace, declaration, ended, how, asked), resumed)


def resume(
    root: str | Path,
    *,
    client: Any = None,
    accept_code_change: bool = False,
    listeners: Iterable[Listener] = (),
    cluster: str | Path | None = None,
    set: Iterable[str] = (),
    detach: bool = False,
    progress: bool | None = None,
    after: After | None = None,
    rounds: int | None = None,
) -> Run:
    """Go on with a campaign after anything died: only what is missing runs.

    Arguments:
    - `cluster`, `set`: another machine, other patience; what is computed cannot be changed any more.
    - `detach`: return at once; the driver goes on by itself.
    - `after`, `rounds`: as for `run`.
    """
    from staffa.execution.company import check_company
    from staffa.execution.prepare import check_reducing, check_unchanged

    _check_detachable(detach, client, after)
    cluster = cluster if cluster is not None else current().cluster
    workspace = Workspace.open(root)
    declaration = load_frozen(workspace.frozen, directory=workspace.code, cluster=cluster, overrides=tuple(set))
    _check_done_here(declaration, workspace.root)
    check_unchanged(declaration, workspace)
    check_reducing(declaration, workspace)
    with located(declaration):
        check_company(declaration)
    if client is None:
        _check_machine(workspace, declaration, detach)
    how = _How(client, accept_code_change, tuple(listeners), progress)
    with driven(workspace) as lease:
        _tagged(workspace, declaration)
        if not detach:
            ended = _drive(workspace, declaration, lease, how)
    if detach:
        return _detached(workspace, declaration, accept_code_change, True)
    asked = rounds_of(declaration, after, rounds)
    return Run(workspace.root, _onward(workspace, declaration, ended, how, asked), resumed=True)


def drive(
    root: str | Path, *, cluster: str | None = None, set: Iterable[str] = (), accept_code_change: bool = False
) -> Run:
    """Drive a campaign from a SLURM job of its own, and see to its successor: what `detach` hands in."""
    from staffa.execution.drive import wait_for_lease
    from staffa.execution.slurm.driver import drive_command

    workspace = Workspace.open(root)
    declaration = load_frozen(workspace.frozen, directory=workspace.code, cluster=cluster, overrides=tuple(set))
    wait_for_lease(workspace)
    how = _How(None, accept_code_change, progress=False, heirs=tuple(drive_command(workspace, cluster, tuple(set))))
    with driven(workspace) as lease:
        ended = _drive(workspace, declaration, lease, how)
    asked = rounds_of(declaration, None, None)
    return Run(workspace.root, _onward(workspace, declaration, ended, how, asked), resumed=True)


def consolidate(
    root: str | Path,
    *,
    prune: bool = False,
    client: Any = None,
    listeners: Iterable[Listener] = (),
    cluster: str | Path | None = None,
    set: Iterable[str] = (),
) -> dict[str, Any]:
    """Seal every ripe part: asked of the live driver, or done here, on workers of its own, if there is none.

    Arguments:
    - `prune`: then remove shards of which every row stands in the archive, bit for bit.
    - `cluster`, `set`: another machine to do it on; reducers that were not declared, `reduce.spread.use=covariance`.
    """
    from staffa.execution.prepare import check_reducing, check_unchanged

    workspace, overrides = Workspace.open(root), tuple(set)
    if alive(workspace):
        if overrides or cluster is not None:
            said = ", ".join([*overrides, *([f"cluster {cluster}"] if cluster else [])])
            raise WorkspaceError(
                f"{said}: the driver of {root} seals as it was told when it started",
                f"staffa stop {root}, then resume it with the same words, or wait for its end",
            )
        return ask(workspace, "consolidate", prune=prune)
    overrides += ("archive.prune=verified",) if prune else ()
    declaration = load_frozen(workspace.frozen, directory=workspace.code, cluster=cluster, overrides=overrides)
    check_unchanged(declaration, workspace)
    check_reducing(declaration, workspace)
    with driven(workspace) as lease:
        _drive(workspace, declaration, lease, _How(client, listeners=tuple(listeners), progress=False), seal=True)
    return {"done": True, **status(root)}


def stop(root: str | Path) -> dict[str, Any]:
    """Ask the live driver to issue no more batches and end when those in flight are committed."""
    workspace = Workspace.open(root)
    if alive(workspace):
        return ask(workspace, "stop")
    from staffa.execution.slurm.driver import cancel_driver, waiting_driver

    if not waiting_driver(workspace):
        return {"done": True, "why": "no driver is running"}
    job = cancel_driver(workspace, workspace.root.name)
    return {"done": True, "why": f"the driver's job {job} was cancelled" if job else "no driver is running"}


def scale(root: str | Path, workers: Mapping[str, int] | Iterable[str]) -> dict[str, Any]:
    """Have the live driver keep other numbers of workers: `{"gpu": 16}`, or `["gpu=16"]`."""
    workspace = Workspace.open(root)
    wanted = dict(workers) if isinstance(workers, Mapping) else dict(_assigned(word) for word in workers)
    if not alive(workspace):
        raise ClusterError(
            f"no driver of {root} is running: there is nothing to scale",
            f"staffa resume {root} --set cluster.pools.{next(iter(wanted), 'gpu')}.workers=16",
        )
    return ask(workspace, "scale", workers=wanted)


def _assigned(word: str) -> tuple[str, int]:
    name, equals, number = word.partition("=")
    if not equals or not number.isdecimal():
        raise ConfigError(f"{word!r} is not POOL=WORKERS", "such as gpu=16, or gpu=0 to let go of all")
    return name, int(number)


def _check_done_here(declaration: Declaration, said: str | Path) -> None:
    """Refuse to do trials that others do: what nobody told would be recorded as NaN."""
    if declaration.campaign.experiment.use == EXTERNAL:
        hint = f"staffa serve {said}"
        raise ConfigError(f"experiment.use: the trials of {EXTERNAL!r} are done by those who ask a server", hint)


def _check_detachable(detach: bool, client: Any, after: After | None) -> None:
    if detach and after is not None:
        raise ConfigError(
            "detach: a function that is asked what comes after ends with this process",
            "name it in the campaign file instead: after: {use: adapt.py:grow}",
        )
    if detach and client is not None:
        raise ConfigError(
            "detach: a live client or cluster object ends with this process",
            'give a cluster config instead: cluster="slurm-gpu"',
        )


def _check_machine(workspace: Workspace, declaration: Declaration, detached: bool) -> None:
    """Refuse a machine that could never run this, before anything is written."""
    if declaration.campaign.cluster.kind == "slurm":
        from staffa.execution.drive import preflight

        with located(declaration):
            preflight(workspace, declaration, detached)


def _check_dirty(declaration: Declaration, allow: bool) -> None:
    from staffa.storage.provenance import dirty_files

    dirty = dirty_files(declaration.directory)
    if dirty and not allow:
        shown = ", ".join(dirty[:5]) + (" …" if len(dirty) > 5 else "")
        raise WorkspaceError(
            f"the workflow's files differ from their git commit: {shown}", "commit them, or say --allow-dirty"
        )


def _check_tag(declaration: Declaration) -> None:
    """Refuse a production whose tag cannot be made, before anything is written."""
    from staffa.storage.versioning import check_tag, tag_name

    title = declaration.campaign.campaign
    if title.tag:
        with located(declaration):
            check_tag(declaration.directory, tag_name(title.version, title.name, title.tag))


def _tagged(workspace: Workspace, declaration: Declaration) -> None:
    """Tag a production that is planned, unless it is tagged already."""
    from staffa.storage.versioning import settle_tag, tag_name

    title = declaration.campaign.campaign
    if title.tag:
        settle_tag(workspace, tag_name(title.version, title.name, title.tag))


def planned(
    workspace: Workspace, declaration: Declaration, prepared: Prepared | None, *, grows: bool = False
) -> Declaration:
    """Write the plan down, or make sure that the one that stands is the one that is meant.

    Arguments:
    - `grows`: what stands may have grown by itself from what is meant; returned is what it has grown to.
    """
    from staffa.execution.growing import kept_up
    from staffa.execution.prepare import check_unchanged, create

    if prepared is None or workspace.is_planned:
        check_unchanged(declaration, workspace, grows=grows)
    else:
        create(prepared, workspace)
    return kept_up(declaration, workspace) if grows else declaration


@dataclass(frozen=True)
class _How:
    """How a campaign is driven, in this round and in all that follow."""

    client: Any = None
    accept: bool = False
    listeners: tuple[Listener, ...] = ()
    progress: bool | None = None
    heirs: tuple[str, ...] = ()


def _drive(workspace: Workspace, declaration: Declaration, lease: Lease, how: _How, *, seal: bool = False) -> Ended:
    from staffa.execution.drive import drive
    from staffa.execution.posting import Poster
    from staffa.execution.prepare import load_plan
    from staffa.views.overview import Overview

    with contextlib.ExitStack() as stack:
        heard: list[Listener] = [*how.listeners, Poster(Overview(workspace.root), PAGE)]
        if not seal:
            from staffa.execution.company import company

            heard += company(workspace, declaration, lease.lease_id)
        if how.progress is not False and not seal:
            from staffa.views.live import follow

            heard.append(stack.enter_context(follow(load_plan(workspace).trials, workspace.root, how.progress)))
        return drive(workspace, declaration, lease, how.client, how.accept, heard, seal=seal, heirs=how.heirs)


def _onward(workspace: Workspace, declaration: Declaration, ended: Ended, how: _How, asked: Rounds | None) -> Ended:
    """Drive on as long as a campaign that is finished grows by its own results."""
    from staffa.execution.growing import kept_up

    while asked is not None and ended.reason == "finished" and more(workspace, asked):
        with driven(workspace) as lease:
            ended = _drive(workspace, kept_up(declaration, workspace), lease, how)
    return ended


def _detached(workspace: Workspace, declaration: Declaration, accept: bool, resumed: bool) -> Run:
    """Let a driver of its own go on: a small SLURM job, or a process without a terminal."""
    from staffa.execution.drive import detach

    detach(workspace, declaration, accept)
    return Run(workspace.root, None, resumed)
