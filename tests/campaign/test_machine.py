"""Section `cluster`: what may be said of a machine, what is refused, and the shapes of jobs that come of it."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign import config
from staffa.campaign.machine import (
    ALLOCATION,
    DRIVER,
    JOB_TYPES,
    ClusterConfig,
    JobShape,
    Stage,
    allocation_shape,
    driver_shape,
    shapes,
)
from staffa.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "cluster_configs"
WALK = "campaign: {name: walk}\nexperiment: {use: model.py:Walk}\n"
GIBIBYTE = 1024**3


def cluster(section: str, **tiers: Any) -> ClusterConfig:
    """The section as YAML, below `cluster:`."""
    said = yaml.safe_load(section)
    mapping = {"campaign": {"name": "walk"}, "experiment": {"use": "model.py:Walk"}, "cluster": said}
    return config.from_mapping(mapping, directory=".", **tiers).campaign.cluster


def shape(pool: str, rest: str = "") -> JobShape:
    return shapes(cluster(f"kind: slurm\npools: {{gpu: {pool}}}\n{rest}"))["gpu"]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """The complaint about a cluster section, whose first line is line 4 of `campaign.yaml`."""
    monkeypatch.chdir(tmp_path)

    def _refused(section: str, **tiers: Any) -> ConfigError:
        lines = "".join(f"  {line}\n" for line in section.splitlines())
        Path("campaign.yaml").write_text(f"{WALK}cluster:\n{lines}", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            config.load("campaign.yaml", **{"environ": {}, **tiers})
        assert caught.value.exit_code == 2
        return caught.value

    return _refused


# --- shapes ----------------------------------------------------------------------------------------


def test_a_pool_that_says_nothing():
    assert shape("{workers: 3}") == JobShape(
        pool="gpu",
        work=("sample", "reduce"),
        workers=3,
        nodes=1,
        gpus=0,
        workers_per_gpu=1,
        workers_per_node=1,
        cores=4,
        memory=16 * GIBIBYTE,
        walltime=3600.0,
    )


@pytest.mark.parametrize("job_type", JOB_TYPES)
def test_a_job_type_fills_in_what_is_left_open(job_type):
    preset = JOB_TYPES[job_type]
    found = shape(f"{{workers: 1, job_type: {job_type}}}")
    assert (found.gpus, found.cores, found.memory) == (preset.gpus, preset.cores, preset.memory)
    assert found.directives == preset.directives
    said = shape(f"{{workers: 1, job_type: {job_type}, gpus: 0, cores: 2, memory: 1GiB, directives: {{hint: null}}}}")
    assert (said.gpus, said.cores, said.memory) == (0, 2, GIBIBYTE)
    assert said.directives.get("hint") is None


def test_cores_and_memory_of_a_job_type_are_for_each_gpu():
    found = shape("{workers: 8, job_type: gpu_intensive, gpus: 4}")
    assert (found.cores, found.memory, found.workers_per_node) == (32, 128 * GIBIBYTE, 4)


def test_the_docstring_has_every_job_type():
    rows = [line.split() for line in (ClusterConfig.__doc__ or "").splitlines()]
    for name, preset in JOB_TYPES.items():
        row = next(row for row in rows if row[:1] == [name])
        numbers = [word for word in row if word.isdigit()]
        assert numbers == [str(preset.gpus), str(preset.cores), str(preset.memory // GIBIBYTE)]


def test_workers_of_a_job_and_jobs_of_workers():
    found = shape("{workers: 16, nodes: 2, gpus: 4, workers_per_gpu: 2, cores: 8}")
    assert (found.workers_per_node, found.workers_per_job) == (8, 16)
    assert [found.jobs(workers) for workers in (0, 1, 16, 17)] == [0, 1, 1, 2]
    processes = shape("{workers: 6, workers_per_node: 3, nodes: 2}")
    assert (processes.workers_per_job, processes.jobs(7)) == (6, 2)


def test_a_pool_over_the_defaults_over_the_job_type():
    found = shape(
        "{workers: 1, job_type: gpu_intensive, memory: 3GiB, account: mine, environment: {B: pool}, prologue: []}",
        "defaults: {job_type: io_intensive, cores: 5, memory: 2GiB, walltime: 2h, partition: long, account: ours,"
        " environment: {A: 1, B: all}, prologue: [module load x], python: $HOME/bin/python, throttle: 3}",
    )
    assert (found.gpus, found.cores, found.memory, found.walltime) == (1, 5, 3 * GIBIBYTE, 7200)
    assert found.directives == {"partition": "long", "account": "mine"}
    assert found.environment == {"A": "1", "B": "pool"}
    assert (found.prologue, found.python, found.throttle) == ((), "$HOME/bin/python", 3)


def test_directives_are_merged_key_by_key_and_stand_over_the_fields_of_their_name():
    found = shape(
        "{workers: 1, gpus: 4, constraint: gpu, directives: {gres: null, gpus-per-node: 4, account: null, mem: 0}}",
        "defaults: {account: ours, qos: low, directives: {qos: high, exclusive: true, licenses: scratch}}",
    )
    assert found.directives == {
        "account": None,
        "qos": "high",
        "exclusive": True,
        "licenses": "scratch",
        "constraint": "gpu",
        "gres": None,
        "gpus-per-node": "4",
        "mem": "0",
    }


def test_interfaces_and_stages():
    found = shape("{workers: 1, stage: {from: /env.tar}}", "interface: ib0\n")
    assert found.interface == "ib0"
    assert found.stage == Stage("/env.tar", "${TMPDIR:-/tmp}/staffa-env")
    assert shape("{workers: 1, interface: hsn0, stage: {from: $HOME/env, to: /local/env}}").interface == "hsn0"


def test_pools_keep_their_order_and_work():
    found = shapes(cluster("kind: slurm\npools: {b: {workers: 1, work: [reduce]}, a: {workers: 0, work: [sample]}}"))
    assert list(found) == ["b", "a"]
    assert [pool.work for pool in found.values()] == [("reduce",), ("sample",)]
    assert found["a"].workers == 0


def test_the_driver_has_a_job_of_its_own():
    said = cluster(
        "kind: slurm\ninterface: ib0\npools: {gpu: {workers: 1, gpus: 1, prologue: [pool]}}\n"
        "defaults: {account: ours, qos: low, prologue: [site], environment: {A: 1}, python: /elsewhere}\n"
        "driver: {qos: shared, cores: 2, directives: {account: null}}"
    )
    found = driver_shape(said)
    assert (found.pool, found.nodes, found.gpus, found.cores) == (DRIVER, 1, 0, 2)
    assert (found.memory, found.walltime, found.interface) == (4 * GIBIBYTE, 86400, "ib0")
    assert found.directives == {"account": None, "qos": "shared"}
    assert (found.prologue, found.environment, found.python) == (("site",), {"A": "1"}, None)


def test_other_kinds_have_no_pools():
    assert shapes(cluster("kind: local")) == shapes(cluster("kind: allocation")) == {}


def test_inside_an_allocation_every_gpu_has_its_workers():
    said = cluster(
        "kind: allocation\ninterface: hsn0\nreconnect: 1min\n"
        "defaults: {workers_per_gpu: 2, workers_per_node: 3, python: /p, container: c, prologue: [x],"
        " environment: {A: 1}}"
    )
    found = allocation_shape(said, nodes=2, gpus=4, cores=64, memory=GIBIBYTE)
    assert (found.pool, found.workers, found.workers_per_node, found.workers_per_gpu) == (ALLOCATION, 16, 8, 2)
    assert (found.cores, found.memory, found.walltime) == (64, GIBIBYTE, math.inf)
    assert (found.interface, found.python, found.container, found.prologue) == ("hsn0", "/p", "c", ("x",))
    assert found.environment == {"A": "1"} and found.directives == {}
    without = allocation_shape(said, nodes=2, gpus=0, cores=64, memory=GIBIBYTE)
    assert (without.workers, without.workers_per_node, without.workers_per_gpu) == (6, 3, 1)


def test_shapes_travel():
    found = shape("{workers: 1, stage: {from: /e}}")
    assert pickle.loads(pickle.dumps(found)) == found


# --- refusals --------------------------------------------------------------------------------------

POOL = "kind: slurm\npools:\n  gpu:\n    workers: 4\n"

BAD = [
    ("kind: slrum", "campaign.yaml:4: cluster.kind: 'slrum' is not 'local', 'slurm' or 'allocation'", "'slurm'"),
    ("kind: slurm", "cluster.pools: is missing: cluster.kind: slurm needs a pool", "pools: {gpu:"),
    (
        "kind: slurm\npools: {a: {workers: 1, work: [reduce]}}",
        ":5: cluster.pools: no pool does the sampling",
        "[sample]",
    ),
    (
        "kind: slurm\npools: {gpu: {work: [sample]}}",
        "campaign.yaml:5: cluster.pools.gpu.workers: is missing",
        "such as 16",
    ),
    ("kind: slurm\npools: {gpu: 4}", "campaign.yaml:5: cluster.pools.gpu: 4 is not a mapping", ""),
    ("kind: slurm\npools: {Gpu: {workers: 1}}", ":5: cluster.pools.Gpu: 'Gpu' is not a pool's name", ""),
    ("kind: slurm\npools: {driver: {workers: 1}}", "cluster.pools.driver: 'driver' is a name Staffa needs", ""),
    (POOL + "    wrok: [sample]", "campaign.yaml:8: cluster.pools.gpu.wrok: unknown key", "'work'"),
    (POOL + "    work: [sampling]", "cluster.pools.gpu.work[0]: 'sampling' is not 'sample' or 'reduce'", "'sample'"),
    (POOL + "    work: sample", "cluster.pools.gpu.work: 'sample' is not a list", "[sample]"),
    (POOL + "    work: []", "cluster.pools.gpu.work: []", "[sample]"),
    (POOL + "    job_type: gpu", "cluster.pools.gpu.job_type: 'gpu' is not 'gpu_intensive', 'cpu_in", "gpu_intensive"),
    (POOL + "    walltime: 1:00:00", "campaign.yaml:8: cluster.pools.gpu.walltime: '1:00:00' is not a duration", "4h"),
    (POOL + "    walltime: 0s", "cluster.pools.gpu.walltime: '0s' must be more than 0", "4h"),
    (POOL + "    memory: 64G", "cluster.pools.gpu.memory: '64G' is not a size", "64GiB"),
    (POOL + "    gpus: -1", "cluster.pools.gpu.gpus: -1 must be at least 0", "GPUs"),
    (POOL + "    nodes: 0", "cluster.pools.gpu.nodes: 0 must be at least 1", "Nodes"),
    (POOL + "    account: 12", "cluster.pools.gpu.account: 12 is not text", "Account"),
    (POOL + '    account: "a\\nb"', "cluster.pools.gpu.account: 'a\\nb' holds a line break", "Account"),
    (POOL + "    directives:\n      C: gpu", ":9: cluster.pools.gpu.directives.C: 'C' is short", "write 'constraint'"),
    (POOL + "    directives: {--qos: a}", "cluster.pools.gpu.directives.--qos: '--qos' is not the name", "'qos'"),
    (POOL + "    directives: {a b: c}", "cluster.pools.gpu.directives.a b: 'a b' is not the name of a directive", ""),
    (POOL + '    directives:\n      qos: "a\\n#SBATCH -A b"', ":9: cluster.pools.gpu.directives.qos: ", "line break"),
    (POOL + "    directives: {requeue: false}", "directives.requeue: false does not drop a directive", "write null"),
    (POOL + "    directives: {qos: [a]}", "cluster.pools.gpu.directives.qos: ['a'] is not the value", ""),
    (POOL + "    directives: {output: x}", "directives.output: 'output' is not a directive to set", "staffa explain"),
    (POOL + "    directives: {array: 0-3}", "directives.array: 'array' is not a directive to set", "throttle"),
    (POOL + "    directives: {time: 60}", "cluster.pools.gpu.directives: {'time': 60} sets 'time'", "`walltime`"),
    (POOL + "    directives: {nodes: 2}", "cluster.pools.gpu.directives: {'nodes': 2} sets 'nodes'", "`nodes`"),
    (POOL + "    prologue: module load x", "cluster.pools.gpu.prologue: 'module load x' is not a list", "[module load"),
    (
        POOL + "    prologue:\n    - 'a\n\n      #SBATCH -A b'",
        "prologue[0]: 'a\\n#SBATCH -A b' is a directive",
        "`directives`",
    ),
    (POOL + "    environment: {A-B: 1}", "cluster.pools.gpu.environment.A-B: 'A-B' is not the name of a variable", ""),
    (POOL + "    environment: {A: yes}", "cluster.pools.gpu.environment.A: true is not the value of a variable", ""),
    (POOL + "    python: ~/bin/python", "cluster.pools.gpu.python: '~/bin/python' begins with a tilde", "$HOME"),
    (POOL + "    stage: {from: env.tar}", "cluster.pools.gpu.stage.from: 'env.tar' is relative", "$HOME"),
    (POOL + "    stage: {form: /env.tar}", "cluster.pools.gpu.stage.form: unknown key", "'from'"),
    (POOL + "    stage: /env.tar", "cluster.pools.gpu.stage: '/env.tar' is not a mapping", "{from:"),
    (POOL + "    gpus: 2\n    workers_per_node: 2", ":9: cluster.pools.gpu.workers_per_node: 2 does not go", "take it"),
    (
        POOL + "    workers_per_gpu: 2",
        "campaign.yaml:8: cluster.pools.gpu.workers_per_gpu: 2 workers would",
        "set gpus",
    ),
    (POOL + "    gpus: 4\n    cores: 3", "campaign.yaml:9: cluster.pools.gpu.cores: 3 is less than the 4", "a core"),
    (POOL + "poll: {maximum: 1s}", "campaign.yaml:8: cluster.poll.maximum: 1 s is less than cluster.poll.initial", ""),
    (POOL + "submit: {atempts: 3}", "cluster.submit.atempts: unknown key", "'attempts'"),
    (POOL + "attempts: 3", "campaign.yaml:8: cluster.attempts: unknown key", "'cluster.submit.attempts'"),
    (POOL + "defaults: {workers: 3}", "campaign.yaml:8: cluster.defaults.workers: unknown key", "'workers_per"),
    (
        POOL + "workers: 3",
        "campaign.yaml:8: cluster.workers: has no meaning with cluster.kind: slurm",
        "cluster.pools.",
    ),
    (POOL + "memory: 3GiB", "cluster.memory: has no meaning with cluster.kind: slurm", "cluster.defaults.memory"),
    ("pools: {gpu: {workers: 4}}", "campaign.yaml:4: cluster.pools: has no meaning with cluster.kind: local", "slurm"),
    ("interface: lo", "campaign.yaml:4: cluster.interface: has no meaning with cluster.kind: local", "take it out"),
    ("kind: allocation\npools: {a: {workers: 1}}", ":5: cluster.pools: has no meaning with cluster.kind: alloc", "GPU"),
    ("kind: allocation\ndefaults: {qos: a}", ":5: cluster.defaults.qos: has no meaning with cluster.kind: alloc", ""),
    ("kind: allocation\ndriver: {cores: 4}", ":5: cluster.driver: has no meaning with cluster.kind: allocation", ""),
]


@pytest.mark.parametrize(("section", "message", "hint"), BAD)
def test_what_is_refused(refused, section, message, hint):
    error = refused(section)
    assert message in error.message
    assert hint in str(error)


def test_a_refusal_names_the_file_that_said_it(refused, tmp_path):
    (tmp_path / "site.yaml").write_text("cluster:\n  kind: slurm\n  pools:\n    gpu: {workers: 2}\n")
    error = refused("workers: 3", cluster="site.yaml")
    assert error.message.startswith("campaign.yaml:4: cluster.workers: has no meaning")
    (tmp_path / "site.yaml").write_text("cluster:\n  kind: slurm\n  pools:\n    gpu: {workers: 2, gpu: 1}\n")
    error = refused("dashboard: false", cluster="site.yaml")
    assert (error.message, error.hint) == ("site.yaml:4: cluster.pools.gpu.gpu: unknown key", "did you mean 'gpus'?")


# --- tiers and the frozen file ---------------------------------------------------------------------


def test_one_value_can_be_changed_for_one_run():
    said = cluster(
        "kind: slurm\npools: {gpu: {workers: 4, directives: {qos: low}}}",
        overrides=["cluster.pools.gpu.workers=0", "cluster.pools.gpu.directives.qos=null", "cluster.failures=2"],
    )
    assert (said.pools["gpu"].workers, said.pools["gpu"].directives, said.failures) == (0, {"qos": None}, 2)


WORDS = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=8)
VALUES = WORDS | st.integers(0, 99) | st.floats(0, 9) | st.just(True) | st.none()
OPTIONS = st.dictionaries(st.from_regex(r"[a-z]{2}[a-z-]{0,6}", fullmatch=True), VALUES, max_size=3)


@given(OPTIONS, st.lists(st.text(max_size=8), max_size=2), WORDS)
@settings(max_examples=60, deadline=None)
def test_the_frozen_file_means_the_same_shapes(tmp_path_factory, directives, prologue, value):
    pool = {"workers": 2, "directives": directives, "prologue": prologue, "environment": {"A": value}}
    section = {"kind": "slurm", "pools": {"gpu": {**pool, "stage": {"from": "/env"}}}, "defaults": {"walltime": "2h"}}
    mapping = {"campaign": {"name": "walk"}, "experiment": {"use": "model.py:Walk"}, "cluster": section}
    try:
        declaration = config.from_mapping(mapping, directory=".")
    except ConfigError:
        return
    path = tmp_path_factory.getbasetemp() / "cluster.yaml"
    path.write_text(config.dump(declaration), encoding="utf-8", newline="")
    again = config.load_frozen(path, directory=".")
    assert again.campaign.cluster == declaration.campaign.cluster
    assert shapes(again.campaign.cluster) == shapes(declaration.campaign.cluster)
    assert shapes(again.campaign.cluster)["gpu"].walltime == 7200


def test_the_schema_knows_pools():
    definitions = json.loads(json.dumps(config.json_schema()))["$defs"]
    assert definitions["PoolConfig"]["required"] == ["workers"]
    assert set(definitions["StageConfig"]["properties"]) == {"from", "to"}


# --- the shipped files -----------------------------------------------------------------------------


def shipped(name: str, tmp_path: Path) -> ClusterConfig:
    path = tmp_path / "campaign.yaml"
    path.write_text(WALK)
    return config.load(path, cluster=CONFIGS / f"{name}.yaml", environ={}).campaign.cluster


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_read(path, tmp_path):
    found = shipped(path.stem, tmp_path)
    assert found.kind == {"local": "local", "allocation": "allocation"}.get(path.stem, "slurm")


def test_what_the_generic_config_says_is_the_default(tmp_path):
    found = shipped("slurm-gpu", tmp_path)
    assert found.defaults.model_copy(update={"walltime": None, "prologue": None}) == ClusterConfig().defaults
    for name in ("poll", "submit", "failures", "driver", "reconnect", "insecure", "interface"):
        assert getattr(found, name) == getattr(ClusterConfig(), name), name


def test_the_config_of_the_test_cluster_has_a_worker_for_each_of_its_gpus(tmp_path):
    found = shapes(shipped("slurm-one-machine", tmp_path))
    assert (found["gpu"].workers, found["gpu"].gpus, found["gpu"].cores) == (4, 1, 1)
    assert found["gpu"].memory == 2 * GIBIBYTE and found["gpu"].work == ("sample",)
    assert found["cpu"].work == ("reduce",) and found["cpu"].gpus == 0
