"""Labels out of a list that is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.errors import near
from staffa.experiment.encoding import Elements, Encoding, described, objects

Row = npt.NDArray[Any]
KINDS = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


@dataclass(frozen=True)
class Category(Elements):
    """One of some labels, or an array of them: `encodings = {"phase": {"use": "category", "categories": ["ice", …]}}`.

    A column of pandas has that type, the archive the labels themselves, the hot store their places in the list, from
    1 on. A missing one is None.

    Arguments:
    - `categories`: all of one kind: text, integers, numbers or bools.
    - `ordered`: whether their order means something.
    - `form`: what comes back: the `label`, or an `array`.
    """

    categories: tuple[Any, ...] = ()
    ordered: bool = False
    form: str = "label"
    automatic = False
    dtype = "int32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", plain_labels(self.categories))
        if not self.categories:
            raise ValueError("categories: there are none")

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        return label_type(self.categories)

    @property
    def codes(self) -> tuple[Any, ...]:
        return self.categories

    def misfit(self, value: Any) -> str:
        array = isinstance(value, np.ndarray | list | tuple)
        return f"is {described(value)}" if array != (self.form == "array") else ""

    def elements(self, value: Any) -> Row:
        given = np.empty((), object) if not isinstance(value, np.ndarray | list | tuple) else np.asarray(value, object)
        if not given.shape:
            given[()] = value
        codes = {(type(label), label): place for place, label in enumerate(self.categories, 1)}
        found = [0 if one is None else codes.get((type(one), one), -1) for one in map(_plain, given.reshape(-1))]
        if -1 in found:
            wrong = given.reshape(-1)[found.index(-1)]
            hint = near(str(wrong), map(str, self.categories))
            raise ValueError(f"is {wrong!r}, which is none of its categories" + (f"; {hint}" if hint else ""))
        return np.array(found, np.int32).reshape(given.shape)

    def array(self, column: pa.Array) -> Row:
        return objects(column.to_pylist())

    def series(self, column: pa.Array) -> Any:
        return categorical(column, self.categories, self.ordered)


@dataclass(frozen=True)
class Categorical(Encoding):
    """A `pandas.Categorical`, of any length; the categories are the same in all trials.

    Arguments:
    - `categories`: its categories, of `kind` in pandas.
    """

    categories: tuple[Any, ...] = ()
    kind: str = "str"
    ordered: bool = False

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if type(value).__name__ != "Categorical" or not type(value).__module__.startswith("pandas"):
            return None
        return cls(*spelled(value.categories), bool(value.ordered))

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        return pa.list_(label_type(self.categories))

    def encode(self, value: Any) -> Any:
        return [None if code < 0 else self.categories[code] for code in value.codes.tolist()]

    def array(self, column: pa.Array) -> Row:
        return objects(
            [
                categorical(one.values, self.categories, self.ordered, self.kind) if one.is_valid else None
                for one in column
            ]
        )


def categorical(column: pa.Array, labels: Sequence[Any], ordered: bool, kind: str | None = None) -> Any:
    """A column of labels as `pandas.Categorical`; `kind` is the type of its categories."""
    import pandas

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    known = pandas.Index(list(labels), dtype=kind)
    codes = whole.dictionary_encode()
    places = {label: place for place, label in enumerate(labels)}
    table = np.array([*(places[label] for label in codes.dictionary.to_pylist()), -1], np.int64)
    return pandas.Categorical.from_codes(
        table[codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)], known, ordered
    )


def spelled(categories: Any) -> tuple[tuple[Any, ...], str]:
    """The categories of pandas as plain labels, and their type.

    Raises `ValueError` for those that JSON does not know.
    """
    return plain_labels(categories.tolist()), str(categories.dtype)


def plain_labels(labels: Sequence[Any]) -> tuple[Any, ...]:
    """Labels that are all of one kind that JSON knows.

    Raises `ValueError` for others, for none at all, and for one that is there twice.
    """
    found = tuple(map(_plain, labels))
    kinds = {type(label) for label in found}
    if len(kinds) > 1 or not kinds <= KINDS.keys():
        raise ValueError(f"has categories {_few(found)}: all are to be text, or all integers, numbers or bools")
    if len(set(found)) != len(found) or any(label != label for label in found):
        raise ValueError(f"has categories {_few(found)}, of which some are the same or NaN")
    return found


def label_type(labels: Sequence[Any]) -> pa.DataType:
    """The Arrow type of labels; text where there are none."""
    return KINDS[type(labels[0])] if labels else pa.string()


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _few(labels: Sequence[Any]) -> str:
    return repr(list(labels[:8]))[:-1] + (", …]" if len(labels) > 8 else "]")
