"""The protein workflow's science: CAI by hand, the exact stationary distribution, the cold limit."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import python_codon_tables
import yaml
from scipy import stats

FOLDER = Path(__file__).parents[2] / "workflows" / "protein"

STANDARD_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
"""Amino acids of the 64 codons, bases in the order T, C, A, G (NCBI translation table 1)."""

ORGANISMS = (
    "b_subtilis", "c_elegans", "d_melanogaster", "e_coli", "g_gallus", "h_sapiens", "m_musculus",
    "m_musculus_domesticus", "s_cerevisiae",
)  # fmt: skip

LEAST_PROBABILITY = 1e-3
"""Chi-square tests run on fixed seeds: below this a correct sampler would be a rare one."""


@pytest.fixture(scope="module")
def model() -> ModuleType:
    """The workflow's module, imported from its path as the engine does."""
    spec = importlib.util.spec_from_file_location("protein_model", FOLDER / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def protein(model: ModuleType, tmp_path: Path) -> Callable[[str], Any]:
    """Make an experiment on a hand-made protein."""

    def make(sequence: str) -> Any:
        path = tmp_path / "made.fasta"
        path.write_text(f">made by hand\n{sequence}\n")
        return model.SynonymousCodons(fasta=str(path))

    return make


def translate(sequence: str) -> str:
    codons = [sequence[i : i + 3] for i in range(0, len(sequence), 3)]
    places = [["TCAG".index(base) for base in codon] for codon in codons]
    return "".join(STANDARD_CODE[16 * a + 4 * b + c] for a, b, c in places)


def chosen(known: Any, codons: str) -> jax.Array:
    """The choices that spell codons written with blanks between them."""
    pairs = zip(known.synonyms, codons.split(), strict=True)
    return jnp.array([synonyms.index(codon) for synonyms, codon in pairs])


def simulate(
    experiment: Any, organism: str, temperature: float, lanes: int, steps: int, start: Any = None
) -> tuple[Any, Any]:
    """Run independent chains: final states (lanes, residues), outputs (lanes, steps)."""

    def lane(key: jax.Array, temperature: jax.Array) -> Any:
        params = {"organism": organism, "temperature": temperature}
        state = experiment.initialize(jax.random.fold_in(key, steps), params) if start is None else start
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(steps))
        return jax.lax.scan(lambda state, key: experiment.step(key, state, params), state, keys)

    keys = jax.random.split(jax.random.key(7), lanes)
    return jax.jit(jax.vmap(lane, in_axes=(0, None)))(keys, jnp.float32(temperature))


def stationary(known: Any, residue: int, temperature: float) -> np.ndarray:
    """Exact distribution of one residue's codon: p proportional to w^(1/T)."""
    count = int(known.counts[residue])
    weights = np.exp(known.log_weights[residue, :count] / temperature)
    return weights / weights.sum()


def test_the_protein_is_green_fluorescent_protein(model: ModuleType) -> None:
    sequence = model.SynonymousCodons().protein
    assert len(sequence) == 238
    assert (sequence[:6], sequence[64:67], sequence[-6:]) == ("MSKGEE", "SYG", "MDELYK")  # 65-67: chromophore
    assert abs(_mass(sequence) - 26886) < 1  # UniProt P42212: 26,886 Da


def _mass(sequence: str) -> float:
    """Average mass in dalton of an unmodified chain."""
    residues = {
        "G": 57.0519, "A": 71.0788, "S": 87.0782, "P": 97.1167, "V": 99.1326, "T": 101.1051, "C": 103.1388,
        "L": 113.1594, "I": 113.1594, "N": 114.1038, "D": 115.0886, "Q": 128.1307, "K": 128.1741,
        "E": 129.1155, "M": 131.1926, "H": 137.1411, "F": 147.1766, "R": 156.1875, "Y": 163.1760, "W": 186.2132,
    }  # fmt: skip
    return sum(residues[amino_acid] for amino_acid in sequence) + 18.0153


def test_organisms_are_the_tables_of_the_package(model: ModuleType) -> None:
    assert tuple(model.TABLES) == ORGANISMS
    assert set(model.TABLES.values()) == set(python_codon_tables.available_codon_tables_names)
    for name, table in model.TABLES.items():
        assert table.rsplit("_", 1)[0] == name


