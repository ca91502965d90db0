"""A value of any kind, through a real hot store and a real sealed part, and back."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import staffa
from staffa import rows
from staffa.campaign.plan import Group, Part, Plan
from staffa.execution.prepare import group_layout
from staffa.experiment.batch import unguarded
from staffa.experiment.protocol import Sampling
from staffa.experiment.simulate import Loop, pilot
from staffa.storage.archive import Archive, SealedRows
from staffa.storage.hot import HotStore
from staffa.storage.tables import same_rows
from staffa.trial import Outcome
from staffa.views.arrays import codec
from staffa.views.decoding import numpy_values, pandas_frame, recorded_value

LABELS = ["ice", "liquid water", "", "vapour\0"]


class Given(staffa.Experiment):
    """Records what it was given."""

    vectorize = "off"

    def __init__(self, trials: Sequence[Sequence[Any]], declared: Any) -> None:
        self.trials = trials
        self.encodings = {"x": declared} if declared else {}

    def initialize(self, key, params):
        return 0

    def step(self, key, draw, params):
        return draw + 1, {"x": self.trials[params["n"]][draw]}


@dataclass
class Passage:
    """Values of some trials, each draw by draw, on their way."""

    trials: Sequence[Sequence[Any]]
    declared: Any
    folder: Path

    def __post_init__(self) -> None:
        sampling = Sampling(draws=len(self.trials[0]))
        words = np.zeros((len(self.trials), 4), np.uint32)
        words[:, 3] = range(len(words))
        model = Given(self.trials, self.declared)
        schema = pilot(model, 1, words[0], {"n": 0}, sampling, self.folder)
        params = [{"n": n} for n in range(len(words))]
        self.loop = Loop(model, 1, words, params, sampling, schema, self.folder)
        self.loop.run(range(len(words)), unguarded, lambda: None)
        self.group = Group(
            "g0", "Given", {"use": "Given"}, {}, {"n": "int"}, {}, len(words), len(words), schema.outputs,
            vectorize="off",
        )  # fmt: skip
        part = Part("part-00000", 0, 0, 1)
        self.plan = Plan(
            0, len(words), 0, 1, "", sampling, False, "threefry2x32", "auto", None, "lz4", 1, (("n", "int"),), (),
            (self.group,), (part,),
        )  # fmt: skip
        self.words = words

    def store(self) -> HotStore:
        """A hot store in which the values are committed."""
        layout = group_layout(self.plan, self.group)
        names = [f"{n:032x}" for n in range(len(self.words))]
        columns = {"n": np.arange(len(names)), "replicate": np.zeros(len(names), np.int64)}
        store = HotStore.create(self.folder / "g0.zarr", layout, self.words, names, columns)
        written = store.write("x", 0, 0, self.loop.outputs["x"], self.folder / "scratch")
        data = written.read_bytes() if written.exists() else b""
        store.write("x", 0, 0, self.loop.outputs["x"].copy(), self.folder / "other")
        assert data == (written.read_bytes() if written.exists() else b""), "two writes of the same differ"
        sums = np.array([[store.checksum("x", 0, 0)]], np.uint32)
        store.commit(0, self.loop.outcomes, sums, np.zeros(len(names), np.float32))
        return HotStore.open(store.path)

    def sealed(self, store: HotStore) -> tuple[pa.Table, pa.Table]:
        """The rows as they are made of the hot store, and as they stand in a sealed part."""
        plan = Plan.loads(self.plan.dumps())
        layout = rows.archive_layout(plan)
        pieces = [rows.read(store, plan.groups[0], 0, 0)]
        made = rows.tables(layout, pieces)
        trials = rows.warm(layout, rows.summary(layout, pieces[0]), made[rows.TRIALS], rows.Tries())
        Archive(self.folder / "archive", layout).seal("part-00000", {}, {"draws": [made["draws"]]}, trials)
        path = self.folder / "archive" / "draws" / "part-00000.parquet"
        return made["draws"], pq.read_table(path, schema=layout.draws())

    def check(self, same: Callable[[Any, Any], bool]) -> None:
        assert set(self.loop.outcomes) <= {Outcome.OK, Outcome.NAN}, self.loop.messages
        store = self.store()
        made, read = self.sealed(store)
        pruning = SealedRows(self.folder / "archive", "draws", "part-00000", {})
        assert same_rows(made, read) and same_rows(made, pruning.of(store.digests(0)))
        own, draws = codec(store.layout.arrays[0]), len(self.trials[0])
        shape = (len(self.trials), draws, *self.group.outputs[0].shape)
        for table in (made, read):
            whole = table["x"].combine_chunks()
            values = own.of_column(whole.flatten() if self.group.outputs[0].shape else whole).reshape(shape)
            for trial, recorded in enumerate(self.trials):
                found = recorded_value(own.encoding, values[trial], True, False)
                for one, two in zip(recorded, found, strict=True):
                    assert type(one) is type(two) and same(one, two), (one, two)
        frames = [pandas_frame(table)["x"] for table in (made, read)]
        assert all(map(same_or_missing, frames[0], frames[1]))
        assert len(numpy_values(read["x"], read.schema.field("x"))) == len(read)


def same_or_missing(one: Any, two: Any) -> bool:
    return repr(one) == repr(two)


def passage(trials: Sequence[Sequence[Any]], declared: Any, same: Callable[[Any, Any], bool]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Passage(trials, declared, Path(folder)).check(same)


def drawn(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Of two or three trials the values of two draws; the first of all is there."""
    return st.tuples(values.filter(lambda one: one is not None), values, *[values] * 4).map(
        lambda six: [six[:2], six[2:4], six[4:]]
    )


