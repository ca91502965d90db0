"""A full disk: waited for, then told; whatever was committed stays, and a resume finishes."""

import os
import signal

import pytest

from survival.accidents import SmallDisk, assert_same, assert_whole


@pytest.fixture
def disk(lab):
    found = SmallDisk(lab)
    yield found
    for driver in lab.drivers:
        driver.end()
    found.close()


def told(driver):
    """The driver gave up, and said what to do."""
    assert driver.wait() == 3, driver.said
    assert "No space left on device" in driver.said and "make room" in driver.said
    assert "Traceback" not in driver.said
    return True


def test_while_writing(lab, disk, undisturbed):
    lab.hold("step-5")
    campaign = lab.campaign("Gated", execution={"patience": "6s"})
    driver = lab.start("run", campaign, prefix=disk.prefix)
    lab.reached("step-5")
    disk.fill()
    lab.release("step-5")
    assert told(driver) and f"staffa resume {lab.root}" in driver.said

    # Still full: no driver can begin.
    assert told(lab.start("resume", lab.root, prefix=disk.prefix))

    disk.make_room()
    driver = lab.start("resume", lab.root, prefix=disk.prefix)
    assert driver.wait() == 0, driver.said
    assert not [event for event in lab.journal("batch_settled") if set(event["outcomes"]) != {"ok"}]
    assert_whole(lab.seen, 64)
    assert_same(lab.seen, undisturbed("Gated"))


def test_room_in_time(lab, disk, undisturbed):
    lab.hold("step-5")
    campaign = lab.campaign("Gated", execution={"patience": "10m"})
    driver = lab.start("run", campaign, prefix=disk.prefix)
    lab.reached("step-5")
    disk.fill()
    lab.release("step-5")
    lab.until(lambda: "paused" in driver.said, "the pause")
    disk.make_room()
    assert driver.wait() == 0, driver.said
    assert lab.journal("paused") and lab.journal("continued")
    assert_whole(lab.seen, 64)
    assert_same(lab.seen, undisturbed("Gated"))


@pytest.mark.slow
def test_while_sealing(lab, disk, undisturbed):
    lab.trap("seal", "worker", r"/archive/draws/.*part-\d+\.parquet$")
    driver = lab.start("run", lab.campaign("Gated", execution={"patience": "6s"}), prefix=disk.prefix)
    worker = lab.caught("seal")
    disk.fill()
    os.kill(worker, signal.SIGCONT)
    assert told(driver) and f"staffa resume {lab.root}" in driver.said
    disk.make_room()
    driver = lab.start("resume", lab.root, prefix=disk.prefix)
    assert driver.wait() == 0, driver.said
    assert_whole(lab.seen, 64)
    assert_same(lab.seen, undisturbed("Gated"))


def test_while_planning(lab, disk):
    disk.fill()
    campaign = lab.campaign()
    assert told(lab.start("run", campaign, prefix=disk.prefix))
    disk.make_room()
    driver = lab.start("run", campaign, prefix=disk.prefix)
    assert driver.wait() == 0, driver.said
    assert_whole(lab.seen, 64)
