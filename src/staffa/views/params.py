"""Parameters of a campaign: their values, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from staffa.campaign.plan import Plan
from staffa.experiment.parameters import Parameter, shown_range
from staffa.storage.roster import read_rosters
from staffa.storage.workspace import Workspace
from staffa.views.names import Names

if TYPE_CHECKING:
    import pandas


class Params(Names["pandas.Series[Any]"]):
    """Values of the parameters: `params.temperature`, `params.schedule.steps` or `params["schedule.steps"]`.

    A pandas Series with the value of every trial of the campaign, done or not; its index is the
    trial's digest, as in the archive's column `trial`. `params.describe()` tells their units and comments.
    """

    _leaf: Parameters

    def to_pandas(self) -> pandas.DataFrame:
        """All of them, one row a trial."""
        return self._leaf.frame([self._prefix + name for name in self])

    def describe(self) -> pandas.DataFrame:
        """What is said of them, one row a parameter: type, unit, comment, whether it is explored, its formula, …"""
        own = {self._prefix + name for name in self}
        return frame([facts for facts in described(self._leaf.plan) if facts["name"] in own])


@dataclass(frozen=True)
class Parameters:
    """Columns of the lists of trials, read when they are asked for.

    Arguments:
    - `chosen`: digests of the only trials that are shown; None for all.
    - `rows`: the columns of all of them, where they are in memory.
    """

    workspace: Workspace
    plan: Plan
    chosen: pa.Array | None = None
    rows: pa.Table | None = None

    def __call__(self, name: str) -> pandas.Series[Any]:
        return self.frame([name])[name]

    @property
    def names(self) -> list[str]:
        return [*(name for name, _ in self.plan.parameters), "replicate"]

    def frame(self, names: Sequence[str]) -> pandas.DataFrame:
        """Some columns by trial, as a pandas frame."""
        return self.table(names).to_pandas().set_index("trial")

    def table(self, names: Sequence[str]) -> pa.Table:
        """Some columns and `trial`, as an Arrow table."""
        columns = ["trial", *names]
        found = read_rosters(self.workspace.rosters, columns) if self.rows is None else self.rows.select(columns)
        if self.chosen is not None:
            import pyarrow.compute as pc

            found = found.filter(pc.is_in(found["trial"], self.chosen))
        return found


def unit(plan: Plan, name: str) -> str:
    """What a parameter is measured in; empty where nothing is said of it, or where it is none."""
    return plan.about[name].unit if name in plan.about else ""


def described(plan: Plan) -> list[dict[str, Any]]:
    """What is said of each parameter of a plan, by plain names and values; None or empty where nothing is."""
    return [
        told(name, plan.about.get(name, Parameter(type=kind)), name in plan.explored) for name, kind in plan.parameters
    ]


def told(name: str, said: Parameter, explored: bool) -> dict[str, Any]:
    """What is said of one parameter."""
    return {
        "name": name,
        "type": said.type,
        "unit": said.unit,
        "comment": said.comment,
        "explored": explored,
        "value": said.value,
        "derived": said.derived,
        "range": list(said.range) if said.range else None,
        "choices": list(said.choices),
        "annotations": dict(said.annotations),
    }


def frame(facts: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """The same as a pandas frame, by name."""
    import pandas

    columns = list(told("", Parameter(), False))
    # As objects: a whole number beside None would become a float.
    return pandas.DataFrame(facts, columns=columns, dtype=object).set_index("name").astype({"explored": bool})


def in_words(facts: Mapping[str, Any]) -> str:
    """What is said of a parameter, on a line: `0.5 mm, within [0.1, 10]: width of the kernel`."""
    value = f"= {facts['derived']}" if facts["derived"] else str(facts["value"])
    words = "explored" if facts["explored"] else value
    words += f"{', in' if facts['explored'] else ''} {facts['unit']}" if facts["unit"] else ""
    words += f", within {shown_range(facts['range'])}" if facts["range"] else ""
    words += f", of {', '.join(map(str, facts['choices']))}" if facts["choices"] else ""
    return f"{words}: {facts['comment']}" if facts["comment"] else words
