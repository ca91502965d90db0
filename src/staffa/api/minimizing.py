"""A search over a plain function, on this machine or a given cluster, in one line."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from staffa.errors import ConfigError, StaffaWarning
from staffa.trial import Outcome, Scalar

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from staffa.campaign.domain import Domain
    from staffa.campaign.objectives import Objectives
    from staffa.execution.minimizing import Course, Tried
    from staffa.search.answers import Record
    from staffa.search.study import Study

Answer = float | Mapping[str, float | None]

INDEX = "number"
SHOWN = 6
"""Digits that matter to a reader."""
REHEARSED = 40


@dataclass(frozen=True, eq=False, repr=False)
class Minimum:
    """What a search over a function found.

    Arguments:
    - `ended`: `finished`; `interrupted`: by Ctrl-C; `no workers`: all were gone for five minutes.
    - `seconds`: from the first trial's issue to the end.
    """

    ended: str
    seconds: float
    _study: Study = field()
    _course: Course = field()

    @property
    def best(self) -> Record | None:
        """The first of `top`: `.params`, `.objectives`, `.scores`; None while no trial is ranked."""
        return self._study.best

    @property
    def trials(self) -> pd.DataFrame:
        """All trials; the index is their number, in the order they were asked for.

        Columns: parameters, objectives, `score` (with several groups `score.0`, …; inf for what is of no use), with
        several groups `front` (from 0, -1 for none), `outcome`, `seconds` of the last try, `tries`, and `why` it is
        not ranked. Of these one whose name is a parameter's or objective's has an underscore at its end.
        """
        return self._frame(self._study.trials())

    def top(self, k: int = 10) -> pd.DataFrame:
        """The best trials that are ranked, best first, in the columns of `trials`.

        By score; with several groups by front, and within a front the most lonely first.
        """
        return self._frame(self._study.top_k(_count(k, "k")))

    def fronts(self, k: int = 1) -> pd.DataFrame:
        """The trials of the first k fronts: nothing of later ones is better than they in all groups."""
        return self._frame([record for front in self._study.fronts(_count(k, "k")) for record in front])

    @property
    def objectives(self) -> dict[str, Any]:
        """What was minimised, as it can be given again."""
        return self._study.objectives.words()

    def _frame(self, records: Sequence[Record]) -> pd.DataFrame:
        import pandas as pd

        objectives = self._study.objectives
        own = _Columns((*self._study.domain.names, *objectives.names), objectives.groups)
        rank = self._ranks() if own.front else {}
        rows = [
            {**record.params, **{name: record.objectives.get(name) for name in objectives.names}}
            | own.row(record, self._course.tried[record.trial], rank.get(record.trial, -1))
            for record in records
        ]
        columns = [*self._study.domain.names, *objectives.names, *own.names]
        index = pd.Index([record.trial for record in records], name=INDEX, dtype="int64")
        return pd.DataFrame(rows, index, columns).astype(dict.fromkeys(objectives.names, float))

    def _ranks(self) -> dict[int, int]:
        fronts = self._study.fronts(max(len(self._course.tried), 1))
        return {record.trial: number for number, front in enumerate(fronts) for record in front}

    def traceback(self, trial: int) -> str:
        """Where a trial's last try raised; empty where it did not. Raises `ConfigError` for a number that is none."""
        self._study.record(trial)
        return self._course.tried[trial].trace

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for tried in self._course.tried.values():
            word = "unfinished" if tried.outcome == Outcome.MISSING else tried.outcome.word
            counts[word] = counts.get(word, 0) + 1
        told = ", ".join(f"{count} {word}" for word, count in counts.items()) or "none"
        wanted = self._study.budget or 0
        asked = f"{len(self._course.tried)} of {wanted}" if len(self._course.tried) < wanted else f"{wanted}"
        how = "" if self.ended == "finished" else f"{self.ended}: "
        lines = [f"Minimum: {how}{asked} trials ({told}) in {self.seconds:.1f} s"]
        best = self._study.best
        if best is None:
            why = next((tried.message for tried in self._course.tried.values() if tried.message), "")
            return "\n".join([*lines, f"  no trial is ranked{': ' * bool(why)}{why}"])
        front = self._study.fronts(1)[0] if len(self._study.objectives.groups) > 1 else []
        if front:
            lines.append(f"  front of {len(front)} {'trial' if len(front) == 1 else 'trials'}, one of them:")
        lines.append(f"  trial {best.trial}: {_told(best.params)}")
        lines.append(f"  {_told(best.objectives)}")
        return "\n".join(lines)


