"""`padded`: fitness functions of sequences of different lengths, side by side in one compiled program.

A program is compiled for shapes: 200 proteins of 200 lengths would be 200 programs. So sequences are padded to
a bucket, what differs between the members stands in one table (a row each, padded likewise), and the trial
picks its row by a number, which is traced. All members of a bucket share one program.

The fitness of a sequence is that of its first n sites, n being the member's own length, and whatever stands in the
others makes no difference. So p(x) ∝ exp(beta F(x)) has the member's own distribution at its sites, uniform
and independent letters at the others, and log_z (a mean over all sequences) is the same as without
padding. A sampler spends its share of moves on them, too: choose buckets no larger than need be.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from staffa.errors import near
from staffa.samplers.fitness.alphabets import NUCLEOTIDES, PROTEINMPNN, codons, is_nucleotide, states_of
from staffa.samplers.fitness.cai import Cai
from staffa.samplers.fitness.mpnn.features import BUCKETS
from staffa.samplers.fitness.mpnn.score import Mpnn, mean_log_likelihood, one_by_one
from staffa.samplers.fitness.nk import Nk
from staffa.samplers.fitness.weighted import Weighted
from staffa.samplers.target import Discrete, Values

Told = tuple[jax.Array, dict[str, jax.Array]]


@dataclass(frozen=True, eq=False)
class Apart:
    """A fitness taken apart: what the program is made of, and what it is given.

    Attributes:
    - `kind`: everything that `value` closes over. Members of one table have equal kinds.
    - `data`: a tree of arrays, whose shapes depend on the kind and the bucket only.
    - `value`: (data, x, params) -> what `Discrete.fitness` gives, for x of the bucket's sites.
    """

    kind: Hashable
    data: Any
    value: Callable[[Any, jax.Array, Values], Told]


@runtime_checkable
class Paddable(Protocol):
    """What a fitness of your own has in order to be a member of a table."""

    def apart(self, sites: int) -> Apart:
        """Itself, for sequences of so many sites, its own `length` or more."""
        ...


class Padded(Discrete):
    """One of several fitness functions, by a number of the trial.

        target:
          use: padded
          by: protein
          ubiquitin: {use: weighted, cai: {use: cai, sequence: P0CG48.fasta}, …}
          insulin: {use: weighted, cai: {use: cai, sequence: P01308.fasta}, …}
        …
        space:
          - grid: {protein: [0, 1]}

    Options:
    - any other name: a member. They are numbered from 0 in the order of the file.
    - `by`: the parameter of the trial that says which member. A number is traced; a name is read as well, but text
      is static, so each name has a program of its own. Without such a parameter it is the first.
    - `bucket`: residues (of genes: codons; of other alphabets: sites) that sequences are padded to; by default the
      smallest of 200, 400, 800 and 1,200 that has room for all members. Swept together with `by`, it keeps small
      members from being padded to the largest: those that do not fit are no members of that program.

    The fitness of a number that is no member's is NaN, so such a trial is flagged. Components are those of the
    members, and `sites`: how many count. Raises `ValueError` for members that differ in more than length and data.
    """

    def __init__(self, by: str = "member", bucket: int = 0, **members: Any) -> None:
        self.by, self.members = by, _checked(members)
        first = next(iter(self.members.values()))
        self.states, self.alphabet = first.states, first.alphabet
        unit = 3 if is_nucleotide(self.alphabet) else 1
        self.bucket = bucket or bucket_of(max(math.ceil(one.length / unit) for one in self.members.values()))
        self.length = self.bucket * unit
        fitting = {name: one for name, one in self.members.items() if one.length <= self.length}
        if not fitting:
            raise ValueError(f"bucket: {bucket!r} has room for none of {', '.join(self.members)}")
        parts = {name: taken_apart(one, self.length) for name, one in fitting.items()}
        _check_alike({name: part.kind for name, part in parts.items()}, "what they are made of")
        self._value = next(iter(parts.values())).value
        self._table = _stacked([{"own": parts[name].data, **_begin(one, self.length)} for name, one in fitting.items()])
        self._rows = np.array([list(fitting).index(name) if name in fitting else -1 for name in self.members], np.int32)
        self.unknown = all(getattr(one, "unknown", False) for one in self.members.values())
        self.components = (*first.components, "sites")
        self.static = first.static  # type: ignore[misc]

    def fitness(self, x: jax.Array, params: Values) -> Told:
        """The fitness of the member's own sites; NaN where there is no such member."""
        row, there = self._row(params)
        value, told = self._value(row["own"], x, params)
        return jnp.where(there, value, jnp.nan), {**told, "sites": row["sites"]}

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """What the member begins with, or anything."""
        row, _ = self._row(params)
        return jnp.where(row["begins"], row["start"], super().initial(key, params))

    def _row(self, params: Values) -> tuple[Any, jax.Array]:
        """The member's row of the table (of the first, if there is none), and whether there is one."""
        number = params.get(self.by, 0)
        if isinstance(number, str):
            if number not in self.members:
                raise ValueError(f"{self.by}: {number!r} is no member; {near(number, self.members)}")
            number = list(self.members).index(number)
        if not jnp.issubdtype(jnp.result_type(number), jnp.integer):
            raise ValueError(f"{self.by}: members are numbered 0 to {len(self.members) - 1}; write whole numbers")
        row = jnp.asarray(self._rows).at[number].get(mode="fill", fill_value=-1, wrap_negative_indices=False)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[jnp.maximum(row, 0)], self._table), row >= 0


def bucket_of(residues: int) -> int:
    """The residues that so many are padded to: one of `BUCKETS`, beyond them a multiple of 400."""
    return next((size for size in BUCKETS if size >= residues), 400 * math.ceil(residues / 400))


