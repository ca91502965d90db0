"""What a user can do, one function each; the only place that chooses parts for another.

The command line and notebooks call these and nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.campaign.config import Declaration, load_frozen
from staffa.campaign.config import load as load_declaration
from staffa.errors import ClusterError, ConfigError, WorkspaceError
from staffa.storage import control
from staffa.storage.files import DISK, read_json
from staffa.storage.lease import Holder, Lease, read_lease
from staffa.storage.ledger import Ledger, history, read_summary
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from staffa.execution.chronicle import Listener
    from staffa.execution.ending import Ended
    from staffa.execution.prepare import Prepared
    from staffa.views.results import Results

ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Campaign:
    """A declaration, ready to be planned and run."""

    declaration: Declaration

    @property
    def root(self) -> Path:
        """The folder the campaign lives in: `<storage.root>/<version>_<name>`."""
        title = self.declaration.campaign.campaign
        return Path(self.declaration.campaign.storage.root) / f"{title.version}_{title.name}"

    def __repr__(self) -> str:
        return f"Campaign({str(self.root)!r})"


@dataclass(frozen=True)
class Run:
    """A campaign on disk, live or finished."""

    root: Path
    ended: Ended | None = None
    """How the run that returned this object ended; None for an attached one."""
    resumed: bool = False
    """Whether the campaign had been planned before: an unchanged one is carried on."""

    @property
    def results(self) -> Results:
        from staffa.views.results import Results

        return Results(Workspace.open(self.root))

    @property
    def status(self) -> dict[str, Any]:
        return status(self.root)

    def query(self, sql: str) -> Any:
        """Ask the archive in SQL over `draws`, `trials`, `failed`; a pandas frame."""
        return self.results.query(sql)

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r})"


def load(
    path: str | Path,
    *,
    cluster: str | None = None,
    profile: str | None = None,
    set: Iterable[str] = (),
    **overrides: Any,
) -> Campaign:
    """Read a campaign file.

    Arguments:
    - `cluster`, `profile`: a cluster config's and a profile's name.
    - `set`: `a.b=c` each, as on the command line.
    - `overrides`: the same for Python: `replicates=2, sampling={"draws": 10}` or `sampling__draws=10`.

    Raises `ConfigError` naming file, line, field, value.
    """
    said = [*set, *_dotted(overrides, Path(path).parent)]
    return Campaign(load_declaration(path, cluster=cluster, profile=profile, overrides=said))


def plan(campaign: Campaign | str | Path, **options: Any) -> Prepared:
    """Unfold a campaign in memory: what will run, in how many batches and files. Writes nothing.

    Raises `ConfigError` for what cannot be, a cluster's limits included where SLURM can be asked.
    """
    from staffa.execution.prepare import unfolded

    campaign = _campaign(campaign, options)
    return replace(unfolded(campaign.declaration), cluster=_cluster_facts(campaign))


def _cluster_facts(campaign: Campaign) -> dict[str, Any]:
    """What a campaign would ask of SLURM, compared with what there is; empty for other machines."""
    if campaign.declaration.campaign.cluster.kind != "slurm":
        return {}
    from staffa.execution.drive import considered

    with _located(campaign.declaration):
        return considered(Workspace(campaign.root.absolute()), campaign.declaration)


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
    campaign = _campaign(campaign, options)
    workspace = Workspace(campaign.root.absolute())
    resumed, prepared = workspace.is_planned, None
    if not resumed:
        from staffa.execution.prepare import unfolded

        _check_dirty(campaign.declaration, allow_dirty)
        prepared = unfolded(campaign.declaration)
    if client is None:
        _check_machine(workspace, campaign.declaration, detach)
    with _driving(workspace) as lease:
        _planned(workspace, campaign.declaration, prepared)
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
    cluster: str | None = None,
    set: Iterable[str] = (),
    detach: bool = False,
    progress: bool | None = None,
) -> Run:
    """Go on with a campaign after anything died: only what is missing runs.

    Arguments:
    - `cluster`, `set`: another machine, other patience; what is computed cannot be changed any more.
    - `detach`: return at once; the driver goes on by itself.
    """
    from staffa.execution.prepare import check_unchanged

    _check_detachable(detach, client)
    workspace = Workspace.open(root)
    declaration = load_frozen(workspace.campaign_yaml, directory=workspace.code, cluster=cluster, overrides=tuple(set))
    check_unchanged(declaration, workspace)
    if client is None:
        _check_machine(workspace, declaration, detach)
    with _driving(workspace) as lease:
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
    declaration = load_frozen(workspace.campaign_yaml, directory=workspace.code, cluster=cluster, overrides=tuple(set))
    wait_for_lease(workspace)
    with _driving(workspace) as lease:
        heirs = drive_command(workspace, cluster, tuple(set))
        ended = _drive(
            workspace, declaration, lease, None, accept_code_change, (), seal=False, progress=False, heirs=heirs
        )
    return Run(workspace.root, ended, resumed=True)


def consolidate(root: str | Path, *, client: Any = None, listeners: Iterable[Listener] = ()) -> dict[str, Any]:
    """Seal every ripe part: asked of the live driver, or done here if there is none."""
    workspace = Workspace.open(root)
    if _alive(workspace):
        return _ask(workspace, "consolidate")
    declaration = load_frozen(workspace.campaign_yaml, directory=workspace.code)
    with _driving(workspace) as lease:
        _drive(workspace, declaration, lease, client, False, listeners, seal=True, progress=False)
    return {"done": True, **status(root)}


def stop(root: str | Path) -> dict[str, Any]:
    """Ask the live driver to issue no more batches and end when those in flight are committed."""
    workspace = Workspace.open(root)
    if _alive(workspace):
        return _ask(workspace, "stop")
    from staffa.execution.slurm.driver import cancel_driver, waiting_driver

    if not waiting_driver(workspace):
        return {"done": True, "why": "no driver is running"}
    job = cancel_driver(workspace, workspace.root.name)
    return {"done": True, "why": f"the driver's job {job} was cancelled" if job else "no driver is running"}


def retry(root: str | Path) -> dict[str, Any]:
    """Try failed and quarantined trials again: by the live driver, or at the next `resume`."""
    workspace = Workspace.open(root)
    if _alive(workspace):
        return _ask(workspace, "retry")
    from staffa.execution.prepare import load_plan, open_stores
    from staffa.execution.tally import failed_trials

    count = 0
    with _driving(workspace) as lease, Ledger.open(workspace, lease) as ledger:
        for trial in failed_trials(open_stores(workspace, load_plan(workspace))):
            ledger.append({"event": "readmitted", "trial": trial})
            count += 1
    return {"done": True, "trials": count, "next": f"staffa {'resume' if count else 'status'} {root}"}


def scale(root: str | Path, workers: Mapping[str, int] | Iterable[str]) -> dict[str, Any]:
    """Have the live driver keep other numbers of workers: `{"gpu": 16}`, or `["gpu=16"]`."""
    workspace = Workspace.open(root)
    wanted = dict(workers) if isinstance(workers, Mapping) else dict(_assigned(word) for word in workers)
    if not _alive(workspace):
        raise ClusterError(
            f"no driver of {root} is running: there is nothing to scale",
            f"staffa resume {root} --set cluster.pools.{next(iter(wanted), 'gpu')}.workers=16",
        )
    return _ask(workspace, "scale", workers=wanted)


def scripts(campaign: Campaign | str | Path, **options: Any) -> dict[str, str]:
    """The job scripts a run would hand in, by pool; the detached driver's own is called `driver`."""
    from staffa.execution.drive import job_scripts

    campaign = _campaign(campaign, options)
    return job_scripts(Workspace(campaign.root.absolute()), campaign.declaration)


