"""40,000 galaxy mocks with one command: how long it takes, what bounds it, how memory goes, what is in the archive.

Runs `staffa run workflows/mocks/campaign.yaml` (2,000 realizations x 20 redshifts, all stages on) as a user would and
watches its processes from outside. Prints JSON. `--keep FOLDER` leaves the campaign where other scripts can read it.
"""

import argparse
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
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            children = [_memory(child) for child in process.children(recursive=True)]
            rows.append((time.time() - began, _memory(process), max(children, default=0.0)))
        except psutil.NoSuchProcess:
            break
        time.sleep(1.0)
    if process.wait() not in (0, 1):
        raise SystemExit(process.stderr.read()[-3000:])
    return time.time() - began, rows


def _memory(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def course(rows: list[tuple[float, float, float]], column: int) -> dict[str, float]:
    """Memory from the second minute on: its mean in the first and in the last quarter, and the most."""
    values = [row[column] for row in rows if row[0] >= SETTLED_SECONDS] or [row[column] for row in rows]
    quarter = max(len(values) // 4, 1)
    first, last = values[:quarter], values[-quarter:]
    return {
        "first_quarter_mb": round(sum(first) / quarter),
        "last_quarter_mb": round(sum(last) / quarter),
        "most_mb": round(max(values)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--phases", type=int, default=2_000)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    (ROOT / "runs").mkdir(exist_ok=True)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="mocks-", dir=ROOT / "runs"))
    command = [STAFFA, "run", "workflows/mocks/campaign.yaml", "--allow-dirty", "--set", f"storage.root={folder}"]
    if given.phases != 2_000:
        command += ["--profile", "share", "--set", f"space.0.range.phase=[3000, {3000 + given.phases}]"]
    seconds, rows = watched([*command, "--set", "cluster.dashboard=false"])

    import staffa

    root = next(path.parent for path in Path(folder).glob("*/campaign.yaml"))
    run = staffa.attach(root)
    trials = run.query(
        "select count(*) as mocks, avg(n_halos) as halos, avg(n_galaxies) as galaxies, sum(n_galaxies) as total from draws"
    ).iloc[0]
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
