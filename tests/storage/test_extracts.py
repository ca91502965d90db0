"""Columns of a trial's row that take all of its draws at once: extracts, and words on the sampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from staffa.storage.extracts import ExtractLayout, extract_columns, extract_field
from staffa.storage.layouts import ArrayLayout
from staffa.storage.tables import (
    ArchiveLayout,
    Block,
    block_moments,
    diagnosed_columns,
    extracted_columns,
    trial_table,
)
from staffa.trial import Outcome

FITNESS = ArrayLayout("fitness", "float32", (4,), ("particle",), chains=2)
SEQUENCE = ArrayLayout("sequence", "int8", (4, 3), ("particle", "site"), chains=2)
LOG_Z = ArrayLayout("log_z", "float64", (), ())
DIVERGENT = ArrayLayout("divergent", "bool", (), (), chains=2)
LAYOUTS = {one.name: one for one in (FITNESS, SEQUENCE, LOG_Z, DIVERGENT)}
EXTRACTS = (
    ExtractLayout("divergences", "sum", "divergent"),
    ExtractLayout("log_z.last", "last", "log_z"),
    ExtractLayout("log_z.total", "sum", "log_z"),
    ExtractLayout("fitness.first", "first", "fitness"),
    ExtractLayout("best.fitness", "max", "fitness"),
    ExtractLayout("best.sequence", "argmax", "sequence", "fitness"),
    ExtractLayout("worst.fitness", "min", "fitness"),
    ExtractLayout("worst.sequence", "argmin", "sequence", "fitness"),
)
ROWS, DRAWS = 5, 6


def outputs(seed: int = 1, draws: int | None = DRAWS) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {}
    for layout in LAYOUTS.values():
        chains = (layout.chains,) if layout.chains else ()
        shape = (ROWS, *chains, *(() if draws is None else (draws,)), *layout.shape)
        found[layout.name] = (3 * random.normal(size=shape)).astype(layout.dtype)
    return found


@pytest.mark.parametrize("draws", [DRAWS, 1, None])
def test_extracts_are_what_a_loop_over_everything_finds(draws: int | None) -> None:
    values = outputs(draws=draws)
    columns = extract_columns(EXTRACTS, values, LAYOUTS, draws is not None)
    rows = pa.table(columns).to_pylist()
    for trial, row in enumerate(rows):
        one = {name: value[trial] for name, value in values.items()}
        if draws is None:
            one = {name: np.expand_dims(v, 1 if LAYOUTS[name].chains else 0) for name, v in one.items()}
        places = list(np.ndindex(one["fitness"].shape))
        best = max(places, key=lambda place: one["fitness"][place])
        worst = min(places, key=lambda place: one["fitness"][place])
        assert row["divergences"] == sum(int(flag) for flag in one["divergent"].reshape(-1))
        assert row["log_z.last"] == one["log_z"][-1] and row["log_z.total"] == pytest.approx(math.fsum(one["log_z"]))
        assert row["fitness.first"] == one["fitness"][:, 0].reshape(-1).tolist()
        assert (row["best.fitness"], row["worst.fitness"]) == (one["fitness"][best], one["fitness"][worst])
        assert row["best.sequence"] == one["sequence"][best].tolist()
        assert row["worst.sequence"] == one["sequence"][worst].tolist()


def test_columns_have_the_types_they_are_declared_with() -> None:
    columns = extract_columns(EXTRACTS, outputs(), LAYOUTS, True)
    for extract in EXTRACTS:
        field = extract_field(extract, LAYOUTS)
        assert field.name == extract.name and field.type == columns[extract.name].type
    assert extract_field(EXTRACTS[0], LAYOUTS).type == pa.int64()
    assert extract_field(EXTRACTS[5], LAYOUTS).metadata == {b"shape": b"[3]"}


def test_nan_is_never_the_best_unless_there_is_nothing_else() -> None:
    values = outputs()
    values["fitness"][0] = np.nan
    values["fitness"][1].reshape(-1)[:-1] = np.nan
    values["fitness"][1].reshape(-1)[-1] = -np.inf
    values["fitness"][2, 0] = np.nan
    rows = pa.table(extract_columns(EXTRACTS, values, LAYOUTS, True)).to_pylist()
    assert rows[0]["best.fitness"] is rows[0]["best.sequence"] is rows[0]["worst.sequence"] is None
    assert rows[1]["best.fitness"] == rows[1]["worst.fitness"] == -math.inf
    assert rows[1]["best.sequence"] == values["sequence"][1].reshape(-1, 3)[-1].tolist()
    assert rows[2]["best.fitness"] == values["fitness"][2, 1].max()


def test_what_a_group_does_not_record_is_null() -> None:
    values = outputs()
    del values["sequence"]
    columns = extract_columns(EXTRACTS, values, LAYOUTS, True)
    assert "best.sequence" not in columns and "best.fitness" in columns


# ---- in the table of trials

THETA = ArrayLayout("theta", "float32", (2, 2), ("row", "column"), chains=3)
ENERGY = ArrayLayout("energy", "float64", (), ())
STEPS = ArrayLayout("steps", "int32", (), ())
MASS = ArrayLayout("galaxies.mass", "float64", (4,), ("galaxy",), 0, "galaxies", "steps")
WORDS = ("count", "mean", "ess", "rhat")


def block(draws: int | None = 20) -> Block:
    random = np.random.default_rng(2)
    found = {}
    for layout in (THETA, ENERGY, STEPS, MASS):
        chains = (layout.chains,) if layout.chains else ()
        shape = (ROWS, *chains, *(() if draws is None else (draws,)), *layout.shape)
        found[layout.name] = (9 * random.normal(size=shape)).astype(layout.dtype)
    return Block(
        [f"{row:032x}" for row in range(ROWS)], np.arange(ROWS), "walk", {}, np.full(ROWS, Outcome.OK, np.uint8),
        np.zeros(ROWS, np.float32), found, {one.name: one for one in (THETA, ENERGY, STEPS, MASS)}, draws,
    )  # fmt: skip


def archive(diagnosed: int = 1, **more: Any) -> ArchiveLayout:
    return ArchiveLayout((), (THETA, ENERGY, STEPS, MASS), (), WORDS, diagnosed, **more)


def spread(values: Any, words: Any) -> dict[str, Any]:
    """In the place of the real words: numbers that tell which draws came."""
    return {word: values[:, :, -1].sum(axis=1) * (n + 1) + values.shape[2] for n, word in enumerate(words)}


def table(own: Block, layout: ArchiveLayout) -> pa.Table:
    more = {**diagnosed_columns(own, layout, spread, 4), **extracted_columns(own, layout)}
    return trial_table(own, block_moments(own, layout), layout, np.ones(ROWS, np.int64), [""] * ROWS, more)


def test_the_words_asked_for_are_the_columns_there_are() -> None:
    names = archive().trials().names
    assert [name for name in names if name.startswith("energy")] == [f"energy.{word}" for word in WORDS]
    assert [name for name in names if name.startswith("theta")] == ["theta.count", "theta.mean"]
    assert [name for name in archive(4).trials().names if name.startswith("theta")] == [f"theta.{w}" for w in WORDS]
    assert not [name for name in names if name.startswith("galaxies")]
    assert [n for n in ArchiveLayout((), (ENERGY,)).trials().names if "." in n] == [
        f"energy.{word}" for word in ("count", "mean", "sd", "min", "max")
    ]


def test_each_element_is_a_series_of_its_own_over_all_chains() -> None:
    own = block()
    made = table(own, archive(4))
    assert made.schema.equals(archive(4).trials(), check_metadata=True)
    for trial, row in enumerate(made.to_pylist()):
        last = own.outputs["theta"][trial, :, -1].astype(np.float64).sum(axis=0).reshape(-1)
        assert row["theta.ess"] == pytest.approx((last + 20).tolist(), rel=1e-5)
        assert row["theta.rhat"] == pytest.approx((2 * last + 20).tolist(), rel=1e-5)
        assert row["energy.ess"] == pytest.approx(own.outputs["energy"][trial, -1] + 20)
        assert row["steps.ess"] is None and row["steps.mean"] is not None


@pytest.mark.parametrize("draws", [None, 1, 3])
def test_nothing_is_said_of_what_is_not_sampled(draws: int | None) -> None:
    made = table(block(draws), archive(4))
    assert made["energy.ess"].null_count == made["theta.rhat"].null_count == ROWS
    assert made["energy.mean"].null_count == 0


def test_an_array_is_left_alone_where_it_is_larger_than_asked_for() -> None:
    made = table(block(), archive(3))
    assert made["theta.ess"].null_count == ROWS and made["energy.ess"].null_count == 0


def test_extracts_stand_behind_the_summaries() -> None:
    layout = archive(extracts=(ExtractLayout("energy.last", "last", "energy"),))
    own = block()
    made = table(own, layout)
    assert made.column_names[-1] == "energy.last"
    assert made["energy.last"].to_pylist() == own.outputs["energy"][:, -1].tolist()
