"""A server as a process, for tests: `python serve.py FOLDER '{"port": 0, …}'`, and `Process`, which starts one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

SPACE = {"rate": [0.001, 1.0, "log"], "leaps": [1, 32, "int"], "mass": {"choice": ["unit", "diagonal"]}}
OBJECTIVES = {"loss": "minimize"}


def loss(params):
    return params["rate"] * params["leaps"] + (params["mass"] == "unit")


class Process:
    """A server in a process of its own, on any free port unless said otherwise."""

    def __init__(self, folder: Path, **said):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        # What a killed one left behind would be taken for the new one's word.
        (folder / "serving.json").unlink(missing_ok=True)
        self.log = folder / "log"
        with self.log.open("ab") as log:
            words = [sys.executable, __file__, folder, json.dumps({"port": 0, **said})]
            self.process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        self.wait_until(lambda: (folder / "serving.json").exists() and self.at is not None)

    @property
    def at(self):
        try:
            return json.loads((self.folder / "serving.json").read_text())
        except (OSError, ValueError):
            return None

    @property
    def token(self):
        return (self.folder / "secrets" / "write.token").read_text().strip()

    def client(self, **said):
        from staffa.search.client import Client

        return Client.of(self.folder, **said)

    def wait_until(self, condition, seconds=60.0):
        given_up = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < given_up, self.log.read_text()
            time.sleep(0.02)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self, number=signal.SIGTERM):
        """The exit code of a graceful end."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


def main() -> None:
    from staffa.campaign.domain import Domain
    from staffa.search.serving import open_study, serve
    from staffa.search.strategies.random import Random

    folder, said = Path(sys.argv[1]), json.loads(sys.argv[2])
    served = {name: said.pop(name) for name in ("host", "port", "tls") if name in said}
    space, objectives = said.pop("space", SPACE), said.pop("objectives", OBJECTIVES)
    strategy = Random(domain=Domain.read(space), budget=said.get("trials"), seed=1)
    serve(folder, open_study(folder, space, objectives, strategy=strategy, **said), **served)


if __name__ == "__main__":
    main()
