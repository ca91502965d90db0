"""What names a run: configuration, seeds and code; not its name, nor where and how patiently it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.campaign.config import Declaration, from_mapping
from staffa.campaign.identity import FREE, is_free, run_facts, run_hash, seed_channels

WALK: dict[str, Any] = {
    "campaign": {"name": "walk"},
    "experiment": {"use": "model.py:Walk", "dimension": 3},
    "space": [{"grid": {"scale": [1.0, 2.0]}}],
    "sampling": {"draws": 10},
}
CODE = "ab" * 32


def declared(*overrides: str) -> Declaration:
    return from_mapping(WALK, directory=Path(), overrides=overrides)


SAME = st.sampled_from(
    [
        "campaign.name=other",
        "campaign.version=v7.2",
        "campaign.description=words",
        "campaign.tags=[a, b]",
        "cluster.workers=7",
        "cluster.dashboard=false",
        "execution.window=9",
        "execution.workers=3",
        "execution.retries.limit=0",
        "execution.retries.backoff.initial=1s",
        "execution.patience=2h",
        "archive.every=off",
        "storage.root=elsewhere",
    ]
)
OTHER = st.sampled_from(
    [
        "campaign.name=walk",
        "experiment.use=model.py:Run",
        "experiment.dimension=4",
        "space=[{grid: {scale: [1, 2]}}]",
        "replicates=2",
        "duplicates=merge",
        "sampling.draws=20",
        "sampling.thin=2",
        "seeds.global_seed=1",
        "seeds.pinned.trials=3",
        "execution.x64=true",
        "execution.width=1",
        "execution.segments=2",
        "execution.timeout=1s",
        "storage.compression=none",
        "archive.partition_by=[scale]",
    ]
)


@given(st.lists(SAME, unique=True))
def test_what_may_change_under_way_does_not_count(overrides: list[str]) -> None:
    assert run_hash(declared(*overrides), CODE) == run_hash(declared(), CODE)


@given(OTHER, OTHER)
def test_everything_else_does(one: str, two: str) -> None:
    hashes = {run_hash(declared(one), CODE), run_hash(declared(two), CODE)}
    assert len(hashes) == len({one, two})


def test_seeds_count_by_what_the_channels_become() -> None:
    channels = seed_channels(declared("seeds.global_seed=5"))
    pinned = [f"seeds.pinned.{name}={seed}" for name, seed in channels.items()]
    assert seed_channels(declared(*pinned)) == channels
    assert run_hash(declared(*pinned), CODE) == run_hash(declared("seeds.global_seed=5"), CODE)
    assert run_hash(declared("seeds.global_seed=6"), CODE) != run_hash(declared("seeds.global_seed=5"), CODE)


def test_code_counts_and_so_do_types() -> None:
    assert run_hash(declared(), CODE) != run_hash(declared(), "cd" * 32)
    assert run_hash(declared("space=[{grid: {scale: [1, 2]}}]"), CODE) != run_hash(declared(), CODE)


def test_run_facts_say_what_a_reader_needs() -> None:
    facts = run_facts(declared("seeds.global_seed=5", "seeds.pinned.space=17"), CODE)
    assert facts["run_hash"] == run_hash(declared("seeds.global_seed=5", "seeds.pinned.space=17"), CODE)
    assert len(facts["config_hash"]) == len(facts["run_hash"]) == 16
    assert facts["seeds"]["global_seed"] == 5 and facts["seeds"]["space"] == 17


@pytest.mark.parametrize(
    "path", ["cluster.pools.gpu.workers", "execution.retries.limit", "campaign.tag", "storage.root"]
)
def test_free_paths(path: str) -> None:
    assert is_free(path)


@pytest.mark.parametrize(
    "path", ["campaign.version", "execution.timeout", "storage.rooted", "clusters", "sampling.draws"]
)
def test_paths_that_are_not_free(path: str) -> None:
    assert not is_free(path) and path not in FREE
