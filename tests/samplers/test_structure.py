"""Backbones from files, and files that are refused."""

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest

from staffa.samplers.fitness.sequences import located
from staffa.samplers.fitness.structure import read_backbone

AMYLASE = "pyjess/tests/data/1AMY"


def line(serial, atom, residue, number, at, kind="ATOM", chain="A", other=" ", insertion=" ", element="C"):
    x, y, z = at
    name = f" {atom:<3}"
    return (
        f"{kind:<6}{serial:>5} {name}{other}{residue:>3} {chain}{number:>4}{insertion}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 10.00          {element:>2}"
    )


def residue(number, name="ALA", chain="A", kind="ATOM", atoms=("N", "CA", "C", "O"), insertion=" ", shift=0.0):
    """Lines of one residue; its atoms lie on a line."""
    return [
        line(1, atom, name, number, (3.8 * number + 0.9 * place + shift, 0, 0), kind, chain, " ", insertion, atom[0])
        for place, atom in enumerate(atoms)
    ]


def written(folder: Path, *residues, name="made.pdb"):
    path = folder / name
    path.write_text("\n".join([*(one for lines in residues for one in lines), "END", ""]))
    return path


def test_pdb_and_mmcif_of_one_entry_give_one_backbone():
    one, other = (read_backbone(located("structure", AMYLASE + ending)) for ending in (".pdb", ".cif"))
    np.testing.assert_array_equal(one.coordinates, other.coordinates)
    np.testing.assert_array_equal(one.places, other.places)
    assert one.sequence == other.sequence and one.numbers == other.numbers
    assert (len(one), one.numbers[0], one.numbers[-1]) == (403, "A 1", "A 403")
    assert one.sequence.startswith("QVLFQGFNWESWKHNGGWYNFLMGKVDDIAAAGITHVWLPPASQSVAEQGYMPGRLYDLDASKYGNK")


def test_bonds_are_as_long_as_bonds_are():
    found = read_backbone(located("structure", AMYLASE + ".cif"))
    n, ca, c, o = found.coordinates.transpose(1, 0, 2)
    for one, other, length in ((n, ca, 1.46), (ca, c, 1.52), (c, o, 1.23), (c[:-1], n[1:], 1.33)):
        assert np.abs(np.linalg.norm(one - other, axis=1) - length).max() < 0.1


def test_ligands_that_are_amino_acids_are_no_residues(tmp_path):
    ligand = residue(400, "GLY", kind="HETATM")
    path = written(tmp_path, residue(1), residue(2), ["TER"], ligand)
    assert read_backbone(path).sequence == "AA"


def test_thermolysin_without_the_dipeptide_in_its_active_site():
    found = read_backbone(located("structure", "pyjess/tests/data/pdb1lnb.pdb"))
    assert (len(found), found.numbers[0], found.places[-1]) == (316, "E 1", 315)


def test_chains_in_the_order_asked_for():
    path = located("structure", "tmtools/data/2gtl.cif")
    both = read_backbone(path, ("N", "M"))
    alone = read_backbone(path, ("M",))
    assert (len(alone), len(both)) == (217, 437) and both.sequence[220:] == alone.sequence
    assert both.chains.tolist() == [0] * 220 + [1] * 217 and both.places[220] == 0


def test_a_compressed_file_is_read(tmp_path):
    path = tmp_path / "made.pdb.gz"
    path.write_bytes(gzip.compress(written(tmp_path, residue(1), residue(2)).read_bytes()))
    assert read_backbone(path).sequence == "AA"


def test_gaps_insertions_and_residues_with_missing_atoms(tmp_path):
    path = written(
        tmp_path, residue(5), residue(6, "GLY"), residue(6, "SER", insertion="A", shift=1.9),
        residue(10, "MSE", kind="HETATM"),
        residue(11, atoms=("N", "CA", "C")), residue(12, "TRP"), residue(900, "HOH", kind="HETATM", atoms=("O",)),
    )  # fmt: skip
    found = read_backbone(path)
    assert found.sequence == "AGSMW"
    assert found.places.tolist() == [0, 1, 2, 6, 8]
    assert found.numbers == ("A 5", "A 6", "A 6A", "A 10", "A 12")


def test_the_first_of_alternative_places_counts(tmp_path):
    lines = residue(1)
    lines[1:2] = [
        line(2, "CA", "ALA", 1, (1.0, 2.0, 3.0), other="A"),
        line(3, "CA", "ALA", 1, (9.0, 9.0, 9.0), other="B"),
    ]
    found = read_backbone(written(tmp_path, lines, residue(2)))
    assert found.coordinates[0, 1].tolist() == [1, 2, 3] and len(found) == 2


def test_the_first_model_counts(tmp_path):
    path = tmp_path / "models.pdb"
    models = [
        f"MODEL     {number}\n" + "\n".join(residue(1, name)) + "\nENDMDL\n"
        for number, name in ((1, "ALA"), (2, "GLY"))
    ]
    path.write_text("".join(models) + "END\n")
    assert read_backbone(path).sequence == "A"


@pytest.mark.parametrize(
    ("residues", "chains", "reason"),
    [
        ([residue(1, atoms=("CA",)), residue(2, atoms=("CA",))], (), "no residue has the backbone atoms N, CA, C, O"),
        ([residue(1, atoms=("CA",))], ("A",), "no residue of chain A has the backbone atoms"),
        ([residue(1), residue(2, "UNK"), residue(3)], (), "residue A 2 is 'UNK', which is no amino acid"),
        ([residue(1), residue(2, "QZQ"), residue(3)], (), "residue A 2 is 'QZQ', which is no amino acid"),
        ([residue(1), residue(1, chain="B")], (), "it has the chains A, B; say which one: chain: A"),
        ([residue(1), residue(1, chain="B")], ("C",), "there is no chain 'C'"),
        ([], (), "there are no atoms"),
    ],
)
def test_refusals_name_the_file(tmp_path, residues, chains, reason):
    with pytest.raises(ValueError, match=rf"^made\.pdb: .*{reason}"):
        read_backbone(written(tmp_path, *residues), chains)


def test_what_is_no_structure_is_refused(tmp_path):
    path = tmp_path / "made.cif"
    path.write_text("data_x\nloop_\n_a.b\n")
    with pytest.raises(ValueError, match=r"^made\.cif: "):
        read_backbone(path)
    other = tmp_path / "made.txt"
    other.write_text("hello")
    with pytest.raises(ValueError, match=r"^made\.txt: "):
        read_backbone(other)


def test_mmcif_without_backbone_is_refused(tmp_path):
    structure = gemmi.read_structure(str(written(tmp_path, residue(1, atoms=("CA",)), residue(2, atoms=("CA",)))))
    structure.setup_entities()
    path = tmp_path / "trace.cif"
    structure.make_mmcif_document().write_file(str(path))
    with pytest.raises(ValueError, match=r"^trace\.cif: no residue has the backbone atoms"):
        read_backbone(path)
