"""kill -9 of a search's driver and worker where it hurts: nothing is asked for, lost or counted twice."""

import os
import signal
from collections import Counter

import numpy as np

import staffa
from staffa.execution.prepare import load_plan, open_stores
from staffa.storage.spans import unspan
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome
from survival.accidents import assert_whole, table

SEARCH = {
    "space": {"scale": [0.1, 1.0], "population": {"choice": [1, 2]}},
    "objectives": {"energy": "minimize"},
    "trials": 64,
    "strategy": {"use": "random"},
}
WALK = {"space": [], "replicates": 1, "search": SEARCH, "archive": {"partition_by": ["population"]}}


def asked(lab):
    """By place what was asked for; nothing is asked for twice."""
    found = {}
    for event in lab.journal("trials_asked"):
        for row, place in enumerate(unspan(event["places"])):
            assert place not in found, f"{place} was asked for twice"
            found[place] = {name: values[row] for name, values in event["points"].items()}
    return found


def assert_searched(lab, hopeless=0):
    """64 trials, each asked for once, and what was asked for is what was done."""
    points = asked(lab)
    assert sorted(points) == list(range(64))
    assert_whole(lab.root, 64, hopeless)
    done = table(lab.root, "trials").to_pylist()
    wanted = Counter((point["scale"], point["population"]) for point in points.values())
    assert Counter((row["scale"], row["population"]) for row in done) <= wanted
    means = {row["trial"]: row["energy.mean"] for row in done}
    plan = load_plan(Workspace(lab.root))
    for store in open_stores(Workspace(lab.root), plan).values():
        for batch in range(store.layout.batches):
            for lane, trial in enumerate(store.digests(batch)):
                if store.status(batch)[lane] == Outcome.OK:
                    assert np.isclose(store.scores(batch)[lane, 0], means[trial])


def test_the_driver_while_it_seats_and_lists_the_worker_before_it_scores(lab):
    lab.trap("seat", "driver", r"/identity/c\.\d+\.0$", skip=3)
    driver = lab.start("run", lab.campaign(**WALK))
    lab.caught("seat")
    driver.kill()
    lab.trap("list", "driver", r"/trials-0\.parquet$")
    driver = lab.start("resume", lab.root)
    lab.caught("list")
    driver.kill()
    lab.trap("score", "worker", r"/objectives/c\.\d+\.0$", skip=2)
    driver = lab.start("resume", lab.root)
    victim = lab.caught("score")
    batch = lab.target("score")
    assert (batch.parents[1] / "status" / batch.name.removesuffix(".0")).exists() and not batch.exists()
    os.kill(victim, signal.SIGKILL)
    assert driver.wait() == 0, driver.said
    assert_searched(lab)


def test_the_driver_while_it_gives_trials_up(lab):
    search = {**SEARCH, "prune": {"keep": 0.5, "least": 4}}
    lab.trap("judge", "driver", r"/status/c\.\d+$", skip=2)
    driver = lab.start("run", lab.campaign(**{**WALK, "search": search}))
    lab.caught("judge")
    driver.kill()
    driver = lab.start("resume", lab.root)
    assert driver.wait() == 0, driver.said
    outcomes = staffa.status(lab.root)["figures"]["outcomes"]
    assert outcomes["hopeless"] > 8 and outcomes["ok"] + outcomes["hopeless"] == 64
    assert_searched(lab, outcomes["hopeless"])
