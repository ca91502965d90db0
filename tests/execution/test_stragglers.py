"""Which batches are slow, which seem stuck: on a virtual clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.execution.board import Next
from staffa.execution.notes import Flight
from staffa.execution.pool import Member
from staffa.execution.stragglers import NAMED, REMEMBERED, Turn, Usual, Watch, stragglers

W1, W2 = Member("tcp://w:1", "1", "h", 1, "n1"), Member("tcp://w:2", "2", "h", 2, "n2")


def flight(member: Member, batch: int, issued: float, group: int = 0, lanes: tuple[int, ...] | None = None) -> Flight:
    return Flight(member, None, issued, (group, batch), Next((group, batch), 1, lanes, (), ()))


def receipt(seconds: float, compiling: float = 0.0, **more: Any) -> dict[str, Any]:
    facts = {"started": 100.0, "finished": 100.0 + seconds, "seconds": {"compile": compiling}}
    return {**facts, "yielded": None, "compared": False, "duplicate": False, **more}


def test_slow_then_stuck() -> None:
    usual = {0: Usual(20.0)}

    def state(spent: float) -> str:
        found = stragglers([Turn(0, "g0/1", "w", "n", 1000.0)], usual, 1000.0 + spent)
        return found[0].state if found else ""

    assert [state(spent) for spent in (59, 60, 61, 199, 200, 201)] == ["", "", "slow", "slow", "slow", "stuck"]


def test_a_timeout_is_waited_for() -> None:
    """A trial that hangs is ended by then: its batch is slow, not stuck."""
    limited = {0: Usual(1.0, limit=600.0)}
    turn = [Turn(0, "g0/1", "w", "n", 0.0)]
    assert stragglers(turn, limited, 300.0)[0].state == "slow"
    assert stragglers(turn, limited, 602.0)[0].state == "stuck"


def test_short_batches_and_compiling_are_given_time() -> None:
    turn = [Turn(0, "g0/1", "w", "n", 0.0)]
    assert not stragglers(turn, {0: Usual(0.01)}, 9.0)
    assert stragglers(turn, {0: Usual(0.01)}, 11.0)[0].state == "slow"
    assert stragglers(turn, {0: Usual(0.01)}, 61.0)[0].state == "stuck"
    assert not stragglers(turn, {0: Usual(0.01, compiling=120.0)}, 120.0)


def test_nothing_is_said_of_a_group_that_has_sent_no_receipt() -> None:
    assert not stragglers([Turn(3, "g3/0", "w", "n", 0.0)], {0: Usual(1.0)}, 1e9)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1e5)), max_size=20), st.floats(0.01, 1e4))
def test_the_worst_come_first_and_none_is_called_both(turns: list[tuple[int, float]], seconds: float) -> None:
    usual = {group: Usual(seconds * (group + 1)) for group in (0, 1)}
    known = [Turn(group, f"g{group}/{n}", "w", "n", since) for n, (group, since) in enumerate(turns)]
    found = stragglers(known, usual, 1e5)
    shares = [one.seconds / max(one.typical, 1e-3) for one in found]
    assert shares == sorted(shares, reverse=True)
    assert all(one.state == ("stuck" if 1e5 - one.since > usual[int(one.batch[1])].stuck else "slow") for one in found)
    assert len({one.batch for one in found}) == len(found) <= sum(turn.group < 2 for turn in known)


def test_only_the_batch_whose_turn_it_is_counts() -> None:
    watch = Watch(None)
    for batch in range(3):
        watch.note(flight(W1, batch, 0.0), receipt(1.0), 1000.0)
    waiting = [flight(W1, 7, 999.0), flight(W1, 8, 998.0), flight(W2, 9, 1040.0), Flight(W2, None, 0.0, part=1)]
    facts = watch.facts(waiting, 1050.0)
    assert (facts["slow"], facts["stuck"]) == (1, 0)
    worst = facts["batches"][0]
    # g0/8 was issued first; its turn came when the receipt before it did.
    assert (worst["batch"], worst["worker"], worst["node"], worst["since"]) == ("g0/8", "tcp://w:1", "n1", 1000.0)
    assert (worst["seconds"], worst["typical"], worst["state"]) == (50.0, 1.0, "slow")
    watch.note(flight(W1, 8, 998.0), receipt(1.0), 1060.0)
    assert watch.facts([flight(W1, 7, 999.0)], 1065.0)["batches"] == []


def test_only_whole_batches_tell_what_is_typical() -> None:
    watch = Watch(None)
    watch.note(flight(W1, 0, 0.0, lanes=(3,)), receipt(0.001), 1.0)
    watch.note(flight(W1, 0, 0.0), receipt(0.001, duplicate=True), 1.0)
    watch.note(flight(W1, 0, 0.0), receipt(0.001, yielded=1), 1.0)
    assert watch.facts([flight(W1, 1, 1.0)], 1e6)["batches"] == []
    watch.note(flight(W1, 1, 0.0), receipt(100.0, compiling=30.0), 10.0)
    assert watch.facts([flight(W1, 2, 10.0)], 10 + 329.0)["batches"] == []
    assert watch.facts([flight(W1, 2, 10.0)], 10 + 335.0)["slow"] == 1


def test_a_thousand_stragglers_are_counted_and_a_few_named() -> None:
    watch = Watch(None)
    for _ in range(REMEMBERED + 1):
        watch.note(flight(W1, 0, 0.0), receipt(1.0), 0.0)
    many = [flight(Member(f"tcp://w:{n}", str(n), "h", n), n, 2000.0 - n) for n in range(2, 1002)]
    facts = watch.facts(many, 2030.0)
    assert facts["slow"] + facts["stuck"] == 1000 and len(facts["batches"]) == NAMED
    assert facts["batches"][0]["batch"] == "g0/1001"


def test_looking_again_at_once_costs_nothing() -> None:
    watch = Watch(None)
    watch.note(flight(W1, 0, 0.0), receipt(1.0), 0.0)
    first = watch.facts([flight(W1, 1, 0.0)], 100.0)
    assert watch.facts([flight(W1, 2, 0.0)], 101.0) is first
    assert watch.facts([], 101.5)["batches"] == [], "where nothing is in flight, nothing is slow"
    assert watch.facts([flight(W1, 1, 0.0)], 50.0)["batches"], "a clock that was set back puts nothing off"


MODEL = """
import time
from pathlib import Path
import staffa


