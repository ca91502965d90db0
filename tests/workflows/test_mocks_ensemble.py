"""The mocks' reducers and figures in a campaign: galaxies of a plain model, so that none waits for a compiler."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from mocks import figures
from mocks.reducers import NumberDensity, Recalibration

import staffa
from staffa.errors import ConfigError, StaffaWarning

FOLDER = Path(__file__).parents[2] / "workflows" / "mocks"
BOX, ROOM, PHASES, REDSHIFTS = 64.0, 900, 24, (0.5, 2.0)
MODEL = '''
import numpy as np
import staffa
from mocks.mass_function import density_above

EDGES = np.arange(11.5, 16.3, 0.25)
STARS = np.arange(7.0, 12.6, 0.25)


class Mock(staffa.Experiment):
    """What a mock records, by NumPy: halos as many as the mass function says, galaxies as it comes."""

    vectorize = "off"
    ragged = {"galaxies": "n_galaxies"}
    dims = {"counts.halos": ("halo_mass",), "counts.galaxies": ("stellar_mass",), "power": ("wavenumber",)}
    dims |= {"middle": ("axis",)}

    def __init__(self, box=64.0):
        self.box = box
        self.coords = {
            "halo_mass": ((EDGES[1:] + EDGES[:-1]) / 2).tolist(),
            "stellar_mass": ((STARS[1:] + STARS[:-1]) / 2).tolist(),
            "axis": ["x", "y", "z"],
            "wavenumber": (0.1 * np.arange(1, 9)).tolist(),
        }

    def initialize(self, key, params):
        return ()

    def step(self, key, state, params):
        random, volume, room = np.random.default_rng(key), self.box**3, 900
        above = np.asarray(density_above(EDGES, params["redshift"]))
        length = int(random.integers(500, 700))
        rows = np.arange(room) < length
        peak = 11.5 + random.exponential(0.3, room)
        stars = 0.9 * peak - 0.4 + 0.2 * random.normal(size=room)
        quenched = random.random(room) < 0.4
        specific = np.where(quenched, -11.6, -9.6) + 0.3 * random.normal(size=room)
        columns = {"logmp_t_obs": peak, "logsm_t_obs": stars, "logssfr_t_obs": specific}
        columns["lg_ha"] = stars + specific + 41.1
        galaxies = {f"galaxies.{name}": np.where(rows, one, 0).astype("f4") for name, one in columns.items()}
        shot_noise = volume / length * (np.nan if params["phase"] == 3002 else 1)
        return state, {
            **galaxies,
            "galaxies.quenched": quenched & rows,
            "n_galaxies": np.int32(length),
            "middle": np.full(3, self.box / 2),
            "n_halos": np.int32(above[0] * volume),
            "counts.halos": random.poisson(-volume * np.diff(above)).astype("i4"),
            "counts.galaxies": np.histogram(stars[:length], STARS)[0].astype("i4"),
            "power": (volume / length * random.gamma(20.0, 0.05, 8)).astype("f4"),
            "shot_noise": np.float32(shot_noise),
        }
'''


def declared() -> dict:
    """The workflow's own sections `reduce` and `qa`."""
    files = [path for path in (FOLDER / "campaign.yaml", FOLDER / "reduce-qa.yaml.fragment") if path.exists()]
    found = {name: section for file in files for name, section in yaml.safe_load(file.read_text()).items()}
    return {name: found[name] for name in ("reduce", "qa")}


def written(folder: Path, **reduce: dict) -> Path:
    shutil.copytree(FOLDER / "mocks", folder / "mocks", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "model.py").write_text(MODEL)
    sections = declared()
    for name, options in reduce.items():
        sections["reduce"][name] |= options
    campaign = {
        "campaign": {"name": "plain"},
        "experiment": {"use": "model.py:Mock", "box": BOX},
        "space": [{"grid": {"phase": list(range(3000, 3000 + PHASES))}}, {"grid": {"redshift": list(REDSHIFTS)}}],
        "execution": {"batch": 5},
        "storage": {"root": str(folder / "runs")},
        "archive": {"partition_by": ["redshift"]},
        **sections,
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(campaign, sort_keys=False))
    return folder / "campaign.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory, workers):
    return staffa.run(written(tmp_path_factory.mktemp("plain")), client=workers, progress=False)


@pytest.fixture(scope="module")
def outputs(run):
    """All that was recorded, by redshift: one array an output."""
    leaves = [leaf.to_dataset().load() for leaf in run.results.to_xarray().leaves]
    found = {}
    for leaf in leaves:
        values = {str(name): leaf[name].values for name in leaf.data_vars}
        found[float(leaf["redshift"].values[0])] = values | {
            "phase": leaf["phase"].values,
            "trial": leaf["trial"].values,
        }
    return found


