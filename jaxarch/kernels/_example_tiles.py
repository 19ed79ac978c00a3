"""Tiles of pairs of examples, where each example must first be worked on by itself."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def tile_side(memory: int, example_bytes: float, pair_bytes: float) -> int:
    """The largest `b` with `2 b example_bytes + b^2 pair_bytes <= memory`, or 1."""
    if not pair_bytes:
        return max(1, int(memory / max(2 * example_bytes, 1)))
    root = math.sqrt(example_bytes**2 + pair_bytes * memory)
    return max(1, int((root - example_bytes) / pair_bytes))


def over_tiles(
    left: Callable[[Any], Any],
    right: Callable[[Any], Any],
    pairs: Callable[[Any, Any], Array],
    x1: Any,
    x2: Any,
    side: int,
) -> Array:
    """Evaluates `pairs(left(x1), right(x2))` of shape (n1, n2, ...) tile by tile.

    With `x2=None` tiles below the diagonal are transposed from those above it.
    """
    same = x2 is None
    x2 = x1 if same else x2
    n1, n2 = (jax.tree.leaves(x)[0].shape[0] for x in (x1, x2))
    if n1 <= side and n2 <= side:
        one = left(x1)
        return pairs(one, one if same and left is right else right(x2))
    rows, height = _starts(n1, side)
    columns, width = _starts(n2, side)

    def cut(x, start, size):
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, size), x)

    like = jax.eval_shape(
        lambda a, b: pairs(left(a), right(b)), cut(x1, 0, height), cut(x2, 0, width)
    )
    k = jnp.zeros((n1, n2, *like.shape[2:]), like.dtype)
    zeros = (0,) * (len(like.shape) - 2)

    @jax.checkpoint
    def row(start):
        return left(cut(x1, start, height))

    @jax.checkpoint
    def block(one, start):
        return pairs(one, right(cut(x2, start, width)))

    def outer(k, start):
        one = row(start)

        def inner(k, column):
            def put(k):
                tile = block(one, column)
                k = jax.lax.dynamic_update_slice(k, tile, (start, column, *zeros))
                if same:
                    k = jax.lax.dynamic_update_slice(
                        k, _transpose(tile), (column, start, *zeros)
                    )
                return k

            if same:
                return jax.lax.cond(column >= start, put, lambda k: k, k), None
            return put(k), None

        return jax.lax.scan(inner, k, jnp.asarray(columns))

    return jax.lax.scan(outer, k, jnp.asarray(rows))[0]


def over_pairs(left, right, pairs, x1: Any, x2: Any, side: int) -> Array:
    """Evaluates `pairs` for (x1[i], x2[i]) alone, `side` at a time: (n, ...)."""

    def one(xs):
        a, b = jax.tree.map(lambda leaf: leaf[None], xs)
        first = left(a)
        second = first if x2 is None and left is right else right(b)
        return pairs(first, second)[0, 0]

    return jax.lax.map(one, (x1, x1 if x2 is None else x2), batch_size=side)


def _starts(n: int, side: int) -> tuple[np.ndarray, int]:
    """Starts of equal intervals that cover `range(n)`; the last two may overlap."""
    count = -(-n // side)
    size = -(-n // count)
    return np.minimum(np.arange(count) * size, n - size), size


def _transpose(tile: Array) -> Array:
    """The tile of the pairs (j, i): outputs change places with the examples."""
    tile = jnp.swapaxes(tile, 0, 1)
    return jnp.swapaxes(tile, 2, 3) if tile.ndim == 4 else tile
