"""How a run ends, and how it is asked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from staffa.campaign.plan import Plan
from staffa.execution.tally import counted
from staffa.storage.hot import HotStore
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    reason: str
    """`finished`, `stopped`, `interrupted`."""
    outcomes: dict[str, int]
    quarantined: int
    seconds: float

    @property
    def exit_code(self) -> int:
        if self.reason != "finished":
            return 130
        healthy = self.outcomes.get(Outcome.OK.word, 0)
        return 0 if healthy == sum(self.outcomes.values()) else 1


def nothing_left(plan: Plan, stores: Mapping[int, HotStore], workspace: Workspace, sealing: bool) -> Ended | None:
    """How the campaign has ended already, if every trial has its data and every part is sealed."""
    found = counted(plan, stores)["outcomes"]
    complete = sum(found.get(o.word, 0) for o in Outcome if o.has_data) == plan.trials
    sealed = not sealing or all((workspace.trials_archive / f"{p.name}.parquet").exists() for p in plan.parts)
    return Ended("finished", found, 0, 0.0) if complete and sealed else None


@dataclass
class Stop:
    """Asked from outside the loop: a signal handler, or a request of another shell."""

    reason: str = ""
