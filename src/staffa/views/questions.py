"""SQL over a campaign's archive, through DuckDB, shut off from everything else."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from staffa.errors import ConfigError, near
from staffa.views.readings import number

if TYPE_CHECKING:
    from staffa.views.results import Results
    from staffa.views.table import Table

OTHERWISE = {
    pa.float16(): pa.float32(),
    **{pa.timestamp(unit): pa.timestamp("us") for unit in ("s", "ms")},
    **{pa.duration(unit): pa.int64() for unit in ("s", "ms", "us", "ns")},
}
"""What DuckDB makes of some types in a Parquet file; of Arrow's own it would make something else, or nothing."""

DUCK = {pa.bool_(): "BOOLEAN", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.string(): "VARCHAR"}


def answer(results: Results, sql: str) -> pa.Table:
    """Ask one SELECT over the tables; of what is not sealed yet only the columns are made that the query needs.

    Raises `ConfigError` for everything else: other statements, other files, unknown names.
    """
    import duckdb

    with duckdb.connect() as connection, tempfile.TemporaryDirectory(prefix="staffa-rows-") as scratch:
        # What the query does not even mention is not looked at.
        tables = [results.table(name) for name in results.tables if name in sql]
        open_ones = [table for table in tables if table.unsealed]
        for table in tables:
            _view(connection, table, results)
        _shut(connection, results.workspace.archive)
        try:
            _check(connection, sql)
            needed = _needed(connection, sql) if open_ones else set()
            for table in open_ones:
                connection.register(_unsealed(table), _made(table, needed, Path(scratch)))
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise _refusal(results, sql, str(error)) from None


def select(table: pa.Table, condition: str, names: Iterable[str]) -> pa.Array:
    """The `trial` of those rows of a table that satisfy an SQL condition.

    Raises `ConfigError` with the near names for a condition DuckDB does not understand.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.register("params", table)
        _shut(connection, None)
        sql = f"select trial from params where {condition}"
        try:
            _check(connection, sql)
            return connection.sql(sql).to_arrow_table()["trial"].combine_chunks()
        except duckdb.Error as error:
            word = re.search(r'column "([^"]+)"', str(error))
            hint = near(word[1], names) if word else 'such as `temperature > 1 and "schedule.steps" = 8`'
            raise ConfigError(f"where {condition!r}: {str(error).splitlines()[0]}", hint) from None


def _view(connection: Any, table: Table, results: Results) -> None:
    """A table of the query: its sealed files, and what is not sealed yet, as rows of the same columns."""
    name, files, sources = table.name, table.files, []
    misleading = any(f"/{column}=" in str(results.workspace.archive) for column in results.partition.names)
    if table.held or (files and misleading):
        # DuckDB would take the value of a folder above the archive for the partition's.
        connection.register(f"sealed {name}", table.dataset_as(_asked(table.schema)))
        sources.append(f"select * from {_quoted(f'sealed {name}')}")
    elif files:
        paths = ", ".join(_text(_literal(path)) for path in files)
        sources.append(f"select * from read_parquet([{paths}], union_by_name = true, {_hive(results, name)})")
    if table.unsealed or not sources:
        connection.register(_unsealed(table), _asked(table.schema).empty_table())
        sources.append(f"select * from {_quoted(_unsealed(table))}")
    only = ""
    if results.chosen is not None:
        connection.register("chosen", pa.table({"trial": results.chosen}))
        only = " where trial in (select trial from chosen)"
    whole = " union all by name ".join(sources)
    connection.execute(f"create view {_quoted(name)} as select * from ({whole}){only}")


def _unsealed(table: Table) -> str:
    return f"unsealed {table.name}"


def _needed(connection: Any, sql: str) -> set[str]:
    """Columns that DuckDB will read of tables in memory, by its own plan."""
    found: set[str] = set()

    def walk(node: Mapping[str, Any]) -> None:
        facts = node.get("extra_info") or {}
        if "ARROW_SCAN" in str(facts.get("Function", node.get("name", ""))).upper():
            for fact in ("Projections", "Filters"):
                said = facts.get(fact, [])
                found.update([said] if isinstance(said, str) else said)
        for child in node.get("children", ()):
            walk(child)

    for node in json.loads(connection.execute(f"explain (format json) {sql}").fetchall()[0][1]):
        walk(node)
    return found


def _made(table: Table, needed: set[str], scratch: Path) -> pa.Table:
    """Rows that are not sealed, by way of a file that is mapped: no more of them is in memory than is looked at."""
    # A filter is told as text that holds the names of its columns.
    columns = [name for name in table.columns if name == "trial" or any(name in said for said in needed)]
    path, writer = scratch / f"{table.name}.arrow", None
    for batch in table.made(columns):
        own = _asked(batch.schema)
        writer = writer or pa.ipc.new_file(path, own)
        writer.write_batch(batch if own.equals(batch.schema) else batch.cast(own))
    if writer is None:
        return _asked(table.schema).empty_table()
    writer.close()
    found = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    for field in _asked(table.schema):
        if field.name not in columns:
            found = found.append_column(field, pa.nulls(found.num_rows, field.type))
    return found.select(table.schema.names)


def _asked(schema: pa.Schema) -> pa.Schema:
    """Columns with the types that DuckDB finds for them in a sealed file."""
    return pa.schema([field.with_type(_otherwise(field.type)) for field in schema])


def _otherwise(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_otherwise(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_otherwise(field.type)) for field in kind])
    return OTHERWISE.get(kind, kind)


def _hive(results: Results, name: str) -> str:
    """How DuckDB is to take the folders' names."""
    inside = name == "draws" or name in results.ragged
    if not inside or not results.partition.names:
        return "hive_partitioning = false"
    types = ", ".join(f"{_quoted(field.name)}: {DUCK[field.type]}" for field in results.partition)
    return f"hive_partitioning = true, hive_types = {{{types}}}"


