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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._attention import Attention
from ._conv import Conv
from ._covariance import Covariance, Marginal, Pair, Rules, norm
from ._gram import Gram
from ._graph import Graph, Shape
from ._nonlinearity import Nonlinearity
from ._pool import GlobalPool, Linear
from ._regularise import LayerNorm
from ._window import Layout

# Entries of an array that stays in a CPU core's cache, or that fill an accelerator.
_ENTRIES = {"cpu": 1 << 18}
_ACCELERATOR_ENTRIES = 1 << 24
_UNROLLED_CHANNELS = 8
_WIDTH = 32


class Plan(NamedTuple):
    """What is decided for each value of a graph, given the shape of its input."""

    shapes: tuple[Shape, ...]
    full: tuple[bool, ...]  # whether pairs of different positions are needed
    mixed: tuple[bool, ...]  # whether it is computed from absolute arrays
    stage: tuple[int, ...]  # how many mixing operations lie before it at most
    kept: tuple[bool, ...]  # whether it is put down in absolute arrays
    summed: tuple[bool, ...]  # whether its sum over all pairs is wanted
    formal: tuple[bool, ...]  # whether its second moment is a bound only
    exact: bool  # whether pooled second moments are needed


def shapes_of(graph: Graph, first: Shape) -> list[Shape]:
    """Shape of every value."""
    shapes: list[Shape] = []
    for node in graph.nodes:
        args = [shapes[i] for i in node.args]
        shapes.append(node.operation.shape(*args) if args else first)
    return shapes


@functools.lru_cache(maxsize=256)
def plan(graph: Graph, first: Shape) -> Plan:
    """Decides for every value which pairs are needed and how they are laid out."""
    nodes = graph.nodes
    shapes = shapes_of(graph, first)
    full = graph.full_pairs([bool(shape.space) for shape in shapes])
    mixed, stage, pooled = [], [], []
    for i, node in enumerate(nodes):
        mixed.append(node.operation.mixes(full[i]))
        stage.append(max([stage[j] for j in node.args], default=0) + mixed[i])
        linear = isinstance(node.operation, (Linear, Attention))
        pooled.append(linear or any(pooled[j] for j in node.args))
    exact = any(isinstance(node.operation, Attention) for node in nodes) or any(
        isinstance(node.operation, (Nonlinearity, LayerNorm))
        and any(pooled[j] for j in node.args)
        for node in nodes
    )
    kept, summed = [False] * len(nodes), [False] * len(nodes)
    kept[-1] = full[-1]
    for i, node in enumerate(nodes):
        for j in node.args:
            if not full[j]:
                continue
            if isinstance(node.operation, GlobalPool) and not mixed[j]:
                summed[j] = True
            elif mixed[i] or stage[i] > stage[j] or not full[i]:
                kept[j] = True
    return Plan(
        tuple(shapes),
        tuple(full),
        tuple(mixed),
        tuple(stage),
        tuple(kept),
        tuple(summed),
        tuple(p and not exact for p in pooled),
        exact,
    )


# --- layouts -----------------------------------------------------------------
# Base: sides `(..., *space, A, 1)` and `(..., *space, b, B)`, pairs `(*space, A, B)`.
# Rolled: the second side and pairs end in `(A or 1, offsets of the last axis)`.
# Absolute: sides `(..., *space, 1.., A)` and `(..., 1.., *space, A or 1)`.


def _absolute(side: Any, ndim: int, second: bool) -> Any:
    def one(a):
        a = a[..., 0]
        start = a.ndim - ndim - 1
        axes = range(start, start + ndim) if second else range(-1 - ndim, -1)
        return jnp.expand_dims(a, tuple(axes))

    return jax.tree.map(one, side)


def _diagonal(array: Array, ndim: int) -> Array:
    """Base array `(*space, A, 1)` of an absolute one."""
    for i in range(ndim):
        array = jnp.diagonal(array, axis1=0, axis2=ndim - i)
    return jnp.moveaxis(array, 0, -1)[..., None]


