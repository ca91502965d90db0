"""`weighted`: a weighted sum of fitness functions, each read in the alphabet it understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from staffa.errors import near
from staffa.samplers.fitness.alphabets import (
    Ints,
    Reading,
    codon_shares,
    codons,
    is_nucleotide,
    letters_of,
    reading,
    same,
    spelled,
    states_of,
    translated,
)
from staffa.samplers.fitness.codons import spelling
from staffa.samplers.fitness.sequences import start_of
from staffa.samplers.target import Discrete, Values


class Weighted(Discrete):
    """F(x) = sum of weight times value over the parts; a plain sum where no weights are given.

        target:
          use: weighted
          weights: {cai: 1.0, fold: 0.5}
          cai: {use: cai, organism: e_coli, length: 651}
          fold: {use: mpnn, structure: model.pdb}

    Options:
    - any other name: a part; the name is that of its weight and of its recorded column.
    - `weights`: a number for each part, 1 where none is given; also parameters of the trial, `weight_NAME`.
    - `alphabet`: in which sequences are drawn: a name (`protein`, `proteinmpnn`, `nucleotide`) or letters. By default
      nucleotides if a part reads those, otherwise the alphabet of the first part.
    - `sequence`: letters or a FASTA file to begin with, protein or gene; by default what the first part that has one
      begins with.
    - `codons`: an organism. A part that reads genes is given a protein in the organism's most frequent codons.
    - `stop_penalty`: what each stop codon of a gene costs, where a part reads its protein. Without it a gene that
      breaks off could be as fit as one that does not: to the parts, a stop codon is a letter they do not know.

    Components: a value for each part; for what a part itself tells of `x`, `PART_x`; `stops`, where a gene is
    translated: stop codons in it.

    Raises `ValueError` naming the part whose alphabet cannot be mapped, or whose length differs.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        alphabet: str = "",
        sequence: str = "",
        codons: str = "e_coli",
        stop_penalty: float = 10.0,
        **parts: Any,
    ) -> None:
        self.parts: dict[str, Discrete] = _checked_parts(parts)
        self.weights = dict.fromkeys(parts, 1.0) | _checked_weights(weights or {}, parts)
        self.alphabet = letters_of(alphabet) if alphabet else _common([part.alphabet for part in self.parts.values()])
        best = spelling(codons, "codons")
        self.readings = {name: _reading(name, part, self, best) for name, part in self.parts.items()}
        self.states = len(self.alphabet) or next(iter(self.parts.values())).states
        self.length = _common_length(self.parts, self.readings)
        self.stop_penalty = stop_penalty
        self.unknown = all(getattr(part, "unknown", False) for part in self.parts.values())
        self.start = self._start(sequence, best)
        self._stops = next((one.stops for one in self.readings.values() if one.stops.any()), None)
        self.static = tuple(dict.fromkeys(word for part in self.parts.values() for word in part.static))  # type: ignore[misc]
        inner = [(name, one) for name, part in self.parts.items() for one in ("", *part.components)]
        self.components = (
            *(f"{name}_{one}" if one else name for name, one in inner),
            *(("stops",) if self._stops is not None else ()),
        )
        if all(getattr(part, "fitness_one_hot", None) is not None for part in self.parts.values()):
            self.fitness_one_hot = self._relaxed

    def fitness(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum, and the value of each part."""
        told: dict[str, jax.Array] = {}
        total = jnp.zeros(())
        for name, part in self.parts.items():
            told[name], inner = part.fitness(self.readings[name](x), params)
            told |= {f"{name}_{one}": inner[one] for one in part.components}
            total = total + self._weight(name, params) * told[name]
        if self._stops is not None:
            told["stops"] = jnp.sum(jnp.asarray(self._stops)[codons(x)])
            total = total - self.stop_penalty * told["stops"]
        return total, told

    def _relaxed(self, p: jax.Array, params: Values) -> jax.Array:
        """The weighted sum of the parts' own, and of the expected number of stops."""
        total = jnp.zeros(())
        for name, part in self.parts.items():
            value = part.fitness_one_hot(self.readings[name].one_hot(p), params)  # type: ignore[attr-defined]
            total = total + self._weight(name, params) * value
        if self._stops is not None:
            total = total - self.stop_penalty * jnp.sum(codon_shares(p) @ jnp.asarray(self._stops, p.dtype))
        return total

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """The sequence given, that of a part, or any."""
        return super().initial(key, params) if self.start is None else jnp.asarray(self.start)

    def _weight(self, name: str, params: Values) -> Any:
        return params.get(f"weight_{name}", self.weights[name])

    def _start(self, sequence: str, best: Mapping[str, str]) -> Ints | None:
        """States to begin with, from the option or a part."""

        def spell(protein: str) -> str:
            return "".join(best.get(letter, letter) for letter in protein)

        start = start_of("sequence", sequence, self.alphabet, spell) if sequence else None
        if start is not None and len(start) != self.length:
            raise ValueError(f"sequence: {len(start)} sites, but the parts read sequences of {self.length}")
        for name, part in () if sequence else self.parts.items():
            begins = getattr(part, "start", None)
            if begins is not None:
                return _written(begins, part, self.readings[name], self.alphabet, spell)
        return start


def _written(begins: Ints, part: Discrete, read: Reading, letters: str, spell: Any) -> Ints:
    """What a part begins with, in the alphabet of the sum."""
    if read.kind == "same":
        return begins
    text = spelled(begins, part.alphabet)
    if read.kind == "translated":
        text = spell(text)
    if read.kind == "spelled":
        text = translated(text)
    return states_of(text, letters, "sequence")


def _checked_parts(parts: Mapping[str, Any]) -> dict[str, Discrete]:
    if not parts:
        raise ValueError("weighted: no parts; give each a name, such as cai: {use: cai, length: 300}")
    for name, part in parts.items():
        if not isinstance(part, Discrete):
            raise ValueError(f"{name}: {part!r} is neither an option of a weighted sum nor a fitness of sequences")
    return dict(parts)


def _checked_weights(weights: Mapping[str, float], parts: Mapping[str, Any]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in parts:
            raise ValueError(f"weights: {name!r} is no part of the sum; {near(name, parts)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not -1e30 < weight < 1e30:
            raise ValueError(f"weights: {name}: {weight!r} is not a number")
    return {name: float(weight) for name, weight in weights.items()}


def _common(found: list[str]) -> str:
    genes = [letters for letters in found if is_nucleotide(letters)]
    return genes[0] if genes else found[0]


def _reading(name: str, part: Discrete, whole: Weighted, best: Mapping[str, str]) -> Reading:
    if not whole.alphabet and not part.alphabet:
        first = next(iter(whole.parts.values())).states
        if part.states != first:
            raise ValueError(f"{name}: {part.states} states without letters, where another part has {first}")
        return same(first)
    try:
        return reading(whole.alphabet, part.alphabet, getattr(part, "unknown", False), best)
    except ValueError as error:
        raise ValueError(f"{name}: {type(part).__name__}: {error}") from None


def _common_length(parts: Mapping[str, Discrete], readings: Mapping[str, Reading]) -> int:
    """The length of sequences that every part can read. Raises `ValueError` naming those that differ."""
    lengths = {name: readings[name].written(part.length) for name, part in parts.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} reads {parts[name].length} sites (of {length})" for name, length in lengths.items())
        raise ValueError(f"length: the parts read sequences of different lengths: {said}")
    return next(iter(lengths.values()))
