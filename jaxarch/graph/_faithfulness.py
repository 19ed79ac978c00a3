"""How well the states of a trained network tell those of an algorithm, step by step.

The question is that of L. Saldyt, S. Kambhampati, "Mind The Gap: Quantifying
Mechanistic Gaps in Algorithmic Reasoning via Neural Compilation", arXiv:2505.18623:
does a network that has learnt an algorithm's answers compute them as the algorithm
does? The measure is ours. Linear maps that read a state: G. Alain, Y. Bengio,
"Understanding Intermediate Layers Using Linear Classifier Probes", arXiv:1610.01644.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._checks import check_rank, check_shape
from .._dtypes import at_least_float32, float_dtype
from .._params import params
from ._graph import Graph
from ._nbfnet import nbfnet_states


@params
class AlgorithmTraces:
    """What an algorithm knows of each node after each of its steps, on many graphs.

    `of` makes them from compiled parameters. Those of other algorithms (the colours of
    a depth-first search) are made by hand.
    """

    graph: Graph  # many, stacked: a leading axis on every array
    heads: Array  # (graphs, queries)
    relations: Array  # (graphs, queries)
    states: Array  # (graphs, steps + 1, nodes, queries, variables)

    @classmethod
    def of(
        cls,
        params: Any,
        graph: Graph,
        heads: Int[Array, "graphs queries"],
        relations: Int[Array, "graphs queries"],
        *,
        states: Callable[..., Array] = nbfnet_states,
    ) -> "AlgorithmTraces":
        """Runs compiled parameters.

        Args:
            params: Parameters from `compile_bfs` or `compile_bellman_ford`.
            graph: Graphs of one size, stacked: `jax.tree.map(lambda *a: jnp.stack(a),
                *graphs)`. `Graph.pad` brings them to one size.
            heads: The heads of the queries of each graph, shape `(graphs, queries)`.
            relations: Their relations, of the same shape.
            states: As for `faithfulness`.

        Returns:
            The traces.
        """
        found = jax.vmap(states, (None, 0, 0, 0))(params, graph, heads, relations)
        return cls(graph=graph, heads=heads, relations=relations, states=found)


def faithfulness(
    params: Any,
    traces: AlgorithmTraces,
    *,
    states: Callable[..., Array] = nbfnet_states,
) -> Float[Array, " steps"]:
    r"""Measures how far the states of a network are from an algorithm's.

    The network has a width of its own, so that its states $h_t$ are first read by the
    affine map of least squares, one for each step, fitted to the algorithm's variables
    $s_t$ on the first half of the graphs. The error on the other half is

    $$e_t = \frac{\sum \lVert A_t h_t + b_t - s_t \rVert^2}
    {\sum \lVert s_t - \bar s_t \rVert^2},$$

    over all nodes and queries: 0 if the network has computed, after each of its layers,
    what the algorithm has after as many steps, in any coordinates; about 1 if it has
    nothing of it. It does not test what the network goes on to use, and some variables
    are easy to read from any message pass: measure the network before training too.
    Directions in which the states vary by rounding alone are not read.

    The paper measures predictions of the traces, which a network is trained to make,
    and the similarity of attention coefficients, which these layers do not have.

    Args:
        params: Parameters of the network, as `states` takes them.
        traces: The algorithm's, on two graphs at least.
        states: A function of `(params, graph, heads, relations)`, one graph, that gives
            the states of its nodes, shape `(steps + 1, nodes, queries, dim)`.

    Returns:
        $e_t$ from the start to the last step, shape `(steps + 1,)`. NaN where the
        algorithm's variables do not differ between the nodes that are tested. Padding
        nodes do not count.

    Raises:
        ValueError: If there is one graph alone, or the shape of the states is another
            than that of the traces.

    Examples:
        >>> from jaxarch.graph import compile_bfs
        >>> line = Graph.from_edges([0, 1, 2], [1, 2, 3], num_nodes=4)
        >>> graph = jax.tree.map(lambda *a: jnp.stack(a), line, line)
        >>> heads = jnp.asarray([[0, 2], [1, 3]])
        >>> params = compile_bfs(num_layers=2)
        >>> traces = AlgorithmTraces.of(params, graph, heads, 0 * heads)
        >>> bool((faithfulness(params, traces) < 1e-10).all())
        True
    """
    name = "faithfulness"
    check_rank(
        name,
        "traces.states",
        traces.states,
        5,
        "(graphs, steps, nodes, queries, variables)",
    )
    num_graphs = len(traces.states)
    if num_graphs < 2:
        raise ValueError(
            f"{name}: `traces` must have at least two graphs, one to fit and one to "
            f"test, got {num_graphs}."
        )
    found = jax.vmap(states, (None, 0, 0, 0))(
        params, traces.graph, traces.heads, traces.relations
    )
    check_shape(name, "states", found[..., 0], traces.states.shape[:-1])
    out_dtype = float_dtype(found, traces.states)
    dtype = at_least_float32(out_dtype)
    mask = traces.graph.node_mask
    if mask is None:
        mask = jnp.ones((num_graphs, traces.graph.num_nodes), bool)
    mask = jnp.broadcast_to(mask[:, :, None], traces.states[:, 0, ..., 0].shape)

    def halves(a: Array) -> tuple[Array, Array]:
        """Rows for the fit and for the test."""
        half = num_graphs // 2
        rows = -1, *a.shape[mask.ndim :]
        return a[:half].reshape(rows), a[half:].reshape(rows)

    weight, test_weight = halves(mask[..., None].astype(dtype))

    def error(h: Array, s: Array) -> Array:
        h, test_h = halves(h.astype(dtype))
        s, test_s = halves(s.astype(dtype))
        mean_h, mean_s = _mean(h, weight), _mean(s, weight)
        a = _least_squares(weight * (h - mean_h), weight * (s - mean_s))
        missed = test_s - mean_s - (test_h - mean_h) @ a
        spread = test_s - _mean(test_s, test_weight)
        total = jnp.sum(test_weight * spread**2)
        return jnp.where(
            total > 0,
            jnp.sum(test_weight * missed**2) / jnp.where(total > 0, total, 1),
            jnp.nan,
        )

    return jax.vmap(error, (1, 1))(found, traces.states).astype(out_dtype)


def _mean(a: Array, weight: Array) -> Array:
    return jnp.sum(weight * a, 0, keepdims=True) / jnp.sum(weight)


def _least_squares(x: Array, y: Array) -> Array:
    """The `a` that minimises |x a - y|^2; of least norm where several do.

    By eigenvectors of the small matrix of products, which takes a thousandth of the
    time of a singular value decomposition of a tall one. Two rounds: the first squares
    the condition of x, the second finds the columns made of equal size. A direction in
    which the rows vary by rounding alone gets 0, as `jnp.linalg.lstsq` has it.
    """
    basis = jnp.eye(x.shape[1], dtype=x.dtype)
    cutoff = max(x.shape) * jnp.finfo(x.dtype).eps
    for _ in range(2):
        _, vectors = jnp.linalg.eigh(x.T @ x)
        x, basis = x @ vectors, basis @ vectors
        norm = jnp.linalg.norm(x, axis=0)
        seen = norm > cutoff * norm.max()
        scale = jnp.where(seen, 1 / jnp.where(seen, norm, 1), 0)[None]
        x, basis = x * scale, basis * scale
    return basis @ (x.T @ y)
