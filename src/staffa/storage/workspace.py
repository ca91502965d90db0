"""Where everything of a campaign stands.

`Workspace` is the only place that knows a path. A folder is a campaign's once
its `campaign.yaml` is there: planning writes that file last, so a folder
without it is an unfinished plan, which the next `staffa run` completes.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from staffa.errors import WorkspaceError

FOLDERS = ("metadata", "ledger", "control", "hot", "state", "archive", "logs", "secrets")
"""Made at planning. The others appear with their first file."""


@dataclass(frozen=True)
class Workspace:
    """One campaign's folder: `<storage.root>/<version>_<name>/`.

    Arguments:
    - `root`: the folder itself, absolute.
    """

    root: Path

    @classmethod
    def create(cls, root: Path | str) -> Workspace:
        """Make the folders (again: harmless). `secrets` is for the owner's eyes only.

        Raises `WorkspaceError` where we may not write; a full disk stays an `OSError`.
        """
        workspace = cls(absolute(root))
        try:
            for name in FOLDERS:
                (workspace.root / name).mkdir(parents=True, exist_ok=True)
            workspace.secrets.chmod(0o700)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise WorkspaceError(
                f"'{root}' cannot be made a campaign's folder: {error.strerror} ('{error.filename}')",
                "name a folder you may write to: `--set storage.root=FOLDER`",
            ) from error
        return workspace

    @classmethod
    def open(cls, path: Path | str) -> Workspace:
        """A campaign's folder that is already planned.

        Raises `WorkspaceError` for any other folder, saying why it is none and which near ones are.
        """
        workspace = cls(absolute(path))
        try:
            flaw = workspace._flaw()
        except PermissionError as error:
            raise WorkspaceError(
                f"'{path}' cannot be read: permission denied ('{error.filename}')",
                f"ask its owner, or look at it: `ls -ld {shlex.quote(str(path))}`",
            ) from error
        if flaw:
            raise WorkspaceError(f"'{path}' is not a campaign's folder: {flaw}", _hint(workspace))
        return workspace

    @property
    def is_planned(self) -> bool:
        """Whether planning was finished. A lone `campaign.yaml` is a user's declaration."""
        return self.campaign_yaml.is_file() and self.metadata.is_dir()

    def _flaw(self) -> str:
        if not self.root.is_dir():
            return "it is a file" if self.root.exists() else "there is no such folder"
        if "campaign.yaml" not in {path.name for path in self.root.iterdir()}:
            return "it has no campaign.yaml"
        with self.campaign_yaml.open("rb"):
            return "" if self.is_planned else "its campaign.yaml was never planned here"

    @property
    def campaign_yaml(self) -> Path:
        """The frozen declaration, with the tier each value came from."""
        return self.root / "campaign.yaml"

    @property
    def code(self) -> Path:
        """Snapshot of the workflow's own code; workers import from here."""
        return self.root / "code"

    @property
    def metadata(self) -> Path:
        return self.root / "metadata"

    @property
    def provenance(self) -> Path:
        return self.metadata / "provenance.json"

    def trials(self, generation: int | str) -> Path:
        """The table of a generation's trials: index, digest, parameters."""
        return self.metadata / f"trials-{generation}.parquet"

    def backend(self, name: str) -> Path:
        """What some worker processes computed with (`staffa.execution.programs`)."""
        return self.metadata / f"backend-{name}.json"

    def plan(self, generation: int | str) -> Path:
        """A generation's frozen plan: groups, batches, parts, programs."""
        return self.metadata / f"plan-{generation}.json"

    def declared(self, generation: int) -> Path:
        """The declaration of a generation; `campaign.yaml` is a copy of the latest one's."""
        return self.metadata / f"campaign-{generation}.yaml"

    @property
    def frozen(self) -> Path:
        """The declaration that counts: the latest generation's, and `campaign.yaml` where it never grew."""
        latest = self.declared(self.generation)
        return latest if latest.is_file() else self.campaign_yaml

    @property
    def generations(self) -> list[int]:
        """Numbers of the generations that stand: those with a plan, oldest first."""
        found = (re.fullmatch(r"plan-(\d+)\.json", path.name) for path in self.metadata.glob("plan-*.json"))
        return sorted(int(match[1]) for match in found if match)

    @property
    def generation(self) -> int:
        """The latest generation; a campaign that never grew has number 0 alone."""
        return max(self.generations, default=0)

    @property
    def rosters(self) -> list[Path]:
        """The tables of all trials, one a generation, oldest first."""
        return [self.trials(number) for number in range(self.generation + 1)]

    @property
    def merge(self) -> Path:
        """What a campaign was merged of; only where it was."""
        return self.metadata / "merge.json"

    @property
    def origins(self) -> Path:
        """Of each trial of a merged campaign where its data were computed, and as which trial."""
        return self.metadata / "merged.parquet"

    @property
    def growing(self) -> Path:
        """Where a generation is made before it joins the campaign."""
        return self.state / "growing"

    def checkpoint(self, generation: int | str, group: str, batch: int) -> Path:
        """The state a batch continues from; removed at its commit."""
        return self.state / f"{generation}-{group}-{batch}.safetensors"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def lease(self) -> Path:
        """Says who drives (`staffa.storage.lease`)."""
        return self.ledger / "lease.json"

    def journal(self, lease_id: str) -> Path:
        """The history one driver wrote."""
        return self.ledger / f"events-{lease_id}.jsonl"

    @property
    def summary(self) -> Path:
        """The books in short, for readers in other shells."""
        return self.ledger / "summary.json"

    @property
    def control(self) -> Path:
        """Requests to a live driver, and its answers."""
        return self.root / "control"

    @property
    def hot(self) -> Path:
        return self.root / "hot"

    def group(self, generation: int | str, group: str) -> Path:
        """The Zarr group of trials that share a program and an archive partition."""
        return self.hot / str(generation) / f"{group}.zarr"

    @property
    def state(self) -> Path:
        """What outlives a task but not its batch: checkpoints, scratch arrays, start marks."""
        return self.root / "state"

    def scratch(self, worker: str) -> Path:
        """Where a worker writes shards before they are renamed into `hot` (same file system)."""
        return self.state / "scratch" / _file_name(worker)

    def start_mark(self, worker: str) -> Path:
        """Names the batch a worker has on its device: open when the process died, so it is charged."""
        return self.state / "started" / f"{_file_name(worker)}.json"

    def worker_end(self, worker: str) -> Path:
        """How a worker process ended, written by whoever minds it on its node."""
        return self.state / "ended" / f"{_file_name(worker)}.json"

    @property
    def transient(self) -> tuple[Path, ...]:
        """Folders of use only while batches are in flight."""
        return self.state / "scratch", self.state / "started", self.state / "ended"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def draws(self) -> Path:
        """Sealed parts: one row per trial x chain x draw."""
        return self.archive / "draws"

    @property
    def trials_archive(self) -> Path:
        """Sealed parts: one row per settled trial."""
        return self.archive / "trials"

    @property
    def failed(self) -> Path:
        """Trials without data; rewritten whole."""
        return self.archive / "failed.parquet"

    @property
    def reduced(self) -> Path:
        """Statistics over all trials, and of each part what they are made of."""
        return self.archive / "reduced"

    @property
    def manifest(self) -> Path:
        """Files of the archive with their rows and checksums."""
        return self.archive / "manifest.json"

    @property
    def scheduler_file(self) -> Path:
        """How workers and other shells find the live scheduler."""
        return self.root / "scheduler.json"

    @property
    def machine(self) -> Path:
        """The cluster config a detached driver and its heirs go by (JSON is YAML)."""
        return self.metadata / "machine.yaml"

    @property
    def driver_job(self) -> Path:
        """The SLURM job a detached driver (or its heir) waits in."""
        return self.ledger / "driver.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def trial_log(self, batch: str) -> Path:
        """What the trials of a batch (`g0/3`) printed (`staffa.storage.trial_logs`)."""
        return self.logs / "trials" / f"{batch.replace('/', '-')}.jsonl"

    @property
    def qa(self) -> Path:
        return self.root / "qa"

    @property
    def report(self) -> Path:
        """The campaign's report; its numbers stand beside it."""
        return self.qa / "report.html"

    def figure(self, name: str) -> Path:
        """A figure somebody asked for."""
        return self.qa / f"{name}.png"

    @property
    def search(self) -> Path:
        """The history of a search that is asked and told (`staffa.search.journal`)."""
        return self.ledger / "search.jsonl"

    @property
    def serving(self) -> Path:
        """Where a search is served, while it is."""
        return self.root / "serving.json"

    @property
    def secrets(self) -> Path:
        """TLS credentials and tokens, 0700."""
        return self.root / "secrets"


