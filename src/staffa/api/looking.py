"""Looking at a campaign on disk, from any process, while it runs or after."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.errors import ConfigError
from staffa.storage.files import read_json
from staffa.storage.lease import read_lease
from staffa.storage.ledger import history, read_summary
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.api.searching import Search
    from staffa.execution.ending import Ended
    from staffa.views.drawing.style import Drawing
    from staffa.views.report import Report
    from staffa.views.results import Results

QUEUE_SECONDS = 5.0
"""How often the queue is asked for a driver that has yet to begin."""


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
        """What it has found so far, by natural names; opening reads no data."""
        from staffa.views.results import Results

        return Results(Workspace.open(self.root))

    @property
    def search(self) -> Search:
        """What an adaptive search has found so far: `.best`, `.top(10)`, `.fronts()`, `.history`, `.plot()`.

        Raises `ConfigError` for a campaign whose points were listed.
        """
        from staffa.api.searching import Search

        return Search(Workspace.open(self.root))

    @property
    def status(self) -> dict[str, Any]:
        """The campaign in numbers, as `staffa.status` has them."""
        return status(self.root)

    def watch(self, every: float = 2.0) -> Run:
        """Show a campaign that is driven elsewhere, as `run` shows its own, until nobody drives it any more.

        Arguments:
        - `every`: seconds between two looks.
        """
        from staffa.views.live import follow

        with follow(int(status(self.root)["figures"].get("trials", 0)), self.root) as show:
            for found in watch(self.root, every):
                show({"event": "figures", **found["figures"]})
        return self

    def events(self) -> Iterator[dict[str, Any]]:
        """The campaign's history, oldest first."""
        return events(self.root)

    def expand(self, together: Mapping[str, Iterable[Any]] | None = None, /, **changes: Any) -> dict[str, Any]:
        """Let the campaign grow; `staffa.resume(run.root)` then runs what is new.

        Arguments:
        - `together`: more points, as `Campaign.explore` takes them: lists of equal length for exactly the explored
          parameters. Where the space is a product give it whole instead, `space=[…]`.
        - `changes`: as for `staffa.expand`.
        """
        from staffa.api.changing import expand
        from staffa.execution.growing import appended

        if together is not None:
            changes["space"] = appended(Workspace.open(self.root), together)
        return expand(self.root, **changes)

    def shrink(self, where: str | None = None, **changes: Any) -> dict[str, Any]:
        """Drop trials that were not issued yet: those a condition names, or those outside of a smaller space.

        Arguments as for `staffa.shrink`.
        """
        from staffa.api.changing import shrink

        return shrink(self.root, where=where, **changes)

    def query(self, sql: str) -> Any:
        """Ask the archive in SQL over `draws`, `trials`, `failed`; a pandas frame."""
        return self.results.query(sql)

    def report(self, *, to: str | Path | None = None, set: Iterable[str] = ()) -> Report:
        """Write the campaign's report; see `staffa.report`."""
        from staffa.api.reporting import report

        return report(self.root, to=to, set=set)

    def plot(self, **asked: Any) -> Drawing:
        """Draw results: `run.plot(x="scale", y="energy", by="sampler")`; see `staffa.plot`."""
        from staffa.api.reporting import plot

        return plot(self.root, **asked)

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r})"


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
    if not figures or (not live and "ended" not in (summary.get("run") or {})):
        # The driver died: its last summary is older than the last commit. Or the first has yet to come.
        figures |= _counted(workspace)
    # A detached driver (or an heir) that is still in the queue.
    waiting = None if live else read_json(workspace.driver_job)
    if not live:
        figures |= {"flying": 0, "rate": 0.0, "eta": None, "stopping": ""}
    provenance = read_json(workspace.provenance) or {}
    return {
        "root": str(workspace.root),
        "run_hash": provenance.get("run_hash"),
        "tags": sorted(provenance.get("tags") or {}),
        "live": live,
        "driver": f"{holder.host}:{holder.pid}" if holder is not None and live else None,
        "driver_job": waiting.get("job") if isinstance(waiting, dict) else None,
        "figures": figures,
        **{k: v for k, v in summary.items() if k != "figures"},
    }


def watch(root: str | Path, every: float = 2.0) -> Iterator[dict[str, Any]]:
    """The campaign's status again and again, every so many seconds, until no driver is at work or in the queue."""
    while True:
        found = status(root)
        yield found
        if not found["live"] and not _awaited(root, found):
            return
        # Asking the queue costs SLURM something.
        time.sleep(every if found["live"] else max(every, QUEUE_SECONDS))


def _awaited(root: str | Path, found: Mapping[str, Any]) -> bool:
    """Whether a detached driver has yet to begin, or hands over to the next."""
    if not found["driver_job"]:
        return False
    from staffa.execution.slurm.driver import awaited

    return awaited(Workspace.open(root))


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


def telemetry(source: str | Path, event: str | None = None, *, show: Iterable[str] = ()) -> dict[str, Any]:
    """What a campaign's events (or one journal's) add up to: mean, percentiles and maximum of every number.

    Arguments:
    - `event`: the kind of events; by default those of settled batches.
    - `show`: fields, or what they stand in, such as `timings`; by default all.
    """
    from staffa.views.telemetry import DEFAULT_EVENT, telemetry_facts

    return telemetry_facts(source, event or DEFAULT_EVENT, tuple(show))


def events(root: str | Path) -> Iterator[dict[str, Any]]:
    """The campaign's history, oldest first."""
    return history(Workspace.open(root))


def _counted(workspace: Workspace) -> dict[str, Any]:
    """Numbers from the stores alone, where no driver left a summary."""
    from staffa.execution.prepare import load_plan, open_stores
    from staffa.execution.tally import counted

    found = load_plan(workspace)
    # Supplements are called `part-00007-s1`: they belong to a part that counts already.
    sealed = sum(1 for path in workspace.trials_archive.glob("part-*.parquet") if path.stem.count("-") == 1)
    return {**counted(found, open_stores(workspace, found)), "sealed": sealed}
