"""Files that trials need: templates, who lacks one, realizations that stand or fall together."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign.inputs import Inputs, check_filled, fields, missing_of, names_in, paths_of, without
from staffa.campaign.model import CampaignConfig
from staffa.errors import ConfigError


def columns_of(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Trials as columns, as the roster has them: an object array where some lack a parameter."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {}
    for name in names:
        values = [row.get(name) for row in rows]
        found[name] = np.array(values, object if None in values or isinstance(values[0], str) else None)
    return found


def lacking(inputs: Inputs, rows: list[dict[str, Any]], there: set[str]) -> list[bool]:
    return without(inputs, columns_of(rows), len(rows), there.__contains__).tolist()


def test_templates_are_filled_with_each_trials_own_values() -> None:
    inputs = Inputs(("halos/{phase:04d}/z{redshift:.3f}.hdf5", "table-{kernel.width}.txt", "all.txt"))
    rows = [
        {"phase": 3, "redshift": 0.5, "kernel.width": 2.0},
        {"phase": 3, "redshift": 1.25, "kernel.width": 2.0},
    ]
    there = {"halos/0003/z0.500.hdf5", "halos/0003/z1.250.hdf5", "table-2.0.txt", "all.txt"}
    assert inputs.names == ("phase", "redshift", "kernel.width")
    assert lacking(inputs, rows, there) == [False, False]
    assert lacking(inputs, rows, there - {"halos/0003/z1.250.hdf5"}) == [False, True]
    assert lacking(inputs, rows, there - {"table-2.0.txt"}) == [True, True]
    assert lacking(inputs, rows, there - {"all.txt"}) == [True, True]


def test_a_template_asks_nothing_of_trials_without_its_parameter() -> None:
    rows = [{"kind": "a", "width": 1}, {"kind": "b"}]
    assert lacking(Inputs(("{kind}-{width}.txt",)), rows, set()) == [True, False]


def test_a_realization_that_lacks_one_file_is_left_out_whole() -> None:
    rows = [{"phase": phase, "z": z} for phase in (1, 2) for z in (10, 20)] + [{"z": 10}]
    inputs = Inputs(("{phase}-{z}",), ("phase",))
    there = {"1-10", "1-20", "2-10"}
    assert lacking(inputs, rows, there) == [False, False, True, True, False]
    assert lacking(Inputs(inputs.paths), rows, there) == [False, False, False, True, False]


def test_each_path_is_looked_up_once_and_several_at_a_time() -> None:
    asked: Counter[str] = Counter()
    threads = set()
    several = threading.Barrier(2, timeout=30)

    def exists(path: str) -> bool:
        asked[path] += 1
        if not threads:
            threads.add(threading.get_ident())
            several.wait()  # two threads have to be in here at once
        elif len(threads) == 1 and threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            several.wait()
        return True

    rows = [{"phase": n % 2000, "draw": n} for n in range(20_000)]
    assert not any(without(Inputs(("{phase}.dat",)), columns_of(rows), len(rows), exists))
    assert len(asked) == 2000 and set(asked.values()) == {1}


values = st.fixed_dictionaries(
    {"a": st.integers(0, 3)}, optional={"b": st.sampled_from(["x", "y"]), "c": st.sampled_from([0.5, 1.5])}
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(values, min_size=1, max_size=30),
    st.lists(st.sampled_from(["{a}", "{a}-{b}", "{c:.1f}/{a}", "fixed", "{b}{{}}"]), unique=True, max_size=3),
    st.sampled_from([(), ("a",), ("a", "b")]),
    st.randoms(use_true_random=False),
)
def test_who_lacks_an_input_is_what_a_plain_loop_finds(
    rows: list[dict[str, Any]], paths: list[str], together: tuple[str, ...], chance: Any
) -> None:
    rows = [{"a": row["a"], "b": row.get("b"), "c": row.get("c")} for row in rows]
    inputs = Inputs(tuple(paths), together)

    def wanted(row: dict[str, Any]) -> list[str]:
        return [path.format(**row) for path in paths if all(row[name] is not None for name in fields(path))]

    everything = sorted({path for row in rows for path in wanted(row)})
    there = {path for path in everything if chance.random() < 0.7}
    own = [any(path not in there for path in wanted(row)) for row in rows]
    kin = [tuple(row[name] for name in together) for row in rows]
    struck = {names for names, gone in zip(kin, own, strict=True) if gone and names and None not in names}
    expected = [gone or names in struck for gone, names in zip(own, kin, strict=True)]
    assert lacking(inputs, rows, there) == expected


def test_relative_templates_begin_beside_the_campaign_file(tmp_path: Path) -> None:
    folder = tmp_path / "odd {name}"
    folder.mkdir()
    (folder / "3.txt").touch()
    inputs = Inputs(("{n}.txt", "/nowhere/{n}.txt")).resolved(folder)
    assert inputs.paths[1] == "/nowhere/{n}.txt" and fields(inputs.paths[0]) == ("n",)
    assert missing_of(inputs, {"n": 3}) == ["/nowhere/3.txt"]
    assert missing_of(Inputs(inputs.paths[:1]), {"n": 3}) == []
    assert missing_of(Inputs(inputs.paths[:1]), {"n": 4}) == [str(folder / "4.txt")]
    assert missing_of(inputs, {"n": None}) == []
    assert paths_of(inputs, {"n": 3}) == [str(folder / "3.txt"), "/nowhere/3.txt"]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (Inputs(("{fase}.txt",)), ("inputs.paths[0]", "'{fase}.txt'", "'fase'", "phase")),
        (Inputs(("ok", "{phase:.3q}")), ("inputs.paths[1]", "{phase:.3q}")),
        (Inputs(("{phase",)), ("inputs.paths[0]", "{phase")),
        (Inputs(("{name:04d}",)), ("inputs.paths[0]", "{name:04d}")),
        (Inputs(("ok",), ("fase",)), ("inputs.together", "'fase'", "phase")),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(inputs: Inputs, words: tuple[str, ...]) -> None:
    columns = columns_of([{"phase": 1, "name": "a", "width": None}, {"phase": 2, "name": "b", "width": 0.5}])
    with pytest.raises(ConfigError) as caught:
        names_in(inputs, columns)
        check_filled(inputs, columns)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    sound = Inputs(("{phase:04d}/{name}-{width:.2f}",), ("phase",))
    assert names_in(sound, columns) == ("phase", "name", "width")
    check_filled(sound, columns)


def test_inputs_are_a_list_of_paths_or_say_what_belongs_together() -> None:
    base = {"campaign": {"name": "t"}, "experiment": {"use": "m.py:M"}}
    short = CampaignConfig.model_validate({**base, "inputs": ["{a}.txt"]})
    long = CampaignConfig.model_validate({**base, "inputs": {"paths": ["{a}.txt"], "together": ["a"]}})
    assert short.inputs.paths == long.inputs.paths == ("{a}.txt",) and long.inputs.together == ("a",)
    assert not Inputs(CampaignConfig.model_validate(base).inputs.paths)
    with pytest.raises(ValueError, match=r"inputs\.paths is empty"):
        CampaignConfig.model_validate({**base, "inputs": {"together": ["a"]}})
