"""Jobs, nodes and times as SLURM writes them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable


def compressed(ids: Iterable[str]) -> list[str]:
    """Job ids as short expressions: `12_3`, `12_4`, `12_9`, `7` become `7`, `12_[3-4,9]`."""
    plain: set[int] = set()
    arrays: dict[int, set[int]] = {}
    for job in ids:
        array, _, task = job.partition("_")
        if task:
            arrays.setdefault(int(array), set()).add(int(task))
        else:
            plain.add(int(array))
    spans = {array: ranges(arrays[array]) for array in sorted(arrays)}
    tasks = [f"{array}_{span}" if span.isdigit() else f"{array}_[{span}]" for array, span in spans.items()]
    return [str(number) for number in sorted(plain)] + tasks


def ranges(numbers: Iterable[int]) -> str:
    """`3-4,9` of 3, 4 and 9."""
    runs = itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)


def numbers(expression: str) -> list[int]:
    """Tasks of an array as squeue writes them: `0,4-6,10-16:3%2` has 0, 4, 5, 6, 10, 13 and 16 (two at once)."""
    found: list[int] = []
    for span in expression.partition("%")[0].split(","):
        ends, _, step = span.partition(":")
        first, _, last = ends.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def hosts(expression: str) -> list[str]:
    """Node names of SLURM's `gpu[01-03,7],login`: gpu01, gpu02, gpu03, gpu7, login."""
    names: list[str] = []
    for part in re.findall(r"[^,\[\]]+(?:\[[^\]]*\][^,\[\]]*)*", expression):
        names += _expanded(part)
    return names


def _expanded(part: str) -> list[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if not found:
        return [part]
    inside: list[str] = []
    for span in found[1].split(","):
        first, dash, last = span.partition("-")
        width = len(first)
        inside += [f"{n:0{width}d}" for n in range(int(first), int(last) + 1)] if dash else [first]
    return [name for n in inside for name in _expanded(part[: found.start()] + n + part[found.end() :])]


def duration(word: str) -> float | None:
    """Seconds of SLURM's `1-00:00:00`, `4:00:00`, `2:00` (minutes and seconds); None for `infinite`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", word.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
