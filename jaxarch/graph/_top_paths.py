"""Why a model believes a link: the walks that its score rests on most.

Z. Zhu, Z. Zhang, L.-P. Xhonneux, J. Tang, "Neural Bellman-Ford Networks: A General
Graph Neural Network Framework for Link Prediction", arXiv:2106.06935, section 4.4, and
the authors' code, KiddoZhu/NBFNet-PyG, commit 0c2d262. There the weights of a layer are
a clone of those of the layer before, so that their derivatives are sums over all later
layers; here each layer has its own.
"""

import collections
import functools
import heapq
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._checks import check_natural, check_positive
from ._graph import Graph
from ._nbfnet import NBFNetParams, nbfnet_apply

Path = tuple[tuple[int, int, int], ...]


def top_paths(
    params: NBFNetParams,
    graph: Graph,
    head: int,
    relation: int,
    tail: int,
    *,
    num_paths: int = 10,
    num_beams: int = 10,
    edge_mask: Bool[Array, " edges"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> list[tuple[float, Path]]:
    r"""Finds the walks from head to tail that contribute most to the score of a link.

    The importance of edge e in layer l is the derivative of the score with respect to
    its weight there. A walk of k edges takes edge by edge the first k layers, and
    weighs the mean of their importances, the first-order change of the score if the
    walk were there twice, per edge. Walks end when they reach the tail. For each length
    a dynamic programme keeps the `num_beams` heaviest walks to every node: with enough
    beams for what is asked it is exact. It runs on the host.

    Args:
        params: Parameters from `nbfnet_init`.
        graph: The graph.
        head: Where the link starts.
        relation: Its relation.
        tail: Where it ends.
        num_paths: How many walks to return at most.
        num_beams: How many walks to keep for each length and node.
        edge_mask: False where an edge does not count.
        activation: That of `nbfnet_apply`.

    Returns:
        Weights and walks, the heaviest first; a walk is a tuple of edges (sender,
        relation, receiver). Fewer than asked for if there are fewer within
        `num_layers` edges.

    Raises:
        ValueError: If a number is out of range, or as `nbfnet_apply`.
        TypeError: If a number is not an int.
    """
    where = "top_paths"
    check_positive(where, num_paths=num_paths, num_beams=num_beams)
    check_natural(where, head=head, relation=relation, tail=tail)
    bounds = {
        "head": (head, graph.num_nodes),
        "relation": (relation, graph.num_relations),
        "tail": (tail, graph.num_nodes),
    }
    for name, (value, bound) in bounds.items():
        if value >= bound:
            raise ValueError(f"{where}: `{name}` must be below {bound}, got {value}.")
    gradients = np.asarray(
        _importances(
            params,
            graph,
            *(jnp.asarray([value]) for value in (head, relation, tail)),
            edge_mask,
            activation,
        ),
        np.float64,
    )
    return _heaviest_walks(
        graph, gradients, edge_mask, head, tail, num_paths, num_beams
    )


def _heaviest_walks(
    graph: Graph,
    importances: np.ndarray,
    edge_mask: Array | None,
    head: int,
    tail: int,
    num_paths: int,
    num_beams: int,
) -> list[tuple[float, Path]]:
    """The walks that weigh most, by importances of shape `(layers, edges)`."""
    counts = np.ones(len(graph.senders), bool)
    for mask in (graph.mask, edge_mask):
        counts &= True if mask is None else np.asarray(mask)
    senders, receivers, types = (
        np.asarray(a) for a in (graph.senders, graph.receivers, graph.edge_types)
    )
    # A walk that has arrived at the tail goes no further.
    (edges,) = np.nonzero(counts & (senders != tail))
    beams: dict[int, list[tuple[float, tuple[int, ...]]]] = {head: [(0.0, ())]}
    found = []
    for importance in importances:
        ahead = collections.defaultdict(list)
        for edge in edges.tolist():
            for total, walk in beams.get(int(senders[edge]), ()):
                longer = total + float(importance[edge]), (*walk, edge)
                ahead[int(receivers[edge])].append(longer)
        beams = {v: heapq.nlargest(num_beams, walks) for v, walks in ahead.items()}
        found += [(total / len(walk), walk) for total, walk in beams.get(tail, ())]

    def edge_by_edge(walk: tuple[int, ...]) -> Path:
        return tuple((int(senders[e]), int(types[e]), int(receivers[e])) for e in walk)

    heaviest = heapq.nlargest(num_paths, found)
    return [(weight, edge_by_edge(walk)) for weight, walk in heaviest]


@functools.partial(jax.jit, static_argnames="activation")
def _importances(
    params: NBFNetParams,
    graph: Graph,
    head: Array,
    relation: Array,
    tail: Array,
    edge_mask: Array | None,
    activation: Callable[[Array], Array],
) -> Array:
    """The derivative of the score in the weight of each edge in each layer."""

    def score(weights: Array) -> Array:
        return nbfnet_apply(
            params,
            graph,
            head,
            relation,
            tails=tail[:, None],
            edge_mask=edge_mask,
            weights=weights,
            activation=activation,
        )[0, 0]

    num_layers = len(params.bias)
    dtype = params.bias.dtype
    weights = jnp.ones((), dtype) if graph.weights is None else graph.weights
    shape = num_layers, len(graph.senders)
    return jax.grad(score)(jnp.broadcast_to(weights.astype(dtype), shape))