class Gate(staffa.Experiment):
    vectorize = "off"

    def initialize(self, key, params):
        return 0.0

    def step(self, key, state, params):
        while params["n"] == 7 and not Path(params["gate"]).exists():
            time.sleep(0.02)
        return state, {"x": params["n"]}
"""


def test_a_batch_that_hangs_is_seen_while_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import staffa
    from staffa.execution import stragglers as module

    for name in ("SLOW_SECONDS", "STUCK_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(module, name, 0.2)
    gate = tmp_path / "gate"
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(
        "campaign: {name: gate}\nexperiment: {use: 'model.py:Gate'}\n"
        f"space: [{{grid: {{n: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}}}}, {{grid: {{gate: ['{gate}']}}}}]\n"
        "execution: {batch: 1, workers: 1}\ncluster: {dashboard: false}\n"
    )
    seen: list[Mapping[str, Any]] = []

    def listen(event: Mapping[str, Any]) -> None:
        lagging = event.get("lagging") or {}
        if lagging.get("stuck") and not gate.exists():
            seen.append(lagging)
            gate.touch()

    run = staffa.run(
        tmp_path / "campaign.yaml", set=[f"storage.root={tmp_path / 'runs'}"], progress=False, listeners=[listen]
    )
    assert run.ended is not None and run.ended.outcomes == {"ok": 10}
    found = seen[0]["batches"][0]
    assert seen[0]["stuck"] == 1 and found["state"] == "stuck" and found["batch"] == "g0/7"
    assert found["worker"] and found["node"] and found["seconds"] > found["typical"]
    assert run.status["figures"]["lagging"]["stuck"] == 0
