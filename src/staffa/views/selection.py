"""Trials chosen by a condition over their parameters: `--where "temperature > 5 and replicate = 0"`."""

from __future__ import annotations

import re

import pyarrow as pa

from staffa.errors import ConfigError, near
from staffa.storage.workspace import Workspace
from staffa.views.census import every_trial
from staffa.views.stored import stored_plan


def select_trials(workspace: Workspace, where: str) -> pa.Table:
    """Trials of a campaign, done or not, for which a condition in SQL holds.

    Arguments:
    - `where`: over the parameters, `replicate`, `sampler`, `trial`, `index`, and `outcome`, what stands in
      the trial's mark: `ok`, `raised`, … or `missing` for one that was not tried.

    Returns the columns `index` and `trial`, in the order of the campaign. Raises `ConfigError` for what is
    no condition, with the near names.
    """
    import duckdb

    trials = every_trial(workspace, stored_plan(workspace)).drop_columns(["group", "row"])
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


def _refusal(where: str, complaint: str, columns: list[str]) -> ConfigError:
    if match := re.search(r'column "([^"]+)"', complaint):
        return ConfigError(f"--where {where!r}: there is no parameter {match[1]!r}", near(match[1], columns))
    first = complaint.strip().splitlines()[0] if complaint.strip() else "DuckDB refused it"
    return ConfigError(f"--where {where!r}: {first}", f"columns: {', '.join(columns)}")
