"""Neural Bellman-Ford networks: link prediction by learnt walks from a head.

Z. Zhu, Z. Zhang, L.-P. Xhonneux, J. Tang, "Neural Bellman-Ford Networks: A General
Graph Neural Network Framework for Link Prediction", arXiv:2106.06935, sections 3.2 and
3.3, and the authors' code, KiddoZhu/NBFNet-PyG, commit 0c2d262; the symmetric form is
that of DeepGraphLearning/NBFNet, commit eb49ff2.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._checks import (
    check_float_dtype,
    check_integers,
    check_option,
    check_positive,
    check_shape,
)
from .._dtypes import at_least_float32, float_dtype
from .._params import params, static
from ..layers import MLPParams, mlp_apply, mlp_init
from ._accumulate import AxisName, vary_together
from ._graph import Graph, check_parts
from ._message_pass import (
    MESSAGES,
    STATISTICS,
    both_masks,
    degrees,
    pna_scales,
    pna_statistics,
    statistics,
)

_EPS = 1e-5
_WIDTH = {"sum": 1, "mean": 1, "max": 1, "pna": 12}


@params
class NBFNetParams:
    """Parameters of $L$ equal layers with $d$ features, stacked along the first axis.

    With relations that depend on the query, `relation_weight` is not None. The columns
    of `weight` are the node's state and then what it receives, 12 numbers for each
    feature with PNA: mean, maximum, minimum and deviation, each with three scales.
    """

    query: Array  # (relations, d)
    relation_weight: Array | None  # (L, relations, d, d)
    relation_bias: Array  # (L, relations, d)
    weight: Array  # (L, d, 2 d), (L, d, 13 d) with PNA
    bias: Array  # (L, d)
    norm_scale: Array | None  # (L, d)
    norm_bias: Array | None  # (L, d)
    mlp: MLPParams  # from 2 d features, (L + 1) d with all layers, to a score
    message: str = static()
    aggregate: str = static()
    shortcut: bool = static()


def nbfnet_init(
    key: PRNGKeyArray,
    num_relations: int,
    dim: int,
    *,
    num_layers: int = 6,
    message: str = "distmult",
    aggregate: str = "pna",
    dependent: bool = True,
    layer_norm: bool = True,
    shortcut: bool = True,
    concat_hidden: bool = False,
    num_mlp_layers: int = 2,
    dtype: DTypeLike = jnp.float32,
) -> NBFNetParams:
    r"""Draws the parameters of a neural Bellman-Ford network.

    Queries and independent relations are standard normal; linear layers are uniform
    within $1 / \sqrt{n_{in}}$, as in the authors' code, but for the read-out, which is
    that of `mlp_init`.

    Args:
        key: A random key.
        num_relations: The number of relations of the graph, inverse ones included.
        dim: $d$, the number of features of a query, a relation and a state; even for
            `message="rotate"`.
        num_layers: $L$, the length of the longest walk that is seen.
        message: `"transe"`, `"distmult"` or `"rotate"`, as in `message_pass`.
        aggregate: `"sum"`, `"mean"`, `"max"` or `"pna"`, as there.
        dependent: Whether relations are linear in the query, $W_r q + b_r$, or do not
            depend on it.
        layer_norm: Whether a layer normalisation follows each linear layer.
        shortcut: Whether a layer adds its input to its output.
        concat_hidden: Whether the read-out sees the states of all layers.
        num_mlp_layers: The number of layers of the read-out.
        dtype: The dtype of the parameters.

    Returns:
        Parameters for `nbfnet_apply`.

    Raises:
        ValueError: If a number or option is not as above.
        TypeError: If a number is not an int.
    """
    where = "nbfnet_init"
    check_positive(
        where,
        num_relations=num_relations,
        dim=dim,
        num_layers=num_layers,
        num_mlp_layers=num_mlp_layers,
    )
    check_option(where, "message", message, MESSAGES)
    check_option(where, "aggregate", aggregate, tuple(STATISTICS))
    check_float_dtype(where, dtype)
    if message == "rotate" and dim % 2:
        raise ValueError(
            f'{where}: `dim` must be even with message="rotate", got {dim}.'
        )
    query_key, relation_key, bias_key, weight_key, linear_key, mlp_key = (
        jax.random.split(key, 6)
    )
    wide = at_least_float32(dtype)

    def normal(key: PRNGKeyArray, *shape: int) -> Array:
        return jax.random.normal(key, shape, wide).astype(dtype)

    def uniform(key: PRNGKeyArray, fan_in: int, *shape: int) -> Array:
        limit = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, wide, -limit, limit).astype(dtype)

    table = num_layers, num_relations, dim
    fan_in = (1 + _WIDTH[aggregate]) * dim
    features = (1 + (num_layers if concat_hidden else 1)) * dim
    return NBFNetParams(
        query=normal(query_key, num_relations, dim),
        relation_weight=uniform(relation_key, dim, *table, dim) if dependent else None,
        relation_bias=uniform(bias_key, dim, *table)
        if dependent
        else normal(bias_key, *table),
        weight=uniform(weight_key, fan_in, num_layers, dim, fan_in),
        bias=uniform(linear_key, fan_in, num_layers, dim),
        norm_scale=jnp.ones((num_layers, dim), dtype) if layer_norm else None,
        norm_bias=jnp.zeros((num_layers, dim), dtype) if layer_norm else None,
        mlp=mlp_init(mlp_key, [features] * num_mlp_layers + [1], dtype=dtype),
        message=message,
        aggregate=aggregate,
        shortcut=shortcut,
    )


def nbfnet_states(
    params: NBFNetParams,
    graph: Graph,
    heads: Int[Array, " queries"],
    relations: Int[Array, " queries"],
    *,
    edge_mask: Bool[Array, " edges"] | None = None,
    weights: Float[Array, "layers edges"] | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
    axis_name: AxisName = None,
) -> Float[Array, "layers+1 nodes queries dim"]:
    r"""Computes the states of all nodes after each layer.

    With the query $q$ of relation $r_q$ and the boundary $h^0_v = [v = u] q$ of head
    $u$,

    $$h^l_v = h^{l-1}_v + \sigma\big(N(W [h^{l-1}_v;
        \textstyle\bigoplus_{(x, r, v)} h^{l-1}_x \otimes w_r \oplus h^0_v] + b)\big),$$

    where the first term is the shortcut and $N$ a layer normalisation, $\otimes$ the
    message and $\oplus$ the aggregate of `message_pass`.

    Args:
        params: Parameters from `nbfnet_init`.
        graph: The graph, most often with inverse edges (`Graph.add_inverse`).
        heads: The node that each query starts from, integers.
        relations: The relation that each query asks for, integers.
        edge_mask: False where an edge does not count.
        weights: Weights of the edges in each layer, in place of the graph's; the
            gradient with respect to them tells which edges a score rests on.
        activation: $\sigma$.
        axis_name: With a graph from `Graph.split`, inside `jax.shard_map`: the mesh
            axis over which its edges are split.

    Returns:
        The states, shape `(num_layers + 1, nodes, queries, dim)`, the boundary first.

    Raises:
        ValueError: If shapes do not fit, or the graph has another number of relations.
        TypeError: If `heads` or `relations` are not integers.
    """
    _, start, states = _propagate(
        "nbfnet_states",
        params,
        graph,
        heads,
        relations,
        edge_mask,
        weights,
        activation,
        axis_name,
        all_layers=True,
    )
    return jnp.concatenate([start[None], states])


def nbfnet_apply(
    params: NBFNetParams,
    graph: Graph,
    heads: Int[Array, " queries"],
    relations: Int[Array, " queries"],
    *,
    tails: Int[Array, "queries candidates"] | None = None,
    edge_mask: Bool[Array, " edges"] | None = None,
    weights: Float[Array, "layers edges"] | None = None,
    symmetric: bool = False,
    activation: Callable[[Array], Array] = jax.nn.relu,
    axis_name: AxisName = None,
) -> Float[Array, "queries candidates"]:
    r"""Scores tails for queries (head, relation, ?).

    The score of tail $v$ is $\mathrm{MLP}([h^L_v; q])$ with the states of
    `nbfnet_states`, $[h^1_v; \dots; h^L_v; q]$ where the read-out sees all layers; it
    is the logit of the probability that the link exists. A query (?, relation, tail)
    is (tail, inverse relation, ?) on a graph with inverse edges. Reverse mode only, as
    `message_pass`.

    Time per layer is $O(E d + N d^2)$ a query.

    Args:
        params: Parameters from `nbfnet_init`.
        graph: The graph, most often with inverse edges (`Graph.add_inverse`).
        heads: The node that each query starts from, shape `(queries,)`, integers.
        relations: The relation that each query asks for, shape `(queries,)`, integers.
        tails: The nodes to score, shape `(queries, candidates)`, integers; all nodes if
            None.
        edge_mask: False where an edge does not count, such as one that is asked for
            (`remove_query_edges`).
        weights: Weights of the edges in each layer, as in `nbfnet_states`.
        symmetric: Whether features of the walks from tail to head are averaged in, for
            links without a direction; time grows by the number of candidates.
        activation: $\sigma$, of the layers and of the read-out.
        axis_name: The mesh axis of a split graph, as in `nbfnet_states`.

    Returns:
        Scores, shape `(queries, candidates)`, or `(queries, nodes)` without `tails`.

    Raises:
        ValueError: If shapes do not fit, the graph has another number of relations, or
            `symmetric` comes without `tails`.
        TypeError: If `heads`, `relations` or `tails` are not integers.

    Examples:
        >>> graph = Graph.from_triples([[0, 0, 1]], num_nodes=3, num_relations=1)
        >>> params = nbfnet_init(jax.random.key(0), 2, 8)
        >>> nbfnet_apply(
        ...     params, graph.add_inverse(), jnp.array([0]), jnp.array([0])
        ... ).shape
        (1, 3)
    """
    where = "nbfnet_apply"
    if tails is None and symmetric:
        raise ValueError(f"{where}: `symmetric` needs `tails`, got None.")
    if tails is not None:
        check_integers(where, tails=tails)
        if jnp.ndim(tails) != 2 or tails.shape[0] != jnp.shape(heads)[0]:
            raise ValueError(
                f"{where}: `tails` must have shape ({jnp.shape(heads)[0]}, "
                f"candidates), got {jnp.shape(tails)}."
            )

    def features(heads: Array, relations: Array, tails: Array | None) -> Array:
        """Shape `(queries, candidates, features)`."""
        query, _, states = _propagate(
            where,
            params,
            graph,
            heads,
            relations,
            edge_mask,
            weights,
            activation,
            axis_name,
            all_layers=params.mlp.weights[0].shape[-1] != 2 * params.query.shape[-1],
        )
        states = jnp.moveaxis(states, 2, 0)  # (queries, layers, nodes, d)
        if tails is not None:
            states = jax.vmap(lambda h, t: h[:, t])(states, tails)
        states = jnp.moveaxis(states, 1, 2)
        states = states.reshape(*states.shape[:2], -1)
        last = jnp.broadcast_to(query[:, None], (*states.shape[:2], query.shape[-1]))
        return jnp.concatenate([states, last], -1)

    found = features(heads, relations, tails)
    if symmetric and tails is not None:
        num_queries, candidates = tails.shape
        back = features(
            tails.reshape(-1),
            jnp.repeat(relations, candidates),
            jnp.repeat(heads, candidates)[:, None],
        )
        found = (found + back.reshape(found.shape)) / 2
    read_out = functools.partial(mlp_apply, params.mlp, activation=activation)
    return jax.vmap(jax.vmap(read_out))(found)[..., 0]


def _propagate(
    where: str,
    params: NBFNetParams,
    graph: Graph,
    heads: Array,
    relations: Array,
    edge_mask: Array | None,
    weights: Array | None,
    activation: Callable[[Array], Array],
    axis_name: AxisName,
    *,
    all_layers: bool,
) -> tuple[Array, Array, Array]:
    """Queries, boundary, and the states of all layers or of the last alone."""
    mask = both_masks(where, graph, edge_mask)
    check_parts(where, graph, axis_name)
    check_integers(where, heads=heads, relations=relations)
    if jnp.ndim(heads) != 1:
        raise ValueError(
            f"{where}: `heads` must have shape (queries,), got {jnp.shape(heads)}."
        )
    check_shape(where, "relations", relations, heads.shape)
    num_layers, num_relations, dim = params.relation_bias.shape
    if graph.num_relations != num_relations:
        raise ValueError(
            f"{where}: `graph` must have {num_relations} relations, as `params`, got "
            f"{graph.num_relations}."
        )
    if weights is not None:
        check_shape(where, "weights", weights, (num_layers, *graph.senders.shape))
    dtype = float_dtype(*jax.tree.leaves(params))
    query = params.query[relations].astype(dtype)
    boundary = jnp.zeros((graph.num_nodes, len(heads), dim), dtype)
    boundary = boundary.at[heads, jnp.arange(len(heads))].set(query)
    # What the parts of a split graph give is summed, and no longer varies with them.
    parts = (graph, mask, weights) if axis_name is None else ()
    boundary, *_ = vary_together((boundary, params, *parts))
    wide = at_least_float32(dtype)
    num_messages = degrees(graph, mask, wide, axis_name=axis_name) + 1
    scales = pna_scales(graph, num_messages, axis_name=axis_name)
    num_messages, scales = (
        jnp.repeat(a, len(heads), axis=0) for a in (num_messages[:, None], scales)
    )

    def layer(h: Array, xs: tuple) -> tuple[Array, Array | None]:
        weight, bias, scale, offset, w_relation, b_relation, w_edges = xs
        features = b_relation
        if w_relation is not None:
            features = jnp.einsum("roi,qi->rqo", w_relation, query)
            features = features + b_relation[:, None]
        found = statistics(
            graph if w_edges is None else dataclasses.replace(graph, weights=w_edges),
            h,
            features,
            boundary,
            message=params.message,
            statistics=STATISTICS[params.aggregate],
            edge_mask=mask,
            axis_name=axis_name,
        )
        update = functools.partial(
            _update, params, activation, *_matrices(weight, wide), bias, scale, offset
        )
        # One row a node and query: products of three axes copy for their gradient.
        rows = jax.tree.map(lambda a: a.reshape(-1, dim), (h, found))
        out = update(*rows, num_messages, scales).astype(dtype).reshape(h.shape)
        return out, out if all_layers else None

    xs = (
        params.weight,
        params.bias,
        params.norm_scale,
        params.norm_bias,
        params.relation_weight,
        params.relation_bias,
        weights,
    )
    last, states = jax.lax.scan(layer, boundary, xs)
    return query, boundary, last[None] if states is None else states


def _matrices(weight: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """The parts of a weight for the state and for what is received, to multiply from.

    With PNA the rows of the second are statistics and features, its columns scales and
    outputs.
    """
    dim = len(weight)
    of_state, of_received = weight[:, :dim].T, weight[:, dim:].astype(dtype)
    if of_received.shape[1] == dim:
        of_received = of_received.T
    else:
        of_received = of_received.reshape(dim, dim, 4, 3).transpose(2, 1, 3, 0)
        of_received = of_received.reshape(4 * dim, 3 * dim)
    return of_state, of_received


def _update(
    params: NBFNetParams,
    activation: Callable[[Array], Array],
    of_state: Array,
    of_received: Array,
    bias: Array,
    norm_scale: Array | None,
    norm_bias: Array | None,
    h: Array,
    found: dict[str, Array],
    num_messages: Array,
    scales: Array,
) -> Array:
    """New states from states `h` and what was received, one row a node and query.

    With PNA the twelve numbers of a feature are never made: the three scales of the
    node multiply the products of its four statistics with a third of the matrix each.
    """
    new = h @ of_state + bias[None]
    if params.aggregate == "pna":
        stats = jnp.concatenate(pna_statistics(found, num_messages), -1)
        one, scaled, inverse = jnp.split(stats @ of_received, 3, axis=-1)
        received = one + scales[:, 1:2] * scaled + scales[:, 2:] * inverse
    else:
        (received,) = found.values()
        if params.aggregate == "mean":
            received = received / num_messages
        received = received @ of_received
    new += received.astype(new.dtype)
    if norm_scale is not None and norm_bias is not None:
        new = _layer_norm(new, norm_scale, norm_bias)
    new = activation(new)
    return h + new if params.shortcut else new


def _layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    wide = x.astype(at_least_float32(x.dtype))
    wide = wide - wide.mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + _EPS)
    return wide.astype(x.dtype) * scale[None] + offset[None]
