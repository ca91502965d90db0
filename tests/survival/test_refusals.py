"""What a driver refuses: another driver, other code, another campaign. Nothing is written then."""

import os
import signal
import time

import pyarrow.parquet as pq
import pytest

from survival.accidents import assert_same, assert_whole, table


def everything(root):
    """All files but the lease: a dead driver's is cleared away by whoever looks."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith("lease.")]
    return {path: path.read_bytes() for path in files}


def test_a_second_driver(lab):
    lab.hold("step-5")
    campaign = lab.campaign("Gated")
    first = lab.start("run", campaign)
    lab.reached("step-5")
    for verb, where in (("run", campaign), ("resume", lab.root)):
        second = lab.start(verb, where)
        assert second.wait() == 2, second.said
        assert "already has a driver" in second.said and f"pid {first.pid}" in second.said
        assert os.uname().nodename in second.said and "staffa stop" in second.said
        assert "Traceback" not in second.said
    lab.release("step-5")
    assert first.wait() == 0, first.said
    assert len(lab.journal("run_started")) == 1
    assert_whole(lab.root, 64)


def test_two_drivers_at_once(lab):
    """Both plan, one of them gets the lease."""
    campaign = lab.campaign()
    both = [lab.start("run", campaign) for _ in range(2)]
    assert sorted(driver.wait() for driver in both) == [0, 2], "\n".join(driver.said for driver in both)
    assert len(lab.journal("run_started")) == 1
    assert_whole(lab.root, 64)


def test_changed_code_and_changed_campaign(lab, undisturbed):
    campaign = lab.campaign("Gated")
    lab.trap("commit", "worker", r"/status/c\.\d+$", skip=3)
    driver = lab.start("run", campaign)
    lab.caught("commit")
    driver.kill()
    driver.end()
    names = table_of_trials(lab)
    before = everything(lab.root)

    text = campaign.read_text()
    campaign.write_text(text.replace("draws: 8", "draws: 16").replace("thin: 2", "thin: 3"))
    assert campaign.read_text() != text
    changed = lab.start("run", campaign)
    assert changed.wait() == 2, changed.said
    for word in ("sampling.draws: 8 there, 16 here", "sampling.thin: 2 there, 3 here", "staffa expand"):
        assert word in changed.said
    assert everything(lab.root) == before, "a refused run wrote something"
    campaign.write_text(text)

    model = lab.workflow / "model.py"
    model.write_text(model.read_text() + "\n# another thought\n")
    for verb, where in (("resume", lab.root), ("run", campaign)):
        refused = lab.start(verb, where)
        assert refused.wait() == 2, refused.said
        assert "--accept-code-change" in refused.said and "Traceback" not in refused.said
        assert everything(lab.root) == before
    accepted = lab.start("resume", lab.root, "--accept-code-change")
    assert accepted.wait() == 0, accepted.said
    (change,) = lab.journal("code_change_accepted")
    assert change["old"] != change["new"]
    assert "another thought" in (lab.root / "code" / "model.py").read_text()
    assert table_of_trials(lab) == names, "a trial lost its name"
    assert sorted(table(lab.root, "trials")["trial"].to_pylist()) == sorted(names)
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))

    # Accepted once, it is the campaign's code.
    again = lab.start("resume", lab.root)
    assert again.wait() == 0, again.said


@pytest.mark.slow
def test_killed_while_the_code_is_exchanged(lab, undisturbed):
    """The old snapshot is away, the new one not there: either code can be gone on with."""
    lab.trap("commit", "worker", r"/status/c\.\d+$", skip=3)
    driver = lab.start("run", lab.campaign("Gated"))
    lab.caught("commit")
    driver.end()
    model = lab.workflow / "model.py"
    text = model.read_text()
    model.write_text(text + "\n# another thought\n")
    lab.trap("exchange", "driver", r"/v1\.0_walk/code$")
    driver = lab.start("resume", lab.root, "--accept-code-change")
    lab.caught("exchange")
    assert not (lab.root / "code").exists() and lab.journal("code_change_accepted")
    driver.kill()

    refused = lab.start("resume", lab.root)
    assert refused.wait() == 2, refused.said
    model.write_text(text)
    lab.complete()
    assert (lab.root / "code" / "model.py").read_text() == text
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))


def table_of_trials(lab):
    return pq.read_table(lab.root / "metadata" / "trials-0.parquet")["trial"].to_pylist()


def test_control_c_once(lab, undisturbed):
    """Batches in flight are committed, no new ones issued; the run can be resumed."""
    lab.hold("step-5")
    driver = lab.start("run", lab.campaign("Gated"))
    lab.reached("step-5")
    lab.until(lambda: len(lab.flying()) == 3, "a full window")
    flying = lab.flying()
    driver.interrupt()
    lab.release("step-5")
    assert driver.wait() == 130, driver.said
    issued = [event["batch"] for event in lab.journal("batch_issued")]
    assert set(issued) == flying and len(issued) == len(flying), "something was issued after Ctrl-C"
    assert not lab.flying() and not lab.journal("batch_lost")
    assert lab.journal("run_ended")[-1]["reason"] == "interrupted"
    lab.complete()
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))


def test_control_c_twice(lab, undisturbed):
    """The driver leaves at once, though a batch hangs on the device."""
    lab.hold("step-5")
    driver = lab.start("run", lab.campaign("Gated"))
    worker = lab.reached("step-5")
    driver.interrupt()
    time.sleep(1)  # two signals at once would be one
    os.kill(driver.pid, signal.SIGINT)
    began = time.monotonic()
    assert driver.wait() == 130, driver.said
    took = time.monotonic() - began
    assert took < 50, f"it took {took:.0f} s to leave"
    assert worker not in driver.members()
    lab.release("step-5")
    lab.complete()
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))
