"""Colours, lettering and file formats of all figures.

A unit is a CSS pixel: a figure 400 wide has letters of 12 pixels where a page is as wide as that. Figures belong to
nobody's `pyplot`: nothing is left open, no window comes up, and none is needed.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from staffa.errors import ConfigError, near

Axes = Any
"""matplotlib's own."""

INK, MUTED, LINE, PAPER, SHADE = "#1c2733", "#55616d", "#c3ccd4", "#fdfdfb", "#eef2f5"
SERIES = ("#1f5fa8", "#b0530a", "#2f7d4f", "#7a4fa3", "#8f6a1c", "#2f7683", "#b3322e", "#646a1a")
THEMED: Mapping[str, str] = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    SHADE: "shade",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES)},
}
"""Colours that a page gives by variables of its own, so that figures follow it into the dark."""
DARK: Mapping[str, str] = {
    "ink": "#e3e8ed",
    "muted": "#a3afba",
    "line": "#3d4751",
    "paper": "#14191f",
    "shade": "#1f272f",
    **{
        f"series-{number}": colour
        for number, colour in enumerate(
            ("#7fb2ea", "#f0a860", "#79c99a", "#c3a0e6", "#dcb863", "#7cc6d3", "#f28d86", "#c5ca6e")
        )
    },
}

ALARM = ("#ecd3a4", "#e0a35c", "#c8602a", "#8a1410")
"""From little to all, lighter to darker, so that it reads in grey as well; nothing at all is as quiet as the page."""
AMOUNT = "cividis"

STYLE: Any = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.dpi": 72,
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "grid.color": LINE,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "staffa",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}

SHARP = 2.5
"""Pixels of a picture for each pixel of the page."""


def shades(colours: str | tuple[str, ...]) -> Any:
    """A colour map: one of matplotlib's by name, or one through these colours."""
    if isinstance(colours, str):
        return matplotlib.colormaps[colours]
    return LinearSegmentedColormap.from_list("shades", colours).with_extremes(under=SHADE)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Whatever is made or written in this block looks like one of ours."""
    with matplotlib.rc_context(STYLE):
        yield


class Drawing(Figure):
    """A figure of matplotlib's, which a notebook shows by itself; `facts`: the numbers in it."""

    facts: Mapping[str, Any] = MappingProxyType({})

    def _repr_png_(self) -> bytes:
        return picture(self, "png")


def drawing(width: float = 420, height: float = 280, margin: float = 3) -> Drawing:
    """An empty figure, so many pixels wide and high; to be called, as whatever draws into it, where it is `styled`."""
    layout = ConstrainedLayoutEngine(w_pad=margin / 72, h_pad=margin / 72)
    return Drawing(figsize=(width / 72, height / 72), layout=layout)


def picture(figure: Figure, form: str) -> bytes:
    """A figure as a file: `png`, `svg`, `pdf` and what else matplotlib writes.

    Raises `ConfigError` with the near names for a form it does not know.
    """
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        raise ConfigError(f"a figure cannot be written as {form!r}", near(form, known))
    out = io.BytesIO()
    # Without a date the same figure is the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with styled():
        figure.savefig(out, format=form, dpi=72 * SHARP, metadata=undated)
    return out.getvalue()


def markup(figure: Figure, name: str, alt: str) -> str:
    """A figure as part of a page: SVG in the page's colours and letters.

    Arguments:
    - `name`: tells its parts from those of the page's other figures.
    - `alt`: what is seen, for those who do not see it.
    """
    figure.patch.set_alpha(0)
    text = picture(figure, "svg").decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in THEMED.items():
        text = text.replace(colour, f"var(--{variable})")
    width = round(figure.get_figwidth() * 72)
    head = f'<svg role="img" aria-label="{html.escape(alt, quote=True)}" style="width:{width}px" '
    return head + re.sub(r'^<svg | (width|height)="[^"]*pt"', "", text, count=3)


def is_figure(thing: Any) -> bool:
    """Whether something is a figure of matplotlib's."""
    return isinstance(thing, Figure)


def embedded(figure: Figure) -> str:
    """Somebody else's figure as the address of a picture that stands in the page itself."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144, bbox_inches="tight")
    if "matplotlib.pyplot" in sys.modules:  # whoever made it there left it open
        sys.modules["matplotlib.pyplot"].close(figure)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def readable_on(colour: Any) -> str:
    """Black or white, whichever is read better on a colour."""
    channels = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    light = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return "#000000" if light > 0.179 else "#ffffff"
