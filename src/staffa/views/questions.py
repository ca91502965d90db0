"""SQL over a campaign's archive, through DuckDB, shut off from everything else."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from staffa.errors import ConfigError, near
from staffa.views.readings import number

if TYPE_CHECKING:
    from staffa.views.results import Results

DUCK = {pa.bool_(): "BOOLEAN", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.string(): "VARCHAR"}


def answer(results: Results, sql: str) -> pa.Table:
    """Ask one SELECT over the archive's tables.

    Raises `ConfigError` for everything else: other statements, other files, unknown names.
    """
    import duckdb

    with duckdb.connect() as connection:
        for name in results.tables:
            _view(connection, results, name)
        _shut(connection, results.workspace.archive)
        try:
            _check(connection, sql)
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise _refusal(results, sql, str(error)) from None


def _view(connection: Any, results: Results, name: str) -> None:
    path = results.path(name)
    pattern = path if name == "failed" else path / "**" / "*.parquet"
    if not path.exists() or (name != "failed" and next(path.glob("**/*.parquet"), None) is None):
        connection.register(name, results.schema(name).empty_table())
    elif any(f"/{column}=" in str(path) for column in results.partition.names):
        # DuckDB would take the value of a folder above the archive for the partition's.
        connection.register(name, results.table(name).dataset)
    else:
        source = f"read_parquet({_text(_literal(pattern))}, union_by_name = true, {_hive(results, name)})"
        connection.execute(f"create view {_quoted(name)} as select * from {source}")


def _hive(results: Results, name: str) -> str:
    """How DuckDB is to take the folders' names."""
    if name in ("trials", "failed") or not results.partition.names:
        return "hive_partitioning = false"
    types = ", ".join(f"{_quoted(field.name)}: {DUCK[field.type]}" for field in results.partition)
    return f"hive_partitioning = true, hive_types = {{{types}}}"


def _shut(connection: Any, archive: Path) -> None:
    """Nothing but the archive can be read from here on, and nothing can be changed about that."""
    scratch = Path(tempfile.gettempdir()) / "staffa-queries"
    connection.execute(f"set temp_directory = {_text(str(scratch))}")
    # The pattern is held against the list as it is written, what it finds as it is called.
    allowed = {str(archive), _literal(archive)}
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
