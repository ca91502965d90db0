"""Mean and covariance of a vector over realizations, joined piece by piece, and how far both are to be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from staffa.errors import StaffaWarning

Arrays = Mapping[str, Any]

SINGULAR = 1e12
"""Condition number of a correlation matrix from which its inverse is noise of rounding."""


def of_rows(rows: Any) -> dict[str, Any]:
    """Of some vectors (samples, n): how many, their mean (n,), and the sums of products of what is off it (n, n)."""
    count = len(rows)
    mean = rows.mean(axis=0) if count else np.zeros(rows.shape[1])
    apart = rows - mean
    return {"count": np.array(count), "mean": mean, "products": apart.T @ apart}


def joined(one: Arrays, two: Arrays) -> dict[str, Any]:
    """Those of both, by the rule of Chan, Golub & LeVeque (The American Statistician 37:242, 1983)."""
    count = one["count"] + two["count"]
    apart = two["mean"] - one["mean"]
    weight = two["count"] / np.maximum(count, 1)
    products = one["products"] + two["products"] + np.outer(apart, apart) * one["count"] * weight
    return {"count": count, "mean": one["mean"] + apart * weight, "products": products}


def described(whole: Arrays, fitted: int | None) -> dict[str, Any]:
    """What moments come to: see `mocks.correlation.Correlation` for each array."""
    count, size = int(whole["count"]), len(whole["mean"])
    if count < 2:
        warnings.warn(f"{count} realizations have no covariance: it is NaN", StaffaWarning, stacklevel=3)
        covariance = np.full((size, size), np.nan)
    else:
        covariance = whole["products"] / (count - 1)
    variance = np.diagonal(covariance)
    varies = variance > 0
    root = np.sqrt(np.where(varies, variance, 1.0))
    precision, hartlap = inverse(covariance, varies, count)
    found = {
        "count": whole["count"],
        "mean": whole["mean"],
        "covariance": covariance,
        "correlation": np.where(np.outer(varies, varies), covariance / np.outer(root, root), 0.0),
        "error": np.sqrt((np.outer(variance, variance) + covariance**2) / max(count - 1, 1)),
        "constant": ~varies,
        "precision": precision,
        "hartlap": np.array(hartlap),
    }
    return found if fitted is None else {**found, "percival": np.array(percival(count, int(varies.sum()), fitted))}


def inverse(covariance: Any, varies: Any, count: int) -> tuple[Any, float]:
    """The inverse without bias of a covariance estimated from `count` normal vectors, and Hartlap's factor in it.

    Of n entries that vary the plain inverse is too large by (count - 1) / (count - n - 2) in the mean (Hartlap, Simon &
    Schneider, A&A 464:399, 2007). Entries that never vary have rows of 0. Where count <= n + 2 there is no
    inverse: all of it, and the factor, are 0; so they are (with a warning) where entries depend on one another.
    """
    size, precision = int(varies.sum()), np.zeros_like(covariance)
    if size == 0 or count <= size + 2:
        return precision, 0.0
    factor = (count - size - 2) / (count - 1)
    inside = covariance[np.ix_(varies, varies)]
    root = np.sqrt(np.diagonal(inside))
    # Counts and powers differ by orders of magnitude: what is inverted is the correlation.
    scaled = inside / np.outer(root, root)
    if np.linalg.cond(scaled) > SINGULAR:
        warnings.warn("entries of the vector depend on one another: no inverse", StaffaWarning, stacklevel=4)
        return precision, 0.0
    plain = np.linalg.inv(scaled) / np.outer(root, root)
    precision[np.ix_(varies, varies)] = factor * (plain + plain.T) / 2
    return precision, factor


def percival(count: int, size: int, fitted: int) -> float:
    """What the variances of `fitted` parameters are to be multiplied by, since the covariance itself is uncertain.

    m1 of Percival et al. (Mon. Not. R. Astron. Soc. 439:2531, 2014), for `size` data and `count` realizations, where
    the precision has Hartlap's factor. Infinite where count <= size + 4.
    """
    if count <= size + 4:
        return np.inf
    below = (count - size - 1) * (count - size - 4)
    a, b = 2 / below, (count - size - 2) / below
    return (1 + b * (size - fitted)) / (1 + a + b * (fitted + 1))