def equal(one: Any, two: Any) -> bool:
    return bool(one == two)


def bits(one: Any, two: Any) -> bool:
    """Arrays of one type, bit by bit."""
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def elements(one: Any, two: Any) -> bool:
    """Arrays of text, however wide, or of numbers."""
    if one.dtype.kind not in "UO":
        return bits(one, two)
    return one.shape == two.shape and one.dtype.kind == two.dtype.kind and one.tolist() == two.tolist()


def as_json(one: Any, two: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


def stamps(one: Any, two: Any) -> bool:
    if one is pd.NaT:
        return two is pd.NaT
    return one == two and one.tz == two.tz and one.unit == two.unit


def moments(one: Any, two: Any) -> bool:
    return one == two and getattr(one, "tzinfo", None) == getattr(two, "tzinfo", None)


def frames(one: Any, two: Any) -> bool:
    kind = pd.testing.assert_frame_equal if isinstance(one, pd.DataFrame) else pd.testing.assert_series_equal
    kind(one, two, check_exact=True, check_index_type="equiv", check_freq=False)
    return True


def categoricals(one: Any, two: Any) -> bool:
    return one.dtype == two.dtype and one.codes.tolist() == two.codes.tolist()


def matrices(one: Any, two: Any) -> bool:
    own = one.copy()
    own.sum_duplicates()
    apart = own.tocoo(), two.tocoo()
    places = [(m.shape, m.row.tolist(), m.col.tolist(), m.dtype) for m in apart]
    return one.format == two.format and places[0] == places[1] and bits(apart[0].data, apart[1].data)


TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CHOICES = st.lists(st.none() | st.sampled_from([3, 1, 2]), max_size=4)
SECONDS = st.integers(-(2**40), 2**40).map(lambda one: np.datetime64(one, "s"))
ZONES = st.sampled_from(["UTC", "Europe/Rome", "America/St_Johns", "+05:30", "-11:00", ""])
LENGTHS = st.timedeltas(datetime.timedelta(days=-106751990), datetime.timedelta(days=106751990))
LOCAL = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2250, 1, 1))


@st.composite
def datetimes(draw: Any, stamp: bool = False) -> Any:
    """Six of one zone."""
    from staffa.experiment.encodings.times import zone_of

    name = draw(ZONES)
    zone = zone_of(name) if name else None
    naive = [draw(LOCAL) for _ in range(6)]
    if stamp:
        found = [pd.Timestamp(one, tz="UTC").as_unit("ns") + pd.Timedelta(draw(st.integers(0, 999))) for one in naive]
        whole = [one.tz_convert(zone) if zone else one.tz_localize(None) for one in found]
        missing: Any = pd.NaT
    else:
        own = [one.replace(tzinfo=datetime.UTC).astimezone(zone) if zone else one for one in naive]
        whole, missing = own, None
    return [whole[:2], whole[2:4], [whole[4], draw(st.sampled_from([whole[5], missing]))]]