def _assigned(word: str) -> tuple[str, int]:
    name, equals, number = word.partition("=")
    if not equals or not number.isdecimal():
        raise ConfigError(f"{word!r} is not POOL=WORKERS", "such as gpu=16, or gpu=0 to let go of all")
    return name, int(number)


def doctor(
    cluster: str | None = None,
    *,
    set: Iterable[str] = (),
    patience: float = 120.0,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Check this machine, and the cluster a config names; every check with what mends it.

    Arguments:
    - `patience`: seconds a probe job may wait in the queue.
    - `tell`: told what is being waited for.
    """
    from staffa.campaign.config import load_machine
    from staffa.doctor import examine, facts

    found = load_machine(cluster, overrides=set)
    checks = examine(
        found.cluster,
        Path(found.storage.root),
        x64=found.execution.x64,
        prng=found.execution.prng,
        patience=patience,
        tell=tell or (lambda text: None),
    )
    return facts(checks)


def reap(run: str | Path | None = None, *, dry_run: bool = False) -> dict[str, Any]:
    """Cancel the jobs of campaigns that nobody drives; `dry_run` only lists them."""
    from staffa.execution.slurm.reap import reap as reap_jobs

    return reap_jobs(run, dry_run=dry_run)


def attach(root: str | Path) -> Run:
    """Look at a campaign from any process, while it runs or after."""
    return Run(Workspace.open(root).root)


def status(root: str | Path) -> dict[str, Any]:
    """The campaign in numbers, from the driver's summary, or from the stores if there is none."""
    workspace = Workspace.open(root)
    summary = read_summary(workspace) or {}
    figures = dict(summary.get("figures") or {})
    holder = read_lease(workspace.lease)
    live = holder is not None and holder.alive()
    if not live and (not figures or "ended" not in (summary.get("run") or {})):
        # The driver died: its last summary is older than the last commit.
        figures |= _counted(workspace)
    # A detached driver (or an heir) that is still in the queue.
    waiting = None if live else read_json(workspace.driver_job)
    if not live:
        figures |= {"flying": 0, "rate": 0.0, "eta": None, "stopping": ""}
    return {
        "root": str(workspace.root),
        "live": live,
        "driver": f"{holder.host}:{holder.pid}" if holder is not None and live else None,
        "driver_job": waiting.get("job") if isinstance(waiting, dict) else None,
        "figures": figures,
        **{k: v for k, v in summary.items() if k != "figures"},
    }


def watch(root: str | Path, every: float = 2.0) -> Iterator[dict[str, Any]]:
    """The campaign's status again and again, every so many seconds, until no driver is at work."""
    while True:
        found = status(root)
        yield found
        if not found["live"]:
            return
        time.sleep(every)


def explain(root: str | Path, trial: str, pool: str | None = None) -> dict[str, Any]:
    """A trial's parameters, where it stands, its whole history, and why it waits or failed.

    `explain(root, "pool", "gpu")` tells why a pool of workers is as it is.
    """
    from staffa.views.explain import explain_trial
    from staffa.views.pools import explain_pool

    workspace = Workspace.open(root)
    if trial == "pool":
        return explain_pool(workspace, pool or "")
    if pool is not None:
        raise ConfigError(f"{trial!r}, {pool!r}: one trial is explained at a time", f"staffa explain {root} {trial}")
    return explain_trial(workspace, trial)


def usage(root: str | Path) -> dict[str, Any]:
    """Node-hours and GPU-hours: useful, compiling, waiting, lost; and what the site's accounting says."""
    from staffa.execution.slurm.driver import accounted
    from staffa.views.usage import usage_facts

    workspace = Workspace.open(root)
    return usage_facts(workspace, lambda pools, since: accounted(workspace, pools, since))


def events(root: str | Path) -> Iterator[dict[str, Any]]:
    """The campaign's history, oldest first."""
    return history(Workspace.open(root))


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

        campaign = _campaign(campaign, {})
        workspace = Workspace(campaign.root.absolute())
        with contextlib.ExitStack() as stack:
            prepared = None
            if not workspace.is_planned:
                prepared = plan(campaign)
                stack.enter_context(_driving(workspace))
            _planned(workspace, campaign.declaration, prepared)
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
        seal = consolidation.order(found.parts[part], fold(history(workspace)), {}, again=True)
        if seal is None:
            raise WorkspaceError(f"part {part} of {workspace.root} has nothing to seal")
        return reduce_graph(seal, found.sampling.segments)


graph = Graph()


def _campaign(campaign: Campaign | str | Path, options: dict[str, Any]) -> Campaign:
    if isinstance(campaign, Campaign):
        if options:
            raise ConfigError(f"options {sorted(options)} go to staffa.load, the campaign is already loaded")
        return campaign
    return load(campaign, **options)


def _dotted(overrides: Mapping[str, Any], directory: Path, prefix: str = "") -> Iterator[str]:
    """Python's overrides as `a.b=c`; a class stands for its reference, unless it lives in a notebook."""
    import json

    from staffa.experiment.registry import reference_of

    for name, value in overrides.items():
        path = prefix + name.replace("__", ".")
        if isinstance(value, Mapping):
            yield from _dotted(value, directory, path + ".")
        elif isinstance(value, type):
            yield f"{path}={json.dumps(reference_of(value, directory))}"
        else:
            yield f"{path}={json.dumps(value)}"


@contextlib.contextmanager
def _located(declaration: Declaration) -> Iterator[None]:
    """Put file and line in front of what SLURM or its limits object to."""
    try:
        yield
    except (ConfigError, ClusterError) as error:
        raise declaration.located(error) from None


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

        with _located(declaration):
            preflight(workspace, declaration, detached)


def _check_dirty(declaration: Declaration, allow: bool) -> None:
    from staffa.storage.provenance import dirty_files

    dirty = dirty_files(declaration.directory)
    if dirty and not allow:
        shown = ", ".join(dirty[:5]) + (" …" if len(dirty) > 5 else "")
        raise WorkspaceError(
            f"the workflow's files differ from their git commit: {shown}", "commit them, or say --allow-dirty"
        )


def _planned(workspace: Workspace, declaration: Declaration, prepared: Prepared | None) -> None:
    """Write the plan down, or make sure that the one that stands is the one that is meant."""
    from staffa.execution.prepare import check_unchanged, create

    if prepared is None or workspace.is_planned:
        check_unchanged(declaration, workspace)
    else:
        create(prepared, workspace)


@contextlib.contextmanager
def _driving(workspace: Workspace) -> Iterator[Lease]:
    """Hold the lease of a workspace. A first plan is checked before: here folders are made."""
    with _disk_told(workspace):
        Workspace.create(workspace.root)
        with Lease.acquire(workspace.lease, over=_over) as lease:
            yield lease


def _over(holder: Holder) -> bool:
    """Whether a driver that ran as a job has ended, as SLURM knows."""
    if not holder.job:
        return False
    from staffa.execution.slurm.driver import job_over

    return job_over(holder.job)


@contextlib.contextmanager
def _disk_told(workspace: Workspace) -> Iterator[None]:
    """Turn a full or broken disk, where nobody waits for room, into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        again = f"staffa resume {workspace.root}" if workspace.is_planned else "the same command again"
        raise ClusterError(f"the disk fails: {error}", f"make room, then: {again}") from error


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
        if progress is not False and not seal:
            from staffa.views.live import follow

            heard.append(stack.enter_context(follow(load_plan(workspace).trials, workspace.root, progress)))
        return drive(workspace, declaration, lease, client, accept, heard, seal=seal, heirs=heirs)


def _detached(workspace: Workspace, declaration: Declaration, accept: bool, resumed: bool) -> Run:
    """Let a driver of its own go on: a small SLURM job, or a process without a terminal."""
    from staffa.execution.drive import detach

    detach(workspace, declaration, accept)
    return Run(workspace.root, None, resumed)


def _alive(workspace: Workspace) -> bool:
    holder = read_lease(workspace.lease)
    return holder is not None and holder.alive()


def _ask(workspace: Workspace, verb: str, **arguments: Any) -> dict[str, Any]:
    request = control.ask(workspace, verb, **arguments)
    reply = control.wait_answer(workspace, request, ANSWER_SECONDS)
    if reply is None:
        control.withdraw(workspace, request)
        return {"done": False, "why": f"the driver did not answer within {ANSWER_SECONDS:.0f} s"}
    return reply


def _counted(workspace: Workspace) -> dict[str, Any]:
    """Numbers from the stores alone, where no driver left a summary."""
    from staffa.execution.prepare import load_plan, open_stores
    from staffa.execution.tally import counted

    found = load_plan(workspace)
    # Supplements are called `part-00007-s1`: they belong to a part that counts already.
    sealed = sum(1 for path in workspace.trials_archive.glob("part-*.parquet") if path.stem.count("-") == 1)
    return {**counted(found, open_stores(workspace, found)), "sealed": sealed}


def _numbered(found: Any, batch: int) -> tuple[int, int]:
    for number, group in enumerate(found.groups):
        if 0 <= batch < group.batches:
            return number, batch
        batch -= group.batches
    raise ConfigError(f"there is no batch {batch}: the campaign has {found.batches}")


def _place(workspace: Workspace, found: Any, trial: int | str) -> tuple[int, int]:
    from staffa.storage.roster import find_trial

    row = find_trial(workspace.trials(found.generation), str(trial))
    if row is None:
        raise ConfigError(
            f"{trial!r} is no trial of {workspace.root}", "give its index, or the beginning of its digest"
        )
    return int(row["group"]), int(row["row"]) // found.groups[row["group"]].batch
