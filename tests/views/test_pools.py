"""What is the matter with a pool, from a driver's figures while it lives and from the ledger after."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from staffa.errors import ConfigError
from staffa.storage.files import write_aside
from staffa.storage.lease import Lease
from staffa.storage.workspace import Workspace
from staffa.views import live
from staffa.views.pools import EVENTS, explain_pool, pool_sheet
from staffa.views.readings import sentence, tunnel
from staffa.views.sheet import plain
from staffa.views.sheets import as_json, status_sheet

Event = dict[str, Any]
T0 = 1_700_000_000.0

WORDS = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'staffa'"
WHY = f"5 jobs in a row ended before a worker came; the last one said: {WORDS}"

CAMPAIGN = """
campaign: {name: walk, version: v1.0}
experiment: {use: "model.py:Walk"}
space: [{grid: {kind: [warm, cold]}}]
cluster:
  kind: slurm
  pools:
    gpu: {work: [sample], workers: 16, gpus: 1}
    cpu: {work: [reduce], workers: 2}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace.create(tmp_path / "it's a run")
    found.campaign_yaml.write_text(CAMPAIGN)
    return found


@pytest.fixture
def driver(workspace: Workspace) -> Iterator[Lease]:
    with Lease.acquire(workspace.lease) as lease:
        yield lease


def write(workspace: Workspace, *events: Event) -> None:
    """A journal as a driver leaves it, an event a second."""
    lines = [json.dumps({"at": T0 + second, **event}) for second, event in enumerate(events)]
    workspace.journal("a").write_text("".join(f"{line}\n" for line in lines))


def tell(workspace: Workspace, **changes: Any) -> None:
    """The figures a driver tells of its pool `gpu`."""
    facts = {
        "wanted": 16, "needed": 100, "workers_per_job": 1, "jobs": 16, "queued": 0, "running": 16, "starting": 0,
        "leaving": 0, "connected": 16, "reasons": {}, "excluded": [], "failures": 0, "paused": "", "hint": "",
        "words": "", "silent": 0.0, **changes,
    }  # fmt: skip
    write_aside(workspace.summary, json.dumps({"figures": {"trials": 4, "pools": {"gpu": facts}}}))


def started(**more: Any) -> Event:
    return {"event": "run_started", "driver": "a", "host": "login", "pid": 1, **more}


def joined(name: str = "12-0-0", pool: str = "gpu") -> Event:
    return {
        "event": "worker_joined",
        "address": f"tls://{name}",
        "name": name,
        "node": "n0",
        "pool": pool,
        "job": "12_0",
    }


def left(name: str = "12-0-0", **more: Any) -> Event:
    why = {"reason": "the time of job 12_0 was over", "expected": True, "lost": 0.0}
    return {**joined(name), "event": "worker_left", **why, **more}


SUBMITTED = {"event": "jobs_submitted", "pool": "gpu", "array": 12, "jobs": 16}
FAILED = {
    "event": "job_ended", "pool": "gpu", "job": "12_3", "node": "n1", "state": "FAILED", "seconds": 4.0,
    "cause": "no worker came", "words": WORDS,
}  # fmt: skip
PAUSED = {"event": "pool_paused", "pool": "gpu", "why": WHY, "hint": "once that is mended: staffa scale RUN gpu=16"}
EXCLUDED = {"event": "node_excluded", "pool": "gpu", "node": "n1", "failures": 2, "words": WORDS}


@pytest.mark.parametrize(
    ("told", "state", "why"),
    [
        ({}, "complete", "All workers it needs are there."),
        ({"wanted": 20, "needed": 16}, "complete", "More than 16 would have nothing to do."),
        ({"wanted": 0, "connected": 0}, "let go", "scaled to 0"),
        ({"needed": 0, "connected": 3}, "idle", "nothing for it to do now"),
        ({"connected": 14, "starting": 2}, "starting", "2 jobs started, and no worker has joined from there yet"),
        (
            {"connected": 0, "running": 0, "queued": 16, "reasons": {"Resources": 3, "Priority": 13}},
            "queued",
            "16 jobs in the queue: Priority 13, Resources 3.",
        ),
        ({"connected": 0, "queued": 1, "failures": 3}, "queued", "queue. 3 jobs in a row ended before a worker came."),
        ({"connected": 0, "running": 0, "jobs": 0}, "submitting", "handed in as soon as"),
        ({"silent": 75.0}, "unknown", "SLURM has not answered for 1 min 15 s"),
        ({"paused": "sbatch: invalid account", "connected": 0}, "paused", "It is paused: sbatch: invalid account."),
        ({"connected": 0, "starting": 1, "excluded": ["n1", "n7"]}, "starting", "before a worker comes: n1, n7."),
    ],
)
def test_live(workspace: Workspace, driver: Lease, told: Event, state: str, why: str) -> None:
    write(workspace, started(), SUBMITTED)
    tell(workspace, **told)
    facts = explain_pool(workspace, "gpu")
    assert (facts["state"], facts["live"]) == (state, True)
    assert why in facts["why"]
    assert all(command for command in facts["next"]) and "RUN" not in " ".join(facts["next"])
    assert list(plain(pool_sheet(facts))) and json.loads(as_json(facts))["pool"] == "gpu"


