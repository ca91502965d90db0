"""`mpnn`: how likely ProteinMPNN finds a sequence on a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from staffa.samplers.fitness.alphabets import PROTEINMPNN, Ints, states_of
from staffa.samplers.fitness.mpnn.features import bucket, padded
from staffa.samplers.fitness.mpnn.network import Encoded, Prepared, decode, earlier, embed, encode, logits, prepare
from staffa.samplers.fitness.mpnn.weights import DIGESTS, Weights, load
from staffa.samplers.fitness.sequences import located, sequence_of
from staffa.samplers.fitness.structure import read_backbone
from staffa.samplers.target import Discrete, Values

NATIVE = "native"


class Mpnn(Discrete):
    """The mean over designed residues of ln p(residue | backbone, residues decoded before it): 0 or less, the
    higher the better. Natural sequences have about -1.2 to -1.7, random ones about -3 or less; the published
    "score" is its negative.

    p depends on the order of decoding. `orders` random ones are drawn from `seed` when the object is made, and
    the mean over them is taken; the same for all trials, so that F is one function.

    Options:
    - `structure`: a PDB or mmCIF file: in the campaign's folder, or `package/folder/file` in an installed package.
    - `chain`: the chain that is designed; by default the one that is a protein.
    - `context`: chains that are there with the sequences they have.
    - `model`: one of `weights.DIGESTS`; higher numbers were trained on noisier backbones.
    - `orders`, `seed`: of decoding.
    - `sequence`: what to begin with: `native`, letters, or a FASTA file; by default any.

    Component `recovery`: the share of residues that are as in the file.

    Attributes: `native`, int32 (length,); `backbone`; `digest`, the SHA-256 of the weights; `bucket`, the number of
    residues arrays are padded to. Raises `ValueError` for what cannot be read.
    """

    states = len(PROTEINMPNN)
    alphabet = PROTEINMPNN
    components = ("recovery",)
    unknown = True

    def __init__(
        self,
        structure: str,
        chain: str = "",
        context: Sequence[str] = (),
        model: str = "v_48_020",
        orders: int = 1,
        seed: int = 0,
        sequence: str = "",
    ) -> None:
        if context and not chain:
            raise ValueError(f"context: {list(context)} needs a chain to be designed")
        if chain in context or len(set(context)) < len(context):
            raise ValueError(f"context: {list(context)} names a chain twice, or the designed chain {chain!r}")
        if orders < 1:
            raise ValueError(f"orders: {orders!r}; it must be 1 or more")
        path = located("structure", structure)
        try:
            self.backbone = read_backbone(path, (chain, *context) if chain else ())
        except ValueError as error:
            raise ValueError(f"structure: {error}") from error
        self.weights: Weights = load(model)
        self.digest = DIGESTS[model][1]
        self.length = int(np.sum(self.backbone.chains == 0))
        self.bucket = bucket(len(self.backbone))
        self._all = states_of(self.backbone.sequence, PROTEINMPNN)
        self.native = self._all[: self.length]
        self.start = self._started(sequence)
        self.ranks = np.stack([self._ranks(np.random.default_rng([seed, number])) for number in range(orders)])

    def fitness(self, x: jax.Array, params: Values) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean log likelihood of one sequence, and how much of it is native."""
        # On a CPU side by side is slower than one after the other, and takes ten megabytes a sequence.
        score = one_by_one if jax.default_backend() == "cpu" else mean_log_likelihood
        value = score(self.weights, self.prepared, self.before, self.designed, self._filled(x))
        return value, {"recovery": jnp.mean((x == self.native).astype(jnp.float32))}

    def fitness_one_hot(self, p: jax.Array, params: Values) -> jax.Array:
        """The same with mean embeddings of letters, and the mean of ln p under `p`; what rows lack of 1 is X."""
        whole = jnp.concatenate([p, 1 - jnp.sum(p, axis=1, keepdims=True)], axis=1)
        given = jax.nn.one_hot(self._filled(jnp.zeros(self.length, jnp.int32)), self.states + 1, dtype=p.dtype)
        letters = given.at[: self.length].set(whole)
        value: jax.Array = mean_log_likelihood(self.weights, self.prepared, self.before, self.designed, letters)
        return value

    def initial(self, key: jax.Array, params: Values) -> jax.Array:
        """The sequence given, or any."""
        return super().initial(key, params) if self.start is None else jnp.asarray(self.start)

    @cached_property
    def encoded(self) -> Encoded:
        """What the encoder makes of the backbone; made once, when it is first needed."""
        # Inside a trace, too, the encoder is to run now: its result is a constant of every program.
        with jax.ensure_compile_time_eval():
            found: Encoded = encode(self.weights, padded(self.backbone, self.bucket))
            return found

    @cached_property
    def prepared(self) -> Prepared:
        """What the decoder needs of it, as host arrays."""
        with jax.ensure_compile_time_eval():
            found: Prepared = jax.tree.map(np.asarray, prepare(self.weights, self.encoded))
            return found

    @cached_property
    def before(self) -> npt.NDArray[np.bool_]:
        """(orders, bucket, 48): neighbours that are decoded earlier."""
        with jax.ensure_compile_time_eval():
            return np.stack([np.asarray(earlier(jnp.asarray(ranks), self.encoded)) for ranks in self.ranks])

    @property
    def designed(self) -> npt.NDArray[np.bool_]:
        """(bucket,): residues that are scored."""
        return np.arange(self.bucket) < self.length

    def _ranks(self, random: np.random.Generator) -> Ints:
        """Places in the order of decoding, (bucket,): context first, then the designed residues, padding last."""
        fixed = len(self.backbone) - self.length
        ranks = np.arange(self.bucket, dtype=np.int32)
        ranks[: self.length] = fixed + random.permutation(self.length)
        ranks[self.length : len(self.backbone)] = np.arange(fixed)
        return ranks

    def _filled(self, x: jax.Array) -> jax.Array:
        """A sequence with the letters of the context, and padding: (bucket,)."""
        rest = np.zeros(self.bucket - self.length, np.int32)
        rest[: len(self.backbone) - self.length] = self._all[self.length :]
        return jnp.concatenate([x.astype(jnp.int32), jnp.asarray(rest)])

    def _started(self, sequence: str) -> Ints | None:
        if not sequence:
            return None
        letters = self.backbone.sequence[: self.length] if sequence == NATIVE else sequence_of("sequence", sequence)
        start = states_of(letters, PROTEINMPNN)
        if len(start) != self.length:
            raise ValueError(f"sequence: {len(start)} residues, but {self.backbone.name} has {self.length}")
        return start


