"""Sums of fitness functions that read in different alphabets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.ambient import Registry
from staffa.campaign.runtime import runtime
from staffa.errors import PluginError
from staffa.experiment.registry import build
from staffa.samplers.fitness.alphabets import NUCLEOTIDES, PROTEIN, spelled, states_of, translated
from staffa.samplers.fitness.cai import Cai
from staffa.samplers.fitness.codons import spelling
from staffa.samplers.fitness.nk import Nk
from staffa.samplers.fitness.weighted import Weighted
from staffa.samplers.target import Discrete

GENE = "ATGAAGCTAGGGTGGGCATTC"  # M K L G W A F


class Esm(Discrete):
    """A toy in the slot `esm`: ln of the share of hydrophobic residues; its tokens are in an order of its own."""

    states = 20
    alphabet = "LAGVSERTIDPKQNFYMHWC"

    def __init__(self, length: int) -> None:
        self.length = length

    def fitness(self, x, params):
        liked = jnp.array([letter in "LAVIFMW" for letter in self.alphabet], jnp.float32)
        return jnp.log((1 + jnp.sum(liked[x])) / (1 + self.length)), {}


class KnowingEsm(Esm):
    """The same, with a token for letters it does not know."""

    unknown = True

    def fitness(self, x, params):
        liked = jnp.array([*(letter in "LAVIFMW" for letter in self.alphabet), False], jnp.float32)
        return jnp.log((1 + jnp.sum(liked[x])) / (1 + self.length)), {}


def told(target, x, params=None):
    value, components = jax.jit(lambda x: target.fitness(x, params or {}))(jnp.asarray(x))
    return float(value), {name: float(component) for name, component in components.items()}


def test_a_plain_sum_of_parts_with_a_column_each():
    one, other = Nk(length=8, k=1, states=3, seed=1), Nk(length=8, k=2, states=3, seed=2)
    target = Weighted(one=one, other=other)
    assert (target.length, target.states, target.components) == (8, 3, ("one", "other"))
    x = np.arange(8) % 3
    value, components = told(target, x)
    assert components == pytest.approx({"one": told(one, x)[0], "other": told(other, x)[0]})
    assert value == pytest.approx(sum(components.values()))


def test_weights_are_options_and_parameters():
    target = Weighted(
        weights={"one": 2.0, "other": -0.5}, one=Nk(length=8, states=3, seed=1), other=Nk(length=8, states=3, seed=2)
    )
    value, components = told(target, np.arange(8) % 3)
    assert value == pytest.approx(2 * components["one"] - 0.5 * components["other"])
    value, _ = told(target, np.arange(8) % 3, {"weight_other": 3.0})
    assert value == pytest.approx(2 * components["one"] + 3 * components["other"])


def test_a_gene_is_translated_for_who_reads_proteins():
    cai, rugged = Cai("e_coli", length=21), Nk(length=7, k=1, alphabet="proteinmpnn", seed=4)
    target = Weighted(rugged=rugged, cai=cai)
    assert (target.alphabet, target.length, target.states) == (NUCLEOTIDES, 21, 4)
    assert target.components == ("rugged", "cai", "stops") and target.static == ("organism",)
    x = states_of(GENE, NUCLEOTIDES)
    value, components = told(target, x)
    protein = states_of(translated(GENE), rugged.alphabet)
    expected = {"rugged": told(rugged, protein)[0], "cai": told(cai, x)[0], "stops": 0.0}
    assert components == pytest.approx(expected) and value == pytest.approx(sum(expected.values()))
    _, other = told(target, x, {"organism": "s_cerevisiae"})
    assert other["rugged"] == components["rugged"] and other["cai"] != components["cai"]


def test_stop_codons_are_counted_and_cost():
    target = Weighted(rugged=Nk(length=4, alphabet="protein"), cai=Cai(length=12), stop_penalty=3.0)
    value, components = told(target, states_of("ATGTAAAAATGA", NUCLEOTIDES))
    assert components["stops"] == 2
    assert value == pytest.approx(components["rugged"] + components["cai"] - 6.0)


def test_a_protein_is_spelled_for_who_reads_genes():
    cai, rugged = Cai("s_cerevisiae", length=21), Nk(length=7, alphabet="protein", seed=1)
    target = Weighted(alphabet="protein", codons="e_coli", cai=cai, rugged=rugged)
    assert (target.alphabet, target.length, target.components) == (PROTEIN, 7, ("cai", "rugged"))
    best = spelling("e_coli")
    gene = "".join(best[letter] for letter in "MKLGWAF")
    _, components = told(target, states_of("MKLGWAF", PROTEIN))
    assert components["cai"] == pytest.approx(told(cai, states_of(gene, NUCLEOTIDES))[0])
    assert components["cai"] < 1


def test_the_slot_esm_takes_a_plugin(tmp_path):
    registry = Registry().register("fitness", "esm", KnowingEsm)
    for name, found in {"cai": Cai, "nk": Nk, "weighted": Weighted}.items():
        registry = registry.register("fitness", name, found)
    block = {
        "use": "weighted",
        "weights": {"esm": 0.5},
        "cai": {"use": "cai", "organism": "e_coli", "length": 21},
        "esm": {"use": "esm", "length": 7},
    }
    with runtime(plugins=registry):
        target = build(block, tmp_path, "experiment.target")
    _, components = told(target, states_of(GENE, NUCLEOTIDES))
    assert components["esm"] == pytest.approx(np.log(6 / 8))  # M L W A F of M K L G W A F
    assert target.components == ("cai", "esm", "stops")
    assert not hasattr(target, "fitness_one_hot")  # the toy has none


def test_without_a_plugin_the_slot_esm_is_refused(tmp_path):
    with pytest.raises(PluginError, match="unknown part of an experiment 'esm'"):
        build({"use": "esm", "length": 7}, tmp_path, "experiment.target")


def test_relaxed_equals_exact_at_corners():
    target = Weighted(weights={"cai": 2.0}, cai=Cai(length=21), rugged=Nk(length=7, k=1, alphabet="protein", seed=4))
    xs = np.random.default_rng(0).integers(0, 4, (20, 21))
    relaxed = jax.jit(jax.vmap(lambda x: target.fitness_one_hot(jax.nn.one_hot(x, 4), {})))(xs)
    exact = jax.jit(jax.vmap(lambda x: target.fitness(x, {})[0]))(xs)
    np.testing.assert_allclose(relaxed, exact, rtol=1e-5)
    slope = jax.jit(jax.grad(lambda p: target.fitness_one_hot(p, {})))(jnp.full((21, 4), 0.25))
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_a_sum_of_sums_tells_all_parts():
    inner = Weighted(a=Nk(length=7, alphabet="protein", seed=1), b=Nk(length=7, alphabet="protein", seed=2))
    outer = Weighted(folds=inner, c=Nk(length=7, alphabet="protein", seed=3))
    assert outer.components == ("folds", "folds_a", "folds_b", "c")
    value, components = told(outer, np.arange(7))
    assert value == pytest.approx(components["folds_a"] + components["folds_b"] + components["c"])


def test_a_sum_takes_unknown_letters_where_all_its_parts_do():
    parts = {"a": Nk(length=7, alphabet="protein"), "esm": KnowingEsm(7)}
    assert Weighted(cai=Cai(length=21), folds=Weighted(**parts)).components[-1] == "stops"
    with pytest.raises(ValueError, match=r"^folds: Weighted: \*"):
        Weighted(cai=Cai(length=21), folds=Weighted(**parts, c=Esm(7)))


def test_begins_with_a_protein_spelled_or_with_what_a_part_has():
    parts = {"cai": Cai(length=21), "rugged": Nk(length=7, alphabet="protein", sequence="MKLGWAF")}
    target = Weighted(**parts)
    gene = spelled(target.initial(jax.random.key(0), {}), NUCLEOTIDES)
    assert translated(gene) == "MKLGWAF"
    given = Weighted(**parts, sequence=GENE)
    assert spelled(given.initial(jax.random.key(0), {}), NUCLEOTIDES) == GENE
    backwards = Weighted(alphabet="protein", cai=Cai(sequence=GENE), rugged=Nk(length=7, alphabet="protein"))
    assert spelled(backwards.initial(jax.random.key(0), {}), PROTEIN) == "MKLGWAF"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "no parts"),
        ({"cai": 3}, r"^cai: 3 is neither an option"),
        ({"a": Nk(length=5, states=2), "b": Nk(length=6, states=2)}, r"^length: .*a reads 5 .*b reads 6"),
        ({"a": Nk(length=5, states=2), "b": Nk(length=5, states=3)}, r"^b: 3 states without letters"),
        ({"a": Nk(length=5, states=2), "weights": {"c": 1}}, r"^weights: 'c' is no part"),
        ({"a": Nk(length=5, states=2), "weights": {"a": "x"}}, r"^weights: a: 'x' is not a number"),
        ({"cai": Cai(length=15), "esm": Esm(5)}, r"^esm: Esm: \* \(a stop codon\) cannot"),
        ({"cai": Cai(length=15), "walk": Nk(length=15, states=4)}, r"^walk: Nk: .*states without letters"),
        ({"cai": Cai(length=15), "hp": Nk(length=15, alphabet="HP")}, r"^hp: Nk: A, C, G, T cannot be mapped to HP"),
        ({"esm": Esm(5), "hp": Nk(length=5, alphabet="BJ")}, r"^hp: Nk: .* cannot be mapped to BJ"),
        ({"cai": Cai(length=15), "codons": "elf"}, r"^codons: there is no codon table of 'elf'"),
        ({"cai": Cai(length=15), "sequence": "MK"}, r"^sequence: 6 sites, but the parts read sequences of 15"),
        ({"a": Nk(length=5, states=2), "alphabet": "protein"}, r"^a: Nk: .*cannot be mapped"),
    ],
)
def test_refusals(options, reason):
    with pytest.raises(ValueError, match=reason):
        Weighted(**options)
