"""Running some trials of a campaign again, and comparing with what was recorded.

They are computed from the frozen plan and the snapshot of the code, in a temporary folder and a
process of its own: nothing of the campaign is touched. In the recorded program (same width, device,
flags and versions) every bit has to agree, and the trials are computed together with those they were
computed with; elsewhere values have to agree within a tolerance. Which of the two applied is said,
and why.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from staffa.campaign.plan import Plan
from staffa.errors import ClusterError, ConfigError, WorkspaceError
from staffa.execution.again import Job, Lane, answered, ask
from staffa.execution.prepare import load_plan
from staffa.execution.programs import UNKNOWN, Record, maker, records
from staffa.execution.recorded import Gap, Recorded, Standing, archived_gaps, hot_gaps, stands
from staffa.experiment.backend import PLAIN
from staffa.experiment.environment import worker_environment
from staffa.storage.files import read_json
from staffa.storage.ledger import history
from staffa.storage.merged import OWN, read_merge, read_origins
from staffa.storage.provenance import changed_files, code_digest, known_backends
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

TOLERANCE = 1e-6
HOT, ARCHIVE, NOWHERE = "hot", "archive", "nowhere"


@dataclass(frozen=True)
class Verdict:
    """One trial, computed again and compared.

    Arguments:
    - `reasons`: why bits need not agree; none where they have to.
    - `recorded`: where its values were read, `hot` or `archive`; `nowhere` if they are gone.
    - `trouble`: what differs that is no value: the outcome, damaged shards.
    """

    where: Standing
    reasons: tuple[str, ...]
    recorded: str
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    trouble: str = ""

    @property
    def exact(self) -> bool:
        """Whether every bit has to agree."""
        return not self.reasons

    @property
    def agrees(self) -> bool:
        counts = [found.bits if self.exact else found.beyond for found in self.gaps.values()]
        return not self.trouble and not any(counts)

    @property
    def worst(self) -> tuple[str, Gap] | None:
        """The output that differs most, where any differs at all."""
        apart = [(name, found) for name, found in self.gaps.items() if found.bits]
        return max(apart, key=lambda item: (item[1].largest, item[1].bits), default=None)


def reproduce(
    workspace: Workspace,
    *,
    trials: int = 3,
    seed: int | None = None,
    tolerance: float = TOLERANCE,
    width: int | None = None,
) -> dict[str, Any]:
    """Run some random trials again, and say whether what was recorded came out.

    Arguments:
    - `trials`: how many; of those that have data. `seed` decides which.
    - `tolerance`: what values may differ by outside the recorded program, see `recorded.gap`.
    - `width`: lanes of a call; as recorded unless given.

    Raises `ConfigError` for nonsense, `WorkspaceError` where there is nothing to compare with,
    `PluginError` where the code cannot be run, `ClusterError` where its process dies.
    """
    _check(trials, tolerance, width)
    seed = np.random.SeedSequence().generate_state(1).item() if seed is None else seed
    recorded = Recorded(workspace, load_plan(workspace))
    chosen, among = _chosen(recorded, trials, seed)
    if not chosen:
        _nothing(workspace)
    code = _code_trouble(workspace, recorded.plan)
    reasons = ("the snapshot of the code was changed",) * bool(code)
    verdicts = Reproduction(recorded, tolerance, width, reasons).run(chosen)
    return _facts(workspace, verdicts, among, seed, tolerance, code)


class Reproduction:
    """Trials computed again, and compared.

    Arguments:
    - `reasons`: why no bits need agree in any of them.
    """

    def __init__(self, recorded: Recorded, tolerance: float, width: int | None, reasons: tuple[str, ...] = ()) -> None:
        self.recorded, self.plan, self.workspace = recorded, recorded.plan, recorded.workspace
        self._tolerance, self._width, self._reasons = tolerance, width, reasons
        self._made, self._backends = records(history(self.workspace)), known_backends(self.workspace.metadata)

    def run(self, chosen: Sequence[Standing]) -> list[Verdict]:
        together: dict[tuple[int, int, Record | None], list[Standing]] = defaultdict(list)
        for where in chosen:
            together[where.group, where.batch, self._maker(where)].append(where)
        orders = list(together.items())
        jobs = [self._job(group, batch, record, own) for (group, batch, record), own in orders]
        found, backend = self._computed(jobs)
        verdicts = []
        for ((_, _, record), own), done in zip(orders, found, strict=True):
            for where in own:
                reasons = self._reasons + tuple(self._unlike(where, record, done.width, backend))
                verdicts.append(self._judged(where, reasons, done.lanes[where.lane]))
        return verdicts

    def _maker(self, where: Standing) -> Record | None:
        return maker(self._made.get(where.batch_id, ()), where.lane)

    def _job(self, group: int, batch: int, record: Record | None, own: Sequence[Standing]) -> Job:
        """The trials to be computed, with those they were computed with."""
        lanes = sorted(where.lane for where in own)
        filled = lanes if self.plan.groups[group].vectorize == "off" else self._filled(group, batch, record, lanes)
        rows = self.recorded.rows(group, batch, filled)
        parameters = {name: rows[name].to_pylist() for name in self.plan.groups[group].traced}
        width = self._width
        if width is None and record is not None and record.programs[-1] != UNKNOWN:
            width = record.programs[-1][0]
        return Job(group, batch, width, tuple(lanes), tuple(filled), tuple(rows["trial"].to_pylist()), parameters)

    def _filled(self, group: int, batch: int, record: Record | None, lanes: Sequence[int]) -> list[int]:
        """Lanes of a batch that were on the device together; where nobody knows, those that have data."""
        store, size = self.recorded.store(group), self.plan.groups[group].size(batch)
        if store is None:
            names = self.recorded.rows(group, batch, range(size))["trial"].to_pylist()
            return [lane for lane, trial in enumerate(names) if trial in self.recorded.archived]
        status = store.status(batch)[:size]
        own = np.isin(status, (Outcome.OK, Outcome.NAN))
        own[list(lanes)] = True
        if record is not None and record.lanes is not None:
            own &= np.isin(np.arange(size), list(record.lanes))
        return [int(lane) for lane in np.flatnonzero(own)]

    def _computed(self, jobs: Sequence[Job]) -> Any:
        environment = {**os.environ, **worker_environment(self.plan.x64, self.plan.prng)}
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the device may have other users
        with tempfile.TemporaryDirectory(prefix="staffa-reproduce-") as name:
            folder = Path(name)
            shutil.copytree(self.workspace.code, folder / "code")
            (folder / "plan.json").write_text(self.plan.dumps())
            ask(folder, jobs)
            command = [sys.executable, "-m", "staffa.execution.again", name]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode or not (folder / "answer.json").exists():
                said = "\n".join(done.stderr.splitlines()[-20:])
                raise ClusterError(
                    f"the process that computed the trials again ended with exit code {done.returncode}: {said}",
                    "look at these trials: staffa explain RUN TRIAL",
                )
            return answered(folder, self.plan, jobs)

    def _unlike(self, where: Standing, record: Record | None, width: int, here: Mapping[str, str]) -> list[str]:
        """Whatever of the program is not as it was recorded, or not recorded."""
        batch = where.batch_id
        if record is None or UNKNOWN in record.programs:
            return [f"which program made batch {batch} is not recorded"]
        if len(record.programs) > 1:
            widths = ", ".join(f"width {made}" for made, _ in record.programs)
            return [f"batch {batch} was made by {len(record.programs)} programs in turn ({widths})"]
        recorded, name = record.programs[0]
        there = self._backends.get(name)
        if there is None:
            return [f"what batch {batch} was made with is not recorded any more (metadata/backend-{name}.json)"]
        plain = self.plan.groups[where.group].vectorize == "off"
        reasons = ["the code was changed since (--accept-code-change)"] * record.stale
        reasons += [f"width: {width} here, {recorded} recorded"] * (width != recorded and not plain)
        for key in PLAIN if plain else sorted(here.keys() | there.keys()):
            if here.get(key) != there.get(key):
                reasons.append(f"{key}: {here.get(key) or 'none'} here, {there.get(key) or 'none'} recorded")
        return reasons

    def _judged(self, where: Standing, reasons: tuple[str, ...], lane: Lane) -> Verdict:
        store, archived = self.recorded.store(where.group), self.recorded.archived
        if stands(store, where.batch) and store is not None:
            verdict = Verdict(where, reasons, HOT)
            outcome = Outcome(int(store.status(where.batch)[where.lane]))
            bad = dict.fromkeys(store.damaged(where.batch))
            verdict = replace(verdict, trouble=f"recorded data are damaged: {', '.join(bad)}" if bad else "")
        elif where.trial in archived:
            verdict, outcome = Verdict(where, reasons, ARCHIVE), archived.outcome(where.trial)
        else:
            return Verdict(where, reasons, NOWHERE, trouble="recorded data are gone")
        if lane.outcome != outcome:
            now = f"{Outcome(lane.outcome).word} now" + (f" ({lane.message})" if lane.message else "")
            return replace(verdict, trouble=f"{outcome.word} recorded, {now}")
        try:
            return replace(verdict, gaps=self._gaps(verdict, lane))
        except (pa.ArrowException, OSError) as error:
            return replace(verdict, trouble=f"recorded data cannot be read: {error}")

    def _gaps(self, verdict: Verdict, lane: Lane) -> dict[str, Gap]:
        where, store = verdict.where, self.recorded.store(verdict.where.group)
        if verdict.recorded == HOT and store is not None:
            return hot_gaps(store, where, lane.outputs, self._tolerance)
        row = self.recorded.rows(where.group, where.batch, [where.lane])
        group = self.plan.groups[where.group]
        parameters = {name: np.asarray(row[name].to_pylist()) for name in (*group.static, *group.traced)}
        return archived_gaps(self.recorded.archived, self.plan, where, parameters, lane.outputs, self._tolerance)


def _check(trials: int, tolerance: float, width: int | None) -> None:
    if trials < 1:
        raise ConfigError(f"--trials {trials}: at least one trial is to be run again", "--trials 3")
    if not tolerance >= 0:
        raise ConfigError(f"--tolerance {tolerance}: is not a number of at least 0", f"--tolerance {TOLERANCE:g}")
    if width is not None and width < 1:
        raise ConfigError(f"--width {width}: at least one lane is computed at a time", "leave --width out")


def _chosen(recorded: Recorded, count: int, seed: int) -> tuple[list[Standing], int]:
    """Some trials that have data, and among how many they were chosen."""
    there = recorded.with_data()
    merged = read_origins(recorded.workspace, len(there))
    # Under another name, from another seed, in other batches: that can be repeated only where it was done.
    places = np.flatnonzero(there if merged is None else there & (merged.of == OWN))
    picked = np.random.default_rng(seed).choice(places, min(count, len(places)), replace=False)
    return [recorded.standing(int(place)) for place in np.sort(picked)], len(places)


def _nothing(workspace: Workspace) -> None:
    merged = read_merge(workspace)
    if merged is None:
        raise WorkspaceError(f"no trial of {workspace.root} has data yet", f"staffa resume {workspace.root}")
    raise WorkspaceError(
        f"all trials of {workspace.root} that have data were computed in the campaigns it was merged of",
        f"staffa reproduce {shlex.quote(merged['makers'][0]['root'])}",
    )


def _code_trouble(workspace: Workspace, plan: Plan) -> str:
    """What is wrong with the snapshot of the code, if anything is."""
    if code_digest(workspace.code) == plan.code:
        return ""
    source = Path((read_json(workspace.provenance) or {}).get("source") or workspace.code)
    names = []
    if source.is_dir() and code_digest(source) == plan.code:
        names = [name for name in changed_files(source, workspace.code) if name.endswith(".py")]
    what = f" ({', '.join(names)})" if names else ""
    return f"'{workspace.code}' is not the code this campaign was planned with{what}"


def _facts(
    workspace: Workspace, verdicts: Sequence[Verdict], among: int, seed: int, tolerance: float, code: str
) -> dict[str, Any]:
    apart = [verdict for verdict in verdicts if not verdict.agrees]
    reasons = list(dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons))
    agree = not apart and not code
    return {
        "root": str(workspace.root),
        "agree": agree,
        "trials": len(verdicts),
        "among": among,
        "seed": seed,
        "tolerance": tolerance,
        "bit_for_bit": sum(verdict.exact for verdict in verdicts),
        "within_tolerance": sum(not verdict.exact for verdict in verdicts),
        "reasons": reasons,
        "code": code,
        "differ": len(apart),
        "compared": [_verdict_facts(verdict) for verdict in verdicts],
        "exit_code": 0 if agree else 1,
    }


def _verdict_facts(verdict: Verdict) -> dict[str, Any]:
    found = verdict.worst
    worst = {"output": found[0], **asdict(found[1])} if found else None
    return {
        **asdict(verdict.where),
        "recorded_in": verdict.recorded,
        "compared": "bit for bit" if verdict.exact else "within tolerance",
        "reasons": list(verdict.reasons),
        "agrees": verdict.agrees,
        "trouble": verdict.trouble,
        "worst": worst,
    }
