"""The schema of events: what is shipped, what the code writes, what older and newer versions wrote."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import staffa
from staffa import telemetry
from staffa.storage.books import fold
from staffa.storage.ledger import history, journal
from staffa.storage.workspace import Workspace
from staffa.telemetry import EVENTS, SCHEMA_VERSION, VERSION, Unknown, parse, record, stamped, upgrade
from staffa.telemetry.events import BatchSettled, RunStarted
from staffa.telemetry.schema import SCHEMA_FILE, json_schema

SOURCE = Path(staffa.__file__).parent
VERSION_1 = Path(__file__).with_name("version-1.jsonl")
"""One line of every shape that journals had before there was a version, as drivers wrote them."""

SAID_BY = {
    "figures": "told to listeners, never recorded",
    "trial_failed": "told to listeners of minimize, never recorded",
    "unreadable": "from the reader",
}
STUDIES = ("search", "execution/watching.py")
"""Where the journals of studies are spoken of, which have words of their own (`search.register`)."""
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def flaw(validator: Draft202012Validator, line: dict[str, Any]) -> str:
    """What the schema of the event's own name says of a line; empty for nothing."""
    whole = validator.schema
    own = {"$ref": f"#/$defs/{line['event']}", "$defs": whole["$defs"]}
    return "; ".join(error.message for error in Draft202012Validator(own).iter_errors(line))


def test_the_shipped_schema_is_the_one_of_the_classes() -> None:
    assert json.loads(SCHEMA_FILE.read_text()) == json_schema(), "write it anew: python -m staffa.telemetry.schema"


def test_every_event_says_what_it_means() -> None:
    schema = json_schema()
    for name, kind in EVENTS.items():
        assert kind.__doc__ and "(" not in kind.__doc__.splitlines()[0], name
    assert schema["$defs"]["batch_settled"]["properties"]["width"]["description"]
    assert schema["$defs"]["batch_lost"]["properties"]["batch"]["description"].startswith("`g0/3`")
    assert schema["$defs"]["Timings"]["properties"]["queue"]["description"]


# --- what the code writes --------------------------------------------------------------------------


def written() -> Iterator[tuple[str, str, set[str]]]:
    """Place, event and literal fields of everything in the code that looks like an event being made."""
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if not str(path.relative_to(SOURCE)).startswith(STUDIES)]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Dict):
                said = {key.value: value for key, value in zip(node.keys, node.values, strict=True) if _is_text(key)}
                if _is_text(said.get("event")):
                    yield where, said["event"].value, set(said) - {"event", "at"}
            elif isinstance(node, ast.Call) and _name(node.func) in ("_say", "_of"):
                for argument in node.args:
                    if _is_text(argument) and argument.value in EVENTS:
                        fields = {word.arg for word in node.keywords if word.arg}
                        yield where, argument.value, fields


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def test_all_that_is_written_is_in_the_schema() -> None:
    found = list(written())
    assert len(found) > 20
    unknown = [f"{where}: {event}" for where, event, _ in found if event not in EVENTS and event not in SAID_BY]
    assert not unknown, "add these events to staffa/telemetry/events.py"
    known = {name: {one.name for one in dataclasses.fields(kind)} for name, kind in EVENTS.items()}
    strange = [
        f"{where}: {event}: {sorted(fields - known[event])}"
        for where, event, fields in found
        if event in known and fields - known[event]
    ]
    assert not strange, "add these fields to staffa/telemetry/events.py"


def test_journals_of_a_run_fit_the_schema(mixed: Any, validator: Draft202012Validator) -> None:
    lines = [json.loads(line) for path in (mixed.root / "ledger").glob("*.jsonl") for line in path.open()]
    assert {"run_started", "batch_issued", "batch_settled", "quarantined", "part_sealed", "run_ended"} <= {
        line["event"] for line in lines
    }
    for line in lines:
        assert line[VERSION] == SCHEMA_VERSION
        assert not flaw(validator, line), line
        assert validator.is_valid(line)
        known = {one.name for one in dataclasses.fields(EVENTS[line["event"]])}
        assert set(line) - {"event", VERSION} <= known, "a field that the schema does not name"
    assert all(VERSION not in event for event in history(Workspace.open(mixed.root))), "of the present version"


def test_what_a_run_is_stands_in_its_header(mixed: Any) -> None:
    from staffa.campaign.config import config_hash, load_frozen

    first = next(parse(event) for event in history(Workspace.open(mixed.root)) if event["event"] == "run_started")
    assert isinstance(first, RunStarted)
    frozen = load_frozen(mixed.root / "campaign.yaml", directory=mixed.root / "code")
    assert first.schema_id == "staffa.events" and first.campaign == "v1.0_mixed"
    assert first.config_hash == config_hash(frozen)
    assert len(first.run_hash) == 16 and len(first.code) == 64
    assert first.seeds is not None and first.seeds["global_seed"] == 0 and set(first.seeds) > {"trials", "space"}
    assert first.run_id.startswith("mixed-") and first.run_id == telemetry.run_id("mixed", first.driver)


