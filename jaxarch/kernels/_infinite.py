r"""NNGP and NTK of an architecture at infinite width.

Neal (1996); Lee et al. (arXiv:1711.00165); Matthews et al. (arXiv:1804.11271); Jacot,
Gabriel and Hongler (arXiv:1806.07572). A `Kernel` holds a graph and its numbers; three
evaluations serve it: of plain vectors (`_vector.py`), of values with positions
(`_spatial.py`), and of networks whose branches depend on each other (`_joint_gram.py`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._dtypes import at_least_float32, float_dtype
from .._params import static
from ._forecast import Forecast, forecast
from ._gram import Gram
from ._graph import Graph, Number, Symbol, record
from ._joint import coarse, is_joint
from ._joint_gram import joint_gram
from ._mask import check_masks
from ._nonlinearity import Nonlinearity
from ._spatial import spatial_gram
from ._state import State
from ._vector import advance, input_state, vector_diagonal, vector_gram

_NO_STATE = (
    "kernel: a network with dependent branches or shared parameters has no `State`; "
    "call it on data."
)


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
            gram = (vector_diagonal if diagonal else vector_gram)(*args, ntk=ntk)
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
        one Gaussian with kinks at 0 only are then good to 1e-10, smooth ones of several
        to 1e-5 at variances up to 1; others may be off by a few percent. (What is
        in closed form is exact to rounding; expansions are as good as `elementwise`
        says.) Time: that of calling the kernel, twice.

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
        return input_state(self.graph, self.numbers, x1, x2, diagonal=diagonal)


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


def _from_state(where, kernel: Kernel, state: State, x2, diagonal: bool) -> State:
    if x2 is not None or diagonal:
        raise ValueError(
            f"{where}: `x2` and `diagonal` must be left out with a `State`, which says "
            f"itself which pairs it holds, got x2={type(x2).__name__}, {diagonal=}."
        )
    _refuse_raw(where, kernel.graph, state.gaussian)
    if is_joint(kernel.graph):
        raise NotImplementedError(_NO_STATE)
    return advance(kernel.graph, kernel.numbers, state)
