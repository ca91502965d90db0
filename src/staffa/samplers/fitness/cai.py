"""`cai`: how well a gene's codons suit an organism.

Each codon c has a relative adaptiveness w(c) = f(c) / max f over the codons of the same amino acid, and a gene
the codon adaptation index CAI = exp(mean of ln w over its codons). Met and Trp, which have one codon each, and
stops do not count (Sharp & Li, Nucleic Acids Res. 15:1281, 1987).
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from staffa.samplers.fitness.alphabets import CODE, CODONS, NUCLEOTIDES, codon_shares, codons
from staffa.samplers.fitness.codons import adaptiveness, spelling
from staffa.samplers.fitness.sequences import check_length, start_of
from staffa.samplers.target import Discrete, Values

UNCOUNTED = "MW*"
"""Amino acids with one codon, and stops."""


class Cai(Discrete):
    """The codon adaptation index of a gene, in (0, 1]; 0 for a gene of which no codon counts.

    Options:
    - `organism`: one of `codons.organisms()`, such as `e_coli`; also a static parameter of the trial.
    - `length`: nucleotides of the gene, three to a codon; or
    - `sequence`: a gene to begin with, or a protein, spelled in the organism's most frequent codons: letters, or
      a FASTA file. Without it sampling begins anywhere.
    """

    static = ("organism",)
    states = 4
    alphabet = NUCLEOTIDES

    def __init__(self, organism: str = "e_coli", length: int = 0, sequence: str = "") -> None:
        best = spelling(organism)
        self.organism = organism
        self.start = start_of("sequence", sequence, NUCLEOTIDES, lambda protein: spelled_with(best, protein))
        self.length = check_length("length", length, self.start)
        if self.length % 3:
            raise ValueError(f"length: {self.length!r} nucleotides are no whole codons; give a multiple of 3")

    def fitness(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        """CAI of one gene."""
        number = codons(x)
        log_w, counted = (jnp.asarray(part)[number] for part in weights(params.get("organism", self.organism)))
        return _index(jnp.sum(log_w), jnp.sum(counted)), {}

    def fitness_one_hot(self, p: jax.Array, params: Values) -> jax.Array:
        """CAI with the expected sum of ln w and the expected number of codons that count."""
        log_w, counted = (jnp.asarray(part) for part in weights(params.get("organism", self.organism)))
        shares = codon_shares(p)
        return _index(jnp.sum(shares @ log_w), jnp.sum(shares @ counted))

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """The sequence given, or any."""
        return super().initial(key, params) if self.start is None else jnp.asarray(self.start)


def _index(total: jax.Array, counted: jax.Array) -> jax.Array:
    some = counted > 0
    return jnp.where(some, jnp.exp(total / jnp.where(some, counted, 1)), 0.0)


@cache
def weights(organism: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """ln w of the codons that count, and 1 where one counts: (64,) each, 0 elsewhere."""
    w = adaptiveness(organism)
    counted = np.array([CODE[codon] not in UNCOUNTED for codon in CODONS])
    log_w = np.where(counted, np.log([w[codon] for codon in CODONS]), 0.0)
    return log_w.astype(np.float32), counted.astype(np.float32)


def spelled_with(best: dict[str, str], protein: str) -> str:
    """A gene of a protein. Raises `ValueError` for a letter without a codon."""
    strange = sorted(set(protein) - set(best))
    if strange:
        raise ValueError(f"sequence: {''.join(strange)} is neither a nucleotide nor an amino acid")
    return "".join(best[residue] for residue in protein)
