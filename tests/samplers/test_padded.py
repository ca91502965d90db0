"""Sequences of different lengths in one program: the same fitness, the same law, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from samplers.landscapes import FALSE_ALARM, Coupled, drawn, law
from staffa.samplers.fitness.alphabets import NUCLEOTIDES, PROTEIN, states_of
from staffa.samplers.fitness.cai import Cai
from staffa.samplers.fitness.mpnn.score import Mpnn
from staffa.samplers.fitness.nk import Nk
from staffa.samplers.fitness.padded import Apart, Padded, bucket_of, taken_apart
from staffa.samplers.fitness.weighted import Weighted
from staffa.samplers.gibbs import Gibbs
from staffa.samplers.metropolis import Metropolis
from staffa.samplers.schedules import Linear
from staffa.samplers.smc import SMC
from staffa.samplers.smc import Gibbs as GibbsKernel
from staffa.testing import check_experiment

PROTEINS = {"short": "MKWLAC", "middle": "MSKGEELFTGVV", "long": "MQIFVKTLTGKTITLEVEPSDTI"}


def gene(protein: str, **more) -> Weighted:
    cai, nk = Cai("e_coli", sequence=protein), Nk(k=2, alphabet="protein", sequence=protein, seed=3, p_connect=0.8)
    return Weighted(weights={"cai": len(protein), "nk": 2.0}, cai=cai, nk=nk, **more)


@pytest.fixture(scope="module")
def genes():
    return {name: gene(protein) for name, protein in PROTEINS.items()}


def sequences(target, number=20):
    return jax.random.randint(jax.random.key(4), (number, target.length), 0, target.states)


def agree(found, expected, members):
    """Value and components, those of a member within rounding: sums are made in another order."""
    assert set(found[1]) == {*expected[1], "sites"}
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6, atol=2e-6)
    for name in expected[1]:
        np.testing.assert_allclose(found[1][name], expected[1][name], rtol=2e-6, atol=2e-6, err_msg=name)


def test_the_fitness_is_the_member_s_own_whatever_stands_behind_it(genes):
    target = Padded(by="protein", bucket=30, **genes)
    assert (target.length, target.components) == (90, ("cai", "nk", "stops", "sites"))
    fitness = jax.jit(jax.vmap(target.fitness, (0, None)))
    rows = sequences(target)
    for number, member in enumerate(genes.values()):
        found = fitness(rows, {"protein": jnp.int32(number)})
        expected = jax.jit(jax.vmap(lambda x, member=member: member.fitness(x, {})))(rows[:, : member.length])
        agree(found, expected, genes)
        assert (found[1]["sites"] == member.length).all()
        assert len(set(np.asarray(expected[0]).tolist())) > 1
    assert fitness._cache_size() == 1, "one program for all"


def test_an_organism_of_the_trial_reaches_the_members(genes):
    target, member = Padded(**genes), genes["middle"]
    assert target.static == ("organism",)
    x, fitness = (
        sequences(target, 1)[0],
        jax.jit(lambda x, name: target.fitness(x, {"member": 1, "organism": name}), static_argnums=1),
    )
    found = fitness(x, "h_sapiens")
    agree(found, member.fitness(x[: member.length], {"organism": "h_sapiens"}), genes)
    assert found[0] != fitness(x, "e_coli")[0]


def test_weights_are_the_member_s_or_the_trial_s(genes):
    target, x = Padded(**genes), sequences(Padded(**genes), 1)[0]
    value, told = jax.jit(target.fitness)(x, {"member": 2, "weight_cai": 0.0, "weight_nk": 100.0})
    assert float(value) == pytest.approx(100 * float(told["nk"]) - 10 * float(told["stops"]), rel=1e-5)


def test_proteins_that_are_read_as_genes():
    def member(protein):
        return Weighted(nk=Nk(k=1, alphabet="protein", sequence=protein), cai=Cai("e_coli", length=3 * len(protein)))

    proteins = {
        name: Weighted(alphabet="protein", nk=one.parts["nk"], cai=one.parts["cai"])
        for name, one in {name: member(protein) for name, protein in PROTEINS.items()}.items()
    }
    target = Padded(bucket=25, **proteins)
    assert (target.length, target.alphabet, target.components) == (25, PROTEIN, ("nk", "cai", "sites"))
    for number, one in enumerate(proteins.values()):
        x = sequences(target, 1)[0]
        agree(jax.jit(target.fitness)(x, {"member": number}), jax.jit(one.fitness)(x[: one.length], {}), proteins)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_landscapes_tabulated_and_not(k):
    members = {f"n{length}": Nk(length, k, 4, seed=9) for length in (6, 11)}
    target = Padded(bucket=12 if k < 5 else 1500, **members)
    tabulated = Nk(target.length, k, 4, seed=9).table is not None
    assert tabulated == (k < 5)
    fitness = jax.jit(target.fitness)
    for number, one in enumerate(members.values()):
        alone = jax.jit(one.fitness)
        for x in sequences(target, 3):
            agree(fitness(x, {"member": number}), alone(x[: one.length], {}), members)


def test_backbones_of_one_bucket():
    files = {"linker": ("tmtools/data/2gtl.cif", "M"), "thermolysin": ("pyjess/tests/data/pdb1lnb.pdb", "E")}
    members = {name: Mpnn(*where, sequence="native") for name, where in files.items()}
    target = Padded(by="backbone", **members)
    assert (target.bucket, [one.length for one in members.values()]) == (400, [217, 316])
    fitness = jax.jit(target.fitness)
    for number, one in enumerate(members.values()):
        params = {"backbone": jnp.int32(number)}
        x = target.initial(jax.random.key(0), params).at[5].set(7)
        agree(fitness(x, params), one.fitness(x[: one.length], {}), members)
    assert fitness._cache_size() == 1


def test_members_begin_with_their_own_sequence(genes):
    target = Padded(**genes)
    for number, one in enumerate(genes.values()):
        found = target.initial(jax.random.key(1), {"member": jnp.int32(number)})
        np.testing.assert_array_equal(found[: one.length], one.start)
    free = Padded(a=Nk(4, 0, 3), b=Nk(7, 0, 3))
    drawn = jax.vmap(lambda key: free.initial(key, {}))(jax.random.split(jax.random.key(2), 3000))
    assert chisquare(np.bincount(np.asarray(drawn)[:, 2], minlength=3)).pvalue > FALSE_ALARM


def test_buckets(genes):
    assert [bucket_of(n) for n in (1, 200, 201, 400, 800, 801, 1200, 1201, 3000)] == [
        200, 200, 400, 400, 800, 1200, 1200, 1600, 3200,
    ]  # fmt: skip
    assert (Padded(**genes).bucket, Padded(**genes).length) == (200, 600)
    assert Padded(a=Nk(238, 0, 20)).length == 400, "sites without letters count one by one"


def test_members_that_do_not_fit_are_no_members_of_that_program(genes):
    target = Padded(bucket=12, **genes)
    x = sequences(target, 1)[0]
    fitness = jax.jit(target.fitness)
    values = [float(fitness(x, {"member": number})[0]) for number in (0, 1, 2, 3, -1)]
    assert np.isfinite(values[:2]).all() and np.isnan(values[2:]).all()
    assert values[1] == pytest.approx(float(genes["middle"].fitness(x, {})[0]), rel=1e-5)


def test_a_member_by_name(genes):
    target, x = Padded(**genes), sequences(Padded(**genes), 1)[0]
    assert target.fitness(x, {"member": "middle"})[0] == target.fitness(x, {"member": 1})[0]
    with pytest.raises(ValueError, match=r"member: 'midle' is no member; .*'middle'"):
        target.fitness(x, {"member": "midle"})
    with pytest.raises(ValueError, match=r"members are numbered 0 to 2; write whole numbers"):
        target.fitness(x, {"member": jnp.float32(1)})


class Own(Coupled):
    """A fitness of somebody's own that can be padded."""

    components = ()
    static = ()

    def fitness(self, x, params):
        return super().fitness(x, params)[0], {}

    def apart(self, sites):
        h = np.zeros((sites, self.states), np.float32)
        h[: self.length] = self.h
        couplings = np.zeros((sites - 1, self.states, self.states), np.float32)
        couplings[: self.length - 1] = self.couplings

        def value(data, x, params):
            place, (h, couplings) = jnp.arange(sites), data
            return jnp.sum(h[place, x]) + jnp.sum(couplings[place[:-1], x[:-1], x[1:]]), {}

        return Apart(("own", self.states), (h, couplings), value)


