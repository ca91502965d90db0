"""The JSON Schema of a ledger's lines, made of the events' classes.

`python -m staffa.telemetry.schema` writes `events.schema.json`, which is shipped, anew.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staffa.telemetry.events import SCHEMA_ID, Unreadable
from staffa.telemetry.lines import EVENTS, SCHEMA_VERSION, VERSION

SCHEMA_FILE = Path(__file__).with_name("events.schema.json")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line of a journal, made of the events' classes."""
    from pydantic import TypeAdapter

    kinds = {name: TypeAdapter(kind) for name, kind in EVENTS.items() if kind is not Unreadable}
    inputs = [(name, "validation", adapter) for name, adapter in kinds.items()]
    made, shared = TypeAdapter.json_schemas(inputs, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    definitions = dict(shared.get("$defs", {}))
    for (name, _), found in made.items():
        whole = definitions.pop(found["$ref"].rpartition("/")[2]) if "$ref" in found else found
        definitions[str(name)] = _described(str(name), whole)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_ID,
        "description": f"One line of a Staffa ledger, version {SCHEMA_VERSION}.",
        "type": "object",
        "required": ["event", "at", VERSION],
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in sorted(kinds)],
        "$defs": dict(sorted(definitions.items())),
    }


def _described(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """One event's schema: with its name and version, without what only the class has."""
    texts = {key: text for kind in reversed(EVENTS[name].__mro__) for key, text in _texts(kind).items()}
    own = {key: value for key, value in found["properties"].items() if key != "more"}
    for key, value in own.items():
        value.pop("title", None)
        value.update({"description": texts[key]} if key in texts else {})
    says = {"event": {"const": name}, VERSION: {"const": SCHEMA_VERSION}}
    required = ["event", VERSION, "at", *found.get("required", ())]
    return {
        "type": "object",
        "description": found["description"],
        "properties": says | own,
        "required": sorted(set(required), key=required.index),
        "additionalProperties": True,
    }


def _texts(kind: type) -> dict[str, str]:
    from pydantic import TypeAdapter

    if not dataclasses.is_dataclass(kind):
        return {}
    fields = TypeAdapter(kind).json_schema().get("properties", {})
    return {name: one["description"] for name, one in fields.items() if "description" in one}


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(json_schema(), indent=1) + "\n")
    sys.stdout.write(f"{SCHEMA_FILE}\n")
