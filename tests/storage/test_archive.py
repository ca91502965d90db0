"""The archive: the same bytes twice, one schema, and any reader gets what was recorded."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from staffa.errors import ConfigError
from staffa.storage import archive as archive_module
from staffa.storage.archive import (
    Archive,
    SealedPart,
    check_partition_text,
    partition_path,
    partition_text,
    sealed_trials,
)
from staffa.storage.layouts import ArrayLayout
from staffa.storage.tables import (
    ArchiveLayout,
    Block,
    block_moments,
    digest_column,
    draw_table,
    item_table,
    moments,
    trial_table,
)
from staffa.trial import Outcome

X = ArrayLayout("x", "float32", (2, 3), ("row", "column"))
SPIN = ArrayLayout("spin", "int16", (), (), chains=2)
COUNT = ArrayLayout("count", "int32", (), ())
MASS = ArrayLayout("galaxies.mass", "float64", (4,), ("galaxy",), 0, "galaxies", "count")
PLACE = ArrayLayout("galaxies.place", "float32", (4, 3), ("galaxy", "axis"), 0, "galaxies", "count")
FLAG = ArrayLayout("flag", "bool", (), ())
"""Of the other group only."""

PARAMETERS = (("scale", "float"), ("size", "int"), ("on", "bool"), ("word", "str"))


def block_of(
    *layouts: ArrayLayout, rows: int = 3, draws: int | None = 5, seed: int = 1, first: int = 0,
    sampler: str = "walk", parameters: Mapping[str, Any] | None = None,
) -> Block:  # fmt: skip
    random = np.random.default_rng(seed)
    outputs = {}
    for layout in layouts:
        chains = (layout.chains,) if layout.chains else ()
        shape = (rows, *chains, *(() if draws is None else (draws,)), *layout.shape)
        values = random.normal(size=shape) * 5 if "float" in layout.dtype else random.integers(0, 5, shape)
        outputs[layout.name] = values.astype(layout.dtype)
    given = {
        "scale": np.linspace(0.5, 1, rows), "size": np.arange(rows), "on": np.arange(rows) % 2 == 0,
        "word": np.array(["a b", "ü", ""] * rows, dtype=object)[:rows],
    }  # fmt: skip
    return Block(
        [f"{first + row:032x}" for row in range(rows)], np.arange(rows), sampler,
        given if parameters is None else parameters, np.full(rows, Outcome.OK, np.uint8),
        np.full(rows, 0.25, np.float32), outputs, {layout.name: layout for layout in layouts}, draws,
    )  # fmt: skip


LAYOUT = ArchiveLayout(PARAMETERS, (X, SPIN, COUNT, MASS, PLACE, FLAG), ("sampler",))
HERE = (X, SPIN, COUNT, MASS, PLACE)


def sealed(archive: Archive, part: str, blocks: list[Block], partition: Mapping[str, Any]) -> SealedPart:
    layout = archive.layout
    tables = {"draws": [draw_table(block, layout) for block in blocks]}
    tables |= {name: [item_table(block, layout, name) for block in blocks] for name in layout.tables}
    warm = [
        trial_table(b, block_moments(b, layout), layout, np.ones(b.rows, np.int64), ["node"] * b.rows) for b in blocks
    ]
    return archive.seal(part, partition, tables, pa.concat_tables(warm))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- sealing


def test_sealing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two", "two"):
        archive = Archive(tmp_path / name, LAYOUT)
        part = sealed(archive, "part-00003", [block_of(*HERE), block_of(*HERE, first=3, seed=2)], {"sampler": "walk"})
        found.append((part, [(archive.path / name).read_bytes() for name in files(archive.path)]))
        assert files(archive.path) == [
            "draws/sampler=walk/part-00003.parquet",
            "galaxies/sampler=walk/part-00003.parquet",
            "trials/part-00003.parquet",
        ]
    assert found[0] == found[1] == found[2]
    part = found[0][0]
    assert part.trials == 6 and part.rows == 6 * 2 * 5
    assert part.size == sum(len(data) for data in found[0][1])
    # One row group a batch: readers skip batches by their statistics.
    metadata = pq.read_metadata(tmp_path / "one" / "draws" / "sampler=walk" / "part-00003.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [30, 30]


def test_the_trials_file_makes_the_part_visible_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    rename = Path.rename

    def spy(self: Path, target: Path) -> Path:
        order.append(target.relative_to(tmp_path).parts[0])
        assert pq.read_metadata(self).num_rows >= 0  # complete before it is there
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", spy)
    sealed(Archive(tmp_path, LAYOUT), "part-00000", [block_of(*HERE)], {"sampler": "walk"})
    assert order == ["draws", "galaxies", "trials"]


def test_a_seal_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, block = Archive(tmp_path, LAYOUT), block_of(*HERE)
    draws = draw_table(block, LAYOUT)
    with pytest.raises(ValueError, match="schema"):  # the second table does not fit
        archive.seal("part-00000", {"sampler": "walk"}, {"draws": [draws], "galaxies": [draws]}, draws)
    assert files(tmp_path) == []

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(archive_module.os, "fsync", full)
        sealed(archive, "part-00000", [block], {"sampler": "walk"})
    assert files(tmp_path) == []
    sealed(archive, "part-00000", [block], {"sampler": "walk"})
    assert len(files(tmp_path)) == 3


def test_the_manifest_lists_what_stands(tmp_path: Path) -> None:
    archive = Archive(tmp_path, LAYOUT)
    assert archive.manifest() == {"manifest": 1, "parts": {}}
    for number in (2, 0, 1):
        archive.enter(sealed(archive, f"part-0000{number}", [block_of(*HERE, first=10 * number)], {"sampler": "walk"}))
    manifest = archive.manifest()
    assert list(manifest["parts"]) == ["part-00000", "part-00001", "part-00002"]
    for entry in manifest["parts"].values():
        assert entry["trials"] == 3
        for file in entry["files"]:
            data = (tmp_path / file["path"]).read_bytes()
            assert file["bytes"] == len(data) and file["rows"] == pq.read_metadata(tmp_path / file["path"]).num_rows
            assert file["sha256"] == archive_module.hashlib.sha256(data).hexdigest()
    assert [name for name, _ in sealed_trials(tmp_path)] == list(manifest["parts"])
    assert dict(sealed_trials(tmp_path))["part-00001"] == [f"{10 + n:032x}" for n in range(3)]


# ---- rows


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4), chains=st.integers(0, 3), draws=st.sampled_from([None, 1, 3]),
    shape=st.lists(st.integers(1, 3), max_size=2).map(tuple),
)  # fmt: skip
def test_draws_are_one_row_per_trial_chain_and_draw(
    rows: int, chains: int, draws: int | None, shape: tuple[int, ...]
) -> None:
    chained = ArrayLayout("y", "float32", shape, tuple("abc"[: len(shape)]), chains)
    layout = ArchiveLayout(PARAMETERS, (chained, COUNT, FLAG))
    block = block_of(chained, COUNT, rows=rows, draws=draws)
    table = draw_table(block, layout).to_pylist()
    expected = [
        (trial, chain, draw) for trial in range(rows) for chain in range(chains or 1) for draw in range(draws or 1)
    ]
    assert [(int(row["trial"], 16), row["chain"], row["draw"]) for row in table] == expected
    for row, (trial, chain, draw) in zip(table, expected, strict=True):
        place = (trial, *((chain,) if chains else ()), *(() if draws is None else (draw,)))
        value = block.outputs["y"][place]
        assert row["y"] == (value.reshape(-1).tolist() if shape else value.item())
        assert row["count"] == block.outputs["count"][(trial, *(() if draws is None else (draw,)))]
        assert row["flag"] is None and row["replicate"] == trial
        assert (row["scale"], row["size"]) == (block.parameters["scale"][trial], trial)
        assert row["word"] == block.parameters["word"][trial] and row["sampler"] == "walk"


def test_arrays_are_lists_of_any_length_with_their_shape_beside(tmp_path: Path) -> None:
    sealed(Archive(tmp_path, LAYOUT), "part-00000", [block_of(*HERE)], {"sampler": "walk"})
    schema = pq.read_schema(tmp_path / "draws" / "sampler=walk" / "part-00000.parquet")
    field = schema.field("x")
    assert pa.types.is_list(field.type) and not pa.types.is_fixed_size_list(field.type)
    assert json.loads(field.metadata[b"shape"]) == [2, 3]
    assert json.loads(field.metadata[b"dims"]) == ["row", "column"]
    items = pq.read_schema(tmp_path / "galaxies" / "sampler=walk" / "part-00000.parquet")
    assert items.field("galaxies.mass").type == pa.float64()
    assert json.loads(items.field("galaxies.place").metadata[b"shape"]) == [3]
    assert json.loads(items.field("galaxies.place").metadata[b"dims"]) == ["axis"]


def test_groups_of_other_shapes_stand_in_one_column_that_claims_neither() -> None:
    small, large = (ArrayLayout("x", "float32", (rows, 3), ("row", "column")) for rows in (1, 4))
    layout = ArchiveLayout(PARAMETERS, (ArrayLayout("x", "float32", (0, 3), ("row", "column")),))
    for one in (small, large):
        block = block_of(one, rows=2)
        table = draw_table(block, layout)
        assert table["x"].to_pylist()[7] == block.outputs["x"][1, 2].reshape(-1).tolist()
        assert json.loads(table.schema.field("x").metadata[b"shape"]) == [None, 3]
        warm = trial_table(block, block_moments(block, layout), layout, np.ones(2, np.int64), ["", ""])
        assert len(warm["x.mean"][0].as_py()) == len(table["x"][0].as_py())
        assert json.loads(warm.schema.field("x.mean").metadata[b"shape"]) == [None, 3]


def test_ragged_outputs_have_a_table_of_their_own() -> None:
    block = block_of(*HERE, rows=2, draws=3)
    counts = np.array([[0, 1, 4], [2, 0, 99]])  # 99: more than the padding holds
    block.outputs["count"] = counts.astype("int32")
    table = item_table(block, LAYOUT, "galaxies").to_pylist()
    expected = [
        (trial, chain, draw, item)
        for trial in range(2) for chain in range(2) for draw in range(3) for item in range(min(counts[trial, draw], 4))
    ]  # fmt: skip
    assert [(int(row["trial"], 16), row["chain"], row["draw"], row["item"]) for row in table] == expected
    for row, (trial, _, draw, item) in zip(table, expected, strict=True):
        assert row["galaxies.mass"] == block.outputs["galaxies.mass"][trial, draw, item]
        assert row["galaxies.place"] == block.outputs["galaxies.place"][trial, draw, item].tolist()
        assert row["word"] == block.parameters["word"][trial]
    # Ragged outputs stand nowhere else.
    assert "galaxies.mass" not in LAYOUT.draws().names and "count" in LAYOUT.draws().names
    assert not [name for name in LAYOUT.trials().names if name.startswith("galaxies")]
    block.outputs["count"][:] = 0
    assert item_table(block, LAYOUT, "galaxies").num_rows == 0
    assert item_table(block_of(COUNT), LAYOUT, "galaxies").schema == LAYOUT.items("galaxies")


def test_a_row_of_trials_sums_a_trial_up() -> None:
    block = block_of(*HERE)
    block.outcomes[1] = Outcome.NAN
    table = trial_table(block, block_moments(block, LAYOUT), LAYOUT, np.array([1, 2, 3]), list("abc"))
    assert table.schema.equals(LAYOUT.trials(), check_metadata=True)
    rows = table.to_pylist()
    assert [row["outcome"] for row in rows] == ["ok", "nan", "ok"] and [row["attempts"] for row in rows] == [1, 2, 3]
    for trial, row in enumerate(rows):
        spin, x = block.outputs["spin"][trial].astype(float), block.outputs["x"][trial].astype(float)
        assert row["spin.count"] == 10 and row["x.count"] == 5
        assert row["spin.mean"] == pytest.approx(spin.mean()) and row["spin.sd"] == pytest.approx(spin.std(ddof=1))
        assert (row["spin.min"], row["spin.max"]) == (spin.min(), spin.max())
        assert row["x.mean"] == pytest.approx(x.mean(axis=0).reshape(-1).tolist())
        assert row["x.sd"] == pytest.approx(x.std(axis=0, ddof=1).reshape(-1).tolist())
        assert row["flag.mean"] is None and row["seconds"] == 0.25


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_digests_are_repeated_as_text(repeats: list[int]) -> None:
    digests = [f"{n:032x}" for n in range(len(repeats))]
    column = digest_column(digests, np.array(repeats))
    column.validate(full=True)
    assert column.to_pylist() == [text for text, n in zip(digests, repeats, strict=True) for _ in range(n)]
    assert digest_column([], np.array([], int)).to_pylist() == []


# ---- moments


def reference(values: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
    wide = values.astype(np.longdouble)
    return wide.mean(axis=axes), wide.std(axis=axes, ddof=1), wide.min(axis=axes), wide.max(axis=axes)


def close(found: Any, values: Any, axes: tuple[int, ...], rtol: float = 1e-6) -> None:
    mean, sd, low, high = reference(values, axes)
    np.testing.assert_allclose(found.mean, mean.astype(float), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(np.sqrt(found.squares / (found.count - 1)), sd.astype(float), rtol=rtol, atol=1e-12)
    np.testing.assert_array_equal(found.low, low.astype(float))
    np.testing.assert_array_equal(found.high, high.astype(float))


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e6])
@pytest.mark.parametrize("spread", [1e-2, 1.0, 1e5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_moments_are_exact_whatever_the_offset(offset: float, spread: float, dtype: str) -> None:
    """A deviation of 1e-2 around 1e4 is ten roundings of float32 wide: sums must not lose it."""
    values = (offset + spread * np.random.default_rng(3).normal(size=(4, 2, 1000, 3))).astype(dtype)
    found = moments(values, (1, 2))
    assert found.count == 2000 and found.mean.shape == (4, 3)
    close(found, values, (1, 2))


@settings(max_examples=60, deadline=None)
@given(
    offset=st.floats(-1e6, 1e6), spread=st.floats(1e-3, 1e6), cuts=st.lists(st.integers(1, 99), max_size=4),
    chained=st.booleans(), dtype=st.sampled_from(["float32", "float64", "float16", "int32", "bool", "uint8"]),
)  # fmt: skip
def test_segments_merge_to_what_one_pass_gives(
    offset: float, spread: float, cuts: list[int], chained: bool, dtype: str
) -> None:
    shape = (3, *((2,) if chained else ()), 100, 2)
    values = np.random.default_rng(5).normal(size=shape)
    values = np.clip(offset + spread * values, *((-6e4, 6e4) if dtype == "float16" else (-2e9, 2e9)))
    values = (values > 0) if dtype == "bool" else values.astype("int64" if dtype == "uint8" else dtype).astype(dtype)
    axis = 2 if chained else 1
    axes = tuple(range(1, axis + 1))
    whole = moments(values, axes)
    pieces = [moments(piece, axes) for piece in np.split(values, sorted(set(cuts)), axis=axis)]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    assert merged.count == whole.count
    scale = np.abs(whole.mean).max() + 1e-300
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-14 * scale)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-8, atol=1e-16 * scale**2 * whole.count)
    np.testing.assert_array_equal(merged.low, whole.low)
    np.testing.assert_array_equal(merged.high, whole.high)
    close(whole, values, axes)


def test_moments_of_what_is_not_finite_say_so_without_a_warning() -> None:
    values = np.ones((3, 4), "float32")
    values[1, 2], values[2, 2] = np.inf, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = moments(values, (1,))
        merged = found.merge(found)
    for one in (found, merged):
        assert one.mean[:2].tolist() == [1, np.inf] and np.isnan(one.mean[2])
        assert one.squares[0] == 0 and np.isnan(one.squares[1:]).all()
        assert one.high[:2].tolist() == [1, np.inf] and one.low[:2].tolist() == [1, 1] and np.isnan(one.low[2])


# ---- any reader: a mixed archive


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups: other outputs, other parameters, another sampler, a null in the partition."""
    path = tmp_path_factory.mktemp("archive")
    layout = ArchiveLayout((*PARAMETERS, ("rate", "float")), (X, SPIN, COUNT, MASS, PLACE, FLAG), ("sampler", "rate"))
    archive = Archive(path, layout)
    sealed(archive, "part-00000", [block_of(*HERE)], {"sampler": "model.py:Walk/é ü", "rate": 1.0})
    rest = block_of(COUNT, FLAG, rows=2, draws=None, first=50, sampler="smc", parameters={"size": np.array([7, 8])})
    sealed(archive, "part-00001", [rest], {"sampler": "smc", "rate": None})
    return path