def test_paused_with_the_jobs_own_last_lines(workspace: Workspace, driver: Lease) -> None:
    (workspace.logs / "gpu-12_3.log").write_text("hello\n" + WORDS)
    write(workspace, started(), SUBMITTED, FAILED, EXCLUDED, PAUSED)
    tell(
        workspace,
        connected=0,
        running=0,
        jobs=0,
        failures=5,
        paused=WHY,
        hint=PAUSED["hint"],
        words=WORDS,
        excluded=["n1"],
    )
    facts = explain_pool(workspace, "gpu")
    assert facts["why"] == (
        "It is paused: 5 jobs in a row ended before a worker came. "
        "Left out, since jobs end there before a worker comes: n1."
    )
    assert facts["next"] == ["staffa doctor --cluster CLUSTER", f"staffa scale {quoted(workspace)} gpu=16"]
    page = list(plain(pool_sheet(facts)))
    assert f"log       {workspace.logs}/gpu-12_3.log" in page
    place = page.index("last words of a job:")
    assert page[place + 1 : place + 3] == [f"    {line}" for line in WORDS.splitlines()]
    assert any("node n1 is left out, 2 jobs ended there before a worker came: ModuleNotFound" in line for line in page)


def quoted(workspace: Workspace) -> str:
    import shlex

    return shlex.quote(str(workspace.root))


def test_a_refusal_tells_what_helps(workspace: Workspace, driver: Lease) -> None:
    write(workspace, started(), {**PAUSED, "why": "sbatch: Invalid account", "hint": "see `account`"})
    workspace.machine.write_text("cluster: {}")
    facts = explain_pool(workspace, "gpu")
    assert facts["state"] == "paused" and facts["next"][0] == "see `account`"
    assert facts["next"][1] == f"staffa doctor --cluster '{workspace.machine}'".replace("it's", "it'\"'\"'s")


def test_handing_in_fails(workspace: Workspace, driver: Lease) -> None:
    trouble = {"event": "submit_failing", "pool": "gpu", "why": "sbatch: Socket timed out", "hint": "scontrol ping"}
    write(workspace, started(), trouble)
    tell(workspace, connected=0, running=0, jobs=0)
    assert "Handing in fails: sbatch: Socket timed out." in explain_pool(workspace, "gpu")["why"]
    write(workspace, started(), trouble, SUBMITTED)
    assert "Handing in" not in explain_pool(workspace, "gpu")["why"]


def test_starting_shows_the_log(workspace: Workspace, driver: Lease) -> None:
    (workspace.logs / "gpu-12_0.log").write_text("one\n\n" + "\n".join(f"line {n}" for n in range(20)) + "\n")
    write(workspace, started(), {"event": "job_started", "pool": "gpu", "job": "12_0", "node": "n0", "reason": ""})
    tell(workspace, connected=0, starting=1)
    facts = explain_pool(workspace, "gpu")
    assert facts["words"].splitlines() == [f"line {n}" for n in range(12, 20)]
    assert facts["next"][0].startswith("tail -f ")


def test_words_of_long_ago_are_not_the_matter(workspace: Workspace, driver: Lease) -> None:
    write(workspace, started(), FAILED, joined())
    tell(workspace, words=WORDS)
    assert explain_pool(workspace, "gpu")["words"] == ""


def test_without_a_driver(workspace: Workspace) -> None:
    facts = explain_pool(workspace, "gpu")
    assert (facts["state"], facts["wanted"], facts["connected"]) == ("planned", 16, 0)
    assert facts["next"] == [f"staffa resume {quoted(workspace)}"]

    over = {"event": "run_ended", "reason": "finished", "exit_code": 0}
    write(workspace, started(), SUBMITTED, joined(), left(lost=12.0), over)
    tell(workspace, wanted=4)
    facts = explain_pool(workspace, "gpu")
    assert (facts["state"], facts["wanted"], facts["connected"], facts["queued"]) == ("over", 4, 0, None)
    assert facts["why"] == "No driver is running: the last one ended (finished)."
    assert facts["next"] == [f"staffa usage {quoted(workspace)}"]
    assert [event["text"] for event in facts["history"]] == [
        "16 jobs handed in as array 12",
        "worker 12-0-0 on n0 joined",
        "worker 12-0-0 left: the time of job 12_0 was over (12 s of work lost)",
    ]
    assert "workers  4 wanted" in list(plain(pool_sheet(facts)))

    write(workspace, started(), SUBMITTED, joined())
    facts = explain_pool(workspace, "gpu")
    assert "died" in facts["why"] and facts["next"][1] == "staffa cluster reap"


