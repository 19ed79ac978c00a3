r"""Arrays of pairs of positions in their layouts, and the ways between them.

*Base*: sides `(..., *space, A, 1)` and `(..., *space, b, B)`, pairs `(*space, A, B)`.
*Rolled*: the second side and pairs end in `(A or 1, offsets of the last axis)`.
*Absolute*: sides `(..., *space, 1.., A)` and `(..., 1.., *space, A or 1)`, pairs
`(*space, *space, A)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._covariance import Pair


def rows(tree: Any) -> Any:
    """Adds the axis of second examples to what belongs to the first ones."""
    return jax.tree.map(lambda a: a[..., :, None], tree)


def columns(tree: Any) -> Any:
    """Adds the axis of first examples to what belongs to the second ones."""
    return jax.tree.map(lambda a: a[..., None, :], tree)


def cut(tree: Any, start: Any, size: int) -> Any:
    """Takes `size` examples, the last axis, from `start` on."""
    return jax.tree.map(
        lambda a: jax.lax.dynamic_slice_in_dim(a, start, size, a.ndim - 1), tree
    )


def intervals(n: int, size: int) -> tuple[np.ndarray, int]:
    """Starts and size of equal intervals over `range(n)`; the last may overlap."""
    count = -(-n // size)
    size = -(-n // count)
    return np.minimum(np.arange(count) * size, n - size), size


def cast(numbers: Any, dtype: Any) -> Any:
    """The numbers of an architecture in the dtype of the computation."""
    return jax.tree.map(lambda n: jnp.asarray(n).astype(dtype), numbers)


def absolute_side(side: Any, ndim: int, second: bool) -> Any:
    """The first or the second side in absolute layout, from that in base layout."""

    def one(a):
        a = a[..., 0]
        start = a.ndim - ndim - 1
        axes = range(start, start + ndim) if second else range(-1 - ndim, -1)
        return jnp.expand_dims(a, tuple(axes))

    return jax.tree.map(one, side)


def diagonal_of(array: Array, ndim: int) -> Array:
    """Base array `(*space, A, 1)` of an absolute one."""
    for i in range(ndim):
        array = jnp.diagonal(array, axis1=0, axis2=ndim - i)
    return jnp.moveaxis(array, 0, -1)[..., None]


def same_position(space: tuple[int, ...]) -> Array:
    """Marks pairs of one position in absolute arrays, `(*space, *space, 1)`."""
    eye, ndim = jnp.ones((), bool), len(space)
    for i, n in enumerate(space):
        shape = [1] * (2 * ndim + 1)
        shape[i] = shape[ndim + i] = n
        eye = eye & jnp.eye(n, dtype=bool).reshape(shape)
    return eye


def expand(pair: Pair, ndim: int) -> Pair:
    """Absolute arrays of a value that is independent at different positions."""
    eye = same_position(pair.v.shape[:ndim])

    def put(a, other):
        a = jnp.broadcast_to(a, pair.v.shape)[..., 0]
        return jnp.where(eye, jnp.expand_dims(a, tuple(range(ndim, 2 * ndim))), other)

    w = 2 - pair.v if pair.w is None else pair.w
    return Pair(put(pair.v, 1), put(w, 1), put(pair.t, 0)).rooted()


def _unskew(array: Array, axis: int, size: int) -> Array:
    """Turns axes `(p, r)` at `axis` into `(p, p')` with p' = p + r on a circle."""
    array = jnp.moveaxis(array, (axis, axis + 1), (0, 1))
    n, period, *rest = array.shape
    flat = jnp.concatenate([array, array], 1).reshape(2 * n * period, *rest)
    flat = flat[period:]
    short = n * (2 * period - 1) - flat.shape[0]
    if short > 0:
        flat = jnp.pad(flat, [(0, short)] + [(0, 0)] * len(rest))
    array = flat[: n * (2 * period - 1)].reshape(n, 2 * period - 1, *rest)[:, :size]
    return jnp.moveaxis(array, (0, 1), (axis, axis + 1))


def _skew(array: Array, axis: int, period: int) -> Array:
    """The inverse of `_unskew`; 0 where p' is outside."""
    array = jnp.moveaxis(array, (axis, axis + 1), (0, 1))
    n, size, *rest = array.shape
    none = [(0, 0)] * len(rest)
    array = jnp.pad(array, [(0, 0), (0, period - size), *none])
    flat = jnp.concatenate([array, array], 1).reshape(2 * n * period, *rest)
    flat = jnp.pad(flat, [(0, n), *none])
    array = flat.reshape(n, 2 * period + 1, *rest)[:, :period]
    return jnp.moveaxis(array, (0, 1), (axis, axis + 1))


