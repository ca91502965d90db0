"""Functions of the workflow's own, called in a process of their own (see `staffa.execution.guest`).

Light: a hook that takes a millisecond must not wait for what only trials' hooks need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.errors import PluginError, near
from staffa.experiment.registry import _import_file as import_file
from staffa.experiment.registry import explained, importing_from
from staffa.storage.spans import unspan
from staffa.storage.workspace import Workspace
from staffa.trial import Outcome

if TYPE_CHECKING:
    from staffa.campaign.plan import Plan
    from staffa.storage.hot import HotStore


class Function:
    """A function of the workflow's own, called with facts."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._directory = Path(said["directory"])
        self._name = said["use"]
        self._function = _function(said["use"], self._directory, said["field"])

    def call(self, facts: Mapping[str, Any]) -> None:
        """Call it once; what it returns is nobody's business."""
        self.answer(facts)

    def answer(self, *arguments: Any) -> Any:
        """Call it once. What it raises is told with its line."""
        try:
            with importing_from(self._directory):
                return self._function(*arguments)
        except Exception as error:
            raise explained(error, self._directory, self._name) from error


def _function(reference: str, directory: Path, field: str) -> Callable[..., Any]:
    file, _, name = reference.rpartition(":")
    if not (directory / file).is_file():
        files = [str(path.relative_to(directory)) for path in directory.glob("**/*.py")]
        raise PluginError(f"{field}: {reference!r}: there is no file {file!r} in {directory}", near(file, files))
    module = import_file(directory / file, directory)
    found: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(found):
        known = [one for one, value in vars(module).items() if callable(value)]
        raise PluginError(f"{field}: {reference!r}: {file} has no function {name!r}", near(name, known))
    return found


class Trials:
    """A function called with every trial that an event is about.

    It gets a mapping: `trial` (its digest), `replicate`, `parameters`, `batch`, `lane`, `attempt`,
    `worker`, `node`; of a settled trial also `outcome`, `message` and `seconds`.
    """

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._function = Function(said)
        self._workspace = Workspace.open(said["root"])
        self._settled = bool(said["settled"])
        self._plan: Plan | None = None
        self._stores: dict[int, HotStore] = {}
        self._told: dict[str, set[int]] = {}
        """Lanes that were told of, by batch."""

    def call(self, event: Mapping[str, Any]) -> None:
        """Call it for each trial. One that raises does not keep the others from being told; raises for the first."""
        first: Exception | None = None
        count = 0
        for facts in self._trials(event):
            try:
                self._function.call(facts)
            except Exception as error:
                first, count = first or error, count + 1
        if first is not None:
            message = getattr(first, "message", str(first))
            raise RuntimeError(f"{message} ({count} trials of {event['batch']})")

    def _trials(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        number, batch = (int(part) for part in event["batch"][1:].split("/"))
        plan, store = self._place(number)
        group, digests = plan.groups[number], store.digests(batch)
        status, seconds = store.status(batch), store.seconds(batch)
        _, columns = store.inputs(batch)
        messages = {one["lane"]: one["message"] for one in event.get("failed", ())}
        replicates = store.column("replicate")[batch * group.batch :]
        for lane in self._lanes(event, status[: len(digests)]):
            parameters = {name: _plain(columns[name][lane]) for name in columns if name != "replicate"}
            yield {
                "trial": digests[lane],
                "replicate": int(replicates[lane]),
                "parameters": {**group.static, **parameters},
                "batch": event["batch"],
                "lane": lane,
                "attempt": event["attempt"],
                "worker": event["worker"],
                "node": event.get("node", ""),
                **(_settled(status[lane], seconds[lane], messages.get(lane, "")) if self._settled else {}),
            }

    def _lanes(self, event: Mapping[str, Any], status: Any) -> list[int]:
        """The trials an event is about: those that were asked for; with a late twin, those not yet told of."""
        told = self._told.setdefault(event["batch"], set())
        every = range(len(status))
        if event.get("lanes"):
            asked = unspan(event["lanes"])
        elif self._settled and event.get("duplicate"):
            asked = [lane for lane in every if lane not in told]
        else:
            # Never what has no data *now*: of a fast batch it may all be there before this is heard.
            asked = list(every)
        told.update(asked)
        return [lane for lane in asked if lane < len(status)]

    def _place(self, number: int) -> tuple[Plan, HotStore]:
        from staffa.execution.prepare import load_plan
        from staffa.storage.hot import HotStore

        if self._plan is None or number >= len(self._plan.groups):
            # A campaign may have grown since.
            self._plan = load_plan(self._workspace)
        if number not in self._stores:
            group = self._plan.groups[number]
            self._stores[number] = HotStore.open(self._workspace.group(group.generation, group.name))
        return self._plan, self._stores[number]


def _settled(status: Any, seconds: Any, message: str) -> dict[str, Any]:
    return {"outcome": Outcome(int(status)).word, "message": message, "seconds": round(float(seconds), 6)}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
