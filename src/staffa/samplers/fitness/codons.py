"""How organisms use codons: tables of the package python-codon-tables.

The tables (CC0) hold the frequency of each codon among those of its amino acid, with two decimals, from the
Kazusa codon usage database (Nakamura, Gojobori & Ikemura, Nucleic Acids Res. 28:292, 2000).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from python_codon_tables import available_codon_tables_names, get_codons_table  # type: ignore[import-untyped]

from staffa.errors import near

FLOOR = 0.005
"""Least frequency of a codon: half of the tables' last digit, so that ln w is finite (Sharp & Li counted half a
codon where none was seen)."""


@cache
def organisms() -> Mapping[str, str]:
    """Short names of organisms (`e_coli`) and the tables they mean (`e_coli_316407`, with the NCBI taxon)."""
    return {re.sub(r"_\d+$", "", name): name for name in sorted(available_codon_tables_names)}


@cache
def frequencies(organism: str, option: str = "organism") -> Mapping[str, Mapping[str, float]]:
    """Frequency of each codon among those of its amino acid, `*` for stops. Raises `ValueError`."""
    name = organisms().get(organism, organism)
    if name not in available_codon_tables_names:
        raise ValueError(f"{option}: there is no codon table of {organism!r}; {near(organism, organisms())}")
    found: Mapping[str, Mapping[str, float]] = get_codons_table(name)
    return found


def adaptiveness(organism: str, option: str = "organism") -> dict[str, float]:
    """w of every codon, in (0, 1]: its frequency over that of the most frequent codon of its amino acid."""
    found: dict[str, float] = {}
    for codons in frequencies(organism, option).values():
        floored = {codon: max(share, FLOOR) for codon, share in codons.items()}
        most = max(floored.values())
        found |= {codon: share / most for codon, share in floored.items()}
    return found


def spelling(organism: str, option: str = "organism") -> dict[str, str]:
    """The most frequent codon of each amino acid; of equal ones the first by letters."""
    table = frequencies(organism, option)
    return {
        acid: min(codons, key=lambda codon: (-codons[codon], codon)) for acid, codons in table.items() if acid != "*"
    }
