"""kill -9 of the driver at 23 moments of a campaign's life, then resume: as if nothing had happened.

One campaign runs the gauntlet: at each moment its driver is held (at a gate of the model's, or at the
very file operation that ends a phase), the test makes sure from the files and the journal that this
is the moment meant, and kills it. The next driver carries on to the next moment.
"""

import contextlib
import os
import signal

import pytest

from survival.accidents import assert_same, assert_whole, eventually, status

MOMENTS = {}


def moment(function):
    MOMENTS[function.__name__] = function
    return function


class Gauntlet:
    """The campaign between two of its drivers."""

    def __init__(self, lab):
        self.lab = lab
        self.campaign = lab.campaign("Gated")
        self.orphans = []
        self.runs = 0

    @property
    def root(self):
        return self.lab.root

    def start(self):
        planned = (self.root / "campaign.yaml").exists()
        self.runs = len(self.lab.journal("run_started"))
        return self.lab.start("resume", self.root) if planned else self.lab.start("run", self.campaign)

    def stopped(self, who, path, **options):
        """Start, and wait until the driver or a worker is about to rename something to such a path."""
        name = f"trap-{len(self.lab.drivers)}"
        self.lab.trap(name, who, path, **options)
        self.start()
        pid = self.lab.caught(name)
        assert pid == self.lab.drivers[-1].pid or who == "worker"
        return self.lab.target(name), self.lab.source(name)

    def held(self, gate):
        """Start, and wait until a worker stands at a gate of the model's."""
        self.lab.hold(gate)
        self.start()
        return self.lab.reached(gate)

    def is_running(self):
        """A new driver has begun, has issued batches, and some of them are on their way."""
        return len(self.lab.journal("run_started")) == self.runs + 1 and bool(self.lab.flying())

    def kill(self, *, orphans):
        """Kill the driver; its workers too, or (`orphans`) let them go on without it."""
        driver = self.lab.drivers[-1]
        assert driver.process.poll() is None
        driver.kill()
        if orphans:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGCONT)
        else:
            driver.end()
        for held in self.lab.gates.glob("*.held"):
            self.lab.release(held.stem)


# --- planning


@moment
def before_the_lease(run):
    target, _ = run.stopped("driver", r"/lease\.json$", event="os.link")
    assert not target.exists() and not (run.root / "code").exists()


@moment
def before_the_code(run):
    target, source = run.stopped("driver", r"/v1\.0_walk/code$")
    assert source.is_dir() and not target.exists()


@moment
def before_the_provenance(run):
    target, _ = run.stopped("driver", r"/metadata/provenance\.json$")
    assert (run.root / "code" / "model.py").exists() and not target.exists()


@moment
def before_the_trials(run):
    target, _ = run.stopped("driver", r"/metadata/trials-0\.parquet$")
    assert (run.root / "metadata" / "provenance.json").exists() and not target.exists()
    assert not list((run.root / "hot").glob("*/*"))


# --- store creation


@moment
def inside_the_first_store(run):
    target, _ = run.stopped("driver", r"/g0\.zarr\.\d+\.partial/scale/zarr\.json$")
    partial = target.parents[1]
    assert (partial / "status" / "zarr.json").exists() and not (partial.parent / "g0.zarr").exists()


@moment
def between_two_stores(run):
    target, _ = run.stopped("driver", r"/hot/0/g1\.zarr$")
    assert (target.parent / "g0.zarr" / "zarr.json").exists() and not target.exists()


@moment
def before_the_plan(run):
    target, _ = run.stopped("driver", r"/metadata/plan-0\.json$")
    assert (run.root / "hot" / "0" / "g1.zarr").exists() and not target.exists()


@moment
def before_the_declaration(run):
    target, _ = run.stopped("driver", r"/v1\.0_walk/campaign\.yaml$")
    assert (run.root / "metadata" / "plan-0.json").exists() and not target.exists()


# --- first compile


@moment
def before_the_journal(run):
    run.stopped("driver", r"/ledger/events-", event="open")
    assert (run.root / "campaign.yaml").exists() and not run.lab.journal()


@moment
def in_the_first_compile(run):
    run.held("trace")
    assert run.is_running() and not status(run.root)
    assert not list((run.root / "state").glob("started/*")), "nothing was on a device yet"


# --- mid-window


@moment
def in_initialize(run):
    pid = run.held("initialize")
    assert run.is_running() and run.lab.mark(pid)["batch"] in run.lab.flying()
    assert not list((run.root / "hot").glob("*/*/x/c.*"))


@moment
def in_the_first_write(run):
    target, source = run.stopped("worker", r"/g0\.zarr/x/c\.")
    batch = int(target.name.split(".")[1])
    assert run.is_running() and source.exists() and ("g0.zarr", batch) not in status(run.root)


