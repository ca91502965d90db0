"""For the tests of those who write experiments and other plug-ins.

    from staffa.testing import check_experiment, check_family, faults

    def test_walk_conforms():
        check_experiment(Walk, {"scale": 0.5}, draws=6)

`check_experiment` asks of an experiment what the engine takes for granted, `check_family` of any plug-in
what its family takes for granted; both raise `NotConforming` with everything that is wrong, and return what
they found. `faults` is a table of trials that go wrong in every way there is, for campaigns in tests.
"""

from staffa.testing.experiments import check_experiment
from staffa.testing.families import check_family
from staffa.testing.faulty import Fault, Faulty, PlainFaulty, faults
from staffa.testing.findings import Finding, NotConforming

__all__ = [
    "Fault",
    "Faulty",
    "Finding",
    "NotConforming",
    "PlainFaulty",
    "check_experiment",
    "check_family",
    "faults",
]
