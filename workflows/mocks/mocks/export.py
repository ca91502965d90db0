"""`staffa mocks RUN --to DIR`: recorded mocks as files of their own, for programs that know nothing of Staffa.

    mock_Planck18_ph3000_z0.500.hdf5
        attributes   Lbox, z_obs, lgmp_min, n_halos, n_galaxies, cosmology, phase, redshift, trial, run,
                     seed, code
        halos/       logm, position, velocity
        galaxies/    position, velocity, upid, …

A file is there whole or not at all. One that says it is of the same trial, seed and code stays as it is; any other is
replaced.
"""

from __future__ import annotations

import contextlib
import io
import json
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from staffa.errors import ClusterError, ConfigError, WorkspaceError, near
from staffa.storage.files import write_aside

if TYPE_CHECKING:
    import pyarrow

    from staffa.views.results import Results
    from staffa.views.table import Table

TABLES = ("halos", "galaxies")
NAME = "mock_{cosmology}_{phase}_{redshift}"
LEVEL = 4
"""Of gzip: above it files shrink by less than a hundredth, and take twice as long."""
VERIFY = "staffa archive verify RUN"

Row = np.ndarray


@dataclass(frozen=True)
class Mock:
    """One mock as it goes into a file: its attributes, and of each table the columns."""

    attributes: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Row]]


