"""Text, and what can be written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa import cells
from staffa.experiment.encoding import Elements, described, objects

Row = npt.NDArray[Any]
FORMS = {"U": "numpy", "T": "StringDType", "O": "object"}


@dataclass(frozen=True)
class Text(Elements):
    """A `str`, or an array of them; a single one, and those in arrays of objects, may be None.

    Arguments:
    - `form`: what comes back: `str`, or an array (`numpy`, `StringDType`, `object`).
    """

    form: str = "str"
    dtype = cells.TEXT
    type = pa.string()

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if type(value) in (str, np.str_):
            return cls()
        if isinstance(value, np.ndarray) and value.dtype.kind in FORMS and value.size:
            texts = all(isinstance(one, str) or one is None for one in value.reshape(-1).tolist())
            return cls(FORMS[value.dtype.kind]) if texts else None
        return None

    def elements(self, value: Any) -> Row:
        array = np.asarray(value, object)
        found = np.empty(array.shape, object)
        for place, one in enumerate(array.reshape(-1)):
            found.reshape(-1)[place] = cells.text(None if one is None else sound(str(one)))
        return found

    def array(self, column: pa.Array) -> Row:
        return np.asarray(column.to_numpy(zero_copy_only=False), object)

    def series(self, column: pa.Array) -> Any:
        return column.to_pandas()

    def value(self, elements: Row) -> Any:
        if not elements.shape:
            return elements[()]
        if self.form == "numpy":
            return elements.astype(str)
        return elements.astype(np.dtypes.StringDType()) if self.form == "StringDType" else elements


@dataclass(frozen=True)
class Json(Elements):
    """What JSON can say: dicts, lists, text, numbers, bools and None, in one another; integers of any size.

    It stands as text, its keys sorted. A dict is only taken whole where the experiment says so, since dicts of
    outputs are branches; lists of numbers of one shape are arrays.
    """

    dtype = cells.TEXT
    type = pa.string()

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if isinstance(value, dict | list | tuple):
            canonical(value)
            return cls()
        return None

    def misfit(self, value: Any) -> str:
        return ""

    def elements(self, value: Any) -> Row:
        found = np.empty((), object)
        found[()] = cells.text(None if value is None else canonical(value))
        return found

    def array(self, column: pa.Array) -> Row:
        return objects([json.loads(one) if one else None for one in column.to_pylist()])


def sound(text: str, place: str = "") -> str:
    """The text itself.

    Raises `ValueError` for one that has no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f" at {place}" if place else ""
        raise ValueError(
            f"has the lone surrogate {text[error.start]!r} at place {error.start} of a text{where}, which UTF-8 cannot "
            "hold"
        ) from None
    return text


def canonical(value: Any) -> str:
    """A value as JSON, its keys sorted: equal values give equal text.

    Raises `ValueError` for what would not come back as it is.
    """
    try:
        plain = _plain(value, "$")
    except RecursionError:
        raise ValueError("holds itself, or is too deep for JSON") from None
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _plain(value: Any, place: str) -> Any:
    """A value with Python's own numbers for NumPy's; `place` is a JSON path."""
    if isinstance(value, np.generic) and value.dtype.kind in "fiub":
        value = value.item()
    if value is None or type(value) in (bool, int):
        return value
    if type(value) in (str, np.str_):
        return sound(str(value), place)
    if type(value) is float:
        if not np.isfinite(value):
            raise ValueError(f"has {value!r} at {place}, which JSON cannot say: write None")
        return value
    if type(value) is list:
        return [_plain(one, f"{place}[{number}]") for number, one in enumerate(value)]
    if type(value) is dict:
        return {_key(key, place): _plain(one, f"{place}.{key}") for key, one in value.items()}
    raise ValueError(_refusal(value, place))


def _key(key: Any, place: str) -> str:
    if type(key) not in (str, np.str_):
        raise ValueError(f"has the key {key!r} at {place}, and JSON only knows keys of text: write str(key)")
    return sound(str(key), place)


def _refusal(value: Any, place: str) -> str:
    what = f"has {described(value)} at {place}"
    if isinstance(value, tuple):
        return f"{what}, which JSON would give back as a list: write list(…)"
    if isinstance(value, Mapping):
        return f"{what}, which JSON would give back as a dict: write dict(…)"
    if isinstance(value, np.ndarray):
        return f"{what}, which JSON does not know: record it as an output of its own, or write .tolist()"
    return f"{what}, which JSON does not know"
