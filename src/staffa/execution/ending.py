"""How a run ends, and how it is asked to."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass
class Stop:
    """Asked from outside the loop: a signal handler, or a request of another shell."""

    reason: str = ""
