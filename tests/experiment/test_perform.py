"""The compiled loop: segments, keys, shapes, refusals, and how often anything is compiled."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiment.lab import SEED, Lab, inputs_of, words_of
from staffa.errors import PluginError
from staffa.experiment.environment import worker_environment
from staffa.experiment.perform import Spec
from staffa.experiment.protocol import Params, UnknownParameter

SCALES = np.linspace(0.2, 1.1, 4, dtype="float32")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("perform"))


def performed(lab: Lab, spec: Spec, width: int = 4, scales: Any = SCALES, order: Any = None) -> dict[str, Any]:
    """Outputs of trials 0, 1, … of a spec, its segments joined; `order` shuffles the lanes."""
    sampling, performer = spec.sampling, lab.performer(spec)
    inputs = inputs_of(scales)
    lanes = np.arange(len(scales)) if order is None else np.asarray(order)
    inputs = replace(inputs, words=inputs.words[lanes], params={n: v[lanes] for n, v in inputs.params.items()})
    carried = performer.begin(inputs, width)
    for phase, total in (("adapt", sampling.warmup), ("discard", sampling.discard * sampling.thin)):
        edges = [total * piece // sampling.segments for piece in range(sampling.segments + 1)]
        for first, last in itertools.pairwise(edges):
            carried = performer.warm(carried, phase, first, last)
    found = []
    for piece in range(sampling.segments):
        carried = performer.sample(carried, piece * sampling.segment_draws)
        found.append(carried.outputs)
    back = np.argsort(lanes)
    return {name: np.concatenate([one[name] for one in found], axis=1)[back] for name in found[0]}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(left[n].tobytes() == right[n].tobytes() for n in left)


# ---- segments


@pytest.mark.parametrize(
    "sampling",
    [{"draws": 15, "segments": 15}, {"draws": 4, "segments": 2, "thin": 3, "discard": 1, "warmup": 7}],
    ids=["plain", "thin-discard-warmup"],
)
def test_segments_are_one_run_cut_into_pieces(lab: Lab, sampling: dict[str, int]) -> None:
    whole = performed(lab, lab.spec(**{**sampling, "segments": 1}))
    assert whole["x"].shape == (4, sampling["draws"], 3)
    assert len(np.unique(whole["x"])) == whole["x"].size
    assert same(performed(lab, lab.spec(**sampling)), whole)


def test_thinning_and_discarding_keep_draws_of_the_same_chain(lab: Lab) -> None:
    every = performed(lab, lab.spec(draws=15))
    thinned = performed(lab, lab.spec(draws=4, thin=3, discard=1))
    # One discarded draw is three steps; each kept draw is the last of its three steps.
    assert same(thinned, {name: value[:, 5::3] for name, value in every.items()})


def test_warmup_changes_the_state_and_has_keys_of_its_own(lab: Lab) -> None:
    sampling = {"draws": 4, "thin": 3, "discard": 1}
    plain, warm = performed(lab, lab.spec(**sampling)), performed(lab, lab.spec(**sampling, warmup=7))
    assert (plain["key"] == warm["key"]).all()
    assert (plain["x"] != warm["x"]).mean() > 0.99


# ---- keys


def key_by_hand(name: object, stream: int, step: int) -> Any:
    key = jax.random.key(SEED)
    for word in words_of(name)[0]:
        key = jax.random.fold_in(key, int(word))
    return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, stream), step))


def test_the_key_of_a_step_is_folded_from_identity_and_step_alone(lab: Lab) -> None:
    keys = performed(lab, lab.spec(draws=4, thin=3, discard=1))["key"]
    for trial in range(4):
        for draw in range(4):
            by_hand = key_by_hand(trial, 2, (draw + 1) * 3 + 2)
            assert (keys[trial, draw] == np.asarray(by_hand)).all()


def test_keys_do_not_depend_on_lane_width_batch_order_or_mode(lab: Lab) -> None:
    spec = lab.spec(draws=15)
    reference = performed(lab, spec)
    others = {
        "order": performed(lab, spec, order=[2, 0, 3, 1]),
        "width": performed(lab, spec, width=1),
        "batch": {n: v[:4] for n, v in performed(lab, spec, scales=np.resize(SCALES, 8)).items()},
        "map": performed(lab, replace(spec, vectorize="map")),
    }
    for way, other in others.items():
        assert (other["key"] == reference["key"]).all(), way
        assert (other["steps"] == reference["steps"]).all(), way
        np.testing.assert_allclose(other["x"], reference["x"], rtol=1e-3, atol=1e-3, err_msg=way)
    # In the recorded program (same width) values are equal bit for bit, whatever the lane.
    assert same(others["order"], reference) and same(others["batch"], reference)


def test_lanes_of_map_do_not_run_together(lab: Lab) -> None:
    """`map` is one lane's program in a loop: values equal those of width 1 bit for bit."""
    spec = replace(lab.spec(draws=15), vectorize="map")
    assert same(performed(lab, spec), performed(lab, spec, width=1))


