"""Job scripts: golden files, quoting, and what bash makes of them.

STAFFA_WRITE_GOLDEN=1 writes the golden files anew: look at the difference before you keep it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from staffa.campaign import config
from staffa.campaign.machine import ClusterConfig, JobShape, Stage, allocation_shape, driver_shape, shapes
from staffa.errors import ConfigError
from staffa.execution.slurm.script import (
    Launch,
    allocation_script,
    driver_script,
    job_name,
    job_script,
    mebibytes,
    walltime,
)

HERE = Path(__file__).parent
CONFIGS = HERE.parents[2] / "cluster_configs"
LAUNCH = Launch(
    root=Path("/scratch/someone/runs/v1.0_protein"),
    title="v1.0_protein",
    python="/home/someone/staffa/bin/python",
    environment={"JAX_ENABLE_X64": "0", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false --xla_dump_to="},
    reconnect=600.0,
)
SHAPE = JobShape(
    pool="gpu",
    work=("sample",),
    workers=4,
    nodes=1,
    gpus=1,
    workers_per_gpu=1,
    workers_per_node=1,
    cores=2,
    memory=2 * 1024**3,
    walltime=3600.0,
)


def shaped(**changes: Any) -> JobShape:
    return dataclasses.replace(SHAPE, **changes)


def cluster(name: str, folder: Path) -> ClusterConfig:
    path = folder / "campaign.yaml"
    path.write_text("campaign: {name: protein}\nexperiment: {use: model.py:Fitness}\n")
    return config.load(path, cluster=CONFIGS / f"{name}.yaml", environ={}).campaign.cluster


# --- golden files ----------------------------------------------------------------------------------

STAGED = shaped(
    nodes=2,
    gpus=4,
    workers_per_gpu=2,
    workers_per_node=8,
    cores=64,
    container="apptainer exec --nv $SCRATCH/staffa.sif",
    stage=Stage("$SCRATCH/my env.tar.zst", "${TMPDIR:-/tmp}/staffa-env"),
    directives={"exclusive": True, "comment": "it's mine"},
    prologue=("module load cuda", "ulimit -s unlimited"),
)


def scripts(folder: Path) -> dict[str, str]:
    """Every script there is a golden file of."""
    made = {"staged-nodes": job_script(STAGED, LAUNCH)}
    for name in ("slurm-one-machine", "slurm-gpu", "perlmutter"):
        said = cluster(name, folder)
        made |= {f"{name}-{pool}": job_script(shape, LAUNCH) for pool, shape in shapes(said).items()}
        made[f"{name}-driver"] = driver_script(driver_shape(said), LAUNCH, ("-m", "staffa", "resume", str(LAUNCH.root)))
    inside = allocation_shape(cluster("allocation", folder), nodes=2, gpus=4, cores=64, memory=256 * 1024**3)
    return made | {"allocation": allocation_script(inside, LAUNCH)}


GOLDEN = sorted(path.stem for path in (HERE / "golden").glob("*.sh"))


def test_every_script_has_a_golden_file_and_bash_reads_it(tmp_path):
    found = scripts(tmp_path)
    if os.environ.get("STAFFA_WRITE_GOLDEN") == "1":
        for name, text in found.items():
            (HERE / "golden" / f"{name}.sh").write_text(text)
    assert sorted(found) == GOLDEN
    for name, text in found.items():
        assert text == (HERE / "golden" / f"{name}.sh").read_text(), f"{name}: look, then STAFFA_WRITE_GOLDEN=1"
        assert text == scripts(tmp_path)[name]
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


# --- the header ------------------------------------------------------------------------------------


def arguments(script: str) -> list[str]:
    """What sbatch reads in the lines `#SBATCH`, by its own rules (`_get_next_opt` in its sources)."""
    lines = script.split("\n")
    header = []
    for line in lines[1:]:
        if line.startswith("#SBATCH "):
            header += _words(line.removeprefix("#SBATCH "))
        elif line and not line.startswith("#"):
            break
    return header


def _words(line: str) -> list[str]:
    words, word, quote, escaped, open_word = [], "", "", False, False
    for character in line:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped, open_word = True, True
        elif quote:
            word, quote = (word, "") if character == quote else (word + character, quote)
        elif character in "'\"":
            quote, open_word = character, True
        elif character.isspace() and character.isascii():
            words, word, open_word = words + [word] * open_word, "", False
        elif character == "#":
            break
        else:
            word, open_word = word + character, True
    assert not quote and not escaped, line
    return words + [word] * open_word


def options(script: str) -> dict[str, str]:
    """Options by their long names."""
    found, words = {}, arguments(script)
    short = {"-J": "job-name", "-n": "ntasks", "-t": "time"}
    while words:
        word = words.pop(0)
        name, _, value = word.removeprefix("--").partition("=")
        found[short.get(word, name)] = words.pop(0) if word in short else value
    return found


def test_what_staffa_asks_for():
    found = options(job_script(SHAPE, LAUNCH))
    assert found == {
        "job-name": job_name(LAUNCH, "gpu"),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "2",
        "mem": "2048M",
        "time": "01:00:00",
        "gres": "gpu:1",
        "output": "/scratch/someone/runs/v1.0_protein/logs/gpu-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
    }


def test_several_nodes_have_a_task_each():
    found = options(job_script(shaped(nodes=3), LAUNCH))
    assert found["nodes"] == "3" and found["ntasks-per-node"] == "1" and "ntasks" not in found


OURS = ("nodes", "ntasks", "cpus-per-task", "mem", "time", "gres", "open-mode", "requeue")


@pytest.mark.parametrize("name", OURS)
def test_every_directive_can_be_dropped_or_replaced_alone(name):
    before = options(job_script(SHAPE, LAUNCH))
    dropped = options(job_script(shaped(directives={name: None}), LAUNCH))
    assert dropped == {key: value for key, value in before.items() if key != name}
    replaced = options(job_script(shaped(directives={name: "9"}), LAUNCH))
    assert replaced == {**before, name: "9"}


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ({"gpus-per-node": "4"}, "gres"),
        ({"gpus": "a100:1"}, "gres"),
        ({"mem-per-cpu": "4G"}, "mem"),
        ({"mem-per-gpu": "4G"}, "mem"),
        ({"cpus-per-gpu": "4"}, "cpus-per-task"),
        ({"no-requeue": True}, "requeue"),
    ],
)
def test_what_excludes_one_of_ours_takes_its_place(said, gone):
    found = options(job_script(shaped(directives=said), LAUNCH))
    assert gone not in found and said.keys() <= found.keys()


def test_a_directive_whose_name_is_part_of_another_drops_that_one_alone():
    script = job_script(shaped(directives={"mem": None, "mem-bind": "local", "n": None}), LAUNCH)
    assert "--mem=" not in script and "--mem-bind=local" in script and "#SBATCH -n 1" in script


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "00:00:01"), (60, "00:01:00"), (3599.5, "01:00:00"), (86400, "1-00:00:00"), (266_461, "3-02:01:01")],
)
def test_walltimes(seconds, text):
    assert walltime(seconds) == text


@given(st.integers(1, 10**7))
def test_a_walltime_says_its_seconds(seconds):
    match = re.fullmatch(r"(?:(\d+)-)?(\d\d):(\d\d):(\d\d)", walltime(seconds))
    assert match
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    assert ((days * 24 + hours) * 60 + minutes) * 60 + rest == seconds
    assert hours < 24 and minutes < 60 and rest < 60


def test_memory_is_rounded_up_to_what_slurm_counts():
    assert [mebibytes(size) for size in (1, 1024**2, 1024**2 + 1, 1536 * 1024**2)] == ["1M", "1M", "2M", "1536M"]
    script = job_script(shaped(gpus=4, workers_per_node=4, memory=6 * 1024**3), LAUNCH)
    assert "--mem=6144M" in script and "--memory-limit 1.50GiB" in script


def test_job_names_tell_campaigns_pools_and_folders_apart():
    other = dataclasses.replace(LAUNCH, root=Path("/elsewhere/v1.0_protein"))
    names = {job_name(launch, pool) for launch in (LAUNCH, other) for pool in ("gpu", "cpu")}
    assert len(names) == 4
    assert all(re.fullmatch(r"staffa-v1\.0_protein-[gc]pu-[0-9a-f]{6}", name) for name in names)


# --- nothing leaks, nothing escapes ----------------------------------------------------------------


def test_the_users_own_jobqueue_settings_stay_out(tmp_path):
    plain = job_script(SHAPE, LAUNCH)
    theirs = {
        "queue": "wrong",
        "account": "wrong",
        "name": "wrong",
        "interface": "wrong",
        "log-directory": str(tmp_path / "wrong"),
        "job-script-prologue": ["wrong"],
        "env-extra": ["wrong"],
        "job-extra-directives": ["--wrong"],
        "job-directives-skip": ["--mem"],
        "worker-extra-args": ["--wrong"],
        "local-directory": "/wrong",
        "shebang": "#!/wrong",
        "python": "wrong",
    }
    with dask.config.set({"jobqueue.slurm": theirs, "jobqueue.staffa": theirs}):
        assert job_script(SHAPE, LAUNCH) == plain
        assert dask.config.get("jobqueue.staffa.queue") == "wrong"
    assert not (tmp_path / "wrong").exists()


TEXT = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=20)
NASTY = st.sampled_from(
    ["'", '"', "\\", "a\\", "it's", "# x", "$HOME", "`id`", "$(id)", " ", "a b", "%A", "!", ";", ""]
)


@given(st.dictionaries(st.from_regex(r"[a-z]{2}[a-z-]{0,5}", fullmatch=True), TEXT | NASTY, max_size=5))
@settings(max_examples=200, deadline=None)
def test_directives_are_read_as_they_were_said(directives):
    found = options(job_script(shaped(directives=directives), LAUNCH))
    assert directives.items() <= found.items()


RECORDER = """#!/bin/bash
printf '%s\\0' "$0" "$@" > "$RECORD"
env -0 > "$RECORD.environment"
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Runs a script as SLURM would, with a program in the interpreter's place: its words and its environment."""
    folder = tmp_path_factory.mktemp('it\'s a $HOME `of` "programs"')
    program = folder / "python"
    program.write_text(RECORDER)
    program.chmod(0o755)

    def _record(shape: JobShape, launch: Launch, **environment: str) -> tuple[list[str], dict[str, str]]:
        given = {
            "SLURM_ARRAY_JOB_ID": "12",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_JOB_ID": "15",
            "SLURMD_NODENAME": "gpu0",
        }
        told = str(folder / "record")
        script = job_script(shape, dataclasses.replace(launch, python=str(program)))
        subprocess.run(
            ["bash"], input=script, text=True, check=True, env={**os.environ, **given, **environment, "RECORD": told}
        )
        words = Path(told).read_text().split("\0")[:-1]
        pairs = Path(told + ".environment").read_text().split("\0")[:-1]
        return words, dict(pair.split("=", 1) for pair in pairs)

    return _record


