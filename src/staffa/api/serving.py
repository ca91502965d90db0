"""Serving a search over HTTP: to those who do its trials, or to those who look at it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from staffa.api.declaring import Campaign, campaign_of
from staffa.api.driving import planned
from staffa.api.holding import driven
from staffa.campaign.config import Declaration, load_frozen
from staffa.errors import ConfigError, PluginError, WorkspaceError
from staffa.experiment.external import EXTERNAL
from staffa.storage.files import DISK
from staffa.storage.ledger import Tail
from staffa.storage.workspace import Workspace

SHELVE_SECONDS = 2.0
FOLLOW_SECONDS = 1.0


def serve(
    campaign: Campaign | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    tls: bool = False,
    lease: float | None = None,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> None:
    """Serve a search over HTTP until it is stopped; nothing is lost, and serving it again goes on.

    A search of `experiment: {use: external}` is done by whoever asks: programs in any language ask for trials and tell
    what came of them. Any other is done by its driver, and is looked at here.

    Arguments:
    - `campaign`: a campaign or its file, which is planned if it is not yet; or the folder of a planned one.
    - `host`, `port`: where; the next free port if it is taken. Beyond this machine only with TLS: a `certificate` and
      its `key` (PEM), or `tls` to have one made.
    - `lease`: seconds a trial is its worker's without a heartbeat.

    Raises `ConfigError` for a campaign without a search and for a host that cannot be served at, `WorkspaceError` where
    another process drives or serves it.
    """
    from staffa.search.study import LEASE

    _check_installed()
    workspace, declared = _found(campaign, options)
    config = declared.campaign
    if config.search is None:
        raise ConfigError(f"{config.campaign.name}: has no section `search`", "only a search can be served")
    from staffa.search.serving.server import PORT

    where: dict[str, Any] = {"host": host, "port": PORT if port is None else port, "tls": tls}
    where |= {"certificate": certificate, "key": key} | ({"say": say} if say else {})
    if config.experiment.use == EXTERNAL:
        _check_told(declared)
        _serve(workspace, declared, where, LEASE if lease is None else lease)
    else:
        _show(workspace, where)


def _found(campaign: Campaign | str | Path, options: dict[str, Any]) -> tuple[Workspace, Declaration]:
    if not isinstance(campaign, Campaign) and Path(campaign).is_dir():
        workspace = Workspace.open(campaign)
        return workspace, load_frozen(workspace.frozen, directory=workspace.code)
    declared = campaign_of(campaign, options)
    return Workspace(declared.root.absolute()), declared.declaration


def _check_installed() -> None:
    lacking = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if lacking:
        raise PluginError(f"a server needs {' and '.join(lacking)}", "pip install 'staffa[serve]'")


def _check_told(declared: Declaration) -> None:
    """What is told has to be what is recorded."""
    from staffa.campaign.objectives import Objectives

    config = declared.campaign
    assert config.search is not None
    names, outputs = list(config.search.objectives), list(config.experiment.options.get("outputs", ()))
    if sorted(names) != sorted(outputs):
        raise ConfigError(
            f"experiment.outputs: {outputs} are told, but the objectives are {names}",
            f"experiment: {{use: external, outputs: [{', '.join(names)}]}}",
        )
    for name, of in Objectives.read(config.search.objectives).columns.items():
        if of != name:
            raise ConfigError(f"search.objectives.{name}.of: {of!r}, but {name} itself is told", "leave out `of`")
    if config.archive.partition_by:
        raise ConfigError("archive.partition_by: a served search has one partition", "leave it out")


def _serve(workspace: Workspace, declared: Declaration, where: dict[str, Any], lease: float) -> None:
    from staffa.execution.prepare import load_plan, open_stores, unfolded
    from staffa.execution.shelving import Shelf
    from staffa.search.serving import open_study
    from staffa.search.serving import serve as serve_study
    from staffa.storage.ledger import Ledger

    prepared = None if workspace.is_planned else unfolded(declared)
    with driven(workspace) as held:
        declared = planned(workspace, declared, prepared, grows=True)
        config, plan = declared.campaign, load_plan(workspace)
        assert config.search is not None
        search, stores = config.search, open_stores(workspace, plan)
        with Ledger.open(workspace, held) as ledger:
            study = open_study(
                workspace.root,
                search.space,
                ledger.books.objectives or search.objectives,
                strategy={"use": search.strategy.use, **search.strategy.options},
                trials=search.trials,
                seed=config.seeds.pack().channel("space"),
                retries=config.execution.retries.limit,
                lease=lease,
            )
            with (
                contextlib.closing(study),
                contextlib.closing(Shelf(workspace, config, plan, stores, ledger, study, _stop)) as shelf,
                _beside(shelf.turn, SHELVE_SECONDS),
            ):
                serve_study(workspace.root, study, rescore=shelf.change, **where)


def _show(workspace: Workspace, where: dict[str, Any]) -> None:
    """Let a search that its driver runs be looked at."""
    from staffa.api.searching import Search
    from staffa.campaign.domain import Domain
    from staffa.campaign.objectives import Objectives
    from staffa.execution.prepare import load_plan, open_stores, strategy_of
    from staffa.execution.watching import Watching
    from staffa.search.journal import Journal
    from staffa.search.serving import serve as serve_study
    from staffa.search.study import Study

    if not workspace.is_planned:
        raise ConfigError(f"{workspace.root} is not planned yet", "staffa run CAMPAIGN; then serve its folder")
    config = load_frozen(workspace.frozen, directory=workspace.code).campaign
    search, plan = config.search, load_plan(workspace)
    assert search is not None
    with tempfile.TemporaryDirectory(prefix="staffa-") as folder:
        journal = Journal.open(Path(folder) / "search.jsonl")
        domain, objectives = Domain.read(search.space), Objectives.read(search.objectives)
        study = Study(
            domain, objectives, strategy_of(config), trials=search.trials, retries=0, lease=math.inf, journal=journal
        )
        watching, tail, lock = Watching(plan, open_stores(workspace, plan), study), Tail(workspace), threading.Lock()

        def follow() -> None:
            with lock:
                for event in tail.news():
                    if event["event"] == "grown" and event["generation"] > plan.generation:
                        raise WorkspaceError(f"{workspace.root} has grown", f"staffa serve {workspace.root}")
                    watching.note(event)

        def change(patch: Mapping[str, Mapping[str, Any]]) -> None:
            Search(workspace).change(patch)
            follow()

        with contextlib.closing(study), _beside(follow, FOLLOW_SECONDS):
            serve_study(workspace.root, study, elsewhere=f"its driver ({workspace.root})", rescore=change, **where)


@contextlib.contextmanager
def _beside(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do something now, and now and then in a thread of its own. What it fails of ends the server, and is raised.

    A full disk is no failure: it is tried again.
    """
    stop, failed = threading.Event(), list[BaseException]()
    action()

    def run() -> None:
        while not stop.wait(seconds):
            try:
                action()
            except BaseException as error:
                if isinstance(error, OSError) and error.errno in DISK:
                    continue
                failed.append(error)
                _stop()
                return

    thread = threading.Thread(target=run, name="beside", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
