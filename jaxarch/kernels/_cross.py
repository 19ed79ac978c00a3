r"""Kernels of architectures whose branches share Gaussians or parameters.

For values $a, b$ of a network and examples $x, x'$, `Cross.pair(a, b)` is the
covariance $\mathbb E a(x)\,b(x')$ and the tangent kernel between them (`_joint.py` says
which are needed). Where both are the same operation on covariances that are known, the
operation's own rule serves, with its accuracy near the diagonal. All pairs of positions
are kept, in absolute arrays `(*space, *space', examples)`: this is the general way, not
the fast one.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._block import versines
from ._combine import Add, Concatenate, Multiply, Scale, mixed_means
from ._composite import (
    Composite,
    dependent,
    is_continuous,
    is_homogeneous,
    is_smooth,
)
from ._conv import Conv
from ._covariance import Covariance, Marginal, Pair, Rules
from ._dense import Dense
from ._expansion import Expansion, series
from ._expectation import homogeneous, sectors, slopes, tensor
from ._graph import Graph, Shape
from ._joint import Group, groups
from ._layouts import diagonal_of, same_position
from ._nonlinearity import Nonlinearity
from ._pool import Linear
from ._positions import Flatten, Index
from ._regularise import Dropout, LayerNorm
from ._window import Layout


class Side(NamedTuple):
    """Examples, the last axis of all arrays, with what is known of each alone."""

    unit: Array  # (channels, *space, n)
    marginals: Any  # a `Marginal` a value
    inner: dict[tuple[int, int], Array]  # covariances of values at one position


class Cross:
    """Covariances between values, at pairs (i, i) of two sets of examples."""

    def __init__(self, graph: Graph, numbers, shapes: Sequence[Shape], one, two):
        self.graph, self.numbers, self.shapes = graph, numbers, shapes
        self.nodes, self.one, self.two = graph.nodes, one, two
        self.same = one is two
        self.known: dict[tuple[int, int], Pair] = {}

    # --- sides -----------------------------------------------------------------

    def ndim(self, i: int) -> int:
        """Axes of positions of value `i`."""
        return len(self.shapes[i].space)

    def place(self, tree: Any, i: int, j: int, second: bool) -> Any:
        """Lays arrays `(..., *space, n)` of one side out for pairs of `i` and `j`."""
        here, other = (j, i) if second else (i, j)
        here, other = self.ndim(here), self.ndim(other)

        def put(a):
            start = a.ndim - 1 - here
            axes = range(start, start + other) if second else range(-1 - other, -1)
            return jnp.expand_dims(a, tuple(axes))

        return jax.tree.map(put, tree)

    def sides(self, i: int, j: int) -> tuple[Marginal, Marginal]:
        """Marginals of `i` at the first examples and of `j` at the second ones."""
        return (
            self.place(self.one.marginals[i], i, j, False),
            self.place(self.two.marginals[j], i, j, True),
        )

    def covariance(self, i: int, j: int) -> Covariance:
        """What the rules of operations take."""
        return Covariance(*self.sides(i, j), *self.pair(i, j))

    # --- pairs -----------------------------------------------------------------

    def pair(self, i: int, j: int) -> Pair:
        """Covariance and tangent kernel of `i` here and `j` there."""
        if (i, j) not in self.known:
            pair = self._find(i, j)
            if self.same and i == j:  # a position with itself has the angle 0
                same = same_position(self.shapes[i].space)
                w = None if pair.w is None else jnp.where(same, 2, pair.w)
                pair = pair._replace(v=jnp.where(same, 0, pair.v), w=w, half=None)
            self.known[i, j] = pair._replace(slope=None)
        return self.known[i, j]

    def _find(self, i: int, j: int) -> Pair:
        a, b = self.nodes[i], self.nodes[j]
        values = a.value, b.value
        if not dependent(values) and not mixed_means(values):
            one, two = self.sides(i, j)
            mean1, mean2 = one.mean, two.mean
            if mean1 is None or mean2 is None:
                return self._from(i, j, 0.0, 0.0)
            return self._from(i, j, mean1 * mean2, 0.0)
        if not a.args and not b.args:
            n = self.ndim(0)
            axes1, axes2 = range(-1 - n, -1), range(1, 1 + n)
            v, w = versines(
                jnp.expand_dims(self.one.unit, tuple(axes1)),
                jnp.expand_dims(self.two.unit, tuple(axes2)),
            )
            return Pair(v, w, jnp.zeros_like(v))
        if self._twins(i, j):
            return self._rule(i, j)
        linear1, linear2 = self._linear(i), self._linear(j)
        if isinstance(a.operation, Flatten) and isinstance(b.operation, Flatten):
            return self._flattened(i, j)
        if linear1 and (i >= j or not linear2):
            return self._expand(i, j, False)
        if linear2:
            return self._expand(i, j, True)
        return self._product(i, j)

    def _from(self, i: int, j: int, k: Array | float, t: Array | float) -> Pair:
        """A pair from its covariance."""
        one, two = self.sides(i, j)
        size = one.root * two.root
        cosine = k * one.inverse * two.inverse
        cosine = jnp.broadcast_to(cosine, size.shape)
        return Pair(1 - cosine, 1 + cosine, jnp.broadcast_to(t, size.shape))

    def _k(self, i: int, j: int) -> tuple[Array, Array]:
        """Covariance and tangent kernel as arrays."""
        h = self.covariance(i, j)
        k = h.norm * (1 - h.v)
        return k, jnp.broadcast_to(h.t, k.shape).astype(k.dtype)

    def _twins(self, i: int, j: int) -> bool:
        """Whether the rule of the operation holds between `i` and `j`."""
        a, b = self.nodes[i], self.nodes[j]
        if isinstance(a.operation, (Dense, Conv)):
            return a.operation == b.operation
        if isinstance(a.operation, Nonlinearity):
            alike = a.operation == b.operation and a.like == b.like
            return alike and self._plain(i) and self._plain(j)
        if isinstance(a.operation, (Add, Multiply)):
            return a.operation == b.operation and self._apart(i, j)
        return i == j and isinstance(
            a.operation, (Scale, LayerNorm, Dropout, Concatenate)
        )

    def _apart(self, i: int, j: int) -> bool:
        """Whether the branches of two sums or products only meet one to one."""
        values = [[self.nodes[a].value for a in self.nodes[n].args] for n in (i, j)]
        (a, b), (c, d) = values
        if any(
            dependent(v) or mixed_means(v) for v in ((a, b), (a, d), (c, b), (c, d))
        ):
            return False
        return i == j or all(v.gaussian for v in (a, b, c, d))

    def _plain(self, i: int) -> bool:
        """Whether `i` is a nonlinearity of one Gaussian."""
        return self.nodes[self.nodes[i].args[0]].value.gaussian

    def _rule(self, i: int, j: int) -> Pair:
        args = zip(self.nodes[i].args, self.nodes[j].args, strict=True)
        covariances = [self.covariance(a, b) for a, b in args]
        out1, out2 = self.sides(i, j)
        shapes = [self.shapes[a] for a in self.nodes[i].args]
        same: Any = False
        if self.same and i == j:
            same = same_position(self.shapes[i].space)
        layout = Layout(len(shapes[0].space), absolute=bool(shapes[0].space))
        operation = self.nodes[i].operation
        pair = operation.pair(
            self.numbers[i],
            *covariances,
            out1=out1,
            out2=out2,
            shapes=shapes,
            rules=Rules(same, lambda value, factor: value, layout),
        )
        if isinstance(operation, Conv) and operation.kind == "conv_local":
            there = same_position(self.shapes[i].space)  # elsewhere other weights
            w = None if pair.w is None else jnp.where(there, pair.w, 1)
            return Pair(jnp.where(there, pair.v, 1), w, jnp.where(there, pair.t, 0))
        return pair

    # --- what is linear --------------------------------------------------------

    def _linear(self, i: int) -> bool:
        kinds = (Add, Scale, LayerNorm, Dropout, Linear, Index, Concatenate, Flatten)
        return isinstance(self.nodes[i].operation, kinds)

    def _expand(self, i: int, j: int, second: bool) -> Pair:
        """Writes one of the values by its arguments."""
        if second:
            i, j = j, i  # `i` is expanded, and is on the second side
        node, numbers = self.nodes[i], self.numbers[i]
        axis = self.ndim(j) if second else 0

        def order(a):
            return (j, a) if second else (a, j)

        parts = [self._k(*order(a)) for a in node.args]
        operation = node.operation
        if isinstance(operation, Add):
            k, t = (a + b for a, b in zip(*parts, strict=True))
            return self._from(*order(i), k, t)
        if isinstance(operation, Concatenate):
            return self._concatenated(i, j, second, parts)
        ((k, t),) = parts
        argument = node.args[0]
        shape = self.shapes[argument]
        if isinstance(operation, Scale):
            k, t = numbers[0] * k, numbers[0] * t
        elif isinstance(operation, LayerNorm):
            side = self.two if second else self.one
            inverse = side.marginals[i].weights[0]
            scale = self.place(inverse, *order(i), second)
            mean1, mean2 = (m.mean for m in self.sides(*order(argument)))
            if mean1 is not None and mean2 is not None:
                k = k - mean1 * mean2
            k, t = k * scale, t * scale
        elif isinstance(operation, Linear):
            k, t = (operation.spread(x, shape, axis) for x in (k, t))
        elif isinstance(operation, Index):
            k, t = (operation._take(x, axis) for x in (k, t))
        elif isinstance(operation, Flatten):
            if self.nodes[j].value.mixed:
                raise NotImplementedError(
                    "flatten: a sum of it with another value that has coordinates of "
                    "several laws has no kernel here; put a `dense` on one of them."
                )
            axes = tuple(range(axis, axis + len(shape.space)))
            k, t = k.mean(axes), t.mean(axes)
        else:
            assert isinstance(operation, Dropout)
        return self._from(*order(i), k, t)

    def _concatenated(self, i: int, j: int, second: bool, parts) -> Pair:
        """Means over the coordinates of `i`; of two concatenations, their overlap."""
        order = (j, i) if second else (i, j)
        ends = self._ends(i)
        if not self.nodes[j].value.mixed:
            sizes = np.diff(ends) / ends[-1]
            k, t = 0.0, 0.0
            for size, part in zip(sizes.tolist(), parts, strict=True):
                k, t = k + size * part[0], t + size * part[1]
            return self._from(*order, k, t)
        if not isinstance(self.nodes[j].operation, Concatenate):
            raise NotImplementedError(
                "concatenate: a sum of it with another value that has coordinates of "
                "several laws has no kernel here; put a `dense` on one of them."
            )
        others, k, t = self._ends(j), 0.0, 0.0
        for n, a in enumerate(self.nodes[i].args):
            for m, b in enumerate(self.nodes[j].args):
                low, high = max(ends[n], others[m]), min(ends[n + 1], others[m + 1])
                if low < high:
                    part = self._k(b, a) if second else self._k(a, b)
                    size = float((high - low) / ends[-1])
                    k, t = k + size * part[0], t + size * part[1]
        return self._from(*order, k, t)

    def _ends(self, i: int) -> np.ndarray:
        return np.cumsum([0, *(self.shapes[a].width for a in self.nodes[i].args)])

    def _flattened(self, i: int, j: int) -> Pair:
        """Only pairs of one position meet."""
        (a,), (b,) = self.nodes[i].args, self.nodes[j].args
        n = self.ndim(a)
        k, t = (diagonal_of(x, n)[..., 0].mean(tuple(range(n))) for x in self._k(a, b))
        return self._from(i, j, k, t)

    # --- products and nonlinearities -------------------------------------------

    def _product(self, i: int, j: int) -> Pair:
        r"""$t = \sum_g t_g \prod_{g' \ne g} k_{g'}$ over independent groups."""
        k, t = 1.0, 0.0
        for group in groups(self.nodes, i, j):
            own, tangent = self._group(i, j, group)
            k, t = k * own, t * own + k * tangent
        return self._from(i, j, k, t)

    def _group(self, i: int, j: int, group: Group) -> tuple[Any, Any]:
        one, two = group.one, group.two
        if len(one) + len(two) == 1:
            side = self.two if two else self.one
            mean = side.marginals[(one or two)[0]].mean
            if mean is None:
                return 0.0, 0.0
            return self.place(mean, i, j, bool(two)), 0.0
        if len(one) == len(two) == 1 and (one[0], two[0]) != (i, j):
            return self._k(one[0], two[0])
        if len(group.gaussians1) == len(group.gaussians2) == 1:
            return self._of_one_each(group)
        return self._of_several(i, j, group)

    def _of_one_each(self, group: Group) -> tuple[Array, Array]:
        """Functions of one Gaussian each."""
        (a,), (b,) = group.gaussians1, group.gaussians2
        h = self.covariance(a, b)
        f, g = self.function(group.one, (a,)), self.function(group.two, (b,))
        dtype = h.v.dtype
        lone = len(group.one) == len(group.two) == 1
        if lone and self._all(is_homogeneous, group):
            f, fd = homogeneous(slopes(f, dtype), slopes(g, dtype), h)
        elif (one := self._coefficients(group.one, a, b, False)) and (
            two := self._coefficients(group.two, a, b, True)
        ):
            f, fd = series(one, two, 1 - h.v)
        elif self._all(is_smooth, group):
            shape = h.v.shape
            q1, q2, k = (
                jnp.broadcast_to(x, shape) for x in (h.one.q, h.two.q, self._k(a, b)[0])
            )
            f, ((fd,),) = tensor(f, g, [[q1, k], [k, q2]], 1, self.graph.coarse)
        else:
            jumps = not self._all(is_continuous, group)
            f, fd = sectors(f, g, h, self.graph.coarse, jumps)
        return f, h.t * fd

    def _all(self, test: Callable, group: Group) -> bool:
        """Whether all operations between the Gaussians and the factors pass."""
        sides = (group.one, group.gaussians1), (group.two, group.gaussians2)
        return all(self._side_passes(test, *side) for side in sides)

    def _side_passes(self, test: Callable, values, ends) -> bool:
        waiting = list(values)
        while waiting:
            i = waiting.pop()
            if i not in ends:
                if not test(self.nodes[i].operation):
                    return False
                waiting.extend(self.nodes[i].args)
        return True

    def _coefficients(self, values: Sequence[int], a: int, b: int, second: bool):
        """Hermite coefficients of a lone factor that has them."""
        if len(values) > 1:
            return None
        node = self.nodes[values[0]]
        expanded = isinstance(node.operation, Expansion) or (
            isinstance(node.operation, Composite)
            and node.operation.smooth
            and not node.operation.homogeneous
        )
        if not expanded or not self.nodes[node.args[0]].value.gaussian:
            return None
        side = self.two if second else self.one
        return self.place(side.marginals[values[0]].weights, a, b, second)

    def _of_several(self, i: int, j: int, group: Group) -> tuple[Array, Array]:
        leaves1, leaves2 = group.gaussians1, group.gaussians2
        shape = jnp.broadcast_shapes(*(m.q.shape for m in self.sides(i, j)))
        tangents = [[self._k(a, b)[1] for b in leaves2] for a in leaves1]
        k = [[self._k(a, b)[0] for b in leaves2] for a in leaves1]
        own1 = self._inner(self.one, leaves1, i, j, False)
        own2 = self._inner(self.two, leaves2, i, j, True)
        size = len(leaves1) + len(leaves2)
        first = len(leaves1)

        def entry(m, n):
            if m < first:
                x = own1[m][n] if n < first else k[m][n - first]
            else:
                x = k[n][m - first] if n < first else own2[m - first][n - first]
            return jnp.broadcast_to(x, shape)

        table = [[entry(m, n) for n in range(size)] for m in range(size)]
        f, g = self.function(group.one, leaves1), self.function(group.two, leaves2)
        coarse = self.graph.coarse
        jumps = not self._all(is_continuous, group)
        kinked1, kinked2 = (
            len(ends) == 1 and not self._side_passes(is_smooth, values, ends)
            for values, ends in ((group.one, leaves1), (group.two, leaves2))
        )
        if kinked2 and not kinked1:  # the split axis is that of the first
            order = [*range(first, size), *range(first)]
            table = [[table[m][n] for n in order] for m in order]
            value, slope = tensor(g, f, table, size - first, coarse, True, jumps)
            slope = zip(*slope, strict=True)
        else:
            value, slope = tensor(f, g, table, first, coarse, kinked1, jumps)
        t: Any = jnp.zeros_like(value)
        for row, others in zip(slope, tangents, strict=True):
            for d, tangent in zip(row, others, strict=True):
                t = t + d * tangent
        return value, t

    def _inner(self, side: Side, leaves, i: int, j: int, second: bool):
        """Covariances of Gaussians at one example and position."""
        return [
            [self.place(inner(side, a, b), i, j, second) for b in leaves]
            for a in leaves
        ]

    def function(self, values: Sequence[int], leaves: Sequence[int]) -> Callable:
        """The product of values as a function of the Gaussians below them."""
        return function(self.graph, self.numbers, values, leaves)


def function(graph: Graph, numbers, values, leaves) -> Callable[..., Array]:
    """The product of `values` as a function of the values `leaves`."""

    def f(*inputs):
        known = dict(zip(leaves, inputs, strict=True))

        def evaluate(i):
            if i not in known:
                node = graph.nodes[i]
                args = [evaluate(a) for a in node.args]
                known[i] = node.operation.apply(numbers[i], None, *args, key=None)
            return known[i]

        return functools.reduce(operator.mul, map(evaluate, values))

    return f


def inner(side: Side, a: int, b: int) -> Array:
    """Covariance of the Gaussian values `a` and `b` at one example and position."""
    if a == b:
        return side.marginals[a].q
    key = (min(a, b), max(a, b))
    return side.inner.get(key, jnp.zeros_like(side.marginals[a].q))