def test_the_command_of_a_worker(record):
    words, environment = record(shaped(interface="hsn0", workers_per_gpu=2, workers_per_node=2), LAUNCH)
    assert words[1:] == shlex.split(
        "-m staffa.execution.slurm.node /scratch/someone/runs/v1.0_protein --name 12-3 --nthreads 8"
        " --memory-limit 1.00GiB --death-timeout 600 --pool gpu --workers 2 --gpus 1 --workers-per-gpu 2"
        " --walltime 3600 --interface hsn0"
    )
    assert environment["XLA_FLAGS"] == LAUNCH.environment["XLA_FLAGS"]
    assert environment["STAFFA_STARTED"].isdecimal()


@given(TEXT | NASTY, TEXT | NASTY)
@settings(max_examples=25, deadline=None)
def test_paths_and_variables_reach_the_worker_as_they_are(record, folder, value):
    root = Path("/scratch") / folder.replace("/", "_").replace("\\", "_") / "v1.0_x"
    words, environment = record(shaped(environment={"SAID": value}), dataclasses.replace(LAUNCH, root=root))
    assert words[3] == str(root)
    assert environment["SAID"] == value


def test_the_site_has_its_lines_and_the_user_the_last_word(record):
    shape = shaped(
        prologue=("export A=site B=site", "if true; then\n  export C='a b'\nfi"),
        environment={"B": "user", "JAX_ENABLE_X64": "1"},
        container='env CONTAINER="$C"',
    )
    _, environment = record(shape, LAUNCH)
    assert [environment[name] for name in ("A", "B", "C", "CONTAINER")] == ["site", "user", "a b", "a b"]
    assert environment["JAX_ENABLE_X64"] == "1"


