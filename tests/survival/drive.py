"""A driver process: `drive.py run CAMPAIGN [a.b=c …]`, `drive.py resume ROOT [--accept-code-change]`, ….

Ends with the exit codes the command line has; 70 for an error that nobody foresaw.
"""

import faulthandler
import signal
import sys
import traceback


def main(arguments):
    import trap

    faulthandler.register(signal.SIGUSR1)
    trap.install("driver")
    import staffa
    from staffa.errors import StaffaError

    verb, where, *rest = arguments
    accept = "--accept-code-change" in rest
    overrides = [word for word in rest if not word.startswith("--")]
    try:
        if verb == "run":
            run = staffa.run(where, set=overrides, progress=False, accept_code_change=accept)
        elif verb == "resume":
            run = staffa.resume(where, set=overrides, progress=False, accept_code_change=accept)
        elif verb == "graph":
            print(staffa.graph(staffa.load(where, set=overrides[1:]), batch=int(overrides[0])).compute(scheduler="synchronous"))
            return 0
        elif verb == "oracle":
            return oracle(staffa.load(where, set=overrides))
        else:
            print(getattr(staffa, verb)(where))
            return 0
    except KeyboardInterrupt:
        return 130
    except StaffaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 70
    print(run.ended)
    return run.ended.exit_code


def oracle(campaign):
    """The whole campaign without a driver: each batch's graph, then its parts, in one plain loop."""
    import staffa
    from dask.utils import key_split

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
