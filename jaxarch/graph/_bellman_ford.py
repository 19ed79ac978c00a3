"""Sums over all paths of a graph in a semiring, and five path problems.

Z. Zhu, Z. Zhang, L.-P. Xhonneux, J. Tang, "Neural Bellman-Ford Networks: A General
Graph Neural Network Framework for Link Prediction", arXiv:2106.06935, section 3.1 and
table 1; J. S. Baras, G. Theodorakopoulos, "Path Problems in Networks", 2010, chapter 4.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from .._checks import check_integers, check_positive
from .._dtypes import at_least_float32, float_dtype
from ._accumulate import AxisName, vary_together
from ._graph import Graph, check_parts
from ._semiring import MAX_MIN, MAX_TIMES, MIN_PLUS, SUM_TIMES, Semiring


def bellman_ford(
    graph: Graph,
    boundary: Float[Array, "nodes *queries"],
    semiring: Semiring,
    *,
    num_steps: int | None = None,
    tol: float | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "nodes *queries"]:
    r"""Iterates the generalised Bellman-Ford equation.

    $$h^{(0)}_v = b_v, \qquad
    h^{(t)}_v = b_v \oplus \bigoplus_{(u, v) \in E} h^{(t-1)}_u \otimes w_{uv}$$

    which after t steps is the sum over all paths of at most t edges of the product of
    the boundary value where a path starts and its weights. Where a longer way round
    never helps (a minimum or maximum over paths without a cycle that gains), nodes - 1
    steps are exact.

    Time O(edges queries) a step. With `num_steps` alone it differentiates in reverse,
    keeping one state a step, and forward; with `tol` it is a `lax.while_loop`, whose
    gradient JAX has in forward mode only. Values that tie for a minimum or maximum,
    the boundary among them, share its gradient evenly.

    Args:
        graph: The graph. A graph without `weights` has weight 1 on each edge. Relations
            play no part.
        boundary: What a path is worth before its first edge, shape
            `(nodes, *queries)`: `semiring.one` at a source and `semiring.zero`
            elsewhere.
        semiring: The two operations.
        num_steps: The number of steps; with `tol` the most that are taken. By default
            nodes - 1 without `tol`, and any number with it.
        tol: Stop when no finite value changes by more than this, or a value becomes
            NaN. What never settles (a negative cycle of `MIN_PLUS`, a series that
            diverges) needs `num_steps` too.
        axis_name: With a graph from `Graph.split`, inside `jax.shard_map`: the mesh
            axis over which its edges are split. The semiring's `add` is then
            `jnp.add`, `jnp.minimum` or `jnp.maximum`.

    Returns:
        Shape and dtype of `boundary`; integers give the default float.

    Raises:
        TypeError: If `graph` is not a `Graph` or `num_steps` not an int.
        ValueError: If `boundary` has another number of nodes, `num_steps` is below 1,
            `tol` is negative, or the graph is split and `axis_name` not given, or the
            reverse.
        NotImplementedError: If the semiring has another `add` with `axis_name`.

    Examples:
        >>> edges = [0, 1, 0], [1, 2, 2]
        >>> graph = Graph.from_edges(*edges, num_nodes=3, weights=[1, 1, 5])
        >>> boundary = jnp.asarray([0.0, jnp.inf, jnp.inf])
        >>> bellman_ford(graph, boundary, MIN_PLUS).tolist()
        [0.0, 1.0, 2.0]
    """
    where = "bellman_ford"
    if not isinstance(graph, Graph):
        raise TypeError(f"{where}: `graph` must be a Graph, got {type(graph)}.")
    if jnp.ndim(boundary) < 1 or jnp.shape(boundary)[0] != graph.num_nodes:
        raise ValueError(
            f"{where}: `boundary` must have shape ({graph.num_nodes}, *queries), got "
            f"{jnp.shape(boundary)}."
        )
    if num_steps is not None:
        check_positive(where, num_steps=num_steps)
    if tol is not None and not tol >= 0:
        raise ValueError(f"{where}: `tol` must be at least 0, got {tol}.")
    check_parts(where, graph, axis_name)
    dtype = float_dtype(boundary)
    h = jnp.asarray(boundary, at_least_float32(dtype))
    if axis_name is None:
        graph, h = vary_together((graph, h))

    def per_edge(a: Array) -> Array:
        return a.reshape(-1, *(1,) * (h.ndim - 1))

    @jax.checkpoint
    def step(h: Array, boundary: Array) -> Array:
        if graph.weights is None:
            weights = jnp.ones((), h.dtype)
        else:
            weights = per_edge(graph.weights).astype(h.dtype)
        values = semiring.multiply(h[graph.senders], weights)
        if graph.mask is not None:
            values = jnp.where(per_edge(graph.mask), values, semiring.zero)
        return semiring.reduced(boundary, graph.receivers, values, axis_name=axis_name)

    if tol is None:
        # A graph of one node has its loops.
        length = max(graph.num_nodes - 1, 1) if num_steps is None else num_steps
        out, _ = jax.lax.scan(lambda s, _: (step(s, h), None), h, length=length)
        return out.astype(dtype)

    def unsettled(state: tuple[Array, Array, Array]) -> Array:
        count, _, change = state
        going = change > tol
        return going if num_steps is None else going & (count < num_steps)

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, old, _ = state
        new = step(old, h)
        same = new == old  # infinities too, whose difference is no number
        change = jnp.where(same, 0, jnp.abs(jnp.where(same, 0, new - old)))
        return count + 1, new, jax.lax.stop_gradient(jnp.max(change))

    start = vary_together((jnp.zeros((), jnp.int32), h, jnp.asarray(jnp.inf, h.dtype)))
    return jax.lax.while_loop(unsettled, advance, start)[1].astype(dtype)


def shortest_path(
    graph: Graph,
    sources: Int[ArrayLike, "*queries"],
    *,
    num_steps: int | None = None,
    tol: float | None = None,
) -> Float[Array, "nodes *queries"]:
    r"""Length of the shortest path from each source to each node.

    $$d_{sv} = \min_{\text{paths } s \to v} \sum_{e} w_e$$

    Args:
        graph: The graph; its weights are lengths, 1 where it has none. A cycle of
            negative length has no shortest path.
        sources: Nodes, any shape.
        num_steps: As for `bellman_ford`: paths have at most so many edges.
        tol: As for `bellman_ford`.

    Returns:
        Lengths, shape `(nodes, *queries)`; infinite where there is no path, 0 at the
        source.

    Raises:
        ValueError: As `bellman_ford`.
        TypeError: As `bellman_ford`, or if `sources` are not integers.

    Examples:
        >>> edges = [0, 1, 0], [1, 2, 2]
        >>> graph = Graph.from_edges(*edges, num_nodes=3, weights=[1, 1, 5])
        >>> shortest_path(graph, 0).tolist()
        [0.0, 1.0, 2.0]
    """
    boundary = _at_sources("shortest_path", graph, sources, MIN_PLUS)
    return bellman_ford(graph, boundary, MIN_PLUS, num_steps=num_steps, tol=tol)


def widest_path(
    graph: Graph,
    sources: Int[ArrayLike, "*queries"],
    *,
    num_steps: int | None = None,
    tol: float | None = None,
) -> Float[Array, "nodes *queries"]:
    r"""Capacity of the widest path from each source to each node.

    $$c_{sv} = \max_{\text{paths } s \to v} \min_{e} w_e$$

    Args:
        graph: The graph; its weights are capacities.
        sources: Nodes, any shape.
        num_steps: As for `bellman_ford`: paths have at most so many edges.
        tol: As for `bellman_ford`.

    Returns:
        Capacities, shape `(nodes, *queries)`; minus infinity where there is no path,
        infinity at the source.

    Raises:
        ValueError: As `bellman_ford`.
        TypeError: As `bellman_ford`, or if `sources` are not integers.
    """
    boundary = _at_sources("widest_path", graph, sources, MAX_MIN)
    return bellman_ford(graph, boundary, MAX_MIN, num_steps=num_steps, tol=tol)


def most_reliable_path(
    graph: Graph,
    sources: Int[ArrayLike, "*queries"],
    *,
    num_steps: int | None = None,
    tol: float | None = None,
) -> Float[Array, "nodes *queries"]:
    r"""Probability of the most reliable path from each source to each node.

    $$p_{sv} = \max_{\text{paths } s \to v} \prod_{e} w_e$$

    Args:
        graph: The graph; its weights are probabilities, in [0, 1].
        sources: Nodes, any shape.
        num_steps: As for `bellman_ford`: paths have at most so many edges.
        tol: As for `bellman_ford`.

    Returns:
        Probabilities, shape `(nodes, *queries)`; 0 where there is no path, 1 at the
        source.

    Raises:
        ValueError: As `bellman_ford`.
        TypeError: As `bellman_ford`, or if `sources` are not integers.
    """
    boundary = _at_sources("most_reliable_path", graph, sources, MAX_TIMES)
    return bellman_ford(graph, boundary, MAX_TIMES, num_steps=num_steps, tol=tol)


def katz_index(
    graph: Graph,
    sources: Int[ArrayLike, "*queries"],
    *,
    beta: ArrayLike,
    num_steps: int | None = 100,
    tol: float | None = None,
) -> Float[Array, "nodes *queries"]:
    r"""The Katz index: all walks from a source to a node, discounted by their length.

    $$K = \sum_{t \ge 1} \beta^t A^t = (I - \beta A)^{-1} - I, \qquad
    A_{uv} = \sum_{(u, v) \in E} w_{uv}$$

    for $\beta$ below the inverse of the spectral radius $\rho$ of A, else the series
    diverges. What is left out after T steps is of order $(\beta\rho)^{T+1}$.

    Args:
        graph: The graph.
        sources: Nodes, any shape.
        beta: The discount of a step, a number.
        num_steps: The number of terms; with `tol` the most that are summed, None for
            any number.
        tol: As for `bellman_ford`.

    Returns:
        The rows of K of the sources as columns, shape `(nodes, *queries)`.

    Raises:
        ValueError: As `bellman_ford`.
        TypeError: As `bellman_ford`, or if `sources` are not integers.
    """
    boundary = _at_sources("katz_index", graph, sources, SUM_TIMES)
    w = _weights(graph, boundary.dtype)
    graph = dataclasses.replace(graph, weights=jnp.asarray(beta, w.dtype) * w)
    sums = bellman_ford(graph, boundary, SUM_TIMES, num_steps=num_steps, tol=tol)
    return sums - boundary


def personalized_pagerank(
    graph: Graph,
    sources: Int[ArrayLike, "*queries"],
    *,
    alpha: ArrayLike = 0.85,
    num_steps: int | None = 100,
    tol: float | None = None,
) -> Float[Array, "nodes *queries"]:
    r"""Where a random walk is that goes back to its source with probability 1 - alpha.

    $$\pi = \alpha P^\top \pi + (1 - \alpha)\, e_s, \qquad
    P_{uv} = w_{uv} \Big/ \sum_{v'} w_{uv'}$$

    A node without outgoing weight sends the walk back to its source, as NetworkX does.
    That only scales the series $\sum_t \alpha^t (P^\top)^t e_s$, so it is summed and
    normalised; what is left out after T steps is below $\alpha^{T+1}$ in all.

    Args:
        graph: The graph; its weights are not negative.
        sources: Nodes, any shape.
        alpha: $\alpha$, the probability of going on, in (0, 1).
        num_steps: The number of steps of the walk; with `tol` the most that are
            summed, None for any number.
        tol: As for `bellman_ford`, for the series before it is normalised.

    Returns:
        Probabilities, shape `(nodes, *queries)`; they sum to 1 over the nodes.

    Raises:
        ValueError: As `bellman_ford`.
        TypeError: As `bellman_ford`, or if `sources` are not integers.
    """
    boundary = _at_sources("personalized_pagerank", graph, sources, SUM_TIMES)
    w = _weights(graph, boundary.dtype)
    if graph.mask is not None:
        w = jnp.where(graph.mask, w, 0)
    out = jax.ops.segment_sum(w, graph.senders, graph.num_nodes)[graph.senders]
    some = out > 0
    w = jnp.asarray(alpha, w.dtype) * w / jnp.where(some, out, 1)
    graph = dataclasses.replace(graph, weights=w)
    sums = bellman_ford(graph, boundary, SUM_TIMES, num_steps=num_steps, tol=tol)
    return sums / jnp.sum(sums, axis=0, keepdims=True)


def _weights(graph: Graph, dtype: jnp.dtype) -> Array:
    if graph.weights is None:
        return jnp.ones(graph.senders.shape, dtype)
    return graph.weights


def _at_sources(
    where: str, graph: Graph, sources: ArrayLike, semiring: Semiring
) -> Array:
    """One at the sources and zero elsewhere, shape `(nodes, *queries)`."""
    if not isinstance(graph, Graph):
        raise TypeError(f"{where}: `graph` must be a Graph, got {type(graph)}.")
    sources = jnp.asarray(sources)
    check_integers(where, sources=sources)
    dtype = float_dtype(1.0 if graph.weights is None else graph.weights)
    nodes = jnp.arange(graph.num_nodes, dtype=sources.dtype)
    here = jnp.expand_dims(nodes, tuple(range(1, sources.ndim + 1))) == sources[None]
    one, zero = (jnp.asarray(a, dtype) for a in (semiring.one, semiring.zero))
    return jnp.where(here, one, zero)