def test_they_are_those_of_one_pass(run, outputs):
    reduced = run.results.reduced
    assert run.ended.outcomes == {"ok": 46, "nan": 2}  # galaxies of one phase were lost: its shot noise says so
    for place, (redshift, found) in enumerate(sorted(outputs.items())):
        for name, output in (("halo_counts", "counts.halos"), ("galaxy_counts", "counts.galaxies"), ("power", "power")):
            rows = found[output].astype(float)
            assert reduced[name]["by.redshift"][place] == redshift and reduced[name]["count"][place] == PHASES
            np.testing.assert_allclose(reduced[name]["mean"][place], rows.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(reduced[name]["covariance"][place], np.cov(rows.T), rtol=1e-9, atol=1e-12)
        assert reduced.numbers["left_out"][place] == 1
    joint = [
        np.concatenate([one["counts.galaxies"], one["power"]], axis=1)[np.argsort(one["phase"])]
        for _, one in sorted(outputs.items())
    ]
    np.testing.assert_allclose(
        reduced.joint["covariance"], np.cov(np.concatenate(joint, axis=1).T), rtol=1e-9, atol=1e-9
    )
    assert reduced.joint["count"] == PHASES and reduced.joint["lacking"] == 0


def test_what_is_applied_stands_beside_each_galaxy(run, outputs):
    asked = declared()["reduce"]
    options = {
        name: {key: value for key, value in asked[name].items() if key not in ("use", "by")}
        for name in ("recalibrated", "selected")
    }
    recalibration = Recalibration(**{**options["recalibrated"], "reference": None})
    selection = NumberDensity(**options["selected"])
    for redshift, found in outputs.items():
        there = np.arange(ROOM) < found["n_galaxies"][:, None]
        params = {"redshift": np.full(len(there), redshift)}
        for reducer, table in ((recalibration, "recalibrated"), (selection, "selected")):
            expected = reducer.apply(reducer.finish(reducer.map(found, params)), found, params)
            rows = run.results.query(f"select * from {table} order by trial, item").groupby("trial")
            for place, trial in enumerate(found["trial"]):
                own = rows.get_group(trial)
                for name, values in expected.items():
                    np.testing.assert_array_equal(own[name], values[place][there[place]], err_msg=f"{table}.{name}")
    chosen = run.results.query(
        "select redshift, sum(emitters::int)::double as n from selected join trials using (trial) "
        "where phase != 3002 group by 1"
    )
    density = chosen["n"] / (23 * BOX**3)
    assert (abs(density / options["selected"]["density"]["emitters"] - 1) < 0.01).all()


def test_the_report_says_what_is_seen(run):
    own = json.loads(run.report().numbers.read_text())["sections"]["own"]
    assert list(own) == [item["use"] for item in declared()["qa"]["figures"]]
    captions = {}
    for use, shown in own.items():
        assert "error" not in shown, shown
        captions[use.rpartition(":")[2]] = " ".join(one.get("figure") or one["table"] for one in shown)
    # Poisson halos of the very mass function: the deviations are what their errors let expect.
    square = float(re.search(r"mean square difference is ([\d.]+)", captions["mass_function"])[1])
    assert 0.4 < square < 2.0
    between, chance = map(
        float, re.search(r"it is ([\d.]+) .*, by chance ([\d.]+)\.", captions["correlation_matrix"]).groups()
    )
    assert between == pytest.approx(chance, rel=0.2) and chance == pytest.approx(23**-0.5, abs=1e-3)
    assert "all are met" in captions["selections"] and "2 redshifts" in captions["clustering"]


def test_axes_have_names_and_units(run):
    drawn, _ = figures.clustering(run.results, redshifts=1)
    assert [axes.get_ylabel() for axes in drawn.axes] == [r"$P(k)$  (Mpc$^3$)", r"$P(k)\,/\,$noise $-$ 1"]
    with pytest.raises(ValueError, match=r"parts: \['stellar_mass'\] have 22 entries a redshift, the vector 30"):
        figures.correlation_matrix(run.results, parts=["stellar_mass"])
    with pytest.raises(ValueError, match=r"'mass' is no axis of the campaign's outputs: .*wavenumber"):
        figures.axis_of(run.results, "mass")
    with pytest.raises(ConfigError, match="powr"):
        figures.clustering(run.results, power="powr")


def test_what_cannot_be_is_refused_by_the_run_or_said(tmp_path, workers):
    with pytest.raises(ConfigError, match=r"box: 50\.0 is not the side of these mocks, by 'shot_noise'\n  box: 64"):
        staffa.run(written(tmp_path / "box", recalibrated={"box": 50.0}), client=workers, progress=False)
    with pytest.warns(StaffaWarning, match=r"density: 0\.5 \(selected\) .* none are chosen"):
        run = staffa.run(written(tmp_path / "dense", selected={"density": 0.5}), client=workers, progress=False)
    assert not run.results.reduced.selected["reached"].any()
    assert not run.results.query("select bool_or(selected) as any from selected")["any"][0]
    table, caption = figures.selections(run.results)
    assert caption.endswith("2 are not to be had: nothing is selected there.") and table["threshold"] == [np.inf] * 2
