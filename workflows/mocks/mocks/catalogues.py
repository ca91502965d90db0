"""Halo catalogues of simulations: HDF5 or ASDF files with the columns mass and position, read a slab at a time.

    halos = read("halos/ph3000/z0.500.hdf5", Layout(box=500.0, hubble=0.6736, centred=True), slab=0, slabs=4)

Whatever is wrong with a file is said by file, column, row and value, before anything is made of it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mocks.mass_function import HIGHEST
from staffa.errors import ConfigError, near

Row = npt.NDArray[Any]
Names = str | tuple[str, ...]

PIECE = 1 << 18
"""Rows read at a time: 6 MB of positions, however many halos a file has."""

HDF5 = (".hdf5", ".h5", ".hdf")
ASDF = (".asdf",)
VELOCITY = "velocity"


@dataclass(frozen=True)
class Layout:
    """How catalogues are written.

    Arguments:
    - `box`: side of the periodic box, in the file's unit of length.
    - `mass`: path of the column in the file, such as `halos/mass`.
    - `position`, `velocity`: of a column (n, 3), or of three columns (n,). Velocities are peculiar, in km/s; by default
      those of the column `velocity`, and where there is none halos are at rest.
    - `logarithmic`: masses are given as log10.
    - `particle_mass`: the column of masses counts particles, each of this mass.
    - `hubble`: h, where the file has Msun/h and Mpc/h; by default it has Msun and Mpc, comoving.
    - `centred`: positions run from -box/2 to box/2, as AbacusSummit's do; by default from 0 to box.

    Raises `ConfigError` for what cannot be.
    """

    box: float
    mass: str = "mass"
    position: Names = "position"
    velocity: Names = ""
    logarithmic: bool = False
    particle_mass: float | None = None
    hubble: float | None = None
    centred: bool = False

    def __post_init__(self) -> None:
        for name in ("box", "particle_mass", "hubble"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ConfigError(f"{name}: {value!r} is no number above 0")
        for name in ("position", "velocity"):
            said = getattr(self, name)
            if not isinstance(said, str):
                object.__setattr__(self, name, tuple(said))
                if len(said) != 3:
                    raise ConfigError(f"{name}: {list(said)}: one column (n, 3), or three columns")
        if self.logarithmic and self.particle_mass is not None:
            raise ConfigError("logarithmic: true beside particle_mass: a count of particles is no logarithm")

    @classmethod
    def of(cls, block: Mapping[str, Any]) -> Layout:
        """A layout from a campaign's block. Raises `ConfigError` for words it does not know."""
        known = [field.name for field in fields(cls)]
        for word in block:
            if word not in known:
                raise ConfigError(f"catalogue.{word}: there is no such option", near(word, known))
        if "box" not in block:
            raise ConfigError("catalogue.box is missing", "catalogue: {box: 500.0} is the side of the simulation's box")
        return cls(**block)

    @property
    def length(self) -> float:
        """Comoving Mpc in the file's unit of length."""
        return 1.0 if self.hubble is None else 1.0 / self.hubble


@dataclass(frozen=True)
class Halos:
    """Halos of one slab.

    Arguments:
    - `logm`: (n,) log10 of masses in Msun; `position`: (n, 3) in [0, box), comoving Mpc; `velocity`: (n, 3) km/s.
    - `rows`: (n,) where they stand in the file.
    - `box`: side of the whole box, comoving Mpc.
    """

    logm: Row
    position: Row
    velocity: Row
    rows: Row
    box: float

    def __len__(self) -> int:
        return len(self.logm)


def read(path: str | Path, layout: Layout, slab: int = 0, slabs: int = 1, lightest: float = -math.inf) -> Halos:
    """The halos of one slab of a file: those with low <= y < high, of `slabs` equal ones along y.

    Every row is looked at, whichever slab is wanted: a file that is bad is bad for all of them.

    Arguments:
    - `lightest`: log10 of a mass in Msun; lighter halos are left out.

    Raises `ConfigError` for files that cannot be read, values that cannot be, and slabs without halos.
    """
    if not 0 <= slab < slabs:
        raise ConfigError(f"slab: {slab!r} of {slabs} slabs", f"they are numbered from 0 to {slabs - 1}")
    file = _File(Path(path), layout)
    with file.opened() as columns:
        pieces = [piece for piece in file.pieces(columns, slab, slabs, lightest) if len(piece[0])]
    if not pieces:
        whose = f"slab {slab} of {slabs}" if slabs > 1 else "the catalogue"
        above = "" if lightest == -math.inf else f" above 10^{lightest:g} Msun"
        raise file.refused(f"{whose} is empty: no halo{above}")
    rows, logm, position, velocity = (np.concatenate(found) for found in zip(*pieces, strict=True))
    return Halos(logm, position, velocity, rows, layout.box * layout.length)


