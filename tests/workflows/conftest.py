"""What is said of workflows is said whatever XLA makes of it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(quickly_compiled: None) -> None:
    pass
