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


def translated(codons):
    return "".join(GENETIC_CODE[codon] for codon in codons)


def params(organism, temperature):
    return Params({"organism": organism, "temperature": jnp.float32(temperature)})


@partial(jax.jit, static_argnums=(0, 1, 3))
def evolve(experiment, organism, temperature, steps, seed):
    """The state after `steps` steps, and the last step's outputs."""
    values = params(organism, temperature)
    key = jax.random.key(seed)

    def step(index, carried):
        return experiment.step(jax.random.fold_in(key, index), carried[0], values)

    state = experiment.initialize(jax.random.fold_in(key, 1 << 20), values)
    return jax.lax.fori_loop(0, steps, step, experiment.step(key, state, values))


def written(tmp_path, residues):
    """An experiment on a protein of one's own."""
    fasta = tmp_path / "own.fasta"
    fasta.write_text(f">own\n{residues}\n")
    return model.SynonymousCodons(str(fasta))


# --- the protein and the tables --------------------------------------------------------------------


def test_green_fluorescent_protein_has_238_residues():
    assert len(GFP) == 238
    assert GFP.startswith("MSKGEELFTG") and GFP.endswith("GMDELYK")
    assert GFP[64:67] == "SYG"  # the chromophore of the wild type, Ser65-Tyr66-Gly67
    # P42212 has 6 Met and 1 Trp: 231 residues have a choice
    assert (GFP.count("M"), GFP.count("W")) == (6, 1)
    assert model.synonyms(GFP, "e_coli").counted == 231


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
    # (.444444 * .315789 * .26)^(1/3) = .036491^(1/3)
    ("e_coli", "MAKLW", "ATG GCT AAG TTG TGG", (0.16 / 0.36 * 0.24 / 0.76 * 0.13 / 0.50) ** (1 / 3), 0.331684),
    # the same gene in man: GCT .27 of GCC .40; AAG .57 is the best itself; TTG .13 of CTG .40
    # (.675 * 1 * .325)^(1/3) = .219375^(1/3)
    ("h_sapiens", "MAKLW", "ATG GCT AAG TTG TGG", (0.27 / 0.40 * 1.0 * 0.13 / 0.40) ** (1 / 3), 0.603107),
    # best codons throughout
    ("e_coli", "MAKLW", "ATG GCG AAA CTG TGG", 1.0, 1.0),
    # two lysines, one of them best: (1 * .315789)^(1/2)
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
    _, outputs = evolve(written(tmp_path, "MWM"), "e_coli", 1.0, 3, 0)
    assert {name: float(value) for name, value in outputs.items()} == {
        "cai": 1.0, "entropy": 0.0, "acceptance": 1.0,
    }  # fmt: skip


def test_entropy_by_hand():
    """KKKK as AAA AAA AAA AAG: H = ln 4 - 3/4 ln 3; EE as GAA GAG: ln 2; F alone: 0; M does not count.

    (4 * (ln 4 - .75 ln 3) + 2 * ln 2 + 1 * 0) / 7 = (2.249341 + 1.386294) / 7 = .519376
    """
    genes = model.synonyms("MKKKKEEF", "e_coli")
    choice = jnp.asarray(genes.choice("ATG AAA AAA AAA AAG GAA GAG TTT".split()))
    expected = (4 * (math.log(4) - 0.75 * math.log(3)) + 2 * math.log(2)) / 7
    assert expected == pytest.approx(0.519376, abs=1e-6)
    assert float(model.entropy(genes, choice)) == pytest.approx(expected, abs=1e-6)


