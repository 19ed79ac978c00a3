r"""Positions that become coordinates (`flatten`) or are taken (`index`).

`flatten` needs no pairs of different positions: $k' = \frac1S \sum_p k(p, p)$.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._covariance import Covariance, Marginal, Pair
from ._graph import Operation, Shape, Symbol, Value, emit


@dataclasses.dataclass(frozen=True)
class Flatten(Operation):
    """Rules of `flatten`."""

    positional = True
    keeps_positions = False

    name = "flatten"

    def infer(self, *args: Value) -> Value:
        """Coordinates of different positions have different laws."""
        return dataclasses.replace(args[0], gaussian=False, mixed=True, raw=False)

    def shape(self, *args: Shape) -> Shape:
        """Positions become coordinates."""
        (h,) = args
        size = math.prod(h.space)
        return Shape((), None if h.features is None else h.features * size)

    def needs(self, full: bool) -> bool:
        """Only pairs of one position."""
        return False

    def mask(self, *masks, shapes) -> None:
        """Absent positions have become coordinates that are 0."""

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """Means over positions."""
        (h,), (shape,) = args, shapes
        axes = tuple(range(len(shape.space)))
        mean = None if h.mean is None else h.mean.mean(axes)
        out = Marginal.of((h.root**2).mean(axes), mean)
        inverse = jnp.expand_dims(out.inverse, axes)
        return out._replace(
            weights=(h.root * inverse / math.sqrt(math.prod(shape.space)),)
        )

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """Equation (1) of `_covariance.py`: the positions are the parts."""
        (h,), (shape,) = args, shapes
        axes = tuple(range(len(shape.space)))
        (s1,), (s2,) = out1.weights, out2.weights
        apart, weight = (s1 - s2) ** 2 / 2, s1 * s2
        v = (apart + weight * h.v).sum(axes)
        w = None if h.w is None else (apart + weight * h.w).sum(axes)
        # Always so, but having read `weight`, XLA sums both in one loop: twice as fast.
        t = jnp.where(weight >= 0, jnp.broadcast_to(h.t, h.v.shape), 0).mean(axes)
        return Pair(v, w, t)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """One vector."""
        return args[0].reshape(-1)


@dataclasses.dataclass(frozen=True)
class Index(Operation):
    """Rules of `index`."""

    positional = True

    name = "index"

    slices: tuple[tuple[int | None, int | None, int | None] | int, ...]

    def infer(self, *args: Value) -> Value:
        """Some of the positions."""
        return dataclasses.replace(args[0], raw=False)

    def _take(self, array: Array, start: int = 0) -> Array:
        where: list[Any] = [slice(None)] * array.ndim
        for i, item in enumerate(self.slices):
            where[start + i] = item if isinstance(item, int) else slice(*item)
        return array[tuple(where)]

    def shape(self, *args: Shape) -> Shape:
        """The positions that are left."""
        (h,) = args
        if len(self.slices) > len(h.space):
            raise ValueError(
                f"index: `h` must have at least {len(self.slices)} axes of positions, "
                f"got positions {h.space}."
            )
        for n, item in zip(h.space, self.slices, strict=False):
            if isinstance(item, int) and not -n <= item < n:
                raise ValueError(
                    f"index: {item} must lie inside the {n} positions of its axis."
                )
        dummy = np.empty(h.space)
        return Shape(self._take(dummy).shape, h.features)  # pyright: ignore

    def mixes(self, full: bool) -> bool:
        """It may take every other position."""
        return full

    def mask(self, *masks, shapes) -> Array | None:
        """Taken; of a single position nothing is left to be absent."""
        (mask,) = masks
        if mask is None or not self.shape(*shapes).space:
            return None
        return self._take(mask)

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """Taken."""
        (h,) = args
        mean = None if h.mean is None else self._take(h.mean)
        return Marginal.of(self._take(h.root) ** 2, mean)

    def pair(self, numbers, *args: Covariance, out1, out2, shapes, rules) -> Pair:
        """Taken."""
        (h,) = args
        kept = len(self.shape(*shapes).space)

        def take(a):
            a = self._take(a)
            return self._take(a, kept) if rules.layout.absolute else a

        w = None if h.w is None else take(h.w)
        return Pair(take(h.v), w, take(jnp.broadcast_to(h.t, h.v.shape)))

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """Taken."""
        return self._take(args[0])


def flatten(h: Symbol) -> Symbol:
    r"""Positions become features: $k' = S^{-1} \sum_p k(p, p)$.

    A `dense` may follow, a nonlinearity may not: the coordinates are not of one law.
    """
    return emit(Flatten(), [h], [])


def index(h: Symbol, *where: int | slice) -> Symbol:
    """Takes positions: `index(h, 0, slice(2, None))` is `h[0, 2:]` of each example.

    Args:
        h: A value with positions.
        *where: An int (the axis goes) or a slice for each of the first axes.

    Returns:
        The value at those positions.

    Raises:
        TypeError: if an index is neither an int nor a slice.
    """
    items = []
    for item in where:
        if isinstance(item, slice):
            items.append((item.start, item.stop, item.step))
        elif isinstance(item, int):
            items.append(item)
        else:
            raise TypeError(
                f"index: `where` must be ints and slices, got {type(item).__name__}."
            )
    return emit(Index(tuple(items)), [h], [])
