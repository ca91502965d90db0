"""Who is told of a run, as the campaign declares it: alerts, hooks, trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from staffa.campaign.config import Declaration, plain
from staffa.errors import ConfigError, near
from staffa.execution.alerts import LOOK_SECONDS, Alert
from staffa.execution.aside import Aside, Companion
from staffa.execution.hooks import RunHooks, TrialHooks
from staffa.execution.outside import Scene
from staffa.execution.trackers import Tracking
from staffa.experiment.plugins import offers
from staffa.experiment.registry import check_file
from staffa.storage.files import read_json
from staffa.storage.workspace import Workspace
from staffa.telemetry import run_id


def check_company(declaration: Declaration) -> None:
    """Refuse hooks, trackers and who is asked `after` that are not there; nothing of them is imported.

    Raises `ConfigError` that begins with the dotted path.
    """
    config, directory = declaration.campaign, declaration.directory
    hooks = config.hooks
    around = [("pre_run", hooks.pre_run), ("post_run", hooks.post_run)]
    functions = [(f"hooks.{name}[{n}]", hook) for name, them in around for n, hook in enumerate(them)]
    functions += [("hooks.pre_trial", hooks.pre_trial), ("hooks.post_trial", hooks.post_trial)]
    for field, hook in functions:
        if isinstance(hook, str):
            check_file(field, hook, directory)
    if config.after is not None:
        check_file("after.use", config.after.use, directory)
    for number, tracker in enumerate(config.trackers):
        _check_tracker(f"trackers[{number}].use", tracker.use, directory)


def company(workspace: Workspace, declaration: Declaration, driver: str) -> Iterator[Companion]:
    """Everyone a campaign wants told, each with a thread of their own: listeners for `drive`.

    Arguments:
    - `driver`: the lease, which the run is named after.
    """
    config = declaration.campaign
    scene = Scene(
        workspace.root,
        _source(workspace),
        workspace.code,
        workspace.logs / "outside.out",
        run_id(config.campaign.name, driver),
    )
    if config.alerts or config.trackers or config.hooks != type(config.hooks)():
        workspace.logs.mkdir(parents=True, exist_ok=True)
    for number, alert in enumerate(config.alerts):
        yield Aside(f"alert-{number}", Alert(alert, scene), every=LOOK_SECONDS)
    for number, tracker in enumerate(config.trackers):
        block = tracker.model_dump(mode="json")
        yield Aside(f"tracker-{number}", Tracking(block, number, plain(declaration), scene))
    for name, function in (("pre_trial", config.hooks.pre_trial), ("post_trial", config.hooks.post_trial)):
        if function is not None:
            yield Aside(name, TrialHooks(name, function, config.hooks, scene))
    if config.hooks.pre_run or config.hooks.post_run:
        yield RunHooks(config.hooks, scene)


def _source(workspace: Workspace) -> Path:
    """Where the workflow's own commands lie: the folder it was planned from, if that is still there."""
    facts = read_json(workspace.provenance)
    source = Path(str(facts.get("source"))) if isinstance(facts, Mapping) and facts.get("source") else workspace.code
    return source if source.is_dir() else workspace.root


def _check_tracker(field: str, use: str, directory: Path) -> None:
    if ":" in use or use.endswith(".py"):
        check_file(field, use, directory)
        return
    known = [offer.name for offer in offers("trackers")]
    if use not in known:
        hint = near(use, known) or "no tracker is installed; for a file write tracker.py:Class"
        raise ConfigError(f"{field}: there is no tracker {use!r}", hint)
