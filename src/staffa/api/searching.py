"""A search, as it is looked at and as it can be changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.api.holding import alive, ask, driven
from staffa.api.reporting import write_figure
from staffa.campaign.config import override_tier
from staffa.campaign.layers import values
from staffa.errors import ClusterError, ConfigError
from staffa.storage.ledger import Ledger
from staffa.storage.workspace import Workspace
from staffa.views.searched import Searched

if TYPE_CHECKING:
    from staffa.views.drawing.style import Drawing


class Search(Searched):
    """What a search found so far (see `staffa.views.searched.Searched`), and a way to have it go for something else."""

    def change(self, objectives: Mapping[str, Mapping[str, Any]]) -> Search:
        """Let something else be good from now on: every trial is scored anew, none runs again.

        A live driver goes by it at once, and so does whoever looks or carries on later. Returns the search as it
        stands then.

        Arguments:
        - `objectives`: by name what is otherwise: `{"bias": {"target": 0.02, "limit": None}}`; some of target,
          limit, direction, priority, group. Null takes a target or limit away.

        Raises `ConfigError` for what cannot be, `ClusterError` where the driver does not do it.
        """
        wanted = self.current.changed(objectives)
        if alive(self.workspace):
            reply = ask(self.workspace, "objectives", patch=objectives)
            if not reply.get("done"):
                raise ClusterError(str(reply.get("why")), f"staffa status {self.workspace.root}")
        elif wanted != self.current:
            with driven(self.workspace) as lease, Ledger.open(self.workspace, lease) as ledger:
                # Whoever was there first may have changed them, too.
                found = Search(self.workspace).current.changed(objectives)
                ledger.append({"event": "objectives_changed", "objectives": found.words()})
        return Search(self.workspace)

    def plot(self, kind: str = "course", *, to: str | Path | None = None) -> Drawing:
        """Draw the search; see `Searched.plot`.

        Arguments:
        - `to`: a file to write, whose ending says the format: png, svg, pdf.
        """
        figure = super().plot(kind)
        if to is not None:
            write_figure(figure, Path(to))
        return figure

    def plot_files(self, kinds: Iterable[str] = (), *, to: str | Path | None = None) -> dict[str, Any]:
        """The same as files: by default of every kind that fits, into `qa/` of the campaign's folder.

        Returns `figures`: of each its numbers, and the `file`.
        """
        from staffa.views.searched.figures import fitting

        chosen = tuple(kinds) or fitting(self)
        if to is not None and len(chosen) != 1:
            raise ConfigError(f"--to {to}: one file, and {len(chosen)} figures", "say which: --kind course")
        drawn = []
        for kind in chosen:
            path = self.workspace.figure(f"search-{kind}") if to is None else Path(to)
            figure = self.plot(kind, to=path)
            drawn.append({**figure.facts, "file": str(path)})
        return {"root": str(self.workspace.root), "figures": drawn}


def search(root: str | Path, *, set: Iterable[str] = ()) -> Search:
    """A campaign's search, from any process.

    Arguments:
    - `set`: other objectives to look at it by, `bias.target=0.02` each, as `Searched.rescored` takes them.

    Raises `ConfigError` for a campaign that is no search.
    """
    found, patch = Search(Workspace.open(root)), patched(set)
    if not patch:
        return found
    other = found.rescored(patch)
    assert isinstance(other, Search)
    return other


def patched(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Changes of objectives from words such as `bias.target=0.02`."""
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        path = [part.strip() for part in word.partition("=")[0].split(".")]
        if "=" not in word or len(path) < 2:
            raise ConfigError(f"--set {word}: what of which objective?", "such as --set bias.target=0.02")
        value: Any = values(override_tier(word))
        for part in path:
            value = value[part]
        found.setdefault(".".join(path[:-1]), {})[path[-1]] = value
    return found
