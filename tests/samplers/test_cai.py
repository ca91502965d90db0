"""CAI against numbers computed by hand from the two-decimal tables."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.samplers.fitness.alphabets import NUCLEOTIDES, spelled, states_of, translated
from staffa.samplers.fitness.cai import Cai, weights
from staffa.samplers.fitness.codons import adaptiveness, organisms, spelling

GENE = "AAGCTAGGGATGTGGGCATTC"  # K L G M W A F
HAND = {
    # AAG .24/.76, CTA .04/.50, GGG .15/.41, GCA .21/.36, TTC .43/.57; ATG and TGG do not count
    "e_coli": math.exp(math.fsum(map(math.log, (24 / 76, 4 / 50, 15 / 41, 21 / 36, 43 / 57))) / 5),
    # AAG .42/.58, CTA .14/.29, GGG .12/.47, GCA .29/.38, TTC .41/.59
    "s_cerevisiae": math.exp(math.fsum(map(math.log, (42 / 58, 14 / 29, 12 / 47, 29 / 38, 41 / 59))) / 5),
}


def value(target, gene, params=None):
    return float(jax.jit(lambda x: target.fitness(x, params or {})[0])(states_of(gene, NUCLEOTIDES)))


@pytest.mark.parametrize("organism", sorted(HAND))
def test_against_hand_computed_values(organism):
    assert value(Cai(organism, length=21), GENE) == pytest.approx(HAND[organism], rel=1e-6)


def test_the_numbers_by_hand():
    assert HAND["e_coli"] == pytest.approx(0.3326, abs=5e-5)
    assert HAND["s_cerevisiae"] == pytest.approx(0.5433, abs=5e-5)


def test_organism_of_the_trial_comes_before_the_option():
    target = Cai("e_coli", length=21)
    assert target.static == ("organism",)
    assert value(target, GENE, {"organism": "s_cerevisiae"}) == pytest.approx(HAND["s_cerevisiae"], rel=1e-6)


def test_met_trp_and_stops_do_not_count():
    target = Cai("e_coli", length=12)
    assert value(target, "ATGTGGTAAAAG") == pytest.approx(24 / 76, rel=1e-6)
    assert value(target, "ATGTGGTAATGA") == 0.0  # nothing counts
    assert weights("e_coli")[1].sum() == 64 - 5


@pytest.mark.parametrize("organism", sorted(organisms()))
def test_best_codons_have_index_one(organism):
    target = Cai(organism, sequence="MSKGEELFTGVVPILVELDGDVNGHKFSVWCRQ")
    assert float(target.fitness(target.start, {})[0]) == pytest.approx(1.0, rel=1e-6)
    assert translated(spelled(target.start, NUCLEOTIDES)) == "MSKGEELFTGVVPILVELDGDVNGHKFSVWCRQ"
    assert set(spelling(organism)) == set("ACDEFGHIKLMNPQRSTVWY") and max(adaptiveness(organism).values()) == 1


def test_relaxed_equals_exact_at_corners_and_is_differentiable():
    target = Cai("e_coli", length=60)
    x = jax.random.randint(jax.random.key(1), (60,), 0, 4)
    corner = jax.nn.one_hot(x, 4)
    assert float(target.fitness_one_hot(corner, {})) == pytest.approx(float(target.fitness(x, {})[0]), rel=1e-5)
    slope = jax.jit(jax.grad(lambda p: target.fitness_one_hot(p, {})))(jnp.full((60, 4), 0.25))
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_begins_with_the_gene_given_or_anywhere():
    target = Cai("e_coli", sequence=GENE)
    assert spelled(target.initial(jax.random.key(0), {}), NUCLEOTIDES) == GENE and target.length == 21
    free = Cai("e_coli", length=21)
    assert len({spelled(free.initial(jax.random.key(seed), {}), NUCLEOTIDES) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"organism": "e_colli", "length": 3}, r"^organism: .*'e_colli'.*e_coli"),
        ({"length": 10}, r"^length: 10 nucleotides"),
        ({}, r"^length: 0; give length"),
        ({"length": 9, "sequence": "AAA"}, r"^length: 9, but the sequence has 3"),
        ({"sequence": "MKZ"}, r"^sequence: Z is neither"),
    ],
)
def test_refusals(options, reason):
    with pytest.raises(ValueError, match=reason):
        Cai(**options)


def test_organism_of_a_trial_that_has_no_table_is_refused():
    with pytest.raises(ValueError, match="no codon table of 'elf'"):
        value(Cai("e_coli", length=21), GENE, {"organism": "elf"})
