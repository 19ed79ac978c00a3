r"""Sums over the neighbours in a graph, whose nodes are the positions of a value.

Du et al., *Graph Neural Tangent Kernel* (arXiv:1905.13192). With a pattern $P$ of
weights from senders to receivers,

$$h'_r = \sum_s P_{rs} h_s, \qquad k' = P k P^\top, \qquad t' = P t P^\top.$$
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._graph import Shape, Symbol, emit
from ._pool import Linear


@dataclasses.dataclass(frozen=True)
class Aggregate(Linear):
    """Rules of `aggregate`; the arrays are bytes, so that the operation has a hash."""

    name = "aggregate"

    weights: bytes  # float64: (nodes, nodes), or one an edge
    edges: bytes | None  # int64 (2, edges): senders, receivers; None: dense

    def __str__(self) -> str:
        count = len(self.weights) // 8
        return (
            f"edges={count}" if self.edges is not None else f"pattern={count**0.5:.0f}"
        )

    def _pattern(self) -> tuple[np.ndarray, np.ndarray | None]:
        weights = np.frombuffer(self.weights)
        if self.edges is None:
            nodes = round(len(weights) ** 0.5)
            return weights.reshape(nodes, nodes), None
        return weights, np.frombuffer(self.edges, np.int64).reshape(2, -1)

    def shape(self, *args: Shape) -> Shape:
        """The nodes stay."""
        (h,) = args
        weights, edges = self._pattern()
        if len(h.space) != 1:
            raise ValueError(
                "aggregate: `h` must have one axis of positions, the nodes, got "
                f"positions {h.space}."
            )
        (nodes,) = h.space
        if edges is None and len(weights) != nodes:
            raise ValueError(
                f"aggregate: `pattern` must be ({nodes}, {nodes}), a row and a column "
                f"for each position of `h`, got {weights.shape}."
            )
        if edges is not None and edges.size and edges.max() >= nodes:
            raise ValueError(
                f"aggregate: `pattern` must join nodes below {nodes}, the positions of "
                f"`h`, got node {edges.max()}."
            )
        return h

    def spread(self, array: Array, shape: Shape, axis: int = 0) -> Array:
        """Sums along `axis`."""
        return self._sum(array, axis, self._pattern()[0])

    def bound(self, root: Array, shape: Shape) -> Array:
        """With the sizes of the weights."""
        return self._sum(root, 0, np.abs(self._pattern()[0]))

    def factor(self, mask: Array, shape: Shape) -> Array:
        """An absent node stays so."""
        return mask

    def _sum(self, array: Array, axis: int, weights: np.ndarray) -> Array:
        edges = self._pattern()[1]
        array, pattern = jnp.moveaxis(array, axis, 0), jnp.asarray(weights, array.dtype)
        if edges is None:
            array = jnp.tensordot(pattern, array, 1, precision="highest")
        else:
            senders, receivers = edges
            pattern = pattern.reshape(-1, *[1] * (array.ndim - 1))
            array = jax.ops.segment_sum(
                pattern * array[senders], jnp.asarray(receivers), len(array)
            )
        return jnp.moveaxis(array, 0, axis)


def aggregate(h: Symbol, pattern: Any) -> Symbol:
    r"""Sums the values of the neighbours of each node of a graph.

    $h'_r = \sum_s P_{rs} h_s$, hence $k' = P k P^\top$ and $t' = P t P^\top$. Put
    loops, degrees or a normalised Laplacian into the pattern. All examples, each the
    features of the nodes `(nodes, features)`, share it.

    Args:
        h: A value with one axis of positions: the nodes.
        pattern: $P$, either an array `(nodes, nodes)` with `pattern[r, s]` the weight
            from $s$ to $r$, or edges: a tuple `(senders, receivers)` or
            `(senders, receivers, weights)` of arrays `(edges,)`, of which equal ones
            add up; the time is then O(edges nodes) a pair of examples. The pattern is
            part of the architecture: another one compiles again.

    Returns:
        A value with the same positions; a Gaussian one stays Gaussian.

    Raises:
        ValueError: if the pattern is neither, or an edge has a negative node; when the
            kernel is called, if it does not fit the positions of `h`.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> path = ([0, 1, 1, 2], [1, 0, 2, 1])
        >>> kernel = ker.infinite(
        ...     lambda h: ker.dense(ker.flatten(ker.aggregate(h, path)), 1)
        ... )
        >>> kernel(jnp.ones((2, 3, 4))).nngp.shape
        (2, 2)
    """
    if isinstance(pattern, tuple) and len(pattern) in (2, 3):
        parts = [np.asarray(part) for part in pattern]
        if all(part.ndim == 1 and len(part) == len(parts[0]) for part in parts):
            return emit(_of_edges(parts), [h], [])
    dense = np.asarray(pattern)
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1]:
        raise ValueError(
            "aggregate: `pattern` must be a square array or a tuple of edges, "
            f"`(senders, receivers)` of one length, got shape {dense.shape}."
        )
    return emit(Aggregate(dense.astype(np.float64).tobytes(), None), [h], [])


def _of_edges(parts: Sequence[np.ndarray]) -> Aggregate:
    senders, receivers = parts[:2]
    for name, nodes in (("senders", senders), ("receivers", receivers)):
        if nodes.size and not (
            np.issubdtype(nodes.dtype, np.integer) and nodes.min() >= 0
        ):
            raise ValueError(
                f"aggregate: `{name}` must be numbers of nodes from 0, got "
                f"{nodes.dtype} with the least {nodes.min()}."
            )
    weights = parts[2] if len(parts) == 3 else np.ones(len(senders))
    edges = np.stack([senders, receivers]).astype(np.int64)
    return Aggregate(weights.astype(np.float64).tobytes(), edges.tobytes())
