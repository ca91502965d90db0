"""100,000 trials that are done, and 1,000 more: how long that takes, and whether the old rows stay as they are.

    python tests/benchmarks/growing.py

The campaign is planned (its stores stand, nothing of it is run: growing does not look at data), and grown
by `staffa expand` as a process of its own, three times by 1,000. Prints JSON.
"""

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
TRIALS, MORE, TIMES = 100_000, 1_000, 3


def planned(folder: Path) -> Path:
    """A campaign of so many trials, written down; its folder."""
    import staffa
    from staffa.execution.prepare import create, unfolded
    from staffa.storage.workspace import Workspace

    space = [{"sobol": {"scale": [0.1, 1.0]}, "points": TRIALS}]
    campaign = staffa.load(HERE / "walk.yaml", set=[f"storage.root={folder}"], space=space)
    workspace = Workspace(campaign.root.absolute())
    create(unfolded(campaign.declaration), workspace)
    return workspace.root


def fingerprint(*folders: Path) -> dict[str, str]:
    """Digests of every file of some folders, or of some files."""
    files = [file for folder in folders for file in (folder.rglob("*") if folder.is_dir() else [folder])]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="growing-") as name:
        root = planned(Path(name))
        old = [root / "hot" / "0", root / "metadata" / "trials-0.parquet", root / "metadata" / "plan-0.json"]
        before, seconds = fingerprint(*old), []
        for time_ in range(1, TIMES + 1):
            points = f"space[0].points={TRIALS + time_ * MORE}"
            began = time.perf_counter()
            command = [sys.executable, "-m", "staffa", "expand", str(root), "--set", points, "--json"]
            said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            seconds.append(time.perf_counter() - began)
            assert said["added"] == MORE, said
        report = {"seconds": statistics.median(seconds), "all": seconds, "untouched": fingerprint(*old) == before}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
