"""An epidemic in a closed town: susceptible, infected, recovered, counted in whole people.

In a time dt each of S susceptible is infected with probability 1 - exp(-infection_rate I/N dt), each of I
infected recovers with probability 1 - exp(-recovery_rate dt). With dt -> 0 this is the SIR model of Kermack and
McKendrick (Proc. R. Soc. A 115:700, 1927). Of a large town the part z that escapes infection solves

    ln(z N / S(0)) = -R0 (1 - z),    R0 = infection_rate dt / (1 - exp(-recovery_rate dt)),

whatever dt is (`final_size`): the mean path has ln S(t+dt) = ln S(t) - infection_rate I(t)/N dt, and an infected
stays infected for 1 / (1 - exp(-recovery_rate dt)) steps.
"""

import jax
import jax.numpy as jnp

import staffa

STEPS_A_DAY = 4


class Epidemic(staffa.Experiment):
    """One draw is one day: `sampling.thin` has to be the number of steps in a day, 4.

    Options:
    - `people`: who live in the town.
    - `infected`: how many of them are infected on day 0.

    Parameters (per day): `infection_rate`, `recovery_rate`.
    """

    def __init__(self, people: int = 20_000, infected: int = 50) -> None:
        if not 0 < infected < people:
            raise ValueError(f"infected: {infected} of {people} people")
        self.people, self.infected = people, infected

    def initialize(self, key, params):
        return jnp.array([self.people - self.infected, self.infected], float)

    def step(self, key, state, params):
        susceptible, infected = state
        catching, healing = jax.random.split(key)
        pressure = params["infection_rate"] * infected / self.people / STEPS_A_DAY
        caught = jax.random.binomial(catching, susceptible, -jnp.expm1(-pressure))
        healed = jax.random.binomial(healing, infected, -jnp.expm1(-params["recovery_rate"] / STEPS_A_DAY))
        susceptible, infected = susceptible - caught, infected + caught - healed
        counts = {
            "susceptible": susceptible,
            "infected": infected,
            "recovered": self.people - susceptible - infected,
        }
        return jnp.stack([susceptible, infected]), {name: count.astype(jnp.int32) for name, count in counts.items()}


def final_size(infection_rate, recovery_rate, people=20_000, infected=50):
    """The share of a large town that an epidemic has passed through when it is over."""
    ratio = infection_rate / STEPS_A_DAY / -jnp.expm1(-recovery_rate / STEPS_A_DAY)
    escaped = 0.0
    for _ in range(500):  # from below, towards the smallest root
        escaped = (1 - infected / people) * jnp.exp(-ratio * (1 - escaped))
    return 1 - escaped
