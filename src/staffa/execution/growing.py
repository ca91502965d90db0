"""How a campaign grows and shrinks.

Growth is a new generation, never a resize: a plan that begins with everything that was planned
before, unchanged, and goes on with groups, stores and parts of its own. Trials are told apart by
their digests, so whatever the order in which values are written, none is planned twice, and those
that stand are left alone.

A generation is made aside by whoever asks for it (`propose`, `stage`) and joins the campaign by a few
renames (`carry_out`, by whoever holds the lease: a driver while it runs, or a command alone). That
of its plan is the one that counts: before it the campaign is the old one, after it the new one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from staffa.campaign.blocks import trial_names
from staffa.campaign.config import Declaration, difference, dump, load, load_frozen, plain
from staffa.campaign.domain import Domain
from staffa.campaign.frozen import recorded
from staffa.campaign.identity import EXPERIMENT, FREE, NOTES, stand_in
from staffa.campaign.inputs import Inputs
from staffa.campaign.joining import SAMPLING
from staffa.campaign.layers import Origin, from_python, values
from staffa.campaign.plan import Earlier, Plan
from staffa.campaign.reading import read_text
from staffa.errors import ConfigError, StaffaError, WorkspaceError, near
from staffa.execution.exempt import Desk, Mask, check_inputs, named, seated, untried
from staffa.execution.prepare import (
    Built,
    Prepared,
    check_differences,
    current_plan,
    load_plan,
    open_stores,
    source_of,
    unfolded,
    write_trials,
)
from staffa.execution.wishes import Wishes
from staffa.storage.books import Books, fold
from staffa.storage.files import DISK, sync_directory, write_aside
from staffa.storage.ledger import Ledger, history
from staffa.storage.merged import read_merge
from staffa.storage.provenance import code_digest
from staffa.storage.roster import names_of, read_rosters, roster_digests
from staffa.storage.spans import spans, unspan
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

SEARCHING = ("search.space", "search.trials", "search.strategy")
GROWING = ("space", "replicates", "inputs", "duplicates", *SEARCHING, "campaign.description", "campaign.tags", *NOTES)
"""What may differ when a campaign grows or shrinks."""
SHRUNK = "shrunk"
"""Why trials are cancelled that were dropped from the campaign: naming them again brings them back."""
CANCELLED = int(Outcome.CANCELLED)
ABANDONED_SECONDS = 86_400.0
"""A generation in the making that is older belongs to nobody any more."""


@dataclass(frozen=True)
class Proposal:
    """What would become of a campaign.

    Arguments:
    - `prepared`: the new declaration unfolded, with the trials to be added; None where nothing in it changes.
    - `drop`, `readmit`: indices of trials to be dropped, and of dropped ones to be run after all.
    - `facts`: the same in numbers, for people.
    - `mended`: whether `campaign.yaml` says what the campaign is; not where somebody was cut short.
    """

    prepared: Prepared | None
    drop: tuple[int, ...]
    readmit: tuple[int, ...]
    facts: dict[str, Any]
    mended: bool = True

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.prepared is None and self.mended and not (self.drop or self.readmit)


# --- what is wanted --------------------------------------------------------------------------------


def redeclared(
    workspace: Workspace,
    path: str | Path | None = None,
    *,
    space: Sequence[Mapping[str, Any]] | None = None,
    replicates: int | None = None,
    inputs: Any = None,
    overrides: Iterable[str] = (),
    cluster: str | None = None,
    profile: str | None = None,
) -> Declaration:
    """The campaign's declaration with another space, other replicates, other inputs.

    Arguments:
    - `path`: a changed campaign file; by default the frozen declaration is what is changed.
    - `overrides`: `a.b=c` each; blocks of the space are reached by their place: `space[0].grid.scale=[1, 2]`.

    Raises `WorkspaceError` with the difference where anything else differs, `ConfigError` for what cannot be.
    """
    frozen = load_frozen(workspace.frozen, directory=workspace.code)
    given = {"space": space, "inputs": inputs, "replicates": replicates}
    said = [*overrides, *(f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None)]
    if path is None and space is None:
        _check_said(workspace, said)
    if path is None:
        wanted = load_frozen(workspace.frozen, directory=workspace.code, overrides=_placed(said, frozen))
    else:
        written = load(path, cluster=cluster, profile=profile)
        wanted = load(path, cluster=cluster, profile=profile, overrides=_placed(said, written))
    free = SEARCHING if frozen.campaign.search else GROWING[:3]
    hint = (
        f"only {', '.join(free)} may grow; for the rest raise campaign.version, "
        f"or leave it as it is: staffa config explain {workspace.frozen}"
    )
    check_differences(frozen, wanted, (*FREE, *GROWING), f"{workspace.root} cannot become another campaign", hint)
    if path is not None and code_digest(wanted.directory) != load_plan(workspace).code:
        raise WorkspaceError(
            f"the model's code in {wanted.directory} is not the one this campaign was planned with",
            f"undo the change, raise campaign.version, or first: staffa resume {workspace.root} --accept-code-change",
        )
    return _grafted(frozen, wanted, recorded(workspace.frozen.read_text()))


def _check_said(workspace: Workspace, changes: Iterable[str]) -> None:
    """Refuse changes of a space that does not name all trials: those it does not name would not follow."""
    merged = read_merge(workspace)
    about = [change for change in changes if change.strip().startswith(("space", "replicates"))]
    if merged is not None and not merged["declared"] and about:
        raise WorkspaceError(
            f"{about[0]}: the space of {workspace.root} does not name all of its trials, since no blocks say what "
            f"{' and '.join(source['root'] for source in merged['sources'])} have together",
            f"say the whole space: staffa expand {workspace.root} CAMPAIGN.yaml",
        )


def _check_explored(prepared: Prepared, plan: Plan) -> None:
    """Refuse new trials of a merged campaign that do not say what is explored in it."""
    known = {column.name for column in prepared.rows.points.columns}
    lacking = [name for name, _ in plan.parameters if name.startswith((EXPERIMENT, SAMPLING)) and name not in known]
    if lacking and len(prepared.rows.kept):
        raise ConfigError(
            f"space: {', '.join(lacking)}: explored since campaigns were merged, and not in this space",
            "name it in the space"
            if lacking[0].startswith(EXPERIMENT)
            else "no space says how trials are sampled: expand the campaigns themselves, and merge them again",
        )


def kept_up(declaration: Declaration, workspace: Workspace) -> Declaration:
    """A declaration with all that the campaign has grown by since it was written."""
    found = _grafted(declaration, load_frozen(workspace.frozen, directory=workspace.code), {})
    title = {"campaign": declaration.campaign.campaign}
    return replace(found, campaign=found.campaign.model_copy(update=title))


def appended(workspace: Workspace, together: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """The frozen space with more points, where it is one list of points: the values of each parameter in turn.

    Raises `ConfigError` where it is a product, or where other parameters are meant than those it has.
    """
    space = plain(load_frozen(workspace.frozen, directory=workspace.code))["space"]
    block = space[0] if len(space) == 1 else {}
    known = block.get("zip") or (block.get("grid") if len(block.get("grid", ())) == 1 else None)
    if known is None or len(block) > 1:
        given = " x ".join(next(iter(one)) for one in space) or "one point"
        raise ConfigError(
            f"the space of {workspace.root} is no list of points that could be longer ({given})",
            "give it whole: space=[…]",
        )
    if known.keys() != together.keys():
        stranger = next((name for name in together if name not in known), "")
        hint = near(stranger, known) if stranger else f"explored: {', '.join(known)}"
        raise ConfigError(f"{list(together)} are not the parameters that {workspace.root} explores", hint)
    more = {name: from_python(list(together[name]), Origin("python"), (name,)) for name in known}
    grown = {name: [*(old if isinstance(old, list) else [old]), *values(more)[name]] for name, old in known.items()}
    return [{"zip": grown}]


def lengthened(workspace: Workspace, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The frozen space with more points where it is a list of such; otherwise these alone: others stay, unnamed."""
    space = plain(load_frozen(workspace.frozen, directory=workspace.code))["space"]
    listed = space[0]["list"] if len(space) == 1 and space[0].keys() == {"list"} else []
    if any(point.keys() != other.keys() for point in points[:1] for other in listed[:1]):
        listed = []
    return [{"list": list({json.dumps(point, sort_keys=True): point for point in [*listed, *points]}.values())}]


