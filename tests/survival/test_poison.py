"""Trials that misbehave: the rest finish, and it is said which ones did not, and why."""

import os
import signal

import pytest

import staffa
from staffa.cli import main
from survival.accidents import assert_whole, failed, table

FINE, RAISES, NAN, HANGS, KILLS, MENDED = range(6)


@pytest.mark.parametrize("model", ["Poison", pytest.param("PlainPoison", marks=pytest.mark.soak)])
def test_poisoned_trials(lab, model, capsys):
    campaign = lab.poisoned(
        model, {5: RAISES, 20: NAN, 37: HANGS, 50: KILLS},
        execution={"segments": 1, "batch": 16, "width": 16, "workers": 2, "timeout": "3s"},
    )  # fmt: skip
    driver = lab.start("run", campaign)
    assert driver.wait() == 1, driver.said
    assert_whole(lab.root, 64, failures=3)

    listed = {row["kind"]: row for row in failed(lab.root)}
    assert {kind: row["outcome"] for kind, row in listed.items()} == {
        RAISES: "raised", HANGS: "timeout", KILLS: "killed",
    }  # fmt: skip
    assert "this trial is poisoned" in listed[RAISES]["message"]
    assert "execution.timeout" in listed[HANGS]["message"]
    assert "process" in listed[KILLS]["message"]
    assert {row["state"] for row in listed.values()} == {"quarantined"}
    assert {row["attempts"] for row in listed.values()} == {2}

    for row in listed.values():
        assert main(["explain", str(lab.root), row["trial"]]) == 0
        why = capsys.readouterr().out
        assert row["message"] in why and row["outcome"] in why, why

    warm = table(lab.root, "trials")
    outcomes = dict(zip(warm["kind"].to_pylist(), warm["outcome"].to_pylist(), strict=True))
    assert outcomes == {FINE: "ok", NAN: "nan"}
    assert warm["outcome"].to_pylist().count("ok") == 60

    # Given up means given up: a resume has nothing to do and says the same.
    assert staffa.resume(lab.root, client=lab.client, progress=False).ended.exit_code == 1
    assert not [event for event in lab.journal("batch_issued") if event["at"] > lab.journal("run_started")[-1]["at"]]


@pytest.mark.slow
def test_a_slice_that_never_started(lab):
    """All lanes of one call raise before the first step; the others outlive a worker between segments."""
    campaign = lab.poisoned("BadStart", {0: RAISES, 1: RAISES, 9: RAISES})
    lab.hold("step-8")
    driver = lab.start("run", campaign)
    victim = lab.reached("step-8")
    assert lab.mark(victim)["batch"] == "g0/0"
    saved = lab.root / "state" / "0-g0-0.safetensors"
    lab.until(saved.exists, "the checkpoint")
    os.kill(victim, signal.SIGKILL)
    lab.until(lambda: lab.journal("batch_lost"), "the loss")
    assert saved.exists()
    lab.release("step-8")
    assert driver.wait() == 1, driver.said
    assert_whole(lab.root, 64, failures=3)
    assert {row["outcome"] for row in failed(lab.root)} == {"raised"}
    assert all("this trial is poisoned" in row["message"] for row in failed(lab.root)), failed(lab.root)


def test_mended_after_sealing(lab):
    """Trials that work only after they were sealed as failed: supplements, and nothing twice."""
    campaign = lab.poisoned("Poison", dict.fromkeys([3, 17, 18, 40, 41, 63], MENDED))
    driver = lab.start("run", campaign)
    assert driver.wait() == 1, driver.said
    assert_whole(lab.root, 64, failures=6)
    sealed = {path.name: path.read_bytes() for path in (lab.root / "archive" / "trials").iterdir()}

    (lab.gates / "mended").touch()
    assert lab.go("retry", lab.root) == 0
    assert len(lab.journal("readmitted")) == 6

    # Killed after the trials were committed, before they were archived.
    lab.trap("seal", "worker", r"/archive/draws/.*-s1\.parquet$")
    driver = lab.start("resume", lab.root)
    lab.caught("seal")
    driver.kill()
    driver.end()
    lab.complete()

    assert_whole(lab.root, 64, failures=0)
    now = {path.name: path.read_bytes() for path in (lab.root / "archive" / "trials").iterdir()}
    assert {name: now[name] for name in sealed} == sealed, "a sealed part was touched"
    assert set(now) - set(sealed) and all("-s" in name for name in set(now) - set(sealed))
