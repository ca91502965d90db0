"""Alerts: when they are due on a virtual clock; delivered to a real server and by real commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from execution.listening import Server, eventually, finished, scene, serving
from staffa.campaign.alerts import AlertConfig
from staffa.execution import alerts
from staffa.execution.alerts import Alert, Judge
from staffa.execution.aside import Aside
from staffa.execution.outside import Scene, discreet, shown

SECRET = "T0K3N"


@pytest.fixture
def place(tmp_path: Path) -> Scene:
    return scene(tmp_path)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def config(**fields: Any) -> AlertConfig:
    return AlertConfig.model_validate({"command": ["true"], **fields})


def figures(settled: int = 0, trials: int = 1000, **more: Any) -> dict[str, Any]:
    counts = {"ok": settled - sum(more.get("outcomes", {}).values()), **more.pop("outcomes", {})}
    return {"event": "figures", "settled": settled, "trials": trials, "workers": 2, "outcomes": counts, **more}


class Watched:
    """A judge and its clock."""

    def __init__(self, **fields: Any) -> None:
        self.judge, self.now = Judge(config(**fields), "v1.0_walk"), 1000.0
        self.judge.note({"event": "run_started"}, self.now)

    def after(self, seconds: float, *events: dict[str, Any]) -> str:
        """What is due, so many seconds later, once these events were told."""
        self.now += seconds
        for event in events:
            self.judge.note(event, self.now)
        return self.judge.due(self.now)


# --- when ------------------------------------------------------------------------------------------


def test_finished_is_told_once() -> None:
    watched = Watched(on="finished")
    assert watched.after(5, figures(1000, outcomes={"nan": 3})) == ""
    assert watched.after(5, {"event": "run_ended", "reason": "finished"}) == (
        "v1.0_walk: finished: 1,000 of 1,000 trials settled (ok 997, nan 3)"
    )
    assert watched.after(1e6) == ""


@pytest.mark.parametrize("reason", ["stopped", "interrupted", "handover", "consolidated", "ClusterError"])
def test_another_end_is_not_finished(reason: str) -> None:
    assert Watched(on="finished").after(5, {"event": "run_ended", "reason": reason}) == ""


def test_failed_is_a_driver_that_gave_up() -> None:
    gone = {"event": "run_ended", "reason": "ClusterError", "message": "no worker; see http://me:pw@host/x?token=1"}
    text = Watched(on="failed").after(5, figures(10), gone)
    assert text.startswith("v1.0_walk: the driver gave up (ClusterError): no worker; see http://host/…; 10 of 1,000")
    for reason in ("finished", "stopped", "interrupted", "handover"):
        assert Watched(on="failed").after(5, {"event": "run_ended", "reason": reason}) == ""


def test_the_rate_of_failures() -> None:
    watched = Watched(on="failure_rate", above=0.05)
    assert watched.after(1, figures(19, outcomes={"raised": 19})) == "", "too few to mean anything"
    assert watched.after(1, figures(1000, outcomes={"raised": 50, "nan": 500})) == "", "5 % is not above 5 %"
    told = watched.after(1, figures(1000, outcomes={"raised": 30, "timeout": 11, "killed": 10}))
    assert told == "v1.0_walk: 5.1% of 1,000 settled trials failed (above 5.0%)"


def test_what_counts_as_a_failure_can_be_said() -> None:
    watched = Watched(on="failure_rate", above=0.5, outcomes=["nan"])
    assert watched.after(1, figures(100, outcomes={"raised": 99})) == ""
    assert "60.0%" in watched.after(1, figures(100, outcomes={"nan": 60}))


def test_stalled_is_measured_from_the_last_settled_trial() -> None:
    watched = Watched(on="stalled", **{"for": "10min"})
    assert watched.after(599) == watched.after(0, figures(0)) == ""
    assert watched.after(1, figures(10)) == "", "something moved"
    assert watched.after(599, figures(10)) == ""
    assert "nothing was settled for 600 s; 10 of 1,000" in watched.after(1, figures(10))


def test_a_driver_that_hangs_stalls_too() -> None:
    watched = Watched(on="stalled", **{"for": 60})
    watched.after(1, figures(10))
    assert "nothing was settled for 61 s" in watched.after(61), "nobody told anything since"


def test_what_is_complete_does_not_stall() -> None:
    assert Watched(on="stalled", **{"for": 60}).after(1e6, figures(1000)) == ""


def test_it_has_to_last() -> None:
    watched = Watched(on="paused", **{"for": "5min"})
    assert watched.after(1, {"event": "paused", "reason": "full"}) == ""
    assert watched.after(200) == ""
    assert watched.after(1, {"event": "continued"}) == ""
    assert watched.after(100, {"event": "paused", "reason": "full"}) == ""
    assert watched.after(299) == ""
    assert watched.after(1).startswith("v1.0_walk: paused")


def test_while_it_lasts_it_is_told_now_and_then() -> None:
    watched = Watched(on="stuck", every="5min")
    batch = {"batch": "g0/3", "node": "n1", "worker": "tcp://w"}
    stuck = figures(10, lagging={"stuck": 2, "batches": [batch]})
    assert watched.after(1, stuck) == "v1.0_walk: 2 batches seem stuck, first of all g0/3 on n1"
    assert [bool(watched.after(60, stuck)) for _ in range(12)] == [n in (5, 10) for n in range(1, 13)]
    assert watched.after(1, figures(10)) == ""
    assert watched.after(1, stuck) == "", "it comes and goes: that is no reason to tell more often"


# --- whom ------------------------------------------------------------------------------------------


def sent(place: Scene, *events: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """What an alert on the end of a run had to say."""
    companion = Aside("alert", Alert(AlertConfig.model_validate({"on": "finished", **fields}), place))
    for event in [figures(7), *events, {"event": "run_ended", "reason": "finished"}]:
        companion(event)
    return finished(companion)


def test_a_web_server_is_told(place: Scene, server: Server) -> None:
    news = sent(place, webhook=f"{server.url}/hook?token={SECRET}")
    assert [event["event"] for event in news] == ["alert_sent"]
    assert news[0]["to"] == f"{server.url}/…"
    told = server.heard[0]
    assert told["alert"] == "finished" and told["text"] == news[0]["text"]
    assert told["run"] == str(place.root) and told["run_id"] == place.run_id
    assert told["figures"]["settled"] == 7 and server.headers[0]["Content-Type"] == "application/json"


def test_a_name_and_a_password_go_where_servers_look(place: Scene, server: Server) -> None:
    address = server.url.replace("http://", f"http://me:p%40{SECRET}@")
    news = sent(place, webhook=address)
    assert news[0]["event"] == "alert_sent" and news[0]["to"] == server.url
    assert server.headers[0]["Authorization"] == "Basic bWU6cEBUMEszTg=="


def test_a_server_that_fails_is_tried_again(place: Scene, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "WAIT_SECONDS", 0.0)
    server.statuses = [500, 503]
    assert [event["event"] for event in sent(place, webhook=server.url)] == ["alert_sent"]
    assert len(server.heard) == 3
    server.statuses = [500] * 9
    news = sent(place, webhook=server.url)
    assert news[0]["event"] == "alert_failed"
    assert news[0]["why"] == "answered 500 Internal Server Error (3 attempts)" and len(server.heard) == 6


def test_a_dead_server(place: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "WAIT_SECONDS", 0.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://me:{SECRET}@127.0.0.1:{unused.getsockname()[1]}/a/{SECRET}?b={SECRET}"
        news = sent(place, webhook=address)
    assert [event["event"] for event in news] == ["alert_failed"]
    assert news[0]["why"] == "Connection refused (3 attempts)"
    assert SECRET not in json.dumps(news)


def test_a_server_that_does_not_answer(place: Scene, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "WAIT_SECONDS", 0.0)
    server.released.clear()
    news = sent(place, webhook=server.url, timeout=0.2)
    assert news[0]["event"] == "alert_failed"
    assert "timed out" in news[0]["why"] or news[0]["why"] == "no answer within 0.2 s (3 attempts)"


def test_a_server_that_drips(place: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the whole of it never: a limit on silence alone would wait for ever."""
    monkeypatch.setattr(alerts, "ATTEMPTS", 1)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            caller, _ = listening.accept()
            with caller:
                while not over.wait(0.05):
                    caller.sendall(b"H")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        news = sent(place, webhook=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.5)
        over.set()
        thread.join()
    assert news[0]["why"] == "no answer within 0.5 s"


