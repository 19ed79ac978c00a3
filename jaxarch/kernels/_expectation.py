r"""Expectations $\mathbb E f(u) g(u')$ of two functions of correlated Gaussians.

Four ways, each with the derivative kernel $\mathbb E\,\partial_a f\,\partial_b g'$:

- both positively homogeneous, one Gaussian each: with $f(u) = \alpha u + \beta |u|$,
  $F = \alpha\alpha' k + \beta\beta'\,\mathbb E|u||u'|$, where (the arcsine law)
  $\mathbb E|u||u'| = \sqrt{qq'}\,(\tfrac2\pi(\sin\theta - \theta\cos\theta)
  + \cos\theta)$;
- both expanded in Hermite polynomials: `_expansion.series`;
- kinks at zero, one Gaussian each (`sectors`): in polar coordinates
  $u = \sqrt{q} R\cos\varphi$, $u' = \sqrt{q'} R\cos(\varphi - \theta)$ the kinks are
  rays; between them Gauss-Legendre quadrature in angle and radius converges
  geometrically;
- functions of several Gaussians, five in all (`tensor`): a tensor product of
  Gauss-Hermite rules in whitened coordinates. It converges geometrically for smooth
  functions, the slower the larger the variances are (four Gaussians of variance 1:
  1e-5), and for a kink at zero on a side that has one Gaussian, whose axis is split;
  other kinks leave up to a few percent.

`coarse` takes two thirds of the nodes: the difference is an estimate of the error.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._angle import angle, safe_reciprocal, safe_sqrt
from ._covariance import Covariance

MOST_GAUSSIANS = 5
_SECTOR_NODES = {4: (10, 20), 8: (24, 56)}  # in angle and in radius
_RADIUS = {4: 7.0, 8: 10.0}  # a Gaussian lies beyond with less than rounding
# Nodes an axis of the tensor rule, by the number of Gaussians.
_TENSOR_NODES = {
    4: {1: 40, 2: 40, 3: 24, 4: 16, 5: 10},
    8: {1: 80, 2: 64, 3: 32, 4: 20, 5: 12},
}


def _fewer(nodes: int, coarse: bool) -> int:
    return 2 * nodes // 3 if coarse else nodes


def _dot(a: Array, weight: Array) -> Array:
    return jnp.matmul(a, weight, precision="highest")


def slopes(f: Callable[[Array], Array], dtype) -> tuple[Array, Array]:
    r"""$\alpha, \beta$ of a positively homogeneous $f(u) = \alpha u + \beta|u|$."""
    up, down = f(jnp.ones((), dtype)), f(-jnp.ones((), dtype))
    return (up - down) / 2, (up + down) / 2


def homogeneous(
    one: tuple[Array, Array], two: tuple[Array, Array], h: Covariance
) -> tuple[Array, Array]:
    r"""$F$ and $\dot F$ of two functions given by their slopes."""
    odd, even = one[0] * two[0], one[1] * two[1]
    theta, j = angle(h.v, h.w, h.half)
    f = h.norm * (odd * (1 - h.v) + even * (2 / math.pi * j + 1 - h.v))
    return f, odd + even * (1 - 2 / math.pi * theta)


@jax.custom_jvp
def _moving(f: Array, v: Array, slope: Array) -> Array:
    """Returns `f`, whose derivative in `v` is `slope`."""
    return f


@_moving.defjvp
def _moving_jvp(primals, tangents):
    f, v, slope = primals
    df, dv, _ = tangents
    return _moving(f, v, slope), df + slope * dv


def value_and_slope(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """Returns $f(x)$ and $f'(x)$, number by number."""
    return jax.jvp(f, (x,), (jnp.ones_like(x),))


@functools.cache
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(nodes)


def _half_line(dtype, coarse: bool) -> tuple[Array, Array]:
    """Nodes and weights of an integral over a radius from 0."""
    size = jnp.dtype(dtype).itemsize
    x, weight = _legendre(_fewer(_SECTOR_NODES[size][1], coarse))
    end = _RADIUS[size] / 2
    return jnp.asarray(end * (x + 1), dtype), jnp.asarray(end * weight, dtype)


def half_line_moments(
    f: Callable[[Array], Array], q: Array, coarse: bool
) -> tuple[Array, Array]:
    r"""$\mathbb E f^2$ and $\mathbb E f$ for a kink at zero."""
    radius, weight = _half_line(q.dtype, coarse)
    weight = weight * jnp.exp(-(radius**2) / 2) / math.sqrt(2 * math.pi)
    x = jnp.multiply.outer(safe_sqrt(q), radius)
    up, down = f(x), f(-x)
    return _dot(up**2 + down**2, weight), _dot(up + down, weight)


