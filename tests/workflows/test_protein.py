"""The protein workflow: its arithmetic by hand, its stationary law by enumeration, and one run of it."""

import importlib.util
import math
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

import staffa
from staffa.experiment.protocol import Params

WORKFLOW = Path(__file__).parents[2] / "workflows" / "protein"


def imported():
    spec = importlib.util.spec_from_file_location("protein_model", WORKFLOW / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = imported()
GFP = model.read_protein(WORKFLOW / "P42212.fasta")

BASES = "TCAG"
GENETIC_CODE = dict(zip(
    (a + b + c for a in BASES for b in BASES for c in BASES),
    "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    strict=True,
))  # fmt: skip
"""NCBI translation table 1, written here independently of the package's tables."""

RESIDUE_MASS = {
    "G": 57.0519, "A": 71.0788, "S": 87.0782, "P": 97.1167, "V": 99.1326, "T": 101.1051, "C": 103.1388,
    "L": 113.1594, "I": 113.1594, "N": 114.1038, "D": 115.0886, "Q": 128.1307, "K": 128.1741, "E": 129.1155,
    "M": 131.1926, "H": 137.1411, "F": 147.1766, "R": 156.1875, "Y": 163.1760, "W": 186.2132,
}  # fmt: skip


def translated(codons):
    return "".join(GENETIC_CODE[codon] for codon in codons)


def params(organism, temperature):
    return Params({"organism": organism, "temperature": jnp.float32(temperature)})


@partial(jax.jit, static_argnums=(0, 1, 3))
def evolve(experiment, organism, temperature, steps, seed):
    """The state after `steps` steps from where `initialize` began."""
    values, key = params(organism, temperature), jax.random.key(seed)

    def step(index, state):
        return experiment.step(jax.random.fold_in(key, index), state, values)[0]

    return jax.lax.fori_loop(0, steps, step, experiment.initialize(jax.random.fold_in(key, steps), values))


def written(tmp_path, residues):
    """An experiment on a protein of one's own."""
    fasta = tmp_path / "own.fasta"
    fasta.write_text(f">own\n{residues}\n")
    return model.SynonymousCodons(str(fasta))


def best(organism, protein):
    """The largest w of each amino acid's codons, and the codons that have it."""
    table = model.relative_adaptiveness(organism)
    return [{codon for codon, w in table[residue].items() if w == 1.0} for residue in protein]


# --- the protein and the tables --------------------------------------------------------------------


def test_green_fluorescent_protein_has_238_residues():
    assert len(GFP) == 238
    assert GFP.startswith("MSKGEELFTG") and GFP.endswith("GMDELYK")
    assert GFP[64:67] == "SYG"  # the chromophore of the wild type, Ser65-Tyr66-Gly67
    assert abs(mass(GFP) - 26886) < 1  # dalton, as UniProt gives it
    # P42212 has 6 Met and 1 Trp: 231 residues have a choice
    assert (GFP.count("M"), GFP.count("W")) == (6, 1)
    assert model.synonyms(GFP, "e_coli").counted == 231


def mass(residues):
    """Average mass of a chain of residues, which is a checksum that knows no letters' order."""
    return 18.0153 + sum(RESIDUE_MASS[residue] for residue in residues)


@pytest.mark.parametrize("organism", model.ORGANISMS)
def test_tables_agree_with_the_genetic_code(organism):
    table = model.relative_adaptiveness(organism)
    assert {codon: a for a, codons in table.items() for codon in codons} == GENETIC_CODE
    for codons in table.values():
        assert max(codons.values()) == 1.0 and min(codons.values()) > 0


def test_organisms_are_all_tables_of_the_package():
    from python_codon_tables import available_codon_tables_names

    assert sorted(model.ORGANISMS.values()) == sorted(available_codon_tables_names)


def test_a_codon_that_is_never_seen_has_a_finite_weight(monkeypatch):
    monkeypatch.setattr(model, "get_codons_table", lambda name: {"K": {"AAA": 1.0, "AAG": 0.0}})
    # floor 0.005 over 1.00
    assert model.relative_adaptiveness("e_coli") == {"K": {"AAA": 1.0, "AAG": 0.005}}


def test_an_unknown_organism_is_refused_by_name():
    with pytest.raises(ValueError, match="'e_colli' is none of b_subtilis"):
        model.relative_adaptiveness("e_colli")


@pytest.mark.parametrize(("text", "complaint"), [
    (">a\nMKB\n", "unknown residues B"), (">a\nMK\n>b\nMK\n", "more than one protein"), (">a\n", "no residues"),
])  # fmt: skip
def test_a_protein_that_cannot_be_spelled_is_refused(tmp_path, text, complaint):
    (tmp_path / "p.fasta").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        model.read_protein(tmp_path / "p.fasta")


# --- CAI and entropy by hand -----------------------------------------------------------------------

BY_HAND = [
    # E. coli: GCT .16 of at most GCG .36; AAG .24 of AAA .76; TTG .13 of CTG .50; ATG, TGG do not count.
    # (.444444 * .315789 * .26)^(1/3) = .036491^(1/3) = .331688
    ("e_coli", "MAKLW", "ATG GCT AAG TTG TGG", (0.16 / 0.36 * 0.24 / 0.76 * 0.13 / 0.50) ** (1 / 3), 0.331688),
    # the same gene in man: GCT .27 of GCC .40; AAG .57 is the best itself; TTG .13 of CTG .40
    # (.675 * 1 * .325)^(1/3) = .219375^(1/3) = .603109
    ("h_sapiens", "MAKLW", "ATG GCT AAG TTG TGG", (0.27 / 0.40 * 1.0 * 0.13 / 0.40) ** (1 / 3), 0.603109),
    # best codons throughout
    ("e_coli", "MAKLW", "ATG GCG AAA CTG TGG", 1.0, 1.0),
    # two lysines, one of them best: (1 * .315789)^(1/2) = .561951
    ("e_coli", "KK", "AAA AAG", (0.24 / 0.76) ** (1 / 2), 0.561951),
]


@pytest.mark.parametrize(("organism", "protein", "gene", "arithmetic", "number"), BY_HAND)
def test_cai_by_hand(organism, protein, gene, arithmetic, number):
    genes = model.synonyms(protein, organism)
    cai = float(model.adaptation(genes, jnp.asarray(genes.choice(gene.split()))))
    assert arithmetic == pytest.approx(number, abs=1e-6)
    assert cai == pytest.approx(number, abs=1e-6)


def test_met_and_trp_do_not_count():
    """They would pull CAI up: (.315789 * 1 * 1 * 1)^(1/4) = .749637 instead of .315789."""
    for protein, gene in (("K", "AAG"), ("MKWM", "ATG AAG TGG ATG")):
        genes = model.synonyms(protein, "e_coli")
        assert genes.counted == 1
        cai = float(model.adaptation(genes, jnp.asarray(genes.choice(gene.split()))))
        assert cai == pytest.approx(0.24 / 0.76, abs=1e-6)


def test_a_protein_without_any_choice_has_cai_1(tmp_path):
    experiment, values = written(tmp_path, "MWM"), params("e_coli", 1.0)
    state = experiment.initialize(jax.random.key(0), values)
    _, outputs = experiment.step(jax.random.key(1), state, values)
    assert {name: float(value) for name, value in outputs.items()} == {
        "cai": 1.0, "entropy": 0.0, "acceptance": 1.0,
    }  # fmt: skip


def test_entropy_by_hand():
    """KKKK as AAA AAA AAA AAG: H = ln 4 - 3/4 ln 3; EE as GAA GAG: ln 2; F alone: 0; M does not count.

    (4 * (ln 4 - .75 ln 3) + 2 * ln 2 + 1 * 0) / 7 = (2.249341 + 1.386294) / 7 = .519376
    """
    genes = model.synonyms("MKKKKEEF", "e_coli")
    choice = jnp.asarray(genes.choice(["ATG", "AAA", "AAA", "AAA", "AAG", "GAA", "GAG", "TTT"]))
    expected = (4 * (math.log(4) - 0.75 * math.log(3)) + 2 * math.log(2)) / 7
    assert expected == pytest.approx(0.519376, abs=1e-6)
    assert float(model.entropy(genes, choice)) == pytest.approx(expected, abs=1e-6)


# --- the chain -------------------------------------------------------------------------------------

FAMILIES = "LSIAKFRD"
"""Amino acids with 6, 6, 3, 4, 2, 2, 6 and 2 codons."""


@pytest.mark.parametrize(("organism", "temperature"), [("e_coli", 1.0), ("e_coli", 0.7), ("g_gallus", 2.0)])
def test_residues_follow_their_stationary_distribution(tmp_path, organism, temperature):
    """p(codon) ∝ w^(1/temperature), by enumeration.

    Residues are independent, so one state of a protein that repeats itself 3,000 times holds
    3,000 independent draws of each kind. Each chi-square test at a level of 1e-4; seeds are fixed.
    """
    experiment = written(tmp_path, FAMILIES * 3000)
    state = evolve(experiment, organism, temperature, 100, 11)
    codons = np.array(model.synonyms(experiment.protein, organism).spell(state))
    table = model.relative_adaptiveness(organism)
    for place, residue in enumerate(FAMILIES):
        weights = {codon: w ** (1 / temperature) for codon, w in table[residue].items()}
        names, counts = np.unique(codons[place :: len(FAMILIES)], return_counts=True)
        seen = dict(zip(names.tolist(), counts.tolist(), strict=True))
        assert seen.keys() <= weights.keys()
        expected = [3000 * weight / sum(weights.values()) for weight in weights.values()]
        assert min(expected) > 5, "chi-square needs more residues"
        assert chisquare([seen.get(codon, 0) for codon in weights], expected).pvalue > 1e-4, residue


def test_residues_are_independent(tmp_path):
    """Pairs I, K follow the product of their distributions: 3 x 2 cells."""
    experiment = written(tmp_path, "IK" * 8000)
    state = np.asarray(evolve(experiment, "e_coli", 1.0, 60, 7)).reshape(-1, 2)
    table = model.relative_adaptiveness("e_coli")
    first, second = (np.array([w for _, w in sorted(table[residue].items())]) for residue in "IK")
    joint = np.outer(first / first.sum(), second / second.sum()).ravel()
    seen = np.bincount(state[:, 0] * 2 + state[:, 1], minlength=6)
    assert chisquare(seen, joint * len(state)).pvalue > 1e-4


def test_flows_between_two_codons_are_equal_both_ways(tmp_path):
    """Detailed balance, seen at work in one step from equilibrium."""
    experiment = written(tmp_path, "I" * 20000)
    before = evolve(experiment, "e_coli", 1.0, 50, 3)
    after, _ = experiment.step(jax.random.key(99), before, params("e_coli", 1.0))
    flows = np.zeros((3, 3), int)
    np.add.at(flows, (np.asarray(before), np.asarray(after)), 1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        there, back = flows[a, b], flows[b, a]
        # the difference of two counts with equal means has variance there + back
        assert there > 100 and abs(there - back) < 4 * math.sqrt(there + back)


def test_two_codons_of_equal_weight_do_not_alternate(tmp_path):
    """GAC and GAT are alike in the chicken: from all-GAC every later step must be half and half."""
    experiment, values = written(tmp_path, "D" * 5000), params("g_gallus", 1.0)
    assert model.synonyms(experiment.protein, "g_gallus").log_w[0].tolist() == [0.0, 0.0]
    state = jnp.zeros(5000, jnp.int32)
    for index in range(3):
        state, _ = experiment.step(jax.random.key(index), state, values)
        assert chisquare(np.bincount(state, minlength=2)).pvalue > 1e-4


EXPERIMENT = model.SynonymousCodons()


@pytest.mark.parametrize("organism", model.ORGANISMS)
def test_the_cold_limit_reaches_cai_1(organism):
    """0.001 is the coldest temperature of the campaign, 100 steps its discard; 0 is the limit itself."""
    genes = model.synonyms(GFP, organism)
    for temperature in (0.001, 0.0):
        state = evolve(EXPERIMENT, organism, temperature, 100, 5)
        assert float(model.adaptation(genes, state)) == pytest.approx(1.0, abs=1e-6)
        assert all(codon in top for codon, top in zip(genes.spell(state), best(organism, GFP), strict=True))


@pytest.mark.parametrize("organism", model.ORGANISMS)
def test_genes_always_spell_the_protein(organism):
    genes = model.synonyms(GFP, organism)
    for seed, temperature in enumerate((0.0, 0.5, 1e6)):
        state = evolve(EXPERIMENT, organism, temperature, 100, seed)
        assert translated(genes.spell(state)) == GFP
        assert genes.choice(genes.spell(state)).tolist() == state.tolist()


def test_nothing_is_refused_when_hot_and_nothing_changes_when_cold():
    for temperature, acceptance in ((1e6, 1.0), (0.0, 0.0)):  # this table has no ties
        state = evolve(EXPERIMENT, "e_coli", temperature, 100, 2)
        _, outputs = EXPERIMENT.step(jax.random.key(4), state, params("e_coli", temperature))
        assert float(outputs["acceptance"]) == acceptance


def test_mean_log_adaptiveness_is_the_enumerated_one():
    """E[ln CAI] at temperature 1 is the mean over residues of sum_c p(c) ln w(c), p = the table's f."""
    genes, table = model.synonyms(GFP, "h_sapiens"), model.relative_adaptiveness("h_sapiens")
    rows = [np.array(list(table[residue].values())) for residue in GFP if len(table[residue]) > 1]
    expected = np.mean([row @ np.log(row) / row.sum() for row in rows])
    spread = np.sqrt(sum(row @ np.log(row) ** 2 / row.sum() - (row @ np.log(row) / row.sum()) ** 2 for row in rows))
    found = [float(jnp.log(model.adaptation(genes, evolve(EXPERIMENT, "h_sapiens", 1.0, 100, s)))) for s in range(200)]
    assert abs(np.mean(found) - expected) < 4 * spread / len(rows) / math.sqrt(len(found))


def test_proposals_are_uniform():
    genes = model.synonyms("L" * 12000 + "I" * 6000, "e_coli")
    proposal = np.asarray(model.propose(jax.random.key(1), genes))
    assert chisquare(np.bincount(proposal[:12000], minlength=6)).pvalue > 1e-4
    assert chisquare(np.bincount(proposal[12000:], minlength=3)).pvalue > 1e-4


# --- the campaign ----------------------------------------------------------------------------------


def test_the_campaign_has_2016_trials_and_a_program_an_organism():
    plan = staffa.plan(WORKFLOW / "campaign.yaml").plan
    assert plan.trials == 9 * 14 * 16 == 2016
    assert plan.programs == len(plan.groups) == 9
    assert {group.partition["organism"] for group in plan.groups} == model.ORGANISMS.keys()


def test_the_smoke_profile_runs_and_answers(tmp_path, workers):
    campaign = staffa.load(WORKFLOW / "campaign.yaml", profile="smoke", set=[f"storage.root={tmp_path}"])
    run = staffa.run(campaign, client=workers, progress=False, allow_dirty=True)
    assert run.ended.exit_code == 0

    # 2 organisms x 2 temperatures x 2 replicates, 10 draws each
    rows = run.query("select organism, temperature, count(*) as n, min(cai) as least, max(cai) as most "
                     "from draws group by 1, 2 order by 1, 2")  # fmt: skip
    assert rows["n"].tolist() == [20, 20, 20, 20]
    assert rows["organism"].tolist() == ["e_coli", "e_coli", "h_sapiens", "h_sapiens"]
    assert rows["temperature"].tolist() == [0.001, 1.0, 0.001, 1.0]
    assert rows["least"].tolist()[::2] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert max(rows["most"].tolist()[1::2]) < 0.95

    columns = set(run.query("select * from draws limit 0").columns)
    assert columns >= {"trial", "replicate", "chain", "draw", "organism", "temperature"}
    assert columns >= {"cai", "entropy", "acceptance"}
    trials = run.query("select outcome, count(*) as n, count(distinct trial) as d from trials group by 1")
    assert trials.to_dict("records") == [{"outcome": "ok", "n": 8, "d": 8}]
