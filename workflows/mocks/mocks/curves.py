"""The two curves all calibrated relations are made of; of NumPy's numbers in NumPy, of JAX's in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def sigmoid(x: Any, middle: Any, steepness: Any, low: Any, high: Any) -> Any:
    """From `low` to `high`: low + (high - low) / (1 + exp(-steepness (x - middle)))."""
    falling = -steepness * (x - middle)
    exp = jnp.exp if isinstance(falling, jax.Array) else np.exp
    return low + (high - low) / (1 + exp(falling))


def bent(x: Any, pivot: Any, value: Any, middle: Any, steepness: Any, low: Any, high: Any) -> Any:
    """A line through (pivot, value) whose slope is a sigmoid of x."""
    return value + sigmoid(x, middle, steepness, low, high) * (x - pivot)
