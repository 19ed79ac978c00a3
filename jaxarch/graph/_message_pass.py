"""Messages along the relations of a graph, aggregated with a boundary condition.

Z. Zhu, Z. Zhang, L.-P. Xhonneux, J. Tang, "Neural Bellman-Ford Networks: A General
Graph Neural Network Framework for Link Prediction", arXiv:2106.06935, section 3.2 and
table 2. Statistics and degree scalers: G. Corso, L. Cavalleri, D. Beaini, P. Lio, P.
Velickovic, "Principal Neighbourhood Aggregation for Graph Nets", arXiv:2004.05718,
section 2.2.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._checks import check_option, check_shape
from .._dtypes import at_least_float32, float_dtype
from ._accumulate import Edges, accumulate
from ._graph import Graph

MESSAGES = ("transe", "distmult", "rotate")
STATISTICS = {
    "sum": ("sum",),
    "mean": ("sum",),
    "max": ("max",),
    "pna": ("sum", "square", "max", "min"),
}


def message_pass(
    graph: Graph,
    x: Float[Array, "nodes *queries dim"],
    relation_features: Float[Array, "relations *queries dim"],
    boundary: Float[Array, "nodes *queries dim"],
    *,
    message: str,
    aggregate: str,
    edge_mask: Bool[Array, " edges"] | None = None,
) -> Float[Array, "nodes *queries out"]:
    r"""Sends a message along every edge and aggregates those that a node receives.

    $$h_v = \bigoplus \big(\{w_e\, m(x_u, r_e) : e = (u, r, v)\} \cup
    \{\text{boundary}_v\}\big)$$

    The message $m$ is "transe" $x_u + r$, "distmult" $x_u r$, or "rotate", the product
    of complex numbers whose real parts are the first half of the features and whose
    imaginary parts are the second (of any modulus, as in the authors' code). The
    aggregate of a node with `deg` edges counts the boundary as one more message: "sum",
    "mean" (over deg + 1), "max", or "pna", which is

    $$[\text{mean}, \max, \min, \sqrt{\max(E[m^2] - E[m]^2, 10^{-6})}] \otimes
    [1, s, 1 / \max(s, 10^{-2})], \qquad
    s_v = \log(\deg_v + 1) \,/\, \text{mean}_u \log(\deg_u + 1)$$

    with feature c, statistic i and scaler j at index (4c + i) 3 + j; s is 0 without any
    edge. As in the authors' code a weight enters $E[m^2]$ once: it is the mean of
    $w_e\, m(x_u, r_e)^2$.

    Time O(edges dim queries); messages exist a block of edges at a time, so memory is
    O(nodes dim queries), forward and backward. The queries are part of the mathematics
    and share every pass over the edges: give them as axes, not by `jax.vmap`. The
    gradient is a rule of its own, so `jax.grad` and `jax.vjp` work, and `jax.jvp` does
    not. Messages that tie for a maximum or minimum share its gradient evenly.

    Args:
        graph: The graph. Its `weights` are differentiable.
        x: Node states, shape `(nodes, *queries, dim)`.
        relation_features: A vector for each relation, shape `(relations, dim)` or, one
            for each query, `(relations, *queries, dim)`.
        boundary: The boundary condition, shape of `x`.
        message: "transe", "distmult" or "rotate" (`dim` even).
        aggregate: "sum", "mean", "max" or "pna".
        edge_mask: False where an edge does not count, beside the graph's own mask;
            shape `(edges,)`, in the order of `graph.senders`.

    Returns:
        Shape of `x`, or `(nodes, *queries, 12 dim)` with "pna"; the promoted dtype of
        `x`, `relation_features` and `boundary`. A masked edge counts in nothing, nor
        does a padding node in the mean over nodes.

    Raises:
        TypeError: If `graph` is not a `Graph`.
        ValueError: If shapes disagree, an option is unknown, or `dim` is odd with
            "rotate".

    Examples:
        >>> graph = Graph.from_edges([0, 0, 1], [1, 2, 2], num_nodes=3)
        >>> x = jnp.asarray([[1.0], [2.0], [3.0]])
        >>> out = message_pass(
        ...     graph, x, jnp.ones((1, 1)), 0 * x, message="transe", aggregate="sum"
        ... )
        >>> out[:, 0].tolist()
        [0.0, 2.0, 5.0]
    """
    check_option("message_pass", "aggregate", aggregate, tuple(STATISTICS))
    edge_mask = both_masks("message_pass", graph, edge_mask)
    found = statistics(
        graph,
        x,
        relation_features,
        boundary,
        message=message,
        statistics=STATISTICS[aggregate],
        edge_mask=edge_mask,
    )
    dtype = float_dtype(x, relation_features, boundary)
    if aggregate in ("sum", "max"):
        return found[aggregate].astype(dtype)
    num_messages = degrees(graph, edge_mask, found["sum"].dtype) + 1
    if aggregate == "mean":
        return (found["sum"] / _per_node(num_messages, x.ndim)).astype(dtype)
    stats = jnp.stack(pna_statistics(found, num_messages), -1)
    scales = pna_scales(graph, num_messages)
    scales = scales.reshape(len(scales), *(1,) * (x.ndim - 1), 3)
    out = stats.reshape(*x.shape[:-1], -1, 1) * scales
    return out.reshape(*x.shape[:-1], -1).astype(dtype)


def statistics(
    graph: Graph,
    x: Array,
    relation_features: Array,
    boundary: Array,
    *,
    message: str,
    statistics: tuple[str, ...],
    edge_mask: Array | None,
) -> dict[str, Array]:
    """Sums, sums of squares, maxima and minima over messages and boundary.

    Args:
        graph: The graph.
        x: As for `message_pass`, as are the other arrays.
        relation_features: See there.
        boundary: See there.
        message: See there.
        statistics: Among "sum", "square", "max" and "min".
        edge_mask: What `both_masks` gives.

    Returns:
        One array of the shape of `x` for each statistic, in float32 at least.
    """
    where = "message_pass"
    check_option(where, "message", message, MESSAGES)
    if jnp.ndim(x) < 2 or x.shape[0] != graph.num_nodes:
        raise ValueError(
            f"{where}: `x` must have shape ({graph.num_nodes}, *queries, dim), got "
            f"{jnp.shape(x)}."
        )
    num_nodes, *queries, dim = x.shape
    check_shape(where, "boundary", boundary, x.shape)
    shapes = {(graph.num_relations, *q, dim) for q in ((), tuple(queries))}
    if jnp.shape(relation_features) not in shapes:
        wanted = " or ".join(map(str, sorted(shapes, key=len)))
        raise ValueError(
            f"{where}: `relation_features` must have shape {wanted}, got "
            f"{jnp.shape(relation_features)}."
        )
    if message == "rotate" and dim % 2:
        raise ValueError(
            f'{where}: `dim` must be even with message="rotate", got {dim}.'
        )
    dtype = at_least_float32(float_dtype(x, relation_features, boundary))
    width = math.prod(queries) * dim
    x, boundary = (a.astype(dtype).reshape(num_nodes, width) for a in (x, boundary))
    relations = relation_features.astype(dtype)
    if relations.ndim == 2:
        relations = jnp.broadcast_to(
            relations.reshape(-1, *(1,) * len(queries), dim),
            (graph.num_relations, *queries, dim),
        )
    edges = Edges(
        graph.senders, graph.receivers, graph.edge_types, graph.by_sender, edge_mask
    )
    weights = None if graph.weights is None else graph.weights.astype(dtype)
    found = accumulate(
        _MESSAGES[message],
        dim,
        statistics,
        x,
        relations.reshape(graph.num_relations, width),
        weights,
        boundary,
        edges,
    )
    return {
        name: a.reshape(num_nodes, *queries, dim)
        for name, a in zip(statistics, found, strict=True)
    }


def both_masks(where: str, graph: Graph, edge_mask: Array | None) -> Array | None:
    """The graph's mask and the caller's together; None if there is neither."""
    if not isinstance(graph, Graph):
        raise TypeError(f"{where}: `graph` must be a Graph, got {type(graph)}.")
    if edge_mask is None:
        return graph.mask
    check_shape(where, "edge_mask", edge_mask, graph.senders.shape)
    if not jnp.issubdtype(jnp.result_type(edge_mask), jnp.bool_):
        raise TypeError(
            f"{where}: `edge_mask` must be bool, got {jnp.result_type(edge_mask)}."
        )
    return edge_mask if graph.mask is None else graph.mask & edge_mask


def degrees(graph: Graph, edge_mask: Array | None, dtype: jnp.dtype) -> Array:
    """The number of edges into each node that count, shape `(nodes,)`."""
    ones = jnp.ones if edge_mask is None else lambda *_: edge_mask.astype(dtype)
    return jax.ops.segment_sum(
        ones(graph.receivers.shape, dtype),
        graph.receivers,
        graph.num_nodes,
        indices_are_sorted=True,
    )


def pna_statistics(found: dict[str, Array], num_messages: Array) -> tuple[Array, ...]:
    """Mean, maximum, minimum and standard deviation, each of the shape of a sum."""
    n = _per_node(num_messages, found["sum"].ndim)
    mean = found["sum"] / n
    variance = found["square"] / n - mean**2
    std = jnp.sqrt(jnp.maximum(variance, 1e-6))
    return mean, found["max"], found["min"], std


def pna_scales(graph: Graph, num_messages: Array) -> Array:
    """The three degree scalers, shape `(nodes, 3)`."""
    logs = jnp.log(num_messages)
    mean = jnp.mean(logs, where=graph.node_mask)
    s = jnp.where(mean > 0, logs / jnp.where(mean > 0, mean, 1), 0)
    return jnp.stack([jnp.ones_like(s), s, 1 / jnp.maximum(s, 1e-2)], -1)


def _per_node(a: Array, rank: int) -> Array:
    return a.reshape(-1, *(1,) * (rank - 1))


def _transe(_: int, x: Array, r: Array) -> Array:
    return x + r


def _distmult(_: int, x: Array, r: Array) -> Array:
    return x * r


def _rotate(dim: int, x: Array, r: Array) -> Array:
    def complex_(a: Array) -> tuple[Array, Array]:
        a = a.reshape(*a.shape[:-1], -1, 2, dim // 2)
        return a[..., 0, :], a[..., 1, :]

    (a, b), (c, d) = complex_(x), complex_(r)
    return jnp.stack([a * c - b * d, a * d + b * c], -2).reshape(x.shape)


_MESSAGES = {"transe": _transe, "distmult": _distmult, "rotate": _rotate}