def test_paused_at_the_end(workspace: Workspace) -> None:
    end = {"event": "run_ended", "reason": "stopped", "exit_code": 130}
    write(workspace, started(), FAILED, EXCLUDED, PAUSED, end)
    facts = explain_pool(workspace, "gpu")
    assert facts["state"] == "paused" and "paused when the last one ended: 5 jobs in a row" in facts["why"]
    assert facts["words"] == WORDS and facts["excluded"] == ["n1"]
    write(workspace, started(), FAILED, EXCLUDED, PAUSED, {"event": "pool_continued", "pool": "gpu", "wanted": 16}, end)
    facts = explain_pool(workspace, "gpu")
    assert facts["state"] == "over" and facts["excluded"] == [] and facts["paused"] == ""
    # Another driver starts with an opinion of its own.
    write(workspace, started(), EXCLUDED, PAUSED, end, started(), end)
    assert explain_pool(workspace, "gpu")["state"] == "over"


def test_every_event_has_words(workspace: Workspace) -> None:
    task = {"pool": "gpu", "job": "12_3", "node": "n1"}
    events = [
        SUBMITTED,
        {"event": "jobs_adopted", "pool": "gpu", "jobs": 1},
        {"event": "job_started", **task, "reason": "None"},
        {"event": "job_requeued", **task, "reason": "BeginTime"},
        {"event": "job_held", **task, "reason": "launch_failed_requeued_held"},
        {"event": "jobs_cancelled", "pool": "gpu", "jobs": 2, "ids": ["12_[3-4]"]},
        {"event": "job_ended", **task, "state": "TIMEOUT", "seconds": 3600.0},
        {"event": "job_ended", **task, "state": "", "seconds": None, "cause": "given back"},
        FAILED,
        EXCLUDED,
        {"event": "queue_full", "pool": "gpu", "why": "sbatch: AssocMaxSubmitJobLimit", "hint": ""},
        {"event": "squeue_silent", "why": "timed out"},
        {"event": "squeue_answers", "seconds": 90.0},
        {"event": "command_failed", "why": "scontrol: denied", "hint": ""},
        {"event": "pool_continued", "pool": "gpu", "wanted": 1},
        {"event": "jobs_submitted", "pool": "cpu", "array": 1, "jobs": 1},
        {"event": "jobs_submitted", "pool": "gpu"},
        {"event": "batch_settled", "pool": "gpu", "batch": "g0/0", "attempt": 1},
    ]
    write(workspace, *events)
    assert [event["text"] for event in explain_pool(workspace, "gpu")["history"]] == [
        "16 jobs handed in as array 12",
        "1 job of an earlier driver found in the queue",
        "job 12_3 on n1 started",
        "job 12_3 was put back into the queue: BeginTime",
        "job 12_3 on n1 is held by SLURM: launch_failed_requeued_held; it is replaced",
        "2 jobs given back: 12_[3-4]",
        "job 12_3 on n1 ended after 1 h, TIMEOUT",
        "job 12_3 on n1 ended, no longer in the queue (given back)",
        "job 12_3 on n1 ended after 4 s, FAILED (no worker came: ModuleNotFoundError: No module named 'staffa')",
        "node n1 is left out, 2 jobs ended there before a worker came: ModuleNotFoundError: No module named 'staffa'",
        "the queue takes no more: sbatch: AssocMaxSubmitJobLimit",
        "SLURM does not answer: timed out",
        "SLURM answers again, after 1 min 30 s",
        "a command failed: scontrol: denied",
        "goes on, 1 worker wanted",
    ]


def test_only_the_latest_events_are_told(workspace: Workspace) -> None:
    write(workspace, *[{**SUBMITTED, "array": number} for number in range(100)])
    history = explain_pool(workspace, "gpu")["history"]
    assert len(history) == EVENTS and history[-1]["text"] == "16 jobs handed in as array 99"


def test_unknown_pools(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="no pool 'gpus'") as caught:
        explain_pool(workspace, "gpus")
    assert caught.value.hint.startswith("did you mean 'gpu'")
    write(workspace, joined(pool="fat"))
    assert explain_pool(workspace, "fat")["wanted"] is None
    workspace.campaign_yaml.write_text("campaign: {name: walk, version: v1.0}")
    workspace.journal("a").unlink()
    with pytest.raises(ConfigError, match="belong to no pool") as caught:
        explain_pool(workspace, "gpu")
    assert caught.value.hint == f"staffa status {quoted(workspace)}"


