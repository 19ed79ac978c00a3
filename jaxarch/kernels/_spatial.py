r"""Evaluation of architectures whose values have positions.

Two decisions are made per value, before anything runs (`plan`).

*Which pairs of positions.* Going backwards from the output, an operation says whether
it needs its argument at pairs of different positions (a pool does) or only at each
position with itself (`flatten`): a network that pools early and flattens late has full
spatial covariances up to the pool and none after it.

*How pairs are laid out.* Convolutions of stride 1 and coordinatewise maps keep the
offset $r = p' - p$ of a pair. For one offset, all of them act as if on two images of
which the second was shifted by $r$. So pairs at all positions are computed offset by
offset, in arrays `(*space, examples, last offset)` that stay in cache, through as many
layers as possible; only where offsets mix (pools, strides) are they put down as
`(*space, *space, examples)`. A second example is shifted around a circle that is longer
than itself by the reach of the windows: the zeros there are the padding.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._block import Block, OwnBlock, Side
from ._covariance import Marginal, Pair, norm
from ._gram import Gram
from ._graph import Graph, Shape
from ._layouts import absolute_side, apart, cast, columns, cut, intervals, rows, zero_of
from ._mask import masks_of
from ._plan import Plan, plan

# Entries of an array that stays in a CPU core's cache, or that fill an accelerator.
_ENTRIES = {"cpu": 1 << 18}
_ACCELERATOR_ENTRIES = 1 << 24
_WIDTH = 32  # second examples in a block, the axis that a CPU's vectors run along


def points(x: Array, mask: Array | None) -> tuple[Array, Marginal, Array | None]:
    """Unit vectors `(channels, *space, n)`, the moments and the mask of the input.

    A norm that is never 0 keeps the derivative at a zero input: $k$ is linear there,
    and the product of norm and unit vector is `x` exactly. Where `mask` is 0, the
    moments are.
    """
    if mask is not None:
        x = jnp.where(mask[..., None] > 0, x, 0)
        mask = jnp.moveaxis(mask, 0, -1)
    x = jnp.moveaxis(jnp.moveaxis(x, -1, 0), 1, -1)
    tiny = float(jnp.finfo(x.dtype).tiny) ** 0.4
    size = jnp.sqrt((x**2).sum(0) + tiny**2)
    first = Marginal.of(size**2 / x.shape[0], x.mean(0))
    return x / size[None], first.present(mask), mask


def in_blocks(function, xs: Any, n: int, size: int) -> Any:
    """Maps blocks of the last axis; the results have it last too."""
    starts, size = intervals(n, size)
    out = jax.lax.map(lambda start: function(cut(xs, start, size)), jnp.asarray(starts))
    block = np.searchsorted(starts, np.arange(n), side="right") - 1
    inside = np.arange(n) - starts[block]
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2)[..., block, inside], out)


def _moments(
    graph, plan: Plan, numbers, unit, first: Marginal, mask: Array | None
) -> tuple[Marginal, ...]:
    """Moments of every value, `(..., *space, n)`."""
    if plan.exact:
        return _own(graph, plan, numbers, unit, first, mask)[0]
    found, masks = [rows(first)], masks_of(graph, plan.shapes, rows(mask))
    for i, (node, own) in enumerate(zip(graph.nodes, numbers, strict=True)):
        if not node.args:
            continue
        found.append(
            node.operation.masked_marginal(
                own,
                *(found[j] for j in node.args),
                shapes=[plan.shapes[j] for j in node.args],
                masks=[masks[j] for j in node.args],
                out=masks[i],
            )
        )
    return jax.tree.map(lambda a: a[..., 0], tuple(found))


def block_entries() -> int:
    """Entries of an array that a block should have."""
    return _ENTRIES.get(jax.default_backend(), _ACCELERATOR_ENTRIES)


def _examples(plan: Plan, n: int) -> int:
    """Examples in a block, so that one array of it stays in cache."""
    size = 1
    for shape, full, kept in zip(plan.shapes, plan.full, plan.kept, strict=True):
        positions = math.prod(shape.space)
        size = max(size, positions * shape.space[-1] if full else positions)
        if kept:  # in absolute arrays, which may leave the cache
            size = max(size, positions**2 // 16)
    return max(1, min(n, round(block_entries() / size)))


def _gram(plan: Plan, pair: Pair, one: Marginal, two: Marginal) -> tuple[Array, Array]:
    """Both kernels of the output: `(A, B)` or `(A, *space, *space)`."""
    ndim = len(plan.shapes[-1].space)
    if plan.full[-1]:
        one, two = absolute_side(one, ndim, False), absolute_side(two, ndim, True)
    k = norm(one, two) * (1 - pair.v)
    t = jnp.broadcast_to(pair.t, k.shape)
    if plan.full[-1]:
        k, t = (jnp.moveaxis(a, -1, 0) for a in (k, t))
    return k, t


def _last(plan: Plan, grams) -> list[Array]:
    """Grams of the pairs (i, i) of a block, with the examples as the last axis."""
    if plan.full[-1]:
        return [jnp.moveaxis(a, 0, -1) for a in grams]
    return [a[..., 0] for a in grams]


def _own(graph, plan: Plan, numbers, unit, first: Marginal, mask: Array | None):
    """Each example with itself: moments of every value, and both kernels."""
    n = unit.shape[-1]

    def block(xs):
        own = OwnBlock(graph, plan, numbers, *rows(xs))
        pair = own.run()
        moments = tuple(own.moments)
        grams = _last(plan, _gram(plan, pair, moments[-1], moments[-1]))
        return jax.tree.map(lambda a: a[..., 0], moments), grams

    moments, grams = in_blocks(block, (unit, first, mask), n, _examples(plan, n))
    return moments, [jnp.moveaxis(a, -1, 0) for a in grams]


def _between(graph, plan: Plan, numbers, side1, side2, *, masked: bool):
    """The pairs (i, i) of two sets."""
    n = side1[0].shape[-1]

    def block(xs):
        one, two = (Side(*rows(side)) for side in xs)
        pair = Block(graph, plan, numbers, one, two, masked=masked).run()
        return _last(plan, _gram(plan, pair, one.marginals[-1], two.marginals[-1]))

    grams = in_blocks(block, (side1, side2), n, _examples(plan, n))
    return [jnp.moveaxis(a, -1, 0) for a in grams]


@functools.partial(jax.jit, static_argnames=("graph", "ntk", "diagonal"))
def spatial_gram(
    graph: Graph, numbers, x1, x2, mask1, mask2, *, ntk: bool, diagonal: bool
) -> Gram:
    """The kernel of inputs `(n, *space, channels)` with masks `(n, *space)` or none."""
    numbers = cast(numbers, x1.dtype)
    made = plan(graph, Shape(x1.shape[1:-1], x1.shape[-1]))
    counts = x1.shape[:1] if diagonal else (len(x1), len(x1 if x2 is None else x2))
    if 0 in counts:
        empty = jnp.zeros((*counts, *made.shapes[-1].space * 2), x1.dtype)
        return Gram(nngp=empty, ntk=empty if ntk else None)
    masked = mask1 is not None
    if x2 is None:
        laid = points(x1, mask1)
        moments, own = _own(graph, made, numbers, *laid)
        if diagonal:
            grams = own
        else:
            side = laid[0], moments
            grams = _matrix(graph, made, numbers, side, side, own, masked=masked)
    else:
        mask = jnp.concatenate([mask1, mask2]) if masked else None
        laid = points(jnp.concatenate([x1, x2]), mask)  # one program for both
        both = laid[0], _moments(graph, made, numbers, *laid)
        sides = cut(both, 0, len(x1)), cut(both, len(x1), len(x2))
        compute = _between if diagonal else _matrix
        grams = compute(graph, made, numbers, *sides, masked=masked)
    k, t = grams
    return Gram(nngp=k, ntk=t if ntk else None)


def _matrix(graph, plan: Plan, numbers, side1, side2, own=None, *, masked: bool):
    """All pairs, block by block; of one set, with its `own` pairs, the upper ones."""
    n1, n2 = side1[0].shape[-1], side2[0].shape[-1]
    space = plan.shapes[-1].space * 2
    zero = jnp.broadcast_to(zero_of(side1[0], side2[0]), (n1, n2, *space))
    entries = _examples(plan, n1 * n2)
    if any(plan.full):
        height, width = min(n1, entries), 1
    else:
        width = min(n2, _WIDTH, entries)
        height = min(n1, max(1, entries // width))
    first, height = intervals(n1, height)
    second, width = intervals(n2, width)
    i, j = np.meshgrid(first, second, indexing="ij")
    corners = np.stack([i.ravel(), j.ravel()], 1)
    if own is not None:
        corners = corners[corners[:, 0] <= corners[:, 1] + width - 1]

    def sides(row, column):
        one = Side(*rows(cut(side1, row, height)))
        return one, Side(*columns(cut(side2, column, width)))

    @jax.checkpoint
    def tile(row, column):
        one, two = apart(row, sides, row, column)
        pair = Block(graph, plan, numbers, one, two, masked=masked).run()
        out = _gram(plan, pair, one.marginals[-1], two.marginals[-1])
        return [a.reshape(height, width, *space) for a in out]

    def step(grams, corner):
        start = (corner[0], corner[1], *[0] * len(space))
        put = jax.lax.dynamic_update_slice
        return tuple(
            put(k, block, start) for k, block in zip(grams, tile(*corner), strict=True)
        ), None

    grams, _ = jax.lax.scan(step, (zero, zero), jnp.asarray(corners))
    if own is None:
        return grams
    return [_mirror(k, d) for k, d in zip(grams, own, strict=True)]


def _mirror(k: Array, own: Array) -> Array:
    """Fills in the lower triangle and the diagonal."""
    n, ndim = k.shape[0], (k.ndim - 2) // 2
    swapped = (*range(ndim, 2 * ndim), *range(ndim))  # the two sets of positions
    axes = (1, 0, *(2 + i for i in swapped))
    upper = np.arange(n)[:, None] < np.arange(n)
    upper = upper.reshape(n, n, *[1] * (2 * ndim))
    k = jnp.where(upper, k, k.transpose(axes))
    index = np.arange(n)
    return k.at[index, index].set(own)