def test_an_address_in_a_variable_is_never_told(place: Scene, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_WEBHOOK", f"{server.url}/{SECRET}")
    news = sent(place, webhook="$MY_WEBHOOK")
    assert news[0]["event"] == "alert_sent" and news[0]["to"] == "$MY_WEBHOOK" and len(server.heard) == 1
    monkeypatch.setattr(alerts, "WAIT_SECONDS", 0.0)
    for wrong in (f"ftp://x/{SECRET}", f"http://x:{SECRET}", f"http://[{SECRET}", f"http://127.0.0.1/a b\n{SECRET}"):
        monkeypatch.setenv("MY_WEBHOOK", wrong)
        news = sent(place, webhook="$MY_WEBHOOK")
        assert news[0]["event"] == "alert_failed" and SECRET not in json.dumps(news)
    monkeypatch.delenv("MY_WEBHOOK")
    assert sent(place, webhook="$MY_WEBHOOK")[0]["why"] == "the variable $MY_WEBHOOK is not set where the driver runs"


def test_a_command_gets_the_facts(place: Scene) -> None:
    script = 'cat > facts.json; echo "$STAFFA_EVENT $STAFFA_RUN_ID $STAFFA_RUN $STAFFA_TEXT"'
    news = sent(place, command=["bash", "-c", script])
    assert news == [{"event": "alert_sent", "alert": "finished", "to": "bash", "text": news[0]["text"]}]
    assert json.loads((place.source / "facts.json").read_text())["text"] == news[0]["text"]
    assert f"finished {place.run_id} {place.root} v" not in place.log.read_text()
    assert f"finished {place.run_id} {place.root} root: finished" in place.log.read_text()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["bash", "-c", f"echo no http://me:{SECRET}@h/; exit 3"], "exit code 3: no http://h"),
        (["bash", "-c", "kill -KILL $$"], "ended by signal 9"),
        (["no-such-command-anywhere", SECRET], "cannot be started: No such file or directory"),
        (["/", SECRET], "cannot be started: Permission denied"),
        (["bash", "-c", "yes | head -c 300000; exit 1"], "exit code 1: y"),
        (["bash", "-c", "printf '\\377\\376'; exit 1"], "exit code 1: \ufffd\ufffd"),
    ],
)
def test_commands_that_fail(place: Scene, command: list[str], why: str) -> None:
    news = sent(place, command=command)
    assert [event["event"] for event in news] == ["alert_failed"]
    assert news[0]["why"] == why and news[0]["to"] == command[0]
    assert SECRET not in json.dumps(news)


