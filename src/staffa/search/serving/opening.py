"""A campaign's search, ready to be asked: from its words and its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from staffa.campaign.domain import Domain
from staffa.campaign.objectives import Objectives
from staffa.search.journal import Journal
from staffa.search.strategies import Strategy, build
from staffa.search.study import LEASE, Study
from staffa.storage.workspace import Workspace


def open_study(
    folder: Path,
    space: Any,
    objectives: Any,
    *,
    strategy: Any = None,
    trials: int | None = None,
    seed: int = 0,
    retries: int = 3,
    lease: float = LEASE,
) -> Study:
    """The search whose journal stands in a campaign's folder; a new one where there is none yet.

    Arguments:
    - `space`, `objectives`: words as in a campaign's `search`, or a `Domain` and `Objectives`.
    - `strategy`: its words, or one that was made; by default the family's.
    - the others: as `Study` has them.

    Raises `ConfigError` for words that make no sense, `WorkspaceError` while another process has this search.
    """
    domain = Domain.read(space)
    wanted = Objectives.read(objectives)
    made = strategy if isinstance(strategy, Strategy) else build(strategy, domain, trials, seed)
    journal = Journal.open(Workspace(folder).search)
    try:
        return Study(
            domain, wanted, made, trials=trials, seed=seed, retries=retries, lease=lease, journal=journal
        )  # fmt: skip
    except BaseException:
        journal.close()
        raise
