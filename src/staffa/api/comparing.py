"""Holding a campaign against another one, or against itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.api.declaring import load
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.views.diff import Side


def diff(a: str | Path, b: str | Path) -> dict[str, Any]:
    """What differs between two campaigns, each a folder or a campaign file."""
    from staffa.views.diff import diff_facts

    return diff_facts(_side(a), _side(b))


def reproduce(
    root: str | Path, *, trials: int = 3, seed: int | None = None, tolerance: float = 1e-6, width: int | None = None
) -> dict[str, Any]:
    """Run some random trials of a campaign again, and compare with what was recorded.

    Bit for bit in the recorded program, elsewhere within `tolerance`; which applied is said.
    See `staffa.execution.reproduce`.
    """
    from staffa.execution.reproduce import reproduce as again

    return again(Workspace.open(root), trials=trials, seed=seed, tolerance=tolerance, width=width)


def _side(path: str | Path) -> Side:
    from staffa.views.diff import declared_side, stored_side

    if Path(path).is_dir():
        return stored_side(str(path), Workspace.open(path))
    import numpy as np

    from staffa.execution.prepare import unfolded
    from staffa.storage.roster import hexadecimal

    declaration = load(path).declaration
    prepared = unfolded(declaration)
    rows = prepared.rows
    everyone = np.arange(len(rows.digests))
    columns = {"replicate": rows.replicate(everyone)}
    columns |= {name: rows.column(name, everyone) for name, _ in prepared.plan.parameters}
    return declared_side(str(path), declaration, prepared.plan, hexadecimal(rows.digests), columns)