# ---- one shot, doubles


def test_one_shot_has_no_draw_axis(lab: Lab) -> None:
    spec = lab.spec("Dice", traced={"bias": "int32"})
    schema = lab.describe(spec)
    assert [(o.name, o.dtype, o.shape, o.dims) for o in schema.outputs] == [
        ("eyes", "int32", (2,), ("die",)), ("sum", "int32", (), ()),
    ]  # fmt: skip
    program = lab.program(spec, 3)
    words, params = words_of(0, 1, 2), {"bias": np.array([5, 6, 7], "int32")}
    state = program.initialize(SEED, words, params)
    _, outputs, bad = program.sample(SEED, words, params, state, 0)
    assert outputs["eyes"].shape == (3, 2) and outputs["sum"].tolist() == [5, 6, 7]
    assert not np.asarray(bad).any()


def test_doubles_where_they_are_asked_for_and_only_there(lab: Lab) -> None:
    scales = np.array([0.1, 1 / 3])
    for x64, kind in ((True, "float64"), (False, "float32")):
        traced = {"scale": kind, "n": "int64" if x64 else "int32"}
        spec = lab.spec("Tiny", traced=traced, x64=x64, draws=2)
        assert {o.name: o.dtype for o in lab.describe(spec).outputs} == {"x": kind, "n": traced["n"]}
        performer = lab.performer(spec)
        params = {"scale": scales.astype(kind), "n": np.array([2**40 if x64 else 2, 3], traced["n"])}
        carried = performer.begin(replace(inputs_of(scales), params=params), 2)
        outputs = performer.sample(carried, 0).outputs
        assert outputs["x"].dtype == kind and outputs["x"][:, 0].tobytes() == scales.astype(kind).tobytes()
        assert outputs["n"].dtype == traced["n"] and (outputs["n"][:, 1] == params["n"]).all()


# ---- what a program records


SHAPES = """
import jax.numpy as jnp
import staffa
class Shapes(staffa.Experiment):
    static = ("size",)
    dims = {"nest.deep.spin": ("chain", "site"), "galaxies.mass": ("galaxy",), "galaxies.place": ("galaxy", "axis")}
    coords = {"axis": [0.5, 1.5, 2.5]}
    ragged = {"galaxies": "count"}
    def initialize(self, key, params):
        return (jnp.zeros((2, params["size"])), key)
    def step(self, key, state, params):
        galaxies = {"mass": jnp.ones(7), "place": jnp.ones((7, 3), "float16")}
        outputs = {"nest": {"deep": {"spin": state[0]}, "flat": True}, "count": 3, "galaxies": galaxies}
        return state, {**outputs, "square": jnp.eye(2)}
"""


