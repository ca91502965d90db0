"""Covariance and correlation across realizations: of one redshift's data vector, and of all redshifts' together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mocks import moments
from staffa.errors import ConfigError, StaffaWarning

Arrays = Mapping[str, Any]


class Correlation:
    """Mean, covariance and correlation of a data vector over trials, with what an analysis has to know of both.

    C = sum (x - mean)(x - mean)^T / (N - 1) over N realizations of a vector of n entries. To be used with `by:
    redshift`. A trial that holds a number which is not finite is left out. A few times n x n numbers are in memory.

    Options:
    - `of`: outputs, one a trial each (numbers or arrays), put behind one another as one vector of length n.
    - `fitted`: how many parameters are to be fitted with it, for `percival`.

    Result, in the outputs' units:
    - `count` (): N. `left_out` (): trials with numbers that are not finite.
    - `mean` (n,); `covariance` (n, n), NaN where N < 2 (and a warning).
    - `constant` (n,): entries that never vary, such as bins that nothing falls in. They are correlated with nothing.
    - `correlation` (n, n): C_ij / sqrt(C_ii C_jj); 0 in rows of constant entries.
    - `error` (n, n): standard deviation of each entry of C if x is normal, sqrt((C_ii C_jj + C_ij^2) / (N - 1))
      (Taylor, Joachimi & Kitching, Mon. Not. R. Astron. Soc. 432:1928, 2013).
    - `hartlap` (), `precision` (n, n): see `mocks.moments.inverse`: both 0 where N <= n + 2.
    - `percival` (): see `mocks.moments.percival`; only where `fitted` is given.
    """

    def __init__(self, of: str | list[str], fitted: int | None = None) -> None:
        self.of, self.fitted = [of] if isinstance(of, str) else list(of), fitted

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        rows = vectors(outputs, self.of)
        finite = np.isfinite(rows).all(axis=1)
        return {**moments.of_rows(rows[finite]), "left_out": np.array((~finite).sum())}

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        return {**moments.joined(one, two), "left_out": one["left_out"] + two["left_out"]}

    def finish(self, whole: Arrays) -> Arrays:
        return {**moments.described(whole, self.fitted), "left_out": whole["left_out"]}


class Joint:
    """Covariance across realizations of the vectors of all redshifts of a realization, put behind one another.

    Trials of a realization may be in different batches and parts: vectors are kept until the end and then joined. A
    realization that lacks a redshift which any other has is left out, as is a number that is not finite. In memory are
    all vectors, trials x n numbers in double precision (13 MB for 40,000 trials and n = 42), and a few matrices of (R
    n)^2 for R redshifts; not to be used with `by`.

    Options:
    - `of`: outputs, put behind one another as one vector of length n.
    - `realization`: parameters whose values name one.
    - `along`: the parameter that tells its trials apart.
    - `fitted`: as in `Correlation`.

    Result: `at` (R,), values of `along` in ascending order; entry r n + i of the vector is entry i at `at[r]`.
    `lacking` (): realizations left out. `left_out` (): trials with numbers that are not finite. The others as in
    `Correlation`, for vectors of length R n and N whole realizations.

    Raises `ConfigError` where two trials of a realization have the same value of `along`.
    """

    def __init__(
        self,
        of: str | list[str],
        realization: str | list[str] = ["phase", "replicate"],  # noqa: B006  (read only)
        along: str = "redshift",
        fitted: int | None = None,
    ) -> None:
        self.of, self.along, self.fitted = [of] if isinstance(of, str) else list(of), along, fitted
        self.realization = [realization] if isinstance(realization, str) else list(realization)

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        rows = vectors(outputs, self.of)
        finite = np.isfinite(rows).all(axis=1)
        named = {f"name.{name}": _storable(params[name])[finite] for name in self.realization}
        at = np.asarray(params[self.along], np.float64)[finite]
        return {"rows": rows[finite], "at": at, "left_out": np.array((~finite).sum()), **named}

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        found = {name: np.concatenate([one[name], two[name]]) for name in one if name != "left_out"}
        return {**found, "left_out": one["left_out"] + two["left_out"]}

    def finish(self, whole: Arrays) -> Arrays:
        names = [np.unique(whole[f"name.{name}"], return_inverse=True)[1] for name in self.realization]
        known, realization = np.unique(np.stack(names, axis=1), axis=0, return_inverse=True)
        values, at = np.unique(whole["at"], return_inverse=True)
        cells = realization.reshape(-1) * len(values) + at
        self._check(whole, cells)
        # In the order of realizations and values, whatever that of the parts was: the same bits.
        order = np.argsort(cells)
        present = np.bincount(cells // max(len(values), 1), minlength=len(known))
        complete = present == len(values)
        chosen = order[complete[cells[order] // max(len(values), 1)]]
        joint = whole["rows"][chosen].reshape(int(complete.sum()), len(values) * whole["rows"].shape[1])
        if not len(joint):
            warnings.warn(
                f"{self.along}: no realization has all {len(values)} of its values", StaffaWarning, stacklevel=2
            )
        found = moments.described(moments.of_rows(joint), self.fitted)
        return {**found, "at": values, "lacking": np.array((~complete).sum()), "left_out": whole["left_out"]}

    def _check(self, whole: Arrays, cells: Any) -> None:
        _, first, times = np.unique(cells, return_index=True, return_counts=True)
        if (times > 1).any():
            row = first[int(np.argmax(times))]
            which = ", ".join(f"{name} = {whole[f'name.{name}'][row]}" for name in self.realization)
            raise ConfigError(
                f"realization: {times.max()} trials of {which} at {self.along} = {whole['at'][row]:g}",
                f"name what else tells them apart: realization: {[*self.realization, '…']}",
            )


def vectors(outputs: Arrays, names: list[str]) -> Any:
    """Outputs behind one another, (trials, n), in double precision."""
    values = [np.asarray(outputs[name], np.float64) for name in names]
    return np.concatenate([one.reshape(len(one), math.prod(one.shape[1:])) for one in values], axis=1)


def _storable(values: Any) -> Any:
    """Text of a parameter is an array of objects."""
    found = np.asarray(values)
    return found.astype(str) if found.dtype.hasobject else found
