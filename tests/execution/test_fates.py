"""Nothing happens to a trial that its state does not allow, whatever happens to workers, drivers and data."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from execution.virtual import LIMITS, TRIALS, DriverKilled, World, copied, template
from staffa.execution.board import NO_LIMIT_OF_ITS_OWN
from staffa.execution.growing import desk_of
from staffa.execution.verify import reopen
from staffa.execution.wishes import Wishes
from staffa.storage.books import fold
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger
from staffa.storage.states import State, census
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

FATE = st.sampled_from(["raised", "killed", "timeout", "nan", "ok"])
ODDS = {
    "worker dies": 30, "committed all the same": 400, "yielded": 40, "machinery fails": 8, "dask forgets": 0,
    "damaged": 30, "driver killed": 12, "cancel": 20, "cancel a batch": 10, "retry": 20, "retry all": 8,
}  # fmt: skip
MUCH = ODDS | {
    "worker dies": 60, "yielded": 120, "damaged": 150, "driver killed": 40, "cancel": 60, "cancel a batch": 30,
    "retry": 80, "retry all": 20, "verify": 30,
}  # fmt: skip

EXPECTED = {
    Outcome.OK: {State.ARCHIVED},
    Outcome.NAN: {State.ARCHIVED},
    Outcome.CANCELLED: {State.CANCELLED},
    **{outcome: {State.QUARANTINED} for outcome in (Outcome.RAISED, Outcome.TIMEOUT, Outcome.KILLED)},
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return template(tmp_path_factory.mktemp("fated"))


def archived(workspace: Workspace) -> list[str]:
    folder = workspace.trials_archive
    files = sorted(folder.glob("part-*.parquet")) if folder.is_dir() else []
    return [trial for path in files for trial in pq.read_table(path, columns=["trial"])["trial"].to_pylist()]


def check(world: World) -> Counter[State]:
    """Every trial's story is lawful and ends where its data say; returns how many are in which state."""
    found = [(course, outcome) for course, outcome, _ in world.courses()]
    for course, outcome in found:
        assert course.state in EXPECTED[outcome], (course.seat, outcome, course.steps)
    books = fold(world.events())
    assert not books.counts["unreadable"]
    states = Counter(course.state for course, _ in found)
    outcomes = Counter(outcome.word for _, outcome in found)
    sealed = archived(world.workspace)
    assert census(TRIALS, outcomes, books.words, archived=len(sealed)) == {str(s): n for s, n in states.items()}
    failed = pq.read_table(world.workspace.failed).to_pylist()
    assert sorted([*sealed, *(row["trial"] for row in failed)]) == sorted(row["trial"] for row in world.places)
    assert {row["trial"]: row["state"] for row in failed} == {
        course.seat.trial: str(course.state) for course, outcome in found if not outcome.has_data
    }
    return states


ARCHIVED_AND_CANCELLED = 1395, {4: ["raised"], 7: ["killed"]}, False
"""Cancelled while what was damaged after it was archived was made anew."""
HELD_FOR_NOTHING = 200001, {
    2: ["timeout"], 18: ["ok"], 11: ["nan"], 7: ["killed", "killed", "raised", "raised"],
    5: ["killed", "nan", "raised", "nan", "killed"],
}, True  # fmt: skip
"""Held for a checkpoint that was used up: the driver that was to hear of it was killed."""
ARCHIVED_AND_RETRIED = 100018, {4: ["ok", "nan"], 16: ["nan", "nan", "killed"]}, True
"""A NaN in the archive, tried again when its damaged data had been made anew."""
NOT_ABOARD = 100000, {9: ["timeout"]}, True
"""Readmitted while its batch was in flight, but without it: it had been cancelled before."""