def minimize(
    fn: Callable[[dict[str, Any]], Answer],
    space: Mapping[str, Any],
    *,
    objectives: Mapping[str, Any] | str | None = None,
    trials: int = 100,
    seed: int = 0,
    workers: int | None = None,
    strategy: str | Mapping[str, Any] = "explore",
    client: Client | None = None,
    timeout: float | str | None = None,
    retries: int = 0,
    progress: bool | None = None,
) -> Minimum:
    """Look for parameters that make what a function returns small.

        found = staffa.minimize(lambda p: (p["x"] - 1) ** 2, {"x": (-5, 5)})
        found.best.params, found.best.objectives, found.trials

    Any callable will do, also from a notebook or script, with what it closes over: it is sent to each worker process
    once and never stored. Trials are handed out one by one as workers have room; nobody waits for a generation.

    Arguments:
    - `fn`: called with one trial's parameters by name; returns a number, or a mapping of objectives to numbers. NaN,
      None and what is missing are recorded and not ranked. What it raises is recorded with the trial.
    - `space`: by name `(low, high)`, `(low, high, "log")`, `(low, high, "int")`, `{"choice": [...]}`,
      `{"grid": [...]}`: as section `search.space` of a campaign.
    - `objectives`: as section `search.objectives`; by default all that come back are minimised, each in a group of its
      own, and a number alone is called `loss`.
    - `trials`: how many in all. `seed`: with one worker it gives the same trials each time.
    - `workers`: processes on this machine, one for each core by default.
    - `strategy`: what is tried next: `"explore"`, `"sobol"`, `{"use": "optuna", "sampler": "tpe"}` …
    - `client`: an existing Dask client; each of its workers does as many trials at once as it has threads.
    - `timeout`: `"30s"`, or seconds, that a trial may take; its worker's process is then replaced.
    - `retries`: further tries of a trial that raised, ran out of time or lost its worker.
    - `progress`: False shows nothing.

    Ctrl-C ends the search and returns what there is (`ended` says so); a second one raises at once. A script
    needs no `if __name__ == "__main__":` for it: workers do not import the script.

    Raises `ConfigError` before anything runs for what makes no sense, or when the first answer is no number;
    `PluginError` where workers cannot load the function; `ClusterError` where no workers come up.
    """
    _check_function(fn)
    study, seconds = _study(space, objectives, trials, seed, strategy, retries), _seconds(timeout)
    _check_workers(workers, client)
    from staffa.execution import minimizing
    from staffa.views.live import follow

    how: dict[str, Any] = {"workers": workers, "client": client, "timeout": seconds, "free": objectives is None}
    with follow(trials, _title(fn), progress) as show:
        heard = () if progress is False else (show,)
        course = minimizing.minimize(
            fn, study, **how, rehearse=lambda: _rehearse(study.domain, strategy), listeners=heard
        )
    _warn(course)
    return Minimum(course.reason, course.seconds, study, course)


def _warn(course: Course) -> None:
    from staffa.execution.minimizing import PATIENCE_SECONDS, WORKERLESS

    if course.reason == WORKERLESS:
        done = sum(tried.outcome != Outcome.MISSING for tried in course.tried.values())
        text = f"no worker was there for {PATIENCE_SECONDS:.0f} s: the search ended after {done} trials"
        warnings.warn(text, StaffaWarning, stacklevel=3)