@st.composite
def tables(draw: Any, series: bool = False) -> Any:
    """Six frames of the same columns and index."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "float64": st.floats(), "float32": st.floats(width=32), "int8": st.integers(-128, 127),
        "uint64": st.integers(0, 2**64 - 1), "bool": st.booleans(), "str": st.none() | TEXT, "object": st.none() | TEXT,
        "Int16": st.none() | st.integers(-(2**15), 2**15 - 1), "boolean": st.none() | st.booleans(),
        "string": st.none() | TEXT, "datetime64[s]": st.none() | SECONDS,
        "datetime64[ns, Europe/Rome]": st.none() | LOCAL,
        "timedelta64[s]": st.none() | st.integers(-9, 9),
        "category": st.none() | st.sampled_from(LABELS),
    }  # fmt: skip
    labels = draw(st.lists(TEXT | st.integers(-5, 5), min_size=1, max_size=1 if series else 4, unique=True))
    index = draw(st.lists(st.sampled_from([*kinds][2:]), max_size=2))
    chosen = [draw(st.sampled_from([*kinds])) for _ in labels]

    def cells(kind: str, size: int) -> Any:
        own = [draw(kinds[kind]) for _ in range(size)]
        if kind == "category":
            return pd.Categorical(own, categories=LABELS, ordered=True)
        if kind.startswith("datetime64[ns"):
            return pd.to_datetime(pd.Series(own, dtype="datetime64[us]")).dt.tz_localize("UTC").astype(kind)
        if kind == "datetime64[s]":
            return pd.Series(np.array([np.datetime64("NaT", "s") if one is None else one for one in own], "M8[s]"))
        if kind == "timedelta64[s]":
            return pd.Series(np.array(["NaT" if one is None else one for one in own], "m8[s]"))
        return pd.Series(own, dtype=kind)

    found = []
    for _ in range(6):
        size = draw(st.integers(0, 3))
        levels = [pd.Index(cells(kind, size)) for kind in index]
        rows = pd.RangeIndex(size)
        if levels:
            rows = levels[0].rename("k") if len(levels) == 1 else pd.MultiIndex.from_arrays(levels, names=["k", None])
        columns = {n: pd.Series(cells(kind, size)).set_axis(rows) for n, kind in enumerate(chosen)}
        frame = pd.DataFrame(columns, index=rows)
        frame.columns = pd.Index(labels, name=draw(st.just("axis")))
        found.append(frame.iloc[:, 0] if series else frame)
    found.sort(key=len, reverse=True)  # the first tells the types
    return [found[:2], found[2:4], found[4:]]


@st.composite
def arrays(draw: Any) -> Any:
    """Six arrays of one type, of any length."""
    dtype = draw(st.sampled_from(["float64", "float16", "int32", "uint8", "bool", "U3", "M8[s]", "m8[ns]"]))
    own = draw(st.sampled_from([(), (2,), (1, 3)]))
    elements = SECONDS if dtype == "M8[s]" else None
    return [
        [draw(hnp.arrays(dtype, (draw(st.integers(0, 3)), *own), elements=elements)) for _ in range(2)]
        for _ in range(3)
    ]


@st.composite
def sparse(draw: Any) -> Any:
    name = draw(st.sampled_from(["csr_array", "csc_array", "coo_array", "csr_matrix", "csc_matrix", "coo_matrix"]))
    dtype = draw(st.sampled_from(["float64", "float32", "int16", "bool"]))

    def one() -> Any:
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        size = draw(st.integers(0, 5))
        places = [draw(hnp.arrays("int32", size, elements=st.integers(0, side - 1))) for side in shape]
        values = draw(hnp.arrays(dtype, size, elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False)))
        coo = scipy.sparse.coo_array((values, tuple(places)), shape=shape)
        return getattr(scipy.sparse, name)(coo)

    return [[one(), one()], [one(), one()], [one(), one()]]


CASES: dict[str, tuple[st.SearchStrategy[Any], Any, Callable[[Any, Any], bool]]] = {
    "text": (drawn(st.none() | TEXT), None, equal),
    "text arrays": (drawn(hnp.arrays("U4", 3)), None, elements),
    "objects of text": (drawn(hnp.arrays(object, (2, 2), elements=TEXT)), None, elements),
    "json": (drawn(st.none() | JSON), "json", as_json),
    "lists": (drawn(st.lists(st.none() | TEXT, min_size=1, max_size=4)), None, as_json),
    "bools": (drawn(st.booleans().map(np.bool_)), None, equal),
    "numbers": (drawn(hnp.arrays("int64", 2)), None, bits),
    "datetime": (datetimes(), None, moments),
    "timestamp": (datetimes(stamp=True), None, stamps),
    "date": (drawn(st.none() | st.dates()), None, equal),
    "datetime64": (drawn(hnp.arrays("M8[us]", (2,))), None, bits),
    "seconds": (drawn(hnp.arrays("M8[s]", (2,), elements=SECONDS)), None, bits),
    "timedelta": (drawn(st.none() | LENGTHS), None, equal),
    "category": (
        drawn(st.none() | st.sampled_from(LABELS)), {"use": "category", "categories": LABELS, "ordered": True}, equal
    ),
    "categorical": (drawn(CHOICES.map(lambda one: pd.Categorical(one, [3, 1, 2]))), None, categoricals),
    "ragged": (arrays(), "ragged", elements),
    "frame": (tables(), None, frames),
    "series": (tables(series=True), None, frames),
    "sparse": (sparse(), None, matrices),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(CASES))
def test_values_come_back_as_they_were(kind: str) -> None:
    values, declared, same = CASES[kind]

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(values)
    def check(trials: Any) -> None:
        passage(trials, declared, same)

    check()
