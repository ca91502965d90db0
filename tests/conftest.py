"""One campaign that has a bit of everything, run once for all tests that only look at it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

MIXED = Path(__file__).parent / "views" / "mixed"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests marked `soak` too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that mostly wait come first, and each process has its share of them, file by file.

    pytest-xdist hands each process one stretch of the list, as long as the others'. The tests against SLURM take half
    an hour one after another, most of it waiting: left together they are what all the others end before.
    """
    if not config.getoption("--soak"):
        left = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    waiting = [item for item in items if item.get_closest_marker("slurm")]
    others = iter([item for item in items if not item.get_closest_marker("slurm")])
    files = [list(found) for _, found in groupby(waiting, lambda item: item.path)]
    files.sort(key=lambda file: (file[0].get_closest_marker("slow") is not None, len(file)), reverse=True)
    shares = [[item for file in files[number::processes] for item in file] for number in range(processes)]
    items[:] = _dealt(shares, others, len(items))


def _dealt(shares: list[list[pytest.Item]], others: Iterator[pytest.Item], total: int) -> list[pytest.Item]:
    """One stretch after another, each its share first and filled up with others."""
    dealt: list[pytest.Item] = []
    for number, share in enumerate(shares, start=1):
        end = total * number // len(shares)
        dealt += share
        while len(dealt) < end:
            dealt.append(next(others))
    return dealt


OPTIMISE_LITTLE = "jax_disable_most_optimizations"


@pytest.fixture(scope="module")
def quickly_compiled() -> Iterator[None]:
    """XLA hardly optimises, here and in processes begun from here, and compiles in less than half the time.

    For tests of what is computed, most of whose time is compiling. Tests of the engine do without.
    """
    with _compiling(OPTIMISE_LITTLE, True):
        yield


@pytest.fixture
def fully_compiled() -> Iterator[None]:
    """XLA optimises as it does for users, in a module that otherwise is `quickly_compiled`."""
    with _compiling(OPTIMISE_LITTLE, False):
        yield


@contextlib.contextmanager
def _compiling(name: str, value: bool) -> Iterator[None]:
    import jax

    before = jax.config.values[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), str(int(value)))
        jax.config.update(name, value)
        yield
    jax.config.update(name, before)


@pytest.fixture(scope="session")
def workers() -> Iterator[Any]:
    """A client of one worker that is this process, for tests of anything but processes: those take 3 s to start."""
    from here import one_worker

    with one_worker() as client:
        yield client


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
