"""Optimal experimental design: the criterion by hand, the population's numbers, and a search that is killed."""

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import staffa
from staffa.experiment.protocol import Params
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace
from staffa.testing import check_experiment

WORKFLOW = Path(__file__).parents[2] / "workflows" / "design"


def imported(name):
    spec = importlib.util.spec_from_file_location(name, WORKFLOW / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


criterion = imported("criterion")
design = imported("design")
Evolution = imported("model").Evolution

VARIABLES = (
    criterion.Variable("a", 0, 1),
    criterion.Variable("b", 1e-4, 1, log=True),
    criterion.Variable("n", 2, 9, True),
)

# ---- the criterion


def test_designs_are_places_in_a_cube_and_back() -> None:
    found = list(itertools.islice(criterion.random_designs(VARIABLES, np.random.default_rng(1)), 200))
    assert all(0 <= one["a"] <= 1 and 1e-4 <= one["b"] <= 1 and one["n"] in range(2, 10) for one in found)
    assert {one["n"] for one in found} == set(range(2, 10)) and all(isinstance(one["n"], int) for one in found)
    points = criterion.places(VARIABLES, found)
    assert points.min() >= 0 and points.max() <= 1
    again = [{v.name: v.value(p) for v, p in zip(VARIABLES, row, strict=True)} for row in points]
    assert again == found == json.loads(json.dumps(found))
    # Spread evenly in the logarithm: half of them below the middle of the range there (sd of the share 3.5 %).
    assert np.mean([one["b"] < 1e-2 for one in found]) == pytest.approx(0.5, abs=0.14)


class Known:
    """A process whose mean and sd are known: in the place of a Gaussian one."""

    def __init__(self, mean, sd):
        self.mean, self.sd = mean, sd

    def predict(self, points, return_std=False):
        mean = self.mean(points)
        return (mean, np.full(len(points), self.sd)) if return_std else mean


def test_information_is_the_slopes_over_the_variance() -> None:
    models = [Known(lambda x: 3 * x[:, 0] - x[:, 1], 0.5), Known(lambda x: x[:, 2] ** 2, 2.0)]
    points = np.random.default_rng(1).random((5, 3))
    for point, found in zip(points, criterion.information(models, points), strict=True):
        first, second = np.array([3, -1, 0]), np.array([0, 0, 2 * point[2]])
        np.testing.assert_allclose(
            found, np.outer(first, first) / 0.25 + np.outer(second, second) / 4, rtol=1e-9, atol=1e-9
        )


def test_the_best_design_is_the_one_that_tells_what_is_not_known() -> None:
    """Where the known designs tell of x only, one that tells as much of y is worth more than one more of x."""
    models = [Known(lambda x: np.where(x[:, 0] < 0.5, x[:, 0], x[:, 1]), 1.0)]
    known = np.array([[0.1, 0.1], [0.2, 0.4]])
    assert criterion.best(models, known, np.array([[0.3, 0.3], [0.8, 0.3], [0.2, 0.9]])) == 1
    assert criterion.best(models, known + np.array([0.6, 0]), np.array([[0.3, 0.3], [0.8, 0.3]])) == 0


def test_processes_learn_a_function_and_their_slopes() -> None:
    random = np.random.default_rng(2)
    points = random.random((60, 2))
    outputs = np.stack([np.sin(3 * points[:, 0]), 5 + 100 * points[:, 1], np.full(60, 2.0)], axis=1)
    models = criterion.surrogates(points, outputs)
    middle = np.array([[0.5, 0.5], [0.3, 0.7]])
    for model, column, truth in zip(
        models, outputs.T, (np.sin(3 * middle[:, 0]), 5 + 100 * middle[:, 1], [2, 2]), strict=True
    ):
        np.testing.assert_allclose(model.predict(middle) * (column.std() or 1) + column.mean(), truth, rtol=0.03)
    # Of the constant output nothing is to be learnt.
    assert np.abs(criterion.information(models[2:], middle)).max() < 1e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {low: 2, high: 1}", "a: from 2 to 1 is no range"),
        ("a: {low: 0, high: 1, log: true}", "no range above 0"),
        ("a: {low: 0, hihg: 1}", "'hihg' is none of"),
        ("[1, 2]", "a mapping such as"),
    ],
)
def test_bounds_that_are_none_are_refused(tmp_path, text, message) -> None:
    (tmp_path / "bounds.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        criterion.read_bounds(tmp_path / "bounds.yaml")


def test_both_bounds_files_name_what_the_model_takes() -> None:
    wanted = {"length", "k", "states", "population", "generations", "mutation_rate", "selection"}
    for name in ("bounds.yaml", "wide.yaml"):
        assert {one.name for one in criterion.read_bounds(WORKFLOW / name)} == wanted


# ---- the model

SMALL = {"length": 8, "k": 1, "states": 3, "population": 40, "generations": 5, "mutation_rate": 0.02, "selection": 20.0}


def outcome(seed=0, **changes):
    values = {**SMALL, **changes}
    params = Params({n: v if n in Evolution.static else jnp.asarray(v) for n, v in values.items()})
    first, second = jax.random.split(jax.random.key(seed))
    own = Evolution()
    begun = own.initialize(first, params)
    last, outputs = jax.jit(lambda state: own.step(second, state, params))(begun)
    return begun, last, {name: float(value) for name, value in outputs.items()}


def test_the_model_conforms() -> None:
    """In the precision that its runs below do not use."""
    check_experiment(Evolution, SMALL, draws=None, x64=(True,))


def test_without_selection_and_mutation_a_population_drifts() -> None:
    begun, last, found = outcome(mutation_rate=0.0, selection=0.0, generations=60)
    before, after = ({tuple(row) for row in one.tolist()} for one in (begun, last))
    assert after < before, "nobody new"
    assert found["barrier_crossing"] == 0.0
    _, _, longer = outcome(mutation_rate=0.0, selection=0.0, generations=600)
    # Of 40 without mutation all are of one founder after 600 generations, but for once in e^15.
    assert longer["entropy"] == 0.0 and longer["entropy"] < found["entropy"] + 1e-9


def test_selection_climbs_and_mutation_keeps_diverse() -> None:
    _, _, idle = outcome(selection=0.0, generations=30)
    _, _, climbing = outcome(selection=60.0, generations=30)
    assert climbing["geometric_fitness"] > idle["geometric_fitness"] + 0.1
    assert climbing["information_gain"] > idle["information_gain"]
    _, last, mixed = outcome(mutation_rate=1.0, selection=0.0)
    counts = jnp.stack([(last == state).mean(0) for state in range(3)])
    assert mixed["entropy"] == pytest.approx(float(-(counts * jnp.log(counts)).sum(0).mean()), rel=1e-4)
    assert mixed["barrier_crossing"] == pytest.approx(0.5, abs=0.2)


# ---- the search

PATIENCE = 1800.0
"""Seconds a search of five designs may take, on a machine that has other things to do."""


def search(folder, *words):
    return design.made(design.arguments(["--root", str(folder), *words]))


def test_what_comes_next_follows_from_what_is_known(tmp_path) -> None:
    one = search(tmp_path, "--seeding", "6", "--iterations", "4")
    known = [
        design.Tried(seed, dict.fromkeys(design.OUTPUTS, float(number)) if number != 2 else None)
        for number, seed in enumerate(one.seeds())
    ]
    following = one.next(known)
    assert following == one.next(list(known)) and following not in [tried.design for tried in known]
    assert following != one.next(known[:-1])
    assert one.next([design.Tried(tried.design, None) for tried in known]), "all failed: at random"
    with pytest.raises(ValueError, match="--seeding 1"):
        search(tmp_path, "--seeding", "1")


LITTLE = ("--seeding", "3", "--bounds")
BOUNDS = """
length: {low: 8, high: 9, whole: true}
k: {low: 0, high: 1, whole: true}
states: {low: 2, high: 3, whole: true}
population: {low: 20, high: 21, whole: true}
generations: {low: 5, high: 9, whole: true}
mutation_rate: {low: 0.001, high: 0.1, log: true}
selection: {low: 1.0, high: 50.0, log: true}
"""


def bounds(folder) -> str:
    (folder / "bounds.yaml").write_text(BOUNDS)
    return str(folder / "bounds.yaml")


@contextlib.contextmanager
def drive(folder, log):
    words = [sys.executable, str(WORKFLOW / "design.py"), *LITTLE, bounds(folder), "--iterations", "2"]
    with log.open("a") as out:
        process = subprocess.Popen(
            [*words, "--root", str(folder)], stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def killed_when(folder, log, there) -> bool:
    """`kill -9` of the search and all its children as soon as something is there; whether it came to that."""
    until = time.monotonic() + PATIENCE
    with drive(folder, log) as process:
        while time.monotonic() < until and process.poll() is None:
            if there():
                return True
            time.sleep(0.02)
    return False


def test_a_search_cut_short_is_the_search_that_was_not(tmp_path, workers, capsys) -> None:
    """Killed among the seeds and with a new design not run; ended with the next design not chosen."""
    whole, broken, log = (tmp_path / name for name in ("whole", "broken", "log.txt"))
    whole.mkdir()
    *_, expected = design.steps(search(whole, *LITTLE, bounds(whole), "--iterations", "2"), workers)
    assert len(expected) == 5 and all(one.outputs for one in expected)

    broken.mkdir()
    root = broken / "v1.0_design"
    workspace = Workspace(root)

    def settled():
        """Batches that are done, told by the driver that did them or found by the next."""
        events = list(history(workspace)) if root.is_dir() else []
        told = {event["batch"] for event in events if event["event"] == "batch_settled"}
        return len(told.union(*(event["batches"] for event in events if event["event"] == "batches_found")))

    moments = (
        lambda: settled() >= 1,  # half-way through the seeds
        lambda: workspace.plan(1).exists(),  # grown, the new design not run
    )
    for number, moment in enumerate(moments):
        assert killed_when(broken, log, moment), f"{number}: {log.read_text()[-2000:]}"
    for iterations, designs in (("1", 4), ("2", 5)):  # the second time all there is has been run
        *_, known = design.steps(search(broken, *LITTLE, bounds(broken), "--iterations", iterations), workers)
        assert len(known) == designs

    assert design.tried(root, list(SMALL)) == expected
    computed = Counter(
        event["batch"] for event in history(workspace) if event["event"] == "batch_settled" and event["computed"]
    )
    # Of a batch whose driver died between its commit and the journal there is no word, but its mark.
    assert set(computed.values()) == {1} and len(computed) >= 3, "no design is run twice"
    capsys.readouterr()
    assert design.main(["--seeding", "3", "--root", str(broken), "--manifest"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["kind"] for row in rows] == ["seed"] * 3 + ["chosen"] * 2
    assert [row["outputs"] for row in rows] == [one.outputs for one in expected]
    assert staffa.status(root)["figures"]["outcomes"] == {"ok": 10}