def _placed(overrides: Iterable[str], declaration: Declaration) -> list[str]:
    """Overrides that reach into the list of blocks, as one that gives it whole; the others as they are."""
    others, space = [], json.loads(json.dumps(plain(declaration)["space"]))
    for override in overrides:
        field, _, text = override.partition("=")
        place = re.fullmatch(r"\s*space(?:\[(\d+)\]|\.(\d+))\.(.+?)\s*", field)
        if place is None:
            others.append(override)
            continue
        number = int(place[1] or place[2])
        if number >= len(space):
            last = f"the last one is space[{len(space) - 1}]"
            raise ConfigError(f"--set {field.strip()}: the space has {len(space)} blocks", last)
        node = read_text(text, Origin("set"), tuple(field.split(".")))
        _plant(space[number], place[3], values({"value": node})["value"])
        others.append(f"space={json.dumps(space)}")
    return others


def _plant(block: dict[str, Any], path: str, value: Any) -> None:
    """Set what stands at a path in a block; a parameter's name may hold dots itself."""
    kind, dot, name = path.partition(".")
    if dot:
        block.setdefault(kind, {})[name] = value
    else:
        block[kind] = value


def _grafted(frozen: Declaration, wanted: Declaration, written: Mapping[str, Origin]) -> Declaration:
    """The frozen declaration with what may differ taken from the other.

    Arguments:
    - `written`: where the frozen values were written once.
    """
    sections = tuple(dict.fromkeys(path.partition(".")[0] for path in GROWING))
    taken = {name: getattr(wanted.campaign, name) for name in sections}
    own = {path: origin for path, origin in frozen.origins.items() if re.split(r"[.\[]", path)[0] not in sections}
    other = {path: origin for path, origin in wanted.origins.items() if re.split(r"[.\[]", path)[0] in sections}
    kept = {path: written.get(path, one) if one.tier == "frozen" else one for path, one in {**own, **other}.items()}
    return Declaration(frozen.campaign.model_copy(update=taken), kept, wanted.directory)


