"""One thread for linear algebra of small matrices: several lose more by waiting for one another than they gain.

(Measured on two busy cores: a suggestion takes 4 ms with one thread, 30 to 180 ms with two.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.Lock()
_INSIDE = 0
_LIMIT: Any = None


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit the process to one thread of BLAS until the last of those who are inside has left."""
    global _INSIDE, _LIMIT
    with _LOCK:
        _INSIDE += 1
        if _INSIDE == 1:
            _LIMIT = _controller().limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE -= 1
            if not _INSIDE:
                _LIMIT.restore_original_limits()


_FOUND: list[Any] = []


def _controller() -> Any:
    """Looking for the libraries of a process takes milliseconds, and is done once, when scipy's is there."""
    if not _FOUND:
        import scipy.linalg  # noqa: F401
        import threadpoolctl

        _FOUND.append(threadpoolctl.ThreadpoolController())
    return _FOUND[0]
