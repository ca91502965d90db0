"""Section `parameters`: values of what the space does not explore, and what is to be known of all parameters.

    parameters:
      temperature: {value: 1.0, unit: K, range: [0.1, 10.0], comment: of the bath}
      kernel:
        width: 0.5
        area: {derived: "3.14 * kernel.width ** 2"}

Dots and nesting say the same. A bare value stands for `{value: …}`. Every tier is put into one form before tiers are
laid over one another, a mapping from whole names to what is said of each: so a profile may preset a value and leave
its unit alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from staffa.campaign.fields import Section
from staffa.campaign.layers import Node, Origin, Tree, from_python, shortened, values
from staffa.errors import ConfigError
from staffa.experiment.parameters import Parameter
from staffa.trial import Scalar

SECTION = "parameters"


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    several = isinstance(value, list | tuple)
    hint = "several values are explored in `space`" if several else "a value is a boolean, a number or a text"
    raise _said(f"{shortened(value)} is not one value", hint)


def _end(value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise _said(f"{shortened(value)} is neither a number nor null", "range: [0.1, 10.0]; null leaves an end open")


def _formula(text: Any) -> str:
    from staffa.campaign.formulas import read_formula

    if not isinstance(text, str):
        raise _said(f"{shortened(text)} is not a formula", 'quote it: "temperature * kernel.width ** 2"')
    try:
        read_formula(text)
    except ValueError as error:
        raise _said(str(error), "such as temperature * kernel.width ** 2, sqrt(x), 1 if kind == 'a' else 2") from None
    return text


def _name(name: str) -> str:
    # `values` brings NumPy, which few campaigns need so early.
    from staffa.campaign.values import check_name

    try:
        return check_name(name, SECTION)
    except ConfigError as error:
        raise _said(error.message.partition(": ")[2], error.hint) from None


def _said(complaint: str, hint: str, *below: str) -> PydanticCustomError:
    return PydanticCustomError("said", "{complaint}", {"complaint": complaint, "hint": hint, "below": below})


Value = Annotated[Scalar | None, PlainValidator(_scalar, json_schema_input_type=Scalar | None)]
End = Annotated[int | float | None, PlainValidator(_end, json_schema_input_type=int | float | None)]


def _unsaid(value: Any) -> bool:
    return value is None or value in ("", (), {})


class ParameterConfig(Section):
    """What is said of one parameter; a bare value is short for `{value: …}`."""

    value: Value = Field(
        default=None,
        exclude_if=lambda value: value is None,  # an empty text is a value
        description="What every trial has, unless the space explores it. Counts for a trial's identity.",
    )
    derived: Annotated[str, BeforeValidator(_formula)] = Field(
        default="",
        exclude_if=_unsaid,
        description="A formula in the place of a value, such as temperature * kernel.width ** 2.",
    )
    type: Literal["bool", "int", "float", "str"] | None = Field(
        default=None, exclude_if=_unsaid, description="bool, int, float or str; by default that of the value."
    )
    comment: str = Field(default="", exclude_if=_unsaid, description="What the parameter is, for people.")
    unit: str = Field(default="", exclude_if=_unsaid, description="Its unit, such as mm; stands beside the data.")
    range: tuple[End, End] | None = Field(
        default=None,
        exclude_if=_unsaid,
        description="Least and greatest value, such as [0.1, 10.0]; null leaves an end open.",
    )
    choices: tuple[Value, ...] = Field(
        default=(), exclude_if=_unsaid, description="All values there may be, such as [rbf, linear]."
    )
    annotations: dict[str, Value] = Field(
        default={}, exclude_if=_unsaid, description="Whatever else is to be kept, by keys of your own."
    )

    @model_validator(mode="after")
    def _holds_together(self) -> ParameterConfig:
        if not self.model_dump():
            raise _said("says nothing", "give it a value, a type, a range or a comment, or take it away")
        try:
            self.parameter()
        except ValueError as error:
            field, _, text = str(error).partition(": ")
            raise _said(text, type(self).model_fields[field].description or "", field) from None
        return self

    def parameter(self) -> Parameter:
        """The same as an experiment would declare it."""
        return Parameter(**self.model_dump())


WORDS = tuple(ParameterConfig.model_fields)
"""Keys that tell a parameter from a branch of the tree."""

Branch = Annotated[dict[str, "Declared"], Field(json_schema_extra={"propertyNames": {"not": {"enum": list(WORDS)}}})]
Declared = TypeAliasType("Declared", "Scalar | ParameterConfig | Branch | None")


def _as_model(value: Any) -> Any:
    """The section in its one form, where it does not come from tiers that are in it already."""
    if not isinstance(value, Mapping):
        return value
    tree = whole_names({SECTION: from_python(value, Origin("python"))})
    return values(tree)[SECTION]


Parameters = Annotated[
    dict[Annotated[str, AfterValidator(_name)], ParameterConfig],
    BeforeValidator(_as_model, json_schema_input_type=dict[str, Declared]),
]


def whole_names(tree: Tree) -> Tree:
    """A tier with its section `parameters` by whole names: `{kernel: {width: 1}}` is `{kernel.width: {value: 1}}`.

    Raises `ConfigError`, with both places, for what is said twice.
    """
    section = tree.get(SECTION)
    if section is None or not isinstance(section.content, dict):
        return tree
    found: dict[str, dict[str, Node]] = {}
    places: dict[str, Origin] = {}
    for name, word, node in _said_of(section.content, ()):
        own, _ = found.setdefault(name, {}), places.setdefault(name, node.origin)
        if word in own:
            raise ConfigError(
                f"{node.origin}: {SECTION}.{name}.{word}: said twice, first in {own[word].origin}",
                "keep one of the two: dots and nesting are the same",
            )
        if word:
            own[word] = node
    content = {name: Node(own, places[name]) for name, own in found.items()}
    return {**tree, SECTION: Node(content, section.origin, section.whole)}


def _said_of(content: Mapping[str, Node], above: tuple[str, ...]) -> Iterator[tuple[str, str, Node]]:
    """Everything a branch says: (whole name, word, what is said); no word where a name only is mentioned."""
    for key, node in content.items():
        path = (*above, *key.split("."))
        place = next((at for at in range(1, len(path)) if path[at] in WORDS), None)
        if place is not None:
            # `kernel.width.comment`, as `--set` gives it
            yield ".".join(path[:place]), path[place], _below(path[place + 1 :], node)
        elif not isinstance(node.content, dict):
            yield ".".join(path), "value", node
        elif not node.content:
            yield ".".join(path), "", node
        elif any(word.partition(".")[0] in WORDS for word in node.content):
            for word, said in node.content.items():
                head, *rest = word.split(".")
                yield ".".join(path), head, _below(tuple(rest), said)
        else:
            yield from _said_of(node.content, path)


def _below(path: tuple[str, ...], node: Node) -> Node:
    for part in reversed(path):
        node = Node({part: node}, node.origin)
    return node
