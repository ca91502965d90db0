"""What is said of workflows is said whatever XLA makes of it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def _package(folder: Path) -> None:
    """Make a workflow's package importable by its name, and nothing else of the workflow's folder."""
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(folder.name, init, submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules[folder.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


WORKFLOWS = Path(__file__).parents[2] / "workflows"
_package(WORKFLOWS / "mocks" / "mocks")
_package(WORKFLOWS / "neighbours" / "covertree")


@pytest.fixture(scope="module", autouse=True)
def quick(quickly_compiled: None) -> None:
    pass