def test_every_file_has_the_whole_schema(mixed: Path) -> None:
    for table in ("draws", "galaxies", "trials"):
        schemas = [pq.read_schema(file) for file in sorted((mixed / table).rglob("*.parquet"))]
        assert len(schemas) == 2 and schemas[0].equals(schemas[1], check_metadata=True)
    names = pq.read_schema(next((mixed / "draws").rglob("*.parquet"))).names
    assert names == ["trial", "replicate", "chain", "draw", "scale", "size", "on", "word", "x", "spin", "count", "flag"]
    assert {"sampler", "rate"} <= set(pq.read_schema(next((mixed / "trials").rglob("*.parquet"))).names)


TYPES: dict[str, Any] = {
    "duckdb": "{'sampler': 'VARCHAR', 'rate': 'DOUBLE'}",
    "polars": {"sampler": polars.String, "rate": polars.Float64},
    "pyarrow": pa.schema([("sampler", pa.string()), ("rate", pa.float64())]),
}


def read_by(reader: str, folder: Path) -> Any:
    if reader == "duckdb":
        source = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true, hive_types = {TYPES['duckdb']})"
        return duckdb.sql(f"select * from {source}").to_arrow_table()
    if reader == "polars":
        return polars.scan_parquet(folder, hive_schema=TYPES["polars"]).collect().to_arrow()
    partitioning = ds.partitioning(TYPES["pyarrow"], flavor="hive")
    if reader == "pyarrow":
        return ds.dataset(folder, partitioning=partitioning).to_table()
    return pa.Table.from_pandas(pandas.read_parquet(folder, partitioning=partitioning), preserve_index=False)


