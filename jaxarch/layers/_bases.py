r"""Bases of univariate functions other than B-splines, for the edges of a KAN.

Sources: Chebyshev: SS et al. 2024, arXiv:2405.07200. Fourier: Xu et al. 2024,
arXiv:2406.01034. Gaussians: Li 2024 (FastKAN), arXiv:2405.06721. Sine: Guilhoto,
Perdikaris 2024 (ActNet), arXiv:2410.01990. Wavelets: Bozorgasl, Chen 2024 (Wav-KAN),
arXiv:2405.12832. ReLU: Qiu et al. 2024 (ReLU-KAN), arXiv:2406.02075.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_interval, check_natural, check_option, check_positive
from .._dtypes import at_least_float32, float_dtype


def _sinc(u: Array) -> Array:
    """sin(pi u) / (pi u), whose derivatives are right near 0, where jnp.sinc's fail."""
    z = math.pi * u
    near = jnp.abs(z) < 1
    square = jnp.where(near, z, 0) ** 2
    series = jnp.ones_like(z)
    for n in range(9, 0, -1):
        series = 1 - square / (2 * n * (2 * n + 1)) * series
    z = jnp.where(near, 1, z)
    return jnp.where(near, series, jnp.sin(z) / z)


WAVELETS: dict[str, Callable[[Array], Array]] = {
    "mexican_hat": lambda u: (
        (2 / math.sqrt(3) * math.pi**-0.25) * (1 - u * u) * jnp.exp(-0.5 * u * u)
    ),
    "morlet": lambda u: jnp.cos(5 * u) * jnp.exp(-0.5 * u * u),
    "derivative_of_gaussian": lambda u: -u * jnp.exp(-0.5 * u * u),
    "shannon": lambda u: 2 * _sinc(2 * u) - _sinc(u),
}


def chebyshev_basis(x: Float[Array, "*shape"], *, degree: int) -> Array:
    r"""Evaluates the Chebyshev polynomials of the first kind.

    $$T_0 = 1, \qquad T_1 = x, \qquad T_{n+1} = 2 x\, T_n - T_{n-1}$$

    They are bounded by 1 on $[-1, 1]$ only. ChebyKAN evaluates them at $\tanh x$.

    Args:
        x: Points, of any shape.
        degree: The largest degree.

    Returns:
        $T_0$ to $T_{degree}$ on a last axis, in the dtype of `x`; 16-bit dtypes are
        computed in float32, as by all bases here.

    Raises:
        ValueError: If `degree` is negative.
        TypeError: If it is not an int.
    """
    check_natural("chebyshev_basis", degree=degree)
    return _stacked(x, lambda x: chebyshev(x, degree))


def legendre_basis(x: Float[Array, "*shape"], *, degree: int) -> Array:
    r"""Evaluates the Legendre polynomials.

    $$P_0 = 1, \qquad P_1 = x, \qquad (n+1) P_{n+1} = (2n+1) x\, P_n - n P_{n-1}$$

    Args:
        x: Points, of any shape.
        degree: The largest degree.

    Returns:
        $P_0$ to $P_{degree}$ on a last axis, in the dtype of `x`.

    Raises:
        ValueError: If `degree` is negative.
        TypeError: If it is not an int.
    """
    check_natural("legendre_basis", degree=degree)
    return _stacked(x, lambda x: legendre(x, degree))


def fourier_basis(x: Float[Array, "*shape"], *, num_frequencies: int) -> Array:
    r"""Evaluates $\cos nx$ and $\sin nx$ for $n = 1, \dots, N$, of period $2\pi$.

    Args:
        x: Points, of any shape.
        num_frequencies: $N$.

    Returns:
        The $N$ cosines, then the $N$ sines, on a last axis, in the dtype of `x`.

    Raises:
        ValueError: If `num_frequencies` is below 1.
        TypeError: If it is not an int.
    """
    check_positive("fourier_basis", num_frequencies=num_frequencies)
    return _stacked(x, lambda x: fourier(x, num_frequencies))


