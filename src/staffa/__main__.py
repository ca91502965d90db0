"""`python -m staffa`: the same as the command `staffa`."""

import sys

from staffa.cli import main

sys.exit(main())
