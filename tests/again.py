"""`make test`: all tests beside one another, then those that failed once more, one at a time.

Many tests are about processes: they start drivers and workers, kill them, and look at what others see of it. With four
of them at once on two cores anything may take ten times as long as ever before, and once in some thousand tests a
process comes too late for what a test takes for granted. A test that has found a mistake finds it on a quiet machine,
too; so what fails there alone, at most `LIMIT` tests, gets a second chance, and the result says which needed one.
More failures than that, one that fails again, and whatever cannot be collected are failures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LIMIT = 5
LAST_FAILED = Path(".pytest_cache") / "v" / "cache" / "lastfailed"
"""Where pytest keeps the names of what failed, below the folder that it is started in."""
TESTS_FAILED = 1
"""Of pytest's exit codes the one that says that all was collected and run."""


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments, then `pytest --last-failed`; returns the exit code."""
    LAST_FAILED.unlink(missing_ok=True)
    code = tested(*arguments)
    failed = sorted(json.loads(LAST_FAILED.read_text())) if LAST_FAILED.exists() else []
    # What cannot be collected goes by the name of its file.
    if code != TESTS_FAILED or len(failed) > LIMIT or not all("::" in name for name in failed):
        return code
    print(f"\n{len(failed)} failed beside others. Once more, one at a time:", flush=True)
    code = tested("--last-failed", "--last-failed-no-failures=none")
    verdict = "FAILED AGAIN" if code else "PASSED ON A QUIET MACHINE ONLY"
    print("\n".join([f"{verdict}, of these:" if code else f"{verdict}:", *(f"  {name}" for name in failed)]))
    return code


def tested(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