def _study(space: object, said: object, trials: int, seed: int, strategy: object, retries: int) -> Study:
    from staffa.campaign.domain import Domain
    from staffa.campaign.objectives import Objectives
    from staffa.search.strategies import build
    from staffa.search.study import Study

    domain = Domain.read(space, "space")
    # Until the first result comes back: names of objectives are not known before.
    objectives = Objectives.read("loss" if said is None else said, "objectives")
    if said is not None:
        _check_objectives(objectives, domain.names)
    _count(trials, "trials")
    for name, value in (("seed", seed), ("retries", retries)):
        _count(value, name, 0)
    made = build(strategy, domain, trials, seed, "strategy")
    return Study(domain, objectives, made, trials=trials, seed=seed, retries=retries, lease=math.inf)


def _rehearse(domain: Domain, strategy: object) -> None:
    """Have a strategy of this kind suggest something, on made-up results."""
    import numpy as np

    from staffa.search.strategies import Told, build

    points = np.random.default_rng(0).random((REHEARSED, domain.dimension))
    build(strategy, domain, REHEARSED, 0).suggest(REHEARSED + 1, 1, Told(points, points[:, :1]))


def _check_objectives(objectives: Objectives, parameters: tuple[str, ...]) -> None:
    for one in objectives.all:
        if one.name in parameters:
            raise ConfigError(f"objectives.{one.name}: is a parameter's name", "call the objective something else")
        if one.of:
            raise ConfigError(
                f"objectives.{one.name}.of: {one.of!r} is for campaigns", "fn returns objectives by their own names"
            )


def _check_function(fn: object) -> None:
    if not callable(fn):
        raise ConfigError(f"fn: {fn!r} cannot be called", 'such as lambda params: (params["x"] - 1) ** 2')
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
        raise ConfigError(f"fn: {fn!r} is async", "a plain function: it runs in a worker's thread")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in functions tell none
        return
    try:
        signature.bind({})
    except TypeError as error:
        raise ConfigError(
            f"fn: takes {signature}, but is called with one mapping of parameters: {error}",
            "lambda params: fn(**params)",
        ) from None


def _check_workers(workers: object, client: Any) -> None:
    if workers is not None:
        _count(workers, "workers")
    if client is None:
        return
    from distributed import Client

    if not isinstance(client, Client):
        raise ConfigError(f"client: {client!r} is no distributed.Client", "client=cluster.get_client()")
    if client.asynchronous:
        raise ConfigError("client: is asynchronous", "one that is made without asynchronous=True")
    if workers is not None:
        raise ConfigError(f"workers: {workers!r}, but the client's cluster has its own", "give one of the two")


def _seconds(timeout: object) -> float:
    from staffa.campaign.quantities import duration

    if timeout is None:
        return 0.0
    try:
        found = duration(timeout)
    except ValueError as error:
        raise ConfigError(f"timeout: {timeout!r} {error}") from None
    if not found:
        raise ConfigError(f"timeout: {timeout!r} leaves no time", "leave it out for no end")
    return found


def _count(value: object, field: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{field}: {value!r} is not a whole number from {least} on")
    return value


def _title(fn: Any) -> Any:
    from pathlib import Path

    return Path(f"minimize {getattr(fn, '__name__', type(fn).__name__)}")


class _Columns:
    """Columns of the table of trials beside parameters and objectives, which are `taken`."""

    def __init__(self, taken: tuple[str, ...], groups: tuple[int, ...]) -> None:
        several = len(groups) > 1
        scores = [f"score.{group}" for group in groups] if several else ["score"]
        self.scores, self.front = len(scores), several
        names = [*scores, *["front"] * several, "outcome", "seconds", "tries", "why"]
        self.names = [f"{name}_" if name in taken else name for name in names]

    def row(self, record: Record, tried: Tried, front: int) -> dict[str, Any]:
        scores = record.scores or (math.nan,) * self.scores
        why = tried.message or record.why
        values = [*scores, *[front] * self.front, tried.outcome.word, tried.seconds, tried.tries, why]
        return dict(zip(self.names, values, strict=True))


def _told(values: Mapping[str, Scalar | None]) -> str:
    return ", ".join(f"{name} = {_short(value)}" for name, value in values.items())


def _short(value: object) -> str:
    return f"{value:.{SHOWN}g}" if isinstance(value, float) else str(value)
