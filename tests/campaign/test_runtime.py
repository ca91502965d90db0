"""The runtime around a call: what it says counts, where it is said, for whom, and how long."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.ambient import Registry, Runtime, current
from staffa.campaign import config
from staffa.campaign.runtime import read, runtime
from staffa.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STAFFA_EXECUTION__X64", "STAFFA_REPLICATES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "smoke.yaml").write_text("set: {sampling: {draws: 2}}")
    (tmp_path / "site.yaml").write_text("cluster: {workers: 3}")
    (tmp_path / "other.yaml").write_text("cluster: {workers: 4}")
    file = tmp_path / "campaign.yaml"
    file.write_text("campaign: {name: walk}\nexperiment: {use: model.py:Walk}\nexecution: {window: 5}\n")
    return file


def test_what_a_block_says_counts_in_it_and_nowhere_else(path):
    with runtime(x64=True, cluster=path.parent / "site.yaml", profile="smoke") as here:
        inside = read(path).campaign
        assert here is current() and runtime.current() is here
    outside = read(path).campaign
    assert (inside.execution.x64, inside.cluster.workers, inside.sampling.draws) == (True, 3, 2)
    assert (outside.execution.x64, outside.cluster.workers, outside.sampling.draws) == (False, None, None)
    assert runtime.current() == Runtime()


def test_it_beats_file_and_environment_and_the_call_beats_it(path, monkeypatch):
    monkeypatch.setenv("STAFFA_EXECUTION__WINDOW", "6")
    assert read(path).campaign.execution.window == 6
    with runtime(window=7, cluster=path.parent / "site.yaml"):
        declaration = read(path)
        assert declaration.campaign.execution.window == 7
        assert str(declaration.where("execution.window")) == "runtime"
        assert ("execution.window", 7, config.Origin("runtime")) in config.explain(declaration)
        assert "window: 7  # runtime\n" in config.dump(declaration)
        said = read(path, overrides=["execution.window=8"], cluster=path.parent / "other.yaml")
        assert (said.campaign.execution.window, said.campaign.cluster.workers) == (8, 4)


def test_blocks_nest_key_by_key(path):
    with runtime(execution={"window": 7, "retries": {"limit": 9}}, cluster=path.parent / "site.yaml"):
        with runtime(execution={"window": 8}, x64=True):
            inner = read(path).campaign
        outer = read(path).campaign
    assert (inner.execution.window, inner.execution.retries.limit, inner.execution.x64) == (8, 9, True)
    assert inner.cluster.workers == 3
    assert (outer.execution.window, outer.execution.x64) == (7, False)


def test_an_error_inside_ends_the_block(path):
    with pytest.raises(ZeroDivisionError), runtime(x64=True):
        1 / 0  # noqa: B018
    assert runtime.current() == Runtime()


def test_a_block_may_be_kept_entered_again_and_within_itself():
    lab = runtime(draws=3)
    for _ in range(2):
        with lab, lab:
            assert current().overrides == ("sampling.draws=3",) * 2
        assert current() == Runtime()
    both = lab | runtime(draws=4, profile="p")
    with both as here:
        assert here.overrides == ("sampling.draws=3", "sampling.draws=4") and here.profile == "p"


def test_it_cannot_be_changed():
    with runtime(x64=True) as here:
        with pytest.raises(dataclasses.FrozenInstanceError):
            here.profile = "other"
        with pytest.raises((TypeError, AttributeError)):
            here.overrides[0] = "x"
        with pytest.raises(dataclasses.FrozenInstanceError):
            here.plugins.entries = ()
        assert pickle.loads(pickle.dumps(here)) == here and hash(here) == hash(current())


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ({"x65": True}, "runtime(x65=…): no campaign has such a field", "did you mean 'x64'?"),
        ({"profil": "a"}, "runtime(profil=…)", "did you mean 'profile'"),
        ({"workers": 3}, "may be execution.workers or cluster.workers", "execution__workers=…"),
        ({"x64": "perhaps"}, "runtime: execution.x64: 'perhaps' is not true or false", "Double precision"),
        ({"execution": {"windows": 3}}, "runtime: execution.windows: unknown key", "'window'"),
        ({"seeds__global": 3}, "runtime: seeds.global: unknown key", "'global_seed'"),
        ({"set": ["seeds.global=3"]}, "runtime: seeds.global: unknown key", "'global_seed'"),
        ({"set": ["draws"]}, "runtime draws: is not field=value", "sampling.draws=100"),
        ({"draws": 0}, "runtime: sampling.draws: 0 must be at least 1", "Draws"),
        ({"storage__root": print}, "runtime: root: <built-in function print>", "numbers, text"),
        ({"cluster": {"workers": 2}}, "runtime(cluster={'workers': 2}) is not a name", "cluster__…=…"),
        ({"factor": float("inf")}, "inf is not a finite number", ""),
    ],
)
def test_what_no_campaign_could_take_is_refused_where_it_is_said(said, message, hint):
    with pytest.raises(ConfigError) as caught:
        runtime(**said)
    assert message in caught.value.message and hint in caught.value.hint


def test_threads_and_tasks_have_their_own(path):
    seen: dict[str, Any] = {}
    barrier = threading.Barrier(2)

    def thread(name: str, draws: int) -> None:
        with runtime(draws=draws):
            barrier.wait()  # both are inside
            seen[name] = read(path).campaign.sampling.draws
            barrier.wait()
        seen[f"{name} after"] = current()

    with runtime(draws=99):
        threads = [threading.Thread(target=thread, args=(name, draws)) for name, draws in (("a", 3), ("b", 4))]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        # A new thread begins outside of all blocks, unless it is given the context.
        copied = threading.Thread(
            target=contextvars.copy_context().run, args=(lambda: seen.update(copied=current().overrides),)
        )
        copied.start()
        copied.join()
    assert (seen["a"], seen["b"]) == (3, 4)
    assert seen["a after"] == seen["b after"] == Runtime() and seen["copied"] == ("sampling.draws=99",)

    async def task(draws: int) -> int:
        with runtime(draws=draws):
            await asyncio.sleep(0)
            return read(path).campaign.sampling.draws or 0

    async def all_tasks() -> list[int]:
        return await asyncio.gather(*(task(draws) for draws in (5, 6, 7)))

    assert asyncio.run(all_tasks()) == [5, 6, 7]


SAID = st.builds(
    Runtime,
    st.none() | st.sampled_from(["a", "b"]),
    st.none() | st.sampled_from(["p", "q"]),
    st.none() | st.builds(Path, st.sampled_from(["x", "y"])),
    st.tuples() | st.tuples(st.sampled_from(["m=1", "n=2"])),
    st.sampled_from([Registry(), Registry().register("schedules", "s", 1), Registry().deregister("schedules", "s")]),
)


@given(SAID, SAID, SAID)
def test_nesting_may_be_grouped_in_any_way(a, b, c):
    assert c.within(b.within(a)) == c.within(b).within(a)
    assert a.within(Runtime()) == a == Runtime().within(a)


@given(st.lists(SAID, max_size=4))
def test_the_innermost_word_counts(blocks):
    merged = functools.reduce(lambda outer, inner: inner.within(outer), blocks, Runtime())
    for name in ("cluster", "profile", "workflow"):
        said = [getattr(block, name) for block in blocks if getattr(block, name) is not None]
        assert getattr(merged, name) == (said[-1] if said else None)
    assert merged.overrides == tuple(word for block in blocks for word in block.overrides)


def test_the_registry_remembers_the_last_word():
    registry = Registry().register("schedules", "s", 1).register("metrics", "s", 2).register("schedules", "s", 3)
    assert registry.said("schedules")["s"].found == 3 and registry.said("metrics")["s"].found == 2
    gone = registry.deregister("schedules", "s")
    assert gone.said("schedules")["s"].gone and not registry.said("schedules")["s"].gone
    assert not gone.register("schedules", "s", 4).said("schedules")["s"].gone
