"""Slow writes do not keep the device waiting."""

from itertools import pairwise
from statistics import median

import pytest

from survival.accidents import HERE

EDGE = 3
"""Batches at either end that do not count: the window fills, and runs dry."""


@pytest.mark.slow
def test_the_device_stays_busy_while_the_disk_is_slow(lab):
    """0.6 s of device and 0.8 s of disk a batch: in one lane the device would be busy 43 % of the time."""
    campaign = lab.campaign("Slow", execution={"segments": 1, "batch": 4, "width": 4}, archive={"every": "off"})
    slow = {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(HERE / "slow_writes.py")}
    driver = lab.start("run", campaign, **slow)
    assert driver.wait() == 0, driver.said

    issued = {event["batch"]: event["at"] for event in lab.journal("batch_issued")}
    batches = [(issued[event["batch"]] + event["timings"]["queue"], event["timings"]) for event in
               lab.journal("batch_settled")]  # fmt: skip
    assert len(batches) == 16
    steady = sorted(batches, key=lambda batch: batch[0])[EDGE:-EDGE]
    # Medians: one hiccup of a busy machine is no property of the lanes.
    period = median(after - before for (before, _), (after, _) in pairwise(steady))
    device = median(timings["initialize"] + timings["sample"] for _, timings in steady)
    disk = median(timings["write"] for _, timings in steady)
    assert disk > device, "the disk was not slow"
    assert device / period > 0.95, f"of {period:.3f} s a batch the device was busy {device:.3f} s"
