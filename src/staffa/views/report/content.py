"""What a report is made of: sections of findings, words, tables and figures, and the numbers behind them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from staffa.views.sheet import Grid


class Weight(enum.StrEnum):
    """What a finding means for trust in the campaign; the last one counts most."""

    SOUND = "sound"
    OPEN = "open"
    """It cannot be told yet."""
    CARE = "care"
    AGAINST = "against"


@dataclass(frozen=True)
class Finding:
    """One sentence of the summary."""

    weight: Weight
    text: str


@dataclass(frozen=True)
class Listing:
    """A table with its heading; `rest`: what is said of rows that are not shown."""

    caption: str
    grid: Grid
    rest: str = ""
    kind: str = "listing"


@dataclass(frozen=True)
class Exhibit:
    """A figure.

    Arguments:
    - `markup`: SVG, which says by itself what is seen; or the address of a picture, with `alt`.
    - `wide`: takes the page's whole width.
    """

    caption: str
    markup: str = ""
    picture: str = ""
    alt: str = ""
    wide: bool = False
    kind: str = "exhibit"


@dataclass(frozen=True)
class Section:
    """One subject of the report.

    Arguments:
    - `name`: its anchor on the page, and its key among the numbers.
    - `text`: paragraphs in front of what is shown.
    - `commands`: what one would do next.
    - `facts`: every number that it shows, and those it has no room for.
    - `small`: whether all it shows is small, and more of it stands side by side.
    """

    name: str
    title: str
    findings: Sequence[Finding] = ()
    text: Sequence[str] = ()
    shown: Sequence[Listing | Exhibit] = ()
    commands: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False


def listing(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), most: int = 20
) -> Listing:
    """A table of at most so many rows, and how many there are more.

    Arguments:
    - `right`: columns of numbers.
    """
    hidden = len(rows) - most
    rest = f"… and {hidden:,} more: report.json has them" if hidden > 0 else ""
    return Listing(caption, Grid(columns, rows[:most], frozenset(right)), rest)
