"""The smallest experiment there is, in plain Python: the product of two parameters."""

import staffa


class Multiplication(staffa.Experiment):
    """Any Python will do in `step`: a simulator, a fit, a call of somebody else's program."""

    vectorize = "off"  # plain Python: no JAX, one trial after another

    def initialize(self, key, params):  # `numpy.random.default_rng(key)`, where chance is wanted
        return None

    def step(self, key, state, params):
        return state, {"z": params["x"] * params["y"]}
