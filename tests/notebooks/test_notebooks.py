"""The notebooks run from top to bottom, show what they say they show, and are stored clean."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import staffa
from notebooks.kernel import NOTEBOOKS, executed, laid_out

NAMES = [
    "1-quickstart.ipynb",
    "2-submit-and-watch.ipynb",
    "3-consolidate-and-query.ipynb",
    "4-slurm-campaign.ipynb",
    "5-merge-and-expand.ipynb",
    "6-search.ipynb",
]
INK = 0.01
"""Share of a figure's pixels that are not white, at least: axes alone are fewer."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebooks' folder; what they run goes to `runs` beside it."""
    monkeypatch.setenv("STAFFA_STORAGE__ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("STAFFA_CLUSTER__DASHBOARD_PORT", "0")
    monkeypatch.setenv("STAFFA_EXECUTION__WORKERS", "1")  # each takes 3 s to start
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return laid_out(tmp_path)


def test_all_are_there_and_stored_clean() -> None:
    """Clean them by `jupyter nbconvert --clear-output --inplace notebooks/*.ipynb`."""
    assert sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    for name in NAMES:
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.keys() == {"kernelspec", "language_info"}, name
        assert notebook.metadata.kernelspec.name == "python3"
        kinds = [cell.cell_type for cell in notebook.cells]
        assert kinds[0] == kinds[-1] == "markdown"
        for cell in notebook.cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, f"{name}: {cell.id} has outputs"
            assert "execution" not in cell.metadata
            if cell.cell_type == "code":
                assert len(cell.source.splitlines()) <= 25, f"{name}: {cell.id} is no thin cell"
                compile(cell.source, f"{name}:{cell.id}", "exec")
        linked = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        for other in NAMES[NAMES.index(name) + 1 :][:1]:
            assert other in linked[-1], f"{name} does not lead to {other}"


def test_quickstart(folder: Path) -> None:
    notebook = executed(folder / NAMES[0])
    assert not notebook.errors()
    assert "608 trials" in notebook.said("staffa.plan(campaign)")
    assert notebook.said("run.ended.outcomes").endswith("{'ok': 608}")
    assert notebook.bars() == [(608, 608, "success")]
    assert any("608/608 trials" in line and 'href="http://127.0.0.1:' in line for line in notebook.lines())
    (share,) = notebook.shares_drawn()
    assert share > INK
    run = staffa.attach(folder.parent / "runs" / "v1.0_sir-small")
    counts = run.query("select count(*) as draws, count(distinct trial) as trials from draws").to_dict("records")
    assert counts == [{"draws": 608 * 200, "trials": 608}]


def test_submit_interrupt_and_resume(folder: Path) -> None:
    """The kernel is interrupted as Jupyter's button does it, once something is stored and most is not."""
    root, seen = folder.parent / "runs" / "v1.0_sir", []

    async def press(client: NotebookClient) -> None:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            with_summary = root / "ledger" / "summary.json"
            figures = json.loads(with_summary.read_text())["figures"] if with_summary.exists() else {}
            if figures.get("settled"):
                seen.append(figures["settled"])
                break
            await asyncio.sleep(0.02)
        await client.km.interrupt_kernel()

    notebook = executed(folder / NAMES[1], during=press)
    assert seen and not notebook.errors()
    first, second = (notebook.said(f"run.ended{end}") for end in ("  # interrupted", "  # finished"))
    assert "reason='interrupted'" in first and "reason='finished'" in second

    run = staffa.attach(root)
    ends = [event for event in run.events() if event["event"] == "run_ended"]
    assert [(event["reason"], event["exit_code"]) for event in ends] == [("interrupted", 130), ("finished", 0)]
    trials = run.results.config["replicates"] * 1000
    assert ends[0]["outcomes"]["ok"] >= seen[0] and ends[0]["outcomes"]["ok"] < trials
    assert ends[1]["outcomes"] == {"ok": trials}
    settled = [event for event in run.events() if event["event"] == "batch_settled"]
    assert sum(sum(event["outcomes"].values()) for event in settled) == trials, "nothing ran twice"
    (interrupted, total, style), (*_, finished) = notebook.bars()
    assert total == trials and interrupted == ends[0]["outcomes"]["ok"] and style == "warning"
    assert finished == "success"
    assert any("letting" in line and "in flight commit" in line for line in notebook.lines())
    assert min(notebook.shares_drawn()) > INK


def test_consolidate_and_query(folder: Path) -> None:
    notebook = executed(folder / NAMES[2])
    assert not notebook.errors()
    assert notebook.said("results.sealed") == "(False, 240)"
    assert "dask.array" in notebook.said('lorenz["place"]')
    assert notebook.said("sorted(str(path").count(".parquet") == 2
    assert len(notebook.shares_drawn()) == 2 and min(notebook.shares_drawn()) > INK
    run = staffa.attach(folder.parent / "runs" / "v1.0_lorenz-small")
    found = run.query("select count(*) as n, min(rho) as low, max(c) as high from draws").to_dict("records")
    assert found == [{"n": 240 * 3000, "low": 1.0, "high": 10.0}]
    signs = run.query("select rho > 25 as beyond, min(lyapunov) as least, max(lyapunov) as most from trials "
                      "where rho < 20 and rho > 2 or rho > 25 group by 1 order by 1")  # fmt: skip
    assert np.sign([signs["most"][0], signs["least"][1]]).tolist() == [-1.0, 1.0]


def test_merge_and_expand(folder: Path) -> None:
    notebook = executed(folder / NAMES[4])
    assert not notebook.errors()
    assert notebook.said('merged["trials"]') == "(232, ['experiment.people'])"
    assert notebook.said('grown["added"]').splitlines()[-1] == "(464, {'ok': 696})"
    assert notebook.bars()[-1] == (696, 696, "success")
    (share,) = notebook.shares_drawn()
    assert share > INK

    town, village, both = (
        staffa.attach(folder.parent / "runs" / f"v1.0_{name}") for name in ("town", "village", "both")
    )
    counts = both.query('select "experiment.people" as people, count(*) as n from trials group by 1 order by 1')
    assert counts.to_numpy().tolist() == [[2_000, 348], [20_000, 348]]
    settled = [event for event in both.events() if event["event"] == "batch_settled"]
    assert sum(sum(event["outcomes"].values()) for event in settled) == 464, "only what is new was computed"
    asked = 'select infection_rate, replicate, "recovered.max" as recovered from trials {} order by 1, 2'
    for source, people in ((town, 20_000), (village, 2_000)):
        merged = both.query(asked.format(f'where "experiment.people" = {people} and replicate < 4'))
        assert merged.equals(source.query(asked.format("")))


def test_search(folder: Path) -> None:
    notebook = executed(folder / NAMES[5])
    assert not notebook.errors()
    assert "Minimum: 100 trials (100 ok)" in notebook.said("found")
    assert notebook.said("run.ended.outcomes").endswith("{'ok': 64}")
    assert notebook.bars() == [(100, 100, "success"), (64, 64, "success")]
    assert len(notebook.shares_drawn()) == 2 and min(notebook.shares_drawn()) > INK
    search = staffa.attach(folder.parent / "runs" / "v1.0_tuning-smoke").search
    first, second = (notebook.said(cell) for cell in ("run.search.fronts()", "easier.fronts()"))
    assert all(str(number) in first for number in search.fronts().index) and second and first != second
