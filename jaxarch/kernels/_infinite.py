r"""NNGP and NTK of an architecture at infinite width.

Neal (1996); Lee et al. (arXiv:1711.00165); Matthews et al. (arXiv:1804.11271); Jacot,
Gabriel and Hongler (arXiv:1806.07572). A `Kernel` holds a graph and its numbers.
Moments are computed once per example; pairs in tiles that stay in cache, and for a
symmetric Gram only on and above the diagonal.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._dtypes import at_least_float32, float_dtype
from .._params import static
from ._angle import angle
from ._angular import angular_series, evaluate_series, num_terms
from ._covariance import Covariance, Marginal, Pair, Rules, norm
from ._cross import joint_gram
from ._forecast import Forecast, forecast
from ._gram import Gram
from ._graph import Graph, Number, Shape, Symbol, record
from ._input import Points, attach, versine_matrix, versine_pairs
from ._joint import coarse, is_joint
from ._layouts import cast, columns, intervals, rows
from ._mask import check_masks
from ._nonlinearity import Nonlinearity
from ._plan import shapes_of
from ._spatial import spatial_gram
from ._state import State

_NO_STATE = (
    "kernel: a network with dependent branches or shared parameters has no `State`; "
    "call it on data."
)
# Side of a square tile: a CPU core's cache holds it, or it fills an accelerator.
_TILE = {"cpu": 256}
_ACCELERATOR_TILE = 4096


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """An architecture read at infinite width; made by `infinite`.

    A pytree whose leaves are the numbers of the architecture: it may be passed through
    `jit`, `grad` and `vmap`, and pickled.
    """

    numbers: tuple[tuple[Number, ...], ...]
    graph: Graph = static()

    def __call__(
        self,
        x1: Float[Array, "n1 *example"] | State,
        x2: Float[Array, "n2 *example"] | None = None,
        *,
        mask1: Bool[Array, "n1 *space"] | None = None,
        mask2: Bool[Array, "n2 *space"] | None = None,
        ntk: bool = True,
        diagonal: bool = False,
    ) -> Gram:
        """Evaluates the kernel.

        Time O(n1 n2 (features + depth)), memory O(n1 n2) for the result and a constant
        for the rest. For a network without biases whose only nonlinearities are
        rectifiers, the time does not grow with depth. With S positions an example time
        is S times that, or S^2 times as far as the network needs pairs of different
        positions (`print(kernel.graph)` says how far that is).

        Args:
            x1: Inputs `(n1, features)`, or `(n1, *space, channels)` for operations on
                positions; or a `State` in which another network ended.
            x2: Other inputs. `None` means `x1`, whose pairs (i, i) are then one example
                with itself: dropout masks are shared there.
            mask1: Marks the positions that belong to the examples `x1`, in sequences or
                images that were padded to one size. Whatever `x1` holds elsewhere does
                not matter: these positions are zeros for convolutions, as beyond the
                edge, and absent from averages, sums and attention. `None` marks all.
                Padding an example at its end then changes nothing, but for four things:
                a pool with padding `"VALID"` keeps a window over the end of an example
                (its average is of the positions that are there); `"SAME"` with strides
                places its windows by the padded size, so pad by multiples of them;
                `flatten` divides by all positions, as its coordinates are 0 where they
                are absent; `index` counts all.
            mask2: The same of `x2`.
            ntk: Whether to compute the NTK too.
            diagonal: Computes only the pairs `x1[i], x2[i]`.

        Returns:
            Matrices `(n1, n2)`, or vectors `(n,)` if `diagonal`, in the promoted dtype
            of the inputs; two more axes for each axis of positions that the output has,
            `(n1, n2, *space, *space)`. `ntk` is `None` if it was not asked for.

        Raises:
            TypeError: if a mask is not of bools.
            ValueError: if a shape is wrong, or if there are masks but no positions.
            NotImplementedError: with masks, for padding `"CIRCULAR"` and for
                `image_resize`.
        """
        if isinstance(x1, State):
            if mask1 is not None or mask2 is not None:
                raise ValueError(
                    "kernel: `mask1` and `mask2` must be left out with a `State`, "
                    "which has no positions."
                )
            state = _from_state("kernel", self, x1, x2, diagonal)
            return Gram(nngp=state.nngp, ntk=state.ntk if ntk else None)
        x1, x2, dtype = _inputs("kernel", self.graph, x1, x2, diagonal)
        args = self.graph, self.numbers, x1, x2
        masks = check_masks("kernel", self.graph, x1, x2, mask1, mask2)
        if is_joint(self.graph):
            if any(mask is not None for mask in masks):
                raise NotImplementedError(
                    "kernel: `mask1` must be None for a network with dependent "
                    "branches or shared parameters, got a mask."
                )
            gram = joint_gram(*args, ntk=ntk, diagonal=diagonal)
        elif x1.ndim > 2:
            gram = spatial_gram(*args, *masks, ntk=ntk, diagonal=diagonal)
        else:
            gram = (_diagonal if diagonal else _matrix)(*args, ntk=ntk)
        return jax.tree.map(lambda k: k.astype(dtype), gram)

    def plan(
        self,
        shape1: Sequence[int],
        shape2: Sequence[int] | None = None,
        *,
        dtype: Any = jnp.float32,
        ntk: bool = True,
        diagonal: bool = False,
    ) -> Forecast:
        """Predicts memory and operations of calling the kernel, before anything runs.

        The program is traced and compiled for these shapes, which takes the seconds
        that the first call would take, and no memory for data.

        Args:
            shape1: Shape of `x1`.
            shape2: Shape of `x2`, or `None`.
            dtype: Of both.
            ntk: As in calling the kernel.
            diagonal: As in calling the kernel.

        Returns:
            Bytes, operations, and for each value the pairs of positions that are
            evaluated; `print` it.

        Examples:
            >>> from jaxarch import kernels as ker
            >>> kernel = ker.infinite(lambda h: ker.flatten(ker.conv(h, 8, (3, 3))))
            >>> kernel.plan((20, 8, 8, 3)).pairs
            (64, 64, 1)
        """

        def call(kernel, *xs):
            return kernel(*xs, ntk=ntk, diagonal=diagonal)

        shapes = [shape1] if shape2 is None else [shape1, shape2]
        xs = [jax.ShapeDtypeStruct(tuple(shape), dtype) for shape in shapes]
        return forecast(call, self.graph, self, *xs)

    def quadrature_error(
        self,
        x1: Float[Array, "n1 *example"],
        x2: Float[Array, "n2 *example"] | None = None,
        *,
        diagonal: bool = False,
    ) -> Gram:
        r"""Estimates the error of expectations that are found by quadrature.

        Those are the ones of functions written as several operations on dependent
        values, where one has a kink or several Gaussians come together. Functions of
        one Gaussian are then good to 1e-10, smooth ones of several to 1e-5 at variances
        up to 1, and those of several with kinks to 1e-2 only. (What is in closed form
        is exact to rounding; expansions are as good as `elementwise` says.) Time: that
        of calling the kernel, twice.

        Args:
            x1: As in calling the kernel.
            x2: As in calling the kernel.
            diagonal: As in calling the kernel.

        Returns:
            The absolute differences of both kernels from those with two thirds of the
            nodes, which for a converged rule are far larger than the error itself.
        """
        rough = dataclasses.replace(self, graph=coarse(self.graph))
        both = [kernel(x1, x2, diagonal=diagonal) for kernel in (self, rough)]
        return jax.tree.map(lambda a, b: jnp.abs(a - b), *both)

    def state(
        self,
        x1: Float[Array, "n1 features"] | State,
        x2: Float[Array, "n2 features"] | None = None,
        *,
        diagonal: bool = False,
    ) -> State:
        """Evaluates the kernel into a `State`, from which another kernel can start.

        Args:
            x1: As in calling the kernel.
            x2: As in calling the kernel.
            diagonal: As in calling the kernel.

        Returns:
            The covariances at the output, with what keeps them accurate.

        Raises:
            NotImplementedError: if examples have positions.
        """
        if isinstance(x1, State):
            return _from_state("kernel.state", self, x1, x2, diagonal)
        x1, x2, _ = _inputs("kernel.state", self.graph, x1, x2, diagonal)
        if self.graph.positional:
            raise NotImplementedError(
                "kernel.state: `x1` must be `(n, features)`; examples with positions "
                "have no `State` yet."
            )
        if is_joint(self.graph):
            raise NotImplementedError(_NO_STATE)
        return _input_state(self.graph, self.numbers, x1, x2, diagonal=diagonal)


def infinite(network: Callable[[Symbol], Symbol]) -> Kernel:
    """Reads an architecture at infinite width.

    Args:
        network: A function of one value, made of the operations of this package. It is
            called once, at once.

    Returns:
        The kernel. To learn hyper-parameters, close over them inside the loss.

    Raises:
        ValueError: if an operation has no kernel where it stands; it is named.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> kernel = ker.infinite(lambda h: ker.dense(ker.relu(ker.dense(h, 64)), 1))
        >>> kernel(jnp.ones((2, 3))).ntk.shape
        (2, 2)
    """
    graph, numbers = record("infinite", network, infinite=True)
    return Kernel(numbers, graph)


def _inputs(where, graph, x1, x2, diagonal):
    """Checks the inputs and converts them to the dtype of the computation."""
    for name, x in (("x1", x1), ("x2", x2)):
        if x is not None:
            graph.check_input(where, name, x, "n, ")
    if x2 is not None:
        if jnp.shape(x1)[-1] != jnp.shape(x2)[-1]:
            raise ValueError(
                f"{where}: `x2` must have the {jnp.shape(x1)[-1]} features of `x1`, "
                f"got {jnp.shape(x2)[-1]}."
            )
        if jnp.shape(x1)[1:] != jnp.shape(x2)[1:]:
            raise ValueError(
                f"{where}: `x2` must have the positions {jnp.shape(x1)[1:-1]} of `x1`, "
                f"got {jnp.shape(x2)[1:-1]}."
            )
        if diagonal and jnp.shape(x1)[0] != jnp.shape(x2)[0]:
            raise ValueError(
                f"{where}: with `diagonal` `x2` must have the {jnp.shape(x1)[0]} "
                f"examples of `x1`, got {jnp.shape(x2)[0]}."
            )
    if jnp.shape(x1)[-1] == 0:
        raise ValueError(f"{where}: `x1` must have at least one feature, got 0.")
    _refuse_raw(where, graph, False)
    arrays = [x for x in (x1, x2) if x is not None]
    dtype = float_dtype(*arrays)
    work = at_least_float32(dtype)
    x1 = jnp.asarray(x1).astype(work)
    return x1, None if x2 is None else jnp.asarray(x2).astype(work), dtype


def _refuse_raw(where: str, graph: Graph, gaussian: bool) -> None:
    for node in graph.nodes:
        if isinstance(node.operation, Nonlinearity) and not gaussian:
            if any(graph.nodes[i].value.raw for i in node.args):
                raise ValueError(
                    f"{where}: the input of `{node.operation.name}` must be Gaussian, "
                    "got the data; put a `dense` before it or start from a `State`."
                )


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
def _diagonal(graph, numbers, x1, x2, *, ntk) -> Gram:
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
def _matrix(graph, numbers, x1, x2, *, ntk) -> Gram:
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
def _input_state(graph, numbers, x1, x2, *, diagonal) -> State:
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


def _from_state(where, kernel: Kernel, state: State, x2, diagonal: bool) -> State:
    if x2 is not None or diagonal:
        raise ValueError(
            f"{where}: `x2` and `diagonal` must be left out with a `State`, which says "
            f"itself which pairs it holds, got x2={type(x2).__name__}, {diagonal=}."
        )
    _refuse_raw(where, kernel.graph, state.gaussian)
    if is_joint(kernel.graph):
        raise NotImplementedError(_NO_STATE)
    return _advance(kernel.graph, kernel.numbers, state)


@functools.partial(jax.jit, static_argnames=("graph",))
def _advance(graph, numbers, state: State) -> State:
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