def test_every_batch_is_measured(mixed: Any) -> None:
    settled = [parse(event) for event in history(Workspace.open(mixed.root)) if event["event"] == "batch_settled"]
    assert settled
    for event in settled:
        assert isinstance(event, BatchSettled)
        assert {"queue", "compile", "sample", "write", "commit"} <= set(event.timings)
        assert all(spent >= 0 for spent in event.timings.values())  # type: ignore[operator]
        assert event.memory is not None and event.memory["rss_peak"] >= event.memory["rss"] > 2**20
        assert event.device and event.node and event.pid


# --- there and back --------------------------------------------------------------------------------


def _like(annotation: str) -> st.SearchStrategy[Any]:
    plain = {
        "str": st.text(max_size=8),
        "int": st.integers(0, 2**40),
        "float": st.floats(0, 1e12),
        "bool": st.booleans(),
    }
    return plain.get(annotation, ANYTHING)


@st.composite
def events(draw: st.DrawFn) -> telemetry.Event:
    kind = draw(st.sampled_from(sorted(EVENTS.values(), key=lambda kind: kind.__name__)))
    own = [one for one in dataclasses.fields(kind) if one.name != "more"]
    fields = {one.name: draw(_like(str(one.type))) for one in own}
    names = st.text(max_size=6).filter(lambda name: name not in {*fields, "event", VERSION})
    return kind(**fields, more=draw(st.dictionaries(names, ANYTHING, max_size=2)))


@given(events())
def test_an_event_is_parsed_as_it_was_recorded(event: telemetry.Event) -> None:
    line = json.loads(json.dumps(stamped(record(event))))
    assert parse(upgrade(line)) == json_like(event)


def json_like(event: telemetry.Event) -> telemetry.Event:
    """The event with what JSON makes of its values: lists for tuples."""
    return dataclasses.replace(
        event, **{one.name: _listed(getattr(event, one.name)) for one in dataclasses.fields(event)}
    )


def _listed(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, list | dict) else value


@given(
    st.text(min_size=1).filter(lambda name: name not in EVENTS),
    st.floats(1, 1e10),
    st.dictionaries(st.text(max_size=6).filter(lambda name: name not in ("event", "at", VERSION)), ANYTHING),
)
def test_what_is_not_known_is_kept(name: str, at: float, fields: dict[str, Any]) -> None:
    line = {"event": name, "at": at, **fields}
    found = parse(upgrade({**line, VERSION: SCHEMA_VERSION}))
    assert isinstance(found, Unknown) and found.event == name
    assert record(found) == line


def test_fields_of_a_newer_version_are_kept() -> None:
    line = {"event": "paused", "at": 5.0, "reason": "full", "mood": {"deep": [1]}, VERSION: SCHEMA_VERSION + 1}
    found = parse(upgrade(line))
    assert found.more == {"mood": {"deep": [1]}, VERSION: SCHEMA_VERSION + 1}
    assert record(found) == line


@given(ANYTHING, ANYTHING)
def test_no_line_upsets_the_reader(version: Any, timings: Any) -> None:
    line = {"event": "batch_settled", "at": 1.0, "timings": timings, VERSION: version}
    assert upgrade(line)["event"] == "batch_settled"


def test_a_field_that_is_lacking_is_named() -> None:
    with pytest.raises(ValueError, match="batch_issued without batch, attempt, worker"):
        parse({"event": "batch_issued", "at": 1.0})


# --- version 1 -------------------------------------------------------------------------------------


def test_every_shape_of_version_1_is_brought_to_the_present(validator: Draft202012Validator) -> None:
    raw = [json.loads(line) for line in VERSION_1.read_text().splitlines()]
    found = list(journal(VERSION_1))
    assert len(found) == len(raw) > 30
    for before, event in zip(raw, found, strict=True):
        assert VERSION not in before and VERSION not in event
        assert not flaw(validator, stamped(event)), event
        # Nothing that was said is lost; only what was counted together is now apart.
        assert {key: event[key] for key in before if key != "timings"} == {
            key: value for key, value in before.items() if key != "timings"
        }
        assert record(parse(event)).items() <= event.items()


def test_queueing_and_compiling_are_told_apart_in_version_1() -> None:
    raw = [json.loads(line) for line in VERSION_1.read_text().splitlines()]
    for before, event in zip(raw, journal(VERSION_1), strict=True):
        if before["event"] == "batch_settled":
            wait, compiling = before["timings"]["queue"], before["timings"]["compile"]
            assert math.isclose(event["timings"]["queue"], max(wait - compiling, 0.0))


def test_a_run_of_version_1_gets_a_name() -> None:
    names = [event["run_id"] for event in journal(VERSION_1) if event["event"] == "run_started"]
    assert names == ["run-20261122-080335-4a852f", "run-20261122-095859-ce7f4b"]


def test_old_journals_are_entered_into_the_books() -> None:
    books = fold(journal(VERSION_1))
    assert books.counts["unreadable"] == 0
    assert sum(books.counts.values()) == len(VERSION_1.read_text().splitlines())
    assert books.parts["part-00000"] and books.runs[0]["run_id"].startswith("run-")