def test_campaign_has_2016_trials(model: ModuleType) -> None:
    campaign = yaml.safe_load((FOLDER / "campaign.yaml").read_text())
    grid = campaign["space"][0]["grid"]
    assert sorted(grid["organism"]) == sorted(model.TABLES)
    points = math.prod(len(set(values)) for values in grid.values())
    assert points * campaign["replicates"] == 2016


@pytest.mark.parametrize(
    ("organism", "weights"),
    [
        # f of the codon over the largest f of its amino acid, read off the tables
        ("e_coli", (0.50 / 0.50, 0.24 / 0.76, 0.11 / 0.41)),
        ("s_cerevisiae", (0.11 / 0.29, 0.42 / 0.58, 0.22 / 0.47)),
    ],
)
def test_cai_by_hand(model: ModuleType, organism: str, weights: tuple[float, ...]) -> None:
    known = model.spelling("MLKWG", organism)
    choices = chosen(known, "ATG CTG AAG TGG GGA")
    assert known.counted == 3  # neither methionine nor tryptophan
    expected = math.prod(weights) ** (1 / 3)
    assert float(model.adaptation_index(choices, known)) == pytest.approx(expected, rel=1e-6)
    assert known.write(choices) == "ATGCTGAAGTGGGGA"


def test_cai_by_hand_as_numbers(model: ModuleType) -> None:
    indices = [
        float(model.adaptation_index(chosen(known, "ATG CTG AAG TGG GGA"), known))
        for known in (model.spelling("MLKWG", "e_coli"), model.spelling("MLKWG", "s_cerevisiae"))
    ]
    assert indices == pytest.approx([0.439209, 0.504680], abs=1e-6)


def test_methionine_and_tryptophan_are_not_counted(model: ModuleType) -> None:
    bare, padded = model.spelling("LK", "e_coli"), model.spelling("MLMKWW", "e_coli")
    index = model.adaptation_index(chosen(bare, "CTA AAG"), bare)
    assert model.adaptation_index(chosen(padded, "ATG CTA ATG AAG TGG TGG"), padded) == index
    assert padded.families.sum() == padded.counted == 2
    alone = model.spelling("MW", "e_coli")
    assert float(model.adaptation_index(jnp.zeros(2, int), alone)) == 1.0
    assert float(model.usage_entropy(jnp.zeros(2, int), alone)) == 0.0


def test_entropy_by_hand(model: ModuleType) -> None:
    known = model.spelling("KMKGKKG", "e_coli")
    mixed = chosen(known, "AAA ATG AAG GGA AAA AAG GGA")
    assert float(model.usage_entropy(mixed, known)) == pytest.approx(4 / 6 * math.log(2), rel=1e-6)
    uneven = chosen(known, "AAA ATG AAG GGA AAA AAA GGC")
    lysine = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    expected = (4 * lysine + 2 * math.log(2)) / 6
    assert float(model.usage_entropy(uneven, known)) == pytest.approx(expected, rel=1e-6)
    single = chosen(known, "AAA ATG AAA GGA AAA AAA GGA")
    assert float(model.usage_entropy(single, known)) == 0.0


@pytest.mark.parametrize(("organism", "temperature"), [("e_coli", 0.7), ("h_sapiens", 2.0), ("c_elegans", 1.0)])
def test_stationary_distribution(
    protein: Callable[[str], Any], model: ModuleType, organism: str, temperature: float
) -> None:
    sequence = "ACDEFGHIKLMNPQRSTVWY"
    final, _ = simulate(protein(sequence), organism, temperature, lanes=8000, steps=80)
    known, states = model.spelling(sequence, organism), np.asarray(final)
    for residue, count in enumerate(known.counts):
        seen = np.bincount(states[:, residue], minlength=count)
        assert seen.size == count  # no place without a codon was ever chosen
        if count > 1:
            expected = stationary(known, residue, temperature) * len(states)
            assert stats.chisquare(seen, expected).pvalue > LEAST_PROBABILITY, sequence[residue]


