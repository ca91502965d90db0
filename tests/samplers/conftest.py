"""What is said of samplers is said whatever XLA makes of it."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(quickly_compiled: None) -> None:
    pass
