"""Resume scan and status of 100,000 trials, and the inodes of a plain Python campaign."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SETTINGS = ["cluster.dashboard_port=0", "archive.every=off"]


def run(folder: str, trials: int, **more):
    import staffa

    space = [{"linspace": {"scale": [0.1, 1.0, trials]}}]
    settings = [*SETTINGS, f"storage.root={folder}"]
    campaign = staffa.load(HERE / "walk.yaml", set=settings, space=space, **more)
    return staffa.run(campaign, allow_dirty=True, progress=False)


def scan(root: Path) -> float:
    """What a resume reads to know what is missing: every mark of every store, and the journal."""
    from staffa.execution.prepare import load_plan, open_stores
    from staffa.execution.tally import counted
    from staffa.storage.books import fold
    from staffa.storage.ledger import history
    from staffa.storage.workspace import Workspace

    spent = []
    for _ in range(5):
        began = time.perf_counter()
        workspace = Workspace.open(root)
        plan = load_plan(workspace)
        figures = counted(plan, open_stores(workspace, plan))
        fold(history(workspace))
        spent.append(time.perf_counter() - began)
    assert figures["settled"] == figures["trials"] == 100_000
    return statistics.median(spent)


def status(root: Path) -> float:
    staffa = str(Path(sys.executable).with_name("staffa"))
    spent = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([staffa, "status", str(root)], check=True, capture_output=True)
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def main() -> None:
    (ROOT / "runs").mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(dir=ROOT / "runs")
    many = run(folder, 100_000, sampling={"draws": 10, "thin": 1}, execution={"batch": 64})
    found = {"scan": scan(many.root), "status": status(many.root)}
    plain = run(
        folder, 20480, campaign={"name": "plain"}, experiment={"use": "walk.py:Plain"}, sampling={"draws": None}
    )
    inodes = sum(1 for _ in plain.root.rglob("*")) + 1
    found["inodes_per_1000_off"] = 1000 * inodes / 20480
    shutil.rmtree(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
