"""Whether what a report is asked for can be had of a campaign."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from staffa.campaign.model import QaConfig
from staffa.campaign.plan import Plan
from staffa.errors import ConfigError, near
from staffa.experiment.plugins import offers
from staffa.experiment.protocol import Output
from staffa.experiment.registry import check_file

ELEMENT = re.compile(r"(?P<name>.+)\[(?P<place>\d+)\]")
"""`x[2]`: the third number of an output that is an array."""


def check_qa(qa: QaConfig, plan: Plan, directory: Path) -> None:
    """Refuse a section `qa` that speaks of what the campaign does not have. Nothing of `qa.figures` is imported.

    Raises `ConfigError` that begins with the dotted path, with the near names.
    """
    outputs = {output.name: output for output in plan.outputs() if not output.table}
    for number, name in enumerate(qa.of):
        _check_diagnosed(f"qa.of[{number}]", name, outputs, plan.diagnosed)
    for number, name in enumerate(qa.plot):
        _check_single(f"qa.plot[{number}]", name, outputs)
    for number, name in enumerate(qa.over):
        _check_known(f"qa.over[{number}]", name, ["sampler", "replicate", *dict(plan.parameters)], "parameter")
    if qa.divergences is not None and "divergences" not in {extract.name for extract in plan.extracts()}:
        raise ConfigError(
            f"qa.divergences: {qa.divergences}, but no experiment records an output `divergent`",
            "nuts, hmc and mala do; leave it out for others",
        )
    for number, figure in enumerate(qa.figures):
        _check_figure(f"qa.figures[{number}].use", figure.use, directory)


def diagnosed(plan: Plan) -> tuple[str, ...]:
    """Outputs of which the table of trials has R-hat and effective draws."""
    return tuple(output.name for output in plan.outputs() if _is_diagnosed(output, plan.diagnosed))


def single(plan: Plan) -> tuple[str, ...]:
    """Outputs that are single numbers."""
    return tuple(one.name for one in plan.outputs() if one.numeric and not one.table and not one.shape)


def _is_diagnosed(output: Output, most: int) -> bool:
    fits = not output.shape or (most > 1 and math.prod(output.shape) <= most)
    return output.numeric and not output.table and "float" in output.dtype and fits


def _check_diagnosed(field: str, name: str, outputs: dict[str, Output], most: int) -> None:
    _check_known(field, name, outputs, "output")
    output = outputs[name]
    if not output.numeric or "float" not in output.dtype:
        raise ConfigError(f"{field}: {name!r} is {output.kind}: R-hat is of numbers that vary continuously")
    if not _is_diagnosed(output, most):
        size = math.prod(output.shape)
        raise ConfigError(
            f"{field}: {name!r} has {size or 'several'} numbers, and archive.diagnosed is {most}",
            f"set archive.diagnosed: {size}" if size else "set archive.diagnosed to the most it has",
        )


def _check_single(field: str, name: str, outputs: dict[str, Output]) -> None:
    element = ELEMENT.fullmatch(name)
    _check_known(field, element["name"] if element else name, outputs, "output")
    output = outputs[element["name"] if element else name]
    if not output.numeric:
        raise ConfigError(f"{field}: {output.name!r} is {output.kind}, of which there is no mean", "numbers are shown")
    if bool(output.shape) != bool(element):
        axes = f"has axes {list(output.shape)}" if output.shape else "is a single number"
        hint = f"such as '{output.name}[0]'" if output.shape else f"write {output.name}"
        raise ConfigError(f"{field}: {output.name!r} {axes}", hint)


def _check_known(field: str, name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise ConfigError(f"{field}: the campaign has no {what} {name!r}", near(name, known))


def _check_figure(field: str, use: str, directory: Path) -> None:
    if ":" in use or use.endswith(".py"):
        check_file(field, use, directory)
        return
    known: Iterable[str] = [offer.name for offer in offers("figures")]
    if use not in known:
        hint = near(use, known) or "none is installed; for a file write plots.py:function"
        raise ConfigError(f"{field}: there is no figure {use!r}", hint)
