"""One trial: where it stands, and what was found of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from staffa.campaign.plan import Group, Part
from staffa.errors import ConfigError, WorkspaceError
from staffa.storage.roster import find_trial
from staffa.storage.tables import ArchiveLayout
from staffa.storage.trial_logs import as_text, read_lines
from staffa.trial import Outcome
from staffa.views.names import Names
from staffa.views.standing import Place, Standing
from staffa.views.stored import how_to_name
from staffa.views.unsealed import Unsealed

if TYPE_CHECKING:
    import xarray

PLACE = ("index", "trial", "group", "row", "replicate")


@dataclass(frozen=True)
class Trial:
    """One trial of a campaign: `trial.params.temperature`, `trial.draws.energy`, `trial.summary["energy.mean"]`.

    Arguments:
    - `trial`: its digest.
    - `index`: its place in the campaign.
    - `row`: its place among the trials of its group.
    """

    trial: str
    index: int
    replicate: int
    number: int
    row: int
    values: Mapping[str, Any]
    standing: Standing
    layout: ArchiveLayout

    @property
    def params(self) -> Names[Any]:
        """Its parameters, by natural names."""
        return Names(list(self.values), self.values.__getitem__, "params")

    @property
    def group(self) -> Group:
        """The group of trials it belongs to."""
        return self.standing.plan.groups[self.number]

    @property
    def batch(self) -> int:
        """Number of its batch in the group."""
        return self.row // self.group.batch

    @property
    def outcome(self) -> str:
        """`ok`, `nan`, `raised`, … or `missing` while it is not settled."""
        status = self.standing.store(self.number).status(self.batch)
        return Outcome(int(status[self.row % self.group.batch])).word

    @property
    def draws(self) -> xarray.Dataset:
        """Its outputs, read when they are wanted: dims ([chain,] [draw,] own); fill where there are no data."""
        from staffa.views.arrays import one

        return one(self.standing, self.number, self.row, self.trial)

    @property
    def log(self) -> str:
        """What it printed and logged at each try, where that was kept (`execution.logs`); of JAX its whole batch."""
        batch = f"g{self.number}/{self.batch}"
        lines = read_lines(self.standing.workspace.trial_log(batch), self.row % self.group.batch)
        return as_text(lines)

    @property
    def recorded(self) -> Names[Any]:
        """What it recorded, by natural names, as the experiment returned it; with draws a list or an array of them.

        `trial.energy` is short for `trial.recorded.energy`, where a trial has no such word of its own.
        """
        return Names([output.name for output in self.group.outputs], self._recorded, "trial")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.recorded, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *dir(self.recorded)]

    def _recorded(self, name: str) -> Any:
        from staffa.views.arrays import trial_value

        if self.outcome not in ("ok", "nan"):
            root = shlex.quote(str(self.standing.workspace.root))
            raise WorkspaceError(
                f"trial {self.index} has no data: its outcome is {self.outcome!r}",
                f"staffa explain {root} {self.index}",
            )
        return trial_value(self.standing, self.number, self.row, self.trial, name)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Its row of the table of trials; empty for a trial without data."""
        place = self.standing.place(self._part)
        for path in self.standing.files("trials", place):
            table = pq.read_table(path, columns=["trial"])
            found = pc.indices_nonzero(pc.equal(table["trial"], self.trial))
            if len(found):
                return dict(pq.read_table(path).take(found).to_pylist()[0])
        lane = self.row % self.group.batch
        if lane not in place.hot.get(self.batch, ()):
            return {}
        # Of the whole batch, as it will be sealed: sums of other lengths round differently.
        own = Place(place.part, place.files, {self.batch: place.hot[self.batch]})
        made = Unsealed(self.standing, self.layout).tables("trials", own)
        rows = (table.filter(pc.equal(table["trial"], self.trial)) for table in made)
        return next((dict(row) for table in rows for row in table.to_pylist()), {})

    def to_arviz(self) -> xarray.DataTree:
        """Its draws as ArviZ takes them: a tree of `posterior` and `sample_stats`."""
        from staffa.views.inference import inference_data

        return inference_data(self.draws)

    @property
    def _part(self) -> Part:
        parts = self.standing.plan.parts
        return next(part for part in parts if part.group == self.number and self.batch in part.batches())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"<trial {self.index} {self.trial[:12]} {self.outcome}: {values}>"


def find(standing: Standing, layout: ArchiveLayout, name: str) -> Trial:
    """A trial by its index or the beginning of its digest."""
    row = find_trial(standing.workspace.rosters, name)
    if row is None:
        raise ConfigError(
            f"{name!r} names no trial of '{standing.workspace.root}', or more than one",
            how_to_name(standing.workspace),
        )
    values = {name: value for name, value in row.items() if name not in PLACE and value is not None}
    return Trial(
        row["trial"], int(row["index"]), int(row["replicate"]), int(row["group"]), int(row["row"]), values,
        standing, layout,
    )  # fmt: skip
