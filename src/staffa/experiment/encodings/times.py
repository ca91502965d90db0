"""Points in time, and lengths of it: Python's, NumPy's and pandas'."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.experiment.encoding import Elements, described, objects

Row = npt.NDArray[Any]
UNITS = ("s", "ms", "us", "ns")
OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


@dataclass(frozen=True)
class Datetime(Elements):
    """A point in time, or an array of them: `datetime`, `date`, `pandas.Timestamp`, `numpy.datetime64`.

    Arguments:
    - `form`: what comes back: `datetime`, `date`, `pandas`, `numpy`.
    - `unit`: what it is counted in: `D`, `s`, `ms`, `us` or `ns`. Finer values are refused, not rounded.
    - `zone`: its time zone, the same for all values; empty for none.
    """

    form: str = "datetime"
    unit: str = "us"
    zone: str = ""

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return f"datetime64[{self.unit}]"

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        return moment_type(self.unit, self.zone)

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if type(value) is datetime.datetime:
            return cls("datetime", "us", zone_name(value.tzinfo))
        if type(value) is datetime.date:
            return cls("date", "D")
        if _is_pandas(value, "Timestamp"):
            return cls("pandas", value.unit, zone_name(value.tzinfo))
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "M":
            return cls("numpy", _unit(value, ("D", *UNITS)))
        return None

    def misfit(self, value: Any) -> str:
        if _is_missing(value):
            return ""
        found = self.of(value)
        if found is None or found.form != self.form:
            return f"is {described(value)}"
        if found.zone != self.zone:
            return f"is in time zone {found.zone or 'none'}, not {self.zone or 'none'}"
        return ""

    def elements(self, value: Any) -> Row:
        if _is_missing(value):
            return np.array("NaT", self.dtype)
        if self.form == "datetime" and value.tzinfo is not None:
            value = _utc(value)
        if self.form == "pandas":
            value = (value if value.tzinfo is None else value.tz_convert("UTC").tz_localize(None)).to_datetime64()
        return exact(np.asarray(value, None if self.form in ("numpy", "pandas") else self.dtype), self.dtype)

    def array(self, column: pa.Array) -> Row:
        elements = _elements(column).astype(self.dtype)
        return objects([self._one(one) for one in elements]) if self.zone or self.form == "date" else elements

    def series(self, column: pa.Array) -> Any:
        return column.to_pandas()

    def value(self, elements: Row) -> Any:
        if elements.dtype == object or elements.shape:
            return elements if elements.shape else elements[()]
        return self._one(elements[()])

    def _one(self, element: Any) -> Any:
        if self.form == "numpy":
            return element
        if self.form == "pandas":
            import pandas

            stamp = pandas.Timestamp(element)
            return stamp.tz_localize("UTC").tz_convert(self.zone) if self.zone and not np.isnat(element) else stamp
        if np.isnat(element):
            return None
        found = element.item()
        return found.replace(tzinfo=datetime.UTC).astimezone(zone_of(self.zone)) if self.zone else found


@dataclass(frozen=True)
class Timedelta(Elements):
    """A length of time, or an array of them: `timedelta`, `pandas.Timedelta`, `numpy.timedelta64`.

    Arguments:
    - `form`: what comes back: `timedelta`, `pandas`, `numpy`.
    - `unit`: what it is counted in: `s`, `ms`, `us` or `ns`. Finer values are refused, not rounded.
    """

    form: str = "timedelta"
    unit: str = "us"

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return f"timedelta64[{self.unit}]"

    @property
    def type(self) -> pa.DataType:  # type: ignore[override]
        return pa.duration(self.unit)

    @classmethod
    def of(cls, value: Any) -> Self | None:
        if type(value) is datetime.timedelta:
            return cls()
        if _is_pandas(value, "Timedelta"):
            return cls("pandas", value.unit)
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "m":
            return cls("numpy", _unit(value, UNITS))
        return None

    def misfit(self, value: Any) -> str:
        found = self.of(value)
        fits = _is_missing(value) or (found is not None and found.form == self.form)
        return "" if fits else f"is {described(value)}"

    def elements(self, value: Any) -> Row:
        if _is_missing(value):
            return np.array("NaT", self.dtype)
        if self.form == "timedelta":
            # NumPy lets a `timedelta` of more than 64 bits wrap around without a word.
            microseconds = value // datetime.timedelta(microseconds=1)
            if abs(microseconds) >= 2**63:
                raise ValueError(f"is {value}, which cannot be counted in microseconds with 64 bits")
            return exact(np.asarray(microseconds, "i8").astype("timedelta64[us]"), self.dtype)
        own = value.to_timedelta64() if self.form == "pandas" else value
        return exact(np.asarray(own), self.dtype)

    def array(self, column: pa.Array) -> Row:
        return _elements(column)

    def series(self, column: pa.Array) -> Any:
        return column.to_pandas()

    def value(self, elements: Row) -> Any:
        if elements.shape or self.form == "numpy":
            return elements if elements.shape else elements[()]
        if self.form == "pandas":
            import pandas

            return pandas.Timedelta(elements[()])
        return elements[()].item()


def moment_type(unit: str, zone: str = "") -> pa.DataType:
    """The Arrow type of points in time; Parquet knows no whole seconds."""
    return pa.date32() if unit == "D" else pa.timestamp("ms" if unit == "s" else unit, zone or None)


def exact(times: Row, dtype: str) -> Row:
    """Times in another unit.

    Raises `ValueError` where that would round them.
    """
    with np.errstate(over="ignore"):
        found = times.astype(dtype)
        same = (found.astype(times.dtype) == times) | np.isnat(times)
    if not same.all():
        one = times[~same].reshape(-1)[0] if times.shape else times[()]
        raise ValueError(f"is {one}, which cannot be counted in {np.datetime_data(dtype)[0]}, as the pilot trial's was")
    return found


def zone_name(zone: datetime.tzinfo | None) -> str:
    """What a time zone is called by those who read it: `Europe/Rome`, `UTC`, `+02:00`; empty for none.

    Raises `ValueError` for one without such a name.
    """
    if zone is None:
        return ""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(zone, datetime.timezone):
        offset = zone.utcoffset(None).total_seconds()
        minutes = abs(int(offset)) // 60
        name = f"{'-' if offset < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}" if not offset % 60 else None
        name = "UTC" if zone is datetime.UTC else name
    if not name:
        raise ValueError(
            f"is in a time zone that has no name, {zone!r}: use zoneinfo.ZoneInfo, or an offset in minutes"
        )
    return str(name)


def zone_of(name: str) -> datetime.tzinfo:
    """The time zone of a name."""
    if name == "UTC":
        return datetime.UTC
    if found := OFFSET.fullmatch(name):
        minutes = int(found[2]) * 60 + int(found[3])
        return datetime.timezone(datetime.timedelta(minutes=-minutes if found[1] == "-" else minutes))
    return ZoneInfo(name)


def _utc(value: datetime.datetime) -> datetime.datetime:
    """Without a zone. Raises `ValueError` for a time that would not come back."""
    try:
        found = value.astimezone(datetime.UTC)
    except OverflowError:
        raise ValueError(f"is {value}, which is no year of UTC") from None
    if found.astimezone(value.tzinfo).replace(tzinfo=None) != value.replace(tzinfo=None):
        raise ValueError(f"is {value}, which the clocks of {zone_name(value.tzinfo)} leave out")
    return found.replace(tzinfo=None)


def _elements(column: pa.Array) -> Row:
    if pa.types.is_date(column.type):
        return np.asarray(column.cast(pa.int32()).cast(pa.int64()).fill_null(np.iinfo(np.int64).min)).view("M8[D]")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _is_pandas(value: Any, name: str) -> bool:
    return type(value).__name__ == name and type(value).__module__.startswith("pandas")


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NaTType"


def _unit(value: Any, known: tuple[str, ...]) -> str:
    unit = np.datetime_data(value.dtype)[0]
    if unit not in known or np.datetime_data(value.dtype)[1] != 1:
        raise ValueError(f"is of {value.dtype}, and times are counted in one of {', '.join(known)}: write .astype(…)")
    return unit
