r"""Kernels that are functions of the angle of their inputs: depth for free.

Without biases and with nonlinearities of degree one, the second moment is proportional
to $|x|^2$ at every layer, and the output is
$k = |x||x'|\,\kappa(\theta)$, $t = |x||x'|\,\tau(\theta)$.
Both functions are analytic on $[0, \pi]$, whatever the depth, so that a Chebyshev series
in $\theta$ found from a few dozen angles replaces the recursion at every pair.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._combine import Add, Concatenate, Scale
from ._covariance import Marginal, Pair, Rules
from ._dense import Dense
from ._graph import Graph, Input, Number
from ._rectified import Rectifier

# Below, the recursion costs less than the series.
_LAYERS = 6
_RADIX = 4  # a power of two


@cache
def _fit(terms: int, radix: int = _RADIX) -> np.ndarray:
    r"""Maps values at Chebyshev points to the coefficients of $\sum_{jk} y^j S^k$.

    With $S = T_r(y)$ the terms $y^j S^k$, $j < r$, span the polynomials of degree below
    `terms`, and Horner's scheme in $S$ is stable, as in $y$ alone it is not. (Clenshaw's
    scheme is too, but XLA compiles it in time exponential in the number of terms.)
    """
    polynomial = np.polynomial.Polynomial
    y = np.cos(np.pi * (np.arange(terms) + 0.5) / terms)
    s = np.cos(radix * np.arccos(y))
    count = terms // radix
    chebyshev = np.polynomial.chebyshev.chebvander(s, count - 1)
    basis = [y**j * column for j in range(radix) for column in chebyshev.T]
    fit = np.linalg.inv(np.stack(basis, 1)).reshape(radix, count, terms)
    powers = [
        np.polynomial.Chebyshev.basis(k).convert(kind=polynomial).coef
        for k in range(count)
    ]
    convert = np.stack([np.pad(p, (0, count - len(p))) for p in powers], 1)
    return np.einsum("kc,jct->jkt", convert, fit)


@cache
def num_terms(graph: Graph, itemsize: int) -> int:
    r"""Terms of the series: 0 where the network is not such a one, or is shallow.

    The functions vary over angles of $1/L$ for $L$ rectifiers. Measured for $L$ = 6 to
    100, $16 + 4.5\sqrt L$ terms leave 1e-8; in float64, which wants more, the recursion
    is used.
    """
    if itemsize > 4:
        return 0
    depth = 0
    for node in graph.nodes:
        match node.operation:
            case Input() | Scale() | Concatenate():
                pass
            case Rectifier():
                depth += 1
            case Dense(bias=False):
                pass
            case Add():
                values = [graph.nodes[i].value for i in node.args]
                data = any("input" in value.sources for value in values)
                if data and not any(value.centred for value in values):
                    return 0  # the mean of the data is not proportional to |x|
            case _:
                return 0
    if depth < _LAYERS:
        return 0
    return _RADIX * math.ceil((16 + 4.5 * math.sqrt(depth)) / _RADIX)


def angular_series(
    graph: Graph,
    numbers: Sequence[Sequence[Number]],
    terms: int,
    dtype,
    marginals: Callable,
    pairs: Callable,
) -> tuple[Float[Array, "2 radix terms"], Float[Array, "2"]]:
    """The series of $\\kappa$ and $\\tau$, and their slopes at a zero input.

    Args:
        graph: A network for which `num_terms` is positive.
        numbers: Its numbers.
        terms: Number of terms.
        dtype: Of the computation.
        marginals: Evaluates the moments of the graph, from those of its input.
        pairs: Evaluates its pairs, from the first one.

    Returns:
        Coefficients for `evaluate_series`, and the derivatives of $k$ and $t$ in
        $x \\cdot x' / n$ where an input is zero: there the functions have a cone, and
        the mean over the directions $\\pm x'$ is taken.
    """
    grid = np.pi * (np.arange(terms) + 0.5) / terms
    half = np.concatenate([np.pi * (np.cos(grid) + 1) / 4, [0, np.pi / 2]])  # theta / 2
    v = jnp.asarray(2 * np.sin(half) ** 2, dtype)
    w = jnp.asarray(2 * np.cos(half) ** 2, dtype)
    values = marginals(graph, numbers, Marginal.of(jnp.ones_like(v)))
    rules = Rules(False, lambda value, factor: value)
    pair = pairs(graph, numbers, values, Pair(v, w, jnp.zeros_like(v)), rules)
    nngp = values[-1].root ** 2 * (1 - pair.v)
    outputs = jnp.stack([nngp, jnp.broadcast_to(pair.t, nngp.shape)])
    slopes = (outputs[:, -2] - outputs[:, -1]) / 2
    fit = jnp.asarray(_fit(terms), dtype)
    series = jnp.einsum("ot,jkt->ojk", outputs[:, :-2], fit, precision="highest")
    return series, slopes


def evaluate_series(
    coefficients: Float[Array, "radix terms"], theta: Float[Array, "n m"]
) -> Float[Array, "n m"]:
    """$\\sum_{jk} c_{jk} y^j T_r(y)^k$ at $y = 2\\theta/\\pi - 1$, by Horner's scheme."""
    radix, count = coefficients.shape
    y = theta * (2 / math.pi) - 1
    s = y
    for _ in range(radix.bit_length() - 1):  # T_2r = T_2(T_r)
        s = 2 * s * s - 1
    value = jnp.zeros_like(y)
    for j in reversed(range(radix)):
        inner = jnp.zeros_like(y)
        for k in reversed(range(count)):
            inner = inner * s + coefficients[j, k]
        value = value * y + inner
    return value
