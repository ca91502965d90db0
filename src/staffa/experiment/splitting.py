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

from staffa.errors import PluginError, StaffaError
from staffa.experiment.ensembles import Array, Arrays, Outputs, Reducer
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
            own, given = self._of(rows, outputs, params)
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

    def apply(self, whole: Arrays, outputs: Arrays, params: Arrays) -> Arrays:
        """Of each trial what the reducer applies of its own value's whole."""
        found: dict[str, Array] = {}
        place = {values: number for number, values in enumerate(self._known(whole))}
        trials = len(next(iter(params.values())))
        for values, rows in self._apart(params):
            if values not in place:
                raise PluginError(f"reduce.{self.name}: nothing was found of {self._said(values)}")
            one = {key: array[place[values]] for key, array in whole.items() if not key.startswith(BY)}
            own, given = self._of(rows, outputs, params)
            made = apply_own(self.name, self.reducer, one, own, given)
            found = self._spread(found, made, rows, trials)
        return found

    def _known(self, whole: Arrays) -> Iterator[Values]:
        return zip(*(whole[BY + name].tolist() for name in self.by), strict=True)

    def _spread(self, found: dict[str, Array], made: Arrays, rows: Any, trials: int) -> dict[str, Array]:
        """Columns of some trials put to those of others, each at its place."""
        if found and found.keys() != made.keys():
            names = ", ".join(sorted(found.keys() ^ made.keys()))
            raise PluginError(f"reduce.{self.name}: apply returns {names} for some values and not for others")
        if isinstance(rows, slice):
            return dict(made)
        for name, array in made.items():
            if not array.ndim or len(array) != len(rows):
                raise PluginError(
                    f"reduce.{self.name}: apply: {name!r} has the shape {array.shape}, of {len(rows)} trials"
                )
            known = found.get(name, np.zeros((trials, *array.shape[1:]), array.dtype))
            if known.shape[1:] != array.shape[1:]:
                sides = f"{array.shape[1:]} and {known.shape[1:]}"
                raise PluginError(f"reduce.{self.name}: apply: {name!r} has the shapes {sides} a trial")
            whole = known.astype(np.result_type(known, array))
            whole[rows] = array
            found[name] = whole
        return found

    def _of(self, rows: Any, outputs: Arrays, params: Arrays) -> tuple[Arrays, Arrays]:
        given = {name: array[rows] for name, array in params.items()}
        return outputs.of(rows) if isinstance(outputs, Outputs) else Outputs(outputs, {}).of(rows), given

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
        values = list(self._known(packed))
        found: list[dict[str, Array]] = [{} for _ in values]
        for name, array in packed.items():
            place, _, key = name.partition(".")
            if place.isdigit():
                found[int(place)][key] = array
        return dict(zip(values, found, strict=True))

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


def apply_own(name: str, reducer: Any, whole: Arrays, outputs: Arrays, params: Arrays) -> Arrays:
    """What a reducer applies to some trials' rows: columns by name.

    Raises `PluginError` for what is no mapping of arrays, and for whatever it raises: trying again would not help.
    """
    try:
        return plain(name, reducer.apply(whole, outputs, params))
    except (StaffaError, OSError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(f"reduce.{name}: apply raised {type(error).__name__}: {error}", without(name)) from error


def without(name: str) -> str:
    """How a campaign does without a reducer that cannot be applied, for use as a hint."""
    return f"to do without it: leave it out of `reduce`; of one that came later remove archive/reduced/{name}.json"


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
