"""All values of an architecture with positions, for one block of pairs of examples."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._attention import Attention
from ._conv import Conv
from ._covariance import Covariance, Marginal, Pair, Rules, norm
from ._graph import Graph, Shape
from ._layouts import (
    Circle,
    absolute_side,
    apart,
    diagonal_of,
    expand,
    same_position,
    to_absolute,
    to_rolled,
    zero_of,
)
from ._mask import masks_of
from ._plan import Plan
from ._pool import GlobalPool, Linear
from ._window import Layout

_UNROLLED_CHANNELS = 8


def versines(a: Array, b: Array) -> tuple[Array, Array]:
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


class Side(NamedTuple):
    """Examples in base layout: unit vectors, and the moments of every value."""

    unit: Array  # (channels, *space, ...)
    marginals: Any  # one `Marginal` a value


class Block:
    """Evaluates all values for a block of pairs of examples."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        numbers,
        one: Side,
        two: Side,
        *,
        same: bool = False,
        masked: bool = False,
    ):
        """Takes two sides.

        Args:
            graph: The architecture.
            plan: Decisions for these shapes.
            numbers: Of the architecture.
            one: First examples.
            two: Second examples.
            same: Whether these are the first examples themselves.
            masked: Whether positions may be absent; their moments are 0.
        """
        self.graph, self.plan, self.numbers = graph, plan, numbers
        self.one, self.two, self.same, self.masked = one, two, same, masked
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

    def _finish(self, i: int, pair: Pair, out1, out2, same) -> Pair:
        """A position with itself has the angle 0; a Gaussian value its half angle."""
        if self.masked:
            pair = pair.present(out1, out2)
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
        return absolute_side(marginal, self._ndim(i), second) if absolute else marginal

    def _covariance(self, j: int, absolute: bool) -> Covariance:
        pair = self.values[j]
        assert pair is not None
        if self.plan.full[j] and not absolute:
            ndim = self._ndim(j)
            pair = pair._replace(half=None)
            pair = Pair(*(diagonal_of(a, ndim) if a is not None else a for a in pair))  # pyright: ignore
            pair = pair.rooted()
        return Covariance(
            self._side(j, False, absolute), self._side(j, True, absolute), *pair
        )

    def _base(self, i: int) -> None:
        out1, out2 = self._side(i, False, False), self._side(i, True, False)
        if not (args := self.graph.nodes[i].args):
            v, w = versines(self.one.unit, self.two.unit)
            pair = Pair(v, w, jnp.zeros_like(v))
        else:
            covariances = [self._covariance(j, False) for j in args]
            layout = Layout(len(self._shapes(i)[0].space))
            pair = self._pair(i, covariances, out1, out2, layout, self.same)
        self.values[i] = self._finish(i, pair, out1, out2, self.same)

    def _mix(self, i: int) -> None:
        operation, (j,) = self.graph.nodes[i].operation, self.graph.nodes[i].args
        ndim, full = self._ndim(i), self.plan.full[i]
        if isinstance(operation, (Linear, Attention)):
            k, t = self._spread(i, j, full)
            if self.masked and isinstance(operation, Linear):
                self._complete(i)
                for out in (self._side(i, False, full), self._side(i, True, full)):
                    for factor in out.weights:
                        k, t = factor * k, factor * t
            self._pool(i, k)
            out1, out2 = self._side(i, False, full), self._side(i, True, full)
            scale = out1.inverse * out2.inverse
            v = 1 - k * scale
            if not self.plan.formal[i]:  # below, rounding: they are the same
                v = jnp.where(v < 8 * jnp.finfo(v.dtype).eps, 0, v)
            pair = Pair(v, 1 + k * scale, t)
        else:
            self._complete(i)
            out1, out2 = self._side(i, False, True), self._side(i, True, True)
            if self.plan.full[j]:
                layout = Layout(self._ndim(j), absolute=True)
                args = [self._covariance(j, True)]
                pair = self._pair(i, args, out1, out2, layout, False)
            else:  # filters of their own at each position
                self._base(i)
                pair = expand(self.values[i], ndim)  # pyright: ignore
        same = self.same and (
            same_position(self.plan.shapes[i].space) if full else True
        )
        self.values[i] = self._finish(i, pair, out1, out2, same)

    def _spread(self, i: int, j: int, full: bool) -> tuple[Array, Array]:
        """Covariance and tangent kernel of `i`, which mixes the positions of `j`."""
        operation, shape = self.graph.nodes[i].operation, self.plan.shapes[j]
        if j in self.sums and isinstance(operation, GlobalPool):
            factor = math.prod(operation.matrices(shape)) ** 2
            k, t = self.sums[j]
            return factor * k[:, None], factor * t[:, None]
        h = self._covariance(j, True)
        k = jnp.broadcast_to(h.k, h.v.shape)
        t = jnp.broadcast_to(h.t, h.v.shape)
        if isinstance(operation, Attention):
            fresh = same_position(shape.space)
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
        return (k, t) if full else (diagonal_of(k, ndim), diagonal_of(t, ndim))

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
            i: Circle(self.two.marginals[i], plan.shapes[i].space, periods)
            for i in [*entries, *nodes]
        }
        if 0 in inside:
            unit = Circle(self.two.unit, plan.shapes[0].space, periods)
        given = {}
        for j in entries:
            value = self.values[j]
            assert value is not None
            v, w, t = value.v, value.w, jnp.broadcast_to(value.t, value.v.shape)
            given[j] = jax.tree.map(
                lambda a, j=j: to_rolled(a, plan.shapes[j].space, periods), (v, w, t)
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
            present = {i: circle.present(offset) for i, circle in circles.items()}
            return sides, around, present, unit.shifted(offset) if 0 in inside else None

        @jax.checkpoint
        def body(sums, xs):
            number, given = xs
            offset = jnp.unravel_index(number, lead) if lead else ()
            sides, around, present, unit2 = apart(number, shift, offset)
            same = self.same and (number == 0) & last
            values: dict[int, Pair] = {j: Pair(*a).rooted() for j, a in given.items()}
            kept = {}
            for i in nodes:
                out1, out2 = self.one.marginals[i], sides[i]
                if not (args := graph.nodes[i].args):
                    assert unit2 is not None
                    v, w = versines(self.one.unit, unit2)
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
                    pair = self._pair(i, covariances, out1, out2, layout, same)
                pair = self._finish(i, pair, out1, out2, same)
                tangent = jnp.broadcast_to(pair.t, pair.v.shape)
                tangent = jnp.where(present[i], tangent, 0)
                values[i] = pair = pair._replace(t=tangent)
                if plan.kept[i]:
                    kept[i] = (pair.v, pair.w, tangent)
                if plan.summed[i]:
                    size = norm(self.one.marginals[i], sides[i])
                    axes = (*range(len(periods)), len(periods) + 1)
                    k, t = sums[i]
                    k = k + (size * (1 - pair.v)).sum(axes)
                    t = t + tangent.sum(axes)
                    sums = {**sums, i: (k, t)}
            return sums, kept

        examples = self.one.unit.shape[-2]
        zero = jnp.broadcast_to(zero_of(self.one.unit, self.two.unit), (examples,))
        sums = {i: (zero, zero) for i in nodes if plan.summed[i]}
        xs = (jnp.arange(math.prod(lead)), given)
        sums, kept = jax.lax.scan(body, sums, xs)
        self.sums.update(sums)
        for i, stacked in kept.items():
            pair = Pair(
                *jax.tree.map(
                    lambda a, i=i: to_absolute(a, plan.shapes[i].space, periods),
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


class OwnBlock(Block):
    """Each example with itself; finds the moments on the way."""

    def __init__(
        self, graph, plan, numbers, unit: Array, first: Marginal, mask: Array | None
    ):
        """Takes one side: unit vectors, the moments and the mask of the input."""
        self.moments: list[Any] = [None] * len(graph.nodes)
        self.moments[0] = first
        self.masks = masks_of(graph, plan.shapes, mask)
        side = Side(unit, self.moments)
        masked = mask is not None
        super().__init__(graph, plan, numbers, side, side, same=True, masked=masked)

    def _rule(self, i: int) -> Marginal:
        node = self.graph.nodes[i]
        return node.operation.masked_marginal(
            self.numbers[i],
            *(self.moments[j] for j in node.args),
            shapes=self._shapes(i),
            masks=[self.masks[j] for j in node.args],
            out=self.masks[i],
        )

    def _complete(self, i: int) -> None:
        if self.moments[i] is None:
            self.moments[i] = self._rule(i)

    def _attend(self, i: int, k: Array, fresh: Array) -> None:
        operation = self.graph.nodes[i].operation
        assert isinstance(operation, Attention)
        mask = self.masks[i]
        mask = None if mask is None else mask[..., 0]
        weights = operation.weights(self.numbers[i], k, fresh, self._ndim(i), mask)
        zero = jnp.zeros_like(diagonal_of(k, self._ndim(i)))
        weights = jax.tree.map(lambda a: a[..., None], weights)
        self.moments[i] = Marginal.of(zero)._replace(weights=weights)

    def _pool(self, i: int, k: Array) -> None:
        bound = self.moments[i]
        if bound is None:
            bound = self.moments[i] = self._rule(i)
        if self.plan.exact:
            q = diagonal_of(k, self._ndim(i)) if self.plan.full[i] else k
            exact = Marginal.of(jnp.maximum(q, 0), bound.mean)
            exact = exact._replace(weights=bound.weights)
            self.moments[i] = exact.present(self.masks[i])
