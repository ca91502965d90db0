"""Durations and sizes as people write them: `30s`, `1h30min`, `256MiB`."""

from __future__ import annotations

import math
import re
from typing import Any

SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
"""Units of a duration, in seconds."""

BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
"""Units of a size, in bytes. A bare `M` is left out: Dask and SLURM disagree on it."""

NOT_A_DURATION = "is not a duration: write for example 30s, 10min, 2h or a number of seconds"
NOT_A_SIZE = "is not a size: write for example 256MiB, 1GB or a number of bytes"

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:{'|'.join(SECONDS)})\s*)+", re.ASCII)
_DURATION_TERM = re.compile(rf"({_NUMBER})\s*([a-z]+)", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})\s*({'|'.join(BYTES)})", re.ASCII)


def duration(value: Any) -> float:
    """Seconds meant by `30s`, `10min`, `1h30min` or a plain number; raises ValueError for anything else."""
    if isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        terms = _DURATION_TERM.findall(value)
        return _finite(sum(float(number) * SECONDS[unit] for number, unit in terms), NOT_A_DURATION)
    return _finite(_number(value, NOT_A_DURATION), NOT_A_DURATION)


def size(value: Any) -> int:
    """Bytes meant by `256MiB`, `1GB` or a plain number; raises ValueError for anything else."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(_finite(float(match[1]) * BYTES[match[2]], NOT_A_SIZE))
    number = _finite(_number(value, NOT_A_SIZE), NOT_A_SIZE)
    if number != int(number):
        raise ValueError(NOT_A_SIZE)
    return int(value)


def _number(value: Any, complaint: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(complaint)
    return value


def _finite(value: float, complaint: str) -> float:
    if value < 0 or not math.isfinite(value):
        raise ValueError(complaint)
    return value
