"""Training and judging link prediction: known links, negatives, a loss and ranks.

Z. Zhu, Z. Zhang, L.-P. Xhonneux, J. Tang, "Neural Bellman-Ford Networks: A General
Graph Neural Network Framework for Link Prediction", arXiv:2106.06935, section 3.3 and
appendix; the loss: Z. Sun, Z.-H. Deng, J.-Y. Nie, J. Tang, "RotatE: Knowledge Graph
Embedding by Relational Rotation in Complex Space", arXiv:1902.10197, section 3.3; ranks
among 50: K. Teru, E. Denis, W. Hamilton, "Inductive Relation Prediction by Subgraph
Reasoning", arXiv:1911.06962, and the authors' code, KiddoZhu/NBFNet-PyG.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._checks import check_integers, check_positive, check_rank, check_shape
from ._graph import Graph


def remove_query_edges(
    graph: Graph,
    heads: Int[Array, " queries"],
    relations: Int[Array, " queries"],
    tails: Int[Array, "queries *candidates"],
    *,
    one_hop: bool = False,
) -> Bool[Array, " edges"]:
    """Masks the edges that answer the queries, so that a model cannot read them off.

    An edge is masked if it is one of the links (head, relation, tail) or one of their
    inverses (tail, inverse relation, head), or, with `one_hop`, if it joins the two
    ends of a link in either direction under any relation. It works under `jit`, since
    the graph keeps its size. Time O(n log n) for n edges and links.

    Args:
        graph: The graph, with inverse edges (`Graph.add_inverse`) unless `one_hop`:
            the inverse of relation r is r plus or minus half the number of relations.
        heads: Shape `(queries,)`, integers.
        relations: Shape `(queries,)`, integers.
        tails: Shape `(queries,)` or `(queries, candidates)`, integers.
        one_hop: Whether the relation of an edge does not matter.

    Returns:
        An `edge_mask`, shape `(edges,)`, False at those edges.

    Raises:
        ValueError: If shapes do not fit, or the graph has an odd number of relations
            and `one_hop` is False.
        TypeError: If an array is not of integers.

    Examples:
        >>> graph = Graph.from_triples([[0, 0, 1], [1, 0, 2]], num_nodes=3,
        ...                            num_relations=1).add_inverse()
        >>> link = jnp.array([0]), jnp.array([0]), jnp.array([1])
        >>> int(remove_query_edges(graph, *link).sum())
        2
    """
    where = "remove_query_edges"
    check_integers(where, heads=heads, relations=relations, tails=tails)
    check_rank(where, "heads", heads, 1, "(queries,)")
    check_shape(where, "relations", relations, heads.shape)
    if jnp.ndim(tails) not in (1, 2) or tails.shape[0] != len(heads):
        raise ValueError(
            f"{where}: `tails` must have shape ({len(heads)},) or ({len(heads)}, "
            f"candidates), got {jnp.shape(tails)}."
        )
    if graph.num_relations % 2 and not one_hop:
        raise ValueError(
            f"{where}: `graph` must have inverse relations, an even number, unless "
            f"`one_hop`, got {graph.num_relations}."
        )
    dtype = graph.senders.dtype
    t = tails.reshape(len(heads), -1).astype(dtype)
    h, r = (jnp.broadcast_to(a[:, None], t.shape) for a in (heads, relations))
    h, r, t = (a.astype(dtype).reshape(-1) for a in (h, r, t))
    inverse = (r + graph.num_relations // 2) % graph.num_relations
    ends = jnp.concatenate([h, t]), jnp.concatenate([t, h])
    if one_hop:
        return ~_among((graph.senders, graph.receivers), ends)
    links = *ends, jnp.concatenate([r, inverse])
    return ~_among((graph.senders, graph.receivers, graph.edge_types), links)


def known_tails(
    graph: Graph,
    heads: Int[Array, " queries"],
    relations: Int[Array, " queries"],
) -> Bool[Array, "queries nodes"]:
    """Tells which tails of queries (head, relation, ?) are edges of a graph.

    Time and memory O(queries (edges + nodes)).

    Args:
        graph: The graph of what is known.
        heads: Shape `(queries,)`, integers.
        relations: Shape `(queries,)`, integers.

    Returns:
        True at known tails, shape `(queries, nodes)`.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If an array is not of integers.
    """
    where = "known_tails"
    check_integers(where, heads=heads, relations=relations)
    check_rank(where, "heads", heads, 1, "(queries,)")
    check_shape(where, "relations", relations, heads.shape)
    heads, relations = (
        a[:, None].astype(graph.senders.dtype) for a in (heads, relations)
    )
    hit = (graph.senders[None] == heads) & (graph.edge_types[None] == relations)
    if graph.mask is not None:
        hit &= graph.mask[None]
    known = jnp.zeros((len(heads), graph.num_nodes), bool)
    return known.at[:, graph.receivers].max(hit)


def sample_negative_tails(
    key: PRNGKeyArray,
    known: Bool[Array, "queries nodes"],
    num_negatives: int,
) -> Int[Array, "queries num_negatives"]:
    """Draws tails that are not known, uniformly and with replacement.

    Args:
        key: A random key.
        known: Tails that must not be drawn, as from `known_tails` (strict negatives).
        num_negatives: The number of draws for each query.

    Returns:
        Nodes, shape `(queries, num_negatives)`; the last node where all are known.

    Raises:
        ValueError: If `known` does not have two axes.
        TypeError: If `num_negatives` is not an int.
    """
    where = "sample_negative_tails"
    check_rank(where, "known", known, 2, "(queries, nodes)")
    check_positive(where, num_negatives=num_negatives)
    count = jnp.cumsum(~known, axis=1)
    shape = len(known), num_negatives
    chosen = jax.random.randint(key, shape, 0, jnp.maximum(count[:, -1:], 1))
    found = jax.vmap(lambda c, k: jnp.searchsorted(c, k, side="right"))(count, chosen)
    return jnp.minimum(found, known.shape[1] - 1)


def self_adversarial_loss(
    positives: Float[Array, " queries"],
    negatives: Float[Array, "queries num_negatives"],
    *,
    temperature: float = 1.0,
) -> Float[Array, ""]:
    r"""Computes the cross-entropy of links, hard negatives weighing more.

    $$\frac{1}{2 Q} \sum_q \Big(\log(1 + e^{-s_q}) +
        \sum_k p_{qk} \log(1 + e^{s_{qk}})\Big), \qquad
        p_{qk} = \mathrm{softmax}_k(s_{qk} / T)$$

    No gradient flows through the weights $p$.

    Args:
        positives: Scores of links, shape `(queries,)`.
        negatives: Scores of tails that are none, shape `(queries, num_negatives)`.
        temperature: $T$; 0 weighs all negatives equally.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit or `temperature` is negative.
    """
    where = "self_adversarial_loss"
    check_rank(where, "positives", positives, 1, "(queries,)")
    check_rank(where, "negatives", negatives, 2, "(queries, num_negatives)")
    check_shape(where, "positives", positives, negatives.shape[:1])
    if temperature < 0:
        raise ValueError(
            f"{where}: `temperature` must not be negative, got {temperature}."
        )
    if temperature == 0:
        weights = jnp.full(negatives.shape, 1 / negatives.shape[1], negatives.dtype)
    else:
        weights = jax.nn.softmax(jax.lax.stop_gradient(negatives) / temperature)
    of_negatives = jnp.sum(weights * jax.nn.softplus(negatives), axis=1)
    return jnp.mean(jax.nn.softplus(-positives) + of_negatives) / 2


def filtered_ranks(
    scores: Float[Array, "queries nodes"],
    tails: Int[Array, " queries"],
    known: Bool[Array, "queries nodes"],
) -> Int[Array, " queries"]:
    """Ranks the true tail of each query among the nodes that are not known tails.

    Ties count against the tail: a model that scores all nodes alike ranks last.

    Args:
        scores: Scores of all nodes, shape `(queries, nodes)`.
        tails: The tail that is asked for, shape `(queries,)`, integers.
        known: Other answers, which are left out (`known_tails`); whether it holds the
            tail itself does not matter.

    Returns:
        Ranks, 1 the best, shape `(queries,)`.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If `tails` are not integers.
    """
    where = "filtered_ranks"
    check_integers(where, tails=tails)
    check_rank(where, "scores", scores, 2, "(queries, nodes)")
    check_shape(where, "tails", tails, scores.shape[:1])
    check_shape(where, "known", known, scores.shape)
    own = jnp.take_along_axis(scores, tails[:, None], axis=1)
    nodes = jnp.arange(scores.shape[1], dtype=tails.dtype)
    rivals = ~known & (nodes[None] != tails[:, None])
    return 1 + jnp.sum(rivals & ~(scores < own), axis=1)


def ranking_metrics(
    ranks: Int[Array, " queries"],
    *,
    hits_at: Sequence[int] = (1, 3, 10),
    num_rivals: Int[Array, " queries"] | None = None,
) -> dict[str, Array]:
    r"""Computes mean rank, mean reciprocal rank and hits.

    With `num_rivals`, also the expectation of hits@10 when the tail is ranked with 49
    of its rivals drawn at random: $\sum_{i < 10} \binom{49}{i} p^i (1 - p)^{49 - i}$
    for the share $p$ of rivals in front of it. This is the measure of inductive link
    prediction.

    Args:
        ranks: From `filtered_ranks`, shape `(queries,)`.
        hits_at: The ranks k for which to give hits@k.
        num_rivals: The number of nodes that each tail was ranked against, itself not
            among them, shape `(queries,)`.

    Returns:
        Scalars by name: "mr", "mrr", "hits@k" for each k, and "hits@10_50".

    Raises:
        ValueError: If shapes do not fit.
    """
    where = "ranking_metrics"
    check_rank(where, "ranks", ranks, 1, "(queries,)")
    r = ranks.astype(jnp.result_type(float))
    found = {"mr": r.mean(), "mrr": (1 / r).mean()}
    found |= {f"hits@{k}": jnp.mean(ranks <= k) for k in hits_at}
    if num_rivals is not None:
        check_shape(where, "num_rivals", num_rivals, ranks.shape)
        p = (r - 1) / jnp.maximum(num_rivals, 1).astype(r.dtype)
        terms = [math.comb(49, i) * p**i * (1 - p) ** (49 - i) for i in range(10)]
        found["hits@10_50"] = sum(terms, jnp.zeros_like(p)).mean()
    return found


def _among(rows: Sequence[Array], wanted: Sequence[Array]) -> Array:
    """Tells which rows of integers are among the wanted ones, by sorting them all."""
    num_rows, total = len(rows[0]), len(rows[0]) + len(wanted[0])
    keys = [jnp.concatenate(pair) for pair in zip(rows, wanted, strict=True)]
    *keys, position = jax.lax.sort((*keys, jnp.arange(total)), num_keys=len(keys))
    changes = [key[1:] != key[:-1] for key in keys]
    group = jnp.cumsum(jnp.any(jnp.stack(changes), axis=0))
    group = jnp.concatenate([jnp.zeros(1, group.dtype), group])
    has_wanted = jnp.zeros(total, bool).at[group].max(position >= num_rows)
    return jnp.zeros(total, bool).at[position].set(has_wanted[group])[:num_rows]