TWO = {"small": Own(2, 3, seed=5), "large": Own(3, 3, seed=6)}


@pytest.fixture(scope="module")
def of_two():
    return Gibbs(Padded(bucket=4, **TWO), chains=6_000)


@pytest.mark.parametrize("number", [0, 1])
def test_draws_are_of_the_member_s_law_and_padding_is_uniform(number, of_two):
    """Gibbs, long after a uniform start: the member's own sites against all its sequences."""
    own = list(TWO.values())[number]
    outputs = drawn(of_two, steps=20, params={"member": jnp.int32(number)})
    x = np.asarray(outputs["sequence"]).reshape(-1, 4)
    places = x[:, : own.length] @ 3 ** np.arange(own.length)[::-1]
    expected = law(own, 1.0) * len(x)
    assert chisquare(np.bincount(places, minlength=3**own.length), expected).pvalue > FALSE_ALARM
    assert chisquare(np.bincount(x[:, -1], minlength=3)).pvalue > FALSE_ALARM


@pytest.fixture(scope="module")
def estimates():
    """log_z of many keys, of a member."""
    target = Padded(bucket=4, **TWO)
    sampler = SMC(target, population=64, schedule=Linear(0.25, steps=4), kernel=GibbsKernel())

    def once(key, params):
        start, going = jax.random.split(key)
        state = sampler.initialize(start, params)
        _, told = jax.lax.scan(lambda state, key: sampler.step(key, state, params), state, jax.random.split(going, 4))
        return told["log_z"][-1]

    return jax.jit(jax.vmap(once, (0, None)))


