r"""The kernel of an architecture whose branches share Gaussians or parameters.

First every example with itself, which gives the moments of all values, then all pairs
of examples, in blocks; see `_cross.py`.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._combine import Add, Multiply, mixed_means
from ._composite import dependent, gaussians
from ._covariance import Marginal
from ._cross import Cross, Side, function, inner
from ._expectation import tensor
from ._gram import Gram
from ._graph import Graph, Shape
from ._joint import inner_pairs
from ._layouts import cast, diagonal_of
from ._nonlinearity import Nonlinearity
from ._plan import shapes_of
from ._pool import Linear
from ._spatial import block_entries, in_blocks, points


class Own(Cross):
    """Each example with itself; finds the moments of every value on the way."""

    def __init__(self, graph: Graph, numbers, shapes, unit: Array, first: Marginal):
        side = Side(unit, [None] * len(graph.nodes), {})
        super().__init__(graph, numbers, shapes, side, side)
        side.marginals[0] = first
        wanted = inner_pairs(graph)
        for i in range(1, len(graph.nodes)):
            side.marginals[i] = self._moment(i)
            for a, b in wanted:
                if b == i:
                    side.inner[a, b] = self._at_one_position(a, b)

    def _at_one_position(self, a: int, b: int) -> Array:
        return diagonal_of(self._k(a, b)[0], self.ndim(a))[..., 0]

    def _moment(self, i: int) -> Marginal:
        node, side = self.nodes[i], self.one
        args = [side.marginals[a] for a in node.args]
        shapes = [self.shapes[a] for a in node.args]
        below = gaussians(self.nodes, i)
        product = isinstance(node.operation, (Multiply, Nonlinearity))
        if product and below is not None and not self._independent(i):
            return self._function_moment(i, below)
        if isinstance(node.operation, Add) and not self._independent(i):
            a, b = node.args
            q = args[0].q + args[1].q + 2 * self._at_one_position(a, b)
            means = [m.mean for m in args if m.mean is not None]
            return Marginal.of(jnp.maximum(q, 0), sum(means) if means else None)  # pyright: ignore
        marginal = node.operation.marginal(self.numbers[i], *args, shapes=shapes)
        if isinstance(node.operation, Linear):
            k = node.operation.both(self._k(node.args[0], node.args[0])[0], shapes[0])
            q = diagonal_of(k, self.ndim(i))[..., 0] if self.ndim(i) else k
            return Marginal.of(jnp.maximum(q, 0), marginal.mean)
        return marginal

    def _independent(self, i: int) -> bool:
        """Whether the operation's own rule for moments holds."""
        node = self.nodes[i]
        values = [self.nodes[a].value for a in node.args]
        if isinstance(node.operation, Nonlinearity):
            return self._plain(i)
        return not dependent(values) and not mixed_means(values)

    def _function_moment(self, i: int, below: tuple[int, ...]) -> Marginal:
        f = function(self.graph, self.numbers, (i,), below)
        shape = self.one.marginals[below[0]].q.shape
        table = [
            [jnp.broadcast_to(inner(self.one, a, b), shape) for b in below]
            for a in below
        ]
        coarse = self.graph.coarse
        mean = tensor(lambda: 1.0, f, table, 0, coarse)[0]
        q = tensor(lambda: 1.0, lambda *u: f(*u) ** 2, table, 0, coarse)[0]
        return Marginal.of(q, mean)


# --- from data -----------------------------------------------------------------


def _output(cross: Cross) -> tuple[Array, Array]:
    """Both kernels of the output, `(*space, *space, n)`."""
    last = len(cross.nodes) - 1
    return cross._k(last, last)


def _check_shared(graph: Graph, shapes: Sequence[Shape]) -> None:
    """Raises `ValueError` if one parameter would need two shapes."""
    seen: dict[str, int | None] = {}
    for node in graph.nodes:
        if (name := node.operation.parameter) is None:
            continue
        features = shapes[node.args[0]].features
        if seen.setdefault(name, features) != features:
            raise ValueError(
                f"{node.operation.name}: operations that share the parameter {name!r} "
                f"must have inputs of one number of features, got {seen[name]} and "
                f"{features}."
            )


@functools.partial(jax.jit, static_argnames=("graph", "ntk", "diagonal"))
def joint_gram(graph: Graph, numbers, x1, x2, *, ntk: bool, diagonal: bool) -> Gram:
    """The kernel of inputs `(n, *space, channels)`, pair by pair in blocks."""
    numbers = cast(numbers, x1.dtype)
    shapes = shapes_of(graph, Shape(x1.shape[1:-1], x1.shape[-1]))
    _check_shared(graph, shapes)
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    space = shapes[-1].space * 2
    if 0 in (n1, n2):
        counts = (n1,) if diagonal else (n1, n2)
        empty = jnp.zeros((*counts, *space), x1.dtype)
        return Gram(nngp=empty, ntk=empty if ntk else None)
    x = x1 if x2 is None else jnp.concatenate([x1, x2])
    unit, first, _ = points(x, None)
    widest = max(math.prod(s.space) ** 2 for s in shapes)
    size = max(1, block_entries() // max(8 * widest, math.prod(x1.shape[1:])))

    def own(xs):
        cross = Own(graph, numbers, shapes, *xs)
        return (tuple(cross.one.marginals), cross.one.inner), _output(cross)

    (marginals, inside), grams = in_blocks(own, (unit, first), unit.shape[-1], size)
    sides = unit, marginals, inside

    @jax.checkpoint
    def between(pairs):
        one, two = (Side(*jax.tree.map(lambda a, i=i: a[..., i], sides)) for i in pairs)
        return _output(Cross(graph, numbers, shapes, one, two))

    if diagonal:
        if x2 is not None:
            pairs = jnp.arange(n1), n1 + jnp.arange(n1)
            grams = in_blocks(between, pairs, n1, size)
        k, t = (jnp.moveaxis(a, -1, 0) for a in grams)
        return Gram(nngp=k, ntk=t if ntk else None)
    if x2 is None:
        i, j = np.triu_indices(n1, 1)
    else:
        i, j = (a.ravel() for a in np.indices((n1, n2)))
    shape = (n1, n2, *space)
    if len(i):
        pairs = jnp.asarray(i), jnp.asarray(j + (0 if x2 is None else n1))
        upper = in_blocks(between, pairs, len(i), size)
        upper = [jnp.moveaxis(a, -1, 0) for a in upper]
    else:
        upper = [jnp.zeros((0, *space), x1.dtype)] * 2
    found = []
    half = len(space) // 2
    swapped = (0, *range(1 + half, 1 + 2 * half), *range(1, 1 + half))
    for above, diagonal_part in zip(upper, grams, strict=True):
        k = jnp.zeros(shape, x1.dtype).at[i, j].set(above)
        if x2 is None:
            k = k.at[j, i].set(above.transpose(swapped))
            index = np.arange(n1)
            k = k.at[index, index].set(jnp.moveaxis(diagonal_part, -1, 0))
        found.append(k)
    return Gram(nngp=found[0], ntk=found[1] if ntk else None)
