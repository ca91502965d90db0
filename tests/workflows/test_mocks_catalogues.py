"""Halos of simulations' files: read as they were written, a slab at a time; what is wrong with a file is named."""

from __future__ import annotations

import resource
import shutil
from dataclasses import replace
from pathlib import Path

import asdf
import h5py
import jax
import numpy as np
import pytest
from mocks import catalogues
from mocks.catalogues import Layout, read
from mocks.export import exported, mocks

import staffa
from staffa.cli import main
from staffa.errors import ClusterError, ConfigError
from staffa.experiment.protocol import Params
from staffa.experiment.registry import build, importing_from
from staffa.testing import check_family

FOLDER = Path(__file__).parents[2] / "workflows" / "mocks"
BOX = 32.0
ABACUS = Layout(
    20.0,
    mass="halos/N",
    position="halos/x_L2com",
    velocity="halos/v_L2com",
    particle_mass=2.0e9,
    hubble=0.5,
    centred=True,
)
PLAIN = {"box": BOX, "mass": "mass", "position": "position", "velocity": ""}
PLAIN |= {"particle_mass": None, "hubble": None, "centred": False}
"""In the place of what `catalogue.yaml` says of AbacusSummit's files."""


def made(seed=1, halos=120):
    """The columns of a catalogue in physical units."""
    rng = np.random.default_rng(seed)
    return {
        "mass": 10 ** rng.uniform(11.2, 12.2, halos),
        "position": rng.uniform(0, BOX, (halos, 3)),
        "velocity": rng.normal(0, 300, (halos, 3)),
    }


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".asdf":
        tree = {}
        for name, values in columns.items():
            *folders, last = name.split("/")
            node = tree
            for folder in folders:
                node = node.setdefault(folder, {})
            node[last] = values
        asdf.AsdfFile(tree).write_to(path)
        return path
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def same(one, other):
    return all(np.array_equal(vars(one)[name], vars(other)[name]) for name in ("logm", "position", "velocity", "rows"))


# --- reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["hdf5", "h5", "asdf"])
def test_what_was_written_is_read(tmp_path, suffix):
    columns = made()
    halos = read(write(tmp_path / f"halos.{suffix}", columns), Layout(BOX))
    assert np.array_equal(halos.logm, np.log10(columns["mass"])) and halos.box == BOX
    assert np.array_equal(halos.position, columns["position"])
    assert np.array_equal(halos.velocity, columns["velocity"]) and list(halos.rows) == list(range(120))


@pytest.mark.parametrize("slabs", [1, 2, 7])
def test_slabs_are_the_whole_and_no_halo_is_in_two(tmp_path, slabs, monkeypatch):
    monkeypatch.setattr(catalogues, "PIECE", 50)
    columns = made()
    columns["position"][:9, 1] = [0, BOX / 2, BOX, np.nextafter(BOX, 0), BOX / 7, *np.arange(2, 6) * BOX / 7]
    columns["position"][9:12] = np.float32(BOX) - np.float32(1e-6)
    whole = read(write(tmp_path / "halos.hdf5", columns), Layout(BOX))
    parts = [read(tmp_path / "halos.hdf5", Layout(BOX), slab, slabs) for slab in range(slabs)]
    for slab, part in enumerate(parts):
        y = part.position[:, 1]
        assert (y >= BOX * slab / slabs).all() and (y < BOX * (slab + 1) / slabs).all()
        assert same(part, read(write(tmp_path / "halos.asdf", columns), Layout(BOX), slab, slabs))
    rows = np.concatenate([part.rows for part in parts])
    assert np.array_equal(np.sort(rows), whole.rows)
    for name in ("logm", "position", "velocity"):
        assert np.array_equal(np.concatenate([vars(part)[name] for part in parts])[np.argsort(rows)], vars(whole)[name])
    assert whole.position[2, 1] == 0 and whole.position.max() < BOX