def found(case: tuple[int, dict[int, list[str]], bool]) -> Any:
    return example(seed=case[0], fates=case[1], much=case[2])


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@found(ARCHIVED_AND_CANCELLED)
@found(HELD_FOR_NOTHING)
@found(ARCHIVED_AND_RETRIED)
@found(NOT_ABOARD)
@given(
    seed=st.integers(0, 2**32),
    fates=st.dictionaries(st.integers(0, TRIALS - 1), st.lists(FATE, min_size=1, max_size=5), max_size=8),
    much=st.booleans(),
)
def test_no_transition_is_illegal(planned: Workspace, seed: int, fates: dict[int, list[str]], much: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(copied(planned, Path(folder)), random.Random(seed), fates, dict(MUCH if much else ODDS))
        world.complete()
        check(world)


def test_odds_come_up(planned: Workspace, tmp_path: Path) -> None:
    """The laboratory does what it is meant to do: everything in it happens."""
    happened: Counter[str] = Counter()
    for seed in range(12):
        chance = random.Random(seed)
        fates = {n: chance.choices(["raised", "killed", "timeout", "nan", "ok"], k=3) for n in range(0, TRIALS, 3)}
        (tmp_path / str(seed)).mkdir()
        world = World(copied(planned, tmp_path / str(seed)), chance, fates, dict(ODDS))
        world.complete()
        check(world)
        happened += world.happened
    assert not {name for name, odds in ODDS.items() if odds} - happened.keys()
    assert {"killed", "timeout"} <= happened.keys()


def quiet(planned: Workspace, folder: Path, fates: dict[int, list[str]], **odds: int) -> World:
    world = World(copied(planned, folder), random.Random(1), fates, odds)
    assert world.drive() == "finished"
    check(world)
    return world


def tries(world: World, place: int) -> list[str]:
    """The outcomes of a trial's tries that brought nothing, in order."""
    trial = next(row["trial"] for row in world.places if row["place"] == place)
    return [failure.outcome for failure in fold(world.events()).failures.get(trial, [])]


def test_attempts_are_counted_by_class(planned: Workspace, tmp_path: Path) -> None:
    fates = {0: ["raised"], 5: ["nan"], 9: ["nan", "ok"], 11: ["killed"], 14: ["timeout"], 17: ["raised", "nan", "ok"]}
    world = quiet(planned, tmp_path, fates)
    assert tries(world, 0) == ["raised"] * (LIMITS["raised"] + 1)
    assert tries(world, 5) == ["nan"] * (LIMITS["nan"] + 1)
    assert tries(world, 9) == ["nan"]
    assert tries(world, 11) == ["killed"] * (LIMITS["killed"] + 1)
    assert tries(world, 14) == ["timeout"] * (LIMITS["timeout"] + 1)
    assert tries(world, 17) == ["raised", "nan"]
    by_place = {place: (outcome, course.state) for course, outcome, place in world.courses()}
    assert by_place[5] == (Outcome.NAN, State.ARCHIVED) and by_place[9] == by_place[17] == (Outcome.OK, State.ARCHIVED)
    assert [by_place[place][1] for place in (0, 11, 14)] == [State.QUARANTINED] * 3
    books = fold(world.events())
    nan = next(row["trial"] for row in world.places if row["place"] == 5)
    assert books.nan == {nan} and books.words == {"quarantined": 3}
    assert NO_LIMIT_OF_ITS_OWN["nan"] == 0


def test_the_whole_schedule_of_a_retry(planned: Workspace, tmp_path: Path) -> None:
    """Backoff as the ledger has it: 30 s, 60 s, each within its jitter, and nothing is tried before it is due."""
    world = quiet(planned, tmp_path, {11: ["killed"]})
    batch = next(course.seat.batch for course, _, place in world.courses() if place == 11)
    mine = [event for event in world.events() if event.get("batch") == batch]
    planned_at = [event for event in mine if event["event"] == "retry_planned"]
    waits = [event["due"] - event["at"] for event in planned_at]
    assert len(waits) == LIMITS["killed"]
    for wait, base in zip(waits, (30.0, 60.0), strict=True):
        assert base * 0.9 <= wait <= base * 1.1
    for event in planned_at:
        later = [other["at"] for other in mine if other["event"] == "batch_issued" and other["at"] > event["at"]]
        assert event["due"] <= min(later) <= event["due"] + 1.0


def wish(world: World, verb: str, places: list[int], when: Any) -> None:
    """Ask for something as soon as `when(runner)` is true, once."""
    names = [row["trial"] for row in world.places if row["place"] in places]
    done = []

    def ask() -> None:
        if not done and world.runner is not None and when(world.runner):
            done.append(getattr(world.runner.wishes, verb)(names))

    world._wish = ask  # type: ignore[method-assign]


def test_cancelled_while_waiting_is_never_tried(planned: Workspace, tmp_path: Path) -> None:
    world = World(copied(planned, tmp_path), random.Random(3), {}, {})
    wish(world, "cancel", [*range(10, 22)], lambda runner: True)
    assert world.drive() == "finished"
    states = check(world)
    assert states == {State.CANCELLED: 12, State.ARCHIVED: 10}
    issued = {event["batch"] for event in world.events() if event["event"] == "batch_issued"}
    assert issued == {"g0/0", "g0/1", "g0/2"}, "batches of nothing but cancelled trials are not issued"
    cancelled = [event for event in world.events() if event["event"] == "cancelled"]
    assert all("trial" not in event for event in cancelled) and len(cancelled) == 3, "a whole batch is one event"


def test_cancelled_in_flight_keeps_no_results(planned: Workspace, tmp_path: Path) -> None:
    world = World(copied(planned, tmp_path), random.Random(3), {}, {})
    wish(world, "cancel", [1, 2], lambda runner: (0, 0) in runner.board.flying)
    assert world.drive() == "finished"
    assert check(world) == {State.CANCELLED: 2, State.ARCHIVED: 20}
    settled = [event for event in world.events() if event["event"] == "batch_settled" and event["batch"] == "g0/0"]
    assert [event["outcomes"] for event in settled] == [{"ok": 4}], "it was not interrupted"


def test_cancelled_and_wanted_again(planned: Workspace, tmp_path: Path) -> None:
    world = World(copied(planned, tmp_path), random.Random(3), {}, {})
    wish(world, "cancel", [0, 1, 2, 3, 4], lambda runner: True)
    assert world.drive() == "finished"
    assert check(world) == {State.CANCELLED: 5, State.ARCHIVED: 17}
    wish(world, "retry", [1, 4], lambda runner: True)
    world.members()  # no driver: nobody to ask
    assert world.drive() == "finished"
    assert check(world) == {State.CANCELLED: 5, State.ARCHIVED: 17}


def damaged(world: World, batch: int) -> None:
    """A batch of the first group is not what was committed any more; that is found out, and it is to be made anew."""
    with Lease.acquire(world.workspace.lease) as lease, Ledger.open(world.workspace, lease, world.clock) as ledger:
        desk = desk_of(world.workspace, ledger)
        shard = desk.stores[0].chunk("y", batch, 0)
        shard.write_bytes(shard.read_bytes()[::-1] + b"!")
        assert reopen(Wishes(desk), [f"g0/{batch}"]) == [f"g0/{batch}"]


def test_what_is_archived_stays_done_though_it_is_made_anew(planned: Workspace, tmp_path: Path) -> None:
    world = World(copied(planned, tmp_path), random.Random(3), {}, {})
    assert world.drive() == "finished"
    damaged(world, 0)
    told: list[dict[str, int]] = []

    def ask() -> None:
        assert world.runner is not None
        wishes, runner = world.runner.wishes, world.runner
        if not told:
            told.append(wishes.cancel(runner.stores[0].digests(0), "while it waits"))
        elif len(told) == 1 and (0, 0) in runner.board.flying:
            told.append(wishes.cancel(runner.stores[0].digests(0), "while it flies"))

    world._wish = ask  # type: ignore[method-assign]
    assert world.drive() == "finished"
    assert told == [{"trials": 0, "flying": 0, "kept": 4}] * 2
    assert check(world) == {State.ARCHIVED: TRIALS}


def test_what_is_archived_is_not_listed_as_failed(planned: Workspace, tmp_path: Path) -> None:
    """A trial that fails when its damaged data are made anew: those in the archive are there all the same."""
    world = World(copied(planned, tmp_path), random.Random(3), {5: ["raised"]}, {})
    assert world.drive() == "finished"
    assert check(world) == {State.ARCHIVED: TRIALS - 1, State.QUARANTINED: 1}
    damaged(world, 0)
    world.fates[2] = ["raised"]
    assert world.drive() == "finished"
    marks = {place: outcome for _, outcome, place in world.courses()}
    assert marks[2] is marks[5] is Outcome.RAISED
    listed = [row["place"] for row in pq.read_table(world.workspace.failed).to_pylist()]
    assert listed == [5] and len(archived(world.workspace)) == TRIALS - 1


def test_a_part_is_not_written_while_it_is_read(planned: Workspace, tmp_path: Path) -> None:
    """A retry that is asked for while its part is being sealed waits until it is; what it brings is a supplement."""
    world = World(copied(planned, tmp_path), random.Random(3), {1: ["raised", "raised", "ok"]}, {})
    asked: list[int] = []

    def ask() -> None:
        assert world.runner is not None
        board = world.runner.board
        if not asked and 0 in board.sealing:
            asked.append(world.runner.wishes.retry([world.places[1]["trial"]]))
        assert not (0 in board.sealing and board.flying & {(0, 0), (0, 1)})

    world._wish = ask  # type: ignore[method-assign]
    assert world.drive() == "finished" and asked == [1]
    assert check(world) == {State.ARCHIVED: TRIALS}
    parts = [event["part"] for event in world.events() if event["event"] == "part_sealed"]
    assert "part-00000-s1" in parts


def test_readmitted_though_its_batch_once_went_on_elsewhere(planned: Workspace, tmp_path: Path) -> None:
    """A batch that yielded and was cancelled whole is not gone on with: nobody waits for that."""
    world = World(copied(planned, tmp_path), random.Random(3), {}, {"yielded": 900})
    trials = [row["trial"] for row in world.places[:4]]
    asked: list[str] = []

    def ask() -> None:
        assert world.runner is not None
        wishes, segments = world.runner.wishes, world.runner.ledger.books.segments
        if not asked and "g0/0" in segments:
            asked.append("cancel")
            assert wishes.cancel(trials)["trials"] == 4
        elif asked and not wishes.pending:
            assert "g0/0" in segments
            wishes._say_readmitted((0, 0), {0, 1, 2, 3})  # noted, and killed before a mark was set
            raise DriverKilled

    world._wish = ask  # type: ignore[method-assign]
    assert world.drive() == "killed"
    world._wish, world.odds = lambda: None, {}  # type: ignore[method-assign]
    assert world.drive() == "finished"
    assert check(world) == {State.ARCHIVED: TRIALS}
