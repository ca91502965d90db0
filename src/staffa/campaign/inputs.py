"""Files that trials need: templates filled with each trial's parameters, and who is left without one.

    inputs: ["halos/{phase}/z{redshift:.3f}.hdf5"]
    inputs: {paths: ["halos/{phase}/z{redshift:.3f}.hdf5"], together: [phase]}

A template asks for a file of every trial that has all of its parameters. `together` names
parameters that stand for one realization: where one of its trials lacks a file, none of it is run.
A path is looked up once, however many trials share it.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.errors import ConfigError, near

Row = npt.NDArray[Any]
Codes = npt.NDArray[np.int64]

ABSENT = -1
THREADS = 16
"""A look at a network file system is a round trip: several go out at a time."""
PIECE = 512


@dataclass(frozen=True)
class Inputs:
    """What trials need.

    Arguments:
    - `paths`: templates; absolute, once they are resolved.
    - `together`: parameters whose values name a realization.
    """

    paths: tuple[str, ...] = ()
    together: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.paths)

    def resolved(self, folder: Path) -> Inputs:
        """The same with absolute templates: relative ones start in the campaign file's folder."""
        base = str(folder.absolute()).replace("{", "{{").replace("}", "}}")
        return Inputs(tuple(os.path.join(base, os.path.expanduser(path)) for path in self.paths), self.together)  # noqa: PTH118, PTH111

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters that are asked for."""
        asked = [name for path in self.paths for name in fields(path)]
        return tuple(dict.fromkeys([*asked, *self.together]))


def fields(template: str) -> tuple[str, ...]:
    """Names of the parameters in a template; dotted ones count as one name."""
    found = (name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    return tuple(dict.fromkeys(found))


def names_in(inputs: Inputs, known: Collection[str]) -> tuple[str, ...]:
    """All parameters that are asked for. Raises `ConfigError`, with the near names, for one that is not there."""
    for number, path in enumerate(inputs.paths):
        where = f"inputs.paths[{number}]: {path!r}"
        try:
            _check_names(fields(path), known, where)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}", "write braces that mean themselves twice: {{ and }}") from None
    _check_names(inputs.together, known, "inputs.together")
    return inputs.names


def check_filled(inputs: Inputs, columns: Mapping[str, Row]) -> None:
    """Refuse templates that cannot be filled with the values of the parameters they ask for."""
    for number, path in enumerate(inputs.paths):
        first = {name: next((value for value in columns[name] if value is not None), None) for name in fields(path)}
        if any(value is None for value in first.values()):
            continue
        try:
            _filled(path, {name: _plain(value) for name, value in first.items()})
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"inputs.paths[{number}]: {path!r}: {error}", "such as {redshift:.3f}, {phase} or {run:04d}"
            ) from None


def _check_names(names: Iterable[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: there is no parameter {name!r}", near(name, known) or "add it to the space")


def without(
    inputs: Inputs, columns: Mapping[str, Row], trials: int, exists: Callable[[str], bool] = os.path.exists
) -> npt.NDArray[np.bool_]:
    """Which trials lack an input, (trials,): their own, or that of another of their realization.

    Arguments:
    - `columns`: values of the parameters, one a trial; None where a trial has no such parameter.
    - `exists`: whether there is such a file; asked once for each path, from several threads.
    """
    lacking = np.zeros(trials, bool)
    coded = {name: _coded(columns[name]) for name in inputs.names}
    wanted = [_paths_of(path, coded, trials) for path in inputs.paths]
    there = _looked_up(dict.fromkeys(path for paths, _ in wanted for path in paths), exists)
    for paths, codes in wanted:
        gone = np.array([not there[path] for path in paths], bool)
        asked = codes != ABSENT
        lacking[asked] |= gone[codes[asked]]
    if inputs.together:
        lacking |= _with_their_kin(lacking, [coded[name][1] for name in inputs.together])
    return lacking


def paths_of(inputs: Inputs, parameters: Mapping[str, Any]) -> list[str]:
    """Paths that one trial needs, in the order of the templates."""
    known = {name: value for name, value in parameters.items() if value is not None}
    return [_filled(path, known) for path in inputs.paths if known.keys() >= set(fields(path))]


def missing_of(inputs: Inputs, parameters: Mapping[str, Any]) -> list[str]:
    """Paths that one trial needs and that are not there."""
    return [path for path in paths_of(inputs, parameters) if not os.path.exists(path)]  # noqa: PTH110


def _paths_of(template: str, coded: Mapping[str, tuple[list[Any], Codes]], trials: int) -> tuple[list[str], Codes]:
    """The distinct paths of a template, and for each trial the place of its own; `ABSENT` where it asks for none."""
    names = fields(template)
    codes, firsts = _combined([coded[name][1] for name in names], trials)
    values = [[coded[name][0][coded[name][1][first]] for name in names] for first in firsts]
    return [_filled(template, dict(zip(names, found, strict=True))) for found in values], codes


def _combined(columns: Sequence[Codes], trials: int) -> tuple[Codes, Codes]:
    """Number the combinations of some columns' codes; the first trial of each. `ABSENT` where one is absent."""
    combined = np.zeros(trials, np.int64)
    applies = np.ones(trials, bool)
    for codes in columns:
        applies &= codes != ABSENT
        combined = combined * (int(codes.max(initial=0)) + 1) + np.maximum(codes, 0)
        _, combined = np.unique(combined, return_inverse=True)
    found = np.full(trials, ABSENT, np.int64)
    _, first, own = np.unique(combined[applies], return_index=True, return_inverse=True)
    found[applies] = own.reshape(-1)
    return found, np.flatnonzero(applies)[first]


def _with_their_kin(lacking: npt.NDArray[np.bool_], columns: Sequence[Codes]) -> npt.NDArray[np.bool_]:
    codes, firsts = _combined(columns, len(lacking))
    struck = np.zeros(len(firsts) + 1, bool)
    struck[codes[lacking]] = True
    struck[ABSENT] = False
    return np.asarray(struck[codes])


def _coded(values: Row) -> tuple[list[Any], Codes]:
    """A column as its distinct values and codes."""
    if values.dtype != object:
        distinct, codes = np.unique(values, return_inverse=True)
        return [_plain(value) for value in distinct], codes.reshape(-1).astype(np.int64)
    places: dict[Any, int] = {}
    found = [ABSENT if value is None else places.setdefault(value, len(places)) for value in values.tolist()]
    return [_plain(value) for value in places], np.array(found, np.int64)


def _looked_up(paths: Iterable[str], exists: Callable[[str], bool]) -> dict[str, bool]:
    listed = list(paths)
    pieces = [listed[i : i + PIECE] for i in range(0, len(listed), PIECE)]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(lambda piece: [exists(path) for path in piece], pieces)
        return dict(zip(listed, (answer for piece in answers for answer in piece), strict=True))


class _Whole(string.Formatter):
    """Takes a dotted name for one name, not for an attribute."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        return kwargs[field_name], field_name


def _filled(template: str, values: Mapping[str, Any]) -> str:
    return _Whole().vformat(template, (), values)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
