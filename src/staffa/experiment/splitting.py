"""A reducer for each value of some parameters: what `by:` in a campaign's `reduce:` comes to.

The trials of a batch are told apart by the values they have; what each value's trials come to is kept beside the
others', and what is made of them in the end is stacked along a first axis, in the order of the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.errors import PluginError
from staffa.experiment.ensembles import Array, Arrays, Reducer
from staffa.trial import Scalar

Values = tuple[Scalar, ...]
"""Of each parameter one."""
BY = "by."
"""What the names begin with of arrays that hold the values."""


@dataclass(frozen=True)
class Split:
    """The reducer of each value.

    Arguments:
    - `name`: what it is called in `reduce:`.
    - `by`: names of parameters; `replicate` is one.
    """

    name: str
    reducer: Reducer
    by: tuple[str, ...]

    @property
    def of(self) -> Any:
        """Outputs it wants: those of the reducer."""
        return getattr(self.reducer, "of", ())

    def map(self, outputs: Arrays, params: Arrays) -> Arrays:
        """By value what its trials come to."""
        found = {}
        for values, rows in self._apart(params):
            own = {name: array[rows] for name, array in outputs.items()}
            given = {name: array[rows] for name, array in params.items()}
            found[values] = plain(self.name, self.reducer.map(own, given))
        return self._packed(found)

    def reduce(self, one: Arrays, two: Arrays) -> Arrays:
        """By value the answers for two sets of trials as one."""
        found = self._unpacked(one)
        for values, arrays in self._unpacked(two).items():
            known = found.get(values)
            found[values] = arrays if known is None else plain(self.name, self.reducer.reduce(known, arrays))
        return self._packed(found)

    def finish(self, whole: Arrays) -> Arrays:
        """What `finish` makes of each value's, stacked; beside it the values, as `by.NAME`, (values,)."""
        found = {
            values: plain(self.name, self.reducer.finish(arrays))
            for values, arrays in sorted(self._unpacked(whole).items())
        }
        columns = self._columns(list(found))
        return {**self._stacked(found, columns), **columns}

    def _apart(self, params: Arrays) -> Iterator[tuple[Values, Any]]:
        """Each value there is, and where its trials are; all of them as a slice, which takes no copy."""
        columns = [comparable(params[name]) for name in self.by]
        codes = np.zeros(len(columns[0]), np.int64)
        for column in columns:
            distinct, own = np.unique(column, return_inverse=True)
            codes = codes * len(distinct) + own
        _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        ordered = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[ordered], np.arange(1, len(first)))
        for place, rows in zip(first, np.split(ordered, ends), strict=True):
            values = tuple(column[place].item() for column in columns)
            yield values, slice(None) if len(first) == 1 else rows

    def _packed(self, found: Mapping[Values, Arrays]) -> dict[str, Array]:
        """As arrays by name: the values, and what each comes to under its place among them."""
        arrays = {f"{place}.{key}": array for place, one in enumerate(found.values()) for key, array in one.items()}
        return {**arrays, **self._columns(list(found))}

    def _unpacked(self, packed: Arrays) -> dict[Values, dict[str, Array]]:
        columns = [packed[BY + name].tolist() for name in self.by]
        found: list[dict[str, Array]] = [{} for _ in columns[0]]
        for name, array in packed.items():
            place, _, key = name.partition(".")
            if place.isdigit():
                found[int(place)][key] = array
        return dict(zip(zip(*columns, strict=True), found, strict=True))

    def _columns(self, values: Sequence[Values]) -> dict[str, Array]:
        return {BY + name: np.array([one[place] for one in values]) for place, name in enumerate(self.by)}

    def _stacked(self, found: Mapping[Values, Arrays], columns: Arrays) -> dict[str, Array]:
        (first, one), *others = found.items()
        for values, two in others:
            self._check_alike(first, one, values, two)
        for key in columns.keys() & one.keys():
            raise PluginError(f"reduce.{self.name}: {key!r} is what stands for a parameter's values", "another name")
        return {key: np.stack([arrays[key] for arrays in found.values()]) for key in one}

    def _check_alike(self, first: Values, one: Arrays, values: Values, two: Arrays) -> None:
        """Refuse what cannot be stacked."""
        hint = f"let finish return arrays of one shape, or leave out reduce.{self.name}.by"
        for key in sorted(one.keys() ^ two.keys()):
            there, not_there = (first, values) if key in one else (values, first)
            what = f"there is {key!r} of {self._said(there)}, and none of {self._said(not_there)}"
            raise PluginError(f"reduce.{self.name}: {what}", hint)
        for key, array in one.items():
            if array.shape != two[key].shape or (array.dtype.kind == "U") != (two[key].dtype.kind == "U"):
                sides = ((first, array), (values, two[key]))
                what = ", ".join(f"of {self._said(who)} {has.shape} of {has.dtype}" for who, has in sides)
                raise PluginError(f"reduce.{self.name}: {key!r} cannot be stacked: {what}", hint)

    def _said(self, values: Values) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in zip(self.by, values, strict=True))


def comparable(values: npt.ArrayLike) -> Array:
    """A parameter's values as NumPy can sort and store them: text is an array of objects in a store."""
    found = np.asarray(values)
    return found if found.dtype.kind in "biuf" else found.astype(object).astype(str)


def plain(name: str, arrays: Any) -> dict[str, Array]:
    """Arrays that can be stored without pickling.

    Raises `PluginError` for anything else.
    """
    if not isinstance(arrays, Mapping):
        raise PluginError(f"reduce.{name}: {type(arrays).__name__} is no mapping of names to arrays", "return a dict")
    found = {str(key): np.asarray(value) for key, value in arrays.items()}
    for key, value in found.items():
        if value.dtype.hasobject:
            raise PluginError(f"reduce.{name}: {key!r} is no array of numbers or text", "return NumPy arrays")
    return found
