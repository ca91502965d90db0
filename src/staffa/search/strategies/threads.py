"""One thread for linear algebra of small matrices: several lose more by waiting for one another than they gain.

(Measured on two busy cores: a suggestion takes 4 ms with one thread, 30 to 180 ms with two.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the process to one thread of BLAS; of several that ask at once the first decides when it ends."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> Any:
    """Looking for the libraries of a process takes milliseconds: once, when scipy's is there, too."""
    import scipy.linalg  # noqa: F401
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()
