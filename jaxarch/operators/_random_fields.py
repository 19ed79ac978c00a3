r"""Gaussian random fields whose covariance is a power of the shifted Laplacian.

Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart, A.
Anandkumar, "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv:2010.08895, appendix A.3, draws its data from these.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_positive
from .._dtypes import at_least_float32

_BOUNDARIES = ("dirichlet", "neumann", "periodic")


def gaussian_random_field(
    key: PRNGKeyArray,
    alpha: ArrayLike,
    tau: ArrayLike,
    *,
    shape: Sequence[int],
    sigma: ArrayLike = 1.0,
    boundary: str = "periodic",
    lengths: Sequence[float] | None = None,
    num_modes: int | None = None,
    zero_mean: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*space 1"]:
    r"""Draws a field of covariance $\sigma^2 (-\Delta + \tau^2)^{-\alpha}$ on a grid.

    $$u(x) = \sigma \sum_k (\lambda_k + \tau^2)^{-\alpha / 2} \, \xi_k \, \varphi_k(x),
        \qquad \xi_k \sim \mathcal N(0, 1)$$

    $\varphi_k$ and $\lambda_k$ are the eigenfunctions, of norm 1 in $L^2$ of the box,
    and the eigenvalues of $-\Delta$ there. A normal number belongs to its $k$: one key
    is one function, and a finer grid shows more of it, or, with `num_modes` given, the
    same function at more points. The sum is evaluated as products of matrices, an axis
    at a time: time O(points (modes along an axis)) on square grids.

    Args:
        key: A random key.
        alpha: $\alpha$; in $d$ dimensions fields are continuous if it is over $d / 2$.
        tau: $\tau > 0$, an inverse correlation length. It may be 0 where no eigenvalue
            is: with `zero_mean`, or on a Dirichlet boundary.
        shape: Points along each axis, at i / n of the length on a periodic grid and
            else at i / (n - 1), the boundary included.
        sigma: $\sigma$. The FNO authors' code has $\tau^{\alpha - d / 2}$.
        boundary: Of the Laplacian: "dirichlet", "neumann" or "periodic".
        lengths: The lengths of the box, 1 by default.
        num_modes: Along each axis, wave numbers are below it. By default what the grid
            holds: `(n + 1) // 2` on a periodic one, `n` on another.
        zero_mean: Whether to leave out the constant.
        dtype: The dtype of the field; 16-bit fields are computed in float32.

    Returns:
        The field, shape `(*shape, 1)`.

    Raises:
        ValueError: If `shape` does not have one to three axes, with two points or more
            on a grid with end points, if `lengths` has another length than `shape`, if
            an option is unknown or `dtype` is not a real floating dtype.
        TypeError: If a size is not an int.

    Examples:
        >>> key = jax.random.key(0)
        >>> coarse, fine = (
        ...     gaussian_random_field(key, 2.0, 3.0, shape=(n,), num_modes=8)
        ...     for n in (16, 32)
        ... )
        >>> bool(jnp.allclose(coarse, fine[::2], atol=1e-5))
        True
    """
    where = "gaussian_random_field"
    check_option(where, "boundary", boundary, _BOUNDARIES)
    check_float_dtype(where, dtype)
    shape = tuple(shape)
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"{where}: `shape` must have one to three axes, got {shape}.")
    check_positive(where, **{f"shape[{i}]": n for i, n in enumerate(shape)})
    if boundary != "periodic" and min(shape) < 2:
        raise ValueError(
            f"{where}: `shape` must have two points or more along each axis where "
            f"boundary={boundary!r}, got {shape}."
        )
    lengths = (1.0,) * len(shape) if lengths is None else tuple(lengths)
    if len(lengths) != len(shape):
        raise ValueError(
            f"{where}: `lengths` must have an entry for each of the {len(shape)} axes, "
            f"got {lengths}."
        )
    if num_modes is not None:
        check_positive(where, num_modes=num_modes)

    real = at_least_float32(dtype)
    axes = [
        _modes(n, boundary, length, num_modes)
        for n, length in zip(shape, lengths, strict=True)
    ]
    eigenvalues = functools.reduce(np.add.outer, [values for values, _ in axes])
    tau, alpha, sigma = (jnp.asarray(a, real) for a in (tau, alpha, sigma))
    shifted = jnp.asarray(eigenvalues, real) + tau**2
    if zero_mean:
        constant = eigenvalues == 0
        size = jnp.where(constant, 0, jnp.where(constant, 1, shifted) ** (-alpha / 2))
    else:
        size = shifted ** (-alpha / 2)
    first = int(boundary == "dirichlet")
    field = sigma * size * _noise(key, eigenvalues.shape, first, real)
    for _, functions in axes:  # each takes the first axis away and appends its points
        field = jnp.tensordot(field, jnp.asarray(functions, real), ((0,), (1,)))
    return field[..., None].astype(dtype)


def _modes(
    n: int, boundary: str, length: float, num_modes: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues `(modes,)` and eigenfunctions at the points `(n, modes)`."""
    if boundary == "periodic":
        # The order 1, cos 1, sin 1, cos 2, ... does not depend on their number.
        k = np.repeat(np.arange(num_modes or (n + 1) // 2), 2)[1:]
        phase = 2 * np.pi / n * np.outer(np.arange(n), k)
        functions = np.where(np.arange(len(k)) % 2 == 0, np.sin(phase), np.cos(phase))
        functions[:, 0] = 1
        frequency = 2 * np.pi / length * k
    else:
        k = np.arange(int(boundary == "dirichlet"), num_modes or n)
        phase = np.pi / (n - 1) * np.outer(np.arange(n), k)
        functions = np.cos(phase) if boundary == "neumann" else np.sin(phase)
        frequency = np.pi / length * k
    return frequency**2, np.sqrt(np.where(k == 0, 1, 2) / length) * functions


@functools.partial(jax.jit, static_argnames=("counts", "first", "dtype"))
def _noise(
    key: PRNGKeyArray, counts: tuple[int, ...], first: int, dtype: DTypeLike
) -> Array:
    """A normal number for each multi-index, whatever the number of them."""

    def draw(key: PRNGKeyArray, counts: tuple[int, ...]) -> Array:
        if not counts:
            return jax.random.normal(key, (), dtype)
        numbers = jnp.arange(first, first + counts[0])
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
        return jax.vmap(lambda key: draw(key, counts[1:]))(keys)

    return draw(key, counts)
