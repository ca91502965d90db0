"""Backbones from PDB and mmCIF files, read with gemmi."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import numpy.typing as npt

from staffa.errors import near
from staffa.samplers.fitness.alphabets import PROTEIN

ATOMS = ("N", "CA", "C", "O")


@dataclass(frozen=True, eq=False)
class Backbone:
    """The residues of some chains whose four backbone atoms are all there.

    Attributes:
    - `coordinates`: (residues, 4, 3), of N, CA, C, O, in Ångström.
    - `sequence`: a letter for each residue.
    - `places`: (residues,), place in the chain; it skips as many as the file's own numbers do.
    - `chains`: (residues,), number of the chain, from 0, in the order asked for.
    - `numbers`: names of the residues in the file, such as `A 57`.
    """

    name: str
    coordinates: npt.NDArray[np.float32]
    sequence: str
    places: npt.NDArray[np.int32]
    chains: npt.NDArray[np.int32]
    numbers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sequence)


def read_backbone(path: Path, chains: Sequence[str] = ()) -> Backbone:
    """The backbone of some chains of the first model of a PDB or mmCIF file, which may be gzipped.

    Of atoms with alternative places the first counts. A residue that lacks one of the four atoms is left out. A
    modified residue counts as the one it was made of (MSE as Met).

    Arguments:
    - `chains`: names, as in the publication (mmCIF's auth_asym_id); by default the one chain that is a protein.

    Raises `ValueError` naming the file for one that cannot be read, that has no such chain, no backbone, or a
    residue that is no amino acid.
    """
    model = _model(path)
    names = tuple(chains) or (_only_chain(model, path),)
    known = [chain.name for chain in model]
    for name in names:
        if name not in known:
            raise ValueError(f"{path.name}: there is no chain {name!r}; {near(name, known) or 'it has none'}")
    found = [_chain(model[name], number, path) for number, name in enumerate(names)]
    return _joined(path.name, found)


def _model(path: Path) -> gemmi.Model:
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path.name}: not a PDB or mmCIF file: {str(error).splitlines()[0]}") from None
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise ValueError(f"{path.name}: there are no atoms in it")
    structure.merge_chain_parts()
    structure.setup_entities()
    return structure[0]


def _only_chain(model: gemmi.Model, path: Path) -> str:
    """The name of the one chain with a backbone."""
    names = [chain.name for chain in model if next(_residues(chain), None) is not None]
    if not names:
        raise ValueError(f"{path.name}: no residue has the backbone atoms {', '.join(ATOMS)}")
    if len(names) > 1:
        raise ValueError(f"{path.name}: it has the chains {', '.join(names)}; say which one: chain: {names[0]}")
    return names[0]


def _chain(chain: gemmi.Chain, number: int, path: Path) -> Backbone:
    kept = list(_residues(chain))
    if not kept:
        raise ValueError(f"{path.name}: no residue of chain {chain.name} has the backbone atoms {', '.join(ATOMS)}")
    residues = [residue for residue, _ in kept]
    return Backbone(
        path.name,
        np.array([atoms for _, atoms in kept], np.float32),
        "".join(_letter(residue, chain.name, path) for residue in residues),
        _places([residue.seqid.num or 0 for residue in residues]),
        np.full(len(kept), number, np.int32),
        tuple(f"{chain.name} {residue.seqid}" for residue in residues),
    )


def _residues(chain: gemmi.Chain) -> Iterator[tuple[gemmi.Residue, list[list[float]]]]:
    """The residues of a chain with the places of their backbone atoms; ligands and water are none."""
    for residue in chain.first_conformer():
        linked = residue.entity_type == gemmi.EntityType.Polymer or residue.het_flag == "A"
        if linked and (atoms := _atoms(residue)) is not None:
            yield residue, atoms


def _atoms(residue: gemmi.Residue) -> list[list[float]] | None:
    """Where the backbone atoms are; None for a residue that lacks one."""
    found = [residue.find_atom(name, "*") for name in ATOMS]
    if any(atom is None for atom in found):
        return None
    return [atom.pos.tolist() for atom in found if atom is not None]


def _letter(residue: gemmi.Residue, chain: str, path: Path) -> str:
    letter = gemmi.find_tabulated_residue(residue.name).one_letter_code.upper()
    if letter not in PROTEIN or not letter.strip():
        raise ValueError(f"{path.name}: residue {chain} {residue.seqid} is {residue.name!r}, which is no amino acid")
    return letter


def _places(numbers: Iterable[int]) -> npt.NDArray[np.int32]:
    """Places along the chain: a step of one, or as many as the numbers skip."""
    steps = np.maximum(np.diff(np.array(list(numbers))), 1)
    return np.concatenate([[0], np.cumsum(steps)]).astype(np.int32)


def _joined(name: str, found: Sequence[Backbone]) -> Backbone:
    return Backbone(
        name,
        np.concatenate([one.coordinates for one in found]),
        "".join(one.sequence for one in found),
        np.concatenate([one.places for one in found]),
        np.concatenate([one.chains for one in found]),
        tuple(number for one in found for number in one.numbers),
    )
