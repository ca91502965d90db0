"""Sparse matrices of SciPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.experiment.encoding import Encoding, objects

Row = npt.NDArray[Any]
FIELDS = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}


@dataclass(frozen=True)
class Sparse(Encoding):
    """A sparse array or matrix of SciPy, as CSR, CSC or COO.

    Entries stand in SciPy's canonical order: sorted, each place once (what is there twice is added up).
    The shape may differ from trial to trial.

    Arguments:
    - `name`: of its class in `scipy.sparse`, such as `csr_array`.
    - `kind`: what its entries are in NumPy; `index`: what their places are.
    """

    name: str
    kind: str
    index: str = "int32"

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if not type(value).__module__.startswith("scipy.sparse"):
            return None
        if value.format not in FIELDS or value.ndim != 2:
            raise ValueError(f"is a {type(value).__name__} with {value.ndim} axes: write .tocsr() of a matrix")
        if value.dtype.kind not in "fiub":
            raise ValueError(f"has dtype {value.dtype}: only numbers and bools; write .real and .imag")
        fields = (getattr(value, name) for name in FIELDS[value.format])
        return cls(type(value).__name__, value.dtype.name, np.result_type(*(one.dtype for one in fields)).name)

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        places = pa.list_(pa.from_numpy_dtype(np.dtype(self.index)))
        data = pa.list_(pa.from_numpy_dtype(np.dtype(self.kind)))
        fields = dict.fromkeys(FIELDS[self.name[:3]], places)
        return pa.struct({"shape": pa.list_(pa.int64()), "data": data, **fields})

    def misfit(self, value: Any) -> str:
        found = self.of(value)
        if found is not None and (found.name, found.kind) == (self.name, self.kind):
            if not np.can_cast(found.index, self.index) and max(*value.shape, value.nnz) > np.iinfo(self.index).max:
                return f"has more places than {self.index} can count, as the pilot trial's did"
            return ""
        return super().misfit(value)

    def encode(self, value: Any) -> Any:
        own = value.copy()
        own.sum_duplicates()
        fields = {name: getattr(own, name).astype(self.index) for name in FIELDS[own.format]}
        return {"shape": list(own.shape), "data": own.data, **fields}

    def flagged(self, value: Any) -> bool:
        return bool(value.dtype.kind == "f" and np.isnan(value.data).any())

    def array(self, column: pa.Array) -> Row:
        return objects([self._one(one) if one.is_valid else None for one in column])

    def _one(self, plain: pa.StructScalar) -> Any:
        import scipy.sparse

        shape = tuple(plain["shape"].as_py())
        first, second = (plain[name].values.to_numpy() for name in FIELDS[self.name[:3]])
        data = plain["data"].values.to_numpy(zero_copy_only=False).astype(self.kind)
        parts = (data, (first, second)) if self.name.startswith("coo") else (data, first, second)
        found = getattr(scipy.sparse, self.name)(parts, shape=shape)
        found.has_canonical_format = True
        return found
