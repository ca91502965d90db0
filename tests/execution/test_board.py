"""What is issued next, with a clock of its own: retries, suspects, ripe parts."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from staffa.campaign.plan import Group, Part, Plan
from staffa.execution.board import Batch, Board, Next, Retries
from staffa.execution.marks import Started
from staffa.experiment.batch import PROBES
from staffa.experiment.protocol import Sampling
from staffa.trial import Outcome

BATCH = 256


def plan_of(*batches: int, size: int = BATCH, part: int = 2) -> Plan:
    """Groups of so many batches, in parts of `part` batches."""
    groups = tuple(
        Group(f"g{n}", "walk", {"use": "m.py:M", "n": n // 2}, {}, {}, {}, count * size, size)
        for n, count in enumerate(batches)
    )
    cuts = [(n, first) for n, count in enumerate(batches) for first in range(0, count, part)]
    parts = tuple(Part(f"part-{i:05d}", n, first, min(first + part, batches[n])) for i, (n, first) in enumerate(cuts))
    return Plan(
        0, sum(batches) * size, 0, 1, "code", Sampling(), False, "threefry2x32", "auto", None, "zstd", 1, (), (),
        groups, parts,
    )  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Table:
    """A board, its clock, and shorter words for what the runner tells it."""

    def __init__(self, *batches: int, retries: Retries = Retries(), size: int = BATCH, seed: int = 1) -> None:  # noqa: B008
        self.clock = Clock()
        self.size = size
        self.plan = plan_of(*(batches or (4,)), size=size)
        self.board = Board(self.plan, retries, self.clock, random.Random(seed))
        self.board.load([])

    def take(self) -> Next:
        found = self.board.take(lambda group: True)
        assert found is not None
        return found

    def ok(self, batch: Batch) -> Any:
        return self.fail(batch, {})

    def fail(self, batch: Batch, lanes: dict[int, Outcome], tried: Any = None) -> Any:
        counts = Counter({"ok": self.size - len(lanes)})
        counts.update(outcome.word for outcome in lanes.values())
        return self.board.settled(batch, counts, lanes, range(self.size) if tried is None else tried)

    def dies(self, order: Next, lanes: Any, *, timed_out: bool = False) -> bool:
        started = Started(f"g{order.batch[0]}/{order.batch[1]}", order.attempt, tuple(lanes), timed_out)
        return self.board.lost(order.batch, order.lanes, started, order.attempt)


# ---- order


def test_batches_are_issued_part_by_part_and_once() -> None:
    table = Table(3, 2)
    taken = [table.take() for _ in range(5)]
    assert [order.batch for order in taken] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert all((o.attempt, o.lanes, o.leave_out, o.suspects) == (1, None, (), ()) for o in taken)
    assert table.board.take(lambda group: True) is None and not table.board.finished
    for order in taken:
        table.ok(order.batch)
    assert table.board.finished and table.board.outcomes == {"ok": 5 * BATCH}


def test_a_group_that_is_not_accepted_is_passed_over() -> None:
    table = Table(2, 2)
    first = table.board.take(lambda group: group == 1)
    assert first is not None and first.batch == (1, 0)
    assert table.take().batch == (0, 0)
    assert table.board.take(lambda group: False) is None


def test_what_the_stores_say_is_taken_over() -> None:
    table = Table(4)
    board = Board(table.plan, Retries(), table.clock, random.Random(1))
    board.load([((0, 0), {"ok": 256}), ((0, 1), {"ok": 200, "raised": 56}), ((0, 2), {"missing": 256})])
    assert board.outcomes == {"ok": 456, "raised": 56} and board.ripe(0) and not board.ripe(1)
    assert [board.take(lambda group: True).batch for _ in range(2)] == [(0, 2), (0, 3)]  # type: ignore[union-attr]
    assert board.with_data(0) == 456 and board.settled_batches() == {(0, 0), (0, 1)}


def test_groups_of_one_program_are_known_as_such() -> None:
    table = Table(1, 1, 1)
    assert table.board.program(0) == table.board.program(1) != table.board.program(2)


# ---- retries


@given(
    initial=st.floats(0, 1e3), factor=st.floats(1, 10), jitter=st.floats(0, 1), more=st.floats(0, 1e4),
    tries=st.integers(1, 5000), chance=st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_waits_grow_up_to_their_bound_and_are_shaken(
    initial: float, factor: float, jitter: float, more: float, tries: int, chance: float
) -> None:
    retries = Retries(9, initial, factor, jitter, initial + more)
    wait = retries.wait(tries, chance)
    plain = Retries(9, initial, factor, 0, initial + more)
    assert abs(wait - plain.wait(tries, chance)) <= plain.wait(tries, chance) * (jitter + 1e-12)
    assert plain.wait(1, chance) == initial
    assert plain.wait(tries, 0) <= plain.wait(tries + 1, 0) <= initial + more
    assert retries.wait(tries, 0) <= retries.wait(tries, 0.5) <= retries.wait(tries, 0.999)


def test_failed_lanes_are_tried_again_after_a_growing_wait_then_quarantined() -> None:
    table = Table(2, retries=Retries(limit=3, initial=30, factor=2, jitter=0.1))
    order, other = table.take(), table.take()
    table.ok(other.batch)
    waits = []
    for attempt in range(1, 5):
        assert (order.attempt, order.lanes) == (attempt, None if attempt == 1 else (7,))
        verdict = table.fail(order.batch, {7: Outcome.RAISED}, tried=order.lanes)
        if attempt < 4:
            assert verdict.retried == (7,) and not verdict.quarantined
            assert table.board.idle_until == verdict.due and table.board.retrying == 1
            assert not table.board.finished and not table.board.ripe(0)
            assert table.board.take(lambda group: True) is None
            waits.append(verdict.due - table.clock.now)
            table.clock.now = verdict.due - 1e-6
            assert table.board.take(lambda group: True) is None
            table.clock.now = verdict.due
            order = table.take()
    assert verdict.quarantined == (7,) and not verdict.retried
    assert table.board.finished and table.board.ripe(0)
    for wait, base in zip(waits, (30, 60, 120), strict=True):
        assert base * 0.9 <= wait <= base * 1.1
    assert len({round(wait / base, 6) for wait, base in zip(waits, (30, 60, 120), strict=True)}) == 3
    assert table.board.outcomes == {"ok": 511, "raised": 1}


def test_jitter_spreads_batches_that_failed_together() -> None:
    table = Table(20)
    orders = [table.take() for _ in range(20)]
    dues = [table.fail(order.batch, {0: Outcome.RAISED}).due for order in orders]
    assert len(set(dues)) == 20 and max(dues) - min(dues) <= 0.2 * 30


def test_only_lanes_that_were_tried_are_charged() -> None:
    table = Table(1, retries=Retries(limit=1, initial=1))
    order = table.take()
    assert table.fail(order.batch, {1: Outcome.RAISED, 2: Outcome.RAISED}).retried == (1, 2)
    table.clock.now += 10
    order = table.take()
    assert order.lanes == (1, 2)
    # 1 failed for good, 2 is done; lane 9 was committed as failed by someone else and is not ours
    verdict = table.fail(order.batch, {1: Outcome.RAISED, 9: Outcome.RAISED}, tried=order.lanes)
    assert verdict.quarantined == (1,) and not verdict.retried


def test_no_retries_means_none() -> None:
    table = Table(1, retries=Retries(limit=0))
    verdict = table.fail(table.take().batch, {1: Outcome.RAISED})
    assert verdict.quarantined == (1,) and table.board.finished and table.board.ripe(0)


# ---- losses


def test_only_a_batch_whose_mark_was_open_is_charged() -> None:
    table = Table(3)
    orders = [table.take() for _ in range(3)]
    lost = orders[0]
    assert not table.board.lost(lost.batch, None, None, 1)
    for stale in (Started("g0/1", 1, (0,), False), Started("g0/0", 2, (0,), False), Started("g1/0", 1, (0,), False)):
        again = table.take()
        assert again == lost  # as it was: the first attempt, nobody accused
        assert not table.board.lost(again.batch, None, stale, 1)
    assert table.dies(table.take(), range(256))
    order = table.take()
    assert order.batch == lost.batch and order.attempt == 2 and not order.suspects  # once may be an accident


def worker(order: Next, killers: set[int], width: int = BATCH) -> tuple[int, ...] | None:
    """The lanes on the device when the process dies; None if it lives: as `work.initialize` goes about it."""
    out = {lane for lane, _, _ in order.leave_out}
    pieces = np.array_split(np.asarray(order.suspects), min(PROBES, len(order.suspects))) if order.suspects else []
    whole = [lane for lane in range(BATCH) if lane not in out]
    slices = [[lane for lane in whole if lane // width == n] for n in range(BATCH // width)]
    for piece in [*(list(map(int, piece)) for piece in pieces), *slices]:
        if killers & set(piece):
            return tuple(piece)
    return None


@pytest.mark.parametrize("width", [256, 64, 1])
@pytest.mark.parametrize("killers", [{0}, {77}, {255}, {3, 200}, {10, 11, 12}])
def test_lanes_that_kill_their_process_are_narrowed_down_and_left_out(killers: set[int], width: int) -> None:
    table, deaths, on_device = Table(1, 1), 0, []
    while True:
        order = table.take()
        lanes = worker(order, killers - {lane for lane, _, _ in order.leave_out}, width)
        if lanes is None:
            break
        deaths += 1
        on_device.append(len(lanes))
        assert deaths < 30 and table.dies(order, lanes)
    assert [(lane, Outcome(code).word) for lane, code, _ in order.leave_out] == [(n, "killed") for n in sorted(killers)]
    assert all(text == "took its process down" for _, _, text in order.leave_out) and not order.suspects
    if len(killers) == 1 and width == 256:
        assert on_device == [256, 256, 32, 4, 1]  # an accident, a repetition, then eighths
    assert deaths <= 5 * len(killers)
    # Those convicted are tried again, alone, as any failed lane; a second death convicts at once.
    failed = dict.fromkeys(killers, Outcome.KILLED)
    verdict = table.fail(order.batch, failed)
    assert verdict.retried == tuple(sorted(killers))
    table.clock.now = verdict.due
    order = table.take()
    assert order.lanes == verdict.retried and not order.leave_out and not order.suspects
    if len(killers) == 1:
        assert table.dies(order, killers)
        order = table.take()
        assert [lane for lane, _, _ in order.leave_out] == list(killers)


def test_a_timeout_needs_no_second_chance() -> None:
    table = Table(1)
    order = table.take()
    assert table.dies(order, [5], timed_out=True)
    order = table.take()
    assert order.leave_out == ((5, int(Outcome.TIMEOUT), "ran past execution.timeout"),)
    table = Table(1)
    assert table.dies(table.take(), range(256), timed_out=True)
    assert table.take().suspects == tuple(range(256))


@pytest.mark.parametrize("timed_out", [False, True])
def test_lanes_that_only_die_together_do_not_go_round_for_ever(timed_out: bool) -> None:
    """A hundred lanes are too much for the machine, or for the time; any thirty-two are not."""
    table, deaths = Table(1, retries=Retries(limit=1, initial=1)), 0
    while not table.board.finished:
        table.clock.now += 1e4
        order = table.take()
        mine = set(range(BATCH) if order.lanes is None else order.lanes) - {lane for lane, _, _ in order.leave_out}
        if len(mine) >= 100:
            deaths += 1
            assert deaths < 20 and table.dies(order, sorted(mine), timed_out=timed_out)
        else:
            assert {text for _, _, text in order.leave_out} == {
                ("ran past execution.timeout" if timed_out else "took its process down")
                + " together with 255 others, not alone: lower execution.width"
            }
            table.fail(order.batch, {lane: Outcome(code) for lane, code, _ in order.leave_out})
    assert table.board.outcomes == Counter({"timeout" if timed_out else "killed": BATCH})


def test_settling_forgets_accidents() -> None:
    table = Table(1)
    assert table.dies(table.take(), range(256))
    verdict = table.fail(table.take().batch, {9: Outcome.RAISED})
    table.clock.now = verdict.due
    order = table.take()
    assert table.dies(order, [9, 10])
    assert not table.take().suspects  # the first death since it was settled


# ---- machinery, reopening, parts


def test_faults_are_counted_and_yields_are_not() -> None:
    table = Table(2)
    order = table.take()
    assert table.board.returned(order.batch, order.lanes, fault=False) == 0
    again = table.take()
    assert again == order and table.board.returned(again.batch, again.lanes, fault=False) == 0
    assert [table.board.returned(table.take().batch, None, fault=True) for _ in range(3)] == [1, 2, 3]
    assert table.board.returned(table.take().batch, None, fault=False) == 3
    assert table.take().batch == order.batch  # it goes to the front


def test_a_part_is_ripe_once_all_its_batches_are_settled_with_no_retry_to_come() -> None:
    table = Table(4)
    orders = [table.take() for _ in range(4)]
    assert not table.board.ripe(0)
    table.ok(orders[0].batch)
    table.ok(orders[2].batch)
    assert not table.board.ripe(0) and not table.board.ripe(1)
    verdict = table.fail(orders[1].batch, {0: Outcome.RAISED})
    assert not table.board.ripe(0)
    table.clock.now = verdict.due
    table.ok(table.take().batch)
    assert table.board.ripe(0) and not table.board.ripe(1)
    table.board.reopen((0, 0), None)
    assert not table.board.ripe(0)
    table.ok(table.take().batch)
    assert table.board.ripe(0)
    table.ok((0, 0))  # a late twin's receipt changes nothing
    assert table.board.ripe(0) and table.board.outcomes["ok"] == 3 * BATCH


def test_reopened_lanes_start_with_a_clean_record() -> None:
    table = Table(1, retries=Retries(limit=0))
    assert table.fail(table.take().batch, {3: Outcome.RAISED}).quarantined == (3,)
    table.board.reopen((0, 0), (3,))
    order = table.take()
    assert order.lanes == (3,) and order.attempt == 2
    assert table.fail(order.batch, {}, tried=order.lanes).quarantined == ()
    assert table.board.finished


def test_one_batch_never_waits_twice() -> None:
    table = Table(1, retries=Retries(limit=5))
    table.fail(table.take().batch, {1: Outcome.RAISED})
    table.board.reopen((0, 0), (8, 3))
    table.board.reopen((0, 0), (5,))
    assert table.board.waiting == 1 and table.board.retrying == 0
    assert table.take().lanes == (1, 3, 5, 8)  # none of what was asked for is lost
    table.board.reopen((0, 0), (9,))  # in flight: left alone
    assert table.board.waiting == 0
    table.ok((0, 0))
    table.board.reopen((0, 0), None)
    table.board.reopen((0, 0), (1,))
    assert table.take().lanes is None


class Anything(RuleBasedStateMachine):
    """Whatever happens, in whatever order: nothing is lost, nothing is done twice at a time."""

    @initialize(batches=st.lists(st.integers(1, 3), min_size=1, max_size=3), limit=st.integers(0, 2))
    def start(self, batches: list[int], limit: int) -> None:
        self.table = Table(*batches, retries=Retries(limit, 10, 2, 0.1), size=4)
        self.board = self.table.board
        self.every = {(part.group, n) for part in self.table.plan.parts for n in part.batches()}
        self.flying: dict[Batch, Next] = {}
        self.counts: dict[Batch, Counter[str]] = {}
        self.open = set(self.every)

    @rule()
    def take(self) -> None:
        order = self.board.take(lambda group: True)
        if order is not None:
            assert order.batch not in self.flying, "issued twice"
            self.flying[order.batch] = order

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        order = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        tried = range(4) if order.lanes is None else order.lanes
        failed = data.draw(st.sets(st.sampled_from(list(tried))))
        self.counts[order.batch] = Counter({"ok": 4 - len(failed), "raised": len(failed)})
        verdict = self.board.settled(
            order.batch, self.counts[order.batch], dict.fromkeys(failed, Outcome.RAISED), tried
        )
        assert {*verdict.retried, *verdict.quarantined} == failed
        (self.open.add if verdict.retried else self.open.discard)(order.batch)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def lose(self, data: Any) -> None:
        order = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        lanes = data.draw(st.one_of(st.none(), st.sets(st.integers(0, 3), min_size=1)))
        if lanes is None:
            self.board.lost(order.batch, order.lanes, None, order.attempt)
        else:
            self.table.dies(order, sorted(lanes), timed_out=data.draw(st.booleans()))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), fault=st.booleans())
    def give_back(self, data: Any, fault: bool) -> None:
        order = self.flying.pop(data.draw(st.sampled_from(sorted(self.flying))))
        self.board.returned(order.batch, order.lanes, fault=fault)

    @rule(data=st.data())
    def reopen(self, data: Any) -> None:
        batch = data.draw(st.sampled_from(sorted(self.every)))
        lanes = data.draw(st.one_of(st.none(), st.sets(st.integers(0, 3), min_size=1)))
        self.board.reopen(batch, None if lanes is None else tuple(lanes))
        self.open.add(batch)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.table.clock.now += seconds

    @invariant()
    def books_agree(self) -> None:
        assert self.board.flying == set(self.flying)
        assert +self.board.outcomes == sum(self.counts.values(), Counter())
        assert self.board.settled_batches() == self.every - self.open
        for number, part in enumerate(self.table.plan.parts):
            assert self.board.ripe(number) == (not {(part.group, n) for n in part.batches()} & self.open)
        assert self.board.waiting + self.board.retrying + len(self.flying) == len(self.open | set(self.flying))
        assert self.board.finished == (not self.open and not self.flying)

    def teardown(self) -> None:
        """Let everything go well from here: it must come to an end."""
        if not hasattr(self, "board"):
            return
        for _ in range(100):
            self.table.clock.now += 1e4
            for batch in list(self.flying):
                order = self.flying.pop(batch)
                self.counts[batch] = Counter({"ok": 4})
                self.board.settled(batch, self.counts[batch], {}, order.lanes or range(4))
            self.take()
        assert self.board.finished and self.board.settled_batches() == self.every


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
