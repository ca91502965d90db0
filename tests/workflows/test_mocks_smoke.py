"""The campaign of mocks: what is planned and refused, and what a smoke run of small boxes records."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mocks import mass_function, statistics, subhalos

import staffa
from staffa.errors import StaffaError
from staffa.testing import NotConforming, check_experiment

FOLDER = Path(__file__).parents[2] / "workflows" / "mocks"
SMALL = {"box": 22.0, "chunk": 32, "grid": 8}


def imported():
    spec = importlib.util.spec_from_file_location("mocks_model", FOLDER / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, workers):
    small = [f"experiment.{name}={value}" for name, value in SMALL.items()]
    root = f"storage.root={tmp_path_factory.mktemp('runs')}"
    campaign = staffa.load(FOLDER / "campaign.yaml", profile="smoke", set=[root, *small])
    return staffa.run(campaign, client=workers, progress=False, allow_dirty=True)


def test_the_campaign_is_40_000_mocks_of_enough_halos_and_galaxies():
    prepared = staffa.plan(FOLDER / "campaign.yaml")
    plan = prepared.plan
    assert (plan.trials, plan.x64) == (40_000, True)
    campaign = staffa.load(FOLDER / "campaign.yaml")
    block = dict(campaign.declaration.campaign.experiment)
    redshifts = np.array(campaign.declaration.campaign.space[1]["grid"]["redshift"])
    assert (len(redshifts), redshifts.min(), redshifts.max()) == (20, 0.2, 3.0)
    edges = np.linspace(block["lgmp_min"], 17, 400)
    halos = -np.diff(block["box"] ** 3 * mass_function.density_above(edges, redshifts[:, None]), axis=1)
    satellites = halos @ subhalos.mean_count((edges[1:] + edges[:-1]) / 2, block["lgmp_min"])
    assert halos.sum(1).mean() > 1_000 and (halos.sum(1) + satellites).mean() > 1_500
    assert staffa.plan(FOLDER / "campaign.yaml", profile="smoke").plan.trials == 24
    assert staffa.plan(FOLDER / "campaign.yaml", profile="sample").plan.trials == 400


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("experiment.box=-5", ["box: -5", "Mpc"]),
        ("experiment.box=.nan", ["box", "nan"]),
        ("experiment.box=5000", ["box: 5000", "there is room for"]),
        ("experiment.lgmp_min=17.5", ["lgmp_min: 17.5", "[8, 16]"]),
        ("experiment.cosmology=Plank18", ["cosmology: 'Plank18'", "Planck18"]),
        ("experiment.chunk=0", ["chunk: 0"]),
        ("experiment.grid=15", ["grid: 15 is odd"]),
        ("experiment.line_modifier=[0, 1]", ["line_modifier", "three numbers"]),
        ("experiment.line_scatter=-1", ["line_scatter: -1", "dex"]),
        ("experiment.lowest_redshift=11", ["lowest_redshift: 11"]),
        ("experiment.boks=5", ["boks", "box"]),
        ("space=[{grid: {phase: [3000], redshift: [0.5, -0.1]}}]", ["redshift", "-0.1"]),
        ("space=[{grid: {phase: [3000.5], redshift: [0.5]}}]", ["phase", "3000.5"]),
    ],
)
def test_what_cannot_be_is_refused_by_name(value, words):
    with pytest.raises(StaffaError) as refused:
        staffa.plan(FOLDER / "campaign.yaml", set=[value])
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_a_smoke_run_has_its_tables(smoke):
    assert smoke.ended.outcomes == {"ok": 24}
    draws = smoke.results.draws.to_pandas().set_index(["redshift", "phase"])
    assert len(draws) == 24 and draws["n_halos"].nunique() > 15
    galaxies, halos = (smoke.query(f"select * from {table}") for table in ("galaxies", "halos"))
    assert (len(galaxies), len(halos)) == (draws["n_galaxies"].sum(), draws["n_halos"].sum())
    for z, mean in draws.groupby(level="redshift")["n_halos"].mean().items():
        expected = mass_function.mean_count(11.5, z, SMALL["box"])
        assert abs(mean - expected) < 4 * np.sqrt(expected / 8)
    for name in ("position", "velocity"):
        assert (galaxies[f"galaxies.{name}"].map(len) == 3).all()
    own = galaxies.set_index(["redshift", "phase", "item"])
    satellites = own[own["galaxies.upid"] >= 0].reset_index()
    hosts = own.loc[list(zip(satellites["redshift"], satellites["phase"], satellites["galaxies.upid"], strict=True))]
    assert len(satellites) > 200 and (hosts["galaxies.upid"] == -1).all(), "upid is the row of the host's central"
    assert (satellites["galaxies.logmp_t_obs"].to_numpy() <= hosts["galaxies.logmp_t_obs"].to_numpy()).all()


def test_what_is_measured_is_of_what_is_recorded(smoke):
    draws = smoke.results.draws.to_pandas()
    masses = smoke.query('select trial, list("galaxies.logsm_t_obs") as m from galaxies group by 1').set_index("trial")[
        "m"
    ]
    for row in draws.to_dict("records"):
        assert row["shot_noise"] == pytest.approx(SMALL["box"] ** 3 / row["n_galaxies"], rel=1e-6)
        counted = np.histogram(np.array(masses[row["trial"]], np.float64), statistics.STELLAR_MASSES)[0]
        np.testing.assert_array_equal(row["counts.galaxies"], counted)
        assert sum(row["counts.halos"]) == row["n_halos"] and len(row["power"]) == 4
    arrays = next(iter(smoke.results.to_xarray().children.values()))  # of each redshift
    assert arrays["power"].dims[-1] == "wavenumber" and arrays["wavenumber"].size == 4


def test_one_program_makes_all_redshifts(smoke):
    """So the run compiles once, for three groups of one redshift each."""
    lines = [
        json.loads(line) for path in smoke.root.glob("ledger/events-*.jsonl") for line in path.read_text().splitlines()
    ]
    compiled = [line["compiles"] for line in lines if line.get("compiles") is not None]
    assert len(compiled) == 3 and sum(number > 0 for number in compiled) <= 1


def test_what_does_not_fit_flags_its_trial(monkeypatch):
    """`nan` is the outcome of a trial with a NaN."""
    import jax
    import jax.numpy as jnp

    model = imported()
    few = model.halos.Halos(jnp.full(8, 12.0), jnp.ones((8, 3)), jnp.ones((8, 3)), jnp.int32(5), jnp.int32(0))
    monkeypatch.setattr(model.halos, "drawn", lambda *asked: few)
    for lost, number, flagged in ((0, 5, False), (2, 5, True), (0, 0, True)):
        made = {"n_galaxies": jnp.int32(number), "lost": jnp.int32(lost)}
        made |= {"galaxies.position": jnp.ones((8, 3)), "galaxies.logsm_t_obs": jnp.full(8, 9.0)}
        monkeypatch.setattr(model, "populate", lambda *asked, made=made: dict(made))
        _, outputs = model.Mock(**SMALL).step(jax.random.key(1), (), {"redshift": 0.5, "phase": 3000})
        assert np.isnan(outputs["shot_noise"]) == flagged and outputs["n_galaxies"] == number


@pytest.mark.soak
def test_a_mock_is_what_the_engine_takes_for_granted():
    """But for one thing: diffmah itself splits a key twice, for t_peak and for the rest."""
    with pytest.raises(NotConforming) as told:
        check_experiment(imported().Mock, {"phase": 3000, "redshift": 1.0}, options=SMALL, draws=None, x64=[True])
    assert [one.what for one in told.value.findings if not one.holds] == ["no key is used twice (x64: true)"]
