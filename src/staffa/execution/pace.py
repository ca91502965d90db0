"""How long batches take, learned from receipts: what is started has to be able to finish.

Per program and device kind: a batch's beginning (compile, initialize, warm-up) and one segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from staffa.campaign.plan import Plan

REMEMBERED = 8
"""Latest receipts a guess is made of: the slowest of them counts."""
BEGIN = ("compile", "initialize", "adapt", "discard")
MARGIN = 1.1
SETTLE_SECONDS = 3.0
"""Writing, committing and telling the driver."""
UNKNOWN_SECONDS = 20.0
"""Where nothing is known yet, a batch is started if so much time is left."""


@dataclass(frozen=True)
class Expected:
    """Seconds a batch takes before its first segment, and for each of them."""

    begin: float
    segment: float

    def first(self) -> float:
        """Time needed for a start to be worth it: up to the first checkpoint."""
        return MARGIN * (self.begin + self.segment) + SETTLE_SECONDS

    def whole(self, segments: int) -> float:
        return MARGIN * (self.begin + segments * self.segment) + SETTLE_SECONDS


class Pace:
    """What receipts have told so far.

    Arguments:
    - `programs`: of each group, a name for its program: groups that share one share its pace.
    """

    def __init__(self, plan: Plan, programs: Mapping[int, str]) -> None:
        self._segments = plan.sampling.segments
        self._programs = dict(programs)
        self._seen: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._kinds: dict[str, str] = {}
        """Pool -> device kind of its latest receipt."""

    def grow(self, programs: Mapping[int, str]) -> None:
        """Groups were added to the campaign."""
        self._programs |= programs

    def note(self, group: int, pool: str, device: str, computed: int, seconds: Mapping[str, float]) -> None:
        """A receipt came.

        Arguments:
        - `computed`: segments it sampled.
        - `seconds`: its timings by kind.
        """
        self._kinds[pool] = device
        if computed > 0 and seconds.get("sample"):
            begin = sum(seconds.get(name, 0.0) for name in BEGIN)
            latest = self._seen.setdefault((self._programs[group], device), deque(maxlen=REMEMBERED))
            latest.append((begin, seconds["sample"] / computed))

    def expect(self, group: int, pool: str) -> Expected | None:
        """What a batch of a group will take on a worker of a pool; None before any was seen there."""
        seen = self._seen.get((self._programs[group], self._kinds.get(pool, "")))
        if not seen:
            return None
        return Expected(max(begin for begin, _ in seen), max(segment for _, segment in seen))

    def fits(self, group: int, pool: str, left: float, ahead: int) -> bool:
        """Whether a batch can be begun to some purpose.

        Arguments:
        - `left`: seconds until the worker's job is cut off.
        - `ahead`: batches that stand before it on the worker.
        """
        found = self.expect(group, pool)
        if found is None:
            return left > UNKNOWN_SECONDS and not ahead
        return left > ahead * found.whole(self._segments) + found.first()