def test_residues_are_independent(protein: Callable[[str], Any], model: ModuleType) -> None:
    final, _ = simulate(protein("IK"), "e_coli", 1.0, lanes=8000, steps=60)
    known, states = model.spelling("IK", "e_coli"), np.asarray(final)
    seen = np.bincount(states[:, 0] * 2 + states[:, 1], minlength=6)
    joint = np.outer(stationary(known, 0, 1.0), stationary(known, 1, 1.0)).ravel()
    assert stats.chisquare(seen, joint * len(states)).pvalue > LEAST_PROBABILITY


def test_two_codons_of_equal_weight_do_not_alternate(
    protein: Callable[[str], Any], model: ModuleType
) -> None:
    known = model.spelling("D", "g_gallus")
    assert known.log_weights[0, :2].tolist() == [0.0, 0.0]
    final, _ = simulate(protein("D"), "g_gallus", 1.0, lanes=4000, steps=10, start=jnp.zeros(1, jnp.int32))
    assert stats.chisquare(np.bincount(np.asarray(final)[:, 0])).pvalue > LEAST_PROBABILITY


@pytest.mark.parametrize("organism", ORGANISMS)
def test_cold_limit_and_translation(model: ModuleType, organism: str) -> None:
    experiment = model.SynonymousCodons()
    coldest = min(yaml.safe_load((FOLDER / "campaign.yaml").read_text())["space"][0]["grid"]["temperature"])
    final, outputs = simulate(experiment, organism, coldest, lanes=16, steps=150)
    assert {name: values.shape for name, values in outputs.items()} == dict.fromkeys(
        ("cai", "entropy", "acceptance"), (16, 150)
    )
    cai = np.asarray(outputs["cai"])
    assert cai[:, -1] == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(cai, axis=1) >= -1e-6).all()  # as cold as this, no step goes down
    known = model.spelling(experiment.protein, organism)
    assert {translate(known.write(state)) for state in np.asarray(final)} == {experiment.protein}


def test_zero_temperature_is_the_limit(model: ModuleType) -> None:
    _, outputs = simulate(model.SynonymousCodons(), "e_coli", 0.0, lanes=4, steps=150)
    assert all(np.isfinite(values).all() for values in outputs.values())
    assert np.asarray(outputs["cai"])[:, -1] == pytest.approx(1.0, abs=1e-6)
    # no ties in this table: with every residue at its best codon nothing is accepted any more
    assert np.asarray(outputs["acceptance"])[:, -1].tolist() == [0.0] * 4


def test_unit_temperature_uses_codons_as_the_organism_does(model: ModuleType) -> None:
    experiment = model.SynonymousCodons()
    _, outputs = simulate(experiment, "e_coli", 1.0, lanes=64, steps=200)
    known = model.spelling(experiment.protein, "e_coli")
    rows = [stationary(known, residue, 1.0) @ known.log_weights[residue, : known.counts[residue]]
            for residue in range(len(experiment.protein))]  # fmt: skip
    mean_log = np.log(np.asarray(outputs["cai"])[:, 50:]).mean()
    assert mean_log == pytest.approx(sum(rows) / known.counted, abs=0.003)


def test_every_weight_is_finite(model: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for organism in ORGANISMS:
        assert np.isfinite(model.spelling("ACDEFGHIKLMNPQRSTVWY", organism).log_weights).all()
    table = {"K": {"AAA": 1.0, "AAG": 0.0}, "*": {"TAA": 1.0}}
    monkeypatch.setattr(python_codon_tables, "get_codons_table", lambda name: table)
    weights = model.relative_adaptiveness.__wrapped__("e_coli")["K"]
    assert weights == {"AAA": 1.0, "AAG": model.FREQUENCY_FLOOR}


def test_bad_input_is_named(model: ModuleType, protein: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="organism 'e_koli' is none of b_subtilis, "):
        model.relative_adaptiveness("e_koli")
    with pytest.raises(ValueError, match=r"20 standard amino acids.*'X'"):
        model.spelling("MKX", "e_coli")
    with pytest.raises(ValueError, match="FASTA file of one sequence"):
        protein("MK\n>second\nMK")
