r"""Spectral convolution: a linear operator that multiplies Fourier coefficients.

Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart,
A. Anandkumar, "Fourier Neural Operator for Parametric Partial Differential Equations",
arXiv:2010.08895, section 4, with the modes of `neuralop.layers.SpectralConv`,
neuraloperator 2.0.0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_float_dtype, check_positive
from .._dtypes import at_least_float32, float_dtype
from .._params import params
from ._sampling import check_function, spacings

# Up to so many frequencies along an axis, sums are faster than the FFT.
_FEW_MODES = 64


@params
class SpectralConvParams:
    """Matrices of the kept modes, as real and imaginary parts, and a bias.

    Real leaves, and no complex ones: optimisers, weight decay, norms of gradients and
    files treat them as any other parameter. Of `num_modes` frequencies along an axis
    the first is `-(num_modes // 2)`, and along the last axis, where a real function
    has the negative ones twice, it is 0.
    """

    real: Array  # (m_1, ..., m_d // 2 + 1, in, out)
    imag: Array  # the same shape
    bias: Array | None  # (out,)


def spectral_conv_init(
    key: PRNGKeyArray,
    in_channels: int,
    out_channels: int,
    num_modes: Sequence[int],
    *,
    bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> SpectralConvParams:
    r"""Draws the parameters of a spectral convolution.

    Moduli of matrix entries have mean square $2 / (n_{in} + n_{out})$, phases are
    uniform, and the bias is normal with the same variance, as in neuralop.

    Args:
        key: A random key.
        in_channels: The number of channels of the input.
        out_channels: The number of channels of the output.
        num_modes: The number of frequencies along each of one to three axes of space,
            negative ones included: 16 are those from -8 to 7, 15 those from -7 to 7.
            Along the last axis $m$ stands for those up to $\lfloor m / 2 \rfloor$.
        bias: Whether a constant is added to each channel.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `spectral_conv_apply`.

    Raises:
        ValueError: If a number is below 1, `num_modes` has not one to three entries, or
            `dtype` is not a real floating dtype.
        TypeError: If a number is not an int.

    Examples:
        >>> params = spectral_conv_init(jax.random.key(0), 3, 4, (16, 16))
        >>> params.real.shape
        (16, 9, 3, 4)
    """
    where = "spectral_conv_init"
    check_modes(where, num_modes)
    check_positive(where, in_channels=in_channels, out_channels=out_channels)
    check_float_dtype(where, dtype)
    wide = at_least_float32(dtype)
    std = math.sqrt(2 / (in_channels + out_channels))
    weight_key, bias_key = jax.random.split(key)
    shape = *num_modes[:-1], num_modes[-1] // 2 + 1, in_channels, out_channels
    parts = jax.random.normal(weight_key, (2, *shape), wide) * (std / math.sqrt(2))
    real, imag = parts.astype(dtype)
    offset = std * jax.random.normal(bias_key, (out_channels,), wide)
    return SpectralConvParams(
        real=real, imag=imag, bias=offset.astype(dtype) if bias else None
    )


def spectral_conv_apply(
    params: SpectralConvParams,
    u: Float[Array, "*space in_channels"],
    *,
    boundary: str = "periodic",
    padding: float = 0.0,
) -> Float[Array, "*space out_channels"]:
    r"""Convolves a function with a kernel that is given by its Fourier coefficients.

    $$v(x) = b + \operatorname{Re} \sum_k c_k \,
        \hat u_k W_k \, e^{2 \pi i k \cdot x / P}, \qquad
        \hat u_k = \frac1{P^d} \sum_j w_j \, u(x_j) \, e^{-2 \pi i k \cdot x_j / P},$$

    over the modes of `params`, where $x$ runs from 0 to 1 along each axis. Mode $k$ is
    the same function on every grid, and $\hat u_k$ an integral by the trapezoidal rule
    (`grid_weights`), so that outputs on two grids agree to the order of that rule; on a
    periodic grid, wherever both resolve the input.

    A function that is not periodic is continued by zero to one of period
    $P = 1 + 2 \cdot$`padding`, on no grid: its coefficients are integrals over the
    domain. The neural operators of the papers pad arrays, to a period that depends on
    the grid; points of a jump then count full, which is an error of first order.

    $c_k = 2$ stands for $k$ and $-k$, and is 1 where the frequency of the last axis has
    no partner: 0, or half the (even) number of points of a periodic grid. A grid of $n$
    cells in a period has the frequencies $-n/2 \le k < n/2$, up to $n/2$ along the last
    axis, and modes beyond are left out. On periodic grids neuralop agrees where all
    axes but the last have an even number of points and modes; an odd number of points
    moves its output by one frequency along that axis, since it undoes a shift by the
    same shift.

    Args:
        params: Parameters from `spectral_conv_init`.
        u: One function on a grid, shape `(*space, in_channels)`.
        boundary: Where the grid has its points; see `grid_points`.
        padding: Half of what the period is longer than the domain, as a share of it.

    Returns:
        The output, shape `(*space, out_channels)`, in the promoted dtype of `u` and
        `params`; 16-bit dtypes are computed in float32.

    Raises:
        ValueError: If `u` has another number of axes or channels than `params`, or an
            option is not as above.
    """
    where = "spectral_conv_apply"
    num_axes, in_channels = params.real.ndim - 2, params.real.shape[-2]
    check_function(where, u, num_axes, in_channels)
    check_padding(where, padding)
    dtype = float_dtype(u, params.real)
    wide = at_least_float32(dtype)
    space = u.shape[:-1]
    steps = spacings(where, space, boundary, None)
    periodic = boundary == "periodic" and padding == 0
    period = 1 + 2 * padding
    cells = [math.floor(period / h * (1 + 1e-12)) for h in steps]
    modes = [
        _modes(m, n, half=axis == num_axes - 1)
        for axis, (m, n) in enumerate(zip(params.real.shape, cells, strict=False))
    ]
    rows = tuple(slice(start, start + len(k)) for k, start in modes)
    real, imag = (w[rows].astype(wide) for w in (params.real, params.imag))
    frequencies = [k for k, _ in modes]
    if periodic and max(map(len, frequencies)) > _FEW_MODES:
        out = _multiply_by_fft(u.astype(wide), real, imag, frequencies)
    else:
        axes = []
        for k, n, h in zip(frequencies, space, steps, strict=True):
            weights = np.full(n, h / period)
            if boundary != "periodic":
                weights[[0, -1]] /= 2
            axes.append(_Axis(_waves(k, n, period / h), weights))
        last = frequencies[-1]
        alone = (last == 0) | (periodic & (2 * last == space[-1]))
        out = _multiply_by_sums(u.astype(wide), real, imag, axes, alone)
    if params.bias is not None:
        out += jnp.expand_dims(params.bias.astype(wide), range(num_axes))
    return out.astype(dtype)


def _multiply_by_fft(
    u: Array, real: Array, imag: Array, frequencies: list[np.ndarray]
) -> Array:
    axes = range(len(frequencies))
    spectrum = jnp.fft.rfftn(u, axes=axes, norm="forward")
    kept = np.ix_(*frequencies)
    weight = jax.lax.complex(real, imag)
    product = jnp.einsum("...i,...io->...o", spectrum[kept], weight)
    full = jnp.zeros((*spectrum.shape[:-1], real.shape[-1]), spectrum.dtype)
    full = full.at[kept].set(product)
    return jnp.fft.irfftn(full, u.shape[:-1], axes=axes, norm="forward")


class _Axis(NamedTuple):
    """What the sums along an axis need."""

    waves: np.ndarray  # exp(2 pi i k x / P), (modes, points)
    weights: np.ndarray  # of the mean over the period, (points,)


def _multiply_by_sums(
    u: Array, real: Array, imag: Array, grid: list[_Axis], alone: np.ndarray
) -> Array:
    """Sums over points and modes as they stand, one matrix product an axis.

    `p` and `q` number real and imaginary parts, in front of the other axes; `alone`
    says which frequencies of the last axis stand for themselves only.
    """
    *others, last = range(len(grid))
    points, modes = list("xyz"), list("abc")
    waves = [axis.waves for axis in grid]
    axes = points[: len(grid)]

    def product(z: Array, matrix: np.ndarray, wanted: str, letters: str) -> Array:
        return jnp.einsum(
            f"{wanted},{letters}", z, matrix.astype(z.dtype), precision="highest"
        )

    to_modes = np.stack([np.real(waves[last]), -np.imag(waves[last])])
    to_modes = to_modes * grid[last].weights
    x, k = points[last], modes[last]
    before, axes = "".join(axes), axes[:last] + [k]
    z = product(u, to_modes, f"{before}i", f"p{k}{x}->p{''.join(axes)}i")
    for axis in reversed(others):
        x, k = points[axis], modes[axis]
        before, axes[axis] = "".join(axes), k
        to_modes = _as_real(np.conj(waves[axis]) * grid[axis].weights)
        z = product(z, to_modes, f"p{before}i", f"pq{k}{x}->q{''.join(axes)}i")

    # Both parts in one product, which reads the weights once.
    by_real = jnp.einsum("p...i,...io->p...o", z, real)
    by_imag = jnp.einsum("p...i,...io->p...o", z, imag)
    z = jnp.stack([by_real[0] - by_imag[1], by_imag[0] + by_real[1]])
    for axis in others:
        x, k = points[axis], modes[axis]
        before, axes[axis] = "".join(axes), x
        to_points = _as_real(waves[axis])
        z = product(z, to_points, f"p{before}o", f"pq{k}{x}->q{''.join(axes)}o")
    both = np.where(alone, 1, 2)[:, None]
    to_points = both * np.stack([np.real(waves[last]), -np.imag(waves[last])])
    x, k = points[last], modes[last]
    before, axes[last] = "".join(axes), x
    return product(z, to_points, f"p{before}o", f"p{k}{x}->{''.join(axes)}o")


def _waves(k: np.ndarray, n: int, period: float) -> np.ndarray:
    """The functions exp(2 pi i k x / P) at n points, with the period in their steps."""
    return np.exp(2j * np.pi / period * (k[:, None] * np.arange(n) % period))


def _as_real(matrix: np.ndarray) -> np.ndarray:
    """The product with `matrix` for parts: `(p, q, ...)` takes part `p` to part `q`."""
    return np.stack(
        [
            np.stack([np.real(matrix), np.imag(matrix)]),
            np.stack([-np.imag(matrix), np.real(matrix)]),
        ]
    )


def check_padding(where: str, padding: float) -> None:
    """Raises an error unless `padding` is a number from 0."""
    if not 0 <= padding < math.inf:
        raise ValueError(f"{where}: `padding` must be at least 0, got {padding}.")


def check_modes(where: str, num_modes: Sequence[int]) -> None:
    """Raises an error unless `num_modes` is one to three positive integers."""
    if not 1 <= len(num_modes) <= 3:
        raise ValueError(
            f"{where}: `num_modes` must have one entry for each of one to three axes "
            f"of space, got {tuple(num_modes)}."
        )
    check_positive(where, **{f"num_modes[{i}]": m for i, m in enumerate(num_modes)})


def _modes(num_rows: int, n: int, *, half: bool) -> tuple[np.ndarray, int]:
    """Frequencies of an axis that `n` points resolve, and the row of the first."""
    k = np.arange(num_rows) - (0 if half else num_rows // 2)
    last = n // 2 if half else (n - 1) // 2
    kept = np.flatnonzero((-(n // 2) <= k) & (k <= last))
    return k[kept], int(kept[0])