@pytest.mark.parametrize("number", [0, 1])
def test_log_z_is_the_member_s_own(number, estimates):
    """The mean of exp F over the member's sequences, of 100 estimates within 4 of their standard errors."""
    own, keys = list(TWO.values())[number], jax.random.split(jax.random.key(8), 100)
    z = np.exp(np.asarray(estimates(keys, {"member": jnp.int32(number)}), float))
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * own.length, indexing="ij"), -1).reshape(-1, own.length)
    exact = np.exp(np.asarray(jax.vmap(lambda x: own.fitness(x, {})[0])(every), float)).mean()
    assert abs(z.mean() - exact) < 4 * z.std() / 10


def test_it_conforms(fully_compiled):
    members = {"a": Nk(3, 1, 3, seed=2), "b": Nk(5, 1, 3, seed=2)}
    rows = [{"member": number, "beta": 1.0} for number in (0, 1, 1)]
    options = {"target": Padded(bucket=5, **members), "chains": 2}
    check_experiment(Metropolis, rows, options=options, nan={"member": 2, "beta": 1.0}, x64=(False,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "padded: no members"),
        ({"a": 3}, r"a: 3 is neither an option of a table nor a fitness"),
        ({"a": Nk(3, 0, 3), "b": Nk(3, 0, 4)}, r"b: it and a differ in states: 4 and 3"),
        ({"a": Nk(3, 0, 3), "b": Nk(3, 1, 3)}, r"b: it and a differ in what they are made of"),
        ({"a": Nk(3, 0, 3, seed=1), "b": Nk(3, 0, 3, seed=2)}, r"b: it and a differ in what they are made of"),
        ({"a": Cai("e_coli", 6), "b": Cai("h_sapiens", 6)}, r"b: it and a differ in what they are made of"),
        ({"a": Cai("e_coli", 6), "b": Nk(6, 1, alphabet=NUCLEOTIDES)}, r"b: it and a differ in static"),
        ({"a": Nk(9, 0, 3), "bucket": 8}, r"bucket: 8 has room for none of a"),
        ({"a": Coupled()}, r"Coupled cannot be padded: it has no method apart"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Padded(**options)


def test_what_is_taken_apart_has_shapes_of_the_bucket_alone(genes):
    shapes = [jax.tree.map(np.shape, taken_apart(one, 90).data) for one in genes.values()]
    assert shapes[0] == shapes[1] == shapes[2]
    assert taken_apart(genes["short"], 90).kind == taken_apart(genes["long"], 90).kind
    assert states_of("ACGT", NUCLEOTIDES).tolist() == [0, 1, 2, 3]
