"""Branches of results that are read now and kept: as a skeleton, or whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from staffa.errors import ConfigError, near
from staffa.views.params import Parameters
from staffa.views.table import Table
from staffa.views.unsealed import Unsealed

if TYPE_CHECKING:
    import pyarrow.dataset

    from staffa.views.results import Results

NOTHING, SKELETON, DATA = MODES = ("nothing", "skeleton", "data")
TABLELESS = ("params", "config")
"""Branches that are no tables of rows."""


@dataclass(frozen=True)
class Loaded:
    """A branch as it was loaded.

    Arguments:
    - `mode`: `skeleton` or `data`.
    - `held`: of a table the table; of `params` its rows; of `config` values by name. None where the plan,
      which is always in memory, tells all there is to a skeleton.
    """

    mode: str
    held: Any = None


class Held(Table):
    """A table whose rows are in memory."""

    def __init__(self, table: Table, rows: pa.Table, trials: pa.Array | None = None) -> None:
        super().__init__(table.name, table.schema, table._partition, table._hot, trials)
        self._rows = rows

    def of(self, trials: pa.Array) -> Held:
        """The same rows, only those of some trials."""
        return Held(self, self._rows, trials)

    @property
    def held(self) -> bool:
        return True

    @property
    def dataset(self) -> pyarrow.dataset.Dataset:
        import pyarrow.dataset as ds

        return ds.dataset(self._rows)

    def dataset_as(self, schema: pa.Schema) -> pyarrow.dataset.Dataset:
        import pyarrow.dataset as ds

        return ds.dataset(self._rows.cast(schema))

    @property
    def files(self) -> list[Path]:
        return []

    @property
    def unsealed(self) -> bool:
        return False

    def made(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        return iter(())

    def _counted(self) -> int:
        return int(self.dataset.count_rows(filter=self._chosen(None)))

    def _batches(self, wanted: Sequence[str], filter: Any) -> Iterator[pa.RecordBatch]:
        yield from self.dataset.to_batches(columns=list(wanted), filter=filter)


def checked(wanted: Mapping[str, str], known: Sequence[str]) -> Mapping[str, str]:
    """Refuse branches and modes that there are none of, with the near names."""
    for name, mode in wanted.items():
        if name not in known:
            raise ConfigError(f"the results have no branch {name!r}", near(name, known))
        if mode not in MODES:
            raise ConfigError(f"{name}: {mode!r} is no way to load", near(str(mode), MODES))
    return wanted


def loaded(results: Results, name: str, mode: str, look: Unsealed) -> Loaded | None:
    """A branch, read as far as the mode says; None for `nothing`.

    Arguments:
    - `look`: the state of the campaign that tables are read in.
    """
    if mode == NOTHING:
        return None
    if name == "config":
        return Loaded(mode, {each: results.config[each] if mode == DATA else None for each in results.config})
    if name == "params":
        return Loaded(mode, _values(results) if mode == DATA else None)
    table = results.table_of(name, look)
    return Loaded(mode, Held(table, table.to_arrow()) if mode == DATA else table.looked_at())


def restricted(branches: Mapping[str, Loaded], chosen: pa.Array) -> dict[str, Loaded]:
    """What is in memory, for some of the trials; skeletons of tables counted all of them, and are left out."""
    found = {}
    for name, one in branches.items():
        if name in TABLELESS:
            found[name] = one
        elif one.mode == DATA:
            found[name] = Loaded(DATA, one.held.of(chosen))
    return found


def _values(results: Results) -> pa.Table:
    parameters: Parameters = results.params._leaf
    return parameters.table(parameters.names).combine_chunks()
