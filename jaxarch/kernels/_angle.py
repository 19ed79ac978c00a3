r"""The angle between two vectors from $v = 1 - \cos\theta$, accurate at both ends.

Float32 holds $\cos\theta$ near 1 only to $6\cdot10^{-8}$, hence a small angle to
$3\cdot10^{-4}$; it holds $v$ to seven digits, hence the angle too. Near $\theta = \pi$
the same is true of $w = 1 + \cos\theta$.

With $z = \min(v, w) / 2 = \sin^2(\theta'/2)$, $\theta' = \min(\theta, \pi - \theta)$,

$$\theta' = 2\sqrt z\,P(z), \qquad
  \sin\theta' - \theta'\cos\theta' = 2 z\sqrt z\,Q(z)$$

where $P$ and $Q$ are analytic on $[0, 1/2]$ (nearest singularity: $z = 1$) and are
evaluated as polynomials: on a CPU this costs a tenth of a library `arccos`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Degrees of P and Q by size of the float; the fits are good to 2e-8 and 1e-16.
_DEGREE = {4: (7, 6), 8: (21, 20)}


def _exact(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P and Q by their definitions, Q by the series of sin t - t cos t."""
    root = np.sqrt(z)
    half = np.arcsin(root)
    p = np.where(z > 0, half / np.where(z > 0, root, 1), 1.0)
    t = 2 * half
    ratio = np.where(z > 0, t / np.where(z > 0, root, 1), 2.0)  # t / sqrt(z)
    series = np.zeros_like(z)
    for m in range(14, 0, -1):
        term = (-1) ** (m + 1) * 2 * m / math.factorial(2 * m + 1)
        series = series * t**2 + term
    return p, ratio**3 * series / 2


@functools.cache
def _coefficients(itemsize: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of P and Q in powers of $4z - 1$, highest first."""
    y = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    chebyshev = np.polynomial.chebyshev
    return tuple(
        tuple(map(float, chebyshev.cheb2poly(chebyshev.chebfit(y, f, degree))[::-1]))
        for f, degree in zip(_exact((y + 1) / 4), _DEGREE[itemsize], strict=True)
    )  # pyright: ignore[reportReturnType]


def _horner(coefficients: tuple[float, ...], y: Array) -> Array:
    value = jnp.full_like(y, coefficients[0])
    for c in coefficients[1:]:
        value = value * y + c
    return value


@jax.custom_jvp
def half_angle(
    v: Float[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Returns $\sin(\theta/2) = \sqrt{v/2}$, and `v` again as its square.

    XLA takes a root for expensive: it keeps it, and recomputes all cheap arithmetic
    wherever it is used. Layers that start from their root and from `v` as its square
    therefore cost O(depth); from `v` itself each would go back to the first.
    """
    half = jnp.sqrt(jnp.maximum(v, 0) / 2)
    return half, 2 * half * half


@half_angle.defjvp
def _half_angle_jvp(primals, tangents):
    (v,), (dv,) = primals, tangents
    half, v = half_angle(v)
    return (half, v), (dv * safe_reciprocal(4 * half), dv)


@jax.custom_jvp
def angle(
    v: Float[Array, "..."],
    w: Float[Array, "..."] | None = None,
    half: Float[Array, "..."] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Returns $\theta$ and $J = \sin\theta - \theta\cos\theta$.

    The derivative of $J$ in $v$ is $\theta$, finite everywhere. That of $\theta$ is
    $1/\sin\theta$; where the sine is zero the subgradient 0 is taken.

    Args:
        v: $1 - \cos\theta$, any shape, in float32 or float64.
        w: $1 + \cos\theta$, same shape; `None` says that no cosine is negative.
        half: $\sin(\theta/2)$ where it is known.

    Returns:
        $\theta$ in $[0, \pi]$ and $J$, in the shape and dtype of `v`.
    """
    p, q = _coefficients(v.dtype.itemsize)
    root = half_angle(v)[0] if half is None else half
    if w is not None:
        obtuse = v > 1
        root = jnp.where(obtuse, jnp.sqrt(jnp.maximum(w, 0) / 2), root)
    z = root * root
    y = 4 * z - 1
    theta, j = 2 * root * _horner(p, y), 2 * root * z * _horner(q, y)
    if w is None:
        return theta, j
    theta = jnp.where(obtuse, math.pi - theta, theta)
    return theta, jnp.where(obtuse, math.pi * (1 - 2 * z) + j, j)


@angle.defjvp
def _angle_jvp(primals, tangents):
    v, w, half = primals
    dv, dw, _ = tangents
    theta, j = angle(v, w, half)
    if w is None:
        w = 2 - v
    else:  # dw = -dv; near pi the tangent of w is the accurate one
        dv = jnp.where(v > 1, -dw, dv)
    square = v * w
    regular = square > 0
    inverse_sine = jnp.where(regular, jax.lax.rsqrt(jnp.where(regular, square, 1)), 0)
    return (theta, j), (inverse_sine * dv, theta * dv)


@jax.custom_jvp
def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root of `max(x, 0)` whose derivative at 0 is 0 and not infinite."""
    return jnp.sqrt(jnp.maximum(x, 0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    root = safe_sqrt(x)
    return root, dx * safe_reciprocal(2 * root)


def safe_reciprocal(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Reciprocal that is 0, with derivative 0, where `x` is 0."""
    nonzero = x != 0
    return jnp.where(nonzero, 1 / jnp.where(nonzero, x, 1), 0)
