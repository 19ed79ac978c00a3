"""The initial values that PyTorch gives to dense and convolutional layers."""

import math

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from .._dtypes import at_least_float32


def fan_in_uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike
) -> Array:
    r"""Draws uniformly within $1 / \sqrt{n_{in}}$, in float32 at least."""
    bound = 1 / math.sqrt(fan_in)
    wide = at_least_float32(dtype)
    return jax.random.uniform(key, shape, wide, -bound, bound).astype(dtype)