def test_units_of_abacus_become_ours(tmp_path):
    """500 particles of 2e9 Msun/h, h = 0.5, are 2e12 Msun; 5 Mpc/h from the middle of 20 Mpc/h is at 30 Mpc."""
    columns = {
        "halos/N": np.array([500, 50, 5], np.uint32),
        "halos/x_L2com": np.array([[5, -10, 0], [0, 10, 0], [1, 1, 1]], np.float32),
        "halos/v_L2com": np.full((3, 3), 7, np.float32),
    }
    for suffix in ("hdf5", "asdf"):
        halos = read(write(tmp_path / f"halos.{suffix}", columns), ABACUS)
        assert halos.box == 40 and np.allclose(halos.logm, np.log10([2e12, 2e11, 2e10]), rtol=1e-15)
        assert np.array_equal(halos.position, [[30, 0, 20], [20, 0, 20], [22, 22, 22]]) and (halos.velocity == 7).all()
        assert list(read(tmp_path / f"halos.{suffix}", ABACUS, lightest=11).rows) == [0, 1]


def test_positions_may_be_three_columns_and_velocities_may_be_missing(tmp_path):
    columns = made()
    apart = {f"{name}": columns["position"][:, axis] for axis, name in enumerate("xyz")}
    path = write(tmp_path / "halos.hdf5", {"mass": columns["mass"], **apart})
    halos = read(path, Layout(BOX, position=["x", "y", "z"]))
    assert np.array_equal(halos.position, columns["position"]) and not halos.velocity.any()
    with pytest.raises(ConfigError, match="there is no column 'velocty'"):
        read(path, Layout(BOX, position=["x", "y", "z"], velocity="velocty"))
    path = write(tmp_path / "log.hdf5", {**columns, "mass": np.log10(columns["mass"])})
    assert np.array_equal(read(path, Layout(BOX, logarithmic=True)).logm, np.log10(columns["mass"]))
    path = write(tmp_path / "halos.hdf5", columns)
    with pytest.raises(ConfigError, match=r"but no halo has more than 10\^17 Msun \(and 119 more rows\)"):
        read(path, Layout(BOX, logarithmic=True))


def changed(name, place, value):
    def change(columns):
        columns[name][place] = value
        return columns

    return change


