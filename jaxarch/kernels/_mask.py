"""Positions that belong to no example: the ends of padded sequences and images.

A mask marks the positions that an example has. Others are absent from every operation:
zeros under a convolution, like those that pad the edge, and nothing in an average, a
sum or a softmax. In kernels an absent position is one whose second moment is 0.

An operation says which positions its result has (`Operation.mask`), and what changes
in its moments (`masked_marginal`) and in the finite network (`masked_apply`).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ._graph import Graph, Shape


def masks_of(
    graph: Graph, shapes: Sequence[Shape], mask: Array | None
) -> list[Array | None]:
    """Masks of all values, `(*space, ...)`; `None` where every position is there.

    Args:
        graph: An architecture.
        shapes: Of its values.
        mask: Of its input.
    """
    masks: list[Array | None] = []
    for node in graph.nodes:
        if mask is None or not node.args:
            masks.append(mask)
            continue
        masks.append(
            node.operation.mask(
                *(masks[j] for j in node.args), shapes=[shapes[j] for j in node.args]
            )
        )
    return masks


def check_mask(where: str, name: str, graph: Graph, x: Any, mask: Any) -> Array:
    """The mask of inputs `x`, 1 or 0 in their dtype, `(..., *space)`.

    Args:
        where: The function, for the message.
        name: The argument, for the message.
        graph: The architecture.
        x: Inputs `(..., *space, channels)`.
        mask: `None` marks every position.
    """
    if not graph.positional:
        raise ValueError(
            f"{where}: masks must be None for a network without operations on "
            f"positions, got one for its inputs {x.shape}."
        )
    if mask is None:
        return jnp.ones(x.shape[:-1], x.dtype)
    if jnp.result_type(mask) != jnp.bool_:
        raise TypeError(
            f"{where}: `{name}` must be a bool array, got {jnp.result_type(mask)}."
        )
    if jnp.shape(mask) != x.shape[:-1]:
        raise ValueError(
            f"{where}: `{name}` must have shape {x.shape[:-1]}, one entry a position, "
            f"got {jnp.shape(mask)}."
        )
    return jnp.asarray(mask).astype(x.dtype)


def check_masks(
    where: str, graph: Graph, x1: Array, x2: Array | None, mask1: Any, mask2: Any
) -> tuple[Array | None, Array | None]:
    """Masks `(n, *space)` of both sides, in the dtype of the inputs, or none at all."""
    if mask2 is not None and x2 is None:
        raise ValueError(
            f"{where}: `mask2` must be None where `x2` is, whose mask is `mask1` then; "
            f"got shape {jnp.shape(mask2)}."
        )
    if mask1 is None and mask2 is None:
        return None, None
    one = check_mask(where, "mask1", graph, x1, mask1)
    return one, None if x2 is None else check_mask(where, "mask2", graph, x2, mask2)
