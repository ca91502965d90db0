"""Lanes fail alone: NaN, errors, lanes left out, checkpoints at another width, too little memory."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiment.lab import Lab, inputs_of, outcomes
from staffa.errors import PluginError
from staffa.experiment.batch import Carried, Performer, _first_line, checkpoint, choose_width, restored
from staffa.experiment.perform import Spec
from staffa.experiment.protocol import Output, Sampling, Schema
from staffa.storage import checkpoints

ROWS, WIDTH = 16, 8
TOO_LARGE = 500.0
HEALTHY = np.linspace(0.2, 1.7, ROWS)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("batch"))


@pytest.fixture(scope="module")
def spec(lab: Lab) -> Spec:
    """Six draws in three segments; a poisoned lane raises in the second."""
    return lab.spec("Poisoned", draws=6, segments=3)


@pytest.fixture(scope="module")
def healthy(lab: Lab, spec: Spec) -> Run:
    return Run(lab.performer(spec), spec.sampling, HEALTHY)


class Run:
    """A batch performed to its end: outputs of all segments, outcomes after each."""

    def __init__(
        self, performer: Performer, sampling: Sampling, scales: Any, wanted: Any = None, width: int = WIDTH
    ) -> None:
        self.performer, self.sampling = performer, sampling
        dtype = "float64" if jax.config.jax_enable_x64 else "float32"
        self.inputs = inputs_of(scales, wanted, dtype)
        self.segments: list[dict[str, Any]] = []
        self.after: list[Carried] = [performer.begin(self.inputs, width)]
        for number in range(sampling.segments):
            self.after.append(performer.sample(self.after[-1], number * sampling.segment_draws))
            self.segments.append(self.after[-1].outputs)

    @property
    def words(self) -> list[str]:
        return outcomes(self.after[-1].outcomes)

    def equals(self, other: Run, lanes: Any, segment: int) -> bool:
        mine, theirs = self.segments[segment], other.segments[segment]
        return all(mine[name][lanes].tobytes() == theirs[name][lanes].tobytes() for name in theirs)


def poisoned(*lanes: int, by: float = TOO_LARGE) -> Any:
    scales = HEALTHY.copy()
    scales[list(lanes)] = by
    return scales


def others(*lanes: int) -> list[int]:
    return [lane for lane in range(ROWS) if lane not in lanes]


# ---- NaN


def test_a_nan_lane_is_flagged_and_its_mates_are_kept(lab: Lab, spec: Spec, healthy: Run) -> None:
    run = Run(lab.performer(spec), spec.sampling, poisoned(3, by=-1.0))
    assert healthy.words == ["ok"] * ROWS
    assert run.words == ["nan" if lane == 3 else "ok" for lane in range(ROWS)]
    assert np.isnan(run.segments[0]["root"][3]).all() and np.isfinite(run.segments[0]["x"][3]).all()
    assert not run.after[-1].messages
    for segment in range(3):
        assert run.equals(healthy, others(3), segment)


def test_a_nan_of_an_early_segment_is_not_forgotten(lab: Lab) -> None:
    performer = lab.performer(lab.spec("Poisoned", draws=6, segments=3))
    carried = performer.sample(performer.begin(inputs_of(poisoned(3, by=-1.0)), WIDTH), 0)
    calm = replace(carried, inputs=inputs_of(HEALTHY))  # from now on the lane records numbers
    carried = performer.sample(calm, 2)
    assert np.isfinite(carried.outputs["root"]).all()
    assert outcomes(carried.outcomes)[3] == "nan"


# ---- lanes that raise


@pytest.mark.parametrize(
    "guilty", [(5,), (0,), (3, 4), (1, 6, 7, 12), tuple(range(8))], ids=lambda lanes: "-".join(map(str, lanes))
)
def test_guilty_lanes_are_found_and_the_healthy_lose_nothing(
    lab: Lab, spec: Spec, healthy: Run, guilty: tuple[int, ...]
) -> None:
    """They raise in the second of three segments: the states of all others go on unchanged."""
    run = Run(lab.performer(spec), spec.sampling, poisoned(*guilty))
    assert outcomes(run.after[1].outcomes) == ["ok"] * ROWS
    for after in (run.after[2], run.after[3]):
        assert outcomes(after.outcomes) == ["raised" if lane in guilty else "ok" for lane in range(ROWS)]
        assert set(after.messages) == set(guilty)
        assert set(after.messages.values()) == {"ValueError: scale 500 is too large"}
    assert run.equals(healthy, others(), 0) is False and run.equals(healthy, others(*guilty), 0)
    for segment in (1, 2):
        assert run.equals(healthy, others(*guilty), segment), f"segment {segment}"
        for name, values in run.segments[segment].items():  # nothing of the guilty is left to be seen
            fill = np.isnan(values) if values.dtype.kind == "f" else values == 0
            assert fill[list(guilty)].all(), name


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad\n value"), "bad"),
        (ValueError(), "ValueError"),
        (RuntimeError('INTERNAL: Traceback:\n  File "m.py", line 1, in f\n    1 / 0\nOdd: why\nso'), "Odd: why"),
        (RuntimeError("x" * 1000), "x" * 300),
    ],
)
def test_a_message_is_the_line_that_says_why(error: Exception, line: str) -> None:
    assert _first_line(error) == line


def test_when_every_lane_raises_nothing_is_recorded_and_nothing_hangs(lab: Lab, spec: Spec) -> None:
    run = Run(lab.performer(spec), spec.sampling, poisoned(*range(ROWS)))
    assert run.words == ["raised"] * ROWS
    assert run.segments[0] and not run.segments[2]


def test_the_search_asks_few_questions(lab: Lab, spec: Spec) -> None:
    asked: list[list[int]] = []

    @contextlib.contextmanager
    def guard(lanes: list[int]) -> Iterator[None]:
        asked.append(list(lanes))
        yield

    performer = Performer(lambda width: lab.program(spec, width), lab.describe(spec), guard)
    carried = performer.sample(performer.begin(inputs_of(poisoned(5)), WIDTH), 0)
    del asked[:]
    performer.sample(carried, 2)
    # The slice of the guilty: all, then halves down to it; the other slice once.
    assert asked == [
        list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7], list(range(8, 16)),
    ]  # fmt: skip


def test_an_error_of_ours_is_nobodys_fault(lab: Lab, spec: Spec) -> None:
    @contextlib.contextmanager
    def guard(lanes: list[int]) -> Iterator[None]:
        raise PluginError("cannot be")
        yield

    performer = Performer(lambda width: lab.program(spec, width), lab.describe(spec), guard)
    with pytest.raises(PluginError):
        performer.begin(inputs_of(HEALTHY), WIDTH)


def test_doubles_survive_the_search_where_doubles_are_not_the_default(lab: Lab) -> None:
    """The states of separately computed lanes are joined, which must not round them."""
    assert not jax.config.jax_enable_x64
    spec = lab.spec("Poisoned", traced={"scale": "float64"}, x64=True, draws=6, segments=3)
    performer = lab.performer(spec)

    def run(scales: Any) -> list[dict[str, Any]]:
        carried, found = performer.begin(inputs_of(scales, dtype="float64"), WIDTH), []
        for draw in (0, 2, 4):
            carried = performer.sample(carried, draw)
            found.append(carried.outputs)
        return found

    calm, wild = run(HEALTHY), run(poisoned(1, 6))
    for segment in range(3):
        assert calm[segment]["x"].dtype == "float64"
        assert (calm[segment]["x"][others(1, 6)] == wild[segment]["x"][others(1, 6)]).all()


# ---- lanes left out


def test_lanes_left_out_are_never_touched(lab: Lab, spec: Spec, healthy: Run) -> None:
    wanted = [0, 2, 3, 9]
    run = Run(lab.performer(spec), spec.sampling, poisoned(1, 4, 15), wanted)
    assert run.words == ["ok" if lane in wanted else "padding" for lane in range(ROWS)]
    for segment in range(3):
        assert run.equals(healthy, wanted, segment)
        assert np.isnan(run.segments[segment]["x"][[1, 4, 15]]).all()
    few = Run(lab.performer(spec), spec.sampling, poisoned(1, 4, 15), [9])
    assert len(few.after[-1].slices) == 1 and few.words.count("padding") == ROWS - 1


# ---- checkpoints


def test_a_checkpoint_goes_on_as_if_nothing_had_happened(lab: Lab, spec: Spec, healthy: Run, tmp_path: Path) -> None:
    """Same width: bit for bit. Another width: the same keys, values within rounding."""
    checkpoints.save(tmp_path / "c", checkpoint(healthy.after[1]), {"segment": 1})
    saved = checkpoints.load(tmp_path / "c")
    assert saved is not None and saved.meta == {"segment": 1}
    performer = lab.performer(spec)
    same = performer.sample(restored(saved.arrays, {}, healthy.inputs, lab.program(spec, WIDTH)), 2)
    for name, values in healthy.segments[1].items():
        assert same.outputs[name].tobytes() == values.tobytes(), name
    narrow = performer.sample(restored(saved.arrays, {}, healthy.inputs, lab.program(spec, 4)), 2)
    assert narrow.width == 4 and len(narrow.slices) == 4
    for name in ("key", "steps"):
        assert (narrow.outputs[name] == healthy.segments[1][name]).all(), name
    np.testing.assert_allclose(narrow.outputs["x"], healthy.segments[1]["x"], rtol=1e-4, atol=1e-5)
    assert outcomes(narrow.outcomes) == ["ok"] * ROWS


def test_failed_and_unwanted_lanes_stay_so_across_a_checkpoint(lab: Lab, spec: Spec, healthy: Run) -> None:
    run = Run(lab.performer(spec), spec.sampling, poisoned(5), [*range(3, 7), 14])
    saved = checkpoint(run.after[2])
    going = restored(saved, run.after[2].messages, run.inputs, lab.program(spec, WIDTH))
    going = lab.performer(spec).sample(going, 4)
    assert outcomes(going.outcomes) == run.words
    assert list(going.messages) == [5]
    assert going.outputs["x"].tobytes() == run.segments[2]["x"].tobytes()


def test_a_lane_that_is_wanted_no_more_is_aboard_and_brings_nothing(lab: Lab, spec: Spec, healthy: Run) -> None:
    """It was cancelled while its batch waited to go on; the others are computed as they would have been."""
    wanted = healthy.inputs.wanted.copy()
    wanted[3] = False
    inputs = replace(healthy.inputs, wanted=wanted)
    going = restored(checkpoint(healthy.after[1]), {}, inputs, lab.program(spec, WIDTH))
    going = lab.performer(spec).sample(going, 2)
    assert outcomes(going.outcomes)[3] == "padding"
    assert going.outputs["x"][wanted].tobytes() == healthy.segments[1]["x"][wanted].tobytes()


# ---- memory


class Small:
    """A program that does not fit the device beyond so many lanes."""

    def __init__(self, program: Any, fits: int, calls: list[int]) -> None:
        self._program, self._fits, self._calls = program, fits, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def sample(self, *arguments: Any) -> Any:
        self._calls.append(self._program.width)
        if self._program.width > self._fits:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        return self._program.sample(*arguments)


@pytest.mark.parametrize(("width", "fits", "tried"), [(8, 2, [8, 4, 2]), (6, 2, [6, 3, 1])])
def test_out_of_memory_narrows_the_slices_and_loses_no_lane(lab: Lab, width: int, fits: int, tried: list[int]) -> None:
    rows, spec = 2 * width, lab.spec(draws=2)
    remembered: list[int] = []
    calls: list[int] = []
    performer = Performer(
        lambda width: Small(lab.program(spec, width), fits, calls),  # type: ignore[arg-type,return-value]
        lab.describe(spec),
        lambda lanes: contextlib.nullcontext(),
        remembered.append,
    )
    inputs = inputs_of(np.linspace(0.2, 1, rows))
    carried = performer.sample(performer.begin(inputs, width), 0)
    assert list(dict.fromkeys(calls)) == tried and remembered == tried[1:]
    assert calls.count(tried[-1]) == rows // tried[-1]
    assert outcomes(carried.outcomes) == ["ok"] * rows and carried.width == tried[-1]
    plain = lab.performer(spec)
    whole = plain.sample(plain.begin(inputs, width), 0)
    assert (carried.outputs["key"] == whole.outputs["key"]).all()
    np.testing.assert_allclose(carried.outputs["x"], whole.outputs["x"], rtol=1e-5)


def test_one_lane_that_does_not_fit_is_not_the_lanes_fault(lab: Lab) -> None:
    spec, calls = lab.spec(draws=2), []
    performer = Performer(
        lambda width: Small(lab.program(spec, width), 0, calls),  # type: ignore[arg-type,return-value]
        lab.describe(spec),
        lambda lanes: contextlib.nullcontext(),
    )
    carried = performer.begin(inputs_of(np.ones(2)), 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        performer.sample(carried, 0)


REALLY_SMALL = '''
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import numpy as np, psutil
from experiment.lab import Lab, inputs_of
lab = Lab(Path(sys.argv[1]), """
import jax, jax.numpy as jnp, staffa
class Big(staffa.Experiment):
    def initialize(self, key, params):
        return jnp.float32(0)
    def step(self, key, state, params):
        table = jax.lax.optimization_barrier(jnp.arange(1 << 22, dtype="float32") * params["scale"])  # 16 MiB
        return state + table[-1], {"x": state + table[2] + 0.0 * table.sum()}
""")
spec, told = lab.spec("Big", draws=1), []
performer = lab.performer(spec, told.append)
carried = performer.begin(inputs_of(np.arange(16.0)), 16)
for width in (16, 8, 4, 2, 1):
    lab.program(spec, width).prepare("sample")
limit = psutil.Process().memory_info().vms + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
carried = performer.sample(carried, 0)
print(json.dumps([told, carried.width, carried.outcomes.tolist(), carried.outputs["x"][:, 0].tolist()]))
'''


def test_a_process_that_really_runs_out_of_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REALLY_SMALL, str(tmp_path), str(Path(__file__).parent.parent)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told, width, codes, values = json.loads(done.stdout)
    assert width < 16 and told == [16 >> n for n in range(1, len(told) + 1)] and told[-1] == width
    assert outcomes(codes) == ["ok"] * 16
    assert values == [2.0 * lane for lane in range(16)]


@pytest.mark.parametrize("batch", [1, 3, 64, 96, 1000, 2048])
def test_the_width_divides_the_batch(batch: int) -> None:
    schema = Schema((Output("x", "float32", (3,), ("a",)),), {}, 100)
    width = choose_width(batch, schema, 10)
    assert batch % width == 0 and 1 <= width <= max(256, batch if batch % 2 else 256)
