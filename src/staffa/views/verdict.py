"""Whether all is well with a run, in one line: what a person has to see first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from staffa.trial import Outcome
from staffa.views.readings import flagged, number, percent, pools, span

Facts = Mapping[str, Any]

GOOD, LOOK, BAD = "good", "look", "bad"
SILENT_SECONDS = 15.0
"""A driver posts every second; after so long something is wrong with it."""
MANY, ENOUGH = 0.05, 20
"""A share of failed trials that is too many, of at least so many settled ones."""


@dataclass(frozen=True)
class Verdict:
    """How a run is.

    Arguments:
    - `level`: `good`, `look` (somebody should look at it, at leisure) or `bad` (now).
    - `words`: the headline; `notes`: what else is worth a look, and what helps.
    """

    level: str
    words: str
    notes: tuple[str, ...] = ()


def verdict(snapshot: Facts, now: float) -> Verdict:
    """How the run is that a picture (`staffa.views.overview`) shows, at a Unix time."""
    figures = snapshot["figures"]
    if snapshot["over"]:
        return _ended(snapshot, figures)
    found = [*_alarms(snapshot, now), *_worries(figures)]
    worst = next((level for level in (BAD, LOOK) if any(one == level for one, _ in found)), GOOD)
    said = [words for level in (BAD, LOOK) for one, words in found if one == level]
    if not said:
        return Verdict(GOOD, "All is well" if figures.get("settled") else "Starting")
    return Verdict(worst, said[0], tuple(said[1:]))


def _alarms(snapshot: Facts, now: float) -> Iterator[tuple[str, str]]:
    """What somebody should see to at once."""
    figures, silent = snapshot["figures"], now - snapshot["at"]
    if silent > SILENT_SECONDS:
        yield BAD, f"No news of the driver for {span(silent)}"
    if figures.get("paused"):
        yield BAD, "Paused: the disk is full"
    stuck = (figures.get("lagging") or {}).get("stuck", 0)
    if stuck:
        yield BAD, f"{number(stuck, 'batch')} {'seems' if stuck == 1 else 'seem'} stuck"
    settled, failed = figures.get("settled", 0), failures(figures)
    if settled >= ENOUGH and failed > MANY * settled:
        yield BAD, f"{percent(failed, settled)} % of the settled trials failed"
    if figures and not figures.get("workers") and figures.get("settled", 0) < figures.get("trials", 0):
        yield (LOOK, "Waiting for workers") if pools(figures) else (BAD, "No worker is there")


def _worries(figures: Facts) -> Iterator[tuple[str, str]]:
    """What is worth a look."""
    if figures.get("stopping"):
        yield LOOK, f"Stopping; {number(int(figures.get('flying', 0)), 'batch')} in flight will be kept"
    for name, facts in pools(figures).items():
        if facts.get("paused"):
            yield LOOK, f"Pool {name} is paused: {facts['paused']}"
    slow = (figures.get("lagging") or {}).get("slow", 0)
    if slow:
        yield LOOK, f"{number(slow, 'batch')} much slower than usual"
    given_up = (figures.get("states") or {}).get("quarantined", 0)
    if given_up:
        yield LOOK, f"{number(given_up, 'trial')} given up"


def _ended(snapshot: Facts, figures: Facts) -> Verdict:
    settled, trials = figures.get("settled", 0), figures.get("trials", 0)
    again = f"staffa resume {shlex.quote(str(snapshot['root']))}"
    if settled < trials:
        return Verdict(LOOK, f"The driver has ended with {trials - settled:,} trials to go", (f"next: {again}",))
    flaws = sum(flagged(figures.get("outcomes") or {}).values())
    if failures(figures):
        return Verdict(LOOK, f"Finished; {number(failures(figures), 'trial')} failed")
    return Verdict(GOOD, f"Finished; {number(flaws, 'trial')} flagged" if flaws else "Finished, all trials are ok")


def failures(figures: Facts) -> int:
    """Trials that were tried and have no data."""
    counts = figures.get("outcomes") or {}
    return sum(int(counts.get(outcome.word, 0)) for outcome in Outcome if outcome.failed)
