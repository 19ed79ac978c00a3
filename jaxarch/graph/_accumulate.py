"""Reductions of messages over the edges of a graph, a cache-resident block at a time.

The forward pass walks the edges by receiver and the gradient walks them by sender, so
that each reads one side and adds to it in order; blocks of messages stay in cache and
the array of all messages never exists.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Blocks of messages of this size were fastest on a CPU, within noise of half and twice
# it. An accelerator wants as much work at once as there is memory for.
_BLOCK_BYTES = {"cpu": 2**20}
_ACCELERATOR_BLOCK_BYTES = 2**28

AxisName = str | tuple[str, ...] | None


class Edges(NamedTuple):
    """The integer arrays of a graph, and which edges count."""

    senders: Array
    receivers: Array  # ascending
    types: Array
    by_sender: Array | None
    mask: Array | None


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="axis_name")
def accumulate(
    message: Callable[[int, Array, Array], Array],
    dim: int,
    statistics: tuple[str, ...],
    x: Array,
    relations: Array,
    weights: Array | None,
    boundary: Array,
    edges: Edges,
    *,
    axis_name: AxisName = None,
) -> tuple[Array, ...]:
    """Reduces the messages into each node together with its boundary.

    Args:
        message: A module-level function of `dim`, sender states and relations, both
            `(block, width)`.
        dim: The number of features of one query, a divisor of the width.
        statistics: Among "sum", "square", "max" and "min"; "square" is the sum of
            weight times square.
        x: Node states, shape `(nodes, width)`.
        relations: Shape `(relations, width)`.
        weights: Factors of the messages, shape `(edges,)`, or None.
        boundary: One more message for each node, shape `(nodes, width)`.
        edges: The edges.
        axis_name: The mesh axis over which the edges are split, if they are.

    Returns:
        An array of shape `(nodes, width)` for each statistic.
    """
    if axis_name is None:
        arrays = vary_together((x, relations, weights, boundary, edges))
    else:  # the boundary is not of the parts
        x, relations, weights, edges = vary_together((x, relations, weights, edges))
        arrays = x, relations, weights, boundary, edges
    of_states = functools.partial(message, dim)
    return _accumulate(of_states, statistics, axis_name, *arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _accumulate(message, statistics, axis_name, x, relations, weights, boundary, edges):
    of_edges = functools.partial(_terms, message, "square" in statistics)

    def step(found: tuple, block: Edges, w: Array | None) -> tuple[tuple, None]:
        terms = of_edges(x[block.senders], relations[block.types], w)

        def one(name: str, total: Array) -> Array:
            term = terms["square" if name == "square" else "message"]
            term = _masked(term, block.mask, _NOTHING[name])
            return _REDUCE[name](total, block.receivers, term)

        return tuple(map(one, statistics, found)), None

    own = [boundary**2 if name == "square" else boundary for name in statistics]
    if axis_name is None:
        return _scan(step, tuple(own), edges, weights, x)[0]
    start = tuple(jnp.full_like(x, _NOTHING[name]) for name in statistics)
    parts, _ = _scan(step, start, edges, weights, x)
    pairs = zip(statistics, own, parts, strict=True)
    return tuple(_JOIN[n](a, _OVER_AXIS[n](b, axis_name)) for n, a, b in pairs)


def _forward(message, statistics, axis_name, *arrays):
    found = _accumulate(message, statistics, axis_name, *arrays)
    return found, (*arrays, found)


def _backward(message, statistics, axis_name, residuals, cotangents):
    x, relations, weights, boundary, edges, found = residuals
    found = dict(zip(statistics, found, strict=True))
    cotangents = dict(zip(statistics, cotangents, strict=True))
    extrema = [name for name in statistics if name in ("max", "min")]
    squared = "square" in statistics
    of_edges = functools.partial(_terms, message, squared)

    def count(ties: tuple, block: Edges, w: Array | None) -> tuple[tuple, None]:
        m = of_edges(x[block.senders], relations[block.types], w)["message"]

        def one(name: str, total: Array) -> Array:
            ties = (m == found[name][block.receivers]).astype(m.dtype)
            return _add(total, block.receivers, _masked(ties, block.mask, 0))

        return tuple(map(one, extrema, ties)), None

    own = {name: boundary == found[name] for name in extrema}
    if extrema:
        ties, _ = _scan(count, (jnp.zeros_like(x),) * len(extrema), edges, weights, x)
        for name, total in zip(extrema, sum_over(axis_name, ties), strict=True):
            # At least 1: a NaN equals nothing, not even itself.
            total = jnp.maximum(total + own[name].astype(x.dtype), 1)
            cotangents[name] = cotangents[name] / total

    def change(of_boundary: Array, of_parts: dict[str, Array]) -> dict[str, Array]:
        """Of each statistic, where its boundary and its sums over the parts change."""
        own_change = {n: jnp.where(own[n], of_boundary, 0) for n in extrema}
        own_change |= {"sum": of_boundary, "square": 2 * boundary * of_boundary}
        return {n: own_change[n] + sum_over(axis_name, of_parts[n]) for n in statistics}

    # How a sum over devices transposes depends on what `shard_map` checks; JAX knows.
    pull_own = jax.linear_transpose(change, boundary, dict.fromkeys(statistics, x))
    of_boundary, cotangents = pull_own(cotangents)

    def of_terms(m: Array, rows: Array) -> dict[str, Array]:
        """Gradients with respect to `_terms` of the messages `m` into nodes `rows`."""
        g = jnp.zeros_like(m)
        for name in statistics:
            if name in extrema:
                g += jnp.where(m == found[name][rows], cotangents[name][rows], 0)
            elif name == "sum":
                g += cotangents[name][rows]
        squares = {"square": cotangents["square"][rows]} if squared else {}
        return {"message": g, **squares}

    def step(grads: tuple, block: Edges, w: Array | None) -> tuple[tuple, Array | None]:
        of_x, of_relations = grads
        terms, pull = jax.vjp(
            of_edges,
            x.at[block.senders].get(mode="clip"),
            relations.at[block.types].get(mode="clip"),
            w,
        )
        g = of_terms(terms["message"], block.receivers)
        g = {name: _masked(a, block.mask, 0) for name, a in g.items()}
        g_x, g_relations, g_w = pull(g)
        of_x = _add(of_x, block.senders, g_x)
        # In any order: the table of the relations is small enough for the cache.
        of_relations = of_relations.at[block.types].add(g_relations, mode="drop")
        return (of_x, of_relations), g_w

    start = jnp.zeros_like(x), jnp.zeros_like(relations)
    turned = jax.tree.map(lambda a: a[edges.by_sender], edges)
    w = None if weights is None else weights[edges.by_sender]
    (of_x, of_relations), of_w = _scan(step, start, turned, w, x, by_sender=True)
    if of_w is not None:
        of_w = of_w.reshape(-1)[: len(edges.senders)]
        of_w = jnp.zeros_like(of_w).at[edges.by_sender].set(of_w, unique_indices=True)
    return of_x, of_relations, of_w, of_boundary, None


_accumulate.defvjp(_forward, _backward)


def _scan(
    step: Callable,
    start: tuple,
    edges: Edges,
    weights: Array | None,
    x: Array,
    *,
    by_sender: bool = False,
) -> tuple[tuple, Any]:
    """Runs `step` over blocks of edges; what fills the last one is dropped there."""
    num_edges, num_nodes = len(edges.senders), len(x)
    limit = _BLOCK_BYTES.get(jax.default_backend(), _ACCELERATOR_BLOCK_BYTES)
    size = max(1, min(num_edges, limit // max(1, x[0].size * x.dtype.itemsize)))
    num_blocks = -(-num_edges // size)
    size = -(-num_edges // num_blocks)

    def blocks(a: Array, fill: Any) -> Array:
        more = num_blocks * size - num_edges
        return jnp.pad(a, (0, more), constant_values=fill).reshape(num_blocks, size)

    # An index past the end is dropped where it is added to; elsewhere 0 will do.
    end = jnp.iinfo(edges.types.dtype).max
    made = Edges(
        senders=blocks(edges.senders, num_nodes if by_sender else 0),
        receivers=blocks(edges.receivers, 0 if by_sender else num_nodes),
        types=blocks(edges.types, end if by_sender else 0),
        by_sender=None,
        mask=None if edges.mask is None else blocks(edges.mask, False),
    )
    w = None if weights is None else blocks(weights, 0)
    return jax.lax.scan(lambda carry, block: step(carry, *block), start, (made, w))


def _terms(
    message: Callable, squared: bool, x: Array, r: Array, w: Array | None
) -> dict[str, Array]:
    """Weighted messages, and if wanted weighted squares of the messages."""
    m = message(x, r)
    weighted = m if w is None else w[:, None] * m
    return {"message": weighted, **({"square": weighted * m} if squared else {})}


def _masked(a: Array, mask: Array | None, value: float) -> Array:
    return a if mask is None else jnp.where(mask[:, None], a, value)


def _add(total: Array, rows: Array, values: Array) -> Array:
    return total.at[rows].add(values, indices_are_sorted=True, mode="drop")


def _max(total: Array, rows: Array, values: Array) -> Array:
    return total.at[rows].max(values, indices_are_sorted=True, mode="drop")


def _min(total: Array, rows: Array, values: Array) -> Array:
    return total.at[rows].min(values, indices_are_sorted=True, mode="drop")


def sum_over(axis_name: AxisName, tree: Any) -> Any:
    """Sums each array over the devices of a mesh axis, if there is one."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


_REDUCE = {"sum": _add, "square": _add, "max": _max, "min": _min}
_JOIN = {"sum": jnp.add, "square": jnp.add, "max": jnp.maximum, "min": jnp.minimum}
_OVER_AXIS = {
    "sum": jax.lax.psum,
    "square": jax.lax.psum,
    "max": jax.lax.pmax,
    "min": jax.lax.pmin,
}
_NOTHING = {"sum": 0, "square": 0, "max": -jnp.inf, "min": jnp.inf}


def vary_together(tree: Any) -> Any:
    """Makes all arrays vary over the same axes of a `shard_map`, as a scan wants.

    Each gets a zero that depends on all of them in type alone.
    """
    leaves = jax.tree.leaves(tree)
    zeros = [jnp.where(False, a.ravel()[0], jnp.zeros((), a.dtype)) for a in leaves]
    no = functools.reduce(jnp.logical_or, [zero.astype(bool) for zero in zeros])

    def vary(a: Array) -> Array:
        return a | no if no.dtype == a.dtype else a + no.astype(a.dtype)

    return jax.tree.map(vary, tree)
