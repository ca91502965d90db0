"""What a campaign found, by natural names: `run.results.trials`, `.params.temperature`, `.query(sql)`.

Everything is read when it is asked for, from sealed Parquet parts (`draws`, `trials`, `failed`)
or from the hot stores (`to_xarray`): the same object shows more as the campaign goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from staffa.campaign.plan import Plan
from staffa.errors import ConfigError, WorkspaceError, near
from staffa.storage.roster import read_rosters
from staffa.storage.tables import ARROW
from staffa.storage.workspace import Workspace
from staffa.views.stored import archive_columns, stored_plan

if TYPE_CHECKING:
    import pandas
    import xarray

FIXED = ("draws", "trials", "failed")


@dataclass(frozen=True)
class Table:
    """One table of the archive, read when it is asked for.

    Arguments:
    - `name`: `draws`, `trials`, `failed`, or that of a ragged output.
    - `schema`: columns with their types; those that stand in the path come last.
    - `dataset`: the `pyarrow.dataset.Dataset`, for filters and scans of your own.
    """

    name: str
    schema: pa.Schema
    dataset: Any

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    def to_arrow(self, columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
        """All rows as an Arrow table.

        Arguments:
        - `columns`: only these.
        - `filter`: only these rows: `pyarrow.dataset.field("temperature") > 1`.
        """
        self._check(columns)
        return self.dataset.to_table(columns=None if columns is None else list(columns), filter=filter)

    def to_pandas(self, columns: Sequence[str] | None = None, filter: Any = None) -> pandas.DataFrame:
        """All rows as a pandas frame; see `to_arrow`."""
        return self.to_arrow(columns, filter).to_pandas()

    def head(self, rows: int = 10) -> pandas.DataFrame:
        """The first rows."""
        return self.dataset.head(rows).to_pandas()

    def _check(self, columns: Sequence[str] | None) -> None:
        for name in columns or ():
            if name not in self.columns:
                raise ConfigError(f"{self.name} has no column {name!r}", near(name, self.columns))

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self):,} rows; columns: {', '.join(self.columns)}>"


class Params:
    """Values of the parameters: `params.temperature`, or `params["schedule.steps"]` for a dotted name.

    A pandas Series with the value of every trial of the campaign, done or not; its index is the
    trial's digest, as in the archive's column `trial`.
    """

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._paths = workspace.rosters
        self._names = [*(name for name, _ in plan.parameters), "replicate"]

    def __getitem__(self, name: str) -> pandas.Series[Any]:
        if name not in self._names:
            raise ConfigError(f"the campaign has no parameter {name!r}", near(name, self._names))
        return self._read([name])[name]

    def __getattr__(self, name: str) -> pandas.Series[Any]:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"the campaign has no parameter {name!r}; {near(name, self._names)}")
        return self[name]

    def to_pandas(self) -> pandas.DataFrame:
        """All parameters, one row a trial."""
        return self._read(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self._names if name.isidentifier())]

    def __repr__(self) -> str:
        return f"<params: {', '.join(self._names)}>"

    def _read(self, names: Sequence[str]) -> pandas.DataFrame:
        return read_rosters(self._paths, ["trial", *names]).to_pandas().set_index("trial")


class Results:
    """The results of one campaign.

    Arguments:
    - `workspace`: its folder; a campaign that still runs shows what is sealed so far.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._plan = stored_plan(workspace)
        self._layout = archive_columns(self._plan)

    @property
    def draws(self) -> Table:
        """One row per trial x chain x draw."""
        return self.table("draws")

    @property
    def trials(self) -> Table:
        """One row per sealed trial: parameters, outcome, timings, summaries of its outputs."""
        return self.table("trials")

    @property
    def failed(self) -> Table:
        """Trials without data, and why."""
        return self.table("failed")

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of all tables: the three above, and one for each ragged output."""
        return (*FIXED, *self._layout.tables)

    @property
    def params(self) -> Params:
        """The parameters of every trial."""
        return Params(self.workspace, self._plan)

    @property
    def sealed(self) -> bool:
        """Whether any part of the archive is sealed."""
        return next(iter(self.workspace.trials_archive.glob("*.parquet")), None) is not None

    def schema(self, name: str) -> pa.Schema:
        """Columns and types of a table, whether or not any of it is sealed."""
        if name not in self.tables:
            raise ConfigError(f"the archive has no table {name!r}", near(name, self.tables))
        if name in ("trials", "failed"):
            return self._layout.trials() if name == "trials" else self._layout.failed()
        inside = self._layout.draws() if name == "draws" else self._layout.items(name)
        return pa.schema([*inside, *self.partition])

    @property
    def partition(self) -> pa.Schema:
        """The columns that stand in the path of a file, with their types."""
        types = {"sampler": "str", **dict(self._plan.parameters)}
        return pa.schema([pa.field(name, ARROW[types[name]]) for name in self._layout.partition_by])

    def table(self, name: str) -> Table:
        """A table by name; empty, with all its columns, while nothing of it is sealed."""
        import pyarrow.dataset as ds

        schema, path = self.schema(name), self.path(name)
        if not path.exists():
            return Table(name, schema, ds.dataset(schema.empty_table()))
        if name in ("trials", "failed"):
            return Table(name, schema, ds.dataset(path, schema, format="parquet"))
        hive = ds.partitioning(self.partition, flavor="hive")
        return Table(name, schema, ds.dataset(path, schema, format="parquet", partitioning=hive))

    def path(self, name: str) -> Any:
        """Where a table stands: a folder of Parquet files, or one file for `failed`."""
        archive = self.workspace.archive
        if not archive.is_dir():
            raise WorkspaceError(f"'{archive}' is not there", f"staffa consolidate {self.workspace.root}")
        return self.workspace.failed if name == "failed" else archive / name

    def query(self, sql: str) -> pandas.DataFrame:
        """Ask in SQL (DuckDB) over `draws`, `trials`, `failed` and the ragged tables; a pandas frame.

        Raises `ConfigError` for what DuckDB does not understand, with the near names.
        """
        return self.answer(sql).to_pandas()

    def answer(self, sql: str) -> pa.Table:
        """As `query`, but an Arrow table."""
        from staffa.views.questions import answer

        return answer(self, sql)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of trials that share a program and a partition."""
        return tuple(group.name for group in self._plan.groups)

    def to_xarray(self, group: str | None = None, **options: Any) -> xarray.Dataset | xarray.DataTree:
        """The hot data, lazily: named dimensions, parameters as coordinates along `trial`.

        Arguments:
        - `group`: one of `groups`; by default the only group, or a tree of all of them.
        - `options`: as for `xarray.open_zarr`; `chunks=None` does without Dask.

        Trials without data hold fill values: `status` along `trial` tells (1 is ok, 2 has a NaN).
        """
        import xarray

        names = self.groups
        if group is not None and group not in names:
            raise ConfigError(f"the campaign has no group {group!r}", near(group, names))
        if group is None and len(names) > 1:
            return xarray.DataTree.from_dict({name: self._dataset(name, options) for name in names})
        return self._dataset(group or names[0], options)

    def _dataset(self, name: str, options: dict[str, Any]) -> xarray.Dataset:
        import xarray

        group = next(group for group in self._plan.groups if group.name == name)
        path = self.workspace.group(group.generation, group.name)
        found: xarray.Dataset = xarray.open_zarr(path, **options).drop_vars(["identity", "checksum"], errors="ignore")
        coordinates = [n for n in found.data_vars if n in ("status", "seconds")]
        # Rows past the last trial only fill up a shard.
        return found.set_coords(coordinates).isel(trial=slice(0, group.trials))

    def __repr__(self) -> str:
        return f"<results of {str(self.workspace.root)!r}: {', '.join(self.tables)}>"
