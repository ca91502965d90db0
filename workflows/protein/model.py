"""Metropolis over the synonymous codons of a protein: how well can its gene suit an organism?

A protein of L residues can be spelled by very many genes. Each codon c has a relative
adaptiveness in an organism,

    w(c) = f(c) / max f over the codons of the same amino acid,

and a gene the codon adaptation index CAI = exp(mean of ln w over its codons); Met and Trp, which
have one codon each, and stops do not count (Sharp & Li, Nucleic Acids Res. 15:1281, 1987). Here
genes are drawn from

    p(gene)  ∝  exp( sum over residues of ln w(codon) / temperature ).

Codon frequencies f come from the package python-codon-tables (CC0; Kazusa database, Nakamura,
Gojobori & Ikemura, Nucleic Acids Res. 28:292, 2000).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from python_codon_tables import get_codons_table

import staffa

ORGANISMS = {
    "b_subtilis": "b_subtilis_1423",
    "c_elegans": "c_elegans_6239",
    "d_melanogaster": "d_melanogaster_7227",
    "e_coli": "e_coli_316407",
    "g_gallus": "g_gallus_9031",
    "h_sapiens": "h_sapiens_9606",
    "m_musculus": "m_musculus_10090",
    "m_musculus_domesticus": "m_musculus_domesticus_10092",
    "s_cerevisiae": "s_cerevisiae_4932",
}
"""Names of the parameter `organism`, and the tables they mean (NCBI taxon at the end)."""

FLOOR = 0.005
"""Least frequency of a codon. The tables have two decimals, so 0.00 means less than half a percent;
half of the last digit keeps ln w finite, as Sharp & Li counted half a codon where none was seen.
None of the nine tables needs it: their least is 0.02."""


@dataclass(frozen=True, eq=False)
class Synonyms:
    """The codons to choose from at each of L residues, K at most; a choice is an index of (L,).

    Attributes:
    - `codons`: (L, K), each row sorted and padded with "".
    - `number`: (L,), synonymous codons of each residue; 1 for Met and Trp.
    - `log_w`: (L, K), ln w of each codon, 0 or less; padded with 0, which is never chosen.
    - `members`: (A, L), 1 where a residue is of the a-th amino acid that has a choice.
    """

    codons: np.ndarray
    number: np.ndarray
    log_w: np.ndarray
    members: np.ndarray

    @property
    def counted(self) -> int:
        """Residues with a choice: those that CAI and entropy are means over."""
        return int(self.members.sum())

    def chosen(self, choice: jax.Array) -> jax.Array:
        """ln w of the chosen codons, (L,)."""
        return jnp.take_along_axis(jnp.asarray(self.log_w), choice[:, None], 1, mode="clip")[:, 0]

    def one_hot(self, choice: jax.Array) -> jax.Array:
        """The choice as a mask, (L, K)."""
        return choice[:, None] == np.arange(self.log_w.shape[1])

    def spell(self, choice: Sequence[int]) -> list[str]:
        """The codons of a choice: the gene, three letters at a time."""
        return self.codons[np.arange(len(self.codons)), np.asarray(choice)].tolist()

    def choice(self, codons: Sequence[str]) -> np.ndarray:
        """The choice that spells these codons. Raises `ValueError` for a codon of another residue."""
        return np.array([row.tolist().index(codon) for row, codon in zip(self.codons, codons, strict=True)])


class SynonymousCodons(staffa.Experiment):
    """Codons of a protein at a temperature, by Metropolis moves at all residues at once.

    The target factorises over residues. So one step proposes at every residue one of its
    synonymous codons, each as likely (the present one too: with two codons of equal weight the
    chain would else swap for ever, with period two), and accepts or refuses residue by residue
    with probability min(1, (w'/w)^(1/temperature)). Each residue's kernel is symmetric Metropolis
    (Metropolis et al., J. Chem. Phys. 21:1087, 1953) and reversible for its own factor p ∝
    w^(1/temperature); their product is reversible for the product of the factors. This is not one
    global accept/reject of a whole gene, which would hardly ever accept.

    Options:
    - `protein`: FASTA file with one protein, beside this file.

    Parameters:
    - `organism`: one of `ORGANISMS`; decides the table, so each has a program of its own.
    - `temperature`: 0 or more; towards 0 only the best codons are left and CAI is 1, towards
      infinity all synonymous codons are alike.

    Outputs, scalars: `cai`, `entropy` (see `entropy`), `acceptance` (of this step: of the
    proposals that would change a codon, the share accepted; 1 if there were none).
    """

    static = ("organism",)

    def __init__(self, protein: str = "P42212.fasta") -> None:
        self.protein = read_protein(Path(__file__).parent / protein)

    def initialize(self, key, params):
        """Every residue gets one of its codons, each as likely: int32 (L,)."""
        return propose(key, synonyms(self.protein, params["organism"]))

    def step(self, key, state, params):
        """One Metropolis move at every residue."""
        genes = synonyms(self.protein, params["organism"])
        proposal_key, accept_key = jax.random.split(key)
        proposal = propose(proposal_key, genes)
        gain = genes.chosen(proposal) - genes.chosen(state)
        # accept if ln u <= gain / temperature; ln u is minus an exponential variable. Without the
        # division it also holds at temperature 0.
        accepted = -params["temperature"] * jax.random.exponential(accept_key, gain.shape) <= gain
        moves = proposal != state
        state = jnp.where(accepted, proposal, state)
        return state, {
            "cai": adaptation(genes, state),
            "entropy": entropy(genes, state),
            "acceptance": share(accepted & moves, moves),
        }


def read_protein(path: Path) -> str:
    """The residues of a FASTA file with one protein, one letter each; a final stop is dropped."""
    lines = path.read_text().splitlines()
    if sum(line.startswith(">") for line in lines) > 1:
        raise ValueError(f"{path.name}: more than one protein")
    residues = "".join(line.strip() for line in lines if not line.startswith(">")).upper().rstrip("*")
    unknown = sorted(set(residues) - set("ACDEFGHIKLMNPQRSTVWY"))
    if unknown:
        raise ValueError(f"{path.name}: unknown residues {''.join(unknown)}")
    if not residues:
        raise ValueError(f"{path.name}: no residues")
    return residues


@cache
def synonyms(protein: str, organism: str) -> Synonyms:
    """The codons of each residue with their ln w in an organism."""
    table = relative_adaptiveness(organism)
    rows = [sorted(table[residue].items()) for residue in protein]
    most = max(len(row) for row in rows)
    padded = [row + [("", 1.0)] * (most - len(row)) for row in rows]
    choosable = sorted(residue for residue in set(protein) if len(table[residue]) > 1)
    members = [[residue == amino_acid for residue in protein] for amino_acid in choosable]
    return Synonyms(
        codons=np.array([[codon for codon, _ in row] for row in padded]),
        number=np.array([len(row) for row in rows], np.int32),
        log_w=np.log([[w for _, w in row] for row in padded]).astype(np.float32),
        members=np.array(members, np.float32).reshape(-1, len(protein)),
    )


def relative_adaptiveness(organism: str) -> dict[str, dict[str, float]]:
    """w of every codon by amino acid: frequency over that of its most frequent synonym."""
    if organism not in ORGANISMS:
        raise ValueError(f"organism {organism!r} is none of {', '.join(ORGANISMS)}")
    table = get_codons_table(ORGANISMS[organism])
    floored = {a: {c: max(f, FLOOR) for c, f in codons.items()} for a, codons in table.items()}
    return {a: {c: f / max(codons.values()) for c, f in codons.items()} for a, codons in floored.items()}


def propose(key: jax.Array, genes: Synonyms) -> jax.Array:
    """One synonymous codon for each residue, uniform and independent of everything: int32 (L,)."""
    return jnp.floor(jax.random.uniform(key, genes.number.shape) * genes.number).astype(jnp.int32)


def adaptation(genes: Synonyms, choice: jax.Array) -> jax.Array:
    """CAI, in (0, 1]: the geometric mean of w over the residues with a choice."""
    return jnp.exp(jnp.sum(genes.chosen(choice)) / max(genes.counted, 1))


def entropy(genes: Synonyms, choice: jax.Array) -> jax.Array:
    """Shannon entropy of synonymous codon usage in the gene, in nats.

    For an amino acid a with n_a residues, n_ac of them spelled c, it is H_a = -sum_c (n_ac / n_a)
    ln(n_ac / n_a); the output is the mean of H_a over amino acids with more than one codon, weighted
    by n_a. It is 0 if each amino acid is spelled in one way only, and at most the mean of ln(number
    of synonymous codons); at infinite temperature a gene of finite length is on average a little below.
    """
    counts = genes.members @ genes.one_hot(choice).astype(jnp.float32)
    residues = genes.members.sum(axis=1, keepdims=True)
    # ln of the inverse share: a codon that is not used adds 0 ln(inf), which xlogy takes as 0
    return jnp.sum(jax.scipy.special.xlogy(counts, residues / counts)) / max(genes.counted, 1)


def share(part: jax.Array, whole: jax.Array) -> jax.Array:
    """How much of `whole` is `part`, both masks; 1 if `whole` is empty."""
    total = jnp.sum(whole)
    return jnp.where(total > 0, jnp.sum(part) / jnp.maximum(total, 1), 1.0)
