"""What a campaign looks like: its report, and figures of its results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from staffa.api.declaring import located
from staffa.api.looking import status
from staffa.errors import ConfigError
from staffa.storage.workspace import Workspace

if TYPE_CHECKING:
    from staffa.views.drawing.style import Drawing
    from staffa.views.report import Report

PAGE = ".html"


def report(root: str | Path, *, to: str | Path | None = None, set: Iterable[str] = ()) -> Report:
    """Write a campaign's report: one page of HTML, and its numbers beside it. Also while it runs.

    Arguments:
    - `to`: the page, ending in `.html`; by default `qa/report.html` in the campaign's folder.
    - `set`: other gates and figures than the campaign declares: `qa.rhat=1.05`.

    Raises `ConfigError` for what `qa` cannot have of this campaign.
    """
    from staffa.campaign.config import load_frozen
    from staffa.campaign.qa import check_qa
    from staffa.views.report import written
    from staffa.views.stored import stored_plan

    workspace, overrides = Workspace.open(root), tuple(set)
    page = workspace.report if to is None else Path(to)
    if page.suffix != PAGE:
        raise ConfigError(f"--to {to}: a report is a page of HTML", f"name a file that ends in {PAGE}")
    foreign = [word for word in overrides if not word.startswith("qa.")]
    if foreign:
        raise ConfigError(f"--set {foreign[0]}: a report only asks other things of the trials", "such as qa.rhat=1.05")
    declaration = load_frozen(workspace.frozen, directory=workspace.code, overrides=overrides)
    with located(declaration):
        check_qa(declaration.campaign.qa, stored_plan(workspace), workspace.code)
    return written(workspace, declaration, _status(root), page)


def plot(
    root: str | Path,
    *,
    x: str = "",
    y: str = "",
    z: str = "",
    by: str = "",
    kind: str = "",
    trials: Iterable[str | int] = (),
    where: str | None = None,
    to: str | Path | None = None,
) -> Drawing:
    """Draw a campaign's results: one of the figures that are made first.

    Arguments:
    - `x`, `y`, `z`, `by`: parameters, columns of the table of trials, or outputs, of which the mean over a trial's
      draws is taken; `x[2]` is the third number of an array. `x="draw"` traces the draws of y; `x="draws.energy"` is
      a histogram of all draws.
    - `kind`: `line`, `scatter`, `histogram`, `heatmap` (of z over x and y) or `trace`; left out, what fits.
    - `trials`: which are traced; by default a few from all over the campaign.
    - `where`: only trials whose parameters satisfy this SQL condition.
    - `to`: a file to write, whose ending says the format: png, svg, pdf.

    Returns a matplotlib figure, with the numbers in it as `facts`. Raises `ConfigError` with the near names.
    """
    from staffa.views.plot import Asked, plotted
    from staffa.views.results import Results

    results = Results(Workspace.open(root))
    asked = Asked(x, y, z, by, kind, tuple(str(trial) for trial in trials))
    figure = plotted(results if where is None else results.where(where), asked)
    if to is not None:
        write_figure(figure, Path(to))
    return figure


def plot_file(root: str | Path, *, to: str | Path | None = None, **asked: Any) -> dict[str, Any]:
    """The same, written to a file: by default into `qa/` of the campaign's folder. Returns its numbers and `file`."""
    from staffa.views.plot import file_name

    figure = plot(root, **asked)
    path = Workspace.open(root).figure(file_name(figure.facts)) if to is None else Path(to)
    write_figure(figure, path)
    return {**figure.facts, "file": str(path)}


def write_figure(figure: Drawing, path: Path) -> None:
    """A figure as a file, whole or not at all, in the format its ending says."""
    from staffa.storage.files import write_aside
    from staffa.views.drawing.style import picture

    form = path.suffix.removeprefix(".").lower()
    if not form:
        raise ConfigError(f"--to {path}: which format is that to be?", f"such as {path}.png, .svg or .pdf")
    data = picture(figure, form)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, data)


def _status(root: str | Path) -> dict[str, Any]:
    """The campaign in numbers; of one whose stores cannot be read only what needs none of them."""
    from staffa.errors import WorkspaceError

    try:
        return status(root)
    except (WorkspaceError, OSError):
        return {"root": str(root), "live": False}
