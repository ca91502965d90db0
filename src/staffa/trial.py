"""What one trial is called and how it can end.

A trial's name is the digest of what it computes: the experiment's reference
and options, the parameters in canonical form, the replicate. Of a derived
parameter the formula is named, not the value: that follows, and its last bit
may differ between machines. Neither its
place in the campaign nor the code enters: a campaign may grow or be reordered
and every finished trial keeps its name.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from staffa.errors import ConfigError

DIGEST_BYTES = 16
"""128 bits: a collision among 1e6 trials has probability 1.5e-27."""

Scalar = bool | int | float | str


class Outcome(enum.IntEnum):
    """How a trial ended; the number is what stands in the store's `status` array."""

    MISSING = 0
    """Nothing was committed (the array's fill value)."""
    OK = 1
    """Data stand in the store and hold no NaN."""
    NAN = 2
    """Data stand in the store and hold a NaN (an infinity may be a legitimate value)."""
    RAISED = 3
    """The experiment raised; no data."""
    TIMEOUT = 4
    """The trial ran past `execution.timeout`; no data."""
    KILLED = 5
    """The trial took its process down; no data."""
    CANCELLED = 6
    """Somebody decided that the trial is not to be run; no data."""
    MISSING_INPUT = 7
    """A file the trial needs (`inputs`) is not there; no data."""
    HOPELESS = 8
    """A search gave the trial up between two segments: others were better by then; no data."""
    PADDING = 255
    """No trial: the row only fills up a shard."""

    @property
    def has_data(self) -> bool:
        return self in (Outcome.OK, Outcome.NAN)

    @property
    def failed(self) -> bool:
        return self in (Outcome.RAISED, Outcome.TIMEOUT, Outcome.KILLED)

    @property
    def exempt(self) -> bool:
        """Whether the trial has no data by somebody's decision and, as things stand, is not to have any."""
        return self in (Outcome.CANCELLED, Outcome.MISSING_INPUT, Outcome.HOPELESS)

    @property
    def word(self) -> str:
        return self.name.lower()


def canonical(value: Any) -> str:
    """Write a value so that equal values, and only they, give equal text.

    Keys are sorted; `1` and `1.0` differ (their type is declared by how they are
    written); `-0.0` is `0.0`. Raises `ConfigError` for what has no canonical
    form (NaN, infinities, objects).
    """
    if isinstance(value, float):  # first: millions of sampled parameters come this way
        if math.isfinite(value):
            return repr(float(value) + 0.0)
        raise ConfigError(f"{value!r} cannot be a parameter", "use a finite number")
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True)
    if isinstance(value, Mapping):
        items = sorted((str(k), v) for k, v in value.items())
        return "{" + ",".join(f"{json.dumps(k)}:{canonical(v)}" for k, v in items) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(canonical(v) for v in value) + "]"
    raise ConfigError(f"{value!r} ({type(value).__name__}) cannot be part of a trial's identity")


def tupled(value: Any) -> Any:
    """JSON with tuples for its lists, as frozen dataclasses have them."""
    if isinstance(value, list):
        return tuple(map(tupled, value))
    return {name: tupled(one) for name, one in value.items()} if isinstance(value, dict) else value


def experiment_text(reference: str, options: Mapping[str, Any], derived: Mapping[str, Any] | None = None) -> str:
    """The canonical text of what is run: the experiment's reference name and its options.

    Arguments:
    - `derived`: by name the formulas of derived parameters, where there are any.
    """
    formulas = {"derived": dict(derived)} if derived else {}
    return canonical({**formulas, "options": dict(options), "use": reference})


def parameter_texts(name: str, values: Iterable[Scalar]) -> list[bytes]:
    """A parameter with each of some values, as it stands in the bytes that are hashed."""
    key = json.dumps(name)
    return [f"{key}:{canonical(value)}".encode() for value in values]


def digests(
    experiments: Sequence[str],
    codes: Iterable[int],
    parameters: Iterable[bytes],
    replicates: Sequence[int],
) -> Iterator[bytes]:
    """Name trials in bulk: every point with every replicate, the replicate varying fastest.

    Arguments:
    - `experiments`: the distinct canonical texts of experiments, see `experiment_text`.
    - `codes`: for each point the place of its experiment in `experiments`.
    - `parameters`: for each point its parameters: `parameter_texts` of each that
      it has, sorted by name, joined by commas.
    - `replicates`: the replicates of every point.

    What is hashed is the canonical text of
    `{"experiment": ..., "parameters": {...}, "replicate": ...}`.
    """
    starts = [hashlib.sha256(f'{{"experiment":{text},"parameters":{{'.encode()) for text in experiments]
    tails = [f'}},"replicate":{int(replicate)}}}'.encode() for replicate in replicates]
    for code, body in zip(codes, parameters, strict=True):
        start = starts[code]
        for tail in tails:
            state = start.copy()
            state.update(body + tail)
            yield state.digest()[:DIGEST_BYTES]


def digest(
    reference: str,
    options: Mapping[str, Any],
    parameters: Mapping[str, Scalar],
    replicate: int = 0,
    derived: Mapping[str, Any] | None = None,
) -> str:
    """Name one trial: 32 hexadecimal characters. Derived parameters are not among `parameters`."""
    texts = [parameter_texts(name, [parameters[name]])[0] for name in sorted(parameters)]
    experiment = experiment_text(reference, options, derived)
    return next(digests([experiment], [0], [b",".join(texts)], [replicate])).hex()