def _eye(space: tuple[int, ...]) -> Array:
    """Marks pairs of one position in absolute arrays, `(*space, *space, 1)`."""
    eye, ndim = jnp.ones((), bool), len(space)
    for i, n in enumerate(space):
        shape = [1] * (2 * ndim + 1)
        shape[i] = shape[ndim + i] = n
        eye = eye & jnp.eye(n, dtype=bool).reshape(shape)
    return eye


def _expand(pair: Pair, ndim: int) -> Pair:
    """Absolute arrays of a value that is independent at different positions."""
    eye = _eye(pair.v.shape[:ndim])

    def put(a, other):
        a = jnp.broadcast_to(a, pair.v.shape)[..., 0]
        return jnp.where(eye, jnp.expand_dims(a, tuple(range(ndim, 2 * ndim))), other)

    w = 2 - pair.v if pair.w is None else pair.w
    return Pair(put(pair.v, 1), put(w, 1), put(pair.t, 0)).rooted()


def _unskew(array: Array, axis: int, size: int) -> Array:
    """Turns axes `(p, r)` at `axis` into `(p, p')` with p' = p + r on a circle."""
    array = jnp.moveaxis(array, (axis, axis + 1), (0, 1))
    n, period, *rest = array.shape
    flat = jnp.concatenate([array, array], 1).reshape(2 * n * period, *rest)
    flat = flat[period:]
    short = n * (2 * period - 1) - flat.shape[0]
    if short > 0:
        flat = jnp.pad(flat, [(0, short)] + [(0, 0)] * len(rest))
    array = flat[: n * (2 * period - 1)].reshape(n, 2 * period - 1, *rest)[:, :size]
    return jnp.moveaxis(array, (0, 1), (axis, axis + 1))


def _skew(array: Array, axis: int, period: int) -> Array:
    """The inverse of `_unskew`; 0 where p' is outside."""
    array = jnp.moveaxis(array, (axis, axis + 1), (0, 1))
    n, size, *rest = array.shape
    none = [(0, 0)] * len(rest)
    array = jnp.pad(array, [(0, 0), (0, period - size), *none])
    flat = jnp.concatenate([array, array], 1).reshape(2 * n * period, *rest)
    flat = jnp.pad(flat, [(0, n), *none])
    array = flat.reshape(n, 2 * period + 1, *rest)[:, :period]
    return jnp.moveaxis(array, (0, 1), (axis, axis + 1))


def _interleave(array: Array, ndim: int) -> Array:
    """`(*a, *b, rest)` as `(a0, b0, a1, b1, ..., rest)`."""
    order = [k for i in range(ndim) for k in (i, ndim + i)]
    return array.transpose(*order, *range(2 * ndim, array.ndim))


def _separate(array: Array, ndim: int) -> Array:
    order = [2 * i for i in range(ndim)] + [2 * i + 1 for i in range(ndim)]
    return array.transpose(*order, *range(2 * ndim, array.ndim))


def _to_absolute(stacked: Array, space: tuple[int, ...], periods) -> Array:
    """From `(offsets, *space, A, last offset)` to `(*space, *space, A)`."""
    ndim = len(space)
    array = stacked.reshape(*periods[:-1], *stacked.shape[1:])
    array = jnp.moveaxis(array, -1, ndim - 1)  # (*offsets, *space, A)
    array = jnp.moveaxis(array, range(ndim), range(ndim, 2 * ndim))
    array = _interleave(array, ndim)
    for i, size in enumerate(space):
        array = _unskew(array, 2 * i, size)
    return _separate(array, ndim)


def _to_rolled(array: Array, space: tuple[int, ...], periods) -> Array:
    """The inverse of `_to_absolute`."""
    ndim = len(space)
    array = _interleave(array, ndim)
    for i, period in enumerate(periods):
        array = _skew(array, 2 * i, period)
    array = _separate(array, ndim)  # (*space, *offsets, A)
    array = jnp.moveaxis(array, range(ndim, 2 * ndim), range(ndim))
    array = jnp.moveaxis(array, ndim - 1, -1)
    return array.reshape(-1, *array.shape[ndim - 1 :])