# --- the chain -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("organism", "temperature"), [("e_coli", 1.0), ("e_coli", 0.4), ("s_cerevisiae", 2.0)])
def test_residues_follow_their_stationary_distribution(tmp_path, organism, temperature):
    """p(codon) ∝ w^(1/temperature), by enumeration.

    Residues are independent, so one state of a protein that repeats itself 3,000 times holds
    3,000 independent draws of each kind. Seven tests, each at a level of 1e-4; the seed is fixed.
    """
    experiment = written(tmp_path, "LSIAKFR" * 3000)
    state, _ = evolve(experiment, organism, temperature, 150, 11)
    codons = np.array(model.synonyms(experiment.protein, organism).spell(state))
    table = model.relative_adaptiveness(organism)
    for place, residue in enumerate("LSIAKFR"):
        weights = {codon: w ** (1 / temperature) for codon, w in table[residue].items()}
        names, counts = np.unique(codons[place::7], return_counts=True)
        seen = dict(zip(names.tolist(), counts.tolist(), strict=True))
        assert seen.keys() <= weights.keys()
        total = sum(weights.values())
        expected = [3000 * weight / total for weight in weights.values()]
        assert min(expected) > 5, "chi-square needs more residues"
        assert chisquare([seen.get(codon, 0) for codon in weights], expected).pvalue > 1e-4, residue


def test_one_step_keeps_the_stationary_distribution(tmp_path):
    """Detailed balance seen at work: flows between two codons are equal both ways at equilibrium."""
    experiment = written(tmp_path, "I" * 60000)
    before, _ = evolve(experiment, "e_coli", 1.0, 100, 3)
    after, _ = experiment.step(jax.random.key(99), before, params("e_coli", 1.0))
    flows = np.zeros((3, 3), int)
    np.add.at(flows, (np.asarray(before), np.asarray(after)), 1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        there, back = flows[a, b], flows[b, a]
        # the difference of two counts with equal means has variance there + back
        assert abs(there - back) < 4 * math.sqrt(there + back) and there > 100


@pytest.mark.parametrize("organism", model.ORGANISMS)
@pytest.mark.parametrize("temperature", [0.0, 0.001])
def test_the_cold_limit_reaches_cai_1(organism, temperature):
    """0.001 is the coldest temperature of the campaign, 100 steps its discard."""
    state, outputs = evolve(model.SynonymousCodons(), organism, temperature, 100, 5)
    assert float(outputs["cai"]) == pytest.approx(1.0, abs=1e-6)
    genes = model.synonyms(GFP, organism)
    table = model.relative_adaptiveness(organism)
    assert all(table[r][c] == 1.0 for r, c in zip(GFP, genes.spell(state), strict=True))


@pytest.mark.parametrize("organism", model.ORGANISMS)
def test_genes_always_spell_the_protein(organism):
    genes = model.synonyms(GFP, organism)
    values = params(organism, 1e6)
    experiment = model.SynonymousCodons()
    for seed in range(3):
        state = experiment.initialize(jax.random.key(seed), values)
        assert translated(genes.spell(state)) == GFP
        state, outputs = evolve(experiment, organism, 1e6, 20, seed)
        assert translated(genes.spell(state)) == GFP
        assert float(outputs["acceptance"]) == 1.0  # at infinite temperature nothing is refused
        assert genes.choice(genes.spell(state)).tolist() == state.tolist()


def test_proposals_are_uniform():
    genes = model.synonyms("L" * 60000 + "I" * 30000, "e_coli")
    proposal = np.asarray(model.propose(jax.random.key(1), genes))
    assert chisquare(np.bincount(proposal[:60000], minlength=6)).pvalue > 1e-4
    assert chisquare(np.bincount(proposal[60000:], minlength=3)).pvalue > 1e-4


# --- the campaign ----------------------------------------------------------------------------------


def test_the_campaign_has_2016_trials_and_a_program_an_organism():
    plan = staffa.plan(WORKFLOW / "campaign.yaml").plan
    assert plan.trials == 9 * 14 * 16 == 2016
    assert plan.programs == len(plan.groups) == 9
    assert {group.partition["organism"] for group in plan.groups} == model.ORGANISMS.keys()


def test_the_smoke_profile_runs_and_answers(tmp_path):
    campaign = staffa.load(
        WORKFLOW / "campaign.yaml", profile="smoke",
        set=[f"storage.root={tmp_path}", "execution.workers=1", "cluster.dashboard=false"],
    )  # fmt: skip
    run = staffa.run(campaign, progress=False, allow_dirty=True)
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