@moment
def in_the_first_commit(run):
    target, source = run.stopped("worker", r"/status/c\.\d+$")
    assert run.is_running() and source.exists() and not target.exists()
    assert (target.parents[1] / "checksum" / f"{target.name}.0.0").exists()


@moment
def in_mid_window(run):
    run.stopped("worker", r"/status/c\.\d+$", skip=3)
    done = len(status(run.root))
    assert done >= 3 and run.is_running()
    run.lab.until(lambda: len(run.lab.settled()) >= 3, "the receipts")
    assert run.lab.flying()


@moment
def while_sampling(run):
    pid = run.held("step-5")
    assert run.is_running() and run.lab.mark(pid)["batch"] in run.lab.flying()


# --- between segments


@moment
def before_the_checkpoint(run):
    target, _ = run.stopped("worker", r"/state/0-g\d-\d+\.safetensors$")
    group, batch = target.stem.split("-")[1:]
    assert run.is_running() and (f"{group}.zarr", int(batch)) not in status(run.root)
    assert (run.root / "hot" / "0" / f"{group}.zarr" / "x" / f"c.{batch}.0.0").exists()


@moment
def between_the_segments(run):
    pid = run.held("step-8")
    group, batch = run.lab.mark(pid)["batch"].split("/")
    saved = run.root / "state" / f"0-{group}-{batch}.safetensors"
    run.lab.until(saved.exists, "the checkpoint")
    assert (run.root / "hot" / "0" / f"{group}.zarr" / "x" / f"c.{batch}.0.0").exists()
    assert run.is_running() and (f"{group}.zarr", int(batch)) not in status(run.root)


@moment
def in_the_second_segments_write(run):
    target, _ = run.stopped("worker", r"/x/c\.\d+\.1\.0$")
    batch, store = target.name.split(".")[1], target.parents[1]
    assert run.is_running() and target.with_name(f"c.{batch}.0.0").exists()
    assert (run.root / "state" / f"0-{store.stem}-{batch}.safetensors").exists()
    assert (store.name, int(batch)) not in status(run.root)


# --- sealing


@moment
def before_a_part(run):
    target, source = run.stopped("worker", r"/archive/draws/.*part-\d+\.parquet$")
    assert source.exists() and not target.exists()
    assert len(run.lab.settled()) >= 2


@moment
def between_a_parts_files(run):
    target, _ = run.stopped("worker", r"/archive/trials/part-\d+\.parquet$")
    assert not target.exists() and list((run.root / "archive" / "draws").rglob(target.name))


@moment
def before_the_manifest(run):
    run.stopped("driver", r"/archive/manifest\.json$")
    archive = run.root / "archive"
    listed = (archive / "manifest.json").read_text() if (archive / "manifest.json").exists() else ""
    assert [part for part in (archive / "trials").glob("part-*.parquet") if part.name not in listed]


# --- the last batch


@moment
def in_the_last_commit(run):
    left = 16 - len(status(run.root))
    assert left >= 1
    target, _ = run.stopped("worker", r"/status/c\.\d+$", skip=left - 1)
    assert run.is_running() and not target.exists()
    assert len(status(run.root)) == 15


@moment
def after_the_last_part(run):
    target, _ = run.stopped("driver", r"/archive/failed\.parquet$")
    assert len(status(run.root)) == 16 and not target.exists()
    assert len(list((run.root / "archive" / "trials").glob("part-*.parquet"))) == 8


CORE = (
    "before_the_trials", "between_two_stores", "in_the_first_compile", "in_mid_window", "between_the_segments",
    "in_the_second_segments_write", "between_a_parts_files", "in_the_last_commit",
)  # fmt: skip
REST = tuple(name for name in MOMENTS if name not in CORE)


@pytest.mark.parametrize(
    ("names", "orphans"),
    [
        pytest.param(CORE, False, id="core"),
        pytest.param(REST, True, id="rest, workers outlive their driver", marks=pytest.mark.soak),
    ],
)
def test_gauntlet(lab, undisturbed, names, orphans):
    run = Gauntlet(lab)
    for name in names:
        MOMENTS[name](run)
        run.kill(orphans=orphans)
    lab.complete()
    assert {*CORE, *REST} == set(MOMENTS) and len(MOMENTS) >= 20
    assert_whole(lab.root, 64)
    assert_same(lab.root, undisturbed("Gated"))
    settled = [event["batch"] for event in lab.journal("batch_settled") if not event["duplicate"]]
    assert len(settled) == len(set(settled)), "a batch was computed again after it was committed"
    eventually(lambda: not any(driver.members() for driver in lab.drivers), "every process ends")
