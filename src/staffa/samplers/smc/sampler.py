"""`smc`: particles that go from a distribution that is easily drawn from to the one that is wanted."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from staffa.experiment.protocol import Experiment
from staffa.samplers.diversity import Shares, compared
from staffa.samplers.options import check_count, check_positive, chosen
from staffa.samplers.resampling import Scheme
from staffa.samplers.schedules import Adaptive, Schedule
from staffa.samplers.smc import pretuning, recording
from staffa.samplers.smc.choices import Algorithm, Begin, Choices, settled
from staffa.samplers.smc.kernels import Kernel
from staffa.samplers.smc.path import Particle, Path, increments
from staffa.samplers.smc.recording import Record
from staffa.samplers.smc.weights import Weighed, even, weighed
from staffa.samplers.target import Continuous, Discrete, Target, Values


class State(NamedTuple):
    """Particles between two steps."""

    particles: Particle
    log_weights: jax.Array
    """ln W, (particles,)."""
    beta: jax.Array
    log_z: jax.Array
    steps: jax.Array
    """Steps done, int32."""
    log_numbers: jax.Array | None
    """ln of the number each particle's kernel has, (particles,), where it is pretuned."""
    begun: Shares | None = None
    """How often each state stood at each site at first, where diversity is recorded."""


class SMC(Experiment):
    """Sequential Monte Carlo over sequences or positions. One step is one iteration; one draw, one record of it.

    With p_beta(x) ∝ p0(x) exp(beta F(x) / temperature), p0 uniform over sequences (or the prior over positions,
    and F the log-likelihood), a step of all algorithms but one is (Del Moral, Doucet & Jasra, J. R. Stat. Soc.
    B 68:411, 2006):

        ln w += (beta_t - beta_{t-1}) F(x) / temperature;   log_z += ln of their weighted mean
        resample where the effective sample size is below the threshold
        move every particle by a kernel that leaves p_{beta_t} as it is

    exp(log_z) is an unbiased estimate of Z(beta_t) / Z(0): at beta 1, of the mean of exp(F / temperature) over
    all sequences, or of the evidence. Once beta has reached its end, steps go on as moves there, with an increment
    of 0; where `sampling.draws` (times `thin`) are fewer than the schedule's steps, beta ends below.

    `algorithm` is one of
    - `tempered`: beta by a schedule that is known beforehand.
    - `adaptive`: beta as far at each step as the particles bear (schedule `adaptive`).
    - `annealed`: annealed importance sampling (Neal, Stat. Comput. 11:125, 2001): every particle is a chain of
      its own with a weight of its own; nothing is resampled, so there are no `ancestors`.
    - `mutation_selection`: as populations evolve. A step mutates every particle (kernel `mutation`), weighs it
      with w = exp(beta_t F / temperature), all of it and not the difference to the last step, and resamples,
      always by default. That is a Feynman-Kac model (Del Moral, "Feynman-Kac Formulae", 2004): with M the chain of
      mutations from where particles begin, log_z estimates ln E_M[prod over t of exp(beta_t F(x_t) / temperature)],
      the normaliser of that measure on paths. It is not the normaliser of exp(beta F), nor do the particles
      follow exp(beta F).
    - `partial_posteriors`: data added one after another, beta being the share of them that is in; the target
      says what each contributes (`Pieces`). By default one datum a step.
    - `pretuned`: as tempered (or adaptive, by its schedule), with the kernel's number found from the particles.

    Options:
    - `target`: what is sampled. A `Continuous` one needs `sample_prior` and a normalised `log_prior`, if log_z is
      to be the evidence.
    - `population`: number of particles; also a (static) parameter of the trial.
    - `schedule`: `linear`, `exponential`, `cosine`, `static` or `adaptive`.
    - `resampling`: `systematic`, `stratified`, `residual` or `multinomial`; its `threshold` is by default 0.5 of
      the particles, and 1 for `adaptive` and `mutation_selection`. Also a parameter `threshold` of the trial.
    - `kernel`: `metropolis`, `gibbs` over sequences; `random_walk`, `mala`, `hmc`, `nuts` over positions;
      `mutation`. Its `mutation_rate` or `step_size` may also be a parameter of the trial.
    - `temperature`: above 0, by which the fitness is divided; also a parameter of the trial.
    - `begin`: `uniform` draws the first particles from p0; `target` asks the target's `initial`, which suits
      `mutation_selection` (its default there), and biases log_z of the others unless it draws from p0.
    - `record`: `summary`, or `particles` for every particle as well.
    - `diversity`: of sequences, whether their diversity is recorded at each step.

    Outputs of a step, scalars unless said: `beta`, `ess` (before resampling), `log_z_increment`, `log_z`,
    `acceptance` (mean over particles), `resampled`; `ancestors` (particle,): which of the last step's particles each
    one comes from (recorded at every step, `thin: 1`, they trace lineages back).
    Of F, called `fitness` over sequences and `log_likelihood` over positions: `mean_F` (weighted), `max_F`, and
    `invalid`, how many of the particles that were weighed have NaN or infinity, which counts as -inf.
    `mean_fitness.NAME` of each component; `best_sequence` (site,), of this step. Over positions `mean_NAME` and
    `sd_NAME` of what `constrain` gives. With `record: particles` by particle: `weights`, `fitness`, `fitness.NAME`,
    `sequence`, or `log_likelihood` and what `constrain` gives. A pretuned kernel's mean `step_size` or
    `mutation_rate`.
    With `diversity`, means over sites: `site_entropy`, and from the first particles to these `kullback_leibler`,
    `jeffreys`, `jensen_shannon` (`staffa.samplers.diversity`), in nats.
    Where all particles have died, `ess` is 0, `log_z` is -inf and the means are NaN.
    """

    def __init__(
        self,
        target: Target,
        algorithm: Algorithm = "tempered",
        population: int = 64,
        schedule: Schedule | Adaptive | None = None,
        resampling: Scheme | None = None,
        kernel: Kernel | None = None,
        temperature: float = 1.0,
        begin: Begin | None = None,
        record: Record = "summary",
        diversity: bool = False,
    ) -> None:
        self.choices = settled(Choices(algorithm, target, schedule, resampling, kernel, begin, record))
        check_count("population", population)
        check_positive("temperature", temperature)
        if diversity and not isinstance(target, Discrete):
            raise ValueError(f"diversity: {diversity} is of sequences, and {type(target).__name__} has positions")
        self.diversity = diversity
        self.target, self.algorithm, self.population = target, algorithm, population
        self.path = Path(target, algorithm == "partial_posteriors", temperature)
        self.static = ("population", *target.static)  # type: ignore[misc]
        self.cpu_lanes = self.choices.moves.cpu_lanes  # type: ignore[misc]
        self.dims = recording.axes(target, record, algorithm != "annealed")  # type: ignore[misc]

    def initialize(self, key: jax.Array, params: Values) -> State:
        """Particles of p0 (or as the target has them begin), of equal weight."""
        size = params.get("population", self.population)
        check_count("population", size)
        drawing, tuning = jax.random.split(key)
        x = jax.vmap(lambda key: self._begin(key, params))(jax.random.split(drawing, size))
        numbers = None
        if self.algorithm == "pretuned":
            numbers = pretuning.first(tuning, self.choices.moves.given(params), size)
        particles = jax.vmap(lambda x: self.path.evaluate(x, params))(x)
        begun = recording.shares_of(self.target, particles, even(size)) if self.diversity else None
        return State(particles, even(size), jnp.zeros((), float), jnp.zeros((), float), jnp.int32(0), numbers, begun)

    def step(self, key: jax.Array, state: State, params: Values) -> tuple[State, dict[str, Any]]:
        """One iteration, as the algorithm has it."""
        if self.algorithm == "mutation_selection":
            return self._evolved(key, state, params)
        return self._tempered(key, state, params)

    def _begin(self, key: jax.Array, params: Values) -> jax.Array:
        if self.choices.begin == "target":
            return self.target.initial(key, params)
        if isinstance(self.target, Continuous):
            return self.target.sample_prior(key, params)
        return Discrete.initial(self.target, key, params)

    def _tempered(self, key: jax.Array, state: State, params: Values) -> tuple[State, dict[str, Any]]:
        resampling, tuning, moving = jax.random.split(key, 3)
        old, pieces = self.path.coefficients(state.beta, params), state.particles.pieces

        def grown(beta: jax.Array) -> jax.Array:
            return increments(pieces, old, self.path.coefficients(beta, params))

        beta = self._next(state, grown)
        after = weighed(state.log_weights, grown(beta))
        particles, log_weights, told = self._selected(resampling, state.particles, after, params)
        on, size = self.path.at(beta, params), log_weights.size
        kernel, numbers, scale = self.choices.moves, state.log_numbers, jnp.ones(particles.x.shape[-1])
        number = kernel.given(params)
        if numbers is not None:
            scale = pretuning.scale_of(particles, log_weights, on)
            numbers = pretuning.tuned(tuning, numbers, kernel, particles, on, scale)
            number = pretuning.numbers(numbers, on)
            told |= {} if kernel.number in params else {kernel.number: jnp.mean(number)}
        each = None if number is None else jnp.broadcast_to(jnp.asarray(number, float), (size,))
        particles, acceptance = kernel.moved(moving, particles, on, each, scale)
        told["acceptance"] = jnp.mean(acceptance)
        log_z = state.log_z + after.log_z_increment
        state = State(particles, log_weights, beta, log_z, state.steps + 1, numbers, state.begun)
        return state, self._recorded(state, after, told, params)

    def _evolved(self, key: jax.Array, state: State, params: Values) -> tuple[State, dict[str, Any]]:
        resampling, moving = jax.random.split(key)
        beta = self._next(state, None)
        on, size = self.path.at(beta, params), state.log_weights.size
        number = jnp.broadcast_to(jnp.asarray(self.choices.moves.given(params), float), (size,))
        mutants, _ = self.choices.moves.moved(moving, state.particles, on, number, jnp.ones(()))
        after = weighed(state.log_weights, on.log_likelihood(mutants.pieces))
        particles, log_weights, told = self._selected(resampling, mutants, after, params)
        log_z = state.log_z + after.log_z_increment
        state = State(particles, log_weights, beta, log_z, state.steps + 1, None, state.begun)
        return state, self._recorded(state, after, told, params)

    def _next(self, state: State, grown: Any) -> jax.Array:
        """The beta of this step."""
        schedule = self.choices.betas
        if isinstance(schedule, Adaptive):
            return schedule.advance(state.beta, state.log_weights, grown)
        beta = jnp.clip(jnp.asarray(schedule(state.steps + 1), float), 0, 1)
        return beta if self.algorithm == "mutation_selection" else jnp.maximum(beta, state.beta)

    def _selected(
        self, key: jax.Array, particles: Particle, after: Weighed, params: Values
    ) -> tuple[Particle, jax.Array, dict[str, Any]]:
        """Particles after resampling, where there are too few that count; and what is told of it."""
        scheme, size = self.choices.resampling, after.log_weights.size
        told: dict[str, Any] = {"invalid": jnp.sum(recording.invalid(particles.value), dtype=jnp.int32)}
        if scheme is None:
            return particles, after.log_weights, told
        threshold = jnp.asarray(chosen(params, "threshold", scheme.threshold), float)
        # A hair below, so that equal weights are not resampled for rounding's sake.
        resampled = after.ess < threshold * size * (1 - 1e-4)
        if self.algorithm == "mutation_selection":
            resampled |= threshold >= 1
        drawn = scheme.ancestors(key, jnp.exp(after.log_weights))
        ancestors = jnp.where(resampled, drawn, jnp.arange(size, dtype=drawn.dtype))
        particles = jax.tree.map(lambda leaf: leaf[ancestors], particles)
        told |= {"ancestors": ancestors, "resampled": resampled}
        return particles, jnp.where(resampled, even(size), after.log_weights), told

    def _recorded(self, state: State, after: Weighed, told: dict[str, Any], params: Values) -> dict[str, Any]:
        rows = self.target, state.particles, state.log_weights, params
        found = recording.population(*rows)
        nobody = after.ess == 0
        means = {name: jnp.where(nobody, jnp.nan, found[name]) for name in found if name.startswith("mean_")}
        if self.choices.record == "particles":
            found |= recording.individuals(*rows)
        if state.begun is not None:
            found |= compared(recording.shares_of(*rows[:3]), state.begun)
        steps = {"beta": state.beta, "ess": after.ess, "log_z_increment": after.log_z_increment, "log_z": state.log_z}
        return {**steps, **told, **found, **means}
