"""Alerts: somebody is told when a run finishes, fails too often, stalls, is stuck or paused.

`Judge` decides, on whatever clock, whether to tell; `Alert` tells, from a thread of its own. What
cannot be delivered is noted and nothing else: a dead server never stops a run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from staffa.campaign.alerts import FAILED, AlertConfig
from staffa.execution.aside import FIGURES, Event
from staffa.execution.outside import Failed, Scene, discreet, post, run_command, shown
from staffa.telemetry import record
from staffa.telemetry.events import AlertFailed, AlertSent

HEARD = frozenset({FIGURES, "run_started", "run_ended", "paused", "continued"})
ENOUGH = 20
"""Settled trials before a rate of failures means anything."""
STALLED_SECONDS = 600.0
ATTEMPTS = 3
"""Of reaching a web server; a command may have done half of what it does, and is run once."""
WAIT_SECONDS = 1.0
"""Before the second attempt; twice as long before the next."""
LOOK_SECONDS = 1.0
PEACEFUL = frozenset({"finished", "stopped", "interrupted", "handover", "consolidated"})
"""Reasons for a run's end that are no failure."""


@dataclass
class Judge:
    """Whether what an alert is about is so, and whether it is time to tell.

    Arguments:
    - `name`: the campaign, for the text.
    """

    config: AlertConfig
    name: str
    figures: Event = field(default_factory=dict)
    _moved: float = 0.0
    """When a trial was last settled."""
    _since: float | None = None
    """Since when it is so."""
    _told: float | None = None
    _ended: Event | None = None

    def note(self, event: Event, now: float) -> None:
        """Take in what happened."""
        name = event["event"]
        if name == "run_started":
            self._moved = now
        elif name == "run_ended":
            self._ended = event
        elif name in ("paused", "continued"):
            self.figures = {**self.figures, "paused": name == "paused"}
        elif name == FIGURES:
            if event.get("settled") != self.figures.get("settled"):
                self._moved = now
            self.figures = event

    def due(self, now: float) -> str:
        """What is to be told now; empty for nothing. Asking is taking: it is not due again before `every`."""
        text = self._ending() if self._ended is not None else self._going(now)
        if not text:
            self._since = None
            return ""
        self._since = self._since if self._since is not None else now
        lasts = now - self._since >= (self.config.lasting or 0.0)
        if not lasts or (self._told is not None and now - self._told < self.config.every):
            return ""
        self._told = now
        return f"{self.name}: {text}"

    def _ending(self) -> str:
        assert self._ended is not None
        reason = str(self._ended.get("reason"))
        if self._told is not None:
            return ""
        if self.config.on == "finished" and reason == "finished":
            return f"finished: {self._counts()}"
        if self.config.on == "failed" and reason not in PEACEFUL:
            said = self._ended.get("message")
            return f"the driver gave up ({reason}){': ' * bool(said)}{discreet(str(said or ''))}; {self._counts()}"
        return ""

    def _going(self, now: float) -> str:
        config, figures = self.config, self.figures
        if config.on == "stalled":
            return self._stalled(now)
        if config.on == "paused" and figures.get("paused"):
            return f"paused; {self._counts()}"
        if config.on == "stuck" and (stuck := (figures.get("lagging") or {}).get("stuck")):
            worst = figures["lagging"]["batches"][0]
            return f"{stuck} batches seem stuck, first of all {worst['batch']} on {worst['node'] or worst['worker']}"
        if config.on == "failure_rate" and config.above is not None:
            share, settled = self._share(), int(figures.get("settled", 0))
            if settled >= ENOUGH and share > config.above:
                return f"{share:.1%} of {settled:,} settled trials failed (above {config.above:.1%})"
        return ""

    def _stalled(self, now: float) -> str:
        waiting = int(self.figures.get("settled", 0)) < int(self.figures.get("trials", 0))
        patience = STALLED_SECONDS if self.config.lasting is None else self.config.lasting
        quiet = now - self._moved
        if not waiting or quiet < patience:
            return ""
        # It has lasted already.
        self._since = self._moved
        return f"nothing was settled for {quiet:,.0f} s; {self._counts()}, {self.figures.get('workers', 0)} workers"

    def _share(self) -> float:
        counts: Mapping[str, int] = self.figures.get("outcomes") or {}
        settled = max(int(self.figures.get("settled", 0)), 1)
        return sum(int(counts.get(word, 0)) for word in self.config.outcomes or FAILED) / settled

    def _counts(self) -> str:
        counts: Mapping[str, int] = self.figures.get("outcomes") or {}
        told = ", ".join(f"{word} {count:,}" for word, count in counts.items() if count)
        trials = f"{int(self.figures.get('settled', 0)):,} of {int(self.figures.get('trials', 0)):,} trials settled"
        return f"{trials} ({told})" if told else trials


class Alert:
    """Tells somebody when its judge says so (a `Mind`)."""

    def __init__(self, config: AlertConfig, scene: Scene, clock: Callable[[], float] = time.time) -> None:
        self._config, self._scene, self._clock = config, scene, clock
        self._judge = Judge(config, scene.root.name)

    def wants(self, event: Event) -> bool:
        return event["event"] in HEARD

    def take(self, events: Sequence[Event], halt: threading.Event) -> list[dict[str, Any]]:
        said: list[str] = [] if events else [self._judge.due(self._clock())]
        for event in events:
            self._judge.note(event, self._clock())
            said.append(self._judge.due(self._clock()))
        return [self._tell(text, halt) for text in said if text]

    def end(self) -> None:
        """Nothing is kept open."""

    def _tell(self, text: str, halt: threading.Event) -> dict[str, Any]:
        config = self._config
        to = _shown(config)
        try:
            self._deliver(json.dumps(self._facts(text), default=str), text, halt)
        except Failed as error:
            return record(AlertFailed(alert=config.on, to=to, text=text, why=str(error)))
        return record(AlertSent(alert=config.on, to=to, text=text))

    def _facts(self, text: str) -> dict[str, Any]:
        return {
            "alert": self._config.on,
            "text": text,
            "run": str(self._scene.root),
            "run_id": self._scene.run_id,
            "host": os.uname().nodename,
            "at": self._clock(),
            "figures": {name: value for name, value in self._judge.figures.items() if name != "event"},
        }

    def _deliver(self, facts: str, text: str, halt: threading.Event) -> None:
        if self._config.command is not None:
            run_command(
                self._config.command,
                said=facts,
                environment=self._scene.environment(self._config.on, text=text),
                directory=self._scene.source,
                log=self._scene.log,
                limit=self._config.timeout,
                halt=halt,
            )
            return
        url = _resolved(self._config.webhook or "")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return post(url, facts.encode(), self._config.timeout)
            except Failed as error:
                if attempt == ATTEMPTS or halt.wait(WAIT_SECONDS * 2 ** (attempt - 1)):
                    raise Failed(f"{error}{f' ({attempt} attempts)' * (attempt > 1)}") from None


def _shown(config: AlertConfig) -> str:
    """Whom an alert tells, without anything secret: a command by its name only."""
    if config.command is not None:
        return config.command[0]
    address = config.webhook or ""
    return address if address.startswith("$") else shown(address)


def _resolved(address: str) -> str:
    """The URL itself, where a variable names it."""
    if not address.startswith("$"):
        return address
    if not os.environ.get(address[1:]):
        raise Failed(f"the variable {address} is not set where the driver runs")
    return os.environ[address[1:]]