# --- what it would mean ----------------------------------------------------------------------------


def propose(workspace: Workspace, declaration: Declaration, *, shrink: bool = False, back: bool = False) -> Proposal:
    """Compare a declaration with the campaign that stands. Nothing is written.

    Arguments:
    - `shrink`: drop what the declaration does not name, as far as it was not issued; add nothing.
    - `back`: have everything that was dropped and is named run after all, not only what is named anew.
    """
    plan, _ = current_plan(workspace)
    if shrink:
        _check_listed(workspace, plan)
    frozen = load_frozen(workspace.frozen, directory=workspace.code)
    known = roster_digests(workspace.rosters)
    prepared = unfolded(
        replace(declaration, directory=workspace.code),
        Earlier(plan, known),
        _inputs(workspace, plan, frozen, declaration),
    )
    declared = prepared.rows.declared
    if read_merge(workspace) is not None:
        _check_explored(prepared, plan)
    if shrink and len(prepared.rows.kept):
        raise ConfigError(
            f"{len(prepared.rows.kept)} trials of this space are not in the campaign: it would grow",
            f"staffa expand {workspace.root}, then shrink it",
        )
    if plan.search is not None:
        return _longer(workspace, plan, prepared, frozen, declaration)
    outside, marks = ~stand_in(known, declared), _marks(workspace, plan)
    drop = outside if shrink else np.zeros(len(known), bool)
    again = np.zeros(len(known), bool) if shrink else ~outside & _shrunk(workspace, plan, marks, known)
    if again.any() and not back:
        again &= ~stand_in(known, trial_names(frozen.campaign, Built(workspace.code).offer))
    changed = bool(difference(frozen, declaration)) or bool(len(prepared.rows.kept))
    facts = {
        "root": str(workspace.root),
        "generation": prepared.plan.generation if changed else plan.generation,
        "trials": prepared.plan.trials,
        "added": len(prepared.rows.kept),
        "present": len(declared) - len(prepared.rows.kept),
        "outside": int(outside.sum()),
        "readmitted": int(again.sum()),
        "missing_input": prepared.missing,
        **_dropping(drop, marks),
        "groups": len(prepared.own),
        "batches": sum(group.batches for group in prepared.own.values()),
    }
    mended = workspace.campaign_yaml.read_bytes() == workspace.frozen.read_bytes()
    return Proposal(prepared if changed else None, _indices(drop), _indices(again), facts, mended)