def test_a_python_on_the_nodes_may_be_said_with_variables(record, tmp_path):
    program = tmp_path / 'a $ $(b) `c` "d" \\e' / "python"
    program.parent.mkdir()
    program.write_text(RECORDER)
    program.chmod(0o755)
    said = str(program).replace(str(tmp_path), "${SITE:-/nowhere}")
    words, _ = record(shaped(python=said), LAUNCH, SITE=str(tmp_path))
    assert words[0] == str(program)


def test_sigterm_reaches_the_worker_and_the_shell_waits_for_its_last_words(tmp_path):
    # As SLURM does it: every process of the job gets the signal, the shell among them.
    program, told = tmp_path / "python", tmp_path / "told"
    program.write_text(f"#!{sys.executable}\n" + LAST_WORDS.format(told=str(told)))
    program.chmod(0o755)
    script = job_script(SHAPE, dataclasses.replace(LAUNCH, python=str(program)))
    job = subprocess.Popen(["bash", "-c", script], start_new_session=True)
    while not told.exists():
        assert job.poll() is None
        time.sleep(0.01)
    os.killpg(job.pid, 15)
    assert job.wait() == 7
    assert told.read_text() == "ready, terminated"


LAST_WORDS = """
import os, signal, sys, time
def end(*_):
    time.sleep(0.3)
    open({told!r}, "a").write(", terminated")
    sys.exit(7)
signal.signal(signal.SIGTERM, end)
open({told!r} + "~", "w").write("ready")
os.rename({told!r} + "~", {told!r})
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("changes", "launch", "field"),
    [
        ({"directives": {"qos": "a\n#SBATCH -A b"}}, {}, "cluster.pools.gpu.directives.qos"),
        ({"directives": {"a b": "c"}}, {}, "cluster.pools.gpu.directives"),
        ({"interface": "a\nb"}, {}, "interface"),
        ({}, {"root": Path("/a\nb")}, "storage.root"),
        ({}, {"root": Path("/a\\b")}, "storage.root"),
    ],
)
def test_what_cannot_stand_in_a_script_is_refused(changes, launch, field):
    with pytest.raises(ConfigError, match=re.escape(field)) as caught:
        job_script(shaped(**changes), dataclasses.replace(LAUNCH, **launch))
    assert caught.value.hint


# --- environments on the node's own disk -----------------------------------------------------------


@pytest.fixture
def environment(tmp_path) -> Path:
    folder = tmp_path / "my env"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(RECORDER)
    (folder / "bin" / "python").chmod(0o755)
    return folder


def _packed(folder: Path, ending: str) -> Path:
    archive = folder.with_name(f"packed{ending}")
    if ending == ".tar.zst":
        subprocess.run(["tar", "--zstd", "-C", folder, "-cf", archive, "."], check=True)
    else:
        with tarfile.open(archive, "w:gz" if ending == ".tar.gz" else "w") as tar:
            tar.add(folder, ".")
    return archive


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.gz", ".tar.zst"])
def test_an_environment_is_staged_for_the_job_and_cleared_away(record, environment, tmp_path, ending):
    source = _packed(environment, ending) if ending else environment
    stage = Stage(str(source), "${TMPDIR:-/tmp}/node disk/env")
    words, seen = record(shaped(stage=stage), LAUNCH, TMPDIR=str(tmp_path))
    assert words[0] == f"{tmp_path}/node disk/env-15/bin/python" and words[1:3] == ["-m", "staffa.execution.slurm.node"]
    assert seen["STAFFA_STAGE"] == f"{tmp_path}/node disk/env-15"
    assert list((tmp_path / "node disk").iterdir()) == []
    assert (environment / "bin" / "python").exists()


@pytest.mark.parametrize("wrong", ["missing.tar", "no python", "torn.tar.gz"])
def test_an_environment_that_cannot_be_staged_ends_the_job_and_leaves_nothing(tmp_path, wrong):
    (tmp_path / "no python").mkdir()
    (tmp_path / "torn.tar.gz").write_bytes(b"torn")
    stage = Stage(str(tmp_path / wrong), str(tmp_path / "disk" / "env"))
    script = job_script(shaped(stage=stage), LAUNCH)
    given = {**os.environ, "SLURM_JOB_ID": "15", "SLURMD_NODENAME": "gpu0"}
    ended = subprocess.run(["bash"], input=script, text=True, capture_output=True, env=given)
    assert ended.returncode == 1
    assert wrong in ended.stdout + ended.stderr
    assert list((tmp_path / "disk").iterdir()) == []


def test_on_several_nodes_everything_goes_through_srun():
    lines = job_script(STAGED, LAUNCH).splitlines()
    steps = [line for line in lines if line.startswith(("srun", "trap 'srun"))]
    assert len(steps) == 3
    assert all("--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0" in line for line in steps)
    assert all("--cpus-per-task=64" in line for line in steps)
    assert 'apptainer exec --nv $SCRATCH/staffa.sif "$STAFFA_STAGE/bin/python" -m staffa' in steps[-1]
    dropped = job_script(dataclasses.replace(STAGED, directives={"cpus-per-task": None}), LAUNCH)
    assert "--cpus-per-task" not in dropped


def test_the_driver_runs_what_it_is_told_with_the_drivers_python(tmp_path):
    shape = dataclasses.replace(driver_shape(cluster("slurm-gpu", tmp_path)), directives={"comment": "a b"})
    script = driver_script(shape, dataclasses.replace(LAUNCH, python="/a b/python"), ("-m", "staffa", "it's"))
    found = options(script)
    assert found["output"] == "/scratch/someone/runs/v1.0_protein/logs/driver-%j.log"
    assert (found["comment"], found["time"], found["job-name"]) == ("a b", "1-00:00:00", job_name(LAUNCH, "driver"))
    assert shlex.split(script.splitlines()[-1]) == ["exec", "/a b/python", "-m", "staffa", "it's"]
    assert "XLA_FLAGS" not in script
    with pytest.raises(ConfigError, match=r"cluster\.driver\.directives\.qos"):
        driver_script(dataclasses.replace(shape, directives={"qos": "a\nb"}), LAUNCH, ())
