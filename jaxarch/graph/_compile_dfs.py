"""Depth-first search as a step of message passing and a global argmax.

Sources: T. H. Cormen, C. E. Leiserson, R. L. Rivest, C. Stein, "Introduction to
Algorithms", chapter "Elementary Graph Algorithms" (the colours); P. Velickovic et al.,
"The CLRS Algorithmic Reasoning Benchmark", arXiv:2205.15659 (the order of the nodes,
and what a root's predecessor is). The step is ours.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from .._params import params
from ._accumulate import vary_together
from ._graph import Graph
from ._message_pass import message_pass

_WHITE, _GREY, _BLACK = range(3)


@params
class DFSState:
    """A depth-first search between two of its steps."""

    current: Array  # (), the node where the search is
    colors: Array  # (nodes,), 0 not yet seen, 1 on the path to `current`, 2 done
    predecessors: Array  # (nodes,), the node itself at a root and where not yet seen

    @classmethod
    def start(cls, graph: Graph) -> "DFSState":
        """The search at node 0, its first root, before the first step.

        Args:
            graph: The graph; its padding nodes count as done.

        Returns:
            The state.
        """
        nodes = jnp.arange(graph.num_nodes, dtype=jnp.int32)
        colors = jnp.where(nodes == 0, _GREY, _WHITE)
        if graph.node_mask is not None:
            colors = jnp.where(graph.node_mask, colors, _BLACK)
        current = jnp.zeros((), jnp.int32)
        # What starts a scan must vary as its results do.
        current, colors, nodes, _ = vary_together((current, colors, nodes, graph))
        return cls(current=current, colors=colors, predecessors=nodes)


def compile_dfs() -> Callable[[Graph, DFSState], DFSState]:
    r"""Makes the step of a depth-first search.

    From the current node $u$ a message along every edge tells its neighbours, and the
    step chooses among those that are still white,

    $$r_v = \max_{(w, v) \in E} 1[w = u], \qquad
    v^* = \arg\max_v \; r_v \, 1[\text{color}_v = \text{white}],$$

    the first of them where there are several: the smallest index, as in the CLRS
    benchmark. If there is one the search descends: $v^*$ turns grey with predecessor
    $u$. Else $u$ turns black and the search returns to the predecessor of $u$, or from
    a root to the smallest white node, the next root. A search that is done stays so.
    Twice as many steps as there are nodes are enough for any graph.

    The argmax runs over all nodes, which no network of `message_pass` with a width
    that does not grow with the graph computes in one layer; breadth-first search and
    Bellman-Ford need none (`compile_bfs`, `compile_bellman_ford`).

    Returns:
        A function `step(graph, state)` that gives the next state, in time O(edges);
        `DFSState.start` gives the first.

    Examples:
        >>> import jax
        >>> graph = Graph.from_edges([0, 0, 2], [1, 2, 1], num_nodes=4)
        >>> step, state = compile_dfs(), DFSState.start(graph)
        >>> state, path = jax.lax.scan(
        ...     lambda s, _: (step(graph, s), s.current), state, length=8
        ... )
        >>> state.predecessors.tolist(), path.tolist()
        ([0, 0, 0, 3], [0, 1, 0, 2, 0, 3, 3, 3])
    """
    return _step


def _step(graph: Graph, state: DFSState) -> DFSState:
    u, colors, predecessors = state.current, state.colors, state.predecessors
    nodes = jnp.arange(graph.num_nodes, dtype=u.dtype)
    here = (nodes == u)[:, None].astype(jnp.float32)
    reached = message_pass(
        dataclasses.replace(graph, weights=None),
        here,
        jnp.ones((graph.num_relations, 1), here.dtype),
        jnp.zeros_like(here),
        message="distmult",
        aggregate="max",
    )[:, 0]
    white = colors == _WHITE

    def first(which: Array) -> tuple[Array, Array]:
        return jnp.argmax(which).astype(u.dtype), which.any()

    child, descends = first(white & (reached > 0))
    root, another = first(white)
    parent = predecessors[u]
    back = jnp.where(parent != u, parent, jnp.where(another, root, u))
    there = jnp.where(descends, child, back)
    colors = colors.at[u].set(jnp.where(descends, _GREY, _BLACK))
    return DFSState(
        current=there,
        colors=colors.at[there].max(_GREY),
        predecessors=predecessors.at[there].set(
            jnp.where(descends, u, predecessors[there])
        ),
    )
