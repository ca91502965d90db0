"""A driver process: `drive.py run CAMPAIGN [a.b=c …]`, `drive.py resume ROOT [--accept-code-change]`, ….

Ends with the exit codes the command line has; 70 for an error that nobody foresaw.
"""

import sys
import traceback


def main(arguments):
    import trap

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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
