r"""Grids, their quadrature weights, and functions between grids.

A function on a grid is an array `(*space, channels)`. Along an axis of length $L$ a
periodic grid has $n$ points at $i L / n$, any other $n$ points at $i L / (n - 1)$, both
ends among them. What is built on points and weights, and not on indices, has a limit as
$n$ grows: J. Berner et al., "Principled Approaches for Extending Neural Architectures
to Function Spaces for Operator Learning", arXiv:2506.10973, section 3.
"""

import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from .._checks import (
    check_float_dtype,
    check_option,
    check_positive,
    check_rank,
    check_shape,
)
from .._dtypes import at_least_float32, float_dtype

BOUNDARIES = ("dirichlet", "neumann", "periodic")


def grid_points(
    shape: Sequence[int],
    *,
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*space dims"]:
    """Gives the coordinates of the points of a grid.

    Args:
        shape: The number of points along each axis.
        boundary: `"periodic"` for points at i / n, any other boundary for points at
            i / (n - 1), times the length of the axis.
        lengths: The length of the domain along each axis; 1 if None.
        dtype: The dtype of the coordinates.

    Returns:
        The coordinates, shape `(*shape, dims)`.

    Raises:
        ValueError: If a number of points is too small, or `boundary`, `lengths` or
            `dtype` is not as above.
        TypeError: If a number of points is not an int.

    Examples:
        >>> grid_points((4,))[:, 0].tolist()
        [0.0, 0.25, 0.5, 0.75]
        >>> grid_points((5,), boundary="dirichlet")[:, 0].tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    where = "grid_points"
    check_float_dtype(where, dtype)
    axes = [
        np.arange(n) * h
        for n, h in zip(shape, spacings(where, shape, boundary, lengths), strict=True)
    ]
    return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), -1), dtype)


def grid_weights(
    shape: Sequence[int],
    *,
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*space"]:
    """Gives the weights of the trapezoidal rule on a grid.

    On a periodic grid all are equal, and the rule is exact for trigonometric
    polynomials of degree below n. On other grids the ends count half along their axis,
    and the rule is of second order.

    Args:
        shape: The number of points along each axis.
        boundary: As in `grid_points`.
        lengths: The length of the domain along each axis; 1 if None.
        dtype: The dtype of the weights.

    Returns:
        The weights, shape `shape`; their sum is the volume of the domain.

    Raises:
        ValueError: As `grid_points`.
        TypeError: As `grid_points`.

    Examples:
        >>> grid_weights((5,), boundary="dirichlet").tolist()
        [0.125, 0.25, 0.25, 0.25, 0.125]
    """
    where = "grid_weights"
    check_float_dtype(where, dtype)
    weights = np.ones(())
    for n, h in zip(shape, spacings(where, shape, boundary, lengths), strict=True):
        axis = np.full(n, h)
        if boundary != "periodic":
            axis[[0, -1]] /= 2
        weights = weights[..., None] * axis
    return jnp.asarray(weights, dtype)


def trapezoid_weights(
    x: Float[Array, " points"], *, period: float | None = None
) -> Float[Array, " points"]:
    r"""Gives the weights of the trapezoidal rule at points of an interval.

    $$w_i = (x_{i+1} - x_{i-1}) / 2$$

    and half an interval at the ends, or, with a period, what wraps around.

    Args:
        x: The points in increasing order, at any distances, shape `(points,)`.
        period: The length of the domain if it is periodic.

    Returns:
        The weights, shape `(points,)`.

    Raises:
        ValueError: If `x` is not an array of two points or more.

    Examples:
        >>> trapezoid_weights(jnp.asarray([0.0, 0.25, 1.0])).tolist()
        [0.125, 0.5, 0.375]
    """
    check_rank("trapezoid_weights", "x", x, 1, "(points,)")
    if x.shape[0] < 2:
        raise ValueError(
            f"trapezoid_weights: `x` must have at least two points, got {x.shape[0]}."
        )
    wide = jnp.asarray(x, at_least_float32(float_dtype(x)))
    if period is None:
        gaps = jnp.concatenate([wide[:1], wide, wide[-1:]])
    else:
        gaps = jnp.concatenate([wide[-1:] - period, wide, wide[:1] + period])
    return ((gaps[2:] - gaps[:-2]) / 2).astype(float_dtype(x))


def integrate(
    u: Float[Array, "*space channels"], weights: Float[Array, "*space"]
) -> Float[Array, " channels"]:
    r"""Integrates a function over its domain: a read-out that any sampling agrees on.

    $$\int u \approx \sum_i w_i u(x_i)$$

    Args:
        u: The function at the points of a grid or a cloud, channels last.
        weights: The weight of each point, as `grid_weights` gives them.

    Returns:
        The integral of each channel, shape `(channels,)`, summed in float32 at least.

    Raises:
        ValueError: If `weights` has another shape than `u` without its channels.

    Examples:
        >>> x = grid_points((8,))
        >>> integrate(jnp.sin(jnp.pi * x) ** 2, grid_weights((8,))).round(5).tolist()
        [0.5]
    """
    return _integrate("integrate", u, weights, mean=False)


def domain_mean(
    u: Float[Array, "*space channels"], weights: Float[Array, "*space"] | None = None
) -> Float[Array, " channels"]:
    r"""Averages a function over its domain.

    $$\bar u = \int u \Big/ \int 1 \approx \sum_i w_i u(x_i) \Big/ \sum_i w_i$$

    Args:
        u: The function at the points of a grid or a cloud, channels last.
        weights: The weight of each point; equal ones if None, as on a periodic grid.

    Returns:
        The mean of each channel, shape `(channels,)`, summed in float32 at least.

    Raises:
        ValueError: If `weights` has another shape than `u` without its channels.
    """
    if weights is None:
        weights = jnp.ones(jnp.shape(u)[:-1], jnp.result_type(u))
    return _integrate("domain_mean", u, weights, mean=True)


def _integrate(where: str, u: Array, weights: Array, mean: bool) -> Array:
    check_shape(where, "weights", weights, jnp.shape(u)[:-1])
    dtype = float_dtype(u, weights)
    wide = at_least_float32(dtype)
    u, weights = jnp.asarray(u, wide), jnp.asarray(weights, wide)
    total = jnp.tensordot(weights, u, axes=weights.ndim)
    return (total / weights.sum() if mean else total).astype(dtype)


def resample(
    u: Float[Array, "*space channels"],
    shape: Sequence[int],
    *,
    boundary: str = "periodic",
    method: str | None = None,
) -> Float[Array, "*new_space channels"]:
    """Evaluates the interpolant of a function at the points of another grid.

    Going to fewer points, nothing is filtered out beforehand: points that both grids
    have keep their values. Time is $O(n^{d+1})$ for n points along each of d axes.

    Args:
        u: A function on a grid, shape `(*space, channels)`.
        shape: The number of points of the new grid along each axis.
        boundary: As in `grid_points`.
        method: `"spectral"`, the trigonometric polynomial through all points, for a
            periodic grid only, or `"cubic"`, a polynomial through the four nearest
            points along an axis, of fourth order. None means the first where it may
            be.

    Returns:
        The function on the new grid, shape `(*shape, channels)`.

    Raises:
        ValueError: If shapes or options do not fit.
        TypeError: If a number of points is not an int.

    Examples:
        >>> u = jnp.cos(2 * jnp.pi * grid_points((6,)))
        >>> resample(u, (4,)).shape
        (4, 1)
    """
    where = "resample"
    spacings(where, shape, boundary, None)
    check_rank(where, "u", u, len(shape) + 1, f"({len(shape)} axes, channels)")
    spacings(where, u.shape[:-1], boundary, None)
    method = method or ("spectral" if boundary == "periodic" else "cubic")
    check_option(where, "method", method, ("spectral", "cubic"))
    if method == "spectral" and boundary != "periodic":
        raise ValueError(
            f'{where}: `boundary` must be "periodic" with method="spectral", '
            f"got {boundary!r}."
        )
    dtype = float_dtype(u)
    h = jnp.asarray(u, at_least_float32(dtype))
    for n, m in zip(u.shape[:-1], shape, strict=True):
        matrix = resampling(n, m, boundary, method)
        # The axis leaves from the front and comes back behind the others.
        h = jnp.tensordot(h, jnp.asarray(matrix, h.dtype), axes=(0, 1))
    return jnp.moveaxis(h, 0, -1).astype(dtype)


@functools.lru_cache(maxsize=256)
def resampling(n: int, m: int, boundary: str, method: str) -> np.ndarray:
    """The matrix that takes samples on an axis of `n` points to one of `m` points."""
    points = np.arange(m) / (m if boundary == "periodic" else m - 1)
    if method == "cubic":
        return cubic(points, n, boundary)
    # The n-periodic cardinal function, by its distance from each node.
    angle = np.pi * (points[:, None] - np.arange(n) / n)
    bottom = np.tan(angle) if n % 2 == 0 else np.sin(angle)
    at_node = np.abs(np.sin(angle)) < 1e-12
    bottom = np.where(at_node, 1, bottom)
    return np.where(at_node, 1, np.sin(n * angle) / (n * bottom))


def cubic(points: np.ndarray, n: int, boundary: str) -> np.ndarray:
    """The matrix of local cubics from `n` nodes to `points` of [0, 1]."""
    width = min(4, n)
    position = points * (n if boundary == "periodic" else n - 1)
    first = np.floor(position + 1e-9).astype(int) - (width - 1) // 2
    if boundary != "periodic":
        first = np.clip(first, 0, n - width)
    local = position - first
    matrix = np.zeros((len(points), n))
    for k in range(width):
        others = [j for j in range(width) if j != k]
        value = np.prod([(local - j) / (k - j) for j in others], axis=0)
        np.add.at(matrix, (np.arange(len(points)), (first + k) % n), value)
    return matrix


def extend(u: np.ndarray, radius: int, boundary: str) -> np.ndarray:
    """Continues a function beyond its domain by `radius` points along its first axis.

    Periodic functions go on; Neumann's are even about an end; Dirichlet's are odd about
    their value at an end, so that any smooth function goes on continuously, with its
    derivative.
    """
    widths = [(radius, radius)] + [(0, 0)] * (u.ndim - 1)
    if boundary == "periodic":
        return np.pad(u, widths, mode="wrap")
    odd = "odd" if boundary == "dirichlet" else "even"
    return np.pad(u, widths, mode="reflect", reflect_type=odd)


def spacings(
    where: str,
    shape: Sequence[int],
    boundary: str,
    lengths: float | Sequence[float] | None,
) -> tuple[float, ...]:
    """The distance of neighbouring points along each axis; raises unless all fit."""
    check_option(where, "boundary", boundary, BOUNDARIES)
    check_positive(where, **{f"shape[{i}]": n for i, n in enumerate(shape)})
    lengths = all_lengths(where, lengths, len(shape))
    ends = int(boundary != "periodic")
    for i, n in enumerate(shape):
        if n <= ends:
            raise ValueError(
                f"{where}: `shape[{i}]` must be at least 2 with boundary={boundary!r}, "
                f"got {n}."
            )
    return tuple(float(x) / (n - ends) for n, x in zip(shape, lengths, strict=True))


def all_lengths(
    where: str, lengths: float | Sequence[float] | None, num_dims: int
) -> tuple[float, ...]:
    """The length of the domain along each axis; raises unless they are positive."""
    return per_axis(where, "lengths", 1.0 if lengths is None else lengths, num_dims)


def per_axis(
    where: str, name: str, value: float | Sequence[float], num_dims: int
) -> tuple[float, ...]:
    """One positive number for each axis, from one or as many."""
    values = tuple(
        float(v) for v in (value if isinstance(value, Sequence) else [value] * num_dims)
    )
    if len(values) != num_dims or not all(0 < v < math.inf for v in values):
        raise ValueError(
            f"{where}: `{name}` must be a positive number, or {num_dims} of them, "
            f"got {value!r}."
        )
    return values


def check_function(
    where: str, u: ArrayLike, num_dims: int, channels: int, *, name: str = "u"
) -> None:
    """Raises `ValueError` unless `u` is one function on a grid with these channels."""
    got = jnp.shape(u)
    if len(got) != num_dims + 1 or got[-1] != channels:
        axes = ", ".join(["n"] * num_dims)
        raise ValueError(
            f"{where}: `{name}` must have shape ({axes}, {channels}) (one example; use "
            f"jax.vmap for a batch), got {got}."
        )