class _Circle:
    """The second side of a stage, shifted by every offset."""

    def __init__(self, side: Any, space: tuple[int, ...], periods: tuple[int, ...]):
        self.space, self.periods = space, periods
        self.reach = [p - n for n, p in zip(space, periods, strict=True)]
        self.tree = jax.tree.map(self._lay_out, side)

    def _lay_out(self, a: Array) -> Array:
        """`(..., *long, last, b, last offset)`: any shift is a slice of it."""
        a, ndim = a[..., 0], len(self.space)
        first = a.ndim - 1 - ndim
        pads = [(0, 0)] * first + [(0, reach) for reach in self.reach] + [(0, 0)]
        a = jnp.pad(a, pads)
        for i, (reach, period) in enumerate(zip(self.reach, self.periods, strict=True)):
            where = np.arange(-reach, 2 * period) % period
            if i == ndim - 1:
                where = np.arange(-reach, period)[:, None] + np.arange(period)
            a = jnp.take(a, where % period, axis=first + i)
        return jnp.swapaxes(a, -1, -2)

    def shifted(self, offset: tuple[Array, ...], pads=None) -> Any:
        """The side `(..., *space, b, last offset)` at one offset of the other axes.

        Args:
            offset: Of all axes but the last.
            pads: Positions to add before and after each axis.
        """
        ndim = len(self.space)
        pads = pads or [(0, 0)] * ndim

        def one(a):
            for i, (low, high) in enumerate(pads):
                start = self.reach[i] - low + (offset[i] if i < ndim - 1 else 0)
                axis, size = a.ndim - 2 - ndim + i, self.space[i] + low + high
                a = jax.lax.dynamic_slice_in_dim(a, start, size, axis)
            return a

        return jax.tree.map(one, self.tree)


def _apart(number: Array, function, *args):
    """Runs `function` as a branch of its own, whose results are put down in memory.

    XLA takes slices that begin at a counter into the loops that use them, which a CPU
    then runs ten times slower. No compiler knows that the counter is not negative.
    """
    if jax.default_backend() != "cpu":
        return function(*args)
    never = jax.tree.map(jnp.zeros_like, args)
    return jax.lax.cond(number >= 0, lambda: function(*args), lambda: function(*never))


def _zero(one: Array, two: Array) -> Array:
    """0, which under `shard_map` varies as its arguments do."""
    zero = jnp.zeros((), one.dtype)
    return jnp.where(one.ravel()[0] < two.ravel()[0], zero, zero)


def _versines(a: Array, b: Array) -> tuple[Array, Array]:
    r"""$1 \mp \cos$ of unit vectors, whose coordinates are the first axis."""

    def add(sums, pair):
        a, b = pair
        return (sums[0] + (a - b) ** 2 / 2, sums[1] + (a + b) ** 2 / 2), None

    zero = jnp.zeros(jnp.broadcast_shapes(a.shape[1:], b.shape[1:]), a.dtype)
    sums = (zero, zero)
    if a.shape[0] > _UNROLLED_CHANNELS:
        return jax.lax.scan(add, sums, (a, b))[0]
    for pair in zip(a, b, strict=True):
        sums, _ = add(sums, pair)
    return sums


# --- one block of pairs ------------------------------------------------------


class Side(NamedTuple):
    """Examples in base layout: unit vectors, and the moments of every value."""

    unit: Array  # (channels, *space, ...)
    marginals: Any  # one `Marginal` a value


