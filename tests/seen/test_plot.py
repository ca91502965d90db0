"""Plots: their numbers are those of queries, names that are not there have near ones, files are as they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import staffa
from staffa.errors import ConfigError
from staffa.storage.workspace import Workspace
from staffa.views.levels import levels


@pytest.fixture(scope="module")
def run(mixed: Any) -> staffa.Run:
    return staffa.attach(mixed.root)


def asked(run: staffa.Run, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in run.results.answer(sql).to_pylist()]


def test_a_line_is_the_mean_over_trials(run: staffa.Run) -> None:
    facts = run.plot(x="scale", y="energy", by="sampler").facts
    assert (facts["kind"], facts["trials"], facts["left_out"]) == ("line", 24, 20)
    told = {
        (row["by"], point["x"]): (point["mean"], point["sd"], point["trials"])
        for row in facts["series"]
        for point in row["points"]
        if point["trials"]
    }
    rows = asked(
        run,
        """select sampler, scale, avg("energy.mean"), stddev_samp("energy.mean"), count(*) from trials
           where not isnan("energy.mean") and "energy.mean" is not null group by 1, 2""",
    )
    assert told == {(sampler, f"{scale:g}"): pytest.approx((*numbers,)) for sampler, scale, *numbers in rows}
    assert {row["spread"] for row in facts["series"]} == {"trials"}


def test_the_spread_of_a_single_trial_is_that_of_its_draws(run: staffa.Run) -> None:
    one = "sampler = 'model.py:Walk' and kind = 'warm' and population = 8 and size = 2"
    digests = {row[0] for row in asked(run, f"select trial from trials where {one}")}
    results = run.results.find(lambda p: p.kind == "warm" and p.population == 8 and p.size == 2)
    assert digests == set(results.trials.to_pandas(["trial"])["trial"])
    facts = run.plot(x="scale", y="energy", where="kind = 'warm' and population = 8 and size = 2").facts
    (series,) = facts["series"]
    assert series["spread"] == "draws"
    rows = asked(run, f"select scale, \"energy.sd\" from trials where {one} and outcome = 'ok' order by 1")
    assert {float(point["x"]): point["sd"] for point in series["points"]} == pytest.approx(dict(rows))


def test_other_kinds(run: staffa.Run) -> None:
    words = run.plot(x="kind", y="seconds").facts
    assert {point["x"] for point in words["series"][0]["points"]} == {"warm", "a b/ü=1"}
    facts = run.plot(x="energy", by="population").facts
    assert facts["kind"] == "histogram" and [row["by"] for row in facts["series"]] == ["8", "64"]
    assert sum(sum(row["counts"]) for row in facts["series"]) == facts["trials"] == 24
    facts = run.plot(x="draws.heads", by="scale").facts
    assert {row["by"]: sum(row["counts"]) for row in facts["series"]} == {
        f"{scale:g}": count for scale, count in asked(run, "select scale, count(heads) from draws group by 1")
    }
    facts = run.plot(x="scale", y="population", z="heads").facts
    assert facts["kind"] == "heatmap" and (facts["across"], facts["upward"]) == (["1", "2", "3"], ["8", "64"])
    cells = asked(
        run,
        """select population, scale, avg("heads.mean") from trials where "heads.mean" is not null
           group by 1, 2 order by 1, 2""",
    )
    assert np.ravel(facts["means"]).tolist() == pytest.approx([mean for _, _, mean in cells])
    facts = run.plot(x="seconds", y="energy", kind="scatter", by="sampler").facts
    assert (facts["kind"], facts["trials"]) == ("scatter", 24)


def test_traces_are_draws(run: staffa.Run) -> None:
    trial = asked(
        run, "select trial from trials where sampler = 'model.py:Walk' and outcome = 'ok' and size = 5 limit 1"
    )[0][0]
    facts = run.plot(x="draw", y="x[4]", trials=[trial[:12]]).facts
    assert facts["series"] == [{"trial": trial, "draws": [run.results.trial(trial).draws["x"][:, 4].values.tolist()]}]
    assert run.plot(x="draw", y="energy").facts["trials"] == 4
    failed = asked(run, "select trial from failed limit 1")[0][0]
    with pytest.raises(ConfigError, match="it has no data: raised"):
        run.plot(x="draw", y="energy", trials=[failed])


def test_many_values_are_drawn_as_points(run: staffa.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.plot(x="seconds", y="energy.max").facts["kind"] == "line", "twenty-four values are few"
    monkeypatch.setattr(levels, "__defaults__", (2, 4, ""))
    assert run.plot(x="seconds", y="energy.max").facts["kind"] == "scatter"


def test_files(run: staffa.Run, said: Any, tmp_path: Path) -> None:
    ask = ("plot", run.root, "--x", "scale", "--y", "energy", "--by", "sampler")
    code, out, _ = said(*ask, "--json")
    told = json.loads(out)
    assert code == 0 and told["file"] == str(run.root / "qa" / "line-energy-scale-sampler.png")
    assert Path(told["file"]).read_bytes().startswith(b"\x89PNG") and told["series"][0]["points"]
    for ending, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")):
        path = tmp_path / f"one.{ending}"
        code, out, _ = said(*ask, "--to", path)
        assert code == 0 and path.read_bytes().startswith(start) and "24 trials" in out and "20 trials without" in out
    first = (tmp_path / "one.svg").read_bytes()
    said(*ask, "--to", tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_bytes() == first, "the same figure is the same file"
    assert b"mean of energy" in first and b"sampler" in first


def test_a_notebook_shows_them(run: staffa.Run) -> None:
    from matplotlib.figure import Figure

    figure = run.plot(x="scale", y="energy")
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")
    figure.axes[0].set_title("mine")


@pytest.mark.parametrize(
    ("words", "complaint", "hint"),
    [
        (["--x", "scael", "--y", "energy"], "--x scael: the trials have no column 'scael'", "'scale'"),
        (["--x", "scale", "--y", "enrgy"], "--y enrgy: the trials have no column 'enrgy'", "'energy'"),
        (["--x", "scale", "--y", "energy", "--by", "smapler"], "--by smapler", "'sampler'"),
        (["--x", "scale", "--y", "x"], "--y x: 'x' is an array", "'x[0]'"),
        (["--x", "scale", "--y", "energy[1]"], "'energy' is a single number", "--y energy"),
        (["--x", "scale", "--y", "kind"], "--y kind: these are no numbers", ""),
        (["--x", "draws.enrgy"], "the draws have no column 'enrgy'", "'energy'"),
        (["--x", "draws.x"], "'x' is no single number", ""),
        (["--x", "draw", "--y", "enrgy"], "records no 'enrgy'", "'energy'"),
        (["--x", "draw", "--y", "x"], "'x' has 2 numbers a draw", "x[0]"),
        (["--x", "draw", "--y", "energy", "--trial", "zz"], "'zz' names no trial", ""),
        (["--x", "energy", "--trial", "1"], "--trial 1: a histogram is of all trials", "--where"),
        (["--kind", "pie", "--x", "scale"], "--kind pie: there is no such figure", "line"),
        (["--kind", "heatmap", "--x", "scale", "--y", "population"], "needs --z", "--z energy"),
        ([], "needs --x", "--x energy"),
        (["--x", "energy", "--z", "scale"], "--kind heatmap: needs --y", ""),
        (["--x", "energy", "--where", "scael > 1"], "scael", "'scale'"),
        (["--x", "energy", "--where", "scale > 9"], "there is nothing to draw: no trial has data", "staffa status"),
        (["--x", "energy", "--where", "scale > 2 and size = 2"], "--x energy: no trial has a number there", "NaN"),
        (["--x", "energy", "--to", "one"], "--to one: which format", "one.png"),
        (["--x", "energy", "--to", "one.pgn"], "cannot be written as 'pgn'", "'png'"),
    ],
)
def test_bad_input(
    run: staffa.Run, said: Any, tmp_path: Path, monkeypatch: Any, words: list[str], complaint: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said("plot", run.root, *words)
    assert (code, out) == (2, "") and complaint in err and hint in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw_yet(workflow: Path, tmp_path: Path) -> None:
    from staffa.execution.prepare import create, unfolded

    declared = staffa.load(workflow / "campaign.yaml", set=[f"storage.root={tmp_path}"])
    create(unfolded(declared.declaration), Workspace(declared.root))
    for words in ({"x": "scale", "y": "energy"}, {"x": "draw", "y": "energy"}, {"x": "draws.energy"}):
        with pytest.raises(ConfigError, match="there is nothing to draw: no trial has data"):
            staffa.plot(declared.root, **words)
