r"""Integrals against a learned kernel of a fixed physical radius.

M. Liu-Schiaffini, J. Berner, B. Bonev, T. Kurth, K. Azizzadenesheli, A. Anandkumar,
"Neural Operators with Localized Integral and Differential Kernels", arXiv:2402.16845,
section 3.2: a kernel in a basis of functions, times a quadrature. It takes the place of
a convolution in J. Berner et al., arXiv:2506.10973. The basis here is one of B-splines
on a box, which is a product over the axes, where the authors take rings and sectors of
a disc.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_option, check_positive
from .._dtypes import at_least_float32, float_dtype
from .._params import params, static
from ._sampling import all_lengths, check_function, extend, per_axis, spacings


@params
class LocalIntegralParams:
    r"""The kernel of a local integral, in $K$ splines along each axis.

    $$\kappa(s) = \sum_m C_m \prod_i \phi_{m_i}(s_i), \qquad |s_i| \le R_i$$
    """

    coefficients: Array  # C, (*num_basis, in, out)
    radius: tuple[float, ...] = static()  # R, for each axis
    degree: int = static()


def local_integral_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    radius: float | Sequence[float],
    num_dims: int = 2,
    num_basis: int = 3,
    degree: int = 3,
    dtype: DTypeLike = jnp.float32,
) -> LocalIntegralParams:
    r"""Draws the kernel of a local integral.

    $$C \sim \mathcal N(0, 1 / (n_{in} K^d))$$

    Args:
        key: A random key.
        in_channels: $n_{in}$, the number of channels of the input.
        out_channels: The number of channels of the output.
        radius: $R$, half the width of the kernel, in the units of the domain; one
            number, or one for each axis.
        num_dims: $d$, the number of dimensions of space.
        num_basis: $K$, the number of splines along each axis. Their knots are
            $2 R / (K + p)$ apart; a grid resolves the kernel if its points are not
            further apart than these.
        degree: $p$, the degree of the splines: 1 for hats, 3 for a smooth kernel.
        dtype: The dtype of the coefficients.

    Returns:
        Parameters for `local_integral_apply`.

    Raises:
        ValueError: If a number is not as above.
        TypeError: If a number that counts is not an int.
    """
    where = "local_integral_init"
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    check_positive(where, **sizes, num_dims=num_dims, num_basis=num_basis)
    check_option(where, "degree", degree, (1, 2, 3))
    check_float_dtype(where, dtype)
    if num_dims > 3:
        raise ValueError(f"{where}: `num_dims` must be at most 3, got {num_dims}.")
    shape = (*[num_basis] * num_dims, in_channels, out_channels)
    coefficients = jax.random.normal(key, shape, at_least_float32(dtype))
    coefficients = coefficients / math.sqrt(math.prod(shape[:-1]))
    return LocalIntegralParams(
        coefficients=coefficients.astype(dtype),
        radius=per_axis(where, "radius", radius, num_dims),
        degree=degree,
    )


def local_integral_apply(
    params: LocalIntegralParams,
    u: Float[Array, "*space n_in"],
    *,
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
) -> Float[Array, "*space n_out"]:
    r"""Integrates a function on a grid against a local kernel.

    $$v(x) = \frac{1}{V} \int \kappa(y - x) \, u(y) \, dy
        \approx \frac{h^d}{V} \sum_{|y - x| \le R} \kappa(y - x) \, u(y)$$

    where $V$ is the integral of one product of splines, so that the size of $v$ does
    not depend on the radius. The error for smooth functions is $O(h^{p+1})$ with
    splines of degree $p$; where the odd or even continuation beyond an end has a kink,
    $O(h^2)$ near it.

    Time is that of products with a matrix of $K n \times n$ for each axis.

    Args:
        params: Parameters from `local_integral_init`.
        u: A function on a grid, shape `(*space, n_in)`.
        boundary: How the function goes on beyond its domain: `"periodic"`, even
            (`"neumann"`) or odd about its value at the end
            (`"dirichlet"`).
        lengths: The length of the domain along each axis; 1 if None.

    Returns:
        The function $v$, shape `(*space, n_out)`; 16-bit inputs are summed in float32.

    Raises:
        ValueError: If shapes or options do not fit, or the radius is larger than the
            domain.

    Examples:
        >>> params = local_integral_init(jax.random.key(0), 2, 4, radius=0.2)
        >>> local_integral_apply(params, jnp.ones((16, 16, 2))).shape
        (16, 16, 4)
    """
    where = "local_integral_apply"
    *num_basis, in_channels, _ = params.coefficients.shape
    num_dims = len(num_basis)
    check_function(where, u, num_dims, in_channels)
    spacing = spacings(where, u.shape[:-1], boundary, lengths)
    lengths = all_lengths(where, lengths, num_dims)
    if any(r > x for r, x in zip(params.radius, lengths, strict=True)):
        raise ValueError(
            f"{where}: `lengths` must be at least the radius {params.radius}, got "
            f"{lengths}."
        )
    dtype = float_dtype(u, params.coefficients)
    h = jnp.asarray(u, at_least_float32(dtype))
    matrices = [
        jnp.asarray(_matrix(n, step, r, k, params.degree, boundary), h.dtype)
        for n, step, r, k in zip(
            u.shape[:-1], spacing, params.radius, num_basis, strict=True
        )
    ]
    # In two dimensions "imp,jlq,pqc,mlco->ijo".
    rows, splines, points = "ijk"[:num_dims], "mln"[:num_dims], "pqr"[:num_dims]
    axes = ",".join(map("".join, zip(rows, splines, points, strict=True)))
    out = jnp.einsum(
        f"{axes},{points}c,{splines}co->{rows}o",
        *matrices,
        h,
        jnp.asarray(params.coefficients, h.dtype),
        optimize="optimal",
    )
    return out.astype(dtype)


@functools.lru_cache(maxsize=64)
def _matrix(
    n: int, step: float, radius: float, num_basis: int, degree: int, boundary: str
) -> np.ndarray:
    """Row (i, m): the weights of u in the integral of spline m about point i."""
    reach = math.floor(radius / step * (1 + 1e-12))
    offsets = step * np.arange(-reach, reach + 1)
    knots = 2 * radius / (num_basis + degree)
    phi = np.stack(
        [bspline((offsets + radius) / knots - m, degree) for m in range(num_basis)]
    )
    continued = extend(np.eye(n), reach, boundary)
    windows = np.lib.stride_tricks.sliding_window_view(continued, 2 * reach + 1, 0)
    return np.einsum("mk,ijk->imj", phi * (step / knots), windows, optimize=True)


def bspline(x: np.ndarray, degree: int) -> np.ndarray:
    """The B-spline with the knots 0, 1, ..., `degree` + 1, whose integral is 1."""
    powers = [
        (-1) ** k * math.comb(degree + 1, k) * np.maximum(x - k, 0) ** degree
        for k in range(degree + 2)
    ]
    inside = (x > 0) & (x < degree + 1)  # the powers cancel beyond, but for rounding
    return np.where(inside, sum(powers), 0) / math.factorial(degree)
