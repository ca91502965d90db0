"""What a program records: names, shapes and axes of its outputs, and all that may be wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from staffa.cells import CELLS
from staffa.errors import PluginError, near
from staffa.experiment.extracts import extracts_of
from staffa.experiment.protocol import RESERVED, TABLES, Experiment, Output, Schema
from staffa.experiment.registry import located

ENGINE_DIMS = frozenset({"trial", "chain", "draw"})
"""Axes the engine adds itself; an output's own axes have other names."""


def schema_of(
    experiment: Experiment,
    recorded: Mapping[str, tuple[tuple[int, ...], Any]],
    drawn: int,
    state_bytes: int,
    encoded: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Schema:
    """Describe recorded arrays; `drawn` is 1 where a draw axis stands in the shapes.

    Arguments:
    - `recorded`: shapes, and element types or their names.
    - `encoded`: of what is no number the fields of `Output` that tell of its encoding.

    Raises `PluginError` for axes and ragged outputs that do not fit together.
    """
    outputs = tuple(
        replace(_output(experiment, name, shape, dtype, drawn), **encoded.get(name, {}))
        for name, (shape, dtype) in recorded.items()
    )
    _check_known(experiment, outputs)
    _check_encodings(experiment, outputs)
    _check_axes(experiment, outputs)
    _check_ragged(experiment, {output.name: output for output in outputs})
    coords = {axis: tuple(np.asarray(values).tolist()) for axis, values in experiment.coords.items()}
    _check_coords(experiment, coords, outputs)
    return Schema(outputs, coords, state_bytes, extracts=extracts_of(experiment, outputs))


def check_names(experiment: Experiment, outputs: Mapping[str, Any]) -> None:
    """Refuse outputs that could not be stored and archived under their names."""
    if not outputs:
        raise _refused(experiment, f"{type(experiment).__name__}.step returns no outputs: there is nothing to record")
    for name in outputs:
        if name in RESERVED:
            raise _refused(experiment, f"output {name!r} has the name of a column the archive uses itself", "rename it")
        if not all(word.isidentifier() for word in name.split(".")):
            branch = name.rpartition(".")[0]
            whole = f', or record the dict whole: encodings = {{"{branch}": "json"}}' if branch else ""
            raise _refused(experiment, f"output {name!r}: names are words such as energy", f"rename it{whole}")


def check_outputs(experiment: Experiment, outputs: Mapping[str, Any]) -> None:
    """Refuse what a JAX program cannot record."""
    check_names(experiment, outputs)
    for name, value in outputs.items():
        if getattr(value.dtype, "kind", "V") not in "fiub":
            raise _refused(
                experiment,
                f"output {name!r} has dtype {value.dtype}: only numbers and bools can be recorded",
                "record .real and .imag, .astype(jnp.float32), or jax.random.key_data(key)",
            )


def flatten(outputs: Any, whole: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts of outputs to dotted names.

    Arguments:
    - `whole`: dotted names of values that are no branches, even if they are dicts.
    """
    if not isinstance(outputs, Mapping):
        raise PluginError(f"step must return (state, dict of outputs), not {type(outputs).__name__} for the outputs")
    flat: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in whole:
            flat |= flatten(value, whole, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def has_chains(experiment: Experiment, name: str) -> bool:
    """Whether an output's first own axis is the chain axis."""
    return tuple(experiment.dims.get(name, ()))[:1] == ("chain",)


def _output(experiment: Experiment, name: str, shape: tuple[int, ...], dtype: Any, drawn: int) -> Output:
    word = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    drawn = 0 if word == CELLS else drawn
    chained = has_chains(experiment, name)
    own, names = shape[drawn + chained :], tuple(experiment.dims.get(name, ()))[chained:]
    if len(shape) < drawn + chained or (names and len(names) != len(own)):
        given, axes = experiment.dims[name], len(shape) - drawn
        raise _refused(experiment, f"dims[{name!r}] = {given!r} names {len(given)} axes, but the output has {axes}")
    if 0 in shape:
        raise _refused(
            experiment,
            f"output {name!r} is empty: its shape is {list(shape[drawn:])}",
            f'of plain Python, where its length differs: encodings = {{"{name}": "ragged"}}',
        )
    table, length = _ragged(experiment, name)
    dims = names or tuple(f"{name}_{axis}" for axis in range(len(own)))
    return Output(name, word, own, dims, shape[0] if chained else 0, table, length)


def _check_known(experiment: Experiment, outputs: tuple[Output, ...]) -> None:
    """Refuse names in `dims` and `coords` that nothing has: they would say nothing, in silence."""
    names = {output.name for output in outputs}
    for name in experiment.dims:
        if name not in names:
            raise _refused(experiment, f"dims[{name!r}]: step records no output {name!r}", _meant(name, names, "dims"))
    axes = {axis for output in outputs for axis in output.dims} | {"chain" for output in outputs if output.chains}
    for axis in experiment.coords:
        if axis not in axes | names:
            raise _refused(
                experiment, f"coords[{axis!r}]: no output has an axis {axis!r}", _meant(axis, axes, "coords")
            )


def _check_encodings(experiment: Experiment, outputs: tuple[Output, ...]) -> None:
    own = {output.name: output for output in outputs}
    for name in experiment.encodings:
        if name not in own:
            raise _refused(
                experiment,
                f"encodings[{name!r}]: step records no output {name!r}",
                _meant(name, own, "encodings"),
            )
        if not own[name].encoding:
            raise _refused(
                experiment,
                f"encodings[{name!r}]: a JAX program records numbers and bools",
                'encodings are for plain Python: vectorize = "off"',
            )


def _meant(name: str, known: Iterable[str], attribute: str) -> str:
    hint = near(name, known)
    own = f"where it depends on an option, set self.{attribute} in __init__"
    return f"{hint} ({own})" if hint else own


def _check_axes(experiment: Experiment, outputs: Iterable[Output]) -> None:
    """One name, one axis: within an output, and one length across outputs, as xarray wants it."""
    lengths: dict[str, tuple[int, str]] = {}
    for output in outputs:
        twice = [axis for axis, count in Counter(output.dims).items() if count > 1]
        for axis in [*twice, *(axis for axis in output.dims if axis in ENGINE_DIMS)]:
            reason = "twice" if axis in twice else "but the engine adds that axis itself"
            raise _refused(experiment, f"dims[{output.name!r}] = {output.dims!r} names {axis!r} {reason}", "rename it")
        own = (
            *zip(output.dims, output.shape, strict=True),
            *((("chain", output.chains),) if output.chains else ()),
        )
        for axis, length in own:
            known, other = lengths.setdefault(axis, (length, output.name))
            if known != length:
                raise _refused(
                    experiment,
                    f"axis {axis!r} has length {known} in output {other!r}, but {length} in {output.name!r}",
                    "give axes of different lengths different names in dims",
                )


def _check_coords(experiment: Experiment, coords: Mapping[str, tuple[Any, ...]], outputs: Iterable[Output]) -> None:
    for output in outputs:
        if output.name in coords:
            raise _refused(experiment, f"{output.name!r} is an output and an axis in coords", "rename one")
        for axis, length in zip(output.dims, output.shape, strict=True):
            given = len(coords.get(axis, range(length)))
            if given != length:
                raise _refused(
                    experiment,
                    f"coords[{axis!r}] has {given} values, but in {output.name!r} it has length {length}",
                )


def _check_ragged(experiment: Experiment, outputs: Mapping[str, Output]) -> None:
    for table, length in experiment.ragged.items():
        place = f"ragged[{table!r}]"
        members = [output for output in outputs.values() if output.table == table]
        if length not in outputs:
            raise _refused(experiment, f"{place} = {length!r}: there is no output {length!r}")
        if not members:
            raise _refused(experiment, f"{place}: there is no output {table!r}")
        if table in TABLES or "." in table:
            raise _refused(experiment, f"{place}: the archive cannot have a table of this name", "rename it")
        counter = outputs[length]
        if counter.table or counter.shape or np.dtype(counter.dtype).kind not in "iu":
            raise _refused(experiment, f"{place} = {length!r}: the length is one integer a draw, outside the table")
        firsts = {output.shape[:1] for output in members}
        if len(firsts) != 1 or () in firsts:
            shapes = {output.name: list(output.shape) for output in members}
            raise _refused(experiment, f"{place}: its outputs need one common padded first axis, not {shapes}")


def _ragged(experiment: Experiment, name: str) -> tuple[str, str]:
    for table, length in experiment.ragged.items():
        if name == table or name.startswith(table + "."):
            return table, length
    return "", ""


def _refused(experiment: Experiment, message: str, hint: str = "") -> PluginError:
    return PluginError(f"{located(type(experiment))}{message}", hint)