def _longer(
    workspace: Workspace, plan: Plan, prepared: Prepared, frozen: Declaration, declaration: Declaration
) -> Proposal:
    """A search that asks for more trials, maybe in another space. What it asked for so far stays, wherever it lies."""
    before, after = frozen.campaign.search, declaration.campaign.search
    assert before is not None and after is not None
    names, known = Domain.read(after.space).names, Domain.read(before.space).names
    if set(names) != set(known):
        other = next(iter(set(names) ^ set(known)))
        text = f"search.space.{other}: the trials that stand have {', '.join(known)}"
        raise ConfigError(text, "a search of other parameters is another campaign: raise campaign.version")
    changed = bool(difference(frozen, declaration))
    if changed and after.trials <= before.trials:
        text = f"search.trials: {after.trials}, and {before.trials} were to be asked for"
        raise ConfigError(text, f"a search grows by trials: --set search.trials={2 * before.trials}")
    facts = {
        "root": str(workspace.root),
        "generation": prepared.plan.generation if changed else plan.generation,
        "trials": after.trials,
        "added": after.trials - before.trials,
        **dict.fromkeys(("outside", "readmitted", "missing_input", "dropped", "issued"), 0),
        "present": before.trials,
        "groups": len(prepared.own) if changed else 0,
        "batches": max(group.batches for group in prepared.own.values()) if changed else 0,
    }
    mended = workspace.campaign_yaml.read_bytes() == workspace.frozen.read_bytes()
    return Proposal(prepared if changed else None, (), (), facts, mended)


def propose_drop(workspace: Workspace, indices: Iterable[int]) -> Proposal:
    """Drop these trials, as far as they were not issued; the declaration stays."""
    plan = load_plan(workspace)
    _check_listed(workspace, plan)
    drop, marks = np.zeros(plan.trials, bool), _marks(workspace, plan)
    drop[np.fromiter(indices, np.int64)] = True
    facts = {"root": str(workspace.root), "generation": plan.generation, "trials": plan.trials}
    return Proposal(None, _indices(drop), (), {**facts, **_dropping(drop, marks)})


def _check_listed(workspace: Workspace, plan: Plan) -> None:
    """Refuse to drop trials of a search: it asks for none that is not issued at once."""
    if plan.search is not None:
        raise ConfigError(
            f"'{workspace.root}' is a search: it asks for trials one by one, and there is none to drop",
            f"staffa cancel {workspace.root} TRIAL, or to ask for no more: staffa stop {workspace.root}",
        )


def _indices(mask: Mask) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def _inputs(workspace: Workspace, plan: Plan, frozen: Declaration, wanted: Declaration) -> Inputs:
    """The templates as the plan has them, unless they were written anew: then they begin where that was."""
    if wanted.campaign.inputs == frozen.campaign.inputs:
        return plan.inputs
    given = wanted.campaign.inputs
    beside = source_of(workspace) if wanted.directory == workspace.code else wanted.directory
    return Inputs(given.paths, given.together).resolved(beside or workspace.code)


def _marks(workspace: Workspace, plan: Plan) -> npt.NDArray[np.uint8]:
    """Outcome codes of all trials, by index."""
    table = read_rosters(workspace.rosters, ["group", "row"])
    groups, rows = table["group"].to_numpy(), table["row"].to_numpy()
    found = np.zeros(len(groups), np.uint8)
    for number, store in open_stores(workspace, plan).items():
        own = groups == number
        found[own] = store.status()[rows[own]]
    return found


def _dropping(drop: Mask, marks: npt.NDArray[np.uint8]) -> dict[str, int]:
    """How many of the trials to be dropped were not tried, and how many it is too late for."""
    untried = np.isin(marks, (Outcome.MISSING, Outcome.MISSING_INPUT))
    return {"dropped": int((drop & untried).sum()), "issued": int((drop & ~untried & (marks != CANCELLED)).sum())}


