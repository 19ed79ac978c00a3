r"""A convolution whose limit on ever finer grids is a derivative.

M. Liu-Schiaffini, J. Berner, B. Bonev, T. Kurth, K. Azizzadenesheli, A. Anandkumar,
"Neural Operators with Localized Integral and Differential Kernels", arXiv:2402.16845,
section 3.1; used by J. Berner et al., arXiv:2506.10973, in place of convolutions, whose
limit is a map at each point.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32, float_dtype
from .._params import params
from ._sampling import check_function, spacings


@params
class DifferentialConvParams:
    """The kernel of a differential convolution, one to three dimensions."""

    kernel: Array  # (*taps, in, out)


def differential_conv_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    *,
    num_dims: int = 2,
    kernel_size: int = 3,
    dtype: DTypeLike = jnp.float32,
) -> DifferentialConvParams:
    r"""Draws the kernel of a differential convolution.

    $$K \sim \mathcal N(0, 1 / (n_{in} s^d))$$

    Args:
        key: A random key.
        in_channels: $n_{in}$, the number of channels of the input.
        out_channels: The number of channels of the output.
        num_dims: $d$, the number of dimensions of space.
        kernel_size: $s$, the number of points of the kernel along each axis, odd.
        dtype: The dtype of the kernel.

    Returns:
        Parameters for `differential_conv_apply`.

    Raises:
        ValueError: If a number is not as above.
        TypeError: If a number is not an int.
    """
    where = "differential_conv_init"
    sizes = {"in_channels": in_channels, "out_channels": out_channels}
    check_positive(where, **sizes, num_dims=num_dims, kernel_size=kernel_size)
    check_float_dtype(where, dtype)
    if num_dims > 3:
        raise ValueError(f"{where}: `num_dims` must be at most 3, got {num_dims}.")
    if kernel_size % 2 == 0 or kernel_size < 3:
        raise ValueError(
            f"{where}: `kernel_size` must be odd and at least 3, got {kernel_size}."
        )
    shape = (*[kernel_size] * num_dims, in_channels, out_channels)
    kernel = jax.random.normal(key, shape, at_least_float32(dtype))
    kernel = kernel / math.sqrt(math.prod(shape[:-1]))
    return DifferentialConvParams(kernel=kernel.astype(dtype))


def differential_conv_apply(
    params: DifferentialConvParams,
    u: Float[Array, "*space n_in"],
    *,
    boundary: str = "periodic",
    lengths: float | Sequence[float] | None = None,
) -> Float[Array, "*space n_out"]:
    r"""Applies a differential convolution to a function on a grid.

    $$v(x) = \frac1h \sum_k K_k \big(u(x + k \odot \mathbf h) - u(x)\big)
        \;\to\; \sum_k K_k \, (k \odot \mathbf h / h) \cdot \nabla u(x)$$

    with the spacings $\mathbf h$ of the grid and their geometric mean $h$. The error of
    the limit is $O(h)$, and $O(h^2)$ for an odd kernel. A network of these and of maps
    at each point is a differential operator; global ones need an integral beside it.

    The function goes on beyond its domain periodically, evenly
    (`"neumann"`) or odd about its value at the end (`"dirichlet"`). The limit holds
    up to the boundary with the first for periodic functions, with the last for any; for
    an even continuation the derivative there is that of the continuation. The authors'
    code pads with zeros instead where a domain ends: the jump, over $h$, has no limit.

    Refine all axes alike: the direction depends on the ratios of the spacings.

    Args:
        params: Parameters from `differential_conv_init`.
        u: A function on a grid, shape `(*space, n_in)`.
        boundary: `"dirichlet"`, `"neumann"` or `"periodic"`.
        lengths: The length of the domain along each axis; 1 if None.

    Returns:
        The function $v$, shape `(*space, n_out)`. Rounding errors of `u` grow by
        $1 / h$; 16-bit inputs are taken to float32 and the result back.

    Raises:
        ValueError: If shapes or options do not fit.

    Examples:
        >>> params = differential_conv_init(jax.random.key(0), 2, 4, num_dims=1)
        >>> differential_conv_apply(params, jnp.ones((16, 2))).shape
        (16, 4)
    """
    where = "differential_conv_apply"
    num_dims = params.kernel.ndim - 2
    check_function(where, u, num_dims, params.kernel.shape[-2])
    spacing = spacings(where, u.shape[:-1], boundary, lengths)
    taps = params.kernel.shape[:num_dims]
    if min(u.shape[:-1]) < max(taps):
        raise ValueError(
            f"{where}: `u` must have at least {max(taps)} points along each axis, the "
            f"size of the kernel, got {u.shape[:-1]}."
        )
    dtype = float_dtype(u, params.kernel)
    wide = at_least_float32(dtype)
    kernel = jnp.asarray(params.kernel, wide)
    middle = tuple(n // 2 for n in taps)
    kernel = kernel.at[middle].add(-kernel.sum(tuple(range(num_dims))))
    kernel = kernel / math.prod(spacing) ** (1 / num_dims)
    h = jnp.asarray(u, wide)
    for axis, n in enumerate(taps):
        h = jnp.moveaxis(_extend(jnp.moveaxis(h, axis, 0), n // 2, boundary), 0, axis)
    space = "HWD"[:num_dims]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    out = jax.lax.conv_general_dilated(
        h[None], kernel, (1,) * num_dims, "VALID", dimension_numbers=layout
    )
    return out[0].astype(dtype)


def _extend(h: Array, radius: int, boundary: str) -> Array:
    """Continues a function by `radius` points beyond both ends of its first axis."""
    if boundary == "periodic":
        return jnp.concatenate([h[-radius:], h, h[:radius]])
    left, right = h[radius:0:-1], h[-2 : -radius - 2 : -1]
    if boundary == "dirichlet":
        left, right = 2 * h[:1] - left, 2 * h[-1:] - right
    return jnp.concatenate([left, h, right])
