"""Requests no cluster could meet are refused at plan, with their field."""

from __future__ import annotations

from typing import Any

import pytest

from staffa.campaign.machine import ClusterConfig
from staffa.errors import ConfigError
from staffa.execution.slurm.commands import Answer, Refused, Slurm, Unreachable
from staffa.execution.slurm.preflight import considered, preflight

CONFIG = "MaxArraySize            = 1001\nSLURM_VERSION           = 22.05.8\nAccountingStorageType   = (null)\n"
NODES = "gpu*|up|4:00:00|2|16|64000|gpu:a100:2\nbig|up|infinite|1|128|512000|(null)\n"


def site(argv: Any, stdin: str | None) -> Answer:
    if argv[:3] == ["scontrol", "show", "config"]:
        return Answer(0, CONFIG, "")
    if argv[0] == "sinfo":
        return Answer(0, NODES, "")
    if argv[0] == "sbatch" and "--account=nobody" in (stdin or ""):
        words = "allocation failure: Invalid account or account/partition combination specified"
        return Answer(1, "", words)
    if argv[0] == "sbatch" and "--partition=gpus" in (stdin or ""):
        words = "sbatch: error: invalid partition specified: gpus\nallocation failure: Invalid partition name specified"
        return Answer(1, "", words)
    return Answer(0, "", "sbatch: Job 1 to start at …")


def check(**pool: Any) -> dict[str, Any]:
    said = {"workers": 4, "gpus": 2, "cores": 2, "memory": "4GiB", **pool}
    machine = ClusterConfig(kind="slurm", pools={"gpu": said}, driver={"walltime": "5h"})

    def script(name: str) -> str:
        asked = [f"--{key}={said[key]}" for key in ("account", "partition") if key in said and name == "gpu"]
        return "\n".join(["#!/bin/bash", *(f"#SBATCH {word}" for word in asked)])

    return preflight(machine, script, slurm=Slurm(site))


def test_what_fits_is_told() -> None:
    assert check()["pools"]["gpu"] == {
        "work": ["sample", "reduce"],
        "workers": 4,
        "jobs": 2,
        "nodes": 1,
        "gpus": 2,
        "walltime": "01:00:00",
    }
    check(partition="big", gpus=0, workers_per_node=2, cores=128, walltime="30d")


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ({"gpus": 3, "cores": 3}, r"cluster\.pools\.gpu\.gpus: 3 is more than a node of partition 'gpu' has: 2"),
        ({"partition": "big"}, r"cluster\.pools\.gpu\.gpus: 2, but the nodes of partition 'big' have none"),
        ({"cores": 17}, r"cluster\.pools\.gpu\.cores: 17 is more than a node of partition 'gpu' has: 16"),
        ({"memory": "80GiB"}, r"cluster\.pools\.gpu\.memory: 80GiB is more than a node .* has: 62\.5GiB"),
        ({"nodes": 3}, r"cluster\.pools\.gpu\.nodes: 3 is more than partition 'gpu' allows: 2"),
        ({"walltime": "5h"}, r"cluster\.pools\.gpu\.walltime: 05:00:00 is more than partition 'gpu' allows: 04:00:00"),
    ],
)
def test_the_impossible_is_refused_with_its_field(pool: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check(**pool)
    assert caught.value.exit_code == 2 and caught.value.hint


def test_what_is_dropped_is_not_asked_for() -> None:
    check(memory="80GiB", directives={"mem": None})
    check(walltime="5h", directives={"time": None})


def test_the_drivers_own_job_counts_only_where_there_is_one() -> None:
    machine = ClusterConfig(kind="slurm", pools={"gpu": {"workers": 1}}, driver={"walltime": "5h"})
    preflight(machine, lambda name: "", slurm=Slurm(site))
    with pytest.raises(ConfigError, match=r"cluster\.driver\.walltime: 05:00:00"):
        preflight(machine, lambda name: "", detached=True, slurm=Slurm(site))


def test_an_unknown_partition_has_near_names() -> None:
    with pytest.raises(Refused, match=r"cluster\.pools\.gpu\.partition: .*[Ii]nvalid partition") as caught:
        check(partition="gpus")
    assert caught.value.exit_code == 3 and "'gpu'" in caught.value.hint


def test_sbatch_has_the_last_word() -> None:
    with pytest.raises(Refused, match=r"cluster\.pools\.gpu\.account: .*Invalid account") as caught:
        check(account="nobody")
    assert caught.value.exit_code == 3 and caught.value.hint


def test_a_plan_can_be_made_away_from_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = ClusterConfig(kind="slurm", pools={"gpu": {"workers": 1}})
    monkeypatch.setenv("PATH", "/nowhere")
    found = considered(machine, lambda name: "")
    assert found["unchecked"] == "there is no sbatch on this machine" and found["pools"]["gpu"]["workers"] == 1
    with pytest.raises(Unreachable, match="there is no `scontrol` on this machine") as caught:
        preflight(machine, lambda name: "")
    assert caught.value.exit_code == 3 and "cluster.kind: local" in caught.value.hint
