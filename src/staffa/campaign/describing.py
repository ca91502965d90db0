"""What the groups of a plan record: each program is described once, or lent what another one records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from staffa.campaign.plan import Describe, Group
from staffa.errors import PilotError, PluginError
from staffa.experiment.protocol import Schema
from staffa.trial import Scalar, canonical

HOPELESS = 8
"""Programs of an experiment of which no trial works: that many at first, and it is refused."""

Known = dict[str, tuple[Group, Schema]]


def described_by(
    drafts: Sequence[Group],
    options: Sequence[Mapping[str, Scalar]],
    tries: Callable[[Sequence[int]], Iterator[Mapping[str, Scalar]]],
    describe: Describe,
    before: Sequence[Group],
) -> list[tuple[Group, Schema]]:
    """Describe each program once, however many groups share it, and none that was described before.

    A program of which no trial works, as far as was tried, is taken to record what another one of the same experiment
    does: its trials run as all others, and each tells what is wrong with it.

    Arguments:
    - `options`: of each draft those of its experiment that the space varies.
    - `tries`: parameters of trials that belong to some drafts, by their places.

    Raises `PluginError` for what cannot be described, `PilotError` where no trial of an experiment works.
    """
    places: dict[str, list[int]] = {}
    for place, group in enumerate(drafts):
        places.setdefault(_program(group), []).append(place)
    known: Known = {_program(group): (group, _schema(group)) for group in before}
    lacking: dict[str, tuple[Group, PilotError]] = {}
    for name, own in places.items():
        if name in known:
            continue
        group = drafts[own[0]]
        try:
            known[name] = group, describe(group, tries(own))
        except PilotError as error:
            lacking[name] = group, error
            _check_hope(group, known, lacking)
        except PluginError as error:
            raise _told(error, {**group.static, **options[own[0]]}, len(places)) from error
    lent = {name: (group, _lent(group, known, error)) for name, (group, error) in lacking.items()}
    return [_with(group, (known | lent)[_program(group)][1]) for group in drafts]


def _program(group: Group) -> str:
    return canonical([group.experiment, group.static, group.traced])


def _schema(group: Group) -> Schema:
    return Schema(group.outputs, group.coords, group.state_bytes, group.pilot_seconds, group.extracts)


def _with(group: Group, schema: Schema) -> tuple[Group, Schema]:
    told = replace(
        group,
        outputs=schema.outputs,
        coords=dict(schema.coords),
        state_bytes=schema.state_bytes,
        pilot_seconds=schema.pilot_seconds,
        extracts=schema.extracts,
    )
    return told, schema


def _check_hope(group: Group, known: Known, lacking: Mapping[str, tuple[Group, PilotError]]) -> None:
    """Refuse an experiment that never worked, before all its programs are tried: a slip in it hits every trial."""
    errors = [error for other, error in lacking.values() if other.sampler == group.sampler]
    if len(errors) >= HOPELESS and not _alike(group, known):
        raise errors[0]


def _alike(group: Group, known: Known) -> list[tuple[Group, Schema]]:
    return [(other, schema) for other, schema in known.values() if other.sampler == group.sampler]


def _lent(group: Group, known: Known, error: PilotError) -> Schema:
    """What the likest program of the same experiment records; where there is none, nothing of it works."""
    found = _alike(group, known)
    if not found:
        raise error
    own = {*_leaves(group.experiment)}
    return max(found, key=lambda other: len(own & {*_leaves(other[0].experiment)}))[1]


def _leaves(block: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}={value!r}"


def _told(error: PluginError, values: Mapping[str, Scalar], programs: int) -> PluginError:
    """The same, and which of several programs it is."""
    if programs == 1 or not values:
        return error
    which = ", ".join(f"{name}={value}" for name, value in values.items())
    return type(error)(f"{error.message} (with {which})", error.hint)