def _shrunk(workspace: Workspace, plan: Plan, marks: npt.NDArray[np.uint8], known: npt.NDArray[np.uint8]) -> Mask:
    """Which trials were dropped from the campaign."""
    found = np.asarray(marks == CANCELLED)
    if not found.any():
        return found
    books = fold(history(workspace))
    table = read_rosters(workspace.rosters, ["group", "row"])
    size = np.array([group.batch for group in plan.groups])
    groups, rows = table["group"].to_numpy(), table["row"].to_numpy()
    for index in np.flatnonzero(found).tolist():
        batch = (int(groups[index]), int(rows[index] // size[groups[index]]))
        found[index] = _why(books, known[index].tobytes().hex(), named(batch)) == SHRUNK
    return found


def _why(books: Books, trial: str, batch: str) -> str:
    return books.why.get(trial) or books.why.get(batch, "")


# --- making a generation aside, and having it join -------------------------------------------------


def stage(workspace: Workspace, proposal: Proposal) -> dict[str, Any]:
    """Write a proposal's generation aside; returns what `carry_out` is to be told."""
    request = {"draft": None, "drop": spans(proposal.drop), "readmit": spans(proposal.readmit)}
    if proposal.prepared is None:
        return request
    _sweep(workspace)
    name = f"{os.getpid()}-{os.urandom(4).hex()}"
    folder = workspace.growing / name
    folder.mkdir(parents=True)
    try:
        write_trials(proposal.prepared, folder / "trials.parquet", folder / "hot")
        write_aside(folder / "campaign.yaml", dump(proposal.prepared.declaration))
        write_aside(folder / "plan.json", proposal.prepared.plan.dumps())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {**request, "draft": name}


def discard(workspace: Workspace, request: Mapping[str, Any]) -> None:
    """Forget a generation that nobody took up."""
    if request["draft"]:
        shutil.rmtree(workspace.growing / request["draft"], ignore_errors=True)


def _sweep(workspace: Workspace) -> None:
    if not workspace.growing.is_dir():
        return
    for folder in workspace.growing.iterdir():
        if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def carry_out(wishes: Wishes, request: Mapping[str, Any], adopt: Callable[[Plan], None]) -> dict[str, Any]:
    """Do what was proposed; for the holder of the lease.

    Arguments:
    - `wishes`: the plan on their desk is the campaign's latest.
    - `request`: what `stage` returned.
    - `adopt`: told of the plan that has grown, once it stands; puts it on the desk.

    Returns `done` with what was `dropped`, `readmitted` and so on, or `why` it was not; `stale` where the
    campaign has changed since it was proposed.
    """
    desk = wishes.desk
    try:
        plan = _drafted(desk, request["draft"]) if request["draft"] else None
        if plan is not None and not _continues(plan, desk.plan):
            return {"done": False, "stale": True, "why": "the campaign has changed meanwhile"}
        readmitted = wishes.retry(_digests(desk, request["readmit"]))
        if readmitted:
            # Before inputs are looked for: some of them may lack one.
            wishes.settle(math.inf)
        if plan is not None:
            publish(desk.workspace, request["draft"], plan)
            adopt(plan)
            desk.note(_grown(plan))
        droppable, issued = untried(desk, _chosen(desk, request["drop"]))
        dropped = wishes.cancel(droppable, SHRUNK)["trials"]
        wishes.settle()
        checked = check_inputs(desk)
    except StaffaError as error:
        return {"done": False, "why": str(error)}
    except OSError as error:
        # A full disk, or a generation that somebody took away: nothing to end a run for.
        if error.errno not in (*DISK, errno.ENOENT):
            raise
        return {"done": False, "why": str(error)}
    done = {"done": True, "readmitted": readmitted, "dropped": dropped, "issued": issued}
    return {**done, "missing_input": checked["missing_input"]}


def publish(workspace: Workspace, name: str, plan: Plan) -> None:
    """Have a generation join the campaign. Whatever is cut short, the next command finds the old one or the new."""
    folder, generation = workspace.growing / name, plan.generation
    stores = workspace.hot / str(generation)
    # Left by one that was cut short: no plan names it.
    shutil.rmtree(stores, ignore_errors=True)
    (folder / "hot").rename(stores)
    sync_directory(workspace.hot)
    before = workspace.declared(generation - 1)
    if not before.exists():
        write_aside(before, workspace.campaign_yaml.read_bytes())
    names_of(folder / "trials.parquet").replace(names_of(workspace.trials(generation)))
    (folder / "trials.parquet").replace(workspace.trials(generation))
    (folder / "campaign.yaml").replace(workspace.declared(generation))
    sync_directory(workspace.metadata)
    (folder / "plan.json").replace(workspace.plan(generation))
    sync_directory(workspace.metadata)
    mend(workspace)
    shutil.rmtree(folder, ignore_errors=True)


def mend(workspace: Workspace) -> None:
    """Have `campaign.yaml` say what the latest generation was declared as; for the holder of the lease."""
    if workspace.frozen != workspace.campaign_yaml:
        text = workspace.frozen.read_bytes()
        if workspace.campaign_yaml.read_bytes() != text:
            write_aside(workspace.campaign_yaml, text)


def alone(workspace: Workspace, ledger: Ledger, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what was proposed while no driver is at work."""
    desk = desk_of(workspace, ledger)
    wishes = Wishes(desk)
    done = carry_out(wishes, request, lambda plan: take_up(desk, plan))
    wishes.settle(math.inf)
    return done


def reconcile(workspace: Workspace, ledger: Ledger) -> dict[str, Any]:
    """Look again for the files trials need, while no driver is at work."""
    return look_again(desk_of(workspace, ledger))


def look_again(desk: Desk) -> dict[str, Any]:
    """Look again for the files trials need; for the holder of the lease. Returns as `carry_out`."""
    try:
        return {"done": True, **check_inputs(desk)}
    except OSError as error:
        if error.errno not in DISK:
            raise
        return {"done": False, "why": str(error)}


def take_up(desk: Desk, plan: Plan) -> None:
    """Put a plan that has grown on a desk, with the stores that came."""
    added = range(len(desk.plan.groups), len(plan.groups))
    desk.stores.update(open_stores(desk.workspace, plan, added))
    desk.plan = plan


def desk_of(workspace: Workspace, ledger: Ledger) -> Desk:
    """Where it is decided about trials while no driver is at work."""
    mend(workspace)
    plan = load_plan(workspace)
    desk = Desk(workspace, plan, open_stores(workspace, plan), ledger.books, ledger.append)
    tell_growth(desk)
    return desk


def tell_growth(desk: Desk) -> None:
    """Note a generation that joined just before its driver died."""
    if desk.plan.generation and desk.books.counts["grown"] < desk.plan.generation:
        desk.note(_grown(desk.plan))


def _grown(plan: Plan) -> dict[str, Any]:
    own = [group for group in plan.groups if group.generation == plan.generation]
    added = sum(group.trials for group in own)
    if plan.search is not None:  # each of its groups has room for all trials
        added = plan.search.trials - max(group.trials for group in plan.groups if group not in own)
    return {"event": "grown", "generation": plan.generation, "added": added, "trials": plan.trials}


def _drafted(desk: Desk, name: str) -> Plan:
    folder = desk.workspace.growing / Path(name).name
    return Plan.loads((folder / "plan.json").read_text())


def _continues(plan: Plan, earlier: Plan) -> bool:
    """Whether a plan is the next generation of another."""
    groups, parts = len(earlier.groups), len(earlier.parts)
    return (
        plan.generation == earlier.generation + 1
        and plan.code == earlier.code
        and plan.groups[:groups] == earlier.groups
        and plan.parts[:parts] == earlier.parts
    )


def _digests(desk: Desk, text: str) -> list[str]:
    if not text:
        return []
    names = read_rosters(desk.workspace.rosters, ["trial"])["trial"].to_pylist()
    return [names[index] for index in unspan(text) if index < len(names)]


def _chosen(desk: Desk, text: str) -> dict[int, Mask]:
    if not text:
        return {}
    table = read_rosters(desk.workspace.rosters, ["group", "row"])
    mask = np.zeros(table.num_rows, bool)
    mask[[index for index in unspan(text) if index < table.num_rows]] = True
    return seated(desk.plan, table, mask)
