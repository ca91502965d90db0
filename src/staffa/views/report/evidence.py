"""Everything a report rests on, read once: marks, lists of trials, their rows, the history, where it all came from.

Whatever cannot be read is told (`lacking`); the report goes on without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from staffa.campaign.model import QaConfig
from staffa.campaign.plan import Group, Plan
from staffa.campaign.qa import ELEMENT, diagnosed, single
from staffa.errors import StaffaError, WorkspaceError
from staffa.storage.books import Books
from staffa.storage.files import read_json
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome
from staffa.views.census import every_trial
from staffa.views.inference import SAMPLE_STATS
from staffa.views.levels import Levels, levels, measured, said, titled
from staffa.views.params import unit
from staffa.views.report.course import Course
from staffa.views.results import Results
from staffa.views.stored import group_store

if TYPE_CHECKING:
    import pandas

Row = npt.NDArray[Any]

DATA = tuple(outcome.word for outcome in Outcome if outcome.has_data)
FAILED = tuple(outcome.word for outcome in Outcome if outcome.failed)
SHOWN = 4
"""Outputs that are shown where nobody says which."""
WORDS = ("rhat", "ess", "ess_tail")
PLACES = ("index", "group", "row", "replicate")


@dataclass(frozen=True)
class Evidence:
    """What is known of a campaign.

    Arguments:
    - `status`: as `staffa status` has it.
    - `trials`: one row a trial, done or not: parameters, `sampler`, `outcome`, `seconds`, `node`, and of those
      with data what `columns` names of the table of trials.
    - `lacking`: what could not be read.
    """

    workspace: Workspace
    plan: Plan
    qa: QaConfig
    status: Mapping[str, Any]
    trials: pandas.DataFrame
    books: Books
    course: Course
    lacking: tuple[str, ...]

    @cached_property
    def swept(self) -> tuple[str, ...]:
        """What the space makes differ between trials, in the order of the plan: what is derived only repeats it."""
        names = ["sampler", *(name for name, _ in self.plan.parameters if name in self.plan.explored)]
        return tuple(name for name in names if self.differs(name))

    def differs(self, name: str) -> bool:
        """Whether a parameter has several values."""
        return bool(self.trials[name].nunique(dropna=False) > 1)

    def levels(self, name: str, chosen: Any = slice(None)) -> Levels:
        """A parameter's levels among all trials, or those that are chosen."""
        return levels(name, self.trials[name][chosen], unit=unit(self.plan, name))

    def title(self, name: str) -> str:
        """A parameter with its unit, as it heads a column."""
        return titled(name, unit(self.plan, name))

    def words(self, name: str, value: Any) -> str:
        """A parameter's value with its unit."""
        return "none" if _is_absent(value) else measured(said(value), unit(self.plan, name))

    @cached_property
    def with_data(self) -> Row:
        """(trials,): whether a trial's data are committed."""
        return self.having(*DATA)

    def having(self, *outcomes: str) -> Row:
        """(trials,): whether a trial has one of these outcomes."""
        return np.asarray(self.trials["outcome"].isin(outcomes))

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """Trials by outcome, those that were not tried included."""
        return {str(word): int(count) for word, count in self.trials["outcome"].value_counts().items()}

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """What each group is called: its name, and what sets it apart."""
        return tuple(_called(group, self.plan.groups) for group in self.plan.groups)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """`metadata/provenance.json`; empty where it cannot be read."""
        facts = read_json(self.workspace.provenance)
        return facts if isinstance(facts, dict) else {}

    def point(self, place: int) -> dict[str, str]:
        """The parameters of one trial in words, as far as they differ between trials."""
        row = self.trials.iloc[place]
        return {name: self.words(name, row[name]) for name in self.swept if not _is_absent(row[name])}


