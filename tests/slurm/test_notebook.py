"""The notebook that hands a campaign to SLURM, against a real one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import staffa
from notebooks.kernel import executed, laid_out
from slurm.machine import Machine

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_slurm_campaign_from_a_notebook(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, root = laid_out(tmp_path), tmp_path / "runs" / "v1.0_sir-small"
    monkeypatch.setenv("STAFFA_STORAGE__ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("STAFFA_CLUSTER__DASHBOARD_PORT", "0")
    try:
        notebook = executed(folder / "4-slurm-campaign.ipynb")
    finally:
        if root.exists():
            staffa.stop(root)
    assert not notebook.errors()
    assert "608 trials" in notebook.said("staffa.plan(campaign)")
    assert notebook.said("run.status").endswith("{'ok': 608}") and notebook.bars() == [(608, 608, "success")]
    assert any("608/608 trials" in line and "gpu" in line for line in notebook.lines())
    (share,) = notebook.shares_drawn()
    assert share > 0.05
    assert all(int(words.split()[0]) >= 0 for words in ast.literal_eval(notebook.said("{use:")).values())

    run = staffa.attach(root)
    events = list(run.events())
    assert [event["reason"] for event in events if event["event"] == "run_ended"] == ["finished"]
    assert next(event for event in events if event["event"] == "run_started")["job"], "the driver was a job itself"
    workers = {event["worker"] for event in events if event["event"] == "batch_settled"}
    assert len(workers) > 1 and all(event["pool"] == "gpu" for event in events if event["event"] == "batch_settled")
    assert run.query("select count(*) as n from trials")["n"].tolist() == [608]
    machine.wait_idle()
