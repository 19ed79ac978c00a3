r"""Operations that average or sum positions, without parameters.

A linear map of positions $h'(P) = \sum_p M_{Pp} h(p)$ takes covariance and tangent
kernel alike, $k' = M k M'^\top$; it needs $k$ at pairs of different positions.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._checks import check_option
from ._angle import safe_reciprocal
from ._covariance import Marginal
from ._graph import Operation, Shape, Symbol, Value, emit
from ._window import Window, spatial_tuple


class Linear(Operation):
    """A linear map of positions, the same for both examples of a pair.

    A subclass gives `matrices`: for each axis `(out, in)`, a uniform number for an axis
    that is summed away, or `None` for one that stays.
    """

    positional = True

    def matrices(self, shape: Shape) -> Sequence[np.ndarray | float | None]:
        """The map of each axis of positions."""
        raise NotImplementedError

    def infer(self, *args: Value) -> Value:
        """A linear map of Gaussians is Gaussian."""
        return dataclasses.replace(args[0], raw=False)

    def shape(self, *args: Shape) -> Shape:
        """What the matrices give."""
        (h,) = args
        if not h.space:
            raise ValueError(
                f"{self.name}: `h` must have axes of positions, got none; "
                "inputs are `(n, *space, channels)`."
            )
        space = tuple(
            n if m is None else len(m)  # pyright: ignore
            for n, m in zip(h.space, self.matrices(h), strict=True)
            if not isinstance(m, float)
        )
        return Shape(space, h.features)

    def needs(self, full: bool) -> bool:
        """Every pair of positions."""
        return True

    def mixes(self, full: bool) -> bool:
        """It does."""
        return True

    def spread(self, array: Array, shape: Shape, axis: int = 0) -> Array:
        """Applies the map to the axes of positions that begin at `axis`."""
        for matrix in self.matrices(shape):
            if isinstance(matrix, float):
                array = matrix * array.sum(axis)
                continue
            if matrix is not None:
                m = jnp.asarray(matrix, array.dtype)
                array = jnp.tensordot(m, array, (1, axis), precision="highest")
                array = jnp.moveaxis(array, 0, axis)
            axis += 1
        return array

    def marginal(self, numbers, *args: Marginal, shapes) -> Marginal:
        """The mean, and a bound of the second moment in its place.

        The moment itself needs pairs of positions; where a nonlinearity follows, the
        evaluation replaces the bound (see `OwnBlock`).
        """
        (h,), (shape,) = args, shapes
        mean = None if h.mean is None else self.spread(h.mean, shape)
        return Marginal.of(self.bound(h.root, shape) ** 2, mean)

    def bound(self, root: Array, shape: Shape) -> Array:
        r"""$\sum |M| \sqrt q$, which no root of a moment exceeds."""
        return _Absolute(self).spread(root, shape)

    def masked_marginal(self, numbers, *args, shapes, masks, out) -> Marginal:
        """As `marginal`; the factor is left in the weights for the pairs."""
        (mask,), (shape,) = masks, shapes
        found = self.marginal(numbers, *args, shapes=shapes)
        if mask is None:
            return found
        factor = self.factor(mask, shape)
        mean = None if found.mean is None else factor * found.mean
        return found.scaled(factor, mean)._replace(weights=(factor,))

    def factor(self, mask: Array, shape: Shape) -> Array:
        """What the map is multiplied by where some positions are absent.

        Args:
            mask: Of the argument, `(*space, ...)`.
            shape: Of the argument.
        """
        raise NotImplementedError

    def masked_apply(self, numbers, params, *args, key, masks) -> Array:
        """As `apply`, times the factor."""
        (mask,) = masks
        y = self.apply(numbers, params, *args, key=key)
        if mask is None:
            return y
        x = args[0]
        factor = self.factor(mask, Shape(x.shape[:-1], x.shape[-1]))
        return factor[..., None] * y

    def both(self, array: Array, shape: Shape) -> Array:
        """$M k M^T$ of an absolute array `(*space, *space, ...)`."""
        array = self.spread(array, shape, len(shape.space))
        return self.spread(array, shape)

    def apply(self, numbers, params, *args: Array, key) -> Array:
        """The map of one example."""
        (x,) = args
        return self.spread(x, Shape(x.shape[:-1], x.shape[-1]))


@dataclasses.dataclass(frozen=True)
class _Absolute(Linear):
    """The absolute values of another map's matrices."""

    other: Linear

    def matrices(self, shape):
        """Those of the other."""
        return [
            m if m is None else abs(m) if isinstance(m, float) else np.abs(m)
            for m in self.other.matrices(shape)
        ]