def _shut(connection: Any, archive: Path | None) -> None:
    """Nothing but the archive can be read from here on, and nothing can be changed about that."""
    scratch = Path(tempfile.gettempdir()) / "staffa-queries"
    connection.execute(f"set temp_directory = {_text(str(scratch))}")
    # The pattern is held against the list as it is written, what it finds as it is called.
    allowed = {str(archive), _literal(archive)} if archive is not None else set()
    connection.execute(f"set allowed_directories = [{', '.join(_text(path) for path in sorted(allowed))}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _check(connection: Any, sql: str) -> None:
    # A folder that may be read may also be written by COPY: only SELECT is let through.
    kinds = [statement.type.name for statement in connection.extract_statements(sql)]
    if kinds != ["SELECT"]:
        found = "a statement of kind " + kinds[0] if len(kinds) == 1 else number(len(kinds), "statement")
        raise ConfigError(f"{sql.strip() or 'an empty query'!r} is {found}", "ask one SELECT: the archive is only read")


def _refusal(results: Results, sql: str, complaint: str) -> ConfigError:
    """DuckDB's complaint, with the near names of tables and columns."""
    tables = results.tables
    if match := re.search(r"Table with name (\S+) does not exist", complaint):
        return ConfigError(f"there is no table {match[1]!r}: {sql}", near(match[1], tables))
    columns = {column for name in tables for column in results.schema(name).names}
    if match := re.search(r'(?:column|column named|table) "([^"]+)" ?(?:not found)?', complaint):
        return ConfigError(f"there is no column {match[1]!r}: {sql}", _near_column(match[1], columns))
    first = complaint.strip().splitlines()[0] if complaint.strip() else "DuckDB refused it"
    if "disabled by configuration" in complaint:
        return ConfigError(f"{first}: {sql}", f"only {', '.join(tables)} can be asked")
    return ConfigError(f"{first}: {sql}", f"tables: {', '.join(tables)}; `describe {tables[1]}` lists columns")


def _near_column(name: str, columns: set[str]) -> str:
    hint = near(name, columns)
    return f'{hint} (in double quotes: "{name}.…")' if any(c.startswith(f"{name}.") for c in columns) else hint


def _literal(path: Path) -> str:
    """A pattern in which only our own stars are wild."""
    folder, stars, rest = str(path).partition("/**/")
    return re.sub(r"([*?\[])", r"[\1]", folder) + stars + rest


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
