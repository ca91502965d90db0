"""The message-passing network: an encoder of the backbone, a decoder of the sequence.

Its layers are those of the published model, rearranged where that gives the same numbers for less work: the first
linear map of a message is applied to its parts (own residue, edge, neighbour) before they are gathered to
edges, and the last one after the sum over neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from staffa.samplers.fitness.mpnn.features import Padded, edges, nearest, normalized
from staffa.samplers.fitness.mpnn.weights import Weights

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LAYERS = 3
HIDDEN = 128
SCALE = 30.0
"""What sums over neighbours are divided by, whatever their number."""


class Encoded(NamedTuple):
    """What the encoder makes of a backbone of B residues with K neighbours each."""

    nodes: jax.Array
    """(B, 128)."""
    edges: jax.Array
    """(B, K, 128)."""
    neighbours: jax.Array
    """(B, K), int32."""
    there: jax.Array
    """(B, K), bool: neighbours that are not padding."""


def exact(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Multiply matrices with all digits of float32; accelerators otherwise use fewer."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with jax.default_matmul_precision("float32"):
            return function(*args, **kwargs)

    return call


@jax.jit
@exact
def encode(weights: Weights, backbone: Padded) -> Encoded:
    """Run the encoder."""
    neighbours, there = nearest(backbone)
    between = linear(weights, "W_e", edges(weights, backbone, neighbours))
    nodes = jnp.zeros((between.shape[0], HIDDEN), between.dtype)
    mask = jnp.asarray(backbone.mask)[:, None]
    for number in range(LAYERS):
        layer = f"encoder_layers.{number}"
        hidden = _hidden(
            weights, layer, ("W1", "W2"), nodes, between, _of_node(weights, f"{layer}.W1", nodes)[neighbours]
        )
        nodes = _updated(weights, layer, nodes, _summed(weights, f"{layer}.W3", hidden, there)) * mask
        hidden = _hidden(
            weights, layer, ("W11", "W12"), nodes, between, _of_node(weights, f"{layer}.W11", nodes)[neighbours]
        )
        between = normalized(weights, f"{layer}.norm3", between + linear(weights, f"{layer}.W13", hidden))
    return Encoded(nodes, between, neighbours, there)


def earlier(ranks: jax.Array, encoded: Encoded) -> jax.Array:
    """Neighbours that are decoded before the residue itself, bool (B, K), from ranks in the order of decoding (B,)."""
    return (ranks[encoded.neighbours] < ranks[:, None]) & encoded.there


class Prepared(NamedTuple):
    """What the decoder needs of a backbone, whatever the sequence; one array a layer.

    They are what the decoder's first maps make of the encoder's result. Left to the decoder itself, they would be
    computed for each sequence, or, being constants of its program, by the compiler, which takes minutes.
    """

    nodes: jax.Array
    """(B, 128)."""
    edges: tuple[jax.Array, ...]
    """(B, K, 128) each: of the edges, with the bias; and for the first layer of the residue's own state."""
    ahead: tuple[jax.Array, ...]
    """(B, 128) each: of residues that are not decoded yet."""
    neighbours: jax.Array
    """(B, K), int32."""
    there: jax.Array
    """(B, K), bool."""


@jax.jit
@exact
def prepare(weights: Weights, encoded: Encoded) -> Prepared:
    """Apply the decoder's first maps to what the encoder made."""
    between, ahead = [], []
    for number in range(LAYERS):
        name = f"decoder_layers.{number}.W1"
        own, edge, *_ = _split(weights, name)
        between.append(encoded.edges @ edge.T + weights[f"{name}.bias"])
        ahead.append(_of_node(weights, name, encoded.nodes))
        if number == 0:
            between[0] += (encoded.nodes @ own.T)[:, None]
    return Prepared(encoded.nodes, tuple(between), tuple(ahead), encoded.neighbours, encoded.there)


@exact
def decode(weights: Weights, backbone: Prepared, embedded: jax.Array, before: jax.Array) -> jax.Array:
    """The decoder's last hidden state, (B, 128).

    A residue sees the letters and states of those decoded before it, and of the others the backbone only.

    Arguments:
    - `embedded`: (B, 128), of each residue's letter (`embed`).
    - `before`: (B, K), from `earlier`.
    """
    nodes = backbone.nodes
    # Rows of those decoded, then rows of those that are not: one gather for both.
    seen = backbone.neighbours + jnp.where(before, 0, nodes.shape[0])
    for number in range(LAYERS):
        layer = f"decoder_layers.{number}"
        own, _, of_letter, _ = _split(weights, f"{layer}.W1")
        letter, between = embedded @ of_letter.T, backbone.edges[number]
        if number == 0:
            behind = letter + backbone.ahead[0]
        else:
            behind = letter + _of_node(weights, f"{layer}.W1", nodes)
            between = between + (nodes @ own.T)[:, None]
        hidden = gelu(between + jnp.concatenate([behind, backbone.ahead[number]])[seen])
        hidden = gelu(linear(weights, f"{layer}.W2", hidden))
        nodes = _updated(weights, layer, nodes, _summed(weights, f"{layer}.W3", hidden, backbone.there))
    return nodes


@exact
def logits(weights: Weights, nodes: jax.Array) -> jax.Array:
    """(B, 21): of the 20 amino acids in the order of `alphabets.PROTEINMPNN`, and of X."""
    return linear(weights, "W_out", nodes)


def embed(weights: Weights, letters: jax.Array) -> jax.Array:
    """(B, 128), of int32 (B,) or of distributions (B, 21)."""
    table = jnp.asarray(weights["W_s.weight"])
    return table[letters] if jnp.issubdtype(letters.dtype, jnp.integer) else letters @ table


def linear(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """A linear map with its bias."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _split(weights: Weights, name: str) -> list[jax.Array]:
    """A linear map of concatenated parts of 128, as one for each: own state, edge, [letter,] neighbour's state."""
    whole = jnp.asarray(weights[f"{name}.weight"])
    return jnp.split(whole, whole.shape[1] // HIDDEN, axis=1)


def _of_node(weights: Weights, name: str, nodes: jax.Array) -> jax.Array:
    """What such a map makes of the neighbour's part."""
    return nodes @ _split(weights, name)[-1].T


def _hidden(
    weights: Weights, layer: str, names: tuple[str, str], nodes: jax.Array, between: jax.Array, other: jax.Array
) -> jax.Array:
    """The first two maps of a message, (B, K, 128); `other` is what the first one makes of the neighbours' part."""
    first, second = (f"{layer}.{name}" for name in names)
    own, edge, *_ = _split(weights, first)
    summed = (nodes @ own.T)[:, None] + between @ edge.T + other + weights[f"{first}.bias"]
    return gelu(linear(weights, second, gelu(summed)))


def _summed(weights: Weights, name: str, hidden: jax.Array, there: jax.Array) -> jax.Array:
    """The last map of the messages, summed over the neighbours that are there: (B, 128)."""
    total = jnp.sum(jnp.where(there[..., None], hidden, 0.0), axis=1) @ weights[f"{name}.weight"].T
    return total + jnp.sum(there, axis=1, keepdims=True) * weights[f"{name}.bias"]


def _updated(weights: Weights, layer: str, nodes: jax.Array, messages: jax.Array) -> jax.Array:
    nodes = normalized(weights, f"{layer}.norm1", nodes + messages / SCALE)
    dense = linear(weights, f"{layer}.dense.W_out", gelu(linear(weights, f"{layer}.dense.W_in", nodes)))
    return normalized(weights, f"{layer}.norm2", nodes + dense)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.7071067811865476))