def _interleave(array: Array, ndim: int) -> Array:
    """`(*a, *b, rest)` as `(a0, b0, a1, b1, ..., rest)`."""
    order = [k for i in range(ndim) for k in (i, ndim + i)]
    return array.transpose(*order, *range(2 * ndim, array.ndim))


def _separate(array: Array, ndim: int) -> Array:
    order = [2 * i for i in range(ndim)] + [2 * i + 1 for i in range(ndim)]
    return array.transpose(*order, *range(2 * ndim, array.ndim))


def to_absolute(stacked: Array, space: tuple[int, ...], periods) -> Array:
    """From `(offsets, *space, A, last offset)` to `(*space, *space, A)`."""
    ndim = len(space)
    array = stacked.reshape(*periods[:-1], *stacked.shape[1:])
    array = jnp.moveaxis(array, -1, ndim - 1)  # (*offsets, *space, A)
    array = jnp.moveaxis(array, range(ndim), range(ndim, 2 * ndim))
    array = _interleave(array, ndim)
    for i, size in enumerate(space):
        array = _unskew(array, 2 * i, size)
    return _separate(array, ndim)


def to_rolled(array: Array, space: tuple[int, ...], periods) -> Array:
    """The inverse of `to_absolute`."""
    ndim = len(space)
    array = _interleave(array, ndim)
    for i, period in enumerate(periods):
        array = _skew(array, 2 * i, period)
    array = _separate(array, ndim)  # (*space, *offsets, A)
    array = jnp.moveaxis(array, range(ndim, 2 * ndim), range(ndim))
    array = jnp.moveaxis(array, ndim - 1, -1)
    return array.reshape(-1, *array.shape[ndim - 1 :])


class Circle:
    """The second side of a stage, shifted by every offset."""

    def __init__(self, side: Any, space: tuple[int, ...], periods: tuple[int, ...]):
        self.space, self.periods = space, periods
        self.reach = [p - n for n, p in zip(space, periods, strict=True)]
        self.tree = jax.tree.map(self._lay_out, side)

    def _lay_out(self, a: Array) -> Array:
        """`(..., *long, last, b, last offset)`: any shift is a slice of it."""
        a, ndim = a[..., 0], len(self.space)
        first = a.ndim - 1 - ndim
        pads = [(0, 0)] * first + [(0, reach) for reach in self.reach] + [(0, 0)]
        a = jnp.pad(a, pads)
        for i, (reach, period) in enumerate(zip(self.reach, self.periods, strict=True)):
            where = np.arange(-reach, 2 * period) % period
            if i == ndim - 1:
                where = np.arange(-reach, period)[:, None] + np.arange(period)
            a = jnp.take(a, where % period, axis=first + i)
        return jnp.swapaxes(a, -1, -2)

    def shifted(self, offset: tuple[Array, ...], pads=None) -> Any:
        """The side `(..., *space, b, last offset)` at one offset of the other axes.

        Args:
            offset: Of all axes but the last.
            pads: Positions to add before and after each axis.
        """
        ndim = len(self.space)
        pads = pads or [(0, 0)] * ndim

        def one(a):
            for i, (low, high) in enumerate(pads):
                start = self.reach[i] - low + (offset[i] if i < ndim - 1 else 0)
                axis, size = a.ndim - 2 - ndim + i, self.space[i] + low + high
                a = jax.lax.dynamic_slice_in_dim(a, start, size, axis)
            return a

        return jax.tree.map(one, self.tree)

    def present(self, offset: tuple[Array, ...]) -> Array:
        """Marks positions whose shifted ones are no mere gap, as pairs have them."""
        last, found = len(self.space) - 1, jnp.ones((), bool)
        for i, (n, period) in enumerate(zip(self.space, self.periods, strict=True)):
            offsets = offset[i][None] if i < last else jnp.arange(period)
            inside = (jnp.arange(n)[:, None] + offsets[None]) % period < n
            others = [1] * last
            found = found & inside.reshape(*others[:i], n, *others[i:], 1, -1)
        return found


def apart(number: Array, function, *args):
    """Runs `function` as a branch of its own, whose results are put down in memory.

    XLA takes slices that begin at a counter into the loops that use them, which a CPU
    then runs ten times slower. No compiler knows that the counter is not negative.
    """
    if jax.default_backend() != "cpu":
        return function(*args)
    never = jax.tree.map(jnp.zeros_like, args)
    return jax.lax.cond(number >= 0, lambda: function(*args), lambda: function(*never))


def zero_of(one: Array, two: Array) -> Array:
    """0, which under `shard_map` varies as its arguments do."""
    zero = jnp.zeros((), one.dtype)
    return jnp.where(one.ravel()[0] < two.ravel()[0], zero, zero)
