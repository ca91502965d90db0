"""The declaration: tiers, origins, refusals, the frozen file."""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign import config, layers, reading
from staffa.campaign.layers import Node, Origin
from staffa.campaign.quantities import duration, size
from staffa.errors import ConfigError

HERE = Path(__file__).parents[2]

WALK = """\
campaign:
  name: walk
experiment:
  use: model.py:Walk
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file below a folder that is the current one."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str, name: str = "campaign.yaml") -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def load(path: Path, **tiers: Any) -> config.Declaration:
    return config.load(path, **{"environ": {}, **tiers})


def refused(path: Path, **tiers: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, **tiers)
    assert caught.value.exit_code == 2
    return caught.value


# --- merging ---------------------------------------------------------------------------------------

ORIGINS = st.sampled_from([Origin("cluster", "c.yaml", 1), Origin("campaign", "f.yaml", 2), Origin("set")])
SCALARS = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "off"])


def _nodes(content: st.SearchStrategy[Any]) -> st.SearchStrategy[Node]:
    return st.builds(Node, content, ORIGINS)


def _mappings(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[dict[str, Node]]:
    return st.dictionaries(st.sampled_from("abc"), nodes, max_size=3)


NODES = st.recursive(
    _nodes(SCALARS),
    lambda inner: st.builds(Node, _mappings(inner), ORIGINS, st.booleans()) | _nodes(st.tuples(inner)),
    max_leaves=12,
)
TREES = _mappings(NODES)


@given(TREES)
def test_an_empty_tier_changes_nothing(tree):
    assert layers.merge(tree, {}) == tree == layers.merge({}, tree)


@given(TREES, TREES, TREES)
@settings(max_examples=400)
def test_tiers_may_be_merged_in_any_grouping(a, b, c):
    assert layers.merge(layers.merge(a, b), c) == layers.merge(a, layers.merge(b, c))


@given(TREES, TREES)
def test_the_stronger_tier_wins_with_its_origins(weak, strong):
    merged = layers.merge(weak, strong)
    assert layers.origins(strong).items() <= layers.origins(merged).items()
    flat = dict(config._leaves(layers.values(merged), ()))
    for path, value in config._leaves(layers.values(strong), ()):
        if value != {}:
            assert flat[path] == value


@given(TREES)
def test_a_tier_over_itself_changes_nothing(tree):
    assert layers.values(layers.merge(tree, tree)) == layers.values(tree)
    assert layers.merge(layers.merge(tree, tree), tree) == layers.merge(tree, tree)


@given(TREES, TREES)
def test_what_only_the_weak_tier_says_stays(weak, strong):
    merged = layers.merge(weak, strong)
    assert merged.keys() == weak.keys() | strong.keys()
    assert all(merged[key] == weak[key] for key in weak.keys() - strong.keys())


@given(TREES, TREES)
def test_tiers_that_say_different_things_may_change_places(one, other):
    one = {f"{key}1": node for key, node in one.items()}
    assert layers.merge(one, other) == layers.merge(other, one)


@given(st.lists(TREES, max_size=5))
def test_every_value_comes_from_the_strongest_tier_that_says_it(tiers):
    merged = functools.reduce(layers.merge, tiers, {})
    said = [layers.origins(tier) for tier in tiers]
    for path, origin in layers.origins(merged).items():
        assert origin == [tier[path] for tier in said if path in tier][-1]


@given(TREES, TREES)
def test_merging_changes_neither_tier(weak, strong):
    before = pickle.dumps((layers.values(weak), layers.values(strong)))
    layers.merge(weak, strong)
    assert pickle.dumps((layers.values(weak), layers.values(strong))) == before


def _laid_over(weak: Any, strong: Any) -> Any:
    if not (isinstance(weak, dict) and isinstance(strong, dict)):
        return strong
    both = {key: _laid_over(weak[key], strong[key]) for key in weak.keys() & strong.keys()}
    return {**weak, **strong, **both}


PLAIN = st.recursive(
    SCALARS, lambda inner: st.dictionaries(st.sampled_from("abc"), inner) | st.lists(inner, max_size=2)
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), PLAIN), max_size=5))
def test_tiers_give_what_plain_updating_gives(mappings):
    trees = [layers.from_python(mapping, Origin("python")).content for mapping in mappings]
    merged = layers.values(functools.reduce(layers.merge, trees, {}))
    assert merged == functools.reduce(_laid_over, mappings, {})


# --- durations and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10min", 600),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5 h", 5400),
        ("1h30min", 5400),
        ("1h 30m", 5400),
        ("250ms", 0.25),
        (45, 45),
        (0.5, 0.5),
        (0, 0),
    ],
)
def test_durations(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@given(st.integers(0, 999), st.sampled_from([("s", 1), ("min", 60), ("h", 3600), ("d", 86400)]))
def test_a_duration_is_number_times_unit(number, unit):
    assert duration(f"{number}{unit[0]}") == number * unit[1]


@given(st.text(alphabet="0123456789smhd. -e", max_size=8) | st.floats() | st.booleans() | st.none())
def test_a_duration_is_seconds_or_refused_with_an_example(value):
    try:
        seconds = duration(value)
    except ValueError as error:
        assert "for example 30s" in str(error)
    else:
        assert 0 <= seconds < float("inf")


@pytest.mark.parametrize("value", ["", "30", "s", "-3s", "3 fortnights", "1:30", "3S", True, None, -1, [3]])
def test_what_is_no_duration(value):
    with pytest.raises(ValueError, match="30s"):
        duration(value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("256MiB", 256 * 2**20), ("1GB", 10**9), ("1.5 KiB", 1536), ("2TiB", 2**41), ("7B", 7), (4096, 4096)],
)
def test_sizes(text, count):
    assert size(text) == count


@pytest.mark.parametrize("value", ["", "256M", "256", "1 Gib", "-1MB", True, None, 1.5, float("nan"), -1])
def test_what_is_no_size(value):
    with pytest.raises(ValueError, match="256MiB"):
        size(value)


# --- tiers -----------------------------------------------------------------------------------------


def test_defaults(write):
    campaign = load(write(WALK)).campaign
    assert (campaign.campaign.name, campaign.campaign.version) == ("walk", "v1.0")
    assert campaign.space == () and campaign.replicates == 1 and campaign.duplicates == "refuse"
    assert campaign.sampling.draws is None and campaign.sampling.thin == 1
    execution = campaign.execution
    assert (execution.segments, execution.batch, execution.width, execution.window) == (1, "auto", "auto", 3)
    backoff = execution.retries.backoff
    assert (backoff.initial, backoff.factor, backoff.jitter, backoff.maximum) == (30, 2, 0.1, 3600)
    assert execution.retries.limit == 3 and execution.timeout is None and execution.patience == 600
    assert (execution.x64, execution.prng, execution.vectorize) == (False, "threefry2x32", "auto")
    assert (campaign.storage.root, campaign.storage.compression, campaign.storage.level) == (
        "runs",
        "lz4",
        1,
    )
    archive = campaign.archive
    assert archive.every.trials == 1000 and archive.every.minutes == 10
    assert archive.part_size == 256 * 2**20 and archive.prune == "never" and archive.partition_by == ()
    assert campaign.cluster.kind == "local" and campaign.cluster.dashboard_port == 8787


def test_each_tier_beats_the_one_below(write):
    write("execution: {window: 10, patience: 10s, segments: 1, timeout: 10s, workers: 10}", "c.yaml")
    write("set: {execution: {segments: 30, timeout: 30s, workers: 30}}", "profiles/smoke.yaml")
    path = write(WALK + "execution: {patience: 20s, segments: 20, timeout: 20s, workers: 20}\n")
    declaration = load(
        path,
        cluster=Path("c.yaml"),
        profile="smoke",
        environ={"STAFFA_EXECUTION__TIMEOUT": "40s", "STAFFA_EXECUTION__WORKERS": "40"},
        overrides=["execution.workers=50", "execution.workers=51"],
    )
    execution = declaration.campaign.execution
    assert (execution.window, execution.patience, execution.segments) == (10, 20, 30)
    assert (execution.timeout, execution.workers) == (40, 51)
    told = {path: str(origin) for path, _, origin in config.explain(declaration)}
    assert told["execution.x64"] == "default"
    assert told["execution.window"] == "c.yaml:1"
    assert told["execution.patience"] == "campaign.yaml:5"
    assert told["execution.segments"] == "profiles/smoke.yaml:1"
    assert told["execution.timeout"] == "STAFFA_EXECUTION__TIMEOUT"
    assert told["execution.workers"] == "--set"


def test_the_runtime_stands_between_the_environment_and_set(write):
    path = write(WALK + "execution: {window: 20, patience: 20s, segments: 20}\n")
    variables = {f"STAFFA_EXECUTION__{name}": "30" for name in ("WINDOW", "PATIENCE", "SEGMENTS")}
    declaration = load(
        path,
        environ=variables,
        ambient=["execution.patience=40", "execution.segments=40"],
        overrides=["execution.segments=50"],
    )
    execution = declaration.campaign.execution
    assert (execution.window, execution.patience, execution.segments) == (30, 40, 50)
    told = {path: str(origin) for path, _, origin in config.explain(declaration)}
    assert told["execution.window"] == "STAFFA_EXECUTION__WINDOW"
    assert (told["execution.patience"], told["execution.segments"]) == ("runtime", "--set")


def test_variables_that_were_meant_as_settings():
    environ = {
        "STAFFA_EXECUTON__WINDOW": "3",
        "STAFFA_REPLICATS": "4",
        "STAFFA_REPLICATES": "4",
        "STAFFA_CACHE": "/tmp",
        "STAFFA_DEBUG": "1",
        "STAFFA_PLUGINS": "[]",
        "OTHER_EXECUTON__WINDOW": "3",
    }
    strays = config.stray_variables(environ)
    assert [(str(stray.origin), stray.value) for stray in strays] == [
        ("STAFFA_EXECUTON__WINDOW", "3"),
        ("STAFFA_REPLICATS", "4"),
    ]
    assert "'execution'" in strays[0].hint and "'replicates'" in strays[1].hint


def test_a_scalar_between_two_mappings_cuts_them_apart(write):
    write("set: {archive: {every: off}}", "profiles/quiet.yaml")
    path = write(WALK + "archive: {every: {trials: 5}}\n")
    assert load(path, profile="quiet").campaign.archive.every == "off"
    declaration = load(path, profile="quiet", overrides=["archive.every.minutes=3"])
    assert declaration.campaign.archive.every.trials == 1000
    assert declaration.where("archive.every.trials").tier == "set"
    assert ("archive.every.trials", 1000, layers.DEFAULT) in config.explain(declaration)


def test_lists_are_replaced_whole(write):
    path = write(WALK + "space:\n  - grid: {a: [1]}\n  - grid: {b: [2]}\n")
    declaration = load(path, overrides=["space=[{grid: {c: [3]}}]"])
    assert declaration.campaign.space == ({"grid": {"c": [3]}},)
    assert str(declaration.where("space[1].grid.b")) == "--set"


def test_environment_only_listens_to_known_sections(write):
    environ = {
        "STAFFA_CACHE": "[",
        "STAFFA_DEBUG": "1",
        "STAFFA_EXECUTON__WINDOW": "x",
        "EXECUTION__WINDOW": "9",
        "STAFFA_REPLICATES": "4",
        "STAFFA_SAMPLING": "{draws: 8, thin: 2}",
        "STAFFA_SAMPLING__THIN": "5",
    }
    campaign = load(write(WALK), environ=environ).campaign
    assert (campaign.replicates, campaign.sampling.draws, campaign.sampling.thin) == (4, 8, 5)
    assert campaign.execution.window == 3


def test_the_process_environment_is_the_default(write, monkeypatch):
    monkeypatch.setenv("STAFFA_REPLICATES", "7")
    assert config.load(write(WALK)).campaign.replicates == 7


def test_overrides_are_read_as_yaml(write):
    overrides = [
        "sampling.draws=1e3",
        "experiment.target.scale=1e-3",
        "campaign.description=a=b",
        "seeds.pinned=",
    ]
    declaration = load(write(WALK), overrides=overrides[:3])
    assert declaration.campaign.sampling.draws == 1000
    assert declaration.campaign.experiment.options == {"target": {"scale": 0.001}}
    assert declaration.campaign.campaign.description == "a=b"
    assert "seeds.pinned: null is not a mapping" in refused(Path("campaign.yaml"), overrides=overrides).message


def test_a_section_of_comments_erases_nothing(write):
    write("storage: {root: scratch}", "c.yaml")
    path = write(WALK + "storage:\n  # root: elsewhere\nspace:\n")
    assert load(path, cluster="c.yaml").campaign.storage.root == "scratch"


def test_cluster_by_name(write, tmp_path, monkeypatch):
    write("cluster: {workers: 2}", "cluster_configs/site.yaml")
    path = write(WALK, "workflows/walk/campaign.yaml")
    assert load(path, cluster="site").campaign.cluster.workers == 2
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    absolute = tmp_path / path
    assert load(absolute, cluster="site").campaign.cluster.workers == 2
    write("cluster: {workers: 3}", "cluster_configs/site.yaml")
    assert load(absolute, cluster="site").campaign.cluster.workers == 3
    assert load(absolute, cluster="local") == load(absolute)
    error = refused(absolute, cluster="sight")
    assert "sight" in error.message and "'site'" in error.hint


def test_a_cluster_config_holds_only_what_a_machine_decides(write):
    write("cluster: {}\nsampling: {draws: 3}\nexecutions: {}\n", "c.yaml")
    error = refused(write(WALK), cluster="c.yaml")
    assert "c.yaml:2: sampling: has no place" in error.message
    assert "c.yaml:3: executions: has no place" in error.message and "'execution'" in error.message


def test_the_shipped_local_config(write):
    path = write(WALK)
    declaration = load(path, cluster=HERE / "cluster_configs" / "local.yaml")
    assert config.difference(declaration, load(path)) == []


def test_profiles(write):
    write("name: smoke\nworkload: test\ntags: [quick]\nset:\n  sampling: {draws: 2}\n", "profiles/smoke.yaml")
    path = write(WALK)
    declaration = load(path, profile="smoke")
    assert declaration.campaign.sampling.draws == 2
    assert str(declaration.where("sampling.draws")) == "profiles/smoke.yaml:5"
    error = refused(path, profile="smok")
    assert "smok" in error.message and "'smoke'" in error.hint
    assert refused(path, profile="../profiles/smoke").hint == "known: smoke"
    write("sets: {sampling: {draws: 2}}\n", "profiles/smoke.yaml")
    error = refused(path, profile="smoke")
    assert "profiles/smoke.yaml:1: sets: unknown key" in error.message and "'set'" in error.hint


# --- bad input -------------------------------------------------------------------------------------

BAD = [
    ("sampling: {darws: 3}", "campaign.yaml:5: sampling.darws: unknown key", "'draws'"),
    ("sampling:\n  draws: many", "campaign.yaml:6: sampling.draws: 'many' is not an integer", "1000"),
    ("sampling: {draws: -5}", "campaign.yaml:5: sampling.draws: -5 must be at least 1", "Draws"),
    ("sampling: {draws: 2.5}", "campaign.yaml:5: sampling.draws: 2.5 is not an integer", "Draws"),
    ("sampling: {draws: '5'}", "campaign.yaml:5: sampling.draws: '5' is not an integer", "Draws"),
    ("sampling: {draws: yes}", "campaign.yaml:5: sampling.draws: true is not an integer", "Draws"),
    ("sampling: 3", "campaign.yaml:5: sampling: 3 is not a mapping", "Draws"),
    ("samplings: {draws: 3}", "campaign.yaml:5: samplings: unknown key", "'sampling'"),
    ("draws: 3", "campaign.yaml:5: draws: unknown key", "'sampling.draws'"),
    ("replicates: 0", "campaign.yaml:5: replicates: 0 must be at least 1", "Trials per point"),
    ("duplicates: merged", "campaign.yaml:5: duplicates: 'merged' is not 'refuse' or 'merge'", "'merge'"),
    ("space: {grid: {a: [1]}}", "campaign.yaml:5: space: {'grid': {'a': [1]}} is not a list", "[{grid:"),
    ("space:\n- grid: {a: [1]}\n- 7", "campaign.yaml:7: space[1]: 7 is not a mapping", ""),
    ("seeds: {global: 1}", "campaign.yaml:5: seeds.global: unknown key", "'global_seed'"),
    ("seeds:\n  pinned:\n    trails: 1", "campaign.yaml:7: seeds.pinned.trails: no such channel", "'trials'"),
    ("seeds: {pinned: {off: 1}}", "campaign.yaml:5: seeds.pinned: key 'off' is not text", "quote"),
    ("seeds: {pinned: {'off': 1}}", "campaign.yaml:5: seeds.pinned.off: no such channel", "trials"),
    ("execution: {x64: 1}", "campaign.yaml:5: execution.x64: 1 is not true or false", "true or false"),
    ("execution: {batch: 0}", "execution.batch: 0 is neither auto nor an integer", "auto"),
    ("execution: {width: true}", "execution.width: true is neither auto nor an integer", "auto"),
    ("execution: {batch: 6, width: 4}", "execution.width: 4 does not divide execution.batch: 6", "divides"),
    ("execution: {prng: rgb}", "execution.prng: 'rgb' is not 'threefry2x32', 'rbg'", "'rbg'"),
    ("execution: {prng: rbg, vectorize: vmap}", "execution.prng: 'rbg' keys differ", "vectorize: map"),
    (
        "execution: {timeout: soon}",
        "execution.timeout: 'soon' is not a duration: write for example 30s",
        "2h",
    ),
    ("execution: {timeout: 0s}", "execution.timeout: '0s' must be more than 0", "2h"),
    ("execution: {timeout: 1:30}", "execution.timeout: '1:30' is not a duration", "2h"),
    (
        "execution:\n  retries:\n    limits: 2",
        "campaign.yaml:7: execution.retries.limits: unknown",
        "'limit'",
    ),
    (
        "execution:\n  retries:\n    backoff: {jitter: 2}",
        "campaign.yaml:7: execution.retries.backoff.jitter: 2 must be at most 1",
        "share",
    ),
    (
        "execution: {retries: {backoff: {maximum: 3s}}}",
        "campaign.yaml:5: execution.retries.backoff.maximum: 3 s is less than",
        "1h",
    ),
    ("storage: {compression: zst}", "storage.compression: 'zst' is not 'lz4', 'zstd' or 'none'", "'zstd'"),
    ("storage: {level: 23}", "campaign.yaml:5: storage.level: 23 must be at most 22", "small"),
    ("archive: {every: 5}", "campaign.yaml:5: archive.every: 5 is neither off nor", "off"),
    ("archive: {every: yes}", "campaign.yaml:5: archive.every: true is neither off nor", "off"),
    ("archive: {every: {trails: 5}}", "campaign.yaml:5: archive.every.trails: unknown key", "'trials'"),
    ("archive: {every: {minutes: 0}}", "archive.every.minutes: 0 must be more than 0", "minutes"),
    (
        "archive: {part_size: 256M}",
        "archive.part_size: '256M' is not a size: write for example 256MiB",
        "256MiB",
    ),
    ("archive: {partition_by: sampler}", "archive.partition_by: 'sampler' is not a list", "[sampler]"),
    ("cluster: {kind: slurmy}", "campaign.yaml:5: cluster.kind: 'slurmy' is not 'local'", "local"),
    ("cluster: {dashboard_port: 70000}", "cluster.dashboard_port: 70000 must be at most 65535", "Port"),
    ("sampling: {draws: 3, draws: 4}", "campaign.yaml:5: sampling.draws: given twice", "one of the two"),
    ("campaign: {name: other}", "campaign.yaml:5: campaign: given twice, first in line 1", "one of the two"),
    ("sampling: {draws: 010}", "campaign.yaml:5: sampling.draws: 010 is octal to some", "write 10"),
    (
        "space:\n- grid: {a: [.nan]}",
        "campaign.yaml:6: space[0].grid.a[0]: nan is not a finite number",
        "finite",
    ),
    ("a: !!python/object/apply:os.system [ls]", "campaign.yaml:5: a: the tag !!python/object/apply", "tags"),
    ("a:\n  b: !mine 3", "campaign.yaml:6: a.b: the tag !mine is refused", "tags"),
    ("a: !!binary aGk=", "campaign.yaml:5: a: the tag !!binary is refused", "tags"),
    ("a: !!int soon", "campaign.yaml:5: a: 'soon' cannot be read as int", ""),
    ("1: x", "campaign.yaml:5: key '1' is not text", "quote"),
    ("? [a]\n: x", "campaign.yaml:5: a key is a list or a mapping", "colon"),
    ("a: &x [*x]", "campaign.yaml:5: a[0]: contains itself", "alias"),
    ("a: [1,\nb: 2", "campaign.yaml:7: not valid YAML", "while parsing a flow sequence (line 5)"),
    ("a: 'open", "campaign.yaml:6: not valid YAML", "while scanning a quoted scalar (line 5)"),
    ("\tsampling: 3", "campaign.yaml:5: not valid YAML", "syntax"),
    ("--- \nb: 2", "campaign.yaml:5: not valid YAML", "syntax"),
    ("a: *nowhere", "campaign.yaml:5: not valid YAML: found undefined alias", "syntax"),
    ("a: {<<: 3}", "campaign.yaml:5: not valid YAML", "syntax"),
    ("a: " + "[" * 5000, "campaign.yaml: is nested too deeply", ""),
    ("a: \x01", "campaign.yaml: not valid YAML: unacceptable character", ""),
]


@pytest.mark.parametrize(("lines", "message", "hint"), BAD, ids=[bad[0][:40] for bad in BAD])
def test_bad_input_is_refused_with_place_field_value_and_what_was_meant(write, lines, message, hint):
    error = refused(write(WALK + lines + "\n"))
    assert message in error.message
    assert error.message.startswith("campaign.yaml")
    assert hint in f"{error.message} {error.hint}"
    assert len(error.message.splitlines()) == 1


TITLES = [
    ("campaign: {}\nexperiment: {use: x}", "campaign.yaml:1: campaign.name: is missing"),
    ("campaign: {name: 3x}\nexperiment: {use: x}", "campaign.yaml:1: campaign.name: '3x' does not match"),
    ("campaign: {name: x/y}\nexperiment: {use: x}", "campaign.yaml:1: campaign.name: 'x/y' does not match"),
    ("campaign: {name: 7}\nexperiment: {use: x}", "campaign.yaml:1: campaign.name: 7 is not text"),
    (
        "campaign:\n  name: x\n  version: 1.0\nexperiment: {use: x}",
        "campaign.yaml:3: campaign.version: 1.0 is not",
    ),
    ("campaign: {name: x, version: 1.0.0}\nexperiment: {use: x}", "campaign.version: '1.0.0' does not match"),
    ("campaign: {name: x}", "campaign.yaml: experiment: is missing"),
    ("campaign: {name: x}\nexperiment: {us: x}", "campaign.yaml:2: experiment.use: is missing"),
    ("campaign: {name: x}\nexperiment: {use: ''}", "campaign.yaml:2: experiment.use: '' is not a name"),
    ("campaign: {name: x}\nexperiment: smc", "campaign.yaml:2: experiment: 'smc' is not a mapping"),
    ("", "campaign.yaml: is empty"),
    ("# nothing\n", "campaign.yaml: is empty"),
    ("- 1\n", "campaign.yaml: is not a mapping of sections"),
    ("text", "campaign.yaml: is not a mapping of sections"),
]


@pytest.mark.parametrize(("text", "message"), TITLES)
def test_a_bad_head_is_refused(write, text, message):
    assert message in refused(write(text)).message


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_file(write):
    error = refused(write(WALK + "execution: {segments: x}\nsampling:\n  thin: 0\n  darws: 3\n"))
    assert [line.split(": ")[:2] for line in error.message.splitlines()] == [
        ["campaign.yaml:5", "execution.segments"],
        ["campaign.yaml:7", "sampling.thin"],
        ["campaign.yaml:8", "sampling.darws"],
    ]
    assert "did you mean 'draws'" in error.message


def test_segments_divide_draws(write):
    path = write(WALK + "sampling: {draws: 10}\n")
    error = refused(path, overrides=["execution.segments=4"])
    assert error.message == "--set: execution.segments: 4 does not divide sampling.draws: 10"
    assert load(path, overrides=["execution.segments=5"]).campaign.execution.segments == 5
    assert load(write(WALK), overrides=["execution.segments=4"]).campaign.sampling.draws is None


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("seeds.global=1", "--set: seeds.global: unknown key", "did you mean 'global_seed'?"),
        ("sampling.draws", "--set sampling.draws: is not field=value", "--set sampling.draws=100"),
        ("=3", "--set =3: is not field=value", "--set sampling.draws=100"),
        ("sampling..draws=3", "--set sampling..draws=3: is not field=value", "--set sampling.draws=100"),
        ("sampling.draws=[1", "--set: sampling.draws: not valid YAML", "quote"),
        ("sampling.draws=!!python/name:os.system", "--set: sampling.draws: the tag !!python/name", "tags"),
        ("sampling.draws=many", "--set: sampling.draws: 'many' is not an integer", "Draws"),
        ("replicates.x=3", "--set: replicates: {'x': 3} is not an integer", "Trials"),
    ],
)
def test_bad_overrides(write, override, message, hint):
    error = refused(write(WALK), overrides=[override])
    assert message in error.message and hint in error.hint


def test_bad_environment(write):
    error = refused(write(WALK), environ={"STAFFA_EXECUTION__RETRIES__LIMITS": "3"})
    assert error.message == "STAFFA_EXECUTION__RETRIES__LIMITS: execution.retries.limits: unknown key"
    assert "'limit'" in error.hint


def test_files_that_cannot_be_read(write, tmp_path):
    write(WALK)
    missing = refused(Path("campain.yaml"))
    assert "campain.yaml: no such file" in missing.message and "'campaign.yaml'" in missing.hint
    assert "no such file" in refused(Path("nowhere/campaign.yaml")).message
    assert "cannot be read" in refused(tmp_path).message
    rubbish = tmp_path / "rubbish.yaml"
    rubbish.write_bytes(bytes(range(256)))
    assert "is not UTF-8 text" in refused(rubbish).message
    rubbish.write_bytes(b"a: 1\x00")
    assert "not valid YAML" in refused(rubbish).message


def test_aliases_of_aliases_are_refused_before_they_unfold(write):
    text = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{two}: &{two} [{', '.join([f'*{one}'] * 10)}]\n"
    assert "unfolds to more than" in refused(write(text)).message


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_no_file_ends_in_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fuzz\.yaml"):
        config.load(path, environ={})


@given(st.text(alphabet="acdeimnprs:[]{},&*!<'\"#|>-?%@` \n\t019.~", max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_override_ends_in_a_traceback(text):
    mapping = {"campaign": {"name": "x"}, "experiment": {"use": "x"}}
    try:
        config.from_mapping(mapping, directory=".", overrides=[f"experiment.option={text}"])
    except ConfigError as error:
        assert error.message.startswith("--set")


# --- YAML ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.e3", -2000.0),
        (".5", 0.5),
        ("1.5", 1.5),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0o17", 15),
        ("0", 0),
        ("-7", -7),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("e3", "e3"),
        ("1e", "1e"),
        ("v1.0", "v1.0"),
        ("'1'", "1"),
        ("off", False),
        ("yes", True),
        ("~", None),
        ("", None),
        ("=", "="),
    ],
)
def test_scalars(text, value):
    read = reading.read_text(text, Origin("set")).content
    assert read == value and type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_python_floats_are_read_as_written(number):
    read = reading.read_text(repr(number), Origin("set")).content
    assert read == number and isinstance(read, float)


def test_aliases_and_merge_keys(write):
    text = WALK + "storage: &s {root: a, level: 2}\n" + "cluster: {workers: 3}\n"
    text += "execution: {retries: &r {limit: 7}}\n"
    assert load(write(text)).campaign.execution.retries.limit == 7
    node = reading.read_text("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\n", Origin("campaign", "f"))
    assert layers.values(node.content) == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 3},
        "c": {"p": 1, "q": 2},
    }
    assert node.content["c"].origin.line == 3


# --- origins ---------------------------------------------------------------------------------------


def test_lines_are_those_of_keys_also_inside_lists(write):
    declaration = load(
        write(WALK + "space:\n  - grid:\n      a:\n        [1, 2]\n  - sobol: {b: [0, 1]}\n    points: 4\n")
    )
    lines = {path: origin.line for path, origin in declaration.origins.items()}
    assert (lines["space"], lines["space[0]"], lines["space[0].grid.a"]) == (5, 6, 7)
    assert (lines["space[1].sobol.b"], lines["space[1].points"]) == (9, 10)
    assert declaration.where("space[1].sobol.c.d").line == 9
    assert str(declaration.where("space[9]")) == "campaign.yaml:5"
    assert declaration.where("nothing.such") == layers.DEFAULT


def test_complaints_of_other_rooms_get_file_and_line(write):
    declaration = load(write(WALK + "space:\n  - grid:\n      a: []\n"))
    located = declaration.located(ConfigError("space[0].grid.a: [] has no values", "give one"))
    assert (located.message, located.hint) == (
        "campaign.yaml:7: space[0].grid.a: [] has no values",
        "give one",
    )
    elsewhere = ConfigError("'x' cannot be imported")
    assert declaration.located(elsewhere) is elsewhere


def test_explain_has_every_leaf_sorted(write):
    rows = config.explain(load(write(WALK + "replicates: 2\n")))
    paths = [row[0] for row in rows]
    assert paths == sorted(paths) and len(set(paths)) == len(paths)
    assert {"campaign.name", "execution.retries.backoff.initial", "archive.every.trials", "space"} <= set(paths)
    assert ("replicates", 2, Origin("campaign", "campaign.yaml", 5)) in rows


# --- the frozen file -------------------------------------------------------------------------------

TEXTS = st.text(max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from(["1e-3", "010", "0o17", "off", "null", "1:30", "2026-01-02", "a # b", "a: b", "<<", "="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def _mapping(options: dict[str, Any], blocks: list[dict[str, Any]]) -> dict[str, Any]:
    experiment = {**options, "use": "model.py:Walk"}
    return {"campaign": {"name": "walk"}, "experiment": experiment, "space": blocks}


@given(st.dictionaries(TEXTS, VALUES, max_size=3), st.lists(st.dictionaries(TEXTS, VALUES), max_size=2))
@settings(max_examples=200, deadline=None)
def test_the_frozen_file_is_read_back_the_same(tmp_path_factory, options, blocks):
    declaration = config.from_mapping(_mapping(options, blocks), directory=".")
    path = tmp_path_factory.getbasetemp() / "frozen.yaml"
    path.write_text(config.dump(declaration), encoding="utf-8", newline="")
    again = config.load_frozen(path, directory=".")
    assert config.plain(again) == config.plain(declaration)
    assert config.config_hash(again) == config.config_hash(declaration)
    assert config.difference(declaration, again) == []
    assert again.directory == declaration.directory


def test_the_frozen_file_tells_where_values_came_from(write):
    write("set: {archive: {every: off}}", "profiles/quiet.yaml")
    declaration = load(
        write(WALK + "space:\n  - grid: {a: [1e-3, 2]}\n  - list: {b: ['010', on]}\n"),
        profile="quiet",
        environ={"STAFFA_REPLICATES": "4"},
        overrides=["execution.timeout=2h"],
    )
    text = config.dump(declaration)
    assert "  name: walk  # campaign campaign.yaml:2\n" in text
    assert "  version: v1.0  # default\n" in text
    assert "  every: 'off'  # profile profiles/quiet.yaml:1\n" in text
    assert "replicates: 4  # environment STAFFA_REPLICATES\n" in text
    assert "  timeout: 7200.0  # set\n" in text
    assert "space:  # campaign campaign.yaml:5\n  - {grid: {a: [0.001, 2]}}\n  - {list: {b: ['010', true]}}\n" in text
    assert yaml.safe_load(text) == config.plain(declaration)
    frozen = config.load_frozen(write(text, "runs/v1.0_walk/campaign.yaml"), directory="here")
    assert frozen.campaign == declaration.campaign
    assert frozen.directory == Path("here").absolute()
    assert str(frozen.where("replicates")).startswith("runs/v1.0_walk/campaign.yaml:")


def test_hash_and_difference(write):
    path = write(WALK + "space: [{grid: {a: [1, 2]}}]\n")
    one, same = load(path), load(path, overrides=["replicates=1"])
    assert config.config_hash(one) == config.config_hash(same) and len(config.config_hash(one)) == 16
    two = load(path, overrides=["space=[{grid: {a: [1.0, 2]}}]", "experiment.kernel=slice", "archive.every=off"])
    assert config.config_hash(one) != config.config_hash(two)
    assert config.difference(one, two) == [
        ("archive.every", config.ABSENT, "off"),
        ("archive.every.minutes", 10.0, config.ABSENT),
        ("archive.every.trials", 1000, config.ABSENT),
        ("experiment.kernel", config.ABSENT, "slice"),
        ("space", [{"grid": {"a": [1, 2]}}], [{"grid": {"a": [1.0, 2]}}]),
    ]
    reordered = write("experiment: {use: model.py:Walk}\nspace: [{grid: {a: [1, 2]}}]\ncampaign: {name: walk}\n")
    assert config.config_hash(load(reordered)) == config.config_hash(one)


# --- Python ----------------------------------------------------------------------------------------


def test_from_mapping_takes_what_notebooks_hold(tmp_path):
    mapping = {
        "campaign": {"name": "walk", "tags": ("a", "b")},
        "experiment": {"use": "model.py:Walk", "data": tmp_path, "scale": np.float32(0.5)},
        "space": [{"grid": {"a": np.arange(3), "b": range(2)}}],
        "replicates": np.int64(4),
        "sampling": None,
    }
    declaration = config.from_mapping(mapping, directory=tmp_path, overrides=["replicates=5"])
    campaign = declaration.campaign
    assert campaign.space == ({"grid": {"a": [0, 1, 2], "b": [0, 1]}},)
    assert campaign.experiment.options == {"data": str(tmp_path), "scale": 0.5}
    assert campaign.replicates == 5 and campaign.campaign.tags == ("a", "b")
    assert declaration.directory == tmp_path
    assert str(declaration.where("campaign.name")) == "python" and str(declaration.where("replicates")) == "--set"
    mapping["space"].append({})
    assert len(campaign.space) == 1


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"use": "x", "f": print}, "python: experiment.f: <built-in function print>"),
        ({"use": "x", "f": [float("inf")]}, "python: experiment.f[0]: inf is not a finite number"),
        ({"use": "x", 3: 4}, "python: experiment: key 3 is not text"),
        ({"use": 3}, "python: experiment.use: 3 is not text"),
    ],
)
def test_from_mapping_refuses(experiment, message):
    with pytest.raises(ConfigError) as caught:
        config.from_mapping({"campaign": {"name": "x"}, "experiment": experiment}, directory=".")
    assert message in caught.value.message


def test_a_declaration_is_frozen_and_travels(write):
    declaration = load(write(WALK + "seeds: {global_seed: 3, pinned: {space: 5}}\n"))
    with pytest.raises(ValueError, match="frozen"):
        declaration.campaign.execution.window = 4
    assert pickle.loads(pickle.dumps(declaration)) == declaration
    pack = declaration.campaign.seeds.pack()
    assert pack.channel("space") == 5 and pack.global_seed == 3


def test_the_schema_describes_every_field():
    schema = config.json_schema()
    json.dumps(schema)
    models = [schema, *schema["$defs"].values()]
    undescribed = [
        name for model in models for name, field in model.get("properties", {}).items() if "description" not in field
    ]
    assert undescribed == []
    assert schema["additionalProperties"] is False
    timeout = json.dumps(schema["$defs"]["ExecutionConfig"]["properties"]["timeout"])
    assert '"string"' in timeout and '"number"' in timeout


@pytest.mark.parametrize("of", ["cluster", "profile"])
def test_other_files_have_schemas_too(of):
    assert config.json_schema(of)["additionalProperties"] is False
    with pytest.raises(ConfigError, match="no schema of a 'campain'") as caught:
        config.json_schema("campain")
    assert "'campaign'" in caught.value.hint


# --- everything that is wrong ----------------------------------------------------------------------


def test_an_error_carries_its_complaints(write):
    error = refused(write(WALK + "sampling: {thin: 0, darws: 3}\n"))
    found = [(one.field, one.value, one.origin.line) for one in error.complaints]
    assert found == [("sampling.thin", 0, 5), ("sampling.darws", 3, 5)]
    assert pickle.loads(pickle.dumps(type(error)(error.message, error.hint))).message == error.message


def test_examining_goes_on_where_loading_stops(write):
    write("set: {samplng: {}}", "profiles/bad.yaml")
    path = write(WALK + "seeds: {global: 1}\nsampling: {thin: 0}\nreplicates: 3\n")
    seen = config.examine(path, profile="bad", overrides=["execution.window=none", "x"], environ={})
    assert [(str(one.origin), one.field) for one in seen.complaints] == [
        ("profiles/bad.yaml:1", "samplng"),
        ("--set", ""),
        ("--set", "execution.window"),
        ("campaign.yaml:5", "seeds.global"),
        ("campaign.yaml:6", "sampling.thin"),
    ]
    assert seen.unsound == {"seeds", "sampling", "execution"}
    left = seen.declaration.campaign
    assert (left.replicates, left.sampling.thin, left.execution.window) == (3, 1, 3)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("experiment: {use: x}\nreplicates: 0\n", ["campaign", "replicates"]),
        ("campaign: {name: 3}\nreplicates: 0\n", ["experiment", "campaign.name", "replicates"]),
        ("campaign: {name: x}\nexperiment: 3\n", ["experiment"]),
    ],
)
def test_a_campaign_without_its_head_is_examined_all_the_same(write, text, fields):
    seen = config.examine(write(text), environ={})
    assert [one.field for one in seen.complaints] == fields and seen.declaration is not None


def test_a_file_that_cannot_be_read_is_one_complaint(write):
    seen = config.examine(write(WALK + "a: [1\n"), environ={})
    assert len(seen.complaints) == 1 and seen.declaration is None
    assert (seen.complaints[0].origin.file, seen.complaints[0].origin.line) == ("campaign.yaml", 6)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_no_file_ends_an_examination(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "examined.yaml"
    path.write_bytes(content)
    assert config.examine(path, environ={}).complaints


def test_the_room_stays_pure():
    heavy = ("dask", "distributed", "jax", "zarr", "pyarrow", "pandas")
    probe = f"import sys, staffa.campaign.config; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