class _Block:
    """Evaluates all values for a block of pairs of examples."""

    def __init__(self, graph: Graph, plan: Plan, numbers, one: Side, two: Side, same):
        self.graph, self.plan, self.numbers = graph, plan, numbers
        self.one, self.two, self.same = one, two, same
        self.values: list[Pair | None] = [None] * len(graph.nodes)
        self.sums: dict[int, tuple[Array, Array]] = {}

    def run(self) -> Pair:
        """The output: base layout, or absolute where pairs of positions are wanted."""
        for stage in range(max(self.plan.stage) + 1):
            nodes = [i for i, s in enumerate(self.plan.stage) if s == stage]
            for i in nodes:
                if self.plan.mixed[i]:
                    self._mix(i)
            for i in nodes:
                self._complete(i)
            rolled = [i for i in nodes if self.plan.full[i] and not self.plan.mixed[i]]
            if rolled:
                self._roll(rolled)
            for i in nodes:
                if not self.plan.full[i] and not self.plan.mixed[i]:
                    self._base(i)
        value = self.values[-1]
        assert value is not None
        return value

    def _complete(self, i: int) -> None:
        """A hook for moments that are found on the way."""

    def _shapes(self, i: int) -> list[Shape]:
        return [self.plan.shapes[j] for j in self.graph.nodes[i].args]

    def _pair(self, i, args, out1, out2, layout: Layout, same) -> Pair:
        """Applies the rule of value `i`."""
        node = self.graph.nodes[i]
        pair = node.operation.pair(
            self.numbers[i],
            *args,
            out1=out1,
            out2=out2,
            shapes=self._shapes(i),
            rules=Rules(same, lambda value, factor: value, layout),
        )
        return pair._replace(slope=None)

    def _finish(self, i: int, pair: Pair, same) -> Pair:
        """A position with itself has the angle 0; a Gaussian value its half angle."""
        if same is not False and not self.plan.formal[i]:
            w = None if pair.w is None else jnp.where(same, 2, pair.w)
            pair = pair._replace(v=jnp.where(same, 0, pair.v), w=w, half=None)
        if self.graph.nodes[i].value.gaussian and pair.half is None:
            pair = pair.rooted()
        return pair

    def _ndim(self, i: int) -> int:
        return len(self.plan.shapes[i].space)

    def _side(self, i: int, second: bool, absolute: bool) -> Marginal:
        side = self.two if second else self.one
        marginal = side.marginals[i]
        return _absolute(marginal, self._ndim(i), second) if absolute else marginal

    def _covariance(self, j: int, absolute: bool) -> Covariance:
        pair = self.values[j]
        assert pair is not None
        if self.plan.full[j] and not absolute:
            ndim = self._ndim(j)
            pair = pair._replace(half=None)
            pair = Pair(*(_diagonal(a, ndim) if a is not None else a for a in pair))  # pyright: ignore
            pair = pair.rooted()
        return Covariance(
            self._side(j, False, absolute), self._side(j, True, absolute), *pair
        )

    def _base(self, i: int) -> None:
        if not (args := self.graph.nodes[i].args):
            v, w = _versines(self.one.unit, self.two.unit)
            pair = Pair(v, w, jnp.zeros_like(v))
        else:
            covariances = [self._covariance(j, False) for j in args]
            out1, out2 = self._side(i, False, False), self._side(i, True, False)
            layout = Layout(len(self._shapes(i)[0].space))
            pair = self._pair(i, covariances, out1, out2, layout, self.same)
        self.values[i] = self._finish(i, pair, self.same)

    def _mix(self, i: int) -> None:
        operation, (j,) = self.graph.nodes[i].operation, self.graph.nodes[i].args
        ndim, full = self._ndim(i), self.plan.full[i]
        if isinstance(operation, (Linear, Attention)):
            k, t = self._spread(i, j, full)
            self._pool(i, k)
            scale = self._side(i, False, full).inverse
            scale = scale * self._side(i, True, full).inverse
            v = 1 - k * scale
            if not self.plan.formal[i]:  # below, rounding: they are the same
                v = jnp.where(v < 8 * jnp.finfo(v.dtype).eps, 0, v)
            pair = Pair(v, 1 + k * scale, t)
        else:
            self._complete(i)
            if self.plan.full[j]:
                layout = Layout(self._ndim(j), absolute=True)
                out1, out2 = self._side(i, False, True), self._side(i, True, True)
                args = [self._covariance(j, True)]
                pair = self._pair(i, args, out1, out2, layout, False)
            else:  # filters of their own at each position
                self._base(i)
                pair = _expand(self.values[i], ndim)  # pyright: ignore
        same = self.same and (_eye(self.plan.shapes[i].space) if full else True)
        self.values[i] = self._finish(i, pair, same)

    def _spread(self, i: int, j: int, full: bool) -> tuple[Array, Array]:
        """Covariance and tangent kernel of `i`, which mixes the positions of `j`."""
        operation, shape = self.graph.nodes[i].operation, self.plan.shapes[j]
        if j in self.sums and isinstance(operation, GlobalPool):
            factor = math.prod(operation.matrices(shape)) ** 2
            k, t = self.sums[j]
            return factor * k[:, None], factor * t[:, None]
        h = self._covariance(j, True)
        k = jnp.broadcast_to(h.k, h.v.shape)
        t = jnp.where(h.norm > 0, jnp.broadcast_to(h.t, h.v.shape), 0)
        if isinstance(operation, Attention):
            fresh = _eye(shape.space)
            self._attend(i, k, fresh)
            sides = [
                jax.tree.map(lambda a: a[..., 0], side.marginals[i])
                for side in (self.one, self.two)
            ]
            one, two = sides
            k, t = operation.attend(self.numbers[i], k, t, one, two, fresh)
        else:
            assert isinstance(operation, Linear)
            k, t = operation.both(k, shape), operation.both(t, shape)
        ndim = self._ndim(i)
        if not ndim:
            return k[:, None], t[:, None]
        return (k, t) if full else (_diagonal(k, ndim), _diagonal(t, ndim))

    def _attend(self, i: int, k: Array, fresh: Array) -> None:
        """A hook for attention, found on the way."""

    def _pool(self, i: int, k: Array) -> None:
        """A hook for moments that are found on the way."""

    def _roll(self, nodes: list[int]) -> None:
        """All offsets of the values `nodes`, offset by offset."""
        plan, graph = self.plan, self.graph
        inside = set(nodes)
        entries = sorted(
            {j for i in nodes for j in graph.nodes[i].args if j not in inside}
        )
        periods = self._periods(nodes, entries)
        circles = {
            i: _Circle(self.two.marginals[i], plan.shapes[i].space, periods)
            for i in [*entries, *nodes]
        }
        if 0 in inside:
            unit = _Circle(self.two.unit, plan.shapes[0].space, periods)
        given = {}
        for j in entries:
            value = self.values[j]
            assert value is not None
            v, w, t = value.v, value.w, jnp.broadcast_to(value.t, value.v.shape)
            given[j] = jax.tree.map(
                lambda a, j=j: _to_rolled(a, plan.shapes[j].space, periods), (v, w, t)
            )
        lead = periods[:-1]
        last = np.arange(periods[-1]) == 0

        windows = {}  # the windows that slide over a value
        for i in nodes:
            if isinstance(operation := graph.nodes[i].operation, Conv):
                (j,) = graph.nodes[i].args
                pads = operation.window.pads(plan.shapes[j].space)
                windows[j, tuple(pads)] = circles[j]

        def shift(offset):
            sides = {i: circle.shifted(offset) for i, circle in circles.items()}
            around = {
                key: circle.shifted(offset, key[1]).root
                for key, circle in windows.items()
            }
            return sides, around, unit.shifted(offset) if 0 in inside else None

        @jax.checkpoint
        def body(sums, xs):
            number, given = xs
            offset = jnp.unravel_index(number, lead) if lead else ()
            sides, around, unit2 = _apart(number, shift, offset)
            same = self.same and (number == 0) & last
            values: dict[int, Pair] = {j: Pair(*a).rooted() for j, a in given.items()}
            kept = {}
            for i in nodes:
                if not (args := graph.nodes[i].args):
                    assert unit2 is not None
                    v, w = _versines(self.one.unit, unit2)
                    pair = Pair(v, w, jnp.zeros_like(v))
                else:
                    covariances = [
                        Covariance(
                            self.one.marginals[j],
                            sides[j],
                            *values[j],
                        )
                        for j in args
                    ]
                    layout = Layout(
                        len(periods),
                        around=lambda pads, j=args[0]: around[j, tuple(pads)],
                    )
                    out1, out2 = self.one.marginals[i], sides[i]
                    pair = self._pair(i, covariances, out1, out2, layout, same)
                values[i] = pair = self._finish(i, pair, same)
                if plan.kept[i]:
                    kept[i] = (pair.v, pair.w, jnp.broadcast_to(pair.t, pair.v.shape))
                if plan.summed[i]:
                    size = norm(self.one.marginals[i], sides[i])
                    axes = (*range(len(periods)), len(periods) + 1)
                    k, t = sums[i]
                    k = k + (size * (1 - pair.v)).sum(axes)
                    t = t + jnp.where(size > 0, pair.t, 0).sum(axes)
                    sums = {**sums, i: (k, t)}
            return sums, kept

        examples = self.one.unit.shape[-2]
        zero = jnp.broadcast_to(_zero(self.one.unit, self.two.unit), (examples,))
        sums = {i: (zero, zero) for i in nodes if plan.summed[i]}
        xs = (jnp.arange(math.prod(lead)), given)
        sums, kept = jax.lax.scan(body, sums, xs)
        self.sums.update(sums)
        for i, stacked in kept.items():
            pair = Pair(
                *jax.tree.map(
                    lambda a, i=i: _to_absolute(a, plan.shapes[i].space, periods),
                    stacked,
                )
            )
            gaussian = graph.nodes[i].value.gaussian
            self.values[i] = pair.rooted() if gaussian else pair

    def _periods(self, nodes: list[int], entries: list[int]) -> tuple[int, ...]:
        """Lengths of the circles: every value and the zeros beside it fit."""
        plan, graph = self.plan, self.graph
        periods = np.zeros(self._ndim(nodes[0]), int)
        for i in [*entries, *nodes]:
            periods = np.maximum(periods, plan.shapes[i].space)
        for i in nodes:
            operation = graph.nodes[i].operation
            if isinstance(operation, Conv):
                space = self._shapes(i)[0].space
                reach = [max(pads) for pads in operation.window.pads(space)]
                periods = np.maximum(periods, np.add(space, reach))
        return tuple(map(int, periods))


