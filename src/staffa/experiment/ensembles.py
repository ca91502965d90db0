"""Statistics over all trials of a campaign, piece by piece: what may stand under `reduce:`.

A reducer turns the outputs of some trials into a few arrays (`map`), joins two such answers into one (`reduce`: in
any order, to the same but for rounding) and says in the end what they come to (`finish`). No more than one batch is
ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from staffa.errors import PluginError

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


class Outputs(dict[str, Array]):
    """What some trials recorded, by name: (trials, [chain,] [draw,] own).

    Arguments:
    - `own`: the shapes of what each records at a draw, as far as they are known: the last axes of its array.
    """

    def __init__(self, arrays: Arrays, own: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(arrays)
        self.own = own

    def of(self, rows: Any) -> Outputs:
        """The same of some of the trials."""
        return Outputs({name: array[rows] for name, array in self.items()}, self.own)


@runtime_checkable
class Reducer(Protocol):
    """What a campaign's `reduce:` names."""

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        """What some trials come to.

        Arguments:
        - `outputs`: by name (trials, [chain,] [draw,] own); `outputs.own` has the shape of each at a draw.
        - `params`: by name (trials,).
        """

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        """The answers for two sets of trials as that for all of them."""

    def finish(self, whole: Arrays) -> Arrays:
        """What is stored in the end."""


@runtime_checkable
class Applier(Reducer, Protocol):
    """A reducer that, in the end, has something to say of each trial: a table of its own in the archive."""

    applies: str
    """The table its rows are parallel to: a ragged output's, or "" for one row a trial."""

    def apply(self, whole: Arrays, outputs: Arrays, params: Arrays) -> Arrays:
        """Columns of some trials, once all are settled and sealed.

        Arguments:
        - `whole`: what `finish` returned; with `by:` of the trials' own value.
        - `outputs`, `params`: as for `map`.

        Returned are arrays by name of column: (trials, own), or those of a ragged output as it is itself,
        (trials, [chain,] [draw,] room, own).
        """


class Covariance:
    """Mean and covariance of a vector over trials (and chains and draws, as far as it has them).

    Joined by the rule of Chan, Golub & LeVeque (The American Statistician 37:242, 1983).

    Options:
    - `of`: outputs (single numbers or arrays), put behind one another as one vector of length n.
    - `within`: take the mean over a trial's chains and draws first, so that the covariance is one of trials.

    Result: `count` (), `mean` (n,), `covariance` (n, n) with count - 1 in the denominator, `correlation` (n, n): NaN
    where an element does not vary.
    """

    def __init__(self, of: str | list[str], within: bool = False) -> None:
        self.of, self.within = [of] if isinstance(of, str) else list(of), within

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        columns = [self._rows(outputs, name) for name in self.of]
        rows = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
        mean = rows.mean(axis=0)
        apart = rows - mean
        return {"count": np.array(len(rows)), "mean": mean, "products": apart.T @ apart}

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        sizes = [len(answer["mean"]) for answer in (one, two)]
        if sizes[0] != sizes[1]:
            what = f"{' + '.join(self.of)}: the covariance of vectors of length {sizes[0]} and {sizes[1]}"
            raise PluginError(what, "groups that record other shapes, or answers of before: archive/reduced")
        count = one["count"] + two["count"]
        apart = two["mean"] - one["mean"]
        weight = two["count"] / np.maximum(count, 1)
        products = one["products"] + two["products"] + np.outer(apart, apart) * one["count"] * weight
        return {"count": count, "mean": one["mean"] + apart * weight, "products": products}

    def finish(self, whole: Arrays) -> Arrays:
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = whole["products"] / (whole["count"] - 1.0)
            deviation = np.sqrt(np.diagonal(covariance))
            correlation = covariance / np.outer(deviation, deviation)
        found = {"count": whole["count"], "mean": whole["mean"], "covariance": covariance}
        return {**found, "correlation": correlation}

    def _rows(self, outputs: Arrays, name: str) -> Array:
        """(samples, n) in double precision; all outputs have the same trials, chains and draws."""
        values = np.asarray(outputs[name], np.float64)
        own = outputs.own if isinstance(outputs, Outputs) else {}
        lead = min(np.ndim(outputs[one]) - len(own.get(one, ())) for one in self.of)
        if self.within:
            values = values.mean(axis=tuple(range(1, lead)))
        rows = len(values) if self.within else math.prod(values.shape[:lead])
        return np.asarray(values.reshape(rows, -1))


