"""What cannot be recorded, or not beside what the pilot trial recorded, and what is said about it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from staffa.experiment.encoding import Encoding
from staffa.experiment.encodings.arrays import Ragged
from staffa.experiment.encodings.frames import Frame, Series
from staffa.experiment.encodings.labels import Category
from staffa.experiment.encodings.sparse import Sparse
from staffa.experiment.encodings.text import Json, Text
from staffa.experiment.encodings.times import Datetime, Timedelta

ROME, DAY = ZoneInfo("Europe/Rome"), datetime.timedelta(days=1)
DEEP: list[Any] = []
DEEP.append(DEEP)


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (lambda: Json().elements({"a": [1.0, float("nan")]}), "has nan at $.a[1], which JSON cannot say: write None"),
        (lambda: Json().elements({1: 2}), "has the key 1 at $, and JSON only knows keys of text: write str(key)"),
        (lambda: Json().elements({"a": (1,)}), "at $.a, which JSON would give back as a list: write list("),
        (lambda: Json().elements([np.ones(2)]), "at $[0], which JSON does not know: record it as an output of its own"),
        (lambda: Json().elements(["\ud800"]), "lone surrogate '\\ud800' at place 0 of a text at $[0]"),
        (lambda: Json().elements(DEEP), "holds itself, or is too deep for JSON"),
        (lambda: Text().elements("a\udfff"), "lone surrogate '\\udfff' at place 1"),
        (lambda: Timedelta().elements(106751992 * DAY), "cannot be counted in microseconds with 64 bits"),
        (lambda: Timedelta().elements(-106751992 * DAY), "cannot be counted in microseconds with 64 bits"),
        (lambda: Timedelta.of(np.timedelta64(3, "D")), "is of timedelta64[D], and times are counted in one of"),
        (lambda: Timedelta.of(np.ones(2, "m8[25s]")), "is of timedelta64[25s], and times are counted in one of"),
        (lambda: Timedelta("numpy", "s").elements(np.timedelta64(1500, "ms")), "is 1500 milliseconds, which cannot be"),
        (lambda: Datetime.of(datetime.datetime(2024, 1, 1, tzinfo=Nameless())), "a time zone that has no name"),
        (
            lambda: Datetime(zone="Europe/Rome").elements(datetime.datetime(2024, 3, 31, 2, 30, tzinfo=ROME)),
            "is 2024-03-31 02:30:00+01:00, which the clocks of Europe/Rome leave out",
        ),
        (lambda: Category(()), "categories: there are none"),
        (lambda: Category(("a", 1)), "has categories ['a', 1]: all are to be text, or all integers"),
        (lambda: Category(("a", "a")), "of which some are the same or NaN"),
        (lambda: Category(("liquid", "ice")).elements("liqid"), "is 'liqid', which is none of its categories; "),
        (lambda: Category((0, 1)).elements(True), "is True, which is none of its categories"),
        (lambda: Ragged.of(np.ones((3, 0))), "has shape (3, 0): only the first axis may be empty"),
        (lambda: Sparse.of(sparse.coo_array(([1j], ([0], [0])), (2, 2))), "has dtype complex128: only numbers"),
        (lambda: Sparse.of(sparse.coo_array(([1.0], ([0],)), (2,))), "with 1 axes: write .tocsr() of a matrix"),
        (lambda: Frame.of(pd.DataFrame({("a", "b"): [1]})), "they are to be there, of one level, each name once"),
        (lambda: Frame.of(pd.DataFrame([[1, 2]], columns=["a", "a"])), "they are to be there, of one level"),
        (lambda: Frame.of(pd.DataFrame({1.5: [1]})), "has a column called 1.5: names are text or integers"),
        (lambda: Frame.of(pd.DataFrame({"z": [1j]})), "has column 'z' of dtype complex128, which cannot be recorded"),
        (lambda: _again(pd.DataFrame({"o": ["text", object()]}, dtype=object)), "has an object in column 'o'"),
    ],
)
def test_what_cannot_be_recorded(attempt: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        attempt()


class Nameless(datetime.tzinfo):
    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(hours=1)


def _again(frame: pd.DataFrame) -> Any:
    own = Frame.of(frame)
    assert own is not None
    return own.column([frame])


@pytest.mark.parametrize(
    ("own", "value", "said"),
    [
        (Text(), 3, "is an int"),
        (Timedelta(), pd.Timedelta(3, "s"), "is a Timedelta"),
        (Datetime(zone="Europe/Rome"), datetime.datetime(2024, 1, 1), "is in time zone none, not Europe/Rome"),
        (Category(("a", "b")), ["a"], "is a list"),
        (Category(("a", "b"), form="array"), "a", "is a str"),
        (Ragged("int64"), np.ones(2), "has dtype float64, the pilot trial's had int64"),
        (Ragged("int64"), "text", "is a str"),
        (Ragged("int64", (2,)), np.ones((3, 4), int), "has shape (3, 4), and only the first axis may be another"),
        (Ragged("string"), np.ones(2), "is an array of float64 [2]"),
        (Sparse("csr_array", "float64"), sparse.csc_array(np.eye(2)), "has name 'csc_array', not 'csr_array'"),
        (Frame.of(pd.DataFrame({"a": [1]})), pd.DataFrame({"a": [1.5]}), "column"),
        (Frame.of(pd.DataFrame({"a": [1]})), pd.Series([1]), "is a Series"),
        (Series.of(pd.Series([1], name="a")), pd.DataFrame({"a": [1]}), "is a DataFrame"),
    ],
)
def test_what_cannot_stand_beside_the_pilot_trials(own: Encoding, value: Any, said: str) -> None:
    assert said in own.misfit(value)


@pytest.mark.parametrize(
    ("own", "value"),
    [
        (Ragged("float64", (2,)), np.ones((0, 2))),
        (Ragged("float64", (2,)), []),
        (Ragged("float64"), np.ones(2, "float32")),
        (Timedelta(), None),
        (Timedelta("pandas", "ns"), pd.NaT),
        (Timedelta(), 106751991 * DAY),
        (Category(("a", "b")), "b"),
        (Frame.of(pd.DataFrame({"a": [1]})), pd.DataFrame({"a": [1, 2, 3]})),
    ],
)
def test_what_can(own: Encoding, value: Any) -> None:
    assert own.misfit(value) == ""
    assert len(own.column([value])) == 1 if not hasattr(own, "elements") else own.elements(value) is not None
