"""How a value that is no number is recorded, archived, and comes back.

    @dataclass(frozen=True)
    class Fractions(staffa.Encoding):
        type = pa.struct({"numerator": pa.int64(), "denominator": pa.int64()})

        @classmethod
        def of(cls, value):                  # of a value: how to record it; None for what is not ours
            return cls() if isinstance(value, Fraction) else None

        def encode(self, value):             # what a column of that type takes
            return {"numerator": value.numerator, "denominator": value.denominator}

        def decode(self, plain):             # and back
            return Fraction(plain["numerator"], plain["denominator"])

The fields of the dataclass are what all values of an output have in common and one must know to read them: a unit, the
names of columns, categories. They are told in the plan, the hot store and the archive, so they have to be JSON.

Nothing here imports Arrow or NumPy, so that naming an encoding costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Row = npt.NDArray[Any]


class Encoding:
    """How values of one type are recorded; a frozen dataclass, see the module.

    A missing value (None) is never handed to it: it is null in the archive, and comes back as None.
    """

    automatic: ClassVar[bool] = True
    """Whether `of` is asked of any value; otherwise only where `Experiment.encodings` says so."""

    dtype: str = "bytes"
    """Element type in the hot store (`staffa.cells`): here one cell for all values of a trial."""

    type: Any = None
    """The Arrow type of the archive's column: an attribute, or a property that depends on the fields."""

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """How a value is recorded; None where it is none of this type.

        Raises `ValueError` for one that is of this type and cannot be recorded, saying why.
        """
        raise NotImplementedError

    def encode(self, value: Any) -> Any:
        """What stands of a value in a column of `type`: anything that `pyarrow.array([…], type)` takes."""
        raise NotImplementedError

    def decode(self, plain: Any) -> Any:
        """The value, of what `to_pylist` makes of such a column."""
        raise NotImplementedError

    def flagged(self, value: Any) -> bool:
        """Whether a value has a NaN in it, for which its trial is flagged."""
        return False

    def misfit(self, value: Any) -> str:
        """Why a value cannot stand beside those that this was made of; empty where it can."""
        found = self.of(value)
        if found is None:
            return f"is {described(value)}"
        apart = [name for name, own in self.details.items() if found.details[name] != own]
        return "; ".join(f"has {name} {found.details[name]!r}, not {self.details[name]!r}" for name in apart)

    @property
    def details(self) -> dict[str, Any]:
        """The fields, as they are told."""
        return dataclasses.asdict(self) if dataclasses.is_dataclass(self) else {}

    @property
    def codes(self) -> tuple[Any, ...]:
        """Where integers are stored what they stand for, from 1 on; 0 is missing."""
        return ()

    # --- what the engine asks -----------------------------------------------------------------------

    def cell(self, values: Sequence[Any]) -> Row:
        """The values of one trial, as they stand in the hot store: an array without axes."""
        import numpy as np

        from staffa import cells

        found = np.empty((), object)
        found[()] = cells.cell(self.column(values))
        return found

    def column(self, values: Sequence[Any]) -> pa.Array:
        """Values, or None, as a column of the archive."""
        import pyarrow as pa

        return pa.array([None if value is None else self.encode(value) for value in values], self.type)

    def array(self, column: pa.Array) -> Row:
        """A column's values for NumPy and xarray: (rows,), objects where NumPy has no such type."""
        return objects([None if plain is None else self.decode(plain) for plain in column.to_pylist()])

    def series(self, column: pa.Array) -> Any:
        """A column's values for pandas."""
        return self.array(column)

    def value(self, elements: Row) -> Any:
        """What was recorded, of its elements in `array` (own axes): here the only one."""
        return elements[()]


class Elements(Encoding):
    """Values that are single elements, or arrays of one shape of them: text, times, categories."""

    def elements(self, value: Any) -> Row:
        """A value, or None, as it stands in the hot store: its own axes, elements of `dtype`."""
        raise NotImplementedError


def described(value: Any) -> str:
    """A value's type in words: `a str`, `an array of int64 [3, 2]`, `None`."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    name = type(value).__name__
    if name == "ndarray":
        return f"an array of {dtype} {list(shape or ())}"
    if value is None:
        return "None"
    kind = f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
    return f"{kind} of {dtype}" if dtype is not None and shape == () else kind


def objects(values: Sequence[Any]) -> Row:
    """(values,) objects: NumPy is not to look into them."""
    import numpy as np

    found = np.empty(len(values), object)
    for place, value in enumerate(values):
        found[place] = value
    return found
