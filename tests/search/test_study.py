"""Asking and telling: nothing counts twice, nothing is lost, and a study that was killed goes on as it would have."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from staffa.campaign.domain import Domain
from staffa.campaign.objectives import Objectives
from staffa.errors import ConfigError
from staffa.search.journal import Journal
from staffa.search.strategies import Told
from staffa.search.strategies.random import Random
from staffa.search.study import ConflictError, Study, UnknownTrialError

SPACE = Domain.read(
    {"rate": [0.001, 1.0, "log"], "leaps": [1, 32, "int"], "mass": {"choice": ["unit", "diagonal"]}, "x": [0.0, 1.0]}
)
LOSS = Objectives.read({"loss": "minimize"})
TWO = Objectives.read(
    {"bias": {"target": 0.1, "limit": 1.0}, "ess": {"target": 10.0, "limit": 1.0, "direction": "maximize", "group": 1}}
)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Learning:
    """Looks where the best trial so far was, so that it matters what it was told, and in which order."""

    def __init__(self):
        self.saw = []

    def suggest(self, first, count, told):
        self.saw.append(told)
        best = told.points[np.argmin(told.scores[:, 0])] if len(told) else np.full(SPACE.dimension, 0.5)
        jitter = np.stack([np.random.default_rng([first + i, len(told)]).random(len(best)) for i in range(count)])
        return np.clip(best + 0.1 * (jitter - 0.5), 0, 1)


def study(*, objectives=LOSS, strategy=None, clock=None, **more):
    return Study(
        SPACE, objectives, strategy or Random(domain=SPACE, budget=None, seed=3), clock=clock or Clock(), **more
    )


def test_trials_come_one_after_another_up_to_the_budget():
    s = study(trials=5)
    first, rest = s.ask(3, worker="a"), s.ask(3, worker="b")
    assert [one.trial for one in first + rest] == [0, 1, 2, 3, 4]
    assert all(not SPACE.why_not(one.params) and one.attempt == 1 for one in first + rest)
    assert s.ask() == [] and not s.finished
    for one in first + rest:
        s.tell(one.trial, {"loss": float(one.trial)}, attempt=1)
    assert s.finished and s.best.trial == 0 and [one.trial for one in s.top_k(9)] == [0, 1, 2, 3, 4]
    assert s.status()["trials"]["recorded"] == 5 and s.status()["best"]["values"] == {"loss": 0.0}


def test_asking_three_is_asking_thrice():
    together, apart = study(strategy=Learning()), study(strategy=Learning())
    assert [one.params for one in together.ask(3)] == [apart.ask()[0].params for _ in range(3)]


@pytest.mark.parametrize("count", [0, -1, 1001, True, 1.0, "2"])
def test_a_count_that_makes_no_sense(count):
    with pytest.raises(ConfigError, match=r"count: .*1 to 1000|count: "):
        study().ask(count)


def test_the_same_result_twice_counts_once_and_another_is_a_conflict():
    s = study()
    s.ask()
    assert s.tell(0, {"loss": 1.0}).status == "recorded"
    assert s.tell(0, {"loss": 1.0}).status == "replayed"
    assert s.tell(0, {"loss": 1}, attempt=1, key="k").status == "replayed"
    with pytest.raises(ConflictError, match=r"trial 0 has another result: \{'loss': 1.0\}, not \{'loss': 2.0\}"):
        s.tell(0, {"loss": 2.0})
    with pytest.raises(ConflictError):
        s.tell(0, None, failed="late regrets")
    assert len(s.told()) == 1 and s.record(0).values == {"loss": 1.0}


def test_what_cannot_be_told():
    s = study(objectives=TWO)
    s.ask()
    before = s.status()
    for trial, values, match in [
        (1, {"bias": 1.0}, "no trial 1"), (-1, {"bias": 1.0}, "no trial -1"), (True, {}, "no trial True"),
        (0, {"bais": 1.0}, r"values\.bais: 'bais' is no objective"), (0, {"bias": "low"}, r"values\.bias: 'low'"),
        (0, {"bias": True}, r"values\.bias: True"), (0, {"bias": 10**400}, r"values\.bias"), (0, None, "values: None"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            s.tell(trial, values)
    with pytest.raises(UnknownTrialError):
        s.record(1)
    with pytest.raises(ConflictError, match="attempt 2"):
        s.tell(0, {"bias": 1.0}, attempt=2)
    with pytest.raises(ConflictError, match="other parameters"):
        s.tell(0, {"bias": 1.0}, params={"rate": 0.5})
    assert s.status() == before and len(s.told()) == 0


@pytest.mark.parametrize("bias", [math.nan, None, math.inf])
def test_no_number_scores_infinitely_much_and_the_record_says_why(bias):
    s = study(objectives=TWO)
    s.ask(2)
    verdict = s.tell(0, {"bias": bias, "ess": 5.0})
    assert (
        verdict.scores[0] == math.inf
        and verdict.scores[1] == pytest.approx(5 / 9)
        and verdict.why
        == (
            "bias is missing"
            if bias is None
            else f"bias is {bias}"
            if math.isnan(bias)
            else "bias = inf is beyond its limit 1.0"
        )
    )
    assert s.tell(1, {"ess": 5.0}).why == "bias is missing"
    assert s.tell(0, {"bias": bias, "ess": 5.0}).status == "replayed"
    assert s.best is None and s.fronts(3) == [] and s.told().scores[0, 0] == math.inf


def test_failures_cost_tries_until_the_trial_is_given_up():
    s = study(retries=2)
    s.ask(worker="a")
    for attempt in (1, 2, 3):
        verdict = s.tell(0, None, failed="boom", attempt=attempt)
        again = s.tell(0, None, failed="boom", attempt=attempt)
        assert (verdict.status, again.status) == ("recorded", "replayed") and verdict.state == again.state
        if attempt < 3:
            assert [(one.trial, one.attempt) for one in s.ask()] == [(0, attempt + 1)]
    assert verdict.state == "quarantined" and s.record(0).why == "boom"
    assert s.told().scores.tolist() == [[math.inf]]
    assert [one.trial for one in s.ask()] == [1]
    with pytest.raises(ConflictError, match="said to have failed"):
        s.tell(0, {"loss": 1.0}, attempt=3)


def test_a_lease_that_ran_out_and_its_late_result():
    clock = Clock()
    s = study(clock=clock, lease=300, retries=1)
    one, two = s.ask(2, worker="a")
    clock.now += 299
    assert s.beat("b", [0]).lost == (0,) and s.beat("", [one.trial]).held == (0,)
    clock.now += 2
    again = s.ask(worker="b")
    assert [(one.trial, one.attempt) for one in again] == [(two.trial, 2)]
    assert s.beat("a", [0, 1]) == s.beat("a", [0, 1]) and s.beat("a", [0, 1]).lost == (1,)
    assert s.tell(1, {"loss": 0.5}, attempt=1).status == "recorded"
    assert s.tell(1, {"loss": 0.5}, attempt=2).status == "replayed" and len(s.told()) == 1
    with pytest.raises(ConflictError):
        s.tell(1, {"loss": 0.7}, attempt=2)
    assert s.beat("b").held == ()


def test_a_late_result_of_a_trial_that_was_given_up_is_taken_and_earlier_rows_stay():
    clock = Clock()
    s = study(clock=clock, lease=10, retries=0)
    s.ask(worker="a")
    clock.now += 11
    assert s.expire() == [0] and s.record(0).state == "quarantined" and s.expire() == []
    before = s.told()
    assert s.tell(0, None, failed="oh", attempt=1).status == "ignored"
    assert s.tell(0, {"loss": 2.0}, attempt=1).status == "recorded"
    after = s.told()
    assert before.scores.tolist() == [[math.inf]] and after.scores.tolist() == [[math.inf], [2.0]]
    assert [one.trial for one in s.top_k(5)] == [0] and s.status()["trials"]["quarantined"] == 0


def test_cancelling_and_handing_back():
    s = study(trials=4, retries=0)
    s.ask(4, worker="a")
    assert s.cancel([1], again=True, worker="b") == {1: "pending"}
    assert s.cancel([1, 2], again=True, worker="a") == {1: "waiting", 2: "waiting"}
    assert s.cancel([0, 2]) == {0: "cancelled", 2: "cancelled"} and s.cancel(0) == {0: "cancelled"}
    with pytest.raises(ConflictError, match="was cancelled"):
        s.tell(0, {"loss": 1.0})
    assert [(one.trial, one.attempt) for one in s.ask(9)] == [(1, 2)], "a trial that was handed back costs no try"
    s.tell(1, {"loss": 1.0})
    assert s.cancel([1]) == {1: "recorded"} and not s.finished
    s.tell(3, None, failed="boom")
    assert s.finished


def test_keys():
    s = study()
    first = s.ask(2, worker="a", key="k1")
    assert s.ask(2, worker="a", key="k1") == first and s.ask(2, worker="a", key="k2") != first
    for call in (lambda: s.ask(3, worker="a", key="k1"), lambda: s.tell(0, {"loss": 1.0}, key="k1")):
        with pytest.raises(ConflictError, match="'k1' was used for something else"):
            call()
    assert s.tell(0, {"loss": math.inf}, key="k3").status == "recorded"
    assert s.tell(0, {"loss": math.inf}, key="k3").status == "replayed"
    with pytest.raises(ConflictError):
        s.tell(1, {"loss": 1.0}, key="k3")
    brought, twin = (s.add(first[0].params, {"loss": 3.0}, key="k4") for _ in range(2))
    assert (brought.status, twin.status) == ("recorded", "replayed") and brought.trial == twin.trial == 4
    assert s.status()["asked"] == 4 and len(s.trials()) == 5


def test_a_trial_nobody_asked_for_must_lie_in_the_space():
    s = study(trials=1)
    with pytest.raises(ConfigError, match=r"params: rate = 2.0 is not"):
        s.add({"rate": 2.0, "leaps": 3, "mass": "unit", "x": 0.0}, {"loss": 1.0})
    assert s.trials() == []
    s.add({"rate": 0.1, "leaps": 3, "mass": "unit", "x": 0.0}, {"loss": 1.0})
    assert len(s.ask(5)) == 1, "it is not of the budget" and s.best.trial == 0


def test_other_objectives_score_everything_anew():
    s = study(objectives=TWO)
    s.ask(3)
    for trial, (bias, ess) in enumerate([(0.1, 1.0), (1.0, 10.0), (0.55, 1.5)]):
        s.tell(trial, {"bias": bias, "ess": ess})
    assert [[one.trial for one in front] for front in s.fronts(5)] == [[0, 1, 2]]
    before = s.told()
    s.rescore(s.objectives.changed({"ess": {"limit": 2.0}}))
    assert [[one.trial for one in front] for front in s.fronts(5)] == [[1]] and s.record(0).why
    s.rescore(s.objectives.changed({"ess": {"group": 0, "limit": 1.0}}))
    assert s.told().version == before.version + 2 and s.told().scores.shape == (3, 1) and before.scores.shape == (3, 2)
    assert s.told().scores[:, 0] == pytest.approx([1.0, 1.0, 0.5 + 8.5 / 9])
    with pytest.raises(ConfigError, match="are other ones"):
        s.rescore(LOSS)


def some(s, clock, numbers):
    """Asks and tells, failures, NaN, trials nobody tells of: the same whenever it is the same study."""
    for i in numbers:
        for one in s.ask(2, worker=f"w{i % 3}", key=f"ask{i}"):
            clock.now += 1
            if one.trial % 5 == 3:
                s.tell(one.trial, None, failed="boom", attempt=one.attempt)
            elif one.trial % 7 != 5:
                values = {"bias": one.params["x"], "ess": math.nan if one.trial % 11 == 2 else 1 + i % 9}
                s.tell(one.trial, values, attempt=one.attempt, key=f"tell{one.trial}")
        if i == 7:
            s.cancel([one.trial for one in s.ask(1)])
            clock.now += 301
            s.rescore(s.objectives.changed({"bias": {"priority": 2.0}}))
            s.add({"rate": 0.1, "leaps": 3, "mass": "unit", "x": 0.0}, {"bias": math.inf, "ess": -math.inf})


def test_a_study_goes_on_from_its_journal_as_it_would_have(tmp_path):
    clocks = Clock(), Clock()
    whole, cut = (
        study(objectives=TWO, strategy=Learning(), clock=clock, retries=1, journal=Journal.open(tmp_path / name))
        for clock, name in zip(clocks, ("whole", "cut"), strict=True)
    )
    some(whole, clocks[0], range(40))
    some(cut, clocks[1], range(25))
    cut.close()
    with (tmp_path / "cut").open("ab") as file:
        file.write(b'{"event":"told","trial":0,"att')
    again = study(
        objectives=TWO, strategy=Learning(), clock=clocks[1], retries=1, journal=Journal.open(tmp_path / "cut")
    )
    assert str(again.trials()) == str(cut.trials()) and again.status()["trials"] == cut.status()["trials"]
    assert again.ask(2, worker="w0", key="ask0")[0].params == whole.record(0).params
    first = {"bias": whole.record(0).params["x"], "ess": 1}
    assert again.tell(0, first, attempt=1, key="tell0").status == "replayed"
    some(again, clocks[1], range(25, 40))
    assert str(again.trials()) == str(whole.trials()) and again.journal.rubbish == 0
    assert again.told().points.tolist() == whole.told().points.tolist()
    assert again.told().scores.tolist() == whole.told().scores.tolist()
    assert {record.state for record in again.trials()} == {"pending", "recorded", "quarantined", "cancelled"}
    whole.close(), again.close()


def test_what_was_changed_stands_until_the_declaration_changes(tmp_path):
    def going(objectives):
        return study(objectives=objectives, journal=Journal.open(tmp_path / "j"))

    s = going(TWO)
    s.ask()
    s.tell(0, {"bias": 0.5, "ess": 5.0})
    s.rescore(TWO.changed({"bias": {"limit": 0.4}}))
    s.close()
    again = going(TWO)
    assert again.objectives.all[0].limit == 0.4 and again.best is None
    again.close()
    other = TWO.changed({"bias": {"limit": 0.6}})
    for _ in range(2):
        again = going(other)
        assert again.objectives == other and again.best.trial == 0
        again.close()


def test_trials_that_left_the_space_are_infeasible(tmp_path):
    s = study(journal=Journal.open(tmp_path / "j"))
    for one in s.ask(20):
        s.tell(one.trial, {"loss": 1.0})
    s.close()
    smaller = Domain.read({**SPACE.words(), "x": [0.0, 0.5]})
    again = Study(smaller, LOSS, Random(domain=smaller, budget=None, seed=3), journal=Journal.open(tmp_path / "j"))
    inside = [record.params["x"] <= 0.5 for record in again.trials()]
    assert np.isfinite(again.told().scores[:, 0]).tolist() == inside and 0 < sum(inside) < 20
    assert {bool(record.why) for record, fits in zip(again.trials(), inside, strict=True) if not fits} == {True}
    again.close()


def test_a_disk_that_is_full_records_nothing(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path / "j")
    s = study(journal=journal)
    s.ask()

    def full(event):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", full)
        for call in (lambda: s.ask(), lambda: s.tell(0, {"loss": 1.0}), lambda: s.tell(0, None, failed="x")):
            with pytest.raises(OSError):
                call()
    assert s.record(0).state == "pending" and len(s.trials()) == 1
    assert s.tell(0, {"loss": 1.0}).status == "recorded" and s.ask()[0].trial == 1
    s.close()


def test_a_strategy_that_prepares_is_asked_by_what_it_prepared():
    class Prepared(Learning):
        prepared = ()

        def refits_at(self, told):
            return told // 4 * 4

        def prepare(self, told):
            self.prepared = (*self.prepared, len(told))

    strategy = Prepared()
    s = study(strategy=strategy)
    assert s.prepare() and not s.prepare()
    for _ in range(9):
        (one,) = s.ask()
        s.tell(one.trial, {"loss": 1.0})
    assert len(strategy.saw[-1]) == 0 and s.prepare() and not s.prepare()
    s.ask()
    assert strategy.prepared == (0, 8) and len(strategy.saw[-1]) == 8
    s.rescore(LOSS)
    assert s.prepare() and strategy.prepared == (0, 8, 8)
    assert not study().prepare(), "random has nothing to prepare"


def test_suggestions_made_ahead_are_the_same_trials():
    s, plain = study(trials=9), study(trials=9)
    want = [one.params for one in plain.ask(9)]
    assert s.ask_at_once() is None and s.stock_up() and s.stock_up()
    assert [one.params for one in s.ask_at_once(2)] == want[:2] and s.ask_at_once(2) is None
    while s.stock_up():
        pass
    assert [one.params for one in s.ask(6)] == want[2:8], "four were ready, two were not"
    s.cancel([3], again=True)
    while s.stock_up():
        pass
    assert [(one.trial, one.attempt, one.params) for one in s.ask(5)] == [(3, 2, want[3]), (8, 1, want[8])]
    assert not s.stock_up() and s.ask_at_once() == []


def test_what_was_suggested_for_other_objectives_is_dropped():
    strategy = Learning()
    s = study(strategy=strategy)
    s.stock_up()
    s.rescore(LOSS.changed({"loss": {"direction": "maximize"}}))
    assert s.ask_at_once() is None and s.ask()[0].trial == 0 and strategy.saw[-1].version == 1


def test_threads_ask_while_another_suggests_ahead():
    s, want = study(trials=300), [one.params for one in study(trials=300).ask(300)]
    ended, errors = threading.Event(), []

    def stock():
        while not ended.is_set():
            s.stock_up()

    def ask(name):
        try:
            while found := s.ask(3, worker=name):
                for one in found:
                    s.tell(one.trial, {"loss": 1.0}, attempt=one.attempt, params=want[one.trial])
        except Exception as error:
            errors.append(error)

    stocking = threading.Thread(target=stock)
    threads = [threading.Thread(target=ask, args=(f"w{i}",)) for i in range(6)]
    [thread.start() for thread in (stocking, *threads)], [thread.join() for thread in threads]
    ended.set(), stocking.join()
    assert not errors and s.finished and [one.params for one in s.trials()] == want


def test_a_worker_that_says_what_it_has_lets_go_of_the_rest():
    clock = Clock()
    s = study(clock=clock, lease=10)
    s.ask(2, worker="a")
    for _ in range(3):
        clock.now += 6
        assert s.beat("a", [1]).held == (1,)
    assert [(one.trial, one.attempt) for one in s.ask(worker="b")] == [(0, 2)] and s.beat("a").held == (1,)


def test_threads_share_a_study():
    s = study(trials=400)
    errors = []

    def work(name):
        try:
            while found := s.ask(3, worker=name):
                for one in found:
                    for _ in range(2):
                        s.tell(one.trial, {"loss": float(one.trial)}, attempt=one.attempt)
                    s.beat(name)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not errors and s.finished and len(s.told()) == 400
    assert sorted(one.trial for one in s.top_k(400)) == list(range(400))


def test_told_looks_the_same_to_whoever_holds_it():
    s = study()
    s.ask(200)
    held = []
    for trial in range(200):
        s.tell(trial, {"loss": float(trial)})
        held.append(s.told())
    last: Told = held[-1]
    assert all((told.points == last.points[: len(told)]).all() for told in held)
    assert [len(told) for told in held] == list(range(1, 201))
    with pytest.raises(ValueError):
        last.scores[0, 0] = 1.0