def test_describe_finds_shapes_dims_chains_nesting_and_tables(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SHAPES)
    spec = lab.spec("Shapes", static={"size": 5}, traced={}, draws=6)
    schema = lab.describe(spec)
    found = {o.name: (o.dtype, o.shape, o.dims, o.chains, o.table, o.length) for o in schema.outputs}
    assert found == {
        "nest.deep.spin": ("float32", (5,), ("site",), 2, "", ""),
        "nest.flat": ("bool", (), (), 0, "", ""),
        "count": ("int32", (), (), 0, "", ""),
        "galaxies.mass": ("float32", (7,), ("galaxy",), 0, "galaxies", "count"),
        "galaxies.place": ("float16", (7, 3), ("galaxy", "axis"), 0, "galaxies", "count"),
        "square": ("float32", (2, 2), ("square_0", "square_1"), 0, "", ""),
    }
    assert schema.coords == {"axis": (0.5, 1.5, 2.5)}
    assert schema.state_bytes == 2 * 5 * 4 + 16
    assert [o.size for o in schema.outputs if o.name == "nest.deep.spin"] == [10]
    # What was described is what comes out: the chain axis before the draws.
    program = lab.program(spec, 2)
    state = program.initialize(SEED, words_of(0, 1), {})
    _, outputs, _ = program.sample(SEED, words_of(0, 1), {}, state, 0)
    for output in schema.outputs:
        chains = (output.chains,) if output.chains else ()
        assert outputs[output.name].shape == (2, *chains, 6, *output.shape)
        assert outputs[output.name].dtype == output.dtype


BODY = """import jax
import jax.numpy as jnp
import numpy as np
import staffa
class Bad(staffa.Experiment):
    {extra}
    def initialize(self, key, params):
        return {state}
    def step(self, key, state, params):
        {line}
        return {result}
"""


def bad(extra: str = "pass", state: str = "jnp.zeros(3)", line: str = "pass", result: str = "") -> str:
    return BODY.format(extra=extra, state=state, line=line, result=result or 'state, {"x": state}')


