r"""B-spline bases: closed forms on uniform knots, the Cox-de Boor recursion on any.

Sources: I. J. Schoenberg, "Contributions to the Problem of Approximation of Equidistant
Data by Analytic Functions", Quart. Appl. Math. 4 (1946) (the closed form); C. de Boor,
"A Practical Guide to Splines" (1978), chapters IX and X (recursion and derivative).
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_interval, check_natural, check_positive
from .._dtypes import at_least_float32, float_dtype

CLOSED_FORMS = range(1, 6)  # the sum over knots cancels more and more above


def bspline_basis(
    x: Float[Array, "*shape"],
    *,
    num_intervals: int,
    degree: int,
    domain: tuple[float, float],
    knots: Float[Array, "*shape num_knots"] | None = None,
) -> Float[Array, "*shape num_basis"]:
    r"""Evaluates the B-splines that span the splines of a degree on an interval.

    $$B_{m,0}(x) = [t_m \le x < t_{m+1}], \qquad
    B_{m,k}(x) = \frac{x - t_m}{t_{m+k} - t_m} B_{m,k-1}(x)
    + \frac{t_{m+k+1} - x}{t_{m+k+1} - t_{m+1}} B_{m+1,k-1}(x)$$

    On uniform knots and for degrees 1 to 5 this is the closed form, symmetric in the
    distance $u = |s|$ from the middle of the basis function in units of the spacing,

    $$B_k(u) = \frac{1}{k!} \sum_{0 \le j \le k/2} (-1)^j \binom{k+1}{j}
    \Bigl(\frac{k+1}{2} - j - u\Bigr)_+^k$$

    which does not cancel at any number of intervals. The basis sums to 1 on the domain
    and is zero outside its knots. Derivatives are exact at every order; at a knot where
    one jumps, it is the one from the right.

    Args:
        x: Points, of any shape.
        num_intervals: The number $G$ of intervals of the domain.
        degree: The degree $k$.
        domain: The two ends of the interval; where `knots` is given, they are not used.
        knots: None for uniform knots, or $G + 2k + 1$ of them, increasing, the first
            and last $k$ of which extend the domain: one set, or one for each entry of
            `x`. A knot may be repeated up to $k$ times.

    Returns:
        The $G + k$ functions, on a last axis, in the dtype of `x`; 16-bit dtypes are
        computed in float32.

    Raises:
        ValueError: If a number is out of its range, or `knots` has another shape.
        TypeError: If `num_intervals` or `degree` is not an int.

    Examples:
        >>> basis = bspline_basis(
        ...     jnp.asarray([-1.0, 0.0]), num_intervals=2, degree=1, domain=(-1, 1)
        ... )
        >>> basis.tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    where = "bspline_basis"
    check_positive(where, num_intervals=num_intervals)
    check_natural(where, degree=degree)
    x = jnp.asarray(x, float_dtype(x))
    if knots is None:
        check_interval(where, "domain", domain)
    else:
        wanted = num_intervals + 2 * degree + 1
        knots = jnp.asarray(knots, x.dtype)
        if knots.shape not in ((wanted,), (*x.shape, wanted)):
            raise ValueError(
                f"{where}: `knots` must have shape {(wanted,)} or "
                f"{(*x.shape, wanted)}, got {knots.shape}."
            )
    wide = x.astype(at_least_float32(x.dtype))[..., None]
    if knots is None and degree in CLOSED_FORMS:
        m = jnp.arange(num_intervals + degree, dtype=wide.dtype)
        m = m.reshape((1,) * x.ndim + m.shape)
        basis = cardinal_bspline(wide, m, num_intervals, degree, domain)
    else:
        if knots is None:
            knots = uniform_knots(num_intervals, degree, domain, wide.dtype)
        knots = _for_each(x, knots.astype(wide.dtype))
        # The knots of each function, on a last axis.
        own = [knots[..., j : j + num_intervals + degree] for j in range(degree + 2)]
        (basis,) = _cox_de_boor(wide, jnp.stack(own, -1), degree)
    return basis.astype(x.dtype)


def bsplines(
    x: Array,
    num_intervals: int,
    degree: int,
    domain: tuple[float, float],
    knots: Array | None,
) -> list[Array]:
    """All functions by the recursion, for at least float32."""
    if knots is None:
        knots = uniform_knots(num_intervals, degree, domain, x.dtype)
    return _cox_de_boor(x, _for_each(x, knots.astype(x.dtype)), degree)


