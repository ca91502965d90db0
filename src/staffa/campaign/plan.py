"""What will run, before anything does: trials, groups, batches, parts.

The plan is frozen with the workspace (`metadata/plan-<generation>.json`): workers and later
drivers read it, nobody computes it twice. Everything that can be refused is refused here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.inputs import Inputs
from staffa.campaign.points import Points
from staffa.experiment.parameters import Parameter
from staffa.experiment.protocol import Extract, Output, Sampling, Schema
from staffa.trial import Scalar, canonical, tupled

Describe = Callable[["Group", Iterable[Mapping[str, Scalar]]], Schema]
"""What a group's program records; given the group, and the parameters of its trials, the first one first."""


@dataclass(frozen=True)
class Group:
    """Trials that share one program and one archive partition."""

    name: str
    sampler: str
    """The experiment's reference, as the archive's column `sampler` shows it."""
    experiment: dict[str, Any]
    """The experiment block with the space's dotted paths filled in."""
    static: dict[str, Scalar]
    traced: dict[str, str]
    """Declared types of the parameters the program takes."""
    partition: dict[str, Scalar | None]
    trials: int
    batch: int
    outputs: tuple[Output, ...] = ()
    coords: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    state_bytes: int = 0
    vectorize: str = "vmap"
    generation: int = 0
    """When it joined the campaign: its store stands in `hot/<generation>/`."""
    pilot_seconds: float | None = None
    extracts: tuple[Extract, ...] = ()
    """What else stands in a trial's row."""

    @property
    def label(self) -> str:
        """What its trials have in common: `nuts, population=64`."""
        values = {**self.partition, **self.static}
        return ", ".join([self.sampler, *(f"{name}={value}" for name, value in values.items())])

    @property
    def batches(self) -> int:
        return math.ceil(self.trials / self.batch)

    def size(self, batch: int) -> int:
        """Trials in a batch: the last one may have fewer than the rest."""
        return min(self.batch, self.trials - batch * self.batch)


@dataclass(frozen=True)
class Part:
    """A fixed run of batches that becomes one Parquet file a table."""

    name: str
    group: int
    first: int
    last: int
    """One past the last batch."""

    def batches(self) -> range:
        return range(self.first, self.last)