REFUSALS = {
    "if on a traced value": (
        bad(line='y = 1 if params["scale"] > 0 else 2'),
        ["model.py:10: in step", "TracerBoolConversionError", "jnp.where", "static"],
    ),
    "traced value as a size": (
        bad(state='jnp.zeros(params["scale"])'),
        ["model.py:8: in initialize", "static"],
    ),
    "numpy on a traced value": (
        bad(line='np.sin(np.asarray(params["scale"]))'),
        ["model.py:10: in step", "jax.numpy", "off"],
    ),
    "wrong shapes": (bad(line="state @ jnp.zeros((4, 4))"), ["model.py:10: in step", "(3,)", "(4,)"]),
    "any mistake": (bad(line="stat + 1"), ["model.py:10: in step", "NameError", "'stat'"]),
    "unknown parameter": (
        bad(line='params["scael"]'),
        ["model.py:10: in step", "params['scael']", "did you mean 'scale'?"],
    ),
    "structure of the state": (
        bad(result='(state, state), {"x": state}'),
        ["model.py:9: Bad.step changes the structure of the state", "initialize"],
    ),
    "shape in the state": (
        bad(state='{"a": 0, "b": jnp.zeros(3)}', result='{"a": 1, "b": jnp.zeros(4)}, {"x": 0.0}'),
        ["model.py:9: Bad.step changes state['b'] from float32[3] to float32[4]"],
    ),
    "dtype of the state": (
        bad(state="0", result='state + 0.5, {"x": 1.0}'),
        ["model.py:9: Bad.step changes state from int32[] to float32[]", "jnp.float32(0)"],
    ),
    "no pair": (bad(result="state"), ["model.py:9: Bad.step must return (state, outputs)"]),
    "no dict": (bad(result="state, state"), ["model.py:9: Bad.step must return (state, dict of outputs)"]),
    "no outputs": (bad(result="state, {}"), ["model.py:5: ", "returns no outputs"]),
    "reserved output": (
        bad(result='state, {"draw": state}'),
        ["model.py:5: ", "output 'draw'", "rename"],
    ),
    "an array of the hot store": (bad(result='state, {"status": 1}'), ["output 'status'"]),
    "output that is no word": (bad(result='state, {"a/b": 1}'), ["output 'a/b'"]),
    "complex output": (
        bad(result='state, {"x": state * 1j}'),
        ["output 'x' has dtype complex64", ".real and .imag"],
    ),
    "bfloat16 output": (bad(result='state, {"x": state.astype("bfloat16")}'), ["'x' has dtype bfloat16"]),
    "key as an output": (bad(result='state, {"x": key}'), ["'x' has dtype key<fry>", "key_data"]),
    "empty output": (bad(result='state, {"x": state[:0]}'), ["'x' is empty"]),
    "too many dims": (
        bad(extra='dims = {"x": ("a", "b")}'),
        ["model.py:5: ", "dims['x'] = ('a', 'b') names 2 axes, but the output has 1"],
    ),
    "chain without an axis": (
        bad(extra='dims = {"x": ("chain",)}', result='state, {"x": 1.0}'),
        ["dims['x'] = ('chain',) names 1 axes, but the output has 0"],
    ),
    "the engine's axis": (bad(extra='dims = {"x": ("draw",)}'), ["'draw'", "the engine adds"]),
    "an axis twice": (
        bad(extra='dims = {"x": ("a", "a")}', result='state, {"x": jnp.eye(3)}'),
        ["names 'a' twice"],
    ),
    "an axis of two lengths": (
        bad(extra='dims = {"x": ("a",), "y": ("a",)}', result='state, {"x": state, "y": state[:2]}'),
        ["axis 'a' has length 3 in output 'x', but 2 in 'y'"],
    ),
    "chains of two lengths": (
        bad(
            extra='dims = {"x": ("chain",), "y": ("chain",)}',
            result='state, {"x": state, "y": state[:2]}',
        ),
        ["axis 'chain' has length 3"],
    ),
    "coords of another length": (
        bad(extra='dims = {"x": ("a",)}; coords = {"a": [1, 2]}'),
        ["coords['a'] has 2 values", "length 3"],
    ),
    "dims of no output": (
        bad(extra='dims = {"xx": ("a",)}'),
        ["model.py:5: ", "dims['xx']: step records no output 'xx'", "did you mean 'x'?", "self.dims in __init__"],
    ),
    "coords of no axis": (
        bad(extra='dims = {"x": ("place",)}; coords = {"plaice": [1, 2, 3]}'),
        ["model.py:5: ", "coords['plaice']: no output has an axis 'plaice'", "did you mean 'place'?", "self.coords"],
    ),
    "coords of an engine's axis that is not there": (bad(extra='coords = {"chain": [1]}'), ["no output has an axis"]),
    "ragged without its length": (
        bad(extra='ragged = {"x": "count"}'), ["ragged['x'] = 'count'", "no output 'count'"]
    ),
    "ragged without output": (bad(extra='ragged = {"y": "x"}'), ["ragged['y']", "no output 'y'"]),
    "ragged length inside": (
        bad(extra='ragged = {"g": "g.n"}', result='state, {"g": {"n": 3, "m": state}}'),
        ["ragged['g'] = 'g.n'", "outside the table"],
    ),
    "ragged of two lengths": (
        bad(extra='ragged = {"g": "n"}', result='state, {"n": 3, "g": {"a": state, "b": state[:2]}}'),
        ["one common padded first axis"],
    ),
    "ragged table of a taken name": (
        bad(extra='ragged = {"trials": "n"}', result='state, {"n": 3, "trials": state}'),
        ["ragged['trials']"],
    ),
    "no step": (
        "import staffa\n\nclass Bad(staffa.Experiment):\n    def initialize(self, key, params): ...\n",
        ["model.py:3: ", "Bad has no method 'step'"],
    ),
    "wrong arguments": (
        "import staffa\nclass Bad(staffa.Experiment):\n    def initialize(self, key): ...\n"
        "    def step(self, key, state, params): ...\n",
        ["model.py:3: ", "Bad.initialize takes (self, key)"],
    ),
}  # fmt: skip


