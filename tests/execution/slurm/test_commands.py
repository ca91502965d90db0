"""SLURM's commands with recorded answers: what is asked, what is understood, what is said to be wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.execution.slurm import commands
from staffa.execution.slurm.commands import Answer, Full, Refused, Slurm, SlurmError, Unreachable
from staffa.execution.slurm.lists import compressed, duration, hosts, numbers, ranges


class Recorded:
    """Answers every command with the same, and keeps what was asked."""

    def __init__(self, out: str = "", err: str = "", code: int = 0) -> None:
        self.answer, self.asked, self.stdin = Answer(code, out, err), list[list[str]](), ""

    def __call__(self, argv: Sequence[str], stdin: str | None) -> Answer:
        self.asked.append(list(argv))
        self.stdin = stdin or ""
        return self.answer


def test_an_array_is_submitted_by_its_number() -> None:
    call = Recorded("12;cluster\n")
    assert Slurm(call).submit("#!/bin/bash\n", 16, throttle=4, exclude=["b", "a"], dependency="afterany:7") == 12
    assert call.asked == [["sbatch", "--parsable", "--array=0-15%4", "--exclude=a,b", "--dependency=afterany:7"]]
    assert call.stdin == "#!/bin/bash\n"


def test_a_plain_job_has_no_array() -> None:
    call = Recorded("12\n")
    assert Slurm(call).submit("#!/bin/bash\n", 0) == 12
    assert call.asked == [["sbatch", "--parsable"]]


def test_a_sites_banner_with_numbers_is_not_the_number() -> None:
    assert Slurm(Recorded("Welcome to cluster 9000\nYou have 12 jobs\n345\n")).submit("", 1) == 345


def test_an_sbatch_that_names_no_number_leaves_doubt() -> None:
    with pytest.raises(Unreachable, match="no job number"):
        Slurm(Recorded("Submitted\n")).submit("", 1)


LISTING = """\
1|3,5-9:2%1|PENDING|JobArrayTaskLimit||1795337520|1795341120|N/A|staffa-x
1|0|RUNNING|None|gpu0|1795337520|1795337521|1795341121|staffa-x
8|1|PENDING|launch failed requeued held||1795337524|1795337645|1795341245|staffa-x
6|0|FAILED|NonZeroExitCode|gpu[0-1]|2026-11-22T08:52:01|1795337521|1795337524|staffa-x
2|N/A|COMPLETING|None|gpu1|1795337520|1795337520|1795341120|odd|name
a line of somebody's wrapper
"""


def test_squeue_is_asked_once_and_understood() -> None:
    call = Recorded(LISTING)
    waiting, *more, running, held, failed = Slurm(call).tasks(["staffa-x"])
    assert [task.id for task in more] == ["1_5", "1_7", "1_9"] and more[0].reason == waiting.reason
    assert len(call.asked) == 1 and call.asked[0][:3] == ["squeue", "--me", "-h"]
    assert (waiting.id, waiting.waiting, waiting.started, waiting.ends, waiting.node) == ("1_3", True, None, None, "")
    assert (running.id, running.started, running.ends) == ("1_0", 1795337521.0, 1795341121.0)
    assert not running.waiting and not running.over
    assert held.reason == "launch_failed_requeued_held" and held.started is None
    assert failed.over and failed.node == "gpu[0-1]" and failed.ends == 1795337524.0
    assert failed.submitted == time.mktime((2026, 11, 22, 8, 52, 1, 0, 0, -1)), "a release without SLURM_TIME_FORMAT"
    assert [task.id for task in Slurm(call).tasks() if task.name == "odd|name"] == ["2"]


def test_a_listing_that_is_cut_short_is_no_listing() -> None:
    call = Recorded("14|0-2,4-6,82...%7|PENDING|None||1795337520|N/A|N/A|staffa-x\n")
    with pytest.raises(Unreachable, match="cut its answer short"):
        Slurm(call).tasks()


def test_no_names_ask_nothing() -> None:
    call = Recorded()
    assert Slurm(call).tasks([]) == [] and Slurm(call).cancel([]) is None
    assert call.asked == []


def test_jobs_are_cancelled_in_few_words() -> None:
    call = Recorded()
    Slurm(call).cancel([f"12_{task}" for task in range(2000)] + ["7", "13_4", "13_6"])
    assert call.asked == [["scancel", "7", "12_[0-1999]", "13_[4,6]"]]
    Slurm(call).cancel([str(number) for number in range(250)])
    assert [len(argv) - 1 for argv in call.asked[1:]] == [100, 100, 50]


@pytest.mark.parametrize(
    "words",
    [
        "Invalid job id specified for job 99999",
        "scancel: error: Kill job error on job id 12: Job/step already completing or completed",
        "18_0-2: Job is no longer pending execution\n18_3-7: No error",
    ],
)
def test_jobs_that_are_over_are_no_error(words: str) -> None:
    slurm = Slurm(Recorded(err=words + "\n", code=1))
    slurm.cancel(["12"])
    slurm.throttle(12, 3)
    slurm.exclude([12], ["n0"])
    assert slurm.state_of("12") == "" and slurm.end_of("12") is None


def test_one_harmless_line_does_not_hide_another() -> None:
    words = "18_0-2: Job is no longer pending execution\n18_3-7: Access/permission denied\n"
    with pytest.raises(Refused, match="permission denied"):
        Slurm(Recorded(err=words, code=1)).exclude([18], ["n0"])


FAILED = "sbatch: error: Batch job submission failed: "
VAGUE = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"


@pytest.mark.parametrize(
    ("words", "kind", "field"),
    [
        (FAILED + "Unable to contact slurm controller (connect failure)", Unreachable, ""),
        (FAILED + "Socket timed out on send/recv operation", Unreachable, ""),
        (FAILED + "Zero Bytes were transmitted or received", Unreachable, ""),
        (FAILED + "Slurm temporarily unable to accept job, sleeping and retrying", Unreachable, ""),
        (FAILED + "Resource temporarily unavailable", Unreachable, ""),
        (FAILED + "Protocol authentication error", Unreachable, ""),
        ("Unexpected message received for job 24", Unreachable, ""),
        (FAILED + "Slurm backup controller in standby mode", Unreachable, ""),
        ("sbatch: fatal: Could not establish a configuration source", Unreachable, ""),
        (FAILED + "I/O error writing script/environment to file", Unreachable, ""),
        ("sbatch: error: AssocMaxSubmitJobLimit\n" + FAILED + VAGUE, Full, "workers"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\n" + FAILED + VAGUE, Full, "workers"),
        (FAILED + VAGUE, Full, "workers"),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit\n" + FAILED + VAGUE, Refused, "walltime"),
        ("sbatch: error: QOSMaxGRESPerJob\n" + FAILED + "QOSMaxGRESPerJob", Refused, "gpus"),
        ("sbatch: error: invalid partition specified: x\n" + FAILED + "Invalid partition name", Refused, "partition"),
        (FAILED + "Invalid account or account/partition combination specified", Refused, "account"),
        (FAILED + "Requested time limit is invalid (missing or exceeds some limit)", Refused, "walltime"),
        (FAILED + "Requested node configuration is not available", Refused, "gpus"),
        (FAILED + "Invalid feature specification", Refused, "constraint"),
        (FAILED + "Requested reservation is invalid", Refused, "reservation"),
        (FAILED + "Invalid job array specification", Refused, "submit.array"),
        (FAILED + "Invalid qos specification", Refused, "qos"),
        ("sbatch: error: Memory specification can not be satisfied", Refused, "memory"),
        ("sbatch: unrecognized option '--foo=x'\nTry \"sbatch --help\" for more information", Refused, "directives"),
        (FAILED + "Our lua script does not like you", Refused, ""),
    ],
)
def test_what_sbatch_says_is_told_apart(words: str, kind: type[SlurmError], field: str) -> None:
    with pytest.raises(SlurmError) as raised:
        Slurm(Recorded(err=words + "\n", code=1)).submit("", 1)
    error = raised.value
    assert type(error) is kind and error.exit_code == 3
    assert getattr(error, "field", "") == field
    assert "error:" not in error.message and error.hint
    assert words.splitlines()[0].split(": ", 1)[-1].split(": ")[-1] in error.message
    if field and kind is Refused:
        assert field in error.hint


def test_limits_are_read() -> None:
    config = (
        "Configuration data as of 2026-11-22T08:52:01\n"
        "AccountingStorageType   = accounting_storage/none\nMaxArraySize            = 1001\n"
        "SLURM_VERSION           = 22.05.8\n"
    )
    sinfo = "gpu*|up|4:00:00|2|16|64000|gpu:2\ngpu*|up|4:00:00|10|64|256000+|gpu:a100:4(S:0-1),tmp:100\n"
    sinfo += "long|inact|infinite|3|8|1000|(null)\nday|up|1-12:00:00|1|8|1000|(null)\n"

    def call(argv: Sequence[str], stdin: str | None) -> Answer:
        return Answer(0, config if argv[0] == "scontrol" else sinfo, "")

    limits = Slurm(call).limits()
    assert (limits.version, limits.max_array, limits.accounting, limits.max_submit) == ("22.05.8", 1001, False, None)
    gpu = limits.partitions["gpu"]
    assert (gpu.nodes, gpu.cores, gpu.memory, gpu.gpus, gpu.walltime) == (12, 64, 256000 << 20, 4, 4 * 3600)
    assert gpu.default and gpu.up and not limits.partitions["long"].up
    assert limits.partitions["long"].walltime is None and limits.partitions["day"].walltime == 36 * 3600
    assert limits.partition(None) is gpu and limits.partition("nosuch,day") == limits.partitions["day"]
    assert limits.partition("nosuch") is None


def test_the_nodes_of_the_default_partition() -> None:
    slurm = Slurm(Recorded("gpu*|n0|idle\ngpu*|n1|down*\ncpu|n2|mixed\n"))
    assert slurm.nodes() == {"n0": "idle", "n1": "down*"}


@pytest.mark.parametrize(
    ("err", "code"),
    [
        ("Slurm accounting storage is disabled", 1),
        ("sacct: error: Problem talking to the database: Connection refused", 1),
        ("sacct: error: slurm_persist_conn_open: Something happened with the receiving", 0),
    ],
)
def test_without_accounting_the_history_is_unknown(err: str, code: int) -> None:
    assert Slurm(Recorded(err=err, code=code)).history(["x"], 0.0) is None


def test_history_has_every_run_of_a_job() -> None:
    call = Recorded(
        "1_0|x|COMPLETED|1795337520|1795337520|1795337540|1|billing=1,cpu=1,gres/gpu=2,mem=2000M,node=1|gpu0|0:0\n"
        "1_1|x|CANCELLED by 0|1795337520|Unknown|Unknown|1||None assigned|0:0\n"
    )
    done, cancelled = Slurm(call).history(["x"], 1795337000.0) or []
    assert (done.id, done.state, done.started, done.ended, done.gpus, done.node) == (
        "1_0", "COMPLETED", 1795337520.0, 1795337540.0, 2, "gpu0",
    )  # fmt: skip
    assert (cancelled.state, cancelled.started, cancelled.gpus, cancelled.node) == ("CANCELLED", None, None, "")
    assert any(word.startswith("--starttime=2026-11-22T") for word in call.asked[0])


# Running them


def test_a_command_that_does_not_exist_says_where_to_run() -> None:
    with pytest.raises(Unreachable, match="no `no-such-program`") as raised:
        commands.run_command(["no-such-program"], None)
    assert "login node" in raised.value.hint


def test_a_command_that_says_nothing_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TIMEOUT", 0.2)
    with pytest.raises(Unreachable, match="did not answer"):
        commands.run_command([sys.executable, "-c", "input() or __import__('time').sleep(60)"], "\n")


def test_a_command_gets_its_script_and_its_words_come_back(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read()); sys.stderr.buffer.write(b'\\xff'); sys.exit(3)"
    answer = commands.run_command([sys.executable, "-c", code], "hello")
    assert answer == Answer(3, "hello\n", "\ufffd")


def test_commands_do_not_see_habits_nor_the_job_they_run_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CONF", "SLURM_MEM_PER_NODE", "SQUEUE_PARTITION", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    code = "import os; print(sorted(n for n in os.environ if n.startswith(('SLURM_', 'SQUEUE', 'SBATCH', 'LC_ALL'))))"
    shown = [sys.executable, "-c", code]
    outside = commands.run_command(shown, None).out.strip()
    assert (
        outside
        == "['LC_ALL', 'SBATCH_ACCOUNT', 'SLURM_BITSTR_LEN', 'SLURM_CONF', 'SLURM_MEM_PER_NODE', 'SLURM_TIME_FORMAT']"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    inside = commands.run_command(shown, None).out.strip()
    assert inside == "['LC_ALL', 'SBATCH_ACCOUNT', 'SLURM_BITSTR_LEN', 'SLURM_CONF', 'SLURM_TIME_FORMAT']"


def test_what_sbatch_is_given_a_job_inherits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho $LC_ALL $SLURM_TIME_FORMAT; echo 12\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert commands.run_command(["sbatch"], None).out == "C.UTF-8\n12\n"


# Lists


@given(st.sets(st.integers(0, 40)))
def test_ranges_name_the_same_numbers(tasks: set[int]) -> None:
    assert {int(name[1:]) for name in hosts(f"n[{ranges(tasks)}]")} == tasks if tasks else ranges(tasks) == ""
    assert not tasks or numbers(ranges(tasks)) == sorted(tasks)


def test_lists_of_nodes_are_told_apart() -> None:
    assert hosts("gpu[01-03,7],login") == ["gpu01", "gpu02", "gpu03", "gpu7", "login"]
    assert hosts("r[1-2]n[08-10]-ib") == [f"r{rack}n{node}-ib" for rack in (1, 2) for node in ("08", "09", "10")]
    assert hosts("") == [] and hosts("a,b") == ["a", "b"]
    assert compressed(["3_1"]) == ["3_1"]


def test_times_of_slurm() -> None:
    assert [duration(word) for word in ("2:00", "4:00:00", "1-00:00:00", "infinite", "n/a")] == [
        120.0, 14400.0, 86400.0, None, None,
    ]  # fmt: skip