def sectors(
    f: Callable[[Array], Array],
    g: Callable[[Array], Array],
    h: Covariance,
    coarse: bool = False,
    jumps: bool = False,
) -> tuple[Array, Array]:
    r"""$F$ and $\dot F$ by quadrature between the rays of the kinks.

    $\partial F / \partial c = \dot F$ holds where the angle is 0 too, unless a function
    jumps (`jumps`): its slope in a network is not its derivative.
    """
    dtype = h.v.dtype
    theta, _ = angle(h.v, h.w, h.half)
    still = theta if jumps else jax.lax.stop_gradient(theta)
    root1 = jnp.broadcast_to(h.one.root, h.v.shape)
    root2 = jnp.broadcast_to(h.two.root, h.v.shape)
    radius, radial = _half_line(dtype, coarse)
    radial = radial * radius * jnp.exp(-(radius**2) / 2) / (2 * math.pi)
    x, weight = _legendre(_fewer(_SECTOR_NODES[dtype.itemsize][0], coarse))

    total = root1 + root2 + theta
    zero = jnp.where(total < 0, total, 0)  # varies as all of them do

    def integral(theta, value):
        """Sums over both rays of each pair of opposite sectors."""

        def step(total, node):
            x, weight = node
            narrow = math.pi / 2 + (1 + x) / 2 * theta, weight / 2 * theta
            width = math.pi - theta
            wide = theta - math.pi / 2 + (1 + x) / 2 * width, weight / 2 * width
            for phi, size in (narrow, wide):
                a = jnp.multiply.outer(root1 * jnp.cos(phi), radius)
                b = jnp.multiply.outer(root2 * jnp.cos(phi - theta), radius)
                both = value(a, b) + value(-a, -b)
                total = total + size * _dot(both, radial)
            return total, None

        nodes = jnp.asarray(x, dtype), jnp.asarray(weight, dtype)
        return jax.lax.scan(step, zero, nodes)[0]

    fd = integral(
        theta, lambda a, b: value_and_slope(f, a)[1] * value_and_slope(g, b)[1]
    )
    value = integral(still, lambda a, b: f(a) * g(b))
    return (value if jumps else _moving(value, h.v, -h.norm * fd)), fd


# --- several Gaussians -------------------------------------------------------


Matrix = Sequence[Sequence[Array]]


def _cholesky(covariance: Matrix, whole: bool = False) -> list[list[Array]]:
    """Rows of the lower factor; a direction that is known already is left out.

    Args:
        covariance: Symmetric.
        whole: Whether variances are shares of 1, not of those on the diagonal.
    """
    rows: list[list[Array]] = []
    for i, row in enumerate(covariance):
        found: list[Array] = []
        for j in range(i + 1):
            rest = row[j]
            other = found if i == j else rows[j]
            for a, b in zip(found[:j], other[:j], strict=True):
                rest = rest - a * b
            if i == j:
                known = rest < 64 * jnp.finfo(rest.dtype).eps * (1 if whole else row[i])
                found.append(safe_sqrt(jnp.where(known, 0, rest)))
            else:
                found.append(rest * safe_reciprocal(rows[j][j]))
        rows.append(found)
    return rows


def _solve(lower: Matrix, right: Sequence[Array]) -> list[Array]:
    """Solves a triangular system; a direction that was left out has no part."""
    found: list[Array] = []
    for row, rest in zip(lower, right, strict=True):
        for a, x in zip(row[: len(found)], found, strict=True):
            rest = rest - a * x
        found.append(rest * safe_reciprocal(row[len(found)]))
    return found


