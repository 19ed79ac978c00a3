"""Semirings: what a sum over paths adds and multiplies, and its reduction over edges.

J. S. Baras, G. Theodorakopoulos, "Path Problems in Networks", 2010, chapter 4; Z. Zhu,
Z. Zhang, L.-P. Xhonneux, J. Tang, "Neural Bellman-Ford Networks", arXiv:2106.06935,
table 1.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._accumulate import AxisName

Reduce = Callable[[Array, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Semiring:
    r"""Two operations on numbers: `add` joins paths, `multiply` extends one by an edge.

    `add` is associative, `multiply` distributes over it, `zero` changes nothing when
    added and is the value of no path, `one` that of the path without edges. Both take
    arrays and broadcast; `multiply(state, weight)` is called in this order.

    A sum over the edges into a node is a scatter where `add` is `jnp.add`,
    `jnp.minimum`, `jnp.maximum` or `jnp.logaddexp`, and a segmented associative scan of
    `add` for any other, in the order of the edges (so `add` need not commute), with the
    boundary added last. `reduce(boundary, receivers, values)` replaces that, for an
    `add` that has a faster way.
    """

    add: Callable[[Array, Array], Array]
    multiply: Callable[[Array, Array], Array]
    zero: float
    one: float
    reduce: Reduce | None = None

    def reduced(
        self,
        boundary: Array,
        receivers: Array,
        values: Array,
        *,
        axis_name: AxisName = None,
    ) -> Array:
        """Adds values up into the nodes that receive them.

        Args:
            boundary: The value that each node has already, shape `(nodes, *queries)`.
            receivers: The node of each value, ascending, shape `(edges,)`.
            values: Shape `(edges, *queries)`.
            axis_name: The mesh axis over whose devices the values are split, if they
                are.

        Returns:
            Shape `(nodes, *queries)`.

        Raises:
            NotImplementedError: With `axis_name`, if `add` is not `jnp.add`,
                `jnp.minimum` or `jnp.maximum`.
        """
        reduce = self.reduce
        if axis_name is not None:
            if reduce is not None or self.add not in _OVER_AXIS:
                raise NotImplementedError(
                    "Semiring.reduced: with `axis_name` the `add` must be jnp.add, "
                    f"jnp.minimum or jnp.maximum without `reduce`, got {self.add}."
                )
            return _OVER_AXIS[self.add](axis_name, boundary, receivers, values)
        if reduce is None:
            reduce = _SCATTERS.get(self.add) or self._scan
        return reduce(boundary, receivers, values)

    def _scan(self, boundary: Array, receivers: Array, values: Array) -> Array:
        first = jnp.append(True, receivers[1:] != receivers[:-1])

        def join(left: tuple, right: tuple) -> tuple:
            (starts1, sum1), (starts2, sum2) = left, right
            alone = starts2.reshape(-1, *(1,) * (sum2.ndim - 1))
            return starts1 | starts2, jnp.where(alone, sum2, self.add(sum1, sum2))

        _, sums = jax.lax.associative_scan(join, (first, values))
        nodes = jnp.arange(len(boundary), dtype=receivers.dtype)
        last = jnp.searchsorted(receivers, nodes, side="right") - 1
        some = (last >= 0) & (receivers[last] == nodes)
        some = some.reshape(-1, *(1,) * (boundary.ndim - 1))
        return jnp.where(some, self.add(sums[last], boundary), boundary)


def log_sum_exp(temperature: float) -> Semiring:
    r"""The semiring of soft extrema: $a \oplus b = T \log(e^{a/T} + e^{b/T})$.

    Its product is the sum. With `temperature` $T > 0$ it is a soft maximum, with
    $T < 0$ a soft minimum; as $T \to 0$ it becomes the maximum or `MIN_PLUS`.

    Args:
        temperature: $T$, not 0.

    Returns:
        The semiring.

    Raises:
        ValueError: If `temperature` is 0 or not finite.

    Examples:
        >>> float(log_sum_exp(-0.1).add(1.0, 2.0).round(4))
        1.0
    """
    if temperature == 0 or not math.isfinite(temperature):
        raise ValueError(
            f"log_sum_exp: `temperature` must be finite and not 0, got {temperature}."
        )
    return Semiring(
        add=functools.partial(_soft, temperature),
        multiply=jnp.add,
        zero=-math.copysign(math.inf, temperature),
        one=0.0,
        reduce=functools.partial(_scatter_soft, temperature),
    )


def _soft(temperature: float, a: Array, b: Array) -> Array:
    return temperature * jnp.logaddexp(a / temperature, b / temperature)


def _scatter_add(boundary: Array, receivers: Array, values: Array) -> Array:
    return boundary.at[receivers].add(values, indices_are_sorted=True)


def _scatter_min(boundary: Array, receivers: Array, values: Array) -> Array:
    return boundary.at[receivers].min(values, indices_are_sorted=True)


def _scatter_max(boundary: Array, receivers: Array, values: Array) -> Array:
    return boundary.at[receivers].max(values, indices_are_sorted=True)


def _scatter_soft(
    temperature: float, boundary: Array, receivers: Array, values: Array
) -> Array:
    b, v = boundary / temperature, values / temperature
    top = jax.lax.stop_gradient(_scatter_max(b, receivers, v))
    top = jnp.where(jnp.isfinite(top), top, 0)
    sums = _scatter_add(jnp.exp(b - top), receivers, jnp.exp(v - top[receivers]))
    some = sums > 0
    # An infinite extremum stays what it is; logarithms only of what has one.
    logs = jnp.log(jnp.where(some, sums, 1))
    return temperature * jnp.where(some, top + logs, -jnp.inf)


def _sum_over(
    axis_name: AxisName, boundary: Array, receivers: Array, values: Array
) -> Array:
    part = _scatter_add(jnp.zeros_like(boundary), receivers, values)
    return boundary + jax.lax.psum(part, axis_name)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _extremum_over(
    scatter: Reduce,
    over: Callable,
    axis_name: AxisName,
    boundary: Array,
    receivers: Array,
    values: Array,
) -> Array:
    # The boundary on every device: once more changes no extremum.
    return over(scatter(boundary, receivers, values), axis_name)


@_extremum_over.defjvp
def _extremum_over_jvp(
    scatter: Reduce,
    over: Callable,
    axis_name: AxisName,
    primals: tuple,
    tangents: tuple,
) -> tuple[Array, Array]:
    """Values that tie share the tangent, on whichever devices they are."""
    boundary, receivers, values = primals
    of_boundary, _, of_values = tangents
    found = _extremum_over(scatter, over, axis_name, *primals)
    own, tied = boundary == found, values == found[receivers]
    add = functools.partial(_sum_over, axis_name, receivers=receivers)
    count = add(own.astype(found.dtype), values=tied.astype(found.dtype))
    total = add(jnp.where(own, of_boundary, 0), values=jnp.where(tied, of_values, 0))
    return found, total / jnp.maximum(count, 1)  # a NaN ties with nothing


_SCATTERS: dict[Any, Reduce] = {
    jnp.add: _scatter_add,
    jnp.minimum: _scatter_min,
    jnp.maximum: _scatter_max,
    jnp.logaddexp: functools.partial(_scatter_soft, 1.0),
}

_OVER_AXIS: dict[Any, Callable] = {
    jnp.add: _sum_over,
    jnp.minimum: functools.partial(_extremum_over, _scatter_min, jax.lax.pmin),
    jnp.maximum: functools.partial(_extremum_over, _scatter_max, jax.lax.pmax),
}

MIN_PLUS = Semiring(jnp.minimum, jnp.add, math.inf, 0.0)
MAX_MIN = Semiring(jnp.maximum, jnp.minimum, -math.inf, math.inf)
MAX_TIMES = Semiring(jnp.maximum, jnp.multiply, 0.0, 1.0)
SUM_TIMES = Semiring(jnp.add, jnp.multiply, 0.0, 1.0)
LOG_SUM_EXP = log_sum_exp(1.0)
