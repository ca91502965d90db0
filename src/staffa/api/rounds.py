"""Campaigns that grow by their own results: round by round, what was found decides what is tried next.

When all trials are settled, a function is asked what comes after. What it answers is added as `staffa expand` adds it,
and the campaign goes on. Nothing but the campaign's own folder is remembered, and a growth joins it whole or not at
all: whoever was killed, at any moment, is asked again with the results as they stand. So the function has to answer
from the results alone, and the same results with the same words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from staffa.api.changing import grow
from staffa.api.holding import driven
from staffa.campaign.config import Declaration
from staffa.errors import ConfigError, PluginError, near
from staffa.storage.ledger import Ledger, history
from staffa.storage.roster import read_rosters
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.views.results import Results

After = Callable[["Results", "Results"], Any]
"""Told the results of all trials, and of those that are new since it was asked before."""

GROWTH = ("points", "space", "replicates", "inputs")
"""What an answer may say: points, or as for `staffa.expand`."""
ROUNDS = 100
EVENT = "round_settled"


@dataclass(frozen=True)
class Rounds:
    """Who is asked, and how often.

    Arguments:
    - `name`: the function, for the ledger.
    - `limit`: how often it is asked at most, over all runs of the campaign.
    - `ask`: called with the latest generation it has been told of before, -1 where there is none.
    """

    name: str
    limit: int
    ask: Callable[[Workspace, int], dict[str, Any]]


def rounds_of(declaration: Declaration, after: After | None, limit: int | None) -> Rounds | None:
    """Who is asked: the function given here, or the one that the campaign names; None where nobody is."""
    named = declaration.campaign.after
    most = limit if limit is not None else named.rounds if named is not None else ROUNDS
    if after is not None:
        name = getattr(after, "__qualname__", type(after).__name__)
        return Rounds(name, most, lambda workspace, since: growth(after(*_told(workspace, since)), name))
    if named is None:
        return None
    return Rounds(named.use, most, lambda workspace, since: _of_guest(workspace, named.use, named.timeout, since))


def more(workspace: Workspace, rounds: Rounds) -> bool:
    """Ask what comes after, and have the campaign grow by it; whether there is something to run now.

    Raises whatever the function raises, `PluginError` where it is the campaign's own.
    """
    generation = workspace.generation
    before = sorted({int(event["generation"]) for event in history(workspace) if event["event"] == EVENT})
    before = [number for number in before if number < generation]
    since = before[-1] if before else -1
    if len(before) >= rounds.limit:
        _note(workspace, rounds, len(before) + 1, since, False, f"no more than {rounds.limit} rounds are asked for")
        return False
    try:
        answer = rounds.ask(workspace, since)
    except Exception as error:
        _note(workspace, rounds, len(before) + 1, since, False, f"{type(error).__name__}: {error}"[:300])
        raise
    _note(workspace, rounds, len(before) + 1, since, bool(answer))
    return bool(answer) and grow(workspace, answer) > 0


def growth(answer: Any, name: str) -> dict[str, Any]:
    """What a function answered as `grow` takes it; empty for nothing.

    Points are a list of mappings, or a frame with a row for each.
    """
    if hasattr(answer, "to_dict") and hasattr(answer, "columns"):
        answer = answer.to_dict("records")
    if answer is None:
        return {}
    found = json.loads(json.dumps(answer, default=lambda value: _plain(value, name)))
    if isinstance(found, list) and all(isinstance(point, dict) for point in found):
        return {"points": found} if found else {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"after: {name} answered {str(answer)[:80]!r}",
            "answer with None, with points ([{'x': 1.0}]), or as for expand: {'replicates': 8}",
        )
    for key in found:
        if key not in GROWTH:
            raise ConfigError(f"after: {name} answered with {key!r}, by which no campaign grows", near(key, GROWTH))
    return found


class Asked:
    """The campaign's own function, in a process of its own (see `staffa.execution.guest`)."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        from staffa.execution.called import Function

        self._function, self._name = Function(said), str(said["use"])
        self._workspace = Workspace.open(said["root"])

    def after(self, since: int) -> dict[str, Any]:
        return growth(self._function.answer(*_told(self._workspace, since)), self._name)


def _of_guest(workspace: Workspace, use: str, timeout: float, since: int) -> dict[str, Any]:
    from staffa.execution.guest import Guest
    from staffa.execution.outside import Failed

    said = {"use": use, "directory": str(workspace.code), "field": "after.use", "root": str(workspace.root)}
    told = {"STAFFA_RUN": str(workspace.root), "STAFFA_EVENT": "after"}
    guest = Guest(f"{Asked.__module__}:{Asked.__name__}", said, told, workspace.logs / "outside.out")
    try:
        return dict(guest.call("after", since, timeout, threading.Event()) or {})
    except Failed as error:
        raise PluginError(f"after.use: {use}: {error}", f"mend it, then: staffa resume {workspace.root}") from None
    finally:
        guest.end()


def _told(workspace: Workspace, since: int) -> tuple[Results, Results]:
    """The results of all trials, and of those of later generations than `since`."""
    from staffa.views.results import Results

    return Results(workspace), Results(workspace, _trials(workspace, since)["trial"].cast("string").combine_chunks())


def _trials(workspace: Workspace, since: int) -> Any:
    return read_rosters([workspace.trials(number) for number in range(since + 1, workspace.generation + 1)], ["trial"])


def _note(workspace: Workspace, rounds: Rounds, number: int, since: int, goes_on: bool, why: str = "") -> None:
    from staffa.telemetry import record
    from staffa.telemetry.events import RoundSettled

    event = RoundSettled(
        round=number,
        generation=workspace.generation,
        what=rounds.name,
        trials=_trials(workspace, -1).num_rows,
        new=_trials(workspace, since).num_rows,
        goes_on=goes_on,
        why=why,
    )
    with driven(workspace) as lease, Ledger.open(workspace, lease) as ledger:
        ledger.append(record(event))


def _plain(value: Any, name: str) -> Any:
    """What JSON does not know as it does: NumPy's numbers and arrays, other mappings."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"after: {name} answered with {value!r}, which is no parameter's value", "numbers and texts are")
