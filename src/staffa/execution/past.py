"""What programs took in runs that were: costs read from their receipts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from staffa.campaign.cost import Cost, lane_bytes, program_of, segment_steps, settled_trials, warm_steps
from staffa.campaign.plan import Plan, bytes_per_trial
from staffa.errors import ConfigError, StaffaError
from staffa.execution.pace import BEGIN
from staffa.execution.prepare import load_plan
from staffa.storage.ledger import history
from staffa.storage.workspace import Workspace

COMPILE = "compile"
NEIGHBOURS = 32
"""Campaigns beside this one that are looked at, those that were at work last first."""

Key = tuple[str, str, str]
"""Program, pool, device."""


@dataclass
class Taken:
    """What the receipts of one program on one kind of worker add up to.

    Arguments:
    - `calls`, `begin`: calls of the device of batches that were computed from their beginning, and the
      seconds before their first segments.
    - `pieces`, `sampling`: calls times segments, and the seconds of them.
    - `trials`, `writing`, `bytes`: of batches that were written whole.
    """

    group: int
    width: int = 0
    calls: int = 0
    begin: float = 0.0
    pieces: int = 0
    sampling: float = 0.0
    trials: int = 0
    writing: float = 0.0
    bytes: int = 0
    compile: float = 0.0
    memory: int | None = None
    limit: int | None = None

    def note(self, event: Mapping[str, Any], trials: int, segments: int) -> None:
        """Enter the receipt of a batch of so many trials, all of which were computed."""
        seconds, computed = event["timings"], event.get("computed") or 0
        width = max(int(event.get("width") or 1), 1)
        calls = -(-trials // width)
        self.width = width
        self.compile = max(self.compile, seconds.get(COMPILE, 0.0))
        self.pieces += calls * computed
        self.sampling += seconds.get("sample", 0.0)
        if computed == segments:
            self.calls += calls
            self.begin += sum(seconds.get(name, 0.0) for name in BEGIN if name != COMPILE)
            self.trials += trials
            self.writing += seconds.get("write", 0.0) + seconds.get("commit", 0.0)
            self.bytes += int(event.get("bytes") or 0)
        memory = event.get("memory") or {}
        self.memory = max(filter(None, (self.memory, memory.get("device_peak"))), default=None)
        self.limit = memory.get("device_limit") or self.limit

    @property
    def tells(self) -> bool:
        """Whether there is enough for a cost."""
        return bool(self.pieces and self.trials)


@dataclass
class Receipts:
    """Everything a campaign's history says of costs."""

    plan: Plan
    taken: dict[Key, Taken] = field(default_factory=dict)
    sealed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By group, trials and bytes that went into the archive."""

    def read(self, events: Iterable[Mapping[str, Any]]) -> Receipts:
        parts = {part.name: part.group for part in self.plan.parts}
        for event in events:
            if event["event"] == "batch_settled" and not event.get("duplicate"):
                self._batch(event)
            elif event["event"] == "part_sealed":
                group = parts.get(re.sub(r"-s\d+$", "", event["part"]))
                if group is not None:
                    trials, size = self.sealed.get(group, (0, 0))
                    self.sealed[group] = trials + event["trials"], size + event["bytes"]
        return self

    def _batch(self, event: Mapping[str, Any]) -> None:
        """Enter a receipt, if it is of a whole batch: of some lanes, the rest of the call was filled up."""
        found = re.fullmatch(r"g(\d+)/(\d+)", event["batch"])
        number, batch = (int(word) for word in found.groups()) if found else (len(self.plan.groups), 0)
        if number >= len(self.plan.groups) or event.get("lanes") is not None:
            return
        group = self.plan.groups[number]
        trials = group.size(batch)
        if settled_trials(event["outcomes"]) < trials:
            return
        key = program_of(self.plan, group), event.get("pool") or "", event.get("device") or ""
        self.taken.setdefault(key, Taken(number)).note(event, trials, self.plan.sampling.segments)

    def costs(self, source: str, note: str) -> list[Cost]:
        return [self._cost(key, taken, source, note) for key, taken in self.taken.items() if taken.tells]

    def _cost(self, key: Key, taken: Taken, source: str, note: str) -> Cost:
        plan, group = self.plan, self.plan.groups[taken.group]
        program, pool, device = key
        trials, size = (
            sum(column)
            for column in zip(
                (0, 0),
                *(told for number, told in self.sealed.items() if program_of(plan, plan.groups[number]) == program),
                strict=True,
            )
        )
        return Cost(
            program=program,
            sampler=group.sampler,
            pool=pool,
            device=device,
            source=source,
            width=taken.width,
            begin=taken.begin / taken.calls,
            segment=taken.sampling / taken.pieces,
            steps=segment_steps(plan, group),
            compile=taken.compile,
            write=taken.writing / taken.trials,
            stored=taken.bytes / taken.trials,
            archived=size / trials if trials else None,
            memory=taken.memory,
            limit=taken.limit,
            warm=warm_steps(plan, group),
            plain=bytes_per_trial(group, plan.sampling.draws),
            lane=lane_bytes(plan, group),
            note=note,
        )


def costs_of_run(run: Path, plan: Plan) -> list[Cost]:
    """What the programs of a run took, for a plan that shares programs or experiments with it.

    Raises `WorkspaceError` where there is no run, `ConfigError` where it says nothing of this campaign.
    """
    there = load_plan(Workspace.open(run))
    found = _read(run, there, plan)
    if not found:
        raise ConfigError(
            f"--past {run}: not one whole batch was settled there", f"staffa status {run}; or measure it: --pilot"
        )
    samplers = {group.sampler for group in plan.groups}
    if not samplers & {cost.sampler for cost in found}:
        raise ConfigError(
            f"--past {run}: it ran {', '.join(sorted({cost.sampler for cost in found}))}, "
            f"this campaign is of {', '.join(sorted(samplers))}",
            "name a run of the same experiment, or measure it: --pilot",
        )
    return found


def earlier_costs(root: Path, plan: Plan) -> list[Cost]:
    """The same of the best run there is: in the campaign's own folder, else beside it; none where there is none.

    Best is what shares most programs with the plan; of these the one that was at work last.
    """
    wanted, best = {program_of(plan, group) for group in plan.groups}, (0, list[Cost]())
    for run in [root, *_neighbours(root)]:
        try:
            workspace = Workspace(run)
            there = load_plan(workspace) if workspace.is_planned else None
            shared = wanted & {program_of(there, group) for group in there.groups} if there is not None else set()
            if there is None or len(shared) <= best[0]:
                continue
            found = [cost for cost in _read(run, there, plan) if cost.program in shared]
        except (OSError, StaffaError, KeyError, TypeError, ValueError):
            continue  # what stands beside a campaign is no reason not to plan it
        covered = len({cost.program for cost in found})
        best = (covered, found) if covered > best[0] else best
        if best[0] == len(wanted) or (run == root and best[0]):
            break
    return best[1]


def _neighbours(root: Path) -> list[Path]:
    """Campaigns in the same folder, those that were at work last first."""
    try:
        around = [path for path in root.parent.iterdir() if path != root and Workspace(path).summary.is_file()]
        return sorted(around, key=lambda path: -Workspace(path).summary.stat().st_mtime)[:NEIGHBOURS]
    except OSError:
        return []


def _read(run: Path, there: Plan, plan: Plan) -> list[Cost]:
    note = "" if there.code == plan.code else "the model's code was another"
    return Receipts(there).read(history(Workspace(run))).costs(f"run {run}", note)
