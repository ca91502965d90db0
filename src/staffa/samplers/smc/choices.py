"""What `smc` may be made of: which parts an algorithm takes, and which it has by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from staffa.samplers.gradient import check_continuous
from staffa.samplers.options import check_count, check_discrete, check_word
from staffa.samplers.resampling import Scheme, Systematic
from staffa.samplers.schedules import Adaptive, Linear, Ramp, Schedule
from staffa.samplers.smc.kernels import HMC, Kernel, Metropolis, Mutation
from staffa.samplers.smc.path import Pieces
from staffa.samplers.smc.recording import OWN, RECORDS, Record
from staffa.samplers.target import Continuous, Discrete, Target

Algorithm = Literal["tempered", "adaptive", "annealed", "mutation_selection", "partial_posteriors", "pretuned"]
ALGORITHMS: tuple[Algorithm, ...] = (
    "tempered",
    "adaptive",
    "annealed",
    "mutation_selection",
    "partial_posteriors",
    "pretuned",
)
ALWAYS: tuple[Algorithm, ...] = ("adaptive", "mutation_selection")
"""Those that resample at each step, unless a threshold is given."""

Begin = Literal["uniform", "target"]
BEGINS: tuple[Begin, ...] = ("uniform", "target")


@dataclass(frozen=True)
class Choices:
    """The parts of one sampler; None for what is not given. `settled` fills them in."""

    algorithm: Algorithm
    target: Target
    schedule: Schedule | Adaptive | None
    resampling: Scheme | None
    kernel: Kernel | None
    begin: Begin | None
    record: Record

    @property
    def betas(self) -> Schedule | Adaptive:
        assert self.schedule is not None
        return self.schedule

    @property
    def moves(self) -> Kernel:
        assert self.kernel is not None
        return self.kernel


def settled(given: Choices) -> Choices:
    """All parts, those that were not given included. Raises `ValueError` naming an option that does not fit."""
    check_word("algorithm", given.algorithm, ALGORITHMS)
    check_word("record", given.record, RECORDS)
    _check_target(given)
    schedule = given.schedule if given.schedule is not None else _schedule(given)
    kernel = given.kernel if given.kernel is not None else _kernel(given)
    _check_schedule(given.algorithm, schedule)
    _check_kernel(given, kernel)
    begin = given.begin or ("target" if given.algorithm == "mutation_selection" else "uniform")
    check_word("begin", begin, BEGINS)
    return replace(given, schedule=schedule, kernel=kernel, begin=begin, resampling=_resampling(given))


def _schedule(given: Choices) -> Schedule | Adaptive:
    if given.algorithm == "adaptive":
        return Adaptive()
    if given.algorithm == "partial_posteriors" and isinstance(given.target, Pieces):
        return Linear(start=1 / given.target.pieces, steps=given.target.pieces)
    return Linear()


def _kernel(given: Choices) -> Kernel:
    if given.algorithm == "mutation_selection":
        return Mutation()
    if isinstance(given.target, Continuous):
        return HMC()
    return Metropolis(0.1) if given.algorithm == "pretuned" else Metropolis()


def _resampling(given: Choices) -> Scheme | None:
    if given.algorithm == "annealed":
        if given.resampling is not None:
            raise ValueError("resampling: annealed importance sampling has none; leave it out, or use tempered")
        return None
    scheme = given.resampling if given.resampling is not None else Systematic()
    if not isinstance(scheme, Scheme):
        raise ValueError(f"resampling: {scheme!r} is no scheme (staffa.samplers.resampling.Scheme)")
    if scheme.threshold is None:
        return replace(scheme, threshold=1.0 if given.algorithm in ALWAYS else 0.5)
    return scheme


def _check_target(given: Choices) -> None:
    target: Any = given.target
    if isinstance(target, Continuous):
        check_continuous(target, OWN)
    elif isinstance(target, Discrete):
        check_discrete(target)
    else:
        raise ValueError(f"target: {type(target).__name__} is neither Discrete nor Continuous (staffa.samplers.target)")
    if given.algorithm == "partial_posteriors":
        if not isinstance(target, Pieces):
            raise ValueError(
                f"target: {type(target).__name__} does not say what each datum contributes; partial_posteriors needs "
                "`pieces` and `log_likelihood_pieces(x, params)`"
            )
        check_count("pieces", target.pieces)


def _check_schedule(algorithm: Algorithm, schedule: Any) -> None:
    adaptive = isinstance(schedule, Adaptive)
    if algorithm == "adaptive" and not adaptive:
        raise ValueError(f"schedule: {type(schedule).__name__} is known beforehand; algorithm adaptive finds its own")
    if adaptive:
        if algorithm in ("tempered", "annealed", "mutation_selection"):
            raise ValueError(f"schedule: adaptive; algorithm {algorithm} needs one that is known beforehand")
        return
    if not callable(schedule):
        raise ValueError(f"schedule: {schedule!r} is no schedule (staffa.samplers.schedules.Schedule)")
    steps = getattr(schedule, "steps", None)
    if isinstance(steps, int) and not isinstance(schedule, Ramp):  # our own have looked at themselves
        with jax.ensure_compile_time_eval():
            _check_values(algorithm, jax.vmap(schedule)(jnp.arange(1, steps + 1)).tolist())


def _check_values(algorithm: Algorithm, betas: list[float]) -> None:
    """Refuse a schedule, of whomever, that leaves [0, 1] or, where that has no meaning, goes down."""
    before = 0.0
    for step, beta in enumerate(betas, 1):
        if not 0 <= beta <= 1:
            raise ValueError(f"schedule: beta is {beta!r} at step {step}; it must be in [0, 1]")
        if beta < before and algorithm != "mutation_selection":
            raise ValueError(f"schedule: beta goes down at step {step}, from {before!r} to {beta!r}")
        before = beta


def _check_kernel(given: Choices, kernel: Any) -> None:
    if not isinstance(kernel, Kernel):
        raise ValueError(f"kernel: {kernel!r} is no kernel of smc (staffa.samplers.smc.Kernel)")
    name = type(kernel).__name__
    if given.algorithm == "mutation_selection":
        if not isinstance(given.target, Discrete):
            raise ValueError(
                f"target: mutation_selection evolves sequences, and {type(given.target).__name__} has none"
            )
        if kernel.invariant:
            raise ValueError(f"kernel: {name} accepts and refuses; mutation_selection only mutates (kernel mutation)")
    elif not kernel.invariant:
        raise ValueError(f"kernel: {name} is for mutation_selection; {given.algorithm} needs one that accepts")
    if given.algorithm == "pretuned" and not kernel.number:
        raise ValueError(f"kernel: {name} has no number that pretuning could find")
    if given.algorithm == "pretuned" and getattr(kernel, kernel.number) is None:
        raise ValueError(f"{kernel.number}: pretuning begins with it; {name} has None")
    kernel.fits(given.target)
