r"""Evaluation of architectures of plain vectors.

Moments are computed once per example; pairs in tiles that stay in cache, and for a
symmetric Gram only on and above the diagonal.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._angle import angle
from ._angular import angular_series, evaluate_series, num_terms
from ._covariance import Covariance, Marginal, Pair, Rules, norm
from ._gram import Gram
from ._graph import Graph, Number, Shape
from ._input import Points, attach, versine_matrix, versine_pairs
from ._layouts import cast, columns, intervals, rows
from ._plan import shapes_of
from ._state import State

# Side of a square tile: a CPU core's cache holds it, or it fills an accelerator.
_TILE = {"cpu": 256}
_ACCELERATOR_TILE = 4096


# --- the two passes over a graph ---------------------------------------------


def _marginals(graph, numbers, first: Marginal, shapes) -> tuple[Marginal, ...]:
    """Moments of every value at each example."""
    values: list[Marginal] = []
    for node, own in zip(graph.nodes, numbers, strict=True):
        args = [values[i] for i in node.args]
        args_shapes = [shapes[i] for i in node.args]
        values.append(
            node.operation.marginal(own, *args, shapes=args_shapes) if args else first
        )
    return tuple(values)


def _pairs(
    graph: Graph,
    numbers: Sequence[Sequence[Number]],
    one: Sequence[Marginal],
    two: Sequence[Marginal],
    first: Pair,
    shapes: Sequence[Shape],
    rules: Rules,
) -> Pair:
    """Covariance and tangent kernel of the output at each pair of examples."""
    values: list[Pair] = []
    for i, (node, own) in enumerate(zip(graph.nodes, numbers, strict=True)):
        if not node.args:
            values.append(first)
            continue
        pair = node.operation.pair(
            own,
            *(Covariance(one[j], two[j], *values[j]) for j in node.args),
            out1=one[i],
            out2=two[i],
            shapes=[shapes[j] for j in node.args],
            rules=rules,
        )
        if rules.same:  # the angle of an example with itself stays 0
            pair = pair._replace(v=first.v, w=first.w)
        if node.value.gaussian and (pair.half is None or rules.same):
            pair = pair.rooted()
        values.append(pair)
    return values[-1]


def _gram(
    one: Marginal, two: Marginal, pair: Pair, rules: Rules
) -> tuple[Array, Array]:
    nngp = rules.attach(norm(one, two) * (1 - pair.v), pair.slope)
    return nngp, jnp.broadcast_to(pair.t, nngp.shape).astype(nngp.dtype)


def _rules(p1: Points, p2: Points, *, same: bool, outer: bool) -> Rules:
    def rule(value, factor):
        return value if factor is None else attach(value, factor, p1.x, p2.x, outer)

    return Rules(same, rule)


# --- from data ---------------------------------------------------------------


def _prepare(graph, numbers, x1, x2):
    """Points of both sides, and the marginals of their union, for one program does."""
    p1 = Points.of(x1)
    shapes = shapes_of(graph, Shape((), x1.shape[-1]))
    if x2 is None:
        return p1, p1, _marginals(graph, numbers, p1.marginal(), shapes), shapes
    p2 = Points.of(x2)
    first = jax.tree.map(lambda *a: jnp.concatenate(a), p1.marginal(), p2.marginal())
    return p1, p2, _marginals(graph, numbers, first, shapes), shapes


def _sides(marginals, n1: int, same: bool):
    """Splits what `_prepare` joined."""
    if same:
        return marginals, marginals
    return (
        jax.tree.map(lambda a: a[..., :n1], marginals),
        jax.tree.map(lambda a: a[..., n1:], marginals),
    )


def _diagonal_pair(graph, numbers, x1, x2):
    """Marginals and output of the pairs (i, i)."""
    p1, p2, marginals, shapes = _prepare(graph, numbers, x1, x2)
    one, two = _sides(marginals, x1.shape[0], x2 is None)
    if x2 is None:
        v, w = jnp.zeros_like(one[0].q), jnp.full_like(one[0].q, 2)
    else:
        v, w = versine_pairs(p1.unit, p2.unit)
    rules = _rules(p1, p2, same=x2 is None, outer=False)
    # An example with itself has the covariance q, which is smooth as it is.
    first = Pair(v, w, jnp.zeros_like(v), None if x2 is None else 1.0)
    pair = _pairs(graph, numbers, one, two, first, shapes, rules)
    return one[-1], two[-1], pair, rules


@functools.partial(jax.jit, static_argnames=("graph", "ntk"))
def vector_diagonal(graph, numbers, x1, x2, *, ntk) -> Gram:
    one, two, pair, rules = _diagonal_pair(graph, cast(numbers, x1.dtype), x1, x2)
    nngp, tangent = _gram(one, two, pair, rules)
    return Gram(nngp=nngp, ntk=tangent if ntk else None)


def _tiles(n1: int, n2: int, symmetric: bool) -> tuple[np.ndarray, int, int]:
    """Corners `(tiles, 2)` and shape of the tiles to compute."""
    side = _TILE.get(jax.default_backend(), _ACCELERATOR_TILE)
    if symmetric:  # two intervals at least: XLA unrolls a loop over one tile
        first, height = intervals(n1, min(side, -(-n1 // 2)))
        i, j = np.triu_indices(len(first))
        return np.stack([first[i], first[j]], 1), height, height
    first, height = intervals(n1, side)
    second, width = intervals(n2, 2 * side)
    corners = np.stack(np.meshgrid(first, second, indexing="ij"), -1).reshape(-1, 2)
    return corners, height, width


@functools.partial(jax.jit, static_argnames=("graph", "ntk"))
def vector_gram(graph, numbers, x1, x2, *, ntk) -> Gram:
    """All pairs, in tiles; with `x2=None` those on and above the diagonal."""
    numbers = cast(numbers, x1.dtype)
    symmetric = x2 is None
    p1, p2, marginals, shapes = _prepare(graph, numbers, x1, x2)
    n1, n2 = p1.x.shape[0], p2.x.shape[0]
    if n1 == 0 or n2 == 0:
        empty = jnp.zeros((n1, n2), x1.dtype)
        return Gram(nngp=empty, ntk=empty if ntk else None)
    corners, height, width = _tiles(n1, n2, symmetric)
    shift = 0 if symmetric else n1  # of the second side in `marginals`
    if terms := num_terms(graph, x1.dtype.itemsize):
        series, slopes = angular_series(
            terms,
            x1.dtype,
            lambda first: _marginals(graph, numbers, first, shapes),
            lambda m, first, rules: _pairs(graph, numbers, m, m, first, shapes, rules),
        )

    @jax.checkpoint
    def tile(row, column):
        def cut(tree, start, size, axis):
            return jax.tree.map(
                lambda a: jax.lax.dynamic_slice_in_dim(a, start, size, axis), tree
            )

        q1, q2 = cut(p1, row, height, 0), cut(p2, column, width, 0)
        i, j = row + jnp.arange(height), column + jnp.arange(width)
        v, w = versine_matrix(
            q1.unit, q2.unit, i[:, None] == j[None, :] if symmetric else None
        )
        rules = _rules(q1, q2, same=False, outer=True)
        if terms:
            root1 = rows(cut(marginals[0].root, row, height, -1))
            root2 = columns(cut(marginals[0].root, shift + column, width, -1))
            theta, _ = angle(v, w)
            gram = [
                rules.attach(root1 * root2 * evaluate_series(c, theta), slope)
                for c, slope in zip(series, slopes, strict=True)
            ]
        else:
            m1 = rows(cut(marginals, row, height, -1))
            m2 = columns(cut(marginals, shift + column, width, -1))
            first = Pair(v, w, jnp.zeros_like(v), 1.0)
            pair = _pairs(graph, numbers, m1, m2, first, shapes, rules)
            gram = _gram(m1[-1], m2[-1], pair, rules)
        return gram[: 1 + ntk]

    def step(grams, corner):
        row, column = corner
        put = jax.lax.dynamic_update_slice
        blocks = tile(row, column)
        grams = [put(k, b, (row, column)) for k, b in zip(grams, blocks, strict=True)]
        return tuple(grams), None

    def mirror(grams, corner):  # in a loop of its own: else XLA computes tiles twice
        row, column = corner
        i, j = row + jnp.arange(height), column + jnp.arange(width)

        def one(k):
            block = jax.lax.dynamic_slice(k, (row, column), (height, width))
            there = jax.lax.dynamic_slice(k, (column, row), (width, height))
            lower = jnp.where(i[None, :] <= j[:, None], block.T, there)
            return jax.lax.dynamic_update_slice(k, lower, (column, row))

        return tuple(map(one, grams)), None

    # Every entry is overwritten; a product has the sharding of both inputs.
    one, two = _sides(marginals[-1], n1, symmetric)
    start = one.root[:, None] * two.root[None, :]
    corners = jnp.asarray(corners)
    grams, _ = jax.lax.scan(step, (start,) * (1 + ntk), corners)
    if symmetric:
        grams, _ = jax.lax.scan(mirror, grams, corners)
        own = _gram(*_diagonal_pair(graph, numbers, x1, None))
        index = jnp.arange(n1)
        grams = [
            k.at[index, index].set(d)
            for k, d in zip(grams, own[: 1 + ntk], strict=True)
        ]
    return Gram(nngp=grams[0], ntk=grams[1] if ntk else None)


# --- states ------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("graph", "diagonal"))
def input_state(graph, numbers, x1, x2, *, diagonal) -> State:
    numbers = cast(numbers, x1.dtype)
    same = x2 is None
    value = graph.nodes[-1].value
    shapes = shapes_of(graph, Shape((), x1.shape[-1]))
    features = shapes[-1].features
    if diagonal:
        one, two, pair, _ = _diagonal_pair(graph, numbers, x1, x2)
        return State.of(one, two, pair, value.gaussian, features, same)
    p1, p2, marginals, shapes = _prepare(graph, numbers, x1, x2)
    one, two = _sides(marginals, x1.shape[0], same)
    mask = jnp.eye(x1.shape[0], dtype=bool) if same else None
    v, w = versine_matrix(p1.unit, p2.unit, mask)
    rules = _rules(p1, p2, same=False, outer=True)
    first = Pair(v, w, jnp.zeros_like(v), 1.0)
    pair = _pairs(graph, numbers, rows(one), columns(two), first, shapes, rules)
    if same:
        pair = _with_diagonal(pair, _diagonal_pair(graph, numbers, x1, None)[2])
    return State.of(one[-1], two[-1], pair, value.gaussian, features, same)


def _with_diagonal(pair: Pair, own: Pair) -> Pair:
    index = jnp.arange(pair.v.shape[0])

    def put(matrix, vector):
        return jnp.asarray(matrix).at[index, index].set(vector)

    w = None if pair.w is None else put(pair.w, 2.0 if own.w is None else own.w)
    return Pair(put(pair.v, own.v), w, put(pair.t, own.t))


@functools.partial(jax.jit, static_argnames=("graph",))
def advance(graph, numbers, state: State) -> State:
    numbers = cast(numbers, state.v.dtype)
    shapes = shapes_of(graph, Shape((), state.features))
    one = _marginals(graph, numbers, Marginal.of(state.moment1, state.mean1), shapes)
    two = _marginals(graph, numbers, Marginal.of(state.moment2, state.mean2), shapes)
    first = Pair(state.v, state.w, state.ntk)
    plain = state.v.ndim == 1
    sides = (one, two) if plain else (rows(one), columns(two))
    rules = Rules(state.same and plain, lambda value, factor: value)
    pair = _pairs(graph, numbers, *sides, first, shapes, rules)
    if state.same and not plain:
        first = jax.tree.map(jnp.diagonal, first)
        rules = Rules(True, rules.attach)
        pair = _with_diagonal(
            pair, _pairs(graph, numbers, one, two, first, shapes, rules)
        )
    gaussian = graph.nodes[-1].value.gaussian
    return State.of(one[-1], two[-1], pair, gaussian, shapes[-1].features, state.same)
