"""What was asked of a plug-in, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was asked: `what`, whether it holds, and where it does not, why."""

    what: str
    holds: bool
    why: str = ""


class NotConforming(AssertionError):
    """A plug-in that is not as it must be; `findings` has everything that was asked."""

    def __init__(self, name: str, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        wrong = [f"  {one.what}: {one.why}" for one in findings if not one.holds]
        super().__init__("\n".join([f"{name} does not conform:", *wrong]))


def judged(name: str, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """All findings; raises `NotConforming` where one does not hold."""
    if not all(one.holds for one in findings):
        raise NotConforming(name, findings)
    return tuple(findings)


def words_of(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
