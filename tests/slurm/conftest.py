"""A real SLURM for the tests with the mark `slurm`; where there can be none, they say so loudly.

`machine` and `machine_with_accounting` are handed out clean to each test and cleaned after it, with SLURM_CONF set in
this process; `standing_machine` and `standing_machine_with_accounting` are the same machines for fixtures that live
longer than a test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from slurm.machine import ACCOUNTING_PROGRAMS, PROGRAMS, Machine, missing

REQUIRED = os.environ.get("STAFFA_REQUIRE_SLURM") == "1"
"""Tests that cannot run fail instead of being skipped."""

WITH_ACCOUNTING = ("machine_with_accounting", "standing_machine_with_accounting")

NO_SLURM = "no SLURM here: "


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slurm") is None:
        return
    accounting = any(name in WITH_ACCOUNTING for name in getattr(item, "fixturenames", ()))
    if reason := missing(PROGRAMS + ACCOUNTING_PROGRAMS * accounting):
        if REQUIRED:
            pytest.fail(f"STAFFA_REQUIRE_SLURM=1, but {reason}", pytrace=False)
        pytest.skip(NO_SLURM + reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    said = {str(report.longrepr[2]) for report in reports if isinstance(report.longrepr, tuple)}
    for reason in sorted(text.partition(NO_SLURM)[2] for text in said if NO_SLURM in text):
        terminalreporter.write_line(f"SLURM TESTS SKIPPED: {reason}", red=True, bold=True)


@pytest.fixture(scope="session")
def standing_machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture(scope="session")
def standing_machine_with_accounting() -> Iterator[Machine]:
    with Machine(accounting=True) as machine:
        yield machine


@pytest.fixture
def machine(standing_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield from lent(standing_machine, monkeypatch)


@pytest.fixture
def machine_with_accounting(
    standing_machine_with_accounting: Machine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    yield from lent(standing_machine_with_accounting, monkeypatch)


def lent(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine as it came up, and what this process starts finds it."""
    for name in set(os.environ) - set(machine.environment):
        monkeypatch.delenv(name)
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)
    machine.reset()
    yield machine
    machine.reset()
