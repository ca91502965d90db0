"""A listener's thread: the run never waits, nothing is lost in silence."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from execution.listening import eventually, finished
from staffa.execution import aside
from staffa.execution.aside import Aside, Companion, Event


class Mind:
    """Notes what it is told; `gate` closed, it hangs; with `fails` it raises."""

    def __init__(self, fails: bool = False) -> None:
        self.told: list[list[Event]] = []
        self.gate, self.inside = threading.Event(), threading.Event()
        self.gate.set()
        self.fails, self.ended = fails, False

    def wants(self, event: Event) -> bool:
        return event["event"] != "dull"

    def take(self, events: Sequence[Event], halt: threading.Event) -> list[dict[str, Any]]:
        self.inside.set()
        while not self.gate.wait(0.01) and not halt.is_set():
            pass
        if self.fails:
            raise ValueError("no")
        self.told.append(list(events))
        return [{"event": "said", "of": event["event"]} for event in events]

    def end(self) -> None:
        self.ended = True

    @property
    def flat(self) -> list[Event]:
        return [event for events in self.told for event in events]


def test_everything_wanted_is_told_in_order() -> None:
    mind = Mind()
    companion = Aside("one", mind)
    assert isinstance(companion, Companion)
    for number in range(2000):
        companion({"event": "dull" if number % 2 else "fact", "number": number})
    news = finished(companion)
    assert [event["number"] for event in mind.flat] == list(range(0, 2000, 2))
    assert len(news) == 1000 and mind.ended and companion.news() == []
    assert max(len(events) for events in mind.told) <= aside.TOGETHER


def test_who_hangs_holds_nobody_up() -> None:
    mind = Mind()
    mind.gate.clear()
    companion = Aside("one", mind)
    companion({"event": "fact"})
    assert mind.inside.wait(60)
    for number in range(aside.ROOM + 7):
        companion({"event": "fact", "number": number})
    companion({"event": "run_ended"})
    mind.gate.set()
    news = finished(companion)
    assert len(mind.flat) == 1 + aside.ROOM + 1
    assert mind.flat[-1] == {"event": "run_ended"}, "how it ended always finds room"
    assert [event for event in news if event["event"] == "events_dropped"] == [
        {"event": "events_dropped", "by": "one", "count": 7}
    ]


def test_figures_are_overtaken_by_newer_ones() -> None:
    mind = Mind()
    mind.gate.clear()
    companion = Aside("one", mind)
    companion({"event": "fact"})
    assert mind.inside.wait(60)
    for number in range(50_000):
        companion({"event": "figures", "number": number})
    mind.gate.set()
    assert [event.get("number") for event in (finished(companion), mind.flat)[1]] == [None, 49_999]


def test_who_is_killed_ends_at_once() -> None:
    mind = Mind()
    mind.gate.clear()
    companion = Aside("one", mind)
    for _ in range(3):
        companion({"event": "fact"})
        assert mind.inside.wait(60)
    assert companion.busy
    companion.kill()
    assert not companion.busy
    eventually(lambda: mind.ended)
    dropped = eventually(lambda: [event for event in companion.news() if event["event"] == "events_dropped"])
    assert dropped[0]["count"] == 2


def test_when_the_time_is_over_only_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "TOGETHER", 1)
    mind = Mind()
    mind.gate.clear()
    companion = Aside("one", mind, drain=0.0)
    companion({"event": "run_started"})
    assert mind.inside.wait(60)
    for _ in range(5):
        companion({"event": "fact"})
    companion({"event": "run_ended"})
    companion.close()
    mind.gate.set()
    eventually(lambda: not companion.busy)
    assert [event["event"] for event in mind.flat] == ["run_started", "run_ended"]
    assert companion.news()[-1] == {"event": "events_dropped", "by": "one", "count": 5}


def test_a_fault_of_ours_is_told_too() -> None:
    companion = Aside("one", Mind(fails=True))
    companion({"event": "fact"})
    assert finished(companion)[0] == {"event": "events_dropped", "by": "one", "count": 1, "why": "ValueError: no"}


def test_it_looks_even_if_nothing_happens() -> None:
    mind = Mind()
    companion = Aside("one", mind, every=0.01)
    companion({"event": "fact"})
    eventually(lambda: len(mind.told) > 3)
    companion.kill()


def test_a_run_that_never_begins_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    mind = Mind()
    companion = Aside("one", mind, every=0.01)
    companion({"event": "dull"})
    companion.close()
    companion.kill()
    companion.join(60)
    assert not companion.busy and not companion.holds and threading.active_count() == before and not mind.told
