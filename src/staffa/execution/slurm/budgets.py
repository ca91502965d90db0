"""Budgets of infrastructure: jobs that end before a worker has come, by node and by pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from staffa.execution.slurm.roll import Change

FAST = 60.0
"""Seconds from a job's start within which an end says something of its node."""

PER_NODE = 2
"""Fast failures after which a node is left out."""

BLAMELESS = frozenset({"CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "DEADLINE"})
"""Ends that the site, the user or chance brings about."""

UNFIT = ("down", "drain", "fail", "maint", "unk", "power", "reboot", "inval", "blocked")
"""What sinfo calls nodes that take no job now."""


def start_failure(end: Change, log_tail: Callable[[str, str], str]) -> str:
    """The last words of a job that ended by itself before any of its workers came; empty if that is not what happened.

    An adopted job may have served an earlier driver. One that vanished from the queue may have been
    cancelled there by anyone, unless its log says that it ran.
    """
    job = end.job
    if job.joined or job.adopted or job.cancelled is not None or job.state in BLAMELESS:
        return ""
    words = log_tail(job.pool, job.id).strip()
    if words or (not job.state and end.before == "queued"):
        return words
    after = "" if end.seconds is None else f" after {end.seconds:.0f} s"
    reason = "" if job.reason in ("", "None") else f" ({job.reason})"
    return f"job {job.id} on {job.node or 'an unknown node'}: {job.state or 'gone'}{reason}{after}, and left no log"


def is_fast(end: Change) -> bool:
    """Whether it ended so soon that its node is suspect; one whose time was over is not."""
    return end.seconds is not None and end.seconds <= FAST and end.job.state != "TIMEOUT"


@dataclass
class Budget:
    """Start failures of one pool.

    - `limit`: failures in a row after which it pauses.
    - `excluded`: nodes left out; `suspects`: nodes to leave out, if others remain.
    - `words`: the last that a failing job said.
    - `since`: only what started later counts.
    - `short`: rounds in a row in which a job ended soon by itself: what comes next waits the longer.
    """

    limit: int
    in_a_row: int = 0
    by_node: Counter[str] = field(default_factory=Counter)
    excluded: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    words: str = ""
    short: int = 0
    since: float = 0.0

    @property
    def spent(self) -> bool:
        return self.in_a_row >= self.limit

    def joined(self, nodes: Collection[str]) -> None:
        """A worker has come: the pool can start, and so can these nodes."""
        self.in_a_row = 0
        for node in nodes:
            del self.by_node[node]
            self.suspects.discard(node)

    def failed(self, nodes: Collection[str], words: str, *, fast: bool) -> None:
        """A job failed to start; its last words."""
        self.words = words
        # A node that fails within seconds takes job after job until it is left out: that is one
        # failure of the node, not many of the pool.
        known = self.excluded | self.suspects
        if nodes and known & set(nodes):
            return
        self.in_a_row += 1
        if not fast:
            return
        for node in nodes:
            self.by_node[node] += 1
            if self.by_node[node] >= PER_NODE:
                self.suspects.add(node)

    def judge(self, states: dict[str, str], needed: int) -> list[str]:
        """Leave out the suspects as long as `needed` fit nodes remain; those newly left out.

        Arguments:
        - `states`: the pool's nodes, in sinfo's words.
        """
        left_out = []
        for node in sorted(self.suspects, key=lambda name: (-self.by_node[name], name)):
            fit = [n for n in states if n != node and n not in self.excluded and usable(states[n])]
            if len(fit) >= max(needed, 1):
                self.excluded.add(node)
                left_out.append(node)
        self.suspects.clear()
        if left_out:
            self.short = 0
        return left_out

    def counts(self, end: Change) -> bool:
        """Whether a job started after the last pardon."""
        return (end.job.started or end.job.submitted) >= self.since

    def forgive(self, now: float, *, nodes: bool) -> None:
        """Somebody has looked after the pool (and its `nodes`): what started before is not counted any more."""
        self.since, self.in_a_row, self.short = now, 0, 0
        if nodes:
            self.words = ""
            self.by_node.clear()
            self.excluded.clear()
            self.suspects.clear()


def usable(state: str) -> bool:
    """Whether a node in this state of sinfo's takes jobs, now or when others end."""
    return not state.endswith(("*", "~", "!", "%", "$")) and not any(word in state for word in UNFIT)


def is_hasty(change: Change) -> bool:
    """Whether a job that cannot stay is about to be replaced: it is held, or ended soon though a worker had come."""
    if change.what == "held":
        return True
    job = change.job
    by_itself = change.what == "ended" and job.cancelled is None and not job.adopted and job.state not in BLAMELESS
    return by_itself and is_fast(change)


def ordered(ends: Sequence[Change]) -> list[Change]:
    """Ends as they came about."""
    return sorted(ends, key=lambda end: (end.job.ends or 0.0, end.job.id))
