"""A process of the laboratory: the command line with traps laid, or the campaign without any driver.

drive.py run CAMPAIGN --set a.b=c …      drive.py resume ROOT …      (any word of the command line)
drive.py graph CAMPAIGN BATCH a.b=c      one batch's graph, computed right here
drive.py oracle CAMPAIGN a.b=c           all batches' graphs, then the archive
"""

import faulthandler
import signal
import sys


def main(words):
    import trap

    trap.install("driver")
    faulthandler.register(signal.SIGUSR1)
    if words[0] in ("graph", "oracle"):
        import staffa

        batch, *overrides = words[2:] if words[0] == "graph" else ["", *words[2:]]
        campaign = staffa.load(words[1], set=overrides)
        return compute(campaign, int(batch)) if words[0] == "graph" else oracle(campaign)
    from staffa.cli import main

    return main(words)


def compute(campaign, batch):
    import staffa

    print(staffa.graph(campaign, batch=batch).compute(scheduler="synchronous"))
    return 0


def oracle(campaign):
    """The whole campaign without a driver: each batch's graph, then its parts, in one plain loop."""
    from dask.utils import key_split

    import staffa

    for batch in range(staffa.plan(campaign).plan.batches):
        graph = staffa.graph(campaign, batch=batch)
        words = {key_split(key) for key in graph.dask}
        assert words == {"initialize", "sample", "write", "commit"}, words
        receipt = graph.compute(scheduler="synchronous")
        assert receipt["outcomes"] == {"ok": 4} and not receipt["duplicate"], receipt
    assert staffa.graph(campaign, batch=0).compute(scheduler="threads")["duplicate"]
    words = {key_split(key) for key in staffa.graph.reduce(campaign.root).dask}
    assert words == {"read", "table", "summary", "seal"}, words
    staffa.consolidate(campaign.root)
    sealed = {path: path.read_bytes() for path in campaign.root.glob("archive/*/**/part-00000.parquet")}
    staffa.graph.reduce(campaign.root).compute(scheduler="synchronous")
    assert len(sealed) == 2 and {path: path.read_bytes() for path in sealed} == sealed, "sealed twice, two results"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
