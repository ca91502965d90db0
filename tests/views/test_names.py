"""Natural naming: shortcuts, wildcards, ambiguity, completion."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.errors import ConfigError
from staffa.views.names import Names

NAMES = ["kernel", "kernel.width", "kernel.steps", "target.width", "deep.er.lag", "schedule.use", "schedule.stop.use"]


@pytest.fixture
def names() -> Names[str]:
    return Names(NAMES, lambda name: f"<{name}>", "params")


def test_by_attribute_and_by_path(names: Names[str]) -> None:
    assert names.target.width == names["target.width"] == names["target"]["width"] == "<target.width>"
    assert list(names.schedule) == ["use", "stop.use"] and repr(names.target) == "<params.target: width>"
    assert len(names) == 7 and "kernel.width" in names and "kernel.wide" not in names


def test_a_shortcut_finds_what_is_below(names: Names[str]) -> None:
    assert names.steps == "<kernel.steps>" and names.lag == "<deep.er.lag>" and names.er.lag == "<deep.er.lag>"
    assert names.use == "<schedule.use>", "the shallowest counts"
    assert repr(names.stop) == "<params.schedule.stop: use>"


def test_what_is_ambiguous_lists_the_candidates(names: Names[str]) -> None:
    with pytest.raises(AttributeError, match=r"params.width is ambiguous") as caught:
        names.width  # noqa: B018
    assert "params['kernel.width'], params['target.width']" in str(caught.value)
    with pytest.raises(AttributeError, match=r"it may be params\['kernel'\], params\['kernel.width'\]"):
        names.kernel  # noqa: B018
    assert names["kernel"] == "<kernel>" and names["kernel.width"] == "<kernel.width>"


def test_wildcards(names: Names[str]) -> None:
    assert names["*.width"] == {"kernel.width": "<kernel.width>", "target.width": "<target.width>"}
    assert names.schedule["*"] == {"schedule.use": "<schedule.use>", "schedule.stop.use": "<schedule.stop.use>"}
    with pytest.raises(ConfigError, match=r"params has no '\*.wdth'"):
        names["*.wdth"]


def test_unknown_names_tell_the_near_ones(names: Names[str]) -> None:
    with pytest.raises(AttributeError, match="did you mean 'steps'"):
        names.stepz  # noqa: B018
    with pytest.raises(ConfigError, match=r"did you mean 'kernel\.width'"):
        names["kernel.widht"]
    assert not hasattr(names, "nothing") and not hasattr(names, "_repr_html_")


def test_completion(names: Names[str]) -> None:
    assert {"kernel", "target", "deep", "schedule"} <= set(dir(names))
    assert names._ipython_key_completions_() == NAMES


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(st.lists(WORDS, min_size=1, max_size=12, unique=True))
def test_every_name_is_found_by_its_path_and_any_shortcut_is_one_of_them(known: list[str]) -> None:
    tree: Names[str] = Names(known, lambda name: name, "t")
    for name in known:
        assert tree[name] == name
    for word in "abc":
        try:
            found: Any = getattr(tree, word)
        except AttributeError as error:
            assert "ambiguous" in str(error) or "has no" in str(error)
            continue
        places = [name.split(".").index(word) for name in known if word in name.split(".")]
        if isinstance(found, str):
            assert found.split(".").index(word) == min(places) and found.split(".")[-1] == word
        else:
            assert found._prefix.split(".")[-2] == word
