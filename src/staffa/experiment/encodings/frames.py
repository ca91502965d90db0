"""Frames and series of pandas.

A frame is a list of its rows, each a struct of its index and its columns: in SQL a little table, `unnest(frame)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.experiment.encoding import Encoding, described, objects
from staffa.experiment.encodings.labels import categorical, label_type, spelled
from staffa.experiment.encodings.text import sound
from staffa.experiment.encodings.times import UNITS, exact, moment_type, zone_name

Row = npt.NDArray[Any]
NUMBERS = "fiub"
MASKED = (
    "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64", "boolean",
)  # fmt: skip
"""Types of pandas that know a missing value, by their NumPy name in lower letters."""
TEXTS = ("str", "object")
INDEX = "index"


@dataclass(frozen=True)
class Column:
    """One column of a frame, or level of its index.

    Arguments:
    - `label`: what pandas calls it: text, an integer, or nothing.
    - `dtype`: its type, as pandas writes it; of categories that of the `categories`.
    """

    label: str | int | None
    dtype: str
    categories: tuple[Any, ...] | None = None
    ordered: bool = False

    @classmethod
    def of(cls, label: Any, values: Any) -> Self:
        """A column of a Series or an Index. Raises `ValueError` for one that cannot be recorded."""
        label = label.item() if isinstance(label, np.generic) else label
        if label is not None and type(label) not in (str, int):
            raise ValueError(f"has a column called {label!r}: names are text or integers")
        if isinstance(label, str):
            sound(label, "the name of a column")
        dtype = values.dtype
        if str(dtype) == "category":
            categories, kind = spelled(dtype.categories)
            return cls(label, kind, categories, bool(dtype.ordered))
        if not _known(dtype):
            raise ValueError(f"has column {label!r} of dtype {dtype}, which cannot be recorded: write .astype(…)")
        return cls(label, spelling(dtype))

    @property
    def type(self) -> pa.DataType:
        if self.categories is not None:
            return label_type(self.categories)
        if self.dtype in TEXTS or self.dtype.startswith("string"):
            return pa.string()
        if self.dtype in MASKED:
            return pa.bool_() if self.dtype == "boolean" else pa.from_numpy_dtype(np.dtype(self.dtype.lower()))
        kind, _, zone = self.dtype.rstrip("]").partition(", ")
        if kind.startswith("datetime64"):
            return moment_type(kind.split("[")[1], zone)
        return pa.from_numpy_dtype(np.dtype(self.dtype))

    def encoded(self, values: Any) -> pa.Array:
        """The values of a Series or an Index."""
        if self.categories is not None:
            plain = [None if code < 0 else self.categories[code] for code in values.array.codes.tolist()]
            return pa.array(plain, self.type)
        if self.type == pa.string():
            return pa.array([self._text(one) for one in values.tolist()], self.type)
        if self.dtype in MASKED:
            return pa.array(values.array, self.type)
        if getattr(values.dtype, "tz", None) is not None:
            values = values.array.tz_convert("UTC").tz_localize(None)
        found = np.asarray(values)
        if found.dtype.kind == "M":
            return pa.array(exact(found, f"datetime64[{self.type.unit}]")).view(self.type)
        return pa.array(found, self.type)

    def decoded(self, column: pa.Array) -> Any:
        """The values, for a Series or an Index."""
        import pandas

        if self.categories is not None:
            return categorical(column, self.categories, self.ordered, self.dtype)
        if self.dtype == "object":
            return np.asarray(column.to_numpy(zero_copy_only=False), object)
        dtype = pandas.api.types.pandas_dtype(self.dtype)
        if self.type == pa.string() or self.dtype in MASKED:
            return dtype.__from_arrow__(column)
        if pa.types.is_timestamp(column.type) and column.type.tz:
            naive = column.view(pa.timestamp(column.type.unit)).to_numpy(zero_copy_only=False)
            return pandas.DatetimeIndex(naive).tz_localize("UTC").astype(dtype)
        return column.to_numpy(zero_copy_only=False).astype(self.dtype)

    def _text(self, one: Any) -> str | None:
        if isinstance(one, str):
            return sound(one, f"column {self.label!r}")
        if one is None or type(one).__name__ == "NAType" or (isinstance(one, float) and np.isnan(one)):
            return None
        raise ValueError(f"has {described(one)} in column {self.label!r} of dtype {self.dtype}: only text and None")


@dataclass(frozen=True)
class Rows(Encoding):
    """What has rows with an index.

    Arguments:
    - `columns`: the same in all trials, as the pilot trial had them; an empty frame may have other types.
    - `index`: the levels of its index; none for one that only counts the rows.
    """

    columns: tuple[Column, ...]
    index: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        for name in ("columns", "index"):
            made = tuple(Column(**one) if isinstance(one, Mapping) else one for one in getattr(self, name))
            object.__setattr__(self, name, made)

    @property
    def names(self) -> list[str]:
        """What the fields of a row are called: levels of the index, then columns; each name once, whatever its case."""
        levels = [INDEX if one.label is None else str(one.label) for one in self.index]
        found: dict[str, str] = {}
        for name in [*reversed([str(one.label) for one in self.columns]), *reversed(levels)]:
            clean = "".join(sign if sign.isprintable() else "_" for sign in name) or "_"
            while clean.lower() in found:
                clean += "_"
            found[clean.lower()] = clean
        return list(reversed(found.values()))

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        kinds = [one.type for one in (*self.index, *self.columns)]
        return pa.list_(pa.struct(list(zip(self.names, kinds, strict=True))))

    def misfit(self, value: Any) -> str:
        found = self.of(value)
        if found is None:
            return f"is {described(value)}"
        for what, own, other in (("column", self.columns, found.columns), ("index", self.index, found.index)):
            if not len(value) and what == "index":
                return ""
            if [one.label for one in own] != [one.label for one in other]:
                return f"has {_labels(what, other)}, not {_labels(what, own)}"
            for one, two in zip(own, other, strict=True):
                if one != two and len(value):
                    return f"has {what} {one.label!r} of {_kind(two)}, the pilot trial's was of {_kind(one)}"
        return super().misfit(value)

    def column(self, values: Sequence[Any]) -> pa.Array:
        kind = self.type
        found = [self._rows(one, list(kind.value_type)) for one in values if one is not None and len(one)]
        sizes = [0 if value is None else len(value) for value in values]
        return pa.ListArray.from_arrays(
            pa.array(np.cumsum([0, *sizes], dtype=np.int32)),
            pa.concat_arrays(found) if found else pa.array([], kind.value_type),
            type=kind,
            mask=pa.array([value is None for value in values], pa.bool_()),
        )

    def _rows(self, value: Any, fields: list[pa.Field]) -> pa.StructArray:
        levels = [value.index.get_level_values(place) for place in range(len(self.index))]
        parts = zip((*self.index, *self.columns), [*levels, *self._columns(value)], strict=True)
        return pa.StructArray.from_arrays([one.encoded(part) for one, part in parts], fields=fields)

    def array(self, column: pa.Array) -> Row:
        return objects([self._one(one.values) if one.is_valid else None for one in column])

    def _one(self, rows: pa.StructArray) -> Any:
        import pandas

        fields = rows.flatten()
        parts = [one.decoded(field) for one, field in zip((*self.index, *self.columns), fields, strict=True)]
        levels = [
            # Without its type pandas would guess one.
            pandas.Index(part, dtype=object if one.dtype == "object" else None)
            for one, part in zip(self.index, parts, strict=False)
        ]
        columns = parts[len(self.index) :]
        labels = [one.label for one in self.index]
        if not levels:
            index = pandas.RangeIndex(len(rows))
        elif len(levels) == 1:
            index = levels[0].rename(labels[0])
        else:
            index = pandas.MultiIndex.from_arrays(levels, names=labels)
        return self._made(columns, index)

    def _columns(self, value: Any) -> list[Any]:
        raise NotImplementedError

    def _made(self, columns: Sequence[Any], index: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Frame(Rows):
    """A `pandas.DataFrame` of any length.

    Arguments:
    - `axis`: what its columns are called together.
    """

    axis: str | None = None

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if type(value).__name__ != "DataFrame" or not type(value).__module__.startswith("pandas"):
            return None
        if value.columns.nlevels > 1 or not value.columns.is_unique or not len(value.columns):
            raise ValueError(f"has columns {list(value.columns)!r}: they are to be there, of one level, each name once")
        columns = tuple(Column.of(label, value.iloc[:, place]) for place, label in enumerate(value.columns))
        return cls(columns, _index(value), value.columns.name)

    def _columns(self, value: Any) -> list[Any]:
        return [value.iloc[:, place] for place in range(len(self.columns))]

    def _made(self, columns: Sequence[Any], index: Any) -> Any:
        import pandas

        own = enumerate(zip(self.columns, columns, strict=True))
        frame = pandas.DataFrame({place: _series(one, values, index) for place, (one, values) in own}, index=index)
        frame.columns = pandas.Index([one.label for one in self.columns], name=self.axis)
        return frame


@dataclass(frozen=True)
class Series(Rows):
    """A `pandas.Series` of any length."""

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if type(value).__name__ != "Series" or not type(value).__module__.startswith("pandas"):
            return None
        return cls((Column.of(value.name, value),), _index(value))

    def _columns(self, value: Any) -> list[Any]:
        return [value]

    def _made(self, columns: Sequence[Any], index: Any) -> Any:
        return _series(self.columns[0], columns[0], index).rename(self.columns[0].label)


def _series(column: Column, values: Any, index: Any) -> Any:
    import pandas

    found = pandas.Series(values, dtype=object if column.dtype == "object" and column.categories is None else None)
    return found.set_axis(index)


def spelling(dtype: Any) -> str:
    """A type of pandas as text."""
    if type(dtype).__name__ == "StringDtype":
        return "str" if isinstance(dtype.na_value, float) else f"string[{dtype.storage}]"
    zone = getattr(dtype, "tz", None)
    return f"datetime64[{dtype.unit}, {zone_name(zone)}]" if zone is not None else str(dtype)


def _known(dtype: Any) -> bool:
    if isinstance(dtype, np.dtype):
        return dtype.kind in "iubO" or dtype.name in ("float16", "float32", "float64") or _timed(dtype)
    return type(dtype).__name__ in ("StringDtype", "DatetimeTZDtype") or str(dtype) in MASKED


def _timed(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "mM" and np.datetime_data(dtype)[0] in UNITS


def _index(value: Any) -> tuple[Column, ...]:
    index = value.index
    if type(index).__name__ == "RangeIndex" and index.equals(type(index)(len(index))) and index.name is None:
        return ()
    return tuple(Column.of(label, index.get_level_values(place)) for place, label in enumerate(index.names))


def _labels(what: str, columns: Sequence[Column]) -> str:
    return f"{what} {[one.label for one in columns]!r}" if columns else f"no {what} of its own"


def _kind(column: Column) -> str:
    if column.categories is None:
        return column.dtype
    return f"{'ordered ' * column.ordered}categories {list(column.categories)!r}"
