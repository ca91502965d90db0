"""Which program made which lane: from checkpoints, receipts and the journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from execution.test_yield import MODEL, PLAIN, campaign, compute, planned
from staffa.execution import programs, work
from staffa.execution.programs import UNKNOWN, Made, joined, known, maker, records
from staffa.experiment.backend import backend, backend_name
from staffa.storage.provenance import known_backends


def settled(batch: str, *made: Made, lanes: str | None = None, **more: object) -> dict[str, object]:
    return {"event": "batch_settled", "batch": batch, "lanes": lanes, "programs": [list(one) for one in made], **more}


def test_the_last_commit_that_computed_a_lane_made_it() -> None:
    events = [
        settled("g0/0", (64, "a")),
        settled("g0/1", (64, "a")),
        settled("g0/0", (32, "b"), lanes="3,5-7"),
        settled("g0/0", (16, "c"), duplicate=True),
    ]
    found = records(events)
    assert maker(found["g0/0"], 0).programs == maker(found["g0/0"], 4).programs == ((64, "a"),)
    assert maker(found["g0/0"], 3).programs == maker(found["g0/0"], 6).programs == ((32, "b"),)
    assert maker(found["g0/1"], 3).programs == ((64, "a"),)
    assert maker((), 0) is None


def test_what_was_made_before_the_code_changed_is_stale() -> None:
    change = {"event": "code_change_accepted", "old": "x", "new": "y"}
    found = records([settled("g0/0", (8, "a")), change, settled("g0/1", (8, "a"))])
    assert found["g0/0"][0].stale and not found["g0/1"][0].stale


def test_an_old_journal_or_checkpoint_names_no_program() -> None:
    assert known({}) == (UNKNOWN,)
    assert records([{"event": "batch_settled", "batch": "g0/0"}])["g0/0"][0].programs == (UNKNOWN,)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's backend is asked for anew."""
    programs.backend_of.cache_clear()
    yield
    programs.backend_of.cache_clear()


def test_a_receipt_names_the_program_and_the_backend_is_written_down(tmp_path: Path, narrow: None) -> None:
    workspace, plan, order = planned(campaign(tmp_path, MODEL, "Walk", sampling={"draws": 4}))
    receipt = compute(order, plan)
    name = backend_name(backend())
    assert list(map(tuple, receipt["programs"])) == [(receipt["width"], name)]
    assert known_backends(workspace.metadata) == {name: backend()}
    assert json.loads(workspace.backend(name).read_text()) == backend()


@pytest.mark.parametrize(("model", "use"), [(MODEL, "Walk"), (PLAIN, "Slow")])
def test_a_batch_that_is_carried_on_elsewhere_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow: None, model: str, use: str
) -> None:
    shape = {"sampling": {"draws": 12}, "execution": {"segments": 4}} if use == "Walk" else {}
    workspace, plan, order = planned(campaign(tmp_path, model, use, **shape))
    left = iter([100.0] * 3 + [0.0] * 20)
    monkeypatch.setattr(work, "seconds_left", lambda: next(left))
    assert compute(order, plan)["yielded"] is not None
    monkeypatch.setattr(work, "seconds_left", lambda: 1000.0)
    here = backend()
    monkeypatch.setattr(programs, "backend", lambda: {**here, "device": "another"})
    programs.backend_of.cache_clear()
    receipt = compute(replace(order, issue=2), plan)
    names = [backend_name(here), backend_name({**here, "device": "another"})]
    assert receipt["yielded"] is None and [name for _, name in receipt["programs"]] == names
    assert sorted(known_backends(workspace.metadata)) == sorted(names)


def test_the_same_program_is_named_once(tmp_path: Path, narrow: None) -> None:
    _, _, order = planned(campaign(tmp_path, MODEL, "Walk", sampling={"draws": 4}))
    one = joined((), 8, order.root)
    assert joined(one, 8, order.root) == one and len(joined(one, 4, order.root)) == 2
