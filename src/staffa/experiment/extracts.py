"""What an experiment wants to stand in a trial's row beside the moments of its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from staffa.cells import CELLS
from staffa.errors import PluginError, near
from staffa.experiment.protocol import RESERVED_PARAMETERS, SUMMARIES, Experiment, Extract, Output
from staffa.experiment.registry import located

HOWS = ("sum", "min", "max", "first", "last", "argmin", "argmax")

STANDARD: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "divergences": (("sum", "divergent"),),
    "log_z.last": (("last", "log_z"),),
    "best.fitness": (("max", "fitness"), ("max", "max_fitness")),
    "best.sequence": (("argmax", "fitness", "sequence"), ("argmax", "max_fitness", "best_sequence")),
}
"""Of outputs with the field's names, wherever they are recorded: of several readings the first that fits."""


def extracts_of(experiment: Experiment, outputs: Sequence[Output]) -> tuple[Extract, ...]:
    """The extracts of an experiment that records these outputs: its own, and the standard ones that fit.

    Raises `PluginError` for a `summaries` that says something else, or that the outputs do not have.
    """
    known = {output.name: output for output in outputs if not output.table}
    own = dict(getattr(experiment, "summaries", {}))
    for name, words in own.items():
        flaw, hint = _flaw(name, words, known)
        if flaw:
            raise PluginError(f"{located(type(experiment))}summaries[{name!r}] = {words!r}: {flaw}", hint)
    readings = {**STANDARD, **{name: (words,) for name, words in own.items()}}
    fitting = ((name, [words for words in each if not _flaw(name, words, known)[0]]) for name, each in readings.items())
    return tuple(_extract(name, found[0]) for name, found in fitting if found)


def _extract(name: str, words: Sequence[str]) -> Extract:
    how, first, *rest = words
    return Extract(name, how, rest[0], first) if rest else Extract(name, how, first)


def _flaw(name: str, words: Sequence[str], outputs: Mapping[str, Output]) -> tuple[str, str]:
    """What is wrong with an entry of `summaries`, and what to do; empty for nothing."""
    columns = {f"{output}.{word}" for output in outputs for word in SUMMARIES}
    if name in RESERVED_PARAMETERS | columns or not all(word.isidentifier() for word in name.split(".")):
        return f"a column of trials cannot be called {name!r}", "rename it"
    if isinstance(words, str) or not 2 <= len(words) <= 3 or words[0] not in HOWS:
        hint = near(str(words[0]), HOWS) if not isinstance(words, str) and words else ""
        return 'this is not (how, output), such as ("last", "log_z")', hint or f"how is one of {', '.join(HOWS)}"
    if (len(words) == 3) != words[0].startswith("arg"):
        return f"{words[0]!r} takes {_arguments(words[0])}", 'such as ("argmax", "fitness", "sequence")'
    for word in words[1:]:
        if word not in outputs:
            return f"step records no output {word!r}, or one that is ragged", near(word, outputs)
    if flaw := _unlike(words, outputs):
        return flaw, "sum, min and max are of numbers; first, last and arg… take text, times and categories, too"
    return _misfit(outputs[words[1]], outputs[words[-1]]) if len(words) == 3 else ("", "")


def _unlike(words: Sequence[str], outputs: Mapping[str, Output]) -> str:
    """What cannot be done with an output that is no number."""
    by, value = outputs[words[1]], outputs[words[-1]]
    if value.dtype == CELLS or (by.encoding and words[0] not in ("first", "last")):
        return f"{(value if value.dtype == CELLS else by).name!r} is {value.kind if value.dtype == CELLS else by.kind}"
    return ""


def _arguments(how: str) -> str:
    return "two outputs: where one is extreme, and what is wanted of there" if "arg" in how else "one output"


def _misfit(by: Output, value: Output) -> tuple[str, str]:
    if by.chains == value.chains and value.shape[: len(by.shape)] == by.shape:
        return "", ""
    axes = [f"{one.name!r} {[*([one.chains] if one.chains else []), *one.shape]}" for one in (by, value)]
    return f"the axes of {axes[0]} do not begin those of {axes[1]}", "record both for the same chains and particles"
