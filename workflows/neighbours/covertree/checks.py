"""What is refused, and in which words."""

from __future__ import annotations

from typing import Any

import numpy as np

from staffa.errors import ConfigError

from .growing import Array


def checked_queries(given: Any, dimensions: int | None = None, name: str = "queries") -> Array:
    """Rows of finite numbers, (rows, dimensions), in double precision."""
    try:
        rows = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}", f"{name} are rows of numbers") from None
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ConfigError(
            f"{name}: an array of shape {rows.shape} has no rows of numbers", "its shape is (rows, dimensions)"
        )
    if dimensions is not None and rows.shape[1] != dimensions:
        raise ConfigError(f"{name}: {rows.shape[1]} dimensions, the tree has {dimensions}")
    wrong = ~np.isfinite(rows)
    if wrong.any():
        row, column = (int(place[0]) for place in np.nonzero(wrong))
        raise ConfigError(
            f"{name}: {rows[row, column]} at row {row}, column {column} ({int(wrong.sum())} in all)",
            "leave such rows out before",
        )
    return np.ascontiguousarray(rows)


def checked_points(given: Any, dimensions: int | None = None) -> Array:
    """Points to make a tree of (at least two), or to put into one of so many `dimensions` (at least one)."""
    rows = checked_queries(given, dimensions, "points")
    needed = 2 if dimensions is None else 1
    if len(rows) < needed:
        raise ConfigError(f"points: {len(rows)}, and at least {needed} are needed")
    # A distance squared must not overflow, nor vanish where two points differ.
    if np.abs(rows).max() > 1e150:
        raise ConfigError(f"points: {np.abs(rows).max():.3g} is more than 1e150", "take another unit")
    return rows


def checked_count(k: Any, size: int, name: str = "k") -> int:
    """A number of neighbours that a tree of this size has."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"{name}: {k!r} is not a whole number of 1 or more")
    if k > size:
        raise ConfigError(f"{name}: {k} of {size} points", f"at most {size}")
    return int(k)


def checked_numbers(given: Any, name: str, length: int | None = None, among: Array | None = None) -> Array:
    """Numbers of points: so many of them, or only of those that are there."""
    numbers = np.asarray(given)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ConfigError(f"{name}: {numbers.dtype} of shape {numbers.shape} are no numbers of points")
    if length is not None and len(numbers) != length:
        raise ConfigError(f"{name}: {len(numbers)} numbers for {length} queries")
    if among is not None:
        missing = np.setdiff1d(numbers, among)
        if len(missing):
            raise ConfigError(f"{name}: the tree has no point {missing[0]} ({len(missing)} are not there)")
    return numbers.astype(np.int64)