@dataclasses.dataclass(frozen=True)
class Pool(Linear):
    """Rules of `avg_pool` and `sum_pool`."""

    window: Window
    average: bool

    @property
    def name(self) -> str:  # pyright: ignore
        """What the user called."""
        return "avg_pool" if self.average else "sum_pool"

    def __str__(self) -> str:
        window = self.window
        return (
            f"window={window.sizes}, strides={window.strides}, "
            f"padding={window.padding!r}"
        )

    def shape(self, *args: Shape) -> Shape:
        """One position a window."""
        (h,) = args
        if len(h.space) != len(self.window.sizes):
            raise ValueError(
                f"{self.name}: `h` must have {len(self.window.sizes)} axes of "
                f"positions, as many as `window`, got positions {h.space}."
            )
        space = self.window.out(h.space)
        if min(space) < 1:
            raise ValueError(
                f"{self.name}: `window` {self.window.sizes} with padding 'VALID' must "
                f"fit into the positions of `h`, got {h.space}."
            )
        return Shape(space, h.features)

    def mask(self, *masks, shapes) -> Array | None:
        """Any position under a VALID window; see `Window.mask`."""
        (mask,), (shape,) = masks, shapes
        if mask is None:
            return None
        return self.window.mask(self.name, mask, shape.space, 1)

    def factor(self, mask, shape) -> Array:
        """A VALID average is over the positions of the example under its window.

        A SAME one counts absent positions as zeros, like those beyond the edge.
        """
        out = self.window.mask(self.name, mask, shape.space, 1)
        if not self.average or self.window.padding == "SAME":
            return out
        count = self.window.sum(mask, shape.space)
        return self.window.taps * safe_reciprocal(count)

    def matrices(self, shape: Shape) -> Sequence[np.ndarray]:
        """Bands; an average counts positions outside as zeros."""
        window, found = self.window, []
        outs, pads = window.out(shape.space), window.pads(shape.space)
        for i, (n, out) in enumerate(zip(shape.space, outs, strict=True)):
            matrix = np.zeros((out, n))
            for row in range(out):
                for tap in range(window.sizes[i]):
                    column = row * window.strides[i] + tap - pads[i][0]
                    if window.padding == "CIRCULAR":
                        matrix[row, column % n] += 1
                    elif 0 <= column < n:
                        matrix[row, column] += 1
            if self.average:
                matrix /= window.sizes[i]
            found.append(matrix)
        return found


@dataclasses.dataclass(frozen=True)
class GlobalPool(Linear):
    """Rules of `global_avg_pool` and `global_sum_pool`."""

    keeps_positions = False

    average: bool

    @property
    def name(self) -> str:  # pyright: ignore
        """What the user called."""
        return "global_avg_pool" if self.average else "global_sum_pool"

    def __str__(self) -> str:
        return ""

    def mask(self, *masks, shapes) -> None:
        """No position is left that could be absent."""

    def factor(self, mask, shape) -> Array:
        """Averages are over positions of the example."""
        count = mask.sum(tuple(range(len(shape.space))))
        if not self.average:
            return jnp.ones_like(count)
        return math.prod(shape.space) * safe_reciprocal(count)

    def matrices(self, shape: Shape) -> Sequence[float]:
        """Every axis is summed away."""
        return [1.0 / n if self.average else 1.0 for n in shape.space]


@functools.cache
def _resize_matrix(n: int, out: int, method: str, antialias: bool) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        eye = jnp.eye(n, dtype=jnp.float32)
        if jax.config.jax_enable_x64:  # pyright: ignore
            eye = jnp.eye(n, dtype=jnp.float64)
        return np.asarray(jax.image.resize(eye, (out, n), method, antialias=antialias))