class Histogram:
    """Counts of an output's values in bins of one width.

    Options:
    - `of`: the output; all its elements count.
    - `low`, `high`: ends of the first and the last bin.
    - `bins`: how many there are.

    Result: `edges` (bins + 1,), `counts` (bins,), and how many values lay `below`, `above`, or were `nan`.
    """

    def __init__(self, of: str, low: float, high: float, bins: int = 50) -> None:
        if not low < high:
            raise ValueError(f"low: {low!r} is not below high: {high!r}")
        if bins < 1:
            raise ValueError(f"bins: {bins!r} is less than 1")
        self.of, self.edges = of, np.linspace(low, high, bins + 1)

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        values = np.asarray(outputs[self.of], np.float64).reshape(-1)
        counts, _ = np.histogram(values, self.edges)
        return {
            "counts": counts.astype(np.int64),
            "below": np.array((values < self.edges[0]).sum()),
            "above": np.array((values > self.edges[-1]).sum()),
            "nan": np.array(np.isnan(values).sum()),
        }

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        return {name: one[name] + two[name] for name in one}

    def finish(self, whole: Arrays) -> Arrays:
        return {"edges": self.edges, **whole}


class Quantiles:
    """Quantiles of an output's values, each within a relative error that is promised.

    Values are counted in bins whose ends grow by a constant factor, to both sides of 0 (the DDSketch of Masson, Rim &
    Lee, *Proceedings of the VLDB Endowment* 12:2195, 2019).

    Options:
    - `of`: the output; all its elements count, a NaN does not.
    - `at`: which quantiles, from 0 to 1.
    - `error`: relative error of each.

    Result: `at`, `values` (NaN where there are none), and how many values `count`.
    """

    LEAST = 1e-30
    """Values nearer to 0 count as 0."""
    MOST = 1e30

    def __init__(self, of: str, at: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95), error: float = 0.01) -> None:
        if not all(0 <= one <= 1 for one in at):
            raise ValueError(f"at: {list(at)!r} are not all from 0 to 1")
        if not 0 < error < 1:
            raise ValueError(f"error: {error!r} is not between 0 and 1")
        self.of, self.at = of, np.asarray(at, np.float64)
        self._factor = math.log((1 + error) / (1 - error))
        self._bins = math.ceil(math.log(self.MOST / self.LEAST) / self._factor) + 2

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        values = np.asarray(outputs[self.of], np.float64).reshape(-1)
        values = values[~np.isnan(values)]
        return {
            "negative": self._counted(-values[values <= -self.LEAST]),
            "zero": np.array((np.abs(values) < self.LEAST).sum()),
            "positive": self._counted(values[values >= self.LEAST]),
        }

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        return {name: one[name] + two[name] for name in one}

    def finish(self, whole: Arrays) -> Arrays:
        counts = np.concatenate([whole["negative"][::-1], [whole["zero"]], whole["positive"]])
        middle = self._middle()
        values = np.concatenate([-middle[::-1], [0.0], middle])
        total = int(counts.sum())
        ranks = np.floor(self.at * max(total - 1, 0))
        places = np.searchsorted(np.cumsum(counts), ranks, side="right")
        found = values[np.minimum(places, len(values) - 1)] if total else np.full(len(self.at), np.nan)
        return {"at": self.at, "values": found, "count": np.array(total)}

    def _counted(self, values: Array) -> Array:
        # Bin k holds what lies in (factor^(k-1), factor^k], from `LEAST` on; infinities are in the last.
        with np.errstate(divide="ignore"):
            places = np.ceil(np.log(np.minimum(values, self.MOST) / self.LEAST) / self._factor)
        return np.bincount(np.clip(places, 0, self._bins - 1).astype(np.int64), minlength=self._bins)

    def _middle(self) -> Array:
        """For each bin the value that is within the relative error of both its ends."""
        upper = self.LEAST * np.exp(self._factor * np.arange(self._bins))
        return np.asarray(upper * 2 / (1 + math.exp(self._factor)))
