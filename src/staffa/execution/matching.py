"""Which trials of several campaigns are one trial, and what the others are called where all of them stand together.

A trial is a duplicate of another if both have the same name, key and code, and were sampled alike: then they have the
same data. The same point computed otherwise (from another seed, say) is a further replicate, under the next number that
is free. All in one pass over sets of digests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from staffa.campaign.joining import alike
from staffa.execution.sources import DATA, Source
from staffa.storage.merged import OWN, Maker, Origins, united
from staffa.trial import DIGEST_BYTES

Row = npt.NDArray[Any]
TERM_BYTES = 4


@dataclass(frozen=True)
class Count:
    """What became of one campaign's trials: `taken` as trials of the whole, `renamed` of these as further replicates;
    `duplicates` of trials that the whole had, of which it had no data in `filled` cases; `left_out` without data, since
    they were to be sampled otherwise than the first campaign."""

    trials: int
    taken: int
    renamed: int = 0
    duplicates: int = 0
    filled: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Matched:
    """The trials of the whole, column by column, by index.

    Arguments:
    - `source`, `place`: whose trial it is: a campaign's number, and its index there.
    - `names`: (trials, 16); `replicates`: (trials,).
    - `giver`, `given`: whose data it has, likewise; `giver` is -1 where there are none.
    - `counts`: of each campaign.
    """

    source: Row
    place: Row
    names: Row
    replicates: Row
    giver: Row
    given: Row
    counts: tuple[Count, ...]

    @property
    def trials(self) -> int:
        return len(self.source)


def match(sources: Sequence[Source]) -> Matched:
    """Put the trials of several campaigns together: those of the first as they are, then what the others add."""
    terms = {found: number for number, found in enumerate(_terms(sources))}
    whole = _first(sources[0])
    keys = _keys(sources[0], whole.names, terms, has_data(sources[0]))
    for number, source in enumerate(sources[1:], 1):
        whole, keys = _with(sources, number, whole, keys, _keys(source, source.names, terms, None), terms)
    return whole


def has_data(source: Source) -> Row:
    return np.isin(source.marks, DATA)


def origins(sources: Sequence[Source], matched: Matched) -> Origins:
    """Who computed the data of each trial of the whole."""
    makers = united([source.origins.makers for source in sources])
    number = {maker: place for place, maker in enumerate(makers)}
    of, names = np.full(matched.trials, OWN, np.int32), matched.names.copy()
    for place, source in enumerate(sources):
        own = matched.giver == place
        codes = np.array([number[maker] for maker in source.origins.makers], np.int32)
        of[own] = codes[source.origins.of[matched.given[own]]]
        names[own] = source.origins.names[matched.given[own]]
    used, places = np.unique(of[of != OWN], return_inverse=True)
    of[of != OWN] = places
    return Origins(tuple(makers[number] for number in used.tolist()), of, names)


def _terms(sources: Sequence[Source]) -> list[tuple[Any, ...]]:
    makers: tuple[Maker, ...] = united([(source.maker, *source.origins.makers) for source in sources])
    return list(dict.fromkeys(maker.terms for maker in makers))


def _first(source: Source) -> Matched:
    everyone, data = np.arange(source.trials), has_data(source)
    giver, given = np.where(data, 0, -1), np.where(data, everyone, -1)
    count = Count(source.trials, source.trials)
    return Matched(np.zeros_like(everyone), everyone, source.names, source.replicates, giver, given, (count,))


def _keys(source: Source, names: Row, terms: dict[tuple[Any, ...], int], data: Row | None) -> Row:
    """(trials, 20): what is the same for the same trial: the name it was computed under, and the terms.

    Arguments:
    - `data`: which trials have data, where the others are to be computed under `names`; by default all.
    """
    codes = np.array([terms[maker.terms] for maker in source.origins.makers], ">u4")[source.origins.of]
    made = source.origins.names
    if data is not None:
        codes = np.where(data, codes, terms[source.maker.terms]).astype(">u4")
        made = np.where(data[:, None], made, names)
    return np.concatenate([made, codes.view(np.uint8).reshape(-1, TERM_BYTES)], axis=1)


def _with(
    sources: Sequence[Source], number: int, whole: Matched, keys: Row, own: Row, terms: dict[tuple[Any, ...], int]
) -> tuple[Matched, Row]:
    """The whole with one more campaign; `keys` are the whole's, `own` the campaign's."""
    source = sources[number]
    data = has_data(source)
    there = _places(own, keys)
    left_out = ~data & (there < 0) & (not alike(source.plan, sources[0].plan))
    fills = np.flatnonzero((there >= 0) & data)
    fills = fills[whole.giver[there[fills]] < 0]
    giver, given = whole.giver.copy(), whole.given.copy()
    giver[there[fills]], given[there[fills]] = number, fills
    new = np.flatnonzero((there < 0) & ~left_out)
    names, replicates, renamed = _renamed(sources, number, whole, new)
    count = Count(source.trials, len(new), renamed, int((there >= 0).sum()), len(fills), int(left_out.sum()))
    joined = Matched(
        np.concatenate([whole.source, np.full(len(new), number)]),
        np.concatenate([whole.place, new]),
        np.concatenate([whole.names, names]),
        np.concatenate([whole.replicates, replicates]),
        np.concatenate([giver, np.where(data[new], number, -1)]),
        np.concatenate([given, np.where(data[new], new, -1)]),
        (*whole.counts, count),
    )
    # What has no data will be computed by the whole, hence on the first campaign's terms.
    code = np.array([terms[sources[0].maker.terms]], ">u4").view(np.uint8)
    to_come = np.concatenate([names, np.repeat(code[None], len(new), axis=0)], axis=1)
    return joined, np.concatenate([keys, np.where(data[new, None], own[new], to_come)])


def _renamed(sources: Sequence[Source], number: int, whole: Matched, new: Row) -> tuple[Row, Row, int]:
    """Names and replicates of a campaign's trials that are new to the whole; how many of the names had to be others."""
    source = sources[number]
    names, replicates = source.names[new], source.replicates[new].astype(np.int64)
    taken = _places(names, whole.names) >= 0
    if not taken.any():
        return names, replicates, 0
    points = np.concatenate([_points(sources, whole), source.named(new, np.zeros(len(new), np.int64))])
    _, point = np.unique(np.ascontiguousarray(points).view(f"S{DIGEST_BYTES}").reshape(-1), return_inverse=True)
    standing = np.concatenate([np.ones(whole.trials, bool), ~taken])
    last = np.full(int(point.max()) + 1, -1, np.int64)
    np.maximum.at(last, point[standing], np.concatenate([whole.replicates, replicates])[standing])
    clashing = np.flatnonzero(taken)
    own = point[whole.trials :][clashing]
    names, replicates = names.copy(), replicates.copy()
    replicates[clashing] = last[own] + 1 + _turn(own)
    names[clashing] = source.named(new[clashing], replicates[clashing])
    return names, replicates, len(clashing)


def _points(sources: Sequence[Source], whole: Matched) -> Row:
    """(trials, 16): a name for the point of each trial, whichever replicate it is."""
    found = np.empty((whole.trials, DIGEST_BYTES), np.uint8)
    for number in np.unique(whole.source).tolist():
        own = np.flatnonzero(whole.source == number)
        found[own] = sources[number].named(whole.place[own], np.zeros(len(own), np.int64))
    return found


def _turn(codes: Row) -> Row:
    """How many of the same code come before each: 0, 0, 1 for a, b, a."""
    order = np.argsort(codes, kind="stable")
    ranked = codes[order]
    start = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    first = np.maximum.accumulate(np.where(start, np.arange(len(codes)), 0))
    found = np.empty(len(codes), np.int64)
    found[order] = np.arange(len(codes)) - first
    return found


def _places(wanted: Row, known: Row) -> Row:
    """Where each of some byte rows stands among others; -1 where it does not. By hashing: linear in both."""
    found = pc.index_in(_binary(wanted), value_set=_binary(known))
    return np.asarray(found.fill_null(-1).to_numpy())


def _binary(rows: Row) -> pa.Array:
    data = np.ascontiguousarray(rows)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(data)])
