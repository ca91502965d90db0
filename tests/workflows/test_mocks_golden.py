"""Mocks made by the engine are those of a plain script (`golden_mocks.py`), byte for byte."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from mocks.export import exported

import staffa

FOLDER = Path(__file__).parents[2] / "workflows" / "mocks"
SCRIPT = Path(__file__).with_name("golden_mocks.py")
OPTIONS = {"box": 24.0, "lgmp_min": 11.0, "cosmology": "Planck18", "velocity_dispersion": 300.0}
SEED, STEP = 42, 2


def key_of(digest):
    """A trial's key as `staffa.seeds` and `staffa.experiment.perform` describe it.

    The seed of the channel `trials`, then all four 32-bit words of the digest, then the stream of steps, then the step:
    a one-shot experiment has one, number 0.
    """
    said = hashlib.sha256(f"{SEED}/trials".encode()).digest()[:8]
    key = jax.random.key(int.from_bytes(said, "big") & 0x7FFFFFFF)
    for word in np.frombuffer(bytes.fromhex(digest), ">u4"):
        key = jax.random.fold_in(key, int(word))
    return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, STEP), 0)).tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory, workers):
    campaign = staffa.load(
        FOLDER / "campaign.yaml",
        set=[f"storage.root={tmp_path_factory.mktemp('runs')}", f"seeds.global_seed={SEED}"],
        experiment={"use": "model.py:Mock", **OPTIONS},
        space=[{"grid": {"phase": [3000, 3001]}}, {"grid": {"redshift": [0.5, 2.0]}}],
    )
    return staffa.run(campaign, client=workers, progress=False, allow_dirty=True)


@pytest.fixture(scope="module")
def golden(run, tmp_path_factory):
    """What the script makes of the same trials: (digest, its columns), and how it was made."""
    folder = tmp_path_factory.mktemp("golden")
    params = run.results.params.to_pandas()
    asked = [
        {"phase": int(row.phase), "redshift": float(row.redshift), "key": key_of(trial)}
        for trial, row in params.iterrows()
    ]
    request, answer = folder / "request.json", folder / "answer.npz"
    request.write_text(json.dumps({"options": OPTIONS, "mocks": asked}))
    subprocess.run([sys.executable, SCRIPT, request, answer], check=True, timeout=300)
    with np.load(answer) as found:
        whole = dict(found)
    return {
        trial: {name.partition("/")[2]: values for name, values in whole.items() if name.startswith(f"{number}/")}
        for number, trial in enumerate(params.index)
    }


def test_mocks_are_those_of_the_script_byte_for_byte(run, golden):
    assert run.ended.outcomes == {"ok": 4}
    tables = {name: run.results.table(name) for name in ("halos", "galaxies")}
    galaxies = 0
    for trial, expected in golden.items():
        mock = run.results.trial(trial)
        for table, length in (("halos", int(mock.n_halos)), ("galaxies", int(mock.n_galaxies))):
            assert length == expected[f"n_{table}"]
            names = [name for name in tables[table].columns if name.startswith(f"{table}.")]
            assert set(names) == {name for name in expected if name.startswith(f"{table}.")}
            for name in names:
                recorded = np.asarray(mock.recorded[name])[:length]
                assert recorded.dtype == expected[name].dtype, name
                differ = np.flatnonzero((recorded != expected[name]).reshape(length, -1).any(1))
                assert recorded.tobytes() == expected[name].tobytes(), (name, differ[:5], recorded[differ[:5]])
        galaxies += int(mock.n_galaxies)
    assert galaxies > 500


def test_exported_files_hold_what_the_script_made(run, golden, tmp_path):
    assert exported(run.root, tmp_path)["written"] == 4
    assert sorted(path.name for path in tmp_path.iterdir())[:2] == [
        f"mock_Planck18_ph3000_z{redshift}.hdf5" for redshift in ("0.500", "2.000")
    ]
    for path in tmp_path.iterdir():
        with h5py.File(path) as file:
            expected = golden[file.attrs["trial"]]
            assert (file.attrs["Lbox"], file.attrs["lgmp_min"]) == (OPTIONS["box"], OPTIONS["lgmp_min"])
            for table in ("halos", "galaxies"):
                assert len(file[table]) == sum(name.startswith(f"{table}.") for name in expected)
                for name, column in file[table].items():
                    assert column[:].tobytes() == expected[f"{table}.{name}"].tobytes(), name


def test_mocks_have_all_there_is_to_compare(golden):
    """Satellites, quenched galaxies and others: else the script and the workflow would agree on less than they say."""
    for columns in golden.values():
        upid, quenched = columns["galaxies.upid"], columns["galaxies.quenched"]
        assert (upid >= 0).sum() > 20 and (upid == -1).sum() == columns["n_halos"]
        assert 0 < quenched.sum() < len(quenched)
        assert (columns["galaxies.logmu_t_inf"] < 0).sum() > 20
    keys = [golden[trial]["halos.position"][0].tobytes() for trial in golden]
    assert len(set(keys)) == len(keys)
