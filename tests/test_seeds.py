"""Randomness from identity: channels are apart, keys never meet, growth changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.campaign.identity import name_trials
from staffa.campaign.points import Column, Points
from staffa.campaign.space import Space
from staffa.seeds import CHANNELS, KEY_WORDS, SeedPack, key_words
from staffa.trial import DIGEST_BYTES

SEEDS = st.integers(-(2**70), 2**70)


# ---- channels


@given(seed=SEEDS)
def test_channels_differ_and_fit_31_bits(seed):
    channels = [SeedPack(seed).channel(name) for name in CHANNELS]
    assert len(set(channels)) == len(channels)
    assert all(0 <= channel < 2**31 for channel in channels)
    assert channels == [SeedPack(seed).channel(name) for name in CHANNELS]


@given(seed=SEEDS, other=SEEDS, pinned=st.integers(0, 2**31 - 1), name=st.sampled_from(CHANNELS))
def test_a_pinned_channel_wins_and_leaves_the_others_alone(seed, other, pinned, name):
    pack = SeedPack(seed, {name: pinned})
    assert pack.channel(name) == SeedPack(other, {name: pinned}).channel(name) == pinned
    for channel in CHANNELS:
        if channel != name:
            assert pack.channel(channel) == SeedPack(seed).channel(channel)


def test_neighbouring_global_seeds_have_unlike_channels():
    channels = {SeedPack(seed).channel(name) for seed in range(1000) for name in CHANNELS}
    assert len(channels) == 1000 * len(CHANNELS)


def test_channels_stay_what_they_are():
    """Runs are reproduced years later: these literals never change."""
    assert [SeedPack(42).channel(name) for name in ("trials", "space", "retry")] == [
        1196909413,
        1063061991,
        1621287273,
    ]


# ---- words of the digest


@given(st.lists(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), max_size=5))
def test_words_are_big_endian_and_hold_the_whole_digest(names):
    digests = np.frombuffer(b"".join(names), np.uint8).reshape(-1, DIGEST_BYTES)
    words = key_words(digests)
    assert words.shape == (len(names), KEY_WORDS) and words.dtype == np.uint32
    assert KEY_WORDS >= 2
    assert [row.astype(">u4").tobytes() for row in words] == names


def test_words_of_a_view_that_is_not_contiguous():
    digests = np.arange(64, dtype=np.uint8).reshape(4, 16)
    np.testing.assert_array_equal(key_words(digests[::2]), key_words(digests)[::2])


# ---- keys of trials


def names_of(first: int, count: int) -> np.ndarray:
    """Digests of trials whose one parameter counts up: as alike as trials can be."""
    values = tuple(range(first, first + count))
    column = Column("a", "int", values, np.arange(count, dtype=np.int32))
    return name_trials(Points((column,), count), 1, ['{"use":"m:M"}'], np.zeros(count, np.int32))


def key_data(digests: np.ndarray, seed: int, *streams: int) -> np.ndarray:
    """The key data of trials, (n, 2) words, folded as `staffa.experiment.perform` does; on the CPU.

    `streams` are folded in after the digest, one after the other.
    """
    jax = pytest.importorskip("jax")

    @jax.jit
    @jax.vmap
    def fold(words):
        key = jax.random.key(seed)
        for index in range(KEY_WORDS):
            key = jax.random.fold_in(key, words[index])
        for stream in streams:
            key = jax.random.fold_in(key, stream)
        return jax.random.key_data(key)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(fold(key_words(digests)))


@pytest.fixture(scope="module")
def million() -> np.ndarray:
    return names_of(0, 1_000_000)


def test_no_two_keys_of_a_million_trials_meet(million):
    """Neither the trials' own keys nor those of their streams, all taken together."""
    seed = SeedPack(42).channel("trials")
    data = [key_data(million, seed), key_data(million, seed, 0), key_data(million, seed, 1)]
    words = np.concatenate(data).astype(np.uint64)
    assert words.shape == (3_000_000, 2)
    assert len(np.unique(words[:, 0] << np.uint64(32) | words[:, 1])) == 3_000_000


def test_names_of_a_million_trials_differ(million):
    assert len(np.unique(million.view(np.uint64)[:, 0])) == 1_000_000


def test_keys_are_stable_when_the_campaign_grows():
    small = [{"grid": {"a": [1, 2, 3]}}, {"sobol": {"t": [0.0, 1.0]}, "points": 16}]
    large = [{"grid": {"a": [3, 0, 1, 2]}}, {"sobol": {"t": [0.0, 1.0]}, "points": 50}]

    def keys(blocks: list[dict]) -> dict[tuple, tuple]:
        points = Space(blocks, 5).expand()
        names = name_trials(points, 2, ["{}"], np.zeros(points.length, np.int32))
        trials = [(*row.items(), replicate) for row in points.rows() for replicate in range(2)]
        return dict(zip(trials, map(tuple, key_data(names, 1).tolist()), strict=True))

    before, after = keys(small), keys(large)
    assert len(before) == 96 and len(after) == 400
    assert before.items() <= after.items()


def test_another_seed_gives_other_keys():
    names = names_of(0, 1000)
    assert not (key_data(names, 1) == key_data(names, 2)).all(axis=1).any()


@pytest.fixture(scope="module")
def first_draws(million) -> np.ndarray:
    """The first uniform number of each of 20,000 consecutive trials."""
    jax = pytest.importorskip("jax")
    data = key_data(million[:20_000], SeedPack(42).channel("trials"))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        draws = jax.jit(jax.vmap(jax.random.uniform))(jax.random.wrap_key_data(data))
    return np.asarray(draws, dtype=float)


def test_first_draws_are_uniform(first_draws):
    from scipy import stats

    assert stats.kstest(first_draws, "uniform").pvalue > 0.001


@pytest.mark.parametrize("lag", [1, 2, 16, 256])
def test_first_draws_of_neighbours_are_independent(first_draws, lag):
    from scipy import stats

    here, there = first_draws[:-lag], first_draws[lag:]
    assert abs(np.corrcoef(here, there)[0, 1]) < 4 / np.sqrt(len(here))
    table, _, _ = np.histogram2d(here, there, bins=12, range=[[0, 1], [0, 1]])
    assert stats.chisquare(table.ravel()).pvalue > 0.001


def test_differences_of_neighbours_wrap_evenly(first_draws):
    """Catches what bins do not: neighbours that are alike or opposite in the small."""
    from scipy import stats

    around = (first_draws[1::2] - first_draws[::2]) % 1.0
    assert stats.kstest(around, "uniform").pvalue > 0.001