def _correlations(lower1: Matrix, lower2: Matrix, cross: Matrix) -> list[list[Array]]:
    r"""$R = L_1^{-1} C L_2^{-\top}$, of the whitened Gaussians of both sides."""
    half = [_solve(lower2, row) for row in cross]  # C L2^-T
    columns = [_solve(lower1, column) for column in zip(*half, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _remainder(correlations: Matrix, like: Array, size: int) -> list[list[Array]]:
    r"""Factor of what the first Gaussians leave of the second, $I - R^\top R$."""
    columns = list(zip(*correlations, strict=True)) or [()] * size
    zero = jnp.zeros_like(like)
    return _cholesky(
        [
            [
                (1 if i == j else 0)
                - sum((x * y for x, y in zip(a, b, strict=True)), zero)
                for j, b in enumerate(columns)
            ]
            for i, a in enumerate(columns)
        ],
        whole=True,
    )


def _grid(nodes: int, axes: int, dtype) -> tuple[Array, Array]:
    """Nodes `(nodes ** axes, axes)` and weights of a tensor Gauss-Hermite rule."""
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = weight / weight.sum()
    points = np.array(list(itertools.product(x, repeat=axes)))
    points = points.reshape(nodes**axes, axes)
    weights = np.array([math.prod(w) for w in itertools.product(weight, repeat=axes)])
    return jnp.asarray(points, dtype), jnp.asarray(weights, dtype)


def _split(dtype, coarse: bool) -> tuple[Array, Array]:
    """As `_grid` for one Gaussian, with the nodes of both signs apart."""
    radius, weight = _half_line(dtype, coarse)
    weight = weight * jnp.exp(-(radius**2) / 2) / math.sqrt(2 * math.pi)
    return jnp.concatenate([radius, -radius])[:, None], jnp.tile(weight, 2)


def _with_partials(f, args: Sequence[Array]) -> tuple[Array, list[Array]]:
    """`f` and its derivative in every argument, number by number."""
    if not args:
        return f(), []
    found = []
    for i in range(len(args)):
        tangents = tuple(
            jnp.ones_like(a) if i == j else jnp.zeros_like(a)
            for j, a in enumerate(args)
        )
        value, slope = jax.jvp(f, tuple(args), tangents)
        found.append(slope)
    return value, found  # pyright: ignore[reportPossiblyUnbound]


def tensor(
    f: Callable[..., Any],
    g: Callable[..., Array],
    covariance: Matrix,
    first: int,
    coarse: bool = False,
    kinked: bool = False,
    jumps: bool = False,
) -> tuple[Array, list[list[Array]]]:
    r"""$\mathbb E f(u) g(u')$ and all $\mathbb E\,\partial_a f\,\partial_b g'$.

    Args:
        f: A function of the first `first` Gaussians, number by number.
        g: A function of the other ones.
        covariance: Of all Gaussians, a list of lists of arrays of one shape.
        first: How many belong to `f`; may be 0.
        coarse: Whether to take two thirds of the nodes.
        kinked: Whether `f`, then of one Gaussian, has a kink at 0, where its nodes
            are split.
        jumps: Whether a function jumps; see `sectors`.
    """
    count, second = len(covariance), len(covariance) - first
    total: Any = sum(jnp.abs(x) for x in itertools.chain(*covariance))
    zero, dtype = jnp.where(total < 0, total, 0), total.dtype  # varies as all of them
    nodes = _fewer(_TENSOR_NODES[dtype.itemsize][count], coarse)
    lower1 = _cholesky([row[:first] for row in covariance[:first]])
    lower2 = _cholesky([row[first:] for row in covariance[first:]])
    cross = [row[first:] for row in covariance[:first]]
    live = _correlations(lower1, lower2, cross)
    # The value is found at fixed correlations; `_moving` knows its derivative in them.
    still = live if jumps else jax.lax.stop_gradient(live)
    sides = [(r, _remainder(r, zero, second)) for r in (still, live)]
    z1, weight1 = _split(dtype, coarse) if kinked else _grid(nodes, first, dtype)
    z2, weight2 = _grid(nodes, second, dtype)

    def apply(row, z):
        return sum((a * x for a, x in zip(row, z, strict=False)), zero)

    def others(z, correlations, rest) -> list[Any]:
        """The second Gaussians at all nodes of their own part, a last axis."""
        white = []
        for k, row in enumerate(rest):
            given = apply([r[k] for r in correlations], z)
            own = sum(jnp.multiply.outer(a, x) for a, x in zip(row, z2.T, strict=False))
            white.append(given[..., None] + own)
        return [
            sum(a[..., None] * x for a, x in zip(row, white, strict=False))
            for row in lower2
        ]

    def step(sums, node):
        z, weight = node
        u = [apply(row, z) for row in lower1]
        value, partials = _with_partials(f, u)
        fixed, moving = (others(z, *side) for side in sides)
        means = [_dot(d, weight2) for d in _with_partials(g, moving)[1]]
        total, slopes = sums
        total = total + weight * value * _dot(g(*fixed), weight2)
        slopes = [
            [s + weight * p * m for s, m in zip(row, means, strict=True)]
            for row, p in zip(slopes, partials, strict=True)
        ]
        return (total, slopes), None

    start = zero, [[zero] * second for _ in range(first)]
    value, slopes = jax.lax.scan(step, start, (z1, weight1))[0]
    for k, row in enumerate([] if jumps else live):
        for m, r in enumerate(row):
            slope = sum(
                lower1[a][k] * slopes[a][b] * lower2[b][m]
                for a in range(k, first)
                for b in range(m, second)
            )
            value = _moving(value, r, slope)
    return value, slopes
