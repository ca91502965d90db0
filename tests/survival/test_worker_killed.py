"""kill -9 of a worker in each phase of a batch: everything is done, nothing twice."""

import os
import signal

from survival.accidents import assert_same, assert_whole


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