@pytest.mark.parametrize("reader", ["duckdb", "polars", "pyarrow", "pandas"])
def test_a_mixed_archive_is_read_with_no_knowledge_of_staffa(mixed: Path, reader: str) -> None:
    rows = sorted(read_by(reader, mixed / "draws").to_pylist(), key=lambda r: (r["trial"], r["chain"], r["draw"]))
    assert len(rows) == 3 * 2 * 5 + 2
    first, last, block = rows[7], rows[-1], block_of(*HERE)

    def null(value: Any) -> bool:
        return value is None or value != value  # pandas has no other null in a column of numbers

    assert (first["chain"], first["draw"], first["sampler"], first["rate"]) == (1, 2, "model.py:Walk/é ü", 1.0)
    assert first["scale"] == 0.5 and first["size"] == 0 and first["on"] is True and first["word"] == "a b"
    assert first["x"] == block.outputs["x"][0, 2].reshape(-1).tolist()
    assert first["spin"] == block.outputs["spin"][0, 1, 2] and null(first["flag"])
    assert last["sampler"] == "smc" and null(last["rate"]) and last["size"] == 8 and last["draw"] == 0
    assert all(null(last[name]) for name in ("x", "spin", "scale", "on", "word"))
    assert read_by(reader, mixed / "galaxies").num_rows == int(block.outputs["count"].clip(max=4).sum()) * 2