def mocks(
    run: Annotated[Path, typer.Argument(help="The campaign's folder, such as runs/v1.0_mocks.", show_default=False)],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The folder the files go to; made if need be.")],
    where: Annotated[str, typer.Option(metavar="SQL", help="Only these trials: 'redshift < 1 and phase = 3000'.")] = "",
    kind: Annotated[str, typer.Option("--format", help="hdf5 or asdf.")] = "hdf5",
    name: Annotated[str, typer.Option(help="Of the files; also {replicate}, {trial} and all parameters.")] = NAME,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write recorded mocks as HDF5 or ASDF files of their own.

    Mocks that are flagged, for there was not room for all of them, are left out. What is there already stays.
    """
    facts = exported(run, to, where, kind, name)
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    from staffa.views.sheet import Sheet, show

    notes = [f"{facts['flagged']} flagged mocks were left out"] if facts["flagged"] else []
    show(
        Sheet(
            f"{facts['written']} mocks written to {to}", {"kept": facts["kept"], "bytes": facts["bytes"]}, None, notes
        )
    )


def exported(run: str | Path, to: str | Path, where: str = "", kind: str = "hdf5", name: str = NAME) -> dict[str, Any]:
    """Write mocks as files; say how many were `written`, `kept` (there already) and `flagged` (left out), and `bytes`.

    Mocks are read in the order of the campaign, some rows at a time: memory holds a few mocks, however many there are.

    Arguments:
    - `run`: a campaign's folder, live or finished; what is not sealed yet is read from its hot store.
    - `to`: made if need be.
    - `where`: SQL over the parameters.
    - `kind`: `hdf5` or `asdf`.
    - `name`: of the files, a template.

    Raises `ConfigError` for what cannot be asked, `ClusterError` where the disk is full or cannot be written: files
    that are done stay, and no half file does.
    """
    import staffa

    if kind not in WRITERS:
        raise ConfigError(f"--format {kind}: there is no such format", near(kind, WRITERS))
    results = staffa.attach(run).results
    for table in TABLES:
        if table not in results.tables:
            raise ConfigError(f"'{run}' has no table {table!r}: its trials are no mocks", "staffa query RUN 'select …'")
    listed = _Listed(results.where(where) if where else results, name, kind)
    folder, counts = Path(to), {"written": 0, "kept": 0, "flagged": listed.flagged, "bytes": 0}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {trial: file for trial, file in listed.files.items() if not listed.is_of(trial, folder / file)}
        counts["kept"] = len(listed.files) - len(wanted)
        for trial, mock in listed.mocks(wanted):
            counts["bytes"] += _put(folder / wanted[trial], mock, WRITERS[kind])
            counts["written"] += 1
    except OSError as error:
        done = f"{counts['written']} of {len(listed.files) - counts['kept']} mocks are written"
        raise ClusterError(
            f"--to '{folder}': {error}; {done}", "make room, and say the same again: it goes on"
        ) from error
    return counts


class _Listed:
    """Which mocks there are, and what their files are called."""

    def __init__(self, results: Results, name: str, kind: str) -> None:
        self.results, self.run = results, _run_of(results)
        self._science = _science(results)
        outcomes = results.trials.to_arrow(["trial", "outcome"]).to_pydict()
        whole = {
            trial for trial, outcome in zip(outcomes["trial"], outcomes["outcome"], strict=True) if outcome == "ok"
        }
        self.flagged = len(outcomes["trial"]) - len(whole)
        columns = results.draws.columns
        for parameter in ("phase", "redshift", "n_halos", "n_galaxies"):
            if parameter not in columns:
                raise ConfigError(f"the trials have no {parameter!r}: they are no mocks", near(parameter, columns))
        known = [parameter for parameter in ("trial", *results.params) if parameter in columns]
        rows = results.draws.to_arrow([*known, "n_halos", "n_galaxies"]).to_pylist()
        self.rows = [row for row in rows if row["trial"] in whole]
        self.files = self._named(name, kind)

    def _named(self, name: str, kind: str) -> dict[str, str]:
        found, taken = dict[str, str](), dict[str, str]()
        for row in self.rows:
            words = self._words(row)
            try:
                file = f"{name.format(**words)}.{kind}"
            except (KeyError, IndexError, ValueError) as error:
                asked = [field for _, field, _, _ in string.Formatter().parse(name) if field and field not in words]
                hint = near(asked[0], words) if asked else "such as mock_{cosmology}_{phase}_{redshift}"
                raise ConfigError(f"--name {name!r}: {type(error).__name__}: {error}", hint) from None
            if "/" in file or file in taken:
                why = (
                    "names are no paths"
                    if "/" in file
                    else f"trials {taken[file][:12]} and {row['trial'][:12]} share it"
                )
                raise ConfigError(f"--name {name!r} makes {file!r}: {why}", f"{{…}} may be {', '.join(sorted(words))}")
            taken[file] = row["trial"]
            found[row["trial"]] = file
        return found

    def _words(self, row: Mapping[str, Any]) -> dict[str, Any]:
        named = {"phase": f"ph{row['phase']:04d}", "redshift": f"z{row['redshift']:.3f}"}
        own = {word: value for word, value in row.items() if value is not None}
        return {**own, "cosmology": self._of(row, "cosmology"), **named}

    def _of(self, row: Mapping[str, Any], option: str) -> Any:
        """An option of the experiment: explored, or the same for all."""
        explored = row.get(f"experiment.{option}")
        return self._science[option] if explored is None else explored

    def is_of(self, trial: str, path: Path) -> bool:
        """Whether a file holds a trial as this campaign computed it: from its seed, with its code."""
        said = _attributes_of(path)
        return said.get("trial") == trial and all(said.get(word) == self.run[word] for word in ("seed", "code"))

    def mocks(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, Mock]]:
        """Those that are wanted, read once, a few rows at a time."""
        if not wanted:
            return
        streams = {table: _Stream(self.results.table(table), set(wanted)) for table in TABLES}
        for row in self.rows:
            trial = row["trial"]
            if trial not in wanted:
                continue
            tables = {table: streams[table].take(trial, row[f"n_{table}"]) for table in TABLES}
            attributes = {
                "Lbox": float(self._of(row, "box")),
                "z_obs": float(row["redshift"]),
                "lgmp_min": float(self._of(row, "lgmp_min")),
                "n_halos": int(row["n_halos"]),
                "n_galaxies": int(row["n_galaxies"]),
                "cosmology": str(self._of(row, "cosmology")),
                "phase": f"ph{row['phase']:04d}",
                "redshift": float(row["redshift"]),
                "trial": trial,
                **self.run,
            }
            own = {name: value for name, value in row.items() if name not in attributes and value is not None}
            yield trial, Mock({**attributes, **own}, tables)


class _Stream:
    """Rows of a table, trial by trial, in the order in which they stand."""

    def __init__(self, table: Table, wanted: set[str]) -> None:
        import pyarrow.dataset as ds

        self.name = table.name
        self.columns = [name for name in table.columns if name.startswith(f"{table.name}.")]
        self.schema = table.schema
        self._batches = table.to_batches(["trial", *self.columns], ds.field("trial").isin(sorted(wanted)))
        self._open: list[pyarrow.RecordBatch] = []

    def take(self, trial: str, rows: int) -> dict[str, Row]:
        """The columns of a trial, without the table's name. Its rows stand together, trials as in draws."""
        import pyarrow as pa

        while sum(batch.num_rows for batch in self._open) < rows:
            found = next(self._batches, None)
            if found is None:
                raise WorkspaceError(f"table {self.name!r}: trial {trial[:12]} lacks some of its {rows:,} rows", VERIFY)
            self._open.append(found)
        if not rows:
            return {name.partition(".")[2]: self._empty(name) for name in self.columns}
        table = pa.Table.from_batches(self._open)
        own, self._open = table[:rows], table[rows:].to_batches()
        if own["trial"].unique().to_pylist() != [trial]:
            raise WorkspaceError(f"table {self.name!r}: rows of trial {trial[:12]} do not stand together", VERIFY)
        return {name.partition(".")[2]: _array(own[name], self._shape(name)) for name in self.columns}

    def _shape(self, name: str) -> list[int]:
        """Of a row's value: it stands in the column's metadata, since lists are of any length."""
        return [int(extent) for extent in json.loads((self.schema.field(name).metadata or {}).get(b"shape", b"[]"))]

    def _empty(self, name: str) -> Row:
        return _array(self.schema.empty_table()[name], self._shape(name))


def _array(column: pyarrow.ChunkedArray, shape: Sequence[int]) -> Row:
    import pyarrow as pa

    flat = column.combine_chunks()
    if pa.types.is_list(flat.type):
        flat = flat.flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, *shape)