@partial(jax.jit, inline=True)
def mean_log_likelihood(
    weights: Weights, backbone: Prepared, before: jax.Array, designed: jax.Array, letters: jax.Array
) -> jax.Array:
    """The mean over orders of decoding and designed residues of ln p(letter | …); a scalar.

    Arguments:
    - `before`: (orders, B, K).
    - `designed`: (B,), bool.
    - `letters`: int32 (B,), or distributions (B, 21).
    """
    backbone = jax.tree.map(jnp.asarray, backbone)
    embedded = embed(weights, letters)

    def one(known: jax.Array) -> jax.Array:
        told = jax.nn.log_softmax(logits(weights, decode(weights, backbone, embedded, known)))
        if jnp.issubdtype(letters.dtype, jnp.integer):
            each = jnp.take_along_axis(told, letters[:, None], axis=1)[:, 0]
        else:
            each = jnp.sum(letters * told, axis=1)
        return jnp.sum(jnp.where(designed, each, 0.0)) / jnp.sum(designed)

    before = jnp.asarray(before)
    return one(before[0]) if before.shape[0] == 1 else jnp.mean(jax.lax.map(one, before))


one_by_one = jax.custom_batching.sequential_vmap(mean_log_likelihood)
"""The same, and under `jax.vmap` a loop."""