def test_inside_an_allocation(workspace: Workspace, driver: Lease) -> None:
    write(workspace, started(), joined("7-0", "allocation"), joined("7-1", "allocation"))
    facts = explain_pool(workspace, "allocation")
    assert (facts["state"], facts["connected"], facts["why"]) == ("complete", 2, "2 workers connected.")


# --- status and progress ---------------------------------------------------------------------------

POOLS = {
    "gpu": {
        "wanted": 16, "connected": 12, "running": 12, "queued": 4, "leaving": 0, "paused": "",
        "reasons": {"Resources": 4}, "excluded": ["n7"],
    },
    "cpu": {
        "wanted": 2, "connected": 0, "running": 0, "queued": 0, "leaving": 0, "paused": "5 jobs in a row",
        "reasons": {}, "excluded": [],
    },
}  # fmt: skip


def status(live: bool, **more: Any) -> Event:
    figures = {"trials": 10, "settled": 4, "outcomes": {"ok": 4}, "pools": POOLS, "workers": 12}
    figures["dashboard"] = "https://10.0.0.5:8787/status"
    driver = "nid7:12" if live else None
    return {"root": "runs/x", "live": live, "driver": driver, "host": "nid7", "figures": figures, **more}


def test_status_of_a_live_run() -> None:
    lost = {"cut_offs": 0.5, "crashes": 0.0125, "vanished": 0.0}
    lines = list(plain(status_sheet(status(True, run={"job": "4711"}, node_hours_lost=lost))))
    assert "lost      0.5 node-hours by cut-offs, 0.0125 node-hours by crashes" in lines
    assert "driver    running as nid7:12 in job 4711, 12 workers" in lines
    assert "pool gpu  12 of 16 workers, 12 jobs running, 4 jobs queued (Resources 4), left out: n7" in lines
    assert "pool cpu  0 of 2 workers, PAUSED" in lines
    assert "tunnel    ssh -N -L 8787:127.0.0.1:8787 nid7, then http://127.0.0.1:8787/status" in lines


def test_status_without_a_driver() -> None:
    lines = list(plain(status_sheet(status(False, run={"ended": T0, "reason": "stopped", "exit_code": 130}))))
    assert "pool cpu  was paused: 5 jobs in a row" in lines
    assert not any(line.startswith(("pool gpu", "tunnel", "dashboard")) for line in lines)
    lines = list(plain(status_sheet(status(False, driver_job="815"))))
    assert "driver    none yet; job 815 is to drive it" in lines


def test_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    here = os.uname().nodename
    local = {"dashboard": "http://127.0.0.1:8888/status"}
    assert tunnel(local, here) == "" and tunnel({}, "elsewhere") == "" and tunnel(local, "") == ""
    assert tunnel(local, "elsewhere") == "ssh -N -L 8888:127.0.0.1:8888 elsewhere, then http://127.0.0.1:8888/status"
    assert tunnel({"dashboard": "http://10.0.0.5:8787/status"}, "elsewhere") == "", "another cluster's own page"
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    assert tunnel(local, here)
    notices = list(live.notices({"event": "run_started", "workers": 0, "host": here, **local}))
    assert notices[1] == f"the dashboard from your desk: {tunnel(local, here)}"


def test_progress_shows_pools() -> None:
    figures = {"trials": 10, "settled": 4, "pools": POOLS}
    assert sentence(figures) == "4/10 trials, 40 %, gpu 12/16 (4 jobs queued), cpu 0/2 PAUSED"
    assert sentence({"trials": 10, "pools": {}}) == "0/10 trials, 0 %"


def test_notices() -> None:
    told = [
        text
        for event in (
            PAUSED,
            {"event": "pool_continued", "pool": "gpu", "wanted": 4},
            EXCLUDED,
            {"event": "job_held", "pool": "gpu", "job": "12_3", "node": "n1", "reason": "launch_failed_requeued_held"},
            {"event": "squeue_silent", "why": "timed out"},
            {"event": "squeue_answers", "seconds": 9.5},
            {"event": "queue_full", "pool": "gpu", "why": "too many", "hint": ""},
            left(),
            left(expected=False, reason="its node n0 or job 12_0 vanished"),
            SUBMITTED,
            joined(),
        )
        for text in live.notices(event)
    ]
    assert told == [
        f"pool gpu is paused: {WHY}",
        "pool gpu goes on",
        "pool gpu: node n1 is left out, 2 jobs ended there before a worker came",
        "pool gpu: SLURM holds job 12_3 (launch_failed_requeued_held); it is replaced",
        "SLURM does not answer; running jobs go on: timed out",
        "SLURM answers again, after 9.5 s",
        "pool gpu: the queue takes no more jobs for now: too many",
        "worker 12-0-0 left: its node n0 or job 12_0 vanished",
    ]