def test_a_command_that_hangs_is_ended_with_all_it_started(place: Scene) -> None:
    script = "sleep 1000 & echo $! > child; echo $$ > own; trap '' TERM; wait"
    news = sent(place, command=["bash", "-c", script], timeout=3)
    assert news[0]["event"] == "alert_failed" and news[0]["why"] == "ran past 3 s"
    for name in ("own", "child"):
        number = int((place.source / name).read_text())
        eventually(lambda number=number: not _lives(number))


def _lives(number: int) -> bool:
    try:
        os.kill(number, signal.SIG_DFL)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_who_is_asked_to_leave_does_not_wait_for_a_command(place: Scene) -> None:
    companion = Aside("alert", Alert(config(on="finished", command=["sleep", "1000"], timeout="1h"), place))
    companion({"event": "run_ended", "reason": "finished"})
    eventually(lambda: companion.busy and any("sleep" in name for name in _children()))
    companion.kill()
    assert not companion.busy
    news = eventually(companion.news)
    assert news[0]["why"] == "ended with the run"


def _children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    numbers = [number for task in tasks.iterdir() for number in (task / "children").read_text().split()]
    return [Path(f"/proc/{number}/comm").read_text() for number in numbers if Path(f"/proc/{number}").exists()]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/…"),
        ("http://me:pw@host:8080?token=1", "http://host:8080/…"),
        ("http://host", "http://host"),
        ("http://[::bad", "a URL that cannot be read"),
        ("http://host:pass", "a URL that cannot be read"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, told: str) -> None:
    assert shown(url) == told
    assert discreet(f"tried\n<{url}>, no") == f"tried <{told}>, no"