@dataclass(frozen=True)
class _Columns:
    """The columns of an open file: whatever can be sliced by rows."""

    mass: Any
    position: tuple[Any, ...]
    velocity: tuple[Any, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    layout: Layout

    def refused(self, why: str, hint: str = "") -> ConfigError:
        """The engine keeps 300 characters of what a trial says, and folders may be long: they come last."""
        name = "/".join(self.path.parts[-2:])
        return ConfigError(f"{name}: {why}", hint or f"the file is {self.path}")

    @contextlib.contextmanager
    def opened(self) -> Iterator[_Columns]:
        """Its columns, found and of one length. What the library says of a broken file becomes a `ConfigError`."""
        if not self.path.is_file():
            raise self.refused("there is no such file")
        suffix = self.path.suffix.lower()
        if suffix not in (*HDF5, *ASDF):
            raise self.refused(
                f"{suffix or 'no suffix'!r} is no kind of catalogue", f"known: {', '.join((*HDF5, *ASDF))}"
            )
        kind, opener = ("HDF5", _hdf5) if suffix in HDF5 else ("ASDF", _asdf)
        try:
            with opener(self.path) as node:
                yield self._columns(node)
        except ConfigError:
            raise
        except Exception as error:
            # Broken files make these libraries raise whatever comes: OSError, ValueError, KeyError, RuntimeError, …
            raise self.refused(f"cannot be read as {kind}: {type(error).__name__}: {str(error)[:120]}") from error

    def _columns(self, node: Callable[[str], Any]) -> _Columns:
        said = self.layout
        velocity: Names = said.velocity
        if not velocity:
            with contextlib.suppress(KeyError):
                node(VELOCITY)
                velocity = VELOCITY
        mass = self._column(node, said.mass)
        found = _Columns(mass, self._three(node, said.position), self._three(node, velocity) if velocity else ())
        self._check(found.mass, said.mass, ())
        for columns, names in ((found.position, said.position), (found.velocity, velocity)):
            for column, name in zip(columns, _listed(names), strict=False):
                self._check(column, name, (3,) if len(columns) == 1 else ())
                if column.shape[0] != mass.shape[0]:
                    lengths = f"{column.shape[0]} rows, {said.mass!r} has {mass.shape[0]}"
                    raise self.refused(f"columns of different lengths: {name!r} has {lengths}")
        return found

    def _three(self, node: Callable[[str], Any], names: Names) -> tuple[Any, ...]:
        return tuple(self._column(node, name) for name in _listed(names))

    def _column(self, node: Callable[[str], Any], name: str) -> Any:
        try:
            return node(name)
        except KeyError as missing:
            raise self.refused(f"there is no column {name!r}", str(missing.args[0])) from None

    def _check(self, column: Any, name: str, own: tuple[int, ...]) -> None:
        shape = tuple(column.shape)
        if shape[1:] != own or not shape:
            raise self.refused(f"column {name!r} has shape {shape}, not {('n', *own)}".replace("'n'", "n"))
        if np.dtype(column.dtype).kind not in "fiu":
            raise self.refused(f"column {name!r} has dtype {column.dtype}: these are no numbers")

    def pieces(self, columns: _Columns, slab: int, slabs: int, lightest: float) -> Iterator[tuple[Row, Row, Row, Row]]:
        """Rows, log masses, positions and velocities of the slab's halos, some of the file's rows at a time."""
        said, edges = self.layout, self.layout.box * np.arange(slabs + 1) / slabs
        for first in range(0, columns.mass.shape[0], PIECE):
            piece = slice(first, first + PIECE)
            logm = self._log_masses(columns.mass[piece], first)
            position = self._positions(_stacked(columns.position, piece), first)
            own = np.clip(np.searchsorted(edges, position[:, 1], "right") - 1, 0, slabs - 1) == slab
            kept = np.flatnonzero(own & (logm >= lightest))
            velocity = np.zeros((len(kept), 3))
            if columns.velocity:
                velocity = self._velocities(_stacked(columns.velocity, piece)[kept], first + kept)
            whole = said.box * said.length
            yield first + kept, logm[kept], np.mod(position[kept] * said.length, whole), velocity

    def _log_masses(self, values: Any, first: int) -> Row:
        said, mass = self.layout, np.asarray(values, np.float64)
        if said.logarithmic:
            self._refuse(~np.isfinite(mass), values, said.mass, first, "the logarithm of a mass is finite")
            logm = mass - (np.log10(said.hubble) if said.hubble else 0.0)
        else:
            what = "a mass is finite and above 0" if said.particle_mass is None else "a halo has at least one particle"
            self._refuse(~(np.isfinite(mass) & (mass > 0)), values, said.mass, first, what)
            logm = np.log10(mass * (said.particle_mass or 1.0) / (said.hubble or 1.0))
        # In another unit, or a logarithm of one already: satellites without number would be made of it.
        self._refuse(logm > HIGHEST, values, said.mass, first, f"no halo has more than 10^{HIGHEST:g} Msun")
        return logm

    def _positions(self, values: Row, first: int) -> Row:
        """In the file's unit, from 0 to box: the far side of a periodic box is its near side."""
        said, low = self.layout, -self.layout.box / 2 if self.layout.centred else 0.0
        position = values - low
        inside = (position >= 0) & (position <= said.box)
        names = said.position
        self._refuse(~inside, values, names, first, f"the box goes from {low:g} to {low + said.box:g}")
        return np.where(position == said.box, 0.0, position)

    def _velocities(self, values: Row, rows: Row) -> Row:
        self._refuse(~np.isfinite(values), values, self.layout.velocity or VELOCITY, rows, "a velocity is finite")
        return values

    def _refuse(self, bad: Row, values: Any, names: Names, rows: int | Row, rule: str) -> None:
        if not bad.any():
            return
        place = tuple(int(one[0]) for one in np.nonzero(bad))
        row = rows + place[0] if isinstance(rows, int) else int(rows[place[0]])
        name = names if isinstance(names, str) else names[place[1]]
        axis = f" along {'xyz'[place[1]]}" if len(place) > 1 and isinstance(names, str) else ""
        count = len(np.unique(np.nonzero(bad)[0]))
        others = f" (and {count - 1} more rows)" if count > 1 else ""
        raise self.refused(f"column {name!r}, row {row}: {np.asarray(values)[place]:.9g}{axis}, but {rule}{others}")


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[Callable[[str], Any]]:
    import h5py

    def node(name: str) -> Any:
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            names: list[str] = []
            file.visititems(lambda known, one: names.append(known) if isinstance(one, h5py.Dataset) else None)
            raise KeyError(near(name, names) or "it has no columns")
        return found

    with h5py.File(path, "r") as file:
        yield node


@contextlib.contextmanager
def _asdf(path: Path) -> Iterator[Callable[[str], Any]]:
    import asdf

    def node(name: str) -> Any:
        found: Any = file.tree
        for word in name.split("/"):
            found = found[word] if isinstance(found, Mapping) and word in found else None
        if not hasattr(found, "shape"):
            raise KeyError(near(name, list(_arrays(file.tree, ""))) or "it has no columns")
        return found

    with asdf.open(path, mode="r", lazy_load=True, memmap=True) as file:
        yield node


def _arrays(tree: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _arrays(value, f"{prefix}{name}/")
        elif hasattr(value, "shape"):
            yield f"{prefix}{name}"


def _stacked(columns: Sequence[Any], piece: slice) -> Row:
    """(n, 3) of one column or of three."""
    if len(columns) == 1:
        return np.asarray(columns[0][piece], np.float64)
    return np.stack([np.asarray(column[piece], np.float64) for column in columns], axis=1)


def _listed(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
