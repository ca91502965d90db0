"""Fixtures of the survival tests; what they are made of stands in `accidents.py`."""

import json

import pytest

pytest.register_assert_rewrite("survival.accidents")

from survival.accidents import Lab, assert_whole  # noqa: E402


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One compile cache for all tests: compiling is paid once."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def lab(tmp_path, cache, workers):
    found = Lab(tmp_path, cache, workers)
    yield found
    found.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, cache):
    """`undisturbed("Walk")`: the folder of a run of a model that nothing happened to."""
    done = {}

    def root(model="Walk", **changes):
        key = json.dumps([model, changes], sort_keys=True)
        if key not in done:
            lab = Lab(tmp_path_factory.mktemp("undisturbed"), cache)
            driver = lab.start("run", lab.campaign(model, **changes))
            assert driver.wait() == 0, driver.said
            assert_whole(lab.root, 64)
            done[key] = lab.root
        return done[key]

    return root
