"""One dtype rule for the whole package."""

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Returns `dtype`, or float32 where `dtype` is a 16-bit float or narrower."""
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def float_dtype(*arrays: ArrayLike) -> jnp.dtype:
    """Returns the promoted dtype of `arrays`; the default float for integers."""
    dtype = jnp.result_type(*arrays)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    return jnp.dtype(dtype)