@dataclass(frozen=True)
class Search:
    """What of a search has to be known wherever its trials are done.

    Arguments:
    - `trials`: how many are asked for at most; each group has rows for so many.
    - `objectives`: name and column (or formula of columns) of each.
    - `rungs`: segments after which trials are compared; empty for never.
    """

    trials: int
    objectives: tuple[tuple[str, str], ...]
    rungs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A campaign, frozen, as it stands since its latest generation.

    A campaign grows by generations: the plan of each holds all groups and parts of the one before,
    unchanged and first, then its own.
    """

    generation: int
    trials: int
    merged: int
    """Duplicated points that were merged away."""
    seed: int
    """Seed of the `trials` channel."""
    code: str
    """Digest of the code snapshot."""
    sampling: Sampling
    x64: bool
    prng: str
    width: str | int
    timeout: float | None
    compression: str
    level: int
    parameters: tuple[tuple[str, str], ...]
    """All parameters of the campaign with their declared types."""
    partition_by: tuple[str, ...]
    groups: tuple[Group, ...]
    parts: tuple[Part, ...]
    inputs: Inputs = field(default_factory=Inputs)
    """Files that trials need."""
    summaries: tuple[str, ...] = ("count", "mean", "sd", "min", "max")
    """What the table of trials says of each output; plans that do not tell are older than the other words."""
    diagnosed: int = 1
    """Elements an output may have for the words that are not moments."""
    about: Mapping[str, Parameter] = field(default_factory=dict)
    """What is declared of the parameters, as far as anything is."""
    explored: tuple[str, ...] = ()
    """Parameters that the space gives; the others are constant, or derived."""
    search: Search | None = None
    """Where trials are asked for as results come in: groups have rows for all that might be."""

    @property
    def constants(self) -> dict[str, Scalar]:
        """Declared parameters that every trial has one value of."""
        given = {name: said.value for name, said in self.about.items() if name not in self.explored}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def formulas(self) -> dict[str, str]:
        """Of derived parameters how they are derived."""
        return {name: said.derived for name, said in self.about.items() if said.derived and name not in self.explored}

    @property
    def batches(self) -> int:
        if self.search is not None:  # any group may get them all
            return math.ceil(self.search.trials / max(group.batch for group in self.groups))
        return sum(group.batches for group in self.groups)

    @property
    def programs(self) -> int:
        """Distinct programs to compile (width apart)."""
        return len({canonical([g.experiment, g.static, g.traced, g.vectorize, g.batch]) for g in self.groups})

    @property
    def identity(self) -> str:
        """16 hexadecimal characters for what was planned first; the same however the campaign grows."""
        first = self.groups[0]
        said = [self.code, self.seed, asdict(self.sampling), self.x64, self.prng, first.experiment, first.static]
        return hashlib.sha256(canonical([*said, first.trials, first.batch]).encode()).hexdigest()[:16]

    def outputs(self) -> tuple[Output, ...]:
        """All outputs of all groups, each once; an extent that differs between groups is 0."""
        found: dict[str, Output] = {}
        for group in self.groups:
            for output in group.outputs:
                known = found.setdefault(output.name, output)
                shape = tuple(a if a == b else 0 for a, b in zip(known.shape, output.shape, strict=True))
                found[output.name] = replace(known, shape=shape)
        return tuple(found.values())

    def extracts(self) -> tuple[Extract, ...]:
        """What else stands in the rows of trials, of all groups, each once."""
        return tuple({extract.name: extract for group in self.groups for extract in group.extracts}.values())

    def dumps(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> Plan:
        fields = json.loads(text)
        fields["sampling"] = Sampling(**fields["sampling"])
        fields["groups"] = tuple(_group(values) for values in fields["groups"])
        fields["parts"] = tuple(Part(**values) for values in fields["parts"])
        fields["parameters"] = tuple((name, kind) for name, kind in fields["parameters"])
        fields["partition_by"] = tuple(fields["partition_by"])
        fields["summaries"] = tuple(fields.get("summaries", cls.summaries))
        fields["explored"] = tuple(fields.get("explored", dict(fields["parameters"])))
        fields["about"] = {name: Parameter(**said) for name, said in fields.get("about", {}).items()}
        if fields.get("search"):
            said = fields["search"]
            objectives = tuple((name, of) for name, of in said["objectives"])
            fields["search"] = Search(said["trials"], objectives, tuple(said["rungs"]))
        if "inputs" in fields:
            fields["inputs"] = Inputs(**{name: tuple(words) for name, words in fields["inputs"].items()})
        return cls(**fields)


@dataclass(frozen=True)
class Rows:
    """The trials of a plan, column by column, in campaign order; replicates vary fastest."""

    points: Points
    replicates: int
    digests: npt.NDArray[np.uint8]
    """(trials, 16)."""
    kept: npt.NDArray[np.int64]
    """Rows of points x replicates that are trials (all, unless duplicates were merged, or stood before)."""
    group: npt.NDArray[np.int32]
    """Of each trial the number of its group in the plan."""
    declared: npt.NDArray[np.uint8]
    """Names of all trials of the space, those that stood before included."""

    def none(self) -> Rows:
        """The same columns, and no trial: those of a search are not known before it runs."""
        nobody, names = np.zeros(0, np.int64), np.zeros((0, self.digests.shape[1]), np.uint8)
        return replace(self, digests=names, kept=nobody, group=nobody.astype(np.int32), declared=names)

    def members(self, group: int) -> npt.NDArray[np.int64]:
        """Positions in `kept` of a group's trials."""
        return np.flatnonzero(self.group == group)

    def replicate(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.asarray(self.kept[positions] % self.replicates, np.int64)

    def column(self, name: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Values of a parameter; None (in an object array) where a trial has no such parameter."""
        found = next((column for column in self.points.columns if column.name == name), None)
        if found is None:
            return np.full(len(positions), None, dtype=object)
        codes = found.codes[self.kept[positions] // self.replicates]
        if found.type == "str" or (codes < 0).any():
            values = np.array([*found.values, None], dtype=object)
            return values[codes]
        dtype = {"int": np.int64, "float": np.float64, "bool": np.bool_}[found.type]
        return np.array(found.values, dtype=dtype)[codes]


@dataclass(frozen=True)
class Earlier:
    """What a campaign that grows has already.

    Arguments:
    - `digests`: (trials, 16): the names of all its trials.
    """

    plan: Plan
    digests: npt.NDArray[np.uint8]


def group_parameters(plan: Plan, rows: Rows, number: int) -> dict[str, npt.NDArray[Any]]:
    """The parameter columns that a group's hot store keeps beside its data."""
    positions = rows.members(number)
    columns = {name: rows.column(name, positions) for name, _ in plan.parameters}
    own = {
        *plan.groups[number].static,
        *plan.groups[number].traced,
        *(n for n in columns if n.startswith("experiment.")),
    }
    present = {name: values for name, values in columns.items() if not _absent(values, name in own)}
    return {**present, "replicate": rows.replicate(positions)}


def bytes_per_trial(group: Group, draws: int | None) -> int:
    """Bytes of recorded outputs, uncompressed."""
    return sum(output.bytes for output in group.outputs) * max(draws or 1, 1)


def _absent(values: npt.NDArray[Any], own: bool) -> bool:
    """Whether a group has no such parameter; of one without trials, whether it takes none."""
    return values.dtype == object and (all(value is None for value in values[:1]) if len(values) else not own)


def _group(values: dict[str, Any]) -> Group:
    outputs = tuple(Output(**tupled(output)) for output in values.pop("outputs"))
    coords = {name: tuple(found) for name, found in values.pop("coords").items()}
    extracts = tuple(Extract(**found) for found in values.pop("extracts", ()))
    return Group(outputs=outputs, coords=coords, extracts=extracts, **values)
