"""What is said of workflows is said whatever XLA makes of it; their runs share one worker, which is this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client

from here import one_worker


@pytest.fixture(scope="module", autouse=True)
def quick(quickly_compiled: None) -> None:
    pass


@pytest.fixture(scope="session")
def workers() -> Iterator[Client]:
    """A process of their own takes longer to start than most of these runs."""
    with one_worker() as client:
        yield client
