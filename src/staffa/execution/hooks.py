"""Hooks: commands and functions of the user's own, around a run and told of its trials.

`RunHooks` holds the run up until what is to be done before it is done, or failed; `TrialHooks`
follows behind: a trial's hook is called soon after the fact, never in its way. What fails is noted.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from staffa.campaign.alerts import HooksConfig
from staffa.execution.aside import Aside, Event
from staffa.execution.guest import Guest, NotLoaded
from staffa.execution.outside import Failed, Scene, run_command
from staffa.telemetry import record
from staffa.telemetry.events import HookEnded, HookFailed

FUNCTION, TRIALS = "staffa.execution.called:Function", "staffa.execution.called:Trials"
GIVE_UP = 5
"""Failures in a row after which a trial's hook is not called any more."""


class RunHooks(Aside):
    """What is called before and after a run."""

    def __init__(self, config: HooksConfig, scene: Scene) -> None:
        self._mine = _RunMind(config, scene)
        super().__init__("hooks", self._mine, drain=float("inf"))

    @property
    def holds(self) -> bool:
        return not self._mine.prepared.is_set() and self.busy


class _RunMind:
    def __init__(self, config: HooksConfig, scene: Scene) -> None:
        self._config, self._scene = config, scene
        self.prepared = threading.Event()

    def wants(self, event: Event) -> bool:
        return event["event"] in ("run_started", "run_ended")

    def take(self, events: Sequence[Event], halt: threading.Event) -> Iterator[dict[str, Any]]:
        for event in events:
            before = event["event"] == "run_started"
            try:
                for hook in self._config.pre_run if before else self._config.post_run:
                    yield self._called("pre_run" if before else "post_run", hook, event, halt)
            finally:
                self.prepared.set()

    def end(self) -> None:
        self.prepared.set()

    def _called(self, name: str, hook: str | tuple[str, ...], event: Event, halt: threading.Event) -> dict[str, Any]:
        what, began = hook if isinstance(hook, str) else hook[0], time.monotonic()
        facts = {**event, "hook": name, "run": str(self._scene.root)}
        try:
            if isinstance(hook, str):
                self._function(name, hook, facts, halt)
            else:
                self._command(name, hook, facts, halt)
        except Failed as error:
            return record(HookFailed(hook=name, what=what, why=str(error)))
        return record(HookEnded(hook=name, what=what, seconds=round(time.monotonic() - began, 3)))

    def _function(self, name: str, hook: str, facts: Mapping[str, Any], halt: threading.Event) -> None:
        said = {"use": hook, "directory": str(self._scene.code), "field": f"hooks.{name}"}
        guest = Guest(FUNCTION, said, self._scene.environment(name), self._scene.log)
        try:
            guest.call("call", facts, self._config.timeout, halt)
        finally:
            guest.end()

    def _command(self, name: str, hook: Sequence[str], facts: Mapping[str, Any], halt: threading.Event) -> None:
        run_command(
            hook,
            said=json.dumps(facts, default=str),
            environment=self._scene.environment(name, reason=str(facts.get("reason", ""))),
            directory=self._scene.source,
            log=self._scene.log,
            limit=self._config.timeout,
            halt=halt,
        )


class TrialHooks:
    """A function that is told of single trials (a `Mind`).

    Arguments:
    - `name`: `pre_trial` or `post_trial`.
    """

    def __init__(self, name: str, reference: str, config: HooksConfig, scene: Scene) -> None:
        self._name, self._reference, self._config = name, reference, config
        self._heard = "batch_issued" if name == "pre_trial" else "batch_settled"
        said = {
            "use": reference,
            "directory": str(scene.code),
            "field": f"hooks.{name}",
            "root": str(scene.root),
            "settled": name == "post_trial",
        }
        self._guest = Guest(TRIALS, said, scene.environment(name), scene.log)
        self._failures = 0

    def wants(self, event: Event) -> bool:
        return event["event"] == self._heard and self._failures < GIVE_UP

    def take(self, events: Sequence[Event], halt: threading.Event) -> Iterator[dict[str, Any]]:
        for event in events:
            if halt.is_set() or self._failures >= GIVE_UP:
                return
            try:
                self._guest.call("call", dict(event), self._config.timeout, halt)
                self._failures = 0
            except Failed as error:
                self._failures = GIVE_UP if isinstance(error, NotLoaded) else self._failures + 1
                left = " (it is not called any more)" * (self._failures >= GIVE_UP)
                yield record(HookFailed(hook=self._name, what=self._reference, why=f"{error}{left}"))

    def end(self) -> None:
        self._guest.end()
