"""The same architecture at finite width."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._params import static
from ._graph import Graph, Number, Shape, Symbol, record
from ._infinite import Kernel
from ._mask import check_mask, masks_of
from ._plan import shapes_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """An architecture read at the widths written in it; made by `finite`.

    A pytree whose leaves are the numbers of the architecture (not its parameters).
    """

    numbers: tuple[tuple[Number, ...], ...]
    graph: Graph = static()

    def init(self, key: PRNGKeyArray, x: Float[Array, "*example"]) -> tuple[Any, ...]:
        """Draws parameters.

        Args:
            key: A JAX key.
            x: One example, `(features,)` or `(*space, channels)`, or its shape
                and dtype.

        Returns:
            A tuple with the parameters of each parameterised operation, in program
            order (a shared one where it is used first), in the dtype of `x`.

        Raises:
            ValueError: if `x` is not one example, or branches differ in width.
        """
        self.graph.check_input("init", "x", x, "")
        shapes, params, seen = [], [], {}
        for i, (node, numbers) in enumerate(
            zip(self.graph.nodes, self.numbers, strict=True)
        ):
            operation = node.operation
            args = [shapes[j] for j in node.args]
            first = Shape(x.shape[:-1], x.shape[-1])
            shapes.append(operation.shape(*args) if args else first)
            own = operation.init(jax.random.fold_in(key, i), numbers, args, x.dtype)
            if own is None:
                continue
            sizes = [jnp.shape(leaf) for leaf in jax.tree.leaves(own)]
            if operation.parameter not in seen:
                seen[operation.parameter] = sizes
                params.append(own)
            elif seen[operation.parameter] != sizes:
                raise ValueError(
                    f"{operation.name}: parameters named {operation.parameter!r} must "
                    f"have one shape, got {seen[operation.parameter]} and {sizes}."
                )
        return tuple(params)

    def apply(
        self,
        params: tuple[Any, ...],
        x: Float[Array, "*example"],
        *,
        key: PRNGKeyArray | None = None,
        mask: Bool[Array, "*space"] | None = None,
    ) -> Float[Array, "*out"]:
        """Runs the network.

        Args:
            params: Parameters from `init`.
            x: One example. `jax.vmap(model.apply, (None, 0))` takes a batch.
            key: Draws dropout masks; `None` means no dropout.
            mask: Marks the positions that belong to the example, as in calling a
                `Kernel`; the output is 0 elsewhere.

        Returns:
            The output, `(out,)` or `(*space, out)`.

        Raises:
            TypeError: if `mask` is not of bools.
            ValueError: if `x` is not one example, or `mask` does not fit.
            NotImplementedError: if an operation has no finite network, or none with a
                mask.
        """
        self.graph.check_input("apply", "x", x, "")
        masks: list[Array | None] = [None] * len(self.graph.nodes)
        if mask is not None:
            x = jnp.asarray(x)
            first = check_mask("apply", "mask", self.graph, x, mask)
            shapes = shapes_of(self.graph, Shape(x.shape[:-1], x.shape[-1]))
            masks = masks_of(self.graph, shapes, first)
        values, seen, remaining = [], {}, iter(params)
        for i, (node, numbers) in enumerate(
            zip(self.graph.nodes, self.numbers, strict=True)
        ):
            operation = node.operation
            args = [values[j] for j in node.args]
            if not args:
                values.append(_present(x, masks[i]))
                continue
            own = None
            if (name := operation.parameter) is not None:
                if name not in seen:
                    seen[name] = next(remaining)
                own = seen[name]
            numbers = tuple(jnp.asarray(n).astype(x.dtype) for n in numbers)
            here = None if key is None else jax.random.fold_in(key, i)
            inside = [masks[j] for j in node.args]
            y = operation.masked_apply(numbers, own, *args, key=here, masks=inside)
            values.append(_present(y, masks[i]))
        return values[-1]


def _present(x: Array, mask: Array | None) -> Array:
    return x if mask is None else jnp.where(mask[..., None] > 0, x, 0)


def finite(network: Callable[[Symbol], Symbol] | Kernel) -> Model:
    """Reads an architecture at the widths written in it.

    Args:
        network: A function of one value, as for `infinite`, or a `Kernel`, whose graph
            is then used as it is. Branches of a function may share what they like.

    Returns:
        A model with `init(key, x)` and `apply(params, x, *, key=None,
        mask=None)`.

    Examples:
        >>> from jaxarch import kernels as ker
        >>> model = ker.finite(lambda h: ker.dense(ker.relu(ker.dense(h, 64)), 1))
        >>> params = model.init(jax.random.key(0), jnp.ones(3))
        >>> model.apply(params, jnp.ones(3)).shape
        (1,)
    """
    if isinstance(network, Kernel):
        return Model(network.numbers, network.graph)
    graph, numbers = record("finite", network, infinite=False)
    return Model(numbers, graph)