def rbf_basis(
    x: Float[Array, "*shape"],
    *,
    num_centers: int,
    domain: tuple[float, float],
    width: float | None = None,
) -> Array:
    r"""Evaluates Gaussian bumps $\exp(-((x - c_m) / w)^2)$.

    Args:
        x: Points, of any shape.
        num_centers: The number of centres $c_m$, evenly spaced from end to end.
        domain: The first and the last centre.
        width: $w$; None for the spacing of the centres, as in FastKAN.

    Returns:
        The bumps on a last axis, in the dtype of `x`.

    Raises:
        ValueError: If there are fewer than two centres, the domain is no interval, or
            `width` is not positive.
        TypeError: If `num_centers` is not an int.
    """
    where = "rbf_basis"
    check_positive(where, num_centers=num_centers)
    if num_centers < 2:
        raise ValueError(f"{where}: `num_centers` must be at least 2, got 1.")
    check_interval(where, "domain", domain)
    if width is not None and not width > 0:
        raise ValueError(f"{where}: `width` must be positive, got {width}.")
    bumps = range(num_centers)
    return _stacked(x, lambda x: [rbf(x, m, num_centers, domain, width) for m in bumps])


def relu_basis(
    x: Float[Array, "*shape"],
    *,
    num_intervals: int,
    degree: int,
    domain: tuple[float, float],
) -> Array:
    r"""Evaluates the bumps of ReLU-KAN.

    $$R_m(x) = \Bigl(\frac{4}{(e_m - s_m)^2} (e_m - x)_+ (x - s_m)_+\Bigr)^2, \qquad
    s_m = \ell + (m - k) h, \quad e_m = s_m + (k + 1) h$$

    with the spacing $h$ of $G$ intervals from $\ell$. The support is that of a B-spline
    of degree $k$, the maximum is 1, and the derivative is continuous.

    Args:
        x: Points, of any shape.
        num_intervals: $G$.
        degree: $k$, which sets the width of a bump.
        domain: The ends of the interval.

    Returns:
        The $G + k$ bumps on a last axis, in the dtype of `x`.

    Raises:
        ValueError: If a number is out of its range or the domain is no interval.
        TypeError: If `num_intervals` or `degree` is not an int.
    """
    where = "relu_basis"
    check_positive(where, num_intervals=num_intervals)
    check_natural(where, degree=degree)
    check_interval(where, "domain", domain)
    bumps = range(num_intervals + degree)
    return _stacked(
        x, lambda x: [relu(x, m, num_intervals, degree, domain) for m in bumps]
    )


def sine_basis(
    x: Float[Array, "*shape"],
    frequencies: Float[Array, " n"],
    phases: Float[Array, " n"],
) -> Float[Array, "*shape n"]:
    r"""Evaluates sines that have mean 0 and variance 1 under a standard normal `x`.

    $$b_m(x) = \frac{\sin(\omega_m x + \varphi_m) - \mu_m}{\sigma_m}, \qquad
    \mu = e^{-\omega^2/2} \sin\varphi, \quad
    \sigma^2 = q \bigl((1 - q) \cos^2\varphi + q / 2\bigr), \quad
    q = 1 - e^{-\omega^2}$$

    This is ActNet's $\sigma^2 = \frac12 (1 - e^{-2\omega^2} \cos 2\varphi) - \mu^2$
    without its cancellation at small frequencies. A sine without variance,
    $\omega = 0$, gives 0.

    Args:
        x: Points, of any shape.
        frequencies: $\omega$, trained.
        phases: $\varphi$, trained.

    Returns:
        The sines on a last axis, in the promoted dtype.

    Raises:
        ValueError: If `frequencies` and `phases` are not vectors of one length.
    """
    _check_vectors("sine_basis", frequencies, phases)
    dtype = jnp.result_type(float_dtype(x), frequencies, phases)
    wide = at_least_float32(dtype)
    x, frequencies, phases = (jnp.asarray(a, wide) for a in (x, frequencies, phases))
    return sine(x[..., None], *_trailing(x, frequencies, phases)).astype(dtype)


