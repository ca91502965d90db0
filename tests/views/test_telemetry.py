"""Statistics of events, against numbers known by hand; and what is said of names that do not occur."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from staffa.errors import ConfigError, PluginError, WorkspaceError
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace
from staffa.telemetry import stamped
from staffa.views.lagging import lagging_lines
from staffa.views.readings import lagging
from staffa.views.telemetry import STATISTICS, render, schema_text, statistics, telemetry_facts


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A journal of 101 batches; the last line is torn."""
    events: list[dict[str, Any]] = [{"event": "run_started", "at": 0.0, "driver": "d"}]
    events += [
        {"event": "batch_settled", "at": float(n), "attempt": 1, "timings": {"sample": n / 100, "write": 2.0},
         "bytes": n, "device": "cpu", "duplicate": False, "memory": {"rss": float("nan") if n else 7}}
        for n in range(101)
    ]  # fmt: skip
    path = tmp_path / "events-20260102T030405-abcdefabcdef.jsonl"
    lines = [json.dumps(stamped(event)) for event in events]
    path.write_text("\n".join(lines) + "\nrubbish\n" + lines[-1][:20])
    return path


def test_statistics_by_hand(log: Path) -> None:
    facts = telemetry_facts(log)
    assert facts["event"] == "batch_settled" and facts["events"] == 101
    assert list(facts["fields"]) == ["timings.sample", "timings.write", "bytes", "memory.rss"]
    sample = facts["fields"]["timings.sample"]
    assert sample == pytest.approx({"count": 101, "mean": 0.5, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0})
    assert facts["fields"]["timings.write"] == dict(zip(STATISTICS, (101, 2.0, 2.0, 2.0, 2.0, 2.0), strict=True))
    assert facts["fields"]["memory.rss"]["count"] == 1, "what is not a finite number does not count"


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_statistics_have_their_order(values: list[float]) -> None:
    found = statistics(values)
    assert found["count"] == len(values)
    assert found["p50"] <= found["p90"] <= found["p99"] <= found["max"] == max(values)
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-3)
    assert found["p50"] == pytest.approx(float(np.median(values)))


def test_fields_are_chosen_by_name_or_by_what_they_stand_in(log: Path) -> None:
    assert list(telemetry_facts(log, show=["bytes", "timings"])["fields"]) == [
        "bytes",
        "timings.sample",
        "timings.write",
    ]
    assert list(telemetry_facts(log, show=["attempt"])["fields"]) == ["attempt"]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"show": ["timings.smaple"]}, "--show timings.smaple: no batch_settled has this field", "timings.sample"),
        ({"show": ["device"]}, "--show device: holds no numbers", "timings.write"),
        ({"event": "batch_setled"}, "--event batch_setled: there is none", "batch_settled"),
    ],
)
def test_names_that_do_not_occur(log: Path, options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        telemetry_facts(log, **options)
    assert message in caught.value.message and hint in caught.value.hint


def test_neither_a_folder_nor_a_journal(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="neither a campaign's folder nor a journal"):
        telemetry_facts(tmp_path / "nothing")
    with pytest.raises(WorkspaceError, match="not a campaign's folder"):
        telemetry_facts(tmp_path)


def test_formats_say_the_same(log: Path) -> None:
    facts = telemetry_facts(log, show=["timings"])
    rows = list(csv.DictReader(io.StringIO(render(facts, "csv"))))
    assert [row["field"] for row in rows] == ["timings.sample", "timings.write"]
    assert float(rows[0]["p99"]) == facts["fields"]["timings.sample"]["p99"]
    assert json.loads(render(facts, "json"))[0] == {"field": "timings.sample", **facts["fields"]["timings.sample"]}
    head, rule, first, *_ = render(facts, "md").splitlines()
    assert head == "| field | count | mean | p50 | p90 | p99 | max |" and set(rule) <= set("|- ")
    assert first.startswith("| timings.sample | 101 | 0.5 |")
    with pytest.raises(PluginError, match="--format cvs"):
        render(facts, "cvs")


def test_a_run_is_all_its_journals(mixed: Any) -> None:
    facts = telemetry_facts(mixed.root)
    settled = [event for event in history(Workspace.open(mixed.root)) if event["event"] == "batch_settled"]
    assert facts["events"] == len(settled) > 1
    fields = facts["fields"]
    for name in ("timings.queue", "timings.compile", "timings.sample", "timings.write", "memory.rss_peak", "bytes"):
        assert fields[name]["count"] == len(settled) and fields[name]["max"] >= fields[name]["mean"] >= 0
    assert fields["bytes"]["max"] == max(event["bytes"] for event in settled)


def test_the_shipped_schema_is_told() -> None:
    assert json.loads(schema_text())["title"] == "staffa.events"


def test_slow_and_stuck_in_words() -> None:
    one = {"batch": "g0/3", "worker": "tcp://w:1", "node": "n1", "since": 0.0, "seconds": 700.0, "typical": 20.0}
    figures = {"lagging": {"slow": 2, "stuck": 1, "batches": [{**one, "state": "stuck"}]}}
    assert lagging(figures) == "2 slow, 1 stuck"
    lines = lagging_lines(figures)
    assert list(lines) == ["stuck g0/3", "slow …"]
    assert lines["stuck g0/3"].startswith("on tcp://w:1 (n1) since ")
    assert lines["stuck g0/3"].endswith("11 min 40 s, others take 20 s")
    assert lines["slow …"] == "and 2 more batches"
    assert lagging({}) == "" and lagging_lines({"lagging": {"slow": 0, "stuck": 0, "batches": []}}) == {}
