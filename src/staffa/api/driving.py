"""Driving a campaign, and asking whoever drives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.ambient import current
from staffa.api.declaring import Campaign, campaign_of, located
from staffa.api.holding import alive, ask, driven
from staffa.api.looking import Run, status
from staffa.campaign.config import Declaration, load_frozen
from staffa.errors import ClusterError, ConfigError, WorkspaceError
from staffa.experiment.plugins import exported
from staffa.storage.lease import Lease
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.execution.chronicle import Listener
    from staffa.execution.ending import Ended
    from staffa.execution.prepare import Prepared


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
    **options: Any,
) -> Run:
    """Run a campaign, or resume it where it stands.

    Arguments:
    - `client`: an existing `distributed.Client`; by default a local cluster is started.
    - `cluster`: a cluster config's name, or a Dask cluster object.
    - `allow_dirty`: run although the workflow's code differs from its commit.
    - `detach`: return at once; the driver goes on by itself, on SLURM as a small job of its own.
    - `listeners`: called with every event.

    Raises `ConfigError`, `PluginError`, `WorkspaceError` (exit 2) before anything is written, and
    `ClusterError` (exit 3) when the machinery fails; `resume` then goes on.
    """
    if isinstance(cluster, str):
        options["cluster"] = cluster
    elif cluster is not None:
        client = cluster.get_client()
    _check_detachable(detach, client)
    campaign = campaign_of(campaign, options)
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
    with driven(workspace) as lease:
        planned(workspace, campaign.declaration, prepared)
        _tagged(workspace, campaign.declaration)
        if not detach:
            ended = _drive(
                workspace,
                campaign.declaration,
                lease,
                client,
                accept_code_change,
                listeners,
                seal=False,
                progress=progress,
            )
            return Run(workspace.root, ended, resumed)
    return _detached(workspace, campaign.declaration, accept_code_change, resumed)


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
) -> Run:
    """Go on with a campaign after anything died: only what is missing runs.

    Arguments:
    - `cluster`, `set`: another machine, other patience; what is computed cannot be changed any more.
    - `detach`: return at once; the driver goes on by itself.
    """
    from staffa.execution.company import check_company
    from staffa.execution.prepare import check_unchanged

    _check_detachable(detach, client)
    cluster = cluster if cluster is not None else current().cluster
    workspace = Workspace.open(root)
    declaration = load_frozen(workspace.frozen, directory=workspace.code, cluster=cluster, overrides=tuple(set))
    check_unchanged(declaration, workspace)
    with located(declaration):
        check_company(declaration)
    if client is None:
        _check_machine(workspace, declaration, detach)
    with driven(workspace) as lease:
        _tagged(workspace, declaration)
        if not detach:
            ended = _drive(
                workspace,
                declaration,
                lease,
                client,
                accept_code_change,
                listeners,
                seal=False,
                progress=progress,
            )
            return Run(workspace.root, ended, resumed=True)
    return _detached(workspace, declaration, accept_code_change, True)


def drive(
    root: str | Path, *, cluster: str | None = None, set: Iterable[str] = (), accept_code_change: bool = False
) -> Run:
    """Drive a campaign from a SLURM job of its own, and see to its successor: what `detach` hands in."""
    from staffa.execution.drive import wait_for_lease
    from staffa.execution.slurm.driver import drive_command

    workspace = Workspace.open(root)
    declaration = load_frozen(workspace.frozen, directory=workspace.code, cluster=cluster, overrides=tuple(set))
    wait_for_lease(workspace)
    with driven(workspace) as lease:
        heirs = drive_command(workspace, cluster, tuple(set))
        ended = _drive(
            workspace, declaration, lease, None, accept_code_change, (), seal=False, progress=False, heirs=heirs
        )
    return Run(workspace.root, ended, resumed=True)


def consolidate(root: str | Path, *, client: Any = None, listeners: Iterable[Listener] = ()) -> dict[str, Any]:
    """Seal every ripe part: asked of the live driver, or done here if there is none."""
    workspace = Workspace.open(root)
    if alive(workspace):
        return ask(workspace, "consolidate")
    declaration = load_frozen(workspace.frozen, directory=workspace.code)
    with driven(workspace) as lease:
        _drive(workspace, declaration, lease, client, False, listeners, seal=True, progress=False)
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


def _check_detachable(detach: bool, client: Any) -> None:
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


def planned(workspace: Workspace, declaration: Declaration, prepared: Prepared | None) -> None:
    """Write the plan down, or make sure that the one that stands is the one that is meant."""
    from staffa.execution.prepare import check_unchanged, create

    if prepared is None or workspace.is_planned:
        check_unchanged(declaration, workspace)
    else:
        create(prepared, workspace)


def _drive(
    workspace: Workspace,
    declaration: Declaration,
    lease: Lease,
    client: Any,
    accept: bool,
    listeners: Iterable[Listener],
    *,
    seal: bool,
    progress: bool | None,
    heirs: Sequence[str] = (),
) -> Ended:
    from staffa.execution.drive import drive
    from staffa.execution.prepare import load_plan

    with contextlib.ExitStack() as stack:
        heard = [*listeners]
        if not seal:
            from staffa.execution.company import company

            heard += company(workspace, declaration, lease.lease_id)
        if progress is not False and not seal:
            from staffa.views.live import follow

            heard.append(stack.enter_context(follow(load_plan(workspace).trials, workspace.root, progress)))
        return drive(workspace, declaration, lease, client, accept, heard, seal=seal, heirs=heirs)


def _detached(workspace: Workspace, declaration: Declaration, accept: bool, resumed: bool) -> Run:
    """Let a driver of its own go on: a small SLURM job, or a process without a terminal."""
    from staffa.execution.drive import detach

    detach(workspace, declaration, accept)
    return Run(workspace.root, None, resumed)