class _OwnBlock(_Block):
    """Each example with itself; finds the moments on the way."""

    def __init__(self, graph, plan, numbers, unit: Array, first: Marginal):
        self.moments: list[Marginal | None] = [None] * len(graph.nodes)
        self.moments[0] = first
        side = Side(unit, self.moments)
        super().__init__(graph, plan, numbers, side, side, True)

    def _rule(self, i: int) -> Marginal:
        node = self.graph.nodes[i]
        args: Any = [self.moments[j] for j in node.args]
        shapes = self._shapes(i)
        return node.operation.marginal(self.numbers[i], *args, shapes=shapes)

    def _complete(self, i: int) -> None:
        if self.moments[i] is None:
            self.moments[i] = self._rule(i)

    def _attend(self, i: int, k: Array, fresh: Array) -> None:
        operation = self.graph.nodes[i].operation
        assert isinstance(operation, Attention)
        weights = operation.weights(self.numbers[i], k, fresh, self._ndim(i))
        zero = jnp.zeros_like(_diagonal(k, self._ndim(i)))
        weights = jax.tree.map(lambda a: a[..., None], weights)
        self.moments[i] = Marginal.of(zero)._replace(weights=weights)

    def _pool(self, i: int, k: Array) -> None:
        bound = self.moments[i]
        if bound is None:
            bound = self.moments[i] = self._rule(i)
        if self.plan.exact:
            q = _diagonal(k, self._ndim(i)) if self.plan.full[i] else k
            exact = Marginal.of(jnp.maximum(q, 0), bound.mean)
            self.moments[i] = exact._replace(weights=bound.weights)