def wavelet_basis(
    x: Float[Array, "*shape"],
    frequencies: Float[Array, " n"],
    phases: Float[Array, " n"],
    *,
    kind: str = "mexican_hat",
) -> Float[Array, "*shape n"]:
    r"""Evaluates translates and dilates of one wavelet.

    $$b_m(x) = \psi(\omega_m x + \varphi_m)$$

    A wavelet at $c$ of scale $s$ has $\omega = 1/s$ and $\varphi = -c/s$.

    | `kind` | $\psi(u)$ |
    | --- | --- |
    | `"mexican_hat"` | $2 \cdot 3^{-1/2} \pi^{-1/4} (1 - u^2) e^{-u^2/2}$ |
    | `"morlet"` | $\cos(5u)\, e^{-u^2/2}$ |
    | `"derivative_of_gaussian"` | $-u\, e^{-u^2/2}$ |
    | `"shannon"` | $2 \operatorname{sinc}(2u) - \operatorname{sinc}(u)$, with $\operatorname{sinc}(u) = \sin(\pi u) / (\pi u)$ |

    Wav-KAN's code cuts its Shannon wavelet by a window; this is the wavelet itself.

    Args:
        x: Points, of any shape.
        frequencies: $\omega$, trained.
        phases: $\varphi$, trained.
        kind: The wavelet.

    Returns:
        The wavelets on a last axis, in the promoted dtype.

    Raises:
        ValueError: If `frequencies` and `phases` are not vectors of one length, or
            `kind` is unknown.
    """  # noqa: E501
    _check_vectors("wavelet_basis", frequencies, phases)
    check_option("wavelet_basis", "kind", kind, WAVELETS)
    dtype = jnp.result_type(float_dtype(x), frequencies, phases)
    wide = at_least_float32(dtype)
    x, frequencies, phases = (jnp.asarray(a, wide) for a in (x, frequencies, phases))
    x, frequencies, phases = x[..., None], *_trailing(x, frequencies, phases)
    return wavelet(x, frequencies, phases, kind).astype(dtype)


# --- lists of functions, for at least float32 -------------------------------------


def chebyshev(x: Array, degree: int) -> list[Array]:
    basis = [jnp.ones_like(x), x]
    for _ in range(1, degree):
        basis.append(2 * x * basis[-1] - basis[-2])
    return basis[: degree + 1]


def legendre(x: Array, degree: int) -> list[Array]:
    basis = [jnp.ones_like(x), x]
    for n in range(1, degree):
        basis.append(((2 * n + 1) * x * basis[-1] - n * basis[-2]) / (n + 1))
    return basis[: degree + 1]


def fourier(x: Array, num_frequencies: int) -> list[Array]:
    n = range(1, num_frequencies + 1)
    return [jnp.cos(k * x) for k in n] + [jnp.sin(k * x) for k in n]


# --- the m-th function of a family, m an int or an array --------------------------


def rbf(
    x: Array,
    m: Array | int,
    num_centers: int,
    domain: tuple[float, float],
    width: float | None = None,
) -> Array:
    low, high = domain
    spacing = (high - low) / (num_centers - 1)
    width = spacing if width is None else width
    return jnp.exp(-(((x - (low + m * spacing)) / width) ** 2))


def relu(
    x: Array,
    m: Array | int,
    num_intervals: int,
    degree: int,
    domain: tuple[float, float],
) -> Array:
    low, high = domain
    # x - s_m in spacings, of which the support has degree + 1.
    s = (x - low) * (num_intervals / (high - low)) + degree - m
    scale = 4 / (degree + 1) ** 2
    return (scale * jnp.maximum(degree + 1 - s, 0) * jnp.maximum(s, 0)) ** 2


def sine(x: Array, frequency: Array, phase: Array) -> Array:
    square = frequency * frequency
    q = -jnp.expm1(-square)
    mean = jnp.exp(-0.5 * square) * jnp.sin(phase)
    variance = q * ((1 - q) * jnp.cos(phase) ** 2 + 0.5 * q)
    varies = variance > 0
    inverse = jnp.where(varies, jnp.where(varies, variance, 1) ** -0.5, 0)
    return (jnp.sin(frequency * x + phase) - mean) * inverse


def wavelet(x: Array, frequency: Array, phase: Array, kind: str) -> Array:
    return WAVELETS[kind](frequency * x + phase)


def _stacked(x: Array, basis: Callable[[Array], list[Array]]) -> Array:
    dtype = float_dtype(x)
    return jnp.stack(basis(jnp.asarray(x, at_least_float32(dtype))), -1).astype(dtype)


def _trailing(x: Array, *vectors: Array) -> list[Array]:
    """The vectors with leading axes for those of `x`."""
    return [v.reshape((1,) * x.ndim + v.shape) for v in vectors]


def _check_vectors(where: str, frequencies: Array, phases: Array) -> None:
    shapes = jnp.shape(frequencies), jnp.shape(phases)
    if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
        raise ValueError(
            f"{where}: `frequencies` and `phases` must be vectors of one length, got "
            f"shapes {shapes[0]} and {shapes[1]}."
        )
