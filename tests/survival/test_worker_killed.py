"""kill -9 of a worker in each phase of a batch: everything is done, nothing twice."""

import os
import signal

from survival.accidents import assert_same, assert_whole, status

MENDED = 5
ONE_BATCH = {
    "space": [{"linspace": {"scale": [0.1, 1.0, 32]}}],
    "execution": {"batch": 64, "width": 16},
    "archive": {"partition_by": []},
}
"""64 trials in one batch, four calls of the device a segment."""


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def lost(lab):
    return lab.journal("batch_lost")


def charged(lab):
    return [event["batch"] for event in lost(lab) if event["charged"]]


def test_in_initialize_write_and_commit(lab, undisturbed):
    lab.hold("initialize")
    lab.trap("write", "worker", r"hot/.*/x/c\.\d+\.0\.0$")
    lab.trap("commit", "worker", r"/status/c\.\d+$")
    driver = lab.start("run", lab.campaign("Gated"))

    victim = lab.reached("initialize")
    mark = lab.mark(victim)
    assert mark["batch"] in lab.flying() and not lab.settled()
    (lab.traps / "commit.json").rename(lab.traps / "commit.later")
    kill(victim)
    lab.until(lambda: charged(lab), "the loss")
    lab.release("initialize")
    assert charged(lab) == [mark["batch"]]

    victim = lab.caught("write")
    (lab.traps / "commit.later").rename(lab.traps / "commit.json")
    assert not lab.target("write").exists() and lab.source("write").exists()
    kill(victim)

    victim = lab.caught("commit")
    batch = lab.target("commit").name.removeprefix("c.")
    assert (lab.target("commit").parents[1] / "checksum" / f"c.{batch}.0.0").exists()
    assert not lab.target("commit").exists()
    kill(victim)

    assert driver.wait() == 0, driver.said
    assert len({event["worker"] for event in lost(lab)}) == 3
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))


def test_between_segments_and_while_sampling(lab, undisturbed):
    """A new worker goes on from the checkpoint; two deaths over one batch do not make its lanes guilty."""
    lab.hold("step-8")
    driver = lab.start("run", lab.campaign("Gated", **ONE_BATCH))
    victim = lab.reached("step-8")
    saved = lab.root / "state" / "0-g0-0.safetensors"
    lab.until(saved.exists, "the checkpoint")

    (lab.gates / "step-8.reached").unlink()
    lab.hold("initialize")
    kill(victim)
    heir = lab.reached("step-8")
    assert heir != victim and lab.mark(heir)["batch"] == "g0/0"
    assert not (lab.gates / "initialize.reached").exists(), "it began again instead of going on"
    lab.release("initialize")
    lab.release("step-8")
    assert driver.wait() == 0, driver.said
    assert charged(lab) == ["g0/0"]
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated", **ONE_BATCH))


def test_twice_over_the_same_batch(lab, undisturbed):
    """Two deaths make the lanes on the device suspects; tried in pieces, they turn out innocent."""
    lab.hold("step-3")
    driver = lab.start("run", lab.campaign("Gated", **ONE_BATCH))
    for number in (1, 2):
        victim = lab.reached("step-3")
        (lab.gates / "step-3.reached").unlink()
        kill(victim)
        lab.until(lambda number=number: len(charged(lab)) == number, "the loss")
    lab.release("step-3")
    assert driver.wait() == 0, driver.said
    assert charged(lab) == ["g0/0", "g0/0"]
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated", **ONE_BATCH))


def test_after_a_commit_with_failures(lab):
    """The receipt that told of failed trials is lost with its worker: they are tried again all the same."""
    campaign = lab.poisoned("Poison", dict.fromkeys(range(0, 64, 4), MENDED))
    lab.trap("committed", "worker", r"/state/0-g0-\d+\.safetensors$", event="os.remove")
    driver = lab.start("run", campaign)
    victim = lab.caught("committed")
    batch = int(lab.target("committed").stem.split("-")[2])
    assert 3 in status(lab.root)["g0.zarr", batch] and f"g0/{batch}" not in lab.settled()
    (lab.gates / "mended").touch()
    kill(victim)
    assert driver.wait() == 0, driver.said
    settled = [event for event in lab.journal("batch_settled") if event["batch"] == f"g0/{batch}"]
    assert [event["duplicate"] for event in settled] == [True, False]
    assert_whole(lab.root, 64)
