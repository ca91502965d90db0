"""Where in the space of parameters something happens: as a map over two of them, as a list, in a few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.views.drawing import charts
from staffa.views.drawing.style import drawing, markup, styled
from staffa.views.levels import Levels, said
from staffa.views.readings import number
from staffa.views.report.content import Exhibit
from staffa.views.report.evidence import Evidence

Row = npt.NDArray[Any]

HALF = 0.5
"""A stretch of a parameter's range says something where it is shorter than this share of it."""
PHRASES = 3
LINE_PIXELS, COLUMN_PIXELS = 24, 40


@dataclass(frozen=True)
class Map:
    """How many of the trials at each pair of levels are meant; (upward, across) each."""

    across: Levels
    upward: Levels
    counts: Row
    hits: Row

    @property
    def shares(self) -> Row:
        """NaN where there is no trial."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.hits / np.where(self.counts, self.counts, np.nan))

    def facts(self) -> dict[str, Any]:
        names = {"across": self.across, "upward": self.upward}
        axes = {place: {"name": one.name, "levels": list(one.labels)} for place, one in names.items()}
        return {**axes, "trials": self.counts.tolist(), "hits": self.hits.tolist()}


def mapped(evidence: Evidence, hit: Row, among: Row | None = None) -> Map | None:
    """Over the two parameters that a campaign names, or that tell most; None where none differs.

    Arguments:
    - `hit`: (trials,): which are meant.
    - `among`: (trials,): which are looked at; by default all.
    """
    inside = np.ones(len(hit), bool) if among is None else among
    names = evidence.qa.over or tuple(_telling(evidence, hit, inside)[:2])
    if not names:
        return None
    across, *rest = (evidence.levels(name) for name in names)
    upward = rest[0] if rest else Levels("", ("all",), np.zeros(len(hit), np.int64))
    shape = (len(upward), len(across))
    place = upward.codes * len(across) + across.codes
    counts = np.bincount(place[inside], minlength=shape[0] * shape[1]).reshape(shape)
    hits = np.bincount(place[inside & hit], minlength=shape[0] * shape[1]).reshape(shape)
    return Map(across, upward, counts, hits)


def drawn(found: Map | None, name: str, caption: str, what: str) -> list[Exhibit]:
    """A map as a figure; none of one on which nothing is to be seen.

    Arguments:
    - `what`: what the trials that are meant do, such as "have no data".
    """
    if found is None or not found.hits.any():
        return []
    shares, wide = found.shares, len(found.across) > charts.WORDED[0]
    words = [
        [f"{hit}/{count}" for hit, count in zip(*rows, strict=True)]
        for rows in zip(found.hits, found.counts, strict=True)
    ]
    height = 110 + LINE_PIXELS * min(len(found.upward), 20)
    with styled():
        figure = drawing(800 if wide else max(420, 120 + COLUMN_PIXELS * len(found.across)), height)
        axes = figure.subplots()
        charts.heat(axes, shares, found.across, found.upward, words=words, title=f"share that {what}")
        return [Exhibit(caption, markup(figure, name, alt(found, what)), wide=wide)]


def alt(found: Map, what: str) -> str:
    """What is seen on a map, in a sentence or two."""
    axes = found.across.name + (f", across, and {found.upward.name}, upward" if found.upward.name else "")
    shares, there = found.shares, int((found.counts > 0).sum())
    struck = int((found.hits > 0).sum())
    row, column = map(int, np.unravel_index(np.nanargmax(shares), shares.shape))
    place = found.across.at(column) + (f", {found.upward.at(row)}" if found.upward.name else "")
    head = f"Map over {axes}: in {struck:,} of {number(there, 'cell')} some trials {what}"
    return f"{head}; most of all at {place}: {found.hits[row, column]} of {found.counts[row, column]}."


def where(evidence: Evidence, hit: Row) -> str:
    """What the trials that are meant have in common: `all at scale = 3 and sampler = nuts`; empty for nothing."""
    if not hit.any() or hit.all():
        return ""
    shared, inside = list[str](), np.ones(len(hit), bool)
    for name in evidence.swept:
        words, own = _shared(evidence, name, hit, inside)
        if words and len(shared) < PHRASES:
            shared.append(words)
            inside &= own
    if not shared:
        return ""
    every = ", and every trial there" if (hit == inside).all() else ""
    return f"all at {' and '.join(shared)}{every}"


def _shared(evidence: Evidence, name: str, hit: Row, inside: Row) -> tuple[str, Row]:
    """What trials share in a parameter, and which trials do; no words where all trials that are left do."""
    values = evidence.trials[name]
    own, absent = values[hit], values.isna().to_numpy()
    if values[inside].nunique(dropna=False) == 1:
        return "", inside
    if own.isna().all():
        return f"trials without {name}", absent
    if own.nunique(dropna=False) == 1:
        return f"{name} = {evidence.words(name, own.iloc[0])}", (values == own.iloc[0]).to_numpy()
    if values.dtype.kind in "if" and not own.isna().any():
        low, high, width = own.min(), own.max(), values.max() - values.min()
        if high - low < HALF * width:
            return f"{name} from {said(low)} to {evidence.words(name, high)}", values.between(low, high).to_numpy()
    return "", inside


def points(evidence: Evidence, hit: Row) -> list[dict[str, Any]]:
    """Combinations of parameters some of whose trials are meant, the worst first: their values, `trials`, `hits`."""
    if not hit.any() or not evidence.swept:
        return []
    names = list(evidence.swept)
    frame = evidence.trials[names].assign(trials=1, hits=hit.astype(np.int64))
    sums = frame.groupby(names, dropna=False, observed=True, sort=False)[["trials", "hits"]].sum()
    struck = sums[sums["hits"] > 0].reset_index()
    struck = struck.assign(share=struck["hits"] / struck["trials"])
    struck = struck.sort_values(["share", "hits"], ascending=False, kind="stable").drop(columns="share")
    return [{name: _plain(value) for name, value in row.items()} for row in struck.to_dict("records")]


def telling(evidence: Evidence, hit: Row, among: Row) -> list[str]:
    """Parameters on which it depends at all whether a trial is meant, the most telling first."""
    return [name for name in _telling(evidence, hit, among) if _information(evidence, name, hit, among) > 1e-3]


def _telling(evidence: Evidence, hit: Row, among: Row) -> Sequence[str]:
    """Parameters by how much they tell of whether a trial is meant; in the plan's order where they tell the same."""
    return sorted(evidence.swept, key=lambda name: -round(_information(evidence, name, hit, among), 6))


def _information(evidence: Evidence, name: str, hit: Row, among: Row) -> float:
    """Mutual information between a parameter's levels and whether a trial is meant, over its greatest value (0 to 1).

    Less what chance gives many levels (Miller, Note on the bias of information estimates, 1955).
    """
    own = hit[among]
    if not len(own) or own.all() or not own.any():
        return 0.0
    codes = evidence.levels(name).codes[among]
    counts = np.bincount(codes)
    hits = np.bincount(codes[own], minlength=len(counts))
    whole = _entropy(np.array([own.mean()]))[0]
    within = float((counts / len(own) * _entropy(hits / np.maximum(counts, 1))).sum())
    chance = (np.count_nonzero(counts) - 1) / (2 * len(own) * np.log(2))
    return max(float(1.0 - (within + chance) / whole), 0.0)


def _entropy(share: Row) -> Row:
    """Of yes and no, in bits."""
    inner = np.clip(share, 1e-300, 1.0)
    outer = np.clip(1 - share, 1e-300, 1.0)
    return np.asarray(-(share * np.log2(inner) + (1 - share) * np.log2(outer)))


def _plain(value: Any) -> Any:
    if value is None or value != value:
        return None
    return value.item() if hasattr(value, "item") else value