WRONG = {
    "a NaN mass": (changed("mass", 17, np.nan), "column 'mass', row 17: nan, but a mass is finite and above 0"),
    "infinite": (changed("mass", 3, np.inf), "column 'mass', row 3: inf"),
    "zero": (changed("mass", slice(5, 7), 0.0), "column 'mass', row 5: 0, but"),
    "negative": (changed("mass", 119, -2e12), "column 'mass', row 119: -2e+12"),
    "another unit": (changed("mass", 8, 2e45), "column 'mass', row 8: 2e+45, but no halo has more than 10^17 Msun"),
    "nowhere": (
        changed("position", (4, 2), np.nan),
        "column 'position', row 4: nan along z, but the box goes from 0 to 32",
    ),
    "left": (changed("position", (61, 1), -0.25), "column 'position', row 61: -0.25 along y"),
    "right": (changed("position", (61, 0), 32.5), "column 'position', row 61: 32.5 along x"),
    "as fast as that": (changed("velocity", (90, 0), np.inf), "column 'velocity', row 90: inf along x"),
    "no masses": (lambda c: {"position": c["position"]}, "there is no column 'mass'"),
    "another name": (lambda c: {"Mass": c["mass"], "position": c["position"]}, "did you mean 'Mass'"),
    "lengths": (lambda c: {**c, "position": c["position"][:-2]}, "'position' has 118 rows, 'mass' has 120"),
    "shape": (lambda c: {**c, "position": c["position"][:, :2]}, "column 'position' has shape (120, 2), not (n, 3)"),
    "text": (lambda c: {**c, "mass": np.full(120, b"heavy")}, "column 'mass' has dtype"),
    "no halos": (lambda c: {name: values[:0] for name, values in c.items()}, "the catalogue is empty: no halo"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("suffix", ["hdf5", "asdf"])
def test_what_is_wrong_is_named(tmp_path, case, suffix, monkeypatch):
    monkeypatch.setattr(catalogues, "PIECE", 50)
    spoil, message = WRONG[case]
    path = write(tmp_path / "ph3000" / f"z0.500.{suffix}", spoil(made()))
    with pytest.raises(ConfigError) as told:
        read(path, Layout(BOX))
    assert message in str(told.value) and f"ph3000/z0.500.{suffix}: " in str(told.value)
    assert not case.startswith("zero") or "(and 1 more rows)" in str(told.value)


def test_empty_slabs_and_slabs_that_are_none(tmp_path):
    columns = made()
    columns["position"][:, 1] /= 2
    path = write(tmp_path / "halos.hdf5", columns)
    assert len(read(path, Layout(BOX), 0, 2)) == 120
    with pytest.raises(ConfigError, match=r"slab 1 of 2 is empty: no halo above 10\^11 Msun"):
        read(path, Layout(BOX), 1, 2, lightest=11)
    with pytest.raises(ConfigError, match="slab: 2 of 2 slabs"):
        read(path, Layout(BOX), 2, 2)


def test_files_that_are_none(tmp_path):
    whole = {suffix: write(tmp_path / f"whole.{suffix}", made()).read_bytes() for suffix in ("hdf5", "asdf")}
    cases = {"mass,position": b"", "no table": b"mass,position\n", "cut": None}
    for suffix, kind in (("hdf5", "HDF5"), ("asdf", "ASDF")):
        for number, content in enumerate(cases.values()):
            path = tmp_path / f"{number}.{suffix}"
            path.write_bytes(whole[suffix][:-600] if content is None else content)
            with pytest.raises(ConfigError, match=f"{path.name}: cannot be read as {kind}: "):
                read(path, Layout(BOX))
    with pytest.raises(ConfigError, match="there is no such file"):
        read(tmp_path / "gone.hdf5", Layout(BOX))
    with pytest.raises(ConfigError, match=r"'.fits' is no kind of catalogue"):
        read(write(tmp_path / "halos.fits", {}), Layout(BOX))


def test_layouts_that_cannot_be():
    for block, message in (
        ({"box": 10.0, "mas": "m"}, "catalogue.mas: there is no such option"),
        ({"mass": "m"}, "catalogue.box is missing"),
        ({"box": -1.0}, "box: -1.0 is no number above 0"),
        ({"box": 1.0, "hubble": 0}, "hubble: 0 is no number above 0"),
        ({"box": 1.0, "position": ["x", "y"]}, "position: ['x', 'y']: one column"),
        ({"box": 1.0, "logarithmic": True, "particle_mass": 2.0}, "logarithmic: true beside particle_mass"),
    ):
        with pytest.raises(ConfigError) as told:
            Layout.of(block)
        assert message in str(told.value)


# --- a campaign of files, good and bad --------------------------------------------------------------


def halved(columns):
    columns["position"][:, 1] /= 2
    return columns


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """The pilot trial's modules are not the worker's, though both are this process: JAX keeps what it compiled."""
    from jax.experimental.compilation_cache import compilation_cache

    wanted = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled"))}
    wanted |= {"jax_persistent_cache_min_compile_time_secs": 0.5, "jax_persistent_cache_min_entry_size_bytes": -1}
    before = {name: jax.config.values[name] for name in wanted}
    for values in (wanted, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is wanted:
            yield


@pytest.fixture(scope="module")
def survey(tmp_path_factory, workers, compiled_once):
    """Phase 3000 is as it should be, 3001 lacks a file, 3002 has bad ones, 3003 an empty slab and one good file."""
    folder = tmp_path_factory.mktemp("survey") / "mocks"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    files = {(phase, z): made(phase + int(z)) for phase in (3000, 3001, 3002, 3003) for z in (0.5, 1.0)}
    files[3002, 0.5]["mass"][17] = np.nan
    files[3003, 0.5] = halved(files[3003, 0.5])
    for (phase, z), columns in files.items():
        write(folder / f"halos/ph{phase}/z{z:.3f}.hdf5", columns)
    cut = folder / "halos/ph3002/z1.000.hdf5"
    cut.write_bytes(cut.read_bytes()[:-600])
    (folder / "halos/ph3001/z1.000.hdf5").unlink()
    campaign = staffa.load(
        folder / "catalogue.yaml",
        set=[f"storage.root={folder.parent / 'runs'}", "execution.batch=4", "execution.retries.limit=0"],
        experiment={
            "use": "survey.py:Observed",
            "catalogue": PLAIN,
            "halo_room": 256,
            "galaxy_room": 256,
            "lgmp_min": 11.0,
            "slabs": 2,
        },
        space=[{"grid": {"phase": [3002, 3001, 3000, 3003], "redshift": [0.5, 1.0], "slab": [0, 1]}}],
    )
    run = staffa.run(campaign, client=workers, progress=False, allow_dirty=True)
    return folder, run, files, workers


def test_bad_files_fail_alone_and_are_named(survey):
    _, run, _, _ = survey
    assert run.ended.outcomes == {"ok": 7, "raised": 5, "missing_input": 4}
    failed = run.results.failed.to_pandas().set_index(["phase", "redshift", "slab"]).sort_index()
    told = failed.loc[failed["outcome"] == "raised", "message"].to_dict()
    for slab in (0, 1):
        assert "ph3002/z0.500.hdf5: column 'mass', row 17: nan, but a mass is" in told.pop((3002, 0.5, slab))
        assert "ph3002/z1.000.hdf5: cannot be read as HDF5: " in told.pop((3002, 1.0, slab))
    assert "ph3003/z0.500.hdf5: slab 1 of 2 is empty: no halo above 10^11 Msun" in told.pop((3003, 0.5, 1))
    assert not told and set(failed.loc[3001, "outcome"]) == {"missing_input"}


def test_slabs_of_a_campaign_are_the_halos_of_the_file_with_their_galaxies(survey):
    _, run, files, _ = survey
    columns = files[3000, 0.5]
    trials = run.results.where("phase = 3000 and redshift = 0.5").draws.to_pandas().sort_values("slab")
    found = []
    for digest, volume in zip(trials["trial"], [BOX**3 / 2] * 2, strict=True):
        mock = run.results.trial(digest)
        halos, galaxies = int(mock.n_halos), int(mock.n_galaxies)
        names = ("halos.logm", "halos.position", "halos.velocity")
        found.append([np.asarray(mock.recorded[name])[:halos] for name in names])
        assert galaxies > halos and mock.shot_noise == np.float32(volume / galaxies)
        assert np.array_equal(np.asarray(mock.recorded["galaxies.position"])[:halos], found[-1][1])
        assert np.array_equal(np.asarray(mock.recorded["galaxies.logmp_t_obs"])[:halos], found[-1][0])
        upid = np.asarray(mock.recorded["galaxies.upid"])[:galaxies]
        assert (upid[:halos] == -1).all() and ((upid[halos:] >= 0) & (upid[halos:] < halos)).all()
        assert np.asarray(mock.recorded["counts.halos"]).sum() == halos
    order = np.argsort(np.concatenate([part[0] for part in found]))
    expected = np.argsort(columns["mass"])
    for part, values in enumerate((np.log10(columns["mass"]), columns["position"], columns["velocity"])):
        whole = np.concatenate([one[part] for one in found])
        assert np.array_equal(whole[order], values[expected].astype(np.float32))


def test_a_whole_box_has_a_power_spectrum_and_keys_make_the_difference(survey, monkeypatch):
    folder, _, _, _ = survey
    path = folder / "halos/ph3000/z0.500.hdf5"
    block = {"use": "survey.py:Observed", "catalogue": PLAIN, "lgmp_min": 11.0, "grid": 8}
    with importing_from(folder):
        observed = build({**block, "halo_room": 200, "galaxy_room": 300}, folder)
        params = Params({"phase": 3000, "redshift": 0.5, "slab": 0}, [str(path)])
        halos = observed.initialize(None, params)
        one, same, other = (observed.step(np.random.SeedSequence(seed), halos, params)[1] for seed in (1, 1, 2))
        tight = build({**block, "halo_room": 119, "galaxy_room": 300}, folder)
        with pytest.raises(ConfigError, match="halo_room: 120 halos, and there is room for 119"):
            tight.initialize(None, params)
        with pytest.raises(ConfigError, match="inputs: 0 files for a trial"):
            tight.initialize(None, Params(params))
        few, rooms = build({**block, "halo_room": 200, "galaxy_room": 256}, folder), []
        program = type(few)._populated.__globals__["populate"]
        monkeypatch.setitem(
            type(few)._populated.__globals__, "populate", lambda *given: rooms.append(given[-1].room) or program(*given)
        )
        heavy = replace(halos, logm=np.full(120, 15.5))
        with pytest.raises(ConfigError, match=r"galaxy_room: \d\d+,\d+ galaxies, and there is room for 256"):
            few.step(np.random.SeedSequence(1), heavy, params)
        assert rooms == [256]
    assert len(one["halos.logm"]) == 200 and len(one["galaxies.logsm_t_obs"]) == 300 > one["n_galaxies"] > 120
    assert one["power"].shape == (4,) == np.shape(observed.coords["wavenumber"]) and (one["power"] > 0).all()
    assert one["shot_noise"] == np.float32(BOX**3 / one["n_galaxies"])
    assert all(np.array_equal(one[name], same[name]) for name in one)
    changed = {name for name in one if not np.array_equal(one[name], other[name])}
    assert {"galaxies.logsm_t_obs", "galaxies.quenched", "power"} <= changed and "halos.position" not in changed


# --- files of our own -------------------------------------------------------------------------------


def test_exported_mocks_are_those_recorded_and_can_be_read_as_catalogues(survey, tmp_path):
    _, run, _, _ = survey
    facts = exported(run.root, tmp_path, where="phase = 3000", name="mock_{cosmology}_{phase}_{redshift}_{slab}")
    assert facts["written"] == 4 and facts["kept"] == facts["flagged"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"mock_AbacusSummit_ph3000_z{z}_{slab}.hdf5" for z in ("0.500", "1.000") for slab in (0, 1)
    ]
    for path in tmp_path.iterdir():
        with h5py.File(path) as file:
            said, mock = dict(file.attrs), run.results.trial(file.attrs["trial"])
            assert (said["phase"], said["cosmology"], said["Lbox"]) == ("ph3000", "AbacusSummit", BOX)
            assert said["z_obs"] == said["redshift"] == mock.params.redshift and said["lgmp_min"] == 11.0
            assert said["slab"] == mock.params.slab and said["run"] == staffa.status(run.root)["run_hash"]
            for table in ("halos", "galaxies"):
                assert said[f"n_{table}"] == mock.recorded[f"n_{table}"] > 0
                for name, column in file[table].items():
                    recorded = np.asarray(mock.recorded[f"{table}.{name}"])[: said[f"n_{table}"]]
                    assert column.compression == "gzip" and column.dtype == recorded.dtype
                    assert column[:].tobytes() == recorded.tobytes()
            upid, logm = file["galaxies/upid"][:], file["halos/logm"][:]
            assert upid.max() < said["n_halos"] and file["galaxies/position"].chunks is not None
        layout = Layout(BOX, "halos/logm", "halos/position", "halos/velocity", logarithmic=True)
        halos = read(path, layout)
        assert np.array_equal(halos.logm.astype(np.float32), logm) and len(halos) == said["n_halos"]
        layout = Layout(BOX, "galaxies/logmp_t_obs", "galaxies/position", "galaxies/velocity", logarithmic=True)
        assert len(read(path, layout)) == said["n_galaxies"]


def test_what_is_exported_stays_unless_it_is_another_mock(survey, tmp_path, capsys):
    _, run, _, _ = survey
    words = ["mocks", str(run.root), "--to", str(tmp_path), "--where", "phase = 3000 and slab = 0"]
    with staffa.register("commands", "mocks", mocks):
        assert main(words) == 0 and capsys.readouterr().out.startswith("2 mocks written to ")
        first, second = sorted(tmp_path.iterdir())
        before = first.read_bytes()
        with h5py.File(first, "a") as file:
            file.attrs["trial"] = "0" * 32
        second.write_bytes(b"half a fi")
        assert main([*words, "--json"]) == 0
        assert '"written": 2, "kept": 0' in capsys.readouterr().out and first.read_bytes() == before
        seen = first.stat().st_ino, second.stat().st_ino
        assert main([*words, "--json"]) == 0
        assert '"written": 0, "kept": 2' in capsys.readouterr().out
        assert (first.stat().st_ino, second.stat().st_ino) == seen
        with h5py.File(first, "a") as file:  # of the same name, but by other code
            file.attrs["code"] = "0" * 16
        assert main([*words, "--json"]) == 0
        assert '"written": 1, "kept": 1' in capsys.readouterr().out and first.read_bytes() == before
        for option, message in (
            (["--format", "fits"], "--format fits: there is no such format"),
            (["--name", "mock_{phse}"], "did you mean 'phase'"),
            (["--name", "mock"], "share it"),
            (["--where", "fase = 1"], "phase"),
        ):
            assert main([*words, *option]) == 2 and message in capsys.readouterr().err
    assert check_family("commands", mocks)


def test_asdf_has_what_hdf5_has(survey, tmp_path):
    _, run, _, _ = survey
    only = "phase = 3000 and redshift = 1.0 and slab = 1"
    for kind in ("hdf5", "asdf"):
        assert exported(run.root, tmp_path, only, kind)["written"] == 1
        assert exported(run.root, tmp_path, only, kind)["kept"] == 1
    name = "mock_AbacusSummit_ph3000_z1.000"
    with asdf.open(tmp_path / f"{name}.asdf") as one, h5py.File(tmp_path / f"{name}.hdf5") as other:
        assert one["attributes"] == {
            key: getattr(said, "item", lambda s=said: s)() for key, said in other.attrs.items()
        }
        for table in ("halos", "galaxies"):
            assert set(one[table]) == set(other[table])
            assert all(np.array_equal(one[table][column], other[table][column]) for column in one[table])


def test_a_disk_that_cannot_be_written_leaves_no_half_file(survey, tmp_path):
    _, run, _, _ = survey
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="0 of 1 mocks are written"):
        exported(run.root, tmp_path / "file", "phase = 3000 and redshift = 0.5 and slab = 0")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, before[1]))
        with pytest.raises(ClusterError, match="File too large; 0 of 2 mocks are written"):
            exported(run.root, tmp_path / "full", "phase = 3000 and slab = 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "full").iterdir()) == []
    assert exported(run.root, tmp_path / "full", "phase = 3000 and slab = 0")["written"] == 2


# --- when the file comes: last, for it changes the campaign -----------------------------------------


def test_a_file_that_comes_later_is_found(survey):
    folder, run, files, workers = survey
    write(folder / "halos/ph3001/z1.000.hdf5", files[3001, 1.0])
    with staffa.register("commands", "mocks", mocks):
        assert main(["reconcile", str(run.root)]) == 0
    again = staffa.resume(run.root, client=workers, progress=False)
    assert again.ended.outcomes == {"ok": 11, "raised": 5}
