"""`smc`: sequential Monte Carlo, one algorithm a module of its own idea.

`sampler` is the experiment; `path` the distributions it goes through; `kernels` how particles move;
`weights` what they count; `pretuning` how a kernel's number is found; `recording` what is written down.
"""

from staffa.samplers.smc.kernels import HMC, MALA, NUTS, Gibbs, Kernel, Metropolis, Mutation, RandomWalk
from staffa.samplers.smc.path import Pieces
from staffa.samplers.smc.sampler import SMC

__all__ = ["HMC", "MALA", "NUTS", "SMC", "Gibbs", "Kernel", "Metropolis", "Mutation", "Pieces", "RandomWalk"]
