"""What lets another worker carry on: arrays in safetensors, written aside and renamed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.storage.files import write_aside


@dataclass(frozen=True)
class Checkpoint:
    arrays: dict[str, npt.NDArray[Any]]
    meta: dict[str, Any]


def save(path: Path, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Replace a batch's checkpoint."""
    from safetensors.numpy import save as serialize

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_aside(path, serialize(contiguous, metadata={"staffa": json.dumps(dict(meta))}))


def load(path: Path) -> Checkpoint | None:
    """A batch's checkpoint; None where there is none, or none that can be read whole."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(arrays, json.loads(file.metadata()["staffa"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)