def absolute(path: Path | str) -> Path:
    """A path without `..` and `~`; links are kept."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  resolves `..`, keeps links


def _file_name(word: str) -> str:
    """A worker's name (often an address) as a file name; different names stay different."""
    name = quote(word, safe=" ")
    return name if name.strip(".") else name.replace(".", "%2E")


def _hint(wanted: Workspace) -> str:
    """Which folders were probably meant, and otherwise how to get one."""
    if wanted.root.is_dir() and wanted.campaign_yaml.is_file():
        return f"make its folder: `staffa run {shlex.quote(str(wanted.campaign_yaml))}`"
    if wanted.metadata.is_dir():
        return "its planning was cut short: `staffa run CAMPAIGN.yaml` completes it"
    inside = [str(found) for found in _campaigns(wanted.root)]
    if inside:
        return "campaigns in it: " + ", ".join(f"'{path}'" for path in inside[:3])
    around = {found.name: found for near in _around(wanted.root) for found in _campaigns(near)}
    close = difflib.get_close_matches(wanted.root.name, around, n=3, cutoff=0.5) or sorted(around)[:3]
    if close:
        return "near it: " + ", ".join(f"'{around[name]}'" for name in close)
    return "make one: `staffa plan CAMPAIGN.yaml`, then `staffa run CAMPAIGN.yaml`"


def _around(root: Path) -> Iterator[Path]:
    yield from (root.parent, root.parent / "runs", Path("runs"))


def _campaigns(folder: Path) -> Iterator[Path]:
    """The campaigns' folders that lie directly in a folder."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for path in found:
        try:
            if Workspace(path).is_planned:
                yield path
        except OSError:
            continue