def test_dims_and_coords_may_be_an_instances_own(tmp_path: Path) -> None:
    """What an option adds is named where the option is known."""
    source = bad(result='state, {"x": state, **({"y": state[:2]} if self.more else {})}').replace(
        "class Bad(staffa.Experiment):",
        "class Bad(staffa.Experiment):\n    more = True\n    def __init__(self):\n"
        "        self.dims = {'x': ('a',), 'y': ('b',)}\n        self.coords = {'b': ['left', 'right']}",
    )
    lab = Lab(tmp_path, source)
    schema = lab.describe(lab.spec("Bad", draws=4))
    assert [output.dims for output in schema.outputs] == [("a",), ("b",)] and schema.coords["b"] == ("left", "right")


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_line_of_the_users_file(tmp_path: Path, case: str) -> None:
    source, fragments = REFUSALS[case]
    lab = Lab(tmp_path, source)
    with pytest.raises(PluginError) as caught:
        lab.describe(lab.spec("Bad", draws=4))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_warmup_needs_adapt_and_adapt_keeps_the_state(tmp_path: Path) -> None:
    lab = Lab(tmp_path, bad())
    with pytest.raises(PluginError, match=r"model\.py:5: sampling.warmup: 3, but Bad has no method 'adapt'"):
        lab.describe(lab.spec("Bad", draws=4, warmup=3))
    lab = Lab(tmp_path, bad(extra="def adapt(self, key, state, params): return state[:2]"))
    with pytest.raises(PluginError, match=r"model\.py:6: Bad.adapt changes state from .*\[3\] to .*\[2\]"):
        lab.describe(lab.spec("Bad", draws=4, warmup=3))
    lab.describe(lab.spec("Bad", draws=4))  # without warm-up nobody calls it


def test_parameters_are_read_only_and_name_their_neighbours() -> None:
    params = Params({"temperature": 1.0})
    with pytest.raises(TypeError):
        params["temperature"] = 2.0  # type: ignore[index]
    with pytest.raises(UnknownParameter, match="did you mean 'temperature'"):
        params["temprature"]
    with pytest.raises(UnknownParameter, match="no parameters"):
        Params({})["x"]
    assert dict(params) == {"temperature": 1.0} and len(params) == 1 and "x" not in params


# ---- compiled once


COUNTING = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from staffa.experiment.compiles import compiles
compiles()
import numpy as np
from dataclasses import replace
from experiment.lab import Lab, inputs_of
from staffa.experiment.batch import checkpoint, restored
lab = Lab(Path(sys.argv[1]))
spec = lab.spec(draws=4, segments=2, discard=1, warmup=2)
counts = []
for batch in range(2):
    performer, inputs = lab.performer(spec), inputs_of(np.linspace(0.1, 1, 8) + batch)
    carried = performer.begin(inputs, 4)
    counts.append(compiles())
    carried = performer.warm(carried, "adapt", 0, 2)
    counts.append(compiles())
    carried = performer.warm(carried, "discard", 0, 1)
    counts.append(compiles())
    carried = performer.sample(carried, 0)
    counts.append(compiles())
    carried = performer.sample(carried, 2)
carried = performer.sample(restored(checkpoint(carried), {}, inputs, lab.program(spec, 4)), 2)
other = replace(spec, static=())  # another group of the same program
lab.performer(other).begin(inputs, 4)
counts.append(compiles())
print(json.dumps(counts))
"""


def test_each_program_is_compiled_once_and_never_again_after_a_restart(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    environment = {**os.environ, **worker_environment(False, "threefry2x32", cache)}
    tests = str(Path(__file__).parent.parent)

    def counted() -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", COUNTING, str(tmp_path), tests],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    assert counted() == [1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert len(list(cache.iterdir())) >= 4
    assert counted() == [0] * 9


def test_the_worker_environment_keeps_what_the_user_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true --xla_dump_to=/x")
    environment = worker_environment(True, "rbg", tmp_path)
    assert environment["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true --xla_dump_to=/x"
    assert environment["JAX_ENABLE_X64"] == "1" and environment["JAX_DEFAULT_PRNG_IMPL"] == "rbg"
    monkeypatch.delenv("XLA_FLAGS")
    assert "multi_thread_eigen=false" in worker_environment(False, "rbg", tmp_path)["XLA_FLAGS"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("STAFFA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(worker_environment(False, "rbg")["JAX_COMPILATION_CACHE_DIR"])
    assert folder.is_relative_to(tmp_path) and folder.stat().st_mode & 0o777 == 0o700
