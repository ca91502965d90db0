"""How long a run goes on while nobody works for it."""

from __future__ import annotations

from staffa.errors import ClusterError
from staffa.execution.pool import Pool

LEAST = 60.0
"""Seconds that are waited whatever was asked for: workers take their time to come."""


class Patience:
    """Patience with machines that do not come.

    Arguments:
    - `seconds`: `execution.patience`.
    - `pool`: whose machines they are.
    - `again`: the command that goes on with the run.
    """

    def __init__(self, seconds: float, pool: Pool, again: str) -> None:
        self._seconds, self._pool, self._again = max(seconds, LEAST), pool, again
        self._since: float | None = None
        """When the last worker was missed first."""

    def check(self, workers: int, now: float) -> None:
        """Look at how many workers there are.

        Raises `ClusterError` once there was none, and none was bound to come, for too long.
        """
        if workers or self._pool.expects():
            self._since = None
            return
        self._since = now if self._since is None else self._since
        waited = now - self._since
        if waited > self._seconds:
            why = self._pool.trouble()
            what = f"no worker for {waited:.0f} s (execution.patience)"
            raise ClusterError(what + (f"; {why}" if why else ""), self._again)
