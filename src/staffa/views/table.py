"""One table of the archive, whole: sealed rows from Parquet, the others as sealing will write them."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from staffa.errors import ConfigError, WorkspaceError, near
from staffa.views.decoding import numpy_values, pandas_frame
from staffa.views.standing import Place, Standing
from staffa.views.unsealed import Unsealed

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow.dataset

FEW = 65_536
"""Rows read at a time where a few are wanted."""


class Table:
    """Rows of one kind, read when they are asked for: `draws`, `trials`, or those of a ragged output.

    Nothing is read before; columns that are not asked for are not read. Rows come in the order of the plan,
    the same before and after a part is sealed; those of trials that were tried again after that come
    behind the others of their part.

    Arguments:
    - `schema`: columns with their types; those that stand in a file's path come last.
    - `trials`: only rows of these.
    """

    def __init__(
        self, name: str, schema: pa.Schema, partition: pa.Schema, unsealed: Unsealed, trials: pa.Array | None = None
    ) -> None:
        self.name, self.schema = name, schema
        self._partition, self._hot, self._trials = partition, unsealed, trials
        self._known: int | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in their order."""
        return list(self.schema.names)

    @property
    def dataset(self) -> pyarrow.dataset.Dataset:
        """What is sealed of it, for scans of your own."""
        return self._dataset(self.files)

    def dataset_as(self, schema: pa.Schema) -> pyarrow.dataset.Dataset:
        """The same in other types of the same columns."""
        return self._dataset(self.files, schema)

    @property
    def files(self) -> list[Path]:
        """Its sealed files, in the order of the plan."""
        return [path for place in self._standing.places for path in self._files(place)]

    def made(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows that are not sealed yet."""
        for place in self._standing.places:
            if place.hot:
                yield from self._made(place, self._check(columns), self._chosen(None))

    def looked_at(self) -> Table:
        """The same table as it stands now: its files and rows are known, and only values are still to be read."""
        self._known = len(self)
        return self

    @property
    def held(self) -> bool:
        """Whether its rows are in memory."""
        return False

    def __len__(self) -> int:
        counted = self._counted()
        return sum(batch.num_rows for batch in self.to_batches(["trial"])) if counted is None else counted

    def _counted(self) -> int | None:
        """How many rows there are, by the footers of files and the marks of batches; None where that does not tell."""
        if self._known is not None:
            return self._known
        if self._trials is not None or (self.unsealed and self.name not in ("draws", "trials")):
            return None
        hot = 0
        for place in self._standing.places:
            each = self._standing.rows(place.part.group) if self.name == "draws" else 1
            hot += each * sum(len(lanes) for lanes in place.hot.values())
        return hot + int(self.dataset.count_rows())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "." in name:
            raise AttributeError(name)
        return getattr(self._columns, name)

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *dir(self._columns)]

    def _ipython_key_completions_(self) -> list[str]:
        return self.columns

    def to_batches(self, columns: Sequence[str] | None = None, filter: Any = None) -> Iterator[pa.RecordBatch]:
        """All rows, some at a time: for tables larger than memory. See `to_arrow`."""
        wanted = self._check(columns)
        with sound_files(self._standing.workspace.root):
            yield from self._batches(wanted, self._chosen(filter))

    def _batches(self, wanted: Sequence[str], filter: Any) -> Iterator[pa.RecordBatch]:
        for hot, run in groupby(self._standing.places, lambda place: bool(place.hot)):
            places = list(run)
            if not hot:
                paths = [path for place in places for path in self._files(place)]
                yield from self._dataset(paths).to_batches(columns=wanted, filter=filter) if paths else ()
                continue
            for place in places:
                files = self._files(place)
                yield from self._dataset(files).to_batches(columns=wanted, filter=filter) if files else ()
                yield from self._made(place, wanted, filter)

    def to_arrow(self, columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
        """All rows as an Arrow table.

        Arguments:
        - `columns`: only these.
        - `filter`: only these rows: `pyarrow.dataset.field("temperature") > 1`.
        """
        names = self._check(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches([_cast(batch, schema) for batch in self.to_batches(names, filter)], schema)

    def to_pandas(self, columns: Sequence[str] | None = None, filter: Any = None) -> pandas.DataFrame:
        """All rows as a pandas frame, values as they were recorded; see `to_arrow`."""
        return pandas_frame(self.to_arrow(columns, filter))

    def to_polars(self, columns: Sequence[str] | None = None, filter: Any = None) -> polars.DataFrame:
        """All rows as a Polars frame; see `to_arrow`. Needs the package `polars`."""
        import polars

        found = polars.from_arrow(self.to_arrow(columns, filter))
        assert isinstance(found, polars.DataFrame)
        return found

    def head(self, rows: int = 10) -> pandas.DataFrame:
        """The first rows."""
        found, count = [], 0
        for batch in self.to_batches():
            found.append(_cast(batch, self.schema).slice(0, rows - count))
            count += found[-1].num_rows
            if count >= rows:
                break
        return pandas_frame(pa.Table.from_batches(found, self.schema))

    @property
    def _standing(self) -> Standing:
        return self._hot.standing

    @cached_property
    def _columns(self) -> Any:
        from staffa.views.names import Names

        return Names(self.columns, lambda name: Column(self, name), self.name)

    @property
    def unsealed(self) -> bool:
        """Whether some rows of it are not sealed yet."""
        return any(place.hot for place in self._standing.places)

    def _files(self, place: Place) -> list[Path]:
        return self._standing.files(self.name, place)

    def _dataset(self, paths: Sequence[Path], schema: pa.Schema | None = None) -> pyarrow.dataset.Dataset:
        import pyarrow.dataset as ds

        wanted = self.schema if schema is None else schema
        if not paths:
            return ds.dataset(wanted.empty_table())
        if self.name == "trials":
            return ds.dataset([str(path) for path in paths], wanted, format="parquet")
        hive = ds.partitioning(self._partition, flavor="hive")
        base = str(self._standing.workspace.archive / self.name)
        return ds.dataset(
            [str(path) for path in paths], wanted, format="parquet", partitioning=hive, partition_base_dir=base
        )

    def _made(self, place: Place, columns: Sequence[str], filter: Any) -> Iterator[pa.RecordBatch]:
        import pyarrow.dataset as ds

        # What the filter speaks of is not known beforehand: then every column is made.
        needed = columns if filter is None else None
        for table in self._hot.tables(self.name, place, needed):
            whole = ds.dataset(table.select(self.schema.names))
            yield from whole.to_batches(columns=list(columns), filter=filter)

    def _chosen(self, filter: Any) -> Any:
        import pyarrow.dataset as ds

        if self._trials is None:
            return filter
        own = ds.field("trial").isin(self._trials)
        return own if filter is None else own & filter

    def _check(self, columns: Sequence[str] | None) -> list[str]:
        for name in columns or ():
            if name not in self.columns:
                raise ConfigError(f"{self.name} has no column {name!r}", near(name, self.columns))
        return self.columns if columns is None else list(columns)

    def __repr__(self) -> str:
        counted = self._counted()
        rows = "" if counted is None else f"{counted:,} rows; "
        return f"<{self.name}: {rows}columns: {', '.join(self.columns)}>"


class Consolidated(Table):
    """A table that is as it was when the archive was last looked at: of what is not sealed it has no rows."""

    def _batches(self, wanted: Sequence[str], filter: Any) -> Iterator[pa.RecordBatch]:
        yield from self.dataset.to_batches(columns=list(wanted), filter=filter)

    def _counted(self) -> int:
        return int(self.dataset.count_rows(filter=self._chosen(None))) if self._known is None else self._known

    @property
    def unsealed(self) -> bool:
        return False

    def _dataset(self, paths: Sequence[Path], schema: pa.Schema | None = None) -> pyarrow.dataset.Dataset:
        import pyarrow.dataset as ds

        wanted = self.schema if schema is None else schema
        return ds.dataset([str(path) for path in paths] if paths else wanted.empty_table(), wanted)


class Failed(Consolidated):
    """Trials without data."""

    @property
    def files(self) -> list[Path]:
        path = self._standing.workspace.failed
        return [path] if path.exists() else []


class Derived(Consolidated):
    """What a reducer applied to the rows of another table."""

    @property
    def files(self) -> list[Path]:
        return self._standing.derived(self.name)


class Column:
    """One column of a table, read when it is asked for."""

    def __init__(self, table: Table, name: str) -> None:
        self._table, self.name = table, name

    @property
    def type(self) -> pa.DataType:
        """Its type in the archive."""
        return self._table.schema.field(self.name).type

    def to_arrow(self, filter: Any = None) -> pa.ChunkedArray:
        """All values, in the order of the table's rows, as the archive has them."""
        return self._table.to_arrow([self.name], filter)[self.name]

    def to_pandas(self, filter: Any = None) -> pandas.Series[Any]:
        """All values, by the trial they belong to."""
        frame = self._table.to_pandas(list(dict.fromkeys(["trial", self.name])), filter)
        return frame.set_index("trial", drop=self.name != "trial")[self.name]

    def to_numpy(self, filter: Any = None) -> Any:
        """All values; arrays of one shape are stacked, others stay objects."""
        return numpy_values(self.to_arrow(filter), self._table.schema.field(self.name))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        found = self.to_numpy()
        return found if dtype is None else found.astype(dtype)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"<{self._table.name}.{self.name}: {self.type}>"


@contextlib.contextmanager
def sound_files(root: Path) -> Iterator[None]:
    """What Arrow says of a file that it cannot read, with the command that tells which."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise WorkspaceError(
            f"the archive of '{root}' cannot be read: {error}", f"staffa archive verify {shlex.quote(str(root))}"
        ) from error


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return batch if batch.schema.equals(schema) else batch.cast(schema)