def test_the_trials_need_no_path(mixed: Path) -> None:
    query = (
        f"select sampler, rate, count(*), avg(\"count.mean\") from '{mixed}/trials/*.parquet' group by all order by 3"
    )
    assert [row[:3] for row in duckdb.sql(query).fetchall()] == [("smc", None, 2), ("walk", None, 3)]


# ---- values in the path


def written(folder: Path, values: list[Any]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for number, value in enumerate(values):
        file = folder / partition_path({"key": value}) / "part-00000.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"n": [number]}), file)


def read_back(folder: Path, count: int, kinds: tuple[str, Any, Any] | None) -> dict[str, list[Any]]:
    """The keys as each reader sees them; without `kinds` they guess the type themselves."""
    sql = f", hive_types = {{'key': '{kinds[0]}'}}" if kinds else ""
    source = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true{sql})"
    hive = ds.partitioning(pa.schema([("key", kinds[2])]), flavor="hive") if kinds else "hive"
    table = ds.dataset(folder, partitioning=hive).to_table()
    found = {
        "duckdb": dict(duckdb.sql(f"select n, key from {source}").fetchall()),
        "polars": dict(
            polars.scan_parquet(folder, hive_schema={"key": kinds[1]} if kinds else None, hive_partitioning=True)
            .select("n", "key").collect().rows()
        ),
        "pyarrow": dict(zip(table["n"].to_pylist(), table["key"].to_pylist(), strict=True)),
    }  # fmt: skip
    return {reader: [rows[number] for number in range(count)] for reader, rows in found.items()}


