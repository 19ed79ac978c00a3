r"""Kernels that are functions of the angle of their inputs: depth for free.

Without biases and with nonlinearities of degree one, the second moment is proportional
to $|x|^2$ at every layer, and the output is
$k = |x||x'|\,\kappa(\theta)$, $t = |x||x'|\,\tau(\theta)$.
Both functions are analytic on $[0, \pi]$, whatever the depth, so that a Chebyshev
series in $\theta$, found from a few dozen angles, replaces the recursion at each pair.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._combine import Add, Concatenate, Scale
from ._covariance import Marginal, Pair, Rules
from ._dense import Dense
from ._graph import Graph, Input
from ._rectified import Rectifier

# Below, the recursion costs less than the series.
_LAYERS = 6


@cache
def num_terms(graph: Graph, itemsize: int) -> int:
    r"""Terms of the series: 0 where the network is not such a one, or is shallow.

    The functions vary over angles of $1/L$ for $L$ rectifiers. Measured for $L$ = 6 to
    100, $16 + 4.5\sqrt L$ terms leave 1e-8, twice as many 1e-14.
    """
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
    return math.ceil((16 + 4.5 * math.sqrt(depth)) * itemsize / 4)


def angular_series(
    terms: int,
    dtype,
    marginals: Callable[[Marginal], Sequence[Marginal]],
    pairs: Callable[[Sequence[Marginal], Pair, Rules], Pair],
) -> tuple[Float[Array, "2 terms"], Float[Array, "2"]]:
    r"""The series of $\kappa$ and $\tau$, and their slopes at a zero input.

    Args:
        terms: Number of terms, from `num_terms`.
        dtype: Of the computation.
        marginals: Gives the moments of every value from those of the input.
        pairs: Gives the output's pairs from moments and the input's pairs.

    Returns:
        Coefficients for `evaluate_series`, and the derivatives of $k$ and $t$ in
        $x \cdot x' / n$ where an input is zero: there the functions have a cone, and
        the mean over the directions $\pm x'$ is taken.
    """
    grid = np.pi * (np.arange(terms) + 0.5) / terms
    half = np.concatenate([np.pi * (np.cos(grid) + 1) / 4, [0, np.pi / 2]])  # theta / 2
    v = jnp.asarray(2 * np.sin(half) ** 2, dtype)
    w = jnp.asarray(2 * np.cos(half) ** 2, dtype)
    values = marginals(Marginal.of(jnp.ones_like(v)))
    rules = Rules(False, lambda value, factor: value)
    pair = pairs(values, Pair(v, w, jnp.zeros_like(v)), rules)
    nngp = values[-1].q * (1 - pair.v)
    outputs = jnp.stack([nngp, jnp.broadcast_to(pair.t, nngp.shape)])
    slopes = (outputs[:, -2] - outputs[:, -1]) / 2
    transform = 2 / terms * np.cos(np.outer(grid, np.arange(terms)))
    transform[:, 0] /= 2
    transform = jnp.asarray(transform, dtype)
    series = jnp.matmul(outputs[:, :-2], transform, precision="highest")
    return series, slopes


def evaluate_series(
    coefficients: Float[Array, " terms"], theta: Float[Array, "n m"]
) -> Float[Array, "n m"]:
    r"""Clenshaw's scheme for a Chebyshev series in $2\theta/\pi - 1$."""
    twice = theta * (4 / math.pi) - 2
    this, previous = jnp.zeros_like(theta), jnp.zeros_like(theta)
    for k in range(coefficients.shape[0] - 1, 0, -1):
        this, previous = coefficients[k] + twice * this - previous, this
    return coefficients[0] + twice / 2 * this - previous
