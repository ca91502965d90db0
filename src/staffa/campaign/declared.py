"""What is declared of parameters, by experiments and by the campaign, laid over one another and made into columns.

A parameter that the space explores keeps its values, in the declared type and within the declared range. One that it
does not explore has its declared value in every trial, or what its formula makes of the others; where the space gives
it to some points only (`when:`), the rest have the declared value. Of several experiments in one campaign each has
what it declares itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.formulas import CONSTANTS, Formula, read_formula
from staffa.campaign.inputs import fields as asked_in
from staffa.campaign.model import CampaignConfig
from staffa.campaign.parameters import ParameterConfig
from staffa.campaign.points import ABSENT, Column, Points, distinct
from staffa.campaign.values import check_name, number_hint, unify
from staffa.errors import ConfigError, near
from staffa.experiment.parameters import Parameter, shown_range
from staffa.trial import Scalar

Codes = npt.NDArray[np.int32]
Offered = Mapping[str, Parameter | None]
"""What an experiment declares of its parameters (`registry.offered`); empty where it takes any."""
Offer = Callable[[Mapping[str, Any]], Offered]

EXPERIMENT = "experiment."
ALIKE = 0.7
"""Share of letters in common (difflib's ratio) from which on a name is probably a slip for another."""


def anything(block: Mapping[str, Any]) -> Offered:
    """What an experiment offers that declares nothing."""
    return {}


@dataclass(frozen=True, eq=False)
class Explored:
    """The points of a space, and the experiments they make.

    Arguments:
    - `fields`: where each explored parameter is declared: `space[0].grid.temperature`.
    - `codes`: (points,): the place of each point's experiment in `blocks`.
    """

    points: Points
    fields: Mapping[str, str]
    blocks: Sequence[dict[str, Any]]
    codes: Codes


@dataclass(frozen=True, eq=False)
class Declared:
    """All parameters of all points.

    Attributes:
    - `about`: what is said of them, as far as anything is; the type always.
    - `explored`: those that the space gives.
    - `formulas`: of each block by name the formulas of what is derived.
    - `fields`: where each is declared, for messages.
    """

    points: Points
    about: Mapping[str, Parameter]
    explored: tuple[str, ...]
    formulas: Sequence[Mapping[str, Formula]]
    fields: Mapping[str, str]

    @property
    def underived(self) -> Points:
        """Those parameters whose values a trial is named by."""
        derived = {name for formulas in self.formulas for name in formulas}
        return Points(tuple(c for c in self.points.columns if c.name not in derived), self.points.length)


def completed(config: CampaignConfig, explored: Explored, offers: Sequence[Offered]) -> Declared:
    """All parameters of all points. Raises `ConfigError` for the first thing that is wrong.

    Arguments:
    - `offers`: by block what its experiment declares.
    """
    if not config.parameters and not any(offers):
        nothing: Sequence[Mapping[str, Formula]] = [{} for _ in explored.blocks]
        return Declared(explored.points, {}, tuple(explored.fields), nothing, explored.fields)
    reader = _Reader(config, explored, offers)
    for error in [*reader.errors, *reader.lacking]:
        raise error
    return reader.declared()


def mistakes(config: CampaignConfig, explored: Explored, offers: Sequence[Offered]) -> list[ConfigError]:
    """What is wrong already, whatever is said later: a parameter that has no value yet may still get one."""
    return _Reader(config, explored, offers).errors


def flaws(config: CampaignConfig, explored: Explored, offers: Sequence[Offered]) -> list[ConfigError]:
    """Everything that `completed` would refuse."""
    reader = _Reader(config, explored, offers)
    found = [*reader.errors, *reader.lacking]
    if not found:
        try:
            reader.declared()
        except ConfigError as error:
            return [error]
    return found


def overlaid(own: Parameter, said: ParameterConfig) -> Parameter:
    """What an experiment declares, with what a campaign says of it in front.

    Raises `ValueError` that begins with the field, where the campaign goes beyond the experiment.
    """
    given = said.model_dump()
    if own.type and given.get("type", own.type) != own.type:
        raise ValueError(f"type: {given['type']}, but the experiment declares {own.type}")
    if own.range and said.range and not _inside(said.range, own.range):
        raise ValueError(f"range: {shown_range(said.range)} goes beyond {shown_range(own.range)}, as declared")
    if own.choices and (more := [choice for choice in said.choices if choice not in own.choices]):
        raise ValueError(f"choices: {more[0]!r} is none of {list(own.choices)}, as declared")
    if "value" in given:
        given["derived"] = ""
    elif "derived" in given:
        given["value"] = None
    given["annotations"] = {**own.annotations, **given.get("annotations", {})}
    return replace(own, **given)


def _inside(inner: Any, outer: Any) -> bool:
    low = outer[0] is None or (inner[0] is not None and inner[0] >= outer[0])
    return low and (outer[1] is None or (inner[1] is not None and inner[1] <= outer[1]))


class _Reader:
    """Lays declarations over one another and collects what is wrong; `declared` makes the columns."""

    def __init__(self, config: CampaignConfig, explored: Explored, offers: Sequence[Offered]) -> None:
        self.config, self.explored, self.offers = config, explored, offers
        self.errors: list[ConfigError] = []
        self.lacking: list[ConfigError] = []
        self.columns = {column.name: column for column in explored.points.columns}
        self.own = [self._of_block(number) for number in range(len(offers))]
        self.names = tuple(dict.fromkeys(name for own in self.own for name in own))
        self.formulas = [dict(self._read_formulas(own)) for own in self.own]
        self.errors += [*self._strangers(), *self._at_odds()]
        self.order = self._ordered()
        for name in self.names:
            self._check(name)

    def declared(self) -> Declared:
        for name in self.order:
            self._fill(name)
        about = {}
        for name in self.names:
            if column := self.columns.get(name):
                about[name] = replace(self._first(name), type=column.type)
        fields = {name: self._field(name) for name in self.columns}
        given = self.explored.fields
        order = [*given, *(name for name in self.names if name in self.columns and name not in given)]
        points = Points(tuple(self.columns[name] for name in order), self.explored.points.length)
        return Declared(points, about, tuple(given), self.formulas, {**fields, **given})

    # --- what is said -------------------------------------------------------------------------------

    def _of_block(self, number: int) -> dict[str, Parameter]:
        """What counts for one experiment's parameters."""
        offered, found = self.offers[number], dict[str, Parameter]()
        for name in dict.fromkeys([*offered, *self.config.parameters]):
            own, said = offered.get(name), self.config.parameters.get(name)
            if said is not None and self._takes(number, name):
                try:
                    found[name] = overlaid(own or Parameter(), said)
                except ValueError as error:
                    found[name] = own or said.parameter()
                    self._wrong(f"parameters.{name}.{error}", "see what the experiment declares")
            elif own is not None:
                found[name] = own
            if own is not None:
                check_name(name, f"{self.explored.blocks[number]['use']}: parameters")
        return found

    def _takes(self, number: int, name: str) -> bool:
        """Whether a parameter the campaign speaks of is one of an experiment's points."""
        offered = self.offers[number]
        return not offered or name in offered or name in self._useful or bool(self.config.parameters[name].derived)

    @cached_property
    def _useful(self) -> set[str]:
        """Parameters that mean something whether or not an experiment knows them."""
        inputs, formulas = self.config.inputs, (said.derived for said in self.config.parameters.values())
        read = [name for text in formulas if text for name in read_formula(text).names]
        paths = [name for path in inputs.paths for name in asked_in(path)]
        return {*read, *paths, *inputs.together, *(name for name in self.columns if name.startswith(EXPERIMENT))}

    def _strangers(self) -> Iterator[ConfigError]:
        """Names that no experiment of the campaign declares, though all of them declare theirs."""
        options = [name for name in self.config.parameters if name.startswith(EXPERIMENT)]
        for name in options:
            said = self.config.parameters[name]
            if name not in self.columns or said.value is not None or said.derived:
                text = "is an option of the experiment, here it can only be described where the space explores it"
                yield ConfigError(f"parameters.{name} {text}", f"write it in the section `experiment`: {name}")
        if not all(self.offers):
            return
        known = {name for offered in self.offers for name in offered}
        useful = known | self._useful | {name for name, said in self.config.parameters.items() if said.derived}
        uses = " and ".join(dict.fromkeys(str(block["use"]) for block in self.explored.blocks))
        for name in dict.fromkeys([*self.config.parameters, *self.columns]):
            if name not in useful and not name.startswith(EXPERIMENT):
                field = self.explored.fields.get(name, f"parameters.{name}")
                yield ConfigError(f"{field}: {uses} has no parameter {name!r}", near(name, known))

    def _at_odds(self) -> Iterator[ConfigError]:
        """Experiments of one campaign that take a name for different things."""
        for name in self.names:
            kinds = {own[name].type: number for number, own in enumerate(self.own) if name in own and own[name].type}
            if len(kinds) > 1:
                said = " and ".join(
                    f"{kind} in {self.explored.blocks[number]['use']}" for kind, number in kinds.items()
                )
                yield ConfigError(f"{self._field(name)}: {name!r} is {said}", "one column has one type: rename one")

    # --- formulas -----------------------------------------------------------------------------------

    def _read_formulas(self, own: Mapping[str, Parameter]) -> Iterator[tuple[str, Formula]]:
        for name, parameter in own.items():
            if parameter.derived:
                try:
                    yield name, read_formula(parameter.derived)
                except ValueError as error:
                    self._wrong(f"{self._field(name)}.derived: {error}", "such as temperature * kernel.width ** 2")

    def _ordered(self) -> tuple[str, ...]:
        """All names that need columns, each behind those its formula is made of."""
        before: dict[str, list[str]] = {name: [] for name in self.names}
        known = {*self.names, *self.columns}
        for name, formula in (item for formulas in self.formulas for item in formulas.items()):
            for used in formula.names:
                if used not in known and used not in CONSTANTS:
                    text = f"{formula.text!r}: there is no parameter {used!r}"
                    self._wrong(f"{self._field(name)}.derived: {text}", near(used, known - {name}))
            before[name] += [used for used in formula.names if used in before]
        try:
            return tuple(TopologicalSorter(before).static_order())
        except CycleError as error:
            circle = list(reversed(error.args[1]))
            text = f"goes round in a circle: {' -> '.join(circle)}"
            self._wrong(f"{self._field(circle[0])}.derived: {text}", "give one of them a value")
            return ()

    # --- what the space gives -----------------------------------------------------------------------

    def _check(self, name: str) -> None:
        """Hold what the space gives against what is declared of it."""
        if (column := self.columns.get(name)) is None:
            for number, own in enumerate(self.own):
                if name in own and own[name].value is None and not own[name].derived and self._points(number).any():
                    hint = "give it a value, or explore it in `space`"
                    self.lacking.append(ConfigError(f"{self._field(name)}: {name!r} has no value", hint))
                    return
            return
        field = self.explored.fields[name]
        self.columns[name] = column = self._of_type(column, field)
        for number, own in enumerate(self.own):
            parameter = own.get(name)
            given = np.unique(column.codes[self._points(number) & (column.codes != ABSENT)])
            if parameter is None or not len(given):
                continue
            if parameter.derived:
                self._wrong(f"{field}: {name!r} is derived: {parameter.derived!r}", f"see {self._field(name)}")
                continue
            values = map(column.values.__getitem__, given.tolist())
            wrong = next((value for value in values if parameter.refused(value)), None)
            if wrong is not None:
                self._wrong(f"{field}: {wrong!r} {parameter.refused(wrong)}", f"declared in {self._field(name)}")

    def _of_type(self, column: Column, field: str) -> Column:
        """A column in the declared type: whole numbers become floats, everything else is refused."""
        kinds = [own[column.name].type for own in self.own if column.name in own and own[column.name].type]
        # Options of experiments have the type that the experiment gives them.
        kind = kinds[0] if kinds and not column.name.startswith(EXPERIMENT) else column.type
        if column.type == "int" and kind == "float":
            return replace(column, type="float", values=tuple(map(float, column.values)))
        value = column.values[0]
        if kind != column.type:
            hint = number_hint(value) or f"declared in {self._field(column.name)}"
            self._wrong(f"{field}: {value!r} is {column.type}, {column.name!r} is {kind}", hint)
        elif column.type in ("bool", "str") and any(own[column.name].range for own in self.own if column.name in own):
            hint = f"declared in {self._field(column.name)}"
            self._wrong(f"{field}: {value!r} is {column.type}, which has no range", hint)
        return column

    # --- columns ------------------------------------------------------------------------------------

    def _fill(self, name: str) -> None:
        """Give a parameter to every point that the space leaves without, by its value or its formula."""
        found = self.columns.get(name)
        values: list[Scalar] = [*found.values] if found else []
        codes = np.full(self.explored.points.length, ABSENT, np.int32) if found is None else found.codes.copy()
        continuous = found is not None and found.continuous
        for number, own in enumerate(self.own):
            left = self._points(number) & (codes == ABSENT)
            parameter = own.get(name)
            if parameter is None or not left.any():
                continue
            if parameter.value is not None:
                codes[left] = len(values)
                values.append(parameter.value)
            elif formula := self.formulas[number].get(name):
                made, places = self._made(name, formula, np.flatnonzero(left))
                codes[left] = np.where(places == ABSENT, ABSENT, places + len(values))
                values += [self._suited(name, parameter, value) for value in made]
                continuous |= any(self.columns[used].continuous for used in formula.names if used in self.columns)
        if values:
            kind, values = unify(values, self._field(name))
            each, renumbered = distinct(values)
            self.columns[name] = Column(name, kind, each, np.append(renumbered, np.int32(ABSENT))[codes], continuous)

    def _made(self, name: str, formula: Formula, rows: npt.NDArray[np.intp]) -> tuple[list[Scalar], Codes]:
        """What a formula makes of some points, each combination of values once; for each point the place of its own."""
        used = [self.columns[each] for each in formula.names if each in self.columns]
        if any(each not in self.columns and each not in CONSTANTS for each in formula.names):
            return [], np.full(len(rows), ABSENT, np.int32)
        codes = [column.codes[rows] for column in used]
        present = np.logical_and.reduce([own != ABSENT for own in codes]) if codes else np.ones(len(rows), bool)
        firsts, places = _combinations([own[present] for own in codes], int(present.sum()))
        values: list[Scalar] = []
        taken = [own[present][firsts].tolist() for own in codes]
        for combination in zip(*taken, strict=True) if taken else [()] * len(firsts):
            point = {column.name: column.values[code] for column, code in zip(used, combination, strict=True)}
            try:
                values.append(formula({**CONSTANTS, **point}))
            except ValueError as error:
                at = ", ".join(f"{each} = {value!r}" for each, value in point.items())
                where = f" at {at}" if at else ""
                text = f"{self._field(name)}.derived: {formula.text!r}{where}: {error}"
                raise ConfigError(text, "change the formula, or exclude the point") from None
        found = np.full(len(rows), ABSENT, np.int32)
        found[present] = places
        return values, found

    def _suited(self, name: str, parameter: Parameter, value: Scalar) -> Scalar:
        """What a formula made, in the declared type and range."""
        try:
            return parameter.checked(value)
        except ValueError as error:
            text = f"{self._field(name)}.derived: {parameter.derived!r} gives {str(error).partition(': ')[2]}"
            raise ConfigError(text, "int() and float() give another type") from None

    # --- the rest -----------------------------------------------------------------------------------

    def _points(self, number: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.explored.codes == number)

    def _first(self, name: str) -> Parameter:
        return next(own[name] for own in self.own if name in own)

    def _field(self, name: str) -> str:
        """Where a parameter is declared, for messages: in the campaign's section, or by an experiment."""
        if name in self.config.parameters:
            return f"parameters.{name}"
        uses = (block["use"] for block, own in zip(self.explored.blocks, self.own, strict=True) if name in own)
        return f"{next(uses, '')}: parameters[{name!r}]"

    def _wrong(self, message: str, hint: str) -> None:
        if message not in {error.message for error in self.errors}:
            self.errors.append(ConfigError(message, hint))


def _combinations(codes: Iterable[Codes], length: int) -> tuple[npt.NDArray[np.intp], Codes]:
    """The first place of every combination of values, and for each place the number of its own."""
    combined = np.zeros(length, np.int64)
    for own in codes:
        combined = combined * (int(own.max(initial=0)) + 1) + own
        _, combined = np.unique(combined, return_inverse=True)
        combined = combined.reshape(-1)
    _, firsts, places = np.unique(combined, return_index=True, return_inverse=True)
    return firsts, places.reshape(-1).astype(np.int32)


def lookalikes(config: CampaignConfig, explored: Explored, offers: Sequence[Offered]) -> Iterator[tuple[str, str, str]]:
    """What is probably a slip, though it may be meant: (field, what it is, the name that was probably meant).

    An explored name that nobody declares, near one that is declared and not explored; a derived one that
    no experiment knows, near one that some do.
    """
    known = {name for offered in offers for name in offered}
    idle = {*known, *config.parameters} - set(explored.fields)
    for name, field in explored.fields.items():
        if name not in known and name not in config.parameters and not name.startswith(EXPERIMENT):
            yield from _meant(field, f"{name!r} is explored, and declared nowhere", name, idle)
    for name, said in config.parameters.items():
        if said.derived and known and name not in known:
            yield from _meant(f"parameters.{name}", f"{name!r} is derived, and no experiment knows it", name, known)


def _meant(field: str, text: str, name: str, others: Collection[str]) -> Iterator[tuple[str, str, str]]:
    if difflib.get_close_matches(name, others, n=1, cutoff=ALIKE):
        yield field, text, near(name, others)
