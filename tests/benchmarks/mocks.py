"""40,000 galaxy mocks with one command: how long it takes, what bounds it, how memory goes, what is in the archive.

Runs `staffa run workflows/mocks/campaign.yaml` (2,000 realizations x 20 redshifts, all stages on) as a user would and
watches its processes from outside. Prints JSON. `--keep FOLDER` leaves the campaign where other scripts can read it.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STAFFA = str(Path(sys.executable).with_name("staffa"))
SETTLED_SECONDS = 60.0
"""Imports, compilation and the first batches are over by then."""


def watched(command: list[str]) -> tuple[float, list[tuple[float, float, float]]]:
    """Run a command; its seconds, and each second's resident memory in MB: of itself, of its largest child."""
    began, rows = time.time(), []
    with tempfile.TemporaryFile("w+") as said:  # nobody reads a pipe meanwhile, and a full one would hold the run
        process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            try:
                children = [_memory(child) for child in process.children(recursive=True)]
                rows.append((time.time() - began, _memory(process), max(children, default=0.0)))
            except psutil.NoSuchProcess:
                break
            time.sleep(1.0)
        if process.wait() not in (0, 1):
            said.seek(0)
            raise SystemExit(said.read()[-3000:])
    return time.time() - began, rows


def _memory(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def course(rows: list[tuple[float, float, float]], column: int) -> dict[str, object]:
    """Memory from the second minute on: its mean in each tenth of the time, and the most."""
    values = [row[column] for row in rows if row[0] >= SETTLED_SECONDS] or [row[column] for row in rows]
    ends = [len(values) * tenth // 10 for tenth in range(11)]
    tenths = [values[low:high] for low, high in itertools.pairwise(ends) if high > low]
    return {"tenths_mb": [round(sum(own) / len(own)) for own in tenths], "most_mb": round(max(values))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", help="of the workflow: sample or smoke; by default all 40,000")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="mocks-", dir=ROOT / "runs"))
    command = [STAFFA, "run", "workflows/mocks/campaign.yaml", "--allow-dirty", "--set", f"storage.root={folder}"]
    command += ["--profile", given.profile] if given.profile else []
    seconds, rows = watched([*command, "--set", "cluster.dashboard=false"])

    import staffa

    root = next(path.parent for path in Path(folder).glob("*/campaign.yaml"))
    run = staffa.attach(root)
    halos, galaxies = "avg(n_halos) as halos", "avg(n_galaxies) as galaxies, sum(n_galaxies) as total"
    trials = run.query(f"select count(*) as mocks, {halos}, {galaxies} from draws").iloc[0]
    report = {
        "mocks": int(trials["mocks"]),
        "halos_each": round(float(trials["halos"]), 1),
        "galaxies_each": round(float(trials["galaxies"]), 1),
        "galaxies": int(trials["total"]),
        "seconds": round(seconds, 1),
        "outcomes": run.status["figures"]["outcomes"],
        "driver": course(rows, 1),
        "largest_worker": course(rows, 2),
        "hot_gb": _size(root / "hot"),
        "archive_gb": _size(root / "archive"),
    }
    if given.keep is None:
        shutil.rmtree(folder)
    print(json.dumps(report))


def _size(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9, 2)


if __name__ == "__main__":
    main()