KINDS = {
    float: ("DOUBLE", polars.Float64, pa.float64()), int: ("BIGINT", polars.Int64, pa.int64()),
    bool: ("BOOLEAN", polars.Boolean, pa.bool_()), str: ("VARCHAR", polars.String, pa.string()),
}  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 0.1, -2.5, 1e-7, 1e22, 1 / 3],
        [1, 0, -3, 2**40],
        [True, False],
        ["a b", "x/y", "a=b", "50%", "ü&ß", "model.py:Walk", "..", "~", "+", "it's", '"', "{*}", "#?", "a\\b"],
        [2.0, None],
        [5, None],
        [False, None],
        ["x", None],
    ],
    ids=repr,
)
def test_values_in_the_path_come_back_with_their_type(tmp_path: Path, values: list[Any]) -> None:
    written(tmp_path / "t", values)
    for reader, found in read_back(tmp_path / "t", len(values), KINDS[type(values[0])]).items():
        assert found == values and [type(v) for v in found] == [type(v) for v in values], reader


def test_polars_needs_to_be_told_nothing(tmp_path: Path) -> None:
    for values in ([1.0, 2.5], [1, -3], [True, False]):
        written(tmp_path / "t", values)
        found = read_back(tmp_path / "t", 2, None)["polars"]
        assert found == values and type(found[0]) is type(values[0])


