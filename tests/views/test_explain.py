"""Why a trial is where it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import staffa
from staffa.errors import ConfigError
from staffa.storage.lease import Lease
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace
from staffa.views.explain import explain_trial

Event = Mapping[str, Any]


@pytest.fixture
def failed(mixed: Any) -> str:
    """Digest of a trial that raised."""
    return str(mixed.results.failed.to_pandas()["trial"][0])


@pytest.fixture
def copy(mixed: Any, tmp_path: Path) -> Workspace:
    """The campaign's folder, free to be tampered with."""
    return Workspace.open(shutil.copytree(mixed.root, tmp_path / "run"))


def note(workspace: Workspace, *events: Event) -> None:
    with Lease.acquire(workspace.lease) as lease, Ledger.open(workspace, lease) as ledger:
        for event in events:
            ledger.append(event)


def forget(workspace: Workspace, place: Event) -> None:
    """Take back the mark of a trial's batch and all that was written of it."""
    (workspace.group(0, place["group"]) / "status" / f"c.{place['batch'].partition('/')[2]}").unlink()
    shutil.rmtree(workspace.archive)
    shutil.rmtree(workspace.ledger)


def test_done(mixed: Any) -> None:
    found = explain_trial(Workspace.open(mixed.root), "0")
    assert (found["index"], found["state"], found["outcome"]) == (0, "archived", "ok")
    assert found["parameters"] == {"kind": "warm", "population": 8, "scale": 1.0, "size": 2}
    assert (found["group"], found["batch"], found["lane"], found["part"]) == ("g0", "g0/0", 0, "part-00000")
    assert found["why"] == "Its data are sealed in part-00000."
    assert [event["event"] for event in found["history"]] == ["batch_issued", "batch_settled"]
    assert found["trial"] in found["next"]


def test_by_digest_prefix(mixed: Any) -> None:
    whole = explain_trial(Workspace.open(mixed.root), "7")["trial"]
    found = staffa.explain(mixed.root, whole[:14])
    assert (found["trial"], found["index"]) == (whole, 7)


def test_nan(mixed: Any) -> None:
    trial = mixed.query("select trial from trials where outcome = 'nan' limit 1")["trial"][0]
    found = explain_trial(Workspace.open(mixed.root), trial)
    assert found["outcome"] == "nan" and "NaN" in found["why"]


def test_quarantined(mixed: Any, failed: str) -> None:
    found = explain_trial(Workspace.open(mixed.root), failed)
    assert (found["state"], found["outcome"]) == ("quarantined", "raised")
    assert found["why"] == "It was given up after 1 failed try. It raised: ValueError: no value at scale 2.0."
    assert found["next"] == f"staffa retry {mixed.root}"
    assert [event["event"] for event in found["history"]] == ["batch_issued", "batch_settled", "quarantined"]


@pytest.mark.parametrize("word", ["zz", "48", "9" * 20])
def test_unknown(mixed: Any, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain_trial(Workspace.open(mixed.root), word)
    assert repr(word) in caught.value.message and "0 to 47" in caught.value.hint


def test_ambiguous(mixed: Any) -> None:
    with pytest.raises(ConfigError, match="or more than one"):
        explain_trial(Workspace.open(mixed.root), "")


def test_without_a_ledger(copy: Workspace, failed: str) -> None:
    shutil.rmtree(copy.ledger)
    found = explain_trial(copy, failed)
    assert (found["state"], found["outcome"], found["history"]) == ("failed", "raised", [])
    assert found["why"].startswith("It raised.") and found["next"] == f"staffa resume {copy.root}"


def test_retried(copy: Workspace, failed: str) -> None:
    place = explain_trial(copy, failed)
    retry = {"event": "retry_planned", "batch": place["batch"], "lanes": [place["lane"]], "attempt": 2}
    note(copy, {"event": "readmitted", "trial": failed}, {**retry, "due": time.time() + 90})
    found = explain_trial(copy, failed)
    assert found["state"] == "planned" and "no driver is running" in found["why"]
    with Lease.acquire(copy.lease):
        found = explain_trial(copy, failed)
    assert "will be tried again in 1 min 30 s" in found["why"] and found["next"] == f"staffa watch {copy.root}"


def test_waiting_then_lost_then_flying(copy: Workspace) -> None:
    place = explain_trial(copy, "0")
    forget(copy, place)
    found = explain_trial(copy, "0")
    assert (found["state"], found["outcome"]) == ("planned", "missing")
    assert found["why"] == "It has no data yet, and no driver is running."
    assert found["next"] == f"staffa resume {copy.root}"
    issued = {"event": "batch_issued", "batch": "g0/0", "attempt": 1, "worker": "tls://w:1"}
    lost = {"event": "batch_lost", "batch": "g0/0", "attempt": 1, "worker": "tls://w:1", "reason": "the worker died"}
    note(copy, issued, {**lost, "charged": True, "lanes": [0, 2]})
    with Lease.acquire(copy.lease):
        found = explain_trial(copy, "0")
        assert "others go first" in found["why"] and "lost 1 time, last: the worker died" in found["why"]
        assert "the trial was on the device then" in found["history"][-1]["text"]
    note(copy, {**issued, "attempt": 2})
    with Lease.acquire(copy.lease):
        found = explain_trial(copy, "0")
        assert found["state"] == "issued" and "in flight on tls://w:1" in found["why"]


def test_paused(copy: Workspace) -> None:
    forget(copy, explain_trial(copy, "0"))
    note(copy, {"event": "paused", "reason": "No space left on device"})
    with Lease.acquire(copy.lease):
        assert "The driver is paused: No space left on device" in explain_trial(copy, "0")["why"]


def test_committed_but_not_sealed(copy: Workspace) -> None:
    shutil.rmtree(copy.archive)
    found = explain_trial(copy, "0")
    assert found["state"] == "done" and found["next"] == f"staffa consolidate {copy.root}"


def test_cancelled(copy: Workspace) -> None:
    place = explain_trial(copy, "0")
    forget(copy, place)
    note(copy, {"event": "cancelled", "trial": place["trial"]})
    found = explain_trial(copy, "0")
    assert found["state"] == "cancelled" and found["history"][-1]["event"] == "cancelled"