# --- all pairs ---------------------------------------------------------------


def _points(x: Array) -> tuple[Array, Marginal]:
    """Unit vectors `(channels, *space, n)`, and the moments of the input.

    A norm that is never 0 keeps the derivative at a zero input: $k$ is linear there,
    and the product of norm and unit vector is `x` exactly.
    """
    x = jnp.moveaxis(jnp.moveaxis(x, -1, 0), 1, -1)
    tiny = float(jnp.finfo(x.dtype).tiny) ** 0.4
    size = jnp.sqrt((x**2).sum(0) + tiny**2)
    first = Marginal.of(size**2 / x.shape[0], x.mean(0))
    return x / size[None], first


def _rows(tree: Any) -> Any:
    return jax.tree.map(lambda a: a[..., :, None], tree)


def _columns(tree: Any) -> Any:
    return jax.tree.map(lambda a: a[..., None, :], tree)


def _cut(tree: Any, start: Any, size: int) -> Any:
    return jax.tree.map(
        lambda a: jax.lax.dynamic_slice_in_dim(a, start, size, a.ndim - 1), tree
    )


def _even(n: int, size: int) -> int:
    """The least size of as many intervals as `size` needs to cover `n`."""
    return -(-n // -(-n // size))


def _starts(n: int, size: int) -> np.ndarray:
    return np.minimum(np.arange(-(-n // size)) * size, n - size)


def _in_blocks(function, xs: Any, n: int, size: int) -> Any:
    """Maps blocks of the last axis; the results have it last too."""
    starts = _starts(n, size)
    out = jax.lax.map(
        lambda start: function(_cut(xs, start, size)), jnp.asarray(starts)
    )
    block = np.searchsorted(starts, np.arange(n), side="right") - 1
    inside = np.arange(n) - starts[block]
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2)[..., block, inside], out)


def _moments(graph, plan: Plan, numbers, unit, first: Marginal) -> tuple[Marginal, ...]:
    """Moments of every value, `(..., *space, n)`."""
    if plan.exact:
        n = unit.shape[-1]

        def block(xs):
            own = _OwnBlock(graph, plan, numbers, *_rows(xs))
            own.run()
            return jax.tree.map(lambda a: a[..., 0], tuple(own.moments))

        return _in_blocks(block, (unit, first), n, _examples(plan, n))
    found = [_rows(first)]
    for node, own in zip(graph.nodes[1:], numbers[1:], strict=True):
        args = [found[j] for j in node.args]
        shapes = [plan.shapes[j] for j in node.args]
        found.append(node.operation.marginal(own, *args, shapes=shapes))
    return jax.tree.map(lambda a: a[..., 0], tuple(found))


def _entries() -> int:
    return _ENTRIES.get(jax.default_backend(), _ACCELERATOR_ENTRIES)


def _examples(plan: Plan, n: int) -> int:
    """Examples in a block, so that one array of it stays in cache."""
    size = 1
    for shape, full in zip(plan.shapes, plan.full, strict=True):
        rolled = shape.space[-1] if full else 1
        size = max(size, math.prod(shape.space) * rolled)
    return max(1, min(n, round(_entries() / size)))


def _gram(plan: Plan, pair: Pair, one: Marginal, two: Marginal) -> tuple[Array, Array]:
    """Both kernels of the output: `(A, B)` or `(A, *space, *space)`."""
    ndim = len(plan.shapes[-1].space)
    if plan.full[-1]:
        one, two = _absolute(one, ndim, False), _absolute(two, ndim, True)
    k = norm(one, two) * (1 - pair.v)
    t = jnp.broadcast_to(pair.t, k.shape)
    if plan.full[-1]:
        k, t = (jnp.moveaxis(a, -1, 0) for a in (k, t))
    return k, t


def _own_gram(graph, plan: Plan, numbers, unit, moments):
    """The pairs (i, i) of examples with themselves."""
    n = unit.shape[-1]

    def block(xs):
        side = Side(*_rows(xs))
        pair = _Block(graph, plan, numbers, side, side, True).run()
        own = side.marginals[-1]
        out = _gram(plan, pair, own, own)
        if plan.full[-1]:
            return tuple(jnp.moveaxis(a, 0, -1) for a in out)
        return tuple(a[..., 0] for a in out)

    out = _in_blocks(block, (unit, moments), n, _examples(plan, n))
    return [jnp.moveaxis(a, -1, 0) for a in out]


@functools.partial(jax.jit, static_argnames=("graph", "ntk", "diagonal"))
def spatial_gram(graph: Graph, numbers, x1, x2, *, ntk: bool, diagonal: bool) -> Gram:
    """The kernel of inputs with positions, `(n, *space, channels)`."""
    numbers = jax.tree.map(lambda n: jnp.asarray(n).astype(x1.dtype), numbers)
    made = plan(graph, Shape(x1.shape[1:-1], x1.shape[-1]))
    counts = x1.shape[:1] if diagonal else (len(x1), len(x1 if x2 is None else x2))
    if 0 in counts:
        empty = jnp.zeros((*counts, *made.shapes[-1].space * 2), x1.dtype)
        return Gram(nngp=empty, ntk=empty if ntk else None)
    unit1, first1 = _points(x1)
    side1 = unit1, _moments(graph, made, numbers, unit1, first1)
    if x2 is None:
        side2 = side1
    else:
        unit2, first2 = _points(x2)
        side2 = unit2, _moments(graph, made, numbers, unit2, first2)
    if diagonal and x2 is None:
        k, t = _own_gram(graph, made, numbers, *side1)
    elif diagonal:
        k, t = _between(graph, made, numbers, side1, side2)
    else:
        k, t = _matrix(graph, made, numbers, side1, side2, x2 is None)
    return Gram(nngp=k, ntk=t if ntk else None)


def _between(graph, plan: Plan, numbers, side1, side2):
    """The pairs (i, i) of two sets."""
    n = side1[0].shape[-1]

    def block(xs):
        one, two = (Side(*_rows(side)) for side in xs)
        pair = _Block(graph, plan, numbers, one, two, False).run()
        out = _gram(plan, pair, one.marginals[-1], two.marginals[-1])
        if plan.full[-1]:
            return tuple(jnp.moveaxis(a, 0, -1) for a in out)
        return tuple(a[..., 0] for a in out)

    out = _in_blocks(block, (side1, side2), n, _examples(plan, n))
    return [jnp.moveaxis(a, -1, 0) for a in out]


def _matrix(graph, plan: Plan, numbers, side1, side2, symmetric: bool):
    """All pairs, block by block; of one set those on and above the diagonal."""
    n1, n2 = side1[0].shape[-1], side2[0].shape[-1]
    space = plan.shapes[-1].space * 2
    zero = jnp.broadcast_to(_zero(side1[0], side2[0]), (n1, n2, *space))
    entries = _examples(plan, n1 * n2)
    if any(plan.full):
        height, width = min(n1, entries), 1
    else:
        width = min(n2, _WIDTH, entries)
        height = min(n1, max(1, entries // width))
    height, width = _even(n1, height), _even(n2, width)
    i, j = np.meshgrid(_starts(n1, height), _starts(n2, width), indexing="ij")
    corners = np.stack([i.ravel(), j.ravel()], 1)
    if symmetric:
        corners = corners[corners[:, 0] <= corners[:, 1] + width - 1]

    def sides(row, column):
        one = Side(*_rows(_cut(side1, row, height)))
        return one, Side(*_columns(_cut(side2, column, width)))

    @jax.checkpoint
    def tile(row, column):
        one, two = _apart(row, sides, row, column)
        pair = _Block(graph, plan, numbers, one, two, False).run()
        out = _gram(plan, pair, one.marginals[-1], two.marginals[-1])
        return [a.reshape(height, width, *space) for a in out]

    def step(grams, corner):
        start = (corner[0], corner[1], *[0] * len(space))
        put = jax.lax.dynamic_update_slice
        return tuple(
            put(k, block, start) for k, block in zip(grams, tile(*corner), strict=True)
        ), None

    grams, _ = jax.lax.scan(step, (zero, zero), jnp.asarray(corners))
    if not symmetric:
        return grams
    own = _own_gram(graph, plan, numbers, *side1)
    return [_mirror(k, d) for k, d in zip(grams, own, strict=True)]


def _mirror(k: Array, own: Array) -> Array:
    """Fills in the lower triangle and the diagonal."""
    n, ndim = k.shape[0], (k.ndim - 2) // 2
    axes = (1, 0, *range(2 + ndim, 2 + 2 * ndim), *range(2, 2 + ndim))
    upper = np.arange(n)[:, None] < np.arange(n)
    upper = upper.reshape(n, n, *[1] * (2 * ndim))
    k = jnp.where(upper, k, k.transpose(axes))
    index = np.arange(n)
    return k.at[index, index].set(own)
