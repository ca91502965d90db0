"""Alphabets of sequences, and how one who reads in one alphabet understands another.

States are places in an alphabet, so two alphabets of the same letters in another order are different:
a sequence is never handed on without being mapped.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from staffa.errors import near

PROTEIN = "ARNDCQEGHILKMFPSTWYV"
"""Amino acids in the order of AlphaFold and ColabDesign: by their three-letter names."""
PROTEINMPNN = "ACDEFGHIKLMNPQRSTVWY"
"""Amino acids in the order of ProteinMPNN: by their letters."""
NUCLEOTIDES = "ACGT"

ALPHABETS: Mapping[str, str] = MappingProxyType(
    {"protein": PROTEIN, "proteinmpnn": PROTEINMPNN, "nucleotide": NUCLEOTIDES}
)
"""Names that options may give instead of letters."""

CODONS = tuple("".join(codon) for codon in itertools.product(NUCLEOTIDES, repeat=3))
"""Codon number 16a + 4b + c of the nucleotides a, b, c."""
_TCAG = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODE: Mapping[str, str] = MappingProxyType(
    dict(zip(("".join(codon) for codon in itertools.product("TCAG", repeat=3)), _TCAG, strict=True))
)
"""The standard genetic code (NCBI translation table 1): codon -> amino acid, `*` for a stop."""
UNKNOWN = "*X"
"""Letters that a reader may take for one it does not know: a stop, and any amino acid."""

Ints = npt.NDArray[np.int32]
Kind = Literal["same", "letters", "translated", "spelled"]


def letters_of(alphabet: str, option: str = "alphabet") -> str:
    """The letters an option means: a name of `ALPHABETS`, or letters, each once. Raises `ValueError`."""
    if alphabet in ALPHABETS:
        return ALPHABETS[alphabet]
    if not alphabet.isupper() or len(set(alphabet)) != len(alphabet) or len(alphabet) < 2:
        raise ValueError(
            f"{option}: {alphabet!r} is neither {', '.join(ALPHABETS)} nor capital letters, each of them once; "
            f"{near(alphabet, ALPHABETS)}"
        )
    return alphabet


def is_nucleotide(letters: str) -> bool:
    """Whether these letters, in any order, are the four nucleotides (U stands for T)."""
    return set(letters.replace("U", "T")) == set(NUCLEOTIDES) and len(letters) == 4


def is_protein(letters: str) -> bool:
    """Whether these letters hold the twenty amino acids."""
    return set(PROTEIN) <= set(letters)


def states_of(sequence: str, letters: str, option: str = "sequence") -> Ints:
    """The states of a sequence, int32 (length,). Raises `ValueError` for a letter that is not in the alphabet."""
    if is_nucleotide(letters):
        wanted = "U" if "U" in letters else "T"
        sequence = sequence.replace("U", wanted).replace("T", wanted)
    unknown = sorted(set(sequence) - set(letters))
    if unknown:
        place = min(sequence.index(letter) for letter in unknown)
        raise ValueError(f"{option}: {sequence[place]!r} at {place + 1} is none of the letters {letters}")
    return np.array([letters.index(letter) for letter in sequence], np.int32)


def spelled(states: Any, letters: str) -> str:
    """The letters of some states; `X` for one outside of the alphabet."""
    return "".join(letters[state] if 0 <= state < len(letters) else "X" for state in np.asarray(states).tolist())


def translated(gene: str) -> str:
    """The protein of a gene, three letters to one; `*` for each stop codon."""
    return "".join(CODE[gene[at : at + 3]] for at in range(0, len(gene) - len(gene) % 3, 3))


@dataclass(frozen=True, eq=False)
class Reading:
    """How a reader with one alphabet understands sequences in another.

    Attributes:
    - `kind`: `same`; `letters`, other order or other letters; `translated`, nucleotides read as the protein
      they encode; `spelled`, a protein read as a gene with one codon for each residue.
    - `table`: what each state (`letters`), codon (`translated`, 64) or residue (`spelled`, three nucleotides) is
      to the reader; the reader's number of states stands for a letter it does not know.
    - `states`: the reader's number of states.
    """

    kind: Kind
    table: Ints
    states: int

    @property
    def stops(self) -> npt.NDArray[np.bool_]:
        """(64,): codons, in the writer's order of nucleotides, that the reader does not know."""
        return np.asarray(self.table == self.states) if self.kind == "translated" else np.zeros(64, bool)

    def written(self, length: int) -> int:
        """How long sequences are of which the reader reads `length` sites. Raises `ValueError`."""
        if self.kind == "spelled" and length % 3:
            raise ValueError(f"length: {length!r} nucleotides are no whole codons")
        return {"translated": 3 * length, "spelled": length // 3}.get(self.kind, length)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The reader's states, int32 (its length,), of a sequence, int32 (length,)."""
        if self.kind == "same":
            return x
        if self.kind == "translated":
            x = codons(x)
        return jnp.asarray(self.table)[x].reshape(-1)

    def one_hot(self, p: jax.Array) -> jax.Array:
        """The same for distributions over states: (length, states) to the reader's (length, states)."""
        if self.kind == "same":
            return p
        if self.kind == "translated":
            p = codon_shares(p)
        known = jax.nn.one_hot(self.table, self.states, dtype=p.dtype)
        return jnp.tensordot(p, known, 1).reshape(-1, self.states)


def same(states: int) -> Reading:
    """The reading of one who has the writer's own states."""
    return Reading("same", np.arange(states, dtype=np.int32), states)


def codons(x: jax.Array) -> jax.Array:
    """Numbers of the codons of a gene, int32: (3 n,) -> (n,)."""
    return 16 * x[0::3] + 4 * x[1::3] + x[2::3]


def codon_shares(p: jax.Array) -> jax.Array:
    """Probabilities of the 64 codons where each nucleotide is drawn on its own: (3 n, 4) -> (n, 64)."""
    first, second, third = (p[place::3] for place in range(3))
    return jnp.einsum("na,nb,nc->nabc", first, second, third).reshape(-1, 64)


def reading(written: str, reader: str, unknown: bool = False, spelling: Mapping[str, str] | None = None) -> Reading:
    """How a reader understands what is written in another alphabet.

    Arguments:
    - `written`: letters of the sequences.
    - `reader`: letters it understands.
    - `unknown`: whether it takes a state more, for letters it does not know.
    - `spelling`: the codon of each amino acid, for a reader of genes.

    Raises `ValueError` where that cannot be.
    """
    if written == reader:
        return same(len(reader))
    if is_nucleotide(written) and is_protein(reader):
        return Reading(
            "translated", _numbers([CODE[codon] for codon in _codons(written)], reader, unknown), len(reader)
        )
    if is_protein(written) and is_nucleotide(reader):
        return Reading("spelled", _spelling(written, reader, spelling or {}), len(reader))
    if not written or not reader:
        raise ValueError(f"an alphabet of {_named(written)} cannot be mapped to one of {_named(reader)}")
    if is_nucleotide(written) and is_nucleotide(reader):
        written = written.replace("U", "T").replace("T", "U" if "U" in reader else "T")
    return Reading("letters", _numbers(written, reader, unknown), len(reader))


def _codons(written: str) -> list[str]:
    return ["".join(codon).replace("U", "T") for codon in itertools.product(written, repeat=3)]


def _numbers(letters: Any, reader: str, unknown: bool) -> Ints:
    allowed = reader + UNKNOWN if unknown else reader
    strange = sorted({letter for letter in letters if letter not in allowed})
    if strange:
        stop = " (a stop codon)" if "*" in strange else ""
        raise ValueError(f"{', '.join(strange)}{stop} cannot be mapped to {_named(reader)}")
    return np.array([reader.index(letter) if letter in reader else len(reader) for letter in letters], np.int32)


def _spelling(written: str, reader: str, spelling: Mapping[str, str]) -> Ints:
    strange = sorted(set(written) - set(spelling))
    if strange:
        raise ValueError(f"{', '.join(strange)} has no codon, so proteins cannot be mapped to {_named(reader)}")
    return np.array([states_of(spelling[letter], reader) for letter in written], np.int32)


def _named(letters: str) -> str:
    return letters or "states without letters"
