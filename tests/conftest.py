"""One campaign that has a bit of everything, run once for all tests that only look at it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

MIXED = Path(__file__).parent / "views" / "mixed"


@pytest.fixture(scope="session")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed workflow's folder, outside of any git repository."""
    folder = tmp_path_factory.mktemp("workflow") / "mixed"
    shutil.copytree(MIXED, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def mixed_events() -> list[dict[str, Any]]:
    """What a listener heard while `mixed` ran."""
    return []


@pytest.fixture(scope="session")
def mixed(workflow: Path, mixed_events: list[dict[str, Any]]) -> Any:
    """A finished campaign: three experiments, NaN and failed trials, two partition columns."""
    import staffa

    override = f"storage.root={workflow.parent / 'runs'}"
    return staffa.run(
        workflow / "campaign.yaml",
        set=[override],
        progress=False,
        listeners=[lambda event: mixed_events.append(dict(event))],
    )
