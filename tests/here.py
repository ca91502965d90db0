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
        LocalCluster(
            n_workers=1,
            threads_per_worker=THREADS,
            processes=False,
            # Even without a dashboard a scheduler serves its health: at a port that is nobody's.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
