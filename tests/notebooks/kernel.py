"""Notebooks as somebody opens them: copied beside the workflows, run by a kernel, looked at."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import nbformat
import numpy as np
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
WIDGETS = "application/vnd.jupyter.widget-state+json"
CELL_SECONDS = 600

During = Callable[[NotebookClient], Awaitable[None]]


def laid_out(folder: Path) -> Path:
    """The notebooks and what they use, outside of any git repository; returns the notebooks' folder."""
    for name in ("notebooks", "workflows", "cluster_configs"):
        leave = shutil.ignore_patterns("__pycache__", "runs", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    return folder / "notebooks"


@dataclass(frozen=True)
class Executed:
    """A notebook after its kernel has run it from top to bottom."""

    cells: list[Any]
    widgets: list[dict[str, Any]]

    def said(self, beginning: str) -> str:
        """What the cell whose last line begins like this shows, as text."""
        return "\n".join(
            str(output.get("text") or output.get("data", {}).get("text/plain", ""))
            for cell in self.cells
            if cell.cell_type == "code" and cell.source.splitlines()[-1].startswith(beginning)
            for output in cell.outputs
        )

    def errors(self) -> list[str]:
        """What went to the standard error, or was a warning."""
        found = [output for cell in self.cells for output in cell.get("outputs", ())]
        return [output["text"] for output in found if output.get("name") == "stderr"]

    def figures(self) -> list[np.ndarray[Any, Any]]:
        """The figures as pixels, (height, width, 4)."""
        pictures = [
            output.get("data", {}).get("image/png") for cell in self.cells for output in cell.get("outputs", ())
        ]
        return [matplotlib.image.imread(BytesIO(base64.b64decode(one)), format="png") for one in pictures if one]

    def shares_drawn(self) -> list[float]:
        """Of each figure the share of its pixels that is not blank."""
        return [float((figure[..., :3] < 0.9).any(axis=-1).mean()) for figure in self.figures()]

    def bars(self) -> list[tuple[int, int, str]]:
        """Of each progress bar: where it stands, its end, and its style."""
        bars = [state for state in self.widgets if state["model"] == "IntProgressModel"]
        return [(bar.get("value", 0), bar["max"], bar.get("bar_style", "")) for bar in bars]

    def lines(self) -> list[str]:
        """The texts beside and below the bars."""
        return [state.get("value", "") for state in self.widgets if state["model"] == "HTMLModel"]


def executed(path: Path, during: During | None = None) -> Executed:
    """Run a notebook from top to bottom in a kernel of its own.

    Arguments:
    - `during`: started together with the cell that is tagged `interrupt`.

    Raises nbclient's `CellExecutionError` for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    beside: list[asyncio.Task[None]] = []

    async def begun(cell: Any, cell_index: int) -> None:
        if during is not None and "interrupt" in cell.metadata.get("tags", ()):
            beside.append(asyncio.ensure_future(during(client)))

    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=begun,
    )
    client.execute()
    assert all(task.done() and not task.exception() for task in beside)
    found = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    return Executed(notebook.cells, [{"model": one["model_name"], **one["state"]} for one in found.values()])
