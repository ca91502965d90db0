"""A preload of Dask's that makes a worker's disk slow."""

import time


def dask_setup(worker):
    from staffa.storage.hot import HotStore

    write = HotStore.write

    def slow(*arguments, **options):
        time.sleep(0.4)
        return write(*arguments, **options)

    HotStore.write = slow
