"""How long a run goes on without a worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from staffa.errors import ClusterError
from staffa.execution.patience import Patience


def pool(*, expects: bool = False, trouble: str = "") -> Any:
    return SimpleNamespace(expects=lambda: expects, trouble=lambda: trouble)


def test_a_run_without_workers_is_given_up_when_patience_is_over() -> None:
    patience = Patience(90.0, pool(trouble="the queue is closed"), "staffa resume runs/one")
    patience.check(0, 0.0)  # the first moment counts, too
    patience.check(0, 90.0)
    with pytest.raises(ClusterError, match=r"no worker for 91 s \(execution.patience\); the queue is closed") as told:
        patience.check(0, 91.0)
    assert told.value.hint == "staffa resume runs/one"


def test_it_begins_anew_with_every_worker_and_is_a_minute_at_least() -> None:
    patience = Patience(0.0, pool(), "")
    for begin in (0.0, 100.0):
        patience.check(0, begin)
        patience.check(0, begin + 60.0)
        patience.check(1, begin + 61.0)
    patience.check(0, 200.0)
    with pytest.raises(ClusterError, match=r"no worker for 61 s \(execution.patience\)$"):
        patience.check(0, 261.0)


def test_workers_that_are_bound_to_come_are_waited_for() -> None:
    patience = Patience(60.0, pool(expects=True), "")
    patience.check(0, 0.0)
    patience.check(0, 1e6)