@dataclasses.dataclass(frozen=True)
class Resize(Linear):
    """Rules of `image_resize`."""

    name = "image_resize"

    space: tuple[int, ...]
    method: str
    antialias: bool

    def shape(self, *args: Shape) -> Shape:
        """The positions asked for."""
        (h,) = args
        if len(h.space) != len(self.space):
            raise ValueError(
                f"image_resize: `h` must have {len(self.space)} axes of positions, "
                f"as many as `space`, got positions {h.space}."
            )
        return Shape(self.space, h.features)

    def mask(self, *masks, shapes) -> Array | None:
        """Refused: a resized end has no position of its own."""
        if masks[0] is None:
            return None
        raise NotImplementedError(
            "image_resize: has no kernel with masks; put a `conv` with strides or a "
            "pool in its place."
        )

    def matrices(self, shape: Shape) -> Sequence[np.ndarray]:
        """What `jax.image.resize` makes of the unit vectors."""
        return [
            _resize_matrix(n, out, self.method, self.antialias)
            for n, out in zip(shape.space, self.space, strict=True)
        ]


def _pool(kind, h, window, strides, padding) -> Symbol:
    sizes = (window,) if isinstance(window, int) else tuple(window)
    sizes = spatial_tuple(kind, "window", sizes, max(len(sizes), 1))
    strides = sizes if strides is None else strides
    strides = spatial_tuple(kind, "strides", strides, len(sizes))
    check_option(kind, "padding", padding, ("SAME", "VALID", "CIRCULAR"))
    return emit(Pool(Window(sizes, strides, padding), kind == "avg_pool"), [h], [])


def avg_pool(
    h: Symbol,
    window: Sequence[int] | int,
    *,
    strides: Sequence[int] | int | None = None,
    padding: str = "VALID",
) -> Symbol:
    r"""Averages over windows of $N$ positions: $k'(P, P') = N^{-2} \sum k(p, p')$.

    Args:
        h: A value with positions.
        window: Size of the window, an int an axis.
        strides: Steps between windows; `None` means `window`.
        padding: `"VALID"`, `"SAME"` (positions outside count as zeros) or `"CIRCULAR"`.
            Where positions are absent by a mask, a `"VALID"` average is over those that
            are there, and for a `"SAME"` one they are outside.

    Returns:
        A value with a position a window.

    Raises:
        ValueError: if an option is unknown; when the kernel is called, if the positions
            of `h` do not fit.
    """
    return _pool("avg_pool", h, window, strides, padding)


def sum_pool(
    h: Symbol,
    window: Sequence[int] | int,
    *,
    strides: Sequence[int] | int | None = None,
    padding: str = "VALID",
) -> Symbol:
    r"""Sums over windows: $k'(P, P') = \sum k(p, p')$; see `avg_pool`."""
    return _pool("sum_pool", h, window, strides, padding)


def global_avg_pool(h: Symbol) -> Symbol:
    r"""Averages over all positions: $k' = S^{-2} \sum_{p, p'} k(p, p')$."""
    return emit(GlobalPool(True), [h], [])


def global_sum_pool(h: Symbol) -> Symbol:
    r"""Sums over all positions: $k' = \sum_{p, p'} k(p, p')$."""
    return emit(GlobalPool(False), [h], [])


def image_resize(
    h: Symbol,
    space: Sequence[int],
    *,
    method: str = "linear",
    antialias: bool = True,
) -> Symbol:
    r"""Resizes positions as `jax.image.resize` does: $k' = M k M^\top$.

    Args:
        h: A value with positions.
        space: Positions of the result, an int an axis.
        method: `"nearest"`, `"linear"`, `"cubic"`, `"lanczos3"` or `"lanczos5"`.
        antialias: Whether to widen the filter when the result is smaller.

    Returns:
        A value with the positions `space`.

    Raises:
        ValueError: if an option is unknown.
    """
    methods = ("nearest", "linear", "cubic", "lanczos3", "lanczos5")
    check_option("image_resize", "method", method, methods)
    space = spatial_tuple("image_resize", "space", space, len(tuple(space)))
    return emit(Resize(space, method, antialias), [h], [])
