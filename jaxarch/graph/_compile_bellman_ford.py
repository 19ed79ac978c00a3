"""Breadth-first search and Bellman-Ford as the parameters of an NBFNet.

Sources: R. Bellman, "On a Routing Problem", Quarterly of Applied Mathematics 16 (1958);
the layers of Neural Bellman-Ford Networks, arXiv:2106.06935, which contain both
algorithms; L. Saldyt, S. Kambhampati, "Mind The Gap: Quantifying Mechanistic Gaps in
Algorithmic Reasoning via Neural Compilation", arXiv:2505.18623, which writes such
algorithms into the weights of attention networks. The parameters are ours.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array

from .._checks import check_float_dtype, check_positive, check_rank
from ..layers import MLPParams
from ._nbfnet import NBFNetParams


def compile_bfs(
    num_relations: int = 1, *, num_layers: int, dtype: DTypeLike = jnp.float32
) -> NBFNetParams:
    r"""Makes an NBFNet that computes breadth-first search.

    After t layers the state of a node, its one channel, is 1 if a path of at most t
    edges leads to it from the head of the query, and 0 if not:

    $$h^{(0)}_v = 1[v = u], \qquad
    h^{(t)}_v = \max\big(h^{(0)}_v, \max_{(w, v) \in E} h^{(t-1)}_w\big).$$

    These are zeros and ones, so every state is exact in any dtype. The step at which a
    node is reached is its distance in edges, and its predecessor in the CLRS benchmark
    is the smallest of its neighbours that were reached one step before.

    Args:
        num_relations: The number of relations of the graphs; all count alike.
        num_layers: The number of steps; with one less than there are nodes, every path
            is found.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `nbfnet_apply`, which gives the last states, and `nbfnet_states`,
        which gives all. The graphs have no weights.

    Raises:
        ValueError: If a number is below 1 or `dtype` is not a floating dtype.
        TypeError: If a number is not an int.

    Examples:
        >>> from jaxarch.graph import Graph, nbfnet_apply
        >>> graph = Graph.from_edges([0, 1, 3], [1, 2, 0], num_nodes=4)
        >>> params = compile_bfs(num_layers=3)
        >>> heads, relations = jnp.asarray([0, 3]), jnp.asarray([0, 0])
        >>> nbfnet_apply(params, graph, heads, relations).tolist()
        [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    """
    name = "compile_bfs"
    check_positive(name, num_relations=num_relations, num_layers=num_layers)
    check_float_dtype(name, dtype)
    ones = jnp.ones((num_relations,), dtype)
    return _compiled("distmult", ones, ones, num_layers)


def compile_bellman_ford(
    lengths: ArrayLike,
    *,
    bound: ArrayLike,
    num_layers: int,
    dtype: DTypeLike = jnp.float32,
) -> NBFNetParams:
    r"""Makes an NBFNet that computes Bellman-Ford's shortest paths.

    The one channel of a node holds $h = \max(C - d, 0)$ for the distance d and a bound
    C on all distances, so that 0 says that no path has been found. With the length
    $\ell_r$ of the edges of relation r,

    $$h^{(0)}_v = C \, 1[v = u], \qquad
    h^{(t)}_v = \mathrm{relu}\big(\max\big(h^{(0)}_v,
    \max_{(w, r, v) \in E} h^{(t-1)}_w - \ell_r\big)\big),$$

    the shortest path of at most t edges: `bellman_ford` in the semiring of maxima and
    sums. Rounding is that of C: an error of a few units in the last place of `bound`,
    so take no larger a bound than is needed.

    Args:
        lengths: The length of each relation, shape `(num_relations,)`, none negative (a
            node without a path would get one) or NaN. A weighted graph has a relation
            for each of its lengths: `lengths, edge_types = np.unique(weights,
            return_inverse=True)`.
        bound: C, a number above every distance. A node further away counts as one
            without a path.
        num_layers: The number of steps; with one less than there are nodes, every path
            is found.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `nbfnet_apply`, whose scores are $C - d$, or 0 where there is no
        path, and `nbfnet_states`, which gives every step. The graphs have no weights.

    Raises:
        ValueError: If `lengths` is not a vector, `num_layers` is below 1 or `dtype` is
            not a floating dtype.
        TypeError: If `num_layers` is not an int.

    Examples:
        >>> from jaxarch.graph import Graph, nbfnet_apply
        >>> graph = Graph.from_edges(
        ...     [0, 1, 0], [1, 2, 2], num_nodes=3, edge_types=[0, 1, 2], num_relations=3
        ... )
        >>> params = compile_bellman_ford([1.0, 2.0, 5.0], bound=8.0, num_layers=2)
        >>> heads, relations = jnp.asarray([0]), jnp.asarray([0])
        >>> (8 - nbfnet_apply(params, graph, heads, relations)).tolist()
        [[0.0, 1.0, 3.0]]
    """
    name = "compile_bellman_ford"
    check_positive(name, num_layers=num_layers)
    check_float_dtype(name, dtype)
    lengths = jnp.asarray(lengths, dtype)
    check_rank(name, "lengths", lengths, 1, "(num_relations,)")
    query = jnp.full_like(lengths, jnp.asarray(bound, dtype))
    return _compiled("transe", query, -lengths, num_layers)


def _compiled(
    message: str, query: Array, relation: Array, num_layers: int
) -> NBFNetParams:
    """A network of one channel whose layers keep the maximum of the messages."""
    dtype = query.dtype

    def layers(a: ArrayLike) -> Array:
        a = jnp.asarray(a, dtype)
        return jnp.broadcast_to(a, (num_layers, *a.shape))

    # The linear layers see [state, maximum], the read-out sees [state, query].
    state = jnp.asarray(np.array([[1, 0]]), dtype)
    return NBFNetParams(
        query=query[:, None],
        relation_weight=None,
        relation_bias=layers(relation[:, None]),
        weight=layers(np.array([[0, 1]])),
        bias=layers(np.zeros(1)),
        norm_scale=None,
        norm_bias=None,
        mlp=MLPParams(weights=(state,), biases=(None,)),
        message=message,
        aggregate="max",
        shortcut=False,
    )