def gather(workspace: Workspace, qa: QaConfig, status: Mapping[str, Any]) -> Evidence:
    """Read whatever there is of a planned campaign.

    Raises `WorkspaceError` where not even its plan or its list of trials can be read.
    """
    results = Results(workspace)
    plan, lacking = results.plan, list[str]()
    books, course = Books(), Course()
    for event in history(workspace):
        books.note(event)
        course.note(event)
    if books.counts["unreadable"]:
        lacking.append(f"lines of the journals that are no events: {books.counts['unreadable']:,}")
    try:
        trials = every_trial(workspace, plan, lacking).to_pandas()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise WorkspaceError(
            f"the list of trials of '{workspace.root}' cannot be read: {error}", "restore metadata/ from a copy"
        ) from None
    trials = _timed(trials, workspace, plan, books)
    rows = _rows(results, columns(plan, qa), lacking)
    if rows is not None and not len(trials):  # a search that has not begun
        trials = trials.reindex(columns=[*trials.columns, *rows.columns])
    elif rows is not None:
        trials = trials.join(rows, on="trial")
    if not read_json(workspace.provenance):
        lacking.append("metadata/provenance.json, which tells where the campaign came from")
    return Evidence(workspace, plan, qa, status, trials, books, course, tuple(lacking))


def columns(plan: Plan, qa: QaConfig) -> list[str]:
    """What is wanted of the table of trials."""
    words = [word for word in (*WORDS, "sd") if word in plan.summaries]
    wanted = [f"{output}.{word}" for output in diagnosed(plan) for word in words]
    wanted += [f"{base(name)}.mean" for name in (*single(plan), *plotted(plan, qa)) if "mean" in plan.summaries]
    wanted += ["divergences"] * ("divergences" in {extract.name for extract in plan.extracts()})
    return list(dict.fromkeys(wanted))


def plotted(plan: Plan, qa: QaConfig) -> tuple[str, ...]:
    """Outputs that are shown against the parameters: those asked for, else the first that are not of the sampler."""
    names = sorted(single(plan), key=lambda name: name in SAMPLE_STATS)
    return qa.plot or tuple(names[:SHOWN])


def base(name: str) -> str:
    """`x` of `x[2]`."""
    element = ELEMENT.fullmatch(name)
    return element["name"] if element else name


def _timed(trials: pandas.DataFrame, workspace: Workspace, plan: Plan, books: Books) -> pandas.DataFrame:
    """With the device seconds of each trial that was tried, and the node it was tried on."""
    seconds, nodes = np.full(len(trials), np.nan), np.full(len(trials), "", object)
    tried = trials["outcome"].isin([*DATA, *FAILED]).to_numpy()
    for number, group in enumerate(plan.groups):
        own = np.flatnonzero(tried & (trials["group"] == number).to_numpy())
        if not len(own):
            continue
        store, rows = group_store(workspace, plan, number), trials["row"].to_numpy()[own]
        order = np.argsort(rows, kind="stable")
        own, rows = own[order], rows[order]
        numbers, starts = np.unique(rows // group.batch, return_index=True)
        for batch, start, end in zip(numbers, starts, [*starts[1:], len(rows)], strict=True):
            there = slice(start, end)
            seconds[own[there]] = store.seconds(int(batch))[rows[there] % group.batch]
            nodes[own[there]] = books.nodes.get(f"g{number}/{batch}", "")
    return trials.assign(seconds=seconds, node=nodes)


def _rows(results: Results, wanted: Sequence[str], lacking: list[str]) -> pandas.DataFrame | None:
    """Some columns of the table of trials by digest; None where it cannot be read."""
    try:
        known = [name for name in wanted if name in results.schema("trials").names]
        found = results.trials.to_pandas(["trial", *known])
    except (StaffaError, OSError) as error:
        lacking.append(f"the trials' rows: {str(error).splitlines()[0]}")
        return None
    return found.drop_duplicates("trial").set_index("trial")


def _called(group: Group, groups: Sequence[Group]) -> str:
    values = {**({"sampler": group.sampler} if len({one.sampler for one in groups}) > 1 else {})}
    values |= {name: said(value) for name, value in {**group.partition, **group.static}.items() if name != "sampler"}
    words = ", ".join(f"{name}={value}" if name != "sampler" else str(value) for name, value in values.items())
    return f"{group.name}: {words}" if words else group.name


def _is_absent(value: Any) -> bool:
    return value is None or value != value
