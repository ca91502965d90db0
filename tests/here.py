"""A worker in this process, for runs whose own processes would take longer to start than all the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from staffa.execution.lanes import THREADS


@contextmanager
def one_worker() -> Iterator[Client]:
    """A client of one worker, whose threads are this process's."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=THREADS, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
