"""Letters, states, the genetic code, and reading one alphabet in another."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.samplers.fitness import alphabets
from staffa.samplers.fitness.alphabets import (
    CODE,
    CODONS,
    NUCLEOTIDES,
    PROTEIN,
    PROTEINMPNN,
    letters_of,
    reading,
    same,
    spelled,
    states_of,
    translated,
)
from staffa.samplers.fitness.codons import spelling
from staffa.samplers.fitness.sequences import located, sequence_of, start_of

PEPTIDE = "MKTAYIAKQRWCDEFGHLNPSV"


def test_orders_of_amino_acids():
    # by three-letter names: ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL
    assert PROTEIN == "ARNDCQEGHILKMFPSTWYV"
    assert "".join(sorted(PROTEIN)) == PROTEINMPNN
    assert NUCLEOTIDES == "ACGT"


def test_genetic_code():
    assert [CODONS[16 * a + 4 * b + c] for a, b, c in itertools.product(range(4), repeat=3)] == list(CODONS)
    known = {"ATG": "M", "TGG": "W", "TAA": "*", "TAG": "*", "TGA": "*", "AAA": "K", "GGC": "G", "CTG": "L", "AGC": "S"}
    assert {codon: CODE[codon] for codon in known} == known
    counts = {letter: list(CODE.values()).count(letter) for letter in "LRSMW*"}
    assert counts == {"L": 6, "R": 6, "S": 6, "M": 1, "W": 1, "*": 3}
    assert set(CODE.values()) == {*PROTEIN, "*"} and len(CODE) == 64
    assert translated("ATGAAATAAGG") == "MK*"


@pytest.mark.parametrize(("name", "letters"), [("protein", PROTEIN), ("nucleotide", "ACGT"), ("HP", "HP")])
def test_names_of_alphabets(name, letters):
    assert letters_of(name) == letters


@pytest.mark.parametrize("name", ["protien", "AA", "A", "acgt", ""])
def test_unknown_alphabets_are_refused(name):
    with pytest.raises(ValueError, match=r"^alphabet: "):
        letters_of(name)


def test_a_misspelt_name_has_a_near_one():
    with pytest.raises(ValueError, match=r"'protien'.*protein"):
        letters_of("protien")


def test_letters_and_states_there_and_back():
    for letters in (PROTEIN, PROTEINMPNN):
        states = states_of(PEPTIDE, letters)
        assert states.dtype == np.int32 and spelled(states, letters) == PEPTIDE
    assert states_of("ACGU", "ACGT").tolist() == [0, 1, 2, 3]
    assert states_of("ACGT", "ACGU").tolist() == [0, 1, 2, 3]
    assert spelled([0, 20], PROTEIN) == "AX"


def test_a_letter_outside_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"^sequence: 'Z' at 3 "):
        states_of("MKZA", PROTEIN)


def test_reading_in_another_order():
    read = reading(PROTEIN, PROTEINMPNN)
    there = read(jnp.asarray(states_of(PEPTIDE, PROTEIN)))
    assert spelled(there, PROTEINMPNN) == PEPTIDE
    assert read.kind == "letters" and not read.stops.any()


def test_reading_the_protein_of_a_gene():
    gene = "ATGAAATGGTAAGGC"
    read = reading(NUCLEOTIDES, PROTEINMPNN, unknown=True)
    there = read(jnp.asarray(states_of(gene, NUCLEOTIDES)))
    assert spelled(there, PROTEINMPNN) == "MKWXG"
    assert [CODONS[number] for number in np.flatnonzero(read.stops)] == ["TAA", "TAG", "TGA"]
    assert read.written(5) == 15


def test_reading_a_gene_written_in_another_order():
    gene = "ATGAAATGGGGC"
    read = reading("TGCA", PROTEIN, unknown=True)
    assert spelled(read(jnp.asarray(states_of(gene, "TGCA"))), PROTEIN) == "MKWG"
    rna = reading("ACGU", PROTEIN, unknown=True)
    assert spelled(rna(jnp.asarray(states_of(gene, "ACGU"))), PROTEIN) == "MKWG"


def test_reading_a_protein_as_a_gene():
    read = reading(PROTEIN, NUCLEOTIDES, spelling=spelling("e_coli"))
    gene = spelled(read(jnp.asarray(states_of(PEPTIDE, PROTEIN))), NUCLEOTIDES)
    assert translated(gene) == PEPTIDE
    assert gene[3:6] == "AAA" and read.written(66) == 22  # E. coli's Lys: AAA .76, AAG .24


@pytest.mark.parametrize("written,reader", [(PROTEIN, PROTEINMPNN), (NUCLEOTIDES, PROTEIN), (PROTEIN, NUCLEOTIDES)])
def test_one_hot_rows_are_read_alike(written, reader):
    read = reading(written, reader, unknown=True, spelling=spelling("e_coli"))
    x = jax.random.randint(jax.random.key(3), (60,), 0, len(written))
    states = len(reader)
    hard = jax.nn.one_hot(read(x), states)
    np.testing.assert_allclose(read.one_hot(jax.nn.one_hot(x, len(written))), hard, atol=1e-6)


def test_one_hot_of_a_stop_is_an_empty_row():
    read = reading(NUCLEOTIDES, PROTEIN, unknown=True)
    rows = read.one_hot(jax.nn.one_hot(states_of("TAAATG", NUCLEOTIDES), 4))
    assert rows.sum(axis=1).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("written", "reader", "reason"),
    [
        (NUCLEOTIDES, PROTEIN, r"\* \(a stop codon\) cannot be mapped"),
        (PROTEIN + "X", PROTEIN, "X .*cannot be mapped"),
        ("BJ", PROTEIN, "B, J cannot be mapped"),
        ("", PROTEIN, "states without letters cannot be mapped"),
        (PROTEIN, "", "cannot be mapped to one of states without letters"),
    ],
)
def test_what_cannot_be_mapped_is_refused(written, reader, reason):
    with pytest.raises(ValueError, match=reason):
        reading(written, reader)


def test_only_unknown_residues_may_be_unknown():
    assert reading(PROTEIN + "X", PROTEINMPNN, unknown=True).table[20] == 20
    with pytest.raises(ValueError, match="B, J cannot be mapped"):
        reading("BJ", PROTEIN, unknown=True)


def test_a_gene_of_no_whole_codons_is_refused():
    with pytest.raises(ValueError, match="no whole codons"):
        reading(PROTEIN, NUCLEOTIDES, spelling=spelling("e_coli")).written(10)


def test_same_alphabet_is_left_alone():
    x = jnp.arange(4)
    assert reading(PROTEIN, PROTEIN).kind == "same" and same(4)(x) is x


def test_sequences_from_letters_and_files(tmp_path, monkeypatch):
    file = tmp_path / "one.fasta"
    file.write_text(">sp|P42212\nMSKGE\nELFTG*\n")
    assert sequence_of("sequence", str(file)) == "MSKGEELFTG"
    assert sequence_of("sequence", "mskg EE") == "MSKGEE"
    monkeypatch.syspath_prepend(tmp_path)
    assert located("sequence", "one.fasta") == file
    assert start_of("sequence", "one.fasta", PROTEIN).tolist() == states_of("MSKGEELFTG", PROTEIN).tolist()
    assert start_of("sequence", "", PROTEIN) is None


def test_files_that_are_no_sequence_are_refused(tmp_path):
    two = tmp_path / "two.fa"
    two.write_text(">a\nMK\n>b\nMK\n")
    with pytest.raises(ValueError, match=r"^sequence: two.fa: more than one"):
        sequence_of("sequence", str(two))
    with pytest.raises(ValueError, match=r"^sequence: 'no.fasta': there is no such file; relative"):
        sequence_of("sequence", "no.fasta")
    empty = tmp_path / "none.fa"
    empty.write_text(">a\n")
    with pytest.raises(ValueError, match="no letters"):
        start_of("sequence", str(empty), PROTEIN)


def test_every_name_means_its_letters():
    assert {name: alphabets.letters_of(name) for name in alphabets.ALPHABETS} == dict(alphabets.ALPHABETS)
