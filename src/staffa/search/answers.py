"""What a study answers, as values that travel, and how it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from staffa.errors import ConfigError, StaffaError
from staffa.trial import Scalar

Values = dict[str, float | None]
"""By objective; None where it is missing."""


class ConflictError(StaffaError):
    """What is said contradicts what stands: another result, another use of a key, a trial that was cancelled."""


class UnknownTrialError(ConfigError):
    """A trial that was never handed out."""


@dataclass(frozen=True)
class Asked:
    """A trial to be done.

    Arguments:
    - `attempt`: how often it was handed out by now; said again with its result.
    - `lease_until`: when it is handed out to somebody else unless its worker is heard of (seconds since 1970).
    """

    trial: int
    params: dict[str, Scalar]
    attempt: int
    lease_until: float


@dataclass(frozen=True)
class Verdict:
    """What became of something that was told.

    Arguments:
    - `status`: `recorded`; `replayed`: it was told before; `ignored`: a try failed that did not matter any more.
    - `state`: where the trial stands now.
    - `scores`: its score in each group, infinite where it is not ranked; empty while it has no result.
    - `why`: why it is not ranked.
    """

    trial: int
    status: str
    state: str
    scores: tuple[float, ...] = ()
    why: str = ""

    @property
    def score(self) -> float:
        """The sum over its groups; NaN without a result."""
        return math.fsum(self.scores) if self.scores else math.nan


@dataclass(frozen=True)
class Record:
    """All that is known of a trial.

    Arguments:
    - `values`: by objective, None where it is missing; None without a result.
    - `scores`: in each group; empty without a result.
    - `why`: why it is not ranked, or why its last try brought nothing.
    """

    trial: int
    params: dict[str, Scalar]
    state: str
    attempt: int
    worker: str
    values: Values | None
    scores: tuple[float, ...]
    why: str

    @property
    def objectives(self) -> Values:
        """Its result, as `values`, empty without one."""
        return self.values or {}


@dataclass(frozen=True)
class Beat:
    """Answer to a heartbeat: trials that are (still) theirs, and those of the named ones that are not."""

    held: tuple[int, ...]
    lost: tuple[int, ...]
