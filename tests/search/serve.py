"""A server as a process, for tests: `python serve.py FOLDER '{"port": 0, …}'`."""

import json
import sys
from pathlib import Path

from staffa.campaign.domain import Domain
from staffa.search.serving import open_study, serve
from staffa.search.strategies.random import Random

SPACE = {"rate": [0.001, 1.0, "log"], "leaps": [1, 32, "int"], "mass": {"choice": ["unit", "diagonal"]}}
OBJECTIVES = {"loss": "minimize"}


def main() -> None:
    folder, said = Path(sys.argv[1]), json.loads(sys.argv[2])
    served = {name: said.pop(name) for name in ("host", "port", "tls") if name in said}
    trials = said.get("trials")
    strategy = Random(domain=Domain.read(SPACE), budget=trials, seed=1)
    serve(folder, open_study(folder, SPACE, OBJECTIVES, strategy=strategy, **said), **served)


if __name__ == "__main__":
    main()