def _science(results: Results) -> dict[str, Any]:
    """What the campaign's mocks have in common: `box`, `lgmp_min`, `cosmology`, said or by default."""
    from staffa.campaign.config import load_frozen
    from staffa.experiment.registry import build

    code = results.workspace.code
    block = load_frozen(results.workspace.frozen, directory=code).campaign.experiment
    settings = build(dict(block), code).settings
    return {"box": settings.box, "lgmp_min": settings.lgmp_min, "cosmology": settings.cosmology.name}


def _run_of(results: Results) -> dict[str, Any]:
    """Which computation this is: a trial's name tells what was computed, not from which seed, nor with which code."""
    known = json.loads(results.workspace.provenance.read_text())
    return {"run": str(known["run_hash"]), "seed": int(known["seeds"]["trials"]), "code": str(known["code"])[:16]}


def _put(path: Path, mock: Mock, packed: Callable[[Mock], bytes]) -> int:
    data = packed(mock)
    write_aside(path, data)
    return len(data)


def _hdf5(mock: Mock) -> bytes:
    """In memory: what a full disk does to a file is then ours to say, and no library's."""
    import h5py

    with h5py.File("mock.hdf5", "w", driver="core", backing_store=False) as file:
        file.attrs.update(mock.attributes)
        for table, columns in mock.tables.items():
            group = file.create_group(table)
            for name, values in columns.items():
                packing = {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True} if len(values) else {}
                group.create_dataset(name, data=values, **packing)
        file.flush()
        return bytes(file.id.get_file_image())


def _asdf(mock: Mock) -> bytes:
    import asdf

    tree = {"attributes": dict(mock.attributes), **{table: dict(columns) for table, columns in mock.tables.items()}}
    into = io.BytesIO()
    asdf.AsdfFile(tree).write_to(into, all_array_compression="zlib")
    return into.getvalue()


def _attributes_of(path: Path) -> Mapping[str, Any]:
    """What a file says of itself; nothing where there is none, or none that can be read."""
    if not path.is_file():
        return {}
    with contextlib.suppress(Exception):  # broken files make both libraries raise whatever comes
        if path.suffix == ".asdf":
            import asdf

            with asdf.open(path) as file:
                return dict(file.tree["attributes"])
        import h5py

        with h5py.File(path, "r") as file:
            return dict(file.attrs)
    return {}


WRITERS: Mapping[str, Callable[[Mock], bytes]] = {"hdf5": _hdf5, "asdf": _asdf}
