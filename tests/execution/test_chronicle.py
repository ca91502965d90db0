"""What a run notes while the disk is full: a journal that meets it first says so as loudly as a batch does."""

import errno

import pytest

from staffa.errors import ClusterError
from staffa.execution.chronicle import RETRY_SECONDS, Chronicle


class Journal:
    """A ledger on a disk that can be full."""

    def __init__(self):
        self.full, self.events = False, []

    def append(self, event):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.events.append(event)

    def tick(self, now, figures=None):
        pass

    @property
    def names(self):
        return [event["event"] for event in self.events]


class Time:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def journal():
    return Journal()


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def heard():
    return []


@pytest.fixture
def chronicle(journal, heard, time, tmp_path):
    return Chronicle(journal, [lambda event: heard.append(event["event"])], 60.0, tmp_path, time)


def test_the_journal_that_meets_a_full_disk_pauses_the_run(chronicle, journal, heard, time):
    journal.full = True
    chronicle.note({"event": "batch_settled"})
    chronicle.note({"event": "worker_joined"})
    assert chronicle.paused and chronicle.waiting
    assert heard == ["batch_settled", "paused", "worker_joined"] and not journal.events
    time.now += RETRY_SECONDS
    assert not chronicle.waiting

    journal.full = False
    chronicle.tick({})
    chronicle.go_on()
    assert journal.names == ["batch_settled", "paused", "worker_joined", "continued"]
    assert "No space left on device" in journal.events[1]["reason"]
    assert not chronicle.paused


def test_patience_counts_from_the_journal(chronicle, journal, time):
    journal.full = True
    chronicle.note({"event": "worker_joined"})
    time.now += 59.0
    chronicle.tick({})
    time.now += 2.0
    with pytest.raises(ClusterError, match=r"waited 61 s \(execution.patience\)"):
        chronicle.tick({})


def test_other_errors_are_not_taken_for_a_full_disk(chronicle, journal):
    journal.append = lambda event: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no"))
    with pytest.raises(PermissionError):
        chronicle.note({"event": "worker_joined"})
    assert not chronicle.paused