def bspline(
    x: Array,
    m: Array | int,
    num_intervals: int,
    degree: int,
    domain: tuple[float, float],
    knots: Array | None,
) -> Array:
    """Function `m` alone, for at least float32."""
    if knots is None and degree in CLOSED_FORMS:
        return cardinal_bspline(x, m, num_intervals, degree, domain)
    if knots is None:
        knots = uniform_knots(num_intervals, degree, domain, x.dtype)
    start = jnp.asarray(m, jnp.int32)
    own = jax.lax.dynamic_slice_in_dim(knots.astype(x.dtype), start, degree + 2, -1)
    return _cox_de_boor(x, _for_each(x, own), degree)[0]


def cardinal_bspline(
    x: Array,
    m: Array | int,
    num_intervals: int,
    degree: int,
    domain: tuple[float, float],
) -> Array:
    """Function `m` of a uniform basis in closed form, for at least float32."""
    low, high = domain
    # In spacings from the middle of the domain, where float32 has the most digits; the
    # middle of function m lies (degree - 1) / 2 intervals left of knot m of the domain.
    s = (x - (low + high) / 2) * (num_intervals / (high - low))
    return _cardinal(s - (m - (num_intervals + degree - 1) / 2), degree, 0)


def _for_each(x: Array, knots: Array) -> Array:
    """One set of knots for each entry of `x`."""
    return jnp.broadcast_to(knots, (*x.shape, knots.shape[-1]))


def uniform_knots(
    num_intervals: int, degree: int, domain: tuple[float, float], dtype: jnp.dtype
) -> Array:
    """The knots of a uniform basis, those beyond the domain too."""
    low, high = domain
    steps = jnp.arange(-degree, num_intervals + degree + 1, dtype=dtype)
    return low + steps * ((high - low) / num_intervals)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _cardinal(s: Array, degree: int, order: int) -> Array:
    """A derivative of the B-spline on the integers (or halves) that is centred at 0."""
    power = degree - order
    if power < 0:
        return jnp.zeros_like(s)
    u, left = jnp.abs(s), s < 0
    total = jnp.zeros_like(s)
    for j in range(degree // 2 + 1):
        beyond = (degree + 1) / 2 - j - u
        weight = (-1) ** j * math.comb(degree + 1, j) / math.factorial(power)
        if power:
            total = total + weight * jnp.maximum(beyond, 0) ** power
        else:
            inside = (beyond > 0) | (left & (beyond == 0))
            total = total + jnp.where(inside, weight, 0)
    return jnp.where(left, total, -total) if order % 2 else total


@_cardinal.defjvp
def _(degree: int, order: int, primals: tuple, tangents: tuple) -> tuple:
    (s,), (s_dot,) = primals, tangents
    return _cardinal(s, degree, order), s_dot * _cardinal(s, degree, order + 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _cox_de_boor(x: Array, knots: Array, degree: int) -> list[Array]:
    """The recursion; its derivative in `x` is one in splines of one degree less."""
    return _recursion(x, knots, degree)


@functools.partial(_cox_de_boor.defjvp, symbolic_zeros=True)
def _(degree: int, primals: tuple, tangents: tuple) -> tuple:
    (x, knots), (x_dot, knots_dot) = primals, tangents
    zero = jax.custom_derivatives.SymbolicZero
    basis = _cox_de_boor(x, knots, degree)
    dots = [jnp.zeros_like(x) for _ in basis]
    if degree and not isinstance(x_dot, zero):
        slopes = [
            degree * _reciprocal(knots[..., m + degree] - knots[..., m]) * lower
            for m, lower in enumerate(_cox_de_boor(x, knots, degree - 1))
        ]
        dots = [x_dot * (a - b) for a, b in itertools.pairwise(slopes)]
    if not isinstance(knots_dot, zero):
        recursion = functools.partial(_recursion, x, degree=degree)
        _, moved = jax.jvp(recursion, (knots,), (knots_dot,))
        dots = [dot + more for dot, more in zip(dots, moved, strict=True)]
    return basis, dots


def _recursion(x: Array, knots: Array, degree: int) -> list[Array]:
    t = [knots[..., j] for j in range(knots.shape[-1])]
    basis = [
        ((left <= x) & (x < right)).astype(x.dtype)
        for left, right in itertools.pairwise(t)
    ]
    for k in range(1, degree + 1):
        rise = [(x - t[m]) * _reciprocal(t[m + k] - t[m]) for m in range(len(t) - k)]
        # Where knots coincide, a function of the lower degree is zero, and its weight
        # does not matter.
        basis = [
            rise[m] * basis[m] + (1 - rise[m + 1]) * basis[m + 1]
            for m in range(len(basis) - 1)
        ]
    return basis


def _reciprocal(width: Array) -> Array:
    """1 / width, and 0 for knots that coincide."""
    positive = width > 0
    return jnp.where(positive, 1 / jnp.where(positive, width, 1), 0)
