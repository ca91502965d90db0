"""Trials chosen by a condition over their parameters: `--where "temperature > 5 and replicate = 0"`."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from staffa.errors import ConfigError, near
from staffa.storage.roster import read_rosters
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome
from staffa.views.stored import group_store, stored_plan


def select_trials(workspace: Workspace, where: str) -> pa.Table:
    """Trials of a campaign, done or not, for which a condition in SQL holds.

    Arguments:
    - `where`: over the parameters, `replicate`, `sampler`, `trial`, `index`, and `outcome`, what stands in
      the trial's mark: `ok`, `raised`, … or `missing` for one that was not tried.

    Returns the columns `index` and `trial`, in the order of the campaign. Raises `ConfigError` for what is
    no condition, with the near names.
    """
    import duckdb

    trials = _trials(workspace)
    with duckdb.connect() as connection:
        connection.register("trials", trials)
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        chosen = f"select *, cast((\n{where}\n) as boolean) as staffa_chosen from trials"
        sql = f'select "index", trial from ({chosen}) where staffa_chosen order by "index"'
        try:
            if [statement.type.name for statement in connection.extract_statements(sql)] != ["SELECT"]:
                raise ConfigError(f"--where {where!r} is not one condition", 'such as "temperature > 5"')
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise _refusal(where, str(error), trials.column_names) from None


def _trials(workspace: Workspace) -> pa.Table:
    """Index, digest, parameters and outcome of every trial."""
    plan = stored_plan(workspace)
    table = read_rosters(workspace.rosters)
    groups, rows = table["group"].to_numpy(), table["row"].to_numpy()
    words = np.array([Outcome(code).word if code in set(Outcome) else "" for code in range(256)], object)
    samplers = np.array([group.sampler for group in plan.groups], object)
    codes = np.zeros(len(groups), np.uint8)
    for number in range(len(plan.groups)):
        own = groups == number
        codes[own] = group_store(workspace, plan, number).status()[rows[own]]
    found = table.drop_columns(["group", "row"]).append_column("sampler", pa.array(samplers[groups], pa.string()))
    return found.append_column("outcome", pa.array(words[codes], pa.string()))


def _refusal(where: str, complaint: str, columns: list[str]) -> ConfigError:
    if match := re.search(r'column "([^"]+)"', complaint):
        return ConfigError(f"--where {where!r}: there is no parameter {match[1]!r}", near(match[1], columns))
    first = complaint.strip().splitlines()[0] if complaint.strip() else "DuckDB refused it"
    return ConfigError(f"--where {where!r}: {first}", f"columns: {', '.join(columns)}")