AWKWARD = st.text(st.sampled_from("0123456789-:./ TZeExXabnulte+_%=&#'é\n"), max_size=10)


@settings(max_examples=150, deadline=None)
@given(st.one_of(AWKWARD, st.text(max_size=6)))
@example("epoch")
@example("0X1F")
@example("1-2-3")
@example("10:30")
def test_texts_are_read_back_as_they_are_or_refused_at_plan(text: str) -> None:
    """Readers that guess types must not take a text for anything else."""
    try:
        check_partition_text("key", text)
    except ConfigError as error:
        assert repr(text) in str(error) and "archive.partition_by" in str(error)
        return
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "t"), [text])
        for reader, found in read_back(Path(folder, "t"), 1, None).items():
            assert found == [text], reader


@pytest.mark.parametrize(
    ("text", "taken_for"),
    [
        ("1", "a number"), ("-2.5e3", "a number"), ("007", "a number"), ("0x1F", "a number"), ("inf", "a number"),
        ("True", "a bool"), ("false", "a bool"), ("2024-01-01", "a date"), ("01.02.2024", "a date"),
        ("2024-01-01T10:00:00Z", "a date"), ("10:30:00", "a date or time"), ("", "nothing"), ("null", "nothing"),
        ("None", "nothing"), ("__HIVE_DEFAULT_PARTITION__", "nothing"), ("x" * 300, "longer than a file name"),
    ],
)  # fmt: skip
def test_texts_that_readers_would_misread_are_refused(text: str, taken_for: str) -> None:
    with pytest.raises(ConfigError, match=taken_for):
        check_partition_text("key", text)


def test_other_values_are_fine_and_folders_are_readable() -> None:
    for value in (1, 1.5, True, None, "smc", "model.py:Walk", "v1.0", "1 2", "yes", "NA", "e5"):
        check_partition_text("key", value)
    assert partition_path({"population": 64, "sampler": "smc"}) == "population=64/sampler=smc"
    assert partition_path({}) == "." and partition_text(1.0) == "1.0" and partition_text(True) == "true"


# ---- trials without data


def test_failed_is_rewritten_whole(tmp_path: Path) -> None:
    archive = Archive(tmp_path, LAYOUT)
    schema = LAYOUT.failed()
    assert {"trial", "replicate", "sampler", "scale", "word", "outcome", "message", "attempts", "state"} == set(
        schema.names
    ) - {"size", "on"}
    for trials in (["a", "b"], ["b"], []):
        columns = {"trial": trials, "outcome": ["raised"] * len(trials), "message": ["why"] * len(trials)}
        arrays = [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(len(trials), f.type) for f in schema
        ]
        archive.failed(pa.Table.from_arrays(arrays, schema=schema))
        assert files(tmp_path) == ["failed.parquet"]
        assert pq.read_table(tmp_path / "failed.parquet")["trial"].to_pylist() == trials
        assert pq.read_schema(tmp_path / "failed.parquet").equals(schema)
