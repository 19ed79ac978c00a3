r"""Integrals against a kernel that is any function, between point clouds.

Z. Li et al., "Neural Operator: Graph Kernel Network for Partial Differential
Equations", arXiv:2003.03485, section 3, with the quadrature weights and neighbourhoods
of a fixed radius that J. Berner et al., arXiv:2506.10973, section 3, ask for: the k
nearest neighbours of a point come closer as the cloud gets denser, so that a sum over
them has no integral for its limit.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._checks import (
    check_float_dtype,
    check_option,
    check_positive,
    check_rank,
    check_shape,
)
from .._dtypes import at_least_float32, float_dtype
from .._params import params, static
from ..layers import mlp_apply, mlp_init

WINDOWS = ("smooth", "sharp")


@params
class RadiusNeighbors:
    """The points within a radius of each query, as a list padded to the longest."""

    indices: Int[Array, "queries neighbors"]
    mask: Bool[Array, "queries neighbors"]  # False where there is padding


@params
class KernelIntegralParams:
    """The kernel of an integral: any parameters, by default those of `mlp_init`."""

    kernel: Any
    diagonal: bool = static()


def radius_neighbors(
    y: ArrayLike,
    x: ArrayLike | None = None,
    *,
    radius: float,
    max_neighbors: int | None = None,
) -> RadiusNeighbors:
    """Lists the points of a cloud that are within a radius of each query, on the host.

    Time and memory are those of the pairs and of a grid of cells of the size of the
    radius.

    Args:
        y: The points of the cloud, numbers and not tracers, shape `(points, dims)`.
        x: The queries, shape `(queries, dims)`; the points themselves if None.
        radius: The radius.
        max_neighbors: The length of the list, for several clouds of one shape; that of
            the longest if None.

    Returns:
        Indices into `y`, with a mask.

    Raises:
        ValueError: If shapes do not fit, the radius is not positive, or a query has
            more points than `max_neighbors`.
    """
    where = "radius_neighbors"
    y = np.asarray(y, np.float64)
    x = y if x is None else np.asarray(x, np.float64)
    check_rank(where, "y", y, 2, "(points, dims)")
    check_shape(where, "x", x, (x.shape[0], y.shape[1]))
    _check_radius(where, radius)
    cells: dict[tuple, list[int]] = {}
    for j, cell in enumerate(map(tuple, np.floor(y / radius).astype(int))):
        cells.setdefault(cell, []).append(j)
    around = np.stack(np.meshgrid(*[(-1, 0, 1)] * y.shape[1], indexing="ij"), -1)
    around = around.reshape(-1, y.shape[1])
    found = []
    for point, cell in zip(x, np.floor(x / radius).astype(int), strict=True):
        near = [j for c in cell + around for j in cells.get(tuple(c), ())]
        inside = ((y[near] - point) ** 2).sum(-1) <= radius**2
        found.append(np.sort(np.asarray(near, int)[inside]))
    longest = max(map(len, found), default=0)
    size = longest if max_neighbors is None else max_neighbors
    if longest > size:
        raise ValueError(
            f"{where}: `max_neighbors` must be at least {longest}, the points around "
            f"one query, got {max_neighbors}."
        )
    indices = np.zeros((len(x), size), np.int32)
    mask = np.zeros((len(x), size), bool)
    for i, near in enumerate(found):
        indices[i, : len(near)] = near
        mask[i, : len(near)] = True
    return RadiusNeighbors(indices=jnp.asarray(indices), mask=jnp.asarray(mask))


def kernel_integral_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    num_dims: int = 2,
    hidden: Sequence[int] = (64, 64),
    diagonal: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> KernelIntegralParams:
    """Draws a kernel that is a fully connected network of the two points.

    For another kernel, make `KernelIntegralParams` of its parameters and give it to
    `kernel_integral_apply`.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        num_dims: The number of coordinates of a point.
        hidden: The number of features of each hidden layer.
        diagonal: Whether the kernel is one number for each channel and not a matrix.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `kernel_integral_apply`.

    Raises:
        ValueError: If a number is below 1, or a diagonal kernel has other channels out
            than in.
        TypeError: If a number is not an int.
    """
    where = "kernel_integral_init"
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    check_positive(where, **sizes, num_dims=num_dims)
    check_float_dtype(where, dtype)
    if diagonal and in_channels != out_channels:
        raise ValueError(
            f"{where}: `out_channels` must be {in_channels}, the channels of the "
            f"input, for a diagonal kernel, got {out_channels}."
        )
    outputs = out_channels * (1 if diagonal else in_channels)
    network = mlp_init(key, (2 * num_dims, *hidden, outputs), dtype=dtype)
    return KernelIntegralParams(kernel=network, diagonal=diagonal)


def kernel_integral_apply(
    params: KernelIntegralParams,
    u: Float[Array, "points n_in"],
    y: Float[Array, "points dims"],
    weights: Float[Array, " points"],
    *,
    radius: float,
    x: Float[Array, "queries dims"] | None = None,
    neighbors: RadiusNeighbors | None = None,
    window: str = "smooth",
    kernel: Callable[[Any, Array], Array] = mlp_apply,
) -> Float[Array, "queries n_out"]:
    r"""Integrates a function on a cloud against a kernel, at each query.

    $$v(x) = \int_{|y - x| \le r} \omega(x, y) \, \kappa(x, y) \, u(y) \, dy
        \approx \sum_{|y_j - x| \le r} w_j \, \omega(x, y_j) \, \kappa(x, y_j) \, u_j$$

    The window $\omega = (1 - |y - x|^2 / r^2)^2$ goes smoothly to 0 at the radius, so
    that a smooth kernel has the order of the quadrature, up to 3. The papers have
    $\omega = 1$, `"sharp"`: the error is then of first order, that of counting points
    near a jump.

    Without a list of neighbours every pair is evaluated, in time and memory
    $O(\text{queries} \cdot \text{points})$; with one, $O(\text{pairs})$.

    Args:
        params: Parameters from `kernel_integral_init`.
        u: The function at the points, shape `(points, n_in)`.
        y: The points, shape `(points, dims)`.
        weights: The quadrature weight of each point, shape `(points,)`.
        radius: $r$.
        x: Where the output is wanted, shape `(queries, dims)`; at the points if None.
        neighbors: A list from `radius_neighbors` for the same points and queries and a
            radius at least as large.
        window: $\omega$: `"smooth"` or `"sharp"`.
        kernel: $\kappa$, from `params.kernel` and the coordinates of `x` and then of
            `y`, shape `(2 dims,)`, to a vector: `n_out * n_in` entries of a matrix, row
            by row, or `n_in` with a diagonal kernel.

    Returns:
        The function $v$ at the queries, shape `(queries, n_out)`. 16-bit inputs are
        summed in float32; whether a point is within the radius is decided there too.

    Raises:
        ValueError: If shapes or options do not fit.

    Examples:
        >>> params = kernel_integral_init(jax.random.key(0), 2, 4)
        >>> y = jax.random.uniform(jax.random.key(1), (50, 2))
        >>> u, weights = jnp.ones((50, 2)), jnp.full(50, 1 / 50)
        >>> kernel_integral_apply(params, u, y, weights, radius=0.3).shape
        (50, 4)
    """
    where = "kernel_integral_apply"
    check_rank(where, "y", y, 2, "(points, dims)")
    check_rank(where, "u", u, 2, "(points, channels)")
    check_shape(where, "u", u, (y.shape[0], u.shape[1]))
    check_shape(where, "weights", weights, (y.shape[0],))
    x = y if x is None else x
    check_rank(where, "x", x, 2, "(queries, dims)")
    check_shape(where, "x", x, (x.shape[0], y.shape[1]))
    _check_radius(where, radius)
    check_option(where, "window", window, WINDOWS)
    if neighbors is not None:
        check_shape(
            where,
            "neighbors.indices",
            neighbors.indices,
            (x.shape[0], neighbors.mask.shape[-1]),
        )
    leaves = [
        a for a in jax.tree.leaves(params.kernel) if jnp.result_type(a).kind == "f"
    ]
    dtype = float_dtype(u, y, weights, x, *leaves)
    wide = at_least_float32(dtype)
    channels = u.shape[1]

    def one(x: Array, listed: tuple[Array, Array] | None) -> Array:
        points, values, w, inside = y, u, jnp.asarray(weights, wide), True
        if listed is not None:
            indices, inside = listed
            points, values, w = y[indices], u[indices], w[indices]
        gaps = jnp.asarray(points, wide) - jnp.asarray(x, wide)[None]
        square = (gaps**2).sum(-1) / radius**2
        omega = jnp.ones_like(square) if window == "sharp" else (1 - square) ** 2
        w = jnp.where(inside & (square <= 1), w * omega, 0)
        pairs = jnp.concatenate([jnp.broadcast_to(x[None], points.shape), points], -1)
        kappa = jax.vmap(lambda pair: kernel(params.kernel, pair))(pairs)
        size = kappa.shape[-1] if kappa.ndim == 2 else -1
        if size != channels if params.diagonal else size < 1 or size % channels:
            raise ValueError(
                f"{where}: `kernel` must give a vector of "
                f"{'' if params.diagonal else 'a multiple of '}{channels} numbers for "
                f"{channels} channels, got shape {kappa.shape[1:]}."
            )
        kappa, values = jnp.asarray(kappa, wide), jnp.asarray(values, wide)
        if params.diagonal:
            return jnp.einsum("j,ji,ji->i", w, kappa, values)
        kappa = kappa.reshape(len(kappa), -1, channels)
        return jnp.einsum("j,joi,ji->o", w, kappa, values)

    listed = None if neighbors is None else (neighbors.indices, neighbors.mask)
    out = jax.vmap(one, (0, None if listed is None else 0))(x, listed)
    return out.astype(dtype)


def _check_radius(where: str, radius: float) -> None:
    if not 0 < radius < math.inf:
        raise ValueError(
            f"{where}: `radius` must be a positive number, got {radius!r}."
        )
