"""A worker of a served search in Python: `python worker.py RUN [THREADS]`, as often and on as many machines as wanted.

It asks ahead, keeps its trials by heartbeats, and puts results into `outbox` while the server is away. Ctrl-C lets it
finish what it has begun.
"""

import json
import sys
from pathlib import Path

from staffa.search.working import work


def height(params: dict) -> dict:
    """Rosenbrock's valley; what you would replace, by a call of your program if you like."""
    x, y = params["x"], params["y"]
    return {"height": (1 - x) ** 2 + 100 * (y - x**2) ** 2}


def main(run: Path, threads: int) -> None:
    served = json.loads((run / "serving.json").read_text())
    token = (run / "secrets" / "write.token").read_text().strip()
    done = work(served["url"], token, height, threads=threads, ca=served["ca"], outbox=Path("outbox"), folder=run)
    sys.stdout.write(f"told {done.told}, failed {done.failed}, kept {done.kept}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
