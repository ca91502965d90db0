"""How the figures look: widths and letters of a report's page, colours that are told apart without red and green."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = "#1c2733", "#55616d", "#1f5fa8", "#b0530a"
LOOK: Any = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "figure.facecolor": "#fdfdfb",
    "font.size": 11,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Whatever is drawn in this block looks like the others."""
    with matplotlib.rc_context(LOOK):
        yield


def figure(height: float = 4.0) -> Figure:
    """An empty one, so many inches high; nobody's `pyplot` hears of it.

    A column of a report is 420 pixels wide, so a letter is as many pixels high as it has points.
    """
    return Figure(figsize=(420 / 72, height), layout="constrained")


def shades(count: int) -> list[Any]:
    """Colours from dark to light for what has an order, such as redshifts; the lightest is still read on paper."""
    return [matplotlib.colormaps["viridis"](place) for place in np.linspace(0.0, 0.78, count)]


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""Beside the colours, for those who do not see them."""
