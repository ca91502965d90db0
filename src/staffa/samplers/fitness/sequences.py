"""Files that options name, and sequences to begin with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from staffa.samplers.fitness.alphabets import Ints, is_nucleotide, states_of

ENDINGS = (".fasta", ".fa", ".faa", ".fna")


def located(option: str, name: str) -> Path:
    """The file an option names.

    A relative path is looked for as a module is, along `sys.path`. While an experiment is made the campaign's own
    folder stands first there, and files inside installed packages are found by `package/folder/file`. Raises
    `ValueError`.
    """
    given = Path(name).expanduser()
    places = [given] if given.is_absolute() else [Path(folder) / given for folder in sys.path]
    for place in places:
        if place.is_file():
            return place
    raise ValueError(
        f"{option}: {name!r}: there is no such file"
        + ("" if given.is_absolute() else "; relative paths begin at the campaign's folder or at an installed package")
    )


def sequence_of(option: str, value: str) -> str:
    """The letters of an option that holds a sequence or names a FASTA file with one.

    Raises `ValueError`.
    """
    if not value.lower().endswith(ENDINGS):
        return "".join(value.split()).upper()
    path = located(option, value)
    lines = path.read_text().splitlines()
    if sum(line.startswith(">") for line in lines) > 1:
        raise ValueError(f"{option}: {path.name}: more than one sequence")
    return "".join(line.strip() for line in lines if not line.startswith(">")).upper().rstrip("*")


def start_of(option: str, value: str, letters: str, spell: Callable[[str], str] | None = None) -> Ints | None:
    """States to begin with, from an option; None where it is empty.

    Arguments:
    - `letters`: the alphabet to begin in.
    - `spell`: turns a protein into a gene, where genes are wanted and a protein may be given.

    Raises `ValueError` for letters that the alphabet has not.
    """
    if not value:
        return None
    sequence = sequence_of(option, value)
    if not sequence:
        raise ValueError(f"{option}: {value!r}: no letters")
    if spell is not None and is_nucleotide(letters) and not set(sequence) <= set("ACGTU"):
        sequence = spell(sequence)
    return states_of(sequence, letters, option)


def check_length(option: str, length: int, start: Ints | None) -> int:
    """How long sequences are, from `length` or what they begin with. Raises `ValueError`."""
    if start is None and length < 1:
        raise ValueError(f"{option}: {length!r}; give {option} (1 or more) or a sequence to begin with")
    if start is not None and length not in (0, len(start)):
        raise ValueError(f"{option}: {length!r}, but the sequence has {len(start)}")
    return length or len(start if start is not None else ())
