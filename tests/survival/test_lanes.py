"""Slow writes do not keep the device waiting."""

from survival.accidents import HERE

EDGE = 6
"""Batches at either end that do not count: the window fills, and runs dry."""


def test_the_device_stays_busy_while_the_disk_is_slow(lab):
    """0.2 s of device and 0.2 s of disk a batch: in one lane the device would be busy half of the time."""
    campaign = lab.campaign("Slow", execution={"segments": 1, "batch": 2, "width": 2}, archive={"every": "off"})
    driver = lab.start("run", campaign, DASK_DISTRIBUTED__WORKER__PRELOAD=str(HERE / "slow_writes.py"))
    assert driver.wait() == 0, driver.said
    issued = {event["batch"]: event["at"] for event in lab.journal("batch_issued")}
    settled = [
        (issued[event["batch"]] + event["timings"]["queue"], event["timings"]) for event in lab.journal("batch_settled")
    ]
    steady = sorted(settled, key=lambda one: one[0])[EDGE:-EDGE]
    assert len(settled) == 32
    busy = sum(timings["initialize"] + timings["sample"] for _, timings in steady[:-1])
    writing = sum(timings["write"] for _, timings in steady[:-1])
    span = steady[-1][0] - steady[0][0]
    assert writing > 0.9 * busy, "the disk was not slow"
    assert busy / span > 0.95, f"the device was busy {busy:.2f} s of {span:.2f} s"
