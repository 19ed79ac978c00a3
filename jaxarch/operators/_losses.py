r"""Relative norms of the error of a function on a grid: $L^2$ and $H^1$.

J. He, X. Liu, J. Xu, "MgNO: Efficient Parameterization of Linear Operators via
Multigrid", arXiv:2310.19809, section 5, and the authors' code, xlliu2017/MgNO, commit
3a68a90, for the $H^1$ norm by Fourier coefficients.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_natural, check_option, check_shape
from .._dtypes import at_least_float32, float_dtype
from ._sampling import BOUNDARIES, all_lengths


def relative_l2(
    prediction: Float[Array, "*space channels"], target: Float[Array, "*space channels"]
) -> Float[Array, ""]:
    r"""Computes $\lVert v - u \rVert_2 / \lVert u \rVert_2$ of a prediction $v$.

    The norm is over all points and channels, so that the weights of a uniform grid
    cancel. Where $u = 0$ the result is $\lVert v \rVert$, the root of the mean square;
    the gradient at $v = u$ is 0.

    Args:
        prediction: $v$, one example, shape `(*space, channels)` with one to three axes
            of space. The mean over a batch is that of `jax.vmap(relative_l2)`.
        target: $u$, of the same shape.

    Returns:
        The relative error, a number, in the promoted dtype of the arguments.

    Raises:
        ValueError: If the shapes differ, or have no axis of space or more than three.

    Examples:
        >>> u = jnp.sin(jnp.linspace(0, 3, 32))[:, None]
        >>> round(float(relative_l2(1.1 * u, u)), 6)
        0.1
    """
    v, u, dtype = _fields("relative_l2", prediction, target)
    return _ratio(_mean_square(v - u), _mean_square(u)).astype(dtype)


def relative_h1(
    prediction: Float[Array, "*space channels"],
    target: Float[Array, "*space channels"],
    *,
    kind: str = "spectral",
    max_frequency: int = 20,
    lengths: float | Sequence[float] = 1.0,
    boundary: str = "dirichlet",
) -> Float[Array, ""]:
    r"""Computes $\lVert v - u \rVert_{H^1} / \lVert u \rVert_{H^1}$ of a prediction.

    With `kind="spectral"` it is the number that the paper reports,

    $$\lVert u \rVert_{H^1}^2 = \sum_k \Big(1 + \sum_{i: |k_i| < K} k_i^2\Big)
        |\hat u_k|^2$$

    with integer frequencies $k$: a norm of the periodic function on a domain of sides
    $2 \pi$, whatever the boundary and size of the real one, in which frequencies from
    $K$ on count as if they were 0. As there, an odd grid has the frequency
    $-(n + 1)/2$ in place of $(n - 1)/2$.

    With `kind="difference"` it is the norm in physical units,

    $$\lVert u \rVert_{H^1}^2 = \overline{u^2}
        + \sum_i \overline{(\Delta_i u / h_i)^2},$$

    means over the grid of squares and of squared differences of neighbours at distance
    $h_i$: the length over $n_i$ on a periodic grid, over $n_i - 1$ on the others.

    Where $u = 0$ the result is $\lVert v \rVert_{H^1}$ (for `"spectral"` with $\hat u$
    divided by the number of points); the gradient at $v = u$ is 0.

    Args:
        prediction: $v$, one example, shape `(*space, channels)` with one to three axes
            of space. The mean over a batch is that of `jax.vmap`.
        target: $u$, of the same shape.
        kind: `"spectral"` or `"difference"`.
        max_frequency: $K$ of `"spectral"`.
        lengths: The side of the domain, or one for each axis of space; of
            `"difference"`.
        boundary: `"periodic"`, where the last point has the first as its neighbour, or
            `"dirichlet"` or `"neumann"`, which are the same here; of `"difference"`.

    Returns:
        The relative error, a number, in the promoted dtype of the arguments.

    Raises:
        ValueError: If the shapes differ, or have no axis of space or more than three,
            an option is not as above, or an axis has too few points for a difference.
        TypeError: If `max_frequency` is not an int.
    """
    where = "relative_h1"
    check_option(where, "kind", kind, ("spectral", "difference"))
    check_option(where, "boundary", boundary, BOUNDARIES)
    check_natural(where, max_frequency=max_frequency)
    v, u, dtype = _fields(where, prediction, target)
    space = u.shape[:-1]
    sides = all_lengths(where, lengths, len(space))
    if kind == "spectral":
        weights = _sobolev_weights(space, max_frequency).astype(u.dtype)

        def square(f: Array) -> Array:
            spectrum = jnp.fft.fftn(f, axes=range(len(space)), norm="forward")
            power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
            return jnp.sum(jnp.asarray(weights)[..., None] * power) / f.shape[-1]

    else:
        periodic = boundary == "periodic"
        if not periodic and min(space) < 2:
            raise ValueError(
                f"{where}: `target` must have at least two points along each axis "
                f"that is not periodic, got {u.shape}."
            )

        def square(f: Array) -> Array:
            total = _mean_square(f)
            for axis, side in enumerate(sides):
                before = jnp.roll(f, 1, axis) if periodic else f
                step = f - before if periodic else jnp.diff(f, axis=axis)
                cells = f.shape[axis] if periodic else f.shape[axis] - 1
                total += _mean_square(step * (cells / side))
            return total

    return _ratio(square(v - u), square(u)).astype(dtype)


def _fields(where: str, prediction: Array, target: Array) -> tuple:
    """Both functions in at least float32, and the dtype of the result."""
    shape = jnp.shape(target)
    if not 2 <= len(shape) <= 4:
        raise ValueError(
            f"{where}: `target` must have shape (*space, channels) with one to three "
            f"axes of space, got {shape}."
        )
    check_shape(where, "prediction", prediction, shape)
    dtype = float_dtype(prediction, target)
    wide = at_least_float32(dtype)
    return jnp.asarray(prediction, wide), jnp.asarray(target, wide), dtype


def _sobolev_weights(space: tuple[int, ...], max_frequency: int) -> np.ndarray:
    """The factors of the squared coefficients, in the order of the FFT."""
    total = np.ones(space)
    for axis, n in enumerate(space):
        i = np.arange(n)
        k = np.where(i < n // 2, i, i - n)
        k = np.where(abs(k) < max_frequency, k, 0)
        total += np.expand_dims(k**2, [a for a in range(len(space)) if a != axis])
    return total


def _mean_square(f: Array) -> Array:
    return jnp.mean(jnp.square(f))


def _ratio(error: Array, size: Array) -> Array:
    """The root of `error / size`, and of `error` where the size is 0."""
    ratio = error / jnp.where(size > 0, size, 1)
    return jnp.where(ratio > 0, jnp.sqrt(jnp.where(ratio > 0, ratio, 1)), 0)
