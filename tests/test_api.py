"""The Python face: classes as references, a client of one's own."""

import importlib.util
import sys
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import staffa
from staffa.errors import PluginError

MODEL = """
import jax, jax.numpy as jnp
import staffa

class Coin(staffa.Experiment):
    def initialize(self, key, params):
        return jnp.zeros(())
    def step(self, key, state, params):
        state = state + jax.random.bernoulli(key, params["p"])
        return state, {"heads": state}
"""
CAMPAIGN = """
campaign: {name: coin}
experiment: {use: "model.py:Coin"}
space: [{linspace: {p: [0.1, 0.9, 16]}}]
sampling: {draws: 5}
execution: {batch: 4}
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "campaign.yaml").write_text(CAMPAIGN)
    return tmp_path


def imported(path: Path):
    spec = importlib.util.spec_from_file_location("coin_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["coin_model"] = module
    spec.loader.exec_module(module)
    return module


def test_a_class_stands_for_its_file_but_not_from_a_cell(workflow: Path) -> None:
    coin = imported(workflow / "model.py").Coin
    campaign = staffa.load(workflow / "campaign.yaml", experiment={"use": coin})
    assert campaign.declaration.campaign.experiment.use == "model.py:Coin"

    class Cell(staffa.Experiment):
        pass

    with pytest.raises(PluginError, match="cannot import it") as caught:
        staffa.load(workflow / "campaign.yaml", experiment={"use": Cell})
    assert "%%writefile model.py" in caught.value.hint and "from model import Cell" in caught.value.hint


def test_a_client_of_ones_own(workflow: Path) -> None:
    campaign = staffa.load(workflow / "campaign.yaml", storage={"root": str(workflow / "runs")})
    with (
        LocalCluster(n_workers=1, threads_per_worker=8, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        run = staffa.run(campaign, client=client, allow_dirty=True, progress=False)
        assert run.ended.outcomes == {"ok": 16} and run.ended.exit_code == 0
        assert client.status == "running"  # not ours to close
    assert run.query("select count(*) as n from draws")["n"].tolist() == [80]
