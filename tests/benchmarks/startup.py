"""From the command to the first sample on an idle cluster: Staffa against a plain sbatch array.

Both sides start four one-GPU jobs whose processes import the same packages, find the same program
in the same compile cache, and sample. Needs a real SLURM (make slurm-deps, root).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

ROUNDS = 5
PLAIN = """#!/bin/bash
#SBATCH --gres=gpu:1 --cpus-per-task=1 --mem=1G -t 10
{exports}
{python} {here}/startup.py sample {root}
"""


def sample(root: Path) -> None:
    """What a plain job does: import, compile (from the cache), sample once, say when."""
    import dask
    import distributed

    from staffa.execution.bench import Order
    from staffa.execution.graph import batch_graph
    from staffa.execution.prepare import load_plan, plan_digest
    from staffa.storage.workspace import Workspace

    assert dask and distributed
    workspace = Workspace.open(root)
    plan = load_plan(workspace)
    number = int(os.environ["SLURM_ARRAY_TASK_ID"])
    order = Order(str(root), plan_digest(plan), plan.generation, 0, number)
    batch_graph(order, plan.sampling).compute(scheduler="synchronous")
    (root / "logs" / f"sampled-{number}").write_text(str(time.time()))


def plain(folder: Path, file: Path) -> float:
    """Seconds from sbatch to the first of four samples."""
    import staffa
    from staffa.experiment.environment import worker_environment

    campaign = staffa.load(file, storage={"root": str(folder)})
    staffa.graph(campaign, batch=0)
    root = campaign.root.absolute()
    exports = "\n".join(f"export {name}='{value}'" for name, value in worker_environment(False, "threefry2x32").items())
    script = PLAIN.format(exports=exports, python=sys.executable, here=Path(__file__).parent, root=root)
    started = time.time()
    subprocess.run(
        ["sbatch", "--parsable", "--array=0-3", "-o", str(root / "logs" / "plain-%a.log")],
        input=script,
        text=True,
        check=True,
        capture_output=True,
    )
    marks = [root / "logs" / f"sampled-{number}" for number in range(4)]
    wait(lambda: all(mark.exists() and mark.read_text() for mark in marks), root)
    wait(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip(), root)
    return min(float(mark.read_text()) for mark in marks) - started


def ours(folder: Path, file: Path) -> float:
    """Seconds from `staffa run` to the first batch that was sampled, written, committed and told."""
    from staffa.storage.ledger import history
    from staffa.storage.workspace import Workspace

    command = [sys.executable, "-m", "staffa", "run", str(file), "--cluster", str(file.parent / "cluster.yaml")]
    started = time.time()
    subprocess.run([*command, "--allow-dirty", "--set", f"storage.root={folder}"], check=True, capture_output=True)
    events = list(history(Workspace(folder / "v1.0_walk")))
    return min(event["at"] for event in events if event["event"] == "batch_settled") - started


def wait(holds, root: Path, seconds: float = 120.0) -> None:
    until = time.time() + seconds
    while not holds():
        if time.time() > until:
            logs = "\n".join(path.read_text() for path in (root / "logs").glob("plain-*.log"))
            raise TimeoutError(logs)
        time.sleep(0.02)


def main() -> int:
    from slurm.machine import Machine, missing
    from slurm.runs import workflow

    if reason := missing():
        print(json.dumps({"skipped": reason}))
        return 0
    with Machine() as machine, tempfile.TemporaryDirectory() as name:
        os.environ.update(machine.environment)
        file = workflow(Path(name), trials=16, batch=4)
        found: dict[str, list[float]] = {"plain": [], "ours": []}
        for round in range(ROUNDS + 1):
            seconds = plain(Path(name) / f"plain{round}", file), ours(Path(name) / f"ours{round}", file)
            if round:  # the first fills the compile cache
                found["plain"].append(seconds[0])
                found["ours"].append(seconds[1])
    plainly, own = (statistics.median(found[who]) for who in ("plain", "ours"))
    print(json.dumps({"plain": plainly, "ours": own, "behind": own - plainly, "all": found}))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["sample"]:
        sample(Path(sys.argv[2]))
        sys.exit(0)
    sys.exit(main())
