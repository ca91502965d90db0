"""What a campaign found, by natural names: `run.results.trials`, `.params.temperature`, `.query(sql)`.

What is in memory: the plan, and whatever was asked for last. Everything else stays on disk until it is asked for,
and is asked of the archive where it is sealed, of the hot stores where it is not yet: the same question has the same
answer before and after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from staffa.campaign.plan import Plan
from staffa.errors import ConfigError, WorkspaceError, near
from staffa.rows import archive_layout
from staffa.storage.derived import derived
from staffa.storage.roster import listed
from staffa.storage.tables import ARROW
from staffa.storage.workspace import Workspace
from staffa.views.loading import Loaded, checked, loaded, restricted
from staffa.views.names import Names
from staffa.views.params import Parameters, Params
from staffa.views.standing import Standing
from staffa.views.stored import stored_plan
from staffa.views.table import Derived, Failed, Table, sound_files
from staffa.views.unsealed import Unsealed

if TYPE_CHECKING:
    import pandas
    import polars
    import xarray

    from staffa.views.one import Trial

FIXED = ("draws", "trials", "failed")
ROOTS = ("params", "draws", "trials", "config")
"""What a path begins with: `results["draws.energy"]`."""


class Results:
    """The results of one campaign, or of some of its trials.

    Roots are `params`, `draws`, `trials`, `config`, by attribute or by path: `results["params.kernel.*"]`.

    Arguments:
    - `workspace`: its folder; a campaign that still runs shows what is committed so far.
    - `chosen`: digests of the only trials to be shown; by default all.
    """

    def __init__(self, workspace: Workspace, chosen: pa.Array | None = None) -> None:
        self.workspace = workspace
        self._chosen, self._loaded = chosen, dict[str, Loaded]()
        self._plan = stored_plan(workspace)
        self._layout = archive_layout(self._plan)

    def load(self, mode: str | None = None, /, **branches: str) -> Results:
        """The same results, with some branches read now and kept: `results.load(params="data", draws="skeleton")`.

        - `nothing`: the branch is not looked at until it is asked for, every time anew.
        - `skeleton`: names, types, shapes and counts are known from now on; values are read when they are asked
          for, from where they stand now.
        - `data`: all values are in memory; nothing of the branch is read from disk any more.

        Arguments:
        - `mode`: of all branches.
        - `branches`: `params`, `config`, or the name of a table; others stay as they are.

        `trial`, `to_xarray` and `reduced` are not branches: they read when they are asked.
        """
        known = tuple(self.modes)
        wanted = checked({**(dict.fromkeys(known, mode) if mode is not None else {}), **branches}, known)
        look = self.unsealed  # one for all: what is counted in one table stands in the other
        found = {name: loaded(self, name, said, look) for name, said in wanted.items()}
        kept = {name: one for name, one in {**self._loaded, **found}.items() if one is not None}
        return self._with(self._chosen, kept)

    @property
    def modes(self) -> dict[str, str]:
        """All branches, and how each is loaded: `nothing`, `skeleton` or `data`."""
        names = ("params", "config", *self.tables)
        return {name: self._loaded[name].mode if name in self._loaded else "nothing" for name in names}

    # --- the four roots ------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The parameters of every trial."""
        rows = self._loaded["params"].held if "params" in self._loaded else None
        parameters = Parameters(self.workspace, self._plan, self._chosen, rows)
        return Params(parameters.names, parameters, "params")

    @property
    def draws(self) -> Table:
        """One row per trial x chain x draw."""
        return self.table("draws")

    @property
    def trials(self) -> Table:
        """One row per trial that has data: parameters, outcome, timings, summaries of its outputs."""
        return self.table("trials")

    @property
    def reduced(self) -> Names[dict[str, Any]]:
        """What the campaign's reducers made of all sealed trials: `reduced.spread["covariance"]`."""
        import numpy as np

        def arrays(name: str) -> dict[str, Any]:
            with np.load(self.workspace.reduced / f"{name}.npz", allow_pickle=False) as found:
                return dict(found)

        return Names(sorted(path.stem for path in self.workspace.reduced.glob("*.npz")), arrays, "reduced")

    @property
    def config(self) -> Names[Any]:
        """The frozen declaration: `config.sampling.draws`."""
        if "config" not in self._loaded:
            values = self._declared()
            return Names(list(values), values.__getitem__, "config")
        known = self._loaded["config"]
        value = known.held.__getitem__ if known.mode == "data" else lambda name: self._declared()[name]
        return Names(list(known.held), value, "config")

    def _declared(self) -> dict[str, Any]:
        from staffa.campaign.config import explain, load_frozen

        declaration = load_frozen(self.workspace.frozen, directory=self.workspace.code)
        return {path: value for path, value, _ in explain(declaration)}

    def __getitem__(self, path: str) -> Any:
        """What stands at a path that begins with a root; with `*`, `?`, `[` a dict of all that fit."""
        root, _, rest = path.partition(".")
        if root not in (*ROOTS, *self.tables):
            raise ConfigError(f"{path!r}: the results have no {root!r}", near(root, (*ROOTS, *self.tables)))
        node = getattr(self, root) if root in ROOTS else self.table(root)
        return node[rest] if rest else node

    # --- some of the trials --------------------------------------------------------------------------

    def find(self, predicate: Callable[[Names[Any]], bool]) -> Results:
        """The results of those trials whose parameters satisfy a predicate: `find(lambda p: p.temperature > 1)`.

        `p` has the values of one trial by natural names; what a trial does not have is None.
        """
        frame = self.params.to_pandas()
        names = list(frame.columns)
        kept = [
            trial
            for trial, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True)
            if predicate(Names(names, dict(zip(names, map(_plain, row), strict=True)).__getitem__, "p"))
        ]
        return self._only(kept)

    def where(self, condition: str) -> Results:
        """The results of those trials whose parameters satisfy an SQL condition: `where("temperature > 1")`."""
        from staffa.views.questions import select

        table = self.params._leaf.table(self.params._leaf.names)
        return self._only(select(table, condition, self.params).to_pylist())

    def trial(self, name: str | int) -> Trial:
        """One trial, by its index in the campaign or the beginning of its digest."""
        from staffa.views.one import find

        return find(self._standing, self._layout, str(name))

    def __len__(self) -> int:
        """How many trials these are results of, with data or without."""
        return self._listed if self._chosen is None else len(self._chosen)

    @property
    def _listed(self) -> int:
        """How many trials the campaign has; of a search those that were asked for so far."""
        return self._plan.trials if self._plan.search is None else listed(self.workspace.rosters)

    # --- tables --------------------------------------------------------------------------------------

    @property
    def failed(self) -> Table:
        """Trials without data, and why."""
        return self.table("failed")

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of all tables: `draws`, `trials`, `failed`, one for each ragged output, those of reducers."""
        return (*self._sealed_tables, *self._derived)

    @property
    def ragged(self) -> tuple[str, ...]:
        """Names of the ragged outputs' tables."""
        return self._layout.tables

    @property
    def _sealed_tables(self) -> tuple[str, ...]:
        return (*FIXED, *self.ragged)

    @property
    def _derived(self) -> dict[str, Path]:
        """Tables that reducers made of others, and one file of each."""
        if not self.workspace.archive.is_dir():
            return {}
        found = derived(self.workspace.archive, self._sealed_tables)
        return {name: next(iter(files.values())) for name, files in sorted(found.items())}

    def __getattr__(self, name: str) -> Table:
        if name.startswith("_") or name not in self.tables:
            raise AttributeError(f"the results have no {name!r}")
        return self.table(name)

    def table(self, name: str) -> Table:
        """A table by name; empty, with all its columns, while there is nothing of it."""
        self.schema(name)
        if name in self._loaded:
            table: Table = self._loaded[name].held
            return table
        return self.table_of(name, self.unsealed)

    def table_of(self, name: str, look: Unsealed) -> Table:
        """A table as a state of the campaign has it."""
        schema = self.schema(name)
        self.path(name)
        kind = Failed if name == "failed" else Table if name in self._sealed_tables else Derived
        return kind(name, schema, self.partition, look, self._chosen)

    def schema(self, name: str) -> pa.Schema:
        """Columns and types of a table, whether or not there is any of it."""
        if name not in self.tables:
            raise ConfigError(f"the archive has no table {name!r}", near(name, self.tables))
        if name not in self._sealed_tables:
            with sound_files(self.workspace.root):
                return pq.read_schema(self._derived[name]).remove_metadata()
        if name in ("trials", "failed"):
            return self._layout.trials() if name == "trials" else self._layout.failed()
        inside = self._layout.draws() if name == "draws" else self._layout.items(name)
        return pa.schema([*inside, *self.partition])

    @property
    def partition(self) -> pa.Schema:
        """The columns that stand in the path of a file, with their types."""
        types = {"sampler": "str", **dict(self._plan.parameters)}
        return pa.schema([pa.field(name, ARROW[types[name]]) for name in self._layout.partition_by])

    @property
    def sealed(self) -> bool:
        """Whether any part of the archive is sealed."""
        return next(iter(self.workspace.trials_archive.glob("*.parquet")), None) is not None

    def path(self, name: str) -> Any:
        """Where a table stands: a folder of Parquet files, or one file for `failed`."""
        archive = self.workspace.archive
        if not archive.is_dir():
            raise WorkspaceError(f"'{archive}' is not there", f"staffa consolidate {self.workspace.root}")
        return self.workspace.failed if name == "failed" else archive / name

    # --- in other forms ------------------------------------------------------------------------------

    def to_arrow(self, table: str = "trials", columns: Sequence[str] | None = None, filter: Any = None) -> pa.Table:
        """A table whole, as Arrow; see `Table.to_arrow`."""
        return self.table(table).to_arrow(columns, filter)

    def to_pandas(
        self, table: str = "trials", columns: Sequence[str] | None = None, filter: Any = None
    ) -> pandas.DataFrame:
        """A table whole, as a pandas frame; see `Table.to_arrow`."""
        return self.table(table).to_pandas(columns, filter)

    def to_polars(
        self, table: str = "trials", columns: Sequence[str] | None = None, filter: Any = None
    ) -> polars.DataFrame:
        """A table whole, as a Polars frame; see `Table.to_arrow`."""
        return self.table(table).to_polars(columns, filter)

    def to_xarray(self, group: str | None = None, chunks: Any = "stored") -> xarray.Dataset | xarray.DataTree:
        """All outputs, lazily: named dimensions, parameters as coordinates along `trial`.

        Arguments:
        - `group`: one of `groups`; by default the only group, or a tree of all of them.
        - `chunks`: as for `xarray.Dataset.chunk`; by default those on disk; None does without Dask.

        Trials without data hold fill values: `status` along `trial` tells (1 is ok, 2 has a NaN).
        """
        import xarray

        if group is not None and group not in self.groups:
            raise ConfigError(f"the campaign has no group {group!r}", near(group, self.groups))
        names = self.groups if group is None else (group,)
        found = {name: self._dataset(name, chunks) for name in names}
        return next(iter(found.values())) if len(found) == 1 else xarray.DataTree.from_dict(found)

    def to_arviz(self, group: str | None = None) -> xarray.DataTree:
        """Draws as ArviZ takes them: a tree of `posterior` and `sample_stats`, with `trial` behind chain and draw.

        Arguments:
        - `group`: one of `groups`; only needed where there are several.
        """
        from staffa.views.inference import inference_data

        if group is None and len(self.groups) > 1:
            raise ConfigError(f"the campaign has {len(self.groups)} groups", f"group: one of {', '.join(self.groups)}")
        return inference_data(self._dataset(group or self.groups[0], "stored"))

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

    @property
    def plan(self) -> Plan:
        """The frozen plan."""
        return self._plan

    @property
    def unsealed(self) -> Unsealed:
        """What is committed and not sealed, as it is now."""
        return Unsealed(self._standing, self._layout)

    @property
    def chosen(self) -> pa.Array | None:
        """Digests of the only trials that are shown; None for all."""
        return self._chosen

    @property
    def _standing(self) -> Standing:
        return Standing(self.workspace, self._plan)

    def _only(self, trials: Sequence[str]) -> Results:
        chosen = pa.array(trials, pa.string())
        return self._with(chosen, restricted(self._loaded, chosen))

    def _with(self, chosen: pa.Array | None, branches: Mapping[str, Loaded]) -> Results:
        """The same campaign as it was read, with other trials or other branches in memory."""
        found = copy.copy(self)
        found._chosen, found._loaded = chosen, dict(branches)
        return found

    def _dataset(self, name: str, chunks: Any) -> xarray.Dataset:
        from staffa.views.arrays import dataset

        number = self.groups.index(name)
        found = dataset(self._standing, number)
        if self._chosen is not None:
            known = set(self._chosen.to_pylist())
            found = found.isel(trial=[row for row, trial in enumerate(found["trial"].values) if trial in known])
        if chunks is None:
            return found
        return found.chunk({} if isinstance(chunks, str) and chunks == "stored" else chunks)

    def __dir__(self) -> Iterator[str]:
        return iter([*super().__dir__(), *self.tables])

    def _ipython_key_completions_(self) -> list[str]:
        return [*ROOTS, *self.tables]

    def __repr__(self) -> str:
        of = "" if self._chosen is None else f" of {len(self._chosen):,} of {self._listed:,} trials"
        return f"<results{of} of {str(self.workspace.root)!r}: {', '.join((*ROOTS, *self.tables[2:]))}>"


def _plain(value: Any) -> Any:
    return None if value is None or value != value else value
