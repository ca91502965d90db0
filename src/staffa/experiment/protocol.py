"""What a scientist writes: one class, two or three pure functions.

    class Walk(staffa.Experiment):
        static = ("steps",)
        dims = {"x": ("dimension",)}
        def initialize(self, key, params): ...          # -> state
        def step(self, key, state, params): ...         # -> state, {"x": ..., "energy": ...}

Nothing here imports JAX, so that naming an experiment costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from staffa.errors import near
from staffa.experiment.parameters import Parameter

Vectorize = Literal["vmap", "map", "off"]

RESERVED = frozenset(
    {
        "trial",
        "replicate",
        "chain",
        "draw",
        "outcome",
        "sampler",
        "item",
        "group",
        "batch",
        "status",
        "seconds",
        "checksum",
        "identity",
    }
)
"""Names of columns of the archive and arrays of the hot store that Staffa uses itself."""

RESERVED_PARAMETERS = RESERVED | {"attempts", "node", "message", "state", "index", "row"}
"""Parameters also stand in the tables of trials and of failures, and in the list of all trials."""

SUMMARIES = ("count", "mean", "sd", "min", "max", "ess", "ess_tail", "rhat", "mcse", "mcse_sd")
"""What the table of trials says of each output `x`, in columns `x.mean` and so on: the moments of its draws,
and from `ess` on how far they can be trusted (`experiment.diagnostics`)."""

VARIABLE = ("string", "bytes")
"""Element types of variable length (`staffa.cells`)."""

TABLES = frozenset({"draws", "trials", "failed"})
"""Tables every archive has."""


class Experiment:
    """How one trial is done.

    Subclass it in a file of its own and write `initialize` and `step` (and, where the
    sampler has a warm-up, `adapt`) in pure JAX. Options are the keyword arguments of
    `__init__`; a campaign file gives them beside `use:`. The engine compiles the loop.

    An experiment that has to know how long its warm-up will be says so as `self.warmup`; a campaign
    with another `sampling.warmup` is refused.
    """

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    """What the experiment takes: `{"kernel.width": staffa.Parameter(1.0, comment="…", unit="mm", range=(0.1, 10))}`.
    A campaign presets the values in `parameters:` or explores them; where an experiment declares any, other names
    are refused. What has a value need not be mentioned by a campaign."""

    static: ClassVar[tuple[str, ...]] = ()
    """Parameters that change the compiled program (sizes, counts, choices): given as plain
    Python values, one program for each combination. Strings are always static. Those of the class
    must be parameters of the campaign; an object may name more, which count where they are."""

    cpu_lanes: ClassVar[int | None] = None
    """The most trials worth computing side by side on a CPU; None for as many as keep their states in its cache.
    Fewer are, where steps take as long as they need (side by side all lanes wait for the longest trajectory) or work
    on much more than the state they carry (a gradient over every layer)."""

    dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Names of each output's own axes, for xarray and Parquet. A first axis named `chain` is
    the chain axis."""

    coords: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Values along a named axis."""

    ragged: ClassVar[Mapping[str, str]] = {}
    """Outputs whose first axis is padded, and the output that holds its true length:
    `{"galaxies": "count"}`. Each is archived as a table of its own."""

    encodings: ClassVar[Mapping[str, Any]] = {}
    """Of plain Python (`vectorize = "off"`): how outputs are recorded whose values do not tell it by themselves, by the
    name of an encoding or a block: `{"path": "ragged", "notes": "json", "phase": {"use": "category", "categories":
    ["ice", "water"]}}`. Text, times, frames, sparse matrices and lists need no word (docs/results.md)."""

    summaries: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Further columns of the table of trials, each (how, output): `{"log_z.last": ("last", "log_z")}`.
    `sum`, `min` and `max` are over all a trial recorded; `first` and `last` are of its draws; `("argmax",
    "fitness", "sequence")` is the sequence where the fitness was greatest, `argmin` likewise."""

    vectorize: ClassVar[Vectorize] = "vmap"
    """`vmap`: lanes side by side (fast). `map`: one after another in one program, for samplers
    whose lanes differ much in length. `off`: plain Python or NumPy; `key` is then a
    `numpy.random.SeedSequence`, made for `numpy.random.default_rng(key)`."""

    def initialize(self, key: Any, params: Mapping[str, Any]) -> Any:
        """Make the state before the first step: any pytree."""
        raise NotImplementedError

    def step(self, key: Any, state: Any, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Do one step: the new state, and a dict of outputs to record."""
        raise NotImplementedError

    @classmethod
    def adapts(cls) -> bool:
        """Whether the class has a warm-up `adapt(key, state, params) -> state`."""
        return callable(getattr(cls, "adapt", None))


class UnknownParameter(KeyError):
    """`params[name]` was asked for a parameter that the campaign's space does not give."""

    def __str__(self) -> str:
        return str(self.args[0])


class Params(Mapping[str, Any]):
    """The parameters of one trial, read-only: traced scalars, and static Python values.

    Arguments:
    - `inputs`: the files that the campaign's section `inputs` asks for of this trial, absolute, in the order of its
      templates. For plain Python (`vectorize = "off"`); a JAX program is one for many trials and opens none.
    """

    def __init__(self, values: Mapping[str, Any], inputs: Sequence[str] = ()) -> None:
        self._values = dict(values)
        self.inputs = tuple(inputs)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            hint = near(name, self._values) or "the space has no parameters"
            raise UnknownParameter(f"params[{name!r}]: no such parameter; {hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Params({self._values!r})"


@dataclass(frozen=True)
class Sampling:
    """How often a step is done and what is kept of it."""

    draws: int | None = None
    """Recorded draws; None makes the experiment one shot: one step, no draw axis."""
    thin: int = 1
    """Steps to a draw; the last one's outputs are kept."""
    discard: int = 0
    """Draws thrown away before the first that is kept."""
    warmup: int = 0
    """Calls of `adapt` before that."""
    segments: int = 1
    """Pieces of the draw axis, each sampled, written and checkpointed on its own."""

    @property
    def segment_draws(self) -> int:
        return 1 if self.draws is None else self.draws // self.segments

    @property
    def warm_segments(self) -> int:
        """Tasks of the warm-up: as many as there are segments, or the one that initializes."""
        return self.segments if self.warmup or self.discard else 1


@dataclass(frozen=True)
class Output:
    """One recorded array, as `jax.eval_shape` (or the pilot trial) found it."""

    name: str
    dtype: str
    """Element type in the hot store: NumPy's name, or a word of `staffa.cells`."""
    shape: tuple[int, ...]
    """Own shape: without trial, chain and draw axes."""
    dims: tuple[str, ...]
    """Names of the own axes."""
    chains: int = 0
    """Length of the chain axis; 0 where the output has none."""
    table: str = ""
    """For a ragged output the table it belongs to."""
    length: str = ""
    """For a ragged output the output that holds its true length."""
    encoding: str = ""
    """For what is no number how it is encoded, as `experiment.encoded` tells it."""
    type: str = ""
    """… and the Arrow type of its column, as `cells.type_text` writes it."""
    categories: tuple[Any, ...] = ()
    """… and what its codes stand for, from 1 on."""
    cell: float = 0.0
    """Bytes of an element of variable length, as the pilot trial had them."""

    @property
    def numeric(self) -> bool:
        """Whether its elements are numbers or bools."""
        return not self.encoding

    @property
    def kind(self) -> str:
        """What it is, in a word or two: `float32[3]`, `frame`, `datetime`."""
        import json

        word = json.loads(self.encoding)["use"] if self.encoding else self.dtype
        return f"{word}{list(self.shape)}" if self.shape else str(word)

    @property
    def size(self) -> int:
        """Elements a trial records at one draw."""
        total = max(self.chains, 1)
        for extent in self.shape:
            total *= extent
        return total

    @property
    def bytes(self) -> int:
        """Bytes a trial records at one draw, uncompressed."""
        if self.dtype in VARIABLE:
            return max(math.ceil(self.size * self.cell), 1)
        # `import staffa` goes without NumPy.
        import numpy as np

        return self.size * (2 if self.dtype == "bfloat16" else int(np.dtype(self.dtype).itemsize))


@dataclass(frozen=True)
class Extract:
    """A column of the table of trials: `how` of an output (`experiment.extracts`)."""

    name: str
    how: str
    output: str
    by: str = ""
    """For `argmin` and `argmax` the output that is extreme where `output` is taken."""


@dataclass(frozen=True)
class Schema:
    """What a program records."""

    outputs: tuple[Output, ...]
    coords: Mapping[str, tuple[Any, ...]]
    state_bytes: int = 0
    """Bytes of state one trial carries between segments."""
    pilot_seconds: float | None = None
    """Seconds the pilot trial took, where one was needed (`vectorize: off`)."""
    extracts: tuple[Extract, ...] = ()
    """What else stands in a trial's row."""