@singledispatch
def taken_apart(target: Any, sites: int) -> Apart:
    """A fitness, for sequences of `sites` sites. Raises `ValueError` for one that does not know how."""
    if isinstance(target, Paddable):
        return target.apart(sites)
    raise ValueError(f"{type(target).__name__} cannot be padded: it has no method apart(sites)")


@taken_apart.register
def _(target: Cai, sites: int) -> Apart:
    """Padding is filled with stop codons, which do not count."""
    whole = Cai(target.organism, sites)
    stops = np.resize(states_of("TAA", NUCLEOTIDES), sites)

    def value(there: jax.Array, x: jax.Array, params: Values) -> Told:
        return whole.fitness(jnp.where(there, x, stops), params)

    return Apart(("cai", target.organism), np.arange(sites) < target.length, value)


@taken_apart.register
def _(target: Nk, sites: int) -> Apart:
    """Padding is filled with a letter of no contribution, and the mean is over the member's own sites."""
    kind = (target.states, target.alphabet, target.k, target.seed)
    whole = Nk(sites, target.k, 0 if target.alphabet else target.states, target.alphabet, seed=target.seed)
    absent = np.full((sites - target.length, target.k), -1, np.int32)
    data = {"neighbours": np.concatenate([target.neighbours, absent]), "sites": np.int32(target.length)}

    def value(data: Any, x: jax.Array, params: Values) -> Told:
        # Contributions depend on seed, site and states alone, so the table of the bucket serves every member.
        _, own = whole.table, copy.copy(whole)
        own.neighbours = data["neighbours"]
        mean, told = own.fitness(jnp.where(jnp.arange(sites) < data["sites"], x, whole.states), params)
        return mean * sites / data["sites"], told

    return Apart(("nk", *kind), data, value)


@taken_apart.register
def _(target: Mpnn, sites: int) -> Apart:
    """Backbones are padded anyhow, to `target.bucket`: those of one such bucket share a program."""
    size, length = target.bucket, target.length
    fixed = np.zeros(size, np.int32)
    fixed[: len(target.backbone)] = states_of(target.backbone.sequence, PROTEINMPNN)
    data = {"prepared": target.prepared, "before": target.before, "designed": target.designed, "fixed": fixed}
    weights, shared = target.weights, min(size, sites)

    def value(data: Any, x: jax.Array, params: Values) -> Told:
        designed, fixed = data["designed"], data["fixed"]
        letters = jnp.where(designed, jnp.zeros(size, jnp.int32).at[:shared].set(x[:shared]), fixed)
        score = one_by_one if jax.default_backend() == "cpu" else mean_log_likelihood
        found = score(weights, data["prepared"], data["before"], designed, letters)
        same = jnp.sum(designed & (letters == fixed)) / jnp.sum(designed)
        return found, {"recovery": same.astype(jnp.float32)}

    assert length <= shared
    return Apart(("mpnn", target.digest, size, len(target.ranks)), data, value)


@taken_apart.register
def _(target: Weighted, sites: int) -> Apart:
    """A sum of parts that are padded themselves; weights are the member's own."""
    scale = {"translated": (1, 3), "spelled": (3, 1)}
    parts, readings = {}, target.readings
    for name, part in target.parts.items():
        more, less = scale.get(readings[name].kind, (1, 1))
        parts[name] = taken_apart(part, sites * more // less)
    stops = next((one.stops for one in readings.values() if one.stops.any()), None)
    data = {
        "parts": {name: part.data for name, part in parts.items()},
        "weights": {name: np.float64(weight) for name, weight in target.weights.items()},
        "stop_penalty": np.float64(target.stop_penalty),
        "codons": np.int32(target.length // 3),
    }

    def value(data: Any, x: jax.Array, params: Values) -> Told:
        told: dict[str, jax.Array] = {}
        total = jnp.zeros(())
        for name, part in parts.items():
            told[name], inner = part.value(data["parts"][name], readings[name](x), params)
            told |= {f"{name}_{one}": found for one, found in inner.items()}
            total = total + params.get(f"weight_{name}", data["weights"][name]) * told[name]
        if stops is not None:
            counted = jnp.arange(sites // 3) < data["codons"]
            told["stops"] = jnp.sum(jnp.asarray(stops)[codons(x)] & counted)
            total = total - data["stop_penalty"] * told["stops"]
        return total, told

    read = tuple((name, one.kind, one.table.tobytes(), parts[name].kind) for name, one in readings.items())
    return Apart(("weighted", target.alphabet, target.states, read), data, value)


def _checked(members: Mapping[str, Any]) -> dict[str, Discrete]:
    if not members:
        raise ValueError("padded: no members; give each a name, such as insulin: {use: cai, sequence: P01308.fasta}")
    for name, one in members.items():
        if not isinstance(one, Discrete):
            raise ValueError(f"{name}: {one!r} is neither an option of a table nor a fitness of sequences")
    for what in ("states", "alphabet", "components", "static"):
        _check_alike({name: getattr(one, what) for name, one in members.items()}, what)
    return dict(members)


def _check_alike(found: Mapping[str, Any], what: str) -> None:
    (first, known), *others = found.items()
    for name, one in others:
        if one != known:
            detail = f": {one!r} and {known!r}" if what != "what they are made of" else ""
            raise ValueError(
                f"{name}: it and {first} differ in {what}{detail}; members differ in their length and data only"
            )


def _begin(target: Discrete, sites: int) -> dict[str, Any]:
    """What a member begins with, filled up to the bucket."""
    start = getattr(target, "start", None)
    begins = np.zeros(sites, np.int32)
    begins[: target.length] = 0 if start is None else start
    return {"start": begins, "begins": np.bool_(start is not None), "sites": np.int32(target.length)}


def _stacked(rows: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
